"""Where studies come from: folders of multiruns, a store, results that were shipped."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from l2l_exp.report import frames, studies
from l2l_exp.report.studies import EXTRAS, Run, Study, extras_of, read_or_tell
from l2l_exp.tracking import FOLDER_TAG, Store, Tracked

SWEEP = "sweep.json"
STEPS, CURVES = "steps.parquet", "curves.parquet"
SUMMARY, RULE, TRACEBACK = "summary.json", "checkpoint/rule.json", "traceback.txt"


@dataclass(frozen=True)
class Found:
    """A study, and where it was found.

    Attributes:
        study: read.
        origin: for readers, e.g. "multirun/seeds-1234abcd".
        time: when it was begun or written, seconds since 1970.
        shipped: whether it was read from shipped results, and not run here.
    """

    study: Study
    origin: str
    time: float
    shipped: bool = False


@dataclass(frozen=True)
class Collection:
    """Studies, and what could not be read, a line each."""

    found: Sequence[Found] = ()
    problems: Sequence[str] = field(default_factory=tuple)

    def __add__(self, other: "Collection") -> "Collection":
        return Collection([*self.found, *other.found], [*self.problems, *other.problems])


def from_folders(folders: Iterable[Path]) -> Collection:
    """Studies of multiruns' folders, or of folders that hold such.

    Raises:
        ValueError: if one of them is no folder.
    """
    collection = Collection()
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"folders={folder} is not a folder: give one of multiruns")
        paths = [folder] if (folder / SWEEP).is_file() else sorted(folder.glob(f"*/{SWEEP}"))
        for path in paths:
            one = path if path == folder else path.parent
            time = (one / SWEEP).stat().st_mtime
            collection += _read(partial(studies.from_folder, one), str(one), time)
    return collection


def from_shipped(folder: Path) -> Collection:
    """Studies that `studies.write` wrote, one in each folder below this one.

    Raises:
        ValueError: if it is no folder.
    """
    if not folder.is_dir():
        raise ValueError(f"results={folder} is not a folder: give one of written studies")
    collection = Collection()
    for path in sorted(folder.glob(f"*/{studies.FILE}")):
        read = partial(studies.read, path.parent)
        collection += _read(read, str(path.parent), path.stat().st_mtime, shipped=True)
    return collection


def from_store(uri: str) -> Collection:
    """Studies of a store's multiruns of presets, oldest first.

    Args:
        uri: tracking URI.

    Raises:
        TrackingError: if the store cannot be reached.
    """
    store = Store(uri)
    collection = Collection()
    with TemporaryDirectory() as folder:  # tables are read before it goes
        for parent in store.multiruns():
            origin = f"{parent.tags['sweeps']}, run {parent.run_id} of {store.uri}"
            sweep, error = _sweep(store, parent, Path(folder))
            if error is not None:
                collection += Collection(problems=[f"{origin}: {SWEEP} {error}"])
            read = partial(_of_parent, store, parent, sweep, Path(folder))
            collection += _read(read, origin, parent.started)
    return collection


def _read(
    read: Callable[[], Study], origin: str, time: float, *, shipped: bool = False
) -> Collection:
    """One study, or one problem."""
    study, error = read_or_tell(read)
    if study is None:
        return Collection(problems=[f"{origin} {error}"])
    return Collection([Found(study, origin, time, shipped)])


def _of_parent(store: Store, parent: Tracked, sweep: Mapping[str, Any], folder: Path) -> Study:
    """The study of a parent run."""
    tracked = children(store, parent.run_id)
    ended = [run for run in tracked if run.status == "FINISHED"]
    extras = [f"{name}.parquet" for name in EXTRAS]
    files = store.files(tracked, (SUMMARY, STEPS, TRACEBACK, *extras), folder)
    without = [run for run in ended if SUMMARY not in files[run.run_id]]
    older = [run for run in ended if STEPS not in files[run.run_id]]
    for lacking, name in ((without, RULE), (older, CURVES)):
        for run_id, found in store.files(lacking, (name,), folder).items():
            files[run_id] |= found
    runs = [run_of(run, files[run.run_id]) for run in tracked]
    about = studies.about_of(sweep, parent.tags["sweeps"])
    return studies.study(about, runs, sweep.get("jobs"))


def children(store: Store, run_id: str) -> list[Tracked]:
    """The runs below a parent run by their numbers; of one that began anew the last."""
    found = {run.tags.get(FOLDER_TAG, run.run_id): run for run in store.children(run_id)}
    return sorted(found.values(), key=_number)


def _sweep(store: Store, parent: Tracked, folder: Path) -> tuple[dict[str, Any], str | None]:
    """What a parent run tells of its multirun, and what hinders that."""
    command = parent.params.get("command", "train")
    known = {"command": command, "overrides": parent.params.get("overrides", "").split()}
    path = store.files([parent], (SWEEP,), folder)[parent.run_id].get(SWEEP)
    if path is None:
        return known, None
    told, error = read_or_tell(lambda: dict(json.loads(path.read_text())))
    return {**known, **(told or {})}, error


def _number(run: Tracked) -> tuple[int, float]:
    """A run's place in its multirun."""
    name = Path(run.tags.get(FOLDER_TAG, "")).name
    return int(name) if name.isdigit() else 0, run.started


def run_of(run: Tracked, files: Mapping[str, Path]) -> Run:
    """A run of a store.

    Args:
        run: of the store.
        files: by name, those that it has of SUMMARY, RULE, STEPS, CURVES, TRACEBACK and the
            tables of EXTRAS.
    """
    summary, error = None, None
    if run.status == "FINISHED":
        summary, error = read_or_tell(lambda: _summary(files))
    elif TRACEBACK in files:
        lines = [line for line in files[TRACEBACK].read_text().splitlines() if line.strip()]
        error = lines[-1] if lines else None
    overrides, unknown = read_or_tell(lambda: json.loads(run.tags["overrides"]))
    if unknown is not None:
        error = error or "its tag `overrides` is missing: what tells it apart is not known"
    table = files.get(STEPS) or files.get(CURVES)
    return Run(
        run_id=run.run_id,
        status=run.status,
        seed=int((summary or {}).get("seed", run.params.get("seed", -1))),
        overrides=tuple(overrides or ()),
        summary=summary,
        curves=None if table is None or summary is None else partial(frames.read_curves, table),
        error=error,
        seconds=run.metrics.get("wall_seconds", run.seconds),
        commit=run.tags.get("git.commit"),
        extras=extras_of(files),
    )


def _summary(files: Mapping[str, Path]) -> dict[str, Any]:
    """summary.json of a run, or what its checkpoint says."""
    if SUMMARY in files:
        return dict(json.loads(files[SUMMARY].read_text()))
    if RULE not in files:
        raise ValueError(f"there is neither {SUMMARY} nor a checkpoint")
    return studies.selected(json.loads(files[RULE].read_text()))
