"""The interface of an optimizee: a distribution over problems, as pure functions."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from l2l_exp.optimizees.seeding import Seed, draw
from l2l_exp.optimizees.spec import ParamSpec

Batching = Literal["vmap", "loop"]

Data = Mapping[str, Tensor]
"""What `loss` sees: named tensors. With a leading axis B where several problems are meant."""


@dataclass(frozen=True)
class Problem:
    """B problems: who they are, and their fixed data."""

    index: tuple[int, ...]  # B indices, each >= 0
    seed: Seed
    data: Data  # (B, ...) each; per-problem tensors only, shared data are buffers of the optimizee

    @property
    def size(self) -> int:
        """B, the number of problems."""
        return len(self.index)


class Optimizee(nn.Module, ABC):
    """A distribution over problems that share a parameter layout.

    Problem k is a function of (split, seed, k) alone: whatever batch it is drawn in, it is the
    same. Data shared by all problems are buffers, so that `.to(device, dtype)` moves them.
    Random draws are made on the CPU and then moved.

    Attributes:
        spec: layout of theta.
        batching: how `loss` and its gradient are taken over B problems: in one `vmap`, or one
            after the other (faster on a CPU where one problem fills the cores, e.g. conv nets).
        has_held_out: whether `metrics` reports `held_out_loss`.
        has_minimum: whether the minimum of `train_loss` is known, and `metrics` reports how far
            above it theta is.
        deterministic: whether every inner step sees the same loss, that of `train_loss`.
    """

    spec: ParamSpec
    batching: Batching = "vmap"
    has_held_out: bool = False
    has_minimum: bool = False
    deterministic: bool = False

    def __init__(self) -> None:
        """Register the tensor that carries device and dtype."""
        super().__init__()
        self.register_buffer("_anchor", torch.empty(0), persistent=False)

    @property
    def anchor(self) -> Tensor:
        """An empty tensor on the optimizee's device and of its dtype."""
        return self.get_buffer("_anchor")

    @property
    def sources(self) -> tuple[object, ...]:
        """What the draws and the loss come from, beside the config: classes, functions, hashes.

        Learning rates that were tuned before are used again while the files of these are the same.
        """
        return (type(self),)

    def place(self, tensor: Tensor) -> Tensor:
        """Move a drawn tensor to the optimizee's device; floating-point ones to its dtype too."""
        return (
            tensor.to(self.anchor) if tensor.is_floating_point() else tensor.to(self.anchor.device)
        )

    def gaussian_start(self, problems: Sequence[int], seed: Seed, std: float) -> Tensor:
        """Draw theta_0 ~ N(0, std^2): (B, N)."""
        normal = draw(seed, "init", problems, lambda rng: rng.standard_normal(self.spec.size))
        return self.place(std * normal)

    @abstractmethod
    def sample(self, problems: Sequence[int], seed: Seed) -> Problem:
        """Draw the fixed data of these problem indices."""

    @abstractmethod
    def init(self, problems: Sequence[int], seed: Seed) -> Tensor:
        """Draw the starting points theta_0: (B, N)."""

    @abstractmethod
    def minibatch(self, problem: Problem, step: int) -> Data:
        """What inner step `step` sees of each problem: tensors (B, ...)."""

    @abstractmethod
    def loss(self, theta: Tensor, data: Data) -> Tensor:
        """Loss of ONE problem at theta (N,) on its data (no leading axis): scalar, differentiable.

        Must be traceable by `torch.func.vmap` unless `batching` is "loop".
        """

    @abstractmethod
    def metrics(self, theta: Tensor, problem: Problem) -> Mapping[str, Tensor]:
        """Measure theta (B, N) beyond its minibatch, without gradient.

        Returns:
            (B,) each: `train_loss`, the loss on the problem's whole training part; with
            `has_held_out` also `held_out_loss`; where it makes sense `held_out_accuracy` in [0, 1];
            with `has_minimum` also `suboptimality`, the loss on the training part minus its
            minimum, in float64 whatever theta's dtype is.
        """


class VisibleOptimizee(Optimizee):
    """An optimizee whose theta can be looked at: an evaluation draws a few of its problems."""

    @abstractmethod
    def pictures(self, theta: Tensor) -> Tensor:
        """What theta (B, N) looks like: (B, 3, height, width) in [0, 1]."""

    @abstractmethod
    def references(self, problem: Problem) -> Mapping[str, Tensor]:
        """What to look at beside it: name -> (B, 3, height, width) in [0, 1]."""


def check_positive(**values: float) -> None:
    """Raise ValueError for the first value that is not above zero, by name."""
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name}={value} must be > 0")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise ValueError if `value` is not one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name}={value!r} must be one of {', '.join(choices)}")
