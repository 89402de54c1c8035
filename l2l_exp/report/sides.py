"""The two sides of a comparison: runs with their curves, from folders or from a store."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from l2l_exp.nested import flatten
from l2l_exp.report import frames, studies
from l2l_exp.report.pairing import Entrant, Side
from l2l_exp.report.sources import CURVES, RULE, SUMMARY, SWEEP, TRACEBACK, children, run_of
from l2l_exp.report.studies import Run
from l2l_exp.tracking import Store, Tracked

Told = tuple[Run, Path | None, dict[str, str]]
"""A run, its curves table, and its config: flat, values as texts."""


def of_folder(name: str, folder: Path) -> Side:
    """The run or the multirun in a folder.

    Args:
        name: what a reader calls it.
        folder: of a run (with run.json) or of a multirun (with sweep.json).

    Raises:
        ValueError: if it is neither, or none of its runs can be compared.
    """
    if (folder / SWEEP).is_file():
        found = [_told(path, run) for path, run in studies.runs_of(folder)]
    else:
        run = studies.run_of(folder)
        if run is None:
            raise ValueError(f"{folder} holds neither a run nor a multirun")
        found = [_told(folder, run)]
    return _side(name, found)


def of_store(name: str, uri: str, run_id: str, folder: Path) -> Side:
    """The run or the multirun of an id.

    Args:
        name: what a reader calls it.
        uri: tracking URI.
        run_id: of a run or of a multirun's parent run.
        folder: takes what must be downloaded, and must stay while the side is used.

    Raises:
        TrackingError: if the store cannot be reached or has no such run.
        ValueError: if none of its runs can be compared.
    """
    store = Store(uri)
    tracked: Sequence[Tracked] = children(store, run_id) or [store.run(run_id)]
    files = store.files(tracked, (SUMMARY, CURVES, RULE, TRACEBACK), folder)
    return _side(
        name,
        [
            (run_of(run, files[run.run_id]), files[run.run_id].get(CURVES), dict(run.params))
            for run in tracked
        ],
    )


def _told(folder: Path, run: Run) -> Told:
    """A run in a folder."""
    path = folder / CURVES
    record = studies.read_or_tell(lambda: json.loads((folder / "run.json").read_text()))[0] or {}
    config = {key: str(value) for key, value in flatten(record.get("config", {})).items()}
    return run, path if path.is_file() else None, config


def _side(name: str, found: Sequence[Told]) -> Side:
    """Those of some runs that have finished and were evaluated."""
    conditions = studies.swept([run.overrides for run, _, _ in found])
    entrants = [
        Entrant(
            run_id=run.run_id,
            seed=run.seed,
            condition=" ".join(f"{key}={value}" for key, value in condition.items()),
            config=config,
            summary=run.summary,
            load=partial(frames.read_curves, curves),
        )
        for (run, curves, config), condition in zip(found, conditions, strict=True)
        if run.summary is not None and curves is not None
    ]
    if not entrants:
        ended = sum(run.status == "FINISHED" for run, _, _ in found)
        raise ValueError(
            f"{name} has nothing to compare: {ended} of {len(found)} runs finished, and none of "
            f"them has a curves table"
        )
    return Side(name, entrants)
