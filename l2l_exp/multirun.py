"""A multirun: its parent run, which jobs are done, and what they come to together."""

import dataclasses
import json
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf, open_dict

from l2l_exp import record
from l2l_exp.config import ConfigError, build, check_source, plain
from l2l_exp.console import Console
from l2l_exp.files import write_json
from l2l_exp.joblist import listed, planned, swept
from l2l_exp.provenance import origin, sources
from l2l_exp.report import answers, charts, race, seeds, studies
from l2l_exp.report.studies import key_of
from l2l_exp.resume import quoted
from l2l_exp.tracking import FOLDER_TAG, End, Tracker, TrackingError, absolute_uri

FILE = "sweep.json"
SOURCE = "optimizer.source"


@dataclass(frozen=True)
class Multirun:
    """A multirun that has been launched.

    Attributes:
        folder: holds the jobs' folders, named by their numbers.
        tracker: of the parent run.
        make: opens a tracker of a run in a folder.
        launched: seconds since 1970.
        is_new: whether this is the first launch.
    """

    folder: Path
    tracker: Tracker
    make: Callable[..., Tracker]
    launched: float
    is_new: bool


class Count(NamedTuple):
    """What became of the jobs of a multirun."""

    done: int  # in this launch
    skipped: int  # finished in an earlier one
    failed: list[str]  # what each says
    unfinished: int  # begun, and stopped

    def __str__(self) -> str:
        """As the user reads it."""
        text = f"{self.done} done, {self.skipped} finished before and skipped, "
        text += f"{len(self.failed)} failed"
        return f"{text}, {self.unfinished} not finished" if self.unfinished else text


def begin(config: DictConfig, command: str) -> Multirun:
    """Make the folder and the parent run of a multirun, or find them.

    The same command with the same code and store is the same multirun, whatever its launcher: its
    folder is named by a hash of these, below `hydra.sweep.dir`. Whether a job of it is still the
    same is decided by its own record.

    Args:
        config: Hydra's, of the multirun; its `hydra.sweep.dir` becomes the folder.
        command: "train" or "evaluate".

    Raises:
        ConfigError: if the launcher cannot launch here, a chart is none, or a study whose rules
            are taken was not run.
        TrackingError: if the store cannot be opened.
    """
    check_launcher(config)
    check_charts(config)
    jobs = planned(config)
    check_sources(config, jobs)
    overrides = _overrides(config)
    label, key, folder = _place(config, command)
    folder.mkdir(parents=True, exist_ok=True)
    launched = time.time()
    make = partial(build(config.tracking.tracker), warn=Console().warn)
    with FileLock(folder / record.LOCK):
        old = _read(folder)
        try:
            tracker: Tracker = make(
                folder=folder,
                run_name=f"{label}: {len(jobs)} jobs",
                run_id=old.get("run_id"),
            )
        except Exception:
            if not old:
                shutil.rmtree(folder)
            raise
        about = {"command": command, "overrides": overrides, "study": plain(config.study)}
        known = {"swept": swept(config), "jobs": len(jobs)}
        write_json(folder / FILE, {"run_id": tracker.run_id, "key": key, **about, **known})
    tracker.publish(folder / FILE)
    tracker.params({"command": command, "overrides": " ".join(overrides), **_shown(known)})
    tracker.tags({**_choices(config), **origin(command), FOLDER_TAG: str(folder)})
    tracker.tags({"mlflow.note.content": _heading(config)})
    with open_dict(config):
        config.hydra.sweep.dir = str(folder)
        config.hydra.overrides.hydra.append(f"hydra.sweep.dir={quoted(str(folder))}")
    return Multirun(folder, tracker, make, launched, not old)


def check_launcher(config: DictConfig) -> None:
    """Raise ConfigError if the launcher needs a cluster and this is none."""
    if str(config.hydra.launcher._target_).endswith("SlurmLauncher") and not shutil.which("srun"):
        raise ConfigError(
            f"hydra/launcher={config.hydra.runtime.choices['hydra/launcher']} needs a SLURM "
            f"cluster, and there is no srun here: use basic or joblib on one machine"
        )


