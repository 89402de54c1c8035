"""Trying out a loss that a user wrote, before anything long begins."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import vmap

from l2l_exp.optimizees.base import Data
from l2l_exp.optimizees.seeding import torch_seeded
from l2l_exp.optimizees.tables import shapes_told

Function = Callable[[Tensor, Data], Tensor]
"""(theta (N,), data of one problem) -> scalar."""


def try_alone(what: str, function: Function, theta: Tensor, data: Data, *, slope: bool) -> None:
    """Evaluate a function of one problem twice.

    Args:
        what: the function's name in messages.
        function: of one problem.
        theta: (B, N); the first problem is taken.
        data: (B, ...) each.
        slope: whether its gradient is needed.

    Raises:
        ValueError: if it fails, is not a scalar, or is not the same twice on the same numbers with
            torch's generator at the same place.
    """
    mine = {name: tensor[0] for name, tensor in data.items()}
    try:
        one, again = (_seeded(function, theta[0], mine, slope=slope) for _ in range(2))
    except Exception as error:
        shapes = shapes_told({name: tensor.shape for name, tensor in mine.items()})
        raise ValueError(
            f"{what}, called with (model, batch), failed on {shapes}: {told(error)}"
        ) from error
    if not torch.equal(one.nan_to_num(), again.nan_to_num()):
        raise ValueError(
            f"{what} is not the same twice on the same numbers: it must not keep a state, and draw "
            f"random numbers from torch's own generator only"
        )


def try_together(what: str, function: Function, theta: Tensor, data: Data, *, slope: bool) -> None:
    """Evaluate a function of one problem on several at once, as `unroll` does.

    Raises:
        ValueError: if that cannot be done; says why, and what to do.
    """
    try:
        with torch_seeded(0, theta.device), torch.enable_grad():
            theta = theta.detach().requires_grad_(slope)
            values = vmap(function)(theta, data)
            if slope:
                torch.autograd.grad(values.sum(), theta)
    except Exception as error:
        raise ValueError(
            f"{what} cannot be taken of several problems at once ({told(error)}); what is random "
            f"or recurrent, writes to buffers or branches on data needs ++optimizee.batching=loop"
        ) from error


def told(error: Exception) -> str:
    """An exception in one line: its kind and the first sentence."""
    sentence = " ".join(str(error).split()).split(". ")[0]
    return f"{type(error).__name__}: {sentence}" if sentence else type(error).__name__


def _seeded(function: Function, theta: Tensor, data: Data, *, slope: bool) -> Tensor:
    """The value, and its gradient beside it where that is needed."""
    with torch_seeded(0, theta.device), torch.enable_grad():
        theta = theta.detach().requires_grad_(slope)
        value = function(theta, data)
        if not isinstance(value, Tensor) or value.shape:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"it must be a scalar tensor, not {shape}")
        if not slope:
            return value.detach()
        (grad,) = torch.autograd.grad(value, theta)
    return torch.cat([value.detach()[None], grad])
