"""One step of the rule against torch's own Adam: time per coordinate, by number of coordinates."""

from dataclasses import dataclass

import torch
from rich.table import Table

from benchmarks import measure
from benchmarks.measure import Call, Part, Result
from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers.base import Observation
from l2l_exp.optimizers.baseline import Baseline
from l2l_exp.optimizers.lstm import CoordinatewiseLSTM

IN_PLACE, PURE, ADAM = "lstm, old state overwritten", "lstm, old state kept", "adam (torch's own)"
RULES = (IN_PLACE, PURE, ADAM)
Costs = dict[str, dict[str, float]]
"""Rule -> number of coordinates -> nanoseconds per coordinate."""


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    coordinates: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    rounds: int = 7
    threads: tuple[int, ...] = measure.THREADS
    small: int = 10_000  # what the largest is compared with
    walked: int = 200_000  # coordinates that one timing walks through at least


TINY = Size(coordinates=(10, 20), rounds=1, threads=(1,), small=10, walked=20)


def measure_step(tiny: bool = False) -> Result:
    """Nanoseconds per coordinate, by threads, rule and number of coordinates."""
    size = TINY if tiny else Size()
    threads = {str(count): _costs(size, count) for count in size.threads}
    small, large = str(size.small), str(size.coordinates[-1])
    claims = [
        measure.claim(
            f"lstm's step: time per coordinate at {large} over that at {small}, {count} threads",
            costs[IN_PLACE][large] / costs[IN_PLACE][small],
            "at most",
            1.5,
        )
        for count, costs in threads.items()
    ]
    return {"nanoseconds_per_coordinate": threads, "claims": claims}


def _costs(size: Size, count: int) -> Costs:
    """By rule and number of coordinates, with so many threads."""
    repeats = {n: max(1, size.walked // n) for n in size.coordinates}
    calls = {(rule, n): _steps(rule, n, repeats[n]) for rule in RULES for n in size.coordinates}
    with measure.threads(count):
        seconds = measure.interleaved(calls, size.rounds)
    return {
        rule: {
            str(n): 1e9 * measure.median(seconds[rule, n]) / (repeats[n] * n)
            for n in size.coordinates
        }
        for rule in RULES
    }


def _steps(name: str, coordinates: int, repeats: int) -> Call:
    """Take steps of a rule, each from the state that the step before it left."""
    theta, grad = torch.randn(2, 1, coordinates, generator=torch.Generator().manual_seed(0))
    if name == ADAM:
        theta.grad = grad
        native = Baseline(torch.optim.Adam, 1e-3).native([theta])
        return lambda: [native.step() for _ in range(repeats)]
    rule, spec = CoordinatewiseLSTM(), ParamSpec.of({"theta": ((coordinates,), "free")})
    seen = Observation(grad, theta, grad.sum(1), 0, measure.HORIZON, spec)
    step = rule.step if name == PURE else rule.step_in_place
    with torch.no_grad():
        _, state = rule.step(seen, rule.init_state(theta, spec))

    @torch.no_grad()
    def steps() -> None:
        nonlocal seen, state
        for _ in range(repeats):
            seen = seen._replace(step=seen.step + 1)
            _, state = step(seen, state)

    return steps


def tables(result: Result) -> list[Table]:
    """One row per rule."""
    table = Table(title="One step: nanoseconds per coordinate")
    table.add_column("rule, threads")
    costs: dict[str, Costs] = result["nanoseconds_per_coordinate"]
    for coordinates in next(iter(costs.values()))[ADAM]:
        table.add_column(f"{int(coordinates):,}", justify="right")
    for count, by_rule in costs.items():
        for rule, by_coordinates in by_rule.items():
            cells = [f"{cost:.1f}" for cost in by_coordinates.values()]
            table.add_row(f"{rule}, {count}", *cells)
    return [table]


PART = Part(measure_step, tables)
