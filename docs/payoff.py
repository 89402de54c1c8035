"""When training a rule pays off: the table of docs/guide.md, from the folders of finished runs.

Run from the repository: python docs/payoff.py RUN_FOLDER ... (one run per meta-seed). A use is one
problem. What tuning the baselines cost is left out, to their advantage.
"""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

STEPS = (5, 10, 20, 40, 60, 100)


class Row(NamedTuple):
    """What a rule has reached after some steps, and what tuned baselines needed for that."""

    step: int
    loss: float  # median over problems
    seconds: float
    their_loss: float  # the lowest of a baseline after the same seconds
    their_seconds: float  # the fewest of a baseline to the same loss
    reached: bool  # by one of them; if not, these are the fewest seconds that all their steps take
    uses: float  # problems until what each saves is what training cost; infinite if none does


def payoff(
    summary: Mapping[str, Any], curves: pd.DataFrame, steps: Sequence[int] = STEPS
) -> list[Row]:
    """One row per step.

    Args:
        summary, curves: of a run that was trained and compared.
        steps: of the learned rule, recorded ones.
    """
    contenders = {**summary["baselines"], "learned": summary["learned"]}
    each = {
        name: one["seconds_per_step"] + one["gradient_seconds_per_step"]
        for name, one in contenders.items()
    }
    table = curves.pivot_table("loss", "step", ["rule", "tuned_for"], "median", observed=True)
    theirs = [(each[name], table[name, tuned]) for name, tuned in table if name in each]
    theirs = [(cost, curve) for cost, curve in theirs if curve.name[0] != "learned"]
    rows = []
    mine = curves[curves["rule"] == "learned"].groupby("step")["loss"].median()
    for step in steps:
        loss, seconds = float(mine[step]), step * each["learned"]
        meanwhile = min(
            float(curve[curve.index * cost <= seconds].iloc[-1]) for cost, curve in theirs
        )
        needed = [cost * curve.index[curve <= loss].min() for cost, curve in theirs]
        reached = [time for time in needed if math.isfinite(time)]
        least = min(reached or [cost * curve.index[-1] for cost, curve in theirs])
        saved = least - seconds
        uses = summary["cost"]["seconds"] / saved if saved > 0 else math.inf
        rows.append(Row(step, loss, seconds, meanwhile, least, bool(reached), uses))
    return rows


def main(folders: Sequence[str]) -> None:
    """Print the table as markdown: medians over the runs."""
    runs = []
    for folder in map(Path, folders):
        summary = json.loads((folder / "summary.json").read_text())
        runs.append(payoff(summary, pd.read_parquet(folder / "curves.parquet")))
    print("| step | loss | ms | a baseline's loss by then | its ms to the same loss | pays after |")
    print("|---|---|---|---|---|---|")
    for rows in zip(*runs, strict=True):
        one = Row(*np.median(np.array(rows, dtype=float), axis=0))
        more, less = ("", "") if one.reached else ("> ", "< ")
        unknown = "never" if one.reached else "not known"
        uses = f"{less}{one.uses:,.0f} uses" if math.isfinite(one.uses) else unknown
        print(
            f"| {one.step:.0f} | {one.loss:.3g} | {1e3 * one.seconds:.0f} | {one.their_loss:.3g} "
            f"| {more}{1e3 * one.their_seconds:.0f} | {uses} |"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
