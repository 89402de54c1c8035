"""Sizes of vectors, safe at zero and exact for tiny numbers, in value and in slope."""

from typing import NamedTuple

import torch
from torch import Tensor

CURVATURE = 1e-10
"""A pair counts only if its cosine, y.s / |y| |s|, is above this."""


def rms(vectors: Tensor) -> Tensor:
    """Root mean square over the last axis, kept: (..., n) -> (..., 1)."""
    largest = vectors.detach().abs().amax(-1, keepdim=True)
    return largest * root((vectors / or_one(largest)).square().mean(-1, keepdim=True))


def root(sizes: Tensor) -> Tensor:
    """Square root of numbers >= 0, whose slope at 0 is 0."""
    return torch.where(sizes > 0, or_one(sizes).sqrt(), 0.0)


def hypot(one: Tensor, other: Tensor) -> Tensor:
    """root(one^2 + other^2), without squares that float32 cannot hold; its slope at 0 is 0."""
    none = (one == 0) & (other == 0)
    return torch.where(none, 0.0, torch.hypot(torch.where(none, 1.0, one), other))


def or_one(sizes: Tensor) -> Tensor:
    """Sizes to divide by: 1 where there is nothing to divide."""
    return torch.where(sizes > 0, sizes, 1.0)


def log_ratio(one: Tensor, other: Tensor) -> Tensor:
    """log(one / other) of sizes >= 0, and 0 where one of them is 0."""
    both = (one > 0) & (other > 0)
    return torch.where(both, or_one(one).log() - or_one(other).log(), 0.0)


def mean_product(one: Tensor, other: Tensor) -> Tensor:
    """Mean over the last axis of the products, kept; of unit vectors (rms 1) their cosine."""
    return (one * other).mean(-1, keepdim=True)


class Pair(NamedTuple):
    """Two vectors (..., n) over their sizes, and how they compare."""

    s: Tensor  # (..., n)
    y: Tensor  # (..., n)
    cosine: Tensor  # (..., 1)
    ratio: Tensor  # (..., 1) rms(s) / rms(y); 1 where the pair does not count
    good: Tensor  # (..., 1) whether it counts: a positive finite ratio, and curvature enough


def pair_of(s: Tensor, y: Tensor) -> Pair:
    """Compare a change of theta with a change of the gradient, (..., n) each."""
    sizes = rms(s), or_one(rms(y))
    unit = s / or_one(sizes[0]), y / sizes[1]
    cosine, ratio = mean_product(*unit), sizes[0] / sizes[1]
    good = (cosine > CURVATURE) & (ratio > 0) & ratio.isfinite()
    return Pair(*unit, cosine, torch.where(good, ratio, 1.0), good)
