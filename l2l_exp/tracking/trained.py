"""A rule that was trained before, wherever it lies."""

import os
from collections.abc import Mapping
from typing import Any

from l2l_exp import checkpoint
from l2l_exp.nested import contains, flatten
from l2l_exp.optimizers.base import LearnedOptimizer
from l2l_exp.source import MODELS, RUNS, place_of, told_bundled
from l2l_exp.tracking.store import Store, TrackingError


def trained_rule(
    source: str | None,
    uri: str | None,
    seed: int | None = None,
    where: Mapping[str, Any] | None = None,
) -> LearnedOptimizer:
    """The rule of a path, of a bundled name, of an MLflow run, or of a registered model.

    Args:
        source: path of a checkpoint's folder or of an exported file, of a run's folder that holds
            one, or of a multirun over meta-seeds; the name of a preset whose latest multirun in
            ./multirun is meant; the name of a bundled rule (`source.place_of` has the order); a run
            id, of a run or of a multirun's parent run; or what `tracked_rule` takes.
        uri: tracking URI in which a run id or model is looked up.
        seed: which member of a multirun is meant, by its meta-seed.
        where: and by keys of its config, nested or dotted: {"data": {"classes": 5}}.

    Raises:
        CheckpointError: if the checkpoint is not readable.
        TrackingError: if there is no such run or model.
        ValueError: if `source` is none of these.
    """
    if not source:
        raise ValueError(
            "optimizer.source is not set: give a run id, a checkpoint folder, the name of a preset "
            f"that was run here, or that of a rule ({told_bundled()})"
        )
    path = place_of(source)
    if path is not None:
        return checkpoint.load(checkpoint.locate(path, seed, where))
    in_store = source.startswith((RUNS, MODELS)) or os.sep not in source
    if not in_store:
        raise ValueError(
            f"optimizer.source={source!r} is not a folder: give a checkpoint or run id "
            f"({told_bundled()})"
        )
    if uri is None:
        raise ValueError(
            f"optimizer.source={source!r} is neither path, preset that was run here nor rule "
            f"({told_bundled()}), and tracking=none has no store to look into"
        )
    try:
        return tracked_rule(source, uri, seed, where)
    except TrackingError as error:
        raise TrackingError(f"{error}; it is no path either, and {told_bundled()}") from error


def tracked_rule(
    name: str, uri: str, seed: int | None = None, where: Mapping[str, Any] | None = None
) -> LearnedOptimizer:
    """The rule of a run, or of a registered model.

    Args:
        name: `models:/NAME@ALIAS`, `models:/NAME/VERSION`, `runs:/RUN_ID`, `runs:/RUN_ID/FOLDER`,
            or the run id alone.
        uri: of the store.
        seed, where: as for `trained_rule`.

    Raises:
        CheckpointError: if the checkpoint is not readable.
        TrackingError: if there is no such run or model.
        ValueError: if none or several of a multirun's members are meant.
    """
    store = Store(uri)
    if name.startswith(MODELS):
        return checkpoint.load(store.model(name))
    run_id, _, folder = name.removeprefix(RUNS).partition("/")
    members = {} if folder else store.members(run_id)
    if members:
        run_id = _member(run_id, members, seed, where or {})
    return checkpoint.load(store.artifact(run_id, folder or checkpoint.FOLDER))


def _member(
    source: str,
    members: Mapping[str, Mapping[str, str]],
    seed: int | None,
    where: Mapping[str, Any],
) -> str:
    """The run that is meant among those of a multirun: run id -> params."""
    meant = {run_id: params for run_id, params in members.items() if contains(params, where)}
    fitting = [
        run_id for run_id, params in meant.items()
        if params.get("seed") == str(seed) or (seed is None and len(meant) == 1)
    ]  # fmt: skip
    if len(fitting) != 1:
        there = ", ".join(sorted(params.get("seed", "") for params in meant.values())) or "none"
        told = "".join(f" and {key}={value}" for key, value in flatten(where).items())
        raise ValueError(
            f"{source} has {len(fitting)} finished runs of meta-seed {seed}{told} (it has those of "
            f"{there}): choose by seed=..., in commands also by optimizer.where, or give the id of "
            f"one run"
        )
    return fitting[0]
