"""Named tensors with rows, from whatever a user has: tensors, arrays, a torch Dataset."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from l2l_exp.optimizees.images import Images
from l2l_exp.optimizees.seeding import torch_seeded

POSITIONS = ("inputs", "targets")
"""Names of the members of a tuple."""


def named_tensors(data: Any, seed: int = 0) -> dict[str, Tensor]:
    """Tensors under names.

    Args:
        data: a mapping of tensors, arrays, numbers or lists of them; a tuple (inputs,) or (inputs,
            targets) of the same; `Images`, as inputs and targets, never jittered; or a
            `torch.utils.data.Dataset` of such items, which is read once.
        seed: of torch's generator while a data set is read.

    Raises:
        ValueError: for anything that cannot be made a tensor, by name.
    """
    if isinstance(data, Dataset):
        data = _stacked(data, seed)
    if isinstance(data, Images):
        data = (data.pixels, data.labels)
    if isinstance(data, tuple | list):
        if not 1 <= len(data) <= len(POSITIONS):
            raise ValueError(
                f"data: a tuple must be (inputs, targets), this one has {len(data)} members: "
                f"name them in a dict"
            )
        data = dict(zip(POSITIONS, data, strict=False))
    return {_name(name): _tensor(name, value) for name, value in data.items()}


def _stacked(dataset: Dataset[Any], seed: int) -> Any:
    """Every item of a data set, stacked; what is random about reading them is seeded."""
    size = len(dataset) if hasattr(dataset, "__len__") else 0
    if not size:
        raise ValueError(f"data: {type(dataset).__name__} must have a length >= 1")
    try:
        with torch_seeded(seed, torch.device("cpu")):
            stacked = default_collate([dataset[item] for item in range(size)])
    except (RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"data: the items of {type(dataset).__name__} cannot be stacked ({reason})"
        ) from error
    return (stacked,) if isinstance(stacked, Tensor) else stacked


def _name(name: Any) -> str:
    """A key of a mapping, which must be usable as a name."""
    if not (isinstance(name, str) and name.isidentifier()):
        raise ValueError(f"data: {name!r} must be a name of letters, digits and underscores")
    return name


def _tensor(name: str, value: Any) -> Tensor:
    """A tensor from a tensor, an array, a number, or nested lists of numbers."""
    try:
        return value.detach() if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
    except (TypeError, ValueError, RuntimeError) as error:
        kind = f" of {value.dtype}" if isinstance(value, np.ndarray) else ""
        raise ValueError(
            f"data: {name} is a {type(value).__name__}{kind}, and must be a tensor, array or number"
        ) from error


def row_names(tensors: Mapping[str, Tensor], constants: Iterable[str]) -> tuple[str, ...]:
    """Names of the tensors that have rows, which must be equally many.

    Args:
        tensors: by name.
        constants: names of what is not rows; numbers need not be named.
    """
    for name in constants:
        if name not in tensors:
            raise ValueError(f"constants: {name!r} must be one of {', '.join(tensors)}")
    lengths = {name: len(x) for name, x in tensors.items() if x.dim() and name not in constants}
    if len(set(lengths.values())) != 1:
        told = ", ".join(f"{name} {length}" for name, length in lengths.items()) or "none"
        raise ValueError(
            f"data: there must be equally many rows of everything, got {told}; name in "
            f"`constants` what is not rows"
        )
    return tuple(lengths)


def shapes_told(shapes: Mapping[str, torch.Size]) -> str:
    """Names and shapes in words."""
    return ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items())
