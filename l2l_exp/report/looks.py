"""The look of figures of several rules: lines told apart by colour and dashes, legends, axes."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Final, cast

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from l2l_exp.evaluation import Floats
from l2l_exp.report.style import PRINT, TEXT, looks, rule_looks

LEARNED = "learned"
SHEET: Final[Mapping[str, Any]] = MappingProxyType(
    {**PRINT, "legend.edgecolor": "none", "figure.titlesize": TEXT + 1}
)


def looks_of(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Name -> settings of its line for matplotlib.

    What is called "learned" (also "learned, meta-seed 1") is thick, the first of them black;
    baselines are thin, and look as they do in other figures.
    """
    learned = [name for name in names if name.startswith(LEARNED)]
    others = looks(name for name in names if name not in learned)
    ours = dict(zip(learned, rule_looks(len(learned)), strict=True))
    return {
        name: {
            "color": look.color, "linestyle": look.line, "label": name,
            "linewidth": 1.2 if name in ours else 0.9, "zorder": 3 if name in ours else 2,
        }
        for name, look in {name: (ours | others)[name] for name in names}.items()
    }  # fmt: skip


@contextmanager
def sheet(width: float, height: float) -> Iterator[Figure]:
    """A figure of so many inches, in the style of print."""
    with mpl.rc_context(cast(Any, SHEET)):
        yield Figure(figsize=(width, height), layout="constrained")


def beside(axes: Axes) -> None:
    """Put the legend of a panel to its right."""
    axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1), borderaxespad=0)


def below(figure: Figure, axes: Axes, columns: int) -> None:
    """Put the legend of one panel below all of them."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def zero(axes: Axes) -> None:
    """A thin line where an update changes its sign."""
    axes.axhline(0, color="0.6", linewidth=0.6, zorder=0)


def two_sided(axes: Axes, values: Floats) -> None:
    """A logarithmic axis to both sides of 0, down to the smallest of some values that is not 0."""
    sizes = np.abs(values[values != 0])
    smallest, largest = sizes.min(), sizes.max()
    axes.set_xscale("symlog", linthresh=smallest, linscale=1)
    axes.set_xlim(values.min(), values.max())
    shown = 10.0 ** np.floor(np.log10(largest) - 0.5)
    axes.set_xticks([-shown, 0, shown])
    axes.xaxis.set_major_formatter(FuncFormatter(_power))
    axes.xaxis.set_minor_locator(NullLocator())


def _power(value: float, place: int | None = None) -> str:
    """Plus or minus a power of ten."""
    if value == 0:
        return "0"
    sign = "-" if value < 0 else ""
    return f"${sign}10^{{{round(math.log10(abs(value)))}}}$"
