"""Meta-gradients: from a window of an unroll to a gradient in the meta-parameters."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers.base import LearnedOptimizer, Observation, State
from l2l_exp.unroll import Attached, Carry, Episode, unroll

Objective = Callable[[Tensor], Tensor]
"""Meta-loss of one window: losses (K, B) -> scalar."""


class Estimate(NamedTuple):
    """What a window of K inner steps gave."""

    grads: list[Tensor]  # one per meta-parameter, in the order of rule.parameters()
    meta_loss: float
    losses: Tensor  # (K, B) minibatch losses after each step, detached
    carry: Carry  # where the next window starts, detached


class MetaGradient(ABC):
    """An estimator of the gradient of a window's meta-loss in the meta-parameters.

    An estimator keeps nothing between calls: what lives from window to window is in the carry.

    Attributes:
        attached: what an `Episode` for this estimator keeps a graph of.
        particles: how many copies of every problem it advances, >= 1.
        stochastic: whether it draws random numbers of its own.
    """

    attached: Attached = "nothing"
    particles: int = 1
    stochastic: bool = False

    def start(self, episode: Episode, rule: LearnedOptimizer, rng: np.random.Generator) -> Carry:
        """Where the first window of an episode starts, detached.

        Args:
            episode: as for a window.
            rule: as for a window.
            rng: what a stochastic estimator draws from.

        Returns:
            A carry with one loss per problem, (B,), and as many rows of theta as it needs.
        """
        return episode.start(rule).detach()

    def check(self, rule: LearnedOptimizer) -> None:  # noqa: B027
        """Raise ValueError where a rule is none for this estimator."""

    @abstractmethod
    def __call__(
        self,
        episode: Episode,
        rule: LearnedOptimizer,
        carry: Carry,
        steps: int,
        objective: Objective,
        rng: np.random.Generator,
    ) -> Estimate:
        """Advance the episode by a window and estimate the meta-gradient.

        Args:
            episode: the problems; its `attached` must be this estimator's.
            rule: its parameters are the meta-parameters; it is not changed.
            carry: start of the window, detached: of `start`, or of the estimate before.
            steps: K, inner steps of the window (the truncation).
            objective: meta-loss of the window's K losses.
            rng: what a stochastic estimator draws from.

        Raises:
            ValueError: if the rule has no meta-parameters.
        """


class Replay(MetaGradient):
    """The exact first-order gradient of truncated BPTT, in bounded memory.

    The whole observation is a constant (the paper drops the second derivatives of f). Then the
    meta-gradient is that of sum_s update_s . c_s with the constant credit
    c_s = sum over t > s of (d meta-loss / d f_t) grad_t. So the window runs without a graph, and
    the rule alone is replayed on what it saw, in chunks of units that do not talk to each other.
    The optimizee is differentiated once per step, never twice.

    Args:
        chunk: >= 1, coordinates per chunk; more cost memory, fewer cost overhead.
        subset: None for all coordinates, or the number (>= 1) of random ones, for rules of
            coupling "none": stratified by tensor, weighted, unbiased.

    Raises:
        ValueError: for a value outside these ranges.

    Source: follows from arXiv:1606.04474, section 2 (the dashed edges of its figure 2 are cut).
    """

    def __init__(self, chunk: int = 2048, subset: int | None = None) -> None:
        if chunk < 1:
            raise ValueError(f"chunk={chunk} must be >= 1")
        if subset is not None and subset < 1:
            raise ValueError(f"subset={subset} must be >= 1, or null for all coordinates")
        self.chunk = chunk
        self.subset = subset
        self.stochastic = subset is not None

    def __call__(
        self,
        episode: Episode,
        rule: LearnedOptimizer,
        carry: Carry,
        steps: int,
        objective: Objective,
        rng: np.random.Generator,
    ) -> Estimate:
        """Run the window without a graph, then replay the rule on it.

        Of what was seen, only the units that are replayed are kept.

        Raises:
            ValueError: also for a subset where the rule couples coordinates.
        """
        units, weight = self.units(rule, episode, carry.theta.shape[0], rng)
        seen, losses, last = [self.keep(carry.seen, units)], [], carry
        with torch.no_grad():
            for last in unroll(episode, rule, carry, steps, reuse_state=True):
                seen.append(self.keep(last.seen, units))
                losses.append(last.loss)
        leaf = torch.stack(losses).requires_grad_()
        meta_loss = objective(leaf)
        (slope,) = torch.autograd.grad(meta_loss, leaf)  # (K, B), d meta-loss / d f_t
        state, size = carry.state, episode.optimizee.spec.size
        if self.subset is not None:
            slope, state = slope[:, units // size], rule.take(state, units)
        credit = _credit(slope, [observation.grad for observation in seen[1:]])
        grads = self.gradients(rule, seen[:-1], state, credit, weight)
        return Estimate(grads, meta_loss.item(), leaf.detach(), last)

    def check(self, rule: LearnedOptimizer) -> None:
        """Refuse a subset where the rule couples coordinates."""
        if self.subset is not None and rule.coupling != "none":
            raise ValueError(
                f"subset={self.subset} needs a rule of coupling 'none', this one couples the "
                f"coordinates of a {rule.coupling}: use subset=null"
            )

    def gradients(
        self,
        rule: LearnedOptimizer,
        seen: list[Observation],
        state: State,
        credit: Tensor,
        weight: Tensor,
        *,
        told: bool = False,
    ) -> list[Tensor]:
        """`replay` of all units, in chunks.

        Args:
            rule, seen, state, credit: as for `replay`; of the units alone where they are a subset.
            weight: (n,) factor of each unit.
            told: as for `replay`.
        """
        chunk = self.chunk
        if rule.coupling != "none":
            chunk = max(1, self.chunk // seen[0].spec.size)
        grads = [torch.zeros_like(parameter) for parameter in rule.parameters()]
        for index in torch.arange(len(weight), device=weight.device).split(chunk):
            part = replay(rule, seen, state, credit, index, weight[index], told=told)
            grads = [total + grad for total, grad in zip(grads, part, strict=True)]
        return grads

    def units(
        self, rule: LearnedOptimizer, episode: Episode, problems: int, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Independent units, as `Observation.take` counts, and their weights: (n,) each.

        Raises:
            ValueError: for a subset where the rule couples coordinates.
        """
        self.check(rule)
        spec, anchor = episode.optimizee.spec, episode.optimizee.anchor
        if self.subset is None:
            count = problems * spec.size if rule.coupling == "none" else problems
            return torch.arange(count, device=anchor.device), anchor.new_ones(count)
        index, weight = stratified_subset(spec, problems, self.subset, rng)
        return index.to(anchor.device), weight.to(anchor)

    def keep(self, seen: Observation, units: Tensor) -> Observation:
        """What is kept of an observation: all, or the subset, each unit a problem of its own."""
        return seen if self.subset is None else seen.take(units, "none")


