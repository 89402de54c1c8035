"""The door for writing a run: first into its folder, from there to a store."""

import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from l2l_exp import checkpoint
from l2l_exp.files import replacing, write_json, write_text
from l2l_exp.optimizers.base import LearnedOptimizer
from l2l_exp.tracking.journal import Entry, Journal

End = Literal["FINISHED", "FAILED", "KILLED"]
METRICS = "metrics.jsonl"


class Saveable(Protocol):
    """What `Tracker.figure` needs of a matplotlib figure."""

    def savefig(self, fname: Path, **settings: Any) -> None:
        """Write the figure to a file."""


class Table(Protocol):
    """What `Tracker.table` needs of a data frame."""

    def to_parquet(self, path: Path, **settings: Any) -> None:
        """Write the table to a file."""


class Tracker(ABC):
    """Where a run writes: its folder holds everything, the store is a copy of it.

    Args:
        folder: of the run; made if needed. What an earlier part of the same run measured stands
            in its journal of metrics and is not measured twice.
        run_id: of the run.
    """

    def __init__(self, folder: Path, run_id: str) -> None:
        self.folder = folder
        self.run_id = run_id
        folder.mkdir(parents=True, exist_ok=True)
        self._journal = Journal(folder / METRICS)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Record numbers at a step, each (name, step) once."""
        new = self._journal.add(values, step)
        if new.values:
            self._send_metrics(new)

    def table(self, name: str, table: Table) -> Path:
        """Write `name`.parquet."""
        path = self.folder / f"{name}.parquet"
        with replacing(path) as partial:
            table.to_parquet(partial, compression="zstd", index=False)
        self.publish(path)
        return path

    def record(self, name: str, content: Mapping[str, Any]) -> Path:
        """Write `name`.json; numbers that are not finite become null."""
        path = self.folder / f"{name}.json"
        write_json(path, content)
        self.publish(path)
        return path

    def text(self, name: str, content: str) -> Path:
        """Write a text file."""
        path = self.folder / name
        write_text(path, content)
        self.publish(path)
        return path

    def figure(self, name: str, figure: Saveable) -> list[Path]:
        """Write a figure as `name`.png and `name`.pdf."""
        paths = [self.folder / f"{name}.{kind}" for kind in ("png", "pdf")]
        for path in paths:
            with replacing(path) as partial:
                figure.savefig(partial, dpi=200, bbox_inches="tight", format=path.suffix[1:])
            self.publish(path)
        return paths

    def checkpoint(self, rule: LearnedOptimizer, about: Mapping[str, Any]) -> Path:
        """Write the rule into `checkpoint/`."""
        folder = self.folder / checkpoint.FOLDER
        checkpoint.save(folder, rule, {"run_id": self.run_id, **about})
        for path in sorted(folder.glob("rule.*")):
            self.publish(path, checkpoint.FOLDER)
        return folder

    @abstractmethod
    def register(self, name: str, tell: Callable[[str], None]) -> None:
        """Make the run's checkpoint a version of a registered model, and tell what became of it."""

    @abstractmethod
    def _send_metrics(self, entry: Entry) -> None:
        """Send metrics to the store, buffered."""

    @abstractmethod
    def params(self, values: Mapping[str, object]) -> None:
        """Record what the run was configured with; a parameter that is there already stays."""

    @abstractmethod
    def tags(self, values: Mapping[str, object]) -> None:
        """Record what a reader would search runs by."""

    @abstractmethod
    def publish(self, path: Path, folder: str | None = None) -> None:
        """Send a file of the run's folder to the store."""

    @abstractmethod
    def finish(self, end: End) -> bool:
        """Send what is left and close the run; whether the store has everything."""

    @abstractmethod
    def delete(self) -> None:
        """Take the run out of the store: it never began."""


class NoTracker(Tracker):
    """Keeps everything in the run's folder and nothing elsewhere.

    Args:
        folder: of the run.
        run_name: for stores that show one; a folder has its own name.
        run_id: of a run that goes on; None begins one.
        parent: for stores that nest runs.
        warn: for stores that may not answer.
    """

    def __init__(
        self,
        folder: Path,
        run_name: str | None = None,
        run_id: str | None = None,
        parent: str | None = None,
        warn: Callable[[str], None] = print,
    ) -> None:
        super().__init__(folder, run_id or uuid.uuid4().hex)

    def params(self, values: Mapping[str, object]) -> None:
        """Nothing: the folder holds the config."""

    def tags(self, values: Mapping[str, object]) -> None:
        """Nothing."""

    def publish(self, path: Path, folder: str | None = None) -> None:
        """Nothing: it lies where it should."""

    def finish(self, end: End) -> bool:
        """Nothing is open."""
        return True

    def delete(self) -> None:
        """Nothing."""

    def register(self, name: str, tell: Callable[[str], None]) -> None:
        """There is no registry."""
        tell(f"not registered as {name}: there is no store")

    def _send_metrics(self, entry: Entry) -> None:
        """Nothing: the journal has them."""
