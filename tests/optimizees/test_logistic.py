"""Logistic regression against scikit-learn, and its splits."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from l2l_exp.optimizees.logistic import Logistic
from l2l_exp.optimizees.seeding import Seed
from l2l_exp.unroll import differentiate

SEED, PROBLEMS = Seed("test", 0), (0, 3, 4)
SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def optimizee():
    return Logistic().double()


@pytest.mark.parametrize("l2", [1e-5, 1e-2, 1.0])
def test_the_minimiser_is_where_the_gradient_vanishes(l2):
    optimizee = Logistic(l2=l2).double()
    problem = optimizee.sample(PROBLEMS, SEED)
    loss, grad = differentiate(optimizee, optimizee.minimiser(problem), problem.data)
    assert grad.abs().max() < 1e-11
    torch.testing.assert_close(loss, optimizee.minimum(problem), rtol=1e-12, atol=0)


def test_the_minimiser_is_scikit_learns(optimizee):
    problem = optimizee.sample(PROBLEMS, SEED)
    for cases, theta in zip(problem.data["cases"], optimizee.minimiser(problem), strict=True):
        x, y = optimizee.get_buffer("x")[cases], optimizee.get_buffer("y")[cases]
        theirs = LogisticRegression(
            C=1 / (optimizee.l2 * optimizee.cases), fit_intercept=False, tol=1e-10,
            solver="newton-cholesky", max_iter=1000,
        ).fit(x.numpy(), y.numpy())  # fmt: skip
        np.testing.assert_allclose(theta, theirs.coef_[0], rtol=1e-6, atol=1e-8)


def test_the_loss_is_the_formula(optimizee):
    problem = optimizee.sample(PROBLEMS, SEED)
    theta = optimizee.init(PROBLEMS, SEED)
    loss, _ = differentiate(optimizee, theta, problem.data)
    for b, cases in enumerate(problem.data["cases"]):
        x, y = (optimizee.get_buffer(name)[cases].numpy() for name in "xy")
        by_hand = np.mean(np.log1p(np.exp(-y * (x @ theta[b].numpy()))))
        penalty = optimizee.l2 / 2 * np.sum(theta[b].numpy() ** 2)
        assert loss[b].item() == pytest.approx(by_hand + penalty, rel=1e-12)


def test_held_out_metrics_are_those_of_the_held_out_cases(optimizee):
    problem, theta = optimizee.sample(PROBLEMS, SEED), optimizee.init(PROBLEMS, SEED)
    metrics = optimizee.metrics(theta, problem)
    index = optimizee.part("test", held_out=True)
    x, y = (optimizee.get_buffer(name)[index].numpy() for name in "xy")
    margins = y * (theta.numpy() @ x.T)
    np.testing.assert_allclose(metrics["held_out_loss"], np.log1p(np.exp(-margins)).mean(1))
    np.testing.assert_allclose(metrics["held_out_accuracy"], (margins > 0).mean(1))


def test_the_solution_generalises(optimizee):
    problem = optimizee.sample(range(10), SEED)
    metrics = optimizee.metrics(optimizee.minimiser(problem), problem)
    assert metrics["suboptimality"].abs().max() < 1e-15
    assert metrics["held_out_accuracy"].mean() > 0.9


def test_the_six_parts_are_disjoint_and_problems_stay_in_theirs(optimizee):
    parts = [optimizee.part(s, held_out=held_out) for s in SPLITS for held_out in (False, True)]
    whole = torch.cat(parts)
    assert len(whole) == 569 and len(whole.unique()) == 569
    for split in SPLITS:
        problem = optimizee.sample(range(30), Seed(split, 0))
        assert torch.isin(problem.data["cases"], optimizee.part(split)).all()
        assert all(len(cases.unique()) == 100 for cases in problem.data["cases"])


def test_each_split_is_standardised_by_its_own_training_part(optimizee):
    x = optimizee.get_buffer("x")
    for split in SPLITS:
        seen = x[optimizee.part(split)]
        torch.testing.assert_close(
            seen[:, :30].mean(0), torch.zeros(30).double(), rtol=0, atol=1e-6
        )
        deviation = seen[:, :30].std(0, correction=0)
        torch.testing.assert_close(deviation, torch.ones(30).double(), rtol=1e-6, atol=0)
        assert (x[optimizee.part(split, held_out=True)][:, :30].mean(0).abs() > 0.01).any()
    assert (x[:, 30] == 1).all()


def test_minibatches_come_from_the_problems_own_cases():
    optimizee = Logistic(cases=20, batch_size=50)
    assert not optimizee.deterministic and Logistic().deterministic
    problem = optimizee.sample(PROBLEMS, SEED)
    batch = optimizee.minibatch(problem, 3)["cases"]
    assert batch.shape == (3, 50)
    for b in range(3):
        assert torch.isin(batch[b], problem.data["cases"][b]).all()
        assert len(batch[b].unique()) < 20 + 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cases": 1}, r"cases=1 must be in \[2, 141\]"),
        ({"cases": 1000}, r"cases=1000 must be in \[2, 141\]"),
        ({"l2": 0.0}, "l2=0.0 must be > 0"),
        ({"init_std": 0.0}, "init_std=0.0 must be > 0"),
        ({"batch_size": 0}, "batch_size=0 must be >= 1, or null"),
        ({"held_out_fraction": 1.0}, r"held_out_fraction=1.0 must be in \(0, 1\)"),
    ],
)
def test_impossible_values_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Logistic(**settings)
