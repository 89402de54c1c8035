"""Registered rules: the versions of a name, of which the best on validation is the champion."""

import math
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from filelock import FileLock

from l2l_exp import checkpoint
from l2l_exp.tracking.store import SQLITE, TrackingError

CHAMPION = "champion"
"""The alias by which models:/NAME@champion finds the best version."""
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_. -]*")
COMPARED = ("validation", "validated", "criterion", "seed")
"""What a version is tagged with, of what its checkpoint says of itself."""


class UnregisteredError(TrackingError):
    """There is nothing in the store that could be registered."""


def check_name(name: str) -> None:
    """Raise TrackingError for what cannot be a name in models:/NAME@ALIAS."""
    if not NAME.fullmatch(name):
        raise TrackingError(
            f"register={name!r} must be a name of letters, digits, spaces and any of _ . - (it is "
            f"found again as models:/NAME@{CHAMPION})"
        )


def register(client: Any, uri: str, name: str, run_id: str, about: Mapping[str, Any]) -> str:
    """Make the checkpoint of a run a version of a registered model; done twice, it is one version.

    The version becomes the champion if there is none, or if its validation loss is lower than the
    champion's and both mean the same (`validated`: same problems, horizon and criterion).

    Args:
        client: of MLflow.
        uri: of the store.
        name: of the model; made if needed.
        run_id: of a run whose checkpoint is in the store.
        about: what the checkpoint says of itself.

    Returns:
        One line on what became of it.

    Raises:
        UnregisteredError: if the store has no checkpoint of the run.
    """
    if not client.list_artifacts(run_id, checkpoint.FOLDER):
        raise TrackingError(
            f"run {run_id} has no checkpoint in the store: {name} is not registered"
        )
    with _alone(uri):
        number = _version(client, name, run_id, about)
        champion = client.get_registered_model(name).aliases.get(CHAMPION)
        known = {} if champion is None else client.get_model_version(name, str(champion)).tags
        wins, reason = _judged(about, None if champion is None else known)
        if str(champion) == number:
            wins, reason = False, "it is the champion"
        if wins:
            client.set_registered_model_alias(name, CHAMPION, number)
        return f"registered as {name} version {number}: {reason}"


def _version(client: Any, name: str, run_id: str, about: Mapping[str, Any]) -> str:
    """The number of a run's version, which is made if needed."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    for version in client.search_model_versions(f"name = '{name}'"):
        if version.run_id == run_id:
            return str(version.version)
    tags = {key: str(about[key]) for key in COMPARED if about.get(key) is not None}
    source = f"{client.get_run(run_id).info.artifact_uri}/{checkpoint.FOLDER}"
    return str(client.create_model_version(name, source, run_id=run_id, tags=tags).version)


def _judged(about: Mapping[str, Any], champion: Mapping[str, str] | None) -> tuple[bool, str]:
    """Whether a version should be the champion, and why.

    Args:
        about: of its checkpoint.
        champion: tags of the present one, None if there is none.
    """
    loss = about.get("validation")
    if loss is None or not math.isfinite(loss):
        return False, "it has no validation loss, and is not made champion"
    if champion is None:
        return True, f"the first champion (validation loss {loss:.4g})"
    meaning = about.get("validated")
    if meaning is None or champion.get("validated") != meaning or "validation" not in champion:
        return False, (
            "the champion stays, since its validation means something else: compare the two by "
            "l2l-evaluate, and move the alias in the store if this one is better"
        )
    best = float(champion["validation"])
    if loss < best:
        return True, f"the new champion (validation loss {loss:.4g}, before {best:.4g})"
    return False, f"the champion stays (validation loss {loss:.4g}, the champion's {best:.4g})"


def _alone(uri: str) -> AbstractContextManager[object]:
    """One process at a time, where the store is a file; servers see to it themselves."""
    return FileLock(f"{uri.removeprefix(SQLITE)}.lock") if uri.startswith(SQLITE) else nullcontext()
