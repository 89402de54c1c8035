"""LSTM + GAC: some cells of every layer average over the coordinates, so that these talk."""

from typing import Literal

import torch
from torch import Tensor, nn

from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers.base import LearnedOptimizer, Observation
from l2l_exp.optimizers.cells import LSTMCell
from l2l_exp.optimizers.encoding import Encoding, LogSign
from l2l_exp.optimizers.lstm import LSTMState

Average = Literal["problem", "tensor"]


class AveragingLSTM(nn.Module):
    """LSTM layers over every coordinate, whose first cells are global averaging cells.

    A global averaging cell computes as any other and keeps its own cell state; its output is
    replaced by the mean over the coordinates, before the next layer and the next step see it.

    Args:
        inputs: features of a coordinate, >= 1.
        hidden_units: H, >= 1, cells per layer.
        layers: >= 1.
        global_cells: in [0, H], of every layer.
        average: over the coordinates of the whole "problem", or of each "tensor".
        forget_bias: initial bias of the forget gates.
        rng: draws the weights.

    Raises:
        ValueError: for a value outside these ranges.

    Source: arXiv:1606.04474, appendix D. The paper leaves open how many cells are global, what
    the recurrent path sees, and whether tensors are averaged apart.
    """

    def __init__(
        self,
        inputs: int,
        hidden_units: int,
        layers: int,
        global_cells: int,
        average: Average,
        *,
        forget_bias: float,
        rng: torch.Generator,
    ) -> None:
        super().__init__()
        for name, value in (("hidden_units", hidden_units), ("layers", layers)):
            if value < 1:
                raise ValueError(f"{name}={value} must be >= 1")
        if not 0 <= global_cells <= hidden_units:
            raise ValueError(
                f"global_cells={global_cells} must be in [0, hidden_units={hidden_units}]"
            )
        if average not in ("problem", "tensor"):
            raise ValueError(f"average={average!r} must be one of problem, tensor")
        self.hidden_units = hidden_units
        self.global_cells = global_cells
        self.average = average
        self.cells = nn.ModuleList(
            LSTMCell(size, hidden_units, forget_bias=forget_bias, rng=rng)
            for size in [inputs] + [hidden_units] * (layers - 1)
        )

    def init_state(self, theta: Tensor) -> LSTMState:
        """Zeros, (H, B, N) per layer."""
        zeros = (theta.new_zeros(self.hidden_units, *theta.shape),) * len(self.cells)
        return LSTMState(zeros, zeros)

    def forward(
        self, features: Tensor, state: LSTMState, spec: ParamSpec
    ) -> tuple[Tensor, LSTMState]:
        """Advance one step: features (F, B, N) -> output (H, B, N), next state."""
        signal, outputs, kept = features, [], []
        for cell, h, c in zip(self.cells, *state, strict=True):
            flat, inner = cell(signal.flatten(1), h.flatten(1), c.flatten(1))
            signal = self._averaged(flat.view(h.shape), spec)
            outputs.append(signal)
            kept.append(inner.view(c.shape))
        return signal, LSTMState(tuple(outputs), tuple(kept))

    def _averaged(self, h: Tensor, spec: ParamSpec) -> Tensor:
        """Outputs (H, B, N) of a layer with the global cells' means in their places."""
        if not self.global_cells:
            return h
        own, others = h[: self.global_cells], h[self.global_cells :]
        whole = [slice(None)]
        places = whole if self.average == "problem" else [x.slice for x in spec.tensors]
        parts = [own[..., place] for place in places]
        means = [part.mean(-1, keepdim=True).expand(part.shape) for part in parts]
        return torch.cat([torch.cat(means, -1), others])


class GAC(LearnedOptimizer):
    """Update of a coordinate = output_scale * readout(LSTM with global averaging cells).

    Args:
        hidden_units: H, >= 1, cells per layer.
        layers: >= 1.
        global_cells: in [0, H], cells per layer that average; with 0 it is the plain LSTM.
        average: over the coordinates of the whole "problem" or of each "tensor".
        encoding: of the gradient; log-and-sign with p = 10 if not given.
        output_scale: >= 0, constant factor on the output.
        forget_bias: initial bias of the forget gates.
        readout_std: >= 0, the readout's weights start as N(0, readout_std^2), its bias as 0.
        seed: of the initial meta-parameters.

    Raises:
        ValueError: for a value outside these ranges.

    Source: arXiv:1606.04474, appendix D.
    """

    def __init__(
        self,
        hidden_units: int = 20,
        layers: int = 2,
        global_cells: int = 5,
        average: Average = "problem",
        encoding: Encoding | None = None,
        output_scale: float = 0.1,
        forget_bias: float = 1.0,
        readout_std: float = 0.01,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (("output_scale", output_scale), ("readout_std", readout_std)):
            if not value >= 0:
                raise ValueError(f"{name}={value} must be >= 0")
        rng = torch.Generator().manual_seed(seed)
        self.encoding = encoding if encoding is not None else LogSign()
        self.output_scale = output_scale
        self.lstm = AveragingLSTM(
            self.encoding.size, hidden_units, layers, global_cells, average,
            forget_bias=forget_bias, rng=rng,
        )  # fmt: skip
        self.coupling = average if global_cells else "none"
        self.readout = nn.Parameter(readout_std * torch.randn(1, hidden_units, generator=rng))
        self.readout_bias = nn.Parameter(torch.zeros(1, 1))

    def init_state(self, theta: Tensor, spec: ParamSpec) -> LSTMState:
        """Zeros, (H, B, N) per layer."""
        return self.lstm.init_state(theta)

    def step(self, seen: Observation, state: LSTMState) -> tuple[Tensor, LSTMState]:
        """Propose an update for every coordinate: (B, N), already scaled."""
        features = self.encoding(seen.grad.flatten()).view(-1, *seen.grad.shape)
        signal, state = self.lstm(features, state, seen.spec)
        output = torch.addmm(self.readout_bias, self.readout, signal.flatten(1))
        return self.output_scale * output.view(seen.grad.shape), state
