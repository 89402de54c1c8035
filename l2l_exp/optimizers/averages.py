"""Running averages of a gradient, and the features of a coordinate that are made of them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from l2l_exp.optimizees.spec import ParamSpec, TensorSpec
from l2l_exp.optimizers import per_tensor
from l2l_exp.optimizers.base import Observation
from l2l_exp.optimizers.sizes import hypot, or_one, rms

NOTHING = 1e-15
"""A size below this share of its tensor's root mean square is not divided by: it counts as 0."""


class AveragesState(NamedTuple):
    """Exponential moving averages, all from 0: M, V and D are the numbers of decays.

    Of squares their roots are kept: squares of gradients below 1e-19 would be lost in float32.
    A tensor is the matrix (shape[0], everything else), a vector of n is (n, 1).
    """

    momenta: Tensor  # (M, B, N) of the gradient
    roots: Tensor  # (V, B, N) of its square, root
    rows: Tensor  # (D, B, rows of all tensors) of the square's mean over each row, root
    columns: Tensor  # (D, B, columns of all tensors) of its mean over each column, root


class Averages:
    """What small learned optimizers know of the past of a gradient, as features without units.

    Features of a coordinate, each over its root mean square over the tensor and not centred:
    gradient g, g clipped, theta; momenta m; roots of second moments v, 1 / root v, m / root v;
    Adafactor's row and column second moments r and c as root r, root c and their inverses; g and m
    over the root of the factored moment r c / mean(r), which of a vector is its plain second
    moment. Inverses of 0, and of sizes below `NOTHING` of their tensor's, are 0. Bias corrections
    would cancel, as do factors on the loss, in float32 while the tensor's gradients are between
    1e-22 and 1e30; below that features lose digits, then become 0, and are finite throughout.

    Args:
        momentum_decays: M >= 1 of them, in [0, 1).
        rms_decays: V >= 1, in [0, 1); m and v meet in the last one.
        factored_decays: D >= 1, in [0, 1); m and r c meet in the last one.
        clip: > 0, where the clipped gradient ends, in units of its root mean square.

    Raises:
        ValueError: for a value outside its range.

    Source: Metz et al. 2022, arXiv:2203.11860 (features of `small_fc_lopt`), with the clipped
        gradient of Celo2, arXiv:2602.19142. Deviation: the clip is relative, there is no epsilon,
        and tensors of rank above 2 are factored as matrices instead of along their largest axes.
    """

    def __init__(
        self,
        momentum_decays: Sequence[float],
        rms_decays: Sequence[float],
        factored_decays: Sequence[float],
        clip: float,
    ) -> None:
        for name, decays in (
            ("momentum_decays", momentum_decays),
            ("rms_decays", rms_decays),
            ("factored_decays", factored_decays),
        ):
            if not decays or not all(0 <= decay < 1 for decay in decays):
                raise ValueError(f"{name}={list(decays)} must be numbers in [0, 1), at least one")
        if not clip > 0:
            raise ValueError(f"clip={clip} must be > 0")
        self.momentum_decays = tuple(momentum_decays)
        self.rms_decays = tuple(rms_decays)
        self.factored_decays = tuple(factored_decays)
        self.clip = clip

    @property
    def size(self) -> int:
        """F, number of features."""
        momenta, squares = len(self.momentum_decays), len(self.rms_decays)
        return 3 + 3 * momenta + 2 * squares + 5 * len(self.factored_decays)

    @property
    def descent(self) -> int:
        """Which feature is the first momentum over the root of the last second moment: Adam's."""
        return 3 + len(self.momentum_decays) + 2 * len(self.rms_decays)

    def init_state(self, theta: Tensor, spec: ParamSpec) -> AveragesState:
        """Zeros."""

        def zeros(decays: tuple[float, ...], size: int) -> Tensor:
            return theta.new_zeros(len(decays), theta.shape[0], size)

        matrices = [matrix_shape(x) for x in spec.tensors]
        return AveragesState(
            zeros(self.momentum_decays, spec.size),
            zeros(self.rms_decays, spec.size),
            zeros(self.factored_decays, sum(rows for rows, _ in matrices)),
            zeros(self.factored_decays, sum(columns for _, columns in matrices)),
        )

    def advance(self, grad: Tensor, state: AveragesState, spec: ParamSpec) -> AveragesState:
        """Take a gradient (B, N) in."""
        matrices = [grad[:, x.slice].unflatten(-1, matrix_shape(x)) for x in spec.tensors]
        rows = torch.cat([rms(x).squeeze(-1) for x in matrices], -1)
        columns = torch.cat([rms(x.mT).squeeze(-1) for x in matrices], -1)
        return AveragesState(
            _average(state.momenta, grad, self.momentum_decays),
            _average_root(state.roots, grad, self.rms_decays),
            _average_root(state.rows, rows, self.factored_decays),
            _average_root(state.columns, columns, self.factored_decays),
        )

    def features(self, seen: Observation, state: AveragesState) -> Tensor:
        """Features (F, B, N), of unit root mean square over every tensor or 0.

        Args:
            seen: the observation that `state` has taken in last.
            state: from `advance`.
        """
        # Everything in units of its tensor first: products and inverses then fit into float32.
        parts = [seen.grad.unsqueeze(0), seen.theta.unsqueeze(0), state.momenta, state.roots]
        relative = per_tensor.unit(torch.cat(parts), seen.spec)
        grad, theta, momenta, roots = relative.split([len(part) for part in parts])
        rows, columns = self._factors(state, seen.spec)
        over_roots, over_rows, over_columns = (inverse(x, NOTHING) for x in (roots, rows, columns))
        over_factored = over_rows * over_columns
        features = [
            grad,
            grad.clamp(-self.clip, self.clip),
            theta,
            momenta,
            roots,
            over_roots,
            momenta * over_roots[-1],
            rows,
            columns,
            over_rows,
            over_columns,
            grad * over_factored,
            momenta * over_factored[-1],
        ]
        return per_tensor.unit(torch.cat(features), seen.spec)

    def _factors(self, state: AveragesState, spec: ParamSpec) -> tuple[Tensor, Tensor]:
        """Roots of a coordinate's row and column moments, over the tensor's: (D, B, N) each."""
        matrices = [matrix_shape(x) for x in spec.tensors]
        rows = state.rows.split([rows for rows, _ in matrices], -1)
        columns = state.columns.split([columns for _, columns in matrices], -1)
        parts = []
        for shape, row, column in zip(matrices, rows, columns, strict=True):
            down = (row / or_one(rms(row))).unsqueeze(-1)
            across = (column / or_one(rms(column))).unsqueeze(-2)
            grid = (*row.shape[:-1], *shape)
            parts.append([x.expand(grid).flatten(-2) for x in (down, across)])
        down, across = (torch.cat(x, -1) for x in zip(*parts, strict=True))
        return down, across


