"""References: scipy's own paths, on an axis of evaluations, and refusals."""

import math

import numpy as np
import pytest
import scipy.optimize
import torch

from l2l_exp import reference
from l2l_exp.comparison import Protocol, compare
from l2l_exp.evaluation import evaluate, metric_steps
from l2l_exp.optimizees.functions import Landscape
from l2l_exp.optimizees.lasso import Lasso
from l2l_exp.optimizees.logistic import Logistic
from l2l_exp.optimizees.quadratic import Quadratic
from l2l_exp.optimizees.seeding import Seed
from l2l_exp.optimizees.spectrum import Spectrum
from l2l_exp.optimizers.baseline import Baseline
from l2l_exp.reference import METHODS, Reference, refer
from l2l_exp.state import ContenderFiles
from l2l_exp.tuning import TuningCache

SEED, PROBLEMS = Seed("test", 0), (0, 3, 7)


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


def test_the_losses_are_the_best_so_far_of_scipys_own_evaluations(method):
    optimizee = Landscape("rosenbrock", 3).double()
    record, _ = refer(optimizee, Reference(method), PROBLEMS, SEED, 60)
    for column, start in enumerate(optimizee.init(PROBLEMS, SEED).numpy()):
        seen = []

        def rosen(x, seen=seen):
            seen.append(scipy.optimize.rosen(x))
            return seen[-1], scipy.optimize.rosen_der(x)

        options = {"gtol": 0, "maxiter": 60} | ({"ftol": 0} if method == "L-BFGS-B" else {})
        scipy.optimize.minimize(rosen, start, jac=True, method=method, options=options)
        best = np.minimum.accumulate(seen)[:30]
        ours = record.loss[: len(best), column]
        np.testing.assert_allclose(ours, best, rtol=1e-6, atol=1e-12)
        assert record.loss[-1, column] < 1e-12


def test_a_step_is_one_evaluation_and_no_more_than_the_horizon_are_made(method, monkeypatch):
    calls = []
    original = reference.differentiate
    monkeypatch.setattr(
        reference, "differentiate", lambda *args: calls.append(1) or original(*args)
    )
    record, _ = refer(Landscape("rastrigin", 5), Reference(method), [0], SEED, 9)
    assert len(calls) == 10  # theta_0, and one per step
    assert list(record.steps) == list(range(10))


def test_a_shorter_horizon_is_the_beginning_of_a_longer_one(method):
    optimizee = Landscape("beale")
    short, long = (refer(optimizee, Reference(method), PROBLEMS, SEED, t)[0] for t in (8, 40))
    np.testing.assert_array_equal(short.loss, long.loss[:9])
    np.testing.assert_array_equal(short.running_mean, long.running_mean[:9])


def test_it_meets_the_problems_that_rules_meet(method):
    optimizee = Quadratic(4, "gaussian")  # in float32: it sees the rounded problem
    record, _ = refer(optimizee, Reference(method), PROBLEMS, SEED, 5)
    (rules,) = evaluate(optimizee, Baseline(torch.optim.SGD, 0.1), PROBLEMS, SEED, 5)
    np.testing.assert_allclose(record.loss[0], rules.loss[0], rtol=1e-6)
    np.testing.assert_array_equal(record.problems, rules.problems)
    assert record.metrics.keys() == rules.metrics.keys()
    alone, _ = refer(optimizee, Reference(method), PROBLEMS[1:2], SEED, 5)
    np.testing.assert_array_equal(alone.loss[:, 0], record.loss[:, 1])
    assert optimizee.anchor.dtype == torch.float32 and optimizee.batching == "vmap"


@pytest.mark.parametrize("optimizee", [Logistic(), Lasso(), Spectrum()])
def test_metrics_are_those_of_the_best_point_so_far(optimizee, method):
    record, cost = refer(optimizee, Reference(method), PROBLEMS, SEED, 250)
    assert list(record.metric_steps) == metric_steps(250)
    places = np.searchsorted(record.steps, record.metric_steps)
    np.testing.assert_allclose(record.metrics["train_loss"], record.loss[places], rtol=1e-9)
    above = record.metrics["suboptimality"]
    assert (np.diff(above, axis=0) <= 0).all() and (above >= -1e-12).all()
    assert cost.rule_seconds > 0 and cost.gradient_seconds > 0
    assert math.isnan(cost.state_bytes_per_coordinate)


def test_the_running_mean_is_that_of_the_losses(method):
    record, _ = refer(Spectrum(3), Reference(method), PROBLEMS, SEED, 30)
    expected = np.cumsum(record.loss[1:], axis=0) / np.arange(1, 31)[:, None]
    np.testing.assert_allclose(record.running_mean[1:], expected)
    np.testing.assert_array_equal(record.running_mean[0], record.loss[0])


class Cliff(Landscape):
    """log of a coordinate: no number beyond 0, where steepest descent leads."""

    def loss(self, theta, data):
        return theta[0].log() + theta[1] ** 2

    def metrics(self, theta, problem):
        return {"train_loss": theta[:, 0].log() + theta[:, 1] ** 2}


def test_points_without_a_loss_are_passed_by_and_failure_is_data(method):
    optimizee = Cliff("rosenbrock", spread=0.5)
    record, _ = refer(optimizee, Reference(method), PROBLEMS, SEED, 20)
    assert np.isfinite(record.loss).all() and (record.loss[-1] <= record.loss[0]).all()
    nowhere = Cliff("rosenbrock", spread=0.5)
    nowhere.get_buffer("own_minimiser").fill_(-1.0)
    record, _ = refer(nowhere, Reference(method), PROBLEMS, SEED, 20)
    assert set(record.status) == {"diverged"}


@pytest.mark.parametrize(
    ("optimizee", "message"),
    [
        (Logistic(batch_size=8), "BFGS needs the same loss at every step, and Logistic is not"),
        (Landscape("ackley", 2001), "BFGS is for at most 2000 coordinates, not 2001"),
    ],
)
def test_optimizees_that_a_line_search_cannot_take_are_refused(optimizee, message):
    with pytest.raises(ValueError, match=message):
        refer(optimizee, Reference(), PROBLEMS, SEED, 5)


def test_impossible_values_are_refused():
    with pytest.raises(ValueError, match="method='Newton' must be one of BFGS, L-BFGS-B"):
        Reference("Newton")
    with pytest.raises(ValueError, match="history_size=0 must be >= 1"):
        Reference("L-BFGS-B", 0)
    with pytest.raises(ValueError, match="at least one problem"):
        refer(Spectrum(), Reference(), [], SEED, 5)


def test_a_reference_is_a_contender_that_is_kept_and_read_back(tmp_path):
    rules = {"sgd": Baseline(torch.optim.SGD, 0.1), "bfgs": Reference()}
    protocol = Protocol(horizon=5, problems=3, tuning_problems=2, seed=0, identity={})
    files, told = ContenderFiles(tmp_path), []
    first = compare(Spectrum(3), rules, protocol, TuningCache(None), told.append, files)
    assert [one.name for one in first] == ["sgd", "bfgs"]
    assert first[1].tuned is None and set(first[1].records) == {"average", "final"}
    assert told[-1] == "bfgs: 3 test problems, one by one"
    told.clear()
    again = compare(Spectrum(3), rules, protocol, TuningCache(None), told.append, files)
    assert not told
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.records["final"].loss, other.records["final"].loss)
