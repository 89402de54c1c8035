"""One meta-training window against a plain port: time, peak memory, and the gradient itself."""

from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table

from benchmarks import measure
from benchmarks.measure import Part, Result
from benchmarks.port import PortGradient
from benchmarks.problems import image_mlp, mean_cosine, window_of
from l2l_exp.meta.gradients import Backprop, MetaGradient, Replay
from l2l_exp.optimizers.lstm import CoordinatewiseLSTM

PORT, AUTOGRAD, EXACT = "plain port", "autograd, first order", "replay, exact"


@dataclass(frozen=True)
class Size:
    """How much is measured; the default window is that of the paper's MNIST experiment."""

    side: int = 28
    hidden_units: int = 20
    steps: int = 20
    rounds: int = 7
    draws: int = 10
    subsets: tuple[int, ...] = (4096, 1024)
    threads: tuple[int, ...] = measure.THREADS


TINY = Size(side=8, hidden_units=20, steps=3, rounds=1, draws=2, subsets=(16,), threads=(1,))


def estimators(size: Size) -> dict[str, MetaGradient]:
    """By name; the first is what the others are compared with."""
    subsets = {f"replay, {count} coordinates": Replay(subset=count) for count in size.subsets}
    return {PORT: PortGradient(), AUTOGRAD: Backprop(order=1), EXACT: Replay(), **subsets}


def measure_window(tiny: bool = False) -> Result:
    """Time and memory by number of threads, agreement, and what bounds them."""
    size = TINY if tiny else Size()
    by_threads = {str(count): _costs(size, count) for count in size.threads}
    agreement = {
        "max_relative_error_float64": _error(size, torch.float64),
        "max_relative_error_float32": _error(size, torch.float32),
        "cosine_of_subset_first_window": _cosines(size, 0),
        "cosine_of_subset_second_window": _cosines(size, size.steps),
    }
    coordinates = image_mlp(size.side, size.hidden_units).spec.size
    return {
        "coordinates": coordinates,
        "steps": size.steps,
        "threads": by_threads,
        **agreement,
        "claims": _claims(by_threads, agreement, f"replay, {size.subsets[-1]} coordinates"),
    }


def _costs(size: Size, count: int) -> dict[str, dict[str, float]]:
    """Seconds and megabytes of a window by every estimator, and their ratios to the port's."""
    optimizee, rule = image_mlp(size.side, size.hidden_units), CoordinatewiseLSTM()
    calls = {
        name: window_of(gradient, optimizee, rule, size.steps)
        for name, gradient in estimators(size).items()
    }
    with measure.threads(count):
        seconds = measure.interleaved(calls, size.rounds)
    peaks = {name: _fresh_peak(size, name, count) for name in calls}
    return {
        name: {
            "seconds": measure.median(seconds[name]),
            "time_ratio": measure.ratio(seconds[name], seconds[PORT]),
            "peak_mb": peaks[name],
            "memory_ratio": peaks[name] / peaks[PORT],
        }
        for name in calls
    }


def _fresh_peak(size: Size, name: str, count: int) -> float:
    """Peak memory of a window in a process of its own, above what it held before: megabytes."""
    arguments = {**vars(size), "name": name, "count": count}
    return float(measure.in_fresh_process("benchmarks.window", "peak", arguments))


def peak(name: str, count: int, **fields: Any) -> float:
    """What a fresh process does: a tiny window loads the libraries, the next one is measured."""
    torch.set_num_threads(count)
    size, rule = Size(**fields), CoordinatewiseLSTM()
    gradient = estimators(size)[name]
    window_of(gradient, image_mlp(8, 2), rule, 3)()
    call = window_of(gradient, image_mlp(size.side, size.hidden_units), rule, size.steps)
    return measure.peak_memory(call).increase


def _error(size: Size, dtype: torch.dtype) -> float:
    """Between exact replay's and the port's gradient: the worst meta-parameter tensor's largest
    difference, over that tensor's largest entry.
    """
    optimizee = image_mlp(size.side, size.hidden_units).to(dtype)
    rule = CoordinatewiseLSTM().to(dtype)
    ours, theirs = (
        window_of(gradient, optimizee, rule, size.steps)().grads
        for gradient in (Replay(), PortGradient())
    )
    pairs = zip(ours, theirs, strict=True)
    return max(((one - other).abs().max() / other.abs().max()).item() for one, other in pairs)


def _cosines(size: Size, before: int) -> dict[str, float]:
    """By size of the subset, in a window after so many inner steps."""
    optimizee, rule = image_mlp(size.side, size.hidden_units), CoordinatewiseLSTM()
    return {
        str(subset): mean_cosine(
            optimizee, rule, subset, size.draws, steps=size.steps, before=before
        )
        for subset in size.subsets
    }


def _claims(
    by_threads: dict[str, Any], agreement: dict[str, Any], subset: str
) -> list[dict[str, object]]:
    """What is promised of exact replay and of the smallest subset."""
    claims = []
    for count, costs in by_threads.items():
        with_threads = f"over the plain port's, {count} threads"
        claims += [
            measure.claim(
                f"exact replay: time {with_threads}", costs[EXACT]["time_ratio"], "at most", 1.2
            ),
            measure.claim(
                f"exact replay: peak memory {with_threads}",
                costs[EXACT]["memory_ratio"],
                "at most",
                1 / 3,
            ),
            measure.claim(
                f"{subset}: time {with_threads}", costs[subset]["time_ratio"], "at most", 1 / 3
            ),
        ]
    error = agreement["max_relative_error_float64"]
    return [
        *claims,
        measure.claim("exact replay: gradient's relative error, float64", error, "at most", 1e-5),
    ]


def tables(result: Result) -> list[Table]:
    """One row per estimator and number of threads."""
    table = Table(title=f"One window: {result['coordinates']} coordinates, {result['steps']} steps")
    table.add_column("estimator", no_wrap=True)
    for title in ("threads", "seconds", "ratio", "peak MB", "ratio"):
        table.add_column(title, justify="right")
    for count, costs in result["threads"].items():
        for name, row in costs.items():
            time = (f"{row['seconds']:.3f}", f"{row['time_ratio']:.2f}")
            memory = (f"{row['peak_mb']:.0f}", f"{row['memory_ratio']:.2f}")
            table.add_row(name, count, *time, *memory)
    cosines = [
        f"{window} window "
        + ", ".join(
            f"{cosine:.2f} with {count}"
            for count, cosine in result[f"cosine_of_subset_{window}_window"].items()
        )
        for window in ("first", "second")
    ]
    table.caption = (
        f"gradient against the port's: relative error {result['max_relative_error_float64']:.0e} "
        f"in float64, {result['max_relative_error_float32']:.0e} in float32; "
        f"cosine of a subset's with the exact one: {'; '.join(cosines)} (untrained rule)"
    )
    return [table]


PART = Part(measure_window, tables)
