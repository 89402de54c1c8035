"""Safeguards: what each does by hand, and that they do nothing where nothing is wrong."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from l2l_exp.evaluation import evaluate
from l2l_exp.meta.gradients import Backprop, Replay
from l2l_exp.optimizees.quadratic import Quadratic
from l2l_exp.optimizees.seeding import Seed
from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers.base import LearnedOptimizer, Observation, state_tensors
from l2l_exp.optimizers.baseline import Baseline
from l2l_exp.optimizers.by_hand import BFGSByHand
from l2l_exp.optimizers.encoding import Identity
from l2l_exp.optimizers.lbfgs import LBFGS
from l2l_exp.optimizers.lstm import CoordinatewiseLSTM
from l2l_exp.optimizers.ntm_bfgs import NTMBFGS
from l2l_exp.optimizers.postprocess import Postprocessed
from l2l_exp.optimizers.safeguard import Safeguarded
from l2l_exp.unroll import Episode, unroll

PROBLEMS, TEST = (0, 1, 2), Seed("test", 0)
EVERYTHING = {"blow_up": 1.0, "growth": 1.0, "curvature": 0.0, "ascent": 0.0, "fallback_after": 1}


class Replayed(LearnedOptimizer):
    """Proposes given updates (T, N), one per step."""

    def __init__(self, updates) -> None:
        super().__init__()
        self.updates = torch.as_tensor(updates, dtype=torch.float64)

    def init_state(self, theta, spec):
        return ()

    def step(self, seen, state):
        return self.updates[seen.step].expand_as(seen.theta), state


def descent(lr: float, **settings) -> Baseline:
    """Gradient descent."""
    return Baseline(torch.optim.SGD, lr, **settings)


def trajectory(optimizee, rule, steps=12, problems=PROBLEMS):
    """Carries 0..T, without graphs."""
    episode = Episode(optimizee, optimizee.sample(problems, TEST), steps)
    with torch.no_grad():
        carry = episode.start(rule)
        return [carry, *unroll(episode, rule, carry, steps)]


def thetas(carries):
    """(T+1, B, N)."""
    return torch.stack([carry.theta for carry in carries])


def counted(rule, carries):
    """Counts of problem 0 at the end."""
    return {name: int(count[0]) for name, count in rule.counts(carries[-1].state).items()}


@pytest.fixture
def line(separable):
    """f = theta^2 / 2 from theta = 4, one coordinate."""
    return separable((1.0,), 4.0, 0.0)


# --- where nothing is wrong -------------------------------------------------------------------


def test_without_guards_it_is_the_rule_itself_bit_for_bit(mlp, rule):
    alone, wrapped = (trajectory(mlp, one, 6) for one in (rule, Safeguarded(rule)))
    assert torch.equal(thetas(wrapped), thetas(alone))
    ours, its = Safeguarded(rule).counts(wrapped[-1].state), rule.counts(alone[-1].state)
    assert list(ours) == list(its) and all(torch.equal(ours[name], its[name]) for name in its)


@pytest.mark.parametrize("lr", [0.01, 0.1, 0.3])
def test_a_well_behaved_rule_is_never_touched(separable, lr):
    rule = Safeguarded(descent(lr), fallback=descent(1e-3), **EVERYTHING)
    carries = trajectory(separable(), rule)
    assert torch.equal(thetas(carries), thetas(trajectory(separable(), descent(lr))))
    assert set(rule.counts(carries[-1].state)) == {
        "undos", "bounded_steps", "skipped_pairs", "fallbacks",
    }  # fmt: skip
    assert not any(count.any() for count in rule.counts(carries[-1].state).values())


# --- undo and damp ----------------------------------------------------------------------------


def test_a_blow_up_is_undone_and_the_steps_are_damped_and_recover(line, scripted):
    rule = scripted(lambda seen: -3 * seen.theta)  # doubles theta and flips its sign
    carries = trajectory(line, Safeguarded(rule, blow_up=1.0, damping=0.5, recovery=1.5), 7)
    # From 4 a whole step; back; half a step, which is accepted: 3/4 of a step; three eighths.
    expected = [4, -8, 4, -2, 2.5, -2, 0.25]
    assert thetas(carries)[:7, 0, 0].tolist() == expected
    # loss 1/32 is accepted: the steps recover to 3/8 * 3/2
    assert carries[7].theta[0, 0] == 0.25 - 3 * 0.375 * 1.5 * 0.25
    assert counted(Safeguarded(rule, blow_up=1.0), carries) == {"undos": 2}


@settings(max_examples=25)
@given(st.floats(0.1, 40), st.floats(0.1, 0.9), st.floats(1, 1.5), st.floats(1, 4))
def test_a_guarded_run_is_never_above_its_limit_twice_in_a_row(gain, damping, recovery, blow_up):
    optimizee = Quadratic(3, "gaussian", init_std=1.0).double()
    rule = Safeguarded(descent(gain), blow_up, damping, recovery)
    carries = trajectory(optimizee, rule, 25)
    for b in range(len(PROBLEMS)):
        losses = [carry.loss[b].item() for carry in carries]
        best, anchor, was_high, undos = math.inf, None, False, 0
        for carry, loss in zip(carries, losses, strict=True):
            high = loss > (best + (blow_up - 1) * max(best, losses[0] / 100)) * (1 + 1e-9)
            if was_high:
                torch.testing.assert_close(carry.theta[b], anchor, rtol=1e-9, atol=1e-9)
                undos += 1
            elif not high:
                best, anchor = min(best, loss), carry.theta[b]
            assert not (was_high and high)
            was_high = high
        assert rule.counts(carries[-1].state)["undos"][b] == undos


def test_an_undone_step_is_proposed_again_damped_since_the_rule_has_not_seen_where_it_led(line):
    rule = Safeguarded(descent(0.8, momentum=0.9), blow_up=1.0, damping=0.25)
    x = thetas(trajectory(line, rule, 20))[:, 0, 0]
    undone = [t for t in range(1, 18) if x[t + 1] == x[t - 1] != x[t]]
    assert undone and undone[0] > 1  # the momentum is not zero
    for t in undone[:1]:
        assert (x[t + 2] - x[t + 1]).item() == pytest.approx(0.25 * (x[t] - x[t - 1]).item())


def beyond_a_cliff(line):
    """The same, but loss and gradient are not numbers beyond |theta| = 5."""
    inside = type(line).loss
    line.loss = lambda theta, data: inside(line, theta, data) + 0 * (25 - theta**2).sqrt().sum()
    return line


@pytest.mark.parametrize("make", [lambda: Baseline(torch.optim.Adam, 20.0), lambda: descent(30)])
def test_what_is_not_a_number_never_enters_a_rule(line, make):
    rule = Safeguarded(make(), blow_up=1.0, fallback=Baseline(torch.optim.Adam, 0.1))
    carries = trajectory(beyond_a_cliff(line), rule, 30)
    assert not carries[1].loss.isfinite().any()  # the first step goes over it
    assert carries[2].theta[0] == 4
    assert all(carry.theta.isfinite().all() for carry in carries)
    for tensor in state_tensors(carries[-1].state.memory):
        assert tensor.isfinite().all()
    assert carries[-1].loss[0] < 8 and counted(rule, carries)["undos"] >= 1


def test_a_proposal_that_is_not_finite_is_not_taken(line, scripted):
    class Remembering(scripted):
        """A rule that keeps its last update, and cannot get rid of what is not a number."""

        def init_state(self, theta, spec):
            return (torch.zeros_like(theta),)

        def step(self, seen, state):
            update = super().step(seen, state)[0] + 0 * state[0]
            return update, (update,)

    rule = Remembering(lambda seen: seen.grad * (math.nan if seen.step == 2 else -0.25))
    guarded = Safeguarded(rule, blow_up=1.0)
    carries = trajectory(line, guarded, 4)
    assert thetas(carries)[:, 0, 0].tolist() == [4, 3, 2.25, 2.25, 2.25 * 0.75]
    assert counted(guarded, carries) == {"undos": 1}


def test_a_start_that_is_not_finite_rests(line):
    line.start = 6.0
    carries = trajectory(beyond_a_cliff(line), Safeguarded(descent(0.1), blow_up=1.0), 3)
    assert (thetas(carries) == 6).all()


@pytest.mark.parametrize("shift", [-1000.0, -3.0, 0.0, 1000.0])
def test_a_rise_is_judged_for_losses_of_any_sign(line, shift):
    inside = type(line).loss
    line.loss = lambda theta, data: inside(line, theta, data) + shift
    falls = Safeguarded(descent(0.5), blow_up=1.0)
    assert counted(falls, trajectory(line, falls, 10)) == {"undos": 0}
    rises = Safeguarded(descent(2.1), blow_up=1.0)  # every whole step rises by a fifth
    assert counted(rises, trajectory(line, rises, 1)) == {"undos": 0}
    assert counted(rises, trajectory(line, rises, 2)) == {"undos": 1}


def test_the_accepted_point_stays_whatever_a_minibatch_says_of_it(line):
    # The loss of a point rises from step to step. There is nowhere to go back to at first; then
    # a step down, which is too high, is undone, and the next one is tried from where it was.
    def minibatch(problem, step):
        return {"active": torch.full((problem.size,), 1.0 + 2 * step).double()}

    line.minibatch = minibatch
    rule = Safeguarded(Replayed([[0.0], [-1.0], [-1.0], [-1.0]]), blow_up=2.0)
    carries = trajectory(line, rule, 4)
    assert thetas(carries)[:, 0, 0].tolist() == [4, 4, 3, 4, 3.5]
    assert counted(rule, carries) == {"undos": 1}


# --- bounded growth ---------------------------------------------------------------------------

proposals = st.lists(
    st.lists(st.floats(-1e3, 1e3, allow_subnormal=False), min_size=2, max_size=2),
    min_size=1,
    max_size=8,
)


@given(proposals, st.floats(1, 3), st.none() | st.floats(0.1, 10))
def test_no_step_grows_faster_than_allowed(proposed, growth, first_step):
    spec = ParamSpec.of({"x": ((2,), "free")})
    rule = Safeguarded(Replayed(proposed), growth=growth, first_step=first_step)
    theta, largest, least, most = torch.zeros(1, 2).double(), 0.0, 0, 0
    state = rule.init_state(theta, spec)
    for step, raw in enumerate(torch.tensor(proposed, dtype=torch.float64)):
        seen = Observation(theta, theta, theta.sum(1), step, len(proposed), spec)
        update, state = rule.step(seen, state)
        first = math.inf if first_step is None else first_step * math.sqrt(2)
        bound = growth * largest if largest > 0 else first
        norm = math.hypot(*raw.tolist())
        expected = raw * (bound / norm) if norm > bound else raw
        torch.testing.assert_close(update[0], expected, rtol=1e-9, atol=0)
        least, most = least + (norm > bound * (1 + 1e-9)), most + (norm > bound * (1 - 1e-9))
        largest = max(largest, math.hypot(*update[0].tolist()))
    assert least <= rule.counts(state)["bounded_steps"].item() <= most


def test_an_undone_step_does_not_raise_the_bound(line):
    rule = Safeguarded(Replayed([[-1.0], [-20.0], [-20.0], [-30.0]]), blow_up=1.0, growth=10.0)
    carries = trajectory(line, rule, 4)
    # -10 at most, which is too far, and undone; half of -30 is bounded by 10 times 1 again
    assert thetas(carries)[:, 0, 0].tolist() == [4, 3, -7, 3, -7]
    assert counted(rule, carries) == {"undos": 1, "bounded_steps": 2}


def test_a_step_of_zero_has_a_finite_gradient(scripted):
    spec, theta = ParamSpec.of({"x": ((2,), "free")}), torch.zeros(1, 2).double()
    rule = Safeguarded(scripted(lambda seen: -seen.grad), blow_up=1.0, growth=1.0)
    state, total = rule.init_state(theta, spec), 0.0
    for step, grad in enumerate((theta, theta + 1, theta + 2)):
        seen = Observation(grad, theta, theta.sum(1), step, 3, spec)
        update, state = rule.step(seen, state)
        total = total + update.sum()
    (slope,) = torch.autograd.grad(total, rule.parameters())
    assert slope.item() == pytest.approx(
        -4
    )  # twice -2: the last step is shortened to the length of the second


# --- curvature --------------------------------------------------------------------------------


def test_pairs_of_negative_curvature_do_not_enter_a_memory_whatever_the_rule_is(separable):
    saddle = separable((-1.0,), 1.0, 0.0)
    inner = CoordinatewiseLSTM(2, 1, Identity(), readout_std=0.5).double()
    rule = Safeguarded(inner, curvature=0.0)
    carries = trajectory(saddle, rule, 5)
    first = state_tensors(carries[1].state.memory.rule)
    last = state_tensors(carries[-1].state.memory.rule)
    assert all(torch.equal(a, b) for a, b in zip(first, last, strict=True))
    assert counted(rule, carries) == {"skipped_pairs": 4}
    assert thetas(carries).isfinite().all()


def test_a_quasi_newton_memory_holds_trusted_pairs_alone_and_uses_no_other(separable):
    bowl, curvature = separable((1.0, 30.0, 0.01), 1.0, 0.3), 0.3
    rule = Safeguarded(LBFGS(0.7), curvature=curvature)
    carries = trajectory(bowl, rule, 15)
    skipped = rule.counts(carries[-1].state)["skipped_pairs"]
    memory = carries[-1].state.memory.rule
    products = (memory.y * memory.s).sum(-1)
    norms = memory.y.norm(dim=-1) * memory.s.norm(dim=-1)
    used = norms > 0
    assert (products[used] > curvature * norms[used]).all()
    assert (skipped > 0).any() and (used.sum(1) + skipped == 14).all() | (used.sum(1) == 10).any()


@pytest.mark.parametrize("guards", [{"growth": 1.2, "first_step": 0.01}, {"blow_up": 1.0}])
def test_a_quasi_newton_memory_is_told_of_the_step_that_was_taken(separable, guards):
    bowl = separable((1.0, 30.0, 0.01), 1.0, 0.3)
    rule = Safeguarded(LBFGS(3.0), **guards)
    carries = trajectory(bowl, rule, 12)
    assert any(count.any() for count in rule.counts(carries[-1].state).values())
    memory = carries[-1].state.memory.rule
    torch.testing.assert_close(  # true of every pair, for this Hessian
        memory.y, memory.s * bowl.curvature, rtol=1e-6, atol=1e-9
    )


# --- the fall-back ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SGD", "Adam", "RMSprop"])
def test_where_every_step_is_refused_it_is_the_fall_back(separable, scripted, name):
    baseline = Baseline(getattr(torch.optim, name), 0.05)
    rule = Safeguarded(scripted(lambda seen: seen.grad), fallback=baseline, ascent=0.0)
    carries = trajectory(separable(), rule, 8)
    assert torch.equal(thetas(carries), thetas(trajectory(separable(), baseline, 8)))
    assert counted(rule, carries) == {"fallbacks": 8}


def test_the_fall_back_sees_every_point_and_acts_where_it_must(separable, scripted):
    rule = scripted(lambda seen: (-0.1 if seen.step % 2 else 0.1) * seen.grad)
    momentum = descent(0.01, momentum=0.9)
    carries = trajectory(separable(), Safeguarded(rule, fallback=momentum, ascent=0.0), 6)
    state = momentum.init_state(carries[0].theta, separable().spec)
    for before, after in zip(carries[:-1], carries[1:], strict=True):
        update, state = momentum.step(before.seen, state)
        if before.seen.step % 2:
            update = -0.1 * before.seen.grad
        assert torch.equal(after.theta, before.theta + update)


@pytest.mark.parametrize(("ascent", "fallbacks"), [(-0.8, 4), (-0.6, 0), (0.5, 0)])
def test_how_far_from_descent_a_step_may_be_is_a_cosine(separable, scripted, ascent, fallbacks):
    # the gradient is along the first axis, so that the cosine is -.7
    flat = separable((1.0, 0.0), 1.0, 0.0)
    rule = scripted(lambda seen: torch.tensor([-0.7, math.sqrt(0.51)]).double() * 0.01)
    guarded = Safeguarded(rule, fallback=descent(0.01), ascent=ascent)
    assert counted(guarded, trajectory(flat, guarded, 4)) == {"fallbacks": fallbacks}


def test_after_undos_in_a_row_the_fall_back_has_a_turn(line, scripted):
    rule = scripted(lambda seen: 64 * seen.theta)  # half of it, a quarter of it, ... is too much
    guarded = Safeguarded(rule, blow_up=1.0, fallback=descent(0.5), fallback_after=2)
    carries = trajectory(line, guarded, 8)
    x = [4, 4 * 65, 4, 4 * 33, 4, 2]  # two undos, then half the way by the fall-back
    assert thetas(carries)[:6, 0, 0].tolist() == x
    assert carries[6].theta[0, 0] > 2 and carries[7].theta[0, 0] == 2  # the rule's turn again
    assert counted(guarded, carries) == {"undos": 3, "fallbacks": 1}


def test_each_rule_is_damped_for_its_own_steps(line, scripted):
    rule = scripted(lambda seen: 64 * seen.theta)
    guarded = Safeguarded(rule, blow_up=1.0, fallback=descent(3.0), fallback_after=1)
    carries = trajectory(line, guarded, 5)
    assert thetas(carries)[:, 0, 0].tolist() == [4, 4 * 65, 4, -8, 4, -2]
    record = carries[-1].state.record
    assert record.scale[0] == 0.5 and record.fallback_scale[0] == 0.5


def test_a_quasi_newton_fall_back_is_told_of_the_step_that_was_taken(separable, scripted):
    bowl = separable((1.0, 30.0, 0.01), 1.0, 0.3)
    rule = Safeguarded(
        scripted(lambda seen: seen.grad), fallback=LBFGS(3.0), ascent=0.0, growth=1.2,
        first_step=0.01,
    )  # fmt: skip
    memory = trajectory(bowl, rule, 12)[-1].state.memory.fallback
    assert memory.s.abs().sum() > 0
    torch.testing.assert_close(memory.y, memory.s * bowl.curvature, rtol=1e-6, atol=1e-9)


# --- inside something else --------------------------------------------------------------------


class Rolling(LearnedOptimizer):
    """Momentum of the steps that were made; rests at step 8."""

    def __init__(self, lr: float) -> None:
        super().__init__()
        self.lr = lr

    def init_state(self, theta, spec):
        return (torch.zeros_like(theta),)

    def step(self, seen, state):
        update = (0.5 * state[0] - 0.01 * self.lr * seen.grad) * (seen.step != 8)
        return update, (update,)

    def told(self, state, update):
        return (update,)


OWN_STEPS = {
    "rolling": Rolling,
    "lbfgs": LBFGS,
    "ntm": lambda lr: NTMBFGS(BFGSByHand(lr), 1.0).double(),
}


@pytest.mark.parametrize("make", OWN_STEPS.values(), ids=OWN_STEPS)
@pytest.mark.parametrize(
    "around",
    [
        lambda rule: Postprocessed(rule, lr=0.5),
        lambda rule: Safeguarded(rule, growth=1.2, first_step=0.01),
    ],
    ids=["postprocessed", "safeguarded"],
)
def test_without_guards_the_rule_is_told_what_becomes_of_its_steps(separable, make, around):
    bowl = separable((1.0, 30.0, 0.01), 1.0, 0.3)
    alone, wrapped = (trajectory(bowl, around(x)) for x in (make(0.7), Safeguarded(make(0.7))))
    assert torch.equal(thetas(wrapped), thetas(alone))
    assert not torch.equal(thetas(alone), thetas(trajectory(bowl, make(0.7))))


@pytest.mark.parametrize("make", OWN_STEPS.values(), ids=OWN_STEPS)
@pytest.mark.parametrize("guards", [{}, {"fallback_after": 1}])
def test_what_passes_every_step_on_changes_nothing(separable, monkeypatch, make, guards):
    bowl = separable((1.0, 30.0, 0.01), 1.0, 0.3)
    one, lost = torch.ones(3).double(), (0, 2, 5, 6, 9, 14)  # on the way, and where theta rests
    monkeypatch.setattr(
        bowl, "minibatch", lambda _, step: {"active": one * (math.nan if step in lost else 1.0)}
    )
    rule = Safeguarded(make(2.5), 1.0, growth=1.5, fallback=LBFGS(4.0), **guards)
    alone, told = (trajectory(bowl, x, 20) for x in (rule, Postprocessed(rule)))
    assert torch.equal(thetas(told), thetas(alone)) and thetas(alone).isfinite().all()
    counts = rule.counts(alone[-1].state)
    assert counts["undos"].any() and counts["fallbacks"].any() == bool(guards)
    for one, other in zip(*map(state_tensors, (told[-1].state, alone[-1].state)), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("lr", [0.1, 10.0])
def test_a_factor_on_all_steps_leaves_the_bound_on_their_growth_as_it_is(separable, lr):
    rule = Postprocessed(Safeguarded(Replayed([[1.0]] * 12), growth=1.3, first_step=0.01), lr=lr)
    carries = trajectory(separable((0.0,), 0.0, 0.0), rule)
    steps = thetas(carries)[:, 0, 0].diff()
    assert steps.tolist() == pytest.approx([lr * 0.01 * 1.3**t for t in range(12)])


def test_the_undo_of_a_shortened_step_cancels_its_gradient(line):
    gain = nn.Parameter(torch.tensor(3.0, dtype=torch.float64))

    class Gained(Replayed):
        def step(self, seen, state):
            return -gain * seen.grad, state

    rule = Safeguarded(Gained([[0.0]]), blow_up=1.0)
    carry = Episode(line, line.sample((0,), TEST), 3).start(rule)
    update, state = rule.step(carry.seen, carry.state)
    made = 0.9 * update
    state = rule.told(state, made)
    there = Episode(line, line.sample((0,), TEST), 3).carry(carry.theta + made, 1, state)
    back, _ = rule.step(there.seen, state)
    assert (carry.theta + made + back).item() == 4
    (slope,) = torch.autograd.grad((made + back).sum(), gain)
    assert slope.item() == 0


@pytest.mark.parametrize("name", ["Adam", "RMSprop"])
def test_problems_with_undos_together_equal_each_alone(name):
    optimizee = Quadratic(3, "gaussian", init_std=1.0).double()
    rule = Safeguarded(Baseline(getattr(torch.optim, name), 0.3), blow_up=1.0)
    together = trajectory(optimizee, rule, 10)
    undos = rule.counts(together[-1].state)["undos"]
    assert len(set(undos.tolist())) > 1
    for b in PROBLEMS:
        alone = trajectory(optimizee, rule, 10, (b,))
        torch.testing.assert_close(
            thetas(alone)[:, 0], thetas(together)[:, b], rtol=1e-9, atol=1e-12
        )


# --- meta-gradients ---------------------------------------------------------------------------


def shaken(**guards) -> Safeguarded:
    """A learned rule that goes too far, with guards that act."""
    inner = CoordinatewiseLSTM(3, 1, Identity(0.1), output_scale=0.6, readout_std=1.0)
    return Safeguarded(inner, **guards).double()


GUARDS = {
    "undo": {"blow_up": 1.0},
    "undo_and_growth": {"blow_up": 1.2, "growth": 1.2, "first_step": 0.2},
    "growth": {"growth": 1.0},
    "curvature": {"curvature": 0.9},
    "fallback": {"ascent": -0.2, "fallback": CoordinatewiseLSTM(2, 1, Identity(), seed=3)},
}


def estimates(rule, optimizee, gradient, steps=8):
    """Flat meta-gradient of the mean loss of a window from the start."""
    episode = Episode(optimizee, optimizee.sample(PROBLEMS, TEST), steps, gradient.attached)
    draws = np.random.default_rng(0)
    result = gradient(
        episode, rule, episode.start(rule).detach(), steps, lambda losses: losses.mean(), draws
    )
    return torch.cat([grad.flatten() for grad in result.grads]), result


@pytest.mark.parametrize("guards", GUARDS)
def test_replay_is_backprop_where_guards_act(guards):
    optimizee, rule = Quadratic(3, "gaussian", init_std=1.0).double(), shaken(**GUARDS[guards])
    exact, result = estimates(rule, optimizee, Backprop(1))
    assert all(count.any() for count in rule.counts(result.carry.state).values())
    for chunk in (1, 10**6):
        ours, _ = estimates(rule, optimizee, Replay(chunk))
        assert (ours - exact).norm() <= 1e-10 * exact.norm()


@pytest.mark.parametrize("guards", GUARDS)
def test_the_whole_gradient_is_the_slope_where_guards_act(guards):
    optimizee, rule = Quadratic(3, "gaussian", init_std=1.0).double(), shaken(**GUARDS[guards])
    ours, _ = estimates(rule, optimizee, Backprop(2))
    phi = parameters_to_vector(rule.parameters()).detach().clone()
    rng = torch.Generator().manual_seed(0)
    directions, slopes = torch.randn(3, len(phi), generator=rng, dtype=phi.dtype), []
    for direction in directions:
        sides = []
        for sign in (1, -1):
            vector_to_parameters(phi + sign * 1e-6 * direction, rule.parameters())
            losses = [carry.loss for carry in trajectory(optimizee, rule, 8)[1:]]
            sides.append(torch.stack(losses).mean())
        slopes.append((sides[0] - sides[1]) / 2e-6)
    vector_to_parameters(phi, rule.parameters())
    slopes = torch.stack(slopes)
    assert (directions @ ours - slopes).norm() <= 1e-6 * slopes.norm()


@pytest.mark.parametrize("reads_loss", [False, True])
def test_what_is_not_a_number_leaves_the_gradient_of_other_problems_alone(scripted, reads_loss):
    spec, rule = ParamSpec.of({"x": ((3,), "free")}), shaken(blow_up=1.0, growth=1.5, curvature=0.1)
    if reads_loss:
        rule.rule = scripted(lambda seen: -0.1 * seen.loss.unsqueeze(1) * seen.grad)
    theta = torch.ones(2, 3).double()
    broken = theta.clone()
    broken[0] = math.nan
    state, total = rule.init_state(theta, spec), 0.0
    for step, grad in enumerate((theta, broken, theta)):
        loss = grad.sum(1)
        seen = Observation(grad, theta, loss, step, 3, spec)
        update, state = rule.step(seen, state)
        total, theta = total + update.sum(), theta + update.detach()
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(total, rule.parameters()))


# --- counts in an evaluation ------------------------------------------------------------------


def test_an_evaluation_reports_counts_by_problem_also_in_chunks(monkeypatch):
    optimizee = Quadratic(3, "gaussian", init_std=1.0).double()
    rule = Safeguarded(descent(0.3), blow_up=1.5, growth=1.0)
    (whole,) = evaluate(optimizee, rule, range(7), TEST, 10)
    last = trajectory(optimizee, rule, 10, range(7))[-1]
    assert list(whole.counts) == ["undos", "bounded_steps"]
    for name, count in rule.counts(last.state).items():
        assert whole.counts[name].tolist() == count.tolist() and count.sum() > 0
    monkeypatch.setattr("l2l_exp.evaluation.COORDINATES_AT_ONCE", 6)
    (parts,) = evaluate(optimizee, rule, range(7), TEST, 10)
    for name, count in whole.counts.items():
        np.testing.assert_array_equal(parts.counts[name], count)
    (plain,) = evaluate(optimizee, descent(0.3), range(7), TEST, 10)
    assert plain.counts == {}


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"blow_up": 0.9}, "blow_up=0.9 must be >= 1, or null"),
        ({"damping": 1.0}, "damping=1.0 must be > 0 and < 1"),
        ({"damping": 0.0}, "damping=0.0 must be > 0 and < 1"),
        ({"recovery": 0.9}, "recovery=0.9 must be >= 1"),
        ({"growth": 0.5}, "growth=0.5 must be >= 1, or null"),
        ({"growth": 2, "first_step": 0}, "first_step=0 must be > 0, or null"),
        ({"first_step": 1.0}, "first_step=1.0 has no effect without growth"),
        ({"curvature": -0.1}, r"curvature=-0.1 must be in \[0, 1\)"),
        ({"curvature": math.nan}, r"curvature=nan must be in \[0, 1\)"),
        ({"ascent": 1.0}, r"ascent=1.0 must be in \[-1, 1\)"),
        ({"ascent": 0.0}, "ascent=0.0 has no effect without fallback"),
        ({"fallback_after": 0}, "fallback_after=0 must be >= 1"),
        ({"fallback_after": 2}, "fallback_after=2 has no effect without fallback"),
        (
            {"fallback_after": 2, "fallback": descent(1)},
            "fallback_after=2 has no effect without blow_up",
        ),
        ({"fallback": Baseline(torch.optim.SGD)}, "fallback.lr=tuned must be one number"),
        ({"fallback": descent((1, 2))}, r"fallback.lr=\[1.0, 2.0\] must be one number"),
    ],
)
def test_values_out_of_range_are_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        Safeguarded(descent(0.1), **settings)


def test_a_baseline_that_is_still_to_be_tuned_is_refused():
    with pytest.raises(ValueError, match="rule.lr=tuned must be one number"):
        Safeguarded(Baseline(torch.optim.SGD))


def test_meta_parameters_are_those_of_both_rules():
    rule, fallback = CoordinatewiseLSTM(2, 1), CoordinatewiseLSTM(3, 1)
    wrapped = Safeguarded(rule, fallback=fallback)
    assert isinstance(wrapped, nn.Module)
    assert len(list(wrapped.parameters())) == 2 * len(list(rule.parameters()))
