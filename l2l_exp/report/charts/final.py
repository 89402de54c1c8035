"""Charts of final scores, every meta-seed a point."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from l2l_exp.report.aggregation import LABELS, number
from l2l_exp.report.charts import notes
from l2l_exp.report.charts.canvas import (
    edge_entries,
    entry,
    finish,
    grid,
    look_entry,
    printed,
)
from l2l_exp.report.charts.naming import unit
from l2l_exp.report.charts.spots import (
    BASELINES,
    MEAN,
    PAIRED,
    ROW,
    SEEDS,
    Bar,
    Spot,
    name_rows,
    score_of,
    shifts,
    strip,
)
from l2l_exp.report.studies import Study
from l2l_exp.report.style import LEARNED_COLOR, LEARNED_LOOK, Look, looks
from l2l_exp.statistics import seeds_interval

TESTS = ("final", "held_out")
FEW = 3
"""Conditions that fit one column's width."""
Pair = tuple[Spot, Spot]


@printed
def strips(study: Study) -> Figure:
    """Draw final losses: of the learned rule every meta-seed, of baselines the median.

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
        bars: list[Bar] = []
        for place, condition in enumerate(conditions):
            summaries = notes.summaries_of(study, runs[runs["condition"] == condition])
            shown |= looks(summaries[0]["baselines"])
            spots += _learned(summaries, name, -place) + _baselines(summaries[0], name, -place)
            bars += _interval(summaries, name, -place)
        strip(axes, spots, bars)
        axes.set_title(LABELS[name])
        axes.set_xlabel(f"median loss over problems{unit(study)}")
    name_rows(study, runs, sheet, conditions)
    handles = [entry("each meta-seed", marker="o", color="black", markersize=3.2, fillstyle="none")]
    if runs.groupby("condition")["seed"].nunique().max() > 1:
        mean = Look(LEARNED_COLOR, (), "D")
        handles.append(look_entry("their geometric mean, Student-t 95 %", mean, 1.1, 4))
    handles += [look_entry(name, one, marker=4) for name, one in shown.items()]
    return finish(sheet.figure, handles + edge_entries(sheet.panels), [
        notes.headline(study, runs), notes.missing(study), notes.learned_failures(study, runs),
        notes.baseline_failures(study, runs),
        "Interval: over meta-seeds. Baselines: at the rate tuned for the criterion on validation "
        "problems; filled: the best one there",
    ])  # fmt: skip


def _learned(summaries: Sequence[notes.Summary], name: str, row: float) -> list[Spot]:
    """Every meta-seed of a condition."""
    values = [score_of(one["learned"], name, "median") for one in summaries]
    heights = row + SEEDS + shifts(len(values))
    return [
        Spot(value, height, LEARNED_LOOK, 3.2, filled=False)
        for value, height in zip(values, heights, strict=True)
    ]


def _interval(summaries: Sequence[notes.Summary], name: str, row: float) -> list[Bar]:
    """The mean over meta-seeds with its interval; nothing of a single seed."""
    with np.errstate(divide="ignore"):
        logs = np.log([score_of(one["learned"], name, "median") for one in summaries])
    if len(logs) < 2 or len({one["seed"] for one in summaries}) < len(logs):
        return []  # the same seed again is no repetition
    interval = seeds_interval(logs)
    return [Bar(row + MEAN, interval.estimate, interval.low, interval.high)]


def _baselines(summary: notes.Summary, name: str, row: float) -> list[Spot]:
    """Baselines of a condition, as its first run met them; the best on validation is filled."""
    best = ((summary.get("paired") or {}).get(name) or {}).get("best_baseline")
    look = looks(summary["baselines"])
    return [
        Spot(score_of(one, name, "median"), row + BASELINES, look[rule], 4.4, filled=rule == best)
        for rule, one in summary["baselines"].items()
    ]


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
    sheet = grid(1, 1.3 * ROW * len(conditions) + 0.45, single=len(conditions) <= FEW)
    axes = sheet.panels[0]
    pairs: list[Pair] = []
    best: dict[str, Look] = {}
    for place, condition in enumerate(conditions):
        summaries = notes.summaries_of(study, runs[runs["condition"] == condition])
        pairs += _of_seeds(summaries, -place)
        for name in _best(summaries[0]):
            best[name] = looks(summaries[0]["baselines"])[name]
            pairs.append(_of_baseline(summaries[0], name, best[name], -place))
    strip(axes, [spot for pair in pairs for spot in pair])
    for before, after in pairs:
        ends = np.clip([before.value, after.value], *axes.get_xlim())
        heights = [before.height, after.height]
        axes.plot(ends, heights, color=before.look.color, linestyle=before.look.line,
            linewidth=0.8, zorder=2,
        )  # fmt: skip
    axes.set_xlabel(f"mean loss over problems{unit(study)}")
    name_rows(study, runs, sheet, conditions)
    criteria = sorted({study.summaries[one]["selection"]["criterion"] for one in runs["run_id"]})
    handles = [
        entry("at selection (validation)", marker="o", color="0.3", fillstyle="none", markersize=4),
        entry("fresh test problems", marker="o", color="0.3", markersize=4),
        look_entry("each meta-seed", LEARNED_LOOK, 0.8, 3.4),
        *(look_entry(f"best baseline: {rule}", look, 0.8, 4) for rule, look in best.items()),
        *edge_entries(sheet.panels),
    ]
    return finish(sheet.figure, handles, [
        notes.headline(study, runs), notes.missing(study), notes.learned_failures(study, runs),
        f"Criterion: {', '.join(LABELS[one] for one in criteria)}",
    ])  # fmt: skip


def _pair(validated: Any, tested: float, height: float, look: Look, size: float) -> Pair:
    """A hollow marker at selection, a full one on test problems."""
    before = Spot(number(validated, math.inf), height, look, size, filled=False)
    return before, Spot(tested, height, look, size)


def _of_seeds(summaries: Sequence[notes.Summary], row: float) -> list[Pair]:
    """Every meta-seed of a condition."""
    heights = row + PAIRED + 1.8 * shifts(len(summaries))
    told = [(one["selection"], one["learned"]) for one in summaries]
    return [
        _pair(
            chosen["validation"], score_of(rule, chosen["criterion"], "mean"), height,
            LEARNED_LOOK, 3.4,
        )
        for (chosen, rule), height in zip(told, heights, strict=True)
    ]  # fmt: skip


def _of_baseline(summary: notes.Summary, name: str, look: Look, row: float) -> Pair:
    """A baseline as a condition's first run met it."""
    criterion, rule = summary["selection"]["criterion"], summary["baselines"][name]
    tested = score_of(rule, criterion, "mean")
    return _pair(rule["validation"].get(criterion), tested, row + BASELINES - 0.06, look, 4.2)


def _best(summary: notes.Summary) -> list[str]:
    """The best baseline by the criterion of selection, if there is one whose rate was tuned."""
    criterion = summary["selection"]["criterion"]
    name = ((summary.get("paired") or {}).get(criterion) or {}).get("best_baseline")
    return [name] if name and summary["baselines"][name].get("validation") else []
