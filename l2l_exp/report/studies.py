"""Studies: the runs of a multirun as tables, which every chart is a function of."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from l2l_exp.report import aggregation, frames
from l2l_exp.statistics import Floats

Bools = npt.NDArray[np.bool_]
SEED = "seed"
"""The key whose values are repetitions of one condition, not conditions."""
FILE = "study.json"
EXTRAS = ("updates", "pictures")
"""Tables that some runs have: `report.updates.table`, `report.pictures.table`."""
RUN_COLUMNS = ("run_id", "seed", "condition", "status", "error", "seconds", "commit")
STEP_KEYS = ("run_id", "seed", "condition", "rule", "kind", "tuned_for", "lr", "step")
MEASURES = ("loss", "running_mean", *frames.METRICS)
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError)
"""What reading a damaged file ends in; those of json and pyarrow among them."""
UNREADABLE_RUN = "UNREADABLE"
"""The status of a run whose record cannot be read."""
Value = TypeVar("Value")
QUANTILES = (("low", 0.25), ("median", 0.5), ("high", 0.75))


@dataclass(frozen=True)
class Run:
    """One run of a study.

    Attributes:
        run_id, status, error, seconds, commit: of the run; `commit` is None where it is not known.
            A finished run has an `error` where something of it cannot be read.
        seed: its meta-seed.
        overrides: of its command line, the multirun's own values among them.
        summary: what summary.json says; of a run that was not evaluated, what `aggregation` needs.
            None of a run that has not finished.
        curves: makes its table (`frames.curves`) of losses by problem and step; None where there
            is none.
        extras: makes those of EXTRAS that it has, by name.
    """

    run_id: str
    status: str
    seed: int
    overrides: tuple[str, ...]
    summary: Mapping[str, Any] | None
    curves: Callable[[], pd.DataFrame] | None = None
    error: str | None = None
    seconds: float = 0.0
    commit: str | None = None
    extras: Mapping[str, Callable[[], pd.DataFrame]] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """The runs of one multirun.

    Attributes:
        name: of its preset.
        title, question: what it is about, for headings.
        command: that makes it again.
        charts: name -> node with a `_target_` in `l2l_exp.report.charts` and its options.
        runs: one row per run with RUN_COLUMNS, and one column of text per key that differs between
            runs besides the meta-seed. `condition` joins these, "" where nothing differs.
        steps: one row per run, rule, learning rate and step: STEP_KEYS, `n` problems, and of each
            of MEASURES its mean and quartiles over problems, e.g. loss_mean, loss_low,
            loss_median, loss_high; what is not finite counts as infinite.
        criteria: one row per run and criterion, as `aggregation.rows_of` makes them.
        summaries: run id -> summary.
        expected: how many runs there should be; None where that is not known.
        extras: those of EXTRAS that any run has, by name: the tables of all runs.
    """

    name: str
    title: str
    question: str
    command: str
    charts: Mapping[str, Any]
    runs: pd.DataFrame
    steps: pd.DataFrame
    criteria: pd.DataFrame
    summaries: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    expected: int | None = None
    extras: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    @property
    def keys(self) -> list[str]:
        """The keys that differ between runs besides the meta-seed, e.g. optimizee.hidden_units."""
        return [name for name in self.runs.columns if name not in RUN_COLUMNS]

    @property
    def finished(self) -> pd.DataFrame:
        """The rows of `runs` that have ended well."""
        return self.runs[self.runs["status"] == "FINISHED"]


def study(about: Mapping[str, Any], runs: Sequence[Run], expected: int | None = None) -> Study:
    """Make a study of its runs.

    Args:
        about: `name`, `title`, `question`, `command` and `charts`.
        runs: of the multirun, in the order of their numbers.
        expected: how many there should be.
    """
    values = swept([run.overrides for run in runs])
    conditions = [" ".join(f"{key}={value}" for key, value in one.items()) for one in values]
    rows = [
        {
            "run_id": run.run_id, "seed": run.seed, "condition": condition, "status": run.status,
            "error": run.error, "seconds": run.seconds, "commit": run.commit, **one,
        }
        for run, condition, one in zip(runs, conditions, values, strict=True)
    ]  # fmt: skip
    done = [
        (run, condition)
        for run, condition in zip(runs, conditions, strict=True)
        if run.status == "FINISHED" and run.summary is not None
    ]
    told = [row for run, c in done for row in aggregation.rows_of(run.summary or {}, c)]
    steps, unreadable = _steps(done)
    for row in rows:
        row["error"] = row["error"] or unreadable.get(str(row["run_id"]))
    return Study(
        name=str(about.get("name") or ""),
        title=str(about.get("title") or about.get("name") or ""),
        question=str(about.get("question") or ""),
        command=str(about.get("command") or ""),
        charts=dict(about.get("charts") or {}),
        runs=pd.DataFrame(rows, columns=None if rows else list(RUN_COLUMNS)),
        steps=steps,
        criteria=pd.DataFrame(told, columns=list(aggregation.ROW_COLUMNS)),
        summaries={run.run_id: run.summary or {} for run, _ in done},
        expected=expected,
        extras=_extras([run for run, _ in done]),
    )


def swept(overrides: Sequence[Sequence[str]]) -> list[dict[str, str]]:
    """What tells runs apart besides their meta-seed: of each run key -> value.

    Args:
        overrides: of each run.
    """
    kept = [[o for o in one if key_of(o) != SEED] for one in overrides]
    told = [set(one) for one in kept if one]  # a run whose record cannot be read has none
    common = set.intersection(*told) if told else set()
    return [{key_of(o): o.partition("=")[2] for o in one if o not in common} for one in kept]


def key_of(override: str) -> str:
    """The key of an override."""
    return override.partition("=")[0].lstrip("+~")


def by_step(curves: pd.DataFrame) -> pd.DataFrame:
    """Means and quartiles over problems, of a table that `frames.curves` made.

    Returns:
        One row per rule, learning rate and step: `schema_version`, `rule`, `kind`, `tuned_for`,
        `lr`, `step`, `n`, and of each of MEASURES that was taken its mean and quartiles.
    """
    keys = ["rule", "kind", "tuned_for", "lr", "step"]
    measured = {name: set(curves.loc[curves[name].notna(), "step"]) for name in frames.METRICS}
    parts = []
    for names, part in curves.groupby(keys[:3], observed=True, sort=False):
        n = part["problem"].nunique()
        part = part.sort_values(["step", "problem"], kind="stable")
        table: dict[str, Any] = {"schema_version": frames.SCHEMA_VERSION}
        table |= {"step": part["step"].to_numpy()[::n], "n": n}
        for measure in MEASURES:
            values = part[measure].to_numpy(dtype=np.float64).reshape(-1, n)
            table |= _spread(measure, values, _taken(table["step"], measured.get(measure), values))
        rule, kind, tuned_for = map(str, names)
        told = pd.DataFrame(table).assign(lr=part["lr"].iloc[0], rule=rule, kind=kind)
        parts.append(told.assign(tuned_for=tuned_for))
    columns = [
        "schema_version",
        *keys,
        "n",
        *(f"{m}_{q}" for m in MEASURES for q in ("mean", *dict(QUANTILES))),
    ]
    if not parts:
        return pd.DataFrame(columns=columns)
    return pd.concat(parts, ignore_index=True).reindex(columns=columns)


def medians(steps: pd.DataFrame) -> dict[int, dict[str, float]]:
    """Median losses over problems as metrics: step -> {"curve.adam": loss, ...}.

    Args:
        steps: as `by_step` makes it; of a baseline the run tuned for the final loss is taken.
    """
    judged = steps["tuned_for"].map(lambda names: names == "" or "final" in str(names).split("+"))
    found: dict[int, dict[str, float]] = {}
    shown = steps[judged.to_numpy(dtype=bool)]
    for step, rule, loss in zip(shown["step"], shown["rule"], shown["loss_median"], strict=True):
        found.setdefault(int(step), {})[f"curve.{rule}"] = float(loss)
    return found


def _taken(steps: Any, measured: set[int] | None, values: Floats) -> Bools:
    """(steps,) whether a measure was taken there: if it was of some rule, NaN of others is a loss.

    Args:
        steps: of the table.
        measured: steps at which some rule has a value; None for a measure that is always taken.
        values: (steps, problems).
    """
    if measured is None:
        return np.ones(len(values), dtype=bool)
    some = np.asarray(~np.isnan(values).all(axis=1))
    return np.asarray(np.isin(steps, sorted(measured))) if some.any() else some


def _spread(measure: str, values: Floats, taken: Bools) -> dict[str, Any]:
    """Mean and quartiles of (steps, problems); NaN where a step was not measured."""
    if not taken.any():
        return {}
    told = {name: np.full(len(values), np.nan) for name in ("mean", *dict(QUANTILES))}
    some = np.where(np.isfinite(values[taken]), values[taken], np.inf)
    told["mean"][taken] = some.mean(axis=1)
    for name, quantile in QUANTILES:
        told[name][taken] = np.quantile(some, quantile, axis=1, method="inverted_cdf")
    with np.errstate(over="ignore"):  # beyond single precision: infinite
        return {f"{measure}_{name}": column.astype(np.float32) for name, column in told.items()}


def _stepwise(run: Run) -> pd.DataFrame | None:
    """The table of a run by step; None where there is none."""
    if run.curves is None:
        return None
    table = run.curves()
    table = table if "loss_median" in table else by_step(table)
    return table.drop(columns="schema_version")


def _steps(done: Sequence[tuple[Run, str]]) -> tuple[pd.DataFrame, dict[str, str]]:
    """The steps of all runs that have a table of them, and of which runs it cannot be read."""

    def one(run: Run, condition: str) -> tuple[pd.DataFrame | None, str | None]:
        table, error = read_or_tell(lambda: _stepwise(run))
        if table is None:
            return None, error and f"its table of losses {error}"
        return table.assign(run_id=run.run_id, seed=run.seed, condition=condition), None

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda pair: one(*pair), done))
    tables = [table for table, _ in found if table is not None]
    told = zip(done, found, strict=True)
    unreadable = {run.run_id: error for (run, _), (_, error) in told if error is not None}
    if not tables:
        return pd.DataFrame(columns=list(STEP_KEYS)), unreadable
    steps = pd.concat(tables, ignore_index=True)
    names = ["run_id", "condition", "rule", "kind", "tuned_for"]
    steps[names] = steps[names].astype("category")
    return steps, unreadable


def _extras(runs: Sequence[Run]) -> dict[str, pd.DataFrame]:
    """The tables of EXTRAS of all runs, as far as they are there and can be read."""
    read = {
        name: [read_or_tell(run.extras[name])[0] for run in runs if name in run.extras]
        for name in EXTRAS
    }
    found = {name: [one for one in tables if one is not None] for name, tables in read.items()}
    return {name: pd.concat(one, ignore_index=True) for name, one in found.items() if one}


def from_folder(folder: Path) -> Study:
    """The study of a multirun's folder, as `l2l-train -m` leaves it.

    Raises:
        ValueError: if the folder is not one of a multirun.
    """
    path = folder / "sweep.json"
    if not path.is_file():
        raise ValueError(f"{folder} is not the folder of a multirun: it holds no sweep.json")
    sweep = json.loads(path.read_text())
    about = about_of(sweep, folder.name.rpartition("-")[0])
    return study(about, [run for _, run in runs_of(folder)], sweep.get("jobs"))


def runs_of(folder: Path) -> list[tuple[Path, Run]]:
    """The runs of a multirun's folder that have begun, by their numbers, each with its folder."""
    numbered = [one for one in folder.iterdir() if one.name.isdigit()]
    found = [(one, run_of(one)) for one in sorted(numbered, key=lambda one: int(one.name))]
    return [(path, run) for path, run in found if run is not None]


