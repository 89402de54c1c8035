"""Rules that know how much they have seen: older states are put back while the step goes on."""

import pytest
import torch

from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers.base import Observation
from l2l_exp.optimizers.encoding import LogSign
from l2l_exp.optimizers.inputs import EncodedGradient, Joined, MomentRatios, SizeRatios
from l2l_exp.optimizers.recurrent import RecurrentRule
from l2l_exp.optimizers.safeguard import Safeguarded
from l2l_exp.optimizers.transformer import TransformerRule
from l2l_exp.optimizers.whitened import Whitened

SPEC = ParamSpec.of({"theta": ((3,), "free")})
GRADS = torch.randn(8, 2, 3, generator=torch.Generator().manual_seed(0)).double()
BOTH = {"moments": MomentRatios((0.5, 0.9)), "sizes": SizeRatios((0.5,))}
RULES = {
    "rnnprop": lambda: RecurrentRule(readout_std=0.5),
    "rnnprop_sizes": lambda: RecurrentRule(Joined(BOTH), "gru", readout_std=0.5),
    "whitened": lambda: Whitened(RecurrentRule(readout_std=0.5), every=2),
    "transformer": lambda: TransformerRule(readout_std=0.5, layers=2, history=4),
    "transformer_encoded": lambda: TransformerRule(EncodedGradient(LogSign()), readout_std=0.5),
}


@pytest.fixture(name="rule", params=RULES)
def a_rule(request):
    """A rule without progress among its inputs, in float64."""
    return RULES[request.param]().double()


def looking(step, grad, theta, loss):
    """What is seen of two problems."""
    return Observation(grad, theta, torch.tensor(loss).double(), step, 20, SPEC)


@torch.no_grad()
def updates(rule, first):
    """Updates (T, B, N) from a fresh state that is seen at step `first`."""
    state, proposed = rule.init_state(GRADS[0], SPEC), []
    for step, grad in enumerate(GRADS):
        seen = looking(first + step, grad, torch.zeros_like(grad), [1.0, 1.0])
        update, state = rule.step(seen, state)
        proposed.append(update)
    return torch.stack(proposed)


def test_a_fresh_state_is_fresh_at_any_step(rule):
    torch.testing.assert_close(updates(rule, 5), updates(rule, 0), rtol=0, atol=0)


@torch.no_grad()
def test_an_undone_problem_goes_on_as_one_that_never_stepped_away(rule):
    # both problems take one step; the second is undone, and sees its first point again
    guarded = Safeguarded(rule, blow_up=2.0, damping=0.5, recovery=1.0)
    theta = torch.zeros_like(GRADS[0])
    state, proposed = guarded.init_state(theta, SPEC), []
    for step, loss in enumerate([[1.0, 1.0], [1.0, 100.0], [1.0, 1.0], [1.0, 1.0]]):
        grad = GRADS[step].clone()
        grad[1] = GRADS[max(0, step - 2), 1]
        update, state = guarded.step(looking(step, grad, theta, loss), state)
        theta = theta + update
        proposed.append(update)
    whole = updates(rule, 0)
    for step, update in enumerate(proposed):
        torch.testing.assert_close(update[0], whole[step, 0], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(proposed[1][1], -whole[0, 1], rtol=1e-12, atol=1e-14)
    for step in (0, 1):
        ours = proposed[2 + step][1]
        torch.testing.assert_close(ours, whole[step, 1] / 2, rtol=1e-12, atol=1e-14)
