"""Meta-gradients: estimators against each other, against formulas, against finite differences."""

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from l2l_exp.meta.gradients import Backprop, Replay, replay, stratified_subset
from l2l_exp.meta.objective import (
    Final,
    Geometric,
    Linear,
    Log,
    MetaLoss,
    Plain,
    Relative,
    Uniform,
)
from l2l_exp.optimizees.quadratic import Quadratic
from l2l_exp.optimizees.seeding import Seed
from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers.base import map_state
from l2l_exp.optimizers.baseline import Baseline
from l2l_exp.optimizers.encoding import Identity, LogSign
from l2l_exp.optimizers.lstm import CoordinatewiseLSTM
from l2l_exp.unroll import Episode, unroll

SEED, PROBLEMS = Seed("train", 0), (0, 1, 2)
HORIZON, STEPS = 10, 4
WEIGHTS = {"uniform": Uniform(), "linear": Linear(), "geometric": Geometric(0.7), "final": Final()}
FORMS = {"plain": Plain(), "log": Log(), "relative": Relative()}
MEAN = MetaLoss(Uniform(), Plain())


def rng():
    """What a stochastic estimator draws from."""
    return np.random.default_rng(0)


def estimate(gradient, optimizee, rule, *, start=0, steps=STEPS, loss=MEAN, draws=None):
    """A window of `steps` inner steps that begins after `start` of them."""
    episode = Episode(optimizee, optimizee.sample(PROBLEMS, SEED), HORIZON, gradient.attached)
    begin = episode.start(rule).detach()
    first = begin.loss
    *_, carry = [begin, *unroll(episode, rule, begin, start)]
    return gradient(
        episode, rule, carry.detach(), steps,
        lambda losses: loss(losses, first, start, HORIZON), draws or rng(),
    )  # fmt: skip


def flat(estimate):
    """The whole meta-gradient as a vector."""
    return torch.cat([grad.flatten() for grad in estimate.grads])


def assert_equal(one, other, rtol):
    """Equal relative to the larger of the two vectors' norms, which is not zero."""
    scale = max(one.norm(), other.norm())
    assert scale > 0 and (one - other).norm() <= rtol * scale


def central_differences(value, rule, places=None, eps=1e-5):
    """Slopes of value() in the chosen meta-parameters: a dict place -> slope."""
    phi = parameters_to_vector(rule.parameters()).detach().clone()
    slopes = {}
    for place in range(len(phi)) if places is None else places:
        sides = []
        for sign in (1, -1):
            moved = phi.clone()
            moved[place] += sign * eps
            vector_to_parameters(moved, rule.parameters())
            sides.append(value())
        slopes[place] = (sides[0] - sides[1]) / (2 * eps)
    vector_to_parameters(phi, rule.parameters())
    return slopes


def window(optimizee, rule, steps=STEPS):
    """Carries 0..K of a window from the start, without graphs, and its problem."""
    problem = optimizee.sample(PROBLEMS, SEED)
    episode = Episode(optimizee, problem, HORIZON)
    with torch.no_grad():
        carry = episode.start(rule)
        return [carry, *unroll(episode, rule, carry, steps)]


# --- Replay is Backprop of order 1 ------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_replay_equals_first_order_backprop_for_every_meta_loss(mlp, weights, form):
    rule = CoordinatewiseLSTM(3, 2, readout_std=0.5).double()
    loss = MetaLoss(WEIGHTS[weights], FORMS[form])
    exact = estimate(Backprop(order=1), mlp, rule, loss=loss, start=3)
    ours = estimate(Replay(), mlp, rule, loss=loss, start=3)
    assert_equal(flat(ours), flat(exact), 1e-10)
    assert ours.meta_loss == pytest.approx(exact.meta_loss, rel=1e-12)
    torch.testing.assert_close(ours.losses, exact.losses, rtol=1e-12, atol=0)
    torch.testing.assert_close(ours.carry.theta, exact.carry.theta, rtol=1e-12, atol=1e-14)


def test_replay_equals_first_order_backprop_in_chunks_of_any_size(optimizee, learned_rule):
    exact = estimate(Backprop(order=1), optimizee, learned_rule)
    for chunk in (7, 64, 10**6):
        assert_equal(flat(estimate(Replay(chunk), optimizee, learned_rule)), flat(exact), 1e-10)


def test_replay_equals_first_order_backprop_one_coordinate_at_a_time(linear, learned_rule):
    exact = estimate(Backprop(order=1), linear, learned_rule)
    assert_equal(flat(estimate(Replay(chunk=1), linear, learned_rule)), flat(exact), 1e-10)


