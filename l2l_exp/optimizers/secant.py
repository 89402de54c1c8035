"""A controller of a two-loop memory: L-BFGS, corrected by what was learned."""

import torch
from torch import Tensor

from l2l_exp.optimizers.base import Observation
from l2l_exp.optimizers.ntm_bfgs import Heads
from l2l_exp.optimizers.sizes import pair_of, rms
from l2l_exp.optimizers.unit_free import (
    UnitFree,
    UnitFreeState,
    Vectors,
    changes,
    curvature_scale,
)


class SecantController(UnitFree):
    """The controller of a two-loop memory: L-BFGS whose pairs, direction and step are corrected.

    Before anything is read the pair (s, y) is written, each plus write_scale times its root mean
    square times tanh of a head of the step before; the multiple of I is s.y / y.y of the latest
    pair. With heads that say nothing the rule is L-BFGS with steps of length 1.

    Args:
        hidden_units, layers, global_cells, forget_bias, readout_std, free_scale, write_scale,
            seed: as for `UnitFree`.

    Raises:
        ValueError: for a value outside its range.
    """

    reads = ("two_loop",)

    def __init__(
        self,
        hidden_units: int = 20,
        layers: int = 2,
        global_cells: int = 5,
        forget_bias: float = 1.0,
        readout_std: float = 0.001,
        free_scale: float = 0.1,
        write_scale: float = 0.03,
        seed: int = 0,
    ) -> None:
        super().__init__(
            2, hidden_units, layers, global_cells, forget_bias, readout_std, free_scale,
            write_scale, seed,
        )  # fmt: skip

    def rescaled(self, seen: Observation, state: UnitFreeState, multiple: Tensor) -> Tensor:
        """s.y / y.y of the latest pair, if it counts."""
        y, s = changes(seen, state)
        scale, good = curvature_scale(s, y)
        return torch.where(good, scale, multiple)

    def note(self, seen: Observation, state: UnitFreeState) -> tuple[Tensor, Tensor, Tensor]:
        """The latest pair, corrected: (1, B, N) each; kept where the pair itself counts (B,)."""
        y, s = changes(seen, state)
        corrections = self.write_scale * torch.tanh(self.heads_of(state.lstm.h[-1])[2:])
        pair = torch.stack([s, y])
        left, right = pair + rms(pair) * corrections
        return left.unsqueeze(0), right.unsqueeze(0), pair_of(s, y).good.squeeze(-1)

    def forward(
        self, seen: Observation, answers: Tensor, state: UnitFreeState
    ) -> tuple[Heads, UnitFreeState]:
        """Advance the LSTM; the heads' corrections are written at the next step."""
        y, s = changes(seen, state)
        vectors = Vectors(seen.grad, answers[0], y, answers[1], s)
        update, _, after = self.advance(seen, vectors, rms(torch.stack(vectors)), state)
        return Heads(update, answers[:0], answers[:0], answers[:0]), after
