"""Whitening by moments of rows and columns: closed forms, invariances, and what it does without."""

import numpy as np
import pytest
import torch
from scipy.linalg import fractional_matrix_power

from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers.base import LearnedOptimizer, Observation
from l2l_exp.optimizers.baseline import Baseline
from l2l_exp.optimizers.by_hand import BFGSByHand
from l2l_exp.optimizers.lbfgs import LBFGS
from l2l_exp.optimizers.ntm_bfgs import NTMBFGS
from l2l_exp.optimizers.safeguard import Safeguarded
from l2l_exp.optimizers.star import STAR
from l2l_exp.optimizers.whitened import Whitened, inverse_root

SPEC = ParamSpec.of({"w": ((4, 3), "fc"), "b": ((3,), "bias"), "k": ((2, 3, 2, 2), "conv")})
DECAY, RIDGE = 0.8, 0.1


class Echo(LearnedOptimizer):
    """Proposes what it sees of the gradient."""

    def init_state(self, theta, spec):
        return ()

    def step(self, seen, state):
        return seen.grad, state


def seen(step, spec=SPEC, problems=2):
    """Random gradients of a step."""
    rng = torch.Generator().manual_seed(step)
    grad = torch.randn(problems, spec.size, generator=rng, dtype=torch.float64)
    return Observation(grad, torch.zeros_like(grad), grad[:, 0], step, 10, spec)


def of(dtype, one):
    """The same in another dtype."""
    return one._replace(grad=one.grad.to(dtype), theta=one.theta.to(dtype))


def walk(rule, observations):
    """What is seen in place of each gradient: a list of (B, N)."""
    state = rule.init_state(observations[0].theta, observations[0].spec)
    updates = []
    for one in observations:
        update, state = rule.step(one, state)
        updates.append(update)
    return updates


def echo(**changes):
    """The whitening alone."""
    return Whitened(Echo(), **{"decay": DECAY, "ridge": RIDGE, "every": 1, **changes})


def averaged(terms):
    """Averages with the decay, over their weights."""
    weights = DECAY ** np.arange(len(terms))[::-1]
    return sum(w * term for w, term in zip(weights, terms, strict=True)) / weights.sum()


def by_definition(grads, *, rows=True, columns=True):
    """The last of some (r, c) gradients, whitened as the class says."""
    square = averaged([np.mean(g**2) for g in grads])
    whitened = grads[-1] / np.sqrt(square)
    r, c = whitened.shape
    if rows:
        left = averaged([g @ g.T / c for g in grads]) / square
        whitened = fractional_matrix_power(left + RIDGE * np.eye(r), -0.5) @ whitened
    if columns:
        right = averaged([g.T @ g / r for g in grads]) / square
        whitened = whitened @ fractional_matrix_power(right + RIDGE * np.eye(c), -0.5)
    return whitened


def parts(grad):
    """The tensors of problem 1 of (B, N), as matrices."""
    shapes = [(4, 3), (3, 1), (2, 12)]
    return [
        grad[1, t.slice].reshape(shape).numpy()
        for t, shape in zip(SPEC.tensors, shapes, strict=True)
    ]


@pytest.mark.parametrize("count", [1, 2, 7])
def test_it_is_its_definition(count):
    observations = [seen(step) for step in range(count)]
    mine = parts(walk(echo(), observations)[-1])
    weight, bias, kernel = zip(*[parts(one.grad) for one in observations], strict=True)
    square = averaged([np.mean(b**2) for b in bias])
    each = averaged([b**2 for b in bias]) / square
    np.testing.assert_allclose(mine[0], by_definition(weight), rtol=1e-10)
    np.testing.assert_allclose(mine[1], bias[-1] / np.sqrt(square * (each + RIDGE)), rtol=1e-10)
    np.testing.assert_allclose(mine[2], by_definition(kernel), rtol=1e-10)


def test_a_side_that_is_too_long_is_left_alone():
    observations = [seen(step) for step in range(4)]
    mine = parts(walk(echo(max_side=3), observations)[-1])
    weight, _, kernel = zip(*[parts(one.grad) for one in observations], strict=True)
    np.testing.assert_allclose(mine[0], by_definition(weight, rows=False), rtol=1e-10)
    np.testing.assert_allclose(mine[2], by_definition(kernel, columns=False), rtol=1e-10)


