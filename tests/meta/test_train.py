"""Meta-training: repeatable, honest about failure, ends with what validation chose."""

import copy
import dataclasses
import functools
import itertools
import math
import types

import pytest
import torch
from torch.nn.utils import parameters_to_vector

from l2l_exp.meta import train as train_module
from l2l_exp.meta.evolution import ES, PES, SingleNoise
from l2l_exp.meta.gradients import Backprop, Replay
from l2l_exp.meta.horizons import Fixed, Growing, LogUniform, Stages
from l2l_exp.meta.imitation import Imitation
from l2l_exp.meta.mixture import Mixture
from l2l_exp.meta.objective import Final, Form, Log, MetaLoss, Plain, Uniform
from l2l_exp.meta.schedule import Constant, Cosine
from l2l_exp.meta.train import (
    Memory,
    MetaTrainingError,
    Options,
    Plan,
    Validator,
    train,
    zero_gradient_update,
)
from l2l_exp.optimizees.quadratic import Quadratic
from l2l_exp.optimizees.scaled import Scaled
from l2l_exp.optimizees.seeding import Seed
from l2l_exp.optimizers.baseline import Baseline
from l2l_exp.optimizers.lstm import CoordinatewiseLSTM
from l2l_exp.optimizers.safeguard import Safeguarded
from l2l_exp.unroll import Episode, unroll

MEAN = MetaLoss(Uniform(), Plain())
PLAN = Plan(
    horizon=6, truncation=3, episodes=4, problems=3, validation_every=2, validation_problems=4
)


def sgd(lr, **settings):
    """Makes a plain meta-optimizer."""
    return functools.partial(torch.optim.SGD, lr=lr, **settings)


def small_rule(seed=0):
    """A tiny LSTM rule in float64."""
    return CoordinatewiseLSTM(4, 1, readout_std=0.1, output_scale=0.1, seed=seed).double()


def meta_train(rule, plan=PLAN, optimizee=None, meta_optimizer=None, **changes):
    """Train on tiny quadratics; returns progress and what was reported after every episode."""
    reports = []

    def report(progress, metrics):
        reports.append((copy.deepcopy(progress), dict(metrics), copy.deepcopy(rule.state_dict())))

    arguments = {
        "optimizee": optimizee or Quadratic(2, "gaussian", init_std=1.0).double(),
        "rule": rule,
        "gradient": Replay(),
        "meta_loss": MEAN,
        "meta_optimizer": meta_optimizer or functools.partial(torch.optim.Adam, lr=1e-2),
        "schedule": Constant(),
        "plan": plan,
        "report": report,
    }
    return train(**arguments | changes), reports


def same(one, other):
    """Whether two state dicts are bit for bit the same."""
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


class Poisoned(Quadratic):
    """Quadratics some of whose training problems have NaN for data."""

    def __init__(self, bad):
        super().__init__(2, "gaussian", init_std=1.0)
        self.bad = bad

    def minibatch(self, problem, step):
        if problem.seed.split != "train":
            return problem.data
        bad = torch.tensor([math.nan if self.bad(i) else 1.0 for i in problem.index]).to(
            self.anchor
        )
        return {name: x * bad.view(-1, *[1] * (x.dim() - 1)) for name, x in problem.data.items()}


# --- the plan ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({name: 0}, f"training.{name}=0 must be >= 1")
        for name in ("horizon", "truncation", "episodes", "problems", "validation_every",
                     "validation_problems", "max_skipped", "patience", "validation_horizon")
    ]
    + [
        ({"truncation": 4}, "training.truncation=4 must divide training.horizon=6"),
        ({"max_seconds": 0.0}, "training.max_seconds=0.0 must be > 0, or null"),
        ({"max_seconds": math.nan}, "training.max_seconds=nan must be > 0, or null"),
        ({"clip": 0.0}, "training.clip=0.0 must be > 0"),
        ({"clip": math.nan}, "training.clip=nan must be > 0"),
    ],
)  # fmt: skip
def test_an_impossible_plan_is_refused_with_key_and_value(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PLAN, **change)


