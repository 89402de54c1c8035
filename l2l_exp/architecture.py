"""Rules from what a checkpoint says of them: only classes of torch modules are ever called."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from l2l_exp.errors import UserError
from l2l_exp.optimizers.base import LearnedOptimizer

TARGET = "_target_"
CLASS = "hydra.utils.get_class"
"""How a config writes a class that is an argument, as that of a torch optimizer."""


class CheckpointError(UserError, ValueError):
    """A checkpoint cannot be read; the message names the file and what is wrong with it."""


def rebuild(architecture: Mapping[str, Any], path: Path) -> LearnedOptimizer:
    """Make a fresh rule of an architecture.

    Args:
        architecture: as `LearnedOptimizer.architecture`; only classes of torch modules are called,
            with classes of torch optimizers among their arguments.
        path: where it was read, for messages.

    Raises:
        CheckpointError: if something in it cannot be imported, is no module class, or refuses its
            arguments, or if the whole is not a rule.
    """
    try:
        rule = _build(architecture, path)
    except RecursionError as error:
        raise CheckpointError(f"{path} describes a rule that is nested too deeply") from error
    if not isinstance(rule, LearnedOptimizer):
        raise CheckpointError(f"{path} describes {type(rule).__name__}, not a rule")
    return rule


def _build(node: Any, path: Path) -> Any:
    """Make a described object, whatever it is nested in."""
    if isinstance(node, list):
        return [_build(item, path) for item in node]
    if not isinstance(node, dict):
        return node
    if TARGET not in node:
        return {key: _build(value, path) for key, value in node.items()}
    if node[TARGET] == CLASS:
        return _find(str(node.get("path")), torch.optim.Optimizer, "torch optimizer", path)
    target = _find(str(node[TARGET]), nn.Module, "torch module", path)
    arguments = {key: _build(value, path) for key, value in node.items() if key != TARGET}
    try:
        return target(**arguments)
    except Exception as error:
        raise CheckpointError(f"{path}: {node[TARGET]} refuses its arguments ({error})") from error


def _find(dotted: str, base: type, what: str, path: Path) -> type:
    """Import a class, which must be a subclass of `base`."""
    module_name, _, name = dotted.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (Exception, SystemExit) as error:  # a module may raise anything while it is imported
        raise CheckpointError(
            f"{path} needs {dotted}, which cannot be imported ({error})"
        ) from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise CheckpointError(f"{path} asks for {dotted}, which is not a {what} class")
    return found
