"""On a CUDA device the same draws give the same unroll as on the CPU."""

import copy

import pytest
import torch
from conftest import a_module
from torch import nn

from l2l_exp.meta.gradients import Backprop, Replay
from l2l_exp.optimizees.seeding import Seed
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
