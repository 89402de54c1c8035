"""The paper's rule: one small LSTM, applied to every coordinate with shared weights."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers.base import LearnedOptimizer, Observation
from l2l_exp.optimizers.cells import LSTMCell
from l2l_exp.optimizers.encoding import Encoding, LogSign

BLOCK = 16_384
"""Coordinates walked at once where no graph is kept: what they need fits the cache."""


class LSTMState(NamedTuple):
    """State of every coordinate; features first, which makes each gate one matrix product."""

    h: tuple[Tensor, ...]  # per layer (H, B, N), the output
    c: tuple[Tensor, ...]  # per layer (H, B, N), the cell


class CoordinatewiseLSTM(LearnedOptimizer):
    """Update of a coordinate = output_scale * readout(LSTM(encoding(gradient))).

    Args:
        hidden_units: H, >= 1, cells per layer (paper: 20).
        layers: >= 1 (paper: 2).
        encoding: of the gradient; log-and-sign with p = 10 if not given.
        output_scale: >= 0, constant factor on the output (paper: .1 on MNIST, 1 on quadratics).
        forget_bias: initial bias of the forget gates; 1 lets the state live from the start.
        readout_std: >= 0, the readout's weights start as N(0, readout_std^2), its bias as 0.
            Small values keep theta near its start until training has given the updates a direction.
        seed: of the initial meta-parameters.

    Raises:
        ValueError: for a value outside these ranges.

    Source: Andrychowicz et al. 2016, arXiv:1606.04474, section 2.1 and appendix A.
    """

    coupling = "none"

    def __init__(
        self,
        hidden_units: int = 20,
        layers: int = 2,
        encoding: Encoding | None = None,
        output_scale: float = 0.1,
        forget_bias: float = 1.0,
        readout_std: float = 0.01,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("hidden_units", hidden_units, 1),
            ("layers", layers, 1),
            ("output_scale", output_scale, 0),
            ("readout_std", readout_std, 0),
        ):
            if not value >= least:
                raise ValueError(f"{name}={value} must be >= {least}")
        self.encoding = encoding if encoding is not None else LogSign()
        self.hidden_units = hidden_units
        self.output_scale = output_scale
        rng = torch.Generator().manual_seed(seed)
        sizes = [self.encoding.size] + [hidden_units] * (layers - 1)
        self.cells = nn.ModuleList(
            LSTMCell(size, hidden_units, forget_bias=forget_bias, rng=rng) for size in sizes
        )
        self.readout = nn.Parameter(readout_std * torch.randn(1, hidden_units, generator=rng))
        self.readout_bias = nn.Parameter(torch.zeros(1, 1))

    def init_state(self, theta: Tensor, spec: ParamSpec) -> LSTMState:
        """Zeros, (H, B, N) per layer; the same tensor everywhere, since no step changes it."""
        zeros = (theta.new_zeros(self.hidden_units, *theta.shape),) * len(self.cells)
        return LSTMState(zeros, zeros)

    def step(self, seen: Observation, state: LSTMState) -> tuple[Tensor, LSTMState]:
        """Propose an update for every coordinate: (B, N), already scaled."""
        return self._step(seen, state, overwrite=False)

    def step_in_place(self, seen: Observation, state: LSTMState) -> tuple[Tensor, LSTMState]:
        """The same step, which may overwrite the old state: it does above `BLOCK` coordinates."""
        return self._step(seen, state, overwrite=True)

    def _step(
        self, seen: Observation, state: LSTMState, *, overwrite: bool
    ) -> tuple[Tensor, LSTMState]:
        """One step; without a graph, many coordinates are walked in blocks."""
        shape = seen.grad.shape
        grad = seen.grad.reshape(-1)
        h, c = ([x.flatten(1) for x in layers] for layers in state)
        if torch.is_grad_enabled() or grad.is_cuda or grad.numel() <= BLOCK:
            update, h, c = self._advance(grad, h, c)
        else:
            update, h, c = self._advance_blocked(grad, h, c, overwrite=overwrite)
        return update.view(shape), LSTMState(
            tuple(x.view(-1, *shape) for x in h), tuple(x.view(-1, *shape) for x in c)
        )

    def _advance(
        self, grad: Tensor, h: list[Tensor], c: list[Tensor]
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """One step of n coordinates: gradient (n,), per layer (H, n)."""
        signal, new_h, new_c = self.encoding(grad), [], []
        for cell, h_layer, c_layer in zip(self.cells, h, c, strict=True):
            signal, cell_state = cell(signal, h_layer, c_layer)
            new_h.append(signal)
            new_c.append(cell_state)
        output = torch.addmm(self.readout_bias, self.readout, signal)
        return self.output_scale * output.squeeze(0), new_h, new_c

    def _advance_blocked(
        self, grad: Tensor, h: list[Tensor], c: list[Tensor], *, overwrite: bool
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """The same without a graph, in blocks of coordinates that stay in the cache."""
        into: list[Tensor] = [grad.clone(), *h, *c] if overwrite else []
        for block in (slice(i, i + BLOCK) for i in range(0, grad.numel(), BLOCK)):
            update, new_h, new_c = self._advance(
                grad[block], [x[:, block] for x in h], [x[:, block] for x in c]
            )
            parts = [update, *new_h, *new_c]
            # Made from a part, so that it has vmap's axis where the part has it.
            into = into or [x.new_empty(*x.shape[:-1], grad.numel()) for x in parts]
            for whole, part in zip(into, parts, strict=True):
                whole[..., block] = part
        return into[0], into[1 : len(h) + 1], into[len(h) + 1 :]
