"""The look of figures of several rules: lines told apart by colour and dashes, legends, axes."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from l2l_exp.evaluation import Floats
from l2l_exp.report.style import LEARNED_COLOR, STYLE

DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (5, 1, 1, 1)), (0, (3, 1, 1, 1, 1, 1)))
GREYS = (LEARNED_COLOR, "0.42", "0.66")
LEARNED = "learned"


def looks_of(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Name -> settings of its line for matplotlib.

    What is called "learned" (also "learned, meta-seed 1") is black or grey and thick, anything
    else thin and of a colour that the colour-blind can tell from the others.
    """
    learned = [name for name in names if name.startswith(LEARNED)]
    others = [name for name in names if name not in learned]
    palette = sns.color_palette("colorblind", max(1, len(others)))
    looks = {}
    for place, name in enumerate(learned):
        color, dashes = GREYS[place % len(GREYS)], DASHES[place % len(DASHES)]
        looks[name] = {"color": color, "linestyle": dashes, "linewidth": 1.4, "zorder": 3}
    for place, name in enumerate(others):
        dashes = DASHES[(place + bool(learned)) % len(DASHES)]
        looks[name] = {"color": palette[place], "linestyle": dashes, "linewidth": 1.1, "zorder": 2}
    return {name: looks[name] | {"label": name} for name in names}


@contextmanager
def sheet(width: float, height: float) -> Iterator[Figure]:
    """A figure of so many inches, in the style of all figures."""
    with mpl.rc_context(cast(Any, STYLE)):
        yield Figure(figsize=(width, height), layout="constrained")


def beside(axes: Axes) -> None:
    """Put the legend of a panel to its right."""
    axes.legend(
        loc="upper left", bbox_to_anchor=(1.02, 1), borderaxespad=0, edgecolor="none", fontsize=8
    )


def below(figure: Figure, axes: Axes, columns: int) -> None:
    """Put the legend of one panel below all of them."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, edgecolor="none", fontsize=8
    )


def zero(axes: Axes) -> None:
    """A thin line where an update changes its sign."""
    axes.axhline(0, color="0.6", linewidth=0.6, zorder=0)


def two_sided(axes: Axes, values: Floats) -> None:
    """A logarithmic axis to both sides of 0, down to the smallest of some values that is not 0."""
    sizes = np.abs(values[values != 0])
    smallest, largest = sizes.min(), sizes.max()
    axes.set_xscale("symlog", linthresh=smallest, linscale=1)
    axes.set_xlim(values.min(), values.max())
    decades = np.arange(np.floor(np.log10(largest)), np.log10(smallest), -1)
    shown = 10.0 ** decades[:: max(1, math.ceil(len(decades) / 2))]
    axes.set_xticks([*-shown, 0, *shown[::-1]])
    axes.xaxis.set_major_formatter(FuncFormatter(_power))
    axes.xaxis.set_minor_locator(NullLocator())


def _power(value: float, place: int | None = None) -> str:
    """Plus or minus a power of ten."""
    if value == 0:
        return "0"
    sign = "-" if value < 0 else ""
    return f"${sign}10^{{{round(math.log10(abs(value)))}}}$"
