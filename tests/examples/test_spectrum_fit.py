"""The worked example: peaks on a sloping background."""

import math

import numpy as np
import pytest
import torch

from l2l_exp.evaluation import evaluate
from l2l_exp.examples import spectrum
from l2l_exp.examples.spectrum import Peaks, measurement, misfit
from l2l_exp.optimizees.module import ModuleOptimizee
from l2l_exp.optimizees.seeding import Seed
from l2l_exp.optimizers.baseline import Baseline


def test_peaks_are_gaussians_on_a_line():
    model = Peaks(2).double()
    with torch.no_grad():
        model.positions[:] = torch.tensor([0.25, 0.75])
        model.log_widths[:] = torch.tensor([0.1, 0.2]).log()
        model.log_amplitudes[:] = torch.tensor([1.0, 3.0]).log()
        model.background[:] = torch.tensor([0.5, -1.0])
    found = model(torch.tensor([0.25, 0.35, 0.75]).double()).tolist()
    for x, value in zip((0.25, 0.35, 0.75), found, strict=True):
        one = math.exp(-(((x - 0.25) / 0.1) ** 2) / 2)
        two = 3 * math.exp(-(((x - 0.75) / 0.2) ** 2) / 2)
        assert value == pytest.approx(one + two + 0.5 - x, rel=1e-6)


def test_a_measurement_is_its_truth_and_noise_of_the_size_it_tells():
    drawn = measurement(np.random.default_rng(0), points=4000)
    quiet = measurement(np.random.default_rng(0), points=4000, noise=1e-9)
    error = (drawn["intensity"] - quiet["intensity"]) / drawn["noise"]
    assert abs(error.mean()) < 0.06 and abs(error.std() - 1) < 0.04
    peaks = quiet["intensity"]
    tops = (peaks[1:-1] > peaks[:-2]) & (peaks[1:-1] > peaks[2:])
    assert 1 <= tops.sum() <= 4  # neighbours may overlap
    assert drawn["x"][0] > 0 and drawn["x"][-1] < 1 and len(drawn["x"]) == 4000


def test_the_misfit_of_the_truth_is_about_one_and_of_the_start_far_above():
    rng = np.random.default_rng(1)
    narrowest, widest = spectrum.WIDTHS
    batch = {name: torch.as_tensor(x) for name, x in measurement(rng, points=4000).items()}
    model = Peaks().double()
    assert misfit(model, batch) > 50
    rng = np.random.default_rng(1)  # the same draws, in order
    with torch.no_grad():
        model.positions[:] = torch.from_numpy((np.arange(4) + rng.uniform(size=4)) / 4)
        widths = rng.uniform(math.log(narrowest), math.log(widest), 4)
        model.log_widths[:] = torch.from_numpy(widths)
        model.log_amplitudes[:] = torch.from_numpy(rng.uniform(*spectrum.AMPLITUDES, 4)).log()
        model.background[:] = torch.from_numpy(spectrum.BACKGROUND * rng.standard_normal(2))
    assert misfit(model, batch).item() == pytest.approx(1, abs=4 * math.sqrt(2 / 4000))


def test_most_spectra_are_fitted_down_to_their_noise_by_a_long_run_of_adam():
    optimizee = ModuleOptimizee(Peaks, measurement, misfit)
    rule = Baseline(torch.optim.Adam, 0.03)
    (record,) = evaluate(optimizee, rule, range(16), Seed("validation", 0), 300)
    assert record.loss[0].min() > 20
    assert (record.criterion("final") < 1.5).mean() > 0.5
    assert (record.criterion("held_out") < 3).mean() > 0.5


@pytest.mark.parametrize("change", [{"count": 0}, {"points": 0}, {"noise": 0.0}])
def test_impossible_measurements_are_refused_by_name(change):
    ((name, value),) = change.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        measurement(np.random.default_rng(0), **change)
    if name == "count":
        with pytest.raises(ValueError, match="count=0"):
            Peaks(0)
