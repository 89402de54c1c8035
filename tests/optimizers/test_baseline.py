"""Baselines against plain loops over torch.optim."""

import pytest
import torch

from l2l_exp.evaluation import evaluate
from l2l_exp.optimizees.repeated import Repeated
from l2l_exp.optimizees.seeding import Seed
from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers.base import Observation
from l2l_exp.optimizers.baseline import Baseline
from l2l_exp.unroll import Episode, unroll


class Cosine:
    """A torch optimizer with torch's own cosine schedule, called as one optimizer."""

    def __init__(self, optimizer, steps):
        self.optimizer = optimizer
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        self.zero_grad = optimizer.zero_grad

    def step(self, closure):
        """One step, after which the learning rate falls."""
        self.optimizer.step(closure)
        self.schedule.step()


SEED, PROBLEMS, STEPS = Seed("test", 0), (0, 4), 60

NATIVE = {
    "sgd": lambda p, lr, steps: torch.optim.SGD(p, lr=lr),
    "momentum": lambda p, lr, steps: torch.optim.SGD(p, lr=lr, momentum=0.9),
    "nag": lambda p, lr, steps: torch.optim.SGD(p, lr=lr, momentum=0.9, nesterov=True),
    "rmsprop": lambda p, lr, steps: torch.optim.RMSprop(p, lr=lr),
    "adam": lambda p, lr, steps: torch.optim.Adam(p, lr=lr),
    "adam_cosine": lambda p, lr, steps: Cosine(torch.optim.Adam(p, lr=lr), steps),
    "lbfgs": lambda p, lr, steps: torch.optim.LBFGS(
        p, lr, max_iter=1, tolerance_grad=0, tolerance_change=0, history_size=3
    ),
}


@pytest.fixture
def pair(request, baseline):
    """A baseline of the table, and what makes the torch optimizer that it should equal."""
    return baseline, NATIVE[request.node.callspec.params["baseline"]]


def torch_loop(optimizee, make, lr, steps):
    """Theta after each step of plain torch loops, one for each problem."""
    paths = []
    for index in PROBLEMS:
        problem = optimizee.sample([index], SEED)
        theta = optimizee.init([index], SEED).squeeze(0).requires_grad_()
        optimizer, path = make([theta], lr, steps), []
        for step in range(steps):
            data = {name: x[0] for name, x in optimizee.minibatch(problem, step).items()}

            def closure(theta=theta, data=data, optimizer=optimizer):
                optimizer.zero_grad()
                loss = optimizee.loss(theta, data)
                loss.backward()
                return loss

            optimizer.step(closure)
            path.append(theta.detach().clone())
        paths.append(torch.stack(path))
    return torch.stack(paths, 1)


def our_loop(optimizee, rule, steps):
    """Theta after each step of an unroll."""
    many = Repeated(optimizee, len(rule.rates))
    episode = Episode(many, many.sample(PROBLEMS, SEED), steps)
    return [carry.theta for carry in unroll(episode, rule, episode.start(rule), steps)]


def test_small_steps_equal_a_torch_loop_to_the_last_bit_at_every_rate(pair, separable):
    # theta' - theta is exact where no coordinate more than halves or doubles (Sterbenz's lemma)
    rule, make = pair
    rates = [1e-4, 1e-3, 3e-3]
    ours = our_loop(separable((0.5, 1.0, 0.25)), rule.with_rates(rates), STEPS)
    for g, lr in enumerate(rates):
        theirs = torch_loop(separable((0.5, 1.0, 0.25)), make, lr, STEPS)
        for a, b in zip(ours, theirs, strict=True):
            if rule.coupling == "none":
                assert torch.equal(a[2 * g : 2 * g + 2], b)
            else:  # sums over coordinates, in another order than torch's
                torch.testing.assert_close(a[2 * g : 2 * g + 2], b, rtol=1e-12, atol=1e-12)
        assert (theirs[-1] - theirs[0]).abs().min() > 1e-3  # it does move


