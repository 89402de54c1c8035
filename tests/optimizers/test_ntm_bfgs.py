"""NTM-BFGS: what it can express, what it costs, and what it refuses."""

import numpy as np
import pytest
import scipy.optimize
import torch

from l2l_exp.optimizees.quadratic import Quadratic
from l2l_exp.optimizees.seeding import Seed
from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers.base import Observation
from l2l_exp.optimizers.by_hand import BFGSByHand
from l2l_exp.optimizers.encoded import EncodedController
from l2l_exp.optimizers.normalised import NormalisedController
from l2l_exp.optimizers.ntm_bfgs import NTMBFGS
from l2l_exp.optimizers.safeguard import Safeguarded
from l2l_exp.optimizers.secant import SecantController
from l2l_exp.optimizers.sizes import log_ratio, rms
from l2l_exp.unroll import Episode, unroll

N, STEPS, LR = 12, 25, 0.3
SPEC = ParamSpec.of({"x": ((N,), "free")})


def curved():
    """A convex function that is not quadratic: its value, its gradient, a starting point."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(N, N))
    hessian = root @ root.T / N + np.eye(N)
    start = rng.normal(size=N)
    return lambda x: x @ hessian @ x / 2 + (x**4).sum() / 4, lambda x: hessian @ x + x**3, start


def trajectory(rule, gradient, start, steps=STEPS):
    """Thetas (K+1, N) of a rule, and its last state."""
    theta = torch.from_numpy(start).unsqueeze(0)
    state, passed = rule.init_state(theta, SPEC), [theta]
    with torch.no_grad():
        for step in range(steps):
            grad = torch.from_numpy(gradient(theta[0].numpy())).unsqueeze(0)
            seen = Observation(grad, theta, torch.zeros(1).double(), step, steps, SPEC)
            update, state = rule.step(seen, state)
            theta = theta + update
            passed.append(theta)
    return torch.cat(passed).numpy(), state


def scipys_bfgs(gradient, start, scales, steps=STEPS, lr=LR):
    """Thetas and the matrix of scipy's inverse-Hessian BFGS with steps of a fixed length."""
    matrix = scipy.optimize.BFGS(init_scale=scales)
    matrix.initialize(N, "inv_hess")
    passed, grad = [start], gradient(start)
    for _ in range(steps):
        step = -lr * matrix.dot(grad)
        passed.append(passed[-1] + step)
        new = gradient(passed[-1])
        matrix.update(step, new - grad)
        grad = new
    return np.stack(passed), matrix.get_matrix()


def by_hand(lr=LR, **changes):
    """Textbook BFGS by a controller that is set by hand, from M_0 = I."""
    return NTMBFGS(BFGSByHand(lr), initial_memory=1.0, **changes)


@pytest.mark.parametrize("lr", [0.3, 0.5])
def test_a_controller_set_by_hand_is_bfgs(lr):
    value, gradient, start = curved()
    ours, _ = trajectory(by_hand(lr), gradient, start)
    theirs, _ = scipys_bfgs(gradient, start, 1.0, lr=lr)
    error = np.abs(ours - theirs).max(1) / np.abs(theirs).max(1)
    assert error.max() < 1e-10
    assert value(ours[-1]) < 1e-3 * value(start)  # and it optimizes


def test_the_memory_set_by_hand_is_scipys_matrix_and_satisfies_the_secant_equation():
    _, gradient, start = curved()
    thetas, state = trajectory(by_hand(), gradient, start, STEPS + 1)
    ours = (torch.eye(N).double() + state.memory.dense[0]).numpy()
    _, theirs = scipys_bfgs(gradient, start, 1.0)  # the pair of the last step is written later
    assert np.abs(ours - theirs).max() < 1e-10 * np.abs(theirs).max()
    s, y = thetas[-2] - thetas[-3], gradient(thetas[-2]) - gradient(thetas[-3])
    np.testing.assert_allclose(ours @ y, s, rtol=0, atol=1e-10 * np.abs(s).max())


def test_a_pair_without_positive_curvature_is_not_written():
    # f = -x.x / 2: y = -s
    _, state = trajectory(by_hand(), lambda x: -x, np.ones(N), 3)
    assert state.memory.dense.count_nonzero() == 0


def test_a_textbook_controller_that_says_nothing_is_bfgs_with_unit_steps():
    _, gradient, start = curved()
    rule = NTMBFGS(NormalisedController(readout_std=0.0), initial_memory=0.1).double()
    ours, _ = trajectory(rule, gradient, start)
    point = start - 0.1 * gradient(start)
    s, y = point - start, gradient(point) - gradient(start)
    matrix = scipy.optimize.BFGS(init_scale=(s @ y) / (y @ y))
    matrix.initialize(N, "inv_hess")
    theirs = [start, point]
    for _ in range(STEPS - 1):
        matrix.update(s, y)
        s = -matrix.dot(gradient(point))
        y = gradient(point + s) - gradient(point)
        point = point + s
        theirs.append(point)
    sizes = np.abs(theirs).max(1)
    error = np.abs(ours - np.stack(theirs)).max(1) / sizes
    far = sizes > 1e-6  # nearer to the minimum, at 0, rounding is all there is
    assert far.sum() > 10 and error[far].max() < 1e-9


