"""A rule that was trained before, wherever it lies."""

import os
from collections.abc import Mapping
from pathlib import Path

from l2l_exp import checkpoint
from l2l_exp.optimizers.base import LearnedOptimizer
from l2l_exp.tracking.store import Store


def trained_rule(source: str | None, uri: str | None, seed: int | None = None) -> LearnedOptimizer:
    """The rule of a checkpoint folder, of a run's folder, or of an MLflow run.

    Args:
        source: path of a checkpoint folder, of a run folder that holds one, or of a multirun over
            meta-seeds; or a run id, of a run or of a multirun's parent run.
        uri: tracking URI in which a run id is looked up.
        seed: which member of a multirun is meant, by its meta-seed.

    Raises:
        CheckpointError: if the checkpoint is not readable.
        TrackingError: if there is no such run.
        ValueError: if `source` is neither.
    """
    if not source:
        raise ValueError("optimizer.source is not set: give a run id or a checkpoint folder")
    path = Path(source).expanduser()
    if path.is_dir():
        return checkpoint.load(checkpoint.locate(path, seed))
    if os.sep in source or uri is None:
        raise ValueError(
            f"optimizer.source={source!r} is not a folder: give a checkpoint or run id"
        )
    store = Store(uri)
    members = store.members(source)
    if members:
        source = _member(source, members, seed)
    return checkpoint.load(store.artifact(source, checkpoint.FOLDER))


def _member(source: str, members: Mapping[str, str], seed: int | None) -> str:
    """The run of a meta-seed among those of a multirun: run id -> seed."""
    fitting = [run_id for run_id, its in members.items() if its == str(seed)]
    if len(fitting) != 1:
        there = ", ".join(sorted(members.values()))
        raise ValueError(
            f"optimizer.source={source} has {len(fitting)} finished runs of meta-seed {seed} (it "
            f"has those of {there}): choose by seed=..., or give the id of one run"
        )
    return fitting[0]
