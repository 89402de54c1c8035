"""Quadratics with a chosen spectrum: f(theta) = (theta - c)' Q' diag(values) Q (theta - c) / 2."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from l2l_exp.optimizees.base import Data, Optimizee, Problem, check_choice, check_positive
from l2l_exp.optimizees.seeding import Seed, draw, rotation
from l2l_exp.optimizees.spec import ParamSpec

SHAPES = ("log_uniform", "geometric", "linear")


class Spectrum(Optimizee):
    """Convex quadratics with the Hessian's eigenvalues given; deterministic, their minimum is 0.

    The largest eigenvalue of a named spectrum is 1, the smallest 1 / condition; gradient descent
    needs about `condition` steps for each factor of e.

    Args:
        dimension: N, >= 2.
        condition: >= 1, largest over smallest eigenvalue of a named spectrum.
        eigenvalues: "log_uniform", those between the two ends drawn per problem, uniformly on a log
            scale; "geometric" or "linear", evenly spaced on a log or linear scale; or a list of N
            numbers > 0, for which `condition` means nothing.
        rotate: whether each problem has a random rotation Q; without it the Hessian is diagonal.
        init_std: > 0, theta_0 ~ N(0, init_std^2).
        shift: >= 0, c ~ N(0, shift^2) per problem.

    Raises:
        ValueError: for a value outside these ranges.

    Source: Y. Nesterov, Introductory lectures on convex optimization (2004), section 2.1, says what
    a condition number costs.
    """

    has_minimum = True
    deterministic = True

    def __init__(
        self,
        dimension: int = 10,
        condition: float = 100.0,
        eigenvalues: str | Sequence[float] = "log_uniform",
        rotate: bool = True,
        init_std: float = 1.0,
        shift: float = 1.0,
    ) -> None:
        super().__init__()
        check_positive(init_std=init_std)
        if dimension < 2:
            raise ValueError(f"dimension={dimension} must be >= 2")
        if not condition >= 1:
            raise ValueError(f"condition={condition} must be >= 1")
        if not shift >= 0:
            raise ValueError(f"shift={shift} must be >= 0")
        if isinstance(eigenvalues, str):
            check_choice("eigenvalues", eigenvalues, SHAPES)
        elif len(eigenvalues) != dimension or not all(value > 0 for value in eigenvalues):
            raise ValueError(
                f"eigenvalues={list(eigenvalues)} must be {dimension} numbers > 0, one per "
                f"dimension, or one of {', '.join(SHAPES)}"
            )
        self.dimension = dimension
        self.condition = condition
        self.eigenvalues = eigenvalues if isinstance(eigenvalues, str) else tuple(eigenvalues)
        self.rotate = rotate
        self.init_std = init_std
        self.shift = shift
        self.spec = ParamSpec.of({"theta": ((dimension,), "free")})

    def sample(self, problems: Sequence[int], seed: Seed) -> Problem:
        """Draw `root` (B, N, N), where root' root is the Hessian, and `center`, c (B, N)."""
        root = draw(seed, "spectrum", problems, self._root)
        center = draw(seed, "shift", problems, lambda rng: rng.standard_normal(self.dimension))
        data = {"root": self.place(root), "center": self.place(self.shift * center)}
        return Problem(tuple(problems), seed, data)

    def init(self, problems: Sequence[int], seed: Seed) -> Tensor:
        """Draw theta_0: (B, N)."""
        return self.gaussian_start(problems, seed, self.init_std)

    def minibatch(self, problem: Problem, step: int) -> Data:
        """The whole problem, at every step."""
        return problem.data

    def loss(self, theta: Tensor, data: Data) -> Tensor:
        """|root (theta - c)|^2 / 2."""
        return _value(theta, data)

    @torch.no_grad()
    def metrics(self, theta: Tensor, problem: Problem) -> Mapping[str, Tensor]:
        """`train_loss` and `suboptimality`, both the loss itself since the minimum is 0: (B,)."""
        exact = {name: tensor.double() for name, tensor in problem.data.items()}
        return {
            "train_loss": _value(theta, problem.data),
            "suboptimality": _value(theta.double(), exact),
        }

    def _root(self, rng: np.random.Generator) -> np.ndarray:
        """diag(sqrt(eigenvalues)) Q."""
        size = self.dimension
        values = self._values(rng.random(size - 2))
        basis = rotation(rng, size) if self.rotate else np.eye(size)
        return np.asarray(np.sqrt(values)[:, None] * basis)

    def _values(self, uniform: np.ndarray) -> np.ndarray:
        """(N,) eigenvalues; those that are random come from `uniform` (N-2,) in [0, 1)."""
        smallest = 1 / self.condition
        if self.eigenvalues == "log_uniform":
            return np.asarray(smallest ** np.concatenate([[0.0, 1.0], uniform]))
        if self.eigenvalues == "geometric":
            return np.geomspace(smallest, 1, self.dimension)
        if self.eigenvalues == "linear":
            return np.linspace(smallest, 1, self.dimension)
        return np.asarray(self.eigenvalues, dtype=np.float64)


def _value(theta: Tensor, data: Data) -> Tensor:
    """|root (theta - c)|^2 / 2 over the last axis: (..., N) -> (...)."""
    away = (theta - data["center"]).unsqueeze(-1)
    return (data["root"] @ away).squeeze(-1).square().sum(-1) / 2
