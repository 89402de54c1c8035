"""The updates of a rule on its own trajectory: their table, and the figure of it."""

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from l2l_exp.microscope import Followed, Proposals
from l2l_exp.report.looks import looks_of, sheet, zero
from l2l_exp.report.style import DOUBLE

FOLLOWED, PROPOSED = "followed", "proposed"
COLUMNS = (
    "run_id", "seed", "what", "rule", "coordinate", "label", "step", "gradient", "seen", "update",
)  # fmt: skip
TIMES = "cividis"
"""Colours of steps: they can be told apart in grey, and by the colour-blind."""
MOST_COORDINATES, MOST_SWEPT = 4, 8
"""Coordinates, and steps of a sweep, that the figure shows; the table has all."""


def table(run_id: str, seed: int, followed: Followed, swept: Proposals) -> pd.DataFrame:
    """One row per rule, coordinate, step and gradient.

    Columns: `run_id`; `seed`, the meta-seed; `what`, "followed" where the gradient was seen,
    "proposed" where it was swept with the history as it was; `rule`, the first of which moved
    theta; `coordinate` and its `label`; `step`; `gradient`; `seen`, the gradient at that step;
    `update` that the rule makes, or would make.
    """
    parts = []
    for rule, updates in followed.updates.items():
        for place, coordinate in enumerate(followed.coordinates):
            gradient = followed.gradients[:, place]
            columns = {"step": np.arange(len(gradient)), "gradient": gradient, "seen": gradient}
            part = pd.DataFrame({**columns, "update": updates[:, place]})
            label = followed.labels[place]
            parts.append(part.assign(what=FOLLOWED, rule=rule, coordinate=coordinate, label=label))
    for rule, updates in swept.updates.items():
        for place, coordinate in enumerate(swept.coordinates):
            count, steps = swept.gradients.shape[1], len(swept.steps)
            columns = {
                "step": np.repeat(swept.steps, count),
                "gradient": np.tile(swept.gradients[place], steps),
                "seen": np.repeat(swept.seen[:, place], count),
            }
            part = pd.DataFrame({**columns, "update": updates[:, place].ravel()})
            label = swept.labels[place]
            parts.append(part.assign(what=PROPOSED, rule=rule, coordinate=coordinate, label=label))
    whole = pd.concat(parts, ignore_index=True).assign(run_id=run_id, seed=seed)
    names, numbers = ["run_id", "what", "rule", "label"], ["gradient", "seen", "update"]
    whole[names] = whole[names].astype("category")
    with np.errstate(over="ignore"):  # beyond single precision: infinite
        whole[numbers] = whole[numbers].astype(np.float32)
    return whole[list(COLUMNS)]


def figure(table: pd.DataFrame) -> Figure:
    """Draw the updates of one run: appendix B of the paper.

    Args:
        table: as `table` makes it, of one run.

    Returns:
        A figure with a column per coordinate. From above: its gradient over the steps; the updates
        of all rules from these gradients, of which the first one's were made; and for the first
        rule, and others with a memory, the update against the gradient at several steps, the
        history as it was. A dot is the gradient that was seen.
    """
    rules = list(dict.fromkeys(table["rule"].astype(str)))
    swept = [rule for rule in rules if rule == rules[0] or _remembers(table, rule)]
    coordinates = list(dict.fromkeys(table["coordinate"]))[:MOST_COORDINATES]
    steps = _spread(sorted(table.loc[table["what"] == PROPOSED, "step"].unique()))
    with sheet(DOUBLE, 0.6 + 1.15 * (2 + len(swept))) as drawn:
        axes = drawn.subplots(2 + len(swept), len(coordinates), squeeze=False)
        for column, coordinate in zip(axes.T, coordinates, strict=True):
            rows = table[table["coordinate"] == coordinate]
            _over_steps(column[0], column[1], rows[rows["what"] == FOLLOWED], rules)
            column[0].set_title(str(rows["label"].iloc[0]), y=1.15)
            for panel, rule in zip(column[2:], swept, strict=True):
                mine = rows[(rows["what"] == PROPOSED) & (rows["rule"] == rule)]
                _against_gradient(panel, mine, steps)
            column[-1].set_xlabel("gradient", loc="left")
        labels = ["gradient", "update", *(f"update of\n{rule}" for rule in swept)]
        for panel, label in zip(axes[:, 0], labels, strict=True):
            panel.set_ylabel(label)
        _legends(axes[1, -1], axes[2, -1], rules, steps)
        seeds = ", ".join(map(str, table["seed"].unique()))
        drawn.suptitle(
            f"updates along the trajectory of {rules[0]} (meta-seed {seeds}), one test problem",
        )
    return drawn


