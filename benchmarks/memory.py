"""Memory of meta-training against the number of coordinates, each in a process of its own."""

import time
from dataclasses import dataclass

import torch
from rich.table import Table

from benchmarks import measure
from benchmarks.measure import Part, Result
from benchmarks.problems import image_mlp, window_of
from l2l_exp.meta.gradients import Replay
from l2l_exp.optimizers.lstm import CoordinatewiseLSTM


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    hidden_units: tuple[int, ...] = (1, 12, 126, 1258)  # 10^3 to 10^6 coordinates
    steps: int = 20
    subset: int = 1024


TINY = Size(hidden_units=(1,), steps=2, subset=16)


def measure_memory(tiny: bool = False) -> Result:
    """Memory and seconds of one window, exact and with a subset, by number of coordinates."""
    size = TINY if tiny else Size()
    rows = [
        measure.in_fresh_process(
            "benchmarks.memory",
            "window",
            {"hidden_units": hidden_units, "steps": size.steps, "subset": subset},
        )
        for hidden_units in size.hidden_units
        for subset in (None, size.subset)
    ]
    largest = rows[-1]
    what = f"subset of {size.subset}: MB of the process at {largest['coordinates']} coordinates"
    claims = [measure.claim(what, largest["process_mb"], "at most", 2500)]
    return {"steps": size.steps, "rows": rows, "claims": claims}


def window(hidden_units: int, steps: int, subset: int | None) -> dict[str, float | None]:
    """What a fresh process does: a window in the middle of an episode, after a tiny one."""
    torch.set_num_threads(1)  # memory does not depend on it, and time less on who else is there
    rule, gradient = CoordinatewiseLSTM(), Replay(subset=subset)
    window_of(gradient, image_mlp(8, 2), rule, 3)()
    optimizee = image_mlp(28, hidden_units)
    call = window_of(gradient, optimizee, rule, steps, before=1)
    start = time.perf_counter()
    peak = measure.peak_memory(call)
    return {
        "coordinates": optimizee.spec.size,
        "subset": subset,
        "window_mb": peak.increase,
        "process_mb": peak.process,
        "seconds": time.perf_counter() - start,
        "threads": torch.get_num_threads(),
    }


def tables(result: Result) -> list[Table]:
    """One row per process."""
    table = Table(title=f"Memory of one window of {result['steps']} steps in MB, 1 thread")
    for title in ("coordinates", "replayed", "window", "whole process", "seconds"):
        table.add_column(title, justify="right")
    for row in result["rows"]:
        table.add_row(
            f"{row['coordinates']:,}",
            "all" if row["subset"] is None else str(row["subset"]),
            f"{row['window_mb']:.0f}",
            f"{row['process_mb']:.0f}",
            f"{row['seconds']:.2f}",
        )
    return [table]


PART = Part(measure_memory, tables)
