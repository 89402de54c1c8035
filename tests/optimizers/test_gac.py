"""Global averaging cells: what they change, and what they must not."""

import pytest
import torch

from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers.base import Observation
from l2l_exp.optimizers.gac import GAC
from l2l_exp.optimizers.lstm import CoordinatewiseLSTM

SPEC = ParamSpec.of({"w": ((2, 3), "fc"), "b": ((3,), "bias")})


def updates(rule, grads, spec=SPEC):
    """Updates (K, B, N) of a rule that sees these gradients (K, B, N)."""
    state, seen = rule.init_state(torch.zeros_like(grads[0]), spec), []
    for step, grad in enumerate(grads):
        zeros = torch.zeros_like(grad)
        update, state = rule.step(Observation(grad, zeros, zeros[:, 0], step, 9, spec), state)
        seen.append(update)
    return torch.stack(seen)


def gradients(size=SPEC.size, problems=2, steps=4):
    """Gradients of several magnitudes: (K, B, N)."""
    rng = torch.Generator().manual_seed(3)
    return torch.randn(steps, problems, size, generator=rng, dtype=torch.float64) ** 3


def close(one, other):
    """Equal to 1e-12."""
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("average", ["problem", "tensor"])
def test_without_global_cells_it_is_the_lstm(average):
    lstm = CoordinatewiseLSTM(6, 2, readout_std=0.5, seed=4).double()
    gac = GAC(6, 2, 0, average, readout_std=0.5, seed=4).double()
    close(updates(gac, gradients()), updates(lstm, gradients()))


@pytest.mark.parametrize("cells", [1, 3, 6])
def test_with_one_coordinate_it_is_the_lstm(cells):
    spec = ParamSpec.of({"x": ((1,), "free")})
    lstm = CoordinatewiseLSTM(6, 2, readout_std=0.5, seed=4).double()
    gac = GAC(6, 2, cells, readout_std=0.5, seed=4).double()
    close(updates(gac, gradients(1), spec), updates(lstm, gradients(1), spec))


def test_global_cells_make_coordinates_talk():
    gac = GAC(6, 2, 2, readout_std=0.5).double()
    grads = gradients()
    moved = grads.clone()
    moved[0, 0, 0] += 1.0
    before, after = updates(gac, grads), updates(gac, moved)
    assert (before[1:, 0] != after[1:, 0]).all()  # every coordinate of the problem
    assert torch.equal(before[:, 1], after[:, 1])  # no other problem


def test_averages_per_tensor_stay_within_the_tensor():
    gac = GAC(6, 2, 2, "tensor", readout_std=0.5).double()
    grads = gradients()
    moved = grads.clone()
    moved[0, 0, 0] += 1.0
    before, after = updates(gac, grads), updates(gac, moved)
    assert (before[1:, 0, :6] != after[1:, 0, :6]).all()
    assert torch.equal(before[..., 6:], after[..., 6:])


@pytest.mark.parametrize("average", ["problem", "tensor"])
def test_duplicating_every_coordinate_leaves_the_updates_unchanged(average):
    gac = GAC(6, 2, 3, average, readout_std=0.5).double()
    twice = ParamSpec.of({"w": ((2, 2, 3), "fc"), "b": ((2, 3), "bias")})
    grads = gradients()
    doubled = torch.cat([grads[..., :6]] * 2 + [grads[..., 6:]] * 2, -1)
    once, both = updates(gac, grads), updates(gac, doubled, twice)
    close(both[..., :6], once[..., :6])
    close(both[..., 6:12], once[..., :6])
    close(both[..., 12:15], once[..., 6:])


def test_every_cell_global_moves_all_coordinates_alike():
    update = updates(GAC(6, 2, 6, readout_std=0.5).double(), gradients())
    close(update, update[..., :1].expand_as(update))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"global_cells": 21}, "global_cells=21 must be in .0, hidden_units=20."),
        ({"global_cells": -1}, "global_cells=-1 must be in"),
        ({"average": "layer"}, "average='layer' must be one of problem, tensor"),
        ({"layers": 0}, "layers=0 must be >= 1"),
        ({"output_scale": -1.0}, "output_scale=-1.0 must be >= 0"),
    ],
)
def test_values_out_of_range_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        GAC(**arguments)
