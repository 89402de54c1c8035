"""Probes: problems of one coordinate whose gradients are given, and what a rule makes of them."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from l2l_exp.evaluation import Floats
from l2l_exp.optimizees.base import Data, Optimizee, Problem
from l2l_exp.optimizees.seeding import Seed, generator
from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers.base import Coupling, LearnedOptimizer, Observation, State
from l2l_exp.optimizers.baseline import at_one_rate
from l2l_exp.unroll import Episode, unroll

HISTORIES = ("constant", "alternating", "noisy", "zero")


class Prescribed(Optimizee):
    """Linear losses: whatever theta is, the gradient at step t is the one that was given.

    Args:
        gradients: (T, B) of problem b, which has one coordinate, at step t; zeros afterwards.

    Raises:
        ValueError: for gradients of another shape, or that are not finite.
    """

    def __init__(self, gradients: Floats) -> None:
        super().__init__()
        given = np.asarray(gradients, dtype=np.float64)
        if given.ndim != 2 or not given.size or not np.isfinite(given).all():
            raise ValueError(f"gradients of shape {given.shape} must be (steps, problems), finite")
        self.gradients = torch.from_numpy(given)
        self.spec = ParamSpec.of({"theta": ((1,), "free")})

    def sample(self, problems: Sequence[int], seed: Seed) -> Problem:
        """Nothing is random."""
        return Problem(tuple(problems), seed, {})

    def init(self, problems: Sequence[int], seed: Seed) -> Tensor:
        """Zeros: (B, 1)."""
        return self.gradients.new_zeros(len(problems), 1)

    def minibatch(self, problem: Problem, step: int) -> Data:
        """The slopes of this step: (B,)."""
        if step >= len(self.gradients):
            return {"slope": self.gradients.new_zeros(problem.size)}
        return {"slope": self.gradients[step, list(problem.index)]}

    def loss(self, theta: Tensor, data: Data) -> Tensor:
        """Slope times theta."""
        return (data["slope"] * theta).sum()

    def metrics(self, theta: Tensor, problem: Problem) -> Mapping[str, Tensor]:
        """There is no loss to speak of: zeros."""
        return {"train_loss": torch.zeros_like(theta[:, 0])}


class WatchedState(NamedTuple):
    """States of all rules, and what each proposed at the last step."""

    states: dict[str, State]
    updates: dict[str, Tensor]  # (B, N) each; empty before the first step


class Watched(LearnedOptimizer):
    """The first of several rules moves theta; the others say what they would have done.

    Args:
        rules: name -> rule; each keeps a state of its own, and all see the same gradients.

    Raises:
        ValueError: if there is none, or a baseline among them has not one learning rate.
    """

    coupling: Coupling = "problem"

    def __init__(self, rules: Mapping[str, LearnedOptimizer]) -> None:
        super().__init__()
        if not rules:
            raise ValueError("there must be a rule to watch, got none")
        self.rules = {name: at_one_rate(name, rule) for name, rule in rules.items()}

    def init_state(self, theta: Tensor, spec: ParamSpec) -> WatchedState:
        """The state of every rule."""
        states = {name: rule.init_state(theta, spec) for name, rule in self.rules.items()}
        return WatchedState(states, {})

    def step(self, seen: Observation, state: WatchedState) -> tuple[Tensor, WatchedState]:
        """Let all rules propose; the first one's update is made."""
        pairs = {name: rule.step(seen, state.states[name]) for name, rule in self.rules.items()}
        after = WatchedState(
            {name: pair[1] for name, pair in pairs.items()},
            {name: pair[0] for name, pair in pairs.items()},
        )
        return next(iter(after.updates.values())), after


class Moment(NamedTuple):
    """One inner step, watched."""

    seen: Observation
    before: dict[str, State]  # states of the rules before the step
    updates: dict[str, Tensor]  # (B, N) that each rule proposes
    after: dict[str, State]


def watch(
    optimizee: Optimizee,
    rules: Mapping[str, LearnedOptimizer],
    problems: Sequence[int],
    seed: Seed,
    horizon: int,
    steps: int | None = None,
) -> Iterator[Moment]:
    """Run the first of several rules, and tell every inner step.

    Args:
        optimizee: distribution of the problems.
        rules: name -> rule.
        problems: indices of the B problems.
        seed: split and seed of the draws.
        horizon: T >= 1, inner steps of the episode.
        steps: that are taken of it; None for all.

    Raises:
        ValueError: as `Watched`, or for another horizon.
    """
    if horizon < 1:
        raise ValueError(f"horizon={horizon} must be >= 1")
    episode = Episode(optimizee, optimizee.sample(problems, seed), horizon)
    watched = Watched(rules)
    before = episode.start(watched)
    for after in unroll(episode, watched, before, horizon if steps is None else steps):
        yield Moment(before.seen, before.state.states, after.state.updates, after.state.states)
        before = after


