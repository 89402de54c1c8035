"""Statistics against closed forms, published values and their own coverage.

`pytest -m slow -s -k covers tests/test_statistics.py` prints the coverages that README tells.
"""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from l2l_exp.statistics import (
    FEWEST_FOR_BOOTSTRAP,
    FEWEST_FOR_MEDIAN,
    SeedsInterval,
    interquartile_mean_interval,
    log_ratio,
    loss_distribution,
    mean_interval,
    median_interval,
    paired_improvement,
    performance_profile,
    seeds_interval,
    student_interval,
    unpaired_improvement,
)

INF = math.inf
BOOTSTRAPS = [mean_interval, interquartile_mean_interval]
OVER_PROBLEMS = [median_interval, *BOOTSTRAPS]
INTERVALS = [*OVER_PROBLEMS, student_interval, seeds_interval]
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


# ------------------------------------------------------------------ any interval


@pytest.mark.parametrize("interval", INTERVALS)
@pytest.mark.parametrize(
    ("values", "message"),
    [([], "n >= 1"), ([[1.0, 2.0]], "shape"), ([1.0, math.nan], "count failures as infinite")],
)
def test_an_interval_refuses_what_has_none(interval, values, message):
    with pytest.raises(ValueError, match=message):
        interval(np.array(values))


@pytest.mark.parametrize("interval", OVER_PROBLEMS)
def test_few_problems_have_an_estimate_and_no_interval(interval):
    fewest = FEWEST_FOR_MEDIAN if interval is median_interval else FEWEST_FOR_BOOTSTRAP
    few = interval(normal(fewest - 1))
    assert math.isfinite(few.estimate) and math.isnan(few.low) and math.isnan(few.high)
    enough = interval(normal(fewest))
    assert (FEWEST_FOR_MEDIAN, FEWEST_FOR_BOOTSTRAP) == (6, 30)
    assert enough.low < enough.estimate < enough.high


@pytest.mark.parametrize("n", range(6, 30))
def test_the_interval_of_few_medians_covers_95_percent_at_least(n):
    """By the binomial distribution: the interval between ranks i and j covers P(i <= X < j)."""
    _, low, high = median_interval(np.arange(1.0, n + 1))
    covered = stats.binom.cdf(high - 1, n, 0.5) - stats.binom.cdf(low - 1, n, 0.5)
    narrower = stats.binom.cdf(high - 2, n, 0.5) - stats.binom.cdf(low, n, 0.5)
    assert 0.95 <= covered < 0.993 and narrower < 0.95


@pytest.mark.parametrize("interval", INTERVALS)
@pytest.mark.parametrize("scale", [2.0, 1e-300, 1e300])
def test_an_interval_moves_and_stretches_with_its_values(interval, scale):
    values = normal(60)
    here, there = interval(values)[:3], interval(scale * (5.0 + values))[:3]
    np.testing.assert_allclose(there, scale * (5.0 + np.array(here)), rtol=1e-12)


@pytest.mark.parametrize("interval", INTERVALS)
def test_mirrored_values_have_the_mirrored_interval_up_to_monte_carlo_error(interval):
    values = normal(101)
    here, mirrored = interval(values), interval(-values)
    width = here.high - here.low
    assert mirrored.estimate == pytest.approx(-here.estimate)
    assert mirrored.low == pytest.approx(-here.high, abs=0.1 * width)
    assert mirrored.high == pytest.approx(-here.low, abs=0.1 * width)


@pytest.mark.parametrize("interval", BOOTSTRAPS)
def test_a_bootstrap_is_a_function_of_values_and_seed(interval):
    values = normal(40)
    assert interval(values, seed=5) == interval(values.copy(), seed=5)
    assert len({interval(values, seed=seed) for seed in range(6)}) > 1


@pytest.mark.parametrize("interval", INTERVALS)
def test_an_interval_leaves_its_values_alone(interval):
    values = normal(35)
    before = values.copy()
    interval(values)
    np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize("interval", INTERVALS)
@pytest.mark.parametrize("value", [0.1, INF, -INF])
def test_equal_values_have_an_interval_of_no_width(interval, value):
    assert interval(np.full(40, value))[:3] == pytest.approx((value, value, value), rel=1e-15)


