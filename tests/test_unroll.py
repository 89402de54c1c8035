"""The one inner loop, against an independent implementation in scalars."""

import math

import numpy as np
import pytest
import torch

from l2l_exp.optimizees.quadratic import Quadratic
from l2l_exp.optimizees.seeding import Seed
from l2l_exp.optimizers import lstm
from l2l_exp.optimizers.base import state_tensors
from l2l_exp.optimizers.encoding import LogSign
from l2l_exp.optimizers.lstm import CoordinatewiseLSTM
from l2l_exp.unroll import Episode, unroll

SEED = Seed("train", 7)


def sigmoid(x):
    """The logistic function of a number."""
    return 1 / (1 + math.exp(-x))


def scalar_lstm(x, h, c, weights):
    """One LSTM cell of one coordinate, gate by gate: lists of numbers."""
    w_in, w_rec, bias = weights
    size = len(h)
    gate = [
        bias[row]
        + sum(w_in[row][j] * x[j] for j in range(len(x)))
        + sum(w_rec[row][j] * h[j] for j in range(size))
        for row in range(4 * size)
    ]
    new_h, new_c = [], []
    for k in range(size):
        admit, keep, expose = (sigmoid(gate[g * size + k]) for g in range(3))
        new_c.append(keep * c[k] + admit * math.tanh(gate[3 * size + k]))
        new_h.append(expose * math.tanh(new_c[k]))
    return new_h, new_c


def scalar_unroll(w, y, theta, cells, readout, readout_bias, scale, p, steps):
    """The paper's rule on one quadratic, coordinate by coordinate; losses after each step."""
    n, hidden = len(theta), len(readout)
    h = [[[0.0] * hidden for _ in cells] for _ in range(n)]
    c = [[[0.0] * hidden for _ in cells] for _ in range(n)]
    losses = []
    for _ in range(steps):
        grad = 2 * w.T @ (w @ theta - y)
        for i in range(n):
            size = abs(grad[i])
            if size >= math.exp(-p):
                signal = [math.log(size) / p, math.copysign(1, grad[i])]
            else:
                signal = [-1.0, math.exp(p) * grad[i]]
            for layer, weights in enumerate(cells):
                h[i][layer], c[i][layer] = scalar_lstm(signal, h[i][layer], c[i][layer], weights)
                signal = h[i][layer]
            out = readout_bias + sum(r * s for r, s in zip(readout, signal, strict=True))
            theta[i] = theta[i] + scale * out
        losses.append(((w @ theta - y) ** 2).sum())
    return theta, losses


def test_five_steps_equal_an_unroll_in_scalars_with_weights_set_by_hand():
    hidden, scale, p = 2, 0.3, 4.0
    optimizee = Quadratic(3, "gaussian", init_std=1.0).double()
    rule = CoordinatewiseLSTM(hidden, 2, LogSign(p), output_scale=scale).double()

    def by_hand(rows, columns, phase):
        return [[math.sin(1 + phase + 2 * i + 5 * j) for j in range(columns)] for i in range(rows)]

    cells = [
        (by_hand(8, inputs, layer), by_hand(8, 2, layer + 10), [0.1 * i - 0.3 for i in range(8)])
        for layer, inputs in enumerate((2, 2))
    ]
    readout, readout_bias = [0.7, -1.1], 0.05
    with torch.no_grad():
        for cell, (w_in, w_rec, bias) in zip(rule.cells, cells, strict=True):
            cell.input_weight.copy_(torch.tensor(w_in))
            cell.recurrent_weight.copy_(torch.tensor(w_rec))
            cell.bias.copy_(torch.tensor(bias).unsqueeze(1))
        rule.readout.copy_(torch.tensor([readout]))
        rule.readout_bias.fill_(readout_bias)
        cells = [
            (cell.input_weight.tolist(), cell.recurrent_weight.tolist(), cell.bias[:, 0].tolist())
            for cell in rule.cells
        ]
        readout, readout_bias = rule.readout[0].tolist(), rule.readout_bias.item()
    problem = optimizee.sample([0, 1], SEED)
    episode = Episode(optimizee, problem, 5)
    start = episode.start(rule)
    carries = list(unroll(episode, rule, start, 5))
    for b in range(2):
        w, y = problem.data["W"][b].numpy(), problem.data["y"][b].numpy()
        theta, losses = scalar_unroll(
            w, y, start.theta[b].numpy().copy(), cells, readout, readout_bias, scale, p, 5
        )
        np.testing.assert_allclose(carries[-1].theta[b].detach().numpy(), theta, rtol=1e-12)
        ours = [carry.loss[b].item() for carry in carries]
        np.testing.assert_allclose(ours, losses, rtol=1e-12)
        assert np.abs(np.diff(losses)).min() > 1e-3  # it does move


