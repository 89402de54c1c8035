"""Rows of markers at losses, one row per condition."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from l2l_exp.report.aggregation import number
from l2l_exp.report.charts import notes
from l2l_exp.report.charts.canvas import (
    BLOW_UP,
    Grid,
    at_edge,
    limits,
)
from l2l_exp.report.charts.naming import condition_name
from l2l_exp.report.studies import Study
from l2l_exp.report.style import LEARNED_COLOR, LEARNED_LOOK, Look, plain_log_ticks

ROW = 0.36
"""Inches of a condition's row, which is 1 high."""
SEEDS, MEAN, BASELINES, PAIRED = 0.24, 0.0, -0.26, 0.12
"""Heights within a row."""


class Spot(NamedTuple):
    """A marker at a loss."""

    value: float
    height: float
    look: Look
    size: float
    filled: bool = True


class Bar(NamedTuple):
    """A mean over meta-seeds with its interval, on the natural log scale."""

    height: float
    value: float
    low: float
    high: float


def score_of(rule: Any, criterion: str, statistic: str) -> float:
    """A score of summary.json; null is infinite."""
    return number((rule.get(criterion) or {}).get(statistic), math.inf)


def shifts(count: int) -> Any:
    """Small shifts that tell meta-seeds apart."""
    return np.linspace(0.12, -0.12, count) if count > 1 else np.zeros(1)


def strip(axes: Axes, spots: Sequence[Spot], bars: Sequence[Bar] = ()) -> None:
    """Draw a panel's markers and intervals; what lies beyond the axis ends in an arrow."""
    values = np.array([one.value for one in spots])
    some = values[np.isfinite(values) & (values > 0)]
    most = BLOW_UP * float(np.median(some)) if len(some) else 1.0
    low, high = limits(some[some <= most], least=1.5)
    axes.set(xlim=(low, high), xscale="log")
    plain_log_ticks(axes.xaxis)
    axes.grid(axis="y", visible=False)
    for bar in bars:
        with np.errstate(over="ignore"):
            mean, *ends = np.exp([bar.value, bar.low, bar.high])
        axes.hlines(
            bar.height, *np.clip(ends, low, high), color=LEARNED_COLOR, linewidth=1.1, zorder=2
        )
        for end in (one for one in ends if not low <= one <= high):
            _spot(axes, Spot(end, bar.height, LEARNED_LOOK, 0.0), low, high)
        _spot(axes, Spot(mean, bar.height, Look(LEARNED_COLOR, (), "D"), 4.0), low, high)
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


def name_rows(study: Study, runs: pd.DataFrame, sheet: Grid, conditions: Sequence[str]) -> None:
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