def test_weights_that_do_not_fit_the_plan_are_refused_before_training():
    rule = small_rule()
    before = copy.deepcopy(rule.state_dict())
    with pytest.raises(ValueError, match="truncation=3, horizon=6"):
        meta_train(rule, meta_loss=MetaLoss(Final("horizon"), Plain()))
    assert same(rule.state_dict(), before)


# --- repeatable -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "gradient",
    [Replay(), Replay(chunk=2, subset=3), Backprop(2), ES(2), PES(2), SingleNoise(2)],
)
def test_the_same_seed_gives_the_same_meta_parameters_and_another_seed_others(gradient):
    def trained(seed):
        rule = small_rule()
        plan = dataclasses.replace(PLAN, seed=seed)
        (progress, reports) = meta_train(rule, plan, gradient=gradient)
        return reports[-1][2]

    torch.manual_seed(1)
    one = trained(0)
    torch.manual_seed(2)
    assert same(trained(0), one)
    assert not same(trained(1), one)


def test_the_count_of_work_is_right():
    progress, reports = meta_train(small_rule())
    assert (progress.episode, progress.meta_steps, progress.skipped) == (4, 8, 0)
    assert progress.inner_steps == 4 * 6 * 3
    assert len(reports) == 4 and progress.seconds > 0
    validated = [
        i + 1 for i, (_, metrics, _) in enumerate(reports) if "validation_final" in metrics
    ]
    assert validated == [2, 4]


@pytest.mark.parametrize(
    ("gradient", "copies"), [(ES(2), 5), (PES(2), 4), (SingleNoise(3), 6), (Backprop(2), 1)]
)
def test_inner_steps_are_counted_for_every_particle(gradient, copies):
    progress, _ = meta_train(small_rule(), gradient=gradient)
    assert progress.inner_steps == 4 * 6 * 3 * copies


def test_the_last_episode_is_validated_where_the_interval_does_not_divide():
    _, reports = meta_train(small_rule(), dataclasses.replace(PLAN, validation_every=3))
    assert ["validation_final" in metrics for _, metrics, _ in reports] == [
        False,
        False,
        True,
        True,
    ]


# --- what a meta-step does --------------------------------------------------------------------


def test_every_window_is_one_clipped_step_against_the_meta_gradient():
    # One episode of two windows by hand: phi <- phi - lr g min(1, clip / |g|)
    optimizee, rule = Quadratic(2, "gaussian", init_std=1.0).double(), small_rule()
    lr, clip = 0.5, 1e-3
    start, by_hand = copy.deepcopy(rule), copy.deepcopy(rule)
    episode = Episode(optimizee, optimizee.sample(range(3), Seed("train", 0)), 6, "loss")
    carry = episode.start(by_hand).detach()
    for _ in range(2):
        carries = list(unroll(episode, by_hand, carry, 3))
        loss = torch.stack([c.loss for c in carries]).mean()
        grads = torch.autograd.grad(loss, list(by_hand.parameters()))
        norm = torch.cat([g.flatten() for g in grads]).norm()
        assert norm > clip
        with torch.no_grad():
            for parameter, grad in zip(by_hand.parameters(), grads, strict=True):
                parameter -= lr * grad * clip / norm
        carry = carries[-1].detach()
    plan = dataclasses.replace(PLAN, episodes=1, clip=clip)
    meta_train(rule, plan, optimizee, sgd(lr))
    origin, ours, theirs = (parameters_to_vector(r.parameters()) for r in (start, rule, by_hand))
    torch.testing.assert_close(ours - origin, theirs - origin, rtol=1e-5, atol=1e-12)


def test_the_schedule_scales_the_meta_learning_rate_over_all_meta_steps():
    schedule = Cosine(final=0.0)
    _, reports = meta_train(small_rule(), schedule=schedule, meta_optimizer=sgd(0.3))
    rates = [metrics["meta_lr"] for _, metrics, _ in reports]  # of each episode's last window
    assert rates == pytest.approx([0.3 * schedule(k / 8) for k in (1, 3, 5, 7)])


def spied(optimizee):
    """The same optimizee, and a list that will hold (split, problems) of every draw."""
    sample, seen = optimizee.sample, []

    def spy(problems, seed):
        seen.append((seed.split, tuple(problems)))
        return sample(problems, seed)

    optimizee.sample = spy
    return optimizee, seen


