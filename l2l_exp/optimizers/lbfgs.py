"""L-BFGS without line search: torch.optim.LBFGS for many problems at once."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers.base import Observation, map_state
from l2l_exp.optimizers.baseline import TUNED, Baseline

CURVATURE = 1e-10
"""torch keeps a pair only if y.s is above this."""


class LBFGSState(NamedTuple):
    """What torch.optim.LBFGS remembers, for R = G*B rows; M pairs, the newest last."""

    started: Tensor  # (R,) 1 after the first step, 0 before
    grad: Tensor  # (R, N) at the previous step
    moved: Tensor  # (R, N) the previous direction times its step length, s
    y: Tensor  # (R, M, N) differences of gradients; 0 in places not used yet
    s: Tensor  # (R, M, N) differences of theta
    rho: Tensor  # (R, M) 1 / y.s
    scale: Tensor  # (R,) of the initial inverse Hessian


class LBFGS(Baseline):
    """torch.optim.LBFGS with max_iter=1 and no line search, one per problem.

    Each inner step takes one gradient and moves by lr times the quasi-Newton direction; the first
    moves by lr * min(1, 1 / |grad|_1) along the gradient. All rows are stepped at once and never
    meet, so that one that diverges spoils no other. Deviation: torch's class holds one problem, so
    its algorithm is written here on (R, N); a test holds the two together.

    Args:
        lr, search: as for `Baseline`.
        history_size: M, >= 1, pairs of differences that are kept.
        tolerance_grad: >= 0; a problem rests where no slope is above it (torch: 1e-7).
        tolerance_change: >= 0; it does not move where the expected decrease is not above it
            (torch: 1e-9).

    Raises:
        ValueError: for a value outside these ranges.

    Source: D. C. Liu, J. Nocedal, Mathematical Programming 45 (1989), 503-528; torch.optim.LBFGS.
    """

    coupling = "problem"

    def __init__(
        self,
        lr: float | Sequence[float] | str = TUNED,
        search: Sequence[float] = (0.1, 1.0),
        history_size: int = 10,
        tolerance_grad: float = 0.0,
        tolerance_change: float = 0.0,
    ) -> None:
        if history_size < 1:
            raise ValueError(f"history_size={history_size} must be >= 1")
        for name, value in (("grad", tolerance_grad), ("change", tolerance_change)):
            if not value >= 0:
                raise ValueError(f"tolerance_{name}={value} must be >= 0")
        super().__init__(
            torch.optim.LBFGS, lr, search, max_iter=1, history_size=history_size,
            tolerance_grad=tolerance_grad, tolerance_change=tolerance_change,
        )  # fmt: skip
        self.history_size = history_size
        self.tolerance_grad = tolerance_grad
        self.tolerance_change = tolerance_change

    def with_rates(self, rates: Sequence[float]) -> "LBFGS":
        """The same rule at other learning rates."""
        tolerances = (self.tolerance_grad, self.tolerance_change)
        return LBFGS(list(rates), self.search, self.history_size, *tolerances)

    def native_step(self, seen: Observation) -> Callable[[], object]:
        """torch's own step with a full memory, on a copy of theta (1, N), ready to be timed."""
        parameter, grad = seen.theta.detach().clone(), seen.grad.detach().flatten()
        parameter.grad = seen.grad.detach()
        optimizer = self.native([parameter])
        curvature = grad.dot(grad)  # of y = -grad and s = -grad
        optimizer.state[parameter] = {
            "func_evals": 1, "n_iter": 1, "d": -grad, "t": 1.0, "prev_flat_grad": 2 * grad,
            "old_dirs": [-grad] * self.history_size, "old_stps": [-grad] * self.history_size,
            "ro": [1 / curvature] * self.history_size, "H_diag": 1.0, "prev_loss": 0.0,
        }  # fmt: skip
        loss = float(seen.loss)
        return lambda: optimizer.step(lambda: loss)

    def init_state(self, theta: Tensor, spec: ParamSpec) -> LBFGSState:
        """An empty memory."""
        rows, size = theta.shape
        pairs = theta.new_zeros(rows, self.history_size, size)
        zero = torch.zeros_like(theta)
        one = theta.new_ones(rows)
        return LBFGSState(0 * one, zero, zero, pairs, pairs, pairs[..., 0], one)

    @torch.no_grad()
    def step(self, seen: Observation, state: LBFGSState) -> tuple[Tensor, LBFGSState]:
        """The update that torch.optim.LBFGS makes in each row: (R, N).

        Raises:
            ValueError: if theta's rows are not a multiple of the number of learning rates.
        """
        grad, lr = seen.grad, self._row_rates(seen.theta)
        first = state.started == 0
        y, s, rho, scale = _remember(state, grad, first)
        direction = _two_loops(grad, y, s, rho, scale)
        length = torch.where(first, (1 / grad.abs().sum(1)).clamp(max=1.0), 1.0) * lr
        update = length.unsqueeze(1) * direction
        goes = ~((grad * direction).sum(1) > -self.tolerance_change).unsqueeze(1)
        after = LBFGSState(torch.ones_like(scale), grad, update, y, s, rho, scale)
        rests = grad.abs().amax(1) <= self.tolerance_grad
        kept = [_rows(rests, old, new) for old, new in zip(state, after, strict=True)]
        goes = goes & ~rests.unsqueeze(1)
        return torch.where(goes, update, 0.0), LBFGSState(*kept)

    def take(self, state: Any, index: Tensor) -> LBFGSState:
        """Restrict to some rows, of which each has one problem."""
        if len(self.rates) != 1:
            raise ValueError(f"only a state of one learning rate can be cut, not {self.rates}")
        return LBFGSState(*map_state(lambda x: x.index_select(0, index), state))

    def map_problems(self, function: Callable[..., Tensor], *states: Any) -> LBFGSState:
        """Problems are the first axis of everything."""
        return LBFGSState(*map_state(partial(function, 0), *states))

    def step_trusted(
        self, seen: Observation, state: LBFGSState, trusted: Tensor
    ) -> tuple[Tensor, LBFGSState]:
        """The step; a pair that is not trusted serves neither the memory nor this direction."""
        still = torch.where(trusted.unsqueeze(1), state.moved, 0.0)  # y.s = 0: no pair
        return self.step(seen, state._replace(moved=still))

    def told(self, state: LBFGSState, update: Tensor) -> LBFGSState:
        """s is what theta moves by in truth."""
        return state._replace(moved=update)

    def _row_rates(self, theta: Tensor) -> Tensor:
        """The learning rate of each row (R,)."""
        if self.needs_tuning:
            raise ValueError("the learning rate is still to be tuned: call with_rates first")
        self.check_rows(theta)
        rates = theta.new_tensor(self.rates)
        return rates.repeat_interleave(theta.shape[0] // len(self.rates))


def _remember(
    state: LBFGSState, grad: Tensor, first: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pairs, 1 / y.s and scale with the latest pair, in rows where its curvature is positive."""
    y, s = grad - state.grad, state.moved
    curvature = (y * s).sum(1)
    good = (curvature > CURVATURE) & ~first
    safe = torch.where(good, curvature, 1.0)
    new = (_pushed(state.y, y), _pushed(state.s, s), _pushed(state.rho, 1 / safe))
    scale = safe / torch.where(good, y.square().sum(1), 1.0)
    old = (state.y, state.s, state.rho, state.scale)
    pairs = zip(old, (*new, scale), strict=True)
    one, two, three, four = (_rows(good, then, before) for before, then in pairs)
    return one, two, three, four


def _pushed(memory: Tensor, newest: Tensor) -> Tensor:
    """(R, M, ...) without the oldest entry and with the newest."""
    return torch.cat([memory[:, 1:], newest.unsqueeze(1)], 1)


def _rows(which: Tensor, these: Tensor, others: Tensor) -> Tensor:
    """`these` in the rows that `which` (R,) names, `others` elsewhere."""
    return torch.where(which.view(-1, *[1] * (these.dim() - 1)), these, others)


def _two_loops(grad: Tensor, y: Tensor, s: Tensor, rho: Tensor, scale: Tensor) -> Tensor:
    """Minus the approximate inverse Hessian times the gradient: (R, N); empty places do nothing."""
    direction, weights = -grad, []
    for place in reversed(range(y.shape[1])):
        weight = (s[:, place] * direction).sum(1) * rho[:, place]
        direction = direction - weight.unsqueeze(1) * y[:, place]
        weights.append(weight)
    direction = direction * scale.unsqueeze(1)
    for place, weight in enumerate(reversed(weights)):
        other = (y[:, place] * direction).sum(1) * rho[:, place]
        direction = direction + (weight - other).unsqueeze(1) * s[:, place]
    return direction
