"""Two meta-gradients in one: backpropagation and evolution, weighted by inverse variance."""

import copy
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from l2l_exp.meta.evolution import perturbations
from l2l_exp.meta.gradients import Estimate, MetaGradient, Objective, laid_out, meta_parameters
from l2l_exp.optimizees.base import check_positive
from l2l_exp.optimizers.base import LearnedOptimizer
from l2l_exp.unroll import Carry, Episode, unroll


class InverseVariance(MetaGradient):
    """At perturbed meta-parameters, both the slope of the meta-loss and its differences.

    In every window antithetic pairs of particles at phi +- eps_i are unrolled from where phi has
    come to. Each pair gives two estimates of the gradient of the smoothed meta-loss: the mean of
    the particles' own gradients, and that of an evolution strategy. Over the pairs both have a mean
    and a variance, and every meta-parameter takes the means with weights of inverse variance: the
    slope where it is quiet, the differences where it explodes. Both are of the window alone, and
    biased as truncation is; that the weights come from the same draws adds a bias of its own.

    Particles are unrolled one after the other, so that the memory is that of `gradient`.

    Args:
        gradient: of one particle, such as `Replay` or `Backprop`.
        pairs: >= 2, for there to be a variance.
        sigma: > 0, standard deviation of the perturbation of every meta-parameter.

    Raises:
        ValueError: for a value outside these ranges, or a gradient that has particles itself.

    Source: L. Metz et al. 2019, arXiv:1810.10180, section 4.
    """

    stochastic = True

    def __init__(self, gradient: MetaGradient, pairs: int = 4, sigma: float = 0.01) -> None:
        if not isinstance(pairs, int) or pairs < 2:
            raise ValueError(f"pairs={pairs} must be a whole number >= 2")
        check_positive(sigma=sigma)
        if gradient.particles != 1:
            raise ValueError(
                f"gradient={type(gradient).__name__} must be of one particle: Replay or Backprop"
            )
        self.gradient = gradient
        self.pairs = pairs
        self.sigma = sigma
        self.attached = gradient.attached
        self.particles = 2 * pairs + 1

    def check(self, rule: LearnedOptimizer) -> None:
        """As `gradient` does."""
        self.gradient.check(rule)

    def start(self, episode: Episode, rule: LearnedOptimizer, rng: np.random.Generator) -> Carry:
        """Where phi itself starts."""
        return self.gradient.start(episode, rule, rng)

    def __call__(
        self,
        episode: Episode,
        rule: LearnedOptimizer,
        carry: Carry,
        steps: int,
        objective: Objective,
        rng: np.random.Generator,
    ) -> Estimate:
        """Unroll every particle, and phi itself, from the same carry."""
        phi = parameters_to_vector(meta_parameters(rule)).detach()
        noise = perturbations(rule, self.pairs, self.sigma, rng)
        particle, estimates = copy.deepcopy(rule), []
        for offset in torch.cat([noise, -noise]):
            vector_to_parameters(phi + offset, particle.parameters())
            estimates.append(self.gradient(episode, particle, carry, steps, objective, rng))
        slopes = torch.stack([torch.cat([g.flatten() for g in e.grads]) for e in estimates])
        values = slopes.new_tensor([e.meta_loss for e in estimates])
        contrast = (values[: self.pairs] - values[self.pairs :]) / (2 * self.sigma**2)
        merged = merge(slopes.view(2, self.pairs, -1).mean(0), contrast.unsqueeze(1) * noise)
        losses = torch.stack([e.losses for e in estimates]).mean(0)
        after = carry
        with torch.no_grad():
            for step in unroll(replace(episode, attached="nothing"), rule, carry, steps):
                after = step
        return Estimate(laid_out(merged, rule), values.mean().item(), losses, after)


def merge(one: Tensor, other: Tensor) -> Tensor:
    """The means of two samples (n, D), weighted in each place by the inverse of their variances.

    `one` counts alone where both do not vary, `other` where the variance of `one` is not finite.
    """
    spread, total = one.var(0), one.var(0) + other.var(0)
    weight = torch.where(total > 0, spread / total, 0.0)
    mixed = weight * other.mean(0) + (1 - weight) * one.mean(0)
    return torch.where(spread.isfinite(), mixed, other.mean(0))
