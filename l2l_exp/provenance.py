"""Where a result comes from: code version, environment, machine."""

import getpass
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import l2l_exp
from l2l_exp import checkpoint
from l2l_exp.source import place_of

PACKAGE = Path(l2l_exp.__file__).parent
ARITHMETIC = ("torch", "numpy")
TRAINED = "trained_rule"
LIBRARIES = ("torch", "numpy", "scipy", "hydra-core", "mlflow", "scikit-learn", "torchvision")


def code_version() -> dict[str, str]:
    """Version of l2l_exp; from a checkout also its commit, and whether its tree was clean."""
    version = {"l2l_exp.version": l2l_exp.__version__}
    root = PACKAGE.parent
    commit = _git(root, "rev-parse", "HEAD") if (root / ".git").exists() else None
    if commit is not None:
        changes = _git(root, "status", "--porcelain")
        version |= {"git.commit": commit, "git.clean": str(changes == "").lower()}
    return version


def sources(config: Mapping[str, Any]) -> dict[str, str]:
    """What the numbers of a run depend on besides its config: file -> hash, library -> version.

    Files are those of l2l_exp, the modules of others that the config names as `_target_`, and the
    checkpoints of trained rules, wherever the config has one; so every change of an uncommitted
    tree is a version of its own.

    Args:
        config: resolved.
    """
    found = {_name(path): _hash(path) for path in sorted(PACKAGE.rglob("*.py"))}
    for module in sorted({node["_target_"].rpartition(".")[0] for node in _described(config)}):
        if module.split(".")[0] not in ("l2l_exp", "hydra", *ARITHMETIC):
            path = _source_file(module)
            if path is not None:
                found[module] = _hash(path)
    for node in _described(config):
        if node["_target_"].rpartition(".")[-1] == TRAINED and node.get("source"):
            found |= {_name(path): _hash(path) for path in _parameters(node)}
    return found | {name: importlib.metadata.version(name) for name in ARITHMETIC}


def commit_of(version: Mapping[str, str]) -> str | None:
    """The commit of a code version, with a "+" if the tree was changed; None outside a checkout."""
    changed = "" if version.get("git.clean") == "true" else "+"
    return f"{version['git.commit']}{changed}" if "git.commit" in version else None


def origin(command: str) -> dict[str, str]:
    """What made a run: the command, who launched it, code version, environment.

    Names that begin with "mlflow." are those that MLflow's interface shows in columns.

    Args:
        command: "train" or "evaluate".
    """
    version = code_version()
    tags = {"mlflow.source.name": f"l2l-{command}", "mlflow.source.type": "LOCAL"}
    with suppress(OSError, KeyError, ImportError):  # a user without a name
        tags["mlflow.user"] = getpass.getuser()
    if "git.commit" in version:
        tags["mlflow.source.git.commit"] = version["git.commit"]
    return tags | version | _environment()


def _environment() -> dict[str, str]:
    """Versions of Python and of the libraries, and the machine."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    found["cpu_count"] = str(os.cpu_count())
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def _described(node: Any) -> Iterator[Mapping[str, Any]]:
    """Every node with a `_target_` in a config, at any depth."""
    if isinstance(node, Mapping):
        if isinstance(node.get("_target_"), str):
            yield node
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from _described(item)


def _parameters(node: Mapping[str, Any]) -> list[Path]:
    """The files of a trained rule that is read from a path; a run's id has none here.

    Of a multirun whose member is not known, as before its seeds are dealt out, those of all.
    """
    try:
        place = place_of(str(node["source"]))
    except checkpoint.CheckpointError:  # told where the rule is built
        return []
    if place is None:
        return []
    with suppress(checkpoint.CheckpointError):
        place = checkpoint.locate(place, node.get("seed"), node.get("where"))
    if place.is_file():
        return [place]
    places = ("", f"*/{checkpoint.FOLDER}/")
    return [path for each in places for path in sorted(place.glob(f"{each}*.safetensors"))]


def _name(path: Path) -> str:
    """A file as it is listed: what comes with the package by where it is in there."""
    return f"l2l_exp/{path.relative_to(PACKAGE)}" if path.is_relative_to(PACKAGE) else str(path)


def _source_file(module: str) -> Path | None:
    """The file of a module, which is not imported for that; None where there is none."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec and spec.origin and Path(spec.origin).is_file() else None


def _hash(path: Path) -> str:
    """Short hash of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _git(root: Path, *command: str) -> str | None:
    """Output of a git command, None where it fails."""
    try:
        result = subprocess.run(
            ["git", "-C", str(root), *command], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()
