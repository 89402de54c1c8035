"""L-BFGS on many rows against torch.optim.LBFGS on each."""

import math

import pytest
import torch

from l2l_exp.evaluation import evaluate, measure_step
from l2l_exp.optimizees.functions import Landscape
from l2l_exp.optimizees.seeding import Seed
from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizees.spectrum import Spectrum
from l2l_exp.optimizers.base import Observation
from l2l_exp.optimizers.baseline import Baseline
from l2l_exp.optimizers.lbfgs import LBFGS
from l2l_exp.tuning import tune
from l2l_exp.unroll import Episode, unroll

SEED, PROBLEMS = Seed("test", 0), tuple(range(6))


def torchs_path(optimizee, index, steps, lr, **settings):
    """Theta of one problem after each step of torch.optim.LBFGS."""
    problem = optimizee.sample([index], SEED)
    data = {name: x[0] for name, x in problem.data.items()}
    theta = optimizee.init([index], SEED).squeeze(0).requires_grad_()
    optimizer = torch.optim.LBFGS([theta], lr, max_iter=1, **settings)

    def closure():
        optimizer.zero_grad()
        loss = optimizee.loss(theta, data)
        loss.backward()
        return loss

    path = []
    for _ in range(steps):
        optimizer.step(closure)
        path.append(theta.detach().clone())
    return torch.stack(path)


def our_paths(optimizee, rule, steps):
    """Theta (steps, B, N) after each step."""
    episode = Episode(optimizee, optimizee.sample(PROBLEMS, SEED), steps)
    return torch.stack([c.theta for c in unroll(episode, rule, episode.start(rule), steps)])


@pytest.mark.parametrize(
    ("optimizee", "lr"),
    [
        (Spectrum(5), 1.0),
        (Landscape("rosenbrock", 4, spread=0.5), 0.3),  # curvature of both signs
        (Landscape("rastrigin", 3), 0.1),
    ],
    ids=["spectrum", "rosenbrock", "rastrigin"],
)
def test_every_row_is_torchs_also_when_its_memory_is_full(optimizee, lr):
    ours = our_paths(optimizee.double(), LBFGS(lr, history_size=4), 15)
    settings = {"history_size": 4, "tolerance_grad": 0, "tolerance_change": 0}
    for index in PROBLEMS:
        theirs = torchs_path(optimizee, index, 15, lr, **settings)
        torch.testing.assert_close(ours[:, index], theirs, rtol=1e-7, atol=1e-9)


def test_tolerances_are_torchs_and_end_a_problem():
    optimizee = Spectrum(4, 5.0).double()
    ours = our_paths(optimizee, LBFGS(1.0, tolerance_grad=1e-2, tolerance_change=1e-4), 40)
    for index in PROBLEMS:
        settings = {"history_size": 10, "tolerance_grad": 1e-2, "tolerance_change": 1e-4}
        theirs = torchs_path(optimizee, index, 40, 1.0, **settings)
        torch.testing.assert_close(ours[:, index], theirs, rtol=1e-9, atol=1e-10)
    assert torch.equal(ours[-1], ours[-2])
    without = our_paths(optimizee, LBFGS(1.0), 40)
    assert not torch.equal(without[20], ours[20])


def test_a_row_that_diverges_spoils_no_other():
    rule, spec = LBFGS(0.5, history_size=3), ParamSpec.of({"theta": ((2,), "free")})
    rng = torch.Generator().manual_seed(0)
    grads = torch.randn(6, 3, 2, generator=rng, dtype=torch.float64)
    spoilt = grads.clone()
    spoilt[2, 0], spoilt[3, 0], spoilt[4, 0] = math.nan, math.inf, 1e200
    updates = []
    for seen in (grads, spoilt):
        theta = torch.zeros(3, 2).double()
        state, steps = rule.init_state(theta, spec), []
        for step, grad in enumerate(seen):
            observation = Observation(grad, theta, grad.sum(1), step, 6, spec)
            update, state = rule.step(observation, state)
            steps.append(update)
        updates.append(torch.stack(steps))
    assert torch.equal(updates[0][:, 1:], updates[1][:, 1:])
    assert not updates[1][2:, 0].isfinite().all()


def test_quadratics_are_solved():
    (record,) = evaluate(Spectrum().double(), LBFGS(1.0), PROBLEMS, SEED, 120)
    assert record.metrics["suboptimality"][-1].max() < 1e-11
    assert set(record.status) == {"ok"}


def test_it_is_tuned_like_the_other_baselines():
    rule = LBFGS(search=(0.3, 1.0), history_size=5)
    tuned = tune(Spectrum(3).double(), rule, PROBLEMS, Seed("validation", 0), 10)
    assert len(tuned.scores["final"]) >= 3
    once = rule.with_rates([tuned.rates["final"]])
    assert type(once) is LBFGS and once.history_size == 5 and not once.needs_tuning


def test_its_state_is_two_vectors_for_each_pair_and_two_more():
    cost = measure_step(Spectrum(50).double(), LBFGS(0.1, history_size=3), repeats=2)
    per_problem = (2 + 3) / 50  # started, scale, and rho of three pairs
    assert cost.state_bytes_per_coordinate == pytest.approx(8 * (2 * 3 + 2 + per_problem))


def test_torchs_own_step_is_timed_and_with_a_full_memory():
    theta = torch.ones(1, 5).double()
    spec = ParamSpec.of({"theta": ((5,), "free")})
    seen = Observation(3 * theta, theta, theta.sum(1), 0, 10, spec)
    step = LBFGS(0.1, history_size=4).native_step(seen)
    for _ in range(3):
        step()
    optimizer = step.__closure__[1].cell_contents
    assert isinstance(optimizer, torch.optim.LBFGS)
    (state,) = optimizer.state.values()
    assert len(state["old_dirs"]) == 4 and state["n_iter"] == 4
    assert torch.equal(theta, torch.ones(1, 5).double())
    assert isinstance(LBFGS(0.1), Baseline)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"history_size": 0}, "history_size=0 must be >= 1"),
        ({"tolerance_grad": -1.0}, "tolerance_grad=-1.0 must be >= 0"),
        ({"tolerance_change": -1.0}, "tolerance_change=-1.0 must be >= 0"),
        ({"lr": 0.0}, "lr=0.0 must be > 0"),
        ({"search": (1.0, 0.1)}, r"search=\[1.0, 0.1\] must be two rates"),
    ],
)
def test_impossible_values_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        LBFGS(**settings)


def test_an_untuned_one_says_so_and_rates_must_share_the_rows():
    theta = torch.zeros(3, 2)
    spec = ParamSpec.of({"theta": ((2,), "free")})
    seen = Observation(theta, theta, theta.sum(1), 0, 1, spec)
    for rule, message in ((LBFGS(), "still to be tuned"), (LBFGS([0.1, 0.2]), "3 rows cannot be")):
        with pytest.raises(ValueError, match=message):
            rule.step(seen, rule.init_state(theta, spec))
    with pytest.raises(ValueError, match="one learning rate"):
        LBFGS([0.1, 0.2]).take(LBFGS().init_state(theta, spec), torch.tensor([0]))
