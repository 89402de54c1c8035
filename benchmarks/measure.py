"""How things are measured: interleaved rounds, fresh processes, peak memory, bounds."""

import gc
import importlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from rich.table import Table

MEGABYTE = 1e6
ROOT = Path(__file__).parent.parent
THREADS = (1, 2) if (os.cpu_count() or 1) > 1 else (1,)
"""Numbers of threads that are measured: one, and two where there are two cores."""
HORIZON = 10_000
"""More inner steps than any timing of single steps takes."""
Name = TypeVar("Name")
Call = Callable[[], object]
Result = dict[str, Any]
"""What a part found, ready for JSON; `claims` are the figures that have a bound."""


class Part(NamedTuple):
    """One part of the benchmark."""

    measure: Callable[[bool], Result]  # True for a tiny variant, which shows only that it runs
    tables: Callable[[Result], list[Table]]


class Peak(NamedTuple):
    """Memory of a call, in megabytes (1e6 bytes)."""

    increase: float  # peak of the process during the call, above what it held before
    process: float  # peak of the whole process


def interleaved(calls: Mapping[Name, Call], rounds: int) -> dict[Name, list[float]]:
    """Seconds of every call in every round; a round to warm up is not counted.

    A machine whose speed drifts, or that is shared, treats all calls of a round alike.
    """
    seconds: dict[Name, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: Sequence[float], base: Sequence[float]) -> float:
    """Median over the rounds of a call's seconds over those of another one."""
    return statistics.median(one / other for one, other in zip(seconds, base, strict=True))


def median(seconds: Sequence[float]) -> float:
    """Median, of which a figure in seconds is reported."""
    return statistics.median(seconds)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use so many threads, for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def peak_memory(call: Call) -> Peak:
    """Peak memory of a call; meant for a fresh process in which the libraries are loaded."""
    gc.collect()
    before = _status("VmRSS")
    _forget_peak()
    call()
    peak = _status("VmHWM")
    return Peak(peak - before, peak)


def _status(field: str) -> float:
    """A size of this process in megabytes; on systems without /proc, its peak so far."""
    path = Path("/proc/self/status")
    if not path.exists():
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MEGABYTE
    line = next(line for line in path.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024 / MEGABYTE


def _forget_peak() -> None:
    """Let the peak that the kernel keeps begin at the present size, where that is possible."""
    path = Path("/proc/self/clear_refs")
    if path.exists():
        path.write_text("5")


def in_fresh_process(module: str, function: str, arguments: Mapping[str, object]) -> Any:
    """Call a function of a module of this package in a new Python process.

    Args:
        module: dotted name.
        function: its name; what it returns must be ready for JSON.
        arguments: by name, ready for JSON.

    Raises:
        subprocess.CalledProcessError: if it fails; its message is on standard error.
    """
    command = [sys.executable, "-m", "benchmarks.measure", module, function, json.dumps(arguments)]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def claim(what: str, value: float, bound: str, limit: float) -> dict[str, object]:
    """A figure that is promised: `bound` is "at most" or "at least" the limit."""
    holds = value <= limit if bound == "at most" else value >= limit
    return {"what": what, "value": value, "bound": bound, "limit": limit, "holds": holds}


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }


if __name__ == "__main__":
    chosen = getattr(importlib.import_module(sys.argv[1]), sys.argv[2])
    print(json.dumps(chosen(**json.loads(sys.argv[3]))))
