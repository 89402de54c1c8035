"""The bundled pictures, and the user's own files."""

import numpy as np
import pytest
import torch
from PIL import Image

from l2l_exp.optimizees.pictures import BUNDLED, PHOTOGRAPHS, bundled, read_picture, resized


@pytest.mark.parametrize("name", BUNDLED)
def test_every_bundled_picture_is_rgb_in_the_unit_interval(name):
    picture = bundled(name)
    assert picture.shape[0] == 3 and min(picture.shape[1:]) >= 128
    assert picture.dtype == torch.float32 and 0 <= picture.min() < picture.max() <= 1
    assert (name in PHOTOGRAPHS) == (not torch.equal(picture[0], picture[1]))


def test_an_unknown_picture_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match="picture 'lena' must be one of astronaut"):
        bundled("lena")


def test_a_file_is_read_as_rgb(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    expected = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    assert torch.equal(read_picture(tmp_path / "a.png"), expected)
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
    assert torch.equal(read_picture(tmp_path / "grey.png"), expected[:1].expand(3, -1, -1))


def test_missing_and_foreign_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.png does not exist"):
        read_picture(tmp_path / "absent.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"text\.png cannot be read as a picture"):
        read_picture(tmp_path / "text.png")
    whole = tmp_path / "whole.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(
        whole
    )
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"cut\.png cannot be read as a picture"):
        read_picture(tmp_path / "cut.png")


def test_resizing_keeps_flat_pictures_flat_and_means_roughly():
    flat = torch.full((3, 40, 30), 0.25)
    assert torch.allclose(resized(flat, 10, 20), torch.full((3, 10, 20), 0.25))
    picture = bundled("chelsea")
    assert (resized(picture, 32, 48).mean((1, 2)) - picture.mean((1, 2))).abs().max() < 0.01
