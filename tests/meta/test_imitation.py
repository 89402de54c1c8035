"""Imitation: the loss by hand, its gradient against autograd, and what it teaches."""

import copy
import functools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector

from l2l_exp.meta.imitation import Imitation
from l2l_exp.optimizees.quadratic import Quadratic
from l2l_exp.optimizees.seeding import Seed, generator
from l2l_exp.optimizers import lstm
from l2l_exp.optimizers.base import LearnedOptimizer, map_state
from l2l_exp.optimizers.baseline import Baseline
from l2l_exp.optimizers.by_hand import BFGSByHand
from l2l_exp.optimizers.lbfgs import LBFGS
from l2l_exp.optimizers.lstm import CoordinatewiseLSTM
from l2l_exp.optimizers.ntm_bfgs import NTMBFGS
from l2l_exp.optimizers.postprocess import Postprocessed
from l2l_exp.optimizers.safeguard import Safeguarded
from l2l_exp.unroll import Episode, unroll

SEED, PROBLEMS, STEPS = Seed("train", 0), (0, 1, 2), 3
RNG = functools.partial(generator, SEED, "imitation_gradient", 0)


def adam(lr=0.1):
    """A teacher."""
    return Baseline(torch.optim.Adam, lr)


def estimates(imitation, optimizee, rule, windows=2):
    """Of the windows of an episode."""
    episode = Episode(optimizee, optimizee.sample(PROBLEMS, SEED), windows * STEPS)
    return list(imitation.windows(episode, rule, STEPS, RNG))


def by_autograd(teacher, optimizee, rule, windows=2):
    """Losses and gradients of the windows, by a graph through the rule's steps."""
    episode = Episode(optimizee, optimizee.sample(PROBLEMS, SEED), windows * STEPS)
    carry = episode.start(teacher)
    path = [carry, *unroll(episode, teacher, carry, windows * STEPS)]
    state, found = rule.init_state(carry.theta, optimizee.spec), []
    for start in range(0, windows * STEPS, STEPS):
        updates, targets = [], []
        for t in range(start, start + STEPS):
            update, state = rule.step(path[t].seen, state)
            updates.append(update)
            targets.append(path[t + 1].theta - path[t].theta)
            state = rule.told(state, targets[-1])
        update, target = torch.stack(updates), torch.stack(targets)
        ratio = (target - update).square().mean((0, 2)) / target.square().mean((0, 2))
        loss = ratio.mean() / 2
        grads = torch.autograd.grad(
            loss, list(rule.parameters()), retain_graph=True, allow_unused=True,
            materialize_grads=True,
        )  # fmt: skip
        found.append((loss.item(), torch.cat([grad.flatten() for grad in grads])))
        state = map_state(torch.Tensor.detach, state)
    return found


def assert_equal(one, other, rtol):
    """Equal relative to the larger of the two vectors' norms, which is not zero."""
    scale = max(one.norm(), other.norm())
    assert scale > 0 and (one - other).norm() <= rtol * scale


@pytest.mark.parametrize("chunk", [7, 10**6])
def test_losses_and_gradients_are_those_of_autograd_in_chunks_of_any_size(learned_rule, chunk):
    if any(getattr(part, "blow_up", None) for part in learned_rule.modules()):
        pytest.skip("it would undo its teacher's steps")
    optimizee = Quadratic(4, "gaussian", init_std=1.0).double()
    expected = by_autograd(adam(), optimizee, learned_rule)
    found = estimates(Imitation(adam(), chunk=chunk), optimizee, learned_rule)
    for ours, (loss, grad) in zip(found, expected, strict=True):
        assert ours.meta_loss == pytest.approx(loss, rel=1e-12)
        assert_equal(torch.cat([g.flatten() for g in ours.grads]), grad, 1e-9)


def test_the_states_that_are_replayed_are_not_overwritten(monkeypatch):
    monkeypatch.setattr(lstm, "BLOCK", 2)  # steps in place from two coordinates on
    test_losses_and_gradients_are_those_of_autograd_in_chunks_of_any_size(
        CoordinatewiseLSTM(3, 1, readout_std=0.5).double(), 10**6
    )


class Again(LearnedOptimizer):
    """Makes the last step that was made once more, times a gain."""

    def __init__(self, gain=0.5):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain, dtype=torch.float64))

    def init_state(self, theta, spec):
        return (torch.zeros_like(theta),)

    def step(self, seen, state):
        update = self.gain * state[0]
        return update, (update,)

    def told(self, state, update):
        return (update,)


