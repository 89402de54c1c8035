"""Diagnostics of estimators: right where everything is known, and no part of training."""

import copy
import functools

import numpy as np
import pytest
import torch

from l2l_exp.meta.diagnostics import (
    Diagnostics,
    episode_gradient,
    exact_gradient,
    full_gradient,
    relative_variance,
)
from l2l_exp.meta.evolution import ES, PES, SingleNoise
from l2l_exp.meta.gradients import Backprop, Replay
from l2l_exp.meta.merged import InverseVariance
from l2l_exp.meta.objective import Final, MetaLoss, Plain, Relative, Uniform
from l2l_exp.meta.schedule import Constant
from l2l_exp.meta.train import Options, Plan, train
from l2l_exp.optimizees.quadratic import Quadratic
from l2l_exp.optimizees.seeding import Seed, generator
from l2l_exp.optimizers.encoding import Identity
from l2l_exp.optimizers.lstm import CoordinatewiseLSTM
from l2l_exp.unroll import Episode

ESTIMATORS = {
    "replay": Replay(),
    "replay_subset": Replay(subset=3),
    "backprop": Backprop(1),
    "backprop_second": Backprop(2),
    "es": ES(2, 0.05),
    "pes": PES(2, 0.05),
    "single_noise": SingleNoise(2, 0.05),
    "merged": InverseVariance(Replay(), 2, 0.05),
}
PLAN = Plan(
    horizon=6, truncation=3, episodes=4, problems=3, validation_every=2, validation_problems=4
)
RNGS = functools.partial(generator, Seed("train", 0), "diagnostics")


def small_rule():
    """A tiny LSTM rule in float64."""
    return CoordinatewiseLSTM(3, 1, readout_std=0.5, output_scale=0.1).double()


def quadratics():
    """Tiny problems."""
    return Quadratic(3, "gaussian", init_std=1.0).double()


def measured(gradient, optimizee, rule, truncation=3, meta_loss=None, **settings):
    """Diagnostics of one episode of six steps."""
    episode = Episode(optimizee, optimizee.sample(range(3), Seed("train", 0)), 6, gradient.attached)
    first = episode.start(rule).detach().loss
    objective = functools.partial(meta_loss or MetaLoss(Uniform(), Plain()), first=first, horizon=6)
    diagnose = Diagnostics(every=1, **settings)
    return diagnose(gradient, episode, rule, truncation, objective, RNGS)


def trained(gradient, diagnostics):
    """Meta-parameters and reports of a training."""
    rule, reports = small_rule(), []
    train(
        quadratics(), rule, gradient, MetaLoss(Uniform(), Relative()),
        functools.partial(torch.optim.Adam, lr=1e-2), Constant(), PLAN,
        Options(diagnostics=diagnostics or Diagnostics()),
        report=lambda progress, metrics: reports.append((copy.deepcopy(progress), dict(metrics))),
    )  # fmt: skip
    assert len(reports) == PLAN.episodes
    return rule.state_dict(), reports


@pytest.mark.parametrize("name", ESTIMATORS)
def test_training_does_not_depend_on_diagnostics(name):
    gradient = ESTIMATORS[name]
    plain, reports = trained(gradient, None)
    watched, told = trained(gradient, Diagnostics(every=2, draws=2))
    assert all(torch.equal(plain[key], watched[key]) for key in plain)
    extra = {"meta_gradient_cosine"} | (
        {"meta_gradient_variance"} if gradient.stochastic else set()
    )
    for number, ((_, before), (_, after)) in enumerate(zip(reports, told, strict=True)):
        assert set(after) - set(before) == (extra if number % 2 == 0 else set())
        assert all(after[key] == value for key, value in before.items())
        assert all(np.isfinite(after[key]) for key in extra & set(after))
    assert [p.inner_steps for p, _ in reports] == [p.inner_steps for p, _ in told]


def test_diagnostics_repeat_themselves_and_change_from_episode_to_episode():
    told = [trained(PES(2, 0.05), Diagnostics(every=1, draws=2))[1] for _ in range(2)]
    cosines = [[metrics["meta_gradient_cosine"] for _, metrics in reports] for reports in told]
    assert cosines[0] == cosines[1] and len(set(cosines[0])) == PLAN.episodes


