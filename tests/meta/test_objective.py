"""The meta-loss: weights and forms in closed form."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from l2l_exp.meta.objective import (
    Final,
    Geometric,
    Linear,
    Log,
    MetaLoss,
    Plain,
    Relative,
    Uniform,
)

windows = st.tuples(st.integers(1, 12), st.integers(1, 8))  # truncation, windows


def over_the_horizon(weights, truncation, count):
    """All weights of a horizon, window by window."""
    horizon = truncation * count
    return torch.cat([weights(s, truncation, horizon) for s in range(0, horizon, truncation)])


@given(windows, st.floats(0.5, 0.999))
def test_weights_have_mean_one_over_the_horizon(window, ratio):
    for weights in (Uniform(), Linear(), Geometric(ratio), Final()):
        assert over_the_horizon(weights, *window).mean().item() == pytest.approx(1, rel=1e-4)


@given(windows)
def test_weights_do_not_depend_on_the_truncation(window):
    truncation, count = window
    for weights in (Uniform(), Linear(), Geometric(0.9)):
        whole = over_the_horizon(weights, truncation * count, 1)
        torch.testing.assert_close(over_the_horizon(weights, truncation, count), whole)


def test_linear_weights_grow_in_proportion_to_the_step():
    assert Linear()(0, 4, 4).tolist() == pytest.approx([0.4, 0.8, 1.2, 1.6])
    assert Linear()(2, 2, 4).tolist() == pytest.approx([1.2, 1.6])


def test_geometric_weights_grow_by_a_constant_ratio():
    assert Geometric(0.5)(0, 3, 3).tolist() == pytest.approx([3 / 7, 6 / 7, 12 / 7])


def test_final_weights_count_the_last_loss_of_the_window_alone():
    assert Final()(4, 3, 12).tolist() == [0, 0, 3]


def test_the_end_of_the_horizon_alone_needs_an_untruncated_horizon():
    message = "truncation=5, horizon=20: use within=window"
    with pytest.raises(ValueError, match=message):
        Final(within="horizon").check(5, 20)
    Final(within="horizon").check(20, 20)
    for weights in (Final(), Uniform(), Linear(), Geometric()):
        weights.check(5, 20)


def test_forms_are_their_formulas():
    losses, first = torch.tensor([[2.0, 8.0], [1.0, 4.0]]), torch.tensor([2.0, 16.0])
    assert torch.equal(Plain()(losses, first), losses)
    assert Relative()(losses, first).tolist() == [[1, 0.5], [0.5, 0.25]]
    logs = [[math.log(2.5), math.log(8.5)], [math.log(1.5), math.log(4.5)]]
    assert torch.allclose(Log(eps=0.5)(losses, first), torch.tensor(logs))


def test_the_logarithm_of_a_loss_of_zero_has_a_finite_slope():
    loss = torch.zeros(1, 1, requires_grad=True)
    (slope,) = torch.autograd.grad(Log(1e-3)(loss, loss.detach()).sum(), loss)
    assert slope.item() == pytest.approx(1e3)


def test_the_meta_loss_is_the_mean_over_steps_and_problems_of_weighted_forms():
    losses = torch.tensor([[2.0, 8.0], [1.0, 4.0]], dtype=torch.float64)
    first = torch.tensor([2.0, 16.0], dtype=torch.float64)
    value = MetaLoss(Linear(), Relative())(losses, first, start=2, horizon=4)
    expected = (1.2 * 1 + 1.2 * 0.5 + 1.6 * 0.5 + 1.6 * 0.25) / 4
    assert value.item() == pytest.approx(expected, rel=1e-6) and value.dtype == torch.float64


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Geometric(1.0), "ratio=1.0 must be in"),
        (lambda: Geometric(0.0), "ratio=0.0 must be in"),
        (lambda: Final("episode"), "within='episode' must be one of window, horizon"),
        (lambda: Log(0.0), "eps=0.0 must be > 0"),
    ],
)
def test_values_out_of_range_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()
