"""Parameters of a torch model as one problem of a rule: flat, with the rule's state."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, NoReturn, cast

import torch
from torch import Tensor

from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers.base import LearnedOptimizer, Observation, State, map_state

Place = tuple[torch.device, torch.dtype]


class Settings(NamedTuple):
    """How the parameters of a group are stepped."""

    lr: float  # factor on the rule's update
    weight_decay: float  # decoupled, times lr
    maximize: bool


class Proposal(NamedTuple):
    """A step that is not taken yet."""

    change: Tensor  # (1, N) of theta
    theta: Tensor  # (1, N) with the change
    state: State


class UnknownHorizon:
    """In place of a horizon that nobody has told: whatever computes with it is refused."""

    def _refuse(self, *_: object) -> NoReturn:
        raise ValueError(
            "the rule reads the horizon, which its checkpoint does not tell: give horizon=, the "
            "number of steps of the whole run"
        )

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _refuse
    __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = _refuse
    __lt__ = __le__ = __gt__ = __ge__ = __index__ = __int__ = __float__ = _refuse


@dataclass(eq=False)
class FlatProblem:
    """Parameters laid out one after the other, B = 1, and what the rule knows of them.

    Arithmetic is in float64 if any of the parameters is, else in float32, on the device of the
    first of them. Coordinates of an elementwise rule are problems of their own, (N, 1), so that
    those without a gradient can be left out exactly.

    Attributes:
        parameters: in the order of the layout.
        spec: the layout, N coordinates.
        rule: a copy of its own, which moves with the parameters.
        steps: taken so far; the rule's state and its count of steps begin together.
        state: the rule's, None before the first step.
        place: where the arithmetic is done, and in which dtype.
    """

    parameters: list[Tensor]
    spec: ParamSpec
    rule: LearnedOptimizer
    place: Place
    steps: int = 0
    state: State = None

    @classmethod
    def of(
        cls, parameters: Sequence[Tensor], spec: ParamSpec, rule: LearnedOptimizer
    ) -> "FlatProblem":
        """Nothing seen yet."""
        place = place_of(parameters)
        return cls(list(parameters), spec, copy.deepcopy(rule).to(*place), place)

    def gradient(self, active: Mapping[Tensor, Settings]) -> Tensor:
        """What is to be descended, 0 for parameters that are not active: (1, N)."""
        parts = []
        for parameter in self.parameters:
            grad = parameter.grad
            if parameter not in active or grad is None:
                grad = torch.zeros_like(parameter)
            elif active[parameter].maximize:
                grad = -grad
            parts.append(grad)
        return self._flat(parts)

    def propose(
        self,
        grad: Tensor,
        active: Mapping[Tensor, Settings],
        loss: Tensor | float,
        horizon: int | None,
    ) -> Proposal:
        """The rule's step, nothing of which is taken.

        Args:
            grad: (1, N), from `gradient`.
            active: those that are to move, with their settings.
            loss: at theta, NaN where it is not known.
            horizon: steps of the whole run, None where it is not known.
        """
        theta = self._flat([p.detach() for p in self.parameters])
        steps = self.rule.step if self.state is None else self.rule.step_in_place
        before = self.started(theta) if self.state is None else self.state
        whole = all(p in active for p in self.parameters)
        apart = self.rule.coupling == "none"
        if apart and not whole:
            steps = self.rule.step  # what it knew of the others is needed afterwards
        seen = Observation(
            grad, theta, torch.as_tensor(loss).detach().to(theta).reshape(1), self.steps,
            cast(int, UnknownHorizon()) if horizon is None else horizon, self.spec,
        )  # fmt: skip
        if apart:
            seen = _one_by_one(seen)
        with torch.autocast(theta.device.type, enabled=False):
            update, state = steps(seen, before)
            change = self._change(update.view_as(theta), theta, active)
            state = self.rule.told(state, change.view_as(update))
            if apart and not whole:
                state = self.rule.select(self._moving(active, theta), state, before)
        return Proposal(change, theta + change, state)

    def take(self, proposal: Proposal, active: Mapping[Tensor, Settings]) -> None:
        """Take a step: parameters that are not active are not written to."""
        tensors = self.spec.unflatten(proposal.theta[0])
        for parameter, value in zip(self.parameters, tensors.values(), strict=True):
            if parameter in active:
                parameter.copy_(value)
        self.state, self.steps = proposal.state, self.steps + 1

    def started(self, theta: Tensor) -> State:
        """The state before the first step at theta (1, N)."""
        state = self.rule.init_state(theta, self.spec)
        if self.rule.coupling != "none":
            return state
        return self.rule.take(state, torch.arange(self.spec.size, device=theta.device))

    def _flat(self, tensors: Sequence[Tensor]) -> Tensor:
        """One tensor per parameter -> (1, N), a copy."""
        device, dtype = self.place
        return torch.cat([x.reshape(-1).to(device, dtype) for x in tensors]).unsqueeze(0)

    def follow(self) -> None:
        """Move to where the parameters are, whose device or dtype their owner may have changed."""
        place = place_of(self.parameters)
        if place == self.place:
            return
        self.place = place
        self.rule.to(*place)
        if self.state is not None:
            self.state = map_state(lambda x: x.to(*place), self.state)

    def _change(self, update: Tensor, theta: Tensor, active: Mapping[Tensor, Settings]) -> Tensor:
        """lr * (update - weight_decay * theta), 0 for parameters that are not active: (1, N)."""
        parts = []
        for parameter, tensor in zip(self.parameters, self.spec.tensors, strict=True):
            part = update[:, tensor.slice]
            if parameter not in active:
                parts.append(torch.zeros_like(part))
                continue
            settings = active[parameter]
            if settings.weight_decay:
                part = part - settings.weight_decay * theta[:, tensor.slice]
            parts.append(settings.lr * part)
        return torch.cat(parts, -1)

    def _moving(self, active: Mapping[Tensor, Settings], like: Tensor) -> Tensor:
        """Which coordinates are of active parameters: (N,) bool."""
        parts = [like.new_full(p.shape, p in active, dtype=torch.bool) for p in self.parameters]
        return torch.cat([part.reshape(-1) for part in parts])


def place_of(parameters: Sequence[Tensor]) -> Place:
    """The device of the first, and float64 if any of them is, else float32."""
    double = any(parameter.dtype == torch.float64 for parameter in parameters)
    return parameters[0].device, torch.float64 if double else torch.float32


def _one_by_one(seen: Observation) -> Observation:
    """Every coordinate as a problem of its own: (1, N) -> (N, 1)."""
    return seen._replace(
        grad=seen.grad.view(-1, 1),
        theta=seen.theta.view(-1, 1),
        loss=seen.loss.expand(seen.grad.numel()),
    )
