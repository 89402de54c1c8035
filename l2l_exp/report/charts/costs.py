"""The chart of what a step costs."""

import math
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from l2l_exp.report.charts import notes
from l2l_exp.report.charts.canvas import entry, finish, grid, limits, printed
from l2l_exp.report.charts.courses import geometric_mean
from l2l_exp.report.charts.naming import condition_name, number_of, values_of, words
from l2l_exp.report.studies import Study
from l2l_exp.report.style import Look, looks, plain_log_ticks, rule_looks

GRADIENT = "gradient alone"
GRADIENT_LOOK = Look("0.5", (1, 1), ".")


@printed
def overhead(study: Study) -> Figure:
    """Draw seconds per step and bytes of state against the number of parameters, rule by rule.

    Where summaries do not tell the number of parameters, the numeric key that differs between runs
    takes its place, and state is per coordinate.

    Raises:
        ValueError: if no run was evaluated, or nothing tells the sizes of the optimizees.
    """
    runs = notes.evaluated(study)
    sized = all("size" in study.summaries[one] for one in runs["run_id"])
    key = _size_key(study, sized)
    table = _table(study, runs, key)
    learned = list(dict.fromkeys(table.loc[table["kind"] == "learned", "rule"]))
    baselines = list(dict.fromkeys(table.loc[table["kind"] == "baseline", "rule"]))
    look = {("learned", k): v for k, v in zip(learned, rule_looks(len(learned)), strict=True)}
    look |= {("baseline", name): one for name, one in looks(baselines).items()}
    look[("gradient", GRADIENT)] = GRADIENT_LOOK
    sheet = grid(2, 2.2, share=(True, False))
    measures = ("seconds", "bytes" if key is None else "bytes_each")
    for axes, measure in zip(sheet.panels, measures, strict=True):
        _lines(axes, table, measure, look)
        axes.set_xlabel("parameters of the optimizee" if key is None else words(key))
    sheet.panels[0].set_ylabel("seconds per step")
    sheet.panels[1].set_ylabel("bytes of state" + ("" if key is None else " per coordinate"))
    plain_log_ticks(sheet.panels[0].xaxis)
    handles = [
        entry(
            name, color=one.color, linestyle=one.line, marker=one.marker, markersize=3.5,
            linewidth=1.4 if kind == "learned" else 0.9,
        )
        for (kind, name), one in look.items()
    ]  # fmt: skip
    seeds = notes.many(runs.groupby("condition")["seed"].nunique())
    without = sorted(
        {str(one["rule"]) for one in table.to_dict("records") if one["bytes_each"] == 0}
    )
    return finish(sheet.figure, handles, [
        f"Small marks: runs (n = {seeds} per rule and size; baselines and gradient in every one); "
        "lines: geometric means",
        notes.missing(study),
        "Seconds of one problem's step without its gradient, as each run measured them",
        f"No state at all: {', '.join(without)}" if without else "",
    ])  # fmt: skip


def _size_key(study: Study, sized: bool) -> str | None:
    """The key that stands for the number of parameters; None where that is known."""
    if sized:
        return None
    for key in study.keys:
        if not any(math.isnan(number_of(one)) for one in study.runs[key]):
            return key
    raise ValueError(
        f"study {study.name!r} tells neither the number of parameters nor a numeric key"
    )


def _table(study: Study, runs: pd.DataFrame, key: str | None) -> pd.DataFrame:
    """One row per run and rule: kind, rule, x, seconds, bytes, bytes_each; x sorted."""
    sizes = {} if key is None else values_of(study, key)
    names = _rule_names(study, runs, key)
    rows = []
    for condition, run_id in zip(runs["condition"], runs["run_id"], strict=True):
        summary = study.summaries[run_id]
        x = float(summary["size"]) if key is None else number_of(sizes[condition])
        told = [("learned", names[condition], summary["learned"])]
        told += [("baseline", name, one) for name, one in summary["baselines"].items()]
        for kind, rule, one in told:
            each = float(one["state_bytes_per_coordinate"])
            rows.append((kind, rule, x, one["seconds_per_step"], each * x, each))
        gradient = summary["learned"]["gradient_seconds_per_step"]
        rows.append(("gradient", GRADIENT, x, gradient, math.nan, math.nan))
    columns = ["kind", "rule", "x", "seconds", "bytes", "bytes_each"]
    return pd.DataFrame(rows, columns=columns).sort_values("x", kind="stable")


def _rule_names(study: Study, runs: pd.DataFrame, key: str | None) -> dict[str, str]:
    """Condition -> name of its rule: what differs besides the size of the optimizee."""
    keys = [one for one in study.keys if one != key and not one.startswith("optimizee")]
    return {one: condition_name(study, one, keys) or "learned rule" for one in runs["condition"]}


def _lines(axes: Axes, table: pd.DataFrame, measure: str, look: dict[tuple[str, str], Any]) -> None:
    """One panel: a line per rule through the geometric means of its runs."""
    for (kind, name), one in look.items():
        its = table[(table["kind"] == kind) & (table["rule"] == name)]
        its = its[its[measure] > 0]
        if its.empty:
            continue
        axes.plot(
            its["x"], its[measure], one.marker, color=one.color, markersize=1.8, linestyle="none",
            alpha=0.6,
        )  # fmt: skip
        means = its.groupby("x")[measure].apply(lambda v: float(geometric_mean(v.to_numpy(float))))
        axes.plot(
            means.index, means, color=one.color, linestyle=one.line, marker=one.marker,
            markersize=3.2, linewidth=1.4 if kind == "learned" else 0.9,
        )  # fmt: skip
    axes.set(xscale="log", yscale="log")
    axes.set_xlim(*limits(table["x"], least=3))
    plain_log_ticks(axes.yaxis)
