"""Means and sizes over each tensor of a layout, and back to its coordinates.

K tensors, N coordinates; every function works along the last axis.
"""

import torch
from torch import Tensor

from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers.sizes import or_one, rms


def means(values: Tensor, spec: ParamSpec) -> Tensor:
    """Mean over the coordinates of every tensor: (..., N) -> (..., K)."""
    return torch.stack([values[..., x.slice].mean(-1) for x in spec.tensors], -1)


def sizes(values: Tensor, spec: ParamSpec) -> Tensor:
    """Root mean square over the coordinates of every tensor: (..., N) -> (..., K)."""
    return torch.cat([rms(values[..., x.slice]) for x in spec.tensors], -1)


def spread(values: Tensor, spec: ParamSpec) -> Tensor:
    """Give every coordinate what its tensor has: (..., K) -> (..., N)."""
    parts = values.split(1, -1)
    return torch.cat(
        [y.expand(*y.shape[:-1], x.size) for x, y in zip(spec.tensors, parts, strict=True)], -1
    )


def unit(values: Tensor, spec: ParamSpec) -> Tensor:
    """Values over their root mean square in each tensor; zeros stay. (..., N) -> (..., N)."""
    return values / spread(or_one(sizes(values, spec)), spec)