class Backprop(MetaGradient):
    """Autograd through the whole window: the oracle of `Replay`, and second order.

    Args:
        order: 1, the observation is a constant, as in the paper; or 2, the gradient that the rule
            sees is differentiated too (Hessian-vector products of the optimizee).

    Raises:
        ValueError: for another order.
    """

    def __init__(self, order: int = 1) -> None:
        if order not in (1, 2):
            raise ValueError(f"order={order} must be 1 or 2")
        self.attached = "loss" if order == 1 else "everything"

    def __call__(
        self,
        episode: Episode,
        rule: LearnedOptimizer,
        carry: Carry,
        steps: int,
        objective: Objective,
        rng: np.random.Generator,
    ) -> Estimate:
        """Unroll with a graph and differentiate the meta-loss."""
        carries = list(unroll(episode, rule, carry.detach(), steps))
        losses = torch.stack([c.loss for c in carries])
        meta_loss = objective(losses)
        grads = _gradients(meta_loss, rule)
        return Estimate(grads, meta_loss.item(), losses.detach(), carries[-1].detach())


def replay(
    rule: LearnedOptimizer,
    seen: list[Observation],
    state: State,
    credit: Tensor,
    index: Tensor,
    weight: Tensor,
    *,
    told: bool = False,
) -> list[Tensor]:
    """Gradient in the meta-parameters of sum_s weight * (update_s . credit_s) over some units.

    Args:
        rule: the rule that made the window, or watched it.
        seen: its K observations, constants.
        state: its state at the start of the window, constant.
        credit: (K, B, N) gradient of the meta-loss in each update.
        index: (n,) the units, as `Observation.take` counts them.
        weight: (n,) factor of each unit.
        told: whether the steps of the window were not the rule's, so that it was told of each.
    """
    if rule.coupling == "none":
        credit = credit.flatten(1)[:, index].unsqueeze(-1)
    else:
        credit = credit[:, index]
    credit = credit * weight.unsqueeze(-1)
    state = rule.take(state, index)
    total = torch.zeros((), device=credit.device, dtype=credit.dtype)
    before = None
    for observation, credit_s in zip(seen, credit, strict=True):
        now = observation.take(index, rule.coupling)
        if told and before is not None:
            state = rule.told(state, now.theta - before)
        update, state = rule.step(now, state)
        total = total + (update * credit_s).sum()
        before = now.theta
    return _gradients(total, rule)


