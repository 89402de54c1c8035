"""What the name of a rule means where no store is asked: a path, a preset, a bundled rule."""

import glob
from pathlib import Path

from l2l_exp.checkpoint import CheckpointError

RULES = Path(__file__).parent / "rules"
"""Folder of the bundled rules: NAME.safetensors, and a card NAME.md beside it."""
BUNDLED, RUNS, MODELS = "bundled:/", "runs:/", "models:/"
SWEEPS = "multirun"


def bundled_rules() -> list[str]:
    """Names of the rules that come with the package, in order."""
    return sorted(path.stem for path in RULES.glob("*.safetensors"))


def place_of(name: str) -> Path | None:
    """The file or folder that a name means, in this order.

    1. `bundled:/NAME`: a bundled rule, whatever else has its name.
    2. An existing path.
    3. The latest multirun below ./multirun of a preset of that name.
    4. A bundled rule.

    Returns:
        None where it is none of these, as it is for a run's id.

    Raises:
        CheckpointError: if no rule of the name is bundled, where it says that one is.
    """
    if name.startswith(BUNDLED):
        found = _bundled(name.removeprefix(BUNDLED))
        if found is None:
            raise CheckpointError(f"no rule {name!r}: {told_bundled()}")
        return found
    path = Path(name).expanduser()
    if name and path.exists():
        return path
    return _latest_multirun(name) or _bundled(name)


def told_bundled() -> str:
    """Which rules are bundled, for messages."""
    return f"bundled are {', '.join(bundled_rules())}"


def _bundled(name: str) -> Path | None:
    """The file of a bundled rule."""
    return RULES / f"{name}.safetensors" if name in bundled_rules() else None


def _latest_multirun(preset: str) -> Path | None:
    """The folder of a preset's latest multirun."""
    if "/" in preset:  # no name of a preset, and absolute ones are no pattern
        return None
    found = [one.parent for one in Path(SWEEPS).glob(f"{glob.escape(preset)}-*/sweep.json")]
    found = [one for one in found if one.name.rpartition("-")[0] == preset]
    return max(found, key=lambda one: (one / "sweep.json").stat().st_mtime, default=None)
