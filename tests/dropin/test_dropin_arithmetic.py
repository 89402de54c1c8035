"""The arithmetic of meta-training: a rule in a torch loop does what it does in `evaluate`."""

import functools

import pytest
import torch
from conftest import LEARNED, RULES, a_module
from torch import nn

from l2l_exp.dropin import LearnedTorchOptimizer
from l2l_exp.dropin.load import find
from l2l_exp.evaluation import evaluate, snapshots
from l2l_exp.optimizees.seeding import Seed
from l2l_exp.optimizees.spec import layout
from l2l_exp.optimizers.base import Observation
from l2l_exp.source import bundled_rules

STEPS = 20
SEED = Seed("test", 0)
BUNDLED = {f"bundled {name}": functools.partial(find, name) for name in bundled_rules()}


def small_network() -> nn.Module:
    """All kinds of parameters: conv, norm, fc, bias, and one of no layer's."""
    net = nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
    net.register_parameter("scale", nn.Parameter(torch.ones(())))
    return net


def gradients(module: nn.Module, step: int) -> list[torch.Tensor]:
    """Of very different magnitudes, one per parameter."""
    rng = torch.Generator().manual_seed(step)
    return [torch.randn(p.shape, generator=rng).to(p) ** 5 for p in module.parameters()]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", [*RULES, *BUNDLED])
def test_with_the_same_gradients_the_updates_are_those_of_step_bit_for_bit(name, dtype):
    rule = (RULES | BUNDLED)[name]().to(dtype)
    module = small_network().to(dtype)
    spec = layout(module)
    theta = spec.flatten(dict(module.named_parameters())).detach().unsqueeze(0)
    optimizer = LearnedTorchOptimizer(module, rule, horizon=5)
    state = rule.init_state(theta, spec)
    for step in range(5):
        grads = gradients(module, step)
        for parameter, grad in zip(module.parameters(), grads, strict=True):
            parameter.grad = grad
        flat = torch.cat([grad.flatten() for grad in grads]).unsqueeze(0)
        loss = theta.square().sum(1)
        optimizer.step(loss=loss)
        with torch.no_grad():
            update, state = rule.step(Observation(flat, theta, loss, step, 5, spec), state)
        theta = theta + update
        mine = spec.flatten(dict(module.named_parameters()))
        assert torch.equal(mine, theta[0]), step
    assert update.count_nonzero() > 0


@pytest.mark.parametrize("name", [*LEARNED, *BUNDLED])
def test_with_its_own_gradients_the_trajectory_of_evaluate_is_followed(name):
    optimizee, rule = a_module(batch_size=5).double(), (LEARNED | BUNDLED)[name]().double()
    expected = snapshots(optimizee, rule, [0], SEED, STEPS, range(STEPS + 1))
    problem, module = optimizee.sample([0], SEED), optimizee.module().double()
    tensors = optimizee.spec.unflatten(expected[0][0])
    module.load_state_dict({name: x.clone() for name, x in tensors.items()})
    optimizer = LearnedTorchOptimizer(module.named_parameters(), rule, horizon=STEPS)
    losses = []
    for step in range(STEPS + 1):
        flat = torch.cat([p.detach().flatten() for p in module.parameters()])
        error = (flat - expected[step][0]).norm() / expected[step][0].norm()
        assert error < 1e-10, (step, error)
        batch = {name: x[0] for name, x in optimizee.minibatch(problem, step).items()}
        loss = nn.functional.mse_loss(module(batch["inputs"]), batch["targets"])
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        if step < STEPS:
            optimizer.step(loss=loss)
    (record,) = evaluate(optimizee, rule, [0], SEED, STEPS)
    torch.testing.assert_close(losses, record.loss[:, 0].tolist(), rtol=1e-9, atol=0)
    assert (expected[STEPS] != expected[0]).all()
