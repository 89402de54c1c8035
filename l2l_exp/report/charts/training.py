"""Charts of meta-training: how it went, and what it depended on."""

import math
from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from l2l_exp.report.aggregation import LABELS, VALIDATION, number
from l2l_exp.report.charts import notes
from l2l_exp.report.charts.against import OVER_SEEDS, RATIO, against, ratio_rows
from l2l_exp.report.charts.canvas import (
    DATA,
    edge_entries,
    entry,
    finish,
    grid,
    limits,
    log_losses_alike,
    name_ticks,
    printed,
)
from l2l_exp.report.charts.naming import (
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
from l2l_exp.report.style import Look

SEED_LOOKS = (
    Look("black", (), "o"),
    Look("0.35", (4, 1.5), "s"),
    Look("0.55", (1, 1), "^"),
    Look("0.2", (6, 1.5, 1, 1.5), "v"),
    Look("0.45", (2, 1), "D"),
)


@printed
def validations(study: Study) -> Figure:
    """Draw the validation losses of meta-training, one line per meta-seed.

    A single condition is drawn over episodes and over seconds, several over episodes, a panel each.

    Raises:
        ValueError: if no run has validations.
    """
    rows = study.finished
    rows = rows[[bool(study.summaries.get(one, {}).get("validations")) for one in rows["run_id"]]]
    if rows.empty:
        raise ValueError(
            f"study {study.name!r} has no finished run with validations of its training"
        )
    conditions = list(rows["condition"].unique())
    axes_of = [(one, "episode") for one in conditions]
    axes_of += [(one, "seconds") for one in conditions if len(conditions) == 1]
    sheet = grid(len(axes_of), 1.8, share=(False, False), single=False)
    seeds = sorted(rows["seed"].unique())
    look = {seed: SEED_LOOKS[place % len(SEED_LOOKS)] for place, seed in enumerate(seeds)}
    for axes, (condition, over) in zip(sheet.panels, axes_of, strict=True):
        its = rows[rows["condition"] == condition]
        for run_id, seed in zip(its["run_id"], its["seed"], strict=True):
            _validation_line(axes, study.summaries[run_id], look[seed], over)
        label = "episodes of meta-training" if over == "episode" else "seconds of meta-training"
        axes.set_xlabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        if len(conditions) > 1:
            told = [
                condition_name(study, condition),
                _spent(study, its),
                notes.of_seeds(study, its),
            ]
            axes.set_title("\n".join(text for text in told if text))
    differ = log_losses_alike(sheet)
    for axes in sheet.panels[:: sheet.columns]:
        axes.set_ylabel(f"validation loss{unit(study)}")
    handles = [
        entry(f"meta-seed {seed}", color=one.color, linestyle=one.line, linewidth=1.1)
        for seed, one in look.items()
    ]
    handles.append(entry("selected", marker="*", color="0.3", markersize=6))
    several = len({study.summaries[one].get("validated") for one in rows["run_id"]}) > 1
    told = [
        _trained_runs(study, rows), notes.missing(study),
        "Validations differ between conditions: losses cannot be compared" if several else "",
        differ,
    ]  # fmt: skip
    return finish(sheet.figure, handles + edge_entries(sheet.panels), told)


def _criterion(summary: notes.Summary) -> str:
    """What a run was selected by."""
    return str((summary.get("selection") or {}).get("criterion"))


def _trained_runs(study: Study, rows: pd.DataFrame) -> str:
    """How many seeds are drawn, and what they were selected by."""
    counts = rows.groupby("condition", sort=False)["seed"].nunique()
    seeds = sorted(rows["seed"].unique())
    per = " per condition" if len(counts) > 1 else ""
    by = ", ".join(sorted({_criterion(study.summaries[one]) for one in rows["run_id"]}))
    shown = ", ".join(map(str, seeds))
    told = f"{notes.many(counts)} meta-seed{'s' if counts.max() > 1 else ''} ({shown}){per}"
    return f"{told}; mean over validation problems, criterion: {by}"


def _spent(study: Study, rows: pd.DataFrame) -> str:
    """How long the trainings of a condition took."""
    took = [study.summaries[one]["validations"][-1]["seconds"] for one in rows["run_id"]]
    return f"{notes.many(round(one) for one in took)} s"


def _validation_line(axes: Axes, summary: notes.Summary, look: Look, over: str) -> None:
    """One run's validations; the one that was selected is marked."""
    told = summary["validations"]
    x = [one[over] for one in told]
    y = [number(one["loss"], math.inf) for one in told]
    axes.plot(
        x, y, ".", color=look.color, linestyle=look.line, linewidth=1.1, markersize=2.5, gid=DATA,
        zorder=2,
    )  # fmt: skip
    chosen = (summary.get("selection") or {}).get("episode")
    for one, place, loss in zip(told, x, y, strict=True):
        if one["episode"] == chosen and math.isfinite(loss):
            axes.plot(place, loss, "*", color=look.color, markersize=6, zorder=3)


@printed
def tuning(study: Study, x: str) -> Figure:
    """Draw the test ratio against a key of meta-training, the validation loss beside it.

    Args:
        study: with runs that were evaluated, or validated at least.
        x: key on the axis; logarithmic where its values are positive numbers.

    Raises:
        ValueError: if there is nothing to draw, or runs differ in other keys too.
    """
    check_keys(study, "tuning", x)
    at = values_of(study, x)
    names = ordered(at.values())
    numbers = [number_of(one) for one in names]
    logarithmic = all(one > 0 for one in numbers)
    places = dict(zip(names, numbers if logarithmic else range(len(names)), strict=True))
    rows = study.criteria.assign(x=[places[at[one]] for one in study.criteria["condition"]])
    shown = [ratio_rows(rows, name) for name in ("final", "held_out")]
    parts = [(RATIO, one) for one in shown if len(one)]
    chosen = _selected_rows(study, places, at)
    if len(chosen):
        parts.append((f"validation loss{unit(study)}", chosen))
    if not parts:
        raise ValueError(f"study {study.name!r} has neither ratios nor validation losses")
    sheet = grid(len(parts), 1.9, share=(False, False), single=len(parts) == 1)
    for axes, (label, part) in zip(sheet.panels, parts, strict=True):
        against(axes, part, ratio=label == RATIO, joined=logarithmic)
        axes.set_ylabel(label)
        axes.set_title(LABELS[str(part["criterion"].iloc[0])])
        axes.set_xlabel(words(x, study.keys))
        if logarithmic:
            axes.set_xlim(*limits(places.values(), least=2))
            axes.set_xscale("log")
            axes.xaxis.set_minor_locator(NullLocator())
            _number_ticks(axes, list(places.values()))
        else:
            name_ticks(axes, [value_name(one) for one in names], sheet)
    runs = notes.told_of(study)
    tested = runs[[bool(study.summaries[one].get("learned")) for one in runs["run_id"]]]
    told = [
        notes.headline(study, runs), notes.missing(study), notes.learned_failures(study, tested),
        OVER_SEEDS,
    ]  # fmt: skip
    return finish(sheet.figure, edge_entries(sheet.panels), told)


def _number_ticks(axes: Axes, values: Sequence[float]) -> None:
    """A tick at every value, as far as labels do not collide."""
    ends = limits(values)
    least = 0.16 * math.log(ends[1] / ends[0])
    shown: list[float] = []
    for value in sorted(values):
        if not shown or math.log(value / shown[-1]) >= least:
            shown.append(value)
    axes.set_xticks(sorted(values), [f"{one:g}" if one in shown else "" for one in sorted(values)])


def _selected_rows(
    study: Study, places: Mapping[str, float], at: Mapping[str, str]
) -> pd.DataFrame:
    """The score at selection of every run that was trained, as `value` on the log scale."""
    told = []
    for _, run in notes.told_of(study).iterrows():
        condition, run_id = run["condition"], str(run["run_id"])
        selection = study.summaries.get(run_id, {}).get("selection")
        if selection and selection["criterion"] in LABELS:
            loss = number(selection.get("validation"), math.inf)
            value = math.log(loss) if loss > 0 else -math.inf
            told.append((condition, run["seed"], places[at[condition]], value, VALIDATION))
    return pd.DataFrame(told, columns=["condition", "seed", "x", "value", "criterion"])
