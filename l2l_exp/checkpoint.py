"""Checkpoints: the meta-parameters as safetensors, the architecture as json beside them."""

import glob
import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from l2l_exp.errors import UserError
from l2l_exp.files import replacing, write_text
from l2l_exp.nested import contains, flatten
from l2l_exp.optimizers.base import LearnedOptimizer

FORMAT_VERSION = 1
PARAMETERS = "rule.safetensors"
DESCRIPTION = "rule.json"
FOLDER = "checkpoint"
"""Where a run keeps it, in its own folder and in the store."""
SWEEPS = "multirun"
"""Where multiruns lie, in the working directory."""
TARGET = "_target_"
CLASS = "hydra.utils.get_class"
"""How a config writes a class that is an argument, as that of a torch optimizer."""


class CheckpointError(UserError, ValueError):
    """A checkpoint cannot be read; the message names the file and what is wrong with it."""


def save(folder: Path, rule: LearnedOptimizer, about: Mapping[str, Any]) -> None:
    """Write a rule so that `load` rebuilds it without any other file.

    Args:
        folder: made if needed; an older checkpoint in it is replaced.
        rule: its state dict and its `architecture` are written.
        about: provenance for the reader, e.g. run id, seed, validation loss; plain json values.

    Raises:
        ValueError: if the rule does not know its architecture.
    """
    if rule.architecture is None:
        raise ValueError(f"set the architecture of this {type(rule).__name__} before it is saved")
    tensors = {name: x.detach().cpu().contiguous() for name, x in rule.state_dict().items()}
    with replacing(folder / PARAMETERS) as partial:
        save_file(tensors, partial)
    description = {
        "format_version": FORMAT_VERSION,
        "architecture": dict(rule.architecture),
        "about": dict(about),
    }
    write_text(folder / DESCRIPTION, json.dumps(description, indent=2, allow_nan=False) + "\n")


def load(folder: Path) -> LearnedOptimizer:
    """Rebuild the rule of a checkpoint folder, on the CPU.

    Raises:
        CheckpointError: if a file is missing, broken, of a newer format, or not a rule's.
    """
    description = read_description(folder)
    rule = rebuild(description["architecture"], folder / DESCRIPTION)
    path = folder / PARAMETERS
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no {PARAMETERS}: it is not a whole checkpoint")
    try:
        rule.load_state_dict(load_file(path), assign=True)  # keeps float64
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}): it is truncated or foreign"
        ) from error
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} does not fit its {DESCRIPTION}: {reason}") from error
    rule.architecture = description["architecture"]
    rule.about = description.get("about") or {}
    return rule


def folder_of(source: str) -> Path | None:
    """The folder that a source means: itself, or the latest multirun of a preset's name."""
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    found = [one.parent for one in Path(SWEEPS).glob(f"{glob.escape(source)}-*/sweep.json")]
    found = [one for one in found if one.name.rpartition("-")[0] == source]
    return max(found, key=lambda one: (one / "sweep.json").stat().st_mtime, default=None)


def locate(source: Path, seed: int | None, where: Mapping[str, Any] | None = None) -> Path:
    """The checkpoint that a folder holds.

    Args:
        source: a checkpoint's own folder, a run's, or that of a multirun over meta-seeds.
        seed: the meta-seed of the member that is meant; of no use for one checkpoint.
        where: keys of the config of the member that is meant, nested or dotted, and their values.

    Raises:
        CheckpointError: unless exactly one member of a multirun is meant.
    """
    if (source / FOLDER).is_dir():
        return source / FOLDER
    found = [path.parent for path in sorted(source.glob(f"*/{FOLDER}/{DESCRIPTION}"))]
    members = [member for member in found if _is_finished(member.parent)]
    if not members:
        return source
    if where:
        members = [one for one in members if contains(_record(one.parent).get("config", {}), where)]
    seeds = [(read_description(member).get("about") or {}).get("seed") for member in members]
    fitting = [member for member, its in zip(members, seeds, strict=True) if its == seed]
    if len(fitting) != 1:
        there = ", ".join(sorted(map(str, seeds))) or "none"
        raise CheckpointError(
            f"{source} holds {len(fitting)} rules of meta-seed {seed}{_told(where)} (it has those "
            f"of {there}): choose by seed=... or optimizer.where, or give the folder of one run"
        )
    return fitting[0]


def _told(where: Mapping[str, Any] | None) -> str:
    """What was asked for besides the meta-seed, for messages."""
    return "".join(f" and {key}={value}" for key, value in flatten(where or {}).items())


def _is_finished(run: Path) -> bool:
    """Whether a run's folder says so; where there is no record, its checkpoint is all there is."""
    return not (run / "run.json").is_file() or _record(run).get("status") == "FINISHED"


def _record(run: Path) -> dict[str, Any]:
    """run.json of a run's folder; empty where there is none, or none that can be read."""
    try:
        record = json.loads((run / "run.json").read_text())
    except (OSError, ValueError):  # broken off, or no text at all
        return {}
    return record if isinstance(record, dict) else {}


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
    rule = _build(architecture, path)
    if not isinstance(rule, LearnedOptimizer):
        raise CheckpointError(f"{path} describes {type(rule).__name__}, not a rule")
    return rule


def read_description(folder: Path) -> dict[str, Any]:
    """Read and check what a checkpoint says of itself.

    Raises:
        CheckpointError: as `load`.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no {DESCRIPTION}: give the folder of a checkpoint")
    try:
        description = json.loads(path.read_text())
        version = description["format_version"]
        description["architecture"][TARGET]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise CheckpointError(f"{path} is not a checkpoint's description ({error!r})") from error
    if not isinstance(version, int) or version < 1:
        raise CheckpointError(f"{path}: format_version={version!r} must be a number >= 1")
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format_version {version}; this l2l_exp reads up to {FORMAT_VERSION}: "
            f"use a newer one"
        )
    return dict(description)


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
    except Exception as error:  # a module may raise anything while it is imported
        raise CheckpointError(
            f"{path} needs {dotted}, which cannot be imported ({error})"
        ) from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise CheckpointError(f"{path} asks for {dotted}, which is not a {what} class")
    return found
