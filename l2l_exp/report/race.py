"""Meta-training as a race: how long each condition took to a common validation loss."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from l2l_exp.report.aggregation import line, number

COLUMNS = (
    "condition", "seed", "run_id", "seconds", "best_validation", "level", "seconds_to_level",
    "microseconds_per_step", "state_bytes_per_coordinate",
)  # fmt: skip
HEAD = (
    "condition", "seconds to the level, each meta-seed", "best validation loss, each meta-seed",
    "seconds trained", "microseconds per step", "state bytes per coordinate",
)  # fmt: skip
NOTE = """\
The level is the median over all runs of the best finite validation loss that a run had. A run that
never came to it is censored: "> 60" says that it had not after 60 seconds of meta-training,
validations included. Costs are medians over meta-seeds.
"""


def row_of(summary: Mapping[str, Any], condition: str) -> dict[str, Any] | None:
    """What one run's summary.json tells of its training; None where there was none.

    Args:
        summary: as a run of l2l-train writes it; without an evaluation there is no cost.
        condition: what tells the run apart besides its meta-seed.
    """
    validations = summary.get("validations")
    if not validations:
        return None
    learned = summary.get("learned") or {}
    return {
        "condition": condition,
        "seed": summary["seed"],
        "run_id": summary["run_id"],
        "validated": summary.get("validated"),
        "validations": [(one["seconds"], number(one["loss"], math.inf)) for one in validations],
        "microseconds_per_step": 1e6 * learned.get("seconds_per_step", math.nan),
        "state_bytes_per_coordinate": learned.get("state_bytes_per_coordinate", math.nan),
    }


def table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame | None:
    """One line per run with COLUMNS.

    Args:
        rows: as `row_of` makes them.

    Returns:
        `level` is the median of the runs' best validation losses, of those that are finite;
        `seconds_to_level` the seconds of meta-training at the first validation that was at or
        below it, infinite for a run that never came there (censored at its `seconds`). None where
        there is nothing to compare: a single condition, no finite loss, or losses that do not
        mean the same in all runs.
    """
    one_meaning = len({row["validated"] for row in rows}) == 1
    bests = [min(loss for _, loss in row["validations"]) for row in rows]
    finite = [best for best in bests if math.isfinite(best)]
    if len({row["condition"] for row in rows}) < 2 or not one_meaning or not finite:
        return None
    level = float(np.median(finite))
    told = [
        {
            **row,
            "seconds": row["validations"][-1][0],
            "best_validation": best,
            "level": level,
            "seconds_to_level": next(
                (seconds for seconds, loss in row["validations"] if loss <= level), math.inf
            ),
        }
        for row, best in zip(rows, bests, strict=True)
    ]
    return pd.DataFrame(told, columns=list(COLUMNS))


def as_text(runs: pd.DataFrame) -> str:
    """Tell in Markdown what `table` made: a line per condition."""
    level = runs["level"].iloc[0]
    lines = [HEAD, ["---"] * len(HEAD)]
    for condition, group in runs.groupby("condition", sort=False):
        ordered = group.sort_values("seed", kind="stable")
        lines.append(
            (
                str(condition) or "all",
                ", ".join(map(_reached, ordered["seconds_to_level"], ordered["seconds"])),
                ", ".join(f"{value:.4g}" for value in ordered["best_validation"]),
                f"{ordered['seconds'].median():.0f}",
                f"{ordered['microseconds_per_step'].median():.0f}",
                f"{ordered['state_bytes_per_coordinate'].median():.0f}",
            )
        )
    told = "".join(map(line, lines))
    return f"# Meta-training to a validation loss of {level:.4g}\n\n{NOTE}\n{told}"


def found(rows: Iterable[Mapping[str, Any] | None]) -> list[Mapping[str, Any]]:
    """Those of the rows that there are."""
    return [row for row in rows if row is not None]


def _reached(seconds: float, trained: float) -> str:
    """Seconds to the level, or the bound that is known of them."""
    return f"{seconds:.0f}" if math.isfinite(seconds) else f"> {trained:.0f}"
