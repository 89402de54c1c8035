"""Measure the numbers of docs/microscope.md, and draw docs/microscope.png.

Run from the repository, about two minutes on one core:
    python docs/measure_microscope.py multirun/fig4_mlp-HASH RUN_OF_NTM_BFGS ...
The first is the multirun of `l2l-train sweeps=fig4_mlp`, whose digits the rules are looked at on.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf

from l2l_exp import microscope
from l2l_exp.config import build
from l2l_exp.dropin.load import find
from l2l_exp.evaluation import Floats
from l2l_exp.optimizees.base import Optimizee
from l2l_exp.optimizees.quadratic import Quadratic
from l2l_exp.optimizees.seeding import Seed
from l2l_exp.optimizers.base import LearnedOptimizer
from l2l_exp.optimizers.baseline import Baseline
from l2l_exp.report import updates

TEST, HORIZON, SEEDS = Seed("test", 0), 100, (0, 1, 2)
SGD, ADAM = (
    Baseline(torch.optim.SGD, lr=10**0.5),
    Baseline(torch.optim.Adam, lr=10**-1.5),
)  # as tuned for the final loss on these digits


def lag_one(values: Floats) -> float:
    """Autocorrelation from step to step of (T, C), from step 10 on: mean over coordinates."""
    late = values[10:, values[10:].std(0) > 0]
    return float(np.mean([np.corrcoef(x[:-1], x[1:])[0, 1] for x in late.T]))


def alone(rule: LearnedOptimizer) -> None:
    """What needs no problem."""
    rest = microscope.fixed_point(rule)
    impulse = microscope.impulse_response(rule, (0.01, -0.01), 200)
    noisy = microscope.history("noisy", 100, 0.01)
    scales = microscope.scale_response(rule, noisy, 10.0 ** np.arange(-5, 5))
    print(f"  half-lives {impulse.half_lives.round(1)}, slope {scales.slope:.3f}")
    print(f"  zero gradient: {rest.update:.4f} at rest, largest {microscope.drift(rule).max():.3f}")
    print(f"  slowest modes {rest.time_constants[:3].round(1)} steps, at rest: {rest.settled}")
    for gradient in (1.0, 1e-3, -1e-3, -1.0):
        print(f"  gradient {gradient}: {microscope.fixed_point(rule, gradient).update:.3f} at rest")
    curvatures = 10.0 ** np.arange(-2, 3.01, 1)
    found = microscope.stability(rule, curvatures, [0.0, 0.1], repetitions=16)
    print(f"  h {curvatures}: rms {np.sqrt(found.mean_square).round(4).tolist()}")
    print(f"  diverged {found.diverged.max()}, settled {found.settled.all()}")


def on_its_way(rule: LearnedOptimizer, optimizee: Optimizee) -> None:
    """What is measured on the rule's trajectory."""
    rules = {"learned": rule, "sgd": SGD, "adam": ADAM}
    places = microscope.choose(optimizee, 200, TEST)
    followed = microscope.follow(optimizee, rules, places, TEST, HORIZON)
    asked = np.tile([-0.01, 0.01], (40, 1))
    swept = microscope.proposals(
        optimizee, rules, places[:40], range(0, HORIZON, 3), asked, TEST, HORIZON
    )
    rates = microscope.effective_rates(optimizee, rules, range(4), TEST, HORIZON)
    print(f"  autocorrelation of gradients {lag_one(followed.gradients):.2f}")
    for name in rules:
        made, would = followed.updates[name], swept.updates[name]
        uphill = np.mean([would[..., 0] < 0, would[..., 1] > 0])
        print(
            f"  {name}: rms {np.sqrt((made**2).mean()):.4f}, autocorrelation {lag_one(made):.2f}, "
            f"uphill {uphill:.2f}, falling {(would[..., 1] < would[..., 0]).mean():.2f}, "
            f"rate {np.median(rates.rates[name][50:]):.2f}, "
            f"cosine {np.median(rates.cosines[name][50:]):.2f}"
        )


def with_memory(rule: LearnedOptimizer) -> None:
    """The memory of NTM-BFGS beside the inverse Hessian, medians over 100 quadratics."""
    steps = (1, 20, 40, 50, 60, 80, 100)
    fit = microscope.memory_fit(Quadratic(10), rule, range(100), TEST, HORIZON, steps)
    for place, step in enumerate(fit.steps):
        numbers = fit.cosine, fit.error, fit.identity_error, fit.direction, fit.loss
        print(f"  step {step}:", *(f"{np.median(one[place]):.3g}" for one in numbers))


def main(lstm: str, *ntm: str) -> None:
    """Print everything, and draw the first rule's updates."""
    optimizee = build(OmegaConf.load(Path(lstm) / "0" / "config.yaml").optimizee)
    for seed in SEEDS:
        print(f"meta-seed {seed}")
        rule = find(lstm, seed)
        alone(rule)
        on_its_way(rule, optimizee)
    for run in ntm:
        print(f"{run}: cosine, error, |M H - I|, direction, loss")
        with_memory(find(run))
    rules = {"learned": find(lstm, 0), "sgd": SGD, "adam": ADAM}
    seen = microscope.Updates()(optimizee, rules, TEST, HORIZON)
    figure = updates.figure(updates.table("", 0, *seen))
    figure.savefig(Path(__file__).parent / "microscope.png", dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    main(*sys.argv[1:])
