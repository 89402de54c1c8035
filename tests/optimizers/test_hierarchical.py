"""The hierarchy of recurrent units: who hears whom and when, its inputs, its rates."""

import pytest
import torch

from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers import hierarchical, per_tensor
from l2l_exp.optimizers.base import Observation
from l2l_exp.optimizers.hierarchical import Hierarchical

SPEC = ParamSpec.of({"w": ((2, 3), "fc"), "b": ((3,), "bias"), "s": ((), "free")})
B, N = 2, SPEC.size
W, REST = slice(0, 6), slice(6, N)


def gradients(steps=4):
    """Gradients of several magnitudes: (K, B, N)."""
    rng = torch.Generator().manual_seed(3)
    return torch.randn(steps, B, N, generator=rng, dtype=torch.float64) ** 3


def history(rule, grads, spec=SPEC):
    """Updates (K, B, N) of a rule that sees these gradients (K, B, N), and its states."""
    theta, proposed = torch.ones_like(grads[0]), []
    states = [rule.init_state(theta, spec)]
    for step, grad in enumerate(grads):
        seen = Observation(grad, theta, theta[:, 0], step, 50, spec)
        update, state = rule.step(seen, states[-1])
        proposed.append(update)
        states.append(state)
    return torch.stack(proposed), states


def updates(rule, grads, spec=SPEC):
    """The updates alone."""
    return history(rule, grads, spec)[0]


def silent(**settings):
    """A rule whose readouts are zero, and biases as they begin."""
    return Hierarchical(readout_std=0.0, **settings).double()


def test_the_untrained_rule_descends_by_signs_at_first():
    sign = gradients(1).sign()
    ours = updates(silent(output_scale=0.03), sign * (1 + gradients(1).abs()))
    torch.testing.assert_close(ours, -0.03 * sign, rtol=1e-6, atol=0)


def test_averages_begin_as_the_gradient_and_double_their_time_scales():
    grads = gradients(3)
    _, states = history(silent(scales=3), grads)
    assert torch.equal(states[1].averages, grads[0].expand(3, B, N))
    decay, of_squares = (torch.tensor(x).double().sigmoid() for x in (2.2, 3.2))
    for scale, power in enumerate((1, 0.5, 0.25)):
        average, square = grads[0], grads[0] ** 2
        for grad in grads[1:]:
            average = decay**power * average + (1 - decay**power) * grad
            square = of_squares * square + (1 - of_squares) * average**2
        torch.testing.assert_close(states[3].averages[scale], average, rtol=1e-6, atol=1e-14)
        torch.testing.assert_close(states[3].roots[scale] ** 2, square, rtol=1e-6, atol=1e-14)


def test_the_change_of_the_rate_is_felt_at_once_and_kept_in_part():
    grads = gradients()
    rule, plain = silent(), updates(silent(), grads)
    rule.readout_bias.data[1] = 0.5
    kept = 1 - torch.sigmoid(rule.rate_momentum).item()
    for step, (ours, alike) in enumerate(zip(updates(rule, grads), plain, strict=True)):
        factor = torch.tensor(0.5 * (1 + kept * step)).exp().item()
        torch.testing.assert_close(ours, factor * alike, rtol=1e-6, atol=0)


def test_the_rate_is_bounded():
    rule, grads = silent(output_scale=0.01), gradients(3)
    rule.readout_bias.data[1] = 100.0
    sizes = per_tensor.sizes(updates(rule, grads), SPEC)
    largest = torch.tensor(hierarchical.LARGEST).double().exp() * 0.01
    torch.testing.assert_close(sizes, largest.expand_as(sizes), rtol=1e-4, atol=0)


def test_a_tensor_hears_itself_at_once_and_the_others_a_step_later():
    # A tensor's units and the problem's hear of a step in it, and bias the coordinates in the next.
    rule, grads = Hierarchical(readout_std=0.5).double(), gradients()
    moved = grads.clone()
    moved[0, 0, 0] *= -0.9
    before, after = updates(rule, grads), updates(rule, moved)
    changed = (before - after).abs() > 1e-12
    assert changed[0, 0, W].any() and changed[1:, 0, W].all()
    assert not changed[0, 0, REST].any() and changed[1:, 0, REST].any(-1).all()
    assert torch.equal(before[:, 1], after[:, 1])  # no other problem


