"""The width rule: shorter steps for the hidden weights of wider networks, around any rule."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from l2l_exp.optimizees.spec import ParamSpec, TensorSpec
from l2l_exp.optimizers.base import (
    LearnedOptimizer,
    Observation,
    State,
    check_bears_other_steps,
)
from l2l_exp.optimizers.baseline import at_one_rate


class WidthScaledState(NamedTuple):
    """What updates are multiplied by, and the rule's own state."""

    factor: Tensor  # (B, N) > 0
    rule: State


class WidthScaled(LearnedOptimizer):
    """A rule whose updates of hidden weights are multiplied by `base` / width.

    Weights are the tensors of kind "fc" or "conv" with two axes or more; hidden are all of them
    but the first and the last in the order of the layout, so that a network with one hidden layer
    has none. The width of such a tensor is the geometric mean of its first two axes, its inputs
    and outputs: this does not depend on which axis holds which, and grows as the inputs do where a
    whole network is widened. Everything else is updated as the rule says.

    A rule whose updates have a size of their own, as Adam's and the learned ones', changes the
    sums of a layer by as much as there are inputs; with the factor by as much whatever the width.
    So a rule that was trained through it at one width fits the others. Deviations from the source,
    which is about the network too: its output layer and its initialisation are the optimizee's.

    Args:
        rule: any rule that does not count on its own steps (`Controller.needs_own_steps`); a
            `Baseline` at one learning rate.
        base: > 0, the width with the factor 1, such as the one that is trained on.

    Raises:
        ValueError: for a value or a rule outside these ranges.

    Source: Therien et al. 2024, arXiv:2406.00153 (hidden updates times 1 / fan_in).
    """

    def __init__(self, rule: LearnedOptimizer, base: float = 32.0) -> None:
        super().__init__()
        if not 0 < base < math.inf:
            raise ValueError(f"base={base} must be a number > 0")
        check_bears_other_steps("rule", rule, "be scaled")
        self.rule = at_one_rate("rule", rule)
        self.about = dict(rule.about)
        self.base = base
        self.coupling = rule.coupling

    def factors(self, spec: ParamSpec) -> Tensor:
        """What every coordinate's update is multiplied by: (N,) float64."""
        hidden = hidden_weights(spec)
        factors = [self.base / _width(t) if t in hidden else 1.0 for t in spec.tensors]
        sizes = torch.tensor([tensor.size for tensor in spec.tensors])
        return torch.tensor(factors, dtype=torch.float64).repeat_interleave(sizes)

    def init_state(self, theta: Tensor, spec: ParamSpec) -> WidthScaledState:
        """The factors, and the rule's state."""
        factor = self.factors(spec).to(theta).expand_as(theta)
        return WidthScaledState(factor, self.rule.init_state(theta, spec))

    def step(self, seen: Observation, state: WidthScaledState) -> tuple[Tensor, WidthScaledState]:
        """The rule's update times the factors."""
        return _scaled(state, *self.rule.step(seen, state.rule))

    def step_in_place(
        self, seen: Observation, state: WidthScaledState
    ) -> tuple[Tensor, WidthScaledState]:
        """The same by the rule's step in place."""
        return _scaled(state, *self.rule.step_in_place(seen, state.rule))

    def step_trusted(
        self, seen: Observation, state: WidthScaledState, trusted: Tensor
    ) -> tuple[Tensor, WidthScaledState]:
        """The same by the rule's step that keeps a pair from its memory."""
        return _scaled(state, *self.rule.step_trusted(seen, state.rule, trusted))

    def take(self, state: WidthScaledState, index: Tensor) -> WidthScaledState:
        """Cut the factors as observations are cut, and the rule's state as it says."""
        factor = state.factor.flatten()[index].unsqueeze(-1)
        if self.coupling != "none":
            factor = state.factor[index]
        return WidthScaledState(factor, self.rule.take(state.rule, index))

    def map_problems(
        self, function: Callable[..., Tensor], *states: WidthScaledState
    ) -> WidthScaledState:
        """Of the factors every row is a problem; of the rest as the rule says."""
        factor = function(-2, *(state.factor for state in states))
        return WidthScaledState(
            factor, self.rule.map_problems(function, *(state.rule for state in states))
        )

    def told(self, state: WidthScaledState, update: Tensor) -> WidthScaledState:
        """Tell the rule what it would have had to propose."""
        return state._replace(rule=self.rule.told(state.rule, update / state.factor))

    def counts(self, state: WidthScaledState) -> Mapping[str, Tensor]:
        """What the rule has counted."""
        return self.rule.counts(state.rule)


def hidden_weights(spec: ParamSpec) -> tuple[TensorSpec, ...]:
    """The weights of a layout between the first and the last one."""
    weights = [t for t in spec.tensors if t.kind in ("fc", "conv") and len(t.shape) >= 2]
    return tuple(weights[1:-1])


def _width(tensor: TensorSpec) -> float:
    """The geometric mean of a weight's inputs and outputs."""
    return math.sqrt(tensor.shape[0] * tensor.shape[1])


def _scaled(
    state: WidthScaledState, update: Tensor, after: State
) -> tuple[Tensor, WidthScaledState]:
    """The update times the factors, and the next state."""
    return state.factor * update, state._replace(rule=after)