def _spread(steps: Sequence[int]) -> list[int]:
    """Some of the steps, spread evenly over them."""
    places = np.linspace(0, len(steps) - 1, min(MOST_SWEPT, len(steps))).round().astype(int)
    return [int(steps[place]) for place in places]


def _over_steps(above: Axes, below: Axes, rows: pd.DataFrame, rules: Sequence[str]) -> None:
    """Gradient, and updates of all rules, over the steps."""
    looks = looks_of(rules)
    for rule in rules:  # thin lines over the thick one
        mine = rows[rows["rule"] == rule]
        below.plot(mine["step"], mine["update"], **looks[rule] | {"zorder": 2})
    above.plot(mine["step"], mine["gradient"], color="0.3", linewidth=0.9)
    for axes in (above, below):
        zero(axes)
        _few_ticks(axes)
    above.tick_params(labelbottom=False)
    below.set_xlabel("inner step", labelpad=1)


def _against_gradient(axes: Axes, rows: pd.DataFrame, steps: Sequence[int]) -> None:
    """One line per step; a dot where the gradient was that was seen."""
    shade = _shade(steps)
    for step in steps:
        line = rows[rows["step"] == step]
        axes.plot(line["gradient"], line["update"], color=shade(step), linewidth=1.1)
        seen = float(line["seen"].iloc[0])
        if line["gradient"].min() <= seen <= line["gradient"].max():
            there = np.interp(seen, line["gradient"], line["update"])
            axes.plot(seen, there, "o", color=shade(step), markersize=3, markeredgewidth=0)
    zero(axes)
    axes.axvline(0, color="0.6", linewidth=0.6, zorder=0)
    _few_ticks(axes)


def _shade(steps: Sequence[int]) -> Callable[[int], Any]:
    """Step -> colour, dark to bright; the brightest is left out, which is faint on paper."""
    scale = Normalize(min(steps), max(1, max(steps)) * 1.15)
    return lambda step: mpl.colormaps[TIMES](scale(step))


def _few_ticks(axes: Axes) -> None:
    """Few ticks, small numbers in powers of ten."""
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=4, min_n_ticks=3))
        formatter = ScalarFormatter(useMathText=True)
        formatter.set_powerlimits((-2, 3))
        axis.set_major_formatter(formatter)
    axes.tick_params(labelsize=7)
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_offset_text().set_fontsize(7)


def _legends(over_steps: Axes, swept: Axes, rules: Sequence[str], steps: Sequence[int]) -> None:
    """Beside their panels: what the lines of all rules are, and the colours of the steps."""
    looks = looks_of(rules)
    told = {rules[0]: f"{rules[0]}: made", **{name: f"{name}: would be" for name in rules[1:]}}
    lines = [Line2D([], [], **looks[name] | {"label": told[name]}) for name in rules]
    shade = _shade(steps)
    marks = [
        Line2D([], [], color=shade(step), marker="o", markersize=3, label=f"step {step}")
        for step in steps
    ]
    for axes, handles in ((over_steps, lines), (swept, marks)):
        axes.legend(
            handles=handles, loc="upper left", bbox_to_anchor=(1.02, 1.05), borderaxespad=0,
        )  # fmt: skip


def _remembers(table: pd.DataFrame, rule: str) -> bool:
    """Whether a rule's update for a gradient depends on when it comes: for SGD it does not."""
    rows = table[(table["what"] == PROPOSED) & (table["rule"] == rule)]
    spread = rows.groupby(["coordinate", "gradient"])["update"].agg(np.ptp)
    return bool((spread > 0.01 * rows["update"].abs().max()).any())