@pytest.mark.parametrize("history", [1, 5])
def test_a_secant_controller_that_says_nothing_is_lbfgs_with_unit_steps(history):
    _, gradient, start = curved()
    rule = NTMBFGS(SecantController(readout_std=0.0), 0.1, history=history, read="two_loop")
    ours, _ = trajectory(rule.double(), gradient, start, 15)
    first = (ours[1] - ours[0], gradient(ours[1]) - gradient(ours[0]))
    theirs = lbfgs_by_formula(gradient, ours[1], *first, 14, history)
    np.testing.assert_allclose(ours[1:], theirs, rtol=1e-9, atol=1e-12)


def lbfgs_by_formula(gradient, point, s, y, steps, history):
    """L-BFGS with unit steps from a point and its first pair, by BFGS's recursion on matrices."""
    pairs, passed = [(s, y)], [point]
    for _ in range(steps):
        kept = pairs[-history:]
        inverse = (kept[-1][0] @ kept[-1][1]) / (kept[-1][1] @ kept[-1][1]) * np.eye(N)
        for s, y in kept:
            side = np.eye(N) - np.outer(s, y) / (s @ y)
            inverse = side @ inverse @ side.T + np.outer(s, s) / (s @ y)
        after = point - inverse @ gradient(point)
        pairs.append((after - point, gradient(after) - gradient(point)))
        point = after
        passed.append(point)
    return np.stack(passed)


def losses(rule, size=4, steps=10):
    """Losses (K, B) on random quadratics, with bounded heads."""
    optimizee = Quadratic(size, "gaussian", init_std=0.1).double()
    episode = Episode(optimizee, optimizee.sample(range(3), Seed("test", 0)), steps)
    with torch.no_grad():
        return torch.stack(
            [carry.loss for carry in unroll(episode, rule, episode.start(rule), steps)]
        )


CONTROLLERS = {
    "encoded": lambda: EncodedController(readout_std=0.2, write_scale=0.1, seed=1),
    "encoded_now": lambda: EncodedController(2, 2, 0, readout_std=0.2, write_scale=0.1, seed=1),
    "textbook": lambda: NormalisedController(readout_std=0.2, seed=1),
    "learned": lambda: NormalisedController(False, readout_std=0.2, seed=1),
    "by_hand": lambda: BFGSByHand(0.5),
}


@pytest.mark.parametrize("controller", CONTROLLERS)
@pytest.mark.parametrize("history", [60, 100])
def test_a_history_that_holds_every_write_is_the_dense_memory(controller, history):
    make = CONTROLLERS[controller]
    kept, dense = (
        losses(NTMBFGS(make(), 0.01, history=pairs).double()) for pairs in (history, None)
    )
    assert dense.isfinite().all()
    torch.testing.assert_close(kept, dense, rtol=1e-12, atol=1e-14)


def test_a_history_that_is_too_short_is_not_the_dense_memory():
    kept, dense = (
        losses(NTMBFGS(CONTROLLERS["textbook"](), 0.01, history=pairs).double())
        for pairs in (6, None)
    )
    assert not torch.allclose(kept[3:], dense[3:], rtol=1e-6)


def test_a_read_that_is_delayed_is_seen_one_step_later():
    rule = NTMBFGS(EncodedController(readout_std=0.5), 1.0).double()
    theta = torch.ones(1, N).double()
    seen = Observation(theta, theta, theta[:, 0], 0, 5, SPEC)
    state = rule.init_state(theta, SPEC)
    _, after = rule.step(seen, state)
    assert after.answers.count_nonzero()
    other = after._replace(answers=after.answers + 1)
    one, two = (rule.step(seen._replace(step=1), s)[0] for s in (after, other))
    assert not torch.equal(one, two)


def test_sizes_of_tiny_and_huge_vectors_are_exact_in_float32():
    vector = torch.tensor([[3.0, 4.0]])
    for scale in (1e-30, 1.0, 1e30):
        torch.testing.assert_close(rms(scale * vector), torch.tensor([[scale * 12.5**0.5]]))
    zero = torch.zeros(1, 2, requires_grad=True)
    (slope,) = torch.autograd.grad(rms(zero).sum(), zero)
    assert torch.equal(slope, torch.zeros(1, 2))


