"""Recurrent rules on chosen inputs: an LSTM or a GRU per coordinate, RNNprop among them."""

import math
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers.base import LearnedOptimizer, Observation
from l2l_exp.optimizers.cells import GRUCell, LSTMCell
from l2l_exp.optimizers.inputs import Inputs, InputState, MomentRatios

Cell = Literal["lstm", "gru"]


class RecurrentState(NamedTuple):
    """State of every coordinate, features first."""

    h: tuple[Tensor, ...]  # per layer (H, B, N), the output
    c: tuple[Tensor, ...]  # per layer (H, B, N), an LSTM's cell; none for a GRU
    inputs: InputState  # (B, N) each


class RecurrentRule(LearnedOptimizer):
    """Update of a coordinate = output_scale * readout(RNN(ELU(embedding(inputs)))).

    With moment ratios as inputs, LSTM cells and a bounded output it is RNNprop.

    Args:
        inputs: what the cells are told; moment ratios if not given.
        cell: "lstm" or "gru".
        hidden_units: H, >= 1, cells per layer.
        layers: >= 1.
        embedding: >= 1, units of a linear layer and ELU before the cells; None for none.
        output_scale: >= 0, constant factor on the output.
        bounded: whether the output passes through tanh, which bounds a step by `output_scale`.
        memory_bias: initial bias of the gates that keep the state (forget gate, update gate).
        readout_std: >= 0, the readout's weights start as N(0, readout_std^2), its bias as 0.
        seed: of the initial meta-parameters.

    Raises:
        ValueError: for a value outside these ranges.

    Source: Lv, Jiang, Li 2017, arXiv:1703.03633, section 4 (RNNprop); Cho et al. 2014 (GRU).
    """

    coupling = "none"

    def __init__(
        self,
        inputs: Inputs | None = None,
        cell: Cell = "lstm",
        hidden_units: int = 20,
        layers: int = 2,
        embedding: int | None = 20,
        output_scale: float = 0.1,
        bounded: bool = True,
        memory_bias: float = 1.0,
        readout_std: float = 0.01,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("hidden_units", hidden_units, 1),
            ("layers", layers, 1),
            ("embedding", 1 if embedding is None else embedding, 1),
            ("output_scale", output_scale, 0),
            ("readout_std", readout_std, 0),
        ):
            if not value >= least:
                raise ValueError(f"{name}={value} must be >= {least}")
        if cell not in get_args(Cell):
            raise ValueError(f"cell={cell!r} must be one of {', '.join(get_args(Cell))}")
        self.inputs = inputs if inputs is not None else MomentRatios()
        self.hidden_units = hidden_units
        self.output_scale = output_scale
        self.bounded = bounded
        rng = torch.Generator().manual_seed(seed)
        size = self.inputs.size
        if embedding is not None:
            std = 1 / math.sqrt(size)
            self.embedding = nn.Parameter(std * torch.randn(embedding, size, generator=rng))
            self.embedding_bias = nn.Parameter(torch.zeros(embedding, 1))
            size = embedding
        self.embedded = embedding is not None
        sizes = [size] + [hidden_units] * (layers - 1)
        self.cells = nn.ModuleList(
            LSTMCell(size, hidden_units, forget_bias=memory_bias, rng=rng)
            if cell == "lstm"
            else GRUCell(size, hidden_units, keep_bias=memory_bias, rng=rng)
            for size in sizes
        )
        self.readout = nn.Parameter(readout_std * torch.randn(1, hidden_units, generator=rng))
        self.readout_bias = nn.Parameter(torch.zeros(1, 1))

    def init_state(self, theta: Tensor, spec: ParamSpec) -> RecurrentState:
        """Zeros; the same tensor everywhere, since no step changes it."""
        zeros = theta.new_zeros(self.hidden_units, *theta.shape)
        cells = sum(isinstance(cell, LSTMCell) for cell in self.cells)
        return RecurrentState(
            (zeros,) * len(self.cells), (zeros,) * cells, self.inputs.init_state(theta)
        )

    def step(self, seen: Observation, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        """Propose an update for every coordinate: (B, N), already scaled."""
        features, inputs = self.inputs(seen, state.inputs)
        signal = features.flatten(1)
        if self.embedded:
            signal = nn.functional.elu(torch.addmm(self.embedding_bias, self.embedding, signal))
        outputs, kept = [], []
        for layer, cell in enumerate(self.cells):
            h = state.h[layer].flatten(1)
            if isinstance(cell, LSTMCell):
                signal, inner = cell(signal, h, state.c[layer].flatten(1))
                kept.append(inner.view(state.c[layer].shape))
            else:
                signal = cell(signal, h)
            outputs.append(signal.view(state.h[layer].shape))
        output = torch.addmm(self.readout_bias, self.readout, signal).view(seen.grad.shape)
        if self.bounded:
            output = torch.tanh(output)
        return self.output_scale * output, RecurrentState(tuple(outputs), tuple(kept), inputs)
