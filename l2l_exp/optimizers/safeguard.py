"""Safeguards around any rule: undone blow-ups, bounded steps, trusted pairs, a fall-back."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers.base import LearnedOptimizer, Observation, State, choose, map_state
from l2l_exp.optimizers.baseline import at_one_rate

SMALLEST = 0.01
"""A best loss nearer to zero than this share of the first one counts as this share."""


class Memory(NamedTuple):
    """What the rules know after an observation; () for what no guard needs."""

    rule: State
    fallback: State
    theta: Any  # (B, N) of that observation
    grad: Any  # (B, N)


class Record(NamedTuple):
    """What is known of every problem, (B,) each."""

    first: Tensor  # loss at the first accepted point
    best: Tensor  # lowest accepted loss; infinite before the first
    scale: Tensor  # factor on the rule's steps, in (0, 1]
    fallback_scale: Tensor  # the same for the fall-back's
    undone: Tensor  # 1 if the last update was an undo, else 0
    fell_back: Tensor  # 1 if the last step was the fall-back's, else 0
    in_a_row: Tensor  # undos since the last accepted new point
    norm: Tensor  # |update| of the last step, which is not accepted yet
    largest: Tensor  # largest accepted |update|
    undos: Tensor  # counts from here on
    bounded_steps: Tensor
    skipped_pairs: Tensor
    fallbacks: Tensor


class SafeguardedState(NamedTuple):
    """Tensors, or () for what no guard needs."""

    memory: Memory  # after the last accepted observation, or as an undo restored it
    before: Any  # the memory that the last accepted observation met: what an undo restores
    anchor: Any  # (B, N) the last accepted point
    update: Any  # (B, N) the step from there
    record: Record


class Safeguarded(LearnedOptimizer):
    """A rule whose steps are checked; every guard is off until its key is given.

    *Undo and damp* (`blow_up`). A point is accepted if its loss and gradient are finite and
    loss <= best + (blow_up - 1) * max(|best|, |first| / 100), best and first being the lowest and
    the first accepted loss: for positive losses "at most blow_up times the best so far", and
    defined for any sign. Else the update leads back to the last accepted point, and the steps from
    there are multiplied by `damping`, once more for every further undo; every accepted new point
    multiplies them by `recovery` again, up to 1. The rule never sees the rejected point: its state
    becomes the one that met the accepted point, which it now observes again. That point is not
    rejected again whatever a minibatch says of it, unless that is not finite; then theta rests. The
    way back is exact where floating point has theta' - theta exactly, else right to a rounding of
    the larger, and taken again if that is too high. A proposal that is not finite is not taken.

    *Bounded growth* (`growth`). |update| <= growth * the largest accepted |update| of the problem
    so far, norms over all its coordinates; longer ones are shortened. The first that is not zero is
    bounded by `first_step` per coordinate, in units of theta: |update| <= first_step * sqrt(N).

    *Curvature* (`curvature`). The pair s = change of theta, y = change of the gradient since the
    last accepted observation is trusted if y.s > curvature * |s| |y|; others are kept from the
    rule's memory, by its `step_trusted`.

    *Fall-back* (`fallback`). Where the rule's proposal is not finite, or grad.update >
    ascent * |grad| |update|, or `fallback_after` undos came in a row, the fall-back's step is
    taken instead. Its state sees every accepted point.

    Decisions have no gradient; what is taken has: through the scaling of a step that was
    shortened, and to the undone step through the undo that cancels it. A `Baseline`'s step is a
    constant.

    Args:
        rule: any rule; a `Baseline` at one learning rate.
        blow_up: >= 1, or None. 1 suits deterministic losses: none may rise; minibatch losses need
            room for their noise, 2 or more.
        damping: in (0, 1), factor on the steps after an undo.
        recovery: >= 1, factor back per accepted step.
        growth: >= 1, or None.
        first_step: > 0, or None for no bound.
        curvature: in [0, 1), or None.
        fallback: None, or any rule, as for `rule`.
        ascent: in [-1, 1), or None: largest cosine of gradient and update; 0 refuses ascent.
        fallback_after: >= 1, or None.

    Raises:
        ValueError: for a value outside these ranges, or one that has no effect without another.
    """

    coupling = "problem"

    def __init__(
        self,
        rule: LearnedOptimizer,
        blow_up: float | None = None,
        damping: float = 0.5,
        recovery: float = 1.1,
        growth: float | None = None,
        first_step: float | None = None,
        curvature: float | None = None,
        fallback: LearnedOptimizer | None = None,
        ascent: float | None = None,
        fallback_after: int | None = None,
    ) -> None:
        super().__init__()
        for name, value, good, right in (
            ("blow_up", blow_up, blow_up is None or blow_up >= 1, ">= 1, or null"),
            ("damping", damping, 0 < damping < 1, "> 0 and < 1"),
            ("recovery", recovery, recovery >= 1, ">= 1"),
            ("growth", growth, growth is None or growth >= 1, ">= 1, or null"),
            ("first_step", first_step, first_step is None or first_step > 0, "> 0, or null"),
            ("curvature", curvature, curvature is None or 0 <= curvature < 1, "in [0, 1), or null"),
            ("ascent", ascent, ascent is None or -1 <= ascent < 1, "in [-1, 1), or null"),
            (
                "fallback_after",
                fallback_after,
                fallback_after is None or fallback_after >= 1,
                ">= 1, or null",
            ),
        ):
            if not good:
                raise ValueError(f"{name}={value} must be {right}")
        for name, value, needed, there in (
            ("first_step", first_step, "growth", growth),
            ("ascent", ascent, "fallback", fallback),
            ("fallback_after", fallback_after, "fallback", fallback),
            ("fallback_after", fallback_after, "blow_up", blow_up),
        ):
            if value is not None and there is None:
                raise ValueError(f"{name}={value} has no effect without {needed}: set both")
        self.rule = at_one_rate("rule", rule)
        self.fallback = None if fallback is None else at_one_rate("fallback", fallback)
        self.about = dict(rule.about)
        self.blow_up, self.damping, self.recovery = blow_up, damping, recovery
        self.growth, self.first_step, self.curvature = growth, first_step, curvature
        self.ascent, self.fallback_after = ascent, fallback_after

    @property
    def guarded(self) -> bool:
        """Whether any guard is on."""
        return any(
            x is not None for x in (self.blow_up, self.growth, self.curvature, self.fallback)
        )

    def init_state(self, theta: Tensor, spec: ParamSpec) -> SafeguardedState:
        """Nothing accepted, nothing counted."""
        fallback = () if self.fallback is None else self.fallback.init_state(theta, spec)
        pair = self.blow_up is not None or self.curvature is not None
        theta, none = theta.detach(), torch.zeros_like(theta)
        memory = Memory(
            self.rule.init_state(theta, spec), fallback, *((theta, none) if pair else ((), ()))
        )
        zero = theta.new_zeros(theta.shape[0])
        record = Record(*[zero] * len(Record._fields))._replace(
            best=zero + torch.inf, scale=zero + 1, fallback_scale=zero + 1
        )
        if self.blow_up is None:
            return SafeguardedState(memory, (), (), (), record)
        return SafeguardedState(memory, memory, theta, none, record)

    def step(self, seen: Observation, state: SafeguardedState) -> tuple[Tensor, SafeguardedState]:
        """The rule's update (B, N), or what the guards make of it."""
        if not self.guarded:
            update, inner = self.rule.step(seen, state.memory.rule)
            return update, state._replace(memory=state.memory._replace(rule=inner))
        if self.blow_up is None:
            return self._go_on(seen, state)
        blown, away = self._judge(seen, state)
        memory = state.memory
        kept = seen._replace(  # what is rejected reaches no rule, and no derivative
            grad=_rows(blown, memory.grad, seen.grad),
            theta=_rows(blown, memory.theta, seen.theta),
            loss=torch.where(blown, 0.0, seen.loss),
        )
        step, after = self._go_on(kept, self._accept(kept, state))
        # In value the way to the anchor, in gradient minus the step that led away from it.
        back = (state.anchor - seen.theta).detach() - (state.update - state.update.detach())
        return _rows(blown, back, step), self._undo(blown, away, state, after)

    def map_problems(self, function: Callable[..., Tensor], *states: Any) -> SafeguardedState:
        """The rules' own states as they say, problems first in everything else."""
        rows, marks = partial(function, -2), partial(function, -1)
        memory = self._map_memory(function, *(state.memory for state in states))
        before = [state.before for state in states]
        return SafeguardedState(
            memory,
            self._map_memory(function, *before) if self.blow_up is not None else (),
            map_state(rows, *(state.anchor for state in states)),
            map_state(rows, *(state.update for state in states)),
            map_state(marks, *(state.record for state in states)),
        )

    def told(self, state: SafeguardedState, update: Tensor) -> SafeguardedState:
        """Tell both rules, and keep the step from the anchor as it was made.

        A rule whose last observation was rejected is not told: it waits for a point that it has
        seen already. The sizes that bound the growth stay those of this rule's own steps: a factor
        that something around it puts on all of them must not tighten the bound, nor loosen it.
        """
        memory = state.memory
        other = () if self.fallback is None else self.fallback.told(memory.fallback, update)
        after = memory._replace(rule=self.rule.told(memory.rule, update), fallback=other)
        if self.blow_up is None:
            return state._replace(memory=after)
        undone = state.record.undone == 1
        waits = undone | (memory.theta != state.anchor).any(-1)
        return state._replace(
            memory=self._map_memory(partial(choose, waits), memory, after),
            update=_rows(undone, state.update, update),
        )

    def counts(self, state: SafeguardedState) -> Mapping[str, Tensor]:
        """How often each guard that is on has acted, and what the rule itself counts."""
        on = {
            "undos": self.blow_up,
            "bounded_steps": self.growth,
            "skipped_pairs": self.curvature,
            "fallbacks": self.fallback,
        }
        own = {name: getattr(state.record, name) for name in on if on[name] is not None}
        return {**self.rule.counts(state.memory.rule), **own}

    def _judge(self, seen: Observation, state: SafeguardedState) -> tuple[Tensor, Tensor]:
        """Which problems (B,) must not build on what they see, and which of them are away."""
        started, first = state.record.best.isfinite(), state.record.first
        best = torch.where(started, state.record.best, 0.0)
        limit = best + ((self.blow_up or 1) - 1) * torch.maximum(best.abs(), SMALLEST * first.abs())
        away = (seen.theta != state.anchor).any(-1)
        finite = seen.loss.isfinite() & seen.grad.isfinite().all(-1)
        blown = ~finite | (started & away & (seen.loss > limit))
        return blown, blown & away

    def _accept(self, seen: Observation, state: SafeguardedState) -> SafeguardedState:
        """The state where every problem stands on a point that is accepted."""
        record, loss = state.record, seen.loss.detach()
        new = record.undone == 0  # not a point that is seen again
        factor = torch.where(new, self.recovery, 1.0).to(loss)
        record = record._replace(
            first=torch.where(record.best.isfinite(), record.first, loss),
            best=torch.minimum(record.best, loss),
            in_a_row=torch.where(new, 0.0, record.in_a_row),
            undone=torch.zeros_like(loss),
            scale=(factor * record.scale).clamp(max=1),
            fallback_scale=(factor * record.fallback_scale).clamp(max=1),
        )
        return state._replace(record=record)

    def _undo(
        self, blown: Tensor, away: Tensor, state: SafeguardedState, after: SafeguardedState
    ) -> SafeguardedState:
        """`after` where the point was accepted; else the state of the accepted point."""
        keep, marks = partial(choose, blown), state.record
        fresh = away & (marks.undone == 0)  # else still on its way back, for rounding
        mine, other = fresh & (marks.fell_back == 0), fresh & (marks.fell_back == 1)
        undone = marks._replace(
            scale=torch.where(mine, self.damping * marks.scale, marks.scale),
            fallback_scale=torch.where(
                other, self.damping * marks.fallback_scale, marks.fallback_scale
            ),
            undone=torch.where(away, 1.0, marks.undone),
            in_a_row=marks.in_a_row + fresh,
            norm=torch.zeros_like(marks.norm),
            undos=marks.undos + fresh,
        )
        return SafeguardedState(
            self._map_memory(keep, state.before, after.memory),
            self._map_memory(keep, state.before, state.memory),
            _rows(blown, state.anchor, after.anchor),
            _rows(blown, torch.zeros_like(state.update), after.update),
            map_state(lambda one, other: torch.where(blown, one, other), undone, after.record),
        )

    def _go_on(self, seen: Observation, state: SafeguardedState) -> tuple[Tensor, SafeguardedState]:
        """The step from accepted points, and the state after them."""
        memory, record = state.memory, state.record
        update, inner, trusted = self._propose(seen, memory)
        record = record._replace(skipped_pairs=record.skipped_pairs + ~trusted)
        finite = (seen.theta + update).isfinite().all(-1)
        if self.blow_up is not None or self.fallback is not None:
            update = _rows(finite, update, torch.zeros_like(update))
            inner = self.rule.select(finite, inner, memory.rule)
        step = record.scale.unsqueeze(-1) * update
        if self.fallback is None:
            refused = ~finite if self.blow_up is not None else torch.zeros_like(finite)
            record = record._replace(undos=record.undos + refused)
            other: State = ()
        else:
            step, other, record = self._fall_back(
                self.fallback, seen, memory, record, update, ~finite
            )
        step, record = self._bound(step, record)
        inner = self.rule.told(inner, step)
        if self.fallback is not None:
            other = self.fallback.told(other, step)
        point = (seen.theta.detach(), seen.grad.detach()) if torch.is_tensor(memory.theta) else ()
        after = Memory(inner, other, *(point or ((), ())))
        if self.blow_up is None:
            return step, state._replace(memory=after, record=record)
        return step, state._replace(memory=after, anchor=after.theta, update=step, record=record)

    def _propose(self, seen: Observation, memory: Memory) -> tuple[Tensor, State, Tensor]:
        """The rule's update and state, and whose pairs it may keep: (B,)."""
        if self.curvature is None:
            everyone = torch.ones_like(seen.loss, dtype=torch.bool)
            return *self.rule.step(seen, memory.rule), everyone
        s, y = (seen.theta - memory.theta).detach(), (seen.grad - memory.grad).detach()
        enough = (y * s).sum(-1) > self.curvature * _norm(y) * _norm(s)
        trusted = enough | (s == 0).all(-1)  # no step, no pair
        return *self.rule.step_trusted(seen, memory.rule, trusted), trusted

    def _fall_back(
        self,
        fallback: LearnedOptimizer,
        seen: Observation,
        memory: Memory,
        record: Record,
        update: Tensor,
        refused: Tensor,
    ) -> tuple[Tensor, State, Record]:
        """The step, the fall-back's in problems where the rule's update is not wanted."""
        other, after = fallback.step(seen, memory.fallback)
        if self.ascent is not None:
            grad, mine = seen.grad.detach(), update.detach()
            slope = (grad * mine).sum(-1)
            refused = refused | (slope > self.ascent * _norm(grad) * _norm(mine))
        if self.fallback_after is not None:
            refused = refused | (record.in_a_row >= self.fallback_after)
        step = _rows(
            refused,
            record.fallback_scale.unsqueeze(-1) * other,
            record.scale.unsqueeze(-1) * update,
        )
        fell_back = refused.to(record.fell_back)
        return (
            step,
            after,
            record._replace(fell_back=fell_back, fallbacks=record.fallbacks + refused),
        )

    def _bound(self, step: Tensor, record: Record) -> tuple[Tensor, Record]:
        """Shorten what is longer than it may be."""
        if self.growth is None:
            return step, record
        norm, largest = _norm(step), torch.maximum(record.largest, record.norm)
        first = torch.inf if self.first_step is None else self.first_step * step.shape[-1] ** 0.5
        bound = torch.where(largest > 0, self.growth * largest, first)
        over = norm > bound
        factor = torch.where(over, bound, 1.0) / torch.where(over, norm, 1.0)
        record = record._replace(
            norm=torch.where(over, bound, norm),
            largest=largest,
            bounded_steps=record.bounded_steps + over,
        )
        return factor.unsqueeze(-1) * step, record

    def _map_memory(self, function: Callable[..., Tensor], *memories: Memory) -> Memory:
        """Apply a function of `map_problems` to memories."""
        rules, fallbacks, thetas, grads = zip(*memories, strict=True)
        rows = partial(function, -2)
        return Memory(
            self.rule.map_problems(function, *rules),
            () if self.fallback is None else self.fallback.map_problems(function, *fallbacks),
            map_state(rows, *thetas),
            map_state(rows, *grads),
        )


def _rows(where: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """(B, N): `one` in the problems that `where` (B,) names, `other` elsewhere."""
    return torch.where(where.unsqueeze(-1), one, other)


def _norm(vector: Tensor) -> Tensor:
    """|vector| over the coordinates: (B, N) -> (B,); its slope at 0 is 0, huge values fit."""
    largest = vector.detach().abs().amax(-1)
    unit = torch.where(largest > 0, largest, 1.0)
    squares = (vector / unit.unsqueeze(-1)).square().sum(-1)
    positive = squares > 0
    return torch.where(positive, unit * torch.where(positive, squares, 1.0).sqrt(), 0.0)
