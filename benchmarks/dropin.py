"""Bundled rules in a training loop against torch's own AdamW: time and memory of a step."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich.table import Table
from torch.optim import Optimizer

from benchmarks import measure
from benchmarks.measure import Call, Part, Result
from l2l_exp.dropin import load_optimizer
from l2l_exp.source import bundled_rules

ADAMW = "adamw"
SIDE = 256
"""Rows and columns of the matrices that large models are made of here; small ones are a square."""
PERIOD = 10
"""Steps after which a rule does again what it does now and then; twice as many come untimed."""


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    parameters: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
    weighed: int = 100_000  # from so many on, peak memory
    largest: int = 1_000_000  # that a rule is timed at whose period must be walked through
    share: float = 0.4  # of the machine's memory that a rule's peak may take
    rounds: int = 3
    long: int = 1_000_000  # from so many on, one round


TINY = Size(parameters=(10, 20), weighed=20, largest=20, rounds=1)


def measure_dropin(tiny: bool = False) -> Result:
    """By rule and number of parameters: microseconds per step, megabytes, ratios to AdamW's."""
    size = TINY if tiny else Size()
    rules = [ADAMW, *bundled_rules()]
    rows = []
    with measure.threads(1):
        for count in size.parameters:
            fitting = [rule for rule in rules if _fits(rule, count, size)]
            calls = {rule: _steps(rule, count) for rule in fitting}
            seconds = measure.interleaved(calls, size.rounds if count < size.long else 1)
            for rule in fitting:
                per_step = [s / _taken(rule, count) for s in seconds[rule]]
                base = [s / _taken(ADAMW, count) for s in seconds[ADAMW]]
                weighed = count >= size.weighed
                rows.append(
                    {
                        "rule": rule,
                        "parameters": count,
                        "microseconds": 1e6 * measure.median(per_step),
                        "ratio": measure.ratio(per_step, base),
                        "megabytes": _peak(rule, count) if weighed else None,
                    }
                )
            calls.clear()
    for row in rows:
        base_row = next(r for r in rows if r["parameters"] == row["parameters"])
        both = row["megabytes"] is not None and base_row["megabytes"]
        row["memory_ratio"] = row["megabytes"] / base_row["megabytes"] if both else None
    return {"rows": rows, "claims": []}


def _fits(rule: str, count: int, size: Size) -> bool:
    """Whether a rule is measured at a size: it fits, and its period does not take minutes."""
    if rule == ADAMW:
        return True
    small = _optimizer(rule, _parameters(1_000))
    small.step()
    state = sum(x.nbytes for x in _tensors(small.state_dict()["state"])) / 1_000
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    fits = 2 * state * count <= size.share * memory  # the old state and the new one
    return fits and (count <= size.largest or not _has_period(rule))


def _has_period(rule: str) -> bool:
    """Whether a rule does something only every few steps."""
    modules = _optimizer(rule, _parameters(10)).rule.modules()  # type: ignore[attr-defined]
    return any(hasattr(module, "every") for module in modules)


def _taken(rule: str, count: int) -> int:
    """Steps that one timing takes."""
    if rule != ADAMW and _has_period(rule):
        return PERIOD
    return max(1, 100_000 // count)


def _parameters(count: int) -> list[torch.nn.Parameter]:
    """So many parameters with gradients, in square matrices, all but those that are left over."""
    side = min(SIDE, int(count**0.5))
    squares, rest = divmod(count, side * side)
    shapes: list[tuple[int, ...]] = [(side, side)] * squares + ([(rest,)] if rest else [])
    rng = torch.Generator().manual_seed(0)
    made = [torch.nn.Parameter(torch.randn(shape, generator=rng)) for shape in shapes]
    for parameter in made:
        parameter.grad = torch.randn(parameter.shape, generator=rng)
    return made


def _optimizer(rule: str, parameters: Sequence[torch.nn.Parameter]) -> Optimizer:
    """AdamW, or a bundled rule."""
    if rule == ADAMW:
        return torch.optim.AdamW(parameters, lr=1e-9)
    named = [(str(place), parameter) for place, parameter in enumerate(parameters)]
    return load_optimizer(rule, named, lr=1e-9, horizon=measure.HORIZON)


def _steps(rule: str, count: int) -> Call:
    """Take steps, each from the state that the step before it left; the first ones are over."""
    optimizer, taken = _optimizer(rule, _parameters(count)), _taken(rule, count)
    for _ in range(2 * PERIOD if taken == PERIOD else 1):
        optimizer.step()
    return lambda: [optimizer.step() for _ in range(taken)]


def _peak(rule: str, count: int) -> float:
    """Peak megabytes of three steps in a fresh process, above parameters and gradients."""
    arguments = {"rule": rule, "count": count}
    return float(measure.in_fresh_process("benchmarks.dropin", "peak", arguments))


def peak(rule: str, count: int) -> float:
    """The same in this process."""
    _optimizer(rule, _parameters(10)).step()  # what is loaded on the way is not the step's
    parameters = _parameters(count)

    def steps() -> None:
        optimizer = _optimizer(rule, parameters)
        for _ in range(3):
            optimizer.step()

    return measure.peak_memory(steps).increase


def _tensors(content: object) -> list[torch.Tensor]:
    """Every tensor of nested lists and mappings."""
    if isinstance(content, torch.Tensor):
        return [content]
    parts = content.values() if isinstance(content, dict) else content
    if not isinstance(parts, list | tuple) and not isinstance(content, dict):
        return []
    return [tensor for part in parts for tensor in _tensors(part)]


def tables(result: Result) -> list[Table]:
    """One row per rule and size."""
    table = Table(
        title="A step of a bundled rule, one thread: time, and peak memory beside AdamW's"
    )
    table.add_column("rule")
    for heading in ("parameters", "µs", "time / AdamW", "MB", "memory / AdamW"):
        table.add_column(heading, justify="right")
    for row in result["rows"]:
        megabytes, ratio = row["megabytes"], row["memory_ratio"]
        table.add_row(
            row["rule"],
            f"{row['parameters']:,}",
            f"{row['microseconds']:.0f}",
            f"{row['ratio']:.1f}",
            "" if megabytes is None else f"{megabytes:.0f}",
            "" if ratio is None else f"{ratio:.1f}",
        )
    return [table]


PART = Part(measure_dropin, tables)
