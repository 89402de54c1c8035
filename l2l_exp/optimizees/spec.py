"""The layout of a flat parameter vector: named tensors, their shapes, places and kinds."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Self, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
LAYERS = (
    _ConvNd, nn.Linear, nn.Bilinear, nn.Embedding, nn.EmbeddingBag, nn.RNNBase, nn.RNNCellBase,
    nn.MultiheadAttention,
)  # fmt: skip

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


def kind_of(owner: nn.Module, name: str) -> Kind:
    """The kind of a module's own parameter, by the type of the module.

    All parameters of a normalisation layer are "norm", biases of torch's other layers "bias",
    weights of convolutions "conv", of linear, recurrent, attention and embedding layers "fc".
    Whatever else a module holds, such as a parameter of a user's own class, is "free".

    Args:
        owner: the module that holds the parameter.
        name: the parameter's name there, e.g. "weight".
    """
    if isinstance(owner, NORMS):
        return "norm"
    if not isinstance(owner, LAYERS):
        return "free"
    if "bias" in name:
        return "bias"
    return "conv" if isinstance(owner, _ConvNd) else "fc"


def layout(module: nn.Module) -> ParamSpec:
    """Lay out the parameters of a module that require a gradient, under its own names.

    Parameters that are tied stand once, under their first name.

    Raises:
        ValueError: if there is none, or one has no shape yet or is not real.
    """
    shapes: dict[str, tuple[tuple[int, ...], Kind]] = {}
    for path, parameter in module.named_parameters():
        prefix, _, name = path.rpartition(".")
        owner = module.get_submodule(prefix)
        if not parameter.requires_grad:
            continue
        _check_parameter(f"{path} of {type(owner).__name__}", parameter)
        shapes[path] = (tuple(parameter.shape), kind_of(owner, name))
    if not shapes:
        raise ValueError(f"{type(module).__name__} has no parameter that requires a gradient")
    return ParamSpec.of(shapes)


def layout_of(named: Iterable[tuple[str, Tensor]]) -> ParamSpec:
    """Lay out a bare list of named parameters, such as `module.named_parameters()`.

    There is no module to ask for kinds, so that names and ranks decide. A "weight" of rank 1 is
    "norm", and so is the bias beside it; other biases are "bias"; what else has rank 2 is "fc",
    rank 3 and more "conv", the rest "free". For torch's layers this is what `layout` says, save
    where a rank cannot tell: a normalisation over several axes or without a weight, PReLU,
    Bilinear, and whatever a class of the user's own holds.

    Args:
        named: (name, tensor), in the order in which they are laid out.

    Raises:
        ValueError: if there is none, a name comes twice, or one has no shape yet or is not real.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in named:
        if name in tensors:
            raise ValueError(f"parameter {name} comes twice: names must differ")
        _check_parameter(name, tensor)
        tensors[name] = tensor
    norms = {_owner(n) for n, x in tensors.items() if _last(n) == "weight" and x.dim() == 1}
    return ParamSpec.of(
        {name: (tuple(x.shape), _kind(name, x.dim(), norms)) for name, x in tensors.items()}
    )


def _kind(name: str, rank: int, norms: set[str]) -> Kind:
    """The kind by name and rank; `norms` are the owners of a weight of rank 1."""
    last = _last(name)
    if last in ("weight", "bias") and _owner(name) in norms:
        return "norm"
    if "bias" in last:
        return "bias"
    return "free" if rank < 2 else "fc" if rank == 2 else "conv"


def _owner(name: str) -> str:
    """The path of the module that holds a parameter."""
    return name.rpartition(".")[0]


def _last(name: str) -> str:
    """The parameter's name there."""
    return name.rpartition(".")[2]


def _check_parameter(name: str, tensor: Tensor) -> None:
    """Raise ValueError for what cannot be laid out."""
    if is_lazy(tensor):
        raise ValueError(f"parameter {name} has no shape yet: give its sizes")
    if not tensor.is_floating_point():
        raise ValueError(f"parameter {name} is {tensor.dtype}, and must be real")