@pytest.mark.parametrize("coupling", ["tensor", "problem"])
@pytest.mark.parametrize("chunk", [1, 8, 10**6])
def test_a_rule_that_couples_coordinates_is_replayed_by_problems(scripted, coupling, chunk):
    optimizee = Quadratic(4, "gaussian", init_std=1.0).double()
    rule = scripted(lambda seen: -0.01 * seen.grad.mean(1, keepdim=True) * seen.theta)
    rule.coupling = coupling
    exact = estimate(Backprop(order=1), optimizee, rule)
    assert_equal(flat(estimate(Replay(chunk), optimizee, rule)), flat(exact), 1e-12)
    with pytest.raises(ValueError, match=f"subset=3 .* of a {coupling}"):
        estimate(Replay(subset=3), optimizee, rule)


@pytest.mark.parametrize("gradient", [Replay(), Backprop(1), Backprop(2)])
def test_an_estimate_leaves_no_graph_and_changes_no_parameter(mlp, learned_rule, gradient):
    before = parameters_to_vector(learned_rule.parameters()).detach().clone()
    result = estimate(gradient, mlp, learned_rule)
    assert torch.equal(parameters_to_vector(learned_rule.parameters()), before)
    assert all(parameter.grad is None for parameter in learned_rule.parameters())
    assert not any(x.requires_grad for x in (result.losses, result.carry.theta, *result.grads))
    assert result.losses.shape == (STEPS, len(PROBLEMS))
    assert [g.shape for g in result.grads] == [p.shape for p in learned_rule.parameters()]


# --- against formulas and finite differences --------------------------------------------------


def test_first_order_is_the_formula_by_finite_differences_with_observations_frozen():
    # d L / d phi = sum_t w_t grad_t . sum_{s<t} d update_s / d phi
    optimizee = Quadratic(2, "gaussian", init_std=1.0).double()
    rule = CoordinatewiseLSTM(2, 1, Identity(0.1), readout_std=0.5).double()
    carries = window(optimizee, rule)

    def formula():
        state, total, moved = carries[0].state, 0.0, 0.0
        for t in range(1, STEPS + 1):
            update, state = rule.step(carries[t - 1].seen, state)
            moved = moved + update
            weight = t * 2 / (HORIZON + 1) / (STEPS * len(PROBLEMS))  # linear weights, mean
            total = total + weight * (carries[t].seen.grad * moved).sum().item()
        return total

    slopes = central_differences(formula, rule)
    loss = MetaLoss(Linear(), Plain())
    for gradient in (Replay(), Backprop(order=1)):
        ours = flat(estimate(gradient, optimizee, rule, loss=loss))
        assert_equal(ours, ours.new_tensor(list(slopes.values())), 1e-7)


@pytest.mark.parametrize("encoding", [Identity(0.1), LogSign(10.0)])
@pytest.mark.parametrize("form", FORMS)
def test_second_order_is_the_slope_of_the_meta_loss_in_every_meta_parameter(encoding, form):
    optimizee = Quadratic(2, "gaussian", init_std=1.0).double()
    rule = CoordinatewiseLSTM(2, 2, encoding, readout_std=0.5).double()
    loss = MetaLoss(Linear(), FORMS[form])
    away_from_kink = min(carry.seen.grad.abs().min() for carry in window(optimizee, rule))
    assert away_from_kink > 0.01

    def meta_loss():
        carries = window(optimizee, rule)
        losses = torch.stack([carry.loss for carry in carries[1:]])
        return loss(losses, carries[0].loss, 0, HORIZON).item()

    slopes = central_differences(meta_loss, rule)
    ours = flat(estimate(Backprop(order=2), optimizee, rule, loss=loss))
    assert_equal(ours, ours.new_tensor(list(slopes.values())), 1e-6)


def test_second_order_is_the_slope_of_every_meta_loss_for_every_rule(learned_rule):
    # Along a few random directions of phi; the losses of a direction serve every meta-loss.
    optimizee, draws, eps = Quadratic(3, "gaussian", init_std=1.0).double(), rng(), 1e-5
    carries = window(optimizee, learned_rule)
    assert min(carry.seen.grad.abs().min() for carry in carries) > 0.01  # away from kinks
    phi = parameters_to_vector(learned_rule.parameters()).detach().clone()
    directions = torch.from_numpy(draws.normal(size=(3, len(phi))))
    sides = []
    for direction in directions:
        for moved in (phi + eps * direction, phi - eps * direction):
            vector_to_parameters(moved, learned_rule.parameters())
            sides.append(torch.stack([carry.loss for carry in window(optimizee, learned_rule)]))
    vector_to_parameters(phi, learned_rule.parameters())
    for weights in WEIGHTS.values():
        for form in FORMS.values():
            loss = MetaLoss(weights, form)
            ahead = torch.stack([loss(side[1:], side[0], 0, HORIZON) for side in sides])
            slopes = (ahead[::2] - ahead[1::2]) / (2 * eps)
            ours = flat(estimate(Backprop(order=2), optimizee, learned_rule, loss=loss))
            assert_equal(directions @ ours, slopes, 1e-6)


