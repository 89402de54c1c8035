"""Small image data sets in the original file formats, and a server that offers them."""

import functools
import gzip
import hashlib
import http.server
import io
import pickle
import struct
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from l2l_exp.optimizees.vision import torchvision

NAMES = ("MNIST", "FashionMNIST", "CIFAR10", "CIFAR100")


class Written(NamedTuple):
    """A data set: what it holds, and its files by their paths below the root."""

    name: str
    pixels: np.ndarray  # (P, C, H, W) uint8, training files first
    labels: np.ndarray  # (P,)
    class_count: int
    archives: dict[str, bytes]
    unpacked: dict[str, bytes]

    def put(self, root: Path, *, archives: bool = False, unpacked: bool = False) -> None:
        """Lay files where torchvision looks for them."""
        chosen = (self.archives if archives else {}) | (self.unpacked if unpacked else {})
        for path, content in chosen.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)


def write(name: str, monkeypatch) -> Written:
    """Make a data set of a few images of every class; torchvision's class knows its checksums."""
    rng = np.random.default_rng(NAMES.index(name))
    written = (cifar if name.startswith("CIFAR") else mnist)(name, rng)
    kind = getattr(torchvision("datasets"), name)
    md5s = {Path(path).name: md5_of(content) for path, content in written.archives.items()}
    if name.startswith("CIFAR"):
        members = {Path(path).name: md5_of(content) for path, content in written.unpacked.items()}
        monkeypatch.setattr(kind, "tgz_md5", md5s[kind.filename])
        for table in ("train_list", "test_list"):
            known = [[file, members[file]] for file, _ in getattr(kind, table)]
            monkeypatch.setattr(kind, table, known)
        monkeypatch.setattr(kind, "meta", kind.meta | {"md5": members[kind.meta["filename"]]})
    else:
        monkeypatch.setattr(kind, "resources", list(md5s.items()))
    return written


def md5_of(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def idx(array: np.ndarray) -> bytes:
    """An idx file of bytes."""
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def mnist(name: str, rng: np.random.Generator) -> Written:
    """30 training and 10 test images, 28x28, in four idx files and their gz."""
    pixels = rng.integers(0, 256, (40, 28, 28), dtype=np.uint8)
    labels = np.concatenate([rng.permutation(30) % 10, rng.permutation(10)])
    unpacked = {}
    for part, place in (("train", slice(30)), ("t10k", slice(30, None))):
        unpacked[f"{name}/raw/{part}-images-idx3-ubyte"] = idx(pixels[place])
        unpacked[f"{name}/raw/{part}-labels-idx1-ubyte"] = idx(labels[place])
    archives = {f"{path}.gz": gzip.compress(content) for path, content in unpacked.items()}
    return Written(name, pixels[:, None], labels, 10, archives, unpacked)


def old_pickle(content: object) -> bytes:
    """Pickle as the Python 2 and the numpy of the day did."""
    file = io.BytesIO()
    pickler = pickle.Pickler(file, protocol=2)
    state = (3, "|", None, None, None, -1, -1, 0)
    pickler.dispatch_table = {type(np.dtype("u1")): lambda _: (np.dtype, ("u1", 0, 1), state)}
    pickler.dump(content)
    return file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def cifar(name: str, rng: np.random.Generator) -> Written:
    """Two images or more of every class, 32x32 colour, in pickled batches and their tar.gz."""
    kind = getattr(torchvision("datasets"), name)
    count, key = (10, "labels") if name == "CIFAR10" else (100, "fine_labels")
    total, files = 5 * count, [file for file, _ in kind.train_list + kind.test_list]
    pixels = rng.integers(0, 256, (total, 3, 32, 32), dtype=np.uint8)
    labels = rng.permutation(total) % count
    shares = np.array_split(np.arange(total), len(files))
    contents = {
        file: {"data": pixels[mine].reshape(len(mine), -1), key: labels[mine].tolist()}
        for file, mine in zip(files, shares, strict=True)
    }
    contents[kind.meta["filename"]] = {kind.meta["key"]: [f"class {i}" for i in range(count)]}
    unpacked = {f"{kind.base_folder}/{f}": old_pickle(entry) for f, entry in contents.items()}
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for path, content in unpacked.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return Written(name, pixels, labels, count, {kind.filename: file.getvalue()}, unpacked)


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder without a word."""

    def log_message(self, format, *args):
        pass


@contextmanager
def offered(written: Written, site: Path, monkeypatch) -> Iterator[Path]:
    """Serve the archives of a data set, where its torchvision class looks for them."""
    site.mkdir()
    for path, content in written.archives.items():
        (site / Path(path).name).write_bytes(content)
    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        point_to(written, f"http://127.0.0.1:{server.server_port}/", monkeypatch)
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()


def point_to(written: Written, address: str, monkeypatch) -> None:
    """Let the torchvision class of a data set look for its archives at an address."""
    kind = getattr(torchvision("datasets"), written.name)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    if written.name.startswith("CIFAR"):
        monkeypatch.setattr(kind, "url", address + kind.filename)
    else:
        monkeypatch.setattr(kind, "mirrors", [address])
