"""The figure of runs over several meta-seeds; their rows and table by the same names."""

import math
import re
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from l2l_exp.report.aggregation import (
    LABELS,
    VALIDATION,
    aggregate,
    as_text,
    baselines_of,
    log,
    rows_of,
)
from l2l_exp.report.style import LEARNED_COLOR, STYLE, plain_log_ticks

__all__ = ["aggregate", "as_text", "figure", "rows_of"]

RATIO = "learned / best baseline"
LARGEST_LOG = 690.0
"""What lies beyond is drawn as infinite."""
SEEDS_PLACE, SEEDS_SPREAD, MEAN_PLACE = 0.12, 0.24, -0.32
"""Heights within a condition's row, which is 1 high."""
MOST_SEEDS_TOLD = 10


class Look(NamedTuple):
    """How a mark is drawn."""

    color: str
    line: float
    marker: str
    size: float
    layer: float


class Mark(NamedTuple):
    """A point with its interval, on the natural log scale; NaN where there is none."""

    place: float
    value: float
    low: float
    high: float


SEED_LOOK = Look("0.5", 1.0, "o", 3.0, 2.0)
MEAN_LOOK = Look(LEARNED_COLOR, 2.4, "D", 5.0, 3.0)


def figure(rows: pd.DataFrame, table: pd.DataFrame, ratio: str = RATIO) -> Figure:
    """Draw every meta-seed as a point with its own interval, and beneath them their mean.

    Args:
        rows: one row or more, as `rows_of` makes them.
        table: as `aggregate` makes it of these rows.
        ratio: what the log ratios are of.

    Returns:
        A figure with a panel for each criterion and a row for each condition. The axis is the ratio
        learned / best baseline, or the loss where no run has a baseline. What lies beyond the axis
        ends in an arrow at its edge.
    """
    criteria = [name for name in LABELS if (table["criterion"] == name).any()]
    conditions = list(table["condition"].unique())
    labels = [_label(table[table["condition"] == name]) for name in conditions]
    with mpl.rc_context(cast(Any, STYLE)):
        drawn = Figure(figsize=_size(table, criteria, labels), layout="constrained")
        panels = drawn.subplots(1, len(criteria), sharey=True, squeeze=False)[0]
        for axes, name in zip(panels, criteria, strict=True):
            ours, means = (each[each["criterion"] == name] for each in (rows, table))
            _panel(axes, ours, means, conditions, ratio)
        panels[0].set_ylim(0.5 - len(conditions), 0.5)
        panels[0].set_yticks([-place for place in range(len(conditions))], labels, fontsize=8)
        wide = int(13 * drawn.get_figwidth())
        drawn.suptitle(textwrap.fill(_title(rows, table), wide), fontsize=10)
        drawn.legend(
            handles=_legend(rows, table), loc="outside lower center", frameon=False, fontsize=8,
            ncols=2 if len(criteria) > 1 else 1,
        )  # fmt: skip
    return drawn


def _compares(rows: pd.DataFrame) -> bool:
    """Whether some run has a ratio to a baseline."""
    return bool(rows["log_ratio"].notna().any())


def _panel(
    axes: Axes, rows: pd.DataFrame, table: pd.DataFrame, conditions: Sequence[str], ratio: str
) -> None:
    """One criterion: the seeds and means of every condition."""
    compares = _compares(rows)
    seeds: list[Mark] = []
    means: list[Mark] = []
    for place, condition in enumerate(conditions):
        seeds += _seed_marks(rows[rows["condition"] == condition], -place, compares)
        means += _mean_marks(table[table["condition"] == condition], -place, compares)
    limits = _limits(seeds, means, compares)
    axes.set(xscale="log", xlim=np.exp(limits))
    for marks, look in ((seeds, SEED_LOOK), (means, MEAN_LOOK)):
        for mark in marks:
            _draw(axes, mark, limits, look)
    if compares:
        axes.axvline(1, color="0.3", linewidth=1, zorder=1)
    for place in range(1, len(conditions)):
        axes.axhline(0.5 - place, color="0.85", linewidth=0.8, zorder=0)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    plain_log_ticks(axes.xaxis)
    _name(axes, rows, compares, ratio)


def _name(axes: Axes, rows: pd.DataFrame, compares: bool, ratio: str) -> None:
    """Title and axis label of a panel."""
    criterion = rows["criterion"].iloc[0]
    title = LABELS[criterion]
    if compares and ratio == RATIO:
        title += f"\nbest baseline on validation: {baselines_of(rows)}"
    axes.set_title(title, fontsize=8)
    loss = "validation loss" if criterion == VALIDATION else "median loss over problems"
    axes.set_xlabel(f"{ratio} (below 1: better)" if compares else loss)


def _seed_marks(rows: pd.DataFrame, place: float, compares: bool) -> list[Mark]:
    """One mark for each run, from the top in the order of the seeds."""
    rows = rows.sort_values("seed", kind="stable")
    spread = min(SEEDS_SPREAD, 0.1 * (len(rows) - 1))
    heights = place + SEEDS_PLACE + np.linspace(spread, -spread, len(rows))
    values = rows[["log_ratio", "low", "high"]].to_numpy(dtype=np.float64)
    if not compares:
        values = np.full((len(rows), 3), np.nan)
        values[:, 0] = log(rows["median"])
    return [Mark(height, *one) for height, one in zip(heights, values, strict=True)]