def test_second_order_is_the_slope_of_the_meta_loss_on_a_network(mlp):
    rule = CoordinatewiseLSTM(3, 2, Identity(10.0), readout_std=0.5).double()

    def meta_loss():
        return torch.stack([carry.loss for carry in window(mlp, rule)[1:]]).mean().item()

    ours = flat(estimate(Backprop(order=2), mlp, rule))
    places = rng().choice(len(ours), 40, replace=False).tolist()
    slopes = central_differences(meta_loss, rule, places)
    assert_equal(ours[places], ours.new_tensor([slopes[place] for place in places]), 1e-6)


def reads_gradients_only(rule):
    """Whether theta and the loss change nothing in three steps of a rule."""
    optimizee, updates = Quadratic(3, "gaussian", init_std=1.0).double(), []
    seen = [carry.seen for carry in window(optimizee, rule)]
    for shift in (0, 1):
        state = rule.init_state(seen[0].theta, optimizee.spec)
        for step in range(3):
            moved = seen[step]._replace(
                theta=seen[step].theta * (1 + shift * step)
                + shift,  # neither scaled nor moved alone
                loss=seen[step].loss + shift * step,
            )
            update, state = rule.step(moved, state)
        updates.append(update)
    return torch.equal(*updates)


def test_first_order_is_the_whole_gradient_where_the_loss_is_linear(linear, learned_rule):
    if not reads_gradients_only(learned_rule):
        pytest.skip("it sees theta or the loss, which depend on the meta-parameters")
    first, second = (flat(estimate(Backprop(order), linear, learned_rule)) for order in (1, 2))
    assert_equal(first, second, 1e-12)
    assert_equal(flat(estimate(Replay(), linear, learned_rule)), second, 1e-10)


def test_first_order_is_not_the_whole_gradient_on_a_quadratic(learned_rule):
    optimizee = Quadratic(3, "gaussian", init_std=1.0).double()
    first, second = (flat(estimate(Backprop(order), optimizee, learned_rule)) for order in (1, 2))
    assert (first - second).norm() > 1e-5 * second.norm()


@pytest.mark.parametrize("gradient", [Replay(), Backprop(1)])
def test_the_first_gradient_of_a_window_is_credited_with_its_last_loss(mlp, scripted, gradient):
    # The rule acts at the window's first step alone: theta_K = theta_0 - phi g_0, so that the
    # slope of the mean last loss is -g_0 . g_K / B.
    start = 3
    rule = scripted(lambda seen: -seen.grad * (seen.step == start), gain=0.5)
    result = estimate(gradient, mlp, rule, start=start, loss=MetaLoss(Final(), Plain()))
    carries = window(mlp, rule, start + STEPS)
    expected = -(carries[start].seen.grad * carries[-1].seen.grad).sum() / len(PROBLEMS)
    assert_equal(flat(result), expected.reshape(1), 1e-12)


@pytest.mark.parametrize("gradient", [Replay(), Backprop(1), Backprop(2)])
def test_a_windows_last_observation_is_the_next_ones_first(mlp, learned_rule, gradient):
    result = estimate(gradient, mlp, learned_rule)
    last = window(mlp, learned_rule)[-1]
    for ours, theirs in zip(result.carry.seen[:3], last.seen[:3], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)
    assert result.carry.seen.step == STEPS


# --- subsets of coordinates -------------------------------------------------------------------

SPEC = ParamSpec.of({"w": ((4, 3), "fc"), "b": ((2,), "bias"), "s": ((1,), "free")})


