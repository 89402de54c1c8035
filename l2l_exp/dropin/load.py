"""From where a trained rule lies to an optimizer."""

import os
from pathlib import Path

from torch import nn
from torch.optim.optimizer import ParamsT

from l2l_exp import checkpoint
from l2l_exp.checkpoint import DESCRIPTION, PARAMETERS, CheckpointError
from l2l_exp.dropin.optimizer import LearnedTorchOptimizer
from l2l_exp.optimizers.base import LearnedOptimizer

RUNS, MODELS = "runs:/", "models:/"
URI = "MLFLOW_TRACKING_URI"
DEFAULT_URI = "sqlite:///mlflow.db"


def load_optimizer(
    source: str | os.PathLike[str],
    params: ParamsT | nn.Module,
    lr: float = 1.0,
    weight_decay: float = 0.0,
    *,
    maximize: bool = False,
    horizon: int | None = None,
    seed: int | None = None,
) -> LearnedTorchOptimizer:
    """A trained rule as a torch optimizer.

    Args:
        source: of the rule, see `find`.
        params, lr, weight_decay, maximize: as for `LearnedTorchOptimizer`.
        horizon: steps of the whole run, >= 1; None for what the rule was trained on.
        seed: which member of a multirun is meant, by its meta-seed.

    Raises:
        CheckpointError: if there is no readable checkpoint.
        TrackingError: if there is no such run or model.
        ValueError: as `LearnedTorchOptimizer`.

    Example:
        >>> optimizer = load_optimizer("outputs/my_run", model.named_parameters())
    """
    rule = find(source, seed)
    return LearnedTorchOptimizer(params, rule, lr, weight_decay, maximize=maximize, horizon=horizon)


def find(source: str | os.PathLike[str], seed: int | None = None) -> LearnedOptimizer:
    """The rule of a source: the one place that says what a source can be.

    Args:
        source: a checkpoint's folder or one of its files, a run's folder, that of a multirun over
            meta-seeds; `runs:/RUN_ID`, `runs:/RUN_ID/FOLDER` or `models:/NAME@ALIAS` (also
            `models:/NAME/VERSION`) of the MLflow store that the variable MLFLOW_TRACKING_URI
            names, by default ./mlflow.db.
        seed: which member of a multirun is meant.

    Raises:
        CheckpointError: if there is no readable checkpoint.
        TrackingError: if there is no such run or model.
    """
    name = os.fspath(source)
    if name.startswith((RUNS, MODELS)):
        return _tracked(name, seed)
    path = Path(name).expanduser()
    if path.is_file() and path.name in (DESCRIPTION, PARAMETERS):
        path = path.parent
    if not name or not path.is_dir():
        raise CheckpointError(
            f"source={name!r} is no folder or file of a checkpoint: give one, the folder of a run, "
            f"{RUNS}RUN_ID or {MODELS}NAME@ALIAS"
        )
    return checkpoint.load(checkpoint.locate(path, seed))


def _tracked(name: str, seed: int | None) -> LearnedOptimizer:
    """The rule of an MLflow run or registered model."""
    from l2l_exp.tracking import Store, trained_rule  # the rest works without MLflow

    uri = os.environ.get(URI) or DEFAULT_URI
    if name.startswith(MODELS):
        return checkpoint.load(Store(uri).model(name))
    run_id, _, folder = name.removeprefix(RUNS).partition("/")
    if folder:
        return checkpoint.load(Store(uri).artifact(run_id, folder))
    return trained_rule(run_id, uri, seed)
