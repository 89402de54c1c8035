"""What the figures share: names, colours, ticks."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axis import Axis
from matplotlib.colors import to_hex
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullLocator

CRITERION_LABELS: Final = MappingProxyType(
    {
        "average": "average over steps",
        "final": "final, training part",
        "held_out": "final, held-out part",
    }
)
LEARNED_COLOR = "black"


class Look(NamedTuple):
    """How a rule is drawn, in colour and in grey print: colour, dashes of a line, marker."""

    color: str
    dashes: tuple[float, ...]
    marker: str

    @property
    def line(self) -> Any:
        """The line style, as matplotlib takes it."""
        return (0, self.dashes) if self.dashes else "-"


LEARNED_LOOK = Look(LEARNED_COLOR, (), "o")
BASELINE_LOOKS: Final = MappingProxyType(  # seaborn's "colorblind", after Okabe and Ito
    {
        "sgd": Look("#0173b2", (1, 1.2), "s"),
        "momentum": Look("#de8f05", (6, 1.5, 1, 1.5), "^"),
        "nag": Look("#029e73", (4, 1.5), "v"),
        "rmsprop": Look("#d55e00", (3, 1.2, 1, 1.2, 1, 1.2), "P"),
        "adam": Look("#cc78bc", (8, 2), "X"),
        "adam_cosine": Look("#ca9161", (2, 1), "p"),
        "lbfgs": Look("#56b4e9", (6, 1, 2, 1), "h"),
    }
)
SPARE_LOOKS: Final = (
    Look("#8a7f00", (5, 2, 1, 2), "<"),
    Look("#949494", (2, 2), ">"),
    Look("#e56fb8", (1, 2), "8"),
)
"""For baselines of a user's own."""


def looks(names: Iterable[str]) -> dict[str, Look]:
    """Baseline -> look: the same in every figure for those of conf/, in turn for others."""
    found: dict[str, Look] = {}
    others = 0
    for name in names:
        known = BASELINE_LOOKS.get(name)
        found[name] = known or SPARE_LOOKS[others % len(SPARE_LOOKS)]
        others += known is None
    return found


RULE_GREYS: Final = (LEARNED_COLOR, "0.45", "0.65")
RULE_DASHES: Final = ((), (4, 1.5), (1, 1), (6, 1.5, 1, 1.5), (2, 1), (8, 2))
RULE_MARKERS: Final = "os^vDPX<>ph*d8"


def rule_looks(count: int) -> list[Look]:
    """Looks of several learned rules in one panel: black, and then lighter and lighter."""
    shades = [mpl.colormaps["cividis"](share) for share in np.linspace(0.0, 0.75, max(count, 2))]
    colors = [LEARNED_COLOR, *(to_hex(one) for one in shades[1:])]
    if count <= len(RULE_GREYS):  # no hue that might be a baseline's
        colors = list(RULE_GREYS)
    return [
        Look(
            colors[place],
            RULE_DASHES[place % len(RULE_DASHES)],
            RULE_MARKERS[place % len(RULE_MARKERS)],
        )
        for place in range(count)
    ]


STYLE: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "pdf.fonttype": 42,  # text stays text
    }
)
SINGLE, DOUBLE = 3.3, 6.9
"""Inches: width of one and of two columns of a paper."""
TEXT = 7.0
"""Points: the smallest text at these widths."""
PRINT: Final[Mapping[str, Any]] = MappingProxyType(
    {
        **STYLE,
        "font.size": TEXT,
        "axes.titlesize": TEXT,
        "axes.labelsize": TEXT + 0.5,
        "legend.fontsize": TEXT,
        "axes.linewidth": 0.6,
        "lines.linewidth": 1.0,
        "hatch.linewidth": 0.5,
        "figure.dpi": 200,
    }
)


def plain_log_ticks(axis: Axis) -> None:
    """Few ticks on a log axis, as plain numbers: round values, fewer per decade on long axes."""
    low, high = axis.get_view_interval()
    if not 0 < low < high < np.inf:  # nothing finite to show
        getattr(axis.axes, f"set_{axis.axis_name}lim")(0.1, 10)  # type: ignore[attr-defined]
        return
    decades = np.log10(high) - np.log10(low)
    if decades < 0.5:  # nearly linear
        axis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    else:
        count = 5 if 6 < decades < 100 else 8  # long numbers; beyond, 5 may lie past 1e308
        axis.set_major_locator(LogLocator(subs=_per_decade(decades), numticks=count))
    axis.set_major_formatter(FormatStrFormatter("%g"))
    axis.set_minor_locator(NullLocator())


def _per_decade(decades: float) -> tuple[float, ...]:
    """Where ticks stand in each decade of an axis of so many."""
    if decades < 0.8:
        return (1, 1.5, 2, 3, 4, 5, 6, 8)
    if decades < 1.8:
        return (1, 2, 3, 5)
    return (1, 3) if decades < 3.2 else (1,)