def announce(config: DictConfig, command: str, in_full: bool) -> None:
    """Tell which jobs a launch has, how far they have come, and how long the rest will take."""
    label, _, folder = _place(config, command)
    Console().jobs(listed(config, folder, label), in_full)


def _place(config: DictConfig, command: str) -> tuple[str, str, Path]:
    """Label, key and folder of a multirun."""
    choices = _choices(config)
    label = choices.get("sweeps") or choices.get("experiment") or command
    key = _key(config, command, _overrides(config))
    return label, key, (Path(config.hydra.sweep.dir) / f"{label}-{key[:8]}").absolute()


def _overrides(config: DictConfig) -> list[str]:
    """What the command line says about the runs."""
    return [o for o in config.hydra.overrides.task if not record.is_place(key_of(o))]


def _heading(config: DictConfig) -> str:
    """Title and question in Markdown; empty where the preset has none."""
    study = config.study
    return "".join(
        f"{text}\n\n" for text in (study.title and f"# {study.title}", study.question) if text
    )


def swept_of(sweep_dir: Path) -> list[str]:
    """The keys that the multirun in a folder sweeps."""
    return list(_read(sweep_dir).get("swept", []))


def parent_of(sweep_dir: Path) -> str:
    """Id of the parent run of the multirun in a folder."""
    return str(_read(sweep_dir)["run_id"])


def end(multirun: Multirun, how: End) -> Count:
    """Aggregate what is there, and close the parent run.

    Args:
        multirun: launched.
        how: it ended; "FINISHED" becomes "FAILED" where a job failed.
    """
    _close_killed(multirun)
    records = _records(multirun.folder)
    count = _count(records, multirun.launched)
    tracker = multirun.tracker
    tracker.tags({"multirun": str(count)})
    try:
        _aggregate(multirun)
    finally:
        if not tracker.finish("FAILED" if how == "FINISHED" and count.failed else how):
            Console().warn(
                f"the store lacks something of {multirun.folder}: launch again to send it"
            )
    return count


def discard(multirun: Multirun) -> bool:
    """Remove a multirun of which no job has begun; whether there was nothing to keep."""
    with FileLock(multirun.folder / record.LOCK):
        if not multirun.is_new or _records(multirun.folder):
            return False
        multirun.tracker.delete()
        shutil.rmtree(multirun.folder)
    return True


def _close_killed(multirun: Multirun) -> None:
    """Close runs whose process is gone and had no time to do so, or to tell the store."""
    for folder in _records(multirun.folder):
        alive_or_unreachable = suppress(Timeout, TrackingError)
        with alive_or_unreachable, FileLock(folder / record.LOCK, timeout=0):
            one = record.read(folder)  # again: it may have ended since
            if one is not None and one.run_id is not None:
                _close(multirun, folder, one)


def _close(multirun: Multirun, folder: Path, one: record.Record) -> None:
    """Close a run if that was left undone."""
    if one.status == "RUNNING":
        one = dataclasses.replace(one, status="KILLED", ended=time.time(), unsent=True)
        one.write(folder)
    if one.unsent and one.status in ("KILLED", "FAILED"):
        tracker = multirun.make(folder=folder, run_id=one.run_id)
        dataclasses.replace(one, unsent=not tracker.finish(one.status)).write(folder)


def _aggregate(multirun: Multirun) -> None:
    """Write tables and figures over seeds, and of several conditions how their trainings went."""
    tracker, found = multirun.tracker, studies.from_folder(multirun.folder)
    rows = found.criteria
    if rows.empty:
        return
    table = seeds.aggregate(rows)
    tracker.table("seeds", rows)
    tracker.table("aggregate", table)
    text = seeds.as_text(table)
    told = found.finished.set_index("run_id")["condition"]
    runs = race.table(race.found(race.row_of(found.summaries[str(i)], c) for i, c in told.items()))
    if runs is not None:
        tracker.table("race", runs)
        text += f"\n{race.as_text(runs)}"
    tracker.text("aggregate.md", text)
    heading = f"# {found.title}\n\n" if found.question else ""
    answer = "".join(f"- {line}\n" for line in answers.sentences(rows, table))
    note = f"{heading}{found.question}\n\n{answer}\n{text}"
    tracker.tags({"mlflow.note.content": note})  # what the interface shows first
    tracker.metrics(_numbers(table), rows["run_id"].nunique())
    for name, figure in _drawn(found).items():
        tracker.figure(name, figure)


