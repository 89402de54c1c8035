"""Estimators of the meta-gradient side by side: bias, variance and cost, on a toy and an LSTM."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from benchmarks import measure
from benchmarks.descent import Descent, episode_of, found_rate, two_directions
from benchmarks.measure import Part, Result
from benchmarks.problems import META_LOSS
from l2l_exp.meta.diagnostics import episode_gradient, exact_gradient, full_gradient
from l2l_exp.meta.evolution import ES, PES, SingleNoise
from l2l_exp.meta.gradients import Backprop, MetaGradient, Replay
from l2l_exp.meta.schedule import Constant
from l2l_exp.meta.train import Plan, train
from l2l_exp.optimizees.base import Optimizee
from l2l_exp.optimizees.quadratic import Quadratic
from l2l_exp.optimizees.seeding import Seed, generator
from l2l_exp.optimizers.base import LearnedOptimizer
from l2l_exp.optimizers.encoding import Identity
from l2l_exp.optimizers.lstm import CoordinatewiseLSTM

TOY, LSTM = "toy", "lstm"
EXACT = "exact, whole horizon"
RATE = 1.0
"""Of the toy, where its gradients are compared."""


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    horizon: int = 100
    truncations: tuple[int, int] = (5, 20)  # of the toy, of the LSTM
    problems: int = 16
    pairs: int = 16
    sigma: float = 0.01
    draws: tuple[int, int] = (40, 12)  # of a stochastic estimator
    search: int = 100  # episodes of the search for the toy's rate
    warm: int = 40  # episodes of meta-training before the LSTM's gradients are compared


TINY = Size(4, (2, 2), problems=2, pairs=2, draws=(2, 2), search=2, warm=1)


def estimators(size: Size) -> dict[str, MetaGradient]:
    """By name."""
    return {
        "replay": Replay(),
        "backprop, order 1": Backprop(1),
        "backprop, order 2": Backprop(2),
        "es": ES(size.pairs, size.sigma),
        "pes": PES(size.pairs, size.sigma),
        "single_noise": SingleNoise(size.pairs, size.sigma),
    }


def measure_estimators(tiny: bool = False) -> Result:
    """Against the exact second-order gradient of the horizon, 1 thread."""
    size = TINY if tiny else Size()
    with measure.threads(1):
        weights = _warm(size)
        rows = {where: _rows(size, where, weights) for where in (TOY, LSTM)}
        for name, gradient in (estimators(size) | {EXACT: Backprop(2)}).items():
            truncation = size.horizon if name == EXACT else size.truncations[0]
            rate = found_rate(gradient, size.search, size.problems, size.horizon, truncation)
            rows[TOY].setdefault(name, {})["found_rate"] = rate
    return {"size": vars(size), **rows, "claims": _claims(rows[TOY])}


def _setting(
    size: Size, where: str, weights: Mapping[str, Tensor]
) -> tuple[Optimizee, LearnedOptimizer, int, int]:
    """Optimizee, rule, truncation and number of draws."""
    if where == TOY:
        return two_directions(), Descent(RATE).double(), size.truncations[0], size.draws[0]
    rule = CoordinatewiseLSTM(encoding=Identity())
    rule.load_state_dict(weights)
    return Quadratic(), rule, size.truncations[1], size.draws[1]


def _warm(size: Size) -> Mapping[str, Tensor]:
    """Meta-parameters of an LSTM that was trained a little."""
    rule, truncation = CoordinatewiseLSTM(encoding=Identity()), size.truncations[1]
    plan = Plan(
        size.horizon, truncation, size.warm, size.problems, seed=1, validation_every=size.warm,
        validation_problems=size.problems,
    )  # fmt: skip
    adam = partial(torch.optim.Adam, lr=0.005)
    train(Quadratic(), rule, Backprop(2), META_LOSS, adam, Constant(), plan)
    return rule.state_dict()


def _rows(size: Size, where: str, weights: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
    """By estimator."""
    optimizee, rule, truncation, draws = _setting(size, where, weights)
    episode, objective = episode_of(optimizee, rule, size.problems, size.horizon)
    exact = full_gradient(exact_gradient(2), episode, rule, truncation, objective)
    rngs = partial(generator, Seed("train", 0), "estimators")
    rows = {}
    for name, gradient in estimators(size).items():
        count = draws if gradient.stochastic else 1
        drawn, seconds = [], []
        for number in range(count + 1):  # the first draw warms up
            begin = time.perf_counter()
            one = episode_gradient(gradient, episode, rule, truncation, objective, rngs, number)
            seconds.append(time.perf_counter() - begin)
            drawn.append(one)
        rows[name] = {
            **_quality(torch.stack(drawn[1:]), exact),
            "seconds": measure.median(seconds[1:]),
            "peak_mb": _peak(size, where, name),
        }
    return rows


def _quality(drawn: Tensor, exact: Tensor) -> dict[str, float]:
    """How draws (k, D) stand to the exact gradient (D,)."""
    along = drawn @ exact / exact.square().sum()
    several = len(drawn) > 1
    variance = drawn.var(0).sum() / exact.square().sum() if several else torch.zeros(())
    return {
        "along": along.mean().item(),
        "standard_error": (along.std() / len(drawn) ** 0.5).item() if several else 0.0,
        "relative_variance": variance.item(),
        "cosine": torch.cosine_similarity(drawn, exact.unsqueeze(0)).mean().item(),
    }


def _peak(size: Size, where: str, name: str) -> float:
    """Peak memory of an episode in a process of its own, above what it held before: megabytes."""
    arguments = {**vars(size), "where": where, "name": name}
    return float(measure.in_fresh_process("benchmarks.estimators", "peak", arguments))


def peak(where: str, name: str, **fields: Any) -> float:
    """What a fresh process does: a short episode loads the libraries, the whole one is measured."""
    torch.set_num_threads(1)
    size = Size(**fields)
    untrained = CoordinatewiseLSTM(encoding=Identity()).state_dict()
    optimizee, rule, truncation, _ = _setting(size, where, untrained)
    gradient = estimators(size)[name]
    rngs = partial(generator, Seed("train", 0), "estimators")

    def run(problems: int, horizon: int, steps: int) -> None:
        episode, objective = episode_of(optimizee, rule, problems, horizon)
        episode_gradient(gradient, episode, rule, steps, objective, rngs)

    run(1, 2, 1)
    return measure.peak_memory(lambda: run(size.problems, size.horizon, truncation)).increase


def _claims(rows: Mapping[str, Mapping[str, float]]) -> list[dict[str, object]]:
    """What is promised on the toy."""
    claims = []
    for name in ("pes", "single_noise"):
        away = abs(rows[name]["along"] - 1) / max(rows[name]["standard_error"], 1e-12)
        what = f"{name} on the toy: mean minus exact gradient, in standard errors"
        claims.append(measure.claim(what, away, "at most", 4.0))
    for name in ("backprop, order 2", "es"):
        ratio = rows[name]["found_rate"] / rows[EXACT]["found_rate"]
        what = f"{name} on the toy: learning rate found, over the best one"
        claims.append(measure.claim(what, max(0.0, ratio), "at most", 0.95))
    return claims


def tables(result: Result) -> list[Table]:
    """One per problem."""
    size = result["size"]
    titles = {
        TOY: f"Toy: the learning rate of gradient descent, truncation {size['truncations'][0]}",
        LSTM: f"10-d quadratics, LSTM 20+20, truncation {size['truncations'][1]}",
    }
    return [_table(titles[where], result[where]) for where in (TOY, LSTM)]


def _table(title: str, rows: Mapping[str, Mapping[str, float]]) -> Table:
    """One row per estimator."""
    table = Table(title=title)
    table.add_column("estimator", no_wrap=True)
    found = any("found_rate" in row for row in rows.values())
    headings = ["along", "variance", "cosine", "seconds", "MB"]
    for heading in headings + ["rate"] * found:
        table.add_column(heading, justify="right")
    for name, row in rows.items():
        cells = [""] * len(headings)
        if "along" in row:
            error = f" ± {row['standard_error']:.2g}" if row["standard_error"] else ""
            cells = [
                f"{row['along']:.3f}{error}",
                f"{row['relative_variance']:.3g}",
                f"{row['cosine']:.3f}",
                f"{row['seconds']:.3f}",
                f"{row['peak_mb']:.1f}",
            ]
        table.add_row(name, *cells, *([f"{row['found_rate']:.3f}"] if found else []))
    table.caption = (
        "against the exact second-order gradient of the horizon: mean of the draws along it, 1 "
        "without bias; variance of a draw over its squared norm; cosine of a draw with it; time "
        "and peak memory of an episode" + ("; the learning rate that is found" if found else "")
    )
    return table


PART = Part(measure_estimators, tables)
