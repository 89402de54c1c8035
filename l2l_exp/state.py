"""What a run has reached, kept on disk: meta-training in progress, and contenders evaluated."""

import json
import pickle
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from l2l_exp.comparison import Contender
from l2l_exp.errors import UserError
from l2l_exp.evaluation import EvalRecord, StepCost
from l2l_exp.files import replacing
from l2l_exp.meta.train import Memory, State
from l2l_exp.tuning import Tuned

TRAINING = "training.pt"
SECONDS_BETWEEN = 5.0
"""What is done since the last save is done again after a kill; it costs no more than this."""
ARRAYS = ("problems", "steps", "loss", "running_mean", "metric_steps", "diverged")


class StateError(UserError, ValueError):
    """A saved state cannot be read; the message names the file."""


class TrainingFile(Memory):
    """Keeps meta-training in a file, at most every few seconds.

    Args:
        folder: made if needed.
        resumed: is told the state that is recalled.
    """

    def __init__(self, folder: Path, resumed: Callable[[State], None] = lambda state: None) -> None:
        self.path = folder / TRAINING
        self._resumed = resumed
        self._last = -np.inf

    def recall(self) -> State | None:
        """Read the file.

        Raises:
            StateError: if it is not readable.
        """
        if not self.path.is_file():
            return None
        try:
            state: State = torch.load(self.path, weights_only=True)
        except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
            raise StateError(f"{self.path} cannot be read: delete it to train anew") from error
        self._resumed(state)
        return state

    def keep(self, state: Callable[[], State]) -> None:
        """Write the file, unless it was written a moment ago."""
        if time.monotonic() - self._last >= SECONDS_BETWEEN:
            self.keep_now(state)

    def keep_now(self, state: Callable[[], State]) -> None:
        """Write the file."""
        with replacing(self.path) as partial:
            torch.save(state(), partial)
        self._last = time.monotonic()


class ContenderFiles(MutableMapping[str, Contender]):
    """Contenders of a comparison by name, one file each.

    Args:
        folder: made if needed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getitem__(self, name: str) -> Contender:
        """Read a contender; one that is not readable counts as absent."""
        try:
            with self._path(name).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return _decode(dict(arrays))
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise KeyError(name) from error

    def __setitem__(self, name: str, contender: Contender) -> None:
        """Write a contender, whole or not at all."""
        with replacing(self._path(name)) as partial, partial.open("wb") as file:
            np.savez(file, **_encode(contender))

    def __delitem__(self, name: str) -> None:
        """Forget a contender."""
        if name not in self:
            raise KeyError(name)
        self._path(name).unlink()

    def __iter__(self) -> Iterator[str]:
        """Names of the contenders that are there."""
        for path in sorted(self.folder.glob("contender-*.npz")):
            yield path.stem.removeprefix("contender-")

    def __len__(self) -> int:
        """How many there are."""
        return sum(1 for _ in self)

    def _path(self, name: str) -> Path:
        """The file of a contender."""
        return self.folder / f"contender-{name}.npz"


def forget(folder: Path) -> None:
    """Remove what was kept, once the run has finished."""
    shutil.rmtree(folder, ignore_errors=True)


def _encode(contender: Contender) -> dict[str, Any]:
    """Arrays by name; what is not an array stands in one string of json."""
    records: list[EvalRecord] = []
    for record in contender.records.values():
        if not any(record is known for known in records):
            records.append(record)
    place = {
        criterion: next(i for i, known in enumerate(records) if known is record)
        for criterion, record in contender.records.items()
    }
    tuned = contender.tuned
    about = {
        "name": contender.name,
        "records": place,
        "lr": [record.lr for record in records],
        "metrics": [list(record.metrics) for record in records],
        "counts": [list(record.counts) for record in records],
        "tuned": None if tuned is None else _encode_tuned(tuned),
        "cost": vars(contender.cost),
    }
    arrays: dict[str, Any] = {"about": np.array(json.dumps(about))}
    for i, record in enumerate(records):
        arrays |= {f"{i}.{name}": getattr(record, name) for name in ARRAYS}
        arrays |= {f"{i}.metrics.{name}": values for name, values in record.metrics.items()}
        arrays |= {f"{i}.counts.{name}": values for name, values in record.counts.items()}
    return arrays


def _decode(arrays: dict[str, Any]) -> Contender:
    """The inverse of `_encode`."""
    about = json.loads(str(arrays["about"]))
    records = [
        EvalRecord(
            **{name: arrays[f"{i}.{name}"] for name in ARRAYS},
            metrics={name: arrays[f"{i}.metrics.{name}"] for name in about["metrics"][i]},
            lr=lr,
            counts={name: arrays[f"{i}.counts.{name}"] for name in about["counts"][i]},
        )
        for i, lr in enumerate(about["lr"])
    ]
    return Contender(
        name=about["name"],
        records={criterion: records[place] for criterion, place in about["records"].items()},
        tuned=None if about["tuned"] is None else _decode_tuned(about["tuned"]),
        cost=StepCost(**about["cost"]),
    )


def _encode_tuned(tuned: Tuned) -> dict[str, Any]:
    """Rates as pairs: json knows no numbers as keys."""
    scores = {name: list(table.items()) for name, table in tuned.scores.items()}
    return {"rates": dict(tuned.rates), "scores": scores}


def _decode_tuned(stored: dict[str, Any]) -> Tuned:
    """The inverse of `_encode_tuned`."""
    scores = {
        name: {rate: score for rate, score in table} for name, table in stored["scores"].items()
    }
    return Tuned(stored["rates"], scores)
