"""Means and sizes per tensor, against the same of the tensors themselves."""

import torch

from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers import per_tensor

SPEC = ParamSpec.of({"w": ((2, 3), "fc"), "s": ((), "free"), "b": ((4,), "bias")})
VALUES = torch.randn(2, 5, SPEC.size, generator=torch.Generator().manual_seed(0)).double()


def test_means_and_sizes_are_those_of_the_tensors():
    parts = SPEC.unflatten(VALUES).values()
    parts = [x.reshape(2, 5, -1) for x in parts]
    means = torch.stack([x.mean(-1) for x in parts], -1)
    sizes = torch.stack([x.square().mean(-1).sqrt() for x in parts], -1)
    torch.testing.assert_close(per_tensor.means(VALUES, SPEC), means, rtol=1e-13, atol=0)
    torch.testing.assert_close(per_tensor.sizes(VALUES, SPEC), sizes, rtol=1e-13, atol=0)


def test_what_is_spread_is_constant_in_a_tensor_and_has_its_mean():
    values = VALUES[..., :3]
    wide = per_tensor.spread(values, SPEC)
    assert torch.equal(wide[..., [0, 6, 7]], values) and torch.equal(wide[..., [5, 6, 10]], values)
    torch.testing.assert_close(per_tensor.means(wide, SPEC), values, rtol=1e-13, atol=0)


def test_units_have_size_one_keep_their_ratios_and_leave_zeros_alone():
    values = VALUES.clone()
    values[0, :, :6] = 0
    values[1, :, :6] *= 1e-200  # whose squares are 0
    unit = per_tensor.unit(values, SPEC)
    assert unit[0, :, :6].count_nonzero() == 0
    torch.testing.assert_close(per_tensor.sizes(unit, SPEC)[1], torch.ones(5, 3).double())
    ratio = values[1, :, 1] / values[1, :, 0]
    torch.testing.assert_close(unit[1, :, 1] / unit[1, :, 0], ratio, rtol=1e-12, atol=0)