# ------------------------------------------------------------------ median


@pytest.mark.parametrize(("n", "low", "high"), [(30, 10, 21), (50, 18, 33), (100, 40, 61)])
def test_the_median_interval_is_the_published_pair_of_order_statistics(n, low, high):
    """Conover, Practical Nonparametric Statistics, and any table of the sign test."""
    ranks = np.arange(1.0, n + 1)
    result = median_interval(np.random.default_rng(3).permutation(ranks))
    assert result == ((n + 1) / 2, low, high)


@pytest.mark.parametrize("n", [30, 31, 32, 45, 100, 101, 1000, 5000])
def test_the_median_interval_covers_at_least_95_percent_by_the_binomial_distribution(n):
    _, low, high = median_interval(np.arange(1.0, n + 1))
    coverage = stats.binom.cdf(high - 1, n, 0.5) - stats.binom.cdf(low - 1, n, 0.5)
    narrower = stats.binom.cdf(high - 2, n, 0.5) - stats.binom.cdf(low, n, 0.5)
    assert narrower < 0.95 <= coverage < 0.98


@given(arrays.arrays(np.float64, 40, elements=LOSSES, unique=True))
def test_the_median_interval_of_logs_is_the_log_of_the_interval(losses):
    with np.errstate(divide="ignore"):
        logs, bounds = np.log(losses), np.log(median_interval(losses)[1:])
    np.testing.assert_array_equal(median_interval(logs)[1:], bounds)


def test_a_median_bears_infinite_losses():
    values = np.arange(1.0, 101.0)
    values[90:] = INF
    assert median_interval(values) == (50.5, 40, 61)


def test_a_median_of_mostly_infinite_losses_is_infinite():
    values = np.full(100, INF)
    values[:10] = 1.0
    assert median_interval(values) == (INF, INF, INF)


def test_a_median_on_the_verge_of_infinity_has_a_finite_lower_bound():
    values = np.arange(1.0, 102.0)
    values[50:] = INF
    result = median_interval(values)
    assert math.isfinite(result.low) and result.estimate == result.high == INF


# ------------------------------------------------------------------ means


@pytest.mark.parametrize("count", [100, 1000])
def test_the_mean_interval_of_normal_data_is_the_normal_theory_one(count):
    values = normal(count)
    result = mean_interval(values)
    half = 1.96 * values.std() / math.sqrt(count)
    assert result.estimate == pytest.approx(values.mean())
    assert result.low == pytest.approx(values.mean() - half, abs=0.12 * half)
    assert result.high == pytest.approx(values.mean() + half, abs=0.12 * half)


