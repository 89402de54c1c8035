"""The image data sets, their classes, and the options of the group `data`."""

from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import NAMES, write
from omegaconf import OmegaConf

from l2l_exp.config import ConfigError, build, shipped
from l2l_exp.optimizees import data
from l2l_exp.optimizees.data import cut, digits, photos, torchvision_images
from l2l_exp.optimizees.images import split_images
from l2l_exp.optimizees.pictures import PHOTOGRAPHS, bundled
from l2l_exp.optimizees.seeding import SPLITS


def test_digits_are_1797_images_in_the_unit_interval():
    images = digits()
    assert images.pixels.shape == (1797, 1, 8, 8) and images.pixels.dtype == torch.float32
    assert images.pixels.min() == 0 and images.pixels.max() == 1
    assert images.labels.dtype == torch.int64 and images.labels.unique().tolist() == [*range(10)]


@pytest.fixture
def coordinates(monkeypatch):
    """Every photograph has its pixels' rows, columns and its own number for colours."""

    def numbered(name):
        height, width = bundled(name).shape[1:]
        rows = torch.linspace(0, 1, height).view(-1, 1).expand(height, width)
        columns = torch.linspace(0, 1, width).expand(height, width)
        return torch.stack([rows, columns, torch.full_like(rows, PHOTOGRAPHS.index(name) / 10)])

    data._photo_tiles.cache_clear()
    monkeypatch.setattr(data, "bundled", numbered)
    yield
    data._photo_tiles.cache_clear()


def test_the_six_parts_of_photos_are_disjoint_in_space(coordinates):
    images = photos()
    position, source = images.pixels[:, :2].flatten(2), images.pixels[:, 2].flatten(1)
    assert torch.allclose(source, images.labels.view(-1, 1).float() / 10)
    low, high = position.amin(2), position.amax(2)  # (4000, 2)
    parts = split_images(images.labels)
    tiles = torch.cat([index for name in SPLITS for index in parts[name]])
    assert tiles.sort().values.equal(torch.arange(4000))
    for label in range(10):
        mine = tiles[images.labels[tiles] == label]
        before = (high[mine].unsqueeze(1) < low[mine].unsqueeze(0)).any(2)
        assert (before | before.T).sum() == 400 * 399  # all but each with itself


def test_photos_are_as_many_tiles_of_every_photograph_in_the_unit_interval():
    images = photos()
    assert images.pixels.shape == (4000, 3, 32, 32) and images.pixels.dtype == torch.float32
    assert 0 <= images.pixels.min() < 0.01 and 0.99 < images.pixels.max() <= 1
    assert images.labels.bincount().tolist() == [400] * 10 and images.class_count == 10
    for label in (1, 5, 9):
        mean = images.pixels[images.labels == label].mean((0, 2, 3))
        assert (mean - bundled(PHOTOGRAPHS[label]).mean((1, 2))).abs().max() < 0.05


def test_photos_are_the_same_every_time_and_the_callers_own():
    first = photos(16, 8)
    before = first.pixels.clone()
    first.pixels.zero_()
    assert torch.equal(photos(16, 8).pixels, before)


@pytest.mark.parametrize("shape", [(64, 96), (69, 96), (64, 98), (65, 101)])
def test_a_picture_whose_tiles_have_the_size_asked_for_is_cut_and_no_more(shape):
    picture = torch.rand((2, *shape), generator=torch.Generator().manual_seed(0))
    top, left = (shape[0] - 64) // 2, (shape[1] - 96) // 2
    tiles = cut(picture, 6, 32)
    for k in range(6):
        y, x = top + 32 * (k // 3), left + 32 * (k % 3)
        torch.testing.assert_close(tiles[k], picture[:, y : y + 32, x : x + 32])


def test_a_tile_that_is_enlarged_has_no_pixel_of_its_neighbour():
    picture = torch.zeros(1, 10, 20)
    picture[..., 10:] = 1
    tiles = cut(picture, 2, 32)
    assert (tiles[0] == 0).all() and (tiles[1] == 1).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tiles": 0}, "tiles=0 must be > 0"),
        ({"size": 0}, "size=0 must be > 0"),
        ({"tiles": 401}, "tiles=401 would use less than half of a picture of 512 x 512 pixels"),
        ({"tiles": 1_000_000}, "tiles=1000000 would use less than half"),
        ({"classes": 11}, "classes=11 must be null, an integer from 2 to 10"),
    ],
)
def test_photos_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        photos(**settings)


