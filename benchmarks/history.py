"""Memory of NTM-BFGS, dense and with a bounded history, each in a process of its own."""

from dataclasses import dataclass

import torch
from rich.table import Table

from benchmarks import measure
from benchmarks.measure import Part, Result
from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers.base import Observation, state_tensors
from l2l_exp.optimizers.by_hand import BFGSByHand
from l2l_exp.optimizers.ntm_bfgs import NTMBFGS


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    dense: tuple[int, ...] = (1000, 2000, 4000)  # coordinates
    bounded: tuple[int, ...] = (50_000, 100_000, 200_000)
    histories: tuple[int, ...] = (24, 48, 96)
    steps: int = 40


TINY = Size(dense=(20, 40), bounded=(20, 40), histories=(3, 6), steps=2)


def measure_history(tiny: bool = False) -> Result:
    """Bytes of the state and memory of the process, by coordinates and by history."""
    size = TINY if tiny else Size()
    cases = [(n, None) for n in size.dense]
    cases += [(n, size.histories[-1]) for n in size.bounded]
    cases += [(size.bounded[-1], history) for history in size.histories[:-1]]
    rows = [
        measure.in_fresh_process(
            "benchmarks.history",
            "steps",
            {"coordinates": coordinates, "history": history, "steps": size.steps},
        )
        for coordinates, history in cases
    ]
    dense = [row for row in rows if row["history"] is None]
    by_size = [row for row in rows if row["history"] == size.histories[-1]]
    largest = [row for row in rows if row["coordinates"] == size.bounded[-1]]
    by_history = [row for row in largest if row["history"] is not None]
    claims = [
        _growth("dense: state over N^2", [r["state_mb"] / r["coordinates"] ** 2 for r in dense]),
        _growth("bounded: state over N", [r["state_mb"] / r["coordinates"] for r in by_size]),
        _growth("bounded: state over M", [r["state_mb"] / r["history"] for r in by_history]),
    ]
    return {"steps": size.steps, "rows": rows, "claims": claims}


def _growth(what: str, ratios: list[float]) -> dict[str, object]:
    """A claim that ratios are all the same."""
    spread = max(ratios) / min(ratios)
    return measure.claim(f"{what}, largest ratio to smallest", spread, "at most", 1.1)


@torch.no_grad()
def steps(coordinates: int, history: int | None, steps: int) -> dict[str, float | None]:
    """What a fresh process does: steps of BFGS by hand on one quadratic."""
    torch.set_num_threads(1)
    rule = NTMBFGS(BFGSByHand(0.5), 0.1, history=history, max_coordinates=coordinates)
    spec = ParamSpec.of({"x": ((coordinates,), "free")})
    curvature = torch.linspace(0.5, 2.0, coordinates)
    held: list[float] = []

    def run() -> None:
        theta = torch.ones(1, coordinates)
        state = rule.init_state(theta, spec)
        for step in range(steps):
            grad = curvature * theta
            update, state = rule.step(
                Observation(grad, theta, theta[:, 0], step, steps, spec), state
            )
            theta = theta + update
        held.append(sum(x.numel() * x.element_size() for x in state_tensors(state)))

    peak = measure.peak_memory(run)
    return {
        "coordinates": coordinates,
        "history": history,
        "state_mb": held[0] / measure.MEGABYTE,
        "peak_mb": peak.increase,
        "process_mb": peak.process,
    }


def tables(result: Result) -> list[Table]:
    """One row per process."""
    table = Table(title=f"NTM-BFGS: MB of {result['steps']} steps on one problem, float32")
    for title in ("coordinates", "pairs kept", "state", "peak", "whole process"):
        table.add_column(title, justify="right")
    for row in result["rows"]:
        table.add_row(
            f"{row['coordinates']:,}",
            "dense" if row["history"] is None else str(row["history"]),
            *[f"{row[name]:.1f}" for name in ("state_mb", "peak_mb", "process_mb")],
        )
    return [table]


PART = Part(measure_history, tables)
