"""One meta-training window by each estimator, side by side: python -m benchmarks.

Times are medians over interleaved rounds, so that a machine whose speed drifts treats all alike;
what counts is the ratio to autograd through the whole window (first order).
"""

import json
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from l2l_exp.meta.gradients import Backprop, MetaGradient, Replay
from l2l_exp.meta.objective import MetaLoss, Plain, Uniform
from l2l_exp.optimizees.data import Images
from l2l_exp.optimizees.mlp import ImageMLP
from l2l_exp.optimizees.seeding import Seed
from l2l_exp.optimizers.lstm import CoordinatewiseLSTM
from l2l_exp.unroll import Episode

ROUNDS, STEPS = 5, 20
ESTIMATORS: tuple[tuple[str, MetaGradient], ...] = (
    ("autograd, first order", Backprop(order=1)),
    ("autograd, second order", Backprop(order=2)),
    ("replay, exact", Replay()),
    ("replay, 4096 coordinates", Replay(subset=4096)),
    ("replay, 1024 coordinates", Replay(subset=1024)),
)
SHAPES = (("digits MLP x 4", 8, 4), ("MNIST MLP x 1", 28, 1))


def window_seconds(side: int, problems: int) -> dict[str, float]:
    """Median seconds of a window of 20 steps by every estimator, on random images."""
    rng = torch.Generator().manual_seed(0)
    pixels = torch.rand(600, side, side, generator=rng)
    optimizee = ImageMLP(Images(pixels, torch.arange(600) % 10), init_std=0.1)
    rule = CoordinatewiseLSTM()
    problem = optimizee.sample(range(problems), Seed("train", 0))
    meta_loss = MetaLoss(Uniform(), Plain())
    seconds: dict[str, list[float]] = {name: [] for name, _ in ESTIMATORS}
    for _ in range(ROUNDS + 1):
        for name, gradient in ESTIMATORS:
            episode = Episode(optimizee, problem, STEPS, gradient.attached)
            carry = episode.start(rule).detach()
            objective = partial(meta_loss, first=carry.loss, start=0, horizon=STEPS)
            start = time.perf_counter()
            gradient(episode, rule, carry, STEPS, objective, np.random.default_rng(0))
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def main() -> None:
    """Measure, print a table, and write a json file (its path may be the argument)."""
    table = Table(title=f"Seconds per window of {STEPS} steps, {torch.get_num_threads()} threads")
    table.add_column("estimator")
    results = {}
    for shape, side, problems in SHAPES:
        table.add_column(shape, justify="right")
        table.add_column("ratio", justify="right")
        results[shape] = window_seconds(side, problems)
    for name, _ in ESTIMATORS:
        cells = []
        for seconds in results.values():
            ratio = seconds[name] / seconds[ESTIMATORS[0][0]]
            cells += [f"{seconds[name]:.3f}", f"{ratio:.2f}"]
        table.add_row(name, *cells)
    Console().print(table)
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "outputs/benchmarks.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"threads": torch.get_num_threads(), "seconds": results}, indent=2))
    print(path)


if __name__ == "__main__":
    main()