def test_without_sides_it_divides_by_roots_of_mean_squares_as_rmsprop_does():
    observations = [seen(step) for step in range(5)]
    mine = walk(echo(max_side=0, ridge=1e-12), observations)[-1]
    square = averaged([one.grad.square().numpy() for one in observations])
    np.testing.assert_allclose(mine, observations[-1].grad.numpy() / np.sqrt(square), rtol=1e-9)


def test_with_momentum_as_the_rule_it_starts_as_shampoo():
    rule = Baseline(torch.optim.SGD, 0.3, momentum=0.9)
    update = walk(Whitened(rule, DECAY, RIDGE), [seen(0)])[0]
    np.testing.assert_allclose(update, -0.3 * walk(echo(), [seen(0)])[0], rtol=1e-12)


def test_correlated_gradients_come_out_white():
    spec = ParamSpec.of({"w": ((3, 4), "fc")})
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(3, 3)), rng.normal(size=(4, 4))
    observations = [
        seen(step, spec)._replace(
            grad=torch.from_numpy(left @ rng.normal(size=(1, 3, 4)) @ right).flatten(1),
            theta=torch.zeros(1, 12, dtype=torch.float64),
        )
        for step in range(3000)
    ]
    rule = Whitened(Echo(), decay=0.998, ridge=1e-6, every=1)
    white = torch.cat(walk(rule, observations)[1000:]).numpy()
    before = torch.cat([one.grad for one in observations[1000:]]).numpy()
    assert np.abs(np.corrcoef(before.T) - np.eye(12)).max() > 0.5
    assert np.abs(np.corrcoef(white.T) - np.eye(12)).max() < 0.1
    variances = white.var(0)
    assert variances.max() / variances.min() < 1.3


