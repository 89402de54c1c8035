"""The transformer rule, step by step, against torch's attention over the whole sequence."""

import pytest
import torch
from torch import nn

from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers.base import Observation, state_tensors
from l2l_exp.optimizers.encoding import Identity
from l2l_exp.optimizers.inputs import EncodedGradient
from l2l_exp.optimizers.transformer import TransformerRule

SPEC = ParamSpec.of({"theta": ((3,), "free")})
GRADS = torch.randn(12, 2, 3, generator=torch.Generator().manual_seed(0)).double()


def small(**changes) -> TransformerRule:
    """A rule whose every part has a say."""
    usual = {"width": 4, "layers": 2, "heads": 2, "history": 5, "readout_std": 1.0}
    rule = TransformerRule(EncodedGradient(Identity()), **{**usual, **changes}).double()
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in rule.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=rng)
    return rule


def run(rule, grads=GRADS):
    """Updates (T, B, N)."""
    state, updates = rule.init_state(grads[0], SPEC), []
    for step, grad in enumerate(grads):
        seen = Observation(grad, torch.zeros_like(grad), grad[:, 0], step, len(grads), SPEC)
        update, state = rule.step(seen, state)
        updates.append(update)
    return torch.stack(updates)


def at_once(rule, grads=GRADS):
    """The same by torch on sequences (B * N, T, D), with a mask for what is attended to."""
    steps = len(grads)
    tokens = grads.reshape(steps, -1, 1).transpose(0, 1) @ rule.embedding.T + rule.embedding_bias.T
    age = torch.arange(steps).unsqueeze(1) - torch.arange(steps)
    history = rule.history
    for block in rule.blocks:
        gains = block.gains.squeeze(-1)
        unit = nn.functional.rms_norm(tokens, tokens.shape[-1:], gains[0], eps=1e-6)
        q, k, v = (
            x.unflatten(-1, (block.heads, -1)).transpose(1, 2)
            for x in (unit @ block.attend.T).chunk(3, -1)
        )
        bias = block.age_bias.squeeze(-1)[:, (history - 1 - age).clamp(0, history - 1)]
        mask = torch.where((age >= 0) & (age < history), bias, -torch.inf)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, mask)
        tokens = tokens + mixed.transpose(1, 2).flatten(2) @ block.join.T
        unit = nn.functional.rms_norm(tokens, tokens.shape[-1:], gains[1], eps=1e-6)
        inner = nn.functional.gelu(unit @ block.up.T + block.up_bias.T)
        tokens = tokens + inner @ block.down.T
    unit = nn.functional.rms_norm(tokens, tokens.shape[-1:], rule.gain.squeeze(-1), eps=1e-6)
    output = torch.tanh(unit @ rule.readout.T + rule.readout_bias)
    return rule.output_scale * output.transpose(0, 1).reshape(grads.shape)


@pytest.mark.parametrize(
    "changes", [{}, {"layers": 1, "heads": 1}, {"history": 1}, {"history": 20}]
)
def test_step_by_step_it_is_causal_attention_over_the_sequence(changes):
    rule = small(**changes)
    torch.testing.assert_close(run(rule), at_once(rule), rtol=1e-10, atol=1e-12)


def test_one_layer_forgets_what_is_older_than_its_history():
    rule = small(layers=1)
    other = GRADS.clone()
    other[3] += 1
    changed = (run(rule, other) - run(rule)).abs().amax((1, 2)) > 1e-9
    assert changed.tolist() == [3 <= step < 3 + rule.history for step in range(len(GRADS))]


def test_a_step_is_bounded_and_its_state_has_a_size_that_stays():
    rule = small(output_scale=0.02, readout_std=50.0)
    assert 0.019 < run(rule).abs().max() <= 0.02
    state = rule.init_state(GRADS[0], SPEC)
    assert {x.shape for x in state_tensors(state[:2])} == {(4, 5, 2, 3)}
    assert state.taken.shape == (2, 3)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"width": 6, "heads": 4}, "width=6 must be a multiple of heads=4"),
        ({"history": 0}, "history=0 must be >= 1"),
        ({"layers": 0}, "layers=0 must be >= 1"),
        ({"output_scale": -1.0}, "output_scale=-1.0 must be >= 0"),
    ],
)
def test_impossible_values_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        TransformerRule(**wrong)
