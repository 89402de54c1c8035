"""STAR: Adam where the MLP says nothing, and what it says otherwise."""

import pytest
import torch

from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers.base import Observation
from l2l_exp.optimizers.star import STAR

SPEC = ParamSpec.of({"w": ((2, 3), "fc"), "b": ((3,), "bias")})
B, N = 2, SPEC.size


def gradients(steps=40):
    """Gradients of several magnitudes: (K, B, N)."""
    rng = torch.Generator().manual_seed(3)
    return torch.randn(steps, B, N, generator=rng, dtype=torch.float64) ** 3


def updates(rule, grads):
    """Updates (K, B, N) of a rule that sees these gradients (K, B, N)."""
    theta, proposed = torch.ones_like(grads[0]), []
    state = rule.init_state(theta, SPEC)
    for step, grad in enumerate(grads):
        update, state = rule.step(Observation(grad, theta, theta[:, 0], step, 50, SPEC), state)
        proposed.append(update)
    return torch.stack(proposed)


def saying(length, weight, direction, **settings):
    """A STAR whose MLP says the same of every coordinate at every step."""
    rule = STAR(readout_std=0.0, **settings).double()
    rule.network.biases[-1].data = torch.tensor([[length], [weight], [direction]]).double()
    return rule


def adam(grads, lr, betas=(0.9, 0.999)):
    """What torch's Adam does to a theta that meets these gradients."""
    theta = torch.nn.Parameter(torch.zeros_like(grads[0]))
    optimizer = torch.optim.Adam([theta], lr, betas, eps=1e-300)
    proposed = []
    for grad in grads:
        before, theta.grad = theta.detach().clone(), grad.clone()
        optimizer.step()
        proposed.append(theta.detach() - before)
    return torch.stack(proposed)


@pytest.mark.parametrize(
    ("settings", "betas"),
    [({}, (0.9, 0.999)), ({"momentum_decays": [0.0, 0.9], "rms_decays": [0.9, 0.8]}, (0.0, 0.8))],
)
def test_an_mlp_that_says_nothing_leaves_adam(settings, betas):
    rule = STAR(readout_std=0.0, output_scale=0.03, **settings).double()
    grads = gradients()
    torch.testing.assert_close(updates(rule, grads), adam(grads, 0.03, betas), rtol=0, atol=1e-12)


@pytest.mark.parametrize("decay", [0.0, 0.8])
def test_around_momentum_an_mlp_that_says_nothing_leaves_heavy_ball(decay):
    settings = {"nominal": "momentum", "momentum_decays": [decay, 0.99], "output_scale": 0.03}
    grads = gradients()
    theta = torch.nn.Parameter(torch.zeros_like(grads[0]))
    # torch's momentum is a sum where this is an average.
    optimizer = torch.optim.SGD([theta], 0.03 * (1 - decay), momentum=decay)
    expected = []
    for grad in grads:
        before, theta.grad = theta.detach().clone(), grad.clone()
        optimizer.step()
        expected.append(theta.detach() - before)
    proposed = updates(STAR(readout_std=0.0, **settings).double(), grads)
    torch.testing.assert_close(proposed, torch.stack(expected), rtol=1e-12, atol=1e-12)


def test_in_float32_it_is_adam_to_rounding():
    grads = gradients(20)
    ours = updates(STAR(readout_std=0.0, output_scale=0.03), grads.float())
    torch.testing.assert_close(ours.double(), adam(grads, 0.03), rtol=2e-5, atol=1e-7)


def test_the_first_output_is_the_logarithm_of_adams_length():
    rule, grads = saying(-1.5, 7.0, 0.0, output_scale=0.1, nominal_gain=0.5), gradients()
    expected = adam(grads, 0.1) * torch.tensor(-0.75).double().exp()
    torch.testing.assert_close(updates(rule, grads), expected, rtol=1e-9, atol=1e-12)


def test_the_learned_term_is_preconditioned_and_has_the_gradients_units():
    floor, grads = 0.25, gradients()
    settings = {"output_scale": 0.1, "learned_scale": 0.3, "learned_gain": 0.5, "floor": floor}
    rule = saying(0.0, 0.8, -2.0, **settings)
    learned = updates(rule, grads) - adam(grads, 0.1)
    for step, grad in enumerate(grads):
        powers = 0.999 ** torch.arange(step, -1, -1).double()
        v = (torch.tensordot(powers, grads[: step + 1] ** 2, 1) / powers.sum()).sqrt()
        for tensor in SPEC.tensors:
            size = v[:, tensor.slice]
            least, of_grad = (
                x.square().mean(-1, keepdim=True) for x in (size, grad[:, tensor.slice])
            )
            p = ((size**2 + floor**2 * least) / of_grad).sqrt()
            expected = 0.1 * 0.3 * torch.tensor(0.4).double().exp() * 2 / p
            ours = learned[step][:, tensor.slice]
            torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_updates_do_not_depend_on_the_scale_of_the_loss(dtype):
    rule, grads = STAR(readout_std=0.5).to(dtype), gradients(6).to(dtype)
    ours, close = updates(rule, grads), 1e-4 if dtype is torch.float32 else 1e-11
    for factor in (1e-12, 1000.0):
        scale = ours.abs().max().item()
        torch.testing.assert_close(updates(rule, factor * grads), ours, rtol=0, atol=close * scale)


def test_what_never_had_a_gradient_rests_and_a_tiny_second_moment_does_not_blow_up():
    grads = gradients(5)
    grads[:, 0, :6] = 0  # a tensor
    grads[:, 1, 0] *= 1e-9  # a coordinate
    grads[:, 1, 1] = 0
    settings = {"output_scale": 0.1, "floor": 0.1}
    ours = updates(saying(0.0, 0.0, 1.0, **settings), grads)
    assert ours[:, 0, :6].count_nonzero() == 0 and ours.isfinite().all()
    only_adam = updates(saying(0.0, 0.0, 0.0, **settings), grads)
    assert only_adam[:, 1, 1].count_nonzero() == 0
    # |d| rms(g) / (floor rms(v)), and v is at least rms(g) over the root of the steps
    assert ((ours - only_adam).abs() <= 0.1 * 10 * 5**0.5).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"output_scale": -1.0}, "output_scale=-1.0 must be >= 0"),
        ({"nominal_gain": -1.0}, "nominal_gain=-1.0 must be >= 0"),
        ({"learned_scale": -1.0}, "learned_scale=-1.0 must be >= 0"),
        ({"learned_gain": -1.0}, "learned_gain=-1.0 must be >= 0"),
        ({"floor": 0.0}, "floor=0.0 must be > 0 and <= 1"),
        ({"clip": -1.0}, "clip=-1.0 must be > 0"),
        ({"layers": 0}, "layers=0 must be >= 1"),
    ],
)
def test_values_out_of_range_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        STAR(**arguments)
