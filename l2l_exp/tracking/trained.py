"""A rule that was trained before, wherever it lies."""

import os
from pathlib import Path

from l2l_exp import checkpoint
from l2l_exp.optimizers.base import LearnedOptimizer
from l2l_exp.tracking.store import Store
from l2l_exp.tracking.tracker import CHECKPOINT


def trained_rule(source: str | None, uri: str | None) -> LearnedOptimizer:
    """The rule of a checkpoint folder, of a run's folder, or of an MLflow run.

    Args:
        source: path of a checkpoint folder or of a run folder that holds one, or a run id.
        uri: tracking URI in which a run id is looked up.

    Raises:
        CheckpointError: if the checkpoint is not readable.
        TrackingError: if there is no such run.
        ValueError: if `source` is neither.
    """
    if not source:
        raise ValueError("optimizer.source is not set: give a run id or a checkpoint folder")
    path = Path(source).expanduser()
    if path.is_dir():
        return checkpoint.load(path / CHECKPOINT if (path / CHECKPOINT).is_dir() else path)
    if os.sep in source or uri is None:
        raise ValueError(
            f"optimizer.source={source!r} is not a folder: give a checkpoint or run id"
        )
    return checkpoint.load(Store(uri).artifact(source, CHECKPOINT))