def about_of(sweep: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What a study is about, from the sweep.json of its multirun.

    Args:
        sweep: its content.
        name: of the preset.
    """
    command = " ".join([f"l2l-{sweep.get('command', 'train')}", *sweep["overrides"]])
    return {"name": name, "command": command, **sweep.get("study", {})}


def run_of(folder: Path) -> Run | None:
    """The run of a folder; None before it has begun."""
    path = folder / "run.json"
    if not path.is_file():
        return None
    record, error = read_or_tell(lambda: json.loads(path.read_text()))
    if not isinstance(record, dict) or "run_id" not in record:
        told = error or f"cannot be read: {path.name} is not a run's record"
        return Run(str(folder), UNREADABLE_RUN, -1, (), None, error=f"{path.name} {told}")
    table = next(
        (p for p in (folder / "steps.parquet", folder / "curves.parquet") if p.is_file()), None
    )
    summary = None
    if record["status"] == "FINISHED":
        summary, error = read_or_tell(lambda: summary_of(folder))
    return Run(
        run_id=str(record["run_id"]),
        status=record["status"],
        seed=int(summary["seed"] if summary else record["config"]["seed"]),
        overrides=tuple(record["overrides"]),
        summary=summary,
        curves=None if table is None or summary is None else lambda: frames.read_curves(table),
        error=error or record.get("error"),
        seconds=record.get("seconds", 0.0),
        commit=record.get("commit"),
        extras=extras_in(folder),
    )


def extras_in(folder: Path) -> dict[str, Callable[[], pd.DataFrame]]:
    """What reads the tables of EXTRAS that lie in a folder, by name."""
    return extras_of({path.name: path for path in folder.glob("*.parquet")})


def extras_of(files: Mapping[str, Path]) -> dict[str, Callable[[], pd.DataFrame]]:
    """What reads the tables of EXTRAS that are among some files: name of the file -> path."""
    there = {name: files.get(f"{name}.parquet") for name in EXTRAS}
    return {n: partial(pd.read_parquet, path) for n, path in there.items() if path is not None}


def read_or_tell(read: Callable[[], Value]) -> tuple[Value | None, str | None]:
    """What a function reads, or in one line why it cannot be read."""
    try:
        return read(), None
    except UNREADABLE as error:
        return None, f"cannot be read: {' '.join(f'{type(error).__name__}: {error}'.split())[:300]}"


def summary_of(folder: Path) -> dict[str, Any]:
    """summary.json of a run; of one that was not evaluated, what its checkpoint says."""
    path = folder / "summary.json"
    if path.is_file():
        return dict(json.loads(path.read_text()))
    return selected(json.loads((folder / "checkpoint" / "rule.json").read_text()))


def selected(rule: Mapping[str, Any]) -> dict[str, Any]:
    """What the rule.json of a checkpoint says, as a summary."""
    about = rule["about"]
    told = {name: about[name] for name in ("validations", "validated") if name in about}
    return {"run_id": about["run_id"], "seed": about["seed"], "selection": about, **told}


def write(study: Study, folder: Path) -> None:
    """Write a study so that `read` makes the same again: study.json and tables beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "name": study.name, "title": study.title, "question": study.question,
        "command": study.command, "charts": study.charts, "expected": study.expected,
        "runs": json.loads(study.runs.to_json(orient="records")), "summaries": study.summaries,
    }  # fmt: skip
    (folder / FILE).write_text(json.dumps(about, indent=1) + "\n")
    floats = list(study.steps.select_dtypes("float").columns)
    study.steps.to_parquet(
        folder / "steps.parquet", compression="zstd", index=False, use_byte_stream_split=floats,
        use_dictionary=[name for name in study.steps if name not in floats],
    )  # fmt: skip
    for name, table in study.extras.items():
        table.to_parquet(folder / f"{name}.parquet", compression="zstd", index=False)


