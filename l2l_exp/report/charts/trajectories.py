"""Charts of losses over steps and over seconds."""

import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from l2l_exp.report import paper as published
from l2l_exp.report.charts import courses, notes
from l2l_exp.report.charts.canvas import (
    LETTERS,
    SHOWN,
    Grid,
    edge_entries,
    entry,
    finish,
    grid,
    log_losses,
    log_losses_alike,
    printed,
)
from l2l_exp.report.charts.naming import condition_name, unit
from l2l_exp.report.studies import Study
from l2l_exp.report.style import LEARNED_LOOK, Look, looks, plain_log_ticks, rule_looks
from l2l_exp.statistics import Floats

TRAINED = "0.35"
"""Colour of what marks the training."""
MEDIANS = "Medians over problems, bands: quartiles; learned: geometric mean over meta-seeds"
MEANS = "Means over problems; learned: geometric mean over meta-seeds"


@printed
def curves(study: Study, paper: str | None = None, trained_horizon: int | None = None) -> Figure:
    """Draw minibatch losses over inner steps, a panel per condition.

    Args:
        study: with runs that were evaluated.
        paper: a figure of `report.paper`, whose points are drawn beside; means over problems are
            then drawn instead of medians, since the paper has these.
        trained_horizon: where training ended, in inner steps.

    Raises:
        ValueError: if there is nothing to draw.
    """
    digitised = None if paper is None else published.figure(paper)
    statistic = "median" if digitised is None else "mean"
    runs = _with_steps(study)
    conditions = list(runs["condition"].unique())
    sheet = grid(len(conditions), share=(True, False))
    shown: dict[str, Look] = {}
    for axes, condition in zip(sheet.panels, conditions, strict=True):
        steps = study.steps[study.steps["condition"] == condition]
        learned = courses.learned(steps, "loss", statistic)
        if learned is not None:
            courses.draw(axes, learned, LEARNED_LOOK, main=True)
        for name, (one, look) in courses.others(steps, "loss", statistic, references=True).items():
            courses.draw(axes, one, look, main=False)
            shown[name] = look
        _title(study, sheet, axes, runs[runs["condition"] == condition])
    last = float(study.steps["step"].max())
    if digitised is not None:
        _points(sheet.panels, digitised, shown, last)
    differ = log_losses_alike(sheet)
    sheet.panels[0].set_xlim(0, 1.02 * last)
    sheet.label("inner step", f"minibatch loss{unit(study)}")
    handles = _legend(runs, shown, bands=statistic == "median")
    handles += _trained(sheet.panels, trained_horizon)
    told = [MEDIANS if digitised is None else MEANS, _baselines(shown), differ]
    if digitised is not None:
        handles.append(
            entry("paper's points", marker="o", color="0.3", markersize=4, fillstyle="none")
        )
        told.append(_of_paper(study, runs, digitised))
    return finish(sheet.figure, handles + edge_entries(sheet.panels), [*_head(study, runs), *told])


@printed
def horizons(study: Study, trained_horizon: int | None = None) -> Figure:
    """Draw the loss on the training part and the running mean over many steps, failures counted.

    Conditions that met the same baselines share a panel.

    Args:
        study: with runs that were evaluated.
        trained_horizon: where training ended, in inner steps; a run that says so itself is believed.

    Raises:
        ValueError: if there is nothing to draw.
    """
    runs = _with_steps(study)
    groups = _alike(study, runs)
    measures = [
        (name, label)
        for name, label in (
            ("train_loss", "loss on the training part"),
            ("running_mean", "mean minibatch loss so far"),
        )
        if study.steps[f"{name}_median"].notna().any()
    ]
    sheet = grid(len(groups) * len(measures), 2.1, len(measures), (True, False), single=False)
    handles: dict[str, Any] = {}
    for row, group in enumerate(groups):
        panels = sheet.panels[row * len(measures) : (row + 1) * len(measures)]
        for axes, (measure, label) in zip(panels, measures, strict=True):
            marker = "." if measure == "train_loss" else ""
            handles |= _rules(study, runs, group, axes, measure, marker)
            axes.set_ylabel(f"{label}{unit(study)}")
            axes.set_xscale("log")
            log_losses([axes])
    for axes in sheet.panels[-len(measures) :]:
        axes.set_xlabel("inner step")
        plain_log_ticks(axes.xaxis)
    told = {study.summaries[one].get("trained_horizon") for one in runs["run_id"]} - {None}
    ends = _trained(sheet.panels, *(sorted(told) or [trained_horizon]))
    return finish(
        sheet.figure, [*handles.values(), *ends, *edge_entries(sheet.panels)],
        [*_head(study, runs), MEDIANS, _baselines(handles)],
    )  # fmt: skip


