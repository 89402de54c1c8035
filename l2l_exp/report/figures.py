"""Figures: functions of the curves table and of summaries."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from l2l_exp.report.style import CRITERION_LABELS, LEARNED_COLOR, STYLE, looks, plain_log_ticks
from l2l_exp.report.summary import subject

BAND_ALPHA = 0.15
DECADES = 16
"""Losses fall no further on an axis than so many factors of ten: the digits of float64."""


def comparison(table: pd.DataFrame, summary: Mapping[str, Any]) -> Figure:
    """Draw a rule against its baselines: losses over steps, and paired ratios with intervals.

    Args:
        table: as `frames.curves` makes it, of one run.
        summary: as `summary.summarize` makes it, of the same run.

    Returns:
        A figure with a panel of minibatch losses (median and interquartile range over problems),
        one of held-out losses where there are any, and one of paired ratios learned / baseline
        (median, 95 % interval over problems). References are dashed; their steps are evaluations,
        and they are in no ratio.
    """
    colors = _colors(table)
    held_out = summary["learned"]["held_out"] is not None
    columns = 3 if held_out else 2
    with mpl.rc_context(cast(Any, STYLE)):
        figure = Figure(figsize=(4.2 * columns, 4.0), layout="constrained")
        axes = figure.subplots(1, columns)
        _curves(axes[0], table, colors, "loss", "minibatch loss", "final")
        if held_out:
            _curves(axes[1], table, colors, "held_out_loss", "held-out loss", "held_out")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower center", ncols=4 if held_out else 3,
            edgecolor="none", fontsize=8,
        )  # fmt: skip
        _ratios(axes[-1], summary, colors)
        figure.suptitle(_title(summary), fontsize=10)
    return figure


def _title(summary: Mapping[str, Any]) -> str:
    """What was compared, on how many problems; failures are named."""
    shown = {"learned": summary["learned"], **summary["baselines"], **summary["references"]}
    failed = {
        name: sum(count for status, count in one["status"].items() if status != "ok")
        for name, one in shown.items()
    }
    failures = ", ".join(f"{name} {count}" for name, count in failed.items() if count)
    title = (
        f"{subject(summary)}: n = {summary['n_problems']} fresh test problems, meta-seed "
        f"{summary['seed']}, baselines tuned on validation problems"
    )
    return f"{title}\nnot ok: {failures}" if failures else title


def _colors(table: pd.DataFrame) -> dict[str, Any]:
    """Rule -> colour: the learned rule black, baselines colour-blind safe, references grey."""
    learned, baselines, references = (
        list(table.loc[table["kind"] == kind, "rule"].unique())
        for kind in ("learned", "baseline", "reference")
    )
    palette = [look.color for look in looks(baselines).values()]
    greys = map(str, np.linspace(0.35, 0.65, max(2, len(references))).round(2))
    return {
        **dict.fromkeys(learned, LEARNED_COLOR),
        **dict(zip(baselines, palette, strict=False)),
        **dict(zip(references, greys, strict=False)),
    }


def _curves(
    axes: Axes,
    table: pd.DataFrame,
    colors: Mapping[str, Any],
    column: str,
    label: str,
    criterion: str,
) -> None:
    """Median and interquartile range over problems; baselines at their rate for `criterion`."""
    tuned_for = table["tuned_for"].astype(str)
    shown = table[(tuned_for == "") | tuned_for.str.contains(criterion)]
    shown = shown[shown[column].notna() & (shown["step"] > 0)]
    for rule, color in colors.items():
        rows = shown[shown["rule"] == rule]
        bands = rows.groupby("step")[column].quantile(np.array([0.25, 0.5, 0.75])).unstack()
        learned, reference = color == LEARNED_COLOR, (rows["kind"] == "reference").any()
        axes.plot(
            bands.index, bands[0.5], color=color, linewidth=2 if learned else 1.2,
            label=f"{rule} (reference: line search)" if reference else rule,
            linestyle="--" if reference else "-", zorder=3 if learned else 2,
        )  # fmt: skip
        axes.fill_between(
            bands.index, bands[0.25], bands[0.75], color=color, alpha=BAND_ALPHA, linewidth=0
        )
    has_references = (shown["kind"] == "reference").any()
    step = "inner step (references: evaluation)" if has_references else "inner step"
    axes.set(yscale="log", xlabel=step, ylabel=label)
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, high / 10**DECADES), high)
    tuned = CRITERION_LABELS[criterion]
    axes.set_title(f"median and quartiles over problems\nbaselines tuned for: {tuned}", fontsize=8)
    plain_log_ticks(axes.yaxis)


def _ratios(axes: Axes, summary: Mapping[str, Any], colors: Mapping[str, Any]) -> None:
    """Paired ratio to every baseline, per criterion; below 1 the learned rule is better."""
    criteria = [name for name in CRITERION_LABELS if summary["learned"][name] is not None]
    baselines: Sequence[str] = list(summary["baselines"])
    spread = np.linspace(0.3, -0.3, len(baselines)) if len(baselines) != 1 else [0.0]
    for place, criterion in enumerate(reversed(criteria)):
        for baseline, shift in zip(baselines, spread, strict=True):
            interval = summary["comparisons"][baseline][criterion]["log_ratio"]
            with np.errstate(over="ignore"):
                low, middle, high = (np.exp(interval[key]) for key in ("low", "median", "high"))
            height = place + shift
            axes.plot(middle, height, "o", markersize=4, color=colors[baseline])
            axes.hlines(height, low, high, color=colors[baseline], linewidth=1.5)
    axes.axvline(1, color="0.3", linewidth=1)
    axes.set_ylim(-0.5, len(criteria) - 0.5)
    axes.set_yticks(range(len(criteria)), [CRITERION_LABELS[name] for name in reversed(criteria)])
    axes.grid(axis="y", visible=False)
    axes.set(xscale="log", xlabel="learned / baseline (below 1: learned is better)")
    plain_log_ticks(axes.xaxis)
    axes.set_title("median over problems of the paired ratio\nwith its 95 % interval", fontsize=8)
