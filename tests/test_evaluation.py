"""Evaluation: what is recorded is what happened, failures included."""

import itertools
import types

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from l2l_exp import evaluation
from l2l_exp.evaluation import CRITERIA, evaluate, measure_step, metric_steps, recorded_steps
from l2l_exp.optimizees.quadratic import Quadratic
from l2l_exp.optimizees.seeding import Seed
from l2l_exp.optimizers.base import LearnedOptimizer
from l2l_exp.optimizers.baseline import Baseline
from l2l_exp.optimizers.lstm import CoordinatewiseLSTM
from l2l_exp.unroll import Episode, unroll

SEED, PROBLEMS = Seed("test", 0), (0, 3, 5)


def assert_same(one, other):
    """Two records hold the same numbers."""
    assert one.lr == other.lr
    for name in ("problems", "steps", "metric_steps", "diverged"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for name in ("loss", "running_mean"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-12)
    assert one.metrics.keys() == other.metrics.keys()
    for name, values in one.metrics.items():
        np.testing.assert_allclose(values, other.metrics[name], rtol=1e-12)


# --- closed forms -----------------------------------------------------------------------------


def test_gradient_descent_on_a_parabola_is_recorded_as_calculated_by_hand():
    # f = (w theta - y)^2: the residual r = w theta - y is multiplied by 1 - 2 lr w^2 at every step
    optimizee, lr, horizon = Quadratic(1, "gaussian", init_std=1.0).double(), 0.05, 7
    problem = optimizee.sample(PROBLEMS, SEED)
    w, y = (problem.data[name].view(3).numpy() for name in ("W", "y"))
    residual = w * optimizee.init(PROBLEMS, SEED).view(3).numpy() - y
    loss = np.stack([(residual * (1 - 2 * lr * w**2) ** t) ** 2 for t in range(horizon + 1)])
    (record,) = evaluate(optimizee, Baseline(torch.optim.SGD, lr), PROBLEMS, SEED, horizon)
    np.testing.assert_allclose(record.loss, loss, rtol=1e-10)
    np.testing.assert_allclose(record.metrics["train_loss"], loss[record.metric_steps], rtol=1e-10)
    np.testing.assert_allclose(record.criterion("average"), loss[1:].mean(0), rtol=1e-10)
    np.testing.assert_allclose(record.criterion("final"), loss[-1], rtol=1e-10)
    assert record.criterion("held_out") is None
    assert record.status.tolist() == ["ok"] * 3 and record.lr == lr
    assert record.problems.tolist() == list(PROBLEMS) and record.steps.tolist() == [*range(8)]


def test_held_out_is_the_last_held_out_loss(mlp):
    (record,) = evaluate(mlp, Baseline(torch.optim.SGD, 0.1), PROBLEMS, SEED, 5)
    assert np.array_equal(record.criterion("held_out"), record.metrics["held_out_loss"][-1])
    assert not np.array_equal(record.criterion("held_out"), record.criterion("final"))


def test_the_running_mean_counts_every_step_also_those_not_recorded(linear, scripted):
    horizon, rule = 530, scripted(lambda seen: -0.001 * seen.grad)
    (record,) = evaluate(linear, rule, PROBLEMS, SEED, horizon)
    episode = Episode(linear, linear.sample(PROBLEMS, SEED), horizon)
    with torch.no_grad():
        carries = unroll(episode, rule, episode.start(rule), horizon)
        every = np.stack([carry.loss.numpy() for carry in carries])
    assert len(record.steps) < horizon
    for step, loss, mean in zip(
        record.steps[1:], record.loss[1:], record.running_mean[1:], strict=True
    ):
        np.testing.assert_allclose(loss, every[step - 1], rtol=1e-12)
        np.testing.assert_allclose(mean, every[:step].mean(0), rtol=1e-12)
    np.testing.assert_array_equal(record.running_mean[0], record.loss[0])
    np.testing.assert_allclose(record.criterion("average"), every.mean(0), rtol=1e-12)


@given(st.integers(1, 20_000))
def test_recorded_steps_are_dense_to_200_then_a_hundred_per_decade(horizon):
    steps, sparse = recorded_steps(horizon), [t for t in metric_steps(horizon) if t > 200]
    assert steps == sorted(set(steps)) and steps[-1] == horizon
    assert steps[: min(horizon, 200) + 1] == list(range(min(horizon, 200) + 1))
    assert set(sparse) <= set(steps)  # where metrics are taken, the loss is known too
    for one, after in itertools.pairwise(steps[200:]):
        assert after <= (one + 0.5) * 10 ** (1 / 100) + 0.5
    if horizon > 200:
        assert len(steps) <= 200 + 100 * np.log10(horizon / 200) + 3 + len(sparse)


@given(st.integers(1, 100_000))
def test_metric_steps_begin_at_zero_and_end_at_the_horizon_four_per_decade(horizon):
    steps = metric_steps(horizon)
    assert steps == sorted(set(steps)) and steps[0] == 0 and steps[-1] == horizon
    assert len(steps) <= 4 * np.log10(horizon) + 3
    for one, after in itertools.pairwise(steps[1:]):
        assert after <= (one + 0.5) * 10 ** (1 / 4) + 0.5


# --- status -----------------------------------------------------------------------------------

STATUS_OF = {
    # on f = theta^2 / 2: a factor on theta per step
    "converges": (lambda seen: -0.1 * seen.theta, "ok"),
    "stands": (lambda seen: 0 * seen.theta, "ok"),
    "drifts": (lambda seen: 0.05 * seen.theta, "worse_than_start"),
    "blows up": (lambda seen: 1.0 * seen.theta, "diverged"),
    "blows up and returns": (
        lambda seen: seen.theta * {2: 9.0, 3: -0.99}.get(seen.step, 0.0), "diverged",
    ),
    "nan": (lambda seen: seen.theta * (torch.nan if seen.step == 5 else 0.0), "diverged"),
    "infinite": (lambda seen: seen.theta * (torch.inf if seen.step == 5 else 0.0), "diverged"),
    "almost ten times": (
        lambda seen: seen.theta * {2: 2.16, 3: -0.9}.get(seen.step, 0.0), "ok",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STATUS_OF)
def test_status_says_what_became_of_a_problem(name, separable, scripted):
    script, status = STATUS_OF[name]
    (record,) = evaluate(separable((1.0,)), scripted(script), PROBLEMS, SEED, 6)
    assert record.status.tolist() == [status] * 3
    assert (record.diverged == (status == "diverged")).all()


def test_divergence_between_recorded_steps_is_not_missed(separable, scripted):
    missed = next(t for t in range(200, 400) if t not in recorded_steps(400))
    excursion = {missed - 1: 9.0, missed: -0.9}  # far away at the step that is not recorded
    rule = scripted(lambda seen: seen.theta * excursion.get(seen.step, 0.0))
    (record,) = evaluate(separable((1.0,)), rule, PROBLEMS, SEED, 400)
    assert record.loss.max() < 10 * record.loss[0].min() and record.diverged.all()


def test_problems_fail_one_by_one_and_no_row_is_dropped(separable, scripted):
    rows = torch.tensor([[0.0], [1.0], [torch.nan]]).double()
    rule = scripted(lambda seen: rows * seen.theta)
    (record,) = evaluate(separable((1.0,)), rule, PROBLEMS, SEED, 4)
    assert record.status.tolist() == ["ok", "diverged", "diverged"]
    for name in ("average", "final"):
        values = record.criterion(name)
        assert np.isfinite(values[:2]).all() and values[2] == np.inf
    assert np.isnan(record.loss[1:, 2]).all()  # recorded as it was


# --- what must not matter ---------------------------------------------------------------------


@pytest.mark.parametrize("rates", [None, [0.01, 0.1]])
@pytest.mark.parametrize("rows", [1, 2])
def test_chunks_of_problems_change_nothing(mlp, monkeypatch, rates, rows):
    rule = Baseline(torch.optim.Adam, rates) if rates else CoordinatewiseLSTM(3).double()
    whole = evaluate(mlp, rule, range(5), SEED, 4)
    sizes, sample = [], mlp.sample
    monkeypatch.setattr(
        mlp, "sample", lambda some, seed: (sizes.append(len(some)), sample(some, seed))[1]
    )
    monkeypatch.setattr(evaluation, "COORDINATES_AT_ONCE", rows * mlp.spec.size * len(rates or [1]))
    parts = evaluate(mlp, rule, range(5), SEED, 4)
    assert len(parts) == len(whole) == len(rates or [1])
    for one, other in zip(parts, whole, strict=True):
        assert_same(one, other)
    assert sum(sizes) == 5 and max(sizes) == rows


def test_all_rules_meet_the_same_draws(mlp, baseline, learned_rule, monkeypatch):
    drawn = []
    for name in ("init", "minibatch"):
        original = getattr(mlp, name)

        def spy(*args, original=original):
            result = original(*args)
            drawn.append(result if isinstance(result, torch.Tensor) else result["x"])
            return result

        monkeypatch.setattr(mlp, name, spy)
    seen = []
    for rule in (baseline, learned_rule, baseline.with_rates([0.01, 0.1])):
        drawn.clear()
        evaluate(mlp, rule, PROBLEMS, SEED, 3)
        seen.append(torch.cat([x.flatten() for x in drawn]))
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[0], seen[2])


def test_a_problem_is_evaluated_alike_in_any_company(optimizee, learned_rule):
    # quasi-Newton rules magnify roundings
    (together,) = evaluate(optimizee, learned_rule, PROBLEMS, SEED, 4)
    for place, problem in enumerate(PROBLEMS):
        (alone,) = evaluate(optimizee, learned_rule, [problem], SEED, 4)
        np.testing.assert_allclose(alone.loss, together.loss[:, place::3], rtol=1e-9)
        for name in CRITERIA:
            values = alone.criterion(name)
            if values is not None:
                np.testing.assert_allclose(values, together.criterion(name)[place::3], rtol=1e-9)


def test_evaluation_changes_no_meta_parameter(mlp, learned_rule):
    before = [parameter.detach().clone() for parameter in learned_rule.parameters()]
    evaluate(mlp, learned_rule, PROBLEMS, SEED, 3)
    after = list(learned_rule.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


# --- cost -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "numbers"),
    [
        (CoordinatewiseLSTM(3, 2), 2 * 2 * 3),  # h and c, two layers, three units
        (Baseline(torch.optim.SGD, 0.1), 0),
        (Baseline(torch.optim.SGD, 0.1, momentum=0.9), 1),
        (Baseline(torch.optim.Adam, 0.1), 2),
    ],
)
def test_the_state_of_a_rule_is_measured_per_coordinate(mlp, rule, numbers):
    cost = measure_step(mlp, rule.double(), repeats=2)
    shared = 4 / mlp.spec.size  # Adam's one step count
    assert 0 <= cost.state_bytes_per_coordinate - 8 * numbers <= shared
    assert cost.rule_seconds > 0 and cost.gradient_seconds > 0


def test_a_baseline_is_timed_without_its_wrapper(mlp, monkeypatch):
    rule, calls = Baseline(torch.optim.SGD, 0.1), []
    step = Baseline.step
    monkeypatch.setattr(Baseline, "step", lambda *args: (calls.append(1), step(*args))[1])
    measure_step(mlp, rule, repeats=5)
    assert len(calls) == 1  # to measure the state


class Seldom(LearnedOptimizer):
    """A step of a second, each `every`th of which takes nine more, by a clock of its own."""

    def __init__(self, every, clock):
        super().__init__()
        self.every, self.clock, self.steps = every, clock, []

    def init_state(self, theta, spec):
        return (torch.zeros_like(theta),)

    def step(self, seen, state):
        self.steps.append(seen.step)
        assert state[0].unique().item() == len(self.steps) - 1 and seen.step < seen.horizon
        warm = len(self.steps) <= evaluation.STEPS_TIMED
        self.clock.now += 100 if warm else 10 if seen.step % self.every == 0 else 1
        return torch.zeros_like(seen.theta), (state[0] + 1,)


@pytest.mark.parametrize(("every", "seconds"), [(1, 10.0), (2, 5.5), (5, 2.8), (20, 1.45)])
def test_what_a_rule_does_every_few_steps_counts_by_its_share(mlp, monkeypatch, every, seconds):
    clock = types.SimpleNamespace(now=0.0)
    clock.perf_counter = lambda: clock.now
    monkeypatch.setattr(evaluation, "time", clock)
    rule = Seldom(every, clock)
    assert measure_step(mlp, rule).rule_seconds == pytest.approx(seconds)
    assert rule.steps == list(range(len(rule.steps))) and len(rule.steps) > 5 * 20


def test_a_moment_in_which_the_machine_was_busy_does_not_count(mlp, monkeypatch):
    clock = types.SimpleNamespace(now=0.0)
    clock.perf_counter = lambda: clock.now
    monkeypatch.setattr(evaluation, "time", clock)
    rule = Seldom(2, clock)
    step = Seldom.step

    def interrupted(self, seen, state):
        self.clock.now += 1e6 if seen.step in (70, 71, 190) else 0
        return step(self, seen, state)

    monkeypatch.setattr(Seldom, "step", interrupted)
    assert measure_step(mlp, rule).rule_seconds == pytest.approx(5.5)
