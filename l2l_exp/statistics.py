"""Intervals for heavy-tailed losses: bootstrap over problems, paired log ratios."""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]
CONFIDENCE = 0.95
RESAMPLES = 2000
FEWEST_FOR_BOOTSTRAP = 30
"""Below this a percentile bootstrap is too narrow to be called a 95 % interval."""
CELLS_AT_ONCE = 4_000_000


class Interval(NamedTuple):
    """A point estimate with its 95 % interval; the bounds are NaN where n is too small for one."""

    estimate: float
    low: float
    high: float


def median_interval(values: Floats, seed: int = 0) -> Interval:
    """Median over problems, with a percentile bootstrap interval.

    Args:
        values: (n,) one per problem; infinities are ordered like any other value.
        seed: of the resampling.

    Returns:
        The median and its interval, whose bounds are NaN below n = 30.

    Raises:
        ValueError: if there is no value or one is NaN.
    """
    return _bootstrap(values, np.median, seed)


def mean_interval(values: Floats, seed: int = 0) -> Interval:
    """Mean over problems, with a percentile bootstrap interval; otherwise as `median_interval`."""
    return _bootstrap(values, np.mean, seed)


def log_ratio(learned: Floats, baseline: Floats) -> Floats:
    """log(learned / baseline), problem by problem (n,): negative where the learned rule is better.

    Where both are equal, be it zero or infinite, the problem is a tie, 0; where only one is
    infinite or zero, so is the ratio, which a median can bear.

    Raises:
        ValueError: if the lengths differ or a value is negative or NaN.
    """
    if learned.shape != baseline.shape:
        raise ValueError(f"paired values differ in shape: {learned.shape} and {baseline.shape}")
    if not (np.all(learned >= 0) and np.all(baseline >= 0)):
        raise ValueError("losses must be >= 0 and not NaN to form a log ratio")
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log(learned) - np.log(baseline)
    return np.where(learned == baseline, 0.0, ratio)


def _bootstrap(values: Floats, statistic: Callable[..., Floats], seed: int) -> Interval:
    """Percentile bootstrap of a statistic of (n,) values that takes an `axis`."""
    if values.ndim != 1 or not len(values):
        raise ValueError(f"an interval needs values (n,) with n >= 1, got shape {values.shape}")
    if np.isnan(values).any():
        raise ValueError("an interval of NaN values means nothing: count failures as infinite")
    with np.errstate(invalid="ignore", over="ignore"), warnings.catch_warnings():
        # the mean of inf and -inf is NaN, and so are its bounds: they say so
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        estimate = float(statistic(values))
        if len(values) < FEWEST_FOR_BOOTSTRAP:
            return Interval(estimate, np.nan, np.nan)
        result = stats.bootstrap(
            (values,),
            statistic,
            n_resamples=RESAMPLES,
            batch=max(1, CELLS_AT_ONCE // len(values)),
            confidence_level=CONFIDENCE,
            method="percentile",
            vectorized=True,
            rng=np.random.default_rng(seed),
        )
    low, high = result.confidence_interval
    return Interval(estimate, float(low), float(high))