def stratified_subset(
    spec: ParamSpec, problems: int, size: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Draw coordinates without replacement, from every tensor in proportion to its size.

    Args:
        spec: layout of the N coordinates of a problem.
        problems: B.
        size: coordinates wanted; every tensor gets at least one, none more than it has.
        rng: draws.

    Returns:
        index (n,) into the flat B*N coordinates, and weight (n,), a tensor's coordinates over
        those drawn from it, so that weighted sums are unbiased.
    """
    indices, weights = [], []
    for tensor in spec.tensors:
        available = problems * tensor.size
        drawn = min(available, max(1, round(size * tensor.size / spec.size)))
        flat = rng.choice(available, drawn, replace=False)
        indices.append(flat // tensor.size * spec.size + tensor.start + flat % tensor.size)
        weights.append(np.full(drawn, available / drawn))
    return torch.from_numpy(np.concatenate(indices)), torch.from_numpy(np.concatenate(weights))


def _credit(slope: Tensor, grads: list[Tensor]) -> Tensor:
    """c_s = sum_{t>s} slope_t grad_t: slopes (K, B), K gradients (B, N) -> (K, B, N)."""
    credit = torch.stack(grads).mul_(slope.unsqueeze(-1))
    for s in reversed(range(len(credit) - 1)):
        credit[s] += credit[s + 1]
    return credit


def _gradients(scalar: Tensor, rule: LearnedOptimizer) -> list[Tensor]:
    """Gradient of a scalar in every meta-parameter, zeros where it has none."""
    parameters = meta_parameters(rule)
    if not scalar.requires_grad:
        return [torch.zeros_like(parameter) for parameter in parameters]
    grads = torch.autograd.grad(scalar, parameters, allow_unused=True, materialize_grads=True)
    return list(grads)


def laid_out(flat: Tensor, rule: LearnedOptimizer) -> list[Tensor]:
    """Cut a vector (D,) into the shapes of a rule's D meta-parameters, in their order."""
    parameters = meta_parameters(rule)
    parts = flat.split([parameter.numel() for parameter in parameters])
    return [part.view_as(like) for part, like in zip(parts, parameters, strict=True)]


def meta_parameters(rule: LearnedOptimizer) -> list[torch.nn.Parameter]:
    """The meta-parameters of a rule that has some.

    Raises:
        ValueError: if it has none.
    """
    parameters = list(rule.parameters())
    if not parameters:
        raise ValueError(f"{type(rule).__name__} has no meta-parameters: there is nothing to train")
    return parameters
