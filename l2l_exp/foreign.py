"""Arrays from files of others: npz, safetensors, state dicts of torch. Nothing is unpickled."""

import pickle
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from l2l_exp.architecture import CheckpointError

ZIP, HEADER = b"PK", 8
"""How npz files and those of torch begin; where the json of a safetensors file begins."""


def arrays(path: Path) -> dict[str, Tensor]:
    """The arrays of floating point in a file, by name, in the file's order.

    What is nested in a state dict has dotted names; whatever is no array of floats is left out.

    Args:
        path: .npz, .safetensors, or what `torch.save` wrote; told apart by content.

    Raises:
        CheckpointError: if the file is none of these, is broken, or would have to be unpickled.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEADER + 1)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror})") from error
    if head.startswith(ZIP) and _is_npz(path):
        found = _of_numpy(path)
    elif head[HEADER:] == b"{":
        found = _of_safetensors(path)
    else:
        found = _of_torch(path)
    floats = {name: x for name, x in found.items() if x.is_floating_point()}
    if not floats:
        raise CheckpointError(f"{path} holds no arrays of floating point")
    for name, x in floats.items():
        if not bool(x.isfinite().all()):
            raise CheckpointError(f"{path}: {name} holds numbers that are not finite")
    return floats


def _is_npz(path: Path) -> bool:
    """Whether a zip file is numpy's."""
    try:
        with zipfile.ZipFile(path) as file:
            return any(name.endswith(".npy") for name in file.namelist())
    except (zipfile.BadZipFile, OSError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): it is truncated") from error


def _of_numpy(path: Path) -> dict[str, Tensor]:
    """Arrays of an npz file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if "allow_pickle" in str(error):
            raise _pickled(path) from error
        raise CheckpointError(f"{path} cannot be read ({error}): it is truncated") from error
    numbers = {name: x for name, x in found.items() if x.dtype.kind == "f"}
    return {
        name: torch.from_numpy(x.astype(x.dtype.newbyteorder("="))) for name, x in numbers.items()
    }


def _of_safetensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file."""
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} cannot be read ({reason}): it is truncated") from error


def _of_torch(path: Path) -> dict[str, Tensor]:
    """Tensors of what torch.save wrote, however deep in mappings they lie."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of files that torch did not write
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _pickled(path) from error
    except Exception as error:  # whatever a broken file makes of the reader
        raise CheckpointError(
            f"{path} is no npz, safetensors or torch file, or a broken one ({type(error).__name__})"
        ) from error
    return dict(_tensors(content, ""))


def _tensors(content: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Tensors of nested mappings, under dotted names."""
    if isinstance(content, Tensor) and prefix:
        yield prefix, content.detach()
    elif isinstance(content, Mapping):
        for name, part in content.items():
            yield from _tensors(part, f"{prefix}.{name}" if prefix else str(name))


def _pickled(path: Path) -> CheckpointError:
    """The error for a file that could run code."""
    return CheckpointError(
        f"{path} is no file of plain arrays: it is broken, or a pickle, which could run any code "
        f"and is not opened. Have it saved as npz, as safetensors, or by "
        f"torch.save(module.state_dict(), PATH)"
    )
