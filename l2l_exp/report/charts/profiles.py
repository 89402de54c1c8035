"""The chart of final losses against a key."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

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
from l2l_exp.report.charts.courses import BEYOND, geometric_mean
from l2l_exp.report.charts.naming import (
    NOT_VARIED,
    check_keys,
    condition_name,
    number_of,
    ordered,
    unit,
    value_name,
    values_of,
    words,
)
from l2l_exp.report.studies import Study
from l2l_exp.report.style import LEARNED_COLOR, Look, looks, rule_looks

LEARNED = "learned rule"
"""What the rule is called where there is only one."""
TRAINED = "0.35"
"""Colour of what marks the architecture trained on."""


@printed
def lines(study: Study, x: str, panels: str, trained_at: float | str | None = None) -> Figure:
    """Draw final losses of the learned rules and of every baseline against a key.

    Args:
        study: with runs that were evaluated; they may differ in keys of the rule besides.
        x: key on the axis; its values are numbers, or names in their order.
        panels: key with a panel for each value; the first is that of the architecture trained on.
        trained_at: value of `x` that the rules were trained at: a dashed vertical line in the first
            panel; their final losses there go on through all panels, as in the paper's figure 6.

    Raises:
        ValueError: if there is nothing to draw, or runs differ in other keys too.
    """
    check_keys(study, "lines", x, panels, rules=True)
    runs = notes.evaluated(study)
    at_x, at_panel = values_of(study, x), values_of(study, panels)
    xs, names = ordered(at_x.values()), ordered(at_panel[one] for one in runs["condition"])
    place = _places(xs)
    other = [key for key in study.keys if key not in (x, panels)]
    rule = {c: condition_name(study, c, other) or LEARNED for c in runs["condition"]}
    rules = list(dict.fromkeys(rule.values()))
    look = dict(zip(rules, rule_looks(len(rules)), strict=True))
    sheet = grid(len(names), 1.9)
    shown: dict[str, Look] = {}
    for axes, name in zip(sheet.panels, names, strict=True):
        its = runs[[at_panel[one] == name for one in runs["condition"]]]
        points = _finals(study, its, {c: place[at_x[c]] for c in its["condition"]}, rule)
        shown |= _final_lines(axes, points, look)
        if name != NOT_VARIED:
            axes.set_title(f"{words(panels)}: {value_name(name)}")
        if axes is sheet.panels[0] and trained_at is not None:
            at = place.get(str(trained_at), number_of(trained_at))
            marks = _mark_trained(sheet.panels, at, points, look)
    log_losses(sheet.panels)
    if any(math.isnan(number_of(one)) for one in xs):
        name_ticks(sheet.panels[0], [value_name(one) for one in xs], sheet)
    else:
        sheet.panels[0].set_xticks(list(place.values()), xs)
    sheet.label(words(x, study.keys), f"final loss{unit(study)}")
    handles = [
        *(look_entry(name, one, 1.8, 3) for name, one in look.items()),
        entry("each meta-seed", color=LEARNED_COLOR, marker="o", markersize=3, fillstyle="none"),
        *(look_entry(one, its_look, 0.9, 3.5) for one, its_look in shown.items()),
        *(marks if trained_at is not None else []),
        *edge_entries(sheet.panels),
    ]
    return finish(sheet.figure, handles, [
        notes.headline(study, runs), notes.missing(study), notes.learned_failures(study, runs),
        notes.baseline_failures(study, runs),
        "Losses on the training part: medians over problems, bars: their 95 % intervals; learned: "
        "geometric mean over meta-seeds. Baselines: rates tuned for the final loss on validation "
        "problems of each condition",
    ])  # fmt: skip


def _mark_trained(
    panels: Sequence[Axes], at: float, points: pd.DataFrame, look: Mapping[str, Look]
) -> list[Line2D]:
    """Mark the architecture trained on in the first panel, and in all the loss of each rule there.

    Returns:
        Entries of the legend.
    """
    dashes: dict[str, Any] = {"color": TRAINED, "linestyle": (0, (4, 2)), "linewidth": 0.9}
    dots: dict[str, Any] = {"linestyle": (0, (1, 2)), "linewidth": 0.9}
    panels[0].axvline(at, zorder=0, **dashes)
    entries = [entry("trained on", **dashes)]
    for name, one in look.items():
        losses = points.loc[(points["rule"] == name) & (points["x"] == at), "loss"].to_numpy()
        level = float(geometric_mean(losses)) if len(losses) else math.nan
        if 0 < level < math.inf:
            for axes in panels:
                axes.axhline(level, zorder=0, color=one.color, **dots)
            entries = [*entries[:1], entry("its loss there", color=TRAINED, **dots)]
    return entries


def _places(values: Sequence[str]) -> dict[str, float]:
    """Where values stand on an axis: at themselves if they are numbers, else side by side."""
    numbers = [number_of(one) for one in values]
    if any(map(math.isnan, numbers)):
        return {one: float(place) for place, one in enumerate(values)}
    return dict(zip(values, numbers, strict=True))


def _finals(
    study: Study, runs: pd.DataFrame, place: Mapping[str, float], rule: Mapping[str, str]
) -> pd.DataFrame:
    """Final losses: one row per run of a learned rule, and per baseline and place.

    Args:
        study: the study.
        runs: rows of `study.runs`.
        place: condition -> x.
        rule: condition -> name of its learned rule.
    """
    rows = []
    met: set[float] = set()
    for condition, its in runs.groupby("condition", sort=False):
        summaries = notes.summaries_of(study, its.sort_values("seed", kind="stable"))
        x = place[str(condition)]
        told = [(rule[str(condition)], True, one["learned"]["final"]) for one in summaries]
        if x not in met:  # all rules meet the same baselines there
            told += [(name, False, b["final"]) for name, b in summaries[0]["baselines"].items()]
            met.add(x)
        for name, learned, final in told:
            spread = [number(final.get(key), math.inf) for key in ("median", "low", "high")]
            rows.append((name, learned, x, *spread))
    columns = ["rule", "learned", "x", "loss", "low", "high"]
    return pd.DataFrame(rows, columns=columns).sort_values("x", kind="stable")


def _final_lines(axes: Axes, points: pd.DataFrame, look: Mapping[str, Look]) -> dict[str, Look]:
    """Draw one panel.

    Returns:
        Baseline -> look.
    """
    baselines = looks(dict.fromkeys(points.loc[~points["learned"], "rule"]))
    for name, one in baselines.items():
        its = points[~points["learned"] & (points["rule"] == name)]
        axes.plot(
            its["x"], its["loss"], color=one.color, linestyle=one.line, marker=one.marker,
            markersize=3.5, linewidth=0.9, gid=DATA, zorder=2,
        )  # fmt: skip
        low, high = (its[name].replace(math.inf, BEYOND) for name in ("low", "high"))
        axes.vlines(its["x"], low, high, color=one.color, linewidth=0.7, zorder=1)
    for name, one in look.items():
        its = points[points["learned"] & (points["rule"] == name)]
        axes.plot(
            its["x"], its["loss"], one.marker, color=one.color, markersize=3.2, linestyle="none",
            fillstyle="none", markeredgewidth=0.6, gid=DATA, zorder=4,
        )  # fmt: skip
        means = its.groupby("x")["loss"].apply(lambda v: float(geometric_mean(v.to_numpy())))
        axes.plot(
            means.index, means, one.marker, linestyle=one.line, color=one.color, markersize=3,
            linewidth=1.8, gid=SHOWN, zorder=3,
        )  # fmt: skip
    return baselines
