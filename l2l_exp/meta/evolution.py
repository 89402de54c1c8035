"""Evolution strategies: meta-gradients from losses at perturbed meta-parameters alone."""

from abc import abstractmethod
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap
from torch.nn.utils import parameters_to_vector

from l2l_exp.meta.gradients import Estimate, MetaGradient, Objective, laid_out, meta_parameters
from l2l_exp.meta.particles import Batching, Particles, last_particle, spread
from l2l_exp.optimizees.base import check_choice, check_positive
from l2l_exp.optimizees.repeated import Repeated
from l2l_exp.optimizers.base import LearnedOptimizer, State
from l2l_exp.unroll import Carry, Episode, unroll


def perturbations(
    rule: LearnedOptimizer, pairs: int, sigma: float, rng: np.random.Generator
) -> Tensor:
    """Draw N(0, sigma^2 I): (pairs, D), D meta-parameters, of their dtype and device."""
    phi = parameters_to_vector(meta_parameters(rule)).detach()
    return torch.from_numpy(sigma * rng.standard_normal((pairs, phi.numel()))).to(phi)


class Evolution(MetaGradient):
    """What the strategies share: antithetic pairs of particles, all unrolled together.

    With eps_i ~ N(0, sigma^2 I) the two particles of pair i have the meta-parameters phi + eps_i
    and phi - eps_i, and all particles meet the same problems and minibatches. A window's estimate
    is the mean over pairs of direction_i (L_i+ - L_i-) / (2 sigma^2), with what a strategy takes
    for the direction, and the window's meta-losses L. It is the gradient of a smoothed meta-loss;
    the optimizee is differentiated once per particle and step, the rule never, so that rules may
    take decisions, and second derivatives are in it at no cost.

    `losses` and `meta_loss` of an estimate are means over the perturbed particles.

    Memory: theta, state and minibatch of particles * B problems, whatever the truncation is.

    Args:
        pairs: >= 1; the variance of an estimate falls as 1 / pairs, its cost grows as pairs.
        sigma: > 0, standard deviation of the perturbation of every meta-parameter. The smaller,
            the nearer the smoothed meta-loss is to the meta-loss, until rounding is seen.
        batching: of the rule's particles: "vmap", or "loop" for rules that vmap refuses.

    Raises:
        ValueError: for a value outside these ranges.
    """

    stochastic = True

    def __init__(self, pairs: int = 16, sigma: float = 0.01, batching: Batching = "vmap") -> None:
        if not isinstance(pairs, int) or pairs < 1:
            raise ValueError(f"pairs={pairs} must be a whole number >= 1")
        check_positive(sigma=sigma)
        check_choice("batching", batching, ("vmap", "loop"))
        self.pairs = pairs
        self.sigma = sigma
        self.batching = batching
        self.particles = 2 * pairs

    def draw(self, rule: LearnedOptimizer, rng: np.random.Generator) -> Tensor:
        """A perturbation per pair: (pairs, D), D meta-parameters."""
        return perturbations(rule, self.pairs, self.sigma, rng)

    @torch.no_grad()
    def advance(
        self, episode: Episode, rule: LearnedOptimizer, carry: Carry, offsets: Tensor, steps: int
    ) -> tuple[Tensor, Carry]:
        """Unroll particles at phi + offsets (P, D) by K steps: losses (K, P, B), and the carry."""
        count = offsets.shape[0]
        phi = parameters_to_vector(meta_parameters(rule)) + offsets
        particles = Particles(rule, phi, self.batching)
        repeated = replace(
            episode, optimizee=Repeated(episode.optimizee, count), attached="nothing"
        )
        losses, last = [], carry
        for last in unroll(repeated, particles, carry, steps):
            losses.append(last.loss)
        return torch.stack(losses).unflatten(1, (count, -1)), last

    @torch.no_grad()
    def contrast(
        self,
        rule: LearnedOptimizer,
        losses: Tensor,
        directions: Tensor,
        objective: Objective,
        carry: Carry,
    ) -> Estimate:
        """The estimate from losses (K, 2*pairs, B), those of phi + eps first.

        Args:
            rule: says how the gradient is laid out.
            losses: of the window.
            directions: (pairs, D).
            objective: meta-loss of the window's losses (K, B) of one particle.
            carry: where the next window starts.
        """
        values = vmap(objective, in_dims=1)(losses)  # (2*pairs,)
        ahead, behind = values.chunk(2)
        grad = (ahead - behind) @ directions / (2 * self.sigma**2 * self.pairs)
        return Estimate(laid_out(grad, rule), values.mean().item(), losses.mean(1), carry)


