"""Where a result comes from: code version, environment, machine."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import l2l_exp

LIBRARIES = ("torch", "numpy", "scipy", "hydra-core", "mlflow", "scikit-learn", "torchvision")


def code_version() -> dict[str, str]:
    """Version of l2l_exp; from a checkout also its commit, and whether its tree was clean."""
    version = {"l2l_exp.version": l2l_exp.__version__}
    root = Path(__file__).parent.parent
    commit = _git(root, "rev-parse", "HEAD") if (root / ".git").exists() else None
    if commit is not None:
        changes = _git(root, "status", "--porcelain")
        version |= {"git.commit": commit, "git.clean": str(changes == "").lower()}
    return version


def environment() -> dict[str, str]:
    """Versions of Python and of the libraries, and the machine."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    found["cpu_count"] = str(os.cpu_count())
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def _git(root: Path, *command: str) -> str | None:
    """Output of a git command, None where it fails."""
    try:
        result = subprocess.run(
            ["git", "-C", str(root), *command], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()
