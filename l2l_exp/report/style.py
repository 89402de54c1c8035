"""What the figures share: names, colours, ticks."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from matplotlib.axis import Axis
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullLocator

CRITERION_LABELS: Final = MappingProxyType(
    {
        "average": "average over steps",
        "final": "final, training part",
        "held_out": "final, held-out part",
    }
)
LEARNED_COLOR = "black"
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
