"""Minima of problems, each found once."""

from collections.abc import Callable

import torch
from torch import Tensor

from l2l_exp.optimizees.base import Problem
from l2l_exp.optimizees.seeding import Seed


class Minima:
    """Remembers minima by (dtype, seed, index), of which a problem is a function.

    An optimizee that has to solve a problem to know its minimum keeps one of these, so that it
    solves each problem once, when metrics are first asked for.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[torch.dtype, Seed, int], float] = {}

    def of(self, problem: Problem, dtype: torch.dtype, solve: Callable[[], Tensor]) -> Tensor:
        """Minima of B problems: (B,) float64 on the CPU.

        Args:
            problem: the problems.
            dtype: of their data, whose rounding moves a minimum.
            solve: finds the minima (B,) of these problems, if one of them is not known yet.
        """
        keys = [(dtype, problem.seed, index) for index in problem.index]
        if any(key not in self._known for key in keys):
            self._known.update(zip(keys, solve().tolist(), strict=True))
        return torch.tensor([self._known[key] for key in keys], dtype=torch.float64)