def test_every_episode_draws_fresh_problems():
    optimizee, seen = spied(Quadratic(2, "gaussian", init_std=1.0).double())
    meta_train(small_rule(), optimizee=optimizee)
    trained = [index for split, problems in seen if split == "train" for index in problems]
    assert trained == list(range(12))
    validated = {problems for split, problems in seen if split == "validation"}
    assert validated == {(0, 1, 2, 3)} and {split for split, _ in seen} == {"train", "validation"}


def test_training_problems_come_from_the_mixture_and_validation_problems_do_not():
    (main, at_main), (small, at_small), (large, at_large) = (
        spied(Quadratic(n, "gaussian", init_std=1.0).double()) for n in (2, 1, 4)
    )
    options = Options(Mixture({"small": Scaled(small), "large": large}))
    plan = dataclasses.replace(PLAN, episodes=12)
    meta_train(small_rule(), plan, main, options=options)
    assert {split for split, _ in at_main} == {"validation"}
    assert {split for split, _ in at_small + at_large} == {"train"}
    assert at_small and at_large
    trained = sorted(index for _, problems in at_small + at_large for index in problems)
    assert trained == list(range(36))


# --- selection --------------------------------------------------------------------------------


@pytest.mark.parametrize("maximize", [False, True])
def test_it_ends_with_the_meta_parameters_of_the_best_validation(maximize):
    # A meta-optimizer that climbs makes the first validation the best one.
    optimizee, rule = Quadratic(2, "gaussian", init_std=1.0).double(), small_rule()
    plan = dataclasses.replace(PLAN, episodes=8, horizon=12)
    progress, reports = meta_train(rule, plan, optimizee, sgd(0.2, maximize=maximize))
    scores = {p.episode: m["validation_final"] for p, m, _ in reports if "validation_final" in m}
    best = min(scores, key=lambda episode: scores[episode])
    assert progress.best_episode == best and progress.best_validation == scores[best]
    assert same(rule.state_dict(), reports[best - 1][2])
    assert Validator(optimizee, 4, 0, 12)(rule) == scores[best]
    assert best < 8 or not maximize


def test_it_stops_after_as_many_validations_without_improvement_as_it_has_patience():
    plan = dataclasses.replace(PLAN, episodes=50, patience=3)
    progress, reports = meta_train(small_rule(), plan, meta_optimizer=sgd(0.0))
    assert progress.stopped_early
    assert progress.episode == len(reports) == (1 + 3) * plan.validation_every
    assert progress.best_episode == plan.validation_every


def test_without_patience_it_goes_on_to_the_end():
    progress, _ = meta_train(small_rule(), meta_optimizer=sgd(0.0))
    assert progress.episode == 4 and not progress.stopped_early


def test_validation_is_the_mean_final_loss_and_infinite_where_one_problem_diverges(
    separable, scripted
):
    optimizee = separable((1.0,))
    half = scripted(lambda seen: -0.5 * seen.grad)  # theta halves at every step
    start = optimizee.init([0, 1], Seed("validation", 0))
    expected = (start / 2**5).square().sum(1).mean().item() / 2
    assert Validator(optimizee, 2, 0, 5)(half) == pytest.approx(expected)
    average = sum(start.square().sum(1).mean().item() / 2 / 4**t for t in range(1, 6)) / 5
    assert Validator(optimizee, 2, 0, 5, "average")(half) == pytest.approx(average)
    loss = MetaLoss(Uniform(), Log(1e-3))
    logs = [(start.square().sum(1) / 2 / 4**t + 1e-3).log().mean().item() for t in range(1, 6)]
    assert Validator(optimizee, 2, 0, 5, "meta_loss", loss)(half) == pytest.approx(sum(logs) / 5)
    lost = scripted(lambda seen: seen.grad * (math.nan if seen.step == 3 else 0.0))
    assert Validator(optimizee, 2, 0, 5)(lost) == math.inf
    assert Validator(optimizee, 2, 0, 5, "average")(lost) == math.inf


def test_the_criterion_of_the_plan_selects():
    plan = dataclasses.replace(PLAN, validation_criterion="average")
    progress, reports = meta_train(small_rule(), plan)
    scores = [m["validation_average"] for _, m, _ in reports if "validation_average" in m]
    assert progress.best_validation == min(scores)
    with pytest.raises(
        ValueError, match="validation_criterion=mean must be one of final, average, meta_loss"
    ):
        dataclasses.replace(PLAN, validation_criterion="mean")


