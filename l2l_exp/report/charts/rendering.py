"""All charts that a study asks for."""

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from matplotlib.figure import Figure

from l2l_exp.report import seeds
from l2l_exp.report.aggregation import aggregate
from l2l_exp.report.charts.coordinates import updates
from l2l_exp.report.charts.costs import overhead
from l2l_exp.report.charts.effort import payoff, training_cost
from l2l_exp.report.charts.final import selection, strips
from l2l_exp.report.charts.gallery import pictures
from l2l_exp.report.charts.maps import heat_map
from l2l_exp.report.charts.profiles import lines
from l2l_exp.report.charts.races import horizons, seconds
from l2l_exp.report.charts.training import tuning, validations
from l2l_exp.report.charts.trajectories import curves
from l2l_exp.report.studies import Study

Chart = Callable[..., Figure]

CHARTS: Final[Mapping[str, Chart]] = MappingProxyType(
    {
        one.__name__: one
        for one in (
            curves, heat_map, horizons, lines, overhead, payoff, pictures, seconds, selection,
            strips, training_cost, tuning, updates, validations,
        )
    }
)  # fmt: skip
"""What a study may ask for, by the last part of the `_target_`."""
PLACE = "l2l_exp.report.charts"
SEEDS = "seeds"
"""Name of the figure that every study gets."""


class Rendered(NamedTuple):
    """What became of a study's charts.

    Attributes:
        figures: name -> figure.
        reasons: name -> why there is none, in one line.
    """

    figures: dict[str, Figure]
    reasons: dict[str, str]


def render(study: Study) -> Rendered:
    """Draw all charts of a study, and the figure over its meta-seeds.

    Args:
        study: whose `charts` are name -> node: a `_target_` in l2l_exp.report.charts, and options.

    Returns:
        The figures, and of charts that cannot be drawn the reasons.

    Raises:
        ValueError: if a node asks for anything else than a chart: nothing of a study, which may be
            someone else's, is ever imported or called.
    """
    asked = check(study.charts)
    figures: dict[str, Figure] = {}
    reasons: dict[str, str] = {}
    for name, (chart, options) in asked.items():
        try:
            inspect.signature(chart).bind(study, **options)
            figures[name] = chart(study, **options)
        except Exception as error:  # one chart must not cost the others
            reasons[name] = _reason(error)
    if study.criteria.empty:
        reasons[SEEDS] = f"study {study.name!r} has no finished run"
    else:
        figures[SEEDS] = seeds.figure(study.criteria, aggregate(study.criteria))
    return Rendered(figures, reasons)


def check(nodes: Mapping[str, Any]) -> dict[str, tuple[Chart, dict[str, Any]]]:
    """The charts that a study's nodes ask for, each with its options.

    Raises:
        ValueError: if a node asks for anything else than a chart.
    """
    return {name: _chart(name, node) for name, node in nodes.items()}


def _chart(name: str, node: Any) -> tuple[Chart, dict[str, Any]]:
    """The chart of a node, and its options."""
    target = node.get("_target_") if isinstance(node, Mapping) else None
    place, _, function = str(target).rpartition(".")
    if place != PLACE or function not in CHARTS:
        raise ValueError(
            f"study.charts.{name}._target_={target} is no chart: it must be {PLACE}.NAME, with "
            f"NAME one of {', '.join(CHARTS)}"
        )
    return CHARTS[function], {key: value for key, value in node.items() if key != "_target_"}


def _reason(error: Exception) -> str:
    """Why there is no chart, in one line."""
    line = " ".join(str(error).split())
    return line if isinstance(error, ValueError) else f"{type(error).__name__}: {line}"
