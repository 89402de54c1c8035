"""The toy of meta-gradients: the learning rate of gradient descent on a steep and a flat direction.

Truncated meta-gradients see all of the steep direction, which is settled at once, but of the flat
one only what the last few steps did, so that they choose too small a rate (arXiv:1803.02021).
"""

from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.problems import META_LOSS
from l2l_exp.meta.diagnostics import WindowObjective, episode_gradient
from l2l_exp.meta.gradients import MetaGradient
from l2l_exp.meta.schedule import Cosine
from l2l_exp.optimizees.base import Optimizee
from l2l_exp.optimizees.seeding import Seed, generator
from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizees.spectrum import Spectrum
from l2l_exp.optimizers.base import LearnedOptimizer, Observation, State
from l2l_exp.unroll import Episode

FIRST_RATE, FIRST_STEP = 0.5, 0.1
"""Where the search for the best learning rate starts, and its first step."""


class Descent(LearnedOptimizer):
    """Gradient descent whose learning rate is the only meta-parameter.

    Args:
        rate: where it starts.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(rate))

    def init_state(self, theta: Tensor, spec: ParamSpec) -> State:
        """None."""
        return ()

    def step(self, seen: Observation, state: State) -> tuple[Tensor, State]:
        """-rate * gradient."""
        return -self.rate * seen.grad, state


def two_directions() -> Spectrum:
    """Curvatures 1 and 1/50, in float64."""
    return Spectrum(2, 50.0, "geometric", rotate=False, shift=0.0).double()


def episode_of(
    optimizee: Optimizee, rule: LearnedOptimizer, problems: int, horizon: int
) -> tuple[Episode, WindowObjective]:
    """An episode, and the paper's meta-loss of its windows."""
    problem = optimizee.sample(range(problems), Seed("train", 0))
    episode = Episode(optimizee, problem, horizon)
    loss = episode.start(rule).detach().loss
    return episode, partial(META_LOSS, first=loss, horizon=horizon)


def found_rate(
    gradient: MetaGradient, episodes: int, problems: int, horizon: int, truncation: int
) -> float:
    """The learning rate that Adam along a meta-gradient finds: mean of the last tenth of it."""
    optimizee, rule, schedule = two_directions(), Descent(FIRST_RATE).double(), Cosine(final=0.0)
    episode, objective = episode_of(optimizee, rule, problems, horizon)
    optimizer = torch.optim.Adam(rule.parameters())
    rates = []
    for number in range(episodes):
        rngs = partial(generator, Seed("train", 0), f"search_{number}")
        grad = episode_gradient(gradient, episode, rule, truncation, objective, rngs)
        rule.rate.grad = grad.view_as(rule.rate)
        optimizer.param_groups[0]["lr"] = FIRST_STEP * schedule(number / episodes)
        optimizer.step()
        rates.append(rule.rate.item())
    last = rates[-max(1, episodes // 10) :]
    return sum(last) / len(last)
