"""How good a meta-gradient is: its variance, and its cosine with the exact one of the horizon."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from l2l_exp.meta.gradients import Backprop, MetaGradient, Objective, Replay
from l2l_exp.optimizers.base import LearnedOptimizer
from l2l_exp.unroll import Episode

WindowObjective = Callable[..., Tensor]
"""Meta-loss of a window: losses (K, B), and `start`, the inner steps before it -> scalar."""
Draws = Callable[[int, int], np.random.Generator]
"""(number of the draw, place in its episode) -> what is drawn from there."""


class Diagnostics:
    """Measures an estimator in every so many episodes, at meta-parameters that stay.

    A draw is the estimator's gradient of a whole episode, the mean over its windows. Measured are

    - `meta_gradient_variance`, for estimators that draw: the trace of the covariance of the draws
      over the squared norm of their mean; 1 means as much noise as signal. Of few draws part of
      the norm is noise too, so that in expectation it stays below the number of draws;
    - `meta_gradient_cosine`: the mean cosine of a draw with the exact gradient of the same
      meta-loss over the whole horizon, without truncation. It sees bias and noise together.

    A value that is not finite is reported as it is. Nothing that training depends on is touched.

    Args:
        every: None for never, or >= 1: episodes from one measurement to the next.
        draws: >= 2, draws of an estimator that draws; each costs as much as an episode.
        full_window: derivatives in the exact gradient: 1, the observation is a constant; 2, it is
            not (the whole graph of an episode is kept); or None for no cosine.

    Raises:
        ValueError: for a value outside these ranges.
    """

    def __init__(
        self, every: int | None = None, draws: int = 8, full_window: int | None = 1
    ) -> None:
        if every is not None and every < 1:
            raise ValueError(f"every={every} must be >= 1, or null for never")
        if draws < 2:
            raise ValueError(f"draws={draws} must be >= 2")
        if full_window not in (None, 1, 2):
            raise ValueError(f"full_window={full_window} must be 1 or 2, or null for no cosine")
        self.every = every
        self.draws = draws
        self.exact = None if full_window is None else exact_gradient(full_window)

    def due(self, episode: int) -> bool:
        """Whether to measure in an episode, counted from 0."""
        return self.every is not None and episode % self.every == 0

    def __call__(
        self,
        gradient: MetaGradient,
        episode: Episode,
        rule: LearnedOptimizer,
        truncation: int,
        objective: WindowObjective,
        rngs: Draws,
    ) -> dict[str, float]:
        """Measure.

        Args:
            gradient: the estimator.
            episode: its problems.
            rule: not changed.
            truncation: inner steps of a window.
            objective: meta-loss of a window.
            rngs: generators of the draws.
        """
        count = self.draws if gradient.stochastic else 1
        drawn = torch.stack(
            [
                episode_gradient(gradient, episode, rule, truncation, objective, rngs, draw)
                for draw in range(count)
            ]
        )
        measured = {}
        if gradient.stochastic:
            measured["meta_gradient_variance"] = relative_variance(drawn)
        if self.exact is not None:
            exact = full_gradient(self.exact, episode, rule, truncation, objective)
            cosines = torch.cosine_similarity(drawn, exact.unsqueeze(0))
            measured["meta_gradient_cosine"] = cosines.mean().item()
        return measured


def exact_gradient(order: int) -> MetaGradient:
    """What differentiates a whole horizon at once, with first or second derivatives."""
    return Replay() if order == 1 else Backprop(order)


def episode_gradient(
    gradient: MetaGradient,
    episode: Episode,
    rule: LearnedOptimizer,
    truncation: int,
    objective: WindowObjective,
    rngs: Draws,
    draw: int = 0,
) -> Tensor:
    """Mean over the windows of an episode of an estimator's gradient, float64: (D,)."""
    episode = replace(episode, attached=gradient.attached)
    carry = gradient.start(episode, rule, rngs(draw, 0))
    parts = []
    for start in range(0, episode.horizon, truncation):

        def windowed(losses: Tensor, start: int = start) -> Tensor:
            return objective(losses, start=start)

        estimate = gradient(episode, rule, carry, truncation, windowed, rngs(draw, start + 1))
        parts.append(_flat(estimate.grads))
        carry = estimate.carry
    return torch.stack(parts).mean(0)


def full_gradient(
    exact: MetaGradient,
    episode: Episode,
    rule: LearnedOptimizer,
    truncation: int,
    objective: WindowObjective,
) -> Tensor:
    """The gradient of the mean of the windows' meta-losses, the horizon in one window: (D,)."""

    def whole(losses: Tensor) -> Tensor:
        windows = losses.split(truncation)
        each = [objective(part, start=k * truncation) for k, part in enumerate(windows)]
        return torch.stack(each).mean()

    return _flat(_whole_window(exact, episode, rule, whole))


def _whole_window(
    exact: MetaGradient, episode: Episode, rule: LearnedOptimizer, objective: Objective
) -> list[Tensor]:
    """The exact gradient of an objective of all losses of an episode."""
    attached = replace(episode, attached=exact.attached)
    rng = np.random.default_rng(0)  # asked for, not used: nothing is drawn
    carry = exact.start(attached, rule, rng)
    return exact(attached, rule, carry, episode.horizon, objective, rng).grads


def relative_variance(drawn: Tensor) -> float:
    """Trace of the covariance of vectors (k, D), over the squared norm of their mean."""
    mean = drawn.mean(0)
    return (drawn.var(0).sum() / mean.square().sum()).item()


def _flat(grads: list[Tensor]) -> Tensor:
    """A meta-gradient as one vector."""
    return torch.cat([grad.flatten() for grad in grads]).double()
