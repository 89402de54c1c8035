"""The chart of a ratio for every pair of values."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from l2l_exp.report.aggregation import LABELS, aggregate
from l2l_exp.report.charts import notes
from l2l_exp.report.charts.canvas import (
    finish,
    grid,
    printed,
)
from l2l_exp.report.charts.naming import (
    NOT_VARIED,
    condition_name,
    ordered,
    value_name,
    values_of,
    words,
)
from l2l_exp.report.studies import Study
from l2l_exp.report.style import CRITERION_LABELS, TEXT

COLORS = "PuOr_r"
"""Purple below ratio 1, orange above: told apart by the colour-blind."""
LEAST, MOST = math.log(1.25), math.log(10.0)
"""Within these the colours' ends are chosen; ratios beyond have the end's colour."""
WIDEST_ROW = 18
"""Cells that fit side by side at two columns' width."""
CELL = 0.34
BRACKETS = "In brackets: the 95 % interval over meta-seeds includes 1, or there is none"


@printed
def heat_map(study: Study, x: str, y: str) -> Figure:
    """Draw the ratio learned / best baseline for every pair of values, a panel per criterion.

    What runs differ in besides, such as the rule, has a row of panels for each value.

    Cells hold the geometric mean over meta-seeds of the median ratio over problems, and their
    number of seeds; in brackets where the interval over seeds does not exclude 1.

    Args:
        study: with runs that were evaluated against baselines.
        x: key whose values are columns.
        y: key whose values are rows, the first at the bottom.

    Raises:
        ValueError: if there are no ratios.
    """
    runs = notes.evaluated(study)
    table = aggregate(study.criteria[study.criteria["log_ratio"].notna()])
    criteria = [name for name in CRITERION_LABELS if (table["criterion"] == name).any()]
    if not criteria:
        raise ValueError(f"study {study.name!r} has no ratio to a baseline")
    at = {axis: values_of(study, key) for axis, key in (("x", x), ("y", y))}
    columns, rows = (ordered(at[axis].values()) for axis in "xy")
    other = [key for key in study.keys if key not in (x, y)]
    at["row"] = {one: condition_name(study, one, other) for one in at["x"]}
    table = table.assign(**{axis: table["condition"].map(at[axis]) for axis in at})
    size = _reach(table["log_ratio"].to_numpy())
    across = len(criteria) if len(criteria) * len(columns) <= WIDEST_ROW else 1
    height = max(CELL * len(rows) + 0.5, 1.0)
    parts = [(row, name) for row in dict.fromkeys(table["row"]) for name in criteria]
    sheet = grid(len(parts), height, across, single=len(criteria) * len(columns) <= 5)
    lost: set[tuple[str, ...]] = set()
    for axes, (row, name) in zip(sheet.panels, parts, strict=True):
        its = table[(table["criterion"] == name) & (table["row"] == row)]
        lost |= {(row, *cell) for cell in _map(axes, its, columns, rows, size)}
        told = [row, LABELS[name], f"best baseline: {', '.join(_best(its))}"]
        axes.set_title("\n".join(text for text in told if text), fontsize=TEXT)
        axes.set_xticks(range(len(columns)), [value_name(one) for one in columns])
        axes.set_yticks(range(len(rows)), [value_name(one) for one in rows])
    sheet.label(words(x, study.keys), words(y, study.keys))
    colors = ScalarMappable(LogNorm(math.exp(-size), math.exp(size)), mpl.colormaps[COLORS])
    bar = sheet.figure.colorbar(
        colors, ax=sheet.panels, aspect=25, pad=0.01, extend="both" if size == MOST else "neither"
    )
    ticks = [math.exp(share * size) for share in (-1, -0.5, 0, 0.5, 1)]
    bar.set_ticks(ticks, labels=[f"{one:.2g}" for one in ticks])
    bar.minorticks_off()
    bar.ax.tick_params(labelsize=TEXT)
    bar.set_label("ratio")
    told = [
        notes.headline(study, runs), notes.missing(study),
        _lost_cells(lost, x, y), notes.learned_failures(study, runs),
        "Ratio learned / best baseline (below 1: learned is better): median over problems, "
        "geometric mean over meta-seeds", BRACKETS,
    ]  # fmt: skip
    hatched = [Patch(facecolor="white", edgecolor="0.6", hatch="////", label="no run")]
    return finish(sheet.figure, hatched if lost else [], told)


def _best(table: pd.DataFrame) -> list[str]:
    """Names of the best baselines of some cells, each once."""
    names = [one for told in table["best_baseline"] for one in str(told).split(", ")]
    return list(dict.fromkeys(names))


def _reach(logs: Any) -> float:
    """The colours' end, on the log scale."""
    finite = np.abs(logs[np.isfinite(logs)])
    return float(np.clip(finite.max(initial=0.0), LEAST, MOST))


def _map(
    axes: Axes, table: pd.DataFrame, columns: Sequence[str], rows: Sequence[str], size: float
) -> set[tuple[str, str]]:
    """One criterion's cells.

    Returns:
        Those without a run.
    """
    cells = {(one["x"], one["y"]): one for one in table.to_dict("records")}
    colors = mpl.colormaps[COLORS]
    lost = set()
    for i, column in enumerate(columns):
        for j, row in enumerate(rows):
            one = cells.get((column, row))
            corner = (i - 0.5, j - 0.5)
            if one is None:
                lost.add((column, row))
                axes.add_patch(
                    Rectangle(corner, 1, 1, facecolor="white", edgecolor="0.6", hatch="////")
                )
                continue
            share = 0.5 + 0.5 * float(np.clip(one["log_ratio"], -size, size)) / size
            color = (1.0, 1.0, 1.0) if math.isnan(share) else colors(share)
            axes.add_patch(Rectangle(corner, 1, 1, facecolor=color, edgecolor="white"))
            ink = "white" if np.dot(color[:3], (0.299, 0.587, 0.114)) < 0.5 else "black"
            axes.text(i, j, _cell(one), ha="center", va="center", color=ink, fontsize=TEXT)
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(-0.5, len(rows) - 0.5))
    axes.grid(visible=False)
    return lost


def _cell(one: Mapping[Any, Any]) -> str:
    """The ratio, in brackets where it may be 1, and how many seeds it is of."""
    log_ratio = float(one["log_ratio"])
    if math.isnan(log_ratio):  # of runs that are no repetitions of each other
        return f"no mean\nn={one['n_seeds']}"
    ratio = math.exp(min(log_ratio, 700.0))
    told = f"{ratio:.2f}" if 0.0995 <= ratio < 9.995 else f"{ratio:.1g}"
    if math.isinf(log_ratio):
        told = "∞" if log_ratio > 0 else "0"
    excludes = one["high"] < 0 or one["low"] > 0  # false where there is no interval
    return f"{told if excludes else f'({told})'}\nn={one['n_seeds']}"


def _lost_cells(lost: set[tuple[str, ...]], x: str, y: str) -> str:
    """Cells without a run by their values."""
    if not lost:
        return ""
    names = [
        ", ".join(
            [
                *([row] if row else []),
                *(
                    f"{words(key)} {value_name(v)}"
                    for key, v in ((x, i), (y, j))
                    if v != NOT_VARIED
                ),
            ]
        )
        for row, i, j in sorted(lost)
    ]
    more = len(names) - notes.MOST_NAMED
    shown = "; ".join(names[: notes.MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")
    return f"No finished run: {shown}"
