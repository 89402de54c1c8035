"""The one inner loop: used by meta-training, validation, evaluation and baselines alike."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

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


def unroll(episode: Episode, rule: LearnedOptimizer, carry: Carry, steps: int) -> Iterator[Carry]:
    """Take inner steps: theta_{t+1} = theta_t + update_t; yield the carry after each of them."""
    for _ in range(steps):
        update, state = rule.step(carry.seen, carry.state)
        carry = episode.carry(carry.theta + update, carry.seen.step + 1, state)
        yield carry


def differentiate(
    optimizee: Optimizee, theta: Tensor, data: Data, attached: Attached = "nothing"
) -> tuple[Tensor, Tensor]:
    """Loss (B,) and gradient (B, N) of each problem at theta (B, N) on data (B, ...)."""
    if attached == "nothing":
        gradient = grad_and_value(optimizee.loss)
        if optimizee.batching == "vmap":
            grad, loss = vmap(gradient)(theta.detach(), data)
        else:
            pairs = [gradient(one, datum) for one, datum in _problems(theta.detach(), data)]
            grad, loss = (torch.stack(parts) for parts in zip(*pairs, strict=True))
        return loss, grad
    if not theta.requires_grad:
        theta = theta.detach().requires_grad_()
    if optimizee.batching == "vmap":
        loss = vmap(optimizee.loss)(theta, data)
    else:
        loss = torch.stack([optimizee.loss(one, datum) for one, datum in _problems(theta, data)])
    (grad,) = torch.autograd.grad(
        loss.sum(), theta, create_graph=attached == "everything", retain_graph=True
    )
    return loss, grad


def _problems(theta: Tensor, data: Data) -> Iterator[tuple[Tensor, Data]]:
    """Each problem's theta (N,) and data, one after the other."""
    for index in range(theta.shape[0]):
        yield theta[index], {name: tensor[index] for name, tensor in data.items()}
