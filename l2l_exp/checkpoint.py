"""Checkpoints: the meta-parameters as safetensors, the architecture as json beside or inside them.

A run writes a folder of two files; what is handed on is one file, with the json in its metadata.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from safetensors.torch import save as serialized
from torch import Tensor

from l2l_exp.architecture import TARGET, CheckpointError, rebuild
from l2l_exp.files import replacing, write_text
from l2l_exp.nested import contains, flatten
from l2l_exp.optimizers.base import LearnedOptimizer

__all__ = ["CheckpointError", "export", "load", "locate", "read_description", "rebuild", "save"]
FORMAT_VERSION = 1
PARAMETERS = "rule.safetensors"
DESCRIPTION = "rule.json"
FOLDER = "checkpoint"
"""Where a run keeps it, in its own folder and in the store."""
METADATA = "l2l_exp"
"""Key of an exported file's metadata under which it describes itself."""


def save(folder: Path, rule: LearnedOptimizer, about: Mapping[str, Any]) -> None:
    """Write a rule so that `load` rebuilds it without any other file.

    Args:
        folder: made if needed; an older checkpoint in it is replaced.
        rule: its state dict and its `architecture` are written.
        about: provenance for the reader, e.g. run id, seed, validation loss; plain json values.

    Raises:
        ValueError: if the rule does not know its architecture.
    """
    description = _description(rule, about)
    with replacing(folder / PARAMETERS) as partial:
        save_file(_tensors(rule), partial)
    write_text(folder / DESCRIPTION, json.dumps(description, indent=2, allow_nan=False) + "\n")


def export(path: Path, rule: LearnedOptimizer, about: Mapping[str, Any]) -> None:
    """Write a rule as one file; the same rule gives the same bytes.

    Args:
        path: a safetensors file whose metadata describe the rule; replaced if it exists.
        rule, about: as for `save`.

    Raises:
        ValueError: if the rule does not know its architecture.
    """
    metadata = {METADATA: json.dumps(_description(rule, about), allow_nan=False)}
    with replacing(path) as partial:
        partial.write_bytes(serialized(_tensors(rule), metadata))


def load(source: Path) -> LearnedOptimizer:
    """Rebuild the rule of a checkpoint's folder, or of an exported file, on the CPU.

    Raises:
        CheckpointError: if a file is missing, broken, of a newer format, or not a rule's.
    """
    description = read_description(source)
    told_in = source if source.is_file() else source / DESCRIPTION
    rule = rebuild(description["architecture"], told_in)
    path = source if source.is_file() else source / PARAMETERS
    if not path.is_file():
        raise CheckpointError(f"{source} holds no {PARAMETERS}: it is not a whole checkpoint")
    try:
        rule.load_state_dict(load_file(path), assign=True)  # keeps float64
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} does not fit its {told_in.name}: {reason}") from error
    rule.architecture = description["architecture"]
    rule.about = description.get("about") or {}
    return rule


def locate(source: Path, seed: int | None, where: Mapping[str, Any] | None = None) -> Path:
    """The checkpoint that a path means: a checkpoint's folder, or an exported file.

    Args:
        source: a checkpoint's own folder or one of its files, a run's folder, that of a multirun
            over meta-seeds, or an exported file.
        seed: the meta-seed of the member that is meant; of no use for one checkpoint.
        where: keys of the config of the member that is meant, nested or dotted, and their values.

    Raises:
        CheckpointError: unless exactly one member of a multirun is meant.
    """
    if source.is_file():
        whole = (source.parent / DESCRIPTION).is_file()
        return source.parent if whole and source.name in (DESCRIPTION, PARAMETERS) else source
    if (source / FOLDER).is_dir():
        return source / FOLDER
    found = [path.parent for path in sorted(source.glob(f"*/{FOLDER}/{DESCRIPTION}"))]
    members = [member for member in found if _is_finished(member.parent)]
    if not members:
        if (source / "sweep.json").is_file():
            raise CheckpointError(f"{source} holds no rule of a finished run")
        return source
    if where:
        members = [one for one in members if contains(_record(one.parent).get("config", {}), where)]
    seeds = [(read_description(member).get("about") or {}).get("seed") for member in members]
    fitting = [member for member, its in zip(members, seeds, strict=True) if its == seed]
    if seed is None and len(members) == 1:
        fitting = members
    if len(fitting) != 1:
        there = ", ".join(sorted(map(str, seeds))) or "none"
        raise CheckpointError(
            f"{source} holds {len(fitting)} rules of meta-seed {seed}{_told(where)} (it has those "
            f"of {there}): choose by seed=..., in commands also by optimizer.where, or give the "
            f"folder of one run"
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


def read_description(source: Path) -> dict[str, Any]:
    """Read and check what a checkpoint says of itself.

    Args:
        source: a checkpoint's folder, or an exported file.

    Raises:
        CheckpointError: as `load`.
    """
    if source.is_file():
        return _parsed(source, _metadata(source))
    path = source / DESCRIPTION
    if not path.is_file():
        raise CheckpointError(f"{source} holds no {DESCRIPTION}: give the folder of a checkpoint")
    try:
        return _parsed(path, path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not a checkpoint's description ({error!r})") from error


def _parsed(path: Path, text: str) -> dict[str, Any]:
    """A checkpoint's description, checked."""
    try:
        description = json.loads(text)
        version = description["format_version"]
        description["architecture"][TARGET]
        dict(description.get("about") or {})
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a checkpoint's description ({error!r})") from error
    if not isinstance(version, int) or version < 1:
        raise CheckpointError(f"{path}: format_version={version!r} must be a number >= 1")
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format_version {version}; this l2l_exp reads up to {FORMAT_VERSION}: "
            f"use a newer one"
        )
    return dict(description)


def _metadata(path: Path) -> str:
    """What an exported file says of itself."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error
    if METADATA not in metadata:
        raise CheckpointError(
            f"{path} is no exported rule: its metadata have no {METADATA!r} (l2l-export writes "
            f"such files, l2l-import makes them of the arrays of others)"
        )
    return str(metadata[METADATA])


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    """The error for a file that is no safetensors file."""
    reason = " ".join(str(error).split())
    return CheckpointError(f"{path} cannot be read ({reason}): it is truncated or foreign")


def _tensors(rule: LearnedOptimizer) -> dict[str, Tensor]:
    """A rule's meta-parameters, ready to be written."""
    return {name: x.detach().cpu().contiguous() for name, x in rule.state_dict().items()}


def _description(rule: LearnedOptimizer, about: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of itself."""
    if rule.architecture is None:
        raise ValueError(f"set the architecture of this {type(rule).__name__} before it is saved")
    return {
        "format_version": FORMAT_VERSION,
        "architecture": dict(rule.architecture),
        "about": dict(about),
    }
