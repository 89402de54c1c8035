"""On a CUDA device the same draws give the same unroll as on the CPU."""

import copy

import pytest
import torch

from l2l_exp.meta.gradients import Backprop, Replay
from l2l_exp.optimizees.seeding import Seed
from l2l_exp.unroll import Episode, unroll

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
