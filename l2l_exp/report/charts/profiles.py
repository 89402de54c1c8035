"""The chart of final losses against a key."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from l2l_exp.report.aggregation import number
from l2l_exp.report.charts import notes
from l2l_exp.report.charts.canvas import (
    DATA,
    SHOWN,
    edge_entries,
    entry,
    finish,
    grid,
    log_losses,
    look_entry,
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
from l2l_exp.report.style import LEARNED_COLOR, LEARNED_LOOK, Look, looks

TRAINED = "0.35"
"""Colour of what marks the architecture trained on."""


@printed
def lines(study: Study, x: str, panels: str, trained_at: float | str | None = None) -> Figure:
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
            at = place.get(str(trained_at), number_of(trained_at))
            axes.axvline(at, color=TRAINED, linestyle=(0, (4, 2)), linewidth=0.9, zorder=0)
            learned = points.loc[(points["rule"] == "learned") & (points["x"] == at), "loss"]
            trained_loss = float(geometric_mean(learned.to_numpy())) if len(learned) else math.nan
    log_losses(sheet.panels)
    if any(math.isnan(number_of(one)) for one in xs):
        name_ticks(sheet.panels[0], [value_name(one) for one in xs], sheet)
    else:
        sheet.panels[0].set_xticks(list(place.values()), xs)
    sheet.label(words(x, study.keys), f"final loss{unit(study)}")
    handles = [
        look_entry("learned rule", LEARNED_LOOK, 1.8, 3),
        entry("each meta-seed", color=LEARNED_COLOR, marker="o", markersize=3, fillstyle="none"),
        *(look_entry(one, look, 0.9, 3.5) for one, look in shown.items()),
    ]
    if trained_at is not None:
        handles.append(entry("trained on", color=TRAINED, linestyle=(0, (4, 2)), linewidth=0.9))
    if math.isfinite(trained_loss) and trained_loss > 0:
        dots: dict[str, Any] = {"color": TRAINED, "linestyle": (0, (1, 2)), "linewidth": 0.9}
        for axes in sheet.panels:
            axes.axhline(trained_loss, zorder=0, **dots)
        handles.append(entry("its loss there", **dots))
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
            spread = [number(final.get(key), math.inf) for key in ("median", "low", "high")]
            rows.append((rule, place[str(condition)], *spread))
    return pd.DataFrame(rows, columns=["rule", "x", "loss", "low", "high"]).sort_values(
        "x", kind="stable"
    )


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
