"""Backpropagation and evolution merged: by hand, and at both of its ends."""

import copy

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from l2l_exp.meta.evolution import ES
from l2l_exp.meta.gradients import Backprop, Replay
from l2l_exp.meta.merged import InverseVariance, merge
from l2l_exp.optimizees.quadratic import Quadratic
from l2l_exp.optimizees.seeding import Seed
from l2l_exp.optimizers.lstm import CoordinatewiseLSTM
from l2l_exp.unroll import Episode, unroll


def window(gradient, optimizee, rule, steps=3, seed=0):
    """The estimate of the first window."""
    draws = np.random.default_rng(seed)
    problem = optimizee.sample(range(3), Seed("train", 0))
    episode = Episode(optimizee, problem, 6, gradient.attached)
    carry = gradient.start(episode, rule, draws)
    return gradient(episode, rule, carry, steps, torch.mean, draws)


def flat(estimate):
    """The whole meta-gradient as a vector."""
    return torch.cat([grad.flatten() for grad in estimate.grads])


@pytest.mark.parametrize("inner", [Replay(), Backprop(2)])
def test_both_estimates_are_weighted_by_the_inverse_of_their_variances(mlp, inner):
    rule, pairs, sigma = CoordinatewiseLSTM(3, 1, readout_std=0.5).double(), 3, 0.1
    ours = window(InverseVariance(inner, pairs, sigma), mlp, rule)
    phi = parameters_to_vector(rule.parameters()).detach()
    noise = torch.from_numpy(sigma * np.random.default_rng(0).standard_normal((pairs, len(phi))))
    slopes, differences, losses = [], [], []
    for eps in noise:
        sides = []
        for offset in (eps, -eps):
            other = copy.deepcopy(rule)
            vector_to_parameters(phi + offset, other.parameters())
            sides.append(window(inner, mlp, other))
        losses += [side.losses for side in sides]
        slopes.append((flat(sides[0]) + flat(sides[1])) / 2)
        change = sides[0].meta_loss - sides[1].meta_loss
        differences.append(change / (2 * sigma**2) * eps)
    means, variances = zip(
        *[(torch.stack(x).mean(0), torch.stack(x).var(0)) for x in (slopes, differences)],
        strict=True,
    )
    weights = [1 / variance for variance in variances]
    expected = (weights[0] * means[0] + weights[1] * means[1]) / (weights[0] + weights[1])
    torch.testing.assert_close(flat(ours), expected, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(ours.losses, torch.stack(losses).mean(0))
    assert ours.meta_loss == pytest.approx(ours.losses.mean().item())


def test_the_next_window_starts_where_phi_itself_has_come_to(mlp, learned_rule):
    before = parameters_to_vector(learned_rule.parameters()).detach().clone()
    carry = window(InverseVariance(Backprop(2), 2, 0.5), mlp, learned_rule).carry
    episode = Episode(mlp, mlp.sample(range(3), Seed("train", 0)), 6)
    with torch.no_grad():
        *_, last = unroll(episode, learned_rule, episode.start(learned_rule), 3)
    torch.testing.assert_close(carry.theta, last.theta, rtol=1e-12, atol=1e-13)
    assert not carry.theta.requires_grad
    assert torch.equal(parameters_to_vector(learned_rule.parameters()), before)


def test_what_does_not_vary_is_taken_alone(linear, scripted):
    # The loss is linear in theta, theta in phi: every particle has the same slope.
    rule = scripted(lambda seen: -torch.ones_like(seen.grad), gain=0.3)
    exact = flat(window(Backprop(2), linear, rule))
    assert (flat(window(ES(4, 0.1), linear, rule)) - exact).abs() > 0.05 * exact.abs()
    ours = flat(window(InverseVariance(Replay(), 4, 0.1), linear, rule))
    torch.testing.assert_close(ours, exact, rtol=1e-9, atol=0)


def test_a_slope_that_explodes_leaves_the_differences():
    quiet = torch.tensor([[1.0, 2.0], [3.0, 2.5]])
    wild = torch.tensor([[1e30, 1.0], [-1e30, 1.5]])
    merged = merge(wild, quiet)
    assert merged[0] == 2.0 and merged[1] == pytest.approx((1.25 + 2.25) / 2)
    lost = torch.tensor([[torch.nan, 1.0], [1.0, 1.5]])
    assert merge(lost, quiet)[0] == 2.0
    assert merge(torch.ones(2, 1), torch.full((2, 1), 5.0)) == 1.0


def test_the_merged_gradient_varies_less_than_either_of_the_two():
    optimizee = Quadratic(3, "gaussian", init_std=1.0).double()
    rule = CoordinatewiseLSTM(3, 1, readout_std=0.5).double()

    def spread(gradient):
        drawn = [flat(window(gradient, optimizee, rule, seed=seed)) for seed in range(30)]
        return torch.stack(drawn).var(0).sum()

    assert spread(InverseVariance(Backprop(2), 4, 0.05)) < 0.1 * spread(ES(4, 0.05))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InverseVariance(Replay(), pairs=1), "pairs=1 must be a whole number >= 2"),
        (lambda: InverseVariance(Replay(), pairs=4.0), "pairs=4.0 must be a whole number >= 2"),
        (lambda: InverseVariance(Replay(), sigma=-1.0), "sigma=-1.0 must be > 0"),
        (lambda: InverseVariance(ES()), "gradient=ES must be of one particle"),
    ],
)
def test_what_cannot_be_merged_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
