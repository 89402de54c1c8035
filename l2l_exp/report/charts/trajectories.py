"""The chart of losses over steps."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
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
    log_losses_alike,
    look_entry,
    printed,
)
from l2l_exp.report.charts.naming import condition_name, unit
from l2l_exp.report.studies import Study
from l2l_exp.report.style import LEARNED_LOOK, Look, looks

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
    runs = with_steps(study)
    conditions = list(runs["condition"].unique())
    sheet = grid(len(conditions), share=(True, False))
    shown: dict[str, Look] = {}
    met: dict[str, set[str]] = {}
    for axes, condition in zip(sheet.panels, conditions, strict=True):
        steps = study.steps[study.steps["condition"] == condition]
        learned = courses.learned(steps, "loss", statistic)
        if learned is not None:
            courses.draw(axes, learned, LEARNED_LOOK, main=True)
        others = courses.others(steps, "loss", statistic, references=True)
        for one, look in others.values():
            courses.draw(axes, one, look, main=False)
        met[condition_name(study, condition)] = set(others)
        shown |= {name: look for name, (_, look) in others.items()}
        _title(study, sheet, axes, runs[runs["condition"] == condition])
    last = float(study.steps["step"].max())
    if digitised is not None:
        _points(sheet.panels, digitised, shown, last)
    differ = log_losses_alike(sheet)
    sheet.panels[0].set_xlim(0, 1.02 * last)
    sheet.label("inner step", f"minibatch loss{unit(study)}")
    handles = _legend(runs, shown, bands=statistic == "median")
    handles += mark_trained(sheet.panels, trained_horizon)
    told = [MEDIANS if digitised is None else MEANS, how_tuned(shown), _not_met(met), differ]
    if digitised is not None:
        handles.append(
            entry("paper's points", marker="o", color="0.3", markersize=4, fillstyle="none")
        )
        told.append(_of_paper(study, runs, digitised))
    return finish(sheet.figure, handles + edge_entries(sheet.panels), [*counts(study, runs), *told])


def _not_met(met: Mapping[str, set[str]]) -> str:
    """Baselines that some conditions lack and others have."""
    every = set().union(*met.values())
    told = [
        f"{name} {', '.join(sorted(every - some))}" for name, some in met.items() if every - some
    ]
    return f"Baselines that were not run: {'; '.join(told)}" if told else ""


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
    handles: list[Any] = [look_entry("learned rule", LEARNED_LOOK, 1.8)]
    if several:
        handles.append(look_entry("each meta-seed", LEARNED_LOOK, 0.5))
    handles += [look_entry(name, look, 1.1) for name, look in shown.items()]
    if bands:
        handles.append(Patch(color="0.4", alpha=0.3, linewidth=0, label="quartiles"))
    return handles


def _points(
    panels: Sequence[Axes], digitised: published.Digitised, shown: dict[str, Look], last: float
) -> None:
    """The paper's points, in the colours of the rules."""
    look = looks(digitised.losses) | shown | {"learned": LEARNED_LOOK}
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


def with_steps(study: Study) -> pd.DataFrame:
    """Rows of the runs that were evaluated and have a table of losses."""
    runs = notes.evaluated(study)
    runs = runs[runs["run_id"].isin(study.steps["run_id"].astype(str).unique())]
    if runs.empty:
        raise ValueError(f"study {study.name!r} has no table of losses by step")
    return runs


def counts(study: Study, runs: pd.DataFrame) -> list[str]:
    """How many runs are drawn, which are not, and what failed that no panel says."""
    told = [notes.headline(study, runs), notes.missing(study)]
    if runs["condition"].nunique() == 1:
        told.append(notes.learned_failures(study, runs))
    return [*told, notes.baseline_failures(study, runs)]


def how_tuned(shown: Any) -> str:
    """How baselines were tuned, if there are any."""
    if not shown:
        return ""
    return "Baselines: rates tuned for the final loss on validation problems"


def mark_trained(panels: Sequence[Axes], *steps: int | None) -> list[Line2D]:
    """Mark where training ended; the entry of the legend."""
    some = [step for step in steps if step is not None]
    for axes in panels:
        for step in some:
            axes.axvline(step, color=TRAINED, linewidth=0.9, linestyle=(0, (1, 1)), zorder=0)
    if not some:
        return []
    label = f"trained: {', '.join(map(str, some))} steps"
    return [entry(label, color=TRAINED, linestyle=(0, (1, 1)), linewidth=0.9)]
