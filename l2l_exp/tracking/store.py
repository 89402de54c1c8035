"""MLflow stores: opened once, probed first, read through `Store`."""

import logging
import os
import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from filelock import FileLock

from l2l_exp.errors import UserError

SQLITE = "sqlite:///"
FOLDER_TAG = "run_folder"
PARENT_TAG = "mlflow.parentRunId"
SWEEP_TAG = "sweeps"
PROBE_SECONDS = 5.0
MOST_MEMBERS = 10_000
PAGE, DOWNLOADS = 1000, 8
"""Runs that are asked for at once, and artifacts that are downloaded at once."""
EXPERIMENT_KIND = ("mlflow.experimentKind", "custom_model_development")
"""What makes the interface show runs and metrics, not the traces of language models."""
CLIENT_SETTINGS = (
    ("MLFLOW_DISABLE_TELEMETRY", "true"),
    ("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true"),
    ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1"),  # a run must not stand still for minutes
    ("MLFLOW_HTTP_REQUEST_TIMEOUT", "20"),
)
"""Environment variables of MLflow's client, unless the user has set them."""
REFUSALS = (
    "INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE",
    "PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED", "ENDPOINT_NOT_FOUND",
)  # fmt: skip
"""Error codes of answers that another attempt would not change."""


class TrackingError(UserError, RuntimeError):
    """The store cannot be used; the message names it and says what would help."""


@dataclass(frozen=True)
class Tracked:
    """A run as its store knows it.

    Attributes:
        run_id, experiment, status, tags, params, metrics: of the run; of each metric the last
            value.
        started: seconds since 1970.
        seconds: from then to its end, 0 while it runs.
        artifacts: URI of the folder of its artifacts.
    """

    run_id: str
    experiment: str
    status: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    started: float
    seconds: float
    artifacts: str


class Store:
    """Read-only view of what was tracked.

    Args:
        uri: tracking URI.

    Raises:
        TrackingError: if the store cannot be reached.
    """

    def __init__(self, uri: str) -> None:
        self.uri = absolute_uri(uri)
        if self.uri.startswith(SQLITE) and not Path(self.uri.removeprefix(SQLITE)).is_file():
            raise TrackingError(
                f"store {self.uri} does not exist: check its address (tracking.uri, of l2l-report "
                f"store, in Python MLFLOW_TRACKING_URI)"
            )
        self._client = open_client(self.uri)

    def tags(self, run_id: str) -> dict[str, str]:
        """Tags of a run.

        Raises:
            TrackingError: if there is no such run.
        """
        from mlflow.exceptions import MlflowException

        try:
            return dict(self._client.get_run(run_id).data.tags)
        except MlflowException as error:
            raise TrackingError(f"no run {run_id!r} in {self.uri}") from error

    def members(self, run_id: str) -> dict[str, dict[str, str]]:
        """Finished runs of a multirun, by its parent run: run id -> params. None for others.

        Raises:
            TrackingError: if there is no such run.
        """
        self.tags(run_id)
        experiment = self._client.get_run(run_id).info.experiment_id
        wanted = f"tags.`{PARENT_TAG}` = '{run_id}' and attributes.status = 'FINISHED'"
        found = self._client.search_runs([experiment], wanted, max_results=MOST_MEMBERS)
        return {run.info.run_id: dict(run.data.params) for run in found}

    def multiruns(self) -> list[Tracked]:
        """The parent runs of all multiruns of presets, oldest first."""
        return self._search(f"tags.{SWEEP_TAG} LIKE '%'")

    def children(self, run_id: str) -> list[Tracked]:
        """The runs of a multirun, in whatever state, oldest first.

        Args:
            run_id: of its parent run.
        """
        return self._search(f"tags.`{PARENT_TAG}` = '{run_id}'")

    def run(self, run_id: str) -> Tracked:
        """One run.

        Raises:
            TrackingError: if there is no such run.
        """
        self.tags(run_id)
        return _tracked(self._client.get_run(run_id))

    def files(
        self, runs: Sequence[Tracked], names: Sequence[str], folder: Path
    ) -> dict[str, dict[str, Path]]:
        """Of each run those of some artifacts that it has: run id -> name -> path.

        Args:
            runs: of this store.
            names: paths of artifacts.
            folder: takes what must be downloaded; artifacts on this machine stay where they are.
        """
        with ThreadPoolExecutor(DOWNLOADS) as pool:
            found = pool.map(lambda run: [self._file(run, name, folder) for name in names], runs)
            return {
                run.run_id: {n: path for n, path in zip(names, paths, strict=True) if path}
                for run, paths in zip(runs, found, strict=True)
            }

    def _file(self, run: Tracked, name: str, folder: Path) -> Path | None:
        """An artifact's place, downloaded if it lies elsewhere; None where there is none."""
        from mlflow.exceptions import MlflowException

        place = urlparse(run.artifacts)
        if place.scheme in ("", "file"):
            path = Path(unquote(place.path)) / name
            return path if path.is_file() else None
        target = folder / run.run_id
        target.mkdir(parents=True, exist_ok=True)
        with suppress(MlflowException, OSError):
            return Path(self._client.download_artifacts(run.run_id, name, str(target)))
        return None

    def _search(self, wanted: str) -> list[Tracked]:
        """Runs by a filter, of all experiments, page by page."""
        experiments = [one.experiment_id for one in self._client.search_experiments()]
        found: list[Tracked] = []
        token: str | None = None
        while True:
            page = self._client.search_runs(experiments, wanted, max_results=PAGE, page_token=token)
            found += map(_tracked, page)
            token = page.token
            if not token:
                break
        return sorted(found, key=lambda run: run.started)

    def artifact(self, run_id: str, path: str) -> Path:
        """Local copy of a file or folder of a run.

        Raises:
            TrackingError: if there is no such run or artifact.
        """
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException

        self.tags(run_id)
        try:
            return Path(
                download_artifacts(run_id=run_id, artifact_path=path, tracking_uri=self.uri)
            )
        except (MlflowException, OSError) as error:
            raise TrackingError(f"run {run_id} in {self.uri} has no artifact {path!r}") from error

    def model(self, uri: str) -> Path:
        """Local copy of the folder of a registered model, models:/NAME@ALIAS or /NAME/VERSION.

        Raises:
            TrackingError: if there is no such model.
        """
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException

        try:
            registry = os.environ.get("MLFLOW_REGISTRY_URI", self.uri)
            return Path(
                download_artifacts(artifact_uri=uri, tracking_uri=self.uri, registry_uri=registry)
            )
        except (MlflowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise TrackingError(
                f"no model {uri!r} in {self.uri} ({reason}): it must be models:/NAME@ALIAS or "
                f"models:/NAME/VERSION"
            ) from error


def _tracked(run: Any) -> Tracked:
    """A run of MLflow's client."""
    info, data = run.info, run.data
    ended = info.end_time or info.start_time
    return Tracked(
        run_id=str(info.run_id),
        experiment=str(info.experiment_id),
        status=str(info.status),
        tags=dict(data.tags),
        params=dict(data.params),
        metrics=dict(data.metrics),
        started=info.start_time / 1000,
        seconds=(ended - info.start_time) / 1000,
        artifacts=str(info.artifact_uri),
    )


def absolute_uri(uri: str) -> str:
    """Make the path of an sqlite URI absolute, so that it means the same from every directory."""
    if uri.startswith(SQLITE) and not uri.startswith(SQLITE + "/"):
        return SQLITE + str(Path(uri.removeprefix(SQLITE)).expanduser().absolute())
    return uri


def open_client(uri: str) -> Any:
    """An MLflow client on a store that is known to answer; creates an sqlite store, once."""
    probe(uri)
    for name, value in CLIENT_SETTINGS:
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):  # the store's housekeeping is not the user's concern
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        if uri.startswith(SQLITE):
            path = Path(uri.removeprefix(SQLITE))
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{path}.lock"):  # processes that create the schema together would fail
                client = MlflowClient(uri)
                client.search_experiments(max_results=1)
            return client
        return MlflowClient(uri)
    except Exception as error:  # MLflow lets those of sqlalchemy through
        reason = str(error).splitlines()[0]
        raise TrackingError(f"tracking.uri={uri} cannot be opened ({reason})") from error


