"""Measure what README and CHANGELOG say about speed: python -m benchmarks [part ...] [json path].

Parts: window, step, rules, memory, history, tuning, art, startup, training, estimators, report,
dropin; all of them by default.
What counts is ratios: everything is measured side by side, in rounds that take turns.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from rich.console import Console
from rich.table import Table

from benchmarks import (
    art,
    dropin,
    estimators,
    history,
    measure,
    memory,
    report,
    rules,
    startup,
    step,
    training,
    tuning,
    window,
)
from benchmarks.measure import Part, Result

PARTS: Mapping[str, Part] = MappingProxyType(
    {
        "window": window.PART,
        "step": step.PART,
        "rules": rules.PART,
        "memory": memory.PART,
        "history": history.PART,
        "tuning": tuning.PART,
        "art": art.PART,
        "startup": startup.PART,
        "training": training.PART,
        "estimators": estimators.PART,
        "report": report.PART,
        "dropin": dropin.PART,
    }
)


def main(arguments: Sequence[str], *, tiny: bool = False) -> Path:
    """Measure, print tables, and write one JSON file.

    Args:
        arguments: names of parts, all if there is none, and at most one path that ends in .json
            (outputs/benchmarks.json if there is none).
        tiny: show only that it runs.

    Returns:
        The file: `machine`, and by part its figures, its `claims` and the seconds it took.

    Raises:
        SystemExit: for an argument that is neither a part nor a path.
    """
    paths = [argument for argument in arguments if argument.endswith(".json")]
    names = [argument for argument in arguments if argument not in paths] or list(PARTS)
    unknown = [name for name in names if name not in PARTS]
    if unknown or len(paths) > 1:
        raise SystemExit(
            f"{' '.join(unknown or paths)}: name parts of {', '.join(PARTS)}, one path"
        )
    console = Console()
    results: Result = {"machine": measure.machine()}
    for name in names:
        start = time.perf_counter()
        results[name] = PARTS[name].measure(tiny)
        results[name]["seconds_of_benchmark"] = time.perf_counter() - start
        for table in [*PARTS[name].tables(results[name]), *_claims(results[name])]:
            console.print(table)
    path = Path(paths[0] if paths else "outputs/benchmarks.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n")
    console.print(f"{path} ({results['machine']['cpu']}, torch {results['machine']['torch']})")
    return path


def _claims(result: Result) -> list[Table]:
    """What is promised, and whether it holds here."""
    if not result["claims"]:
        return []
    table = Table(title="promised")
    table.add_column("what")
    for heading in ("measured", "bound", "holds"):
        table.add_column(heading, justify="right")
    for claim in result["claims"]:
        bound = f"{claim['bound']} {claim['limit']:.4g}"
        holds = "yes" if claim["holds"] else "NO"
        table.add_row(claim["what"], f"{claim['value']:.4g}", bound, holds)
    return [table]


if __name__ == "__main__":
    main(sys.argv[1:])
