"""The worked example in full: what its header and the documentation say of it."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import least_squares
from torch import from_numpy

from l2l_exp.examples.spectrum import Peaks, measurement, misfit
from l2l_exp.optimizees.module import ModuleOptimizee
from l2l_exp.optimizees.seeding import Seed

pytest_plugins = ["edge_fixtures"]

FITTED = 1.5
"""Spectra with a mean squared residual below this are fitted down to their noise."""
NOISE = 0.02


def levenberg_marquardt(optimizee, problems):
    """Theta that scipy finds from theta_0 for each problem's training points."""
    problem = optimizee.sample(problems, Seed("test", 0))
    rows = optimizee.rows.part(problem, held_out=False)
    found = []
    for place, start in enumerate(optimizee.init(problems, Seed("test", 0)).numpy()):
        x, intensity = (rows[name][place].numpy() for name in ("x", "intensity"))

        def residual(theta, x=x, intensity=intensity):
            positions, widths, heights = np.split(theta[:12], 3)
            distance = (x[:, None] - positions) * np.exp(-widths)
            peaks = np.exp(heights - distance**2 / 2).sum(1)
            return (peaks + theta[12] + theta[13] * x - intensity) / NOISE

        found.append(least_squares(residual, start, method="lm", max_nfev=2000).x)
    return optimizee.metrics(from_numpy(np.array(found)), problem)["train_loss"].numpy()


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_rule_for_spectra_beats_tuned_baselines_and_fits_more_than_least_squares(
    seed, command, workplace
):
    outcome = command("train", "experiment=module_example", f"seed={seed}", "tracking=none")
    assert outcome.code == 0, outcome.err
    (folder,) = {path.parent for path in workplace.rglob("run.json")}
    told = json.loads((folder / "summary.json").read_text())
    paired = told["paired"]
    assert paired["average"]["log_ratio"]["high"] < math.log(0.6)
    assert paired["held_out"]["log_ratio"]["high"] < 0
    assert told["learned"]["status"] == {"ok": 100, "worse_than_start": 0, "diverged": 0}
    table = pd.read_parquet(folder / "curves.parquet")
    learned = table[(table["kind"] == "learned") & (table["step"] == told["horizon"])]
    optimizee = ModuleOptimizee(Peaks, measurement, misfit).double()
    by_scipy = levenberg_marquardt(optimizee, range(100))
    assert (learned["train_loss"] < FITTED).sum() > (by_scipy < FITTED).sum() + 10
