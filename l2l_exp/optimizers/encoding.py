"""Encodings of a gradient as the input of a rule."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

LARGEST_P = 80.0


class Encoding(nn.Module, ABC):
    """Elementwise map from a gradient to `size` features."""

    size: int

    @abstractmethod
    def forward(self, grad: Tensor) -> Tensor:
        """Encode: (n,) -> (size, n), features first."""


class Identity(Encoding):
    """The gradient times a constant.

    Args:
        scale: > 0.

    Raises:
        ValueError: if `scale` is not positive.

    Source: arXiv:1606.04474, section 2.1 ("multiply inputs by a suitable constant").
    """

    size = 1

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        if not scale > 0:
            raise ValueError(f"encoding scale={scale} must be > 0")
        self.scale = scale

    def forward(self, grad: Tensor) -> Tensor:
        """(n,) -> (1, n)."""
        return (self.scale * grad).unsqueeze(0)


class LogSign(Encoding):
    """Logarithm of the magnitude, and sign: (log|x|/p, sign x), or (-1, e^p x) where |x| < e^-p.

    Continuous and branch-free: (max(log|x|/p, -1), clip(e^p x, -1, 1)).

    Args:
        p: in (0, 80], since e^p must fit float32; magnitudes below e^-p are taken linearly
            (paper: 10; its public code: 5).

    Raises:
        ValueError: if `p` is out of range.

    Source: arXiv:1606.04474, appendix A.
    """

    size = 2

    def __init__(self, p: float = 10.0) -> None:
        super().__init__()
        if not 0 < p <= LARGEST_P:
            raise ValueError(f"encoding p={p} must be > 0 and <= {LARGEST_P}")
        self.p = p

    def forward(self, grad: Tensor) -> Tensor:
        """(n,) -> (2, n), the first in [-1, inf), the second in [-1, 1]."""
        magnitude = grad.abs().clamp_min(math.exp(-self.p)).log() / self.p
        sign = (grad * math.exp(self.p)).clamp(-1, 1)
        return torch.stack([magnitude.clamp_min(-1), sign])
