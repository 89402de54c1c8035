"""A controller of NTM-BFGS that is set by hand: with it the memory is textbook BFGS."""

from typing import NamedTuple

import torch
from torch import Tensor

from l2l_exp.optimizers.base import Observation
from l2l_exp.optimizers.ntm_bfgs import Controller, Heads

TINIEST = 1e6
"""A pair is written only if y.s is above this times the smallest normal number."""


class ByHandState(NamedTuple):
    """State of `BFGSByHand`."""

    s: Tensor  # (B, N) the last update; 0 at first, and where it was not made as it was emitted
    kappa: Tensor  # (B, 1) gradient . M . gradient at the step before


class BFGSByHand(Controller):
    """Inverse-Hessian BFGS with steps of a fixed length: 1 read head, 3 write heads, 2 means.

    It proves the paper's claim about what NTM-BFGS can express. The read vector is the gradient,
    u = M g+. Since the last step was s = -lr M g, the product v = M y = u + s / lr needs no second
    read. With q = s.g+ and p = g+.u (n times a mean over coordinates each) and kappa = g.M g,

        y.s = q + lr kappa,  rho = 1 / y.s,  y.M y = p + 2 q / lr + kappa,  c = rho + rho^2 y.M y,

    BFGS's M+ = M + c s s^T - rho s v^T - rho v s^T is three writes, and the next step is
    -lr M+ g+ = -lr (u + c q s - rho (p + q / lr) s - rho q v). A pair without positive curvature
    is not written, nor is one whose step was not made as it was emitted.

    Args:
        lr: > 0, length of a step in units of M g.

    Raises:
        ValueError: for another lr.

    Source: arXiv:1606.04474, appendix D, states the claim; J. Nocedal, S. J. Wright, Numerical
        Optimization (2006), equation 6.17.
    """

    read_heads = 1
    read_delay = 0
    needs_own_steps = True

    def __init__(self, lr: float = 1.0) -> None:
        super().__init__()
        if not lr > 0:
            raise ValueError(f"lr={lr} must be > 0")
        self.lr = lr

    def init_state(self, theta: Tensor) -> ByHandState:
        """Nothing moved yet."""
        return ByHandState(torch.zeros_like(theta), torch.zeros_like(theta[:, :1]))

    def without_pair(self, seen: Observation, state: ByHandState, trusted: Tensor) -> ByHandState:
        """No pair where it is not trusted."""
        return state._replace(s=torch.where(trusted.unsqueeze(-1), state.s, 0.0))

    def told(self, state: ByHandState, update: Tensor) -> ByHandState:
        """No pair where another step was made: M y is known for its own steps alone."""
        made = (update == state.s).all(-1, keepdim=True)
        return state._replace(s=torch.where(made, state.s, 0.0))

    def query(self, seen: Observation, state: ByHandState) -> Tensor:
        """The gradient: (1, B, N)."""
        return seen.grad.unsqueeze(0)

    def forward(
        self, seen: Observation, answers: Tensor, state: ByHandState
    ) -> tuple[Heads, ByHandState]:
        """Write the last pair, and step along what the memory then says."""
        grad, u, s, lr = seen.grad, answers[0], state.s, self.lr
        v = u + s / lr
        q, p = _dot(s, grad), _dot(grad, u)
        curvature = q + lr * state.kappa  # y.s
        good = (curvature > TINIEST * torch.finfo(curvature.dtype).tiny) & (s != 0).any(-1, True)
        rho = torch.where(good, 1 / torch.where(good, curvature, 1.0), 0.0)
        c = rho * (1 + rho * (p + 2 * q / lr + state.kappa))
        direction = u + (c * q - rho * (p + q / lr)) * s - rho * q * v
        kappa = p + c * q.square() - 2 * rho * q * (p + q / lr)
        left, right = torch.stack([c * s, -rho * s, -rho * v]), torch.stack([s, v, s])
        heads = Heads(-lr * direction, answers[:0], left, right)
        return heads, ByHandState(heads.update, kappa)


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """Inner products of the problems: (B, 1)."""
    return (one * other).sum(-1, keepdim=True)
