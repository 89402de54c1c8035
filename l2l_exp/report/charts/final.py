"""Charts of final scores, every meta-seed a point."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from l2l_exp.report.aggregation import LABELS, number
from l2l_exp.report.charts import notes
from l2l_exp.report.charts.canvas import (
    BLOW_UP,
    Grid,
    at_edge,
    edge_entries,
    entry,
    finish,
    grid,
    limits,
    printed,
)
from l2l_exp.report.charts.naming import condition_name, unit
from l2l_exp.report.studies import Study
from l2l_exp.report.style import LEARNED_COLOR, Look, looks, plain_log_ticks
from l2l_exp.statistics import seeds_interval

ROW = 0.36
"""Inches of a condition's row, which is 1 high."""
SEEDS, MEAN, BASELINES = 0.24, 0.0, -0.26
"""Heights within a row."""
TESTS = ("final", "held_out")


class Spot(NamedTuple):
    """A marker at a loss."""

    value: float
    height: float
    look: Look
    size: float
    filled: bool = True


@printed
def strips(study: Study) -> Figure:
    """Draw final losses: of the learned rule every meta-seed, of baselines the tuned ones' median.

    Raises:
        ValueError: if no run was evaluated.
    """
    runs = notes.evaluated(study)
    conditions = list(runs["condition"].unique())
    criteria = [
        name for name in TESTS
        if any(study.summaries[one]["learned"].get(name) for one in runs["run_id"])
    ]  # fmt: skip
    sheet = grid(len(criteria), ROW * len(conditions) + 0.35, share=(False, True), single=False)
    shown: dict[str, Look] = {}
    for axes, name in zip(sheet.panels, criteria, strict=True):
        spots: list[Spot] = []
        intervals: list[tuple[float, float, float]] = []
        for place, condition in enumerate(conditions):
            summaries = notes.summaries_of(study, runs[runs["condition"] == condition])
            spots += _learned_spots(summaries, name, -place)
            found, its = _baseline_spots(summaries[0], name, -place)
            spots, shown = spots + found, shown | its
            intervals += _interval(summaries, name, -place)
        _strip(axes, spots, intervals)
        axes.set_title(LABELS[name])
        axes.set_xlabel(f"median loss over problems{unit(study)}")
    _rows(study, runs, sheet, conditions)
    handles = [
        entry(
            "learned: each meta-seed", marker="o", color="black", markersize=3.2, fillstyle="none"
        )
    ]
    if runs.groupby("condition")["seed"].nunique().max() > 1:
        handles.append(
            entry(
                "geometric mean, Student-t 95 %",
                marker="D",
                color="black",
                markersize=4,
                linestyle="-",
            )
        )
    handles += [
        entry(name, marker=one.marker, color=one.color, markersize=4) for name, one in shown.items()
    ]
    return finish(sheet.figure, handles + edge_entries(sheet.panels), [
        notes.headline(study, runs), notes.missing(study), notes.learned_failures(study, runs),
        notes.baseline_failures(study, runs),
        "Interval: over meta-seeds. Baselines: at the rate tuned for the criterion on validation "
        "problems; filled: the best one there",
    ])  # fmt: skip


def _score(rule: Any, criterion: str, statistic: str) -> float:
    """A score of summary.json; null is infinite."""
    return number((rule.get(criterion) or {}).get(statistic), math.inf)


def _spread(count: int) -> Any:
    """Small shifts that tell meta-seeds apart."""
    return np.linspace(0.12, -0.12, count) if count > 1 else np.zeros(1)


def _learned_spots(summaries: Sequence[notes.Summary], name: str, row: float) -> list[Spot]:
    """Every meta-seed of a condition."""
    look = Look(LEARNED_COLOR, (), "o")
    return [
        Spot(_score(one["learned"], name, "median"), row + SEEDS + shift, look, 3.2, filled=False)
        for one, shift in zip(summaries, _spread(len(summaries)), strict=True)
    ]


