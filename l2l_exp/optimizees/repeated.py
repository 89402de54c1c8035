"""Every problem several times over, on the same draws: a whole grid of settings in one run."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from l2l_exp.optimizees.base import Data, Optimizee, Problem
from l2l_exp.optimizees.seeding import Seed


class Repeated(Optimizee):
    """Optimize `copies` thetas per problem; row g*B + b is copy g of problem b.

    The draws are made once per problem, so that all copies start at the same theta_0 and meet the
    same minibatches. A `Problem` still has B members, theta has copies*B rows.

    Args:
        inner: the optimizee.
        copies: G >= 1.
    """

    def __init__(self, inner: Optimizee, copies: int) -> None:
        super().__init__()
        if copies < 1:
            raise ValueError(f"copies={copies} must be >= 1")
        self.inner = inner
        self.copies = copies
        self.spec = inner.spec
        self.batching = inner.batching
        self.has_held_out = inner.has_held_out
        self.has_minimum = inner.has_minimum
        self.deterministic = inner.deterministic
        self.to(inner.anchor.device, inner.anchor.dtype)

    def sample(self, problems: Sequence[int], seed: Seed) -> Problem:
        """The inner problems, once each."""
        return self.inner.sample(problems, seed)

    def init(self, problems: Sequence[int], seed: Seed) -> Tensor:
        """(G*B, N): the same starting point for every copy of a problem."""
        return self.inner.init(problems, seed).repeat(self.copies, 1)

    def minibatch(self, problem: Problem, step: int) -> Data:
        """Tensors (G*B, ...): the same minibatch for every copy of a problem."""
        return {
            name: tensor.repeat(self.copies, *[1] * (tensor.dim() - 1))
            for name, tensor in self.inner.minibatch(problem, step).items()
        }

    def loss(self, theta: Tensor, data: Data) -> Tensor:
        """The inner loss."""
        return self.inner.loss(theta, data)

    def metrics(self, theta: Tensor, problem: Problem) -> Mapping[str, Tensor]:
        """(G*B,) each."""
        parts = [self.inner.metrics(copy, problem) for copy in theta.chunk(self.copies)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
