"""Start-up: what the commands and the imports cost before anything is done, each in a process."""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from benchmarks import measure
from benchmarks.measure import Call, Part, Result

HELP, BARE = "l2l-train --help", "python -c pass"
WEIGHT = "torch.nn.Parameter(torch.zeros(9))"
ADAMW = f"python -c import torch; torch.optim.AdamW(({WEIGHT},))"
TORCH = "python -c import torch"
RULE = "python -c import torch; from l2l_exp.dropin.load import find; find('robust')"
BUNDLED = f"python -c import torch, l2l_exp; l2l_exp.load_optimizer('robust', ({WEIGHT},))"
SCRIPTS = Path(sys.executable).parent


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    commands: tuple[str, ...] = (
        BARE,
        HELP,
        "l2l-train --cfg job",
        "l2l-evaluate --help",
        "python -c import l2l_exp.cli",
        "python -c import hydra",
        TORCH,
        RULE,
        ADAMW,
        BUNDLED,
        "python -c import l2l_exp.meta.train",
        "python -c import mlflow",
    )
    rounds: int = 5


TINY = Size(commands=(BARE, HELP, TORCH, RULE, ADAMW, BUNDLED), rounds=1)


def measure_startup(tiny: bool = False) -> Result:
    """Median seconds of every command, from a folder of its own."""
    size = TINY if tiny else Size()
    with tempfile.TemporaryDirectory() as folder:
        calls = {command: _call(command, folder) for command in size.commands}
        seconds = measure.interleaved(calls, size.rounds)
    medians = {command: measure.median(values) for command, values in seconds.items()}
    claims = [
        measure.claim(f"{HELP}: seconds", medians[HELP], "at most", 1.0),
        _more("a bundled rule loaded: seconds more than torch", seconds[RULE], seconds[TORCH]),
        _more("its optimizer: seconds more than AdamW", seconds[BUNDLED], seconds[ADAMW]),
    ]
    return {"seconds": medians, "claims": claims}


def _more(what: str, ours: Sequence[float], theirs: Sequence[float]) -> dict[str, object]:
    """The claim that one command takes little longer than another, round by round."""
    more = measure.median([one - other for one, other in zip(ours, theirs, strict=True)])
    return measure.claim(what, max(0.0, more), "at most", 0.5)


def _call(command: str, folder: str) -> Call:
    """Run a command of this environment; what follows -c is one argument."""
    name, *rest = command.split(" ", 2) if " -c " in command else command.split()
    program = sys.executable if name == "python" else str(SCRIPTS / name)

    def run() -> None:
        subprocess.run([program, *rest], cwd=folder, check=True, stdout=subprocess.DEVNULL)

    return run


def tables(result: Result) -> list[Table]:
    """One row per command."""
    table = Table(title="Start-up, in fresh processes")
    table.add_column("command")
    table.add_column("seconds", justify="right")
    for command, seconds in result["seconds"].items():
        table.add_row(command, f"{seconds:.2f}")
    return [table]


PART = Part(measure_startup, tables)