def _mean_marks(table: pd.DataFrame, place: float, compares: bool) -> list[Mark]:
    """The mean over seeds, if there are several."""
    several = table[table["n_seeds"] > 1]
    values = several[["log_ratio", "low", "high"]].to_numpy(dtype=np.float64)
    if not compares:
        values = log(several[["median", "median_low", "median_high"]])
    return [Mark(place + MEAN_PLACE, *one) for one in values]


def _limits(seeds: Sequence[Mark], means: Sequence[Mark], compares: bool) -> tuple[float, float]:
    """Ends of the axis, on the log scale.

    It holds what is finite of the seeds and means, and as much again to either side of the
    intervals over seeds: with two seeds these can be a hundred times wider than all the rest.
    """
    inner = [value for mark in seeds for value in mark[1:]] + [mark.value for mark in means]
    inner = [value for value in inner if abs(value) < LARGEST_LOG]
    if compares or not inner:
        inner.append(0.0)
    low, high = min(inner), max(inner)
    reach = max(high - low, 0.1)
    outer = [value for mark in means for value in (mark.low, mark.high) if not math.isnan(value)]
    ends = max(low - reach, min([low, *outer])), min(high + reach, max([high, *outer]))
    pad = max(0.06 * (ends[1] - ends[0]), 0.03)
    return max(ends[0] - pad, -LARGEST_LOG), min(ends[1] + pad, LARGEST_LOG)


def _draw(axes: Axes, mark: Mark, limits: tuple[float, float], look: Look) -> None:
    """A point and its interval, which end in an arrow where the axis ends before them."""
    if not math.isnan(mark.low) and not math.isnan(mark.high):
        low, high = np.exp(np.clip([mark.low, mark.high], *limits))
        axes.hlines(mark.place, low, high, color=look.color, linewidth=look.line, zorder=look.layer)
        for bound in (mark.low, mark.high):
            if not limits[0] < bound < limits[1]:
                _point(axes, mark.place, bound, limits, look)
    if not math.isnan(mark.value):
        _point(axes, mark.place, mark.value, limits, look)


def _point(axes: Axes, place: float, value: float, limits: tuple[float, float], look: Look) -> None:
    """A marker at a value, or an arrow at the edge beyond which it lies."""
    marker, size = look.marker, look.size
    if not limits[0] < value < limits[1]:
        marker, size = "<" if value <= limits[0] else ">", look.size + 2
    axes.plot(
        np.exp(np.clip(value, *limits)), place, marker, color=look.color, markersize=size,
        markeredgewidth=0, zorder=look.layer + 0.5, clip_on=False,
    )  # fmt: skip


def _size(
    table: pd.DataFrame, criteria: Sequence[str], labels: Sequence[str]
) -> tuple[float, float]:
    """Inches for a panel per criterion, and for a row's seeds and label."""
    lines = [label.split("\n") for label in labels]
    seeds = min(int(table["n_seeds"].max()), 20)
    row = max(0.45, 0.2 + 0.08 * seeds, 0.1 + 0.15 * max(map(len, lines)))
    letters = max(len(line) for label in lines for line in label)
    return 0.5 + 0.065 * letters + 2.9 * len(criteria), 1.5 + row * len(labels)


def _label(table: pd.DataFrame) -> str:
    """Name of one condition with its n; failures are named."""
    condition = str(table["condition"].iloc[0])
    name = re.sub(r"[ ,]+(?=[\w.@/+~]+=)", "\n", condition)
    counts = f"n = {table['n_seeds'].max()}"
    if table["not_ok"].max():
        counts += f"\nnot ok: {table['not_ok'].max()} of {table['n_problems'].max()}"
    return f"{name}\n{counts}" if name else counts


def _range(values: pd.Series) -> str:
    """ "3", or "2 to 5"."""
    low, high = int(values.min()), int(values.max())
    return str(low) if low == high else f"{low} to {high}"


def _title(rows: pd.DataFrame, table: pd.DataFrame) -> str:
    """How many seeds and problems are drawn."""
    title = f"n = {_range(table['n_seeds'])} meta-seed{'s' if table['n_seeds'].max() > 1 else ''}"
    same = table["seeds"].nunique() == 1 and table["n_seeds"].max() <= MOST_SEEDS_TOLD
    if same:
        title += f" ({table['seeds'].iloc[0]})"
    if table["condition"].nunique() > 1:
        title += " per condition"
    problems = rows.loc[rows["n_problems"] > 0, "n_problems"]
    if len(problems):
        title += f", {_range(problems)} fresh test problems each"
    return title


def _legend(rows: pd.DataFrame, table: pd.DataFrame) -> list[Line2D]:
    """What a thin and a thick line are."""
    seed = "one meta-seed"
    if _compares(rows):
        seed += ": median over problems"
        seed += ", 95 % interval" if rows["low"].notna().any() else ""
    entries = [(SEED_LOOK, seed)]
    drawn = table[table["median_low"].notna()]
    if len(drawn):
        n, methods = _range(drawn["n_seeds"]), " or ".join(drawn["method"].unique())
        entries.append((MEAN_LOOK, f"geometric mean over n = {n} meta-seeds, {methods} 95 %"))
    return [
        Line2D(
            [], [], color=look.color, linewidth=look.line, marker=look.marker,
            markersize=look.size, label=label,
        )
        for look, label in entries
    ]  # fmt: skip
