"""Tuning a baseline's learning rate on validation problems, once per criterion."""

import hashlib
import inspect
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from l2l_exp.evaluation import CRITERIA, Criterion, EvalRecord, evaluate
from l2l_exp.files import write_text
from l2l_exp.optimizees.base import Optimizee
from l2l_exp.optimizees.seeding import Seed
from l2l_exp.optimizers.baseline import Baseline

PER_DECADE = 4
"""Grid values per factor of ten: two per half decade."""
SMALLEST, LARGEST = 1e-8, 1e4
"""The grid widens no further than this."""


@dataclass(frozen=True)
class Tuned:
    """Learning rates that a baseline was given, and why.

    Attributes:
        rates: per criterion, the rate with the lowest score.
        scores: per criterion, rate -> mean over the validation problems (infinite if one of them
            was not finite), for every rate of the grid.
    """

    rates: Mapping[Criterion, float]
    scores: Mapping[Criterion, Mapping[float, float]]


def grid(low: float, high: float) -> list[float]:
    """Rates 10^(k/4) from the one nearest to `low` to the one nearest to `high`."""
    first, last = (round(PER_DECADE * math.log10(edge)) for edge in (low, high))
    return [10 ** (k / PER_DECADE) for k in range(first, last + 1)]


def tune(
    optimizee: Optimizee, baseline: Baseline, problems: Sequence[int], seed: Seed, horizon: int
) -> Tuned:
    """Find the best learning rate for each criterion the optimizee has.

    The whole grid is one vectorised run. While the best rate of some criterion lies at an edge,
    the grid grows by half a decade there. A baseline whose rates are given chooses among those.

    Args:
        optimizee: distribution of the problems.
        baseline: the rule; the grid begins at its `search` range.
        problems: validation problem indices.
        seed: must be of the validation split.
        horizon: T.

    Raises:
        ValueError: if the seed is not of the validation split.
    """
    if seed.split != "validation":
        raise ValueError(f"baselines are tuned on validation problems, not on {seed.split} ones")
    scores: dict[Criterion, dict[float, float]] = {}
    rates = grid(*baseline.search) if baseline.needs_tuning else list(baseline.rates)
    while rates:
        records = evaluate(optimizee, baseline.with_rates(rates), problems, seed, horizon)
        for record in records:
            _add(scores, record)
        rates = _beyond(scores) if baseline.needs_tuning else []
    best = {name: _best(table) for name, table in scores.items()}
    return Tuned(best, {name: dict(sorted(table.items())) for name, table in scores.items()})


def _add(scores: dict[Criterion, dict[float, float]], record: EvalRecord) -> None:
    """Enter the scores of one learning rate."""
    if record.lr is None:
        raise ValueError("only a baseline with a learning rate can be tuned")
    for name in CRITERIA:
        values = record.criterion(name)
        if values is not None:
            scores.setdefault(name, {})[record.lr] = float(np.mean(values))


def _best(table: Mapping[float, float]) -> float:
    """The rate with the lowest score; among equals the smallest, the safe side."""
    return min(table, key=lambda rate: (table[rate], rate))


def _beyond(scores: Mapping[Criterion, Mapping[float, float]]) -> list[float]:
    """Rates to add because the best of some criterion lies at an edge of the grid."""
    wanted: set[float] = set()
    for table in scores.values():
        best, known = _best(table), sorted(table)
        place = round(PER_DECADE * math.log10(best))
        if best == known[0]:
            wanted |= {10 ** (k / PER_DECADE) for k in (place - 2, place - 1)}
        if best == known[-1]:
            wanted |= {10 ** (k / PER_DECADE) for k in (place + 1, place + 2)}
    known_rates = {rate for table in scores.values() for rate in table}
    return sorted(rate for rate in wanted - known_rates if SMALLEST <= rate <= LARGEST)


class TuningCache:
    """Tuned rates of earlier runs, one small json file per key.

    The key holds all that the result depends on: the data's identity, the baseline, the problems,
    the horizon, the grid, and the code of the package that computes it.

    Args:
        folder: where the files lie; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def path(self, key: Mapping[str, object]) -> Path | None:
        """The file of a key."""
        if self.folder is None:
            return None
        text = json.dumps({**key, "code": _code_hash()}, sort_keys=True)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"

    def read(self, key: Mapping[str, object]) -> Tuned | None:
        """What was tuned before under this key; an unreadable file counts as absent."""
        path = self.path(key)
        if path is None or not path.is_file():
            return None
        try:
            stored = json.loads(path.read_text())
            scores = {c: {float(r): float(s) for r, s in t.items()} for c, t in stored.items()}
            best = {name: _best(table) for name, table in scores.items()}
        except (ValueError, TypeError, AttributeError, OSError):
            return None
        return Tuned(best, scores) if best else None

    def write(self, key: Mapping[str, object], tuned: Tuned) -> None:
        """Keep a result; the file appears whole or not at all."""
        path = self.path(key)
        if path is not None:
            write_text(path, json.dumps(tuned.scores, indent=1))


def source_hash(thing: object) -> str:
    """Hash of the file that defines a class or function, or the class of an object.

    A `functools.partial` counts as its function. Where there is no file: the name, or the repr.
    """
    thing = thing.func if isinstance(thing, partial) else thing
    for one in (thing, type(thing)):
        try:
            return hashlib.sha256(Path(inspect.getfile(one)).read_bytes()).hexdigest()  # type: ignore[arg-type]
        except (TypeError, OSError):
            continue
    return str(getattr(thing, "__qualname__", repr(thing)))


def _code_hash() -> str:
    """Hash of the modules that a tuned value depends on."""
    package = Path(__file__).parent
    sources = sorted(
        [
            *package.glob("optimizees/*.py"),
            package / "optimizers" / "base.py",
            package / "optimizers" / "baseline.py",
            package / "unroll.py",
            package / "evaluation.py",
            package / "tuning.py",
        ]
    )
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
