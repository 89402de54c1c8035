"""Running averages against their sums, and the features made of them."""

import pytest
import torch

from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers import per_tensor
from l2l_exp.optimizers.averages import Averages
from l2l_exp.optimizers.base import Observation

SPEC = ParamSpec.of({"k": ((2, 3, 2), "conv"), "b": ((4,), "bias"), "s": ((), "free")})
DECAYS = (0.5, 0.9)
AVERAGES = Averages(DECAYS, (0.6, 0.8), DECAYS, 1.0)
B = 2


def gradients(steps=5, spec=SPEC):
    """Gradients of several magnitudes: (K, B, N)."""
    rng = torch.Generator().manual_seed(1)
    return torch.randn(steps, B, spec.size, generator=rng, dtype=torch.float64) ** 3


def after(grads, averages=AVERAGES, spec=SPEC, theta=None):
    """Averages of gradients (K, B, N), and the features after the last one."""
    theta = torch.ones_like(grads[0]) if theta is None else theta
    state = averages.init_state(theta, spec)
    for grad in grads:
        state = averages.advance(grad, state, spec)
    return state, averages.features(Observation(grads[-1], theta, theta[:, 0], 0, 9, spec), state)


def weighted(values, decay):
    """(1 - decay) sum of decay^(K-1-k) values_k, for values (K, ...)."""
    powers = decay ** torch.arange(len(values) - 1, -1, -1, dtype=torch.float64)
    return (1 - decay) * torch.tensordot(powers, values, 1)


def test_averages_are_geometric_sums():
    grads = gradients()
    state, _ = after(grads)
    for ours, decay in zip(state.momenta, DECAYS, strict=True):
        torch.testing.assert_close(ours, weighted(grads, decay), rtol=1e-12, atol=1e-14)
    for ours, decay in zip(state.roots, (0.6, 0.8), strict=True):
        torch.testing.assert_close(ours.square(), weighted(grads**2, decay), rtol=1e-12, atol=0)


def test_a_kernel_is_a_matrix_of_its_outputs_and_a_vector_a_column():
    grads = gradients()
    state, _ = after(grads)
    squares = weighted(grads**2, DECAYS[1])
    kernel = squares[:, :12].view(B, 2, 6)
    rows = torch.cat([kernel.mean(2), squares[:, 12:]], 1)  # of the kernel, the bias, the scalar
    columns = [kernel.mean(1), squares[:, 12:16].mean(1, keepdim=True), squares[:, 16:]]
    torch.testing.assert_close(state.rows[1].square(), rows, rtol=1e-12, atol=0)
    torch.testing.assert_close(state.columns[1].square(), torch.cat(columns, 1), rtol=1e-12, atol=0)


def test_the_features_are_what_they_say():
    grads, theta = gradients(), gradients(6)[5]
    state, ours = after(grads, theta=theta)
    g, m, v = grads[-1], state.momenta, state.roots**2
    clipped = per_tensor.unit(g, SPEC).clamp(-1, 1)
    down, across, factored = [], [], []
    for decay in DECAYS:
        squares = weighted(grads**2, decay)
        kernel, vector = squares[:, :12].view(B, 2, 6), squares[:, 12:]
        row, column = kernel.mean(2, keepdim=True), kernel.mean(1, keepdim=True)
        outer = row * column / row.mean(1, keepdim=True)
        mean = torch.cat([vector[:, :4].mean(1, keepdim=True).expand(B, 4), vector[:, 4:]], 1)
        for into, matrix, rest in (
            (down, row, vector), (across, column, mean), (factored, outer, vector),
        ):  # fmt: skip
            into.append(torch.cat([matrix.expand(B, 2, 6).flatten(1), rest], 1).sqrt())
    down, across, factored = (torch.stack(x) for x in (down, across, factored))
    expected = torch.cat([
        torch.stack([g, clipped, theta]), m, v.sqrt(), v.rsqrt(), m / v[-1].sqrt(), down, across,
        1 / down, 1 / across, g / factored, m / factored[-1],
    ])  # fmt: skip
    assert ours.shape == (AVERAGES.size, B, SPEC.size)
    torch.testing.assert_close(ours, per_tensor.unit(expected, SPEC), rtol=1e-11, atol=1e-14)


