"""The jitter of drawn images: a small random affine map, mirrored or not."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from l2l_exp.optimizees.base import check_choice

PADDINGS = ("zeros", "reflection")


@dataclass(frozen=True)
class Jitter:
    """A small random affine map of an image, drawn anew each time the image is drawn.

    Without it a learned optimizer wins by memorising a small training part.

    Attributes:
        rotation: radians, >= 0; the angle is uniform in +-rotation.
        scale: in [0, 1); each axis is stretched by a factor uniform in 1 +- scale.
        shift: pixels, >= 0; each axis is shifted uniformly in +-shift.
        flip: whether half of the images are mirrored left to right.
        padding: what lies outside the image: "zeros", or its own "reflection" at the edges.

    Raises:
        ValueError: for a value outside these ranges.
    """

    rotation: float = 0.3
    scale: float = 0.15
    shift: float = 1.0
    flip: bool = False
    padding: str = "zeros"

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not (self.rotation >= 0 and self.shift >= 0 and 0 <= self.scale < 1):
            raise ValueError(
                f"jitter rotation={self.rotation}, scale={self.scale}, shift={self.shift}: "
                f"rotation and shift must be >= 0, scale in [0, 1)"
            )
        if not isinstance(self.flip, bool):
            raise ValueError(f"flip={self.flip!r} must be true or false")
        check_choice("padding", self.padding, PADDINGS)

    @property
    def draws(self) -> int:
        """Uniform draws in [-1, 1] that one image takes."""
        return 6 if self.flip else 5

    def __call__(self, pixels: Tensor, draws: Tensor) -> Tensor:
        """Warp images (n, C, height, width) by `draws` (n, self.draws) in [-1, 1].

        The columns are the angle, the stretch of x and y, the shift of x and y, and with `flip`
        one whose sign decides whether the image is mirrored before the rest.
        """
        height, width = pixels.shape[-2:]
        angle = self.rotation * draws[:, 0]
        stretch = 1 + self.scale * draws[:, 1:3]
        unit = draws.new_tensor([2 * self.shift / width, 2 * self.shift / height])
        rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1)
        matrix = rotation.view(-1, 2, 2) * stretch.unsqueeze(-2)
        affine = torch.cat([matrix, (unit * draws[:, 3:5]).unsqueeze(-1)], -1)
        if self.flip:
            mirror = torch.where(draws[:, 5] > 0, -1, 1).view(-1, 1, 1)
            affine = torch.cat([mirror * affine[:, :1], affine[:, 1:]], 1)
        grid = F.affine_grid(affine, list(pixels.shape), align_corners=False)
        return F.grid_sample(pixels, grid, padding_mode=self.padding, align_corners=False)
