"""The problems that are measured: MLPs on random images, of the MNIST shape or any size."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from l2l_exp.meta.gradients import Estimate, MetaGradient, Replay
from l2l_exp.meta.objective import MetaLoss, Plain, Uniform
from l2l_exp.optimizees.images import Images
from l2l_exp.optimizees.mlp import ImageMLP
from l2l_exp.optimizees.seeding import Seed
from l2l_exp.optimizers.base import LearnedOptimizer
from l2l_exp.unroll import Episode, unroll

META_LOSS = MetaLoss(Uniform(), Plain())


def image_mlp(side: int = 28, hidden_units: int = 20) -> ImageMLP:
    """One hidden layer on random images: (side^2 + 11) * hidden_units + 10 coordinates."""
    pixels = torch.rand(600, 1, side, side, generator=torch.Generator().manual_seed(0))
    return ImageMLP(Images(pixels, torch.arange(600) % 10), hidden_units, init_std=0.1)


def window_of(
    gradient: MetaGradient,
    optimizee: ImageMLP,
    rule: LearnedOptimizer,
    steps: int,
    before: int = 0,
    problems: int = 1,
) -> Callable[[], Estimate]:
    """A window of an episode, ready to be called any number of times.

    Args:
        gradient: the estimator.
        optimizee: distribution of the problems.
        rule: the rule.
        steps: of the window.
        before: inner steps that are taken before it, without a graph.
        problems: of the episode.
    """
    problem = optimizee.sample(range(problems), Seed("train", 0))
    episode = Episode(optimizee, problem, before + steps, gradient.attached)
    carry = episode.start(rule).detach()
    objective = partial(META_LOSS, first=carry.loss, start=before, horizon=before + steps)
    with torch.no_grad():
        for after in unroll(replace(episode, attached="nothing"), rule, carry, before):
            carry = after
    rng = np.random.default_rng(0)
    return lambda: gradient(episode, rule, carry, steps, objective, rng)


def mean_cosine(
    optimizee: ImageMLP,
    rule: LearnedOptimizer,
    subset: int,
    draws: int,
    *,
    steps: int,
    before: int = 0,
    problems: int = 1,
) -> float:
    """Mean cosine between the meta-gradient of a random subset of coordinates and the exact one."""
    where = (optimizee, rule, steps, before, problems)
    exact, drawn = window_of(Replay(), *where), window_of(Replay(subset=subset), *where)
    directions = torch.stack([flat(drawn()) for _ in range(draws)])
    return torch.cosine_similarity(directions, flat(exact()).unsqueeze(0)).mean().item()


def flat(estimate: Estimate) -> Tensor:
    """The whole meta-gradient as one vector of float64."""
    return torch.cat([grad.flatten() for grad in estimate.grads]).double()