# --- failure ----------------------------------------------------------------------------------


def test_a_meta_gradient_that_is_not_finite_is_skipped_and_counted():
    rule = small_rule()
    before = copy.deepcopy(rule.state_dict())
    progress, reports = meta_train(rule, optimizee=Poisoned(lambda i: i in (4, 11)).double())
    episodes = [before] + [state for _, _, state in reports]
    changed = [not same(a, b) for a, b in zip(episodes[:-1], episodes[1:], strict=True)]
    assert changed == [True, False, True, False]  # 3 problems per episode: 4 in the 2nd, 11 last
    assert progress.skipped == 2 and reports[-1][1]["skipped_meta_steps"] == 2
    assert math.isnan(reports[1][1]["meta_loss"]) and math.isfinite(reports[2][1]["meta_loss"])
    assert all(x.isfinite().all() for x in rule.state_dict().values())


def test_meta_training_gives_up_after_too_many_skips_in_a_row():
    plan = dataclasses.replace(PLAN, episodes=20, max_skipped=3)
    with pytest.raises(MetaTrainingError, match="3 meta-gradients in a row .*episode 4"):
        meta_train(small_rule(), plan, Poisoned(lambda i: i >= 6).double())


def test_skips_that_are_not_in_a_row_do_not_end_meta_training():
    plan = dataclasses.replace(PLAN, episodes=8, max_skipped=2)
    progress, _ = meta_train(small_rule(), plan, Poisoned(lambda i: i % 6 == 0).double())
    assert progress.skipped == 4 and progress.episode == 8


def test_a_finite_meta_gradient_of_a_meta_loss_that_is_not_finite_is_skipped_too(
    separable, scripted
):
    class Infinite(Form):
        def __call__(self, losses, first):
            return losses + math.inf

    rule, loss = scripted(lambda seen: -0.1 * seen.grad), MetaLoss(Uniform(), Infinite())
    progress, _ = meta_train(rule, PLAN, separable(), sgd(0.1), meta_loss=loss)
    assert progress.skipped == 4 and rule.gain.item() == 1


# --- what it is for ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "gradient", [Replay(), Backprop(2), ES(8, 0.03), PES(8, 0.03), SingleNoise(8, 0.03)]
)
def test_meta_training_lowers_the_validation_loss(gradient):
    optimizee = Quadratic(2, "uniform", init_std=1.0).double()
    rule = CoordinatewiseLSTM(8, 1, output_scale=0.1).double()
    plan = Plan(horizon=20, truncation=10, episodes=80, problems=16, validation_problems=32)
    validate = Validator(optimizee, 32, 0, 20)
    before = validate(rule)
    meta_train(rule, plan, optimizee, gradient=gradient)
    assert validate(rule) < before / 3


def test_the_zero_gradient_update_is_a_constant_bias(mlp, scripted):
    rule = scripted(lambda seen: torch.full_like(seen.grad, -0.25))
    assert zero_gradient_update(mlp, rule, 7) == pytest.approx(0.25)
    lstm = CoordinatewiseLSTM(3, output_scale=0.1).double()
    with torch.no_grad():
        lstm.readout.zero_()
        lstm.readout_bias.fill_(3.0)
    assert zero_gradient_update(mlp, lstm, 7) == pytest.approx(0.3)


def test_a_rule_that_follows_gradients_has_no_zero_gradient_update(mlp, scripted):
    assert zero_gradient_update(mlp, scripted(lambda seen: -seen.grad), 7) == 0


class Remembered(Memory):
    """Keeps the latest state in this process."""

    def __init__(self):
        self.state = None

    def recall(self):
        return self.state

    def keep(self, state):
        self.state = copy.deepcopy(state())


