"""What is special about the coordinatewise LSTM."""

import pytest
import torch

from l2l_exp.optimizees.seeding import Seed
from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers import lstm
from l2l_exp.optimizers.base import Observation, state_tensors
from l2l_exp.optimizers.encoding import Identity
from l2l_exp.optimizers.lstm import CoordinatewiseLSTM
from l2l_exp.unroll import Episode, unroll

SPEC = ParamSpec.of({"theta": ((10,), "free")})


@pytest.mark.parametrize("block", [1, 7, 20, 29, 30])
def test_walking_in_blocks_of_coordinates_changes_nothing(learned_rule, monkeypatch, block):
    rng = torch.Generator().manual_seed(0)
    grad = torch.randn(3, 10, generator=rng, dtype=torch.float64)
    seen = Observation(grad, grad, grad.sum(1), 0, 5, SPEC)
    _, state = learned_rule.step(seen, learned_rule.init_state(grad, SPEC))
    plain, plain_state = learned_rule.step(seen, state)
    monkeypatch.setattr(lstm, "BLOCK", block)
    with torch.no_grad():
        blocked, blocked_state = learned_rule.step(seen, state)
    pairs = [(blocked, plain)]
    pairs += zip(state_tensors(blocked_state), state_tensors(plain_state), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-12, atol=1e-14)


def test_a_step_in_place_needs_no_new_memory_above_a_block(monkeypatch):
    monkeypatch.setattr(lstm, "BLOCK", 7)
    grad = torch.ones(1, 10).double()
    seen = Observation(grad, grad, grad.sum(1), 0, 5, SPEC)
    rule = CoordinatewiseLSTM(3).double()
    with torch.no_grad():
        _, state = _step(rule, seen)
        _, after = rule.step_in_place(seen, state)
    pairs = zip(state_tensors(after), state_tensors(state), strict=True)
    assert all(ours.data_ptr() == theirs.data_ptr() for ours, theirs in pairs)


def test_zero_output_scale_leaves_theta_where_it_starts(mlp):
    rule = CoordinatewiseLSTM(2, output_scale=0.0, readout_std=1.0).double()
    episode = Episode(mlp, mlp.sample([0, 1], Seed("train", 0)), 5)
    start = episode.start(rule)
    *_, end = unroll(episode, rule, start, 5)
    assert torch.equal(end.theta, start.theta)


def test_updates_are_proportional_to_output_scale():
    grad = torch.ones(1, 10).double()
    seen = Observation(grad, grad, grad.sum(1), 0, 5, SPEC)
    one, two = (
        rule.step(seen, rule.init_state(grad, SPEC))[0]
        for rule in (CoordinatewiseLSTM(3, output_scale=s).double() for s in (0.1, 0.2))
    )
    torch.testing.assert_close(two, 2 * one, rtol=1e-12, atol=0)


def test_the_seed_alone_decides_the_initial_meta_parameters():
    torch.manual_seed(1)
    one = CoordinatewiseLSTM(3, seed=4).state_dict()
    torch.manual_seed(2)
    again, other = (CoordinatewiseLSTM(3, seed=seed).state_dict() for seed in (4, 5))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["readout"], other["readout"])


def test_the_paper_rule_has_its_published_number_of_meta_parameters():
    # 2 features -> 20 -> 20 -> 1: 4 gates of (inputs + hidden + 1) weights per cell, and a readout
    sizes = [(2, 20), (20, 20)]
    expected = sum(4 * h * (i + h + 1) for i, h in sizes) + 20 + 1
    assert sum(p.numel() for p in CoordinatewiseLSTM().parameters()) == expected


@pytest.mark.parametrize(
    "settings", [{"hidden_units": 0}, {"layers": 0}, {"output_scale": -0.1}, {"readout_std": -1}]
)
def test_values_out_of_range_are_refused_by_name(settings):
    ((name, value),) = settings.items()
    with pytest.raises(ValueError, match=f"{name}={value} must be >= "):
        CoordinatewiseLSTM(**settings)


def test_the_encoding_is_what_the_cells_see():
    grad = torch.full((1, 10), 0.25).double()
    seen = Observation(grad, grad, grad.sum(1), 0, 5, SPEC)
    rule = CoordinatewiseLSTM(3, 1, Identity(4.0)).double()
    (doubled,), _ = _step(rule, seen._replace(grad=2 * grad))
    rule.encoding.scale = 8.0
    (scaled,), _ = _step(rule, seen)
    assert torch.equal(doubled, scaled)


def _step(rule, seen):
    """One step from a fresh state."""
    return rule.step(seen, rule.init_state(seen.theta, SPEC))
