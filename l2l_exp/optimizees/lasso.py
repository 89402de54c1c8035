"""LASSO: f(theta) = ||W theta - y||^2 / 2 + l1 * |theta|_1, not differentiable where it matters."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from sklearn.linear_model import lars_path
from torch import Tensor

from l2l_exp.optimizees.base import Data, Optimizee, Problem, check_positive
from l2l_exp.optimizees.minima import Minima
from l2l_exp.optimizees.seeding import Seed, draw
from l2l_exp.optimizees.spec import ParamSpec


class Lasso(Optimizee):
    """Sparse regression on Gaussian data; deterministic, the minimum of each problem is computed.

    The subgradient of |theta_i| at 0 is taken as 0.

    Args:
        rows: m, >= 1, rows of W.
        dimension: N, >= 1, columns of W; above m no least-squares solution is unique.
        l1: lambda, > 0.
        init_std: > 0, theta_0 ~ N(0, init_std^2).

    Raises:
        ValueError: for a value outside these ranges.

    Source: Open-L2O, Chen et al. 2022, arXiv:2103.12828, whose (m, N) are (5, 10) and (25, 50) and
    whose lambda is .005; W, y ~ N(0, 1).
    """

    has_minimum = True
    deterministic = True

    def __init__(
        self, rows: int = 5, dimension: int = 10, l1: float = 0.005, init_std: float = 1.0
    ) -> None:
        super().__init__()
        check_positive(rows=rows, dimension=dimension, l1=l1, init_std=init_std)
        self.rows = rows
        self.dimension = dimension
        self.l1 = l1
        self.init_std = init_std
        self.spec = ParamSpec.of({"theta": ((dimension,), "free")})
        self._minima = Minima()

    def sample(self, problems: Sequence[int], seed: Seed) -> Problem:
        """Draw W (m, N) and y (m,) of each problem."""
        shape = (self.rows, self.dimension + 1)
        both = self.place(draw(seed, "lasso", problems, lambda rng: rng.standard_normal(shape)))
        data = {"W": both[..., : self.dimension], "y": both[..., self.dimension]}
        return Problem(tuple(problems), seed, data)

    def init(self, problems: Sequence[int], seed: Seed) -> Tensor:
        """Draw theta_0: (B, N)."""
        return self.gaussian_start(problems, seed, self.init_std)

    def minibatch(self, problem: Problem, step: int) -> Data:
        """The whole problem, at every step."""
        return problem.data

    def loss(self, theta: Tensor, data: Data) -> Tensor:
        """||W theta - y||^2 / 2 + l1 * |theta|_1."""
        return self._value(theta, data)

    @torch.no_grad()
    def metrics(self, theta: Tensor, problem: Problem) -> Mapping[str, Tensor]:
        """`train_loss`, the loss, and `suboptimality`: (B,) each."""
        exact = {name: tensor.double() for name, tensor in problem.data.items()}
        above = self._value(theta.double(), exact) - self.minimum(problem).to(theta.device)
        return {"train_loss": self._value(theta, problem.data), "suboptimality": above}

    @torch.no_grad()
    def minimum(self, problem: Problem) -> Tensor:
        """The least loss of each problem, (B,) float64, to about 1e-13; found once per problem."""

        def solve() -> Tensor:
            exact = {name: tensor.double() for name, tensor in problem.data.items()}
            return self._value(self.minimiser(problem).to(exact["y"]), exact)

        return self._minima.of(problem, self.anchor.dtype, solve)

    def minimiser(self, problem: Problem) -> Tensor:
        """A theta of least loss for each problem: (B, N) float64 on the CPU.

        By the homotopy in lambda (LARS), which ends after finitely many steps, unlike descent.
        """
        pairs = zip(problem.data["W"].double().cpu(), problem.data["y"].double().cpu(), strict=True)
        return torch.from_numpy(np.stack([self._solve(W.numpy(), y.numpy()) for W, y in pairs]))

    def _solve(self, matrix: np.ndarray, target: np.ndarray) -> np.ndarray:
        """(N,) of one problem; scikit-learn's objective is ours over the number of rows."""
        smallest = self.l1 / self.rows
        steps = 100 * (self.rows + self.dimension)
        path = lars_path(matrix, target, method="lasso", alpha_min=smallest, max_iter=steps)
        return np.asarray(path[2][:, -1])

    def _value(self, theta: Tensor, data: Data) -> Tensor:
        """The loss over the last axis: (..., N) -> (...)."""
        residual = (data["W"] @ theta.unsqueeze(-1)).squeeze(-1) - data["y"]
        return residual.square().sum(-1) / 2 + self.l1 * theta.abs().sum(-1)
