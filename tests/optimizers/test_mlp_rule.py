"""The MLP rule: its network by hand, its units, its scale."""

import math

import pytest
import torch

from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers import per_tensor
from l2l_exp.optimizers.base import Observation
from l2l_exp.optimizers.mlp import FeatureMLP, MLPOptimizer, clock

SPEC = ParamSpec.of({"w": ((2, 3), "fc"), "b": ((3,), "bias")})
B, N, HORIZON = 2, SPEC.size, 10
SMALL_FC = {"magnitude": True, "shortcut": False, "normalise": False, "final_scale": 1.0}


def gradients(steps=4):
    """Gradients of several magnitudes: (K, B, N)."""
    rng = torch.Generator().manual_seed(3)
    return torch.randn(steps, B, N, generator=rng, dtype=torch.float64) ** 3


def looking(grad, step=0, horizon=HORIZON):
    """What is seen at a theta of ones."""
    theta = torch.ones_like(grad)
    return Observation(grad, theta, theta[:, 0], step, horizon, SPEC)


def updates(rule, grads):
    """Updates (K, B, N) of a rule that sees these gradients (K, B, N)."""
    state, proposed = rule.init_state(torch.zeros_like(grads[0]), SPEC), []
    for step, grad in enumerate(grads):
        update, state = rule.step(looking(grad, step), state)
        proposed.append(update)
    return torch.stack(proposed)


@pytest.mark.parametrize("activation", ["relu", "tanh", "elu", "gelu", "silu", "softplus"])
@pytest.mark.parametrize("layers", [1, 3])
def test_the_network_is_torchs_linear_layers_on_features_and_shared_ones(activation, layers):
    network = FeatureMLP(
        4, 2, 3, hidden_units=5, layers=layers, activation=activation, readout_std=0.5, seed=0
    ).double()
    for bias in network.biases:
        bias.data.normal_(generator=torch.Generator().manual_seed(1))
    rng = torch.Generator().manual_seed(2)
    features, shared = (torch.randn(s, generator=rng).double() for s in ((4, B, 7), (2,)))
    signal = torch.cat([features, shared.view(2, 1, 1).expand(2, B, 7)]).movedim(0, -1)
    for place, (weight, bias) in enumerate(zip(network.weights, network.biases, strict=True)):
        signal = torch.nn.functional.linear(signal, weight, bias.squeeze(1))
        if place < layers:
            signal = getattr(torch.nn.functional, activation)(signal)
    ours = network(features, shared)
    torch.testing.assert_close(ours, signal.movedim(-1, 0), rtol=1e-12, atol=1e-13)


def test_the_clock_is_eleven_saturating_times_and_the_progress():
    times = clock(looking(torch.ones(1, N).double(), 30, 120), 11, progress=True)
    assert len(times) == 12 and times[-1] == 0.25
    assert times[:3].tolist() == pytest.approx([math.tanh(30 / x - 1) for x in (1, 10**0.5, 10)])
    assert times[10].item() == pytest.approx(math.tanh(30e-5 - 1))


def test_a_normalised_step_has_the_scale_as_its_size_in_every_tensor():
    rule = MLPOptimizer(output_scale=0.03, final_scale=0.2).double()
    for step, update in enumerate(updates(rule, gradients())):
        factor = 0.2 + 0.8 * (1 + math.cos(math.pi * step / HORIZON)) / 2
        expected = torch.full((B, 2), 0.03 * factor, dtype=torch.float64)
        torch.testing.assert_close(per_tensor.sizes(update, SPEC), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("final", [0.0, 0.3, 1.0])
def test_the_scale_ends_at_the_horizon_and_stays_there(final):
    rule = MLPOptimizer(output_scale=1.0, final_scale=final).double()
    proposed = updates(rule, gradients(HORIZON + 3))
    scales = per_tensor.sizes(proposed, SPEC)[:, 0, 0].tolist()
    assert scales[0] == pytest.approx(1) and scales[5] == pytest.approx((1 + final) / 2)
    assert scales[HORIZON:] == [pytest.approx(final, abs=1e-15)] * 3
    assert sorted(scales[: HORIZON + 1], reverse=True) == pytest.approx(scales[: HORIZON + 1])


def test_a_raw_step_is_direction_times_the_exponential_of_magnitude():
    rule = MLPOptimizer(**SMALL_FC, exp_scale=0.3, output_scale=0.02).double()
    seen = looking(gradients()[0])
    averages = rule.averages.advance(seen.grad, rule.init_state(seen.theta, SPEC).averages, SPEC)
    features = rule.averages.features(seen, averages)
    d, m = rule.network(features, clock(seen, 11, progress=False))
    ours, _ = rule.step(seen, rule.init_state(seen.theta, SPEC))
    torch.testing.assert_close(ours, 0.02 * d * torch.exp(0.3 * m), rtol=1e-12, atol=1e-15)


def test_an_untrained_rule_with_a_shortcut_goes_where_adam_does():
    rule, grads = (
        MLPOptimizer(readout_std=0.0, output_scale=0.1, final_scale=1.0).double(),
        gradients(),
    )
    momentum = squares = torch.zeros_like(grads[0])
    for update, grad in zip(updates(rule, grads), grads, strict=True):
        momentum, squares = 0.9 * momentum + 0.1 * grad, 0.999 * squares + 0.001 * grad**2
        expected = -0.1 * per_tensor.unit(momentum / squares.sqrt(), SPEC)
        torch.testing.assert_close(update, expected, rtol=1e-10, atol=1e-14)


def test_coordinates_of_a_tensor_talk_and_no_others():
    rule, grads = MLPOptimizer(**SMALL_FC).double(), gradients()
    moved = grads.clone()
    moved[0, 0, 0] *= -3
    before, after = updates(rule, grads), updates(rule, moved)
    assert (before[0, 0, :6] != after[0, 0, :6]).all()
    assert torch.equal(before[:, 0, 6:], after[:, 0, 6:])  # the other tensor
    assert torch.equal(before[:, 1], after[:, 1])  # the other problem


@pytest.mark.parametrize("settings", [{}, SMALL_FC, {"progress": True}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_updates_do_not_depend_on_the_scale_of_the_loss(settings, dtype):
    rule, grads = MLPOptimizer(**settings).to(dtype), gradients().to(dtype)
    ours, close = updates(rule, grads), 1e-4 if dtype is torch.float32 else 1e-11
    for factor in (1e-12, 1000.0):
        scale = ours.abs().max().item()
        torch.testing.assert_close(updates(rule, factor * grads), ours, rtol=0, atol=close * scale)


@pytest.mark.parametrize("settings", [{}, SMALL_FC])
def test_without_any_gradient_updates_are_finite(settings):
    rule = MLPOptimizer(**settings).double()
    assert updates(rule, torch.zeros(3, B, N).double()).isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden_units": 0}, "hidden_units=0 must be >= 1"),
        ({"layers": 0}, "layers=0 must be >= 1"),
        ({"activation": "sine"}, "activation='sine' must be one of relu, tanh"),
        ({"output_scale": -1.0}, "output_scale=-1.0 must be >= 0"),
        ({"exp_scale": -1.0}, "exp_scale=-1.0 must be >= 0"),
        ({"final_scale": 1.5}, r"final_scale=1.5 must be in \[0, 1\]"),
        (
            {"readout_std": 0.0, "shortcut": False},
            "readout_std=0.0 must be > 0 for normalised steps",
        ),
        ({"readout_std": -1.0, "normalise": False}, "readout_std=-1.0 must be >= 0"),
    ],
)
def test_values_out_of_range_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        MLPOptimizer(**arguments)