@pytest.mark.parametrize("controller", ["textbook", "learned"])
def test_multiplying_function_and_memory_by_constants_leaves_the_way_unchanged(controller):
    _, gradient, start = curved()
    ways = []
    for factor in (1.0, 1e6):
        rule = NTMBFGS(CONTROLLERS[controller](), 0.01 / factor).double()
        ways.append(trajectory(rule, lambda x, factor=factor: factor * gradient(x), start, 8)[0])
    np.testing.assert_allclose(ways[0], ways[1], rtol=1e-8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: by_hand(history=0), "history=0 must be an integer >= 1, or null"),
        (lambda: by_hand(history=2.5), "history=2.5 must be an integer"),
        (lambda: by_hand(read="loops"), "read='loops' must be one of product, two_loop"),
        (lambda: by_hand(read="two_loop"), "read='two_loop' needs a bounded history"),
        (lambda: by_hand(read="two_loop", history=3), "two_loop' makes .* BFGSByHand writes"),
        (lambda: NTMBFGS(SecantController(), history=3), "'product' .* use read=two_loop"),
        (lambda: by_hand(output_scale=-1.0), "output_scale=-1.0 must be >= 0"),
        (lambda: by_hand(output_scale=0.5), "output_scale=0.5 must be 1: BFGSByHand counts on"),
        (lambda: by_hand(max_coordinates=0), "max_coordinates=0 must be >= 1"),
        (lambda: NTMBFGS(EncodedController(), -1.0), "initial_memory=-1.0 must be >= 0"),
        (lambda: NTMBFGS(EncodedController(), 0.0, True), "0.0 must be > 0 to be learned"),
        (lambda: NTMBFGS(BFGSByHand(), 0.0), "initial_memory=0.0 must be > 0: this controller"),
        (lambda: NTMBFGS(BFGSByHand(), float("inf")), "initial_memory=inf must be > 0"),
        (lambda: NormalisedController(False, readout_std=0.0), "must be > 0 where all writes"),
        (lambda: BFGSByHand(0.0), "lr=0.0 must be > 0"),
        (lambda: EncodedController(read_heads=0), "read_heads=0 must be >= 1"),
        (lambda: EncodedController(write_heads=0), "write_heads=0 must be >= 1"),
        (lambda: EncodedController(read_delay=2), "read_delay=2 must be 0 or 1"),
        (lambda: EncodedController(write_scale=0.0), "write_scale=0.0 must be > 0"),
        (lambda: NormalisedController(free_scale=0.0), "free_scale=0.0 must be > 0"),
        (lambda: SecantController(readout_std=-1.0), "readout_std=-1.0 must be >= 0"),
    ],
)
def test_values_out_of_range_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_dense_memory_refuses_many_coordinates_and_says_what_to_use():
    theta = torch.zeros(2, 513)
    spec = ParamSpec.of({"x": ((513,), "free")})
    with pytest.raises(ValueError, match="513 x 513 .* optimizer=ntm_lbfgs"):
        by_hand().init_state(theta, spec)
    by_hand(history=5).init_state(theta, spec)


def bowl(theta):
    """Gradient of a convex quadratic whose minimum is at 0, at theta (..., 4)."""
    return theta * torch.tensor([1.0, 3.0, 10.0, 20.0], dtype=theta.dtype)


def descend(rule, start, steps, gradient=bowl):
    """Theta (B, N) after some steps, with losses theta.gradient / 2."""
    theta, spec = start, ParamSpec.of({"x": ((start.shape[1],), "free")})
    state = rule.init_state(theta, spec)
    for step in range(steps):
        grad = gradient(theta)
        loss = (theta * grad).sum(1) / 2
        update, state = rule.step(Observation(grad, theta, loss, step, steps, spec), state)
        theta = theta + update
    return theta, state


QUASI_NEWTON = {
    "textbook": lambda initial=0.01, **changes: NTMBFGS(NormalisedController(), initial, **changes),
    "secant": lambda initial=0.01, history=5, **changes: NTMBFGS(
        SecantController(), initial, history=history, read="two_loop", **changes
    ),
    "by_hand": lambda initial=0.01, **changes: NTMBFGS(BFGSByHand(1.0), initial, **changes),
}


@pytest.mark.parametrize("name", QUASI_NEWTON)
@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
@torch.no_grad()
def test_float32_converges_to_a_minimum_at_zero_and_stays(name, scale):
    rule = QUASI_NEWTON[name](0.01 / scale)
    start = torch.full((1, 4), 0.5)
    theta, _ = descend(rule, start, 200, lambda x: scale * bowl(x))
    assert theta.isfinite().all() and theta.abs().max() < 1e-6


