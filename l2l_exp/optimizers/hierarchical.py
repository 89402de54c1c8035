"""A hierarchy of recurrent units: for every coordinate, for every tensor, for the whole problem."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers import per_tensor
from l2l_exp.optimizers.averages import inverse
from l2l_exp.optimizers.base import LearnedOptimizer, Observation
from l2l_exp.optimizers.cells import GRUCell
from l2l_exp.optimizers.sizes import hypot, log_ratio, rms, root

FLOOR = 1e-6
"""Gradients below this share of the problem's are taken for smaller ones: rounding is among them.

Biases before a normalisation have such gradients; in their own size they would be inputs of the
tensor's unit and the problem's, so that rounding would be heard everywhere.
"""
QUIET = 1e-3
"""Directions of a size below this are not blown up to unit size: their tensors all but rest."""
LARGEST = 8.0
"""Bound on logarithms: of relative sizes, and of the learning rate over `output_scale`."""


class HierarchicalState(NamedTuple):
    """State of `Hierarchical`: S scales, K tensors, H0, H1 and H2 units of the three levels."""

    units: Tensor  # (H0, B, N)
    tensor_units: Tensor  # (H1, B, K)
    problem_units: Tensor  # (H2, B, 1)
    averages: Tensor  # (S, B, N) of the gradient
    roots: Tensor  # (S, B, N) of the averages' mean squares
    input_decay: Tensor  # (B, N) of the first average, 0 at first: it begins as the gradient
    scale_decay: Tensor  # (B, N) of the squares
    log_rate: Tensor  # (B, N) logarithm of the learning rate over `output_scale`


class Hierarchical(LearnedOptimizer):
    """Three levels of GRUs, and a learning rate that they change.

        update = output_scale * exp(log rate) * direction / root(rms(direction)^2 + 1e-6),

    rms over the tensor. Inputs of a coordinate: gradients averaged over several time scales, each
    over the root of its running mean square, held above a millionth of the problem's (a); products
    of neighbouring a; logarithms of the mean squares, relative to their mean over the scales; log
    rate, relative to its mean over the tensor. The GRU of a tensor takes the mean over coordinates
    of their inputs and units, the problem's the mean over tensors of theirs; what they say biases
    the levels below at the next step. The direction is a readout of the units plus a learned
    combination of the a, which begins as minus their mean. Decays are readouts too; every average
    has twice the time scale of the one before.

    The loss's scale does not matter, in float32 while gradients are between 1e-30 and 1e30; nor
    does the order of tensors, or of coordinates in a tensor.

    Args:
        units: H0 >= 1, of every coordinate (paper: 10).
        tensor_units: H1 >= 1, of every tensor (paper: 20).
        problem_units: H2 >= 1 (paper: 20).
        scales: S >= 2, time scales (paper: 4).
        output_scale: >= 0, the learning rate to start with.
        keep_bias: initial bias of the gates that keep a unit (paper's code: 2.2).
        readout_std: >= 0, readouts start as N(0, readout_std^2).
        seed: of the initial meta-parameters.

    Raises:
        ValueError: for a value outside these ranges.

    Source: Wichrowska et al. 2017, arXiv:1703.04813, and its public code (`hierarchical_rnn.py`).
        Deviation: all coordinates start with one learning rate and units 0; there is no second
        point at which gradients are taken.
    """

    coupling = "problem"

    def __init__(
        self,
        units: int = 10,
        tensor_units: int = 20,
        problem_units: int = 20,
        scales: int = 4,
        output_scale: float = 0.01,
        keep_bias: float = 1.0,
        readout_std: float = 0.01,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("units", units, 1),
            ("tensor_units", tensor_units, 1),
            ("problem_units", problem_units, 1),
            ("scales", scales, 2),
            ("output_scale", output_scale, 0),
            ("readout_std", readout_std, 0),
        ):
            if not value >= least:
                raise ValueError(f"{name}={value} must be >= {least}")
        rng = torch.Generator().manual_seed(seed)
        inputs, above = 3 * scales, tensor_units + problem_units
        self.scales, self.output_scale = scales, output_scale
        self.cell = GRUCell(inputs + above, units, keep_bias=keep_bias, rng=rng)
        self.tensor_cell = GRUCell(
            inputs + units + problem_units, tensor_units, keep_bias=keep_bias, rng=rng
        )
        self.problem_cell = GRUCell(tensor_units, problem_units, keep_bias=keep_bias, rng=rng)
        # rows: direction, change of the log rate, logits of the decays of inputs and of scales
        self.readout = nn.Parameter(readout_std * torch.randn(4, units, generator=rng))
        self.readout_bias = nn.Parameter(torch.tensor([[0.0], [0.0], [2.2], [3.2]]))
        self.shortcut = nn.Parameter(torch.full((scales, 1, 1), -1 / scales))
        self.rate_momentum = nn.Parameter(torch.tensor(3.2))  # logit

    def init_state(self, theta: Tensor, spec: ParamSpec) -> HierarchicalState:
        """Zeros."""
        problems, none = theta.shape[0], torch.zeros_like(theta)
        histories = theta.new_zeros(self.scales, *theta.shape)
        return HierarchicalState(
            theta.new_zeros(self.cell.hidden_units, *theta.shape),
            theta.new_zeros(self.tensor_cell.hidden_units, problems, len(spec.tensors)),
            theta.new_zeros(self.problem_cell.hidden_units, problems, 1),
            histories, histories, none, none, none,
        )  # fmt: skip

    def step(self, seen: Observation, state: HierarchicalState) -> tuple[Tensor, HierarchicalState]:
        """Propose an update for every coordinate: (B, N)."""
        spec = seen.spec
        averages, roots = _averaged(seen.grad, state)
        held = hypot(roots, FLOOR * rms(roots))
        scaled = averages * inverse(held)
        inputs = _inputs(scaled, held, state.log_rate, spec)
        levels = self._advance(inputs, state, spec)
        heads = self.readout @ levels[0].flatten(1) + self.readout_bias
        direction, change, *decays = heads.view(-1, *seen.grad.shape)
        direction = direction + (self.shortcut * scaled).sum(0)
        size = (per_tensor.sizes(direction, spec).square() + QUIET**2).sqrt()
        log_rate = (state.log_rate + change).clamp(-LARGEST, LARGEST)
        kept = torch.lerp(log_rate, state.log_rate, torch.sigmoid(self.rate_momentum))
        input_decay, scale_decay = torch.sigmoid(torch.stack(decays))
        rate = self.output_scale * torch.exp(log_rate)
        return rate * direction / per_tensor.spread(size, spec), HierarchicalState(
            *levels, averages, roots, input_decay, scale_decay, kept
        )

    def _advance(
        self, inputs: Tensor, state: HierarchicalState, spec: ParamSpec
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The next units of all levels; those above are seen as they were a step before."""
        whole = state.problem_units.expand(-1, -1, len(spec.tensors))
        above = per_tensor.spread(torch.cat([state.tensor_units, whole]), spec)
        units = _cell(self.cell, torch.cat([inputs, above]), state.units)
        below = per_tensor.means(torch.cat([inputs, units]), spec)
        tensor_units = _cell(self.tensor_cell, torch.cat([below, whole]), state.tensor_units)
        mean = tensor_units.mean(-1, keepdim=True)
        return units, tensor_units, _cell(self.problem_cell, mean, state.problem_units)


def _cell(cell: GRUCell, signal: Tensor, h: Tensor) -> Tensor:
    """One step of a cell over all problems: (F, B, n), (H, B, n) -> (H, B, n)."""
    after: Tensor = cell(signal.flatten(1), h.flatten(1))
    return after.view(h.shape)


def _averaged(grad: Tensor, state: HierarchicalState) -> tuple[Tensor, Tensor]:
    """Averages of the gradient over all scales, and roots of those of their squares: (S, B, N)."""
    decays = [state.input_decay]
    for _ in state.averages[1:]:
        decays.append(root(decays[-1]))
    averages = torch.lerp(grad.expand_as(state.averages), state.averages, torch.stack(decays))
    decay = state.scale_decay
    return averages, hypot(root(decay) * state.roots, root(1 - decay) * averages)


def _inputs(scaled: Tensor, held: Tensor, log_rate: Tensor, spec: ParamSpec) -> Tensor:
    """Inputs (3 S, B, N): scaled averages, products of neighbours, relative sizes and rate."""
    largest = held.amax(0).expand_as(held)
    logs = (2 * log_ratio(held, largest)).clamp(-LARGEST, LARGEST)  # of the squares
    relative = log_rate - per_tensor.spread(per_tensor.means(log_rate, spec), spec)
    parts = [scaled, scaled[:-1] * scaled[1:], logs - logs.mean(0), relative.unsqueeze(0)]
    return torch.cat(parts)
