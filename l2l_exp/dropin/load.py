"""From where a trained rule lies to an optimizer."""

import os

from torch import nn
from torch.optim.optimizer import ParamsT

from l2l_exp import checkpoint
from l2l_exp.checkpoint import CheckpointError
from l2l_exp.dropin.optimizer import LearnedTorchOptimizer
from l2l_exp.optimizers.base import LearnedOptimizer
from l2l_exp.source import MODELS, RUNS, place_of, told_bundled

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
        >>> optimizer = load_optimizer("robust", model.named_parameters(), horizon=1000)
    """
    rule = find(source, seed)
    return LearnedTorchOptimizer(params, rule, lr, weight_decay, maximize=maximize, horizon=horizon)


def find(source: str | os.PathLike[str], seed: int | None = None) -> LearnedOptimizer:
    """The rule of a source: the one place that says what a source can be.

    Args:
        source: a checkpoint's folder or one of its files, an exported file, a run's folder, that of
            a multirun over meta-seeds; the name of a preset that was run here, or of a bundled rule
            (`source.place_of` has the order); `runs:/RUN_ID`, `runs:/RUN_ID/FOLDER`,
            `models:/NAME@ALIAS` or `models:/NAME/VERSION` of the MLflow store that the variable
            MLFLOW_TRACKING_URI names, by default ./mlflow.db.
        seed: which member of a multirun is meant.

    Raises:
        CheckpointError: if there is no readable checkpoint.
        TrackingError: if there is no such run or model.
        TypeError: if the source is neither name nor path.
    """
    if not isinstance(source, str | os.PathLike):
        raise TypeError(
            f"source is a {type(source).__name__}, and must be a name or a path; the parameters "
            f"come after it"
        )
    name = os.fspath(source)
    if name.startswith((RUNS, MODELS)):
        from l2l_exp.tracking import tracked_rule  # the rest works without MLflow

        return tracked_rule(name, os.environ.get(URI) or DEFAULT_URI, seed)
    path = place_of(name)
    if path is None:
        raise CheckpointError(
            f"source={name!r} is no folder or file of a checkpoint, and no rule of that name is "
            f"there ({told_bundled()}): give one, the folder of a run, {RUNS}RUN_ID or "
            f"{MODELS}NAME@ALIAS"
        )
    return checkpoint.load(checkpoint.locate(path, seed))
