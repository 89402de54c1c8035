"""Rules on running averages, in float32: over long horizons, and at the ends of its range."""

import pytest
import torch

from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers.base import Observation, state_tensors
from l2l_exp.optimizers.mlp import MLPOptimizer
from l2l_exp.optimizers.star import STAR

SPEC = ParamSpec.of({"w": ((6, 6), "fc"), "b": ((3,), "bias")})
RULES = {
    "mlp": MLPOptimizer,
    "star": STAR,
    "mlp_long_momenta": lambda: MLPOptimizer(factored_decays=(0.9,), rms_decays=(0.5,)),
    "star_long_momenta": lambda: STAR(momentum_decays=(0.999,), rms_decays=(0.5,)),
}


def gradients(steps):
    """Random ones (T, 1, N) in float32."""
    rng = torch.Generator().manual_seed(0)
    return torch.randn(steps, 1, SPEC.size, generator=rng)


@torch.no_grad()
def updates(rule, grads):
    """Updates (T, 1, N); no state of theirs is anything but finite."""
    theta = torch.ones_like(grads[0])
    state, proposed = rule.init_state(theta, SPEC), []
    for step, grad in enumerate(grads):
        seen = Observation(grad, theta, theta[:, 0], step, len(grads), SPEC)
        update, state = rule.step(seen, state)
        proposed.append(update)
    assert all(x.isfinite().all() for x in state_tensors(state))
    return torch.stack(proposed)


@pytest.mark.parametrize(
    ("name", "steps"),
    [("mlp", 2000), ("star", 2000), ("mlp_long_momenta", 400), ("star_long_momenta", 400)],
)
def test_rows_and_columns_that_die_do_no_harm(name, steps):
    grads = gradients(steps)
    dead = torch.zeros(6, 6, dtype=torch.bool)
    dead[0], dead[:, 0] = True, True
    grads[5:, :, :36] *= ~dead.flatten()
    assert updates(RULES[name](), grads).isfinite().all()


@pytest.mark.parametrize("name", ["mlp", "star"])
@pytest.mark.parametrize("factor", [1e-22, 1e-21, 1e-18, 1e30])
def test_the_scale_of_the_loss_does_not_matter_in_single_precision(name, factor):
    grads, rule = gradients(8), RULES[name]()
    beside = torch.ones(SPEC.size)
    beside[:36] = factor
    ours = updates(rule, grads)
    for scale in (factor, beside):
        close = {"rtol": 0, "atol": 1e-3 * ours.abs().max().item()}
        torch.testing.assert_close(updates(rule, scale * grads), ours, **close)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("factor", [1e-30, 1e-38, 1e-44])
def test_gradients_at_the_end_of_single_precision_give_finite_updates(name, factor):
    assert updates(RULES[name](), factor * gradients(8)).isfinite().all()
