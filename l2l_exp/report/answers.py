"""The answer of a study in numbers: ratios over meta-seeds, in a sentence and in a grid."""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from l2l_exp.report.aggregation import LABELS, VALIDATION
from l2l_exp.statistics import FEWEST_FOR_MEDIAN

BETTER, WORSE, OPEN, ONE = "better", "worse", "open", "one meta-seed"
MAIN = ("final", "average", "held_out", VALIDATION)
"""Criteria by how well they tell a study in one number."""
Row = Mapping[Hashable, Any]


class Cell(NamedTuple):
    """A number of the grid."""

    value: str
    interval: str  # with its brackets, "" where there is none
    verdict: str  # one of BETTER, WORSE, OPEN, ONE; "" where nothing is compared
    baseline: str  # what it is compared with


class Line(NamedTuple):
    """One condition of the grid."""

    condition: str
    seeds: str
    cells: list[Cell | None]  # one for each criterion of the grid
    not_ok: str


class Grid(NamedTuple):
    """The aggregate of a study as a table of texts."""

    criteria: list[str]
    lines: list[Line]
    compares: bool  # the numbers are ratios; else they are losses


def verdict(one: Row) -> str:
    """What a row of the aggregate allows to say.

    "better": every meta-seed's own interval and the one over meta-seeds lie below ratio 1; "worse":
    the one over meta-seeds lies above; "one meta-seed": there is none; "open" otherwise. "" where
    nothing was compared.
    """
    if math.isnan(one["log_ratio"]) and not one["best_baseline"]:
        return ""
    if one["every_seed_better"]:
        return BETTER
    if one["n_seeds"] == 1:
        return ONE
    return WORSE if one["low"] > 0 else OPEN


def grid(table: pd.DataFrame, names: Mapping[str, str] | None = None) -> Grid:
    """Lay out what `aggregation.aggregate` made: conditions down, criteria across.

    Args:
        table: the aggregate.
        names: what conditions are called, where it is not themselves.
    """
    names = names or {}
    criteria = [name for name in LABELS if (table["criterion"] == name).any()]
    lines = []
    for condition in table["condition"].unique():
        group = table[table["condition"] == condition]
        rows = {str(row["criterion"]): row for row in group.to_dict("records")}
        first = next(iter(rows.values()))
        problems = f"{first['not_ok']} of {first['n_problems']}" if first["n_problems"] else ""
        cells = [_cell(rows[name]) if name in rows else None for name in criteria]
        lines.append(Line(names.get(condition) or condition, first["seeds"], cells, problems))
    return Grid([LABELS[name] for name in criteria], lines, bool(table["log_ratio"].notna().any()))


def sentences(rows: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """Say what a study came to, a sentence for each criterion.

    Args:
        rows: one row per run and criterion, as `aggregation.rows_of` makes them.
        table: as `aggregation.aggregate` makes it of these rows.
    """
    told = []
    for name in LABELS:
        group = table[table["criterion"] == name].to_dict("records")
        if len(group) == 1:
            told.append(f"{_capital(LABELS[name])}: {_of_one(rows, group[0])}.")
        elif group:
            told.append(f"{_capital(LABELS[name])}: {_of_many(group)}.")
    return told


def short(table: pd.DataFrame) -> str:
    """A study in a few words: the first of MAIN that it has."""
    name = next((one for one in MAIN if (table["criterion"] == one).any()), None)
    if name is None:
        return "no finished run"
    label = name.replace("_", "-")
    group = table[table["criterion"] == name].to_dict("records")
    if len(group) > 1:
        return f"{label}: {_of_many(group).partition(';')[0]}"
    cell = _cell(group[0])
    told = f"{label}: {cell.value} {cell.interval}".strip()
    return told if cell.verdict else f"{label} loss: {cell.value} {cell.interval}".strip()


def number(value: float) -> str:
    """Three digits, as a reader writes them."""
    if math.isnan(value):
        return "unknown"
    if value == math.inf:
        return "∞"
    return f"{value:.0f}" if 100 <= value < 1e5 else f"{value:#.3g}"


def duration(seconds: float) -> str:
    """Seconds as people say them: "45 s", "12 min", "3.4 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _of_one(rows: pd.DataFrame, one: Row) -> str:
    """A study of one condition, by one criterion."""
    if math.isnan(one["log_ratio"]):
        return f"loss {_told(one['median'], one['median_low'], one['median_high'])}"
    if one["n_seeds"] > 1:
        interval = _told(*map(_exp, (one["log_ratio"], one["low"], one["high"])))
        better = f"better with {one['seeds_better']} of {one['n_seeds']} meta-seeds"
        return f"{interval} times the loss of {_best(one)}; {better}"
    row = rows[rows["criterion"] == one["criterion"]].iloc[0]
    interval = _told(*map(_exp, (row["log_ratio"], row["low"], row["high"])))
    unit = f", the interval over {row['n_problems']} problems"
    return (
        f"{interval} times the loss of {_best(one)}, with a single meta-seed"
        f"{unit if row['n_problems'] >= FEWEST_FOR_MEDIAN else ''}"
    )


def _best(one: Row) -> str:
    """What is compared with."""
    return f"the best tuned baseline ({one['best_baseline']})"


def _of_many(group: Sequence[Row]) -> str:
    """Several conditions by one criterion, counted."""
    verdicts = [verdict(one) for one in group]
    if not any(verdicts):
        losses = [one["median"] for one in group]
        return f"losses from {number(min(losses))} to {number(max(losses))}"
    names = {BETTER: "better", WORSE: "worse", OPEN: "undecided", ONE: "with one meta-seed only"}
    counts = [f"{verdicts.count(key)} {name}" for key, name in names.items() if key in verdicts]
    ratios = [_exp(one["log_ratio"]) for one in group if not math.isnan(one["log_ratio"])]
    told = f"of {len(group)} conditions {', '.join(counts)}"
    if not ratios:
        return told
    return f"{told}; ratios from {number(min(ratios))} to {number(max(ratios))}"


def _cell(one: Row) -> Cell:
    """One number of the grid: the ratio, or the loss where nothing was compared."""
    said = verdict(one)
    if not said:
        values = one["median"], one["median_low"], one["median_high"]
    else:
        values = _exp(one["log_ratio"]), _exp(one["low"]), _exp(one["high"])
    return Cell(number(values[0]), _brackets(*values[1:]), said, str(one["best_baseline"] or ""))


def _told(value: float, low: float, high: float) -> str:
    """An estimate with its interval, where there is one."""
    return f"{number(value)} {_brackets(low, high)}".strip()


def _brackets(low: float, high: float) -> str:
    """An interval, "" where there is none."""
    return "" if math.isnan(low) else f"[{number(low)}, {number(high)}]"


def _exp(value: float) -> float:
    """exp, infinite where it overflows."""
    return math.inf if value > 709 else math.exp(value)


def _capital(text: str) -> str:
    """With a capital at the beginning."""
    return text[:1].upper() + text[1:]