def _numbers(table: pd.DataFrame) -> dict[str, float]:
    """The aggregate as metrics, e.g. "final.ratio" or, of one of several conditions,
    "final.ratio/variant relu"."""
    numbers = {}
    for row in table.to_dict("records"):
        condition = re.sub(r"[^\w .:/-]", " ", str(row["condition"]))
        place = f"/{condition}" if condition else ""
        for name, key in (("ratio", "log_ratio"), ("ratio_low", "low"), ("ratio_high", "high")):
            numbers[f"{row['criterion']}.{name}{place}"] = float(np.exp(row[key]))
        numbers[f"{row['criterion']}.loss{place}"] = float(row["median"])
    return numbers


def _drawn(found: studies.Study) -> Mapping[str, Figure]:
    """The figures of a study; why one cannot be drawn is told."""
    drawn = charts.render(found)
    for name, reason in drawn.reasons.items():
        Console().warn(f"no figure {name!r}: {reason}")
    return drawn.figures


def check_sources(config: DictConfig, jobs: Sequence[Sequence[str]]) -> None:
    """Raise ConfigError if a job takes the rules of a study that was not run here."""
    asked = [o.partition("=")[2] for job in jobs for o in job if key_of(o) == SOURCE]
    for source in dict.fromkeys(asked or [OmegaConf.select(config, SOURCE)]):
        check_source(source)


def check_charts(config: DictConfig) -> None:
    """Raise ConfigError if the study asks for what is no chart."""
    try:
        charts.check(plain(config.study)["charts"])
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _records(folder: Path) -> dict[Path, record.Record]:
    """Records of the jobs that have begun, in the order of their numbers."""
    paths = [p.parent for p in folder.rglob(record.FILE) if ".before-" not in str(p)]
    found = {path: record.read(path) for path in sorted(paths, key=lambda p: (len(p.name), p.name))}
    return {path: one for path, one in found.items() if one is not None}


def _count(records: Mapping[Path, record.Record], launched: float) -> Count:
    """Count what became of the jobs."""
    finished = [one for one in records.values() if one.status == "FINISHED"]
    done = sum((one.ended or 0) >= launched for one in finished)
    failed = [
        f"job {path.name} ({' '.join(one.overrides)}): {one.error}"
        for path, one in records.items()
        if one.status == "FAILED"
    ]
    unfinished = len(records) - len(finished) - len(failed)
    return Count(done, len(finished) - done, failed, unfinished)


def _read(folder: Path) -> dict[str, Any]:
    """sweep.json, empty before the first launch."""
    path = folder / FILE
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def _key(config: DictConfig, command: str, overrides: Sequence[str]) -> str:
    """Hash of everything that makes two launches the same multirun."""
    job: Any = OmegaConf.to_container(config, resolve=False)
    sweeper: Any = OmegaConf.to_container(config.hydra.sweeper)
    store = absolute_uri(str(config.tracking.uri)), config.tracking.experiment
    code = sources({name: node for name, node in job.items() if name != "hydra"})
    return record.digest(command, overrides, sweeper.get("params"), store, code)


def config_dirs(hydra: Any) -> list[str]:
    """Folders that were given by --config-dir, from the node `hydra` of a config."""
    found = hydra.runtime.config_sources
    return [str(one.path) for one in found if one.provider == "command-line"]


def _shown(values: Mapping[str, Any]) -> dict[str, str]:
    """Values as one column each."""
    return {k: " ".join(v) if isinstance(v, list) else str(v) for k, v in values.items()}


def _choices(config: DictConfig) -> dict[str, str]:
    """Which presets were chosen."""
    chosen = config.hydra.runtime.choices
    return {name: str(chosen[name]) for name in ("sweeps", "experiment") if chosen.get(name)}
