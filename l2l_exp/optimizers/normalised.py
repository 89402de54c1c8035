"""Controllers of NTM-BFGS whose inputs and outputs have no units."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from l2l_exp.optimizers.base import Observation
from l2l_exp.optimizers.by_hand import CURVATURE
from l2l_exp.optimizers.gac import AveragingLSTM
from l2l_exp.optimizers.lstm import LSTMState
from l2l_exp.optimizers.ntm_bfgs import Controller, Heads, check_heads

VECTORS, SCALARS = 5, 7
"""Inputs of a coordinate: its own, and those that all coordinates of a problem share."""


class UnitFreeState(NamedTuple):
    """State of `UnitFree`."""

    lstm: LSTMState
    grad: Tensor  # (B, N) at the step before, 0 at first
    theta: Tensor  # (B, N) at the step before


class Vectors(NamedTuple):
    """The vectors of one step, (B, N) each."""

    grad: Tensor
    direction: Tensor  # M g
    y: Tensor  # change of the gradient
    change: Tensor  # M y
    s: Tensor  # change of theta


class UnitFree(Controller):
    """LSTM + GAC on inputs without units, and an update in the units of theta.

    Inputs of a coordinate: g, M g, y, M y and the previous change s of theta, each over its root
    mean square; and, the same for all coordinates, logarithms of ratios of these sizes and cosines
    between them. With two heads of the LSTM's output,

        update = -2 sigmoid(mean of head) M g + rms(M g) * scale * tanh(head).

    s is what theta did, not what this rule proposed: where somebody else has a say in the step,
    (s, y) is still a pair of the function.

    Args:
        heads: >= 0, linear readouts of the LSTM's output besides these two.
        hidden_units, layers, global_cells, forget_bias: of the LSTM.
        readout_std: >= 0, the heads' weights start as N(0, readout_std^2), their biases as 0.
        free_scale: > 0, `scale` to start with; it is learned.
        write_scale: > 0, factor on what is written, to start with; it is learned.
        seed: of the initial meta-parameters.

    Raises:
        ValueError: for a value outside these ranges.
    """

    read_heads = 2
    read_delay = 0

    def __init__(
        self,
        heads: int,
        hidden_units: int,
        layers: int,
        global_cells: int,
        forget_bias: float,
        readout_std: float,
        free_scale: float,
        write_scale: float,
        seed: int,
    ) -> None:
        super().__init__()
        for name, value in (("free_scale", free_scale), ("write_scale", write_scale)):
            if not value > 0:
                raise ValueError(f"{name}={value} must be > 0")
        if not readout_std >= 0:
            raise ValueError(f"readout_std={readout_std} must be >= 0")
        rng = torch.Generator().manual_seed(seed)
        self.lstm = AveragingLSTM(
            VECTORS + SCALARS, hidden_units, layers, global_cells, "problem",
            forget_bias=forget_bias, rng=rng,
        )  # fmt: skip
        weights = torch.randn(2 + heads, hidden_units, generator=rng)
        self.readout = nn.Parameter(readout_std * weights)
        self.readout_bias = nn.Parameter(torch.zeros(2 + heads, 1))
        self.free_scale = nn.Parameter(torch.tensor(free_scale))
        self.write_scale = nn.Parameter(torch.tensor(write_scale))

    def init_state(self, theta: Tensor) -> UnitFreeState:
        """Zeros, and theta."""
        return UnitFreeState(self.lstm.init_state(theta), torch.zeros_like(theta), theta.detach())

    def query(self, seen: Observation, state: UnitFreeState) -> Tensor:
        """The gradient and its change: (2, B, N)."""
        return torch.stack([seen.grad, changes(seen, state)[0]])

    def advance(
        self, seen: Observation, vectors: Vectors, sizes: Tensor, state: UnitFreeState
    ) -> tuple[Tensor, Tensor, UnitFreeState]:
        """One step of the LSTM.

        Args:
            seen: what a rule sees.
            vectors: of this step.
            sizes: (5, B, 1) their root mean squares.
            state: before the step.

        Returns:
            The update (B, N), the other heads (heads, B, N), the next state.
        """
        signal, lstm = self.lstm(_features(vectors, sizes, state), state.lstm, seen.spec)
        heads = self.heads_of(signal)
        gate = 2 * torch.sigmoid(heads[0].mean(-1, keepdim=True))
        free = sizes[1] * self.free_scale * torch.tanh(heads[1])
        after = UnitFreeState(lstm, seen.grad, seen.theta)
        return free - gate * vectors.direction, heads[2:], after

    def heads_of(self, signal: Tensor) -> Tensor:
        """All heads (2 + heads, B, N) of an output (H, B, N)."""
        flat = torch.addmm(self.readout_bias, self.readout, signal.flatten(1))
        return flat.view(-1, *signal.shape[1:])


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
        self.textbook = textbook

    def rescaled(self, seen: Observation, state: UnitFreeState, multiple: Tensor) -> Tensor:
        """With `textbook`, s.y / y.y at the first pair, if that is positive."""
        return pair_scale(seen, state, multiple) if self.textbook and seen.step == 1 else multiple

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
        """s.y / y.y of the latest pair, if that is positive."""
        return pair_scale(seen, state, multiple)

    def note(self, seen: Observation, state: UnitFreeState) -> tuple[Tensor, Tensor]:
        """The latest pair, corrected: (1, B, N) each."""
        y, s = changes(seen, state)
        corrections = self.write_scale * torch.tanh(self.heads_of(state.lstm.h[-1])[2:])
        pair = torch.stack([s, y])
        left, right = pair + rms(pair) * corrections
        return left.unsqueeze(0), right.unsqueeze(0)

    def forward(
        self, seen: Observation, answers: Tensor, state: UnitFreeState
    ) -> tuple[Heads, UnitFreeState]:
        """Advance the LSTM; the heads' corrections are written at the next step."""
        y, s = changes(seen, state)
        vectors = Vectors(seen.grad, answers[0], y, answers[1], s)
        update, _, after = self.advance(seen, vectors, rms(torch.stack(vectors)), state)
        return Heads(update, answers[:0], answers[:0], answers[:0]), after