def levels(rule, grads):
    """The rule's states with the recurrence written out, one tensor and coordinate at a time."""
    _, states = history(rule, grads)
    for old, new in zip(states, states[1:], strict=False):
        squares = new.roots**2
        held = squares + hierarchical.FLOOR**2 * squares.mean(-1, keepdim=True)
        scaled, logs = new.averages / held.sqrt(), held.log()
        products, logs = scaled[1:] * scaled[:-1], logs - logs.mean(0)
        for b in range(B):
            tensor_units = []
            for k, tensor in enumerate(SPEC.tensors):
                mean_rate, means = old.log_rate[b, tensor.slice].mean(), []
                for i in range(tensor.start, tensor.slice.stop):
                    rate = (old.log_rate[b, i] - mean_rate).view(1)
                    inputs = torch.cat([scaled[:, b, i], products[:, b, i], logs[:, b, i], rate])
                    above = [old.tensor_units[:, b, k], old.problem_units[:, b, 0]]
                    signal = torch.cat([inputs, *above]).unsqueeze(1)
                    unit = rule.cell(signal, old.units[:, b, i : i + 1]).squeeze(1)
                    yield unit, new.units[:, b, i]
                    means.append(torch.cat([inputs, unit]))
                mean = torch.cat([torch.stack(means).mean(0), old.problem_units[:, b, 0]])
                own = old.tensor_units[:, b, k : k + 1]
                tensor_units.append(rule.tensor_cell(mean.unsqueeze(1), own).squeeze(1))
                yield tensor_units[-1], new.tensor_units[:, b, k]
            mean = torch.stack(tensor_units).mean(0).unsqueeze(1)
            yield (
                rule.problem_cell(mean, old.problem_units[:, b]).squeeze(1),
                new.problem_units[:, b, 0],
            )


def test_the_levels_are_what_the_text_says_one_coordinate_at_a_time():
    rule = Hierarchical(3, 4, 2, 3, readout_std=0.5).double()
    for expected, ours in levels(rule, gradients(3)):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-13)


def test_the_order_of_tensors_does_not_matter():
    rule, grads = Hierarchical(readout_std=0.5).double(), gradients()
    swapped = ParamSpec.of({"b": ((3,), "bias"), "s": ((), "free"), "w": ((2, 3), "fc")})
    order = torch.tensor([6, 7, 8, 9, 0, 1, 2, 3, 4, 5])
    ours = updates(rule, grads[..., order], swapped)
    torch.testing.assert_close(ours, updates(rule, grads)[..., order], rtol=1e-11, atol=1e-13)


def test_which_coordinates_are_one_tensor_does():
    rule, grads = Hierarchical(readout_std=0.5).double(), gradients()
    whole = ParamSpec.of({"all": ((N,), "free")})
    assert not torch.allclose(updates(rule, grads, whole), updates(rule, grads), rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_updates_do_not_depend_on_the_scale_of_the_loss(dtype):
    rule, grads = Hierarchical(readout_std=0.5).to(dtype), gradients(6).to(dtype)
    ours, close = updates(rule, grads), 1e-4 if dtype is torch.float32 else 1e-11
    for factor in (1e-30, 1e-25, 1e-12, 1000.0, 1e25, 1e30):
        scale = ours.abs().max().item()
        torch.testing.assert_close(updates(rule, factor * grads), ours, rtol=0, atol=close * scale)


def test_a_spike_is_borne_and_forgotten_in_single_precision():
    rule = Hierarchical(scales=2, readout_std=0.0)
    rule.readout_bias.data[2:] = -2.0  # averages forget most of what was at every step
    grads = gradients(120).float()
    spiked = grads.clone()
    spiked[10] *= 1e20
    ours, plain = updates(rule, spiked), updates(rule, grads)
    assert ours.isfinite().all() and not torch.equal(ours[11], plain[11])
    torch.testing.assert_close(ours[-10:], plain[-10:], rtol=1e-4, atol=1e-6)


def test_gradients_of_the_size_of_rounding_are_as_good_as_none():
    rule, grads = Hierarchical().double(), gradients()
    grads[..., REST] = 0
    noisy = grads.clone()
    noisy[..., REST] = 1e-17 * gradients()[..., REST]
    close = {"rtol": 1e-8, "atol": 1e-9 * rule.output_scale}
    torch.testing.assert_close(updates(rule, noisy)[..., W], updates(rule, grads)[..., W], **close)
    assert per_tensor.sizes(updates(rule, noisy)[0], SPEC)[:, 1:].max() < 1e-6
    assert updates(rule, torch.zeros_like(grads)).isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"units": 0}, "units=0 must be >= 1"),
        ({"tensor_units": 0}, "tensor_units=0 must be >= 1"),
        ({"problem_units": 0}, "problem_units=0 must be >= 1"),
        ({"scales": 1}, "scales=1 must be >= 2"),
        ({"output_scale": -1.0}, "output_scale=-1.0 must be >= 0"),
        ({"readout_std": -1.0}, "readout_std=-1.0 must be >= 0"),
    ],
)
def test_values_out_of_range_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        Hierarchical(**arguments)