def test_the_factored_moment_of_a_product_is_the_moment_itself():
    # where g^2 = row x column, g over its root is a sign, as g over the root of v is
    spec, averages = ParamSpec.of({"w": ((3, 4), "fc")}), Averages((0.9,), (0.9,), (0.9,), 1.0)
    rng = torch.Generator().manual_seed(0)
    row, column = (0.1 + torch.rand(s, generator=rng).double() for s in ((B, 3, 1), (B, 1, 4)))
    sign = torch.randn(B, 3, 4, generator=rng).double().sign()
    _, features = after((sign * row * column).flatten(1)[None], averages, spec)
    for place in (-2, -1, 6):  # g and m over it, m over the plain one
        torch.testing.assert_close(features[place], sign.flatten(1), rtol=1e-12, atol=0)


@pytest.mark.parametrize("factor", [1e-120, 1e-3, 1e3, 1e60])
def test_features_do_not_depend_on_the_scale_of_the_loss_or_of_theta(factor):
    grads, theta = gradients(), gradients(6)[5]
    _, features = after(grads, theta=theta)
    _, scaled = after(factor * grads, theta=factor * theta)
    torch.testing.assert_close(scaled, features, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("factor", [1e-22, 1e-18, 1e-9, 1e30])
def test_single_precision_bears_tiny_and_huge_gradients(factor):
    grads = gradients().float()
    beside = torch.ones(SPEC.size)
    beside[:12] = factor  # one tensor is tiny or huge, the others are not
    for scale in (factor, beside):
        torch.testing.assert_close(after(scale * grads)[1], after(grads)[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("factor", [1e-30, 1e-38, 1e-44])
def test_gradients_at_the_end_of_single_precision_give_finite_features(factor):
    assert after(factor * gradients().float())[1].isfinite().all()


def test_what_is_next_to_nothing_beside_its_tensor_is_not_divided_by():
    grads = gradients()
    grads[..., 12] *= 1e-17
    _, features = after(grads)
    assert features[7:11, :, 12].count_nonzero() == 0  # inverses of v, m over its root


def test_features_are_finite_where_there_is_no_gradient():
    grads = gradients()
    grads[..., :12] = 0  # a tensor that never had one
    grads[:, 0, 13] = 0  # and a coordinate
    grads[-1, 1] = 0  # and a problem that has none any more
    _, features = after(grads)
    assert features.isfinite().all()
    rest = torch.ones(len(features), dtype=torch.bool)
    rest[2] = False  # theta
    assert features[rest][..., :12].count_nonzero() == 0
    assert features[[0, 1], 1].count_nonzero() == 0


def test_rows_and_columns_of_a_tensor_have_no_order():
    spec, averages = ParamSpec.of({"w": ((3, 4), "fc")}), Averages((0.9,), (0.9,), (0.9,), 1.0)
    grads = gradients(spec=spec).view(5, B, 3, 4)
    rows, columns = torch.tensor([2, 0, 1]), torch.tensor([3, 1, 0, 2])
    _, features = after(grads.flatten(2), averages, spec)
    _, moved = after(grads[:, :, rows][..., columns].flatten(2), averages, spec)
    expected = features.view(-1, B, 3, 4)[:, :, rows][..., columns].flatten(2)
    torch.testing.assert_close(moved, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((), (0.9,), (0.9,), 1.0), r"momentum_decays=\[\] must be numbers in \[0, 1\)"),
        (((0.9,), (1.0,), (0.9,), 1.0), r"rms_decays=\[1.0\] must be numbers in \[0, 1\)"),
        (((0.9,), (0.9,), (-0.1,), 1.0), r"factored_decays=\[-0.1\] must be"),
        (((0.9,), (0.9,), (0.9,), 0.0), "clip=0.0 must be > 0"),
    ],
)
def test_values_out_of_range_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        Averages(*arguments)
