"""The interface of an update rule, and the record of what it sees."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from l2l_exp.optimizees.spec import ParamSpec

State = Any
"""A NamedTuple whose fields are tensors, or tuples or dicts of tensors (nested at will)."""

Coupling = Literal["none", "tensor", "problem"]


class Observation(NamedTuple):
    """What a rule sees at one inner step. B problems, N coordinates each."""

    grad: Tensor  # (B, N) gradient of the minibatch loss at theta
    theta: Tensor  # (B, N)
    loss: Tensor  # (B,) minibatch loss at theta
    step: int  # inner steps taken so far, >= 0
    horizon: int  # inner steps of the whole episode, >= 1
    spec: ParamSpec  # layout of the N coordinates

    def take(self, index: Tensor, coupling: Coupling) -> "Observation":
        """Restrict to some units that do not talk to each other.

        Args:
            index: (n,) int64. Coupling "none": flat coordinates in [0, B*N), each of which becomes
                a problem of one coordinate, (n, 1). Otherwise: problems in [0, B).
            coupling: the rule's.

        Returns:
            The same observation of those units; `spec` still describes the whole problem.
        """
        if coupling == "none":
            problem = index.div(self.grad.shape[-1], rounding_mode="floor")
            grad, theta = (x.flatten()[index].unsqueeze(-1) for x in (self.grad, self.theta))
            return self._replace(grad=grad, theta=theta, loss=self.loss[problem])
        return self._replace(grad=self.grad[index], theta=self.theta[index], loss=self.loss[index])

    def detach(self) -> "Observation":
        """The same values, as constants."""
        return self._replace(
            grad=self.grad.detach(), theta=self.theta.detach(), loss=self.loss.detach()
        )


class LearnedOptimizer(nn.Module, ABC):
    """An update rule whose `parameters()` are the meta-parameters.

    Sign convention, here and everywhere: theta_{t+1} = theta_t + update_t (paper, section 1).

    Attributes:
        coupling: which coordinates talk to each other: "none", those of one "tensor", or all of
            one "problem". Problems never do.
        architecture: what a checkpoint needs to rebuild the rule: `_target_`, the import path of
            its class, and the class's arguments, nested where one is a module itself.
        about: where a rule that was read from a checkpoint comes from; empty for others.
    """

    coupling: Coupling = "none"
    architecture: Mapping[str, Any] | None = None
    about: Mapping[str, Any] = MappingProxyType({})

    @abstractmethod
    def init_state(self, theta: Tensor, spec: ParamSpec) -> State:
        """Make the state before the first step.

        Args:
            theta: (B, N) starting points; gives shape, device and dtype.
            spec: layout of the N coordinates.
        """

    @abstractmethod
    def step(self, seen: Observation, state: State) -> tuple[Tensor, State]:
        """Propose the additive update (B, N), and the next state. No argument is modified."""

    def step_in_place(self, seen: Observation, state: State) -> tuple[Tensor, State]:
        """The same step for where `state` is not needed afterwards: it may be overwritten.

        For large problems fresh memory at every step costs about a third of the time. Without a
        graph only; a rule that has nothing to gain keeps this default, the step itself.

        Args:
            seen: as for `step`, not modified.
            state: what `step` or `step_in_place` returned, never what `init_state` did. What
                `step` hands on from the state before must not be overwritten.
        """
        return self.step(seen, state)

    def take(self, state: State, index: Tensor) -> State:
        """Restrict a state as `Observation.take` restricts an observation.

        For coupling "none" this default serves states whose every tensor ends in the axes (B, N);
        a rule with another layout overrides it, or `map_problems` where it couples coordinates.
        """
        if self.coupling == "none":
            return map_state(lambda x: x.flatten(-2)[..., index].unsqueeze(-1), state)
        return self.map_problems(lambda axis, x: x.index_select(axis, index), state)

    def map_problems(self, function: Callable[..., Tensor], *states: State) -> State:
        """Apply `function(axis, tensor, ...)` to states tensor by tensor; `axis` has the problems.

        This default serves states whose every tensor ends in the axes (B, N); a rule with another
        layout overrides it.

        Args:
            function: is told which axis of its tensors counts the problems.
            states: of this rule, all of the same problems.
        """
        return map_state(partial(function, -2), *states)

    def select(self, where: Tensor, state: State, other: State) -> State:
        """`state` in the problems that `where` (B,) names, `other` elsewhere."""
        return self.map_problems(partial(choose, where), state, other)

    def step_trusted(
        self, seen: Observation, state: State, trusted: Tensor
    ) -> tuple[Tensor, State]:
        """The step, where pairs of problems that are not trusted stay out of the rule's memory.

        The pair is what theta and the gradient have changed by since the last observation. This
        default, for rules that it knows nothing of, keeps the whole old state of these problems;
        a rule with a memory of pairs overrides it to keep no more than that out.

        Args:
            seen, state: as for `step`.
            trusted: (B,) bool.
        """
        update, after = self.step(seen, state)
        return update, self.select(trusted, after, state)

    def told(self, state: State, update: Tensor) -> State:
        """The state after a step whose update was replaced by `update` (B, N).

        For rules that keep their last update; this default is for those that do not.
        """
        return state

    def counts(self, state: State) -> Mapping[str, Tensor]:
        """What the rule has counted in an episode, by name: (B,) each. None by default."""
        return {}


def check_bears_other_steps(name: str, rule: LearnedOptimizer, what: str) -> None:
    """Raise ValueError for a rule that counts on theta moving by the update that it emits.

    Args:
        name: the argument that it is, for the message.
        rule: any rule; it or a part of it says so by `needs_own_steps` (`Controller`).
        what: it cannot do.
    """
    for part in rule.modules():
        if getattr(part, "needs_own_steps", False):
            raise ValueError(
                f"{name}={type(part).__name__} cannot {what}: it counts on its own steps"
            )


def choose(where: Tensor, axis: int, one: Tensor, other: Tensor) -> Tensor:
    """`one` where `where` (B,) holds along an axis of B, `other` elsewhere."""
    shape = [1] * one.dim()
    shape[axis] = -1
    return torch.where(where.view(shape), one, other)


def map_state(function: Callable[..., Tensor], state: State, *others: State) -> State:
    """Apply `function` to every tensor of a state, and to those of others of its structure."""
    if isinstance(state, Tensor):
        return function(state, *others)
    if isinstance(state, dict):
        return {key: map_state(function, state[key], *(x[key] for x in others)) for key in state}
    parts = [map_state(function, *values) for values in zip(state, *others, strict=True)]
    return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)


def state_tensors(state: State) -> list[Tensor]:
    """Every tensor of a state, in order."""
    if isinstance(state, Tensor):
        return [state]
    parts = state.values() if isinstance(state, dict) else state
    return [tensor for part in parts for tensor in state_tensors(part)]
