"""Two runs, or two multiruns, on the same draws: which of the two is better, and by how much."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import pandas as pd

from l2l_exp.report import aggregation
from l2l_exp.statistics import Floats, log_ratio, median_interval, paired_improvement

COLUMN_OF: Final = MappingProxyType(
    {"average": "running_mean", "final": "train_loss", "held_out": "held_out_loss"}
)
"""Where a curves table has a criterion, at the last step."""
DRAWS = ("optimizee.", "data.", "evaluation.seed", "evaluation.horizon")
PLACES = ("root", "download", "batching")
"""Last parts of keys that change no draw."""
NONE = "None"
"""An option that a config does not have, as one made by other code may not, is not set."""
FIRST_LOSS_TOLERANCE = 1e-3
"""Relative; the same problem and theta give the same first loss, but for the arithmetic."""
EXTRA_COLUMNS = ("other_run_id", "other_median", "better", "other_not_ok")
MOST_NAMED = 3


@dataclass(frozen=True)
class Entrant:
    """A run that is compared.

    Attributes:
        run_id: of the run.
        seed: its meta-seed.
        condition: what tells it apart in its multirun, "" for a single run.
        config: flat, values as texts; empty where it is not known.
        summary: what summary.json says.
        load: reads its curves table (`frames.curves`).
    """

    run_id: str
    seed: int
    condition: str
    config: Mapping[str, str]
    summary: Mapping[str, Any]
    load: Callable[[], pd.DataFrame]

    @cached_property
    def table(self) -> pd.DataFrame:
        """Its own rule's rows of the curves table."""
        table = self.load()
        return table[table["kind"] == "learned"]

    @property
    def horizon(self) -> int:
        """The last step."""
        return int(self.table["step"].max())

    def at(self, step: int, column: str, criterion: str = "final") -> pd.Series:
        """Values by problem at a step, of a tuned rule where it was tuned for a criterion."""
        rows = self.table[self.table["step"] == step]
        judged = [not name or criterion in name.split("+") for name in map(str, rows["tuned_for"])]
        rows = rows[np.array(judged, dtype=bool)]
        return rows.set_index("problem")[column].sort_index()


@dataclass(frozen=True)
class Side:
    """One of the two that are compared: a run or the finished runs of a multirun."""

    name: str
    entrants: Sequence[Entrant]


def pairs(one: Side, other: Side) -> list[tuple[Entrant, Entrant]]:
    """Which runs meet: of the same condition and meta-seed.

    Two single runs meet whatever their meta-seeds, and two multiruns with one condition each
    whatever that is.

    Raises:
        ValueError: if none meet, a meta-seed is there twice, or two that meet have other draws.
    """
    if len(one.entrants) == len(other.entrants) == 1:
        met = [(one.entrants[0], other.entrants[0])]
    else:
        alone = all(len({run.condition for run in side.entrants}) == 1 for side in (one, other))
        mine, theirs = (_by_condition(side, alone) for side in (one, other))
        met = [(run, theirs[key]) for key, run in mine.items() if key in theirs]
    if not met:
        raise ValueError(
            f"{one.name} and {other.name} have no condition and meta-seed in common: "
            f"{_named(one)} against {_named(other)}"
        )
    for first, second in met:
        check_draws(first, second)
    return met


def check_draws(one: Entrant, other: Entrant) -> None:
    """Raise ValueError unless two runs met the same problems, starts and minibatches.

    Their configs must agree in what draws problems, their horizons too, and on problems that both
    have the losses at step 0.
    """
    what = f"runs {one.run_id[:8]} and {other.run_id[:8]} cannot be paired"
    if one.config and other.config:
        mine, theirs = _draws(one.config), _draws(other.config)
        keys = [
            key for key in sorted({*mine, *theirs}) if mine.get(key, NONE) != theirs.get(key, NONE)
        ]
        if keys:
            told = [
                f"{key} {mine.get(key, NONE)} and {theirs.get(key, NONE)}"
                for key in keys[:MOST_NAMED]
            ]
            more = f" and {len(keys) - MOST_NAMED} more" if len(keys) > MOST_NAMED else ""
            raise ValueError(f"{what}: their problems differ by {', '.join(told)}{more}")
    if one.horizon != other.horizon:
        raise ValueError(f"{what}: one has {one.horizon} steps, the other {other.horizon}")
    starts = pd.concat([one.at(0, "loss"), other.at(0, "loss")], axis=1, join="inner")
    if starts.empty:
        raise ValueError(f"{what}: they have no problem in common")
    first, second = starts.to_numpy(dtype=np.float64).T
    if not np.allclose(first, second, rtol=FIRST_LOSS_TOLERANCE, atol=0, equal_nan=True):
        worst = int(np.argmax(np.abs(first - second)))
        raise ValueError(
            f"{what}: on problem {starts.index[worst]} their first losses are {first[worst]:.6g} "
            f"and {second[worst]:.6g}, so they are not the same draws"
        )