def test_an_update_is_added_and_the_rule_sees_where_it_stands(linear, scripted):
    seen = []
    rule = scripted(lambda observation: (seen.append(observation), -observation.grad)[1])
    episode = Episode(linear, linear.sample([0, 3], SEED), horizon=9)
    start = episode.start(rule)
    carries = list(unroll(episode, rule, start, 4))
    theta = start.theta
    for step, (observation, carry) in enumerate(zip(seen, carries, strict=True)):
        slope = linear.minibatch(episode.problem, step)["slope"]
        assert torch.equal(observation.theta, theta) and torch.equal(observation.grad, slope)
        assert (observation.step, observation.horizon) == (step, 9)
        assert observation.spec == linear.spec
        torch.testing.assert_close(observation.loss, (slope * theta).sum(1) + 10)
        theta = theta - slope
        torch.testing.assert_close(carry.theta.detach(), theta)
        assert carry.seen.step == step + 1


@torch.no_grad()  # with a graph a memory may add up its writes in another order
def test_two_windows_are_one_unroll(optimizee, learned_rule):
    episode = Episode(optimizee, optimizee.sample([0, 1], SEED), 6)
    start = episode.start(learned_rule)
    *_, whole = unroll(episode, learned_rule, start, 6)
    *_, middle = unroll(episode, learned_rule, start, 4)
    *_, end = unroll(episode, learned_rule, middle.detach(), 2)
    assert torch.equal(end.theta, whole.theta) and torch.equal(end.loss, whole.loss)
    assert all(
        torch.equal(a, b)
        for a, b in zip(state_tensors(end.state), state_tensors(whole.state), strict=True)
    )


def test_an_unroll_that_reuses_its_state_changes_neither_values_nor_its_start(
    optimizee, learned_rule, monkeypatch
):
    monkeypatch.setattr(lstm, "BLOCK", 3)
    episode = Episode(optimizee, optimizee.sample([0, 1], SEED), 6)
    with torch.no_grad():
        *_, start = unroll(episode, learned_rule, episode.start(learned_rule), 1)
        kept = [tensor.clone() for tensor in state_tensors(start.state)]
        plain = list(unroll(episode, learned_rule, start, 4))
        reused = list(unroll(episode, learned_rule, start, 4, reuse_state=True))
    for one, other in zip(plain, reused, strict=True):
        for a, b in zip(one[:2] + one.seen[:3], other[:2] + other.seen[:3], strict=True):
            assert torch.equal(a, b)
    for state, expected in ((start.state, kept), (reused[-1].state, plain[-1].state)):
        pairs = zip(state_tensors(state), state_tensors(expected), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("attached", ["nothing", "loss", "everything"])
def test_only_what_is_asked_for_is_attached(mlp, learned_rule, attached):
    episode = Episode(mlp, mlp.sample([0], SEED), 3, attached)
    *_, carry = unroll(episode, learned_rule, episode.start(learned_rule), 3)
    assert carry.loss.requires_grad == (attached != "nothing")
    assert carry.seen.grad.requires_grad == (attached == "everything")
    cut = carry.detach()
    tensors = [cut.theta, cut.loss, *cut.seen[:3], *state_tensors(cut.state)]
    assert not any(x.requires_grad for x in tensors)
