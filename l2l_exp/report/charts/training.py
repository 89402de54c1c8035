"""Charts of meta-training: how it went, what it cost, and when it has paid off."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from l2l_exp.report.aggregation import LABELS, VALIDATION, number
from l2l_exp.report.charts import courses, notes
from l2l_exp.report.charts.canvas import (
    BLOW_UP,
    DATA,
    at_edge,
    edge_entries,
    entry,
    finish,
    grid,
    limits,
    log_losses_alike,
    name_ticks,
    printed,
)
from l2l_exp.report.charts.naming import (
    check_keys,
    condition_name,
    number_of,
    ordered,
    unit,
    value_name,
    values_of,
    words,
)
from l2l_exp.report.studies import Study
from l2l_exp.report.style import LEARNED_COLOR, Look, plain_log_ticks
from l2l_exp.statistics import Floats, seeds_interval

SEED_LOOKS = (
    Look("black", (), "o"),
    Look("0.35", (4, 1.5), "s"),
    Look("0.55", (1, 1), "^"),
    Look("0.2", (6, 1.5, 1, 1.5), "v"),
    Look("0.45", (2, 1), "D"),
)
RATIO = "learned / best baseline, test"
OVER_SEEDS = (
    "Circles: every meta-seed (median over problems); diamonds: geometric mean over meta-seeds with "
    "its Student-t 95 % interval over seeds"
)


@printed
def validations(study: Study) -> Figure:
    """Draw the validation losses of meta-training, one line per meta-seed.

    A single condition is drawn over episodes and over seconds, several over episodes, a panel each.

    Raises:
        ValueError: if no run has validations.
    """
    rows = study.finished
    rows = rows[[bool(study.summaries.get(one, {}).get("validations")) for one in rows["run_id"]]]
    if rows.empty:
        raise ValueError(
            f"study {study.name!r} has no finished run with validations of its training"
        )
    conditions = list(rows["condition"].unique())
    axes_of = [(one, "episode") for one in conditions]
    axes_of += [(one, "seconds") for one in conditions if len(conditions) == 1]
    sheet = grid(len(axes_of), 1.8, share=(False, False), single=False)
    seeds = sorted(rows["seed"].unique())
    look = {seed: SEED_LOOKS[place % len(SEED_LOOKS)] for place, seed in enumerate(seeds)}
    for axes, (condition, over) in zip(sheet.panels, axes_of, strict=True):
        its = rows[rows["condition"] == condition]
        for run_id, seed in zip(its["run_id"], its["seed"], strict=True):
            _validation_line(axes, study.summaries[run_id], look[seed], over)
        label = "episodes of meta-training" if over == "episode" else "seconds of meta-training"
        axes.set_xlabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        if len(conditions) > 1:
            told = [
                condition_name(study, condition),
                _spent(study, its),
                notes.of_seeds(study, its),
            ]
            axes.set_title("\n".join(text for text in told if text))
    differ = log_losses_alike(sheet)
    for axes in sheet.panels[:: sheet.columns]:
        axes.set_ylabel(f"validation loss{unit(study)}")
    handles = [
        entry(f"meta-seed {seed}", color=one.color, linestyle=one.line, linewidth=1.1)
        for seed, one in look.items()
    ]
    handles.append(entry("selected", marker="*", color="0.3", markersize=6))
    several = len({study.summaries[one].get("validated") for one in rows["run_id"]}) > 1
    told = [
        _trained_runs(study, rows), notes.missing(study),
        "Validations differ between conditions: losses cannot be compared" if several else "", differ,
    ]  # fmt: skip
    return finish(sheet.figure, handles + edge_entries(sheet.panels), told)


def _criterion(summary: notes.Summary) -> str:
    """What a run was selected by."""
    return str((summary.get("selection") or {}).get("criterion"))


def _trained_runs(study: Study, rows: pd.DataFrame) -> str:
    """How many seeds are drawn, and what they were selected by."""
    counts = rows.groupby("condition", sort=False)["seed"].nunique()
    seeds = sorted(rows["seed"].unique())
    per = " per condition" if len(counts) > 1 else ""
    by = ", ".join(sorted({_criterion(study.summaries[one]) for one in rows["run_id"]}))
    shown = ", ".join(map(str, seeds))
    told = f"{notes.many(counts)} meta-seed{'s' if counts.max() > 1 else ''} ({shown}){per}"
    return f"{told}; mean over validation problems, criterion: {by}"


def _spent(study: Study, rows: pd.DataFrame) -> str:
    """How long the trainings of a condition took."""
    took = [study.summaries[one]["validations"][-1]["seconds"] for one in rows["run_id"]]
    return f"{notes.many(round(one) for one in took)} s"


def _validation_line(axes: Axes, summary: notes.Summary, look: Look, over: str) -> None:
    """One run's validations; the one that was selected is marked."""
    told = summary["validations"]
    x = [one[over] for one in told]
    y = [number(one["loss"], math.inf) for one in told]
    axes.plot(x, y, color=look.color, linestyle=look.line, linewidth=1.1, gid=DATA, zorder=2)
    chosen = (summary.get("selection") or {}).get("episode")
    for one, place, loss in zip(told, x, y, strict=True):
        if one["episode"] == chosen and math.isfinite(loss):
            axes.plot(place, loss, "*", color=look.color, markersize=6, zorder=3)


