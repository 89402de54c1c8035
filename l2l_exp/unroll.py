"""The one inner loop: used by meta-training, validation, evaluation and baselines alike."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from l2l_exp.optimizees.base import Data, Optimizee, Problem
from l2l_exp.optimizers.base import LearnedOptimizer, Observation, State, map_state

Attached = Literal["nothing", "loss", "everything"]


class Carry(NamedTuple):
    """Where an episode stands after `seen.step` inner steps."""

    theta: Tensor  # (B, N)
    loss: Tensor  # (B,) minibatch loss at theta, attached to theta where that was asked for
    seen: Observation  # what the rule will see next
    state: State

    def detach(self) -> "Carry":
        """The same values, cut off from every graph: what is carried over a truncation."""
        return Carry(
            self.theta.detach(),
            self.loss.detach(),
            self.seen.detach(),
            map_state(Tensor.detach, self.state),
        )


@dataclass(frozen=True)
class Episode:
    """B problems that are optimized for `horizon` inner steps.

    Attributes:
        optimizee: the distribution that the problems come from.
        problem: the B problems.
        horizon: inner steps of the whole episode, >= 1.
        attached: what keeps a graph back to the updates: "nothing"; the "loss", while what the
            rule sees is a constant (first order, paper section 2.1); or "everything", the
            gradient that the rule sees too (second order).
    """

    optimizee: Optimizee
    problem: Problem
    horizon: int
    attached: Attached = "nothing"

    def start(self, rule: LearnedOptimizer) -> Carry:
        """Fresh theta and fresh state."""
        theta = self.optimizee.init(self.problem.index, self.problem.seed)
        return self.carry(theta, 0, rule.init_state(theta, self.optimizee.spec))

    def carry(self, theta: Tensor, step: int, state: State) -> Carry:
        """Observe the problems at theta (B, N) with the minibatch of inner step `step`."""
        data = self.optimizee.minibatch(self.problem, step)
        loss, grad = differentiate(self.optimizee, theta, data, self.attached)
        seen = Observation(grad, theta, loss, step, self.horizon, self.optimizee.spec)
        if self.attached != "everything":
            seen = seen.detach()
        return Carry(theta, loss, seen, state)


def unroll(
    episode: Episode,
    rule: LearnedOptimizer,
    carry: Carry,
    steps: int,
    *,
    reuse_state: bool = False,
) -> Iterator[Carry]:
    """Take inner steps: theta_{t+1} = theta_t + update_t; yield the carry after each of them.

    Args:
        episode: the problems.
        rule: proposes the updates.
        carry: where to start; it is not changed.
        steps: inner steps to take.
        reuse_state: whether a step may overwrite the state of the carry before it, which is faster
            where there are many coordinates. Without a graph only; of the carries yielded only the
            latest then has its state, all else of them stays.
    """
    for number in range(steps):
        step = rule.step_in_place if reuse_state and number else rule.step
        update, state = step(carry.seen, carry.state)
        carry = episode.carry(carry.theta + update, carry.seen.step + 1, state)
        yield carry


def differentiate(
    optimizee: Optimizee, theta: Tensor, data: Data, attached: Attached = "nothing"
) -> tuple[Tensor, Tensor]:
    """Loss (B,) and gradient (B, N) of each problem at theta (B, N) on data (B, ...)."""
    if attached == "nothing":
        if optimizee.batching == "vmap":
            return _constants(optimizee, theta, data)
        places = [slice(index, index + 1) for index in range(theta.shape[0])]
        pairs = [_constants(optimizee, theta[place], _rows(data, place)) for place in places]
        losses, grads = zip(*pairs, strict=True)
        return torch.cat(losses), torch.cat(grads)
    if not theta.requires_grad:
        theta = theta.detach().requires_grad_()
    loss = _loss(optimizee, theta, data)
    (grad,) = torch.autograd.grad(
        loss.sum(), theta, create_graph=attached == "everything", retain_graph=True
    )
    return loss, grad


def _constants(optimizee: Optimizee, theta: Tensor, data: Data) -> tuple[Tensor, Tensor]:
    """Loss and gradient without a graph, also where gradients are switched off."""
    with torch.enable_grad():
        theta = theta.detach().requires_grad_()
        loss = _loss(optimizee, theta, data)
        (grad,) = torch.autograd.grad(loss.sum(), theta)
    return loss.detach(), grad


def _loss(optimizee: Optimizee, theta: Tensor, data: Data) -> Tensor:
    """Loss (B,) of each problem, all at once or one after the other."""
    if optimizee.batching == "vmap":
        return vmap(optimizee.loss)(theta, data)
    rows = range(theta.shape[0])
    return torch.stack([optimizee.loss(theta[row], _rows(data, row)) for row in rows])


def _rows(data: Data, place: int | slice) -> Data:
    """The data of one problem, or of some."""
    return {name: tensor[place] for name, tensor in data.items()}
