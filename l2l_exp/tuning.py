"""Tuning a baseline's learning rate on validation problems, once per criterion."""

import hashlib
import inspect
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from l2l_exp.evaluation import CRITERIA, Criterion, EvalRecord, evaluate
from l2l_exp.files import write_text
from l2l_exp.optimizees.base import Optimizee
from l2l_exp.optimizees.seeding import Seed
from l2l_exp.optimizers.baseline import Baseline

Search = Literal["full", "coarse_to_fine"]
SEARCHES = ("full", "coarse_to_fine")
PER_DECADE = 4
"""Grid values per factor of ten: two per half decade."""
SPACINGS = (4, 2, 1)
"""Of a search from coarse to fine, in places of the grid."""
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
    optimizee: Optimizee,
    baseline: Baseline,
    problems: Sequence[int],
    seed: Seed,
    horizon: int,
    search: Search = "full",
) -> Tuned:
    """Find the best learning rate for each criterion the optimizee has.

    "full" runs the whole grid at once, vectorised; while the best rate of some criterion lies at
    an edge, the grid grows by half a decade there. "coarse_to_fine", for optimizees whose problems
    cannot be vectorised, begins with one rate per decade, and halves the spacing about the best
    rates until both their neighbours on the full grid have been tried: it finds a rate that is
    best among its neighbours, in about half the runs. A baseline whose rates are given chooses
    among those.

    Args:
        optimizee: distribution of the problems.
        baseline: the rule; the grid begins at its `search` range.
        problems: validation problem indices.
        seed: must be of the validation split.
        horizon: T.
        search: one of `SEARCHES`.

    Raises:
        ValueError: if the seed is not of the validation split, or for another search.
    """
    if seed.split != "validation":
        raise ValueError(f"baselines are tuned on validation problems, not on {seed.split} ones")
    if search not in SEARCHES:
        raise ValueError(f"tuning_search={search!r} must be one of {', '.join(SEARCHES)}")
    scores: dict[Criterion, dict[float, float]] = {}

    def score(rates: Sequence[float]) -> None:
        rule = baseline.with_rates(rates)
        for record in evaluate(optimizee, rule, problems, seed, horizon, measured=(horizon,)):
            _add(scores, record)

    if not baseline.needs_tuning:
        score(baseline.rates)
    elif search == "full":
        score(grid(*baseline.search))
        while rates := _beyond(scores):
            score(rates)
    else:
        score(grid(*baseline.search)[::PER_DECADE])
        for spacing in SPACINGS:
            while rates := _around(scores, spacing):
                score(rates)
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
    wanted: set[int] = set()
    for table in scores.values():
        best, known = _place(_best(table)), [_place(rate) for rate in table]
        if best == min(known):
            wanted |= {best - 2, best - 1}
        if best == max(known):
            wanted |= {best + 1, best + 2}
    return _untried(wanted, scores)


def _around(scores: Mapping[Criterion, Mapping[float, float]], spacing: int) -> list[float]:
    """Rates to add because the best of some criterion has an untried neighbour."""
    best = [_place(_best(table)) for table in scores.values()]
    return _untried({place + step for place in best for step in (-spacing, spacing)}, scores)


def _place(rate: float) -> int:
    """The place k of a rate 10^(k/4) on the grid."""
    return round(PER_DECADE * math.log10(rate))


def _untried(places: set[int], scores: Mapping[Criterion, Mapping[float, float]]) -> list[float]:
    """The rates of these places that have no score yet, within the bounds of all grids."""
    tried = {_place(rate) for table in scores.values() for rate in table}
    rates = [10 ** (k / PER_DECADE) for k in sorted(places - tried)]
    return [rate for rate in rates if SMALLEST <= rate <= LARGEST]


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
        return None if self.folder is None else self.folder / f"{self.digest(key)}.json"

    def digest(self, key: Mapping[str, object]) -> str:
        """A hash of a key, and of the code that computes what is kept under it."""
        text = json.dumps({**key, "code": _code_hash()}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

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
