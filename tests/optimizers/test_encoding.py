"""Encodings against the paper's formulas."""

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from l2l_exp.optimizers.encoding import Identity, LogSign


def paper(x: float, p: float) -> tuple[float, float]:
    """Appendix A of arXiv:1606.04474, its two branches."""
    if abs(x) >= math.exp(-p):
        return math.log(abs(x)) / p, math.copysign(1, x)
    return -1, math.exp(p) * x


@given(
    st.floats(-1e30, 1e30, allow_subnormal=False) | st.floats(-1e-3, 1e-3, allow_subnormal=False),
    st.sampled_from([1.0, 5.0, 10.0]),
)
@example(0.0, 10.0)
@example(math.exp(-10), 10.0)
@example(-math.exp(-10), 10.0)
@example(math.nextafter(math.exp(-5), 0), 5.0)
@example(math.nextafter(math.exp(-5), 1), 5.0)
def test_log_sign_is_the_papers_two_branches(x, p):
    encoded = LogSign(p)(torch.tensor([x], dtype=torch.float64))
    assert encoded.shape == (2, 1)
    assert encoded.flatten().tolist() == pytest.approx(paper(x, p), rel=1e-12, abs=1e-12)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=5))
def test_log_sign_is_odd_in_its_sign_and_even_in_its_magnitude(values):
    grad = torch.tensor(values, dtype=torch.float64)
    (magnitude, sign), (other_magnitude, other_sign) = LogSign()(grad), LogSign()(-grad)
    assert torch.equal(magnitude, other_magnitude) and torch.equal(sign, -other_sign)


def test_log_sign_has_a_finite_derivative_everywhere_zero_included():
    grad = torch.tensor([0.0, 1e-30, -1e-3, math.exp(-10), 5.0], dtype=torch.float64)
    slopes = torch.func.jacrev(LogSign())(grad)
    assert slopes.isfinite().all()


def test_identity_multiplies_by_its_scale():
    grad = torch.tensor([1.0, -2.0])
    assert Identity(3.0)(grad).tolist() == [[3.0, -6.0]]


def test_the_number_of_features_is_size():
    for encoding in (Identity(), LogSign()):
        assert encoding(torch.ones(4)).shape == (encoding.size, 4)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_scale_and_p_must_be_positive(value):
    with pytest.raises(ValueError, match=f"scale={value} must be > 0"):
        Identity(value)
    with pytest.raises(ValueError, match=f"p={value} must be > 0"):
        LogSign(value)
