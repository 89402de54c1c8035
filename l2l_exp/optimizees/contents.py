"""Content pictures of neural art, in three disjoint parts, and random crops of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from l2l_exp.optimizees.pictures import PHOTOGRAPHS, bundled, read_picture, resized
from l2l_exp.optimizees.seeding import SPLITS, Split

Contents = Mapping[Split, Sequence[Tensor]]
"""Split -> pictures (3, height, width) of uint8; no part of one is in another split."""
BUNDLED = "photographs"
LIKE_TEXTURES = ("hubble_deep_field", "immunohistochemistry", "retina")
"""Bundled photographs that serve as styles and not as contents."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm")
SHORT_SIDE = 256
"""Pictures are reduced to this when they are read; thousands of them then fit memory."""


def read_contents(source: str = BUNDLED, split_seed: int = 0) -> Contents:
    """Pictures for training, validation and test.

    Args:
        source: "photographs" for the bundled ones, each of which is cut into three; or a folder of
            picture files, which are shuffled and dealt out to the splits, a third each.
        split_seed: of that shuffle; not the meta-seed, so that every run splits alike.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it holds fewer than three pictures, or one that cannot be read.
    """
    if source != BUNDLED:
        return _from_folder(Path(source).expanduser(), split_seed)
    parts: dict[Split, list[Tensor]] = {split: [] for split in SPLITS}
    names = [name for name in PHOTOGRAPHS if name not in LIKE_TEXTURES]
    for place, name in enumerate(names):
        for split, part in thirds(bundled(name), first=place % 3).items():
            parts[split].append(_reduced(part))
    return parts


def thirds(picture: Tensor, first: int) -> dict[Split, Tensor]:
    """Cut a picture (3, height, width) across its longer side.

    Args:
        picture: any.
        first: 0, 1 or 2, the third that goes to training; validation and test follow in turn, so
            that no split has the left sides of all pictures.
    """
    axis = 1 if picture.shape[1] > picture.shape[2] else 2
    cut = picture.tensor_split(3, dim=axis)
    return {split: cut[(first + place) % 3] for place, split in enumerate(SPLITS)}


def crop(picture: Tensor, draws: np.ndarray, size: int, smallest: float) -> Tensor:
    """Cut a square out of a picture, and resample it; the square does not depend on the size.

    Args:
        picture: (3, height, width) of uint8.
        draws: (4,) in [0, 1): side, two positions, whether it is mirrored.
        size: height and width of the result.
        smallest: in (0, 1], least side of the square over the picture's shorter side.

    Returns:
        (3, size, size) in [0, 1].
    """
    height, width = picture.shape[1:]
    side = max(1, round(min(height, width) * (smallest + (1 - smallest) * draws[0])))
    top, left = int(draws[1] * (height - side + 1)), int(draws[2] * (width - side + 1))
    piece = picture[:, top : top + side, left : left + side].float() / 255
    return resized(piece.flip(2) if draws[3] < 0.5 else piece, size, size)


def centre(picture: Tensor, size: int) -> Tensor:
    """The largest square in the middle of a picture in [0, 1], resampled: (3, size, size)."""
    side = min(picture.shape[1:])
    top, left = (picture.shape[1] - side) // 2, (picture.shape[2] - side) // 2
    return resized(picture[:, top : top + side, left : left + side], size, size)


def _from_folder(folder: Path, split_seed: int) -> Contents:
    """The pictures of a folder, dealt out by file."""
    if not folder.is_dir():
        raise FileNotFoundError(f"source={folder} must be {BUNDLED!r} or a folder of pictures")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if len(paths) < len(SPLITS):
        raise ValueError(
            f"source={folder} holds {len(paths)} pictures ({', '.join(SUFFIXES)}): each of the "
            f"{len(SPLITS)} splits needs one at least"
        )
    order = np.random.default_rng(split_seed).permutation(len(paths))
    pictures = [_reduced(read_picture(paths[place])) for place in order]
    return {split: pictures[place :: len(SPLITS)] for place, split in enumerate(SPLITS)}


def _reduced(picture: Tensor) -> Tensor:
    """(3, height, width) in [0, 1] -> uint8, its shorter side at most `SHORT_SIDE`."""
    height, width = picture.shape[1:]
    factor = SHORT_SIDE / min(height, width)
    if factor < 1:
        picture = resized(picture, round(factor * height), round(factor * width))
    return (picture * 255).round().to(torch.uint8)
