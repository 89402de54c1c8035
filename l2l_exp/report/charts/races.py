"""Charts of learned rules beside the baselines that they met: many steps, and seconds."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from l2l_exp.report.charts import courses, notes
from l2l_exp.report.charts.canvas import (
    edge_entries,
    finish,
    grid,
    log_losses,
    look_entry,
    printed,
)
from l2l_exp.report.charts.naming import condition_name, unit
from l2l_exp.report.charts.trajectories import (
    MEDIANS,
    counts,
    how_tuned,
    mark_trained,
    with_steps,
)
from l2l_exp.report.studies import Study
from l2l_exp.report.style import Look, plain_log_ticks, rule_looks
from l2l_exp.statistics import Floats


@printed
def horizons(study: Study, trained_horizon: int | None = None) -> Figure:
    """Draw the loss on the training part and the running mean over many steps, failures counted.

    Conditions that met the same baselines share a panel.

    Args:
        study: with runs that were evaluated.
        trained_horizon: where training ended, in inner steps, unless runs say so themselves.

    Raises:
        ValueError: if there is nothing to draw.
    """
    runs = with_steps(study)
    groups = _alike(study, runs)
    measures = [
        (name, label)
        for name, label in (
            ("train_loss", "training loss"),
            ("running_mean", "mean loss so far"),
        )
        if study.steps[f"{name}_median"].notna().any()
    ]
    sheet = grid(len(groups) * len(measures), 2.1, len(measures), (True, False), single=False)
    handles: dict[str, Any] = {}
    marks: dict[str, Any] = {}
    for row, group in enumerate(groups):
        panels = sheet.panels[row * len(measures) : (row + 1) * len(measures)]
        for axes, (measure, label) in zip(panels, measures, strict=True):
            marker = "." if measure == "train_loss" else ""
            handles |= _rules(study, runs, group, axes, measure, marker)
            axes.set_ylabel(f"{label}{unit(study)}")
            axes.set_xscale("log")
            log_losses([axes])
            axes.set_title(_title(study, groups, group))
        its = notes.summaries_of(study, runs[runs["condition"].isin(group)])
        ends = mark_trained(panels, *_trained_for(its)) or mark_trained(panels, trained_horizon)
        marks |= {str(one.get_label()): one for one in ends}
    for axes in sheet.panels[-len(measures) :]:
        axes.set_xlabel("inner step")
        plain_log_ticks(axes.xaxis)
    return finish(
        sheet.figure, [*handles.values(), *marks.values(), *edge_entries(sheet.panels)],
        [*counts(study, runs), MEDIANS, how_tuned(handles)],
    )  # fmt: skip


@printed
def seconds(study: Study) -> Figure:
    """Draw minibatch losses over seconds: steps times what the rule and the gradient cost.

    Conditions that met the same baselines share a panel. Times are what each run measured.

    Raises:
        ValueError: if there is nothing to draw.
    """
    runs = with_steps(study)
    groups = _alike(study, runs)
    sheet = grid(len(groups), 2.2, single=False if len(groups) > 1 else None)
    handles: dict[str, Any] = {}
    for axes, group in zip(sheet.panels, groups, strict=True):
        handles |= _rules(study, runs, group, axes, "loss", "", timed=True)
        axes.set_xscale("log")
        axes.set_title(_title(study, groups, group))
    log_losses(sheet.panels)
    sheet.label("seconds", f"minibatch loss{unit(study)}")
    plain_log_ticks(sheet.panels[0].xaxis)
    told = "Seconds: inner steps x (rule + gradient) seconds per step, as each run measured them."
    return finish(
        sheet.figure, [*handles.values(), *edge_entries(sheet.panels)],
        [*counts(study, runs), MEDIANS, told, how_tuned(handles)],
    )  # fmt: skip


def _alike(study: Study, runs: pd.DataFrame) -> list[list[str]]:
    """Conditions grouped by the baselines that they met."""
    groups: dict[Any, list[str]] = {}
    for condition in runs["condition"].unique():
        steps = study.steps[study.steps["condition"] == condition]
        met = {name: f"{one.middle[-1]:.5g}" for name, (one, _) in courses.others(steps).items()}
        groups.setdefault(str(met) if met else condition, []).append(condition)
    return list(groups.values())


def _title(study: Study, groups: Sequence[Any], group: Sequence[str]) -> str:
    """Names of a panel's conditions, if there are other panels."""
    return "; ".join(condition_name(study, one) for one in group) if len(groups) > 1 else ""


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
            handles[name] = look_entry(label, look[place], 1.8)
            if timed:
                _end(axes, one, at, look[place])
    first = notes.summaries_of(study, runs[runs["condition"] == group[0]])
    steps = study.steps[study.steps["condition"] == group[0]]
    for name, (one, its_look) in courses.others(steps, measure).items():
        at, _ = _clock(first[:1], name) if timed else (_same, None)
        courses.draw(axes, one, its_look, False, at, None, marker)
        label = f"{name} ({_counted(first[:1], name)})"
        handles[f"baseline {name}"] = look_entry(label, its_look, 1.1)
        if timed:
            _end(axes, one, at, its_look)
    return handles


def _trained_for(summaries: Sequence[notes.Summary]) -> list[int]:
    """The horizons of training that runs tell."""
    return sorted({int(one["trained_horizon"]) for one in summaries if one.get("trained_horizon")})


def _horizon(summaries: Sequence[notes.Summary]) -> str:
    """How many steps a rule was trained for, where its runs tell."""
    told = _trained_for(summaries)
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
    return partial(np.multiply, mean), [partial(np.multiply, cost) for cost in costs]


def _end(axes: Axes, one: courses.Course, at: Callable[[Floats], Floats], look: Look) -> None:
    """Mark where a course ends: others go on for longer."""
    axes.plot(
        at(one.steps)[-1], one.middle[-1], look.marker, color=look.color, markersize=4, zorder=5
    )
