"""What controllers of NTM-BFGS share: inputs without units, and an update in those of theta."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from l2l_exp.optimizers.base import Observation
from l2l_exp.optimizers.gac import AveragingLSTM
from l2l_exp.optimizers.lstm import LSTMState
from l2l_exp.optimizers.ntm_bfgs import Controller
from l2l_exp.optimizers.sizes import log_ratio, mean_product, or_one, pair_of, rms

VECTORS, SCALARS = 5, 7
"""Inputs of a coordinate: its own, and those that all coordinates of a problem share."""
LARGEST, SHRINK = 8.0, 4.0
"""Bound on logarithms of ratios, and what they are divided by."""


class UnitFreeState(NamedTuple):
    """State of `UnitFree`."""

    lstm: LSTMState
    grad: Tensor  # (B, N) at the step before, 0 at first
    theta: Tensor  # (B, N) at the step before
    observed: Tensor  # (B, 1) 0 before the first observation, then 1
    scaled: Tensor  # (B, 1) 1 since the first pair that counted


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
        none = torch.zeros_like(theta[:, :1])
        lstm = self.lstm.init_state(theta)
        return UnitFreeState(lstm, torch.zeros_like(theta), theta.detach(), none, none)

    def without_pair(
        self, seen: Observation, state: UnitFreeState, trusted: Tensor
    ) -> UnitFreeState:
        """Where the pair is not trusted, nothing has changed since the last observation."""
        keep = trusted.unsqueeze(-1)
        grad = torch.where(keep, state.grad, seen.grad)
        return state._replace(grad=grad, theta=torch.where(keep, state.theta, seen.theta))

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
        scaled = torch.where(pair_of(vectors.s, vectors.y).good, 1.0, state.scaled)
        after = UnitFreeState(lstm, seen.grad, seen.theta, torch.ones_like(state.observed), scaled)
        return free - gate * vectors.direction, heads[2:], after

    def heads_of(self, signal: Tensor) -> Tensor:
        """All heads (2 + heads, B, N) of an output (H, B, N)."""
        flat = torch.addmm(self.readout_bias, self.readout, signal.flatten(1))
        return flat.view(-1, *signal.shape[1:])


def changes(seen: Observation, state: UnitFreeState) -> tuple[Tensor, Tensor]:
    """y and s, (B, N): zero where nothing was observed before."""
    y = torch.where(state.observed > 0, seen.grad - state.grad, 0.0)
    return y, seen.theta - state.theta


def curvature_scale(s: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """s.y / y.y (B, 1), and whether the pair counts (B, 1).

    Source: J. Nocedal, S. J. Wright, Numerical Optimization (2006), equation 6.20.
    """
    pair = pair_of(s, y)
    return pair.ratio * pair.cosine, pair.good


def _features(seen: Vectors, sizes: Tensor, state: UnitFreeState) -> Tensor:
    """Inputs (F, B, N): vectors over their sizes (5, B, 1), ratios of sizes, cosines."""
    unit = torch.stack(seen) / or_one(sizes)
    grad, direction, y, change, s = unit
    ratios = [(sizes[0], rms(state.grad)), (sizes[1], sizes[4]), (sizes[3], sizes[4])]
    cosines = [(direction, grad), (s, y), (s, grad), (s, change)]
    shared = [log_ratio(*pair).clamp(-LARGEST, LARGEST) / SHRINK for pair in ratios]
    shared += [mean_product(one, other) for one, other in cosines]
    return torch.cat([unit, torch.stack(shared).expand(-1, -1, unit.shape[-1])])