def experiment_id(client: Any, uri: str, name: str) -> str:
    """Id of an experiment by name; of several processes that want to make it, one does."""
    from mlflow.exceptions import MlflowException

    existing = client.get_experiment_by_name(name)
    if existing is not None:
        if existing.lifecycle_stage == "deleted":
            raise TrackingError(
                f"experiment {name!r} of {uri} was deleted: restore it, or set tracking.experiment"
            )
        return str(existing.experiment_id)
    location = None
    if uri.startswith(SQLITE):
        location = (Path(uri.removeprefix(SQLITE)).parent / "mlartifacts" / name).as_uri()
    try:
        return str(client.create_experiment(name, location, dict([EXPERIMENT_KIND])))
    except MlflowException:
        existing = client.get_experiment_by_name(name)
        if existing is None:
            raise
        return str(existing.experiment_id)


def is_refusal(error: Exception) -> bool:
    """Whether a store answered that it will not take what it was sent."""
    local = (PermissionError, FileNotFoundError, NotADirectoryError)  # artifacts on a shared disk
    return isinstance(error, local) or getattr(error, "error_code", None) in REFUSALS


def probe(uri: str) -> None:
    """Fail within seconds where no server listens; MLflow's client would retry for minutes."""
    address = urlparse(uri)
    if address.scheme not in ("http", "https"):
        return
    host, secure = address.hostname or "", address.scheme == "https"
    try:
        port = address.port or (443 if secure else 80)
        with socket.create_connection((host, port), PROBE_SECONDS) as connection:
            if not secure:  # one that listens may still be dead
                page = f"{address.path.rstrip('/')}/health"
                connection.sendall(f"GET {page} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
                if connection.recv(5) != b"HTTP/":
                    raise OSError("what listens there does not speak HTTP")
    except (OSError, ValueError) as error:
        raise TrackingError(f"tracking.uri={uri}: no server answers there ({error})") from error
