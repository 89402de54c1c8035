"""The layout of the flat vector."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from l2l_exp.optimizees.spec import ParamSpec

shapes = st.lists(
    st.lists(st.integers(1, 4), max_size=3).map(tuple), min_size=1, max_size=4
).map(lambda many: {f"t{i}": (shape, "free") for i, shape in enumerate(many)})  # fmt: skip


@given(shapes, st.lists(st.integers(1, 3), max_size=2))
def test_flatten_inverts_unflatten_for_any_shapes_and_leading_axes(shapes, leading):
    spec = ParamSpec.of(shapes)
    theta = torch.arange(spec.size * torch.Size(leading).numel()).view(*leading, spec.size)
    tensors = spec.unflatten(theta)
    assert [x.shape for x in tensors.values()] == [(*leading, *s) for s, _ in shapes.values()]
    assert torch.equal(spec.flatten(tensors), theta)


def test_flatten_does_not_depend_on_the_order_of_the_mapping():
    spec = ParamSpec.of({"a": ((2,), "fc"), "b": ((), "bias")})
    tensors = spec.unflatten(torch.arange(3.0))
    assert torch.equal(spec.flatten(dict(reversed(tensors.items()))), torch.arange(3.0))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({}, "at least one tensor"),
        ({"w": ((2, 0), "fc")}, r"'w'.*\(2, 0\)"),
        ({"w": ((2,), "dense")}, "'w'.*'dense'"),
    ],
)
def test_impossible_layouts_are_refused_by_name(shapes, message):
    with pytest.raises(ValueError, match=message):
        ParamSpec.of(shapes)