@pytest.mark.parametrize("gradient", [ES(2), PES(2), SingleNoise(2)])
def test_training_by_particles_goes_on_as_if_it_had_not_been_stopped(gradient):
    whole, parts, memory = small_rule(), small_rule(), Remembered()
    meta_train(whole, gradient=gradient)
    meta_train(parts, dataclasses.replace(PLAN, episodes=2), gradient=gradient, memory=memory)
    resumed = small_rule(seed=1)
    progress, reports = meta_train(resumed, gradient=gradient, memory=memory)
    assert len(reports) == 2 and progress.episode == 4
    assert same(resumed.state_dict(), whole.state_dict())


class Stopping(Memory):
    """Keeps what `memory` keeps, and is interrupted after an episode."""

    def __init__(self, memory, episode):
        self.memory, self.episode = memory, episode

    def keep(self, state):
        self.memory.keep(state)
        if self.memory.state["progress"]["episode"] == self.episode:
            raise KeyboardInterrupt


def untimed(progress):
    """Everything of a progress but its seconds; tensors as lists."""
    scores = [(episode, loss) for episode, _, loss in progress.validations]
    known = vars(progress) | {"seconds": 0, "validations": scores}
    return known | {"best": {name: x.tolist() for name, x in known["best"].items()}}


@pytest.mark.parametrize(("meaning", "compared"), [("one", True), ("another", False), ("", False)])
def test_scores_that_mean_something_else_are_not_compared(meaning, compared):
    memory = Remembered()
    half = dataclasses.replace(PLAN, episodes=2, validation_every=1)
    kept, _ = meta_train(small_rule(), half, memory=memory, meaning="one")
    memory.state["progress"]["best_validation"] = -1e9  # nothing beats it
    whole = dataclasses.replace(half, episodes=4)
    progress, _ = meta_train(small_rule(), whole, memory=memory, meaning=meaning)
    assert (progress.best_episode == kept.best_episode) == compared
    assert (progress.best_validation == -1e9) == compared
    told = [episode for episode, _, _ in progress.validations]
    assert told == ([1, 2, 3, 4] if compared else [3, 4])


@pytest.mark.parametrize("episodes", [2, 3])
def test_training_that_is_over_before_its_first_validation_is_validated_where_it_stands(episodes):
    long = dataclasses.replace(PLAN, episodes=20, validation_every=10)
    memory, resumed = Remembered(), small_rule(seed=1)
    with pytest.raises(KeyboardInterrupt):
        meta_train(small_rule(), long, memory=Stopping(memory, 3))
    short = dataclasses.replace(long, episodes=episodes)
    progress, reports = meta_train(resumed, short, memory=memory)
    assert same(resumed.state_dict(), memory.state["rule"]) and progress.episode == 3
    assert progress.best_episode == 3 and math.isfinite(progress.best_validation)
    assert [set(told) for _, told, _ in reports] == [{"validation_final", "zero_gradient_update"}]
    again, nothing = meta_train(small_rule(seed=1), short, memory=memory)  # it is kept
    assert nothing == [] and untimed(again) == untimed(progress)


def test_training_that_is_over_has_a_score_of_the_meaning_that_it_ends_with():
    memory, rule = Remembered(), small_rule(seed=1)
    first, _ = meta_train(small_rule(), memory=memory, meaning="one")
    average = dataclasses.replace(PLAN, validation_criterion="average")
    progress, reports = meta_train(rule, average, memory=memory, meaning="another")
    assert len(reports) == 1 and same(rule.state_dict(), memory.state["rule"])
    optimizee = Quadratic(2, "gaussian", init_std=1.0).double()
    assert progress.best_validation == Validator(optimizee, 4, 0, 6, "average")(rule)
    assert [(e, x) for e, _, x in progress.validations] == [(4, progress.best_validation)]
    assert progress.best_validation != first.best_validation


# --- horizons ---------------------------------------------------------------------------------

STAGES = Stages([{"horizon": 3, "episodes": 1}, {"horizon": 9, "episodes": 2}])
CURRICULA = {"stages": STAGES, "log_uniform": LogUniform(3, 12), "growing": Growing([3, 6, 12], 1)}


def horizons_of(reports):
    """The horizon of every episode."""
    return [int(metrics["horizon"]) for _, metrics, _ in reports]


def test_a_fixed_horizon_is_the_plans():
    plain, fixed = small_rule(), small_rule()
    meta_train(plain)
    _, reports = meta_train(fixed, options=Options(horizons=Fixed(6)))
    assert same(plain.state_dict(), fixed.state_dict())
    assert horizons_of(reports) == [6] * 4


