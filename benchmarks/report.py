"""Reading studies: a synthetic multirun of many runs, from its folder and from an sqlite store."""

import json
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlparse

import numpy as np
import pandas as pd
from rich.table import Table

from benchmarks import measure
from benchmarks.measure import Call, Part, Result
from l2l_exp.report import frames, sources, studies
from l2l_exp.report.sources import STEPS, SUMMARY, SWEEP
from l2l_exp.tracking.store import FOLDER_TAG, PARENT_TAG, open_client

RULES = ("learned", "sgd", "momentum", "nag", "rmsprop", "adam")
CRITERIA = ("average", "final", "held_out")
SECONDS = 10.0
"""What reading of the full size may take."""


@dataclass(frozen=True)
class Size:
    """How much is read."""

    runs: int = 500
    steps: int = 200
    problems: int = 100
    params: int = 120
    rounds: int = 3


TINY = Size(runs=3, steps=4, problems=5, params=5, rounds=1)


def measure_report(tiny: bool = False) -> Result:
    """Median seconds from files to one frame of all runs and steps."""
    size = TINY if tiny else Size()
    with tempfile.TemporaryDirectory() as name:
        folder = _multirun(Path(name) / "multirun" / "many-0a1b2c3d", size)
        uri = _store(Path(name), folder, size)
        calls = {
            "folder": lambda: sources.from_folders([folder]),
            "sqlite store": lambda: sources.from_store(uri),
        }
        rows = {place: len(call().found[0].study.steps) for place, call in calls.items()}
        seconds = measure.interleaved(calls, size.rounds)
        processor = {place: _processor_seconds(call) for place, call in calls.items()}
    medians = {place: measure.median(values) for place, values in seconds.items()}
    what = f"{size.runs} runs of {size.steps} steps"
    claims = [
        measure.claim(f"{what} from a {place}: seconds", value, "at most", SECONDS)
        for place, value in medians.items()
    ]
    return {
        "runs": size.runs, "rows": rows, "seconds": medians, "processor_seconds": processor,
        "claims": claims,
    }  # fmt: skip


def _processor_seconds(call: Call) -> float:
    """What a call costs also where others share the machine."""
    start = time.process_time()
    call()
    return time.process_time() - start


def _multirun(folder: Path, size: Size) -> Path:
    """Write a multirun's folder: every run has the same table and summary."""
    folder.mkdir(parents=True)
    about = {"command": "train", "overrides": ["sweeps=many"], "jobs": size.runs, "study": {}}
    (folder / SWEEP).write_text(json.dumps(about))
    studies.by_step(_curves(size)).to_parquet(folder / STEPS, compression="zstd", index=False)
    for number in range(size.runs):
        run = folder / str(number)
        run.mkdir()
        shutil.copy(folder / STEPS, run / STEPS)
        (run / SUMMARY).write_text(json.dumps(_summary(number, size), indent=2))
        record = {
            "run_id": f"run{number}", "status": "FINISHED", "seconds": 1.0, "error": None,
            "overrides": _overrides(number), "config": {"seed": number % 5},
        }  # fmt: skip
        (run / "run.json").write_text(json.dumps(record))
    return folder


def _store(place: Path, folder: Path, size: Size) -> str:
    """Write the same runs into a store; its URI."""
    from mlflow.entities import Param

    uri = f"sqlite:///{place / 'mlflow.db'}"
    client = open_client(uri)
    experiment = client.create_experiment("many", artifact_location=(place / "artifacts").as_uri())
    parent = client.create_run(experiment, tags={"sweeps": "many"})
    _artifacts(parent, folder, SWEEP)
    params = [Param(f"optimizer.key{number}", "value") for number in range(size.params)]
    for number in range(size.runs):
        tags = {
            PARENT_TAG: parent.info.run_id, FOLDER_TAG: str(folder / str(number)),
            "overrides": json.dumps(_overrides(number)),
        }  # fmt: skip
        run = client.create_run(experiment, tags=tags)
        for start in range(0, size.params, 100):
            client.log_batch(run.info.run_id, params=params[start : start + 100])
        client.set_terminated(run.info.run_id)
        _artifacts(run, folder / str(number), STEPS, SUMMARY)
    return uri


def _artifacts(run: object, folder: Path, *names: str) -> None:
    """Copy files to where a store on this machine keeps a run's artifacts."""
    target = Path(unquote(urlparse(run.info.artifact_uri).path))  # type: ignore[attr-defined]
    target.mkdir(parents=True)
    for name in names:
        shutil.copy(folder / name, target / name)


def _overrides(number: int) -> list[str]:
    """Five meta-seeds of each condition."""
    return ["sweeps=many", f"optimizee.hidden_units={number // 5}", f"seed={number % 5}"]


def _curves(size: Size) -> pd.DataFrame:
    """A curves table of every rule, baselines tuned for one criterion or all."""
    rng = np.random.default_rng(0)
    steps, problems = size.steps + 1, size.problems
    parts = []
    for rule in RULES:
        loss = rng.lognormal(0, 0.1, (steps, problems)).astype(np.float32)
        part = {"step": np.repeat(np.arange(steps), problems), "loss": loss.ravel()}
        part |= {"problem": np.tile(np.arange(problems), steps), "running_mean": loss.ravel()}
        part |= dict.fromkeys(frames.METRICS, loss.ravel())
        kind = "learned" if rule == "learned" else "baseline"
        tuned_for = "" if rule == "learned" else "+".join(CRITERIA)
        parts.append(pd.DataFrame(part).assign(rule=rule, kind=kind, tuned_for=tuned_for, lr=0.1))
    return pd.concat(parts, ignore_index=True)


def _summary(number: int, size: Size) -> dict[str, object]:
    """A summary with what is read of it, and about as large as a real one."""
    spread = {"mean": 0.3, "median": 0.3, "low": 0.2, "high": 0.4}
    one = {**dict.fromkeys(CRITERIA, spread), "status": {"ok": size.problems, "diverged": 0}}
    ratio = {"median": -0.5, "low": -0.6, "high": -0.4}
    paired = {"best_baseline": "adam", "log_ratio": ratio, "mean_difference": ratio}
    return {
        "run_id": f"run{number}", "seed": number % 5, "n_problems": size.problems,
        "learned": one, "baselines": dict.fromkeys(RULES[1:], one),
        "paired": dict.fromkeys(CRITERIA, paired),
        "comparisons": {rule: dict.fromkeys(CRITERIA, paired) for rule in RULES[1:]},
    }  # fmt: skip


def tables(result: Result) -> list[Table]:
    """One row per place."""
    table = Table(title=f"Reading a multirun of {result['runs']} runs")
    table.add_column("from")
    for heading in ("rows", "seconds", "processor seconds"):
        table.add_column(heading, justify="right")
    for place, seconds in result["seconds"].items():
        spent = f"{result['processor_seconds'][place]:.2f}"
        table.add_row(f"a {place}", f"{result['rows'][place]}", f"{seconds:.2f}", spent)
    return [table]


PART = Part(measure_report, tables)