@printed
def tuning(study: Study, x: str) -> Figure:
    """Draw the test ratio against a key of meta-training, the validation loss beside it.

    Args:
        study: with runs that were evaluated, or validated at least.
        x: key on the axis; logarithmic where its values are positive numbers.

    Raises:
        ValueError: if there is nothing to draw, or runs differ in other keys too.
    """
    check_keys(study, "tuning", x)
    at = values_of(study, x)
    names = ordered(at.values())
    numbers = [number_of(one) for one in names]
    logarithmic = all(one > 0 for one in numbers)
    places = dict(zip(names, numbers if logarithmic else range(len(names)), strict=True))
    rows = study.criteria.assign(x=[places[at[one]] for one in study.criteria["condition"]])
    shown = [_ratio_rows(rows, name) for name in ("final", "held_out")]
    parts = [(RATIO, one) for one in shown if len(one)]
    chosen = _selected_rows(study, places, at)
    if len(chosen):
        parts.append((f"validation loss{unit(study)}", chosen))
    if not parts:
        raise ValueError(f"study {study.name!r} has neither ratios nor validation losses")
    sheet = grid(len(parts), 1.9, share=(False, False), single=len(parts) == 1)
    for axes, (label, part) in zip(sheet.panels, parts, strict=True):
        _against(axes, part, ratio=label == RATIO, joined=logarithmic)
        axes.set_ylabel(label)
        axes.set_title(LABELS[str(part["criterion"].iloc[0])])
        axes.set_xlabel(words(x, study.keys))
        if logarithmic:
            axes.set_xscale("log")
            axes.xaxis.set_minor_locator(NullLocator())
            _number_ticks(axes, list(places.values()))
        else:
            name_ticks(axes, [value_name(one) for one in names], sheet)
    runs = study.finished
    tested = runs[[bool(study.summaries[one].get("learned")) for one in runs["run_id"]]]
    told = [
        notes.headline(study, runs), notes.missing(study), notes.learned_failures(study, tested),
        OVER_SEEDS,
    ]  # fmt: skip
    return finish(sheet.figure, edge_entries(sheet.panels), told)


def _number_ticks(axes: Axes, values: Sequence[float]) -> None:
    """A tick at every value, as far as labels do not collide."""
    ends = limits(values)
    least = 0.16 * math.log(ends[1] / ends[0])
    shown: list[float] = []
    for value in sorted(values):
        if not shown or math.log(value / shown[-1]) >= least:
            shown.append(value)
    axes.set_xticks(sorted(values), [f"{one:g}" if one in shown else "" for one in sorted(values)])


def _ratio_rows(rows: pd.DataFrame, criterion: str) -> pd.DataFrame:
    """Rows of one criterion that have a ratio, as `value` on the log scale."""
    its = rows[(rows["criterion"] == criterion) & rows["log_ratio"].notna()]
    return its.assign(value=its["log_ratio"])


def _selected_rows(
    study: Study, places: Mapping[str, float], at: Mapping[str, str]
) -> pd.DataFrame:
    """The score at selection of every run that was trained, as `value` on the log scale."""
    told = []
    for condition, run_id in zip(
        study.finished["condition"], study.finished["run_id"], strict=True
    ):
        selection = study.summaries.get(run_id, {}).get("selection")
        if selection and selection["criterion"] in LABELS:
            loss = number(selection.get("validation"), math.inf)
            value = math.log(loss) if loss > 0 else -math.inf
            told.append({"x": places[at[condition]], "value": value, "criterion": VALIDATION})
    return pd.DataFrame(told, columns=["x", "value", "criterion"])


def _against(axes: Axes, rows: pd.DataFrame, ratio: bool, joined: bool = True) -> None:
    """Every seed as a circle, their mean as a diamond with its interval, joined by a line.

    Args:
        axes: of the panel.
        rows: `x` and `value`, on the natural log scale.
        ratio: whether values are ratios, which are compared with 1.
        joined: whether means are joined by a line.
    """
    means = []
    for x, its in rows.groupby("x"):
        interval = seeds_interval(its["value"].to_numpy(dtype=np.float64))
        means.append((float(str(x)), interval.estimate, interval.low, interval.high))
    inside = [*rows["value"], *([0.0] if ratio else [])]
    low, high = _around(np.array(inside), np.array([one[2:] for one in means]).ravel())
    axes.set(yscale="log", ylim=(math.exp(low), math.exp(high)))
    plain_log_ticks(axes.yaxis)
    if ratio:
        axes.axhline(1, color="0.3", linewidth=0.8, zorder=0)
    for x, value in zip(rows["x"], rows["value"], strict=True):
        _mark(axes, x, value, low, high, "o", 3.2, fillstyle="none")
    shown = [(x, math.exp(value)) for x, value, *_ in means if low <= value <= high]
    if shown and joined:
        axes.plot(*np.transpose(shown), color=LEARNED_COLOR, linewidth=1.2, zorder=2)
    for x, value, bottom, top in means:
        _mark(axes, x, value, low, high, "D", 3.6)
        if not math.isnan(bottom):
            ends = np.exp(np.clip([bottom, top], low, high))
            axes.vlines(x, *ends, color=LEARNED_COLOR, linewidth=0.9, zorder=2)
            for bound in (one for one in (bottom, top) if not low <= one <= high):
                _mark(axes, x, bound, low, high, "", 0.0)


