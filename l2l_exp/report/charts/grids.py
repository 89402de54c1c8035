"""Charts of one number per condition: maps of ratios, and losses against a key."""

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

from l2l_exp.report.aggregation import LABELS, aggregate, baselines_of
from l2l_exp.report.charts import notes
from l2l_exp.report.charts.canvas import (
    DATA,
    SHOWN,
    TEXT,
    edge_entries,
    entry,
    finish,
    grid,
    log_losses,
    name_ticks,
    printed,
)
from l2l_exp.report.charts.courses import geometric_mean
from l2l_exp.report.charts.naming import (
    NOT_VARIED,
    check_keys,
    number_of,
    ordered,
    unit,
    value_name,
    values_of,
    words,
)
from l2l_exp.report.studies import Study
from l2l_exp.report.style import CRITERION_LABELS, LEARNED_COLOR, Look, looks

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

    Cells hold the geometric mean over meta-seeds of the median ratio over problems, and their
    number of seeds; in brackets where the interval over seeds does not exclude 1.

    Args:
        study: with runs that were evaluated against baselines.
        x: key whose values are columns.
        y: key whose values are rows, the first at the bottom.

    Raises:
        ValueError: if there are no ratios, or runs differ in other keys too.
    """
    check_keys(study, "heat_map", x, y)
    runs = notes.evaluated(study)
    table = aggregate(study.criteria[study.criteria["log_ratio"].notna()])
    criteria = [name for name in CRITERION_LABELS if (table["criterion"] == name).any()]
    if not criteria:
        raise ValueError(f"study {study.name!r} has no ratio to a baseline")
    at = {axis: values_of(study, key) for axis, key in (("x", x), ("y", y))}
    columns, rows = (ordered(at[axis].values()) for axis in "xy")
    table = table.assign(**{axis: table["condition"].map(at[axis]) for axis in "xy"})
    size = _reach(table["log_ratio"].to_numpy())
    across = len(criteria) if len(criteria) * len(columns) <= WIDEST_ROW else 1
    height = max(CELL * len(rows) + 0.5, 1.0)
    sheet = grid(len(criteria), height, across, single=len(criteria) * len(columns) <= 5)
    lost: set[tuple[str, str]] = set()
    for axes, name in zip(sheet.panels, criteria, strict=True):
        lost |= _map(axes, table[table["criterion"] == name], columns, rows, size)
        best = baselines_of(study.criteria[study.criteria["criterion"] == name])
        axes.set_title(f"{LABELS[name]}\nbest baseline: {best}", fontsize=TEXT)
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
    bar.set_label("learned / best baseline")
    told = [
        notes.headline(study, runs), notes.missing(study),
        _lost_cells(lost, x, y), notes.learned_failures(study, runs),
        "Geometric mean over meta-seeds of the median ratio over problems (below 1: the learned "
        "rule is better)", BRACKETS,
    ]  # fmt: skip
    hatched = [Patch(facecolor="white", edgecolor="0.6", hatch="////", label="no run")]
    return finish(sheet.figure, hatched if lost else [], told)


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
            color = colors(share)
            axes.add_patch(Rectangle(corner, 1, 1, facecolor=color, edgecolor="white"))
            ink = "white" if np.dot(color[:3], (0.299, 0.587, 0.114)) < 0.5 else "black"
            axes.text(i, j, _cell(one), ha="center", va="center", color=ink, fontsize=TEXT)
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(-0.5, len(rows) - 0.5))
    axes.grid(visible=False)
    return lost


def _cell(one: Mapping[Any, Any]) -> str:
    """The ratio, in brackets where it may be 1, and how many seeds it is of."""
    ratio = math.exp(min(one["log_ratio"], 700.0)) if not math.isinf(one["log_ratio"]) else None
    if ratio is None:
        told = "∞" if one["log_ratio"] > 0 else "0"
    else:
        told = f"{ratio:.2f}" if 0.1 <= ratio < 10 else f"{ratio:.1g}"
    excludes = one["high"] < 0 or one["low"] > 0  # false where there is no interval
    return f"{told if excludes else f'({told})'}\nn={one['n_seeds']}"


def _lost_cells(lost: set[tuple[str, str]], x: str, y: str) -> str:
    """Cells without a run by their values."""
    if not lost:
        return ""
    names = [
        ", ".join(f"{words(key)} {value_name(v)}" for key, v in ((x, i), (y, j)) if v != NOT_VARIED)
        for i, j in sorted(lost)
    ]
    more = len(names) - notes.MOST_NAMED
    shown = "; ".join(names[: notes.MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")
    return f"No finished run: {shown}"


@printed
def lines(study: Study, x: str, panels: str, trained_at: float | None = None) -> Figure:
    """Draw final losses of the learned rule and of every baseline against a key.

    Args:
        study: with runs that were evaluated.
        x: key on the axis; its values are numbers, or names in their order.
        panels: key with a panel for each value; the first is that of the architecture trained on.
        trained_at: value of `x` that the rule was trained at: a dashed vertical line in the first
            panel; its final loss there goes on through all panels, as in the paper's figure 6.

    Raises:
        ValueError: if there is nothing to draw, or runs differ in other keys too.
    """
    check_keys(study, "lines", x, panels)
    runs = notes.evaluated(study)
    at_x, at_panel = values_of(study, x), values_of(study, panels)
    xs, names = ordered(at_x.values()), ordered(at_panel[one] for one in runs["condition"])
    place = _places(xs)
    sheet = grid(len(names), 1.9)
    shown: dict[str, Look] = {}
    trained_loss = math.nan
    for axes, name in zip(sheet.panels, names, strict=True):
        its = runs[[at_panel[one] == name for one in runs["condition"]]]
        points = _finals(study, its, {c: place[at_x[c]] for c in its["condition"]})
        shown |= _final_lines(axes, points)
        if name != NOT_VARIED:
            axes.set_title(f"{words(panels)}: {value_name(name)}")
        if axes is sheet.panels[0] and trained_at is not None:
            axes.axvline(trained_at, color="0.35", linestyle=(0, (4, 2)), linewidth=0.9, zorder=0)
            learned = points[(points["rule"] == "learned") & (points["x"] == trained_at)]
            trained_loss = (
                float(geometric_mean(learned["loss"].to_numpy())) if len(learned) else math.nan
            )
    log_losses(sheet.panels)
    if any(math.isnan(number_of(one)) for one in xs):
        name_ticks(sheet.panels[0], [value_name(one) for one in xs], sheet)
    else:
        sheet.panels[0].set_xticks(list(place.values()), xs)
    sheet.label(words(x, study.keys), f"final loss{unit(study)}")
    handles: list[Any] = [
        entry(
            "learned rule",
            color=LEARNED_COLOR,
            linestyle="-",
            linewidth=1.8,
            marker="o",
            markersize=3,
        ),
        entry("each meta-seed", color=LEARNED_COLOR, marker="o", markersize=3, fillstyle="none"),
    ] + [
        entry(one, color=look.color, linestyle=look.line, marker=look.marker, markersize=3.5)
        for one, look in shown.items()
    ]
    if trained_at is not None:
        handles.append(entry("trained on", color="0.35", linestyle=(0, (4, 2)), linewidth=0.9))
    if math.isfinite(trained_loss) and trained_loss > 0:
        for axes in sheet.panels:
            axes.axhline(trained_loss, color="0.35", linestyle=(0, (1, 2)), linewidth=0.9, zorder=0)
        handles.append(entry("its loss there", color="0.35", linestyle=(0, (1, 2)), linewidth=0.9))
    told = [
        notes.headline(study, runs), notes.missing(study), notes.learned_failures(study, runs),
        notes.baseline_failures(study, runs),
        "Losses on the training part: medians over problems, bars: their 95 % intervals; learned: "
        "geometric mean over meta-seeds. Baselines: rates tuned for the final loss on validation "
        "problems of each condition",
    ]  # fmt: skip
    return finish(sheet.figure, handles + edge_entries(sheet.panels), told)


def _places(values: Sequence[str]) -> dict[str, float]:
    """Where values stand on an axis: at themselves if they are numbers, else side by side."""
    numbers = [number_of(one) for one in values]
    if any(map(math.isnan, numbers)):
        return {one: float(place) for place, one in enumerate(values)}
    return dict(zip(values, numbers, strict=True))


def _finals(study: Study, runs: pd.DataFrame, place: Mapping[str, float]) -> pd.DataFrame:
    """Final losses: one row per run of the learned rule, and per baseline of a condition."""
    rows = []
    for condition, its in runs.groupby("condition", sort=False):
        summaries = notes.summaries_of(study, its.sort_values("seed", kind="stable"))
        told = [("learned", one["learned"]["final"]) for one in summaries]
        told += [(name, one["final"]) for name, one in summaries[0]["baselines"].items()]
        for rule, final in told:
            loss, low, high = (_loss(final.get(key)) for key in ("median", "low", "high"))
            rows.append((rule, place[str(condition)], loss, low, high))
    return pd.DataFrame(rows, columns=["rule", "x", "loss", "low", "high"]).sort_values(
        "x", kind="stable"
    )


def _loss(value: float | None) -> float:
    """A loss of summary.json; null is infinite."""
    return math.inf if value is None or math.isnan(value) else float(value)


def _final_lines(axes: Axes, points: pd.DataFrame) -> dict[str, Look]:
    """Draw one panel.

    Returns:
        Baseline -> look.
    """
    baselines = looks(dict.fromkeys(points.loc[points["rule"] != "learned", "rule"]))
    for name, look in baselines.items():
        its = points[points["rule"] == name]
        axes.plot(
            its["x"], its["loss"], color=look.color, linestyle=look.line, marker=look.marker,
            markersize=3.5, linewidth=0.9, gid=DATA, zorder=2,
        )  # fmt: skip
        low, high = (its[name].replace(math.inf, 1e30) for name in ("low", "high"))
        axes.vlines(its["x"], low, high, color=look.color, linewidth=0.7, zorder=1)
    learned = points[points["rule"] == "learned"]
    axes.plot(
        learned["x"], learned["loss"], "o", color=LEARNED_COLOR, markersize=3.2, linestyle="none",
        fillstyle="none", markeredgewidth=0.6, gid=DATA, zorder=4,
    )  # fmt: skip
    means = learned.groupby("x")["loss"].apply(lambda one: float(geometric_mean(one.to_numpy())))
    axes.plot(
        means.index, means, "o-", color=LEARNED_COLOR, markersize=3, linewidth=1.8, gid=SHOWN,
        zorder=3,
    )  # fmt: skip
    return baselines
