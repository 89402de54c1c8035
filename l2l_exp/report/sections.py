"""The sections of the report: what is said of each study, besides its figures."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from l2l_exp.report import aggregation, answers
from l2l_exp.report.answers import Grid
from l2l_exp.report.charts.naming import condition_name
from l2l_exp.report.sources import Collection, Found
from l2l_exp.report.studies import UNREADABLE_RUN, Study, key_of

SMOKE = "smoke"
MOST_COMPLAINTS, LONGEST_CHANGE = 12, 50
LONGEST_KEY = 60
"""Letters of a name of files."""
DONE, FAILED = "FINISHED", "FAILED"


class Preset(NamedTuple):
    """A preset of sweeps/, which may have been run or not."""

    name: str
    title: str
    question: str
    command: str


class Figures(NamedTuple):
    """How many runs there are of each kind."""

    done: int
    failed: int
    unfinished: int  # begun, and running, stopped or unreadable
    missing: int | None  # never begun; None where nobody knows how many there should be

    def __str__(self) -> str:
        """As a reader reads it."""
        total = self.done + self.failed + self.unfinished + (self.missing or 0)
        told = [f"{self.done} of {total} done" if self.missing is not None else f"{self.done} done"]
        rest = {"failed": self.failed, "not finished": self.unfinished, "missing": self.missing}
        told += [f"{count} {name}" for name, count in rest.items() if count]
        if self.missing is None:
            told.append("how many there should be is not known")
        return ", ".join(told)

    @property
    def complete(self) -> bool:
        """Whether every run that there should be is done."""
        return not (self.failed or self.unfinished or self.missing)


@dataclass(frozen=True)
class Section:
    """What is said of one study.

    Attributes:
        key: its name in addresses and files, one per section.
        study: what it tells of.
        title: with what tells it apart from other runs of its preset.
        note: how these runs differ from the shipped results or from an experiment; or "".
        origin: where it was read.
        runs: how many of each kind.
        seconds: spent on all of them.
        commits: of the code that made them.
        complaints: what went wrong, a line each.
        aggregate: as `aggregation.aggregate` makes it.
        sentences, short, grid: the answer in numbers.
        n: how many meta-seeds and problems there are.
    """

    key: str
    study: Study
    title: str
    note: str
    origin: str
    runs: Figures
    seconds: str
    commits: list[str]
    complaints: list[str]
    aggregate: pd.DataFrame
    sentences: list[str]
    short: str
    grid: Grid
    n: str


def sections(collection: Collection, presets: Sequence[Preset]) -> list[Section]:
    """A section for every study, in the order of the presets.

    Of several multiruns with the same command the youngest that has a finished run is told of;
    shipped studies stand beside those that were run here.
    """
    shipped = any(found.shipped for found in collection.found)
    order = [preset.name for preset in presets]
    told: list[Section] = []
    for found in sorted(youngest(collection.found), key=lambda one: _place(one, order)):
        live = shipped and not found.shipped
        told.append(_section(found, live, {one.key for one in told}))
    return told


def not_run(collection: Collection, presets: Iterable[Preset]) -> list[Preset]:
    """Presets that no study is of."""
    known = {found.study.name for found in collection.found}
    return [preset for preset in presets if preset.name not in known]


def youngest(found: Iterable[Found]) -> list[Found]:
    """Of those with the same command the youngest that has a finished run."""
    kept: dict[tuple[str, bool], Found] = {}
    for one in sorted(found, key=lambda one: one.time):
        key = one.study.command, one.shipped
        if len(one.study.finished) or key not in kept:
            kept[key] = one
    return list(kept.values())


def changes(study: Study) -> list[str]:
    """What its command changes in its preset, e.g. ["experiment=digits"]."""
    overrides = study.command.split()[1:]
    return [one for one in overrides if key_of(one) not in ("sweeps", "-m", "--multirun")]


def is_smoke(study: Study) -> bool:
    """Whether its runs are too short to mean anything."""
    return any(key_of(one) == SMOKE for one in changes(study))


def slug(study: Study) -> str:
    """Its name in addresses and files."""
    words = re.sub(r"[^A-Za-z0-9_.]+", "-", " ".join([study.name or "study", *changes(study)]))
    return words[:LONGEST_KEY].strip("-.")


def _place(found: Found, order: Sequence[str]) -> tuple[int, str, bool, str]:
    """Where a study stands in the report."""
    name = found.study.name
    known = order.index(name) if name in order else len(order)
    return known, name, not found.shipped, found.study.command


def _section(found: Found, live: bool, taken: set[str]) -> Section:
    """The section of a study."""
    study = found.study
    table = aggregation.aggregate(study.criteria)
    names = {one: condition_name(study, one) for one in table["condition"].unique()}
    key = f"{slug(study)}-live" if live else slug(study)
    key = next(k for k in (key, *(f"{key}-{n}" for n in range(2, 1000))) if k not in taken)
    changed = " ".join(_cut(one) for one in changes(study))
    return Section(
        key=key,
        study=study,
        title=f"{study.title} ({changed})" if changed else study.title,
        note=_note(study, live),
        origin=found.origin,
        runs=counted(study),
        seconds=answers.duration(float(study.runs["seconds"].sum())),
        commits=sorted({str(commit)[:10] for commit in study.runs["commit"].dropna()}),
        complaints=_complaints(study),
        aggregate=table,
        sentences=answers.sentences(study.criteria, table),
        short=answers.short(table),
        grid=answers.grid(table, names),
        n=_n(table, study.criteria),
    )


def _cut(text: str) -> str:
    """A text that is not too long for a title."""
    return text if len(text) <= LONGEST_CHANGE else f"{text[:LONGEST_CHANGE]}…"


def counted(study: Study) -> Figures:
    """Count the runs of a study."""
    status = study.runs["status"]
    done, failed = int((status == DONE).sum()), int((status == FAILED).sum())
    missing = None if study.expected is None else max(0, study.expected - len(study.runs))
    return Figures(done, failed, len(study.runs) - done - failed, missing)


def _note(study: Study, live: bool) -> str:
    """What a reader must know before the numbers."""
    told = ["Run again on this machine, beside the shipped results."] if live else []
    if is_smoke(study):
        told.append("A smoke run of seconds: it shows that everything works, and nothing else.")
    return " ".join(told)


def _complaints(study: Study) -> list[str]:
    """Runs that failed, or of which something cannot be read."""
    told = [
        f"{_named(row)}: {str(row['status']).lower() if row['status'] != DONE else ''} "
        f"{row['error'] or ''}".replace(":  ", ": ").strip()
        for row in study.runs.to_dict("records")
        if row["status"] in (FAILED, UNREADABLE_RUN) or not pd.isna(row["error"])
    ]
    more = len(told) - MOST_COMPLAINTS
    return [*told[:MOST_COMPLAINTS], f"and {more} more like these"] if more > 0 else told


def _named(row: Mapping[object, object]) -> str:
    """How a reader knows a run."""
    if row["status"] == UNREADABLE_RUN:
        return str(row["run_id"])
    return f"{row['condition']} seed={row['seed']}".strip()


def _n(table: pd.DataFrame, rows: pd.DataFrame) -> str:
    """How many meta-seeds and problems the numbers are of."""
    if table.empty:
        return "no finished run"
    seeds, problems = _range(table["n_seeds"]), _range(rows["n_problems"])
    told = f"n = {seeds} meta-seed{'' if seeds == '1' else 's'}"
    told += " per condition" if table["condition"].nunique() > 1 else ""
    return told if problems == "0" else f"{told}, {problems} test problems each"


def _range(values: pd.Series) -> str:
    """ "3", or "2 to 5"."""
    low, high = int(values.min()), int(values.max())
    return str(low) if low == high else f"{low} to {high}"
