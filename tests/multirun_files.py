"""Folders of multiruns with real comparisons of tiny rules, without running a command."""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from l2l_exp.comparison import Protocol, compare
from l2l_exp.files import write_json
from l2l_exp.optimizees.quadratic import Quadratic
from l2l_exp.optimizers.baseline import Baseline
from l2l_exp.report import frames, studies
from l2l_exp.report.summary import summarize
from l2l_exp.tuning import TuningCache

STUDY = {"title": "A title", "question": "A question?", "charts": {}}
DIVERGES = 1e8
"""A learning rate with which no problem survives."""


@dataclasses.dataclass(frozen=True)
class Planned:
    """One run that is to lie in a folder: its rule is gradient descent with a rate of its own."""

    seed: int
    overrides: tuple[str, ...] = ()
    rate: float = 0.05
    status: str = "FINISHED"
    error: str | None = None
    stepwise: bool = True  # steps.parquet beside curves.parquet
    evaluation_seed: int = 2
    horizon: int = 4

    @property
    def run_id(self) -> str:
        words = ("run", *self.overrides, f"{self.rate:g}", str(self.seed))
        return "-".join(words).replace("=", "-")


@functools.cache
def compared(one: Planned) -> tuple[dict[str, Any], pd.DataFrame]:
    """Summary and curves of a run: a real comparison on twelve problems."""
    rules = {
        "learned": Baseline(torch.optim.SGD, lr=one.rate * (1 + 0.1 * one.seed)),
        "sgd": Baseline(torch.optim.SGD, search=(0.001, 0.01)),
    }
    protocol = Protocol(one.horizon, 12, 2, one.evaluation_seed, {})
    learned, *baselines = compare(Quadratic(2), rules, protocol, TuningCache(None))
    about = {"run_id": one.run_id, "optimizee": "quadratic", "optimizer": "sgd", "seed": one.seed}
    summary = summarize(about, learned, baselines) | {"cost": {"seconds": 3.0}}
    return summary, frames.curves(one.run_id, one.seed, learned, baselines)


def write_run(folder: Path, one: Planned) -> None:
    """What a run leaves in its folder, as far as reports read it."""
    folder.mkdir(parents=True)
    evaluation = {"seed": one.evaluation_seed, "horizon": one.horizon}
    record = {
        "run_id": one.run_id, "status": one.status, "error": one.error, "seconds": 60.0,
        "commit": "0123456789abcdef", "overrides": [f"seed={one.seed}", *one.overrides],
        "config": {"seed": one.seed, "optimizee": {"dimension": 2}, "evaluation": evaluation},
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(record))
    if one.status == "FINISHED":
        summary, curves = compared(one)
        write_json(folder / "summary.json", summary)
        curves.to_parquet(folder / "curves.parquet")
        if one.stepwise:
            studies.by_step(curves).to_parquet(folder / "steps.parquet")


def write_multirun(
    parent: Path,
    name: str,
    runs: Sequence[Planned],
    jobs: int | None = None,
    overrides: Sequence[str] = (),
    study: Mapping[str, Any] = STUDY,
) -> Path:
    """A multirun of a preset in a folder of its own below `parent`."""
    folder = parent / f"{name}-0a1b2c3d"
    folder.mkdir(parents=True)
    sweep = {
        "run_id": f"parent-of-{name}", "command": "train", "study": dict(study), "jobs": jobs,
        "overrides": [f"sweeps={name}", *overrides],
    }  # fmt: skip
    (folder / "sweep.json").write_text(json.dumps(sweep))
    for number, one in enumerate(runs):
        write_run(folder / str(number), one)
    return folder


def seeds(count: int, **changes: Any) -> list[Planned]:
    """Runs that differ by their meta-seed alone."""
    return [Planned(seed, **changes) for seed in range(count)]


def write_store(uri: str, folder: Path) -> str:
    """Copy a multirun's folder into a store, as its runs would have; the parent's id."""
    from l2l_exp.tracking import MlflowTracker

    sweep = json.loads((folder / "sweep.json").read_text())
    parent = MlflowTracker(folder, uri, "reports")
    parent.publish(folder / "sweep.json")
    parent.params({"command": sweep["command"], "overrides": " ".join(sweep["overrides"])})
    parent.tags({"sweeps": folder.name.rpartition("-")[0]})
    for path in sorted(one for one in folder.iterdir() if one.name.isdigit()):
        record = json.loads((path / "run.json").read_text())
        run = MlflowTracker(path, uri, "reports", parent=parent.run_id)
        run.tags({"overrides": json.dumps(record["overrides"]), "git.commit": record["commit"]})
        evaluation = record["config"]["evaluation"]
        run.params({"seed": record["config"]["seed"], "optimizee.dimension": 2})
        run.params({f"evaluation.{name}": value for name, value in evaluation.items()})
        run.metrics({"wall_seconds": record["seconds"]}, 0)
        for name in ("summary.json", "curves.parquet", "steps.parquet"):
            if (path / name).is_file():
                run.publish(path / name)
        run.finish(record["status"])
    parent.finish("FINISHED")
    return parent.run_id