def in_double(rule: LearnedOptimizer) -> LearnedOptimizer:
    """A copy of the rule in float64 on the CPU, where differences of updates are exact enough."""
    return copy.deepcopy(rule).to("cpu", torch.float64)


@torch.no_grad()
def respond(rule: LearnedOptimizer, gradients: Floats) -> Floats:
    """Updates of coordinates that see given gradients, each a problem of its own.

    Args:
        rule: a learned optimizer, or a baseline at one learning rate. It is run in float64, and
            told that an episode of T steps begins.
        gradients: (T, B), finite.

    Returns:
        (T, B) the updates.

    Raises:
        ValueError: as `Prescribed`, or for a baseline that is still to be tuned.
    """
    moments = _probe(in_double(rule), gradients)
    return np.stack([moment.updates["rule"][:, 0].numpy() for moment in moments])


@torch.no_grad()
def proposals_after(
    rule: LearnedOptimizer,
    history: Floats,
    gradients: Floats,
    times: Sequence[int],
) -> Floats:
    """Update against gradient after a history of gradients.

    Args:
        rule: as for `respond`.
        history: (T,) gradients that the coordinate has seen.
        gradients: (G,) that it might see next.
        times: each in [0, T]: after so many steps of the history.

    Returns:
        (len(times), G) the updates.

    Raises:
        ValueError: as `respond`, or for a time outside the history.
    """
    for time in times:
        if not 0 <= time <= len(history):
            raise ValueError(f"time {time} must be in [0, {len(history)}], the history's length")
    asked = torch.from_numpy(np.asarray(gradients, dtype=np.float64))
    padded = np.append(np.asarray(history, dtype=np.float64), 0.0)[:, None]
    rule = in_double(rule)
    found = {
        moment.seen.step: propose(rule, moment.seen, moment.before["rule"], 0, asked)
        for moment in _probe(rule, padded)
        if moment.seen.step in times
    }
    return np.stack([found[time] for time in times])


def propose(
    rule: LearnedOptimizer, seen: Observation, state: State, coordinate: int, gradients: Tensor
) -> Floats:
    """The update of a coordinate if its gradient were another, all else as it is.

    Args:
        rule: a learned optimizer, or a baseline at one learning rate.
        seen: of one problem.
        state: of the rule before this step.
        coordinate: in [0, N).
        gradients: (G,) that it might see, of theta's dtype and on its device.

    Returns:
        (G,) the updates.
    """
    count, alone = len(gradients), rule.coupling == "none"  # then other coordinates do not matter
    index = torch.full((count,), coordinate if alone else 0, device=seen.grad.device)
    copies, states = seen.take(index, rule.coupling), rule.take(state, index)
    grad = copies.grad.clone()
    place = 0 if alone else coordinate
    grad[:, place] = gradients
    update, _ = rule.step(copies._replace(grad=grad), states)
    return update[:, place].double().cpu().numpy()


def history(kind: str, steps: int, size: float = 1.0, seed: int = 0) -> Floats:
    """Gradients (steps,) that a coordinate may have seen.

    Args:
        kind: "constant"; "alternating" in sign; "noisy", normal with mean 0; "zero".
        steps: >= 0.
        size: of the gradients; standard deviation of noisy ones.
        seed: of the noise.

    Raises:
        ValueError: for another kind.
    """
    if kind not in HISTORIES:
        raise ValueError(f"history={kind!r} must be one of {', '.join(HISTORIES)}")
    if kind == "noisy":
        return size * generator(Seed("test", seed), "noise", 0).standard_normal(steps)
    factor = {"constant": 1.0, "alternating": -1.0, "zero": 0.0}[kind]
    gradients = np.full(steps, size)
    gradients[1::2] *= factor
    gradients[::2] *= abs(factor)
    return gradients


def _probe(rule: LearnedOptimizer, gradients: Floats) -> Iterator[Moment]:
    """Run a rule on given gradients (T, B)."""
    optimizee = Prescribed(gradients)
    steps, count = optimizee.gradients.shape
    return watch(optimizee, {"rule": rule}, range(count), Seed("test", 0), steps)
