"""Figures at print size: their panels, the edges of log axes, legend and note."""

import functools
import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, ParamSpec, cast

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from l2l_exp.report.style import DOUBLE, PRINT, SINGLE, TEXT, Look, plain_log_ticks

P = ParamSpec("P")

LETTERS = 18.5
"""Letters of that size in an inch, about."""
MOST_COLUMNS = 3
LINE = 0.125
"""Inches of a line of text."""
DECADES, BLOW_UP = 16, 30.0
"""Losses reach from BLOW_UP times where they began (ten times is called diverged) down so many
factors of ten; what lies beyond ends in an arrow at the edge."""
SMALLEST = 1e-200
"""What lies below, or above its inverse, is beyond every axis."""
FLATTENED = 3.0
"""How much longer than most panels' own axes a shared one may be, on the log scale."""
DATA, SHOWN = "data", "shown"
"""Mark lines whose points count for the limits; the former end in arrows beyond them."""


def printed(chart: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw a chart in the style of print; matplotlib's settings are left as they were."""

    @functools.wraps(chart)
    def drawn(*arguments: P.args, **options: P.kwargs) -> Figure:
        with mpl.rc_context(cast(Any, PRINT)):
            return chart(*arguments, **options)

    return drawn


class Grid(NamedTuple):
    """Panels of a figure, row by row."""

    figure: Figure
    panels: list[Axes]
    columns: int

    def label(self, x: str, y: str) -> None:
        """Name the axes: y on the left, x where no panel lies below."""
        for place, axes in enumerate(self.panels):
            if place % self.columns == 0:
                axes.set_ylabel(y)
            if place + self.columns >= len(self.panels):
                axes.set_xlabel(x)
                axes.tick_params(labelbottom=True)


def grid(
    count: int,
    height: float = 1.7,
    columns: int | None = None,
    share: tuple[bool, bool] = (True, True),
    single: bool | None = None,
) -> Grid:
    """An empty figure with panels.

    Args:
        count: of the panels, >= 1.
        height: inches of one.
        columns: of panels; by default up to three, four panels in two rows.
        share: whether the panels share the x axis, and the y axis.
        single: whether the figure is one column wide; by default if it has one panel.
    """
    columns = columns or (2 if count == 4 else min(count, MOST_COLUMNS))
    rows = math.ceil(count / columns)
    single = count == 1 if single is None else single
    size = (SINGLE if single else DOUBLE, rows * height + 0.1)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, sharex=share[0], sharey=share[1], squeeze=False).ravel()
    for unused in axes[count:]:
        unused.remove()
    for one in axes[:count]:
        one.tick_params(labelsize=TEXT, width=0.6, length=2.5)
        one.grid(True, linewidth=0.4, alpha=0.3)
    return Grid(figure, list(axes[:count]), columns)


def finish(figure: Figure, handles: Sequence[Any], note: Iterable[str]) -> Figure:
    """Add the legend below and the note above: what is drawn, of how many, and what is missing."""
    letters = int(LETTERS * figure.get_figwidth())
    told = " ".join(text if text.endswith(".") else f"{text}." for text in note if text)
    lines = textwrap.wrap(told, letters, break_on_hyphens=False)
    height = LINE * (len(lines) + _title_lines(figure))
    if handles:
        columns = _columns([len(str(one.get_label())) for one in handles], letters)
        height += LINE * math.ceil(len(handles) / columns) + 0.1
        figure.legend(
            handles=handles, loc="outside lower center", ncols=columns, frameon=False,
            fontsize=TEXT, handlelength=2.4, columnspacing=1.2, borderpad=0.2, labelspacing=0.3,
        )  # fmt: skip
    figure.set_figheight(figure.get_figheight() + height)
    figure.suptitle("\n".join(lines), fontsize=TEXT, x=0.01, ha="left")
    return figure


def _title_lines(figure: Figure) -> int:
    """Lines of text above panels, over all rows of panels."""
    rows: dict[int, int] = {}
    for axes in figure.axes:
        place = axes.get_subplotspec()
        if place is not None and axes.get_title():
            row = place.rowspan.start
            rows[row] = max(rows.get(row, 0), 1 + axes.get_title().count("\n"))
    return sum(rows.values())


def _columns(lengths: Sequence[int], letters: int) -> int:
    """Most columns of a legend, which is filled column by column."""
    for columns in range(len(lengths), 1, -1):
        widest = [max(part) + 9 for part in np.array_split(lengths, columns)]
        if sum(widest) <= letters:
            return columns
    return 1


def entry(label: str, **settings: Any) -> Line2D:
    """An entry of a legend."""
    return Line2D([], [], label=label, **{"linestyle": "none", **settings})


def look_entry(label: str, look: Look, line: float = 0.0, marker: float = 0.0) -> Line2D:
    """An entry of a rule: a line of some width, a marker of some size, or both."""
    return entry(
        label, color=look.color, linestyle=look.line if line else "none", linewidth=line or 1.0,
        marker=look.marker if marker else "", markersize=marker or 1.0,
    )  # fmt: skip


def edge_entries(panels: Iterable[Axes]) -> list[Line2D]:
    """What the arrows mean, as far as some are drawn."""
    drawn = {
        line.get_marker() for axes in panels for line in axes.lines if line.get_gid() == "edge"
    }
    meant = {
        "^": "beyond the axis, or not finite", ">": "beyond the axis, or not finite",
        "v": "beyond the axis, or zero", "<": "beyond the axis, or zero",
    }  # fmt: skip
    return [
        entry(text, marker=marker, color="0.4", markersize=4)
        for marker, text in meant.items()
        if marker in drawn
    ]