def test_the_mean_interval_leans_towards_the_long_tail():
    """A percentile bootstrap does so half as much, which is why it covers less."""
    values = np.random.default_rng(5).lognormal(size=50)
    result = mean_interval(values)
    percentile = stats.bootstrap(
        (values,), np.mean, n_resamples=2000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert result.high > percentile.high and result.low > percentile.low


def test_the_mean_interval_is_the_studentized_bootstraps():
    """The textbook's formula, one resample after another; quantiles agree up to Monte Carlo."""
    values, rng = np.random.default_rng(7).exponential(size=40), np.random.default_rng(8)
    pivots = []
    for _ in range(20_000):
        sample = rng.choice(values, 40)
        pivots.append((sample.mean() - values.mean()) / stats.sem(sample))
    low, high = values.mean() - np.quantile(pivots, [0.975, 0.025]) * stats.sem(values)
    result = mean_interval(values)
    assert result.low == pytest.approx(low, abs=0.06 * (high - low))
    assert result.high == pytest.approx(high, abs=0.06 * (high - low))


def test_where_one_problem_alone_differs_its_side_is_unbounded():
    values = np.zeros(40)
    values[3] = 1.0
    result = mean_interval(values)
    assert result.estimate == pytest.approx(1 / 40) and result.high == INF
    assert math.isfinite(result.low)


def test_where_a_resample_may_have_no_spread_there_is_still_an_interval():
    """An eighth of the resamples are zeros alone: their mean is exact, their error none."""
    values = np.zeros(40)
    values[:2] = -1.0, 1.0
    result = mean_interval(values)
    assert result.estimate == 0 and result.low < 0 < result.high


@pytest.mark.parametrize("interval", [mean_interval, student_interval, seeds_interval])
@pytest.mark.parametrize("infinite", [INF, -INF])
def test_a_mean_with_an_infinite_value_is_infinite_and_excludes_nothing(interval, infinite):
    values = normal(50)
    values[7] = infinite
    assert interval(values)[:3] == (infinite, -INF, INF)


@pytest.mark.parametrize("interval", [mean_interval, student_interval, seeds_interval])
def test_a_mean_of_opposite_infinities_is_undefined_and_says_so_quietly(interval):
    """The mean difference where each rule diverged on another problem."""
    values = normal(50)
    values[3], values[4] = INF, -INF
    result = interval(values)
    assert math.isnan(result.estimate) and result[1:3] == (-INF, INF)


def test_the_interquartile_mean_by_hand():
    values = np.concatenate([np.repeat([-1e9, 2.0, 4.0, 1e9], 10)])
    assert interquartile_mean_interval(values).estimate == 3.0
    assert interquartile_mean_interval(np.array([1.0, 2.0, 3.0, 10.0])).estimate == 2.5
    assert interquartile_mean_interval(np.array([1.0, 2.0, 6.0])).estimate == 3.0  # trims none


@given(arrays.arrays(np.float64, st.integers(1, 40), elements=st.floats(-1e6, 1e6)))
def test_the_interquartile_mean_is_the_trimmed_mean_between_the_extremes(values):
    result = interquartile_mean_interval(values)
    assert result.estimate == stats.trim_mean(values, 0.25)
    tolerance = 1e-9 * np.abs(values).max()
    assert values.min() - tolerance <= result.estimate <= values.max() + tolerance


def test_the_interquartile_mean_bears_a_quarter_of_infinite_losses():
    values = np.arange(1.0, 41.0)
    values[30:] = INF
    result = interquartile_mean_interval(values)
    assert result.estimate == np.arange(11, 31).mean()
    assert 11 < result.low < result.estimate and result.high == INF
    values[29] = INF
    assert interquartile_mean_interval(values).estimate == INF
    values[:] = np.arange(1.0, 41.0)
    values[38:] = INF
    assert math.isfinite(interquartile_mean_interval(values).high)


def test_an_interquartile_mean_of_opposite_infinities_is_undefined_and_says_so_quietly():
    values = np.repeat([-INF, 1.0, INF], [15, 10, 15])
    assert all(math.isnan(value) for value in interquartile_mean_interval(values))


# ------------------------------------------------------------------ seeds


@pytest.mark.parametrize(
    ("n", "critical"), [(2, 12.706), (3, 4.303), (5, 2.776), (10, 2.262), (29, 2.048)]
)
def test_the_student_interval_has_the_critical_values_of_the_textbook(n, critical):
    values = normal(n)
    estimate, low, high = student_interval(values)
    error = values.std(ddof=1) / math.sqrt(n)
    assert estimate == pytest.approx(values.mean())
    assert (high - estimate) / error == pytest.approx(critical, abs=6e-4)
    assert (estimate - low) / error == pytest.approx(critical, abs=6e-4)


def test_the_student_interval_of_the_sleep_data_is_the_published_one():
    """Student (1908): the difference of two soporifics; R prints (0.7001142, 2.4598858)."""
    difference = np.array([1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4])
    assert student_interval(difference) == pytest.approx((1.58, 0.7001142, 2.4598858), abs=5e-8)


@given(arrays.arrays(np.float64, st.integers(2, 12), elements=st.floats(-1e3, 1e3), unique=True))
def test_the_student_interval_is_scipys(values):
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    np.testing.assert_allclose(student_interval(values)[1:], expected, rtol=1e-9, atol=1e-9)


def test_over_seeds_the_method_follows_their_number():
    one, few, many = (seeds_interval(normal(n)) for n in (1, 29, 30))
    assert one == SeedsInterval(normal(1)[0], one.low, one.high, 1, "none")
    assert math.isnan(one.low) and math.isnan(one.high)
    assert few == (*student_interval(normal(29)), 29, "Student-t")
    assert many == (*mean_interval(normal(30)), 30, "studentized bootstrap")


# ------------------------------------------------------------------ improvement


def test_the_probability_of_improvement_by_hand():
    learned = np.array([1.0, 2.0, INF, INF, 0.0])
    baseline = np.array([2.0, 1.0, INF, 5.0, INF])
    assert paired_improvement(learned, baseline).estimate == pytest.approx(2.5 / 5)
    # of 25 pairs 1 < 2, inf, 5, inf; 2 < inf, 5, inf; 0 < all; ties: 1, 2, and 4 of infinities
    assert unpaired_improvement(learned, baseline).estimate == pytest.approx((12 + 3) / 25)


def test_the_paired_interval_is_wilsons():
    """81 of 263: Newcombe (1998), Statistics in Medicine 17, table I: 0.2553 to 0.3662."""
    learned = np.zeros(263)
    baseline = np.where(np.arange(263) < 81, 1.0, -1.0)
    result = paired_improvement(learned, baseline)
    assert result == pytest.approx((81 / 263, 0.2553, 0.3662), abs=5e-5)
    expected = stats.binomtest(81, 263).proportion_ci(method="wilson")
    assert result[1:] == pytest.approx(tuple(expected))


@pytest.mark.parametrize("improvement", [paired_improvement, unpaired_improvement])
@pytest.mark.parametrize("n", [1, 3, 100])
def test_who_always_wins_has_no_certainty(improvement, n):
    low, high = np.zeros(n), np.full(n, INF)
    assert improvement(low, high)[::2] == pytest.approx((1.0, 1.0))
    assert improvement(high, low)[:2] == pytest.approx((0.0, 0.0))
    assert 0 < improvement(low, high).low < 1
    assert improvement(low, high).low == pytest.approx(1 - improvement(high, low).high)


def test_certainty_grows_with_the_number_of_wins():
    for improvement in (paired_improvement, unpaired_improvement):
        bounds = [improvement(np.zeros(n), np.ones(n)).low for n in (1, 2, 5, 30, 1000)]
        assert bounds == sorted(bounds) and bounds[-1] > 0.99


SAMPLES = st.integers(1, 9).flatmap(
    lambda n: arrays.arrays(np.float64, n, elements=st.sampled_from([0.0, 1.0, 2.0, 5.0, INF]))
)


@given(SAMPLES, SAMPLES)
def test_the_unpaired_probability_is_mann_whitneys_and_counts_every_pair(x, y):
    result = unpaired_improvement(x, y)
    wins = np.mean(x[:, None] < y) + 0.5 * np.mean(x[:, None] == y)
    assert result.estimate == pytest.approx(wins)
    finite = np.nan_to_num(x, posinf=9.0), np.nan_to_num(y, posinf=9.0)
    u = stats.mannwhitneyu(finite[1], finite[0], method="asymptotic").statistic
    assert result.estimate == pytest.approx(u / (len(x) * len(y)))
    assert 0 <= result.low <= result.estimate <= result.high <= 1


@given(SAMPLES, SAMPLES)
def test_the_unpaired_probabilities_of_both_sides_add_to_one(x, y):
    here, there = unpaired_improvement(x, y), unpaired_improvement(y, x)
    assert here == pytest.approx((1 - there.estimate, 1 - there.high, 1 - there.low))


@given(SAMPLES)
def test_the_paired_probabilities_of_both_sides_add_to_one(x):
    y = np.roll(x, 1)
    here, there = paired_improvement(x, y), paired_improvement(y, x)
    assert here == pytest.approx((1 - there.estimate, 1 - there.high, 1 - there.low))


def test_the_unpaired_interval_solves_the_score_equation():
    """Newcombe (2006), method 5, by bisection on his formula."""
    x, y = normal(8), normal(11, seed=1) + 1.5
    p, low, high = unpaired_improvement(x, y)
    for t in (low, high):
        spread = 1 + (19 / 2 - 1) * ((1 - t) / (2 - t) + t / (1 + t))
        variance = t * (1 - t) / (8 * 11) * spread
        assert abs(p - t) == pytest.approx(1.959964 * math.sqrt(variance), rel=1e-6)
    assert low < p < high


@pytest.mark.parametrize("improvement", [paired_improvement, unpaired_improvement])
def test_improvement_refuses_what_cannot_be_compared(improvement):
    with pytest.raises(ValueError, match="count failures as infinite"):
        improvement(np.array([1.0]), np.array([math.nan]))
    with pytest.raises(ValueError, match="n >= 1"):
        improvement(np.array([]), np.array([]))
    with pytest.raises(ValueError, match="differ in shape"):
        paired_improvement(np.ones(3), np.ones(4))


# ------------------------------------------------------------------ profiles


def test_a_performance_profile_by_hand():
    losses = np.array(
        [
            [1.0, 4.0, 3.0, INF, 0.0, 2.0],  # best, x4, tie, never, best, best
            [2.0, 1.0, 3.0, INF, 1.0, INF],  # x2, best, tie, never, x inf, diverged
        ]
    )
    profile = performance_profile(losses, np.array([1.0, 2.0, 3.9, 4.0, 1e300, INF]))
    np.testing.assert_allclose(profile[0], np.array([4, 4, 4, 5, 5, 5]) / 6)
    np.testing.assert_allclose(profile[1], np.array([2, 3, 3, 3, 3, 4]) / 6)


LOSS_TABLES = arrays.arrays(
    np.float64, st.tuples(st.integers(1, 4), st.integers(1, 6)), elements=LOSSES
)


@given(LOSS_TABLES, st.randoms(use_true_random=False))
def test_a_performance_profile_rises_to_the_problems_that_were_solved(losses, random):
    factors = np.array([1.0, 1.5, 10.0, 1e6, INF])
    profile = performance_profile(losses, factors)
    assert profile.shape == (len(losses), 5)
    assert (np.diff(profile) >= 0).all()
    np.testing.assert_array_equal(profile[:, -1], np.isfinite(losses).mean(axis=1))
    assert profile[:, 0].sum() >= np.isfinite(losses).any(axis=0).mean() - 1e-12
    order = random.sample(range(losses.shape[1]), losses.shape[1])
    np.testing.assert_allclose(performance_profile(losses[:, order], factors), profile)


@given(LOSS_TABLES)
def test_a_performance_profile_ignores_the_scale_of_a_problem(losses):
    losses = np.where((losses < 1e-100) | (losses > 1e100), 0.0, losses)
    scale = 2.0 ** np.arange(losses.shape[1])
    factors = np.array([1.0, 1.5, 10.0])
    np.testing.assert_array_equal(
        performance_profile(losses * scale, factors), performance_profile(losses, factors)
    )


@pytest.mark.parametrize(
    ("losses", "factors", "message"),
    [
        (np.ones(3), [1.0], "shape"),
        (np.ones((2, 0)), [1.0], "shape"),
        (-np.ones((2, 3)), [1.0], ">= 0"),
        (np.full((2, 3), math.nan), [1.0], "NaN"),
        (np.ones((2, 3)), [0.5, 2.0], "got 0.5"),
        (np.ones((2, 3)), [math.nan], "got nan"),
    ],
)
def test_a_performance_profile_refuses_what_has_none(losses, factors, message):
    with pytest.raises(ValueError, match=message):
        performance_profile(losses, np.array(factors))


def test_a_loss_distribution_by_hand():
    losses = np.array([[1.0, 2.0, 2.0, INF], [0.0, INF, INF, INF]])
    curve = loss_distribution(losses, np.array([0.0, 1.0, 2.0, 1e300]))
    np.testing.assert_array_equal(curve, [[0, 0.25, 0.75, 0.75], [0.25, 0.25, 0.25, 0.25]])
    np.testing.assert_array_equal(loss_distribution(losses[0], np.array([2.0])), [0.75])
    with pytest.raises(ValueError, match="count failures as infinite"):
        loss_distribution(np.array([math.nan]), np.array([1.0]))


# ------------------------------------------------------------------ coverage

REPLICATIONS = 3000  # Monte Carlo error .4 %
SIGMA = 1.0
CHANCE = 0.7


def interquartile_mean_of_lognormal() -> float:
    upper = stats.norm.ppf(0.75)
    inside = stats.norm.cdf(upper - SIGMA) - stats.norm.cdf(-upper - SIGMA)
    return float(2 * math.exp(SIGMA**2 / 2) * inside)


DRAWS = {
    "normal": lambda rng, n: rng.normal(size=n),
    "lognormal": lambda rng, n: rng.lognormal(0.0, SIGMA, size=n),
    # a meta-seed's own effect, and the median of 100 problems whose log ratios have heavy tails
    "seed medians": lambda rng, n: (
        0.1 * rng.normal(size=n) + np.median(rng.standard_t(2, size=(n, 100)), axis=1)
    ),
}
TRUE = {
    ("mean", "lognormal"): math.exp(SIGMA**2 / 2),
    ("median", "lognormal"): 1.0,
    ("interquartile mean", "lognormal"): interquartile_mean_of_lognormal(),
}
METHODS = {
    "mean": seeds_interval,
    "median": median_interval,
    "interquartile mean": interquartile_mean_interval,
}


def told(what: str, distribution: str, n: int, covered: list[bool]) -> float:
    """Coverage in per cent; shown by -s."""
    coverage = 100 * float(np.mean(covered))
    print(f"\n{what}, {distribution}, n = {n}: {coverage:.1f} %", end="")
    return coverage


def simulated(what: str, distribution: str, n: int) -> float:
    """Coverage in per cent of what is printed as a 95 % interval."""
    rng = np.random.default_rng(n)
    truth = TRUE.get((what, distribution), 0.0)
    covered = []
    for _ in range(REPLICATIONS):
        _, low, high, *_ = METHODS[what](DRAWS[distribution](rng, n))
        covered.append(low <= truth <= high)
    return told(what, distribution, n, covered)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "distribution", "n"),
    [
        *(("mean", "normal", n) for n in (3, 5, 10, 30, 100)),
        *(("mean", "seed medians", n) for n in (3, 5, 10)),
        ("mean", "lognormal", 100),
        *(
            (what, distribution, n)
            for what in ("median", "interquartile mean")
            for distribution in ("normal", "lognormal")
            for n in (30, 100)
        ),
    ],
)
def test_what_is_promised_covers_93_to_97_percent(what, distribution, n):
    assert 93 <= simulated(what, distribution, n) <= 97


