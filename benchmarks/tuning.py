"""Tuning a baseline: the whole grid of learning rates in one run against one rate at a time."""

from dataclasses import dataclass

import torch
from rich.table import Table

from benchmarks import measure
from benchmarks.measure import Part, Result
from benchmarks.problems import image_mlp
from l2l_exp.optimizees.base import Optimizee
from l2l_exp.optimizees.quadratic import Quadratic
from l2l_exp.optimizees.seeding import Seed
from l2l_exp.optimizers.baseline import Baseline
from l2l_exp.tuning import Tuned, tune

SEED = Seed("validation", 0)


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    problems: int = 8
    horizon: int = 100
    side: int = 8
    rounds: int = 3


TINY = Size(problems=2, horizon=3, side=4, rounds=1)


def measure_tuning(tiny: bool = False) -> Result:
    """Seconds of both ways on two small optimizees, Adam; one thread."""
    size = TINY if tiny else Size()
    adam = Baseline(torch.optim.Adam, search=(0.003, 0.3))
    optimizees: dict[str, Optimizee] = {
        "quadratic": Quadratic(10),
        f"mlp, {size.side}x{size.side} images": image_mlp(size.side),
    }
    with measure.threads(1):
        rows = {name: _costs(size, optimizee, adam) for name, optimizee in optimizees.items()}
    return {"problems": size.problems, "horizon": size.horizon, "optimizees": rows, "claims": []}


def _costs(size: Size, optimizee: Optimizee, baseline: Baseline) -> dict[str, object]:
    """Seconds of the grid in one run, and of the same rates one after the other."""
    problems = range(size.problems)

    def together() -> Tuned:
        return tune(optimizee, baseline, problems, SEED, size.horizon)

    rates = sorted({rate for table in together().scores.values() for rate in table})

    def apart() -> list[Tuned]:
        rules = [baseline.with_rates([rate]) for rate in rates]
        return [tune(optimizee, rule, problems, SEED, size.horizon) for rule in rules]

    seconds = measure.interleaved({"together": together, "apart": apart}, size.rounds)
    return {
        "rates": len(rates),
        "seconds_together": measure.median(seconds["together"]),
        "seconds_apart": measure.median(seconds["apart"]),
        "ratio": measure.ratio(seconds["together"], seconds["apart"]),
    }


def tables(result: Result) -> list[Table]:
    """One row per optimizee."""
    title = f"Tuning Adam: {result['problems']} problems, {result['horizon']} steps, 1 thread"
    table = Table(title=title)
    table.add_column("optimizee")
    for heading in ("rates", "seconds, one run", "seconds, one at a time", "ratio"):
        table.add_column(heading, justify="right")
    for name, row in result["optimizees"].items():
        cells = [f"{row[key]:.2f}" for key in ("seconds_together", "seconds_apart", "ratio")]
        table.add_row(name, str(row["rates"]), *cells)
    return [table]


PART = Part(measure_tuning, tables)
