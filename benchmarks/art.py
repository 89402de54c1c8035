"""Neural art: a rule's whole run on one picture, its time and memory, in fresh processes."""

import time
from dataclasses import dataclass

import torch
from rich.table import Table

from benchmarks import measure
from benchmarks.measure import Part, Result
from l2l_exp.evaluation import snapshots
from l2l_exp.optimizees.art import NeuralArt
from l2l_exp.optimizees.contents import read_contents
from l2l_exp.optimizees.features import RandomFeatures
from l2l_exp.optimizees.seeding import Seed
from l2l_exp.optimizers.lstm import CoordinatewiseLSTM


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    pixels: tuple[int, ...] = (64, 128)
    steps: int = 128
    threads: tuple[int, ...] = measure.THREADS


TINY = Size(pixels=(8,), steps=2, threads=(1,))


def measure_art(tiny: bool = False) -> Result:
    """Seconds and memory of one run of an untrained rule, by size of the picture and threads."""
    size = TINY if tiny else Size()
    rows = [
        measure.in_fresh_process(
            "benchmarks.art", "run", {"pixels": pixels, "steps": size.steps, "threads": threads}
        )
        for pixels in size.pixels
        for threads in size.threads
    ]
    largest = rows[-1]
    what = f"{size.steps} steps at {largest['coordinates']} coordinates"
    claims = [
        measure.claim(f"{what}: seconds", largest["seconds"], "at most", 120),
        measure.claim(f"{what}: MB of the process", largest["process_mb"], "at most", 2500),
    ]
    return {"steps": size.steps, "rows": rows, "claims": claims}


def run(pixels: int, steps: int, threads: int) -> dict[str, float]:
    """What a fresh process does: all steps on one problem, after two to warm up."""
    torch.set_num_threads(threads)
    optimizee = NeuralArt(read_contents(), RandomFeatures(), "retina", pixels)
    rule, seed = CoordinatewiseLSTM(), Seed("test", 0)
    snapshots(optimizee, rule, [0], seed, 2, [2])
    start = time.perf_counter()
    peak = measure.peak_memory(lambda: snapshots(optimizee, rule, [0], seed, steps, [steps]))
    return {
        "coordinates": optimizee.spec.size,
        "threads": threads,
        "seconds": time.perf_counter() - start,
        "process_mb": peak.process,
    }


def tables(result: Result) -> list[Table]:
    """One row per process."""
    table = Table(title=f"Neural art: {result['steps']} steps of an LSTM on one picture")
    for title in ("coordinates", "threads", "seconds", "MB of the process"):
        table.add_column(title, justify="right")
    for row in result["rows"]:
        table.add_row(
            f"{row['coordinates']:,}",
            str(row["threads"]),
            f"{row['seconds']:.2f}",
            f"{row['process_mb']:.0f}",
        )
    return [table]


PART = Part(measure_art, tables)