@pytest.mark.parametrize("settings", [{}, {"chunk": 1}, {"subset": 3 * 4}])
def test_a_rule_is_told_of_its_teachers_steps_across_windows_too(settings):
    optimizee, teacher, gain = Quadratic(4, "gaussian", init_std=1.0).double(), adam(), 0.5
    episode = Episode(optimizee, optimizee.sample(PROBLEMS, SEED), 2 * STEPS)
    start = episode.start(teacher)
    path = torch.stack([c.theta for c in (start, *unroll(episode, teacher, start, 2 * STEPS))])
    targets = path.diff(dim=0)
    before = torch.cat([torch.zeros_like(targets[:1]), targets[:-1]])
    found = estimates(Imitation(teacher, **settings), optimizee, Again(gain))
    for window, ours in enumerate(found):
        of = slice(window * STEPS, (window + 1) * STEPS)
        size = targets[of].square().mean((0, 2))
        missed = (targets[of] - gain * before[of]).square().mean((0, 2))
        slope = ((gain * before[of] - targets[of]) * before[of]).mean((0, 2))
        assert ours.meta_loss == pytest.approx((missed / size).mean().item() / 2, rel=1e-12)
        assert ours.grads[0].item() == pytest.approx((slope / size).mean().item(), rel=1e-10)


def test_a_quasi_newton_memory_has_the_pairs_of_the_teachers_steps(separable):
    bowl, rule, imitation = separable((1.0, 30.0, 0.01), 1.0, 0.3), LBFGS(0.7), Imitation(adam())
    episode = Episode(bowl, bowl.sample(PROBLEMS, SEED), 5)
    carry = episode.start(imitation.teacher)
    state = rule.init_state(carry.theta, bowl.spec)
    memory = imitation._follow(episode, rule, carry, state, 5, torch.arange(3)).state
    assert (memory.s.abs().sum((1, 2)) > 0).all()
    torch.testing.assert_close(memory.y, memory.s * bowl.curvature, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (NTMBFGS(BFGSByHand()), "optimizer=BFGSByHand cannot imitate: it counts on its own steps"),
        (
            Postprocessed(Safeguarded(CoordinatewiseLSTM(2, 1), blow_up=2.0)),
            "blow_up=2.0 must be null to imitate",
        ),
    ],
)
def test_rules_that_cannot_follow_another_are_refused(rule, message):
    optimizee = Quadratic(2, "gaussian", init_std=1.0)
    with pytest.raises(ValueError, match=message):
        estimates(Imitation(adam()), optimizee, rule)


def test_the_teachers_trajectory_is_its_own(mlp):
    teacher, rule = adam(), CoordinatewiseLSTM(3, 1, readout_std=0.5).double()
    first, second = estimates(Imitation(teacher), mlp, rule)
    episode = Episode(mlp, mlp.sample(PROBLEMS, SEED), 2 * STEPS)
    path = list(unroll(episode, teacher, episode.start(teacher), 2 * STEPS))
    assert torch.equal(first.carry.theta, path[STEPS - 1].theta)
    assert torch.equal(second.losses, torch.stack([carry.loss for carry in path[STEPS:]]))


def test_a_rule_that_rests_has_a_loss_of_a_half_and_its_teacher_itself_of_none(scripted, mlp):
    rest = scripted(lambda seen: 0 * seen.grad)
    found = [e.meta_loss for e in estimates(Imitation(adam()), mlp, rest)]
    assert found == pytest.approx([0.5, 0.5])
    rule = CoordinatewiseLSTM(3, 1, readout_std=0.5).double()
    for same in estimates(Imitation(copy.deepcopy(rule)), mlp, rule):
        assert same.meta_loss < 1e-20 and all(grad.abs().max() < 1e-9 for grad in same.grads)


