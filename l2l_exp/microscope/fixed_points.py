"""Where the state of a coordinatewise rule comes to rest, and how fast it returns there."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from l2l_exp.evaluation import Floats
from l2l_exp.microscope.probe import in_double
from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers.base import LearnedOptimizer, Observation, State, map_state, state_tensors
from l2l_exp.optimizers.baseline import at_one_rate
from l2l_exp.optimizers.partitioned import Partitioned

NUDGE = 1e-6
"""Of a component, over its size or 1: for central differences in float64."""


@dataclass(frozen=True)
class FixedPoint:
    """A state that a constant gradient leaves as it is, and the linear map about it.

    Attributes:
        gradient: the constant one.
        state: (D,) components of the state of one coordinate; counters of steps are left out.
        update: that the rule makes there: its drift, where the gradient is 0.
        change: the largest change of a component in the last step.
        settled: whether that is within the tolerance. If not, `state` is no fixed point.
        steps: taken from the zero state.
        jacobian: (D, D) of the next state in this one.
    """

    gradient: float
    state: Floats
    update: float
    change: float
    settled: bool
    steps: int
    jacobian: Floats

    @property
    def eigenvalues(self) -> npt.NDArray[np.complex128]:
        """(D,) of the Jacobian, the largest modulus first."""
        values = np.linalg.eigvals(self.jacobian).astype(np.complex128)
        return values[np.argsort(-np.abs(values), kind="stable")]

    @property
    def time_constants(self) -> Floats:
        """(D,) steps in which a mode falls to 1/e, slowest first; infinite where it does not."""
        size = np.abs(self.eigenvalues)
        with np.errstate(divide="ignore"):
            return np.where(size < 1, -1 / np.log(np.minimum(size, 1)), np.inf)


@torch.no_grad()
def fixed_point(
    rule: LearnedOptimizer,
    gradient: float = 0.0,
    most_steps: int = 10_000,
    tolerance: float = 1e-9,
    time: tuple[int, int] = (0, 100),
) -> FixedPoint:
    """Iterate the state of a coordinate under a constant gradient, and differentiate its map.

    Args:
        rule: whose coordinates do not talk to each other; a baseline at one learning rate. It is
            run in float64.
        gradient: finite.
        most_steps: >= 2; the iteration ends there if it has not come to rest.
        tolerance: > 0, a state that changes by no more has come to rest.
        time: step and horizon that the rule is told throughout.

    Raises:
        ValueError: for a rule that couples coordinates, or has parts, or keeps in its state
            something else than numbers per coordinate, and for values out of range.
    """
    _check(rule, gradient, most_steps, tolerance)
    rule = in_double(at_one_rate("rule", rule))
    walk = _Walk(rule, gradient, time)
    state, steps, change = walk.rest(most_steps, tolerance)
    components, jacobian = walk.linear(state)
    update = walk.step(state)[1]
    return FixedPoint(gradient, components, update, change, change <= tolerance, steps, jacobian)


class _Walk:
    """The map from state to state of one coordinate, at a constant gradient."""

    def __init__(self, rule: LearnedOptimizer, gradient: float, time: tuple[int, int]) -> None:
        self.rule, self.gradient, self.time = rule, gradient, time
        self.spec = ParamSpec.of({"theta": ((1,), "free")})

    def seen(self, count: int) -> Observation:
        """What `count` equal coordinates see, each a problem of its own."""
        grad = torch.full((count, 1), self.gradient, dtype=torch.float64)
        step, horizon = self.time
        loss = torch.zeros(count, dtype=torch.float64)
        return Observation(grad, torch.zeros_like(grad), loss, step, horizon, self.spec)

    def start(self) -> State:
        """The state after a first step, which may give it its form."""
        state = self.rule.init_state(self.seen(1).theta, self.spec)
        return self.rule.step(self.seen(1), state)[1]

    def rest(self, most_steps: int, tolerance: float) -> tuple[State, int, float]:
        """The state that the walk ends in, after how many steps, and its last change."""
        state, change, steps = self.start(), np.inf, 1
        while change > tolerance and steps < most_steps:
            after, _ = self.step(state)
            change = self.change(state, after)
            state, steps = after, steps + 1
        return state, steps, change

    def step(self, state: State) -> tuple[State, float]:
        """The next state, and the update."""
        update, after = self.rule.step(self.seen(1), state)
        return after, update.item()

    def change(self, before: State, after: State) -> float:
        """The largest change of what is no counter."""
        difference = (_packed(after) - _packed(before)).abs()
        difference[difference == 1] = 0.0
        return float(difference.max()) if len(difference) else 0.0

    def linear(self, state: State) -> tuple[Floats, Floats]:
        """Components (D,) that are no counters, and the Jacobian (D, D) by central differences."""
        here = _packed(state)  # (D, 1)
        moving = ((_packed(self.step(state)[0]) - here) != 1)[:, 0]
        nudges = torch.diag((NUDGE * here.abs().clamp_min(1))[:, 0])
        both = torch.cat([here + nudges, here - nudges], dim=1)  # (D, 2 D)
        if not len(here):
            return np.zeros(0), np.zeros((0, 0))
        count = both.shape[1]
        copies = self.rule.take(state, torch.zeros(count, dtype=torch.int64))
        after = _packed(self.rule.step(self.seen(count), _unpacked(copies, both))[1])
        above, below = after.chunk(2, dim=1)
        jacobian = (above - below) / (2 * nudges.diag())
        return here[moving, 0].numpy(), jacobian[moving][:, moving].numpy()


def _check(rule: LearnedOptimizer, gradient: float, most_steps: int, tolerance: float) -> None:
    """Raise ValueError for what cannot be looked at."""
    name = type(rule).__name__
    if rule.coupling != "none":
        raise ValueError(
            f"{name} couples the coordinates of a {rule.coupling}: fixed points are those of rules "
            f"of single coordinates, as lstm, gru, rnnprop"
        )
    if isinstance(rule, Partitioned):
        raise ValueError(f"{name} has a rule for every part: give one of {', '.join(rule.rules)}")
    if not np.isfinite(gradient) or most_steps < 2 or not tolerance > 0:
        raise ValueError(
            f"gradient={gradient} must be finite, most_steps={most_steps} >= 2, tolerance="
            f"{tolerance} > 0"
        )


def _packed(state: State) -> Tensor:
    """A state of P problems of one coordinate as (D, P); what all coordinates share is left out."""
    parts = [x for x in state_tensors(state) if x.dim()]
    for part in parts:
        if part.dim() < 2 or part.shape[-1] != 1 or not part.is_floating_point():
            raise ValueError(
                f"a state with a tensor of shape {tuple(part.shape)} and {part.dtype} is not one "
                f"of numbers per coordinate"
            )
    if not parts:
        return torch.zeros(0, 1, dtype=torch.float64)
    return torch.cat([part.reshape(-1, part.shape[-2]) for part in parts])


def _unpacked(like: State, packed: Tensor) -> State:
    """The inverse of `_packed`, for a state of the same form."""
    rows: Iterator[Tensor] = iter(packed)

    def fill(x: Tensor) -> Tensor:
        if not x.dim():
            return x
        taken: list[Any] = [next(rows) for _ in range(x[..., 0, 0].numel())]
        return torch.stack(taken).reshape(x.shape)

    return map_state(fill, like)
