"""A run in an MLflow store."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from l2l_exp import checkpoint
from l2l_exp.tracking.journal import Entry
from l2l_exp.tracking.outbox import Outbox, RefusedError
from l2l_exp.tracking.registry import UnregisteredError, register
from l2l_exp.tracking.store import (
    FOLDER_TAG,
    PARENT_TAG,
    TrackingError,
    absolute_uri,
    experiment_id,
    is_refusal,
    open_client,
    probe,
)
from l2l_exp.tracking.tracker import End, Tracker

PARAM_LENGTH = 6000
BATCH = 100
SECONDS_BUFFERED = 5.0
SECONDS_AT_THE_END = 10.0
"""How long a finished run tries to send what is left."""


class MlflowTracker(Tracker):
    """An MLflow run.

    A store that stops answering does not stop the run: what could not be sent waits, is tried
    again, and lies in the run's folder in any case.

    Args:
        folder: of the run.
        uri: tracking URI, e.g. sqlite:///mlflow.db (relative to the working directory) or http://...
        experiment: name of the MLflow experiment; made if needed.
        run_name: shown in the UI; None lets MLflow invent one.
        run_id: of a run that goes on; the metrics of its folder that the store lacks are sent. If
            the store has no such run any more, another takes its place.
        parent: id of the run that this one is nested in.
        warn: is told what becomes of a store that does not answer.

    Raises:
        TrackingError: if the store cannot be reached or opened, or takes no run.
    """

    def __init__(
        self,
        folder: Path,
        uri: str,
        experiment: str,
        run_name: str | None = None,
        run_id: str | None = None,
        parent: str | None = None,
        warn: Callable[[str], None] = print,
    ) -> None:
        for key, value in (("uri", uri), ("experiment", experiment)):
            if not value:
                raise TrackingError(
                    f"tracking.{key}={value} must be set; tracking=none needs no store"
                )
        self.uri = absolute_uri(uri)
        self._client = open_client(self.uri)
        known = run_id is not None and self._reopen(run_id)
        if run_id is not None and not known:
            warn(f"{self.uri} has no run {run_id} any more: another takes its place")
        new = None if known else self._begin(folder, experiment, run_name, parent)
        super().__init__(folder, str(new or run_id))
        self._outbox = Outbox(lambda text: warn(f"{self.uri}: {text}"))
        self._buffer: list[Any] = []
        self._buffered_since = 0.0
        if run_id is not None:  # send what the store lacks
            metrics = [m for entry in self._journal.entries() for m in _metrics(entry)]
            self._send(lambda doubtful: self._log_metrics(metrics, True))

    def params(self, values: Mapping[str, object]) -> None:
        """Log parameters; what is too long for the store is cut, the config artifact is whole."""
        texts = {key: str(value)[:PARAM_LENGTH] for key, value in values.items()}
        self._send(lambda doubtful: self._log_params(texts))

    def tags(self, values: Mapping[str, object]) -> None:
        """Set tags."""
        from mlflow.entities import RunTag

        tags = [RunTag(key, str(value)) for key, value in values.items()]
        self._send(lambda doubtful: self._client.log_batch(self.run_id, tags=tags))

    def publish(self, path: Path, folder: str | None = None) -> None:
        """Log an artifact."""
        self._send(lambda doubtful: self._client.log_artifact(self.run_id, str(path), folder))

    def finish(self, end: End) -> bool:
        """Flush and terminate the run."""
        self._flush()
        self._send(lambda doubtful: self._client.set_terminated(self.run_id, end))
        return self._outbox.insist(SECONDS_AT_THE_END)

    def delete(self) -> None:
        """Delete the run."""
        self._send(lambda doubtful: self._client.delete_run(self.run_id))

    def register(self, name: str, tell: Callable[[str], None]) -> None:
        """Register the checkpoint, once it has been sent."""
        about = checkpoint.read_description(self.folder / checkpoint.FOLDER)["about"]
        self._send(lambda _: tell(register(self._client, self.uri, name, self.run_id, about)))

    def _begin(
        self, folder: Path, experiment: str, run_name: str | None, parent: str | None
    ) -> str:
        """Create a run, or find the one that a killed process had no time to note; its id."""
        from mlflow.exceptions import MlflowException

        try:
            return self._create(folder, experiment, run_name, parent)
        except MlflowException as error:
            reason = str(error).splitlines()[0][:200]
            raise TrackingError(f"tracking.uri={self.uri} takes no run ({reason})") from error

    def _create(
        self, folder: Path, experiment: str, run_name: str | None, parent: str | None
    ) -> str:
        """The same, as the client does it."""
        owner = experiment_id(self._client, self.uri, experiment)
        tags = {FOLDER_TAG: str(folder)}
        if parent is not None:
            tags[PARENT_TAG] = parent
            siblings = self._client.search_runs([owner], f"tags.`{PARENT_TAG}` = '{parent}'")
            for run in siblings:
                if run.data.tags.get(FOLDER_TAG) == str(folder) and not run.data.params:
                    return str(run.info.run_id)
        return str(self._client.create_run(owner, tags=tags, run_name=run_name).info.run_id)

    def _reopen(self, run_id: str) -> bool:
        """Set a run of the store to running again; whether there is such a run."""
        from mlflow.exceptions import MlflowException

        try:
            if self._client.get_run(run_id).info.lifecycle_stage == "deleted":
                return False
            self._client.update_run(run_id, status="RUNNING")
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            reason = str(error).splitlines()[0][:200]
            raise TrackingError(
                f"run {run_id} of {self.uri} cannot be opened ({reason})"
            ) from error
        return True

    def _send(self, send: Callable[[bool], None]) -> None:
        """Send now or later.

        Args:
            send: is told whether an earlier attempt of its own failed, but may have arrived.
        """
        doubtful = False

        def attempt() -> None:
            nonlocal doubtful
            if doubtful:
                probe(self.uri)  # the client itself is slow to notice
            try:
                send(doubtful)
            except Exception as error:
                doubtful = True
                if isinstance(error, UnregisteredError) or is_refusal(error):
                    raise RefusedError(str(error).splitlines()[0]) from error
                raise

        self._outbox.put(attempt)

    def _log_params(self, texts: Mapping[str, str]) -> None:
        """Log the parameters that the run does not have; the store cannot change one."""
        from mlflow.entities import Param

        known = self._client.get_run(self.run_id).data.params
        entries = [Param(key, text) for key, text in texts.items() if key not in known]
        for start in range(0, len(entries), BATCH):
            self._client.log_batch(self.run_id, params=entries[start : start + BATCH])

    def _send_metrics(self, entry: Entry) -> None:
        """Buffer metrics; sent a hundred at a time, or after some seconds."""
        if not self._buffer:
            self._buffered_since = time.monotonic()
        self._buffer += _metrics(entry)
        old = time.monotonic() - self._buffered_since > SECONDS_BUFFERED
        if old or len(self._buffer) >= BATCH:
            self._flush()

    def _flush(self) -> None:
        """Send buffered metrics."""
        metrics, self._buffer = self._buffer, []
        if metrics:
            self._send(lambda doubtful: self._log_metrics(metrics, doubtful))

    def _log_metrics(self, metrics: Sequence[Any], doubtful: bool) -> None:
        """Log metrics; if some may have arrived before, only those that the run lacks."""
        if doubtful:
            known = {
                (name, metric.step)
                for name in {metric.key for metric in metrics}
                for metric in self._client.get_metric_history(self.run_id, name)
            }
            metrics = [metric for metric in metrics if (metric.key, metric.step) not in known]
        for start in range(0, len(metrics), BATCH):
            self._client.log_batch(self.run_id, metrics=metrics[start : start + BATCH])


def _metrics(entry: Entry) -> list[Any]:
    """The store's form of an entry; what is not finite is left out."""
    from mlflow.entities import Metric

    return [
        Metric(name, value, entry.time, entry.step)
        for name, value in entry.values.items()
        if value is not None
    ]
