"""Schedules of the meta-learning rate: a factor as a function of progress."""

import math
from abc import ABC, abstractmethod


class Schedule(ABC):
    """A factor on the meta-optimizer's learning rate."""

    @abstractmethod
    def __call__(self, progress: float) -> float:
        """Factor, >= 0, at a progress in [0, 1] of the planned episodes."""


class Constant(Schedule):
    """Factor 1 throughout."""

    def __call__(self, progress: float) -> float:
        """1."""
        return 1.0


class Cosine(Schedule):
    """Linear warm-up, then half a cosine from 1 down to `final`.

    Args:
        final: in [0, 1], factor at the end.
        warmup: in [0, 1), share of the episodes that warm up from 0.

    Raises:
        ValueError: for a value outside these ranges.
    """

    def __init__(self, final: float = 0.1, warmup: float = 0.0) -> None:
        if not 0 <= final <= 1 or not 0 <= warmup < 1:
            raise ValueError(f"final={final} must be in [0, 1], warmup={warmup} in [0, 1)")
        self.final = final
        self.warmup = warmup

    def __call__(self, progress: float) -> float:
        """progress / warmup, then final + (1 - final) (1 + cos) / 2."""
        if progress < self.warmup:
            return progress / self.warmup
        fraction = (progress - self.warmup) / (1 - self.warmup)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * fraction)) / 2
