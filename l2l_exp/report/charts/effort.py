"""Charts of what meta-training costs, and when it has paid off."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from l2l_exp.report.aggregation import LABELS
from l2l_exp.report.charts import courses, notes
from l2l_exp.report.charts.against import OVER_SEEDS, RATIO, against, mark, ratio_rows
from l2l_exp.report.charts.canvas import (
    edge_entries,
    entry,
    finish,
    grid,
    limits,
    look_entry,
    printed,
)
from l2l_exp.report.studies import Study
from l2l_exp.report.style import LEARNED_COLOR, Look, plain_log_ticks
from l2l_exp.statistics import Floats

MEAN = Look(LEARNED_COLOR, (), "D")
"""Of geometric means over meta-seeds."""


@printed
def training_cost(study: Study) -> Figure:
    """Draw the test ratio against problems seen and seconds of meta-training.

    Raises:
        ValueError: if no run has both.
    """
    runs = _costed(study)
    rows = study.criteria[study.criteria["run_id"].isin(runs["run_id"])]
    parts = [one for one in (ratio_rows(rows, name) for name in ("final", "held_out")) if len(one)]
    if not parts:
        raise ValueError(f"study {study.name!r} has no ratio to a baseline")
    costs = {"problems": "problems seen in meta-training", "seconds": "seconds of meta-training"}
    sheet = grid(2 * len(parts), 1.8, 2, (False, False), single=False)
    for row, part in enumerate(parts):
        for axes, (cost, label) in zip(sheet.panels[2 * row :], costs.items(), strict=False):
            _against_cost(axes, _with_cost(study, part, cost))
            axes.set_xlabel(label if row == len(parts) - 1 else "")
            axes.set_ylabel(RATIO if cost == "problems" else "")
            axes.set_title(LABELS[str(part["criterion"].iloc[0])])
    told = [
        notes.headline(study, runs), notes.missing(study), notes.learned_failures(study, runs),
        f"{OVER_SEEDS}, at the geometric mean of what they cost",
    ]  # fmt: skip
    return finish(sheet.figure, edge_entries(sheet.panels), told)


def _costed(study: Study) -> pd.DataFrame:
    """Runs that were evaluated and tell what their training cost."""
    runs = notes.evaluated(study)
    runs = runs[[bool(study.summaries[one].get("cost")) for one in runs["run_id"]]]
    if runs.empty:
        raise ValueError(f"study {study.name!r} has no run that tells what its training cost")
    return runs


def _with_cost(study: Study, rows: pd.DataFrame, cost: str) -> pd.DataFrame:
    """Rows with what each run's training cost, as `each`, and its condition's mean, as `x`."""
    each = [float(study.summaries[one]["cost"][cost]) for one in rows["run_id"]]
    told = rows.assign(each=each)
    means = told.groupby("condition")["each"].transform(
        lambda one: _geometric(one.to_numpy(dtype=np.float64))
    )
    return told.assign(x=means)


def _geometric(values: Floats) -> float:
    """Geometric mean."""
    return float(courses.geometric_mean(values))


def _against_cost(axes: Axes, rows: pd.DataFrame) -> None:
    """As `against`, every seed at its own cost."""
    against(axes, rows, ratio=True, each="each")
    axes.set_xlim(*limits(rows["each"], least=2))
    axes.set_xscale("log")
    plain_log_ticks(axes.xaxis)


@printed
def payoff(study: Study) -> Figure:
    """Draw after how many uses meta-training has paid off, against what it cost.

    A use is one problem optimized to the loss that the best baseline reaches at its end (median
    over problems of the minibatch loss). It saves the seconds that the baseline needs to first
    reach that loss, less those of the learned rule; training has paid off after its own seconds
    over these. Where the rule never gets there, or needs longer, it never has.

    Raises:
        ValueError: if no run has a cost, a table of losses and a best baseline.
    """
    runs = _costed(study)
    told = [(run, _uses(study, str(run["run_id"]))) for _, run in runs.iterrows()]
    some = [(run, uses) for run, uses in told if uses is not None]
    if not some:
        raise ValueError(f"study {study.name!r} has no run with a table of losses and a baseline")
    points = pd.DataFrame(
        [
            (run["condition"], run["seed"], study.summaries[run["run_id"]]["cost"]["seconds"], uses)
            for run, uses in some
        ],
        columns=["condition", "seed", "seconds", "uses"],
    )
    finite = points[np.isfinite(points["uses"])]
    sheet = grid(1, 2.1)
    axes = sheet.panels[0]
    low, high = limits(finite["uses"], least=10)
    axes.set(ylim=(low, high), xlim=limits(points["seconds"], least=3))
    axes.set(xscale="log", yscale="log")
    for x, uses in zip(points["seconds"], points["uses"], strict=True):
        mark(axes, x, math.log(uses), math.log(low), math.log(high), "o", 3.6, fillstyle="none")
    means = [
        (_geometric(its["seconds"].to_numpy()), _geometric(its["uses"].to_numpy()))
        for _, its in points.groupby("condition", sort=False)
        if np.isfinite(its["uses"]).all() and len(its) > 1
    ]
    if means:
        x, y = np.transpose(sorted(means))
        axes.plot(x, y, MEAN.marker, linestyle="-", color=MEAN.color, markersize=3.6, linewidth=1.2)
    plain_log_ticks(axes.xaxis)
    plain_log_ticks(axes.yaxis)
    sheet.label("seconds of meta-training", "uses until paid off")
    handles = [entry("one meta-seed", marker="o", color="black", fillstyle="none", markersize=3.6)]
    if means:
        handles.append(look_entry("geometric mean", MEAN, 1.2, 3.6))
    never = len(points) - len(finite)
    if never:
        handles.append(entry("never", marker="^", color="black", markersize=4.5))
    return finish(sheet.figure, handles, [
        notes.headline(study, runs), notes.missing(study),
        f"{never} of {len(points)} runs never pay off: they do not reach the loss of the best "
        "baseline's end, or not in fewer seconds" if never else "",
        "A use: one problem optimized to the loss where the best baseline (by final loss on "
        "validation problems) ends; medians over problems, seconds as measured",
    ])  # fmt: skip


def _uses(study: Study, run_id: str) -> float | None:
    """Uses until one run has paid off; infinite if it never does, None if that cannot be told."""
    summary = study.summaries[run_id]
    paired = (summary.get("paired") or {}).get("final")
    steps = study.steps[study.steps["run_id"] == run_id]
    if not paired or steps.empty:
        return None
    name = str(paired["best_baseline"])
    mine = courses.learned(steps)
    theirs = courses.course(
        steps[(steps["kind"] == "baseline") & (steps["rule"] == name) & courses.for_final(steps)]
    )
    if mine is None or theirs is None:
        return None
    level = theirs.middle[-1]
    saved = _seconds_to(theirs, level, summary["baselines"][name]) - _seconds_to(
        mine, level, summary["learned"]
    )
    return float(summary["cost"]["seconds"] / saved) if saved > 0 else math.inf


def _seconds_to(one: courses.Course, level: float, rule: Mapping[str, Any]) -> float:
    """Seconds until a loss is reached for the first time; infinite if it never is."""
    there = np.flatnonzero(one.middle <= level)
    if not len(there) or not math.isfinite(level):
        return math.inf
    per_step = rule["seconds_per_step"] + rule["gradient_seconds_per_step"]
    return float(one.steps[there[0]] * per_step)
