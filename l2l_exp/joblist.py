"""The jobs of a multirun: which there are, how far each has come, what is left to pay."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from filelock import FileLock, Timeout
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from l2l_exp import record
from l2l_exp.report.answers import duration
from l2l_exp.report.studies import key_of

WAITING = "to do"
ENDED = ("done", "failed")


@dataclass(frozen=True)
class Listed:
    """One job of a multirun.

    Attributes:
        number: its place in the launch, and the name of its folder.
        values: of the keys that are swept, as overrides.
        state: "to do", or what its record says, in words.
        seconds: spent so far.
        forecast: seconds that it will still take; 0 of one that has ended, None if not known.
    """

    number: int
    values: tuple[str, ...]
    state: str
    seconds: float
    forecast: float | None


@dataclass(frozen=True)
class JobList:
    """All jobs of a multirun.

    Attributes:
        jobs: in the order of their numbers.
        basis: where the forecast comes from.
        side_by_side: how many jobs the launcher runs at once.
    """

    jobs: tuple[Listed, ...]
    basis: str
    side_by_side: int

    def __str__(self) -> str:
        """One line: how many, and how long it will take."""
        states = [job.state for job in self.jobs]
        counts = {state: states.count(state) for state in dict.fromkeys(states)}
        text = f"{len(self.jobs)} jobs: " + ", ".join(f"{n} {state}" for state, n in counts.items())
        left = [job.forecast for job in self.jobs if job.forecast != 0]
        if not left:
            return text
        known = [one for one in left if one is not None]
        if len(known) < len(left):
            return f"{text}; no forecast: nothing like it has run here"
        total = sum(known) / min(self.side_by_side, len(known))
        beside = f", {self.side_by_side} side by side" if self.side_by_side > 1 else ""
        return f"{text}; about {duration(total)} left{beside} ({self.basis})"


def planned(config: DictConfig) -> list[tuple[str, ...]]:
    """The overrides of every job of a multirun, in the order of their numbers.

    Args:
        config: Hydra's, of the multirun.
    """
    batches = BasicSweeper.split_arguments(_parsed(config), None)
    return [tuple(job) for batch in batches for job in batch]


def swept(config: DictConfig) -> list[str]:
    """The keys that have several values."""
    keys = [o.get_key_element() for o in _parsed(config) if o.is_sweep_override()]
    return list(dict.fromkeys(key.lstrip("+") for key in keys))


def listed(config: DictConfig, folder: Path, label: str) -> JobList:
    """How far each job of a multirun has come.

    The forecast of a job that is left is what the same job took under an earlier version of the
    code; else the mean of the jobs of this multirun that are done, or of earlier ones of its name;
    else what the preset says.

    Args:
        config: Hydra's, of the multirun.
        folder: of the multirun; need not exist.
        label: name of the preset.
    """
    keys = set(swept(config))
    earlier = _seconds(one for one in folder.parent.glob(f"{label}-*") if one != folder)
    here = _seconds([folder])
    told = config.study.minutes
    mean: float | None = None
    basis = ""
    for seconds, where in ((here, "measured on those done"), (earlier, "measured on earlier runs")):
        if seconds and mean is None:
            mean, basis = fmean(seconds.values()), where
    if mean is None and told is not None:
        mean, basis = 60 * float(told), "the preset says so, of one core"
    jobs = []
    for number, overrides in enumerate(planned(config)):
        one = record.read(folder / str(number))
        state = _state(folder / str(number), one)
        values = tuple(o for o in overrides if key_of(o) in keys)
        left = 0.0 if state in ENDED else earlier.get(_identity(overrides), mean)
        jobs.append(Listed(number, values, state, 0.0 if one is None else one.seconds, left))
    return JobList(tuple(jobs), basis, _side_by_side(config))


def _parsed(config: DictConfig) -> list[Override]:
    """The overrides of a launch as Hydra's sweeper sees them."""
    params: Mapping[str, object] = config.hydra.sweeper.get("params") or {}
    given = [f"{key}={value}" for key, value in params.items()] + list(config.hydra.overrides.task)
    return OverridesParser.create().parse_overrides(given)


def _seconds(folders: Iterable[Path]) -> dict[frozenset[str], float]:
    """What each finished job of some multiruns took, by its overrides."""
    found = {}
    for folder in folders:
        for path in folder.glob(f"*/{record.FILE}"):
            one = record.read(path.parent)
            if one is not None and one.status == "FINISHED":
                found[_identity(one.overrides)] = one.seconds
    return found


def _identity(overrides: Sequence[str]) -> frozenset[str]:
    """What makes two jobs the same, as far as their command lines tell."""
    return frozenset(o for o in overrides if not record.is_place(key_of(o)))


def _state(folder: Path, one: record.Record | None) -> str:
    """How far the job in a folder has come, in words."""
    if one is None:
        return WAITING
    if one.status == "RUNNING":
        return "running" if _is_held(folder) else "interrupted"
    return {"FINISHED": "done", "FAILED": "failed", "KILLED": "interrupted"}[one.status]


def _is_held(folder: Path) -> bool:
    """Whether some process works in a run's folder."""
    try:
        with FileLock(folder / record.LOCK, timeout=0):
            return False
    except Timeout:
        return True


def _side_by_side(config: DictConfig) -> int:
    """How many jobs the launcher runs at once."""
    launcher = config.hydra.launcher
    count = launcher.get("n_jobs") or launcher.get("array_parallelism") or 1
    return int(count) if int(count) > 0 else os.cpu_count() or 1
