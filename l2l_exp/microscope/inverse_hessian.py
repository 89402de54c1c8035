"""The memory of NTM-BFGS beside what it stands for: the inverse Hessian."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from l2l_exp.evaluation import Floats
from l2l_exp.microscope.probe import watch
from l2l_exp.optimizees.base import Optimizee, Problem
from l2l_exp.optimizees.seeding import Seed
from l2l_exp.optimizers import memory
from l2l_exp.optimizers.base import LearnedOptimizer
from l2l_exp.optimizers.ntm_bfgs import NTMBFGS, NTMState
from l2l_exp.unroll import differentiate

NUDGE = 1e-4
"""Of theta, for central differences of gradients: exact on quadratics, whatever it is."""


@dataclass(frozen=True)
class MemoryFit:
    """How near a memory M_t is to the inverse Hessian at theta_t, for each of B problems.

    Attributes:
        steps: (S,) after so many steps, the writes of the last one included.
        cosine: (S, B) of M with the inverse Hessian, as vectors of their entries.
        error: (S, B) |M - inverse| / |inverse|, Frobenius.
        identity_error: (S, B) |M H - I| / |I|; it does not depend on how theta is scaled.
        direction: (S, B) cosine of M g with the Newton step's direction, g the gradient.
        loss: (S, B) at the theta that the last step was made from.
    """

    steps: tuple[int, ...]
    cosine: Floats
    error: Floats
    identity_error: Floats
    direction: Floats
    loss: Floats


@torch.no_grad()
def memory_fit(
    optimizee: Optimizee,
    rule: LearnedOptimizer,
    problems: Sequence[int],
    seed: Seed,
    horizon: int,
    steps: Sequence[int] | None = None,
) -> MemoryFit:
    """Compare the memory of NTM-BFGS with the inverse Hessian along its trajectory, in float64.

    After t steps the memory is compared at the theta that step t was made from: what the rule has
    written until then, the writes of step t included. The Hessian is taken by central differences
    of gradients, which are exact on quadratics.

    Args:
        optimizee: deterministic, e.g. a quadratic; of few coordinates: matrices are N x N.
        rule: an `NTMBFGS`, with a dense or a bounded memory.
        problems: indices of the B problems.
        seed: split and seed of the draws.
        horizon: T >= 1.
        steps: in [1, T], when to compare; None for all.

    Raises:
        ValueError: for another rule, a step outside its range, or minibatches that differ.
    """
    if not isinstance(rule, NTMBFGS):
        raise ValueError(f"{type(rule).__name__} has no memory to compare: give a rule ntm_bfgs")
    if not optimizee.deterministic:
        raise ValueError(f"{type(optimizee).__name__} has another Hessian at every minibatch")
    wanted = tuple(range(1, horizon + 1)) if steps is None else tuple(sorted(set(steps)))
    if not wanted or wanted[0] < 1 or wanted[-1] > horizon:
        raise ValueError(f"steps={list(wanted)} must be in [1, {horizon}]")
    optimizee = copy.deepcopy(optimizee).to("cpu", torch.float64)
    rule = copy.deepcopy(rule).to("cpu", torch.float64)
    drawn, rows, last = optimizee.sample(problems, seed), [], wanted[-1]
    for moment in watch(optimizee, {"rule": rule}, problems, seed, horizon):
        if moment.seen.step + 1 in wanted:
            matrix = memory_matrix(rule, moment.after["rule"]).double()
            curvature = hessian(optimizee, moment.seen.theta, drawn)
            rows.append([*_fits(matrix, curvature, moment.seen.grad.double()), moment.seen.loss])
        if moment.seen.step + 1 == last:
            break
    arrays = [torch.stack(column).double().cpu().numpy() for column in zip(*rows, strict=True)]
    return MemoryFit(wanted, *arrays)


def memory_matrix(rule: NTMBFGS, state: NTMState) -> Tensor:
    """The memory as matrices (B, N, N), its multiple of I included."""
    _, problems, size = state.memory.left.shape
    basis = torch.eye(size).to(state.memory.left).unsqueeze(1).expand(size, problems, size)
    if rule.read_form == "two_loop":
        columns = memory.read_two_loops(state.memory, basis, state.multiple)
    else:
        columns = state.multiple * basis + memory.read(state.memory, basis)
    return columns.permute(1, 2, 0)


def hessian(optimizee: Optimizee, theta: Tensor, problem: Problem) -> Tensor:
    """Hessians (B, N, N) of the loss at theta (B, N), symmetric, in float64."""
    data = optimizee.minibatch(problem, 0)
    columns = []
    for nudge in NUDGE * torch.eye(theta.shape[1], dtype=theta.dtype, device=theta.device):
        above, below = (differentiate(optimizee, theta + s * nudge, data)[1] for s in (1, -1))
        columns.append((above - below).double() / (2 * NUDGE))
    whole = torch.stack(columns, -1)
    return (whole + whole.mT) / 2


def _fits(matrix: Tensor, curvature: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    """The measures (B,) of `MemoryFit`, in order, of matrices (B, N, N) and a gradient (B, N)."""
    inverse = torch.linalg.inv(curvature)
    size = torch.linalg.matrix_norm
    identity = torch.eye(grad.shape[1]).to(grad)
    product = (matrix * inverse).sum((-1, -2))
    direction, newton = ((x @ grad.unsqueeze(-1)).squeeze(-1) for x in (matrix, inverse))
    return (
        product / (size(matrix) * size(inverse)),
        size(matrix - inverse) / size(inverse),
        size(matrix @ curvature - identity) / size(identity),
        torch.nn.functional.cosine_similarity(direction, newton, dim=-1, eps=0.0),
    )
