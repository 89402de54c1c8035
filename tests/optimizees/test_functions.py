"""Test functions against published values, scipy, and what their minima promise."""

import math

import numpy as np
import pytest
import scipy.optimize
import torch

from l2l_exp.optimizees.functions import FUNCTIONS, Landscape, ackley, beale, rastrigin, rosenbrock
from l2l_exp.optimizees.seeding import Seed
from l2l_exp.unroll import differentiate

SEED, PROBLEMS = Seed("test", 0), (0, 3, 4)
DIMENSIONS = {"rosenbrock": 3, "rastrigin": 3, "ackley": 3, "beale": 2}


def at(*point):
    return torch.tensor(point, dtype=torch.float64)


@pytest.mark.parametrize(
    ("function", "point", "value"),
    [
        (rosenbrock, (1, 1), 0),
        (rosenbrock, (-1.2, 1), 24.2),  # Rosenbrock's own starting point
        (rosenbrock, (0, 0, 0), 2),
        (rosenbrock, (2, 2), 401),
        (rastrigin, (0, 0), 0),
        (rastrigin, (1, 1), 2),
        (rastrigin, (0.5, 0.5), 40.5),
        (rastrigin, (4.52299366, 4.52299366), 80.7065803876),  # the highest of the domain
        (ackley, (0, 0, 0), 0),
        (ackley, (1, 1), 3.6253849384403627),
        (ackley, (0.5, 0.5), 4.253654026568412),
        (beale, (3, 0.5), 0),
        (beale, (0, 0), 14.203125),
        (beale, (1, 1), 14.203125),
        (beale, (-4.5, -4.5), 181853.61328125),
    ],
)
def test_a_published_value_is_met(function, point, value):
    assert function(at(*point)).item() == pytest.approx(value, rel=1e-9, abs=1e-14)


@pytest.mark.parametrize("dimension", [2, 5])
def test_rosenbrock_is_scipys_with_its_slope(dimension):
    points = np.random.default_rng(0).uniform(-3, 3, (20, dimension))
    optimizee = Landscape("rosenbrock", dimension).double()
    loss, grad = differentiate(optimizee, torch.from_numpy(points), {})
    for k, point in enumerate(points):
        np.testing.assert_allclose(loss[k], scipy.optimize.rosen(point), rtol=1e-12)
        np.testing.assert_allclose(grad[k], scipy.optimize.rosen_der(point), rtol=1e-10)


def test_the_fourth_dimension_has_a_second_valley():
    found = scipy.optimize.minimize(
        lambda x: rosenbrock(torch.from_numpy(x)).item(), [-1.0, 1, 1, 1], method="BFGS"
    )
    assert found.fun == pytest.approx(3.701428610430, rel=1e-6)  # Kok and Sandrock 2009


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("shift", [0.0, 1.5])
@pytest.mark.parametrize("rotate", [False, True])
def test_the_known_minimiser_has_the_known_minimum_and_its_neighbours_more(name, shift, rotate):
    optimizee = Landscape(name, DIMENSIONS[name], shift=shift, rotate=rotate).double()
    problem = optimizee.sample(PROBLEMS, SEED)
    minimiser = optimizee.minimiser(problem)
    assert minimiser.shape == (3, optimizee.dimension)
    there = optimizee.metrics(minimiser, problem)["suboptimality"]
    torch.testing.assert_close(there, torch.zeros(3).double(), rtol=0, atol=1e-13)
    for seed in range(5):
        rng = torch.Generator().manual_seed(seed)
        away = torch.randn(minimiser.shape, generator=rng, dtype=torch.float64)
        for size in (1e-3, 1e-1, 1.0, 3.0):
            assert (optimizee.metrics(minimiser + size * away, problem)["train_loss"] > 1e-9).all()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_at_the_minimum_are_finite(name):
    optimizee = Landscape(name, DIMENSIONS[name]).double()
    problem = optimizee.sample(PROBLEMS, SEED)
    _, grad = differentiate(optimizee, optimizee.minimiser(problem).clone(), problem.data)
    torch.testing.assert_close(grad, torch.zeros_like(grad), rtol=0, atol=1e-12)


def test_ackley_loses_no_digits_near_its_minimum():
    x = at(3e-12, 4e-12)
    slope = 20 * 0.2 / math.sqrt(2)
    assert ackley(x).item() == pytest.approx(slope * 5e-12, rel=1e-6)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_moved_problem_is_the_function_seen_from_its_minimiser(name):
    optimizee = Landscape(name, DIMENSIONS[name], shift=2.0, rotate=True).double()
    problem = optimizee.sample(PROBLEMS, SEED)
    own = optimizee.get_buffer("own_minimiser")
    identity = torch.eye(optimizee.dimension).double()
    for b in range(3):
        turn, minimiser = problem.data["rotation"][b], problem.data["minimiser"][b]
        torch.testing.assert_close(turn @ turn.T, identity, rtol=0, atol=1e-12)
        assert ((minimiser - own).abs() <= 2).all()
        step = at(*range(1, optimizee.dimension + 1)) / 10
        moved = optimizee.loss(
            minimiser + turn.T @ step, {k: x[b] for k, x in problem.data.items()}
        )
        torch.testing.assert_close(moved, optimizee.function.value(own + step))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_starts_fill_the_domain_or_the_box_around_the_minimiser(name):
    many = range(300)
    wide = Landscape(name, DIMENSIONS[name])
    theta, low, high = wide.init(many, SEED), wide.function.low, wide.function.high
    assert theta.min() >= low and theta.max() <= high
    assert theta.min() < 0.95 * low and theta.max() > 0.95 * high
    close = Landscape(name, DIMENSIONS[name], spread=0.3, shift=5.0)
    away = close.init(many, SEED) - close.minimiser(close.sample(many, SEED))
    assert 0.28 < away.abs().max() <= 0.3 + 1e-6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"function": "banana"}, "function='banana' must be one of rosenbrock, rastrigin"),
        ({"function": "rosenbrock", "dimension": 1}, "dimension=1 must be >= 2 for rosenbrock"),
        ({"function": "ackley", "dimension": 0}, "dimension=0 must be >= 1 for ackley"),
        ({"function": "beale", "dimension": 3}, "dimension=3 must be 2 for beale"),
        ({"spread": 0.0}, "spread=0.0 must be > 0, or null"),
        ({"shift": -1.0}, "shift=-1.0 must be >= 0"),
    ],
)
def test_impossible_values_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Landscape(**settings)
