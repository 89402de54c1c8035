"""Image data sets as tensors: bundled with packages, or files that torchvision downloads."""

import functools
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from l2l_exp.optimizees.base import check_choice, check_positive
from l2l_exp.optimizees.downloads import make_complete
from l2l_exp.optimizees.images import Images, choose_classes, subset
from l2l_exp.optimizees.jitter import Jitter
from l2l_exp.optimizees.pictures import PHOTOGRAPHS, bundled, resized
from l2l_exp.optimizees.vision import torchvision

TORCHVISION = ("MNIST", "FashionMNIST", "CIFAR10", "CIFAR100")
Classes = int | Sequence[int] | str | None


def digits(
    classes: Classes = None,
    complement_of: int | Sequence[int] = 5,
    jitter: Jitter | None = None,
) -> Images:
    """scikit-learn's bundled 1797 handwritten digits, 8x8 grey, values 0..16 divided by 16.

    Args:
        classes, complement_of: which of the ten classes, see `images.choose_classes`.
        jitter: what suits drawn images; None for none.

    Raises:
        ValueError: for classes that the data set does not have.
    """
    chosen = choose_classes(10, classes, complement_of)
    bunch = load_digits()
    index, labels = subset(torch.from_numpy(bunch.target).long(), chosen)
    pixels = torch.from_numpy(bunch.images / 16).float().unsqueeze(1)
    return Images(pixels[index], labels, jitter)


def photos(
    tiles: int = 400,
    size: int = 32,
    classes: Classes = None,
    complement_of: int | Sequence[int] = 5,
    jitter: Jitter | None = None,
) -> Images:
    """Tiles of the ten colour photographs that scikit-image and scikit-learn carry.

    The class of a tile is the photograph that it is cut from: ten sources, not ten kinds of
    things. No two tiles share a pixel of their source, so that parts of a split are disjoint in
    space; but neighbours continue each other, and some are all but black (sky, the frame of the
    retina), so that no rule can tell all of them apart.

    Args:
        tiles: T, >= 1, of every photograph, in a grid; a number with factors near its shape.
        size: S, >= 1, pixels of a tile's side.
        classes, complement_of: which photographs, in the order of `PHOTOGRAPHS`, see
            `images.choose_classes`.
        jitter: what suits drawn images; None for none.

    Returns:
        T * classes images (3, S, S), those of one photograph after those of another.

    Raises:
        ValueError: for a value out of range, or a number of tiles that would use less than half of
            some photograph.
    """
    check_positive(tiles=tiles, size=size)
    chosen = choose_classes(len(PHOTOGRAPHS), classes, complement_of)
    whole = _photo_tiles(tiles, size)
    pixels = torch.cat([whole[label] for label in chosen])
    return Images(pixels, torch.arange(len(chosen)).repeat_interleave(tiles), jitter)


@functools.lru_cache(maxsize=1)
def _photo_tiles(tiles: int, size: int) -> tuple[Tensor, ...]:
    """The tiles of every photograph, (tiles, 3, size, size) each: made once, not to be modified."""
    return tuple(cut(bundled(name), tiles, size) for name in PHOTOGRAPHS)


def cut(picture: Tensor, tiles: int, size: int) -> Tensor:
    """Cut a picture into a grid of square tiles that share no pixel, and resample each alone.

    The grid has the factors of `tiles` whose ratio is nearest to the picture's. Tiles are as large
    as whole pixels allow and stand in the middle; what is left at the edges is not used.

    Args:
        picture: (C, height, width) in [0, 1].
        tiles: T, >= 1.
        size: S, >= 1, of a tile once it is resampled.

    Returns:
        (T, C, S, S), row by row.

    Raises:
        ValueError: if less than half of the picture would be used.
    """
    channels, height, width = picture.shape
    grids = [(rows, tiles // rows) for rows in range(1, tiles + 1) if tiles % rows == 0]
    rows, columns = min(grids, key=lambda grid: abs(math.log(grid[1] / grid[0] * height / width)))
    side = min(height // rows, width // columns)
    if 2 * tiles * side**2 < height * width:
        raise ValueError(
            f"tiles={tiles} would use less than half of a picture of {height} x {width} pixels: "
            f"take a number with factors near that shape and not too many, e.g. 400 = 16 x 25"
        )
    top, left = (height - rows * side) // 2, (width - columns * side) // 2
    used = picture[:, top : top + rows * side, left : left + columns * side]
    cells = used.reshape(channels, rows, side, columns, side).permute(1, 3, 0, 2, 4)
    small = resized(cells.reshape(tiles * channels, side, side), size, size)  # channels do not mix
    return small.reshape(tiles, channels, size, size)


def torchvision_images(
    name: str,
    root: str,
    *,
    download: bool = True,
    classes: Classes = None,
    complement_of: int | Sequence[int] = 5,
    jitter: Jitter | None = None,
) -> Images:
    """A data set that torchvision downloads: its training files, then its test files.

    Args:
        name: class of `torchvision.datasets`, one of `TORCHVISION`: (Fashion-)MNIST has 70,000
            grey images of 28x28, CIFAR-10 and CIFAR-100 60,000 colour images of 32x32.
        root: folder that holds, or will hold, the files; ~ is the home directory.
        download: fetch files that are missing or damaged; without it nothing leaves the machine.
        classes, complement_of: which classes, see `images.choose_classes`.
        jitter: what suits drawn images; None for none.

    Raises:
        ValueError: for another name, or for classes that the data set does not have.
        FileNotFoundError: if files are missing or damaged and cannot be had; says how to get them.
    """
    check_choice("name", name, TORCHVISION)
    kind = getattr(torchvision("datasets"), name)
    folder = Path(root).expanduser()
    make_complete(kind, folder, download=download)
    with warnings.catch_warnings():  # numpy 2.4.0 to 2.4.4 warn of pickles as old as CIFAR's
        warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
        both = [kind(folder, train=train) for train in (True, False)]
    count = len(both[0].classes)
    chosen = choose_classes(count, classes, complement_of)
    pixels, labels = (torch.cat(parts) for parts in zip(*map(_content, both), strict=True))
    highest = int(labels.max())
    if len(pixels) != len(labels) or highest >= count:
        raise FileNotFoundError(
            f"data set {name} in {folder} is damaged: {len(pixels)} images, {len(labels)} labels "
            f"from 0 to {highest} for {count} classes; delete it and run with data.download=true"
        )
    index, labels = subset(labels, chosen)
    return Images(pixels[index].float().div_(255), labels, jitter)


def _content(part: Any) -> tuple[Tensor, Tensor]:
    """uint8 pixels (n, channels, height, width) and labels (n,) of a torchvision data set."""
    pixels = torch.as_tensor(part.data)  # (n, height, width), or (n, height, width, 3)
    channels_first = pixels.unsqueeze(1) if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2)
    return channels_first, torch.as_tensor(part.targets)