@pytest.mark.slow
@pytest.mark.parametrize(("n", "expected"), [(3, 84), (5, 83), (10, 84), (30, 92)])
def test_the_mean_of_lognormal_values_covers_less_as_readme_says(n, expected):
    assert simulated("mean", "lognormal", n) == pytest.approx(expected, abs=1.5)


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 5, 10, 30, 100])
@pytest.mark.parametrize("distribution", ["normal", "lognormal"])
def test_the_unpaired_probability_of_improvement_covers_93_to_97_percent(distribution, n):
    rng = np.random.default_rng(n)
    shift = stats.norm.ppf(CHANCE) * math.sqrt(2)
    covered = []
    for _ in range(REPLICATIONS):
        x, y = rng.normal(size=n), rng.normal(shift, size=n)
        if distribution == "lognormal":
            x, y = np.exp(x), np.exp(y)
        _, low, high = unpaired_improvement(x, y)
        covered.append(low <= CHANCE <= high)
    assert 93 <= told("unpaired improvement", distribution, n, covered) <= 97


@pytest.mark.parametrize("n", [3, 5, 10, 30, 100])
def test_the_paired_probability_of_improvement_covers_95_percent_on_average(n):
    """Exactly, by the binomial distribution: of any distribution without ties."""
    wins = np.arange(n + 1)
    results = [paired_improvement(np.arange(n) < n - k, np.full(n, 0.5)) for k in wins]
    low, high = (np.array([getattr(one, side) for one in results]) for side in ("low", "high"))
    chances = np.linspace(0.02, 0.98, 481)
    inside = (low <= chances[:, None]) & (chances[:, None] <= high)
    coverage = 100 * (stats.binom.pmf(wins, n, chances[:, None]) * inside).sum(axis=1)
    assert coverage.mean() == pytest.approx(95, abs=0.6)
    if n >= 30:
        assert coverage.min() > 91.5
