"""LASSO: its minimum is certified by duality, and equals coordinate descent's."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso as CoordinateDescent

from l2l_exp.optimizees.lasso import Lasso
from l2l_exp.optimizees.seeding import Seed

SEED, PROBLEMS = Seed("test", 0), range(20)
SIZES = [(5, 10), (25, 50), (8, 3)]


def solved(rows, dimension, dtype=torch.float64):
    """Problems (W, y, minimiser, minimum) as numpy, in float64."""
    optimizee = Lasso(rows, dimension).to(dtype)
    problem = optimizee.sample(PROBLEMS, SEED)
    minimiser, minimum = optimizee.minimiser(problem), optimizee.minimum(problem)
    parts = (problem.data["W"].double(), problem.data["y"].double(), minimiser, minimum)
    return zip(*(part.numpy() for part in parts), strict=True)


def objective(matrix, target, theta, l1=0.005):
    return np.sum((matrix @ theta - target) ** 2) / 2 + l1 * np.abs(theta).sum()


@pytest.mark.parametrize(("rows", "dimension"), SIZES)
def test_the_minimiser_meets_the_conditions_of_optimality(rows, dimension):
    for matrix, target, theta, _ in solved(rows, dimension):
        pull = matrix.T @ (target - matrix @ theta)  # in l1 * the subgradient of |theta|_1
        assert np.abs(pull).max() <= 0.005 + 1e-10
        support = np.abs(theta) > 1e-9  # what the homotopy dropped is 0 to rounding
        np.testing.assert_allclose(pull[support], 0.005 * np.sign(theta[support]), atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("rows", "dimension"), SIZES)
def test_the_minimum_has_no_duality_gap(rows, dimension, dtype):
    # every nu with |W' nu| <= l1 bounds the minimum from below: nu.y - |nu|^2 / 2
    for matrix, target, theta, minimum in solved(rows, dimension, dtype):
        residual = target - matrix @ theta
        nu = residual * min(1, 0.005 / np.abs(matrix.T @ residual).max())
        bound = nu @ target - nu @ nu / 2
        assert -1e-14 <= minimum - bound <= 1e-12
        assert minimum == pytest.approx(objective(matrix, target, theta), rel=1e-12)


def test_the_minimum_is_that_of_coordinate_descent():
    for matrix, target, _, minimum in list(solved(5, 10))[:8]:
        descent = CoordinateDescent(
            alpha=0.005 / 5, fit_intercept=False, tol=1e-12, max_iter=10**6
        ).fit(matrix, target)
        assert objective(matrix, target, descent.coef_) == pytest.approx(minimum, abs=1e-9)


def test_a_problem_is_solved_once_and_not_by_training(monkeypatch):
    calls = []
    optimizee = Lasso()
    solve = optimizee._solve
    monkeypatch.setattr(optimizee, "_solve", lambda *args: calls.append(1) or solve(*args))
    problem, theta = optimizee.sample([0, 1, 2], SEED), optimizee.init([0, 1, 2], SEED)
    torch.func.vmap(optimizee.loss)(theta, optimizee.minibatch(problem, 0))
    assert not calls
    first = optimizee.metrics(theta, problem)["suboptimality"]
    again = optimizee.metrics(theta, optimizee.sample([0, 1, 2], SEED))["suboptimality"]
    assert len(calls) == 3 and torch.equal(first, again)
    optimizee.double()
    optimizee.metrics(theta.double(), optimizee.sample([0, 1, 2], SEED))  # other digits of W
    assert len(calls) == 6


@pytest.mark.parametrize("name", ["rows", "dimension", "l1", "init_std"])
def test_impossible_values_are_refused(name):
    with pytest.raises(ValueError, match=f"{name}=0 must be > 0"):
        Lasso(**{name: 0})
