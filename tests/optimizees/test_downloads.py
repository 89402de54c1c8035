"""The files of torchvision's data sets: checked, fetched whole or not at all, easy to get."""

import gzip
import pickle
import shlex
import shutil
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import NAMES, Written, idx, offered, point_to, write

from l2l_exp.optimizees.data import torchvision_images
from l2l_exp.optimizees.vision import torchvision

FAMILIES = ("FashionMNIST", "CIFAR10")
CLOSED = "http://127.0.0.1:9/"  # the discard port: nobody listens


@pytest.fixture
def written(request, monkeypatch) -> Written:
    """A data set by its name, which cannot be fetched."""
    made = write(request.param, monkeypatch)
    point_to(made, CLOSED, monkeypatch)
    return made


def contents(root: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def read(written: Written, root: Path, *, download: bool = False):
    """Read a data set, which must be what was written."""
    images = torchvision_images(written.name, str(root), download=download)
    assert torch.equal(images.pixels, torch.from_numpy(written.pixels).float() / 255)
    assert images.labels.tolist() == written.labels.tolist()


def refused(written: Written, root: Path, *, download: bool = False) -> str:
    """The one line that a data set is refused with; no file has changed."""
    before = contents(root)
    with pytest.raises(FileNotFoundError) as error:
        torchvision_images(written.name, str(root), download=download)
    message = str(error.value)
    assert "\n" not in message and written.name in message and "data.download=true" in message
    assert contents(root) == before
    return message


def command_of(message: str) -> list[str]:
    """The curl command that a message shows."""
    return shlex.split(message.split("`")[1])


@pytest.mark.parametrize("written", NAMES, indirect=True)
def test_unpacked_files_are_enough(written, tmp_path):
    written.put(tmp_path, unpacked=True)
    read(written, tmp_path)
    assert contents(tmp_path) == written.unpacked


@pytest.mark.parametrize("written", NAMES, indirect=True)
def test_archives_are_enough_without_a_download(written, tmp_path):
    written.put(tmp_path, archives=True)
    read(written, tmp_path)
    assert contents(tmp_path) == written.archives | written.unpacked


@pytest.mark.parametrize("written", NAMES, indirect=True)
def test_what_is_missing_is_fetched(written, tmp_path, monkeypatch):
    with offered(written, tmp_path / "site", monkeypatch):
        read(written, tmp_path / "root", download=True)
    assert contents(tmp_path / "root") == written.archives | written.unpacked
    read(written, tmp_path / "root")


@pytest.mark.parametrize("written", FAMILIES, indirect=True)
def test_a_data_set_that_is_there_and_whole_is_not_fetched_again(written, tmp_path):
    written.put(tmp_path, unpacked=True)
    read(written, tmp_path, download=True)  # the address would refuse


@pytest.mark.parametrize("written", FAMILIES, indirect=True)
def test_a_missing_data_set_is_named_by_its_folder_and_nothing_is_made(written, tmp_path):
    root = tmp_path / "absent"
    message = refused(written, root)
    assert f"folder {root / next(iter(written.unpacked))}".rpartition("/")[0] in message
    assert "is missing" in message and not root.exists()
    for path in written.archives:
        assert CLOSED + Path(path).name in command_of(message)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("written", FAMILIES, indirect=True)
def test_the_command_of_the_message_gets_the_data(written, tmp_path, monkeypatch):
    root = tmp_path / "a root"
    with offered(written, tmp_path / "site", monkeypatch):
        command = command_of(refused(written, root))
        assert command[0] == "curl"
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    read(written, root)


@pytest.mark.parametrize("name", NAMES)
def test_the_command_names_torchvisions_own_addresses(name, tmp_path):
    kind = getattr(torchvision("datasets"), name)
    with pytest.raises(FileNotFoundError) as error:
        torchvision_images(name, str(tmp_path), download=False)
    command = command_of(str(error.value))
    if name.startswith("CIFAR"):
        folder, urls = tmp_path, [kind.url]
    else:
        folder = tmp_path / name / "raw"
        urls = [kind.mirrors[0] + file for file, _ in kind.resources]
    assert command[-len(urls) :] == urls
    assert command[command.index("--output-dir") + 1] == str(folder)


@pytest.mark.parametrize("written", FAMILIES, indirect=True)
def test_without_network_the_reason_is_told_and_nothing_stays(written, tmp_path):
    message = refused(written, tmp_path, download=True)
    assert "is missing; getting it failed: <urlopen error" in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize("written", FAMILIES, indirect=True)
def test_a_download_that_is_cut_or_another_file_leaves_nothing(written, cut, tmp_path, monkeypatch):
    with offered(written, tmp_path / "site", monkeypatch) as site:
        offer = site / Path([*written.archives][-1]).name
        whole = offer.read_bytes()
        offer.write_bytes(whole[: len(whole) // 2] if cut else whole[:-1] + bytes([whole[-1] ^ 1]))
        message = refused(written, tmp_path / "root", download=True)
    assert "corrupted" in message
    assert not list((tmp_path / "root").iterdir())


@pytest.mark.parametrize("written", FAMILIES, indirect=True)
def test_an_interrupted_download_leaves_nothing(written, tmp_path, monkeypatch):
    def interrupted(url, folder, filename, md5):
        (folder / filename).write_bytes(b"half")
        raise KeyboardInterrupt

    fetcher = torchvision("datasets").utils
    monkeypatch.setattr(fetcher, "download_and_extract_archive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        torchvision_images(written.name, str(tmp_path))
    assert not list(tmp_path.iterdir())


DAMAGES = {
    "truncated": lambda content: content[:-100],
    "too long": lambda content: content + b"more",
    "empty": lambda content: b"",
    "in its header": lambda content: b"\x01" + content[1:],
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("written", NAMES, indirect=True)
def test_a_damaged_file_is_named_or_fetched_anew(written, damage, tmp_path, monkeypatch):
    written.put(tmp_path, unpacked=True)
    path = tmp_path / next(iter(written.unpacked))
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    message = refused(written, tmp_path)
    assert f"{path} is damaged" in message
    assert "getting it failed" in refused(written, tmp_path, download=True)
    with offered(written, tmp_path / "site", monkeypatch):
        read(written, tmp_path, download=True)
    read(written, tmp_path)


@pytest.mark.parametrize("written", NAMES, indirect=True)
def test_one_missing_file_is_named_and_its_archive_alone_is_asked_for(written, tmp_path):
    written.put(tmp_path, unpacked=True)
    path = tmp_path / [*written.unpacked][-1]
    path.unlink()
    message = refused(written, tmp_path)
    assert f"{path} is missing" in message
    assert sum(argument.startswith("http") for argument in command_of(message)) == 1


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("written", FAMILIES, indirect=True)
def test_a_damaged_archive_is_named(written, damage, tmp_path):
    written.put(tmp_path, archives=True)
    path = tmp_path / [*written.archives][-1]
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert f"{path} is damaged (its md5 is " in refused(written, tmp_path)


@pytest.mark.parametrize("written", NAMES, indirect=True)
def test_a_damaged_file_beside_its_good_archive_is_unpacked_again(written, tmp_path):
    written.put(tmp_path, archives=True, unpacked=True)
    path = tmp_path / next(iter(written.unpacked))
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # its size and header are right
    read(written, tmp_path)
    assert contents(tmp_path) == written.archives | written.unpacked


@pytest.mark.parametrize("written", ["MNIST"], indirect=True)
def test_what_needs_no_archive_is_left_alone_while_the_rest_is_unpacked(written, tmp_path):
    written.put(tmp_path, unpacked=True)
    for path, content in [*written.archives.items()][:1]:
        (tmp_path / path).write_bytes(content)
        (tmp_path / path.removesuffix(".gz")).unlink()
    read(written, tmp_path)


@pytest.mark.parametrize("written", ["MNIST"], indirect=True)
def test_an_archive_that_is_not_torchvisions_is_named(written, tmp_path):
    written.put(tmp_path, unpacked=True)
    path = tmp_path / next(iter(written.archives))
    path.write_bytes(gzip.compress(idx(np.zeros((30, 28, 28)))))
    assert f"{path} is damaged (its md5 is " in refused(written, tmp_path)


@pytest.mark.parametrize("labels", [np.arange(29) % 10, np.arange(30) % 11])
@pytest.mark.parametrize("written", ["MNIST"], indirect=True)
def test_labels_that_do_not_fit_the_images_are_told(written, labels, tmp_path):
    written.put(tmp_path, unpacked=True)
    (tmp_path / "MNIST/raw/train-labels-idx1-ubyte").write_bytes(idx(labels))
    assert f"{len(labels) + 10} labels from 0 to {labels.max()}" in refused(written, tmp_path)


@pytest.mark.parametrize("written", ["MNIST"], indirect=True)
def test_files_of_an_old_torchvision_are_not_read_instead(written, tmp_path):
    written.put(tmp_path, unpacked=True)
    old = tmp_path / "MNIST" / "processed"
    old.mkdir()
    for file in ("training.pt", "test.pt"):
        torch.save((torch.zeros(5, 28, 28).byte(), torch.zeros(5).long()), old / file)
    with pytest.raises(ValueError, match=r"training\.pt is of an old torchvision.*delete it"):
        torchvision_images("MNIST", str(tmp_path), download=False)


@pytest.mark.parametrize("written", ["CIFAR10"], indirect=True)
def test_what_numpy_says_of_old_pickles_is_not_shown(written, tmp_path, monkeypatch):
    load = pickle.load

    def warn(*args, **kwargs):
        warnings.warn("align=0", np.exceptions.VisibleDeprecationWarning, stacklevel=2)
        return load(*args, **kwargs)

    monkeypatch.setattr(pickle, "load", warn)
    written.put(tmp_path, unpacked=True)
    read(written, tmp_path)