@pytest.mark.parametrize("horizons", CURRICULA.values(), ids=CURRICULA)
def test_a_curriculum_is_what_is_trained_on(horizons):
    plan = dataclasses.replace(PLAN, episodes=8, validation_every=1)
    progress, reports = meta_train(
        small_rule(), plan, meta_optimizer=sgd(0.0), options=Options(horizons=horizons)
    )
    lengths = horizons_of(reports)
    assert len(set(lengths)) > 1 and set(lengths) <= {3, 6, 9, 12}
    assert progress.inner_steps == plan.problems * sum(lengths)
    assert progress.meta_steps == sum(lengths) // plan.truncation
    if horizons is STAGES:
        assert lengths == [3] + [9] * 7


def test_the_horizon_grows_where_validation_does_not_get_better_and_then_training_stops():
    # Without meta-learning no validation is better than the first.
    plan = dataclasses.replace(PLAN, episodes=50, validation_every=2, patience=3)
    options = Options(horizons=Growing([3, 6, 12], 2))
    progress, reports = meta_train(small_rule(), plan, meta_optimizer=sgd(0.0), options=options)
    assert horizons_of(reports) == [3] * 6 + [6] * 4 + [12] * 6
    assert progress.stopped_early and progress.stage == 2 and progress.best_episode == 2


def test_the_horizon_does_not_grow_while_validation_gets_better():
    rule, scores = small_rule(), iter(range(100, 0, -1))
    optimizee = Quadratic(2, "gaussian", init_std=1.0).double()
    optimizee.metrics = lambda theta, problem: {"train_loss": torch.full((4,), float(next(scores)))}
    plan = dataclasses.replace(PLAN, episodes=12, validation_every=1)
    _, reports = meta_train(rule, plan, optimizee, options=Options(horizons=Growing([3, 6], 1)))
    assert horizons_of(reports) == [3] * 12


@pytest.mark.parametrize(("validation_horizon", "steps"), [(None, 12), (7, 7)])
def test_validation_is_as_long_as_the_longest_training_or_as_is_said(validation_horizon, steps):
    optimizee, rule = Quadratic(2, "gaussian", init_std=1.0).double(), small_rule()
    plan = dataclasses.replace(PLAN, validation_horizon=validation_horizon)
    options = Options(horizons=LogUniform(3, 12))
    progress, _ = meta_train(rule, plan, optimizee, options=options)
    assert Validator(optimizee, 4, 0, steps)(rule) == progress.best_validation


def test_the_schedule_ends_with_the_episodes_whatever_their_length():
    schedule, options = Cosine(final=0.0), Options(horizons=STAGES)
    _, reports = meta_train(
        small_rule(), schedule=schedule, meta_optimizer=sgd(0.3), options=options
    )
    last = [(0 + 0) / 4, (1 + 2 / 3) / 4, (2 + 2 / 3) / 4, (3 + 2 / 3) / 4]
    rates = [metrics["meta_lr"] for _, metrics, _ in reports]
    assert rates == pytest.approx([0.3 * schedule(progress) for progress in last])


@pytest.mark.parametrize(
    ("horizons", "plan", "message"),
    [
        (Fixed(7), PLAN, "truncation=3 must divide every horizon of training.horizons, got 7"),
        (LogUniform(4, 6), PLAN, "got 4"),
        (Growing([3, 5]), PLAN, "got 5"),
        (
            Growing([3, 6], 2),
            dataclasses.replace(PLAN, patience=2),
            "training.patience=2 .* must be > training.horizons.patience=2",
        ),
    ],
)
def test_horizons_that_do_not_fit_the_plan_are_refused(horizons, plan, message):
    with pytest.raises(ValueError, match=message):
        meta_train(small_rule(), plan, options=Options(horizons=horizons))


def test_weights_must_fit_every_horizon():
    loss, options = MetaLoss(Final("horizon"), Plain()), Options(horizons=Growing([3, 6]))
    with pytest.raises(ValueError, match="truncation=3, horizon=6"):
        meta_train(small_rule(), meta_loss=loss, options=options)


# --- imitation --------------------------------------------------------------------------------