def inverse(values: Tensor, least: float = 0.0) -> Tensor:
    """1 / values >= 0, and 0 where they are no more than `least`, or too small for 1 / them."""
    counts = values > max(least, torch.finfo(values.dtype).tiny)
    return torch.where(counts, 1 / torch.where(counts, values, 1.0), 0.0)


def weight(decay: float, taken: Tensor) -> Tensor:
    """1 - decay^taken, to the last digit: the weight of all that an average from 0 has seen."""
    return -torch.expm1(taken.detach() * (math.log(decay) if decay else -math.inf))


def matrix_shape(tensor: TensorSpec) -> tuple[int, int]:
    """Rows and columns of a tensor as a matrix."""
    rows = tensor.shape[0] if tensor.shape else 1
    return rows, tensor.size // rows


def _average(old: Tensor, new: Tensor, decays: tuple[float, ...]) -> Tensor:
    """decay * old + (1 - decay) * new: (D, B, n), (B, n) -> (D, B, n)."""
    return _column(decays, old) * old + _column([1 - decay for decay in decays], old) * new


def _average_root(old: Tensor, new: Tensor, decays: tuple[float, ...]) -> Tensor:
    """root(decay * old^2 + (1 - decay) * new^2), without squares: as `_average`."""
    kept = _column([math.sqrt(decay) for decay in decays], old) * old
    return hypot(kept, _column([math.sqrt(1 - decay) for decay in decays], old) * new)


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    """Numbers as a tensor (D, 1, 1)."""
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1)
