"""Statistics of heavy-tailed losses: intervals, probabilities of improvement, profiles.

A problem that diverged has an infinite loss: a value like any other, the worst, never dropped.
Which method an interval takes was chosen by its coverage, measured in tests/test_statistics.py.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

Floats = npt.NDArray[np.float64]
CONFIDENCE = 0.95
TAIL = (1 - CONFIDENCE) / 2
RESAMPLES = 2000
FEWEST_FOR_BOOTSTRAP = 30
"""Below this many values none of the bootstraps keeps a promise of 95 %."""
FEWEST_FOR_MEDIAN = 6
"""Below this many values not even the smallest and the largest bound the median with 95 %."""
CELLS_AT_ONCE = 4_000_000
TRIMMED = 0.25


class Interval(NamedTuple):
    """A point estimate with its 95 % interval; the bounds are NaN where n is too small for one."""

    estimate: float
    low: float
    high: float


class SeedsInterval(NamedTuple):
    """A mean over n meta-seeds with its 95 % interval, and how that was made.

    `method` is "Student-t", "studentized bootstrap", or "none" for a single seed.
    """

    estimate: float
    low: float
    high: float
    n: int
    method: str


def median_interval(values: Floats) -> Interval:
    """Median over problems, with the interval between two order statistics.

    By the binomial distribution it covers at least 95 %, whatever continuous distribution the
    values have: up to 99.3 % below n = 30, and at most 98 % from there on. Losses and log losses
    have the same one.

    Args:
        values: (n,) one per problem; infinities are ordered like any other value.

    Returns:
        The median and its interval, whose bounds are NaN below n = 6.

    Raises:
        ValueError: if there is no value or one is NaN.
    """
    _check(values)
    with np.errstate(invalid="ignore"):  # between -inf and inf there is none
        estimate = float(np.median(values))
    if len(values) < FEWEST_FOR_MEDIAN:
        return Interval(estimate, np.nan, np.nan)
    test: Any = stats.quantile_test(values, p=0.5)
    return Interval(estimate, *map(float, test.confidence_interval(CONFIDENCE)))


def mean_interval(values: Floats, seed: int = 0) -> Interval:
    """Mean over problems, with a studentized bootstrap interval (Efron & Tibshirani 1993, 12.5).

    Of skewed values it covers less than 95 %, though more than the percentile, BCa and t intervals.

    Args:
        values: (n,) one per problem.
        seed: of the resampling.

    Returns:
        The mean and its interval. Its bounds are NaN below n = 30; where values are infinite but
        not all the same, they are -inf and inf, for nothing is excluded.

    Raises:
        ValueError: if there is no value or one is NaN.
    """
    _check(values)
    if len(values) < FEWEST_FOR_BOOTSTRAP:
        return Interval(_mean(values), np.nan, np.nan)
    return _of_mean(values, lambda scaled: _studentized_quantiles(scaled, seed))


def interquartile_mean_interval(values: Floats, seed: int = 0) -> Interval:
    """Mean of the middle half of the values, with a percentile bootstrap interval.

    The 25 % trimmed mean of Agarwal et al. (2021), arXiv:2108.13264.

    Args:
        values: (n,) one per problem. A quarter, rounded down, is left out at either end, so that
            the mean bears as many infinite values.
        seed: of the resampling.

    Returns:
        The interquartile mean and its interval, whose bounds are NaN below n = 30.

    Raises:
        ValueError: if there is no value or one is NaN.
    """
    _check(values)
    estimate = float(_interquartile_mean(values))
    if len(values) < FEWEST_FOR_BOOTSTRAP:
        return Interval(estimate, np.nan, np.nan)
    return Interval(estimate, *_quantiles(_resampled(values, _interquartile_mean, seed)))


def student_interval(values: Floats) -> Interval:
    """Mean over few units, with a Student-t interval.

    Args:
        values: (n,) one per unit, roughly normal, such as the median log ratios of meta-seeds.

    Returns:
        The mean and its interval. Its bounds are NaN for n = 1; where values are infinite but not
        all the same, they are -inf and inf, for nothing is excluded.

    Raises:
        ValueError: if there is no value or one is NaN.
    """
    _check(values)
    if len(values) == 1:
        return Interval(float(values[0]), np.nan, np.nan)
    half = float(stats.t.isf(TAIL, len(values) - 1))
    return _of_mean(values, lambda _: (-half, half))


def seeds_interval(values: Floats, seed: int = 0) -> SeedsInterval:
    """Mean over meta-seeds: Student-t below n = 30, the studentized bootstrap from there on.

    Args:
        values: (n,) one per meta-seed.
        seed: of the resampling.

    Raises:
        ValueError: if there is no value or one is NaN.
    """
    _check(values)
    n = len(values)
    if n >= FEWEST_FOR_BOOTSTRAP:
        return SeedsInterval(*mean_interval(values, seed), n, "studentized bootstrap")
    return SeedsInterval(*student_interval(values), n, "none" if n == 1 else "Student-t")


def log_ratio(learned: Floats, baseline: Floats) -> Floats:
    """log(learned / baseline), problem by problem (n,): negative where the learned rule is better.

    Where both are equal, be it zero or infinite, the problem is a tie, 0; where only one is
    infinite or zero, so is the ratio, which a median can bear.

    Raises:
        ValueError: if the lengths differ or a value is negative or NaN.
    """
    _check_paired(learned, baseline)
    if not (np.all(learned >= 0) and np.all(baseline >= 0)):
        raise ValueError("losses must be >= 0 and not NaN to form a log ratio")
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log(learned) - np.log(baseline)
    return np.where(learned == baseline, 0.0, ratio)


def paired_improvement(learned: Floats, baseline: Floats) -> Interval:
    """Probability that the learned rule has the lower loss on a problem; a tie counts as half.

    The interval is Wilson's (1927) for a proportion, a little wide where there are ties. It does
    not shrink to nothing where one rule wins every time.

    Args:
        learned: (n,) losses.
        baseline: (n,) losses on the same problems.

    Returns:
        An estimate in [0, 1] and its interval, for any n >= 1.

    Raises:
        ValueError: if the lengths differ, there is no value or one is NaN.
    """
    _check_paired(learned, baseline)
    _check(learned)
    _check(baseline)
    n, z = len(learned), float(stats.norm.isf(TAIL))
    p = float(np.mean(learned < baseline) + 0.5 * np.mean(learned == baseline))
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return Interval(p, max(0.0, float(middle - half)), min(1.0, float(middle + half)))


def unpaired_improvement(learned: Floats, baseline: Floats) -> Interval:
    """Probability that a learned loss is below an independent baseline's; a tie counts as half.

    The Mann-Whitney statistic U / (m n), Agarwal et al. (2021). The interval is the score interval
    of Newcombe (2006, method 5), Statistics in Medicine 25, 559-573. It does not shrink to nothing
    where one side wins every time.

    Args:
        learned: (m,) losses, for instance one per meta-seed.
        baseline: (n,) losses of other units.

    Returns:
        An estimate in [0, 1] and its interval, for any m, n >= 1.

    Raises:
        ValueError: if a side has no value or one is NaN.
    """
    _check(learned)
    _check(baseline)
    m, n = len(learned), len(baseline)
    # ranks, not values: the test subtracts infinities
    ranks = stats.rankdata(np.concatenate([learned, baseline]))
    p = 1 - float(ranks[:m].sum() - m * (m + 1) / 2) / (m * n)
    return Interval(p, _score_bound(p, m, n), 1 - _score_bound(1 - p, m, n))


def performance_profile(losses: Floats, factors: Floats) -> Floats:
    """Fraction of the problems that each rule solves within a factor of the best rule.

    The performance profile of Dolan & More (2002), Mathematical Programming 91, 201-213.

    Args:
        losses: (R, n) of R rules on the same n problems, >= 0; an infinite one is never solved.
        factors: (K,) >= 1.

    Returns:
        (R, K) in [0, 1], not falling along the factors. At factor 1 it is the fraction of the
        problems on which a rule is the best or among the best.

    Raises:
        ValueError: if there is no loss, one is negative or NaN, or a factor is below 1.
    """
    if losses.ndim != 2 or not losses.size or not np.all(losses >= 0):
        raise ValueError(
            f"a profile needs losses (R, n), >= 0 and not NaN, got shape {losses.shape}"
        )
    if not np.all(factors >= 1):
        raise ValueError(f"factors of the best loss must be >= 1, got {factors.min()}")
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        best = losses.min(axis=0)
        ratio = np.where(losses == best, 1.0, losses / best)
    solved = np.isfinite(losses)[..., None] & (ratio[..., None] <= factors)
    return np.asarray(solved.mean(axis=1), dtype=np.float64)


def loss_distribution(losses: Floats, thresholds: Floats) -> Floats:
    """Fraction of the units whose loss is at or below each threshold.

    The run-score distribution of Agarwal et al. (2021), for losses: higher curves are better.

    Args:
        losses: (..., n); infinite ones are below no finite threshold.
        thresholds: (K,) finite.

    Returns:
        (..., K) in [0, 1], not falling along rising thresholds.

    Raises:
        ValueError: if there is no loss or one is NaN.
    """
    _check(losses.ravel())
    return np.asarray((losses[..., None] <= thresholds).mean(axis=-2), dtype=np.float64)


def _check(values: Floats) -> None:
    """Refuse what has no interval."""
    if values.ndim != 1 or not len(values):
        raise ValueError(f"an interval needs values (n,) with n >= 1, got shape {values.shape}")
    if np.isnan(values).any():
        raise ValueError("an interval of NaN values means nothing: count failures as infinite")


def _check_paired(learned: Floats, baseline: Floats) -> None:
    """Refuse values that are not of the same problems."""
    if learned.shape != baseline.shape:
        raise ValueError(f"paired values differ in shape: {learned.shape} and {baseline.shape}")


def _mean(values: Floats) -> float:
    """Mean that neither overflows nor warns; NaN of opposite infinities."""
    with np.errstate(invalid="ignore"):
        return float(np.sum(values / len(values)))


def _of_mean(values: Floats, quantiles: Callable[[Floats], tuple[float, float]]) -> Interval:
    """Interval of a mean, from quantiles of (its estimate - itself) / its standard error.

    `quantiles` is given the values scaled to at most 1 in size, so that no square overflows.
    """
    if np.all(values == values[0]):
        return Interval(float(values[0]), float(values[0]), float(values[0]))
    if np.isinf(values).any():
        return Interval(_mean(values), -np.inf, np.inf)
    scale = float(np.abs(values).max())
    scaled = values / scale
    low, high = quantiles(scaled)
    mean, error = scaled.mean(), scaled.std(ddof=1) / np.sqrt(len(values))
    with np.errstate(over="ignore"):
        bounds = (float(scale * bound) for bound in (mean - high * error, mean - low * error))
        return Interval(_mean(values), *bounds)


def _studentized_quantiles(values: Floats, seed: int) -> tuple[float, float]:
    """Quantiles of (mean of a resample - mean) / standard error of the resample."""
    mean = values.mean()

    def studentized(sample: Floats, axis: int) -> Floats:
        distance = sample.mean(axis=axis) - mean
        error = sample.std(axis=axis, ddof=1) / np.sqrt(len(values))
        with np.errstate(divide="ignore", invalid="ignore"):
            # a resample of one value alone bounds nothing
            return np.where(distance == 0, 0.0, distance / error)

    return _quantiles(_resampled(values, studentized, seed))


def _interquartile_mean(values: Floats, axis: int = -1) -> Floats:
    """25 % trimmed mean; NaN where infinities of both signs are left."""
    with np.errstate(invalid="ignore"):
        return np.asarray(stats.trim_mean(values, TRIMMED, axis=axis), dtype=np.float64)


def _resampled(values: Floats, statistic: Callable[..., Floats], seed: int) -> Floats:
    """(RESAMPLES,) a statistic that takes an `axis`, of resamples of (n,) values."""
    rng, n = np.random.default_rng(seed), len(values)
    parts = np.array_split(np.arange(RESAMPLES), -(-RESAMPLES * n // CELLS_AT_ONCE))
    return np.concatenate(
        [statistic(values[rng.integers(0, n, (len(part), n))], axis=-1) for part in parts]
    )


def _quantiles(resampled: Floats) -> tuple[float, float]:
    """The two tails' order statistics: no interpolation, which infinities do not bear."""
    low: Any = np.quantile(resampled, TAIL, method="lower")
    high: Any = np.quantile(resampled, 1 - TAIL, method="higher")
    return float(low), float(high)


def _score_bound(p: float, m: int, n: int) -> float:
    """Lower bound t < p with p - t = z se(t), where se is that of Hanley & McNeil (1982)."""
    if p <= 0:
        return 0.0
    z, others = float(stats.norm.isf(TAIL)), (m + n) / 2 - 1

    def excess(t: float) -> float:
        spread = 1 + others * ((1 - t) / (2 - t) + t / (1 + t))
        return (p - t) ** 2 - z**2 * t * (1 - t) * spread / (m * n)

    # at p = 1 the variance ends, a second root
    return float(optimize.brentq(excess, 0.0, p * (1 - 1e-9)))