def test_a_network_equals_a_torch_loop_to_twelve_digits(pair, mlp):
    rule, make = pair
    rates = [0.02, 0.1]
    ours = our_loop(mlp, rule.with_rates(rates), 20)
    for g, lr in enumerate(rates):
        for a, b in zip(ours, torch_loop(mlp, make, lr, 20), strict=True):
            torch.testing.assert_close(a[2 * g : 2 * g + 2], b, rtol=1e-12, atol=1e-12)


def test_each_rate_of_a_grid_is_evaluated_as_if_it_were_alone(pair, mlp):
    rule, _ = pair
    rates = [0.01, 0.03, 0.1]
    together = evaluate(mlp, rule.with_rates(rates), PROBLEMS, SEED, 10)
    assert [record.lr for record in together] == rates
    for record in together:
        (alone,) = evaluate(mlp, rule.with_rates([record.lr]), PROBLEMS, SEED, 10)
        torch.testing.assert_close(record.loss, alone.loss, rtol=1e-12, atol=0)
        torch.testing.assert_close(record.running_mean, alone.running_mean, rtol=1e-12, atol=0)
        for name, values in record.metrics.items():
            torch.testing.assert_close(values, alone.metrics[name], rtol=1e-12, atol=0)


def test_rows_that_the_rates_cannot_share_are_refused(separable):
    optimizee, rule = separable(), Baseline(torch.optim.SGD, [0.1, 0.2])
    episode = Episode(optimizee, optimizee.sample([0, 1, 2], SEED), 1)
    with pytest.raises(ValueError, match="3 rows cannot be shared by 2 learning rates"):
        next(unroll(episode, rule, episode.start(rule), 1))


def test_a_state_of_several_rates_cannot_be_cut():
    rule = Baseline(torch.optim.SGD, [0.1, 0.2])
    with pytest.raises(ValueError, match="one learning rate"):
        rule.take(rule.init_state(torch.zeros(2, 1), None), torch.tensor([0]))


def test_an_untuned_baseline_says_so_and_with_rates_tunes_it():
    rule = Baseline(torch.optim.Adam, betas=(0.5, 0.9))
    assert rule.needs_tuning
    with pytest.raises(ValueError, match="still to be tuned"):
        rule.native([torch.zeros(1)])
    tuned = rule.with_rates([0.1])
    assert not tuned.needs_tuning and tuned.rates == (0.1,) and rule.needs_tuning
    assert tuned.native([torch.zeros(1)]).param_groups[0]["betas"] == (0.5, 0.9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0.0}, "lr=0.0 must be > 0"),
        ({"lr": [0.1, -1.0]}, r"lr=\[0.1, -1.0\] must be > 0"),
        ({"lr": "best"}, "lr='best' must be a number > 0, or 'tuned'"),
        ({"search": (1.0, 0.1)}, r"search=\[1.0, 0.1\] must be two rates"),
        ({"search": (0.0, 0.1)}, r"search=\[0.0, 0.1\] must be two rates"),
    ],
)
def test_impossible_rates_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Baseline(torch.optim.SGD, **settings)


def test_of_a_shared_step_count_the_highest_is_kept_when_states_are_mixed():
    rule, theta = Baseline(torch.optim.Adam, 0.1), torch.ones(2, 3)
    spec = ParamSpec.of({"x": ((3,), "free")})
    early = rule.init_state(theta, spec)
    seen = Observation(theta, theta, theta.sum(1), 0, 2, spec)
    _, late = rule.step(seen, early)
    where = torch.tensor([True, False])
    for one, other, kept in ((early, late, 1), (late, early, 0)):
        (slots,) = rule.select(where, one, other).slots
        assert slots["step"] == 1
        assert torch.equal(slots["exp_avg"][kept], late.slots[0]["exp_avg"][kept])
        assert not slots["exp_avg"][1 - kept].any()
