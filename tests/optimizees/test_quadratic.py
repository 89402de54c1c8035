"""What is special about random quadratics."""

import pytest
import torch

from l2l_exp.optimizees.quadratic import Quadratic
from l2l_exp.optimizees.seeding import Seed
from l2l_exp.unroll import differentiate

SEED = Seed("train", 0)


def test_loss_and_gradient_are_the_closed_forms():
    optimizee = Quadratic(3, "gaussian", init_std=1.0).double()
    problem, theta = optimizee.sample([0, 1], SEED), optimizee.init([0, 1], SEED)
    w, y = problem.data["W"], problem.data["y"]
    residual = torch.einsum("bij,bj->bi", w, theta) - y
    loss, grad = differentiate(optimizee, theta, optimizee.minibatch(problem, 3))
    torch.testing.assert_close(loss, (residual**2).sum(1))
    torch.testing.assert_close(grad, 2 * torch.einsum("bij,bi->bj", w, residual))
    torch.testing.assert_close(optimizee.metrics(theta, problem)["train_loss"], loss)


def test_the_gradient_scale_multiplies_gradients_and_leaves_losses():
    plain, scaled = Quadratic(3).double(), Quadratic(3, gradient_scale=1 / 128).double()
    problem, theta = plain.sample([0, 1], SEED), plain.init([0, 1], SEED)
    loss, grad = differentiate(plain, theta, problem.data)
    scaled_loss, scaled_grad = differentiate(scaled, theta, problem.data)
    torch.testing.assert_close(scaled_loss, loss)
    torch.testing.assert_close(scaled_grad, grad / 128)
    assert torch.equal(
        scaled.metrics(theta, problem)["train_loss"], plain.metrics(theta, problem)["train_loss"]
    )


@pytest.mark.parametrize(
    ("distribution", "mean", "variance"), [("gaussian", 0, 1), ("uniform", 1 / 2, 1 / 12)]
)
def test_entries_have_the_moments_of_their_distribution(distribution, mean, variance):
    optimizee = Quadratic(10, distribution, init_std=0.1).double()
    data = optimizee.sample(range(200), SEED).data
    entries = torch.cat([data["W"].flatten(), data["y"].flatten()])  # 22,000
    assert entries.mean().item() == pytest.approx(mean, abs=5 * (variance / 22_000) ** 0.5)
    assert entries.var().item() == pytest.approx(variance, rel=0.06)
    assert distribution == "gaussian" or (entries.min() >= 0 and entries.max() < 1)
    assert optimizee.init(range(200), SEED).std().item() == pytest.approx(0.1, rel=0.08)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dimension": 0}, "dimension=0 must be > 0"),
        ({"gradient_scale": -1.0}, "gradient_scale=-1.0 must be > 0"),
        ({"init_std": -0.1}, "init_std=-0.1 must be >= 0"),
        ({"distribution": "cauchy"}, "distribution='cauchy' must be one of gaussian, uniform"),
    ],
)
def test_values_out_of_range_are_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        Quadratic(**settings)