def read(folder: Path) -> Study:
    """Read what `write` wrote.

    Raises:
        ValueError: if the folder holds no study.
    """
    path = folder / FILE
    if not path.is_file():
        raise ValueError(f"{folder} holds no {FILE}: it is no study")
    about = json.loads(path.read_text())
    summaries = about["summaries"]
    runs = pd.DataFrame(about["runs"], columns=None if about["runs"] else list(RUN_COLUMNS))
    told = [
        row
        for run_id, condition in zip(runs["run_id"], runs["condition"], strict=True)
        if run_id in summaries
        for row in aggregation.rows_of(summaries[run_id], condition)
    ]
    return Study(
        **{name: about[name] for name in ("name", "title", "question", "command", "charts")},
        runs=runs,
        steps=pd.read_parquet(folder / "steps.parquet"),
        criteria=pd.DataFrame(told, columns=list(aggregation.ROW_COLUMNS)),
        summaries=summaries,
        expected=about["expected"],
        extras={name: load() for name, load in extras_in(folder).items()},
    )


def latest(studies: Iterable[tuple[float, Study]]) -> dict[str, Study]:
    """Of studies of the same command the youngest that has a finished run: command -> study.

    Args:
        studies: (time, study) each.
    """
    found: dict[str, Study] = {}
    for _, one in sorted(studies, key=lambda pair: pair[0]):
        if len(one.finished) or one.command not in found:
            found[one.command] = one
    return found
