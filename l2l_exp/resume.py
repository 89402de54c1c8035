"""resume=...: find the run that was stopped, and the arguments that compose its config again."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from l2l_exp import record
from l2l_exp.config import ConfigError, shipped

KEY = "resume="
LAUNCH_ONLY = ("resume", "accept_changes", "retry_failed")


def arguments(command: str, given: Sequence[str]) -> list[str]:
    """The command line of a run that goes on; `given` itself where nothing is resumed.

    The run's own overrides come first, so that `resume=ID` is all that is needed; what is given
    beside it is added, and is later compared with what the run was begun with. The working
    directory becomes the run's, so that relative paths mean what they meant.

    Args:
        command: "train" or "evaluate".
        given: arguments without the program's name.

    Raises:
        ConfigError: if there is no such run, or it is another command's.
    """
    source = _value(given, KEY)
    if source in (None, "null", ""):
        return list(given)
    if {"-m", "--multirun"} & set(given):
        raise ConfigError(f"{KEY}{source} is for one run: launch the same multirun again instead")
    folder = _folder(str(source), _value(given, "tracking.uri="))
    old = record.read(folder)
    if old is None:
        raise ConfigError(f"{KEY}{source}: {folder} holds no {record.FILE}, so there is no run")
    if old.command != command:
        raise ConfigError(f"{KEY}{source} was made by l2l-{old.command}: use that")
    if Path(old.cwd).is_dir():
        os.chdir(old.cwd)
    rest = [argument for argument in given if not argument.startswith(KEY)]
    mine = {argument.partition("=")[0].lstrip("+~") for argument in rest}
    known = [o for o in old.overrides if o.partition("=")[0].lstrip("+~") not in mine]
    dirs = [part for path in old.config_dirs for part in ("--config-dir", path)]
    if any(argument.startswith(("--config-dir", "-cd")) for argument in rest):
        dirs = []
    place = [f"{key}{quoted(str(folder))}" for key in ("hydra.run.dir=", KEY)]
    return [*dirs, *known, *rest, "hydra.mode=RUN", *place]


def is_launch_only(override: str) -> bool:
    """Whether an override says what a launch may do, and nothing about the run."""
    return override.partition("=")[0].lstrip("+~") in LAUNCH_ONLY


def _folder(source: str, uri: str | None) -> Path:
    """The folder of a run, given itself or as an id."""
    path = Path(source).expanduser()
    if path.is_dir():
        return path.resolve()
    for pattern in ("outputs/*/*/", "multirun/*/*/"):
        for found in Path.cwd().glob(pattern + record.FILE):
            if _id_of(found) == source:
                return found.parent
    for found in Path.cwd().glob("multirun/*/sweep.json"):
        if _id_of(found) == source:
            raise ConfigError(f"{KEY}{source} is a multirun: launch the same command again instead")
    return _folder_in_store(source, uri)


def _id_of(path: Path) -> str | None:
    """The run id in a json file."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content.get("run_id") if isinstance(content, dict) else None


def _folder_in_store(run_id: str, uri: str | None) -> Path:
    """The folder that a run of the store was written into."""
    from l2l_exp.tracking import FOLDER_TAG, Store, TrackingError

    if uri is None:
        uri = str(OmegaConf.load(shipped("conf") / "tracking" / "mlflow.yaml").uri)
    try:
        folder = Store(uri).tags(run_id).get(FOLDER_TAG)
    except TrackingError as error:
        raise ConfigError(
            f"{KEY}{run_id} is neither a run folder nor a known run: {error}"
        ) from error
    if folder is None or not Path(folder).is_dir():
        raise ConfigError(f"{KEY}{run_id}: its folder {folder} is not on this machine")
    return Path(folder)


def _value(given: Sequence[str], key: str) -> str | None:
    """The last value of a key among arguments, unquoted."""
    values = [argument.removeprefix(key) for argument in given if argument.startswith(key)]
    return values[-1].strip("'\"") if values else None


def quoted(text: str) -> str:
    """A string as Hydra's grammar wants it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
