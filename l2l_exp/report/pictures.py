"""What rules make of a few problems, rule by rule and step by step: figure and table."""

from collections.abc import Mapping
from typing import Any, cast

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from l2l_exp.comparison import Gallery
from l2l_exp.evaluation import Floats
from l2l_exp.report.style import STYLE

PICTURE, GAP, LINE, BLOCK, LABELS = 0.78, 0.05, 0.14, 0.15, 0.85
"""Inches: side of a picture, between pictures, a line of text, between problems, names of rules."""
COLUMN, ROW = PICTURE + GAP, PICTURE + LINE + GAP
COLUMNS = (
    "run_id", "seed", "rule", "reference", "problem", "step", "loss", "height", "width", "pixels",
)  # fmt: skip


def figure(gallery: Gallery) -> Figure:
    """Draw a few test problems side by side: what they are made of above, every rule below.

    Args:
        gallery: as `comparison.gallery` makes it.

    Returns:
        A figure with a block of columns per problem, one column per step, and one row per rule;
        below each picture stands its loss.
    """
    names, rules = list(gallery.references), list(gallery.rules)
    steps, problems = list(gallery.rules[rules[0]]), len(gallery.references[names[0]])
    block = max(len(steps), len(names)) * COLUMN + BLOCK
    with mpl.rc_context(cast(Any, STYLE)):
        sheet = _Sheet(LABELS + problems * block, (len(rules) + 1) * ROW + 2 * LINE)
        for problem in range(problems):
            left = LABELS + problem * block
            for column, name in enumerate(names):
                sheet.show(gallery.references[name][problem], left + column * COLUMN, LINE)
                sheet.write(name, left + column * COLUMN + PICTURE / 2, LINE - 0.03, fontsize=7)
            for row, rule in enumerate(rules, start=1):
                for column, step in enumerate(steps):
                    x, y = left + column * COLUMN, LINE + row * ROW
                    sheet.show(gallery.rules[rule][step][problem], x, y)
                    told = f"step {step}: {gallery.losses[rule][step][problem]:.3g}"
                    sheet.write(told, x + PICTURE / 2, y + PICTURE + 0.11)
        for row, rule in enumerate(rules, start=1):
            middle = LINE + row * ROW + PICTURE / 2
            sheet.write(rule, LABELS - 0.06, middle, fontsize=8, ha="right", va="center")
        told = "Below each picture: step and loss. Baselines: at the rate tuned for the final loss."
        sheet.write(told, LABELS, (len(rules) + 1) * ROW + 2 * LINE - 0.04, ha="left")
    return sheet.figure


def table(run_id: str, seed: int, gallery: Gallery) -> pd.DataFrame:
    """One row per picture.

    Columns: `run_id`; `seed`, the meta-seed; `rule` that made it, or the name of a `reference`;
    `problem`, its place among the test problems; of a rule's its `step` and `loss`; `height`,
    `width`; `pixels`, bytes of them, rows first, three colours each.
    """
    seen = [
        ("", name, -1, pictures, np.full(len(pictures), np.nan))
        for name, pictures in gallery.references.items()
    ] + [
        (rule, "", step, pictures, gallery.losses[rule][step])
        for rule, by_step in gallery.rules.items()
        for step, pictures in by_step.items()
    ]
    rows = [
        (run_id, seed, rule, name, problem, step, loss, *one.shape[:2], _pixels(one))
        for rule, name, step, pictures, losses in seen
        for problem, (one, loss) in enumerate(zip(pictures, losses, strict=True))
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def at_the_end(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of what problems are made of, and of rules' pictures after the last step."""
    shown: pd.DataFrame = table[(table["step"] == table["step"].max()) | (table["reference"] != "")]
    return shown


def picture_of(row: Mapping[str, Any]) -> Floats:
    """The picture (height, width, 3) of a row of the table, in [0, 1]."""
    pixels = np.frombuffer(row["pixels"], dtype=np.uint8)
    return pixels.reshape(row["height"], row["width"], 3) / 255


def _pixels(picture: Floats) -> bytes:
    """Values in [0, 1] as they are kept in the table."""
    return np.rint(255 * picture).astype(np.uint8).tobytes()


class _Sheet:
    """A figure whose places are inches from its upper left corner.

    Args:
        width: inches.
        height: inches.
    """

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height))

    def show(self, picture: Floats, left: float, top: float) -> None:
        """Draw a picture (height, width, 3), its pixels as they are."""
        low = self.height - top - PICTURE
        axes = self.figure.add_axes(
            (left / self.width, low / self.height, PICTURE / self.width, PICTURE / self.height)
        )
        axes.imshow(picture, interpolation="nearest")
        axes.set_axis_off()

    def write(self, words: str, x: float, y: float, **settings: Any) -> None:
        """Write text; x is its middle and y its base line, unless `settings` say otherwise."""
        style: dict[str, Any] = {"fontsize": 6, "ha": "center"} | settings
        self.figure.text(x / self.width, 1 - y / self.height, words, **style)
