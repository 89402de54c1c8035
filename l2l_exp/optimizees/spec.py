"""The layout of a flat parameter vector: named tensors, their shapes, places and kinds."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self, get_args

import torch
from torch import Tensor

Kind = Literal["fc", "conv", "norm", "bias", "free"]


@dataclass(frozen=True)
class TensorSpec:
    """One named tensor inside the flat vector."""

    name: str
    shape: tuple[int, ...]
    kind: Kind
    start: int

    @property
    def size(self) -> int:
        """Number of coordinates of the tensor."""
        return math.prod(self.shape)

    @property
    def slice(self) -> slice:
        """Where the tensor's coordinates stand in the flat vector."""
        return slice(self.start, self.start + self.size)


@dataclass(frozen=True)
class ParamSpec:
    """How N coordinates are made of named tensors, in order and without gaps."""

    tensors: tuple[TensorSpec, ...]

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[tuple[int, ...], Kind]]) -> Self:
        """Lay out tensors one after the other.

        Args:
            shapes: name -> (shape, kind), in the order in which they are laid out.

        Raises:
            ValueError: if there is no tensor, a size is not positive, or a kind is unknown.
        """
        if not shapes:
            raise ValueError("a ParamSpec needs at least one tensor, got none")
        tensors, start = [], 0
        for name, (shape, kind) in shapes.items():
            if any(size < 1 for size in shape):
                raise ValueError(f"tensor {name!r}: every size must be >= 1, got shape {shape}")
            if kind not in get_args(Kind):
                raise ValueError(f"tensor {name!r}: kind {kind!r} is not one of {get_args(Kind)}")
            tensors.append(TensorSpec(name, tuple(shape), kind, start))
            start += tensors[-1].size
        return cls(tuple(tensors))

    @property
    def size(self) -> int:
        """N, the number of coordinates of one problem."""
        return sum(tensor.size for tensor in self.tensors)

    def unflatten(self, theta: Tensor) -> dict[str, Tensor]:
        """Cut (..., N) into named tensors of shape (..., *shape): views, differentiable."""
        return {
            tensor.name: theta[..., tensor.slice].reshape((*theta.shape[:-1], *tensor.shape))
            for tensor in self.tensors
        }

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Inverse of `unflatten`: named tensors (..., *shape) -> (..., N)."""
        return torch.cat(
            [
                tensors[t.name].flatten(tensors[t.name].dim() - len(t.shape))
                if t.shape
                else tensors[t.name].unsqueeze(-1)
                for t in self.tensors
            ],
            dim=-1,
        )
