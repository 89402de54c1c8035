"""What others do: the paper's rule as public PyTorch ports write it, the thing to compare with.

`nn.LSTMCell` with the coordinates as its batch, log-and-sign preprocessing, a linear readout,
and autograd through the whole window; the gradient that the rule sees is detached.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import vmap

from l2l_exp.meta.gradients import Estimate, MetaGradient, Objective
from l2l_exp.optimizers.base import LearnedOptimizer
from l2l_exp.optimizers.encoding import LogSign
from l2l_exp.optimizers.lstm import CoordinatewiseLSTM, LSTMState
from l2l_exp.unroll import Carry, Episode

Memory = list[tuple[Tensor, Tensor]]
"""Per layer output and cell, (n, H) each."""


class PlainPort(nn.Module):
    """The rule, over n coordinates.

    Args:
        hidden_units: H, >= 1, of both layers.
        p: of the preprocessing.
        output_scale: factor on the output.
    """

    def __init__(self, hidden_units: int = 20, p: float = 10.0, output_scale: float = 0.1) -> None:
        super().__init__()
        self.p = p
        self.output_scale = output_scale
        self.first = nn.LSTMCell(2, hidden_units)
        self.second = nn.LSTMCell(hidden_units, hidden_units)
        self.output = nn.Linear(hidden_units, 1)

    def forward(self, grad: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Gradient (n,) -> update (n,), and what it remembers."""
        one = self.first(self.preprocess(grad), memory[0])
        two = self.second(one[0], memory[1])
        return self.output_scale * self.output(two[0]).squeeze(1), [one, two]

    def preprocess(self, grad: Tensor) -> Tensor:
        """(n,) -> (n, 2): (log|x| / p, sign x) where |x| >= e^-p, elsewhere (-1, e^p x)."""
        large = grad.abs() >= math.exp(-self.p)
        size = torch.where(large, torch.log(grad.abs()) / self.p, -torch.ones_like(grad))
        sign = torch.where(large, torch.sign(grad), math.exp(self.p) * grad)
        return torch.stack([size, sign], dim=1)


def window(
    port: PlainPort, episode: Episode, theta: Tensor, memory: Memory, start: int, steps: int
) -> tuple[Tensor, Tensor, Memory]:
    """Take `steps` inner steps from inner step `start`, keeping the graph.

    Args:
        theta: (B, N), a constant.
        memory: of the B * N coordinates, a constant.

    Returns:
        Losses after each step (K, B), the last theta (B, N), and what the port remembers.
    """
    optimizee, problem = episode.optimizee, episode.problem

    def evaluate(theta: Tensor, step: int) -> Tensor:
        return vmap(optimizee.loss)(theta, optimizee.minibatch(problem, step))

    theta = theta.requires_grad_()
    loss, losses = evaluate(theta, start), []
    for step in range(start + 1, start + steps + 1):
        (grad,) = torch.autograd.grad(loss.sum(), theta, retain_graph=True)
        update, memory = port(grad.detach().flatten(), memory)
        theta = theta + update.view_as(theta)
        loss = evaluate(theta, step)
        losses.append(loss)
    return torch.stack(losses), theta, memory


class PortGradient(MetaGradient):
    """The port in the place of an estimator: it trains our rule, by a copy of its weights."""

    attached = "loss"

    def __call__(
        self,
        episode: Episode,
        rule: LearnedOptimizer,
        carry: Carry,
        steps: int,
        objective: Objective,
        rng: np.random.Generator,
    ) -> Estimate:
        """Unroll the port with a graph, and differentiate the meta-loss."""
        port = port_of(rule)
        memory, step = memory_of(carry.state), carry.seen.step
        theta = carry.theta.detach().clone()
        losses, theta, memory = window(port, episode, theta, memory, step, steps)
        meta_loss = objective(losses)
        meta_loss.backward()
        state = state_of(memory, carry.theta.shape)
        last = episode.carry(theta.detach(), step + steps, state).detach()
        return Estimate(gradients_of(port, rule), meta_loss.item(), losses.detach(), last)


def port_of(rule: LearnedOptimizer) -> PlainPort:
    """A port with the weights of one of our rules.

    Raises:
        TypeError: if it is not a coordinatewise LSTM of two layers with a log-and-sign encoding.
    """
    if (
        not isinstance(rule, CoordinatewiseLSTM)
        or len(rule.cells) != 2
        or not isinstance(rule.encoding, LogSign)
    ):
        raise TypeError("the port is a LSTM of two layers that sees logarithm and sign")
    port = PlainPort(rule.hidden_units, rule.encoding.p, rule.output_scale).to(rule.readout)
    with torch.no_grad():
        for name, theirs in _parameters(port).items():
            theirs.copy_(_reordered(name, rule.get_parameter(name)).view_as(theirs))
        port.first.bias_hh.zero_()
        port.second.bias_hh.zero_()
    return port


def gradients_of(port: PlainPort, rule: LearnedOptimizer) -> list[Tensor]:
    """The port's gradients in the order and the layout of `rule.parameters()`."""
    theirs = _parameters(port)
    grads = []
    for name, parameter in rule.named_parameters():
        grad = theirs[name].grad
        assert grad is not None
        grads.append(_reordered(name, grad).view_as(parameter))
    return grads


def memory_of(state: LSTMState) -> Memory:
    """Our state (H, B, N) as the port's (B * N, H)."""
    return [
        (h.flatten(1).T.contiguous(), c.flatten(1).T.contiguous())
        for h, c in zip(state.h, state.c, strict=True)
    ]


def state_of(memory: Memory, shape: torch.Size) -> LSTMState:
    """Inverse of `memory_of`, for theta's shape (B, N)."""
    h, c = ([x.detach().T.reshape(-1, *shape) for x in part] for part in zip(*memory, strict=True))
    return LSTMState(tuple(h), tuple(c))


def _parameters(port: PlainPort) -> dict[str, Tensor]:
    """The port's parameters by the names that ours have."""
    return {
        "cells.0.input_weight": port.first.weight_ih,
        "cells.0.recurrent_weight": port.first.weight_hh,
        "cells.0.bias": port.first.bias_ih,
        "cells.1.input_weight": port.second.weight_ih,
        "cells.1.recurrent_weight": port.second.weight_hh,
        "cells.1.bias": port.second.bias_ih,
        "readout": port.output.weight,
        "readout_bias": port.output.bias,
    }


def _reordered(name: str, rows: Tensor) -> Tensor:
    """Gates between our order and torch's, which has the candidate before the output gate."""
    if name.startswith("readout"):
        return rows
    admit, keep, third, fourth = rows.chunk(4)
    return torch.cat([admit, keep, fourth, third])
