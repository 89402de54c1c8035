"""The paper's plain controller of NTM-BFGS: encodings in, linear heads out."""

import torch
from torch import Tensor, nn

from l2l_exp.optimizers.base import Observation
from l2l_exp.optimizers.encoding import Encoding, LogSign
from l2l_exp.optimizers.gac import AveragingLSTM
from l2l_exp.optimizers.lstm import LSTMState
from l2l_exp.optimizers.ntm_bfgs import Controller, Heads, check_heads


class EncodedController(Controller):
    """The paper's: an LSTM with global averaging cells on encodings of the gradient and the reads.

    Every head is a linear readout of the LSTM's output. Read vectors of the same step
    (`read_delay` 0) are a readout of the output before, plus a learned multiple of the gradient,
    without which a textbook read could not be expressed.

    Args:
        read_heads: R >= 1 (paper: 1 is enough to simulate BFGS).
        write_heads: W >= 1 (paper: 3).
        read_delay: 1, what is read is seen at the next step (paper); 0, at the same.
        hidden_units, layers, global_cells, forget_bias: of the LSTM (paper: 2 global cells).
        encoding: of the gradient and of what is read; log-and-sign with p = 10 if not given.
        readout_std: > 0, the heads' weights start as N(0, readout_std^2), their biases as 0.
        write_scale: > 0, constant factor on both vectors of a write.
        seed: of the initial meta-parameters.

    Raises:
        ValueError: for a value outside these ranges.

    Source: arXiv:1606.04474, appendix D.
    """

    needs_memory = False

    def __init__(
        self,
        read_heads: int = 1,
        write_heads: int = 3,
        read_delay: int = 1,
        hidden_units: int = 20,
        layers: int = 2,
        global_cells: int = 2,
        encoding: Encoding | None = None,
        forget_bias: float = 1.0,
        readout_std: float = 0.01,
        write_scale: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_heads(read_heads, write_heads, read_delay)
        for name, value in (("readout_std", readout_std), ("write_scale", write_scale)):
            if not value > 0:
                raise ValueError(f"{name}={value} must be > 0")
        self.read_heads, self.write_heads = read_heads, write_heads
        self.read_delay, self.write_scale = read_delay, write_scale
        rng = torch.Generator().manual_seed(seed)
        self.encoding = encoding if encoding is not None else LogSign()
        self.lstm = AveragingLSTM(
            (1 + read_heads) * self.encoding.size, hidden_units, layers, global_cells, "problem",
            forget_bias=forget_bias, rng=rng,
        )  # fmt: skip
        heads = 1 + read_heads + 2 * write_heads
        self.readout = nn.Parameter(readout_std * torch.randn(heads, hidden_units, generator=rng))
        self.readout_bias = nn.Parameter(torch.zeros(heads, 1))
        if not read_delay:
            self.gradient_query = nn.Parameter(torch.ones(read_heads, 1, 1))

    def init_state(self, theta: Tensor) -> LSTMState:
        """Zeros, (H, B, N) per layer."""
        return self.lstm.init_state(theta)

    def query(self, seen: Observation, state: LSTMState) -> Tensor:
        """Read vectors (R, B, N) from the output before and the gradient."""
        return self._heads(state.h[-1])[1 : 1 + self.read_heads] + self.gradient_query * seen.grad

    def forward(
        self, seen: Observation, answers: Tensor, state: LSTMState
    ) -> tuple[Heads, LSTMState]:
        """Advance the LSTM and read the heads out."""
        inputs = torch.cat([seen.grad.unsqueeze(0), answers])
        features = [self.encoding(x.flatten()).view(-1, *x.shape) for x in inputs]
        signal, after = self.lstm(torch.cat(features), state, seen.spec)
        heads, reads, writes = self._heads(signal), self.read_heads, self.write_heads
        vectors = self.write_scale * heads[1 + reads :]
        asked = heads[1 : 1 + reads] if self.read_delay else heads[:0]
        return Heads(heads[0], asked, vectors[:writes], vectors[writes:]), after

    def _heads(self, signal: Tensor) -> Tensor:
        """All heads (1 + R + 2W, B, N) of an output (H, B, N)."""
        flat = torch.addmm(self.readout_bias, self.readout, signal.flatten(1))
        return flat.view(-1, *signal.shape[1:])
