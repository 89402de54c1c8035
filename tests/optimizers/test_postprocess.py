"""Steps of a rule, normalised, bounded, decayed: against formulas."""

import math

import pytest
import torch

from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers.base import Observation
from l2l_exp.optimizers.baseline import Baseline
from l2l_exp.optimizers.decay import factor
from l2l_exp.optimizers.lstm import CoordinatewiseLSTM
from l2l_exp.optimizers.postprocess import Postprocessed

SPEC = ParamSpec.of({"w": ((2, 2), "fc"), "b": ((3,), "bias")})
GRAD = torch.tensor([[1.0, -2.0, 3.0, 0.0, 0.0, 0.0, 0.0], [0.1, 0.1, 0.1, 0.1, 5.0, -5.0, 5.0]])
THETA = torch.linspace(-1, 1, 14).view(2, 7)


def update(step=0, horizon=10, **settings):
    """The update after SGD at a learning rate of 1: minus the gradient, processed."""
    rule = Postprocessed(Baseline(torch.optim.SGD, 1.0), **settings)
    seen = Observation(GRAD, THETA, torch.ones(2), step, horizon, SPEC)
    return rule.step(seen, rule.init_state(THETA, SPEC))[0]


def test_with_the_defaults_it_is_the_rule_itself():
    rule = CoordinatewiseLSTM(readout_std=0.5)
    seen = Observation(GRAD, THETA, torch.ones(2), 0, 10, SPEC)
    alone = rule.step(seen, rule.init_state(THETA, SPEC))[0]
    wrapped = Postprocessed(rule)
    assert torch.equal(wrapped.step(seen, wrapped.init_state(THETA, SPEC))[0], alone)
    assert wrapped.coupling == "none"


def test_normalised_tensors_have_a_root_mean_square_of_one_and_zeros_stay():
    ours = update(normalise=True)
    for part in (ours[0, :4], ours[1, :4], ours[1, 4:]):
        assert part.square().mean().item() == pytest.approx(1, rel=1e-6)
    assert ours[0, 4:].count_nonzero() == 0
    torch.testing.assert_close(ours[0, :4], -GRAD[0, :4] / GRAD[0, :4].square().mean().sqrt())


def test_the_bound_holds_and_small_steps_pass():
    torch.testing.assert_close(update(bound=2.0), -2 * torch.tanh(GRAD / 2))


@pytest.mark.parametrize("decay", ["constant", "linear", "cosine"])
def test_the_learning_rate_falls_and_weight_decay_with_it(decay):
    left = {"constant": 1.0, "linear": 0.4 * 0.9 + 0.1, "cosine": 0.1 + 0.9 * 0.3454915028}[decay]
    ours = update(6, lr=0.5, decay=decay, final=0.1, weight_decay=0.2)
    torch.testing.assert_close(ours, 0.5 * left * (-GRAD - 0.2 * THETA))


def test_decay_begins_at_one_and_ends_at_the_final_factor():
    for decay in ("linear", "cosine"):
        factors = [factor(decay, step, 20, 0.25) for step in range(23)]
        assert factors[0] == 1 and factors[20:] == [0.25] * 3
        assert factors[10] == pytest.approx(0.625) and factors == sorted(factors, reverse=True)


def test_the_wrapped_rule_is_told_of_what_became_of_its_update():
    class Listening(CoordinatewiseLSTM):
        def told(self, state, update):
            """Keep it in a place where the test finds it."""
            self.heard = update
            return state

    rule = Listening(readout_std=0.5)
    seen = Observation(GRAD, THETA, torch.ones(2), 5, 10, SPEC)
    wrapped = Postprocessed(rule, lr=2.0, decay="linear")
    proposed = wrapped.step(seen, wrapped.init_state(THETA, SPEC))[0]
    assert torch.equal(rule.heard, proposed) and proposed.count_nonzero() > 0


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"bound": 0.0}, "bound=0.0 must be > 0"),
        ({"lr": 0.0}, "lr=0.0 must be > 0"),
        ({"final": 1.5}, "final=1.5 must be in"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0 must be >= 0"),
        ({"decay": "step"}, "decay='step' must be one of constant, linear, cosine"),
        ({"lr": math.nan}, "lr=nan must be > 0"),
    ],
)
def test_impossible_values_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        Postprocessed(CoordinatewiseLSTM(), **wrong)


@pytest.mark.parametrize(("lr", "given"), [("tuned", "tuned"), ([0.1, 0.2], r"\[0.1, 0.2\]")])
def test_a_baseline_that_is_not_at_one_rate_is_refused(lr, given):
    with pytest.raises(ValueError, match=f"rule.lr={given} must be one number"):
        Postprocessed(Baseline(torch.optim.SGD, lr))