def limits(
    values: Iterable[float], decades: float = DECADES, least: float = 1.2
) -> tuple[float, float]:
    """Ends of a log axis that holds what is finite and positive of some values.

    Args:
        values: any.
        decades: that the axis reaches down at most.
        least: ratio of the ends.
    """
    some = np.asarray(list(values), dtype=np.float64)
    some = some[(some > SMALLEST) & (some < 1 / SMALLEST)]
    if not len(some):
        return 0.1, 10.0
    low, high = math.log(max(some.min(), some.max() / 10**decades)), math.log(some.max())
    pad = max(0.04 * (high - low), (math.log(least) - (high - low)) / 2, 0.0)
    return math.exp(low - pad), math.exp(high + pad)


def log_losses(panels: Sequence[Axes]) -> None:
    """Give panels one log axis of losses, and arrows where a line leaves it.

    Lines count that were drawn with `gid` DATA or SHOWN.
    """
    low, high = _loss_limits(panels)
    for axes in panels:
        axes.set_ylim(low, high)  # before the scale, which else looks for limits itself
        axes.set_yscale("log", nonpositive="mask")
        plain_log_ticks(axes.yaxis)
        _hold_all_steps(axes)
        for line in [line for line in axes.lines if line.get_gid() == DATA]:
            _arrows(axes, line, low, high)


def _hold_all_steps(axes: Axes) -> None:
    """Make room for all x: matplotlib forgets those whose y is not finite."""
    found = [one.get_xdata() for one in axes.lines if one.get_gid() in (DATA, SHOWN)]
    values = np.concatenate([np.asarray(x, dtype=np.float64) for x in found] or [np.ones(1)])
    if axes.get_xscale() == "log":
        axes.set_xlim(*limits(values))
    else:
        pad = 0.03 * (np.ptp(values) or 1.0)
        axes.set_xlim(values.min() - pad, values.max() + pad)


def log_losses_alike(sheet: Grid) -> str:
    """The same for a sheet whose panels share one axis of losses, unless that would flatten most.

    Returns:
        What is to be said of it, "" if all share one.
    """
    each = [math.log(high / low) for low, high in (_loss_limits([one]) for one in sheet.panels)]
    low, high = _loss_limits(sheet.panels)
    if math.log(high / low) > FLATTENED * sorted(each)[len(each) // 2]:
        for axes in sheet.panels:
            log_losses([axes])
        return "The axes of losses differ between panels"
    log_losses(sheet.panels)
    for place, axes in enumerate(sheet.panels):
        axes.tick_params(labelleft=place % sheet.columns == 0)
    return ""


def _loss_limits(panels: Sequence[Axes]) -> tuple[float, float]:
    """Ends of an axis of losses."""
    lines = [line for axes in panels for line in axes.lines if line.get_gid() in (DATA, SHOWN)]
    values = [np.asarray(line.get_ydata(), dtype=np.float64) for line in lines]
    starts = [v[np.isfinite(v) & (v > 0)][:1] for v in values]
    firsts = [float(start[0]) for start in starts if len(start)]
    first = float(np.median(firsts)) if firsts else 1.0
    low, high = limits(np.concatenate([v[v <= BLOW_UP * first] for v in values] or [np.ones(1)]))
    return low, high


def _arrows(axes: Axes, line: Line2D, low: float, high: float) -> None:
    """Where a line leaves the axis, or where a point lies beyond it: an arrow at the edge."""
    x, y = (np.asarray(v, dtype=np.float64) for v in (line.get_xdata(), line.get_ydata()))
    for outside, marker, edge in ((~(y <= high), "^", 1.0), (y < low, "v", 0.0)):
        if line.get_marker() in ("", "None", None):
            outside = outside & ~np.concatenate([[False], outside[:-1]])
        for place in np.flatnonzero(outside):
            at_edge(axes, x[place], edge, marker, line.get_color(), across=True)


def at_edge(
    axes: Axes, place: float, edge: float, marker: str, color: Any, across: bool, size: float = 4.5
) -> None:
    """An arrow at an edge of a panel.

    Args:
        axes: the panel.
        place: along the edge, in the units of the axis.
        edge: 0 or 1, which end of the other axis.
        marker: of matplotlib.
        color: of the arrow.
        across: whether the edge is a horizontal one.
        size: points.
    """
    x, y = (place, edge) if across else (edge, place)
    transform = axes.get_xaxis_transform() if across else axes.get_yaxis_transform()
    axes.plot(
        x, y, marker, color=color, markersize=size, markeredgewidth=0, transform=transform,
        clip_on=False, gid="edge", zorder=6, scalex=False, scaley=False,
    )  # fmt: skip


def name_ticks(axes: Axes, names: Sequence[str], sheet: Grid) -> None:
    """Name the places 0, 1, ... of an axis; aslant where the names need it."""
    room = LETTERS * 0.75 * sheet.figure.get_figwidth() / sheet.columns / max(len(names), 1)
    aslant = max(map(len, names), default=0) + 1 > room
    settings: Any = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if aslant else {}
    axes.set_xticks(range(len(names)), names, **settings)
    axes.set_xlim(-0.5, len(names) - 0.5)