def _interval(
    summaries: Sequence[notes.Summary], name: str, row: float
) -> list[tuple[float, float, float, float]]:
    """Height, estimate and bounds over meta-seeds, on the log scale; nothing of a single seed."""
    with np.errstate(divide="ignore"):
        logs = np.log([_score(one["learned"], name, "median") for one in summaries])
    if len(logs) < 2:
        return []
    interval = seeds_interval(logs)
    return [(row + MEAN, interval.estimate, interval.low, interval.high)]


def _baseline_spots(
    summary: notes.Summary, name: str, row: float
) -> tuple[list[Spot], dict[str, Look]]:
    """Baselines of a condition, as its first run met them; the best on validation is filled."""
    best = ((summary.get("paired") or {}).get(name) or {}).get("best_baseline")
    look = looks(summary["baselines"])
    spots = [
        Spot(_score(one, name, "median"), row + BASELINES, look[rule], 4.4, filled=rule == best)
        for rule, one in summary["baselines"].items()
    ]
    return spots, look


def _strip(axes: Axes, spots: Sequence[Spot], intervals: Sequence[Any]) -> None:
    """Draw a panel's markers and intervals; what lies beyond the axis ends in an arrow."""
    values = np.array([one.value for one in spots])
    some = values[np.isfinite(values) & (values > 0)]
    top = BLOW_UP * float(np.median(some)) if len(some) else 1.0
    low, high = limits(some[some <= top], least=1.5)
    axes.set(xscale="log", xlim=(low, high))
    plain_log_ticks(axes.xaxis)
    axes.grid(axis="y", visible=False)
    for height, estimate, bottom, top in intervals:
        ends = np.exp(np.clip([bottom, top], math.log(low), math.log(high)))
        axes.hlines(height, *ends, color=LEARNED_COLOR, linewidth=1.1, zorder=2)
        for bound, edge in ((bottom, "<"), (top, ">")):
            if not math.log(low) <= bound <= math.log(high):
                at_edge(axes, height, float(edge == ">"), edge, LEARNED_COLOR, False)
        with np.errstate(over="ignore"):
            mean = float(np.exp(estimate))
        _spot(axes, Spot(mean, height, Look(LEARNED_COLOR, (), "D"), 4.0), low, high)
    for one in spots:
        _spot(axes, one, low, high)


def _spot(axes: Axes, one: Spot, low: float, high: float) -> None:
    """A marker, or an arrow at the edge beyond which it lies."""
    if low <= one.value <= high:
        axes.plot(
            one.value, one.height, one.look.marker, color=one.look.color, markersize=one.size,
            fillstyle="full" if one.filled else "none", markeredgewidth=0.7, zorder=3,
        )  # fmt: skip
    elif not math.isnan(one.value):
        beyond = one.value > high
        at_edge(axes, one.height, float(beyond), ">" if beyond else "<", one.look.color, False)


def _rows(study: Study, runs: pd.DataFrame, sheet: Grid, conditions: Sequence[str]) -> None:
    """Name the rows of all panels by condition."""
    names = []
    for condition in conditions:
        its = runs[runs["condition"] == condition]
        told = [condition_name(study, condition) or "learned rule", notes.of_seeds(study, its)]
        names.append("\n".join(text for text in told if text))
    first = sheet.panels[0]
    first.set_yticks([-place for place in range(len(conditions))], names)
    first.set_ylim(0.5 - len(conditions), 0.5)
    for axes in sheet.panels:
        axes.tick_params(axis="y", length=0)
        for place in range(1, len(conditions)):
            axes.axhline(0.5 - place, color="0.85", linewidth=0.6, zorder=0)