def test_the_loss_does_not_depend_on_the_teachers_scale_and_problems_count_alike(scripted):
    # a share of the teacher's update is proposed: 1/2 (1 - share)^2, whatever the learning rate
    optimizee = Quadratic(3, "gaussian", init_std=1.0).double()
    for lr in (1e-4, 1e-1):
        rule = scripted(lambda seen, lr=lr: -0.75 * lr * seen.grad)
        (one,) = estimates(Imitation(Baseline(torch.optim.SGD, lr)), optimizee, rule, 1)
        assert one.meta_loss == pytest.approx(0.25**2 / 2, rel=1e-9)
    lost = scripted(lambda seen: -0.1 * seen.grad * (torch.arange(3) > 0).unsqueeze(1))
    lost.coupling = "problem"
    (one,) = estimates(Imitation(Baseline(torch.optim.SGD, 0.1)), optimizee, lost, 1)
    assert one.meta_loss == pytest.approx(1 / 3 / 2)  # one of three problems is not moved


def test_a_problem_where_the_teacher_rests_is_left_out(separable, scripted):
    optimizee = separable()
    teacher = scripted(lambda seen: -0.1 * seen.grad * (torch.arange(3) > 0).unsqueeze(1))
    rule = scripted(lambda seen: -0.2 * seen.grad)
    (one,) = estimates(Imitation(teacher), optimizee, rule, 1)
    assert one.meta_loss == pytest.approx(2 / 3 / 2)
    assert all(grad.isfinite().all() for grad in one.grads)


def test_a_subset_of_all_coordinates_is_all_and_a_smaller_one_is_unbiased(mlp):
    rule = CoordinatewiseLSTM(2, 1, readout_std=0.5).double()
    whole, _ = estimates(Imitation(adam()), mlp, rule)
    size = 3 * mlp.spec.size
    everything, _ = estimates(Imitation(adam(), subset=size), mlp, rule)
    exact = torch.cat([grad.flatten() for grad in whole.grads])
    assert everything.meta_loss == whole.meta_loss
    assert_equal(torch.cat([grad.flatten() for grad in everything.grads]), exact, 1e-10)
    part, episode = Imitation(adam(), subset=size // 4), Episode(mlp, mlp.sample(PROBLEMS, SEED), 3)
    draws = []
    for draw in range(60):
        rng = functools.partial(np.random.default_rng, draw)
        (one,) = part.windows(episode, rule, 3, lambda start, rng=rng: rng())
        assert one.meta_loss == whole.meta_loss  # of all coordinates: it costs nothing
        draws.append(torch.cat([grad.flatten() for grad in one.grads]))
    spread = torch.stack(draws).std(0) / math.sqrt(60)
    assert ((torch.stack(draws).mean(0) - exact).abs() < 4 * spread + 1e-12).all()


def test_an_estimate_leaves_no_graph_and_changes_no_parameter(mlp):
    rule, teacher = (
        CoordinatewiseLSTM(3, 1, readout_std=0.5).double(),
        CoordinatewiseLSTM().double(),
    )
    before = parameters_to_vector([*rule.parameters(), *teacher.parameters()]).detach().clone()
    first, _ = estimates(Imitation(teacher), mlp, rule)
    after = parameters_to_vector([*rule.parameters(), *teacher.parameters()])
    assert torch.equal(before, after)
    assert not any(x.requires_grad for x in (first.losses, first.carry.theta, *first.grads))


def test_how_often_an_episode_imitates():
    imitation = Imitation(adam(), probability=0.3, weight=0.5)
    weights = [imitation.weight_of(episode, SEED) for episode in range(2000)]
    assert set(weights) == {0.0, 0.5}
    share = sum(weight > 0 for weight in weights) / 2000
    assert abs(share - 0.3) < 4 * math.sqrt(0.21 / 2000)
    assert [imitation.weight_of(e, Seed("train", 1)) for e in range(2000)] != weights
    assert {Imitation(adam(), probability=1.0).weight_of(e, SEED) for e in range(99)} == {1.0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"probability": 0.0}, r"probability=0.0 must be in \(0, 1\]"),
        ({"probability": 1.5}, "probability=1.5"),
        ({"weight": 0.0}, r"weight=0.0 must be in \(0, 1\]"),
        ({"weight": math.nan}, "weight=nan"),
        ({"chunk": 0}, "chunk=0 must be >= 1"),
        ({"teacher": Baseline(torch.optim.Adam)}, "teacher.lr=tuned must be one number"),
        ({"teacher": Baseline(torch.optim.Adam, [0.1, 0.2])}, r"teacher.lr=\[0.1, 0.2\] must be"),
        ({"teacher": "adam"}, "teacher='adam' must be an update rule"),
    ],
)
def test_what_makes_no_sense_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Imitation(**{"teacher": adam(), **settings})