class ES(Evolution):
    """Truncated evolution strategies: fresh perturbations in every window.

    All particles begin a window where phi itself has come to, by one more particle that is not
    perturbed. So the effect of phi on earlier windows is not seen: the estimate is as biased as
    truncated backpropagation; unbiased for the smoothed meta-loss of the window alone, and of the
    episode where the truncation is the horizon.

    Source: T. Salimans et al. 2017, arXiv:1703.03864; truncated: L. Metz et al. 2019,
    arXiv:1810.10180.
    """

    def __init__(self, pairs: int = 16, sigma: float = 0.01, batching: Batching = "vmap") -> None:
        super().__init__(pairs, sigma, batching)
        self.particles = 2 * pairs + 1

    def __call__(
        self,
        episode: Episode,
        rule: LearnedOptimizer,
        carry: Carry,
        steps: int,
        objective: Objective,
        rng: np.random.Generator,
    ) -> Estimate:
        """Unroll all pairs, and phi itself, from the same carry.

        Raises:
            ValueError: also if the rule cannot be vmapped where `batching` is "vmap".
        """
        noise = self.draw(rule, rng)
        offsets = torch.cat([noise, -noise, torch.zeros_like(noise[:1])])
        start = spread(carry, self.particles)
        losses, last = self.advance(episode, rule, start, offsets, steps)
        after = last_particle(last, self.particles)
        return self.contrast(rule, losses[:, :-1], noise, objective, after)


class Perturbed(NamedTuple):
    """The state in the carry of particles that live for an episode."""

    noise: Tensor  # (pairs, D) what the next window's directions begin from
    state: State  # the rule's, leading axis of the 2*pairs particles


class Persistent(Evolution):
    """A strategy whose particles keep their own theta and state from window to window."""

    def start(self, episode: Episode, rule: LearnedOptimizer, rng: np.random.Generator) -> Carry:
        """Every particle at theta_0, (2*pairs*B, N); the loss is (B,), the state `Perturbed`."""
        alone = episode.start(rule).detach()
        carry = spread(alone, self.particles)
        kept = Perturbed(self.first_noise(rule, rng), carry.state)
        return carry._replace(loss=alone.loss, state=kept)

    def __call__(
        self,
        episode: Episode,
        rule: LearnedOptimizer,
        carry: Carry,
        steps: int,
        objective: Objective,
        rng: np.random.Generator,
    ) -> Estimate:
        """Unroll every pair from where it has come to.

        Raises:
            ValueError: also if the rule cannot be vmapped where `batching` is "vmap".
        """
        kept, state = carry.state
        noise, direction = self.window_noise(rule, kept, rng)
        begin = carry._replace(state=state)
        offsets = torch.cat([noise, -noise])
        losses, last = self.advance(episode, rule, begin, offsets, steps)
        mean = losses[-1].mean(0)
        after = last._replace(loss=mean, state=Perturbed(direction, last.state))
        return self.contrast(rule, losses, direction, objective, after)

    @abstractmethod
    def first_noise(self, rule: LearnedOptimizer, rng: np.random.Generator) -> Tensor:
        """What is kept at the start of an episode: (pairs, D)."""

    @abstractmethod
    def window_noise(
        self, rule: LearnedOptimizer, kept: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """This window's perturbations and directions, (pairs, D) each; the latter are kept."""


class PES(Persistent):
    """Persistent evolution strategies: fresh perturbations in every window, and their sum.

    The direction of a pair is the sum of its perturbations since the start of the episode. The sum
    of the windows' estimates is unbiased for the meta-loss of the episode, smoothed by independent
    perturbations of every window's phi; its variance can grow with the number of windows.

    Source: P. Vicol, L. Metz, J. Sohl-Dickstein, ICML 2021, arXiv:2112.13835.
    """

    def first_noise(self, rule: LearnedOptimizer, rng: np.random.Generator) -> Tensor:
        """Nothing yet."""
        phi = parameters_to_vector(meta_parameters(rule)).detach()
        return phi.new_zeros(self.pairs, phi.numel())

    def window_noise(
        self, rule: LearnedOptimizer, kept: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Fresh ones, and the sum of all."""
        noise = self.draw(rule, rng)
        return noise, kept + noise


class SingleNoise(Persistent):
    """One perturbation per particle and episode, kept in all its windows.

    The sum of the windows' estimates is that of an untruncated evolution strategy, taken in pieces:
    unbiased for the smoothed meta-loss of the episode while phi stays, with a variance that does
    not grow with the number of windows.

    Source: ES-Single, P. Vicol, Z. Kolter, K. Swersky, ICML 2023, arXiv:2304.11153; NRES, O. Li et
    al., NeurIPS 2023, arXiv:2304.12180.
    """

    def first_noise(self, rule: LearnedOptimizer, rng: np.random.Generator) -> Tensor:
        """The episode's perturbations."""
        return self.draw(rule, rng)

    def window_noise(
        self, rule: LearnedOptimizer, kept: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """The episode's own."""
        return kept, kept