def rows(met: Sequence[tuple[Entrant, Entrant]], against: str) -> pd.DataFrame:
    """Compare pairs of runs problem by problem.

    Args:
        met: as `pairs` gives them.
        against: name of the second side.

    Returns:
        One row per pair and criterion that both have, with `aggregation.ROW_COLUMNS`, where the
        second takes the baseline's place: `log_ratio` is the median over problems of
        log(first / second), from `low` to `high` (95 %). Then EXTRA_COLUMNS: `better` is the share
        of problems on which the first has the lower loss, a tie counting as half.
    """
    found = [
        _row(first, second, criterion, against)
        for first, second in met
        for criterion in COLUMN_OF
        if _values(first, second, criterion) is not None
    ]
    return pd.DataFrame(found, columns=[*aggregation.ROW_COLUMNS, *EXTRA_COLUMNS])


def cost(side: Sequence[Entrant]) -> dict[str, float]:
    """What the runs of a side cost, medians over them; NaN where it is not known.

    Returns:
        microseconds_per_step, state_bytes_per_coordinate, and seconds of meta-training.
    """
    learned = [run.summary.get("learned") or {} for run in side]
    trained = [(run.summary.get("cost") or {}).get("seconds") for run in side]
    values = {
        "microseconds_per_step": [_times(one.get("seconds_per_step"), 1e6) for one in learned],
        "state_bytes_per_coordinate": [one.get("state_bytes_per_coordinate") for one in learned],
        "training_seconds": trained,
    }
    return {
        name: float(np.median([math.nan if one is None else one for one in each]))
        for name, each in values.items()
    }


def statuses(side: Sequence[Entrant]) -> dict[str, int]:
    """How many problems ended in each status, over the runs of a side."""
    found: dict[str, int] = {}
    for run in side:
        ends = run.at(run.horizon, "status").astype(str)
        for status, count in ends.value_counts().items():
            found[str(status)] = found.get(str(status), 0) + int(count)
    return found


def _row(first: Entrant, second: Entrant, criterion: str, against: str) -> dict[str, Any]:
    """One pair by one criterion."""
    values = _values(first, second, criterion)
    assert values is not None
    mine, theirs = values
    ratio = median_interval(log_ratio(mine, theirs))
    ends = [run.at(run.horizon, "status", criterion).astype(str) for run in (first, second)]
    return {
        "condition": first.condition, "seed": first.seed, "run_id": first.run_id,
        "criterion": criterion, "median": float(np.median(mine)), "best_baseline": against,
        "log_ratio": ratio.estimate, "low": ratio.low, "high": ratio.high,
        "n_problems": len(mine), "not_ok": int((ends[0] != "ok").sum()),
        "other_run_id": second.run_id, "other_median": float(np.median(theirs)),
        "better": paired_improvement(mine, theirs).estimate,
        "other_not_ok": int((ends[1] != "ok").sum()),
    }  # fmt: skip


def _values(first: Entrant, second: Entrant, criterion: str) -> tuple[Floats, Floats] | None:
    """(n,) losses of both on the problems that both have; None where one lacks the criterion.

    What is not finite is infinite.
    """
    column = COLUMN_OF[criterion]
    each = [run.at(run.horizon, column, criterion) for run in (first, second)]
    if any(one.isna().all() for one in each):
        return None
    both = pd.concat(each, axis=1, join="inner").to_numpy(dtype=np.float64)
    both = np.where(np.isfinite(both), both, np.inf)
    return both[:, 0], both[:, 1]


def _by_condition(side: Side, alone: bool) -> dict[tuple[str, int], Entrant]:
    """Runs by condition and meta-seed.

    Raises:
        ValueError: if a meta-seed is there twice.
    """
    found: dict[tuple[str, int], Entrant] = {}
    for run in side.entrants:
        key = "" if alone else run.condition, run.seed
        if key in found:
            raise ValueError(
                f"{side.name} has two runs of {f'{run.condition} seed={run.seed}'.strip()}: give "
                f"one run of it"
            )
        found[key] = run
    return found


def _draws(config: Mapping[str, str]) -> dict[str, str]:
    """The keys of a config that decide which problems there are."""
    return {
        key: value
        for key, value in config.items()
        if key.startswith(DRAWS) and key.rpartition(".")[2] not in PLACES
    }


def _named(side: Side) -> str:
    """The conditions and meta-seeds of a side."""
    told = [f"{run.condition} seed={run.seed}".strip() for run in side.entrants]
    more = f" and {len(told) - MOST_NAMED} more" if len(told) > MOST_NAMED else ""
    return f"{', '.join(told[:MOST_NAMED]) or 'nothing'}{more}"


def _times(value: float | None, factor: float) -> float | None:
    """A product, where there is a value."""
    return None if value is None else factor * value
