"""Gradients whitened by their own second moments over rows and columns, around any rule."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from l2l_exp.optimizees.spec import ParamSpec, TensorSpec
from l2l_exp.optimizers.averages import matrix_shape, weight
from l2l_exp.optimizers.base import LearnedOptimizer, Observation, State, map_state
from l2l_exp.optimizers.baseline import at_one_rate
from l2l_exp.optimizers.lbfgs import LBFGS
from l2l_exp.optimizers.ntm_bfgs import NTMBFGS
from l2l_exp.optimizers.sizes import hypot, or_one, rms


class Moments(NamedTuple):
    """Second moments of one tensor's gradient, an (r, c) matrix, in units of its mean square.

    A side without a matrix of its own is left empty (B, 0, 0), as are both of a tensor that is
    whitened coordinate by coordinate; `each` is empty for all others.
    """

    size: Tensor  # (B, 1) root of the mean square
    rows: Tensor  # (B, r, r) of G G' / c, mean of the diagonal 1
    columns: Tensor  # (B, c, c) of G' G / r, the same
    each: Tensor  # (B, r c) of every coordinate


class WhitenedState(NamedTuple):
    """What whitens each tensor, and the rule's own state."""

    taken: Tensor  # (B, 1) gradients taken in
    moments: tuple[Moments, ...]
    roots: tuple[tuple[Tensor, Tensor], ...]  # inverse roots of rows and columns, as last computed
    rule: State


