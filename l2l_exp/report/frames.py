"""Tidy tables of evaluation records: what every figure is a function of."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from l2l_exp.comparison import Contender
from l2l_exp.evaluation import EvalRecord

SCHEMA_VERSION = 1
METRICS = ("train_loss", "held_out_loss", "held_out_accuracy", "suboptimality")
COLUMNS = (
    "schema_version", "run_id", "seed", "rule", "kind", "tuned_for", "lr", "problem", "step",
    "loss", "running_mean", *METRICS, "status",
)  # fmt: skip


def curves(
    run_id: str,
    seed: int,
    learned: Contender,
    baselines: Sequence[Contender],
    references: Sequence[Contender] = (),
) -> pd.DataFrame:
    """One row per rule, learning rate, problem and recorded step.

    Columns: `schema_version`; `run_id`; `seed`, the meta-seed; `rule`; `kind`, "learned",
    "baseline" or "reference", whose steps are evaluations; `tuned_for`, the criteria its learning
    rate was tuned for, joined by "+", empty for rules without one; `lr`; `problem`; `step`; `loss`,
    minibatch loss at that step; `running_mean` of the losses at steps 1..step; the metrics, missing
    where not taken; `status` of the problem at the end.
    """
    frames = []
    kinds = {"learned": [learned], "baseline": baselines, "reference": references}
    for kind, contenders in kinds.items():
        for one in contenders:
            for record, tuned_for in _records(one):
                frame = _frame(record)
                frame["rule"], frame["kind"], frame["tuned_for"] = one.name, kind, tuned_for
                frames.append(frame)
    table = pd.concat(frames, ignore_index=True)
    table["schema_version"], table["run_id"], table["seed"] = SCHEMA_VERSION, run_id, seed
    names = ["run_id", "rule", "kind", "tuned_for", "status"]
    table[names] = table[names].astype("category")
    return table[list(COLUMNS)]


def read_curves(path: Path) -> pd.DataFrame:
    """Read a curves table.

    Raises:
        ValueError: if it was written by a newer l2l_exp.
    """
    table = pd.read_parquet(path)
    if len(table) and table["schema_version"].iloc[0] > SCHEMA_VERSION:
        raise ValueError(
            f"{path} has schema_version {table['schema_version'].iloc[0]}; this l2l_exp reads up "
            f"to {SCHEMA_VERSION}: use a newer one"
        )
    return table


def _records(one: Contender) -> list[tuple[EvalRecord, str]]:
    """Each different run of a contender, with the criteria it was tuned for."""
    if one.tuned is None:
        return [(next(iter(one.records.values())), "")]
    by_rate: dict[float | None, tuple[EvalRecord, list[str]]] = {}
    for criterion, record in one.records.items():
        by_rate.setdefault(record.lr, (record, []))[1].append(criterion)
    return [(record, "+".join(criteria)) for record, criteria in by_rate.values()]


def _frame(record: EvalRecord) -> pd.DataFrame:
    """One run as rows (step, problem)."""
    steps, problems = len(record.steps), len(record.problems)
    with np.errstate(over="ignore"):  # beyond single precision: infinite
        loss, running_mean = record.loss.astype(np.float32), record.running_mean.astype(np.float32)
    columns = {
        "step": np.repeat(record.steps.astype(np.int32), problems),
        "problem": np.tile(record.problems.astype(np.int32), steps),
        "loss": loss.ravel(),
        "running_mean": running_mean.ravel(),
        "lr": np.float64(np.nan if record.lr is None else record.lr),
        "status": np.tile(record.status, steps),
    }
    place = np.searchsorted(record.steps, record.metric_steps)
    for name in METRICS:
        values = np.full((steps, problems), np.nan, dtype=np.float32)
        if name in record.metrics:
            with np.errstate(over="ignore"):
                values[place] = record.metrics[name]
        columns[name] = values.ravel()
    return pd.DataFrame(columns)
