"""Regularised logistic regression on real data, whose minimum is known to the last digits."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from sklearn.datasets import load_breast_cancer
from torch import Tensor

from l2l_exp.optimizees.base import Data, Optimizee, Problem, check_positive
from l2l_exp.optimizees.images import split_images
from l2l_exp.optimizees.minima import Minima
from l2l_exp.optimizees.seeding import SPLITS, Seed, Split, draw
from l2l_exp.optimizees.spec import ParamSpec

NEWTON_STEPS, HALVINGS, CONVERGED = 100, 40, 1e-24
"""Most steps, most times that one is halved, and the expected decrease at which they end."""


class Logistic(Optimizee):
    """Mean of log(1 + exp(-y_i (w.x_i + b))) over breast-cancer cases, plus l2 / 2 * |theta|^2.

    The 569 cases are dealt out to three splits, and a quarter of each split is held out. Problems
    differ in theta_0 and in which cases of the split's training part they are given. The 30
    measurements are standardised by mean and deviation of the split's own training part. The bias
    is a coordinate like others: regularised, so that every problem has one minimum.

    Args:
        cases: >= 2, of a problem, drawn without replacement from its split's training part.
        l2: > 0.
        batch_size: D, >= 1, cases per inner step, drawn with replacement from the problem's; None:
            all of them at every step.
        init_std: > 0, theta_0 ~ N(0, init_std^2).
        split_seed: of the split, not the meta-seed.
        held_out_fraction: in (0, 1), of each split's cases.

    Raises:
        ValueError: for a value outside these ranges.

    Source: W. N. Street, W. H. Wolberg, O. L. Mangasarian, Nuclear feature extraction for breast
    tumor diagnosis (1993); the data come with scikit-learn.
    """

    has_held_out = True
    has_minimum = True

    def __init__(
        self,
        cases: int = 100,
        l2: float = 1e-2,
        batch_size: int | None = None,
        init_std: float = 1.0,
        split_seed: int = 0,
        held_out_fraction: float = 0.25,
    ) -> None:
        super().__init__()
        check_positive(l2=l2, init_std=init_std)
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be >= 1, or null for all cases")
        self.cases = cases
        self.l2 = l2
        self.batch_size = batch_size
        self.deterministic = batch_size is None
        self.init_std = init_std
        bunch = load_breast_cancer()
        labels = torch.from_numpy(bunch.target).long()
        parts = split_images(labels, seed=split_seed, held_out_fraction=held_out_fraction)
        fewest = min(len(part.train) for part in parts.values())
        if not 2 <= cases <= fewest:
            raise ValueError(
                f"cases={cases} must be in [2, {fewest}], the cases of a split's training part"
            )
        features = torch.from_numpy(bunch.data)
        for name in SPLITS:
            whole = torch.cat(parts[name])
            seen = features[parts[name].train]
            features[whole] = (features[whole] - seen.mean(0)) / seen.std(0, correction=0)
            self.register_buffer(f"{name}_part", parts[name].train)
            self.register_buffer(f"{name}_held_out", parts[name].held_out)
        ones = torch.ones(len(features), 1)
        self.register_buffer("x", torch.cat([features.float(), ones], 1))  # (P, 31)
        self.register_buffer("y", 2.0 * labels - 1)  # (P,) in {-1, 1}
        self.spec = ParamSpec.of({"weight": ((30, 1), "fc"), "bias": ((1,), "bias")})
        self._minima = Minima()

    def sample(self, problems: Sequence[int], seed: Seed) -> Problem:
        """Draw the cases of each problem: their indices (B, cases)."""
        part = self.part(seed.split)
        drawn = draw(seed, "cases", problems, lambda rng: rng.permutation(len(part))[: self.cases])
        return Problem(tuple(problems), seed, {"cases": part[drawn.to(part.device)]})

    def init(self, problems: Sequence[int], seed: Seed) -> Tensor:
        """Draw theta_0: (B, N)."""
        return self.gaussian_start(problems, seed, self.init_std)

    def minibatch(self, problem: Problem, step: int) -> Data:
        """All cases of each problem, or some of them: indices (B, D)."""
        size = self.batch_size
        if size is None:
            return problem.data
        drawn = draw(
            problem.seed, "minibatch", problem.index,
            lambda rng: rng.integers(0, self.cases, size), step=step,
        )  # fmt: skip
        cases = problem.data["cases"]
        return {"cases": cases.gather(1, drawn.to(cases.device))}

    def loss(self, theta: Tensor, data: Data) -> Tensor:
        """Mean logistic loss of one problem's cases, and the penalty."""
        x, y = self.get_buffer("x")[data["cases"]], self.get_buffer("y")[data["cases"]]
        return -F.logsigmoid(y * (x @ theta)).mean() + self.l2 / 2 * theta.square().sum()

    def part(self, split: Split, *, held_out: bool = False) -> Tensor:
        """Indices of a split's training cases, or of its held-out ones."""
        return self.get_buffer(f"{split}_held_out" if held_out else f"{split}_part")

    @torch.no_grad()
    def metrics(self, theta: Tensor, problem: Problem) -> Mapping[str, Tensor]:
        """(B,) each: `train_loss` and `suboptimality` with the penalty; held out without it.

        `held_out_loss` and `held_out_accuracy` are those of the split's held-out cases.
        """
        margins = self._margins(theta, self.part(problem.seed.split, held_out=True))
        train_loss = self._value(theta.double(), problem)
        return {
            "train_loss": train_loss.to(theta),
            "held_out_loss": -F.logsigmoid(margins).mean(1),
            "held_out_accuracy": (margins > 0).to(theta.dtype).mean(1),
            "suboptimality": train_loss - self.minimum(problem).to(theta.device),
        }

    @torch.no_grad()
    def minimum(self, problem: Problem) -> Tensor:
        """The least loss of each problem, (B,) float64; found once per problem."""

        def solve() -> Tensor:
            return self._value(self.minimiser(problem), problem)

        return self._minima.of(problem, self.anchor.dtype, solve)

    @torch.no_grad()
    def minimiser(self, problem: Problem) -> Tensor:
        """The theta of least loss of each problem, (B, N) float64, by Newton's method from 0."""
        cases = problem.data["cases"]
        x = self.get_buffer("x").double()[cases]  # (B, cases, N)
        y = self.get_buffer("y").double()[cases]
        theta = x.new_zeros(problem.size, self.spec.size)
        for _ in range(NEWTON_STEPS):
            step, decrement = self._newton(theta, x, y)
            if bool((decrement <= CONVERGED).all()):
                break
            before, length = self._value(theta, problem), torch.ones_like(decrement)
            for _ in range(HALVINGS):
                moved = theta - length.unsqueeze(1) * step
                worse = self._value(moved, problem) > before
                if not bool(worse.any()):
                    break
                length = torch.where(worse, length / 2, length)
            theta = moved
        return theta

    def _newton(self, theta: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Newton's step (B, N) at theta, and twice the decrease (B,) that it expects."""
        margins = y * (x @ theta.unsqueeze(-1)).squeeze(-1)
        slope = -y * torch.sigmoid(-margins) / self.cases
        grad = (slope.unsqueeze(1) @ x).squeeze(1) + self.l2 * theta
        curvature = torch.sigmoid(margins) * torch.sigmoid(-margins) / self.cases
        hessian = x.transpose(1, 2) @ (curvature.unsqueeze(-1) * x)
        hessian = hessian + self.l2 * torch.eye(self.spec.size).to(x)
        step = torch.linalg.solve(hessian, grad)
        return step, (grad * step).sum(1)

    def _value(self, theta: Tensor, problem: Problem) -> Tensor:
        """The loss (B,) on all cases of each problem, in float64."""
        cases = problem.data["cases"]
        x, y = self.get_buffer("x").double()[cases], self.get_buffer("y").double()[cases]
        margins = y * (x @ theta.unsqueeze(-1)).squeeze(-1)
        return -F.logsigmoid(margins).mean(1) + self.l2 / 2 * theta.square().sum(1)

    def _margins(self, theta: Tensor, cases: Tensor) -> Tensor:
        """y z (B, P) of every theta (B, N) on the same cases; right where above 0."""
        return (theta @ self.get_buffer("x")[cases].T) * self.get_buffer("y")[cases]