class Whitened(LearnedOptimizer):
    """A rule that sees gradients without the correlations between rows and between columns.

    Of a tensor with gradient G, (r, c), averages of G G' / c and G' G / r are kept, both over the
    average of G's mean square; the rule sees

        (L + ridge I)^(-1/2)  G / size  (R + ridge I)^(-1/2)

    and proposes the update itself. With `momentum` as the rule this is Shampoo with the exponent
    1/2. Directions in which gradients are always large no longer hide the others, which a rule
    that looks at coordinates one by one cannot undo by itself. A factor on the loss changes
    nothing.

    Vectors, and tensors both of whose sides are above `max_side`, are divided by the roots of
    their coordinates' own mean squares; of a tensor with one side above it only the other side is
    whitened. A tensor of more than two axes is the matrix (shape[0], everything else).

    Args:
        rule: any rule that remembers no differences of gradients; a `Baseline` at one learning
            rate.
        decay: in [0, 1), of the averages, from which the bias of their start is removed.
        ridge: > 0, relative to the mean of the diagonal. In float32 a ridge below 1e-7 times the
            side does nothing.
        every: >= 1, steps between two computations of the inverse roots; the first 2 * every
            steps compute them all.
        max_side: >= 0, the longest side that is whitened; its matrix costs side^2 memory, its
            inverse root side^3 time. 0: every coordinate by itself, as Adam does.

    Raises:
        ValueError: for a value or a rule outside these ranges.

    Source: Gupta, Koren, Singer 2018, arXiv:1802.09568 (Shampoo); Vyas et al. 2024,
        arXiv:2409.11321 (its relation to Adam, and roots computed every few steps).
    """

    def __init__(
        self,
        rule: LearnedOptimizer,
        decay: float = 0.95,
        ridge: float = 0.03,
        every: int = 10,
        max_side: int = 1024,
    ) -> None:
        super().__init__()
        for name, value, good, right in (
            ("decay", decay, 0 <= decay < 1, "in [0, 1)"),
            ("ridge", ridge, 0 < ridge < math.inf, "a number > 0"),
            ("every", every, isinstance(every, int) and every >= 1, "a whole number >= 1"),
            ("max_side", max_side, isinstance(max_side, int) and max_side >= 0, "a whole one >= 0"),
        ):
            if not good:
                raise ValueError(f"{name}={value} must be {right}")
        for part in rule.modules():
            if isinstance(part, LBFGS | NTMBFGS):
                raise ValueError(
                    f"rule={type(part).__name__} remembers differences of gradients, which mean "
                    "nothing where every gradient is whitened anew"
                )
        self.rule = at_one_rate("rule", rule)
        self.coupling = "tensor" if rule.coupling == "none" else rule.coupling
        self.about = dict(rule.about)
        self.decay, self.ridge, self.every, self.max_side = decay, ridge, every, max_side

    def init_state(self, theta: Tensor, spec: ParamSpec) -> WhitenedState:
        """Nothing seen yet."""
        moments = tuple(self._nothing(theta, tensor) for tensor in spec.tensors)
        # Roots that leave gradients as they are: an older state may be put back while steps go on.
        roots = tuple((_identity(x.rows), _identity(x.columns)) for x in moments)
        taken = theta.new_zeros(theta.shape[0], 1)
        return WhitenedState(taken, moments, roots, self.rule.init_state(theta, spec))

    def step(self, seen: Observation, state: WhitenedState) -> tuple[Tensor, WhitenedState]:
        """The rule's update (B, N) on what it sees of the gradient."""
        seen, after = self._whiten(seen, state)
        update, rule = self.rule.step(seen, state.rule)
        return update, after._replace(rule=rule)

    def step_in_place(
        self, seen: Observation, state: WhitenedState
    ) -> tuple[Tensor, WhitenedState]:
        """The same by the rule's step in place."""
        seen, after = self._whiten(seen, state)
        update, rule = self.rule.step_in_place(seen, state.rule)
        return update, after._replace(rule=rule)

    def step_trusted(
        self, seen: Observation, state: WhitenedState, trusted: Tensor
    ) -> tuple[Tensor, WhitenedState]:
        """The same by the rule's step that keeps a pair from its memory."""
        seen, after = self._whiten(seen, state)
        update, rule = self.rule.step_trusted(seen, state.rule, trusted)
        return update, after._replace(rule=rule)

    def map_problems(
        self, function: Callable[..., Tensor], *states: WhitenedState
    ) -> WhitenedState:
        """Of the moments the first axis counts the problems; of the rest as the rule says."""
        own = [state._replace(rule=()) for state in states]
        mapped: WhitenedState = map_state(partial(function, 0), *own)
        return mapped._replace(
            rule=self.rule.map_problems(function, *(state.rule for state in states))
        )

    def told(self, state: WhitenedState, update: Tensor) -> WhitenedState:
        """The rule's."""
        return state._replace(rule=self.rule.told(state.rule, update))

    def counts(self, state: WhitenedState) -> Mapping[str, Tensor]:
        """The rule's."""
        return self.rule.counts(state.rule)

    def _nothing(self, theta: Tensor, tensor: TensorSpec) -> Moments:
        """Zero moments of a tensor."""
        shape = matrix_shape(tensor)
        longest = self.max_side if min(shape) > 1 else 0
        rows, columns = (side if side <= longest else 0 for side in shape)
        each = 0 if rows or columns else tensor.size
        zeros = partial(theta.new_zeros, theta.shape[0])
        return Moments(zeros(1), zeros(rows, rows), zeros(columns, columns), zeros(each))

    def _whiten(self, seen: Observation, state: WhitenedState) -> tuple[Observation, WhitenedState]:
        """The observation of the whitened gradient, and the state with it taken in."""
        taken = state.taken + 1
        fresh = seen.step < 2 * self.every or seen.step % self.every == 0
        whitened, moments, roots = [], [], []
        for tensor, old, kept in zip(seen.spec.tensors, state.moments, state.roots, strict=True):
            grad, shape = seen.grad[:, tensor.slice], matrix_shape(tensor)
            new = self._advance(old, grad.unflatten(-1, shape))
            pair = tuple(self._inverse_root(x) for x in (new.rows, new.columns)) if fresh else kept
            unit = grad / or_one(new.size * weight(self.decay, taken) ** -0.5)
            whitened.append(self._whitened(unit, new, pair, shape))
            moments.append(new)
            roots.append((pair[0], pair[1]))
        after = WhitenedState(taken, tuple(moments), tuple(roots), state.rule)
        return seen._replace(grad=torch.cat(whitened, -1)), after

    def _advance(self, old: Moments, grad: Tensor) -> Moments:
        """Take a gradient (B, r, c) in."""
        size = hypot(self.decay**0.5 * old.size, (1 - self.decay) ** 0.5 * rms(grad.flatten(1)))
        unit = grad / or_one(size).unsqueeze(-1)
        kept = self.decay * (old.size / or_one(size)).square()
        rows, columns, each = old.rows, old.columns, old.each
        if rows.numel():
            new = unit @ unit.mT / grad.shape[-1]
            rows = kept.unsqueeze(-1) * rows + (1 - self.decay) * new
        if columns.numel():
            new = unit.mT @ unit / grad.shape[-2]
            columns = kept.unsqueeze(-1) * columns + (1 - self.decay) * new
        if each.numel():
            each = kept * each + (1 - self.decay) * unit.flatten(1).square()
        return Moments(size, rows, columns, each)

    def _inverse_root(self, moments: Tensor) -> Tensor:
        """(moments + ridge I)^(-1/2), or nothing of nothing."""
        if not moments.numel():
            return moments
        return inverse_root(moments + self.ridge * _identity(moments))

    def _whitened(
        self, unit: Tensor, moments: Moments, roots: tuple[Tensor, ...], shape: tuple[int, int]
    ) -> Tensor:
        """A gradient (B, r c) of unit size, whitened."""
        if moments.each.numel():
            return torch.rsqrt(moments.each + self.ridge) * unit
        matrix: Tensor = unit.unflatten(-1, shape)
        # A row or column without gradients stays without: rounding would make noise of it, which
        # rules that divide by a coordinate's own size would follow.
        if roots[0].numel():
            alive = moments.rows.diagonal(dim1=-2, dim2=-1).unsqueeze(-1) > 0
            matrix = torch.where(alive, roots[0] @ matrix, 0.0)
        if roots[1].numel():
            alive = moments.columns.diagonal(dim1=-2, dim2=-1).unsqueeze(-2) > 0
            matrix = torch.where(alive, matrix @ roots[1], 0.0)
        return matrix.flatten(1)


def inverse_root(matrix: Tensor) -> Tensor:
    """A^(-1/2) of symmetric positive matrices (..., n, n), with its first derivative.

    The derivative is the divided difference of x^(-1/2) in the basis of eigenvectors (Daleckii,
    Krein), which unlike that of the eigenvectors has no poles where eigenvalues meet. Where a
    matrix is not finite, NaN.
    """
    with torch.no_grad():
        finite = matrix.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
        values, vectors = torch.linalg.eigh(torch.where(finite, matrix, _identity(matrix)))
        # Rounding may leave an eigenvalue below 0 that is above it.
        least = torch.finfo(matrix.dtype).eps * values[..., -1:]
        roots = torch.maximum(values, least).sqrt()
        value = torch.where(finite, (vectors / roots.unsqueeze(-2)) @ vectors.mT, torch.nan)
    if not matrix.requires_grad:
        return value
    one, other = roots.unsqueeze(-1), roots.unsqueeze(-2)
    inner = vectors.mT @ (matrix - matrix.detach()) @ vectors
    slope: Tensor = vectors @ (inner / (one * other * (one + other))) @ vectors.mT
    return value - slope


def _identity(like: Tensor) -> Tensor:
    """Identities (..., n, n)."""
    return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device).expand_as(like)
