"""A rule that was trained before, wherever it lies."""

import os
from collections.abc import Mapping
from typing import Any

from l2l_exp import checkpoint
from l2l_exp.nested import contains, flatten
from l2l_exp.optimizers.base import LearnedOptimizer
from l2l_exp.tracking.store import Store


def trained_rule(
    source: str | None,
    uri: str | None,
    seed: int | None = None,
    where: Mapping[str, Any] | None = None,
) -> LearnedOptimizer:
    """The rule of a checkpoint folder, of a run's folder, or of an MLflow run.

    Args:
        source: path of a checkpoint folder, of a run folder that holds one, or of a multirun over
            meta-seeds; the name of a preset whose latest multirun in ./multirun is meant; or a run
            id, of a run or of a multirun's parent run.
        uri: tracking URI in which a run id is looked up.
        seed: which member of a multirun is meant, by its meta-seed.
        where: and by keys of its config, nested or dotted: {"data": {"classes": 5}}.

    Raises:
        CheckpointError: if the checkpoint is not readable.
        TrackingError: if there is no such run.
        ValueError: if `source` is neither.
    """
    if not source:
        raise ValueError(
            "optimizer.source is not set: give a run id, a checkpoint folder, or the name of a "
            "preset that was run here"
        )
    path = checkpoint.folder_of(source)
    if path is not None:
        return checkpoint.load(checkpoint.locate(path, seed, where))
    if os.sep in source or uri is None:
        raise ValueError(
            f"optimizer.source={source!r} is not a folder: give a checkpoint or run id"
        )
    store = Store(uri)
    members = store.members(source)
    if members:
        source = _member(source, members, seed, where or {})
    return checkpoint.load(store.artifact(source, checkpoint.FOLDER))


def _member(
    source: str,
    members: Mapping[str, Mapping[str, str]],
    seed: int | None,
    where: Mapping[str, Any],
) -> str:
    """The run that is meant among those of a multirun: run id -> params."""
    meant = {run_id: params for run_id, params in members.items() if contains(params, where)}
    fitting = [run_id for run_id, params in meant.items() if params.get("seed") == str(seed)]
    if len(fitting) != 1:
        there = ", ".join(sorted(params.get("seed", "") for params in meant.values())) or "none"
        told = "".join(f" and {key}={value}" for key, value in flatten(where).items())
        raise ValueError(
            f"optimizer.source={source} has {len(fitting)} finished runs of meta-seed {seed}{told} "
            f"(it has those of {there}): choose by seed=... or optimizer.where, or give the id of "
            f"one run"
        )
    return fitting[0]
