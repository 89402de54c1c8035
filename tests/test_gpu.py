"""On a CUDA device the same draws give the same unroll as on the CPU."""

import copy

import pytest
import torch
from conftest import a_module
from torch import nn

from l2l_exp.dropin import LearnedTorchOptimizer
from l2l_exp.meta.gradients import Backprop, Replay
from l2l_exp.optimizees.seeding import Seed
from l2l_exp.optimizers.base import state_tensors
from l2l_exp.optimizers.lstm import CoordinatewiseLSTM
from l2l_exp.unroll import Episode, differentiate, unroll

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_an_unroll_is_the_same_on_both_devices(optimizee, rule):
    finals = []
    for device in ("cpu", "cuda"):
        here, learned = copy.deepcopy(optimizee).to(device), copy.deepcopy(rule).to(device)
        episode = Episode(here, here.sample(range(3), Seed("train", 0)), 5)
        with torch.no_grad():
            *_, carry = unroll(episode, learned, episode.start(learned), 5)
        finals.append(carry.theta.cpu())
    torch.testing.assert_close(*finals, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("gradient", [Replay(chunk=64), Backprop(1), Backprop(2)])
def test_a_meta_gradient_is_the_same_on_both_devices(mlp, learned_rule, gradient):
    grads = []
    for device in ("cpu", "cuda"):
        here, learned = copy.deepcopy(mlp).to(device), copy.deepcopy(learned_rule).to(device)
        problem = here.sample(range(3), Seed("train", 0))
        episode = Episode(here, problem, 5, gradient.attached)
        carry = episode.start(learned).detach()
        estimate = gradient(episode, learned, carry, 5, torch.mean, None)
        grads.append(torch.cat([grad.flatten().cpu() for grad in estimate.grads]))
    torch.testing.assert_close(*grads, rtol=1e-6, atol=1e-10)


def test_dropout_on_the_device_depends_on_problem_and_step_and_not_on_its_generator():
    def network():
        return nn.Sequential(nn.Linear(3, 30), nn.Dropout(0.5), nn.Linear(30, 1))

    optimizee = a_module(module=network, batching="loop").to("cuda", torch.float64)
    problem = optimizee.sample(range(3), Seed("train", 0))
    theta = optimizee.init(problem.index, problem.seed)
    losses = []
    for seed in (1, 2):
        torch.cuda.manual_seed(seed)
        before = torch.cuda.get_rng_state()
        losses.append(differentiate(optimizee, theta, optimizee.minibatch(problem, 0))[0])
        assert torch.equal(torch.cuda.get_rng_state(), before)
    assert torch.equal(*losses)
    assert not (
        differentiate(optimizee, theta, optimizee.minibatch(problem, 1))[0] == losses[0]
    ).any()


def trained(rule, module, devices):
    """A module whose layers lie on some devices, after five steps of a rule: on the CPU."""
    module = copy.deepcopy(module)
    for layer, device in zip(module, devices, strict=True):
        layer.to(device)
    optimizer = LearnedTorchOptimizer(module.named_parameters(), rule, horizon=5)
    for step in range(5):
        rng = torch.Generator().manual_seed(step)
        x = torch.randn(6, 3, generator=rng, dtype=torch.float64)
        optimizer.zero_grad()
        for layer, device in zip(module, devices, strict=True):
            x = layer(x.to(device))
        loss = x.square().mean()
        loss.backward()
        optimizer.step(loss=loss)
        if step == 2:  # a copy goes on there too
            content = copy.deepcopy(optimizer.state_dict())
            optimizer = LearnedTorchOptimizer(module.named_parameters(), rule, horizon=5)
            optimizer.load_state_dict(content)
    for problem in optimizer._problems:
        kept = {x.device for x in state_tensors(problem.state) if x.dim()}
        assert kept <= {problem.parameters[0].device}
    return torch.cat([p.detach().cpu().flatten() for p in module.parameters()])


@pytest.mark.parametrize(
    "devices", [("cuda",) * 3, ("cpu", "cuda", "cuda"), ("cuda", "cpu", "cpu")]
)
def test_a_torch_optimizer_is_the_same_wherever_the_parameters_are(learned_rule, devices):
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    expected = trained(learned_rule, module, ("cpu",) * 3)
    found = trained(learned_rule, module, devices)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


def test_a_gradient_scaler_and_a_model_that_moves():
    module = nn.Linear(3, 2)
    optimizer = LearnedTorchOptimizer(module, CoordinatewiseLSTM(3, 1, readout_std=0.5))
    scaler = torch.amp.GradScaler("cuda")
    for device in ("cpu", "cuda", "cuda"):
        module.to(device)
        optimizer.zero_grad()
        with torch.autocast(device):
            loss = module(torch.ones(4, 3, device=device)).float().square().mean()
        if device == "cpu":
            loss.backward()
            optimizer.step()
            continue
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    (problem,) = optimizer._problems
    assert problem.steps == 3 and problem.place[0].type == "cuda"