@pytest.mark.parametrize("name", ["textbook", "secant"])
@torch.no_grad()
def test_an_undone_first_step_does_not_end_the_descent(name):
    rule = QUASI_NEWTON[name](1.0).double()  # a first step that is far too long
    start = torch.full((2, 4), 0.5).double()
    theta, state = descend(Safeguarded(rule, blow_up=2.0), start, 80)
    assert (state.record.undos > 0).all()
    assert theta.abs().max() < 0.02


@pytest.mark.parametrize("guards", [{"growth": 1.0, "first_step": 0.02}, {"curvature": 0.999}])
@torch.no_grad()
def test_a_step_that_was_changed_does_not_spoil_the_memory_set_by_hand(guards):
    rule = Safeguarded(NTMBFGS(BFGSByHand(0.5), 1.0), **guards)
    _, state = descend(rule, torch.full((1, 4), 0.5).double(), 60)
    memory = torch.eye(4).double() + state.memory.rule.memory.dense[0]
    eigenvalues = torch.linalg.eigvals(memory).real
    assert eigenvalues.min() > 0 and eigenvalues.max() < 20  # in the end between 1/20 and 1


@torch.no_grad()
def test_pairs_without_curvature_do_not_push_good_ones_out():
    rule = NTMBFGS(SecantController(readout_std=0.0), 0.01, history=3, read="two_loop").double()
    _, state = descend(rule, torch.full((1, 4), 0.5).double(), 5)
    kept = state.memory.left
    theta, spec = torch.zeros(1, 4).double(), ParamSpec.of({"x": ((4,), "free")})
    for step in range(5, 9):  # f = -x.x / 2 from here on
        theta = theta + 1
        seen = Observation(-theta, theta, theta[:, 0], step, 9, spec)
        if step == 5:  # between the two functions
            state = rule.step_trusted(seen, state, torch.tensor([False]))[1]
        else:
            _, state = rule.step(seen, state)
    assert torch.equal(state.memory.left, kept)


def test_the_step_without_a_pair_goes_along_the_memory_as_it_was():
    rule = NTMBFGS(NormalisedController(readout_std=0.0), 0.01).double()
    with torch.no_grad():
        theta, state = descend(rule, torch.full((2, 4), 0.5).double(), 3)
        grad, spec = bowl(theta), ParamSpec.of({"x": ((4,), "free")})
        seen = Observation(grad, theta, theta[:, 0], 3, 9, spec)
        update, after = rule.step_trusted(seen, state, torch.tensor([False, True]))
        trusted, _ = rule.step(seen, state)
    old = state.multiple * grad + torch.einsum("bij,bj->bi", state.memory.dense, grad)
    torch.testing.assert_close(update[0], -old[0])
    assert torch.equal(after.memory.dense[0], state.memory.dense[0])
    assert torch.equal(update[1], trusted[1]) and not torch.allclose(update[0], trusted[0])


@pytest.mark.parametrize("initial", [1e-6, 0.01, 1.0, 100.0])
def test_a_learned_multiple_starts_where_it_was_told(initial):
    rule = NTMBFGS(BFGSByHand(), initial, True)
    theta = torch.full((1, 4), 1e-3)
    spec = ParamSpec.of({"x": ((4,), "free")})
    update, _ = rule.step(
        Observation(bowl(theta), theta, theta[:, 0], 0, 1, spec), rule.init_state(theta, spec)
    )
    torch.testing.assert_close(update, -initial * bowl(theta), rtol=1e-4, atol=0)


def test_ratios_of_any_sizes_have_finite_slopes():
    one = torch.tensor([1e-30, 1e20, 0.0, 1.0], requires_grad=True)
    other = torch.tensor([1e20, 1e-30, 1.0, 0.0], requires_grad=True)
    value = log_ratio(one, other)
    assert value[0] < -100 and value[1] > 100 and (value[2:] == 0).all()
    assert all(x.isfinite().all() for x in torch.autograd.grad(value.sum(), (one, other)))


@pytest.mark.parametrize("guards", [{"blow_up": 1.0}, {"curvature": 0.3}])
@pytest.mark.parametrize("name", QUASI_NEWTON)
def test_a_guarded_memory_takes_the_same_way_with_and_without_a_graph(name, guards):
    start = torch.tensor([[0.5, -0.3, 0.2, 0.4], [1.0, 1.0, -1.0, 0.1]]).double()
    ways = []
    for graph in (True, False):
        small = {"history": 2} if name == "secant" else {}
        rule = Safeguarded(
            QUASI_NEWTON[name](**small, learn_initial_memory=True).double(), **guards
        )
        with torch.set_grad_enabled(graph):
            ways.append(descend(rule, start, 12, lambda x: bowl(x) + x**3)[0].detach())
    torch.testing.assert_close(*ways, rtol=1e-9, atol=1e-12)
