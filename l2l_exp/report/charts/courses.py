"""How losses go over steps: of a learned rule over its meta-seeds, and of baselines."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from l2l_exp.report.charts.canvas import DATA
from l2l_exp.report.style import Look, looks
from l2l_exp.statistics import Floats

TUNED_FOR = "final"
"""The criterion at whose tuned rate baselines are drawn."""
BEYOND = 1e30
"""An infinite end of a band is drawn there, beyond every axis."""
BAND = 0.16
REFERENCE = Look("0.55", (1, 1), "*")


class Course(NamedTuple):
    """Losses of one rule over S steps; infinite where they are not finite.

    Attributes:
        steps: (S,).
        middle: (S,) geometric mean over runs of the median, or mean, over problems.
        low, high: (S,) the same of the quartiles over problems; NaN where means are drawn.
        each: (S,) of every run, in the order of the seeds.
    """

    steps: Floats
    middle: Floats
    low: Floats
    high: Floats
    each: tuple[Floats, ...]


def geometric_mean(values: Floats) -> Floats:
    """Over the last axis; infinite where a value is, 0 where one is not positive."""
    bad = ~np.isfinite(values).all(axis=-1)
    with np.errstate(divide="ignore"):
        logs = np.log(np.maximum(np.where(np.isfinite(values), values, 1.0), 0.0))
    return np.where(bad, np.inf, np.exp(logs.mean(axis=-1)))


def course(rows: pd.DataFrame, measure: str = "loss", statistic: str = "median") -> Course | None:
    """The course of one rule, at the steps that all of its runs have measured; None without any.

    Args:
        rows: of `Study.steps`, of one rule at one learning rate.
        measure: one of `studies.MEASURES`.
        statistic: "median", with quartiles as the band, or "mean", without a band.
    """
    rows = rows[(rows["step"] > 0) & rows[f"{measure}_{statistic}"].notna()]
    runs = list(rows.sort_values("seed", kind="stable")["run_id"].astype(str).unique())
    if not runs:
        return None
    indexed = rows.assign(run_id=rows["run_id"].astype(str)).set_index(["step", "run_id"])

    def table(name: str) -> pd.DataFrame:
        return indexed[f"{measure}_{name}"].unstack()[runs].dropna().astype(np.float64)

    middle = table(statistic)
    steps = middle.index.to_numpy(dtype=np.float64)
    if not len(steps):
        return None
    none = np.full(len(steps), np.nan)
    low, high = (
        (geometric_mean(table(name).to_numpy()) for name in ("low", "high"))
        if statistic == "median"
        else (none, none)
    )
    values = middle.to_numpy()
    return Course(steps, geometric_mean(values), low, high, tuple(values.T))


def learned(steps: pd.DataFrame, *measured: str) -> Course | None:
    """The course of the learned rule, of the steps of one condition."""
    return course(steps[steps["kind"] == "learned"], *measured)


def others(
    steps: pd.DataFrame, *measured: str, references: bool = False
) -> dict[str, tuple[Course, Look]]:
    """Baseline -> its course and look, of the first run: all runs meet the same draws.

    Args:
        steps: of `Study.steps`, of one condition.
        measured: measure and statistic.
        references: whether these are wanted too.
    """
    kinds = ("baseline", "reference") if references else ("baseline",)
    rows = steps[steps["kind"].isin(kinds) & for_final(steps)]
    if rows.empty:
        return {}
    rows = rows[rows["run_id"] == rows.sort_values("seed", kind="stable")["run_id"].iloc[0]]
    kind_of = dict(zip(rows["rule"].astype(str), rows["kind"].astype(str), strict=True))
    found = {name: course(rows[rows["rule"] == name], *measured) for name in kind_of}
    look = looks(name for name, kind in kind_of.items() if kind == "baseline")
    return {
        name: (one, look.get(name, REFERENCE)) for name, one in found.items() if one is not None
    }


def for_final(steps: pd.DataFrame) -> Any:
    """Which rows are at the rate tuned for the final loss, or have no tuned rate."""
    tuned = steps["tuned_for"].astype(str)
    return tuned.isin([one for one in tuned.unique() if not one or TUNED_FOR in one.split("+")])


def draw(
    axes: Axes,
    one: Course,
    look: Look,
    main: bool,
    at: Callable[[Floats], Floats] = lambda steps: steps,
    at_each: Sequence[Callable[[Floats], Floats]] | None = None,
    marker: str = "",
) -> None:
    """Draw a course: runs thin, their geometric mean thick, the band light.

    Args:
        axes: with a log axis of losses to come.
        one: the course.
        look: of the rule.
        main: whether it is a learned rule's.
        at: from steps to the axis.
        at_each: the same of every run; by default as `at`.
        marker: at the points of the line, where these are few.
    """
    x = at(one.steps)
    if not np.isnan(one.low).all():
        low, high = (np.where(np.isfinite(v), v, BEYOND) for v in (one.low, one.high))
        axes.fill_between(x, low, high, color=look.color, alpha=BAND, linewidth=0, zorder=1)
    if len(one.each) > 1:
        for place, values in enumerate(one.each):
            its = x if at_each is None else at_each[place](one.steps)
            axes.plot(
                its, values, color=look.color, linewidth=0.5, alpha=0.7, linestyle=look.line,
                gid=DATA, zorder=3,
            )  # fmt: skip
    axes.plot(
        x, one.middle, color=look.color, linewidth=1.8 if main else 1.1, linestyle=look.line,
        gid=DATA, zorder=4 if main else 2, marker=marker, markersize=2.5,
    )  # fmt: skip
