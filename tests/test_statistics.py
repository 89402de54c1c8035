"""Intervals against closed forms, and log ratios against their algebra."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from l2l_exp.statistics import FEWEST_FOR_BOOTSTRAP, log_ratio, mean_interval, median_interval

INF = math.inf
LOSSES = st.floats(min_value=0.0, allow_nan=False, allow_infinity=True, width=64)
PAIRS = arrays.arrays(
    np.float64, st.integers(1, 8).map(lambda n: (2, n)), elements=LOSSES, fill=st.nothing()
)


def normal(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(3.0, 2.0, count)


@pytest.mark.parametrize(
    ("learned", "baseline", "expected"),
    [
        (1.0, math.e, -1.0),
        (math.e**2, 1.0, 2.0),
        (0.0, 0.0, 0.0),
        (INF, INF, 0.0),
        (7.5, 7.5, 0.0),
        (0.0, 1.0, -INF),
        (1.0, 0.0, INF),
        (INF, 1.0, INF),
        (1.0, INF, -INF),
        (0.0, INF, -INF),
        (INF, 0.0, INF),
        (1e-320, 1e300, math.log(1e-320) - math.log(1e300)),  # the quotient itself underflows
    ],
)
def test_log_ratio_of_one_problem(learned, baseline, expected):
    assert log_ratio(np.array([learned]), np.array([baseline])) == pytest.approx([expected])


@given(PAIRS)
def test_log_ratio_changes_sign_when_the_rules_change_places(pair):
    np.testing.assert_array_equal(log_ratio(pair[0], pair[1]), -log_ratio(pair[1], pair[0]))


@given(PAIRS)
def test_log_ratio_is_never_nan_and_orders_the_two(pair):
    ratio = log_ratio(pair[0], pair[1])
    assert not np.isnan(ratio).any()
    assert (ratio[pair[0] == pair[1]] == 0).all()
    assert (ratio[pair[0] < pair[1]] <= 0).all()
    assert (ratio[pair[0] > pair[1]] >= 0).all()


@pytest.mark.parametrize(
    ("learned", "baseline", "message"),
    [
        ([1.0, 2.0], [1.0], "differ in shape"),
        ([-1.0], [1.0], ">= 0"),
        ([1.0], [-1e-9], ">= 0"),
        ([math.nan], [1.0], "NaN"),
        ([1.0], [math.nan], "NaN"),
    ],
)
def test_log_ratio_refuses_what_is_not_a_pair_of_losses(learned, baseline, message):
    with pytest.raises(ValueError, match=message):
        log_ratio(np.array(learned), np.array(baseline))


@pytest.mark.parametrize("interval", [median_interval, mean_interval])
@pytest.mark.parametrize(
    ("values", "message"),
    [([], "n >= 1"), ([[1.0, 2.0]], "shape"), ([1.0, math.nan], "count failures as infinite")],
)
def test_an_interval_refuses_what_has_none(interval, values, message):
    with pytest.raises(ValueError, match=message):
        interval(np.array(values))


@pytest.mark.parametrize("count", [100, 1000])
def test_the_mean_interval_of_normal_data_is_the_normal_theory_one(count):
    values = normal(count)
    result = mean_interval(values)
    half = 1.96 * values.std() / math.sqrt(count)
    assert result.estimate == pytest.approx(values.mean())
    assert result.low == pytest.approx(values.mean() - half, abs=0.12 * half)
    assert result.high == pytest.approx(values.mean() + half, abs=0.12 * half)


def test_the_median_interval_is_the_ideal_bootstraps():
    """P(median of a resample <= k-th value) = P(Bin(n, k / n) >= (n + 1) / 2), for odd n."""
    n = 101
    ranks = np.arange(1.0, n + 1)
    distribution = stats.binom.sf((n - 1) // 2, n, ranks / n)
    low, high = (ranks[np.searchsorted(distribution, level)] for level in (0.025, 0.975))
    result = median_interval(np.random.default_rng(3).permutation(ranks))
    assert result.estimate == 51
    assert abs(result.low - low) <= 1  # Monte Carlo error of 2000 resamples
    assert abs(result.high - high) <= 1


def test_the_median_interval_is_near_the_order_statistics_interval():
    n = 101
    low, high = stats.binom.ppf([0.025, 0.975], n, 0.5)
    values = np.sort(np.random.default_rng(1).lognormal(sigma=2.0, size=n))
    result = median_interval(values)
    ranks = np.searchsorted(values, [result.low, result.high]) + 1
    assert ranks == pytest.approx([low, high + 1], abs=3)


def test_the_median_interval_covers_the_true_median_of_heavy_tailed_losses():
    rng = np.random.default_rng(11)
    covered = []
    for _ in range(200):
        result = median_interval(rng.lognormal(mean=0.0, sigma=2.0, size=100))
        covered.append(result.low <= 1.0 <= result.high)
    assert 0.90 <= np.mean(covered) <= 0.99


@pytest.mark.parametrize("interval", [median_interval, mean_interval])
def test_below_thirty_values_there_is_an_estimate_and_no_interval(interval):
    few = interval(normal(FEWEST_FOR_BOOTSTRAP - 1))
    assert math.isfinite(few.estimate) and math.isnan(few.low) and math.isnan(few.high)
    enough = interval(normal(FEWEST_FOR_BOOTSTRAP))
    assert FEWEST_FOR_BOOTSTRAP == 30
    assert enough.low < enough.estimate < enough.high


@pytest.mark.parametrize("interval", [median_interval, mean_interval])
def test_an_interval_moves_and_stretches_with_its_values(interval):
    values = normal(60)
    here, there = interval(values), interval(5.0 + 2.0 * values)
    np.testing.assert_allclose(there, 5.0 + 2.0 * np.array(here), rtol=1e-12)


@pytest.mark.parametrize("interval", [median_interval, mean_interval])
def test_an_interval_is_a_function_of_values_and_seed(interval):
    values = normal(40)
    assert interval(values, seed=5) == interval(values.copy(), seed=5)
    assert len({interval(values, seed=seed) for seed in range(6)}) > 1


@pytest.mark.parametrize("interval", [median_interval, mean_interval])
def test_an_interval_leaves_its_values_alone(interval):
    values = normal(35)
    before = values.copy()
    interval(values)
    np.testing.assert_array_equal(values, before)


def test_a_median_bears_infinite_losses():
    values = np.arange(1.0, 101.0)
    values[90:] = INF
    result = median_interval(values)
    assert result.estimate == 50.5
    assert 35 < result.low < 50.5 < result.high < 66


def test_a_median_of_mostly_infinite_losses_is_infinite():
    values = np.full(100, INF)
    values[:10] = 1.0
    assert median_interval(values) == (INF, INF, INF)


def test_a_median_on_the_verge_of_infinity_has_a_finite_lower_bound():
    values = np.arange(1.0, 102.0)
    values[50:] = INF
    result = median_interval(values)
    assert math.isfinite(result.low) and result.estimate == result.high == INF


def test_a_mean_with_an_infinite_loss_is_infinite():
    values = normal(50)
    values[7] = INF
    assert mean_interval(values).estimate == INF


@pytest.mark.filterwarnings("error")
def test_a_mean_of_opposite_infinities_is_undefined_and_says_so_quietly():
    """The mean difference where each rule diverged on another problem."""
    values = normal(50)
    values[3], values[4] = INF, -INF
    assert all(math.isnan(bound) for bound in mean_interval(values))
