"""The report: one page of HTML that needs nothing else, with its figures and tables beside it."""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, cast

import matplotlib as mpl
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from l2l_exp.files import replacing, write_text
from l2l_exp.report.captions import caption
from l2l_exp.report.sections import Preset, Section, not_run, sections
from l2l_exp.report.sources import Collection
from l2l_exp.report.studies import Study

TEMPLATE = "page.html.jinja"
Render = Callable[[Study], tuple[dict[str, Figure], dict[str, str]]]
"""Draws the charts of a study: figures by name, and by name why a chart could not be drawn."""
LARGEST_SVG = 150_000
"""Bytes of a figure that is shown as a drawing; what is larger is shown as pixels."""
DPI = 200
PIXELS_PER_INCH = 128
"""Of the page: figures are made at print size, and share one scale there."""
SETTINGS: Final = MappingProxyType({"svg.hashsalt": "l2l_exp", "svg.fonttype": "path"})
"""The same figure is the same file."""


@dataclass(frozen=True)
class Shown:
    """A figure on the page.

    Attributes:
        name: of its files in figures/, without suffix.
        data: the picture as a data URI.
        width: pixels of the page.
        caption: what is shown, of how many, with what unit.
    """

    name: str
    data: str
    width: int
    caption: str


@dataclass(frozen=True)
class Told:
    """A section with what was made for it."""

    section: Section
    figures: list[Shown]
    undrawn: dict[str, str]
    tables: list[str]


def build(
    collection: Collection,
    presets: Sequence[Preset],
    folder: Path,
    render: Render,
    tell: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write the report of some studies.

    Args:
        collection: studies, and what could not be read.
        presets: of sweeps/, in the order of the report; those that no study is of are named.
        folder: takes index.html, figures/NAME.{pdf,png,svg} and tables/NAME.csv.
        render: draws the charts of a study.
        tell: is told of each section that is done.

    Returns:
        The page.
    """
    told = []
    for section in sections(collection, presets):
        told.append(_told(section, folder, render))
        tell(f"{section.key}: {section.short}")
    page = folder / "index.html"
    missing = not_run(collection, presets)
    write_text(page, _environment().get_template(TEMPLATE).render(
        told=told, problems=list(collection.problems), missing=missing,
    ) + "\n")  # fmt: skip
    return page


def _environment() -> Environment:
    """Where the template lies, beside this file; what is not there is an error."""
    loader = FileSystemLoader(Path(__file__).parent)
    return Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip


def _told(section: Section, folder: Path, render: Render) -> Told:
    """Draw the charts of a section and write its tables."""
    drawn: dict[str, Figure] = {}
    if section.study.finished.empty:
        undrawn = dict.fromkeys(section.study.charts, "no run has finished")
    else:
        try:
            drawn, undrawn = render(section.study)
        except ValueError as error:  # a study that asks for what is no chart
            undrawn = {"charts": str(error)}
    shown = []
    for name, figure in drawn.items():
        file = f"{section.key}-{name}"
        data = save(figure, folder / "figures" / file)
        width = round(figure.get_figwidth() * PIXELS_PER_INCH)
        shown.append(Shown(file, data, width, caption(name, figure, section)))
    tables = {"answer": section.aggregate, "runs": section.study.runs}
    tables |= {"criteria": section.study.criteria}
    files = [_csv(table, f"{section.key}-{name}", folder) for name, table in tables.items()]
    return Told(section, shown, undrawn, files)


def save(figure: Figure, path: Path) -> str:
    """Write a figure as pdf, png and svg.

    Args:
        figure: drawn.
        path: without suffix.

    Returns:
        A data URI for a page: the drawing itself where it is small, else its pixels.
    """
    written: dict[str, bytes] = {}
    undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}
    with mpl.rc_context(cast(Any, SETTINGS)):
        for suffix, metadata in undated.items():
            buffer = io.BytesIO()
            figure.savefig(buffer, format=suffix, dpi=DPI, metadata=cast(Any, metadata))
            written[suffix] = buffer.getvalue()
    for suffix, content in written.items():
        with replacing(path.with_name(f"{path.name}.{suffix}")) as partial:
            partial.write_bytes(content)
    kind, suffix = "svg+xml", "svg"
    if len(written["svg"]) > LARGEST_SVG:
        kind, suffix = "png", "png"
    return f"data:image/{kind};base64,{base64.b64encode(written[suffix]).decode()}"


def _csv(table: pd.DataFrame, name: str, folder: Path) -> str:
    """Write a table; its path from the page."""
    with replacing(folder / "tables" / f"{name}.csv") as partial:
        table.to_csv(partial, index=False)
    return f"tables/{name}.csv"
