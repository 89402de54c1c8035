"""Scores of every meta-seed against a number: points, their mean, its interval."""

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from l2l_exp.report.charts.canvas import (
    BLOW_UP,
    DECADES,
    at_edge,
)
from l2l_exp.report.style import LEARNED_COLOR, plain_log_ticks
from l2l_exp.statistics import Floats, seeds_interval

RATIO = "learned / best baseline, test"
OVER_SEEDS = (
    "Circles: every meta-seed (median over problems); diamonds: geometric mean over meta-seeds "
    "with its Student-t 95 % interval over seeds"
)


def ratio_rows(rows: pd.DataFrame, criterion: str) -> pd.DataFrame:
    """Rows of one criterion that have a ratio, as `value` on the log scale."""
    its = rows[(rows["criterion"] == criterion) & rows["log_ratio"].notna()]
    return its.assign(value=its["log_ratio"])


def against(
    axes: Axes, rows: pd.DataFrame, ratio: bool, joined: bool = True, each: str = "x"
) -> None:
    """Every seed as a circle, their mean as a diamond with its interval, joined by a line.

    Args:
        axes: of the panel.
        rows: `condition`, `seed`, `x` and `value`, on the natural log scale.
        ratio: whether values are ratios, which are compared with 1.
        joined: whether means are joined by a line.
        each: column of where each seed stands.
    """
    means = []
    for _, its in rows.sort_values("x", kind="stable").groupby("condition", sort=False):
        if its["seed"].is_unique:  # the same seed again is no repetition
            interval = seeds_interval(its["value"].to_numpy(dtype=np.float64))
            x = float(its["x"].iloc[0])
            means.append((x, interval.estimate, interval.low, interval.high))
    inside = [*rows["value"], *([0.0] if ratio else [])]
    low, high = _around(np.array(inside), np.array([one[2:] for one in means]).ravel())
    axes.set(ylim=(math.exp(low), math.exp(high)), yscale="log")
    plain_log_ticks(axes.yaxis)
    if ratio:
        axes.axhline(1, color="0.3", linewidth=0.8, zorder=0)
    for x, value in zip(rows[each], rows["value"], strict=True):
        mark(axes, x, value, low, high, "o", 3.2, fillstyle="none")
    shown = [(x, math.exp(value)) for x, value, *_ in means if low <= value <= high]
    if shown and joined:
        axes.plot(*np.transpose(shown), color=LEARNED_COLOR, linewidth=1.2, zorder=2)
    for x, value, bottom, top in means:
        mark(axes, x, value, low, high, "D", 3.6)
        if not math.isnan(bottom):
            ends = np.exp(np.clip([bottom, top], low, high))
            axes.vlines(x, *ends, color=LEARNED_COLOR, linewidth=0.9, zorder=2)
            for bound in (one for one in (bottom, top) if not low <= one <= high):
                mark(axes, x, bound, low, high, "", 0.0)


def _around(values: Floats, bounds: Floats) -> tuple[float, float]:
    """Ends of a log axis: values within reach, and as much again of the bounds."""
    some = values[np.isfinite(values)]
    some = some[some <= np.median(some) + math.log(BLOW_UP)] if len(some) else some
    some = some[some >= some.max() - DECADES * math.log(10)] if len(some) else some
    low, high = (some.min(), some.max()) if len(some) else (0.0, 0.0)
    reach = max(high - low, 0.1)
    near = bounds[np.isfinite(bounds)]
    low = max(low - reach, min(low, near.min(initial=low)))
    high = min(high + reach, max(high, near.max(initial=high)))
    pad = max(0.06 * (high - low), 0.03)
    return float(low - pad), float(high + pad)


def mark(
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