def pair_scale(seen: Observation, state: UnitFreeState, otherwise: Tensor) -> Tensor:
    """s.y / y.y (B, 1), or what is given where that is not positive.

    Source: J. Nocedal, S. J. Wright, Numerical Optimization (2006), equation 6.20.
    """
    y, s = changes(seen, state)
    ratio = _cosine(s, y) * rms(s) / or_one(rms(y))
    return torch.where(ratio > 0, ratio, otherwise)


def changes(seen: Observation, state: UnitFreeState) -> tuple[Tensor, Tensor]:
    """y and s, (B, N): zero at the first step."""
    grad = seen.grad - state.grad if seen.step else torch.zeros_like(seen.grad)
    return grad, seen.theta - state.theta


def _bfgs(seen: Vectors) -> tuple[Tensor, Tensor, Tensor]:
    """BFGS's three writes (left and right, (3, B, N) each), and M+ g of the memory after them."""
    y, s, v = seen.y, seen.s, seen.change
    curvature = _dot(s, y)
    good = curvature > CURVATURE * s.norm(dim=-1, keepdim=True) * y.norm(dim=-1, keepdim=True)
    rho = torch.where(good, 1 / torch.where(good, curvature, 1.0), 0.0)
    c = rho + rho.square() * _dot(y, v)
    left, right = torch.stack([c * s, -rho * s, -rho * v]), torch.stack([s, v, s])
    added = (left * _dot(right, seen.grad)).sum(0)
    return left, right, seen.direction + added


def _features(seen: Vectors, sizes: Tensor, state: UnitFreeState) -> Tensor:
    """Inputs (F, B, N): vectors over their sizes (5, B, 1), ratios of sizes, cosines."""
    unit = torch.stack(seen) / or_one(sizes)
    grad, direction, y, change, s = unit
    ratios = [(sizes[0], rms(state.grad)), (sizes[1], sizes[4]), (sizes[3], sizes[4])]
    cosines = [(direction, grad), (s, y), (s, grad), (s, change)]
    shared = [_log_ratio(*pair) for pair in ratios]
    shared += [(one * other).mean(-1, keepdim=True) for one, other in cosines]
    return torch.cat([unit, torch.stack(shared).expand(-1, -1, unit.shape[-1])])


def rms(vectors: Tensor) -> Tensor:
    """Root mean square over the last axis, kept: (..., n) -> (..., 1); exact for tiny numbers."""
    largest = vectors.detach().abs().amax(-1, keepdim=True)
    return largest * root((vectors / or_one(largest)).square().mean(-1, keepdim=True))


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    """Cosine of the angle between vectors, 0 where one of them is 0."""
    return (one / or_one(rms(one)) * other / or_one(rms(other))).mean(-1, keepdim=True)


def _log_ratio(one: Tensor, other: Tensor) -> Tensor:
    """log(one / other) / 4 in [-2, 2], and 0 where one of them is 0."""
    both = (one > 0) & (other > 0)
    ratio = torch.where(both, one, 1.0) / torch.where(both, other, 1.0)
    return ratio.log().clamp(-8, 8) / 4


def root(sizes: Tensor) -> Tensor:
    """Square root of numbers >= 0, whose slope at 0 is 0."""
    return torch.where(sizes > 0, or_one(sizes).sqrt(), 0.0)


def or_one(sizes: Tensor) -> Tensor:
    """Sizes to divide by: 1 where there is nothing to divide."""
    return torch.where(sizes > 0, sizes, 1.0)


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """Inner products over the last axis, kept."""
    return (one * other).sum(-1, keepdim=True)
