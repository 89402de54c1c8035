"""The width rule: which tensors it scales, by how much, and that it is the rule otherwise."""

import math

import pytest
import torch

from l2l_exp.optimizees.mlp import ImageMLP
from l2l_exp.optimizees.seeding import Seed
from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers.base import LearnedOptimizer, Observation
from l2l_exp.optimizers.baseline import Baseline
from l2l_exp.optimizers.by_hand import BFGSByHand
from l2l_exp.optimizers.encoding import LogSign
from l2l_exp.optimizers.gac import GAC
from l2l_exp.optimizers.lstm import CoordinatewiseLSTM
from l2l_exp.optimizers.ntm_bfgs import NTMBFGS
from l2l_exp.optimizers.safeguard import Safeguarded
from l2l_exp.optimizers.width import WidthScaled, hidden_weights
from l2l_exp.unroll import Episode

SPEC = ParamSpec.of(
    {
        "conv0": ((4, 3, 3, 3), "conv"),
        "norm0": ((4,), "norm"),
        "conv1": ((9, 4, 3, 3), "conv"),
        "fc0": ((36, 25), "fc"),
        "bias0": ((25,), "bias"),
        "free": ((5, 5), "free"),
        "vector": ((7,), "fc"),
        "fc1": ((25, 10), "fc"),
    }
)
FACTORS = {"conv1": 12 / math.sqrt(9 * 4), "fc0": 12 / 30}
RULES = {
    "none": lambda: CoordinatewiseLSTM(3, 1, LogSign(), readout_std=0.5),
    "problem": lambda: GAC(3, 1, 1, readout_std=0.5),
    "tensor": lambda: GAC(3, 1, 1, "tensor", readout_std=0.5),
    "baseline": lambda: Baseline(torch.optim.Adam, 0.1),
}


def seen(step=0):
    """Something to see of four problems."""
    rng = torch.Generator().manual_seed(step)
    grad, theta = (torch.randn(4, SPEC.size, generator=rng, dtype=torch.float64) for _ in range(2))
    return Observation(grad, theta, theta.square().sum(1), step, 10, SPEC)


def expected_factors():
    """(N,) by the table above."""
    parts = [torch.full((t.size,), FACTORS.get(t.name, 1.0)) for t in SPEC.tensors]
    return torch.cat(parts).double()


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_it_is_the_rule_times_the_factors(rule):
    inner = rule().double()
    scaled = WidthScaled(inner, 12.0)
    assert scaled.coupling == inner.coupling
    states = [one.init_state(seen().theta, SPEC) for one in (inner, scaled)]
    for step in range(3):
        plain, states[0] = inner.step(seen(step), states[0])
        update, states[1] = scaled.step(seen(step), states[1])
        torch.testing.assert_close(update, plain * expected_factors(), rtol=1e-7, atol=0)


@pytest.mark.parametrize("rule", ["none", "problem"])
def test_a_part_of_a_whole_step_is_the_step_of_the_part(rule):
    scaled = WidthScaled(RULES[rule]().double(), 12.0)
    state = scaled.init_state(seen().theta, SPEC)
    _, state = scaled.step(seen(), state)
    whole, _ = scaled.step(seen(1), state)
    if rule == "none":
        index = torch.arange(0, 4 * SPEC.size, 7)
        whole = whole.flatten()[index].unsqueeze(-1)
    else:
        index = torch.tensor([3, 1])
        whole = whole[index]
    part, _ = scaled.step(seen(1).take(index, scaled.coupling), scaled.take(state, index))
    torch.testing.assert_close(part, whole, rtol=1e-12, atol=1e-14)


def test_a_network_with_one_hidden_layer_has_no_hidden_weights(mlp):
    assert hidden_weights(mlp.spec) == ()
    assert WidthScaled(RULES["none"](), 7.0).factors(mlp.spec).eq(1).all()


def test_sums_of_a_hidden_layer_change_by_as_much_whatever_the_width(digits_):
    # Steps of one size per coordinate along the gradient's sign, from small weights: the change of
    # the middle layer's sums is that of its inputs, all .5, times their number.
    def change(width, rule):
        net = ImageMLP(digits_, hidden_units=width, layers=2, init_std=1e-4).double()
        episode = Episode(net, net.sample([0], Seed("train", 0)), 1)
        carry = episode.start(rule)
        update, _ = rule.step(carry.seen, carry.state)
        return net.spec.unflatten(0.5 * update)["weight1"].sum(1).abs().median().item()

    sign = Baseline(torch.optim.Adam, 0.01)
    plain = [change(width, sign) for width in (16, 128)]
    assert plain[1] / plain[0] == pytest.approx(8, rel=1e-3)
    scaled = [change(width, WidthScaled(sign, 16.0)) for width in (16, 128)]
    assert scaled[0] == pytest.approx(plain[0]) and scaled[1] == pytest.approx(plain[0], rel=1e-3)


class Told(LearnedOptimizer):
    """Keeps the last update that it made or was told."""

    def init_state(self, theta, spec):
        return (torch.zeros_like(theta),)

    def step(self, seen, state):
        return -seen.grad, (-seen.grad,)

    def told(self, state, update):
        return (update,)


def test_the_rule_is_told_in_its_own_units():
    scaled = WidthScaled(Told(), 12.0)
    state = scaled.init_state(seen().theta, SPEC)
    update, after = scaled.step(seen(), state)
    same = scaled.told(after, update)
    torch.testing.assert_close(same.rule[0], after.rule[0], rtol=1e-12, atol=0)


@torch.no_grad()
def test_it_stands_inside_safeguards():
    guarded = Safeguarded(WidthScaled(RULES["none"]().double(), 12.0), blow_up=1.0)
    state = guarded.init_state(seen().theta, SPEC)
    for step in range(3):
        update, state = guarded.step(seen(step), state)
        assert update.isfinite().all()
    assert "undos" in guarded.counts(state)


@pytest.mark.parametrize(
    ("rule", "base", "message"),
    [
        ("none", 0.0, "base=0.0 must be a number > 0"),
        ("none", math.nan, "base=nan must be"),
        ("none", math.inf, "base=inf must be"),
        ("tuned", 32.0, "rule.lr=tuned must be one number"),
    ],
)
def test_what_makes_no_sense_is_refused(rule, base, message):
    inner = Baseline(torch.optim.Adam) if rule == "tuned" else RULES[rule]()
    with pytest.raises(ValueError, match=message):
        WidthScaled(inner, base)


@pytest.mark.parametrize("around", [lambda rule: rule, Safeguarded], ids=["bare", "safeguarded"])
def test_a_rule_that_counts_on_its_own_steps_is_refused(around):
    with pytest.raises(ValueError, match="rule=BFGSByHand cannot be scaled: .* its own steps"):
        WidthScaled(around(NTMBFGS(BFGSByHand())))