@printed
def seconds(study: Study) -> Figure:
    """Draw minibatch losses over seconds: steps times what the rule and the gradient cost.

    Conditions that met the same baselines share a panel. Times are what each run measured.

    Raises:
        ValueError: if there is nothing to draw.
    """
    runs = _with_steps(study)
    groups = _alike(study, runs)
    sheet = grid(len(groups), 2.2, single=False if len(groups) > 1 else None)
    handles: dict[str, Any] = {}
    for axes, group in zip(sheet.panels, groups, strict=True):
        handles |= _rules(study, runs, group, axes, "loss", "", timed=True)
        axes.set_xscale("log")
        if len(groups) > 1:
            axes.set_title("; ".join(condition_name(study, one) for one in group))
    log_losses(sheet.panels)
    sheet.label("seconds", f"minibatch loss{unit(study)}")
    plain_log_ticks(sheet.panels[0].xaxis)
    told = "Seconds: inner steps x (rule + gradient) seconds per step, as each run measured them."
    return finish(
        sheet.figure, [*handles.values(), *edge_entries(sheet.panels)],
        [*_head(study, runs), MEDIANS, told, _baselines(handles)],
    )  # fmt: skip


def _with_steps(study: Study) -> pd.DataFrame:
    """Rows of the runs that were evaluated and have a table of losses."""
    runs = notes.evaluated(study)
    runs = runs[runs["run_id"].isin(study.steps["run_id"].astype(str).unique())]
    if runs.empty:
        raise ValueError(f"study {study.name!r} has no table of losses by step")
    return runs


def _head(study: Study, runs: pd.DataFrame) -> list[str]:
    """How many runs are drawn, which are not, and what failed that no panel says."""
    told = [notes.headline(study, runs), notes.missing(study)]
    if runs["condition"].nunique() == 1:
        told.append(notes.learned_failures(study, runs))
    return [*told, notes.baseline_failures(study, runs)]


def _title(study: Study, sheet: Grid, axes: Axes, runs: pd.DataFrame) -> None:
    """Name of a panel's condition; missing seeds and failures of the rule are named."""
    if len(sheet.panels) == 1:
        return
    failed = notes.failures(notes.summaries_of(study, runs))
    told = [
        condition_name(study, runs["condition"].iloc[0]),
        notes.of_seeds(study, runs),
        f"learned: {failed}" if failed else "",
    ]
    wide = int(0.85 * LETTERS * sheet.figure.get_figwidth() / sheet.columns)
    axes.set_title("\n".join(textwrap.fill(text, wide) for text in told if text))


def _legend(runs: pd.DataFrame, shown: dict[str, Look], bands: bool) -> list[Any]:
    """Entries of the learned rule, the baselines and the bands."""
    several = runs.groupby("condition")["seed"].nunique().max() > 1
    handles: list[Any] = [entry("learned rule", color="black", linestyle="-", linewidth=1.8)]
    if several:
        handles.append(entry("each meta-seed", color="black", linestyle="-", linewidth=0.5))
    handles += [
        entry(name, color=look.color, linestyle=look.line, linewidth=1.1)
        for name, look in shown.items()
    ]
    if bands:
        handles.append(Patch(color="0.4", alpha=0.3, linewidth=0, label="quartiles"))
    return handles


def _baselines(shown: Any) -> str:
    """How baselines were tuned, if there are any."""
    if not shown:
        return ""
    return "Baselines: rates tuned for the final loss on validation problems"


def _trained(panels: Sequence[Axes], *steps: int | None) -> list[Line2D]:
    """Mark where training ended; the entry of the legend."""
    some = [step for step in steps if step is not None]
    for axes in panels:
        for step in some:
            axes.axvline(step, color=TRAINED, linewidth=0.9, linestyle=(0, (1, 1)), zorder=0)
    if not some:
        return []
    label = f"trained: {', '.join(map(str, some))} steps"
    return [entry(label, color=TRAINED, linestyle=(0, (1, 1)), linewidth=0.9)]


def _points(
    panels: Sequence[Axes], digitised: published.Digitised, shown: dict[str, Look], last: float
) -> None:
    """The paper's points, in the colours of the rules."""
    look = {"learned": LEARNED_LOOK} | {**looks(digitised.losses), **shown}
    look["learned"] = LEARNED_LOOK
    for axes in panels:
        for rule, losses in digitised.losses.items():
            some = [(t, f) for t, f in zip(digitised.steps, losses, strict=True) if t <= last]
            axes.plot(
                *np.transpose(some), linestyle="none", marker=look[rule].marker, markersize=3.5,
                markeredgecolor=look[rule].color, markerfacecolor="white", markeredgewidth=0.8,
                zorder=5, gid=SHOWN,
            )  # fmt: skip


