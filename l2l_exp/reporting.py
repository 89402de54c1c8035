"""What l2l-report and l2l-compare do: from a composed config to a page, or to a table."""

import math
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import rich.console
from omegaconf import DictConfig, ListConfig, OmegaConf
from rich.markup import escape
from rich.table import Table

from l2l_exp.config import ConfigError, shipped
from l2l_exp.errors import UserError
from l2l_exp.report import aggregation, charts, page, pairing, seeds, sides, sources
from l2l_exp.report.answers import number
from l2l_exp.report.pairing import Side
from l2l_exp.report.sections import Preset
from l2l_exp.report.shipping import ship
from l2l_exp.report.sources import Collection
from l2l_exp.source import place_of

COMMAND = re.compile(r"^# (l2l-(?:train|evaluate) .*?)(?:\s{2,}.*|\s*\(.*)?$", re.MULTILINE)
"""The command in the header of a preset, without what is said of it."""


def report(cfg: DictConfig) -> None:
    """Write the page, or ship the studies.

    Raises:
        ConfigError: if there is nothing to read, or a study that is asked for is unknown.
        TrackingError: if the store cannot be reached.
    """
    known = presets()
    collection = _chosen(_user_error(lambda: _collect(cfg)), listed(cfg.studies), known)
    if cfg.ship is not None:
        _tell_shipped(ship(collection.found, Path(cfg.ship)), collection)
        return
    chosen = [one for one in known if cfg.studies is None or one.name in listed(cfg.studies)]
    path = page.build(collection, chosen, Path(cfg.out), charts.render, _say)
    for problem in collection.problems:
        _say(f"not read: {problem}")
    _say(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


def compare(cfg: DictConfig) -> None:
    """Print how two runs or multiruns compare, and write figure and table if asked to.

    Raises:
        ConfigError: if one of them is not found, or they did not meet the same draws.
        TrackingError: if the store cannot be reached.
    """
    with TemporaryDirectory() as folder:
        _user_error(lambda: _compare(cfg, Path(folder)))


def presets() -> list[Preset]:
    """All presets: the paper's figures, then the others, by name."""
    paths = sorted(shipped("sweeps").glob("*.yaml"), key=lambda path: _order(path.stem))
    return [_preset(path) for path in paths]


def _order(name: str) -> tuple[float, str]:
    """Figures by their number, then the others."""
    number = re.match(r"fig(\d+)", name)
    return (float(number[1]) if number else math.inf), name


def listed(value: Any) -> list[str]:
    """A key that takes one text or a list of them."""
    if value is None:
        return []
    if isinstance(value, ListConfig | list):
        return [str(one) for one in value]
    return [one for one in str(value).split(",") if one]


def _preset(path: Path) -> Preset:
    """A preset, from its node `study` and its header."""
    text = path.read_text()
    content: Any = OmegaConf.create(text)
    study = content.get("study") or {}
    head = text.splitlines()[0].lstrip("# ")
    command = COMMAND.search(text)
    return Preset(
        name=path.stem,
        title=str(study.get("title") or path.stem),
        question=str(study.get("question") or head),
        command=command.group(1).strip() if command else f"l2l-train sweeps={path.stem}",
    )


def _collect(cfg: DictConfig) -> Collection:
    """The studies of all sources."""
    folders, results = listed(cfg.folders), listed(cfg.results)
    if cfg.store is None and not folders and not results:
        folders = [name for name in ("multirun",) if Path(name).is_dir()]
        results = [name for name in ("results",) if Path(name).is_dir()]
        if not folders and not results:
            raise ConfigError(
                "there is nothing to report: give store=URI, folders=FOLDER or results=FOLDER, or "
                "start where ./multirun or ./results lies"
            )
    collection = sources.from_folders(map(Path, folders))
    if cfg.store is not None:
        collection += sources.from_store(str(cfg.store))
    for folder in results:
        collection += sources.from_shipped(Path(folder))
    return collection


def _chosen(collection: Collection, names: list[str], known: list[Preset]) -> Collection:
    """Those studies that are asked for; all if none is.

    Raises:
        ConfigError: if a name is neither a preset's nor a study's.
    """
    if not names:
        return collection
    there = {one.study.name for one in collection.found}
    unknown = [name for name in names if name not in there | {preset.name for preset in known}]
    if unknown:
        raise ConfigError(
            f"studies={','.join(unknown)} is no study: there are {', '.join(sorted(there))}"
        )
    found = [one for one in collection.found if one.study.name in names]
    return Collection(found, collection.problems)


def _tell_shipped(folders: list[Path], collection: Collection) -> None:
    """Say what was written, and how large it is."""
    for problem in collection.problems:
        _say(f"not read: {problem}")
    sizes = {folder: sum(p.stat().st_size for p in folder.iterdir()) for folder in folders}
    for folder, size in sizes.items():
        _say(f"{folder}: {size / 1e3:.0f} kB")
    _say(f"{len(sizes)} studies, {sum(sizes.values()) / 1e6:.2f} MB")


def _compare(cfg: DictConfig, folder: Path) -> None:
    """The same, with a folder for downloads."""
    one, other = (_side(str(name), cfg.store, folder) for name in (cfg.first, cfg.second))
    met = pairing.pairs(one, other)
    rows = pairing.rows(met, other.name)
    table = aggregation.aggregate(rows)
    mine, theirs = ([pair[place] for pair in met] for place in (0, 1))
    console = rich.console.Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(_table(rows, table, one.name, other.name))
    for side, entrants in ((one, mine), (other, theirs)):
        of = f"{len(entrants)} of {len(side.entrants)} runs"
        ends = ", ".join(f"{count} {name}" for name, count in pairing.statuses(entrants).items())
        _say(f"{side.name} ({of}): {ends}; {_cost(pairing.cost(entrants))}")
    if cfg.out is not None:
        out = Path(cfg.out)
        out.mkdir(parents=True, exist_ok=True)
        rows.to_csv(out / "compare.csv", index=False)
        page.save(seeds.figure(rows, table, f"{one.name} / {other.name}"), out / "compare")
        _say(f"{out / 'compare.csv'}, {out / 'compare.pdf'}, .png, .svg")


def _side(name: str, store: str | None, folder: Path) -> Side:
    """A side by folder, preset or run id."""
    path = place_of(name)
    if path is not None and path.is_dir():
        return sides.of_folder(name, path)
    if store is None or "/" in name:
        raise ConfigError(f"{name} is no folder: give one, a run id, or a preset that was run here")
    return sides.of_store(name, str(store), name, folder)


def _table(rows: Any, table: Any, one: str, other: str) -> Table:
    """The comparison as it is printed."""
    title = f"{one} / {other}: median ratio on the same problems (below 1: {one} is better)"
    told = Table(title=escape(title))
    conditions = table["condition"].nunique() > 1
    for name in (*(["condition"] if conditions else []), "criterion", "ratio"):
        told.add_column(name, no_wrap=name != "condition")
    for name in ("meta-seeds", "problems each", "lower loss on", "seeds better"):
        told.add_column(name, justify="right")
    for line in table.to_dict("records"):
        its = rows[rows["condition"] == line["condition"]]
        its = its[its["criterion"] == line["criterion"]]
        single = its.iloc[0] if len(its) == 1 else line
        told.add_row(
            *([escape(line["condition"])] if conditions else []),
            line["criterion"],
            escape(_interval(single["log_ratio"], single["low"], single["high"])),
            line["seeds"],
            _counts(its["n_problems"]),
            f"{its['better'].mean():.0%}",
            f"{line['seeds_better']} of {line['n_seeds']}",
        )
    told.caption = (
        "95 % intervals: over problems where one pair of runs is compared, else over meta-seeds"
    )
    return told


def _interval(*logs: float) -> str:
    """A ratio with its interval, of logs."""
    value, low, high = (number(float(one)) for one in aggregation.exp(logs))
    return value if low == "unknown" else f"{value} [{low}, {high}]"


def _counts(values: Any) -> str:
    """ "100", or "50 to 100"."""
    low, high = int(values.min()), int(values.max())
    return str(low) if low == high else f"{low} to {high}"


def _cost(cost: Mapping[str, float]) -> str:
    """Costs as a line."""
    names = {
        "microseconds_per_step": "µs a step",
        "state_bytes_per_coordinate": "state bytes per coordinate",
        "training_seconds": "s of meta-training",
    }
    return ", ".join(f"{number(cost[key])} {name}" for key, name in names.items())


def _user_error(work: Callable[[], Any]) -> Any:
    """What a function returns; a value that it refuses is the user's to mend."""
    try:
        return work()
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise ConfigError(str(error)) from error


def _say(line: str) -> None:
    """Print a line as it is."""
    print(line, flush=True)