@pytest.mark.parametrize("order", [1, 2])
def test_an_exact_gradient_of_the_whole_horizon_has_cosine_one(order):
    gradient = Backprop(order)
    told = measured(gradient, quadratics(), small_rule(), truncation=6, full_window=order)
    assert told == {"meta_gradient_cosine": pytest.approx(1, abs=1e-10)}
    truncated = measured(gradient, quadratics(), small_rule(), truncation=2, full_window=order)
    assert 0 < truncated["meta_gradient_cosine"] < 0.995


def test_the_orders_are_those_that_are_asked_for():
    optimizee = quadratics()
    rule = CoordinatewiseLSTM(3, 1, Identity(), readout_std=0.5).double()
    told = measured(Backprop(2), optimizee, rule, truncation=6, full_window=1)
    assert told["meta_gradient_cosine"] < 1 - 1e-6
    assert measured(Backprop(2), optimizee, rule, full_window=None) == {}


def test_the_reference_has_the_meta_loss_of_every_window():
    optimizee, rule = quadratics(), small_rule()
    episode = Episode(optimizee, optimizee.sample(range(3), Seed("train", 0)), 6)
    objective = functools.partial(
        MetaLoss(Final(), Plain()), first=episode.start(rule).loss, horizon=6
    )
    ours = full_gradient(exact_gradient(2), episode, rule, 3, objective)
    whole = Episode(optimizee, episode.problem, 6, "everything")
    carry = whole.start(rule).detach()
    estimate = Backprop(2)(
        whole, rule, carry, 6, lambda losses: (losses[2] + losses[5]).mean() / 2, RNGS(0, 0)
    )
    expected = torch.cat([grad.flatten() for grad in estimate.grads])
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)


def test_the_variance_is_that_of_theory_where_it_is_known(linear, scripted):
    # The loss is linear in phi: an estimate is the slope times a mean of eps^2 / sigma^2.
    rule = scripted(lambda seen: -torch.ones_like(seen.grad), gain=0.3)
    for pairs in (2, 8):
        told = measured(ES(pairs, 0.1), linear, rule, truncation=6, draws=600)
        assert told["meta_gradient_variance"] == pytest.approx(2 / pairs, rel=0.2)
        assert abs(told["meta_gradient_cosine"]) == pytest.approx(1)


def test_a_variance_is_relative_to_the_norm_of_the_mean():
    drawn = torch.tensor([[1.0, 0.0], [3.0, 4.0]])
    assert relative_variance(drawn) == pytest.approx((2 + 8) / (4 + 4))
    assert relative_variance(7 * drawn) == pytest.approx((2 + 8) / (4 + 4))


def test_an_episodes_gradient_is_the_mean_of_its_windows():
    optimizee, rule = quadratics(), small_rule()
    episode = Episode(optimizee, optimizee.sample(range(3), Seed("train", 0)), 6)
    objective = functools.partial(
        MetaLoss(Uniform(), Plain()), first=episode.start(rule).loss, horizon=6
    )
    carry, grads = episode.start(rule), []
    for start in (0, 3):
        estimate = Replay()(episode, rule, carry, 3, lambda losses: losses.mean(), RNGS(0, start))
        grads.append(torch.cat([grad.flatten() for grad in estimate.grads]))
        carry = estimate.carry
    ours = episode_gradient(Replay(), episode, rule, 3, objective, RNGS)
    torch.testing.assert_close(ours, (grads[0] + grads[1]) / 2, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": 0}, "every=0 must be >= 1, or null"),
        ({"draws": 1}, "draws=1 must be >= 2"),
        ({"full_window": 3}, "full_window=3 must be 1 or 2, or null"),
    ],
)
def test_impossible_diagnostics_are_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        Diagnostics(**settings)


def test_they_are_off_until_they_are_asked_for():
    assert not any(Diagnostics().due(episode) for episode in range(100))
    assert [e for e in range(10) if Diagnostics(every=4).due(e)] == [0, 4, 8]