def torchvision_loader(name, root, monkeypatch):
    """A loader of a small data set in torchvision's formats."""
    write(name, monkeypatch).put(root, unpacked=True)
    return lambda **settings: torchvision_images(name, str(root), download=False, **settings)


@pytest.fixture(params=["digits", "photos", *NAMES])
def loader(request, tmp_path, monkeypatch):
    """Every loader."""
    if request.param in NAMES:
        return torchvision_loader(request.param, tmp_path, monkeypatch)
    bundled_loaders = {"digits": digits, "photos": lambda **given: photos(16, 8, **given)}
    return bundled_loaders[request.param]


@pytest.mark.parametrize("subset", ["five", "rest", "two", "without two", "list"])
def test_a_subset_has_the_images_of_its_classes_under_new_labels(loader, subset):
    whole = loader()
    count = whole.class_count
    settings, chosen = {
        "five": ({"classes": 5}, range(5)),
        "rest": ({"classes": "complement"}, range(5, count)),
        "two": ({"classes": 2}, range(2)),
        "without two": ({"classes": "complement", "complement_of": [8, 1]}, None),
        "list": ({"classes": [9, 0, 4]}, [9, 0, 4]),
    }[subset]
    chosen = chosen or [label for label in range(count) if label not in (8, 1)]
    images = loader(**settings)
    assert images.class_count == len(chosen) and images.labels.dtype == torch.int64
    for new, old in enumerate(chosen):
        assert torch.equal(images.pixels[images.labels == new], whole.pixels[whole.labels == old])


def test_every_loader_refuses_a_class_that_it_does_not_have(loader):
    count = loader().class_count
    with pytest.raises(ValueError, match=f"an integer from 2 to {count}"):
        loader(classes=[0, count])


def test_every_loader_hands_its_jitter_on(loader):
    def jitter(pixels, draws):
        return pixels

    assert loader(jitter=jitter).jitter is jitter and loader().jitter is None


def test_an_unknown_data_set_is_named_with_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="name='EMNISTT' must be one of MNIST, FashionMNIST, CIF"):
        torchvision_images("EMNISTT", str(tmp_path))


OPTIONS = {path.stem: path for path in sorted(shipped("conf").glob("data/*.yaml"))}
DRAWS = {"digits": 5, "photos": 6, "cifar10": 6, "cifar100": 6}


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_of_the_group_builds_and_its_jitter_keeps_images_images(
    option, tmp_path, monkeypatch
):
    node = OmegaConf.load(OPTIONS[option])
    if "root" in node:
        monkeypatch.setenv("L2L_DATA", str(tmp_path))
        write(node.name, monkeypatch).put(tmp_path, unpacked=True)
        node.download = False
    images = build(node)
    assert node.classes is None and node.complement_of == 5
    assert build(OmegaConf.merge(node, {"classes": "complement"})).class_count == (
        images.class_count - 5
    )
    with pytest.raises(ConfigError, match="classes='complment' must be null"):
        build(OmegaConf.merge(node, {"classes": "complment"}))
    if images.jitter is not None:
        draws = np.random.default_rng(0).uniform(-1, 1, (40, images.jitter.draws))
        warped = images.jitter(images.pixels[:40], torch.from_numpy(draws).float())
        assert warped.shape == images.pixels[:40].shape
        assert warped.min() >= 0 and warped.max() <= 1 + 1e-6
        assert (warped - images.pixels[:40]).abs().mean() > 0.005
    assert DRAWS.get(option) == (images.jitter and images.jitter.draws)


def test_the_data_folder_is_a_variable_or_lies_in_the_cache(monkeypatch):
    for node in map(OmegaConf.load, OPTIONS.values()):
        if "root" in node:
            monkeypatch.delenv("L2L_DATA", raising=False)
            assert Path(node.root).expanduser() == Path.home() / ".cache/l2l_exp/data"
            monkeypatch.setenv("L2L_DATA", "/elsewhere")
            assert node.root == "/elsewhere"