@pytest.mark.parametrize("factor", [1e-18, 3.0, 1e18])
def test_a_factor_on_the_loss_changes_nothing_in_float32_either(factor):
    observations = [of(torch.float32, seen(step)) for step in range(4)]
    scaled = [one._replace(grad=factor * one.grad) for one in observations]
    for mine, other in zip(walk(echo(), observations), walk(echo(), scaled), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_turning_rows_and_columns_turns_what_is_seen():
    spec = ParamSpec.of({"w": ((3, 4), "fc")})
    turn, swap = (torch.linalg.qr(seen(9).grad[0, : n * n].view(n, n))[0] for n in (3, 4))

    def turned(grad):
        return (turn @ grad.unflatten(-1, (3, 4)) @ swap).flatten(1)

    observations = [seen(step, spec) for step in range(4)]
    there = walk(echo(), [one._replace(grad=turned(one.grad)) for one in observations])
    for mine, other in zip(walk(echo(), observations), there, strict=True):
        torch.testing.assert_close(turned(mine), other, rtol=1e-10, atol=1e-10)


def test_a_problem_that_has_diverged_does_not_touch_the_others():
    observations = [seen(step) for step in range(3)]
    broken = [one._replace(grad=one.grad.clone()) for one in observations]
    broken[1].grad[0] = torch.inf
    for mine, other in zip(walk(echo(), observations), walk(echo(), broken), strict=True):
        assert torch.equal(mine[1], other[1])


def test_gradients_of_nothing_are_seen_as_nothing():
    nothing = [seen(step)._replace(grad=torch.zeros(2, SPEC.size)) for step in range(3)]
    assert all((update == 0).all() for update in walk(echo(), nothing))


def test_roots_are_computed_every_few_steps_once_there_is_a_start():
    state = echo().init_state(seen(0).theta, SPEC)
    rule, fresh = echo(every=3), []
    for step in range(12):
        _, after = rule.step(seen(step), state)
        fresh.append(not torch.equal(after.roots[0][0], state.roots[0][0]))
        state = after
    assert fresh == [step < 6 or step % 3 == 0 for step in range(12)]


@pytest.mark.parametrize("values", [(1.0, 1.0, 1.0), (0.5, 0.5, 4.0), (1e-3, 1.0, 20.0)])
def test_the_inverse_root_and_its_slope_even_where_eigenvalues_meet(values):
    turn = torch.linalg.qr(seen(3).grad[0, :9].view(3, 3))[0]
    matrix = turn @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ turn.T
    expected = fractional_matrix_power(matrix.numpy(), -0.5)
    np.testing.assert_allclose(inverse_root(matrix), expected, rtol=1e-9, atol=1e-12)

    def of_symmetric(factor):
        return inverse_root((factor + factor.mT) / 2)

    assert torch.autograd.gradcheck(of_symmetric, matrix.clone().requires_grad_())


def without_a_row(step):
    """Gradients of which row 1 and column 2 of the weight are zero, always."""
    one = seen(step)
    weight = one.grad[:, :12].view(2, 4, 3).clone()
    weight[:, 1], weight[:, :, 2] = 0, 0
    return one._replace(grad=torch.cat([weight.flatten(1), one.grad[:, 12:]], 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_and_columns_without_gradients_stay_without(dtype):
    observations = [of(dtype, without_a_row(step)) for step in range(5)]
    for update in walk(echo(every=1), observations):
        weight = update[:, :12].view(2, 4, 3)
        assert (weight[:, 1] == 0).all() and (weight[:, :, 2] == 0).all()
        assert (weight[:, [0, 2, 3]][:, :, :2] != 0).all()


def test_a_rule_that_divides_by_sizes_makes_no_steps_of_roundings():
    observations = [without_a_row(step) for step in range(12)]
    together = walk(Whitened(STAR(readout_std=0.5), DECAY, RIDGE).double(), observations)
    alone = walk(
        Whitened(STAR(readout_std=0.5), DECAY, RIDGE).double(),
        [one.take(torch.tensor([1]), "problem") for one in observations],
    )
    for mine, other in zip(together, alone, strict=True):
        torch.testing.assert_close(mine[[1]], other, rtol=1e-9, atol=1e-12)


def test_one_gradient_and_hardly_a_ridge_are_finite_in_float32():
    spec = ParamSpec.of({"w": ((60, 50), "fc")})
    one = seen(0, spec)
    rank_one = (one.grad[:, :60, None] * one.grad[:, None, 60:110]).flatten(1).float()
    (update,) = walk(echo(ridge=1e-12), [of(torch.float32, one._replace(grad=rank_one))])
    assert update.isfinite().all() and update.abs().max() < 1e4


class Told(Echo):
    """Keeps the last update that it made or was told, and counts the steps that are trusted."""

    def init_state(self, theta, spec):
        return (torch.zeros_like(theta), torch.zeros_like(theta[:, :1]))

    def step(self, seen, state):
        return -seen.grad, (-seen.grad, state[1])

    def step_trusted(self, seen, state, trusted):
        update, after = self.step(seen, state)
        return update, (after[0], state[1] + trusted.unsqueeze(1))

    def told(self, state, update):
        return (update, state[1])

    def counts(self, state):
        return {"trusted": state[1].squeeze(1)}


def test_the_rule_is_told_asked_and_trusted_as_it_would_be_alone():
    rule = Whitened(Told(), DECAY, RIDGE)
    state = rule.init_state(seen(0).theta, SPEC)
    update, after = rule.step_trusted(seen(0), state, torch.tensor([True, False]))
    assert rule.counts(after)["trusted"].tolist() == [1, 0]
    assert torch.equal(update, rule.step(seen(0), state)[0]) and (after.taken == 1).all()
    assert torch.equal(rule.told(after, 2 * update).rule[0], 2 * update)


def test_a_state_that_has_seen_nothing_sees_gradients_as_they_are_until_roots_are_computed():
    rule = echo(every=4, max_side=4)
    state = rule.init_state(seen(0).theta, SPEC)
    (update, _), (fresh, _) = (rule.step(seen(0)._replace(step=step), state) for step in (9, 8))
    unit = parts(seen(0).grad)[0] / np.sqrt(np.mean(parts(seen(0).grad)[0] ** 2))
    np.testing.assert_allclose(parts(update)[0], unit, rtol=1e-12)
    assert not torch.allclose(fresh, update)


@pytest.mark.parametrize(
    "wrong",
    [
        {"decay": 1.0}, {"decay": -0.1}, {"ridge": 0.0}, {"ridge": float("inf")}, {"every": 0},
        {"every": 1.5}, {"max_side": -1}, {"max_side": 2.5},
    ],
)  # fmt: skip
def test_an_impossible_value_is_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Whitened(Echo(), **wrong)


@pytest.mark.parametrize("rule", [lambda: LBFGS(1.0), lambda: Safeguarded(NTMBFGS(BFGSByHand()))])
def test_rules_that_remember_differences_of_gradients_are_refused(rule):
    with pytest.raises(ValueError, match="remembers differences of gradients"):
        Whitened(rule())