def teacher(lr=0.3):
    """Gradient descent."""
    return Baseline(torch.optim.SGD, lr)


def test_a_rule_becomes_its_teacher(scripted):
    rule = scripted(lambda seen: -seen.grad, gain=0.01)
    plan = dataclasses.replace(PLAN, episodes=200, validation_every=100)
    options = Options(imitation=Imitation(teacher(), probability=1.0))
    optimizee = Quadratic(2, "uniform", init_std=1.0).double()
    meta_train(rule, plan, optimizee, sgd(0.02), options=options)
    assert rule.gain.item() == pytest.approx(0.3, rel=1e-3)


def test_a_rule_that_cannot_imitate_is_refused_before_training():
    reports, options = [], Options(imitation=Imitation(teacher(), probability=0.01))
    with pytest.raises(ValueError, match=r"blow_up=1.0 must be null to imitate"):
        meta_train(
            Safeguarded(small_rule(), blow_up=1.0),
            options=options,
            report=lambda *told: reports.append(told),
        )
    assert reports == []


def test_imitating_episodes_have_a_loss_of_their_own_and_the_others_are_as_without():
    plan = dataclasses.replace(PLAN, episodes=12)
    imitation = Imitation(teacher(), probability=0.5)
    progress, reports = meta_train(
        small_rule(), plan, meta_optimizer=sgd(0.0), options=Options(imitation=imitation)
    )
    _, plain = meta_train(small_rule(), plan, meta_optimizer=sgd(0.0))
    names = [
        {n for n in told if n.endswith("n_loss") or n == "meta_loss"} for _, told, _ in reports
    ]
    taught = [imitation.weight_of(e, Seed("train", 0)) > 0 for e in range(12)]
    assert any(taught) and not all(taught)
    assert names == [{"imitation_loss"} if one else {"meta_loss"} for one in taught]
    for one, (_, told, _), (_, without, _) in zip(taught, reports, plain, strict=True):
        assert one or told["meta_gradient_norm"] == without["meta_gradient_norm"]
    assert progress.inner_steps == 12 * 6 * 3


def test_a_mixed_episode_is_the_weighted_sum_of_both():
    def step(options):
        rule = small_rule()
        plan = dataclasses.replace(PLAN, episodes=1, horizon=3, clip=1e9)
        progress, reports = meta_train(rule, plan, meta_optimizer=sgd(1.0), options=options)
        moved = parameters_to_vector(rule.parameters()) - parameters_to_vector(
            small_rule().parameters()
        )
        return moved, reports[0][1], progress

    own, told_own, _ = step(Options())
    taught, told, _ = step(Options(imitation=Imitation(teacher(), 1.0)))
    mixed, told_both, progress = step(Options(imitation=Imitation(teacher(), 1.0, weight=0.25)))
    torch.testing.assert_close(mixed, 0.75 * own + 0.25 * taught, rtol=1e-9, atol=1e-12)
    assert told_both["meta_loss"] == told_own["meta_loss"]
    assert told_both["imitation_loss"] == told["imitation_loss"]
    assert progress.inner_steps == 2 * 3 * 3  # on both trajectories


def test_a_teacher_that_is_lost_is_skipped_and_counted(separable, scripted):
    lost = scripted(lambda seen: seen.grad * math.nan)
    plan = dataclasses.replace(PLAN, episodes=5)
    options = Options(imitation=Imitation(lost, probability=0.5))
    rule = scripted(lambda seen: -0.1 * seen.grad)
    progress, _ = meta_train(rule, plan, separable(), options=options)
    taught = [options.imitation.weight_of(e, Seed("train", 0)) > 0 for e in range(5)]
    assert progress.skipped == sum(taught) > 0
    assert rule.gain.isfinite()


# --- time -------------------------------------------------------------------------------------


@pytest.fixture
def slow(monkeypatch):
    """A clock by which every reading is a second later than the one before: 3 per episode."""
    readings = itertools.count()
    clock = types.SimpleNamespace(perf_counter=lambda: float(next(readings)))
    monkeypatch.setattr(train_module, "time", clock)


LONG = dataclasses.replace(PLAN, episodes=20, validation_every=4)


