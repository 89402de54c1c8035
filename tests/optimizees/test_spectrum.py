"""Quadratics have the spectrum that was asked for."""

import math

import numpy as np
import pytest
import torch

from l2l_exp.optimizees.seeding import Seed
from l2l_exp.optimizees.spectrum import Spectrum
from l2l_exp.optimizers.baseline import Baseline
from l2l_exp.unroll import Episode, unroll

SEED, PROBLEMS = Seed("test", 0), (0, 3)


def hessians(optimizee):
    """(B, N, N) by automatic differentiation."""
    problem = optimizee.sample(PROBLEMS, SEED)
    theta = optimizee.init(PROBLEMS, SEED)
    slope = torch.func.jacrev(torch.func.grad(optimizee.loss))
    rows = [{k: x[b] for k, x in problem.data.items()} for b in range(len(PROBLEMS))]
    return [slope(theta[b], row) for b, row in enumerate(rows)]


@pytest.mark.parametrize("rotate", [False, True])
@pytest.mark.parametrize(
    ("eigenvalues", "expected"),
    [
        ("geometric", [1e-3, 1e-2, 1e-1, 1]),
        ("linear", [0.001, 0.334, 0.667, 1]),
        ([3.0, 0.5, 7.0, 0.5], [0.5, 0.5, 3, 7]),
    ],
)
def test_the_hessian_has_the_eigenvalues_that_were_asked_for(eigenvalues, expected, rotate):
    for hessian in hessians(Spectrum(4, 1000.0, eigenvalues, rotate).double()):
        values = torch.linalg.eigvalsh(hessian).numpy()
        np.testing.assert_allclose(values, expected, rtol=1e-9)
        off_diagonal = (hessian - torch.diag(hessian.diag())).abs().max()
        assert (off_diagonal > 1e-3) == rotate


def test_drawn_eigenvalues_are_log_uniform_between_the_ends():
    optimizee = Spectrum(60, 1e4, rotate=False).double()
    one, two = (torch.linalg.eigvalsh(hessian).numpy() for hessian in hessians(optimizee))
    for values in (one, two):
        assert values[0] == pytest.approx(1e-4) and values[-1] == pytest.approx(1)
        logs = np.log10(values) / 4 + 1  # uniform in [0, 1]
        assert abs(logs.mean() - 0.5) < 4 / math.sqrt(12 * 60)
    assert not np.allclose(one, two)


def test_the_minimum_is_zero_at_the_center():
    optimizee = Spectrum(4).double()
    problem = optimizee.sample(PROBLEMS, SEED)
    metrics = optimizee.metrics(problem.data["center"], problem)
    assert all(x.count_nonzero() == 0 for x in metrics.values())


def test_gradient_descent_shrinks_the_error_as_the_spectrum_says():
    # along the eigenvector of eigenvalue a each step multiplies the error by 1 - lr a
    optimizee = Spectrum(3, eigenvalues=[1.0, 0.25, 0.5], rotate=False, init_std=2.0).double()
    episode = Episode(optimizee, optimizee.sample(PROBLEMS, SEED), 7)
    rule = Baseline(torch.optim.SGD, 0.8)
    start = episode.start(rule)
    *_, end = unroll(episode, rule, start, 7)
    center = episode.problem.data["center"]
    shrink = (1 - 0.8 * torch.tensor([1.0, 0.25, 0.5]).double()) ** 7
    torch.testing.assert_close(end.theta - center, shrink * (start.theta - center))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dimension": 1}, "dimension=1 must be >= 2"),
        ({"condition": 0.5}, "condition=0.5 must be >= 1"),
        ({"init_std": 0.0}, "init_std=0.0 must be > 0"),
        ({"shift": -1.0}, "shift=-1.0 must be >= 0"),
        ({"eigenvalues": "flat"}, "eigenvalues='flat' must be one of log_uniform, geometric"),
        ({"dimension": 2, "eigenvalues": [1.0]}, r"eigenvalues=\[1.0\] must be 2 numbers > 0"),
        ({"dimension": 2, "eigenvalues": [1.0, 0.0]}, r"eigenvalues=\[1.0, 0.0\] must be 2 num"),
    ],
)
def test_impossible_values_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Spectrum(**settings)
