"""Evolution strategies: against closed forms, by hand, and for every rule and optimizee."""

import copy
import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import LEARNED
from scipy.optimize import brentq
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from l2l_exp.meta.evolution import ES, PES, SingleNoise
from l2l_exp.meta.gradients import Backprop
from l2l_exp.meta.particles import ParticleError, last_particle, spread
from l2l_exp.optimizees.quadratic import Quadratic
from l2l_exp.optimizees.seeding import Seed
from l2l_exp.optimizers.base import state_tensors
from l2l_exp.optimizers.baseline import Baseline
from l2l_exp.optimizers.lstm import CoordinatewiseLSTM
from l2l_exp.unroll import Episode, unroll

SEED, PROBLEMS = Seed("train", 0), (0, 1, 2)
STRATEGIES = {"es": ES, "pes": PES, "single_noise": SingleNoise}


def rng(seed=0):
    """What an estimator draws from."""
    return np.random.default_rng(seed)


def mean(losses):
    """The meta-loss of these tests."""
    return losses.mean()


def flat(estimate):
    """The whole meta-gradient as a vector."""
    return torch.cat([grad.flatten() for grad in estimate.grads])


def windows(gradient, optimizee, rule, horizon, truncation, draws):
    """The estimates of every window of an episode, at meta-parameters that stay."""
    episode = Episode(optimizee, optimizee.sample(PROBLEMS, SEED), horizon, gradient.attached)
    carry, estimates = gradient.start(episode, rule, draws), []
    for _ in range(0, horizon, truncation):
        estimates.append(gradient(episode, rule, carry, truncation, mean, draws))
        carry = estimates[-1].carry
    return estimates


# --- a learning rate on a diagonal quadratic: everything is known -----------------------------

CURVATURE, RATE, SIGMA = (1.0, 0.3), 0.5, 0.1
HORIZON, TRUNCATION = 12, 3
NODES, NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(40)
NODE_WEIGHTS = NODE_WEIGHTS / NODE_WEIGHTS.sum()


class Toy:
    """theta_t = prod (1 - rate_t h) theta_0, f = sum_h h theta^2 / 2; meta-losses by quadrature.

    A moment is E (1 - (rate + eps) h)^power over eps ~ N(0, sigma^2), and its slope in the rate.
    """

    def __init__(self, optimizee, sigma=SIGMA, horizon=HORIZON, truncation=TRUNCATION):
        start = optimizee.init(PROBLEMS, SEED)
        self.curvature = optimizee.curvature.numpy()
        self.scale = (0.5 * optimizee.curvature * start.square()).mean(0).numpy()
        self.sigma, self.truncation, self.windows = sigma, truncation, horizon // truncation

    def moment(self, rate, power):
        base = 1 - np.multiply.outer(rate + self.sigma * NODES, self.curvature)
        return NODE_WEIGHTS @ base**power

    def slope(self, rate, power):
        base = 1 - np.multiply.outer(rate + self.sigma * NODES, self.curvature)
        return NODE_WEIGHTS @ (-power * self.curvature * base ** (power - 1))

    def total(self, of_step):
        """Sum over windows of the mean over their steps of something of (steps before, step)."""
        steps = range(1, self.truncation + 1)
        before = [window * self.truncation for window in range(self.windows)]
        return sum(
            np.mean([self.scale @ of_step(start, step) for step in steps]) for start in before
        )

    def es(self, rate):
        """The start of a window is a constant: the truncated gradient."""
        return self.total(
            lambda start, step: (
                (1 - rate * self.curvature) ** (2 * start) * self.slope(rate, 2 * step)
            )
        )

    def single_noise(self, rate):
        """One perturbation throughout."""
        return self.total(lambda start, step: self.slope(rate, 2 * (start + step)))

    def pes(self, rate):
        """An independent perturbation of every window."""
        whole, length = 2 * self.truncation, self.truncation

        def slope(start, step):
            count = start // length
            moment, last = self.moment(rate, whole), self.moment(rate, 2 * step)
            earlier = count * moment ** max(count - 1, 0) * self.slope(rate, whole) * last
            return earlier + moment**count * self.slope(rate, 2 * step)

        return self.total(slope)


