"""How long training episodes are: a fixed horizon, or a curriculum of them."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from l2l_exp.optimizees.seeding import Seed, generator


class Horizons(ABC):
    """The horizon of every training episode, a multiple of the truncation."""

    patience: int | None = None
    """None, or validations without improvement after which the next stage begins, >= 1."""

    @property
    @abstractmethod
    def all(self) -> Sequence[int]:
        """Every horizon that is given, in order: draws lie between the least and the largest."""

    @abstractmethod
    def __call__(self, episode: int, stage: int, truncation: int, seed: Seed) -> int:
        """Inner steps of an episode.

        Args:
            episode: episodes before it.
            stage: stages that training has left, where it is validation that ends them.
            truncation: inner steps between meta-steps.
            seed: of the training problems.
        """

    def check(self, truncation: int) -> None:
        """Raise ValueError unless the horizons are whole numbers that the truncation divides."""
        for horizon in self.all:
            if not isinstance(horizon, int):
                raise ValueError(f"training.horizons: {horizon!r} must be a whole number")
            if horizon < 1 or horizon % truncation:
                raise ValueError(
                    f"training.truncation={truncation} must divide every horizon of "
                    f"training.horizons, got {horizon}"
                )

    def __str__(self) -> str:
        """The least and the largest."""
        low, high = min(self.all), max(self.all)
        return str(low) if low == high else f"{low} to {high}"


class Fixed(Horizons):
    """The same horizon throughout, as in the paper.

    Args:
        horizon: >= 1.
    """

    def __init__(self, horizon: int) -> None:
        self.horizon = horizon

    @property
    def all(self) -> Sequence[int]:
        """The one."""
        return (self.horizon,)

    def __call__(self, episode: int, stage: int, truncation: int, seed: Seed) -> int:
        """The one."""
        return self.horizon


class Stages(Horizons):
    """One horizon after the other, each for a given number of episodes; the last one stays.

    Args:
        stages: {"horizon": T, "episodes": n >= 1} each, in order, at least one.

    Raises:
        ValueError: for a stage of another form.
    """

    def __init__(self, stages: Sequence[Mapping[str, int]]) -> None:
        if not stages:
            raise ValueError("stages=[] must hold at least one {horizon, episodes}")
        for stage in stages:
            if not isinstance(stage, Mapping) or set(stage) != {"horizon", "episodes"}:
                raise ValueError(f"stages: {stage!r} must be {{horizon: T, episodes: n}}")
            if not all(isinstance(value, int) and value >= 1 for value in stage.values()):
                raise ValueError(
                    f"stages: horizon and episodes of {stage} must be whole numbers >= 1"
                )
        self.stages = tuple((stage["horizon"], stage["episodes"]) for stage in stages)

    @property
    def all(self) -> Sequence[int]:
        """Of the stages."""
        return [horizon for horizon, _ in self.stages]

    def __call__(self, episode: int, stage: int, truncation: int, seed: Seed) -> int:
        """The horizon of the stage that the episode falls into."""
        for horizon, episodes in self.stages:
            if episode < episodes:
                return horizon
            episode -= episodes
        return self.all[-1]


class LogUniform(Horizons):
    """Every episode draws its own: the logarithm is uniform, rounded to whole windows.

    Args:
        low: >= 1, a multiple of the truncation.
        high: >= low, one too.

    Raises:
        ValueError: for a range that is empty.

    Source: Celo2, arXiv:2602.19142 (100 to 2000).
    """

    def __init__(self, low: int, high: int) -> None:
        if not 1 <= low <= high:
            raise ValueError(f"low={low}, high={high} must be 1 <= low <= high")
        self.low, self.high = low, high

    @property
    def all(self) -> Sequence[int]:
        """The ends of the range."""
        return self.low, self.high

    def __call__(self, episode: int, stage: int, truncation: int, seed: Seed) -> int:
        """exp(U(log low, log high)), to the nearest multiple of the truncation."""
        rng = generator(seed, "horizon", episode)
        drawn = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        return truncation * max(1, round(drawn / truncation))


class Growing(Horizons):
    """The next horizon once validation has stopped getting better; the last one stays.

    Deviations from the source: all stages are validated at the same horizon (by default the
    longest; the source validates each with the next stage's), so that scores of all stages can be
    compared; and the next stage goes on from where training is, not from the best so far.

    Args:
        horizons: each longer than the one before, at least one.
        patience: >= 1, validations in a row that bring no new best within a stage.

    Raises:
        ValueError: for horizons that do not grow, or another patience.

    Source: Chen et al. 2020, arXiv:2010.09089.
    """

    def __init__(self, horizons: Sequence[int], patience: int = 3) -> None:
        if not horizons or list(horizons) != sorted(set(horizons)):
            raise ValueError(f"horizons={list(horizons)} must be at least one, and must grow")
        if not isinstance(patience, int) or patience < 1:
            raise ValueError(f"patience={patience} must be a whole number >= 1")
        self.horizons, self.patience = tuple(horizons), patience

    @property
    def all(self) -> Sequence[int]:
        """Of the stages."""
        return self.horizons

    def __call__(self, episode: int, stage: int, truncation: int, seed: Seed) -> int:
        """The stage's."""
        return self.horizons[min(stage, len(self.horizons) - 1)]
