"""Rules on parabolas with noisy gradients: whether they settle, and how near the minimum."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from l2l_exp.evaluation import Floats
from l2l_exp.microscope.probe import in_double, watch
from l2l_exp.optimizees.base import Data, Optimizee, Problem
from l2l_exp.optimizees.seeding import Seed, draw
from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers.base import LearnedOptimizer

BLOW_UP = 1e3
"""A theta beyond this multiple of its start counts as divergence."""
GROWING = 1.5
"""A mean square that rises by more than this factor from quarter to quarter has not settled."""


class NoisyParabola(Optimizee):
    """f(theta) = h theta^2 / 2 in one coordinate, with noise sigma e_t added to the gradient.

    Args:
        curvatures: (B,) h of every problem, > 0.
        noises: (B,) sigma of every problem, >= 0; e_t is standard normal.
        steps: T >= 1, so many e_t are drawn.
        start: theta_0.
    """

    def __init__(self, curvatures: Floats, noises: Floats, steps: int, start: float) -> None:
        super().__init__()
        self.curvatures, self.noises = torch.from_numpy(curvatures), torch.from_numpy(noises)
        self.steps, self.start = steps, start
        self.spec = ParamSpec.of({"theta": ((1,), "free")})

    def sample(self, problems: Sequence[int], seed: Seed) -> Problem:
        """Draw the noise of every step: (B, T + 1)."""
        noise = draw(seed, "noise", problems, lambda rng: rng.standard_normal(self.steps + 1))
        return Problem(tuple(problems), seed, {"noise": noise})

    def init(self, problems: Sequence[int], seed: Seed) -> Tensor:
        """The same for all: (B, 1)."""
        return torch.full((len(problems), 1), self.start, dtype=self.curvatures.dtype)

    def minibatch(self, problem: Problem, step: int) -> Data:
        """Curvature, and the noise in the slope."""
        places = list(problem.index)
        slope = self.noises[places] * problem.data["noise"][:, step]
        return {"curvature": self.curvatures[places], "slope": slope}

    def loss(self, theta: Tensor, data: Data) -> Tensor:
        """h theta^2 / 2 + sigma e theta."""
        return (data["curvature"] * theta.square() / 2 + data["slope"] * theta).sum()

    def metrics(self, theta: Tensor, problem: Problem) -> Mapping[str, Tensor]:
        """`train_loss`: the loss without noise."""
        return {"train_loss": self.curvatures[list(problem.index)] * theta[:, 0].square() / 2}


@dataclass(frozen=True)
class Stability:
    """Where a rule comes to on parabolas with noise, over the last half of the steps.

    Attributes:
        curvatures: (H,).
        noises: (S,) standard deviations of the gradient.
        start: distance from the minimum at first.
        mean: (S, H) of theta over steps and repetitions; the minimum is 0.
        variance: (S, H) about that mean.
        diverged: (S, H) share of repetitions in which theta was not finite, or above 1000 times its
            start, at any step.
        settled: (S, H) whether none diverged and the mean square does not grow any more, from the
            third to the last quarter of the steps, by half.
        repetitions: of every parabola.
    """

    curvatures: Floats
    noises: Floats
    start: float
    mean: Floats
    variance: Floats
    diverged: Floats
    settled: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
    repetitions: int

    @property
    def mean_square(self) -> Floats:
        """(S, H) of theta: the distance from the minimum."""
        with np.errstate(over="ignore"):
            return np.asarray(np.square(self.mean) + self.variance)


@torch.no_grad()
def stability(
    rule: LearnedOptimizer,
    curvatures: Sequence[float],
    noises: Sequence[float],
    horizon: int = 400,
    repetitions: int = 32,
    start: float = 1.0,
    seed: int = 0,
) -> Stability:
    """Run a rule on f = h theta^2 / 2 with noise in the gradient, for a grid of h and sigma.

    Args:
        rule: a learned optimizer, or a baseline at one learning rate; it is run in float64.
        curvatures: H values h > 0.
        noises: S standard deviations sigma >= 0.
        horizon: T >= 4 steps; stationary values are taken over the last half of them.
        repetitions: R >= 1, draws of the noise; the same ones for every rule.
        start: theta_0, not 0.
        seed: of the noise.

    Raises:
        ValueError: for a value outside its range, or a baseline that is still to be tuned.
    """
    grid = np.asarray(curvatures, dtype=np.float64), np.asarray(noises, dtype=np.float64)
    _check(*grid, horizon, repetitions, start)
    shape = (len(grid[1]), len(grid[0]), repetitions)
    sigma, h = (np.repeat(x.ravel(), repetitions) for x in np.meshgrid(*grid[::-1], indexing="ij"))
    optimizee = NoisyParabola(h, sigma, horizon, start)
    rules, seeds = {"rule": in_double(rule)}, Seed("test", seed)
    moments = watch(optimizee, rules, range(len(h)), seeds, horizon)
    theta = np.stack([(m.seen.theta + m.updates["rule"])[:, 0].numpy() for m in moments])
    theta = theta.reshape(horizon, *shape)
    with np.errstate(all="ignore"):
        bad = ~(np.abs(theta) <= BLOW_UP * abs(start))
        diverged = bad.any(0).mean(-1)
        late = theta[horizon // 2 :]
        mean = late.mean((0, -1))
        variance = np.square(late - mean[..., None]).mean((0, -1))
        third, last = (np.square(part).mean((0, -1)) for part in np.array_split(late, 2))
        settled = (diverged == 0) & (last <= GROWING * third)
    return Stability(grid[0], grid[1], start, mean, variance, diverged, settled, repetitions)


def sgd_variance(lr: float, curvatures: Floats, noise: float) -> Floats:
    """Stationary variance of SGD on h theta^2 / 2 with gradient noise; infinite where lr h >= 2.

    theta <- (1 - lr h) theta - lr sigma e gives var = lr sigma^2 / (h (2 - lr h)).

    Args:
        lr: > 0.
        curvatures: h > 0.
        noise: sigma >= 0.
    """
    h = np.asarray(curvatures, dtype=np.float64)
    stable = lr * h < 2
    return np.where(stable, lr * noise**2 / (h * np.where(stable, 2 - lr * h, 1.0)), np.inf)


def _check(h: Floats, sigma: Floats, horizon: int, repetitions: int, start: float) -> None:
    """Raise ValueError for values out of range."""
    if not len(h) or not (h > 0).all() or not np.isfinite(h).all():
        raise ValueError(f"curvatures={h.tolist()} must be numbers > 0")
    if not len(sigma) or not (sigma >= 0).all() or not np.isfinite(sigma).all():
        raise ValueError(f"noises={sigma.tolist()} must be numbers >= 0")
    if horizon < 4 or repetitions < 1 or not np.isfinite(start) or start == 0:
        raise ValueError(
            f"horizon={horizon} must be >= 4, repetitions={repetitions} >= 1, start={start} not 0"
        )
