"""Tracking: the door for writing a run, and the read-only store beside it.

The only module that knows MLflow, which is imported when a tracker is opened.
"""

import json
import logging
import math
import os
import socket
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlparse

from filelock import FileLock

from l2l_exp import checkpoint
from l2l_exp.optimizers.base import LearnedOptimizer

End = Literal["FINISHED", "FAILED", "KILLED"]
PARAM_LENGTH = 6000
BATCH = 100
SQLITE = "sqlite:///"
PROBE_SECONDS = 3.0


class TrackingError(RuntimeError):
    """The store cannot be used; the message names it and says what would help."""


class Saveable(Protocol):
    """What `Tracker.figure` needs of a matplotlib figure."""

    def savefig(self, fname: Path, **settings: Any) -> None:
        """Write the figure to a file."""


class Table(Protocol):
    """What `Tracker.table` needs of a data frame."""

    def to_parquet(self, path: Path, **settings: Any) -> None:
        """Write the table to a file."""


class Tracker(ABC):
    """Where a run writes: first into its folder, from there to the store.

    Args:
        folder: of the run; made if needed.
    """

    run_id: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def table(self, name: str, table: Table) -> Path:
        """Write `name`.parquet."""
        path = self.folder / f"{name}.parquet"
        table.to_parquet(path, compression="zstd", index=False)
        self.publish(path)
        return path

    def record(self, name: str, content: Mapping[str, Any]) -> Path:
        """Write `name`.json; numbers that are not finite become null."""
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps(_finite(content), indent=2, allow_nan=False) + "\n")
        self.publish(path)
        return path

    def text(self, name: str, content: str) -> Path:
        """Write a text file."""
        path = self.folder / name
        path.write_text(content)
        self.publish(path)
        return path

    def figure(self, name: str, figure: Saveable) -> list[Path]:
        """Write a figure as `name`.png and `name`.pdf."""
        paths = [self.folder / f"{name}.{kind}" for kind in ("png", "pdf")]
        for path in paths:
            figure.savefig(path, dpi=200, bbox_inches="tight")
            self.publish(path)
        return paths

    def checkpoint(self, rule: LearnedOptimizer, about: Mapping[str, Any]) -> Path:
        """Write the rule into `checkpoint/`."""
        folder = self.folder / "checkpoint"
        checkpoint.save(folder, rule, {"run_id": self.run_id, **about})
        for path in sorted(folder.iterdir()):
            self.publish(path, "checkpoint")
        return folder

    @abstractmethod
    def params(self, values: Mapping[str, object]) -> None:
        """Record what the run was configured with, once."""

    @abstractmethod
    def tags(self, values: Mapping[str, object]) -> None:
        """Record what a reader would search runs by."""

    @abstractmethod
    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Record numbers at a step; buffered. Values that are not finite are left out."""

    @abstractmethod
    def publish(self, path: Path, folder: str | None = None) -> None:
        """Send a file of the run's folder to the store."""

    @abstractmethod
    def finish(self, end: End) -> None:
        """Send what is buffered and close the run."""


class NoTracker(Tracker):
    """Keeps everything in the run's folder and nothing elsewhere; metrics go to metrics.jsonl.

    Args:
        folder: of the run.
        run_name: for stores that show one; a folder has its own name.
    """

    def __init__(self, folder: Path, run_name: str | None = None) -> None:
        super().__init__(folder)
        self.run_id = uuid.uuid4().hex

    def params(self, values: Mapping[str, object]) -> None:
        """Nothing: the folder holds the config."""

    def tags(self, values: Mapping[str, object]) -> None:
        """Nothing."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Append a line."""
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(_finite({"step": step, **values})) + "\n")

    def publish(self, path: Path, folder: str | None = None) -> None:
        """Nothing: it lies where it should."""

    def finish(self, end: End) -> None:
        """Nothing is open."""


