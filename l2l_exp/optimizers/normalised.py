"""A controller of a dense memory: BFGS, corrected by what was learned, or learned from nothing."""

import torch
from torch import Tensor

from l2l_exp.optimizers.base import Observation
from l2l_exp.optimizers.ntm_bfgs import Heads, check_heads
from l2l_exp.optimizers.sizes import or_one, pair_of, rms, root
from l2l_exp.optimizers.unit_free import (
    UnitFree,
    UnitFreeState,
    Vectors,
    changes,
    curvature_scale,
)


class NormalisedController(UnitFree):
    """The controller of a dense memory: learned writes, with or without BFGS's own.

        write = |s| / (|y| n) * write_scale * left right^T,

    in the units of an inverse Hessian. With `textbook`, BFGS's own three writes come on top,
    before M g is read, and the multiple of I becomes s.y / y.y at the first pair: with heads that
    say nothing the rule is BFGS with steps of length 1, and what is learned are corrections.

    Args:
        textbook: whether BFGS's own writes are made.
        write_heads: W >= 1.
        hidden_units, layers, global_cells, forget_bias, readout_std, free_scale, write_scale,
            seed: as for `UnitFree`.

    Raises:
        ValueError: for a value outside its range.
    """

    def __init__(
        self,
        textbook: bool = True,
        write_heads: int = 3,
        hidden_units: int = 20,
        layers: int = 2,
        global_cells: int = 5,
        forget_bias: float = 1.0,
        readout_std: float = 0.001,
        free_scale: float = 0.1,
        write_scale: float = 0.03,
        seed: int = 0,
    ) -> None:
        check_heads(self.read_heads, write_heads, self.read_delay)
        super().__init__(
            2 * write_heads, hidden_units, layers, global_cells, forget_bias, readout_std,
            free_scale, write_scale, seed,
        )  # fmt: skip
        if not textbook and not readout_std > 0:
            raise ValueError(f"readout_std={readout_std} must be > 0 where all writes are learned")
        self.textbook = textbook

    def rescaled(self, seen: Observation, state: UnitFreeState, multiple: Tensor) -> Tensor:
        """With `textbook`, s.y / y.y at the first pair that counts."""
        if not self.textbook:
            return multiple
        y, s = changes(seen, state)
        scale, good = curvature_scale(s, y)
        return torch.where(good & (state.scaled == 0), scale, multiple)

    def forward(
        self, seen: Observation, answers: Tensor, state: UnitFreeState
    ) -> tuple[Heads, UnitFreeState]:
        """Advance the LSTM, and give its writes their units."""
        y, s = changes(seen, state)
        vectors = Vectors(seen.grad, answers[0], y, answers[1], s)
        lefts, rights = [], []
        if self.textbook:
            left, right, direction = _bfgs(vectors)
            vectors = vectors._replace(direction=direction)
            lefts.append(left)
            rights.append(right)
        sizes = rms(torch.stack(vectors))
        update, heads, after = self.advance(seen, vectors, sizes, state)
        unit = torch.where(sizes[2] > 0, sizes[4] / or_one(sizes[2]), 0.0) / y.shape[-1]
        left, right = (root(unit) * heads).chunk(2)
        left = torch.cat([*lefts, self.write_scale * left])
        return Heads(update, answers[:0], left, torch.cat([*rights, right])), after


def _bfgs(seen: Vectors) -> tuple[Tensor, Tensor, Tensor]:
    """BFGS's three writes (left and right, (3, B, N) each), and M+ g of the memory after them.

    With s, y and v = M y over the sizes of s, y and s, M+ - M is |s| / |y| times what the same
    formula makes of them, so that nothing overflows where s and y are tiny.
    """
    s, y, _, ratio, good = pair_of(seen.s, seen.y)
    v = seen.change / or_one(rms(seen.s))
    rho = torch.where(good, 1 / torch.where(good, _dot(s, y), 1.0), 0.0)
    c = rho + rho.square() * _dot(y, v)
    left = ratio.sqrt() * torch.stack([c * s, -rho * s, -rho * v])
    right = ratio.sqrt() * torch.stack([s, v, s])
    added = (left * _dot(right, seen.grad)).sum(0)
    return left, right, seen.direction + added


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """Inner products over the last axis, kept."""
    return (one * other).sum(-1, keepdim=True)
