"""What a run records of its rule's updates: appendix B of the paper."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from l2l_exp.evaluation import Floats
from l2l_exp.microscope.trajectories import Followed, Proposals, choose, follow, proposals
from l2l_exp.optimizees.base import Optimizee
from l2l_exp.optimizees.seeding import Seed
from l2l_exp.optimizers.base import LearnedOptimizer


@dataclass(frozen=True)
class Updates:
    """Follow some coordinates along a rule's trajectory, and sweep their gradients now and then.

    Attributes:
        coordinates: >= 1, how many; `trajectories.choose` says which.
        steps: >= 1, at how many steps of the episode gradients are swept (paper: 32).
        points: >= 2, gradients of a sweep.
        span: > 0, a sweep goes so many root mean squares of the coordinate's gradients either way.
        beside: names of the baselines that are shown the same gradients, as far as there are any.
        problem: index of the test problem.

    Raises:
        ValueError: for a value outside these ranges.

    Source: arXiv:1606.04474, appendix B.
    """

    coordinates: int = 4
    steps: int = 32
    points: int = 41
    span: float = 3.0
    beside: Sequence[str] = ("sgd", "adam")
    problem: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError for an impossible value."""
        for name, least in (("coordinates", 1), ("steps", 1), ("points", 2), ("problem", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"microscope.{name}={getattr(self, name)} must be >= {least}")
        if not self.span > 0:
            raise ValueError(f"microscope.span={self.span} must be > 0")

    def __call__(
        self,
        optimizee: Optimizee,
        rules: Mapping[str, LearnedOptimizer],
        seed: Seed,
        horizon: int,
    ) -> tuple[Followed, Proposals]:
        """Look at the first of several rules, and at what the others would have done.

        Args:
            optimizee: distribution of the problem.
            rules: name -> rule; baselines at one learning rate.
            seed: split and seed of the draws.
            horizon: T >= 1.
        """
        first = next(iter(rules))
        rules = {name: rules[name] for name in rules if name == first or name in self.beside}
        places = choose(optimizee, self.coordinates, seed, self.problem)
        followed = follow(optimizee, rules, places, seed, horizon, self.problem)
        asked = sweep(followed.gradients, self.points, self.span)
        steps = np.linspace(0, horizon - 1, min(self.steps, horizon)).round().astype(int).tolist()
        swept = proposals(optimizee, rules, places, steps, asked, seed, horizon, self.problem)
        return followed, swept


def sweep(gradients: Floats, points: int, span: float) -> Floats:
    """Gradients (C, G) about 0, so many root mean squares of (T, C) gradients either way."""
    with np.errstate(over="ignore", invalid="ignore"):
        size = np.sqrt(np.square(gradients).mean(0))
    size = np.where(np.isfinite(size) & (size > 0), size, 1.0)
    return span * size[:, None] * np.linspace(-1, 1, points)
