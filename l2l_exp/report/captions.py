"""Captions of the report's figures."""

import inspect
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from l2l_exp.report import charts, seeds
from l2l_exp.report.sections import Section

SEEDS = "seeds"
"""The figure that every study has."""


def caption(name: str, figure: Figure, section: Section) -> str:
    """Say what a figure shows, of how many, and what its intervals are over.

    What is shown is the figure's own label where its chart has set one (`Figure.set_label`), else
    the first sentence of the chart's docstring.

    Args:
        name: of the chart in the preset.
        figure: drawn.
        section: of its study.
    """
    node = section.study.charts.get(name)
    node = node if isinstance(node, Mapping) else {}
    what = str(figure.get_label() or "") or _first_sentence(name, node) or name.replace("_", " ")
    return f"{what.rstrip('.')}. {_units(section)}"


def _units(section: Section) -> str:
    """n, and the units of intervals, as all charts have them."""
    return (
        f"Of {section.n}. Bands are quartiles over problems; intervals are 95 %, over meta-seeds "
        f"where there are several, else over problems."
    )


def _first_sentence(name: str, node: Mapping[str, Any]) -> str:
    """What the docstring of a chart's function begins with; "" where there is none."""
    target = str(node.get("_target_", "")).rpartition(".")[2]
    chart = seeds.figure if name == SEEDS else getattr(charts, target, None)
    doc = "" if chart is None else inspect.getdoc(chart) or ""
    told = " ".join(doc.split("\n\n")[0].split()).removeprefix("Draw ")
    return told[:1].upper() + told[1:]