class MlflowTracker(Tracker):
    """An MLflow run.

    Args:
        folder: of the run.
        uri: tracking URI, e.g. sqlite:///mlflow.db (relative to the working directory) or http://...
        experiment: name of the MLflow experiment; made if needed.
        run_name: shown in the UI; None lets MLflow invent one.

    Raises:
        TrackingError: if the store cannot be reached or opened.
    """

    def __init__(
        self, folder: Path, uri: str, experiment: str, run_name: str | None = None
    ) -> None:
        for key, value in (("uri", uri), ("experiment", experiment)):
            if not value:
                raise ValueError(
                    f"tracking.{key}={value} must be set; tracking=none needs no store"
                )
        super().__init__(folder)
        self.uri = absolute_uri(uri)
        self._client = _open_client(self.uri)
        experiment_id = _experiment_id(self._client, self.uri, experiment)
        self.run_id = self._client.create_run(experiment_id, run_name=run_name).info.run_id
        self._buffer: list[Any] = []

    def params(self, values: Mapping[str, object]) -> None:
        """Log parameters; what is too long for the store is cut, the config artifact is whole."""
        from mlflow.entities import Param

        entries = [Param(key, str(value)[:PARAM_LENGTH]) for key, value in values.items()]
        for start in range(0, len(entries), BATCH):
            self._client.log_batch(self.run_id, params=entries[start : start + BATCH])

    def tags(self, values: Mapping[str, object]) -> None:
        """Set tags."""
        from mlflow.entities import RunTag

        self._client.log_batch(self.run_id, tags=[RunTag(k, str(v)) for k, v in values.items()])

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Buffer metrics; sent a hundred at a time."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._buffer += [
            Metric(name, value, now, step) for name, value in values.items() if math.isfinite(value)
        ]
        if len(self._buffer) >= BATCH:
            self._flush()

    def publish(self, path: Path, folder: str | None = None) -> None:
        """Log an artifact."""
        self._client.log_artifact(self.run_id, str(path), folder)

    def finish(self, end: End) -> None:
        """Flush and terminate the run."""
        self._flush()
        self._client.set_terminated(self.run_id, end)

    def _flush(self) -> None:
        """Send buffered metrics."""
        for start in range(0, len(self._buffer), BATCH):
            self._client.log_batch(self.run_id, metrics=self._buffer[start : start + BATCH])
        self._buffer.clear()


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
            raise TrackingError(f"store {self.uri} does not exist: check tracking.uri")
        self._client = _open_client(self.uri)

    def artifact(self, run_id: str, path: str) -> Path:
        """Local copy of a file or folder of a run.

        Raises:
            TrackingError: if there is no such run or artifact.
        """
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException

        try:
            self._client.get_run(run_id)
        except MlflowException as error:
            raise TrackingError(f"no run {run_id!r} in {self.uri}") from error
        try:
            return Path(
                download_artifacts(run_id=run_id, artifact_path=path, tracking_uri=self.uri)
            )
        except (MlflowException, OSError) as error:
            raise TrackingError(f"run {run_id} in {self.uri} has no artifact {path!r}") from error


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
        return checkpoint.load(path / "checkpoint" if (path / "checkpoint").is_dir() else path)
    if os.sep in source or uri is None:
        raise ValueError(
            f"optimizer.source={source!r} is not a folder: give a checkpoint or run id"
        )
    return checkpoint.load(Store(uri).artifact(source, "checkpoint"))


def absolute_uri(uri: str) -> str:
    """Make the path of an sqlite URI absolute, so that it means the same from every directory."""
    if uri.startswith(SQLITE) and not uri.startswith(SQLITE + "/"):
        return SQLITE + str(Path(uri.removeprefix(SQLITE)).absolute())
    return uri


def _open_client(uri: str) -> Any:
    """An MLflow client on a store that is known to answer; creates an sqlite store, once."""
    _probe(uri)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
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


def _experiment_id(client: Any, uri: str, name: str) -> str:
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
        return str(client.create_experiment(name, artifact_location=location))
    except MlflowException:
        existing = client.get_experiment_by_name(name)
        if existing is None:
            raise
        return str(existing.experiment_id)


def _probe(uri: str) -> None:
    """Fail within seconds where no server listens; MLflow's client would retry for minutes."""
    address = urlparse(uri)
    if address.scheme not in ("http", "https"):
        return
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), PROBE_SECONDS).close()
    except OSError as error:
        raise TrackingError(f"tracking.uri={uri}: no server answers there ({error})") from error


def _finite(value: Any) -> Any:
    """Replace floats that json cannot hold by None, at any depth."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
