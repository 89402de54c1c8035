"""Random quadratics: f(theta) = scale * ||W theta - y||^2."""

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from l2l_exp.optimizees.base import Data, Optimizee, Problem, check_choice, check_positive
from l2l_exp.optimizees.seeding import Seed, draw
from l2l_exp.optimizees.spec import ParamSpec


class Quadratic(Optimizee):
    """Least squares with a random square matrix; deterministic, every step sees the whole problem.

    Args:
        dimension: N, >= 1 (paper: 10).
        distribution: of the entries of W and y: "gaussian" N(0, 1) as in the paper's text, or
            "uniform" U[0, 1) as in its public code.
        gradient_scale: > 0, factor on the gradient that a rule sees; the public code averages
            128 functions into one loss, which divides every gradient by 128. Losses are reported
            unscaled; meta-gradients carry the same factor, to which Adam is indifferent.
        init_std: >= 0, theta_0 ~ N(0, init_std^2) (public code: .01).

    Raises:
        ValueError: for a value outside these ranges.

    Source: Andrychowicz et al. 2016, arXiv:1606.04474, section 3.1.
    """

    deterministic = True

    def __init__(
        self,
        dimension: int = 10,
        distribution: str = "uniform",
        gradient_scale: float = 1.0,
        init_std: float = 0.01,
    ) -> None:
        super().__init__()
        check_positive(dimension=dimension, gradient_scale=gradient_scale)
        check_choice("distribution", distribution, ("gaussian", "uniform"))
        if init_std < 0:
            raise ValueError(f"init_std={init_std} must be >= 0")
        self.dimension = dimension
        self.distribution = distribution
        self.gradient_scale = gradient_scale
        self.init_std = init_std
        self.spec = ParamSpec.of({"theta": ((dimension,), "free")})

    def sample(self, problems: Sequence[int], seed: Seed) -> Problem:
        """Draw W and y of each problem."""
        size = self.dimension

        def entries(rng: np.random.Generator) -> np.ndarray:
            shape = (size, size + 1)
            return (
                rng.random(shape) if self.distribution == "uniform" else rng.standard_normal(shape)
            )

        both = self.place(draw(seed, "quadratic", problems, entries))
        return Problem(tuple(problems), seed, {"W": both[..., :size], "y": both[..., size]})

    def init(self, problems: Sequence[int], seed: Seed) -> Tensor:
        """Draw theta_0: (B, N)."""
        return self.gaussian_start(problems, seed, self.init_std)

    def minibatch(self, problem: Problem, step: int) -> Data:
        """The whole problem, at every step."""
        return problem.data

    def loss(self, theta: Tensor, data: Data) -> Tensor:
        """||W theta - y||^2; its gradient is multiplied by `gradient_scale`, its value is not."""
        value = _residual_norm(theta, data)
        if self.gradient_scale == 1:
            return value
        scaled = self.gradient_scale * value
        return scaled + (value - scaled).detach()

    def metrics(self, theta: Tensor, problem: Problem) -> Mapping[str, Tensor]:
        """`train_loss`: the loss itself, (B,)."""
        return {"train_loss": _residual_norm(theta, problem.data)}


def _residual_norm(theta: Tensor, data: Data) -> Tensor:
    """||W theta - y||^2 over the last axis: (..., N) -> (...)."""
    residual = (data["W"] @ theta.unsqueeze(-1)).squeeze(-1) - data["y"]
    return residual.square().sum(-1)
