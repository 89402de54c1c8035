"""Image data sets, their split into disjoint parts, and the jitter of drawn images."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor

from l2l_exp.optimizees.seeding import Split
from l2l_exp.optimizees.vision import torchvision

TORCHVISION = ("MNIST", "FashionMNIST")
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class Images(NamedTuple):
    """Labelled images."""

    pixels: Tensor  # (P, channels, height, width) in [0, 1]
    labels: Tensor  # (P,) int64 in [0, 10)


class Part(NamedTuple):
    """Indices of the images that the problems of one split may use."""

    train: Tensor  # (P_train,) what gradients see
    held_out: Tensor  # (P_held,) what no gradient ever sees


def digits() -> Images:
    """scikit-learn's bundled 1797 handwritten digits, 8x8, values 0..16 divided by 16."""
    bunch = load_digits()
    pixels = torch.from_numpy(bunch.images / 16).float().unsqueeze(1)
    return Images(pixels, torch.from_numpy(bunch.target).long())


def torchvision_images(name: str, root: str, *, download: bool = True) -> Images:
    """All 70,000 images of MNIST or Fashion-MNIST, 28x28; torchvision's own files and checksums.

    Args:
        name: class of `torchvision.datasets`: "MNIST" or "FashionMNIST".
        root: folder that holds, or will hold, the files; ~ is the home directory.
        download: fetch the files where they are missing.

    Raises:
        ValueError: for another name.
        FileNotFoundError: if the files are missing and cannot be fetched; says how to get them.
    """
    folder = Path(root).expanduser()
    if name not in TORCHVISION:
        raise ValueError(f"data set {name!r} must be one of {', '.join(TORCHVISION)}")
    dataset = getattr(torchvision("datasets"), name)
    try:
        both = [dataset(folder, train=train, download=download) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        reason = " ".join(str(error).split()).split(": Tried", 1)[0]
        raise FileNotFoundError(
            f"data set {name} is not in {folder / name / 'raw'} ({reason}): put its four unpacked "
            f"idx-ubyte files there, or run with network access and optimizee.images.download=true"
        ) from error
    pixels = torch.cat([part.data for part in both]).float().unsqueeze(1) / 255
    return Images(pixels, torch.cat([part.targets for part in both]).long())


def split_images(
    labels: Tensor, *, seed: int = 0, held_out_fraction: float = 0.25
) -> Mapping[Split, Part]:
    """Split images once into meta-train, meta-validation and meta-test parts.

    The images of every class are shuffled by `seed` and dealt out in turn to the three splits,
    so that each gets a third of every class; within a split the last `held_out_fraction` of every
    class is held out. The six parts are disjoint and together hold every image.

    Args:
        labels: (P,) int64.
        seed: of the shuffle; not the meta-seed, so that every run splits alike.
        held_out_fraction: in (0, 1), of each split.

    Raises:
        ValueError: if the fraction is out of range or leaves a part of some class empty.
    """
    if not 0 < held_out_fraction < 1:
        raise ValueError(f"held_out_fraction={held_out_fraction} must be in (0, 1)")
    parts: dict[Split, tuple[list[Tensor], list[Tensor]]] = {name: ([], []) for name in SPLITS}
    rng = np.random.default_rng(seed)
    for label in np.unique(labels.numpy()):
        members = torch.from_numpy(rng.permutation(np.flatnonzero(labels.numpy() == label)))
        for place, name in enumerate(SPLITS):
            mine = members[place :: len(SPLITS)]
            kept = len(mine) - round(held_out_fraction * len(mine))
            if not 0 < kept < len(mine):
                raise ValueError(
                    f"held_out_fraction={held_out_fraction} leaves an empty part: split {name} "
                    f"has {len(mine)} images of class {label}"
                )
            parts[name][0].append(mine[:kept])
            parts[name][1].append(mine[kept:])
    return {name: Part(torch.cat(train), torch.cat(held)) for name, (train, held) in parts.items()}


@dataclass(frozen=True)
class Jitter:
    """A small random affine map of an image, drawn anew each time the image is drawn.

    Without it a learned optimizer wins by memorising a small training part.

    Attributes:
        rotation: radians, >= 0; the angle is uniform in +-rotation.
        scale: in [0, 1); each axis is stretched by a factor uniform in 1 +- scale.
        shift: pixels, >= 0; each axis is shifted uniformly in +-shift.
    """

    rotation: float = 0.3
    scale: float = 0.15
    shift: float = 1.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.rotation < 0 or self.shift < 0 or not 0 <= self.scale < 1:
            raise ValueError(
                f"jitter rotation={self.rotation}, scale={self.scale}, shift={self.shift}: "
                f"rotation and shift must be >= 0, scale in [0, 1)"
            )

    def __call__(self, pixels: Tensor, draws: Tensor) -> Tensor:
        """Warp images (n, C, height, width) by draws (n, 5) in [-1, 1]; zeros outside."""
        height, width = pixels.shape[-2:]
        angle = self.rotation * draws[:, 0]
        stretch = 1 + self.scale * draws[:, 1:3]
        unit = draws.new_tensor([2 * self.shift / width, 2 * self.shift / height])
        rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1)
        matrix = rotation.view(-1, 2, 2) * stretch.unsqueeze(-2)
        affine = torch.cat([matrix, (unit * draws[:, 3:5]).unsqueeze(-1)], -1)
        grid = F.affine_grid(affine, list(pixels.shape), align_corners=False)
        return F.grid_sample(pixels, grid, align_corners=False)