def _of_paper(study: Study, runs: pd.DataFrame, digitised: published.Digitised) -> str:
    """Where the paper's points are from, and how their problems differ from ours."""
    ours = {study.summaries[one].get("data") for one in runs["run_id"]}
    told = f"Points: the paper's {digitised.what}, means"
    if digitised.data is None or ours == {digitised.data}:
        return told
    here = ", ".join(sorted(str(one) for one in ours if one))
    return f"{told}, on {digitised.data.upper()}; our lines: {here}"


def _alike(study: Study, runs: pd.DataFrame) -> list[list[str]]:
    """Conditions grouped by the baselines that they met."""
    groups: dict[Any, list[str]] = {}
    for condition in runs["condition"].unique():
        steps = study.steps[study.steps["condition"] == condition]
        met = {name: f"{one.middle[-1]:.5g}" for name, (one, _) in courses.others(steps).items()}
        groups.setdefault(str(met) if met else condition, []).append(condition)
    return list(groups.values())


def _rules(
    study: Study,
    runs: pd.DataFrame,
    group: Sequence[str],
    axes: Axes,
    measure: str,
    marker: str,
    timed: bool = False,
) -> dict[str, Any]:
    """Draw the learned rules of several conditions, and the baselines that they met.

    Returns:
        Name -> entry of the legend, which counts failures.
    """
    handles: dict[str, Any] = {}
    look = rule_looks(len(group))
    for place, condition in enumerate(group):
        its = runs[runs["condition"] == condition]
        summaries = notes.summaries_of(study, its)
        steps = study.steps[study.steps["condition"] == condition]
        one = courses.learned(steps, measure)
        name = condition_name(study, condition) or "learned rule"
        if one is not None:
            told = [notes.of_seeds(study, its), _horizon(summaries), _counted(summaries, None)]
            label = f"{name} ({'; '.join(text for text in told if text)})"
            at, each = _clock(summaries, None) if timed else (_same, None)
            courses.draw(axes, one, look[place], True, at, each, marker)
            handles[name] = entry(
                label, color=look[place].color, linestyle=look[place].line, linewidth=1.8
            )
            if timed:
                _end(axes, one, at, look[place])
    first = notes.summaries_of(study, runs[runs["condition"] == group[0]])
    steps = study.steps[study.steps["condition"] == group[0]]
    for name, (one, its_look) in courses.others(steps, measure).items():
        at, _ = _clock(first[:1], name) if timed else (_same, None)
        courses.draw(axes, one, its_look, False, at, None, marker)
        handles[f"baseline {name}"] = entry(
            f"{name} ({_counted(first[:1], name)})", color=its_look.color,
            linestyle=its_look.line, linewidth=1.1,
        )  # fmt: skip
        if timed:
            _end(axes, one, at, its_look)
    return handles


def _horizon(summaries: Sequence[notes.Summary]) -> str:
    """How many steps a rule was trained for, where its runs tell."""
    told = {one.get("trained_horizon") for one in summaries} - {None}
    return f"trained: {notes.many(told)} steps" if told else ""


def _counted(summaries: Sequence[notes.Summary], rule: str | None) -> str:
    """How many problems failed."""
    total = sum(one["n_problems"] for one in summaries)
    return notes.failures(summaries, rule) or f"0 of {total} failed"


def _same(steps: Floats) -> Floats:
    """Steps as they are."""
    return steps


def _clock(
    summaries: Sequence[notes.Summary], rule: str | None
) -> tuple[Callable[[Floats], Floats], list[Callable[[Floats], Floats]]]:
    """From steps to seconds: by the geometric mean over runs, and of every run."""
    found = [one["learned"] if rule is None else one["baselines"][rule] for one in summaries]
    costs = np.array([one["seconds_per_step"] + one["gradient_seconds_per_step"] for one in found])
    mean = float(courses.geometric_mean(costs))
    return (lambda steps: steps * mean), [lambda steps, c=c: steps * c for c in costs]


def _end(axes: Axes, one: courses.Course, at: Callable[[Floats], Floats], look: Look) -> None:
    """Mark where a course ends: others go on for longer."""
    axes.plot(
        at(one.steps)[-1], one.middle[-1], look.marker, color=look.color, markersize=4, zorder=5
    )
