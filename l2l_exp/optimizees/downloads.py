"""The files of torchvision's image data sets: checked, unpacked, fetched, and shown how to get."""

import hashlib
import math
import os
import shlex
import shutil
import struct
import tempfile
import zlib
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple

from l2l_exp.optimizees.vision import torchvision


class Member(NamedTuple):
    """A file that an archive holds, once it is unpacked."""

    path: Path
    md5: str | None  # None where torchvision knows none: an idx file of the MNIST family


class Archive(NamedTuple):
    """A file to download, and what it holds."""

    urls: tuple[str, ...]  # the same file; the first is the one to name
    path: Path
    md5: str
    members: tuple[Member, ...]


def archives(kind: Any, folder: Path) -> tuple[Archive, ...]:
    """What a data set is made of, from the tables of its torchvision class.

    Args:
        kind: `MNIST`, `CIFAR10` or a class derived from them.
        folder: the root that the class is given.
    """
    if hasattr(kind, "resources"):
        raw = folder / kind.__name__ / "raw"
        return tuple(
            Archive(
                tuple(mirror + name for mirror in kind.mirrors),
                raw / name,
                md5,
                (Member((raw / name).with_suffix(""), None),),
            )
            for name, md5 in kind.resources
        )
    unpacked = folder / kind.base_folder
    known = [*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])]
    members = tuple(Member(unpacked / name, md5) for name, md5 in known)
    return (Archive((kind.url,), folder / kind.filename, kind.tgz_md5, members),)


def make_complete(kind: Any, folder: Path, *, download: bool) -> None:
    """See to it that a data set lies whole and unpacked in a folder.

    torchvision checks an archive only while it downloads it, and of the unpacked files of the
    MNIST family only that they exist. Here all that can be known is checked at every call: the md5
    of an archive that is there, the md5 of unpacked files where torchvision has one, the size that
    the header of an idx file asks for, and its checksum where its archive lies beside it. What is
    missing or damaged is unpacked anew from a good archive, else fetched. That happens in a
    scratch folder, from where whole files take their places at once.

    Args:
        kind: the class of `torchvision.datasets`.
        folder: the root that the class is given.
        download: fetch what is missing or damaged and has no good archive.

    Raises:
        FileNotFoundError: if a file is missing or damaged and cannot be had; one line that names
            it and the command that gets it.
        ValueError: if there are files of an old format that torchvision would read instead.
    """
    for name in ("training_file", "test_file"):
        old = folder / kind.__name__ / "processed" / getattr(kind, name, "")
        if old.is_file():
            raise ValueError(f"{old} is of an old torchvision, which reads it unchecked: delete it")
    faults = {part: fault for part in archives(kind, folder) if (fault := _fault(part))}
    to_fetch = {part: fault for part, fault in faults.items() if _archive_fault(part)}
    if not faults:
        return
    if to_fetch and not download:
        raise FileNotFoundError(_advice(kind.__name__, to_fetch))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=f".{kind.__name__}-") as scratch:
            for part in faults:
                _get(part, folder, Path(scratch))
            _move(Path(scratch), folder)
    except (RuntimeError, OSError, HTTPException) as error:
        reason = " ".join(str(error).split())
        advice = _advice(kind.__name__, to_fetch or faults, f"; getting it failed: {reason}")
        raise FileNotFoundError(advice) from error


def _get(part: Archive, folder: Path, scratch: Path) -> None:
    """Unpack an archive into a scratch folder that mirrors `folder`; fetch it if it is not good."""
    place = scratch / part.path.parent.relative_to(folder)
    place.mkdir(parents=True, exist_ok=True)
    if _archive_fault(part) is None:
        shutil.copyfile(part.path, place / part.path.name)
    fetch = torchvision("datasets").utils.download_and_extract_archive
    for url in part.urls:
        try:
            fetch(url, place, filename=part.path.name, md5=part.md5)
            return
        except (RuntimeError, OSError, HTTPException):
            if url == part.urls[-1]:
                raise


def _move(scratch: Path, folder: Path) -> None:
    """Put every file of a folder at its place in another one of the same file system."""
    for path in [path for path in scratch.rglob("*") if path.is_file()]:
        target = folder / path.relative_to(scratch)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)


def _advice(name: str, faults: Mapping[Archive, str], reason: str = "") -> str:
    """One line: what is wrong with the first bad file, and the command that gets all bad ones."""
    part, fault = next(iter(faults.items()))
    urls = " ".join(shlex.quote(part.urls[0]) for part in faults)
    return (
        f"data set {name}: {fault}{reason}. Get it by `curl -fL --create-dirs --output-dir "
        f"{shlex.quote(str(part.path.parent))} --remote-name-all {urls}`, or run with network "
        f"access and data.download=true"
    )


def _fault(part: Archive) -> str | None:
    """What is wrong with an archive or with what it holds, in a few words; None if nothing is."""
    missing = [path for path, _ in part.members if not path.exists()]
    if len(missing) == len(part.members) and not part.path.exists():
        folder = missing[0].parent
        return f"{missing[0] if folder.exists() else f'folder {folder}'} is missing"
    vouches = any(md5 is None for _, md5 in part.members)
    if part.path.exists() and (missing or vouches) and (fault := _archive_fault(part)):
        return fault
    if missing:
        return f"{missing[0]} is missing"
    faults = (
        _idx_fault(path, part.path) if md5 is None else _md5_fault(path, md5)
        for path, md5 in part.members
    )
    return next((fault for fault in faults if fault), None)


def _archive_fault(part: Archive) -> str | None:
    """What is wrong with an archive itself; None if it is there and has its md5."""
    return _md5_fault(part.path, part.md5) if part.path.exists() else f"{part.path} is missing"


def _md5_fault(path: Path, md5: str) -> str | None:
    """What is wrong with a file by its checksum."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return None if found == md5 else f"{path} is damaged (its md5 is {found}, not {md5})"


def _idx_fault(path: Path, archive: Path) -> str | None:
    """What is wrong with an unpacked idx file of bytes: its header, its size, its checksum.

    Args:
        path: the idx file, see http://yann.lecun.com/exdb/mnist.
        archive: its gz file, good or absent; a good one knows the checksum of its content.
    """
    content = path.read_bytes()
    dimensions = 3 if "idx3" in path.name else 1
    start = 4 + 4 * dimensions
    if len(content) < start or content[:4] != bytes([0, 0, 8, dimensions]):
        return f"{path} is damaged (no idx file of bytes with {dimensions} dimensions)"
    size = start + math.prod(struct.unpack(f">{dimensions}I", content[4:start]))
    if len(content) != size:
        return f"{path} is damaged ({len(content)} bytes, {size} by its header)"
    if archive.exists() and zlib.crc32(content).to_bytes(4, "little") != _crc32(archive):
        return f"{path} is damaged (it is not what {archive.name} holds)"
    return None


def _crc32(archive: Path) -> bytes:
    """The checksum of what a gz file holds, as the file itself tells it."""
    with archive.open("rb") as file:
        file.seek(-8, os.SEEK_END)
        return file.read(4)