def test_the_mean_over_a_partition_into_stratified_subsets_is_the_full_gradient(mlp):
    rule = CoordinatewiseLSTM(3, readout_std=0.5).double()
    carries = window(mlp, rule)
    seen = [carry.seen for carry in carries[:-1]]
    grads = torch.stack([carry.seen.grad for carry in carries[1:]])
    credit = torch.stack([grads[s:].sum(0) for s in range(STEPS)]) / (STEPS * len(PROBLEMS))
    draws, parts = rng(), 3  # divides B, so that every tensor can be cut evenly
    pieces = [[] for _ in range(parts)]
    places = torch.arange(len(PROBLEMS) * mlp.spec.size).view(len(PROBLEMS), -1)
    for tensor in mlp.spec.tensors:
        mixed = torch.from_numpy(draws.permutation(places[:, tensor.slice].flatten().numpy()))
        for piece, mine in zip(pieces, mixed.chunk(parts), strict=True):
            piece.append(mine)
    total = 0.0
    for piece in map(torch.cat, pieces):
        weight = torch.full((len(piece),), float(parts)).double()
        part = replay(rule, seen, carries[0].state, credit, piece, weight)
        total = total + torch.cat([grad.flatten() for grad in part])
    assert_equal(total / parts, flat(estimate(Backprop(order=1), mlp, rule)), 1e-12)


@pytest.mark.parametrize("problems", [1, 4])
@pytest.mark.parametrize("size", [1, 5, 13, 10**6])
def test_a_subset_weighs_as_much_as_the_whole_and_takes_from_every_tensor(problems, size):
    index, weight = stratified_subset(SPEC, problems, size, rng())
    assert index.unique().numel() == index.numel() == weight.numel()
    assert index.min() >= 0 and index.max() < problems * SPEC.size
    for tensor in SPEC.tensors:
        mine = (index % SPEC.size >= tensor.start) & (index % SPEC.size < tensor.slice.stop)
        assert 1 <= mine.sum() <= problems * tensor.size
        assert weight[mine].sum().item() == pytest.approx(problems * tensor.size)
    if size == 10**6:
        assert index.numel() == problems * SPEC.size and (weight == 1).all()


def test_a_subset_is_unbiased_for_every_coordinate():
    draws, repeats = rng(), 3000
    total = torch.zeros(2 * SPEC.size).double()
    for _ in range(repeats):
        index, weight = stratified_subset(SPEC, 2, 6, draws)
        total[index] += weight
    # a coordinate drawn with chance 1/w has weight of variance w - 1, w <= 24 / 5
    torch.testing.assert_close(total / repeats, torch.ones_like(total), rtol=0, atol=5 * 0.036)


def test_a_subset_of_everything_is_the_full_gradient(mlp):
    rule = CoordinatewiseLSTM(3, readout_std=0.5).double()
    whole = flat(estimate(Replay(), mlp, rule))
    assert_equal(flat(estimate(Replay(subset=10**6), mlp, rule)), whole, 1e-12)


def test_replay_on_subsets_is_the_full_gradient_on_average(scripted):
    optimizee = Quadratic(4, "gaussian", init_std=1.0).double()
    rule = CoordinatewiseLSTM(2, 1, readout_std=0.5).double()
    draws, gradient = rng(), Replay(subset=6)
    many = torch.stack(
        [flat(estimate(gradient, optimizee, rule, steps=2, draws=draws)) for _ in range(400)]
    )
    error = many.std(0) / len(many) ** 0.5
    whole = flat(estimate(Replay(), optimizee, rule, steps=2))
    assert ((many.mean(0) - whole).abs() <= 5 * error + 1e-12).all()
    assert (many.std(0) > 1e-3 * whole.abs()).any()  # the subsets do differ


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize("gradient", [Replay(), Backprop(1)])
def test_a_rule_without_meta_parameters_cannot_be_trained(separable, gradient):
    with pytest.raises(ValueError, match="Baseline has no meta-parameters"):
        estimate(gradient, separable(), Baseline(torch.optim.SGD, 0.1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Replay(chunk=0), "chunk=0 must be >= 1"),
        (lambda: Replay(subset=0), "subset=0 must be >= 1"),
        (lambda: Backprop(order=3), "order=3 must be 1 or 2"),
    ],
)
def test_values_out_of_range_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_is_replayed_starts_from_the_windows_own_state(mlp):
    # The state at the window's start matters: from a fresh one the gradient is another.
    rule = CoordinatewiseLSTM(3, readout_std=0.5).double()
    episode = Episode(mlp, mlp.sample(PROBLEMS, SEED), HORIZON)
    with torch.no_grad():
        *_, carry = unroll(episode, rule, episode.start(rule), 3)
    fresh = carry._replace(state=map_state(torch.zeros_like, carry.state))
    one, other = (
        flat(Replay()(episode, rule, c, STEPS, lambda losses: losses.mean(), rng()))
        for c in (carry, fresh)
    )
    assert (one - other).norm() > 1e-3 * one.norm()
