"""Schedules in closed form."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2l_exp.meta.schedule import Constant, Cosine


@given(st.floats(0, 1))
def test_constant_is_one(progress):
    assert Constant()(progress) == 1


def test_cosine_warms_up_linearly_then_falls_along_half_a_cosine():
    schedule = Cosine(final=0.2, warmup=0.5)
    points = [0, 0.25, 0.5, 0.75, 1]
    assert [schedule(p) for p in points] == pytest.approx([0, 0.5, 1, 0.6, 0.2])


def test_without_warm_up_cosine_begins_at_one():
    assert [Cosine(final=0.0)(p) for p in (0, 1 / 3, 1 / 2, 1)] == pytest.approx([1, 0.75, 0.5, 0])


@given(st.floats(0, 1), st.floats(0, 0.99), st.floats(0, 1))
def test_a_factor_is_between_zero_and_one(final, warmup, progress):
    assert 0 <= Cosine(final, warmup)(progress) <= 1 + 1e-12


@pytest.mark.parametrize("settings", [{"final": 1.5}, {"final": -0.1}, {"warmup": 1.0}])
def test_values_out_of_range_are_refused_by_name(settings):
    ((name, value),) = settings.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        Cosine(**settings)
