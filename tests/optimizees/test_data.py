"""Image data sets, their split, and the jitter."""

import math
import struct
import urllib.request
from urllib.error import URLError

import numpy as np
import pytest
import torch

from l2l_exp.optimizees.data import SPLITS, Jitter, digits, split_images, torchvision_images


def parts_of(parts):
    """The six index tensors."""
    return [index for name in SPLITS for index in parts[name]]


def test_digits_are_1797_images_in_the_unit_interval():
    images = digits()
    assert images.pixels.shape == (1797, 1, 8, 8) and images.pixels.dtype == torch.float32
    assert images.pixels.min() == 0 and images.pixels.max() == 1
    assert images.labels.dtype == torch.int64 and images.labels.unique().tolist() == [*range(10)]


def test_the_six_parts_are_disjoint_and_hold_every_image():
    labels = digits().labels
    index = torch.cat(parts_of(split_images(labels)))
    assert index.sort().values.tolist() == list(range(len(labels)))


def test_every_split_has_a_third_of_every_class_and_holds_a_quarter_of_it_out():
    labels = digits().labels
    count = labels.bincount()
    for train, held_out in split_images(labels, held_out_fraction=0.25).values():
        mine, held = labels[torch.cat([train, held_out])].bincount(), labels[held_out].bincount()
        assert (mine - count / 3).abs().max() < 1
        assert (held - mine / 4).abs().max() <= 0.5


def test_the_split_depends_on_its_seed_and_on_nothing_else():
    labels = digits().labels
    one, again, other = (parts_of(split_images(labels, seed=seed)) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, math.nan])
def test_a_held_out_fraction_outside_its_range_is_refused(fraction):
    with pytest.raises(ValueError, match=r"held_out_fraction=.* must be in \(0, 1\)"):
        split_images(digits().labels, held_out_fraction=fraction)


def test_a_class_too_small_for_six_parts_is_refused_by_name():
    with pytest.raises(ValueError, match="split validation has 1 images of class 7"):
        split_images(torch.tensor([7] * 4 + [3] * 60), held_out_fraction=0.5)


def random_images(count=3):
    """Images whose pixels all differ."""
    return torch.from_numpy(np.random.default_rng(0).random((count, 2, 8, 8)))


def test_zero_draws_leave_images_as_they_are():
    pixels = random_images()
    torch.testing.assert_close(Jitter()(pixels, torch.zeros(3, 5).double()), pixels)


def test_a_jitter_without_range_leaves_images_as_they_are():
    pixels = random_images()
    draws = torch.from_numpy(np.random.default_rng(1).uniform(-1, 1, (3, 5)))
    torch.testing.assert_close(Jitter(0.0, 0.0, 0.0)(pixels, draws), pixels)


@pytest.mark.parametrize("dx", [-2, 0, 1])
@pytest.mark.parametrize("dy", [-1, 0, 2])
def test_a_shift_moves_images_by_whole_pixels_and_fills_with_zeros(dx, dy):
    pixels = random_images()
    draws = torch.tensor([[0.0, 0.0, 0.0, dx / 2, dy / 2]] * 3).double()
    warped = Jitter(0.0, 0.0, shift=2.0)(pixels, draws)
    expected = torch.zeros(3, 2, 12, 12).double()
    expected[..., 2:10, 2:10] = pixels
    expected = expected[..., 2 + dy : 10 + dy, 2 + dx : 10 + dx]
    torch.testing.assert_close(warped, expected)


def test_a_quarter_turn_is_rot90():
    pixels = random_images()
    draws = torch.tensor([[1.0, 0, 0, 0, 0]] * 3).double()
    warped = Jitter(rotation=math.pi / 2, scale=0.0, shift=0.0)(pixels, draws)
    turns = [torch.rot90(pixels, k, (2, 3)) for k in (1, 3)]
    assert any(torch.allclose(warped, turn) for turn in turns)


@pytest.mark.parametrize(
    "settings", [{"rotation": -0.1}, {"shift": -1.0}, {"scale": 1.0}, {"scale": -0.1}]
)
def test_jitter_ranges_are_checked_by_name(settings):
    ((name, value),) = settings.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        Jitter(**settings)


def write_idx(folder, name, pixels, labels):
    """Write images and labels as MNIST's original (unpacked) idx files."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = pixels.shape
    header = struct.pack(">IIII", 0x803, *shape)
    (folder / f"{name}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
    header = struct.pack(">II", 0x801, shape[0])
    (folder / f"{name}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST"])
def test_idx_files_are_read_training_files_first_and_scaled_to_the_unit_interval(tmp_path, name):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (7, 28, 28), dtype=np.uint8)
    labels = rng.integers(0, 10, 7, dtype=np.uint8)
    write_idx(tmp_path / name / "raw", "train", pixels[:5], labels[:5])
    write_idx(tmp_path / name / "raw", "t10k", pixels[5:], labels[5:])
    images = torchvision_images(name, str(tmp_path), download=False)
    assert torch.equal(images.pixels, torch.from_numpy(pixels).float().unsqueeze(1) / 255)
    assert images.labels.tolist() == labels.tolist() and images.labels.dtype == torch.int64


def test_missing_files_are_named_with_their_folder(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        torchvision_images("MNIST", str(tmp_path), download=False)
    assert str(tmp_path / "MNIST" / "raw") in str(error.value)


def test_a_download_without_network_says_where_the_files_belong(tmp_path, monkeypatch):
    def no_network(request, *args, **kwargs):
        raise URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    with pytest.raises(FileNotFoundError) as error:
        torchvision_images("FashionMNIST", str(tmp_path))
    assert str(tmp_path / "FashionMNIST" / "raw") in str(error.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
