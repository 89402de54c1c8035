"""Inputs of recurrent rules against plain formulas."""

import math

import pytest
import torch

from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers.base import Observation
from l2l_exp.optimizers.encoding import LogSign
from l2l_exp.optimizers.inputs import (
    EncodedGradient,
    Joined,
    MomentRatios,
    SizeRatios,
    WithProgress,
)

SPEC = ParamSpec.of({"theta": ((3,), "free")})
GRADS = torch.tensor([[[1.0, -2.0, 0.0]], [[0.5, 3.0, 0.0]], [[-4.0, 1e-9, 0.0]]]).double()


def features(inputs, grads=GRADS, horizon=8):
    """Features (F, B, N) after the last of some gradients (T, B, N)."""
    state, last = inputs.init_state(grads[0]), None
    for step, grad in enumerate(grads):
        seen = Observation(grad, torch.zeros_like(grad), grad[:, 0], step, horizon, SPEC)
        last, state = inputs(seen, state)
    return last


def average(values, beta):
    """The weighted mean with weights beta^age: a running mean free of the bias of its start."""
    ages = torch.arange(len(values) - 1, -1, -1).double()
    weights = beta**ages
    return (weights.view(-1, 1, 1) * values).sum(0) / weights.sum()


def test_moment_ratios_are_weighted_means_over_the_root_of_the_weighted_mean_square():
    size = average(GRADS**2, 0.8).sqrt()
    expected = [GRADS[-1], average(GRADS, 0.5), average(GRADS, 0.9)]
    ours = features(MomentRatios((0.5, 0.9), 0.8))
    for feature, value in zip(ours, expected, strict=True):
        torch.testing.assert_close(feature[..., :2], (value / size)[..., :2], rtol=1e-12, atol=0)
    assert ours[..., 2].count_nonzero() == 0  # a coordinate that never had a gradient


@pytest.mark.parametrize("scale", [1e-20, 1e-3, 1e20])
def test_a_factor_on_the_loss_changes_no_moment_ratio(scale):
    ours, scaled = features(MomentRatios()), features(MomentRatios(), scale * GRADS)
    torch.testing.assert_close(scaled, ours, rtol=1e-12, atol=1e-12)


RATIOS = {"moments": MomentRatios((0.5,), 0.6), "sizes": SizeRatios((0.5, 0.6))}


@pytest.mark.parametrize("inputs", RATIOS.values(), ids=RATIOS)
@pytest.mark.parametrize("scale", [1e-30, 1e-25, 1e25, 1e30])
def test_a_factor_changes_no_ratio_in_single_precision(inputs, scale):
    grads = torch.tensor([[[1.0, -2.0, 0.0]], [[0.5, 3.0, 0.0]], [[-4.0, 0.1, 0.0]]])
    ours = features(inputs, scale * grads)
    torch.testing.assert_close(ours, features(inputs, grads), rtol=1e-5, atol=1e-5)
    assert ours[..., :2].count_nonzero() == ours[..., :2].numel()


def test_moment_ratios_forget_a_spike_in_single_precision():
    grads = torch.randn(300, 1, 3, generator=torch.Generator().manual_seed(0))
    spiked = grads.clone()
    spiked[3] = 1e20
    ours, plain = (features(RATIOS["moments"], x) for x in (spiked, grads))
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)


def test_size_ratios_after_a_spike_are_how_little_is_left_of_it_in_single_precision():
    spiked = torch.ones(200, 1, 3)
    spiked[3] = 1e20
    left = features(SizeRatios((0.5,), limit=50.0), spiked)
    expected = -20 + math.log10(200) / 2  # all gradients have the spike among them
    torch.testing.assert_close(left, torch.full_like(left, expected), rtol=1e-4, atol=0)


@pytest.mark.parametrize("inputs", RATIOS.values(), ids=RATIOS)
def test_features_of_a_coordinate_without_gradients_any_more_fall_to_their_end(inputs):
    state, seen = inputs.init_state(torch.zeros(1, 3)), []
    for step in range(600):  # what is kept of the first gradient passes all that float32 can hold
        grad = torch.tensor([[1.0, 1e-30, 0.0]]) if step == 0 else torch.zeros(1, 3)
        last, state = inputs(Observation(grad, grad, grad[:, 0], step, 600, SPEC), state)
        seen.append(last[:, 0])
    seen = torch.stack(seen)
    assert seen.isfinite().all() and (seen[1:, :, :2].diff(dim=0).abs() < 0.4).all()
    assert (seen[-1, :, :2] == (0 if isinstance(inputs, MomentRatios) else -5)).all()


def test_features_stay_within_the_limit_after_a_jump():
    jump = torch.tensor([[[1e-6] * 3]] * 20 + [[[1.0] * 3]])
    assert features(MomentRatios(limit=1.5), jump).abs().max() == 1.5
    assert features(MomentRatios(limit=50.0), jump).max() > 3


def test_encoded_gradients_are_those_of_the_encoding():
    assert torch.equal(features(EncodedGradient(LogSign()))[:, 0], LogSign()(GRADS[-1].flatten()))


def test_progress_is_the_share_of_the_horizon_and_times_are_squashed():
    ours = features(WithProgress(MomentRatios(), [1.0, 100.0]))
    assert ours.shape == (5, 1, 3) and torch.equal(ours[:2], features(MomentRatios()))
    expected = torch.tensor([2 / 8, math.tanh(1.0), math.tanh(-0.98)]).double()
    torch.testing.assert_close(
        ours[2:], expected.view(-1, 1, 1).expand(-1, 1, 3), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: MomentRatios((0.5, 1.0)), r"decay 1.0 of .* must be in"),
        (lambda: MomentRatios(beta2=-0.1), r"decay -0.1 of .* must be in"),
        (lambda: MomentRatios(limit=0.0), "limit=0.0 must be > 0"),
        (lambda: WithProgress(MomentRatios(), [1.0, 0.0]), "must be > 0"),
        (lambda: SizeRatios(limit=-1.0), "limit=-1.0 must be > 0"),
        (lambda: Joined({}), "at least one"),
        (lambda: Joined({"a.b": MomentRatios()}), "cannot be called 'a.b': use another plain word"),
        (lambda: Joined({"keys": MomentRatios()}), "cannot be called 'keys'"),
        (lambda: Joined({"pop": MomentRatios()}), "cannot be called 'pop'"),
        (lambda: Joined({3: MomentRatios()}), "cannot be called 3"),
    ],
)
def test_impossible_values_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        wrong()


def test_size_ratios_are_logarithms_of_recent_over_all_sizes():
    whole = (GRADS**2).mean(0)
    expected = [torch.log10(average(GRADS**2, beta) / whole) / 2 for beta in (0.5, 0.9)]
    ours = features(SizeRatios((0.5, 0.9)))
    for feature, value in zip(ours, expected, strict=True):
        torch.testing.assert_close(feature[..., :2], value[..., :2], rtol=1e-10, atol=1e-12)
    assert ours[..., 2].count_nonzero() == 0
    shrinking = torch.tensor([[[1.0] * 3]] * 2 + [[[1e-12] * 3]] * 60).double()
    assert features(SizeRatios((0.5,), limit=2.0), shrinking).max() == -2


def test_joined_inputs_are_what_each_is_alone():
    parts = {"a": SizeRatios((0.5,)), "b": EncodedGradient(LogSign()), "c": MomentRatios((0.5,))}
    alone = [features(part) for part in parts.values()]
    torch.testing.assert_close(features(Joined(parts)), torch.cat(alone), rtol=0, atol=0)
    assert Joined(parts).size == 5
