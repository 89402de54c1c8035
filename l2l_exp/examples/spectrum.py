"""Fitting measured spectra: peaks on a sloping background, a problem per measurement.

A non-convex inverse problem with few parameters of different kinds, and with many instances: where
the same instrument takes thousands of spectra, a rule that was trained on simulated ones pays.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

WIDTHS = (0.02, 0.06)
"""Standard deviations of peaks, smallest and largest; the axis is the unit interval."""
AMPLITUDES = (0.3, 1.5)
BACKGROUND = 0.2
"""Standard deviation of the background's height and of its slope."""


class Peaks(nn.Module):
    """A sum of Gaussian peaks and a line.

    The start is what one would guess without looking: peaks of the middling width and height in
    even distances, no background. It is the same for every measurement.

    Args:
        count: K >= 1, peaks.

    Raises:
        ValueError: for fewer than one.
    """

    def __init__(self, count: int = 4) -> None:
        super().__init__()
        if count < 1:
            raise ValueError(f"count={count} must be >= 1")
        self.positions = nn.Parameter((torch.arange(count) + 0.5) / count)
        self.log_widths = nn.Parameter(torch.full((count,), math.log(math.prod(WIDTHS)) / 2))
        self.log_amplitudes = nn.Parameter(torch.full((count,), math.log(0.5)))
        self.background = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        """Intensity at positions x (P,) in [0, 1]: (P,)."""
        distance = (x.unsqueeze(-1) - self.positions) * (-self.log_widths).exp()
        peaks = self.log_amplitudes.exp() * (-distance.square() / 2).exp()
        line = self.background[0] + self.background[1] * x
        return peaks.sum(-1) + line


def measurement(
    rng: np.random.Generator, count: int = 4, points: int = 96, noise: float = 0.02
) -> dict[str, np.ndarray | float]:
    """Simulate one measurement.

    Peaks lie anywhere within equal shares of the axis, one in each; their widths are log-uniform,
    their heights uniform.

    Args:
        rng: of this measurement.
        count: K >= 1, peaks.
        points: P >= 1, positions at which the intensity is measured, in even distances.
        noise: > 0, standard deviation of the error of a measured intensity.

    Returns:
        `x` (P,), `intensity` (P,), and the number `noise`.

    Raises:
        ValueError: for a value outside these ranges.
    """
    if count < 1 or points < 1 or not noise > 0:
        raise ValueError(f"count={count} and points={points} must be >= 1, noise={noise} > 0")
    x = (np.arange(points) + 0.5) / points
    positions = (np.arange(count) + rng.uniform(size=count)) / count
    narrowest, widest = WIDTHS
    widths = np.exp(rng.uniform(math.log(narrowest), math.log(widest), count))
    heights = rng.uniform(*AMPLITUDES, count)
    peaks = np.exp(-(((x[:, None] - positions) / widths) ** 2) / 2) @ heights
    height, slope = BACKGROUND * rng.standard_normal(2)
    error = noise * rng.standard_normal(points)
    return {"x": x, "intensity": peaks + height + slope * x + error, "noise": noise}


def misfit(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Mean squared residual in units of the noise's variance: about 1 for a perfect fit."""
    residual: Tensor = (model(batch["x"]) - batch["intensity"]) / batch["noise"]
    return residual.square().mean()
