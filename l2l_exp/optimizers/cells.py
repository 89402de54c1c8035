"""Recurrent cells written from matrix products, features first."""

import math

import torch
from torch import Tensor, nn


class LSTMCell(nn.Module):
    """An LSTM cell with a forget gate, over n independent units: features (F, n).

    Written out because `nn.LSTMCell` cannot be vmapped, and because features first (H, n) lets
    every gate be a contiguous slice of one product. What bounds its speed is how often the gates
    are walked through, so that the bias is one more column of that product.

    Args:
        inputs: number of input features, >= 1.
        hidden_units: H, >= 1.
        forget_bias: initial bias of the forget gate.
        rng: draws the weights, uniform in +-1/sqrt(H).
    """

    def __init__(
        self, inputs: int, hidden_units: int, *, forget_bias: float, rng: torch.Generator
    ) -> None:
        super().__init__()
        self.hidden_units = hidden_units
        bound = 1 / math.sqrt(hidden_units)

        def uniform(columns: int) -> nn.Parameter:
            return nn.Parameter(
                bound * (2 * torch.rand(4 * hidden_units, columns, generator=rng) - 1)
            )

        self.input_weight = uniform(inputs)  # rows: input, forget, output gate, candidate
        self.recurrent_weight = uniform(hidden_units)
        bias = torch.zeros(4, hidden_units)
        bias[1] = forget_bias
        self.bias = nn.Parameter(bias.reshape(-1, 1))

    def forward(self, signal: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Advance one step.

        Args:
            signal: (inputs, n).
            h: (H, n) previous output.
            c: (H, n) previous cell.

        Returns:
            The next output and cell, (H, n) each.
        """
        weight = torch.cat([self.input_weight, self.recurrent_weight, self.bias], 1)
        gates = weight @ torch.cat([signal, h, signal.new_ones(1, signal.shape[1])])
        squashed, candidate = gates.split((3 * self.hidden_units, self.hidden_units))
        if not torch.is_grad_enabled():
            return _finish_in_place(squashed, candidate, c)
        admit, keep, expose = torch.sigmoid(squashed).chunk(3)
        c = keep * c + admit * torch.tanh(candidate)
        return expose * torch.tanh(c), c


def _finish_in_place(squashed: Tensor, candidate: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """The same from the gates on, which are overwritten: for where no graph is kept."""
    admit, keep, expose = squashed.sigmoid_().chunk(3)
    c = torch.addcmul(keep.mul_(c), admit, candidate.tanh_())
    return torch.tanh(c).mul_(expose), c


class GRUCell(nn.Module):
    """A gated recurrent unit over n independent units, as in `torch.nn.GRUCell`: features (F, n).

        reset, keep = sigmoid(W x + U h + b),
        candidate = tanh(W x + b + reset * (U h + candidate_bias)),
        h' = keep * h + (1 - keep) * candidate.

    Args:
        inputs: number of input features, >= 1.
        hidden_units: H, >= 1.
        keep_bias: initial bias of the gate that keeps h (torch: the update gate).
        rng: draws the weights, uniform in +-1/sqrt(H).

    Source: Cho et al. 2014, arXiv:1406.1078, with the reset after the product, as in cuDNN.
    """

    def __init__(
        self, inputs: int, hidden_units: int, *, keep_bias: float, rng: torch.Generator
    ) -> None:
        super().__init__()
        self.hidden_units = hidden_units
        bound = 1 / math.sqrt(hidden_units)

        def uniform(columns: int) -> nn.Parameter:
            return nn.Parameter(
                bound * (2 * torch.rand(3 * hidden_units, columns, generator=rng) - 1)
            )

        self.input_weight = uniform(inputs)  # rows: reset gate, keep gate, candidate
        self.recurrent_weight = uniform(hidden_units)
        bias = torch.zeros(3, hidden_units)
        bias[1] = keep_bias
        self.bias = nn.Parameter(bias.reshape(-1, 1))
        self.candidate_bias = nn.Parameter(torch.zeros(hidden_units, 1))

    def forward(self, signal: Tensor, h: Tensor) -> Tensor:
        """Advance one step.

        Args:
            signal: (inputs, n).
            h: (H, n) previous output.

        Returns:
            The next output (H, n).
        """
        sizes = (2 * self.hidden_units, self.hidden_units)
        gates, candidate = torch.addmm(self.bias, self.input_weight, signal).split(sizes)
        recurrent, back = (self.recurrent_weight @ h).split(sizes)
        back = back + self.candidate_bias
        if not torch.is_grad_enabled():
            reset, keep = (gates + recurrent).sigmoid_().chunk(2)
            candidate = torch.addcmul(candidate, reset, back).tanh_()
        else:
            reset, keep = torch.sigmoid(gates + recurrent).chunk(2)
            candidate = torch.tanh(candidate + reset * back)
        return torch.lerp(candidate, h, keep)