def _around(values: Floats, bounds: Floats) -> tuple[float, float]:
    """Ends of a log axis: finite values, none far above the median; as much again of the bounds."""
    some = values[np.isfinite(values)]
    some = some[some <= np.median(some) + math.log(BLOW_UP)] if len(some) else some
    low, high = (some.min(), some.max()) if len(some) else (0.0, 0.0)
    reach = max(high - low, 0.1)
    near = bounds[np.isfinite(bounds)]
    low = max(low - reach, min(low, near.min(initial=low)))
    high = min(high + reach, max(high, near.max(initial=high)))
    pad = max(0.06 * (high - low), 0.03)
    return float(low - pad), float(high + pad)


def _mark(
    axes: Axes, x: float, value: float, low: float, high: float, marker: str, size: float,
    **settings: Any,
) -> None:  # fmt: skip
    """A marker at a value, or an arrow at the edge beyond which it lies."""
    if low <= value <= high:
        axes.plot(
            x, math.exp(value), marker, color=LEARNED_COLOR, markersize=size, zorder=3,
            markeredgewidth=0.7, **settings,
        )  # fmt: skip
    elif not math.isnan(value):
        at_edge(axes, x, float(value > high), "^" if value > high else "v", LEARNED_COLOR, True)


@printed
def training_cost(study: Study) -> Figure:
    """Draw the test ratio against problems seen and seconds of meta-training.

    Raises:
        ValueError: if no run has both.
    """
    runs = _costed(study)
    rows = study.criteria[study.criteria["run_id"].isin(runs["run_id"])]
    parts = [one for one in (_ratio_rows(rows, name) for name in ("final", "held_out")) if len(one)]
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
        lambda one: float(geometric(one.to_numpy(dtype=np.float64)))
    )
    return told.assign(x=means)


def geometric(values: Floats) -> float:
    """Geometric mean."""
    return float(courses.geometric_mean(values))


def _against_cost(axes: Axes, rows: pd.DataFrame) -> None:
    """As `_against`, every seed at its own cost."""
    _against(axes, rows.assign(x=rows["x"]), ratio=True)
    for line in [one for one in axes.lines if one.get_marker() == "o"]:
        line.remove()
    low, high = np.log(axes.get_ylim())
    for x, value in zip(rows["each"], rows["value"], strict=True):
        if low <= value <= high:
            _mark(axes, x, value, low, high, "o", 3.2, fillstyle="none")
    axes.set_xscale("log")
    axes.set_xlim(*limits(rows["each"], least=2))
    plain_log_ticks(axes.xaxis)


@printed
def payoff(study: Study) -> Figure:
    """Draw after how many uses meta-training has paid off, against what it cost.

    A use is one problem optimized to the loss that the best baseline reaches at its end (median over
    problems of the minibatch loss). It saves the seconds that the baseline needs to first reach that
    loss, less those of the learned rule; training has paid off after its seconds over these. Where
    the rule never gets there, or needs longer, it never has.

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
    axes.set(xscale="log", yscale="log", ylim=(low, high))
    axes.set_xlim(*limits(points["seconds"], least=3))
    for x, uses in zip(points["seconds"], points["uses"], strict=True):
        _mark(axes, x, math.log(uses), math.log(low), math.log(high), "o", 3.6, fillstyle="none")
    means = [
        (geometric(its["seconds"].to_numpy()), geometric(its["uses"].to_numpy()))
        for _, its in points.groupby("condition", sort=False)
        if np.isfinite(its["uses"]).all() and len(its) > 1
    ]
    if means:
        axes.plot(
            *np.transpose(sorted(means)), "D-", color=LEARNED_COLOR, markersize=3.6, linewidth=1.2
        )
    plain_log_ticks(axes.xaxis)
    plain_log_ticks(axes.yaxis)
    sheet.label("seconds of meta-training", "uses until paid off")
    handles = [entry("one meta-seed", marker="o", color="black", fillstyle="none", markersize=3.6)]
    if means:
        handles.append(
            entry("geometric mean", marker="D", color="black", markersize=3.6, linestyle="-")
        )
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
