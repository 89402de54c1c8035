"""run.json: what a run is, and how far it has come."""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from l2l_exp.config import ConfigError, flatten
from l2l_exp.files import write_text

FILE = "run.json"
KEPT = ".resume"
LOCK = ".lock"
FORMAT_VERSION = 1
ABSENT = "absent"
Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
PLACES = (
    "tracking", "evaluation.cache", "data.root", "data.download", "optimizee.images.root",
    "optimizee.images.download", "optimizer.uri", "resume", "accept_changes", "retry_failed",
    "register",
)  # fmt: skip
"""Keys that say where things lie or what a launch may do: they make no other run."""


@dataclass(frozen=True)
class Record:
    """One run.

    Attributes:
        command: "train" or "evaluate".
        overrides: of the command line.
        config_dirs: folders given by --config-dir.
        config: resolved, whole.
        sources: what else the numbers depend on, as `provenance.sources` gives it.
        threads: of torch.
        cwd: working directory, which relative paths mean.
        run_id: in the store, None before there is one.
        status: RUNNING also after a kill that nothing could answer.
        error: what made it fail, one line.
        accepted: changes of config or code since it was begun, which parameters in a store cannot
            follow.
        unsent: the store lacks something that lies in the folder.
        seconds: spent, in all launches that could still say so.
        ended: seconds since 1970, None while it runs.
        commit: of the code, where that is known; with a "+" if the tree was changed.
    """

    command: str
    overrides: list[str]
    config_dirs: list[str]
    config: dict[str, Any]
    sources: dict[str, str]
    threads: int
    cwd: str
    run_id: str | None = None
    status: Status = "RUNNING"
    error: str | None = None
    accepted: list[str] = field(default_factory=list)
    unsent: bool = False
    seconds: float = 0.0
    ended: float | None = None
    commit: str | None = None

    def write(self, folder: Path) -> None:
        """Write run.json, whole or not at all."""
        content = {"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}
        write_text(folder / FILE, json.dumps(content, indent=1) + "\n")


def read(folder: Path) -> Record | None:
    """The record of a folder; None if it holds none.

    Raises:
        ConfigError: if it cannot be read, or is of a newer format.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text())
        if content.pop("format_version") > FORMAT_VERSION:
            raise ConfigError(f"{path} was written by a newer l2l_exp: use that")
        return Record(**content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path} is not a run's record ({error!r})") from error


def differences(old: Record, new: Record) -> list[str]:
    """What is not the same: keys of the config, sources; empty if one may go on as the other."""
    before, after = ({"command": r.command, **identity(r.config)} for r in (old, new))
    lines = [
        f"{key} {before.get(key, ABSENT)} -> {after.get(key, ABSENT)}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key, ABSENT) != after.get(key, ABSENT)
    ]
    return lines + _changed_sources(old.sources, new.sources)


def _changed_sources(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Sources that differ; versions of libraries are shown."""
    lines = []
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if before != after:
            library = "." in (before or after or "")
            what = "changed" if after else "not found"
            lines.append(f"{name} {before} -> {after}" if library else f"{name} {what}")
    return lines


def digest(*parts: object) -> str:
    """Hash of json values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """Flat keys of a config, or of some of it, without `PLACES`."""
    return {key: value for key, value in flatten(config).items() if not is_place(key)}


def is_place(key: str) -> bool:
    """Whether a key of the config says where things lie, or what a launch may do."""
    return any(key == place or key.startswith(f"{place}.") for place in PLACES)


@contextmanager
def alone(folder: Path, wait: bool) -> Iterator[None]:
    """Hold a run's folder; the lock dies with its owner.

    Args:
        folder: of the run.
        wait: for another process that holds it.

    Raises:
        ConfigError: if another process holds it and `wait` is false.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout as error:
        raise ConfigError(f"{folder} is being worked on by another process") from error
    try:
        yield
    finally:
        lock.release()
        if not wait and not (folder / FILE).is_file():
            _clear(folder)


def _clear(folder: Path) -> None:
    """Remove the folder of a run that never began, and the two above it if that empties them.

    The working directory and what lies outside it is the user's.
    """
    (folder / LOCK).unlink(missing_ok=True)
    here, above = Path.cwd(), folder.resolve().parents[:2]
    with suppress(OSError):  # not empty: it is not ours to remove
        for path in (folder, *(path for path in above if here in path.parents)):
            path.rmdir()


def set_aside(folder: Path) -> Path:
    """Move what lies in a run's folder into a folder beside it, since another run begins there."""
    place = next(p for n in itertools.count(1) if not (p := Path(f"{folder}.before-{n}")).exists())
    place.mkdir()
    for path in folder.iterdir():
        if path.name != LOCK:
            path.rename(place / path.name)
    return place
