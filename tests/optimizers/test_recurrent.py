"""Recurrent rules against torch's own cells and by their bounds."""

import pytest
import torch
from torch import nn

from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers.base import Observation
from l2l_exp.optimizers.encoding import Identity, LogSign
from l2l_exp.optimizers.inputs import EncodedGradient
from l2l_exp.optimizers.lstm import CoordinatewiseLSTM
from l2l_exp.optimizers.recurrent import RecurrentRule

SPEC = ParamSpec.of({"theta": ((5,), "free")})


def run(rule, steps=6, scale=1.0):
    """Updates (T, B, N) on random gradients."""
    grads = scale * torch.randn(steps, 2, 5, generator=torch.Generator().manual_seed(0)).double()
    state, updates = rule.init_state(grads[0], SPEC), []
    for step, grad in enumerate(grads):
        seen = Observation(grad, torch.zeros_like(grad), grad[:, 0], step, steps, SPEC)
        update, state = rule.step(seen, state)
        updates.append(update)
    return torch.stack(updates)


def test_without_embedding_and_bound_it_is_the_papers_rule():
    paper = CoordinatewiseLSTM(4, 2, LogSign(), readout_std=0.5, seed=3).double()
    ours = RecurrentRule(
        EncodedGradient(LogSign()), "lstm", 4, 2, None, bounded=False, readout_std=0.5, seed=3
    ).double()
    torch.testing.assert_close(run(ours), run(paper), rtol=1e-12, atol=1e-15)


def test_a_gru_is_torchs():
    rule = RecurrentRule(
        EncodedGradient(Identity()), "gru", 3, 1, None, bounded=False, readout_std=0.5
    ).double()
    cell, theirs = rule.cells[0], nn.GRU(1, 3).double()
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(cell.input_weight)
        theirs.weight_hh_l0.copy_(cell.recurrent_weight)
        theirs.bias_ih_l0.copy_(cell.bias.flatten())
        theirs.bias_hh_l0.zero_()
        theirs.bias_hh_l0[6:] = cell.candidate_bias.flatten()
    grads = torch.randn(6, 2, 5, generator=torch.Generator().manual_seed(0)).double()
    outputs, _ = theirs(grads.view(6, 10, 1))
    expected = 0.1 * (outputs @ rule.readout.T + rule.readout_bias).view(6, 2, 5)
    torch.testing.assert_close(run(rule), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_bounded_step_never_exceeds_the_output_scale(cell):
    rule = RecurrentRule(cell=cell, output_scale=0.03, readout_std=30.0).double()
    assert 0.029 < run(rule).abs().max() <= 0.03
    free = RecurrentRule(cell=cell, output_scale=0.03, readout_std=30.0, bounded=False).double()
    assert run(free).abs().max() > 0.1


def test_with_moment_ratios_a_factor_on_the_loss_changes_nothing():
    rule = RecurrentRule(readout_std=0.5).double()
    torch.testing.assert_close(run(rule, scale=1e6), run(rule), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"hidden_units": 0}, "hidden_units=0 must be >= 1"),
        ({"layers": 0}, "layers=0 must be >= 1"),
        ({"embedding": 0}, "embedding=0 must be >= 1"),
        ({"output_scale": -1.0}, "output_scale=-1.0 must be >= 0"),
        ({"cell": "rnn"}, "cell='rnn' must be one of lstm, gru"),
    ],
)
def test_impossible_values_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        RecurrentRule(**wrong)
