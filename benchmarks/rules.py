"""One step of every learned rule over one of torch's own Adam, and the state that it keeps."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from rich.table import Table

from benchmarks import measure
from benchmarks.measure import Call, Part, Result
from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers.base import LearnedOptimizer, Observation, State, state_tensors
from l2l_exp.optimizers.baseline import Baseline
from l2l_exp.optimizers.encoded import EncodedController
from l2l_exp.optimizers.encoding import LogSign
from l2l_exp.optimizers.gac import GAC
from l2l_exp.optimizers.hierarchical import Hierarchical
from l2l_exp.optimizers.inputs import EncodedGradient
from l2l_exp.optimizers.lstm import CoordinatewiseLSTM
from l2l_exp.optimizers.mlp import MLPOptimizer
from l2l_exp.optimizers.normalised import NormalisedController
from l2l_exp.optimizers.ntm_bfgs import NTMBFGS
from l2l_exp.optimizers.partitioned import Partitioned
from l2l_exp.optimizers.recurrent import RecurrentRule
from l2l_exp.optimizers.secant import SecantController
from l2l_exp.optimizers.star import STAR
from l2l_exp.optimizers.transformer import TransformerRule

ADAM = "adam (torch's own)"
RULES: Mapping[str, Callable[[], LearnedOptimizer]] = MappingProxyType(
    {
        "lstm": CoordinatewiseLSTM,
        "two_lstms": lambda: Partitioned(
            {
                "conv": {"kinds": ["conv"], "rule": CoordinatewiseLSTM(seed=0)},
                "rest": {"rule": CoordinatewiseLSTM(seed=1)},
            }
        ),
        "gru": lambda: RecurrentRule(
            EncodedGradient(LogSign()), "gru", embedding=None, bounded=False
        ),
        "rnnprop": RecurrentRule,
        "transformer": TransformerRule,
        "mlp": MLPOptimizer,
        "star": STAR,
        "hierarchical": Hierarchical,
        "gac": GAC,
        "ntm_bfgs": lambda: NTMBFGS(NormalisedController()),
        "ntm_lbfgs": lambda: NTMBFGS(SecantController(), history=20, read="two_loop"),
        "ntm_bfgs, paper's form": lambda: NTMBFGS(EncodedController()),
    }
)


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    coordinates: tuple[int, ...] = (100, 10_000)
    rounds: int = 15
    repeats: int = 20


TINY = Size(coordinates=(10,), rounds=1, repeats=1)


def measure_rules(tiny: bool = False) -> Result:
    """Seconds of a step over Adam's, and floats of state per coordinate, 1 thread."""
    size = TINY if tiny else Size()
    rows = []
    for coordinates in size.coordinates:
        rules = {name: make() for name, make in RULES.items() if _fits(make(), coordinates)}
        calls = {name: _steps(rule, coordinates, size.repeats) for name, rule in rules.items()}
        calls[ADAM] = _adam(coordinates, size.repeats)
        with measure.threads(1):
            seconds = measure.interleaved(calls, size.rounds)
        for name, rule in rules.items():
            rows.append(
                {
                    "rule": name,
                    "coordinates": coordinates,
                    "meta_parameters": sum(x.numel() for x in rule.parameters()),
                    "floats_per_coordinate": _floats(rule, coordinates),
                    "microseconds": 1e6 * measure.median(seconds[name]) / size.repeats,
                    "over_adam": measure.ratio(seconds[name], seconds[ADAM]),
                }
            )
    return {"rows": rows, "claims": []}


def _fits(rule: LearnedOptimizer, coordinates: int) -> bool:
    """Whether a rule takes so many coordinates."""
    dense = isinstance(rule, NTMBFGS) and rule.history is None
    return not dense or coordinates <= rule.max_coordinates


def _spec(coordinates: int) -> ParamSpec:
    """Half of the coordinates convolution kernels, half a dense layer."""
    half = coordinates // 2
    return ParamSpec.of({"c": ((half,), "conv"), "w": ((coordinates - half,), "fc")})


def _seen(coordinates: int, step: int) -> Observation:
    """What a rule sees: a random gradient."""
    grad, theta = torch.randn(2, 1, coordinates, generator=torch.Generator().manual_seed(step))
    return Observation(grad, theta, theta[:, 0], step, measure.HORIZON, _spec(coordinates))


@torch.no_grad()
def _warm(rule: LearnedOptimizer, coordinates: int) -> State:
    """The state after two steps."""
    state = rule.init_state(_seen(coordinates, 0).theta, _spec(coordinates))
    for step in range(2):
        _, state = rule.step(_seen(coordinates, step), state)
    return state


def _steps(rule: LearnedOptimizer, coordinates: int, repeats: int) -> Call:
    """Take some steps, each from the state that the step before it left."""
    state, seen = _warm(rule, coordinates), _seen(coordinates, 2)

    def run() -> None:
        nonlocal seen, state
        with torch.no_grad():
            for _ in range(repeats):
                _, state = rule.step(seen, state)
                seen = seen._replace(step=seen.step + 1)

    return run


def _adam(coordinates: int, repeats: int) -> Call:
    """Take a step of torch's own Adam some times."""
    step = Baseline(torch.optim.Adam, 1e-3).native_step(_seen(coordinates, 2))

    def run() -> None:
        for _ in range(repeats):
            step()

    return run


def _floats(rule: LearnedOptimizer, coordinates: int) -> float:
    """Numbers of the state per coordinate."""
    return sum(x.numel() for x in state_tensors(_warm(rule, coordinates))) / coordinates


def tables(result: Result) -> list[Table]:
    """One row per rule and size."""
    table = Table(title="One step of a rule on one problem, 1 thread")
    for title in ("rule", "coordinates", "meta-parameters", "floats of state each", "µs", "adams"):
        table.add_column(title, justify="left" if title == "rule" else "right")
    for row in result["rows"]:
        table.add_row(
            row["rule"],
            f"{row['coordinates']:,}",
            f"{row['meta_parameters']:,}",
            f"{row['floats_per_coordinate']:.0f}",
            f"{row['microseconds']:.0f}",
            f"{row['over_adam']:.1f}",
        )
    return [table]


PART = Part(measure_rules, tables)
