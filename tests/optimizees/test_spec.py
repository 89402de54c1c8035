"""The layout of the flat vector."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from l2l_exp.optimizees.spec import ParamSpec, layout, layout_of

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


class Everything(nn.Module):
    """Layers of every kind, and parameters of the class itself."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
        self.norm = nn.LayerNorm(2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.rnn = nn.GRU(2, 1)
        self.attention = nn.MultiheadAttention(2, 1)
        self.words = nn.Embedding(3, 2)
        self.readout = nn.Linear(2, 3, bias=False)
        self.again = nn.Linear(2, 3, bias=False)
        self.again.weight = self.readout.weight
        self.scale = nn.Parameter(torch.ones(()))
        self.bias = nn.Parameter(torch.ones(4))


def test_a_modules_parameters_keep_their_names_order_shapes_and_kinds():
    module = Everything()
    spec = layout(module)
    learnt = {name: p for name, p in module.named_parameters() if p.requires_grad}
    assert {t.name: t.shape for t in spec.tensors} == {n: p.shape for n, p in learnt.items()}
    kinds = {t.name: t.kind for t in spec.tensors}
    assert kinds == {
        "scale": "free", "bias": "free",
        "conv.0.weight": "conv", "conv.0.bias": "bias", "conv.1.weight": "norm",
        "conv.1.bias": "norm", "norm.weight": "norm", "norm.bias": "norm",
        "rnn.weight_ih_l0": "fc", "rnn.weight_hh_l0": "fc", "rnn.bias_ih_l0": "bias",
        "rnn.bias_hh_l0": "bias", "attention.in_proj_weight": "fc",
        "attention.in_proj_bias": "bias", "attention.out_proj.weight": "fc",
        "attention.out_proj.bias": "bias", "words.weight": "fc", "readout.weight": "fc",
    }  # fmt: skip
    assert spec.size == sum(p.numel() for p in learnt.values())
    flat = nn.utils.parameters_to_vector(learnt.values())
    assert torch.equal(spec.flatten(learnt), flat)


def test_a_bare_list_of_torchs_parameters_has_the_kinds_of_its_module():
    module = nn.Sequential(
        nn.Conv1d(1, 2, 3), nn.BatchNorm1d(2), nn.Conv3d(1, 2, 3, bias=False), nn.GroupNorm(1, 2),
        nn.TransformerEncoderLayer(2, 1, 4), nn.LSTM(2, 1), nn.Embedding(3, 2), nn.Linear(2, 3),
        nn.MultiheadAttention(2, 1, add_bias_kv=True), nn.RMSNorm(3),
    )  # fmt: skip
    assert layout_of(module.named_parameters()) == layout(module)
    assert layout_of(nn.LayerNorm(3).named_parameters()) == layout(nn.LayerNorm(3))


def test_kinds_of_bare_parameters_follow_name_and_rank():
    ranks = {"a.log_rates": 1, "a.bias": 1, "temperature": 0, "b.weight": 2, "b.norm_bias": 2}
    ranks |= {"c.weight": 1, "c.bias": 1, "c.mix": 2, "c.biases": 1, "d.scale": 4}
    spec = layout_of((name, torch.zeros([1] * rank)) for name, rank in ranks.items())
    assert {t.name: t.kind for t in spec.tensors} == {
        "a.log_rates": "free", "a.bias": "bias", "temperature": "free", "b.weight": "fc",
        "b.norm_bias": "bias", "c.weight": "norm", "c.bias": "norm", "c.mix": "fc",
        "c.biases": "bias", "d.scale": "conv",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ([], "at least one tensor"),
        ([("w", torch.zeros(2)), ("w", torch.zeros(3))], "parameter w comes twice"),
        ([("w", torch.zeros(2, dtype=torch.int64))], "parameter w is torch.int64"),
        ([("w", nn.UninitializedParameter())], "parameter w has no shape yet"),
    ],
)
def test_bare_parameters_that_cannot_be_laid_out_are_named(named, message):
    with pytest.raises(ValueError, match=message):
        layout_of(named)