@pytest.fixture
def descent(scripted):
    """Gradient descent whose learning rate is the only meta-parameter."""
    return scripted(lambda seen: -seen.grad, gain=RATE)


def drawn_sums(strategy, optimizee, rule, truncation=TRUNCATION, repeats=80):
    """Sums over the windows of an episode of independent estimates: (repeats,)."""
    gradient = strategy(pairs=1000, sigma=SIGMA)
    return torch.stack(
        [
            sum(
                flat(e)
                for e in windows(gradient, optimizee, rule, HORIZON, truncation, rng(number))
            )
            for number in range(repeats)
        ]
    ).squeeze(1)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_is_unbiased_for_what_it_is_said_to_estimate(separable, descent, name):
    optimizee = separable(CURVATURE)
    toy = Toy(optimizee)
    expected = {each: getattr(toy, each)(RATE) for each in STRATEGIES}
    sums = drawn_sums(STRATEGIES[name], optimizee, descent)
    error = sums.std() / len(sums) ** 0.5
    assert abs(sums.mean() - expected.pop(name)) < 4 * error
    for other in expected.values():  # it would have been noticed
        assert abs(sums.mean() - other) > 5 * error


def test_an_untruncated_strategy_is_unbiased_for_the_episode(separable, descent):
    optimizee = separable(CURVATURE)
    sums = drawn_sums(ES, optimizee, descent, truncation=HORIZON)
    error = sums.std() / len(sums) ** 0.5
    whole = Toy(optimizee).single_noise(RATE) / (HORIZON // TRUNCATION)  # a mean, not a sum of 4
    assert abs(sums.mean() - whole) < 4 * error < abs(whole) / 4


def test_truncated_backpropagation_is_the_truncated_gradient_of_theory(separable, descent):
    optimizee = separable(CURVATURE)
    exact = Toy(optimizee, sigma=0.0)
    truncated = sum(map(flat, windows(Backprop(2), optimizee, descent, HORIZON, TRUNCATION, rng())))
    assert truncated.item() == pytest.approx(exact.es(RATE), rel=1e-12)
    (whole,) = windows(Backprop(2), optimizee, descent, HORIZON, HORIZON, rng())
    episode = exact.single_noise(RATE) / (HORIZON // TRUNCATION)
    assert flat(whole).item() == pytest.approx(episode, rel=1e-12)
    assert exact.pes(RATE) == pytest.approx(exact.single_noise(RATE), rel=1e-12)


def test_truncation_picks_too_small_a_learning_rate(separable, descent):
    # The steep direction is settled at once, and the losses that remain are those of the flat one;
    # of these truncated gradients see the last few steps alone.
    optimizee = separable((1.0, 0.02))
    exact = Toy(optimizee, 0.0, horizon=100, truncation=5)
    best = brentq(exact.single_noise, 0.5, 2.5)
    short = brentq(exact.es, 0.5, 2.5)
    assert 1 < short < 0.95 * best
    with torch.no_grad():
        descent.gain.fill_((short + best) / 2)
    sums = {
        name: sum(map(flat, windows(gradient, optimizee, descent, 100, 5, rng()))).item()
        for name, gradient in {
            "backprop": Backprop(2),
            "es": ES(100, 1e-3),
            "pes": PES(2000, 1e-3),
            "single_noise": SingleNoise(100, 1e-3),
        }.items()
    }
    assert sums["backprop"] > 0 and sums["es"] > 0  # down, away from the best
    assert sums["pes"] < 0 and sums["single_noise"] < 0  # up
    assert sums["single_noise"] == pytest.approx(exact.single_noise(descent.gain.item()), rel=0.5)


# --- variance ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_variance_of_a_window_is_that_of_theory(linear_loss, name):
    # theta = phi after every step, f = theta: the slope is 1 in the window's own perturbation, so
    # that an estimate is (its own . direction) / sigma^2, of variance 2 for one pair. Summed over
    # w windows of independent perturbations the direction adds w - 1.
    optimizee, rule = linear_loss
    pairs, count = 20_000, 6
    gradient = STRATEGIES[name](1, 0.1)
    several = type(gradient)(pairs, 0.1)
    estimates = several_values(several, optimizee, rule, count)
    for window, values in enumerate(estimates):
        expected = 2 + (window if name == "pes" else 0)
        assert values.mean().item() == pytest.approx(1, abs=5 * (expected / pairs) ** 0.5)
        assert values.var().item() == pytest.approx(expected, rel=0.15)


class Tracking(Quadratic):
    """f(theta) = theta."""

    def __init__(self):
        super().__init__(1, init_std=1.0)

    def loss(self, theta, data):
        return theta.sum()


@pytest.fixture
def linear_loss(scripted):
    """f = theta, and a rule that goes to phi whatever it sees."""

    class Goes(scripted):
        def step(self, seen, state):
            return self.gain - seen.theta, state

    return Tracking().double(), Goes(None, 0.7)


def several_values(gradient, optimizee, rule, count):
    """What every pair alone would have estimated in every window: by its noise and its losses."""
    seen = []
    contrast = gradient.contrast

    def spy(rule, losses, directions, objective, carry):
        ahead, behind = losses.mean((0, 2)).chunk(2)
        seen.append((ahead - behind) * directions.squeeze(1) / (2 * gradient.sigma**2))
        return contrast(rule, losses, directions, objective, carry)

    gradient.contrast = spy
    estimates = windows(gradient, optimizee, rule, count, 1, rng())
    for estimate, values in zip(estimates, seen, strict=True):
        torch.testing.assert_close(flat(estimate), values.mean().reshape(1), rtol=1e-9, atol=0)
    return seen


def test_pairs_cancel_the_curvature_of_a_quadratic_meta_loss(separable, scripted):
    # theta_1 = theta_0 + phi: the meta-loss is quadratic in phi, and every pair's estimate is its
    # slope times eps^2 / sigma^2, whatever sigma is.
    optimizee, rule = separable(), scripted(lambda seen: torch.ones_like(seen.grad), gain=-0.4)
    (exact,) = windows(Backprop(2), optimizee, rule, 1, 1, rng())
    for strategy in STRATEGIES.values():
        for sigma in (0.1, 10.0):
            (ours,) = windows(strategy(3, sigma), optimizee, rule, 1, 1, rng())
            factor = (rng().standard_normal((3, 1)) ** 2).mean()
            torch.testing.assert_close(flat(ours), factor * flat(exact), rtol=1e-9, atol=0)


# --- the algorithms by hand -------------------------------------------------------------------


def moved(rule, offset):
    """A copy of a rule at phi + offset."""
    other = copy.deepcopy(rule)
    vector_to_parameters(
        parameters_to_vector(rule.parameters()).detach() + offset, other.parameters()
    )
    return other


@torch.no_grad()
def by_hand(name, optimizee, rule, truncation, count, pairs, sigma, draws):
    """Gradients of every window, one particle and one problem set after the other."""
    episode = Episode(optimizee, optimizee.sample(PROBLEMS, SEED), truncation * count)
    size = parameters_to_vector(rule.parameters()).numel()

    def noise():
        return torch.from_numpy(sigma * draws.standard_normal((pairs, size)))

    fixed = noise() if name == "single_noise" else None
    total = torch.zeros(pairs, size, dtype=torch.float64)
    carries = [[episode.start(rule)] * pairs, [episode.start(rule)] * pairs]
    centre, gradients = episode.start(rule), []
    for _ in range(count):
        eps = noise() if fixed is None else fixed
        total = total + eps
        direction = {"es": eps, "pes": total, "single_noise": eps}[name]
        gradient = 0
        for i in range(pairs):
            values = []
            for side, sign in enumerate((1, -1)):
                begin = centre if name == "es" else carries[side][i]
                path = list(unroll(episode, moved(rule, sign * eps[i]), begin, truncation))
                carries[side][i] = path[-1]
                values.append(torch.stack([carry.loss for carry in path]).mean())
            gradient = gradient + direction[i] * (values[0] - values[1]) / (2 * sigma**2 * pairs)
        *_, centre = unroll(episode, rule, centre, truncation)
        gradients.append(gradient)
    return gradients


@pytest.mark.parametrize("batching", ["vmap", "loop"])
@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("rule_name", ["lstm", "two_lstms", "gac_tensor", "ntm", "ntm_secant"])
def test_a_strategy_is_its_algorithm(rule_name, name, batching):
    optimizee, rule = Quadratic(3, "gaussian", init_std=1.0).double(), LEARNED[rule_name]().double()
    expected = by_hand(name, optimizee, rule, 2, 3, 2, 0.1, rng(1))
    ours = windows(STRATEGIES[name](2, 0.1, batching), optimizee, rule, 6, 2, rng(1))
    for estimate, gradient in zip(ours, expected, strict=True):
        assert gradient.norm() > 0
        assert (flat(estimate) - gradient).norm() <= 1e-11 * gradient.norm()


@pytest.mark.parametrize("name", STRATEGIES)
def test_particles_together_equal_a_loop_over_them(learned_rule, name):
    optimizee = Quadratic(3, "gaussian", init_std=1.0).double()
    one, other = (
        functools.partial(
            windows, STRATEGIES[name](2, 0.05, batching), optimizee, learned_rule, 4, 2
        )
        for batching in ("vmap", "loop")
    )
    for a, b in zip(one(rng()), other(rng()), strict=True):
        torch.testing.assert_close(a.losses, b.losses, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(a.carry.theta, b.carry.theta, rtol=1e-12, atol=1e-13)
        states = zip(state_tensors(a.carry.state), state_tensors(b.carry.state), strict=True)
        for x, y in states:
            torch.testing.assert_close(x, y, rtol=1e-11, atol=1e-12)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch's lerp_, of Adam
def test_a_rule_that_vmap_refuses_is_told_what_to_do_and_served_by_a_loop(mlp):
    rule = LEARNED["lstm_and_adam"]().double()  # Adam's count of steps is read as a number
    expected = by_hand("pes", mlp, rule, 2, 2, 2, 0.1, rng())
    for estimate, gradient in zip(
        windows(PES(2, 0.1, "loop"), mlp, rule, 4, 2, rng()), expected, strict=True
    ):
        assert (flat(estimate) - gradient).norm() <= 1e-11 * gradient.norm()
    with pytest.raises(ParticleError, match="Partitioned .* training.gradient.batching=loop$"):
        windows(PES(2, 0.1), mlp, rule, 4, 2, rng())


# --- the interface ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_optimizee_serves_particles(optimizee, name):
    rule, gradient = CoordinatewiseLSTM(2, 1, readout_std=0.1).double(), STRATEGIES[name](2, 0.01)
    for estimate in windows(gradient, optimizee, rule, 4, 2, rng()):
        rows = optimizee.init(PROBLEMS, SEED).shape[0]
        assert estimate.losses.shape == (2, rows) and estimate.carry.loss.shape == (rows,)
        assert [g.shape for g in estimate.grads] == [p.shape for p in rule.parameters()]
        assert flat(estimate).isfinite().all() and flat(estimate).norm() > 0
        assert estimate.meta_loss == pytest.approx(estimate.losses.mean().item())


@pytest.mark.parametrize("name", STRATEGIES)
def test_an_estimate_repeats_itself_and_changes_neither_carry_nor_rule(mlp, name):
    rule, gradient = CoordinatewiseLSTM(2, 1, readout_std=0.1).double(), STRATEGIES[name](2, 0.01)
    episode = Episode(mlp, mlp.sample(PROBLEMS, SEED), 4)
    phi = parameters_to_vector(rule.parameters()).detach().clone()
    carry = gradient(episode, rule, gradient.start(episode, rule, rng()), 2, mean, rng(1)).carry
    kept = [x.clone() for x in (carry.theta, carry.seen.grad, *state_tensors(carry.state))]
    one, again = (gradient(episode, rule, carry, 2, mean, rng(2)) for _ in range(2))
    assert torch.equal(flat(one), flat(again)) and torch.equal(one.carry.theta, again.carry.theta)
    after = (carry.theta, carry.seen.grad, *state_tensors(carry.state))
    assert all(torch.equal(x, y) for x, y in zip(after, kept, strict=True))
    assert torch.equal(parameters_to_vector(rule.parameters()), phi)
    assert not any(x.requires_grad for x in (*after, *one.grads, one.losses))
    other = gradient(episode, rule, carry, 2, mean, rng(3))
    assert torch.equal(flat(one), flat(other)) == (name == "single_noise")  # its noise is carried


def test_all_particles_begin_alike_and_meet_the_same_minibatches(mlp, scripted):
    # Without meta-parameters in its step a particle does what all others do.
    rule = scripted(lambda seen: torch.zeros_like(seen.grad))
    for strategy in STRATEGIES.values():
        for estimate in windows(strategy(2, 0.1), mlp, rule, 4, 2, rng()):
            assert flat(estimate).item() == 0
            rows = estimate.carry.theta.view(-1, len(PROBLEMS), mlp.spec.size)
            assert (rows == rows[0]).all()


def test_truncated_es_goes_on_where_phi_itself_has_come_to(mlp):
    rule = CoordinatewiseLSTM(3, 1, readout_std=0.5).double()
    last = windows(ES(2, 0.5), mlp, rule, 6, 2, rng())[-1].carry
    episode = Episode(mlp, mlp.sample(PROBLEMS, SEED), 6)
    with torch.no_grad():
        *_, expected = unroll(episode, rule, episode.start(rule), 6)
    torch.testing.assert_close(last.theta, expected.theta, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(last.loss, expected.loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(last.state.h[0], expected.state.h[0], rtol=1e-12, atol=1e-13)


def test_the_last_of_equal_particles_is_the_carry_itself(mlp, learned_rule):
    episode = Episode(mlp, mlp.sample(PROBLEMS, SEED), 6)
    with torch.no_grad():
        *_, carry = unroll(episode, learned_rule, episode.start(learned_rule), 2)
    back = last_particle(spread(carry, 3), 3)
    pairs = zip(
        [back.theta, back.loss, *back.seen[:3], *state_tensors(back.state)],
        [carry.theta, carry.loss, *carry.seen[:3], *state_tensors(carry.state)],
        strict=True,
    )
    assert all(torch.equal(one, other) for one, other in pairs)


def test_what_a_rule_itself_does_wrong_is_not_blamed_on_vmap(mlp, scripted):
    rule = scripted(lambda seen: seen.grad @ seen.grad)
    with pytest.raises(RuntimeError, match="size"):
        windows(PES(2, 0.1), replace_batching(mlp), rule, 2, 2, rng())


def replace_batching(optimizee):
    """The same optimizee, one problem at a time."""
    optimizee.batching = "loop"
    return optimizee


@pytest.mark.parametrize("strategy", STRATEGIES.values())
def test_a_rule_without_meta_parameters_cannot_be_trained_by_evolution(separable, strategy):
    with pytest.raises(ValueError, match="Baseline has no meta-parameters"):
        windows(strategy(2, 0.1), separable(), Baseline(torch.optim.SGD, 0.1), 2, 2, rng())


@pytest.mark.parametrize("strategy", STRATEGIES.values())
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pairs": 0}, "pairs=0 must be a whole number >= 1"),
        ({"pairs": 16.0}, "pairs=16.0 must be a whole number >= 1"),
        ({"sigma": 0.0}, "sigma=0.0 must be > 0"),
        ({"sigma": float("nan")}, "sigma=nan must be > 0"),
        ({"batching": "scan"}, "batching='scan' must be one of vmap, loop"),
    ],
)
def test_impossible_strategies_are_refused_by_name(strategy, settings, message):
    with pytest.raises(ValueError, match=message):
        strategy(**settings)


@pytest.mark.parametrize("attached", ["loss", "everything"])
def test_no_graph_is_kept_whatever_the_episode_asks_for(separable, descent, attached):
    optimizee, gradient = separable(), PES(2, 0.1)
    plain = windows(gradient, optimizee, descent, 4, 2, rng())
    episode = replace(Episode(optimizee, optimizee.sample(PROBLEMS, SEED), 4), attached=attached)
    draws = rng()
    estimate = gradient(episode, descent, gradient.start(episode, descent, draws), 2, mean, draws)
    assert torch.equal(flat(estimate), flat(plain[0]))
    assert not estimate.carry.theta.requires_grad and not estimate.losses.requires_grad
