"""The chart of what rules make of pictures: figure 8 of the paper."""

import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from l2l_exp.report.charts import notes
from l2l_exp.report.charts.canvas import finish, grid, printed
from l2l_exp.report.charts.naming import condition_name
from l2l_exp.report.pictures import at_the_end, picture_of
from l2l_exp.report.studies import Study
from l2l_exp.report.style import DOUBLE, TEXT

NAMES = 0.35
"""Inches for the names of rows and a line of text."""
LETTERS = 12
"""Of a line of such a name."""


class Row(NamedTuple):
    """A test problem: the pictures that it is made of, and those of rules after the last step."""

    name: str
    shown: list[dict[str, Any]]


@printed
def pictures(study: Study, problems: int = 1, seed: int | None = None) -> Figure:
    """Draw test problems of every condition: what they are made of, and what each rule makes of it.

    Args:
        study: of pictures, as optimizee=neural_art has them.
        problems: how many of each condition, >= 1.
        seed: which meta-seed's learned rule; None for the first.

    Returns:
        A figure with a row per condition and problem. Pictures of rules are those after the last
        step, with the loss of the training part below.

    Raises:
        ValueError: if the study has no pictures, or none of that meta-seed.
    """
    table = study.extras.get("pictures")
    if table is None:
        raise ValueError(f"study {study.name!r} has no pictures: optimizee=neural_art makes them")
    runs = study.finished[study.finished["run_id"].isin(table["run_id"])]
    seeds = sorted(runs["seed"].unique())
    mine = runs[runs["seed"] == (seeds[0] if seed is None else seed)]
    if mine.empty:
        told = ", ".join(map(str, seeds))
        raise ValueError(
            f"study {study.name!r} has pictures of the meta-seeds {told}, and none of seed={seed}"
        )
    rows = [
        Row(condition_name(study, str(run["condition"])), shown)
        for run in mine.drop_duplicates("condition").to_dict("records")
        for shown in _problems(table[table["run_id"] == run["run_id"]], problems)
    ]
    step = int(table.loc[table["run_id"].isin(mine["run_id"]), "step"].max())
    return finish(_drawn(rows), [], [
        f"n = {problems} test problem{'s' if problems > 1 else ''} each; meta-seed "
        f"{mine['seed'].iloc[0]} of {len(seeds)}",
        f"Below a picture: loss after {step} steps; baselines at the rate tuned for the final loss",
        notes.missing(study),
    ])  # fmt: skip


def _problems(table: pd.DataFrame, count: int) -> list[list[dict[str, Any]]]:
    """The first problems of a run: what each is made of, then every rule after its last step."""
    by_problem = (part for _, part in at_the_end(table).groupby("problem"))
    return [
        [{str(key): value for key, value in one.items()} for one in part.to_dict("records")]
        for part in by_problem
    ][:count]


def _drawn(rows: Sequence[Row]) -> Figure:
    """Rows of pictures, under the names of what they show."""
    columns = max(len(row.shown) for row in rows)
    side = (DOUBLE - NAMES) / columns
    share = (False, False)
    sheet = grid(len(rows) * columns, side + NAMES / 2, columns, share, single=False)
    for place, axes in enumerate(sheet.panels):
        row, column = divmod(place, columns)
        name, shown = rows[row]
        if column >= len(shown):
            axes.remove()
            continue
        _show(axes, shown[column])
        if row == 0:
            axes.set_title(shown[column]["rule"] or shown[column]["reference"])
        if column == 0:
            axes.set_ylabel(textwrap.fill(name.replace("_", " "), LETTERS), fontsize=TEXT)
    return sheet.figure


def _show(axes: Axes, one: dict[str, Any]) -> None:
    """Draw a picture, and its loss below where it is a rule's."""
    axes.imshow(picture_of(one), interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)
    if one["rule"]:
        axes.set_xlabel(f"{one['loss']:.3g}", fontsize=TEXT, labelpad=2)
