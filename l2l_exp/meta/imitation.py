"""Imitation: the rule learns to propose what a teacher does on the teacher's own trajectory."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from l2l_exp.meta.gradients import Estimate, Replay
from l2l_exp.optimizees.seeding import Seed, generator
from l2l_exp.optimizers.base import (
    LearnedOptimizer,
    Observation,
    State,
    check_bears_other_steps,
)
from l2l_exp.optimizers.baseline import at_one_rate
from l2l_exp.optimizers.safeguard import Safeguarded
from l2l_exp.unroll import Carry, Episode, unroll


class Imitation:
    """Regression on a teacher's trajectory, in some of the episodes.

    The teacher optimizes the problems. The rule sees what the teacher sees, and keeps its own
    state along the way; its proposals are not taken, and it is told of the step that was. The loss
    of a window is

        1/2 mean (teacher's update - rule's update)^2 / mean (teacher's update)^2

    with means over the steps of the window and the coordinates of a problem, averaged over the
    problems: a rule that rests has a loss of 1/2 whatever the scale of the problems and the
    teacher's learning rate. A problem where the teacher rests is left out. Deviations: the source
    sums over the steps, and does not divide.

    The observations are constants, so that the gradient is that of sum_s update_s . c_s with
    c_s = rule's - teacher's update over a constant: the rule is replayed on it as by `Replay`.

    Args:
        teacher: any rule, a baseline at one learning rate; it is not trained.
        probability: in (0, 1], of an episode to be one of imitation.
        weight: in (0, 1], of imitation in such an episode; the meta-loss has the rest, on a
            trajectory of the rule's own (where that is more than nothing).
        chunk, subset: as for `Replay`.

    Raises:
        ValueError: for a value outside these ranges.

    Source: Chen et al. 2020, arXiv:2010.09089.
    """

    def __init__(
        self,
        teacher: LearnedOptimizer,
        probability: float = 0.3,
        weight: float = 1.0,
        chunk: int = 2048,
        subset: int | None = None,
    ) -> None:
        for name, value in (("probability", probability), ("weight", weight)):
            if not 0 < value <= 1:
                raise ValueError(f"{name}={value} must be in (0, 1]")
        if not isinstance(teacher, LearnedOptimizer):
            raise ValueError(f"teacher={teacher!r} must be an update rule")
        self.teacher = at_one_rate("teacher", teacher)
        self.probability = probability
        self.weight = weight
        self.replay = Replay(chunk, subset)

    def weight_of(self, episode: int, seed: Seed) -> float:
        """The weight of imitation in an episode: 0 in those without."""
        drawn = generator(seed, "imitation", episode).random()
        return self.weight if drawn < self.probability else 0.0

    def check(self, rule: LearnedOptimizer) -> None:
        """Raise ValueError for a rule that cannot be taught by the steps of another.

        That is one that counts on its own steps, or that would undo the teacher's; or one that
        couples coordinates, on a subset of them.
        """
        self.replay.check(rule)
        check_bears_other_steps("optimizer", rule, "imitate")
        for part in rule.modules():
            if isinstance(part, Safeguarded) and part.blow_up is not None:
                raise ValueError(
                    f"blow_up={part.blow_up} must be null to imitate: a safeguarded rule would "
                    f"undo its teacher's steps"
                )

    def windows(
        self,
        episode: Episode,
        rule: LearnedOptimizer,
        steps: int,
        rng: Callable[[int], np.random.Generator],
    ) -> Iterator[Estimate]:
        """Estimates of the windows of an episode, each when it is asked for.

        Args:
            episode: the problems.
            rule: its parameters may change between windows.
            steps: K, inner steps of a window.
            rng: generator of a window that begins after so many steps.

        Raises:
            ValueError: as `check`.
        """
        self.check(rule)
        episode = replace(episode, attached="nothing")
        carry = episode.start(self.teacher)
        state = rule.init_state(carry.theta, episode.optimizee.spec)
        for start in range(0, episode.horizon, steps):
            estimate, state = self._window(episode, rule, carry, state, steps, rng(start))
            carry = estimate.carry
            yield estimate

    def _window(
        self,
        episode: Episode,
        rule: LearnedOptimizer,
        carry: Carry,
        state: State,
        steps: int,
        rng: np.random.Generator,
    ) -> tuple[Estimate, State]:
        """The estimate of one window, and the rule's state after it."""
        units, weight = self.replay.units(rule, episode, carry.theta.shape[0], rng)
        path = self._follow(episode, rule, carry, state, steps, units)
        size = path.error.new_tensor(steps * episode.optimizee.spec.size)
        scale = path.taught / size  # (B,), a mean square
        share = torch.where(scale == 0, 0.0, 1 / scale) / len(scale)  # NaN stays NaN
        loss = (share * path.missed / size).sum() / 2
        error, share = path.error, (share / size).unsqueeze(-1)
        if self.replay.subset is not None:
            share = share[units // episode.optimizee.spec.size]
            state = rule.take(state, units)
        grads = self.replay.gradients(rule, path.seen, state, error * share, weight, told=True)
        return Estimate(grads, loss.item(), path.losses, path.carry), path.state

    @torch.no_grad()
    def _follow(
        self,
        episode: Episode,
        rule: LearnedOptimizer,
        carry: Carry,
        state: State,
        steps: int,
        units: Tensor,
    ) -> "_Path":
        """Let the teacher go a window's steps, and the rule propose its own beside."""
        seen, errors, losses = [], [], []
        taught = missed = torch.zeros_like(carry.loss)
        for number, after in enumerate(
            unroll(episode, self.teacher, carry, steps, reuse_state=True)
        ):
            step = rule.step_in_place if number else rule.step
            update, state = step(carry.seen, state)
            target = after.theta - carry.theta
            state = rule.told(state, target)
            error = update - target
            taught = taught + target.square().sum(-1)
            missed = missed + error.square().sum(-1)
            seen.append(self.replay.keep(carry.seen, units))
            errors.append(error if self.replay.subset is None else error.view(-1, 1)[units])
            losses.append(after.loss)
            carry = after
        return _Path(seen, torch.stack(errors), taught, missed, torch.stack(losses), carry, state)


class _Path(NamedTuple):
    """A teacher's window of K steps, and what the rule would have done."""

    seen: list[Observation]  # K, of the units that are replayed
    error: Tensor  # (K, B, N) rule's update minus the teacher's; (K, n, 1) of a subset
    taught: Tensor  # (B,) sum of squares of the teacher's updates
    missed: Tensor  # (B,) sum of squares of the errors, of all coordinates
    losses: Tensor  # (K, B) after each step
    carry: Carry  # of the teacher, at the end
    state: State  # of the rule, at the end