@pytest.mark.usefixtures("slow")
def test_the_episode_that_passes_the_seconds_is_validated_and_the_last():
    whole = meta_train(small_rule(), LONG)[1]
    progress, reports = meta_train(small_rule(), dataclasses.replace(LONG, max_seconds=13.0))
    last = progress.episode
    assert 1 < last < 20 and last % 4 and progress.stopped_early
    assert progress.seconds >= 13 > reports[-2][0].seconds
    assert "validation_final" in reports[-1][1] and "validation_final" not in reports[-2][1]
    assert all(same(one[2], other[2]) for one, other in zip(reports, whole, strict=False))


@pytest.mark.usefixtures("slow")
def test_training_that_time_has_ended_is_over_until_it_is_given_more():
    memory, limited = Remembered(), dataclasses.replace(LONG, max_seconds=13.0)
    first, _ = meta_train(small_rule(), limited, memory=memory)
    again, reports = meta_train(small_rule(), limited, memory=memory)
    assert reports == [] and untimed(again) == untimed(first)
    longer, _ = meta_train(small_rule(), dataclasses.replace(LONG, max_seconds=20.0), memory=memory)
    assert first.episode < longer.episode < 20
    assert meta_train(small_rule(), LONG, memory=memory)[0].episode == 20


@pytest.mark.usefixtures("slow")
def test_training_whose_time_was_shortened_ends_with_a_validation():
    memory = Remembered()
    with pytest.raises(KeyboardInterrupt):
        meta_train(small_rule(), LONG, memory=Stopping(memory, 6))
    limited = dataclasses.replace(LONG, max_seconds=1.0)
    progress, reports = meta_train(small_rule(), limited, memory=memory)
    assert progress.episode == 7 and "validation_final" in reports[-1][1]


@pytest.mark.usefixtures("slow")
def test_where_the_clock_ended_training_is_kept_for_sure():
    class Forgetful(Remembered):
        def keep(self, state):
            pass

        def keep_now(self, state):
            super().keep(state)

    memory, limited = Forgetful(), dataclasses.replace(LONG, max_seconds=13.0)
    progress, _ = meta_train(small_rule(), limited, memory=memory)
    assert memory.state["progress"]["episode"] == progress.episode


# --- the meta-optimizer -----------------------------------------------------------------------


def test_meta_parameters_decay_with_adamw(separable, scripted):
    # Without a gradient nothing but the decay moves them: (1 - lr * decay) per meta-step.
    rule = scripted(lambda seen: 0 * seen.grad, gain=2.0)
    adamw = functools.partial(torch.optim.AdamW, lr=0.1, weight_decay=0.5)
    progress, reports = meta_train(rule, optimizee=separable(), meta_optimizer=adamw)
    kept = [state["gain"].item() for _, _, state in reports]
    assert kept == pytest.approx([2 * 0.95 ** (2 * k) for k in (1, 2, 3, 4)], rel=1e-6)


# --- going on ---------------------------------------------------------------------------------

GOING_ON = {name: Options(horizons=horizons) for name, horizons in CURRICULA.items()}
GOING_ON["everything"] = Options(
    Mixture({n: Scaled(Quadratic(n, "gaussian", init_std=1.0)).double() for n in (1, 3)}),
    Growing([3, 6, 12], 1),
    Imitation(teacher(), probability=0.5, weight=0.5),
)


@pytest.mark.parametrize("name", GOING_ON)
def test_training_that_was_stopped_after_any_episode_ends_as_if_it_had_not_been(name):
    plan = dataclasses.replace(PLAN, episodes=7, validation_every=1)
    settings = {
        "plan": plan,
        "meta_optimizer": functools.partial(torch.optim.Adam, lr=0.1),
        "options": GOING_ON[name],
    }
    whole = small_rule()
    expected, reports = meta_train(whole, **settings)
    for stop in range(1, plan.episodes):
        memory, again = Remembered(), small_rule(seed=1)
        with pytest.raises(KeyboardInterrupt):
            meta_train(small_rule(), memory=Stopping(memory, stop), **settings)
        progress, rest = meta_train(again, memory=memory, **settings)
        assert same(again.state_dict(), whole.state_dict())
        assert untimed(progress) == untimed(expected)
        assert [told for _, told, _ in rest] == [told for _, told, _ in reports[stop:]]
