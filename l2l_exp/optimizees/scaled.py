"""Random scaling: the same problems in other units, a simple augmentation of training."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from l2l_exp.optimizees.base import Data, Optimizee, Problem, check_choice, check_positive
from l2l_exp.optimizees.seeding import Seed, draw

UNITS = ("problem", "tensor", "coordinate")
FACTORS = "scaling"
"""Name of the factors among a problem's data."""


class Scaled(Optimizee):
    """Optimize f(c * theta) from theta_0 / c, with positive factors c drawn once per problem.

    c = exp(u), u ~ U(-scale, scale), one for the whole problem, for every tensor or for every
    coordinate. Losses and metrics are those of the inner problem at c * theta, so that they start
    where the inner ones do; gradients are c times, and steps must be 1 / c times as long.

    Args:
        inner: the optimizee; its buffers are shared.
        per: what has a factor of its own, one of `UNITS`.
        scale: > 0, L, the largest logarithm of a factor (the source has 3 for networks, 1 for its
            convex helper).

    Raises:
        ValueError: for a value outside these ranges, or if `inner` is scaled already.

    Source: Lv, Jiang, Li 2017, arXiv:1703.03633 (a factor per coordinate).
    """

    def __init__(self, inner: Optimizee, per: str = "coordinate", scale: float = 1.0) -> None:
        super().__init__()
        check_choice("per", per, UNITS)
        check_positive(scale=scale)
        if isinstance(inner, Scaled):
            raise ValueError("the optimizee is scaled already: choose one scaling")
        self.inner = inner
        self.per = per
        self.scale = scale
        self.spec = inner.spec
        self.batching = inner.batching
        self.has_held_out = inner.has_held_out
        self.has_minimum = inner.has_minimum
        self.deterministic = inner.deterministic
        self.to(inner.anchor.device, inner.anchor.dtype)

    @property
    def sources(self) -> tuple[object, ...]:
        """The wrapper's, and the inner ones."""
        return (type(self), *self.inner.sources)

    def sample(self, problems: Sequence[int], seed: Seed) -> Problem:
        """The inner problems, and their factors (B, N)."""
        problem = self.inner.sample(problems, seed)
        return Problem(
            problem.index, problem.seed, {**problem.data, FACTORS: self._factors(problems, seed)}
        )

    def init(self, problems: Sequence[int], seed: Seed) -> Tensor:
        """theta_0 / c: (B, N)."""
        return self.inner.init(problems, seed) / self._factors(problems, seed)

    def minibatch(self, problem: Problem, step: int) -> Data:
        """What the inner problem sees, and the factors (B, N)."""
        seen = self.inner.minibatch(_inside(problem), step)
        return {**seen, FACTORS: problem.data[FACTORS]}

    def loss(self, theta: Tensor, data: Data) -> Tensor:
        """f(c * theta)."""
        inside = {name: tensor for name, tensor in data.items() if name != FACTORS}
        return self.inner.loss(data[FACTORS] * theta, inside)

    def metrics(self, theta: Tensor, problem: Problem) -> Mapping[str, Tensor]:
        """The inner problem's at c * theta."""
        return self.inner.metrics(problem.data[FACTORS] * theta, _inside(problem))

    def _factors(self, problems: Sequence[int], seed: Seed) -> Tensor:
        """Draw c: (B, N)."""
        counts = {"problem": 1, "tensor": len(self.spec.tensors), "coordinate": self.spec.size}
        drawn = draw(
            seed, FACTORS, problems,
            lambda rng: rng.uniform(-self.scale, self.scale, counts[self.per]),
        )  # fmt: skip
        if self.per == "tensor":
            sizes = torch.tensor([tensor.size for tensor in self.spec.tensors])
            drawn = drawn.repeat_interleave(sizes, dim=1)
        return self.place(drawn.exp().expand(-1, self.spec.size))


def _inside(problem: Problem) -> Problem:
    """The inner problem of a scaled one."""
    data = {name: tensor for name, tensor in problem.data.items() if name != FACTORS}
    return Problem(problem.index, problem.seed, data)
