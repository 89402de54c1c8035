"""Content pictures: disjoint splits, crops, and folders of the user's own."""

import numpy as np
import pytest
import torch
from PIL import Image

from l2l_exp.optimizees import contents as module
from l2l_exp.optimizees.contents import (
    LIKE_TEXTURES,
    SHORT_SIDE,
    centre,
    crop,
    read_contents,
    thirds,
)
from l2l_exp.optimizees.pictures import PHOTOGRAPHS
from l2l_exp.optimizees.seeding import SPLITS

FIRST = np.array([0.0, 0.0, 0.0, 0.9])
"""Draws of the smallest square, at the upper left, not mirrored."""


def numbered(height, width):
    """A picture whose pixels all have different numbers."""
    return torch.arange(3 * height * width).view(3, height, width)


@pytest.mark.parametrize("first", [0, 1, 2])
@pytest.mark.parametrize(("height", "width"), [(5, 9), (10, 4), (6, 6)])
def test_the_thirds_of_a_picture_are_disjoint_and_together_the_whole(height, width, first):
    parts = thirds(numbered(height, width), first)
    assert set(parts) == set(SPLITS)
    pixels = torch.cat([part.flatten() for part in parts.values()])
    assert pixels.sort().values.tolist() == list(range(3 * height * width))
    long, short = max(height, width), min(height, width)
    for part in parts.values():
        assert {long // 3, short} <= {*part.shape[1:]} | {s - 1 for s in part.shape[1:]}


def test_every_bundled_photograph_gives_every_split_a_part_of_its_own(monkeypatch):
    """Each picture is replaced by one whose pixels say where they are: no two splits share one."""
    names = [name for name in PHOTOGRAPHS if name not in LIKE_TEXTURES]
    assert len(names) >= 7

    def numbers(name):
        place = names.index(name)
        shape = (3, 60, 45) if place % 2 else (3, 45, 60)
        return (place * 8100 + torch.arange(8100).view(shape)).double() / 255

    monkeypatch.setattr(module, "bundled", numbers)
    monkeypatch.setattr(module, "_reduced", lambda picture: (picture * 255).round().long())
    parts = read_contents()
    seen = {split: set(torch.cat([p.flatten() for p in parts[split]]).tolist()) for split in SPLITS}
    assert sum(len(pixels) for pixels in seen.values()) == len(set().union(*seen.values()))
    assert set().union(*seen.values()) == set(range(len(names) * 8100))
    assert all(len(parts[split]) == len(names) for split in SPLITS)


def test_bundled_contents_are_small_enough_and_of_eight_bits():
    for pictures in read_contents().values():
        for picture in pictures:
            assert picture.dtype == torch.uint8 and picture.shape[0] == 3
            assert 100 < min(picture.shape[1:]) <= SHORT_SIDE


def test_a_crop_is_a_square_of_the_picture():
    picture = (numbered(10, 20) % 256).to(torch.uint8)
    taken = crop(picture, FIRST, size=6, smallest=0.6)
    torch.testing.assert_close(taken, picture[:, :6, :6].float() / 255)
    mirrored = crop(picture, np.array([0.0, 0.0, 0.0, 0.1]), 6, 0.6)
    torch.testing.assert_close(mirrored, picture[:, :6, :6].flip(2).float() / 255)
    last = crop(picture, np.array([0.0, 0.999, 0.999, 0.9]), 6, 0.6)
    torch.testing.assert_close(last, picture[:, -6:, -6:].float() / 255)
    whole = crop(picture, np.array([0.999, 0.0, 0.5, 0.9]), 10, 0.1)
    torch.testing.assert_close(whole, picture[:, :, 5:15].float() / 255)


@pytest.mark.parametrize("place", range(5))
def test_a_crop_shows_the_same_region_at_every_size(place):
    picture = read_contents()["test"][place]
    draws = np.random.default_rng(place).random(4)
    large, small = (crop(picture, draws, size, 0.6) for size in (128, 32))
    again = torch.nn.functional.avg_pool2d(large, 4)
    other = crop(picture, np.random.default_rng(place + 100).random(4), 32, 0.6)
    same, different = ((again - one).abs().mean() for one in (small, other))
    assert same < 0.02 and 3 * same < different


def test_the_centre_is_the_largest_square_in_the_middle():
    picture = numbered(4, 10) / 120
    torch.testing.assert_close(centre(picture, 4), picture[:, :, 3:7])


@pytest.fixture
def folder(tmp_path):
    """Seven plain pictures, each of its own grey, and a file that is none."""
    for place in range(7):
        image = Image.fromarray(np.full((40 + place, 30, 3), 20 * place, dtype=np.uint8))
        image.save(tmp_path / f"{place}.PNG" if place % 2 else tmp_path / f"{place}.png")
    (tmp_path / "readme.txt").write_text("not a picture")
    return tmp_path


def greys(parts):
    """Split -> the greys of its pictures."""
    return {split: sorted(int(p[0, 0, 0]) // 20 for p in parts[split]) for split in SPLITS}


def test_a_folder_is_split_by_file_and_every_picture_is_used(folder):
    split = greys(read_contents(str(folder)))
    assert sorted(sum(split.values(), [])) == list(range(7))
    assert [len(split[name]) for name in SPLITS] == [3, 2, 2]
    assert greys(read_contents(str(folder), split_seed=0)) == split
    assert any(greys(read_contents(str(folder), split_seed=seed)) != split for seed in (1, 2))


def test_large_pictures_are_reduced(tmp_path):
    for place in range(3):
        image = Image.fromarray(np.full((2 * SHORT_SIDE, 3 * SHORT_SIDE, 3), 50, dtype=np.uint8))
        image.save(tmp_path / f"{place}.png")
    shapes = [p.shape for part in read_contents(str(tmp_path)).values() for p in part]
    assert shapes == [(3, SHORT_SIDE, 3 * SHORT_SIDE // 2)] * 3


def test_a_folder_that_will_not_do_is_refused_by_name(folder, tmp_path_factory):
    with pytest.raises(FileNotFoundError, match="source=/no/such must be 'photographs' or a fold"):
        read_contents("/no/such")
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(ValueError, match=f"source={empty} holds 0 pictures"):
        read_contents(str(empty))
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not really")
    with pytest.raises(ValueError, match=r"broken\.jpg cannot be read as a picture"):
        read_contents(str(folder))