@printed
def selection(study: Study) -> Figure:
    """Draw the score that meta-parameters were selected by beside that on fresh test problems.

    Both are means over problems, of every meta-seed; below them the best baseline's, whose rate was
    chosen on validation problems too. That they agree says that selection did not overfit.

    Raises:
        ValueError: if no run was selected by a criterion that is also a test's.
    """
    runs = notes.evaluated(study)
    told = [study.summaries[one].get("selection") or {} for one in runs["run_id"]]
    runs = runs[[one.get("criterion") in LABELS for one in told]]
    if runs.empty:
        raise ValueError(f"study {study.name!r} has no run with a score at selection and on tests")
    conditions = list(runs["condition"].unique())
    sheet = grid(1, ROW * len(conditions) * 1.3 + 0.45, single=len(conditions) < 4)
    axes = sheet.panels[0]
    pairs = [pair for place, one in enumerate(conditions)
             for pair in _pairs(notes.summaries_of(study, runs[runs["condition"] == one]), -place)]  # fmt: skip
    spots = [spot for pair in pairs for spot in pair]
    _strip(axes, spots, [])
    low, high = axes.get_xlim()
    for before, after in pairs:
        ends = np.clip([before.value, after.value], low, high)
        axes.plot(
            ends, [before.height, after.height], color=before.look.color, linewidth=0.8, zorder=2
        )
    axes.set_xlabel(f"mean loss over problems{unit(study)}")
    _rows(study, runs, sheet, conditions)
    names = {one.look: rule for one, rule in _named(study, runs)}
    handles = [
        entry("at selection (validation)", marker="o", color="0.3", fillstyle="none", markersize=4),
        entry("fresh test problems", marker="o", color="0.3", markersize=4),
        entry(
            "learned: each meta-seed",
            marker="o",
            color="black",
            linestyle="-",
            linewidth=0.8,
            markersize=3.4,
        ),
    ]
    handles += [
        entry(
            f"best baseline: {rule}",
            marker=look.marker,
            color=look.color,
            linestyle="-",
            linewidth=0.8,
            markersize=4,
        )
        for look, rule in names.items()
    ]
    criteria = sorted({study.summaries[one]["selection"]["criterion"] for one in runs["run_id"]})
    return finish(sheet.figure, handles + edge_entries(sheet.panels), [
        notes.headline(study, runs), notes.missing(study), notes.learned_failures(study, runs),
        f"Criterion: {', '.join(LABELS[one] for one in criteria)}",
    ])  # fmt: skip


def _pairs(summaries: Sequence[notes.Summary], row: float) -> list[tuple[Spot, Spot]]:
    """At selection and on test problems: every meta-seed, and the best baseline."""
    look = Look(LEARNED_COLOR, (), "o")
    pairs = []
    for one, shift in zip(summaries, 1.8 * _spread(len(summaries)), strict=True):
        criterion = one["selection"]["criterion"]
        scores = (
            number(one["selection"]["validation"], math.inf),
            _score(one["learned"], criterion, "mean"),
        )
        before, after = (Spot(value, row + 0.12 + shift, look, 3.4) for value in scores)
        pairs.append((before._replace(filled=False), after))
    best = _best(summaries[0])
    if best is not None:
        criterion, rule = summaries[0]["selection"]["criterion"], summaries[0]["baselines"][best]
        validated = number((rule.get("validation") or {}).get(criterion), math.inf)
        its = looks(summaries[0]["baselines"])[best]
        before, after = (
            Spot(value, row - 0.32, its, 4.2)
            for value in (validated, _score(rule, criterion, "mean"))
        )
        pairs.append((before._replace(filled=False), after))
    return pairs


def _best(summary: notes.Summary) -> str | None:
    """The best baseline by the criterion of selection, if its rate was tuned."""
    criterion = summary["selection"]["criterion"]
    name = ((summary.get("paired") or {}).get(criterion) or {}).get("best_baseline")
    return name if name and summary["baselines"][name].get("validation") else None


def _named(study: Study, runs: pd.DataFrame) -> list[tuple[Spot, str]]:
    """The best baselines that are drawn."""
    found = []
    for _, its in runs.groupby("condition", sort=False):
        summary = notes.summaries_of(study, its)[0]
        best = _best(summary)
        if best is not None:
            found.append((Spot(0, 0, looks(summary["baselines"])[best], 0), best))
    return found
