"""summary.json: what a comparison comes to, in numbers that scripts rely on."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from l2l_exp.comparison import Contender, best_baseline
from l2l_exp.dead import dead_rule
from l2l_exp.evaluation import CRITERIA, STATUSES, Criterion, EvalRecord
from l2l_exp.statistics import Interval, log_ratio, mean_interval, median_interval

SCHEMA_VERSION = 1
INTERVAL = "95 % over problems: medians by order statistics, means by studentized bootstrap"


def summarize(
    about: Mapping[str, Any],
    learned: Contender,
    baselines: Sequence[Contender],
    references: Sequence[Contender] = (),
) -> dict[str, Any]:
    """Build the content of summary.json.

    Args:
        about: run_id, optimizee, optimizer, seed, and whatever else identifies the run.
        learned: the rule in question.
        baselines: what it is compared with, none or more.
        references: what is shown beside them, none or more; nothing is paired with these.

    Returns:
        `learned`, `baselines.<name>` and `references.<name>` hold the `name` and per criterion
        {mean, median, low, high}, where low and high bound the median over problems (95 %); a
        criterion that the optimizee does not have is None. `held_out_accuracy` and `suboptimality`,
        at the last step, are there where the optimizee has them, `counts` where the rule counts
        something, as a safeguard does: {total, problems} by name, the latter those in which it is
        not 0. `learned` has a line `dead` if the rule is stuck at its starting loss. `paired`
        compares with the baseline that was best on validation problems, `comparisons` with every
        baseline. Numbers that are not finite become null.
    """
    record = next(iter(learned.records.values()))
    dead = dead_rule(learned.records["final"])
    comparisons = {
        baseline.name: {name: paired(learned, baseline, name) for name in CRITERIA}
        for baseline in baselines
    }
    best = {
        name: best_baseline(list(baselines), name).name for name in learned.records if baselines
    }
    return {
        "schema_version": SCHEMA_VERSION,
        **about,
        "horizon": int(record.steps[-1]),
        "n_problems": len(record.problems),
        "interval": INTERVAL,
        "learned": contender(learned) | ({} if dead is None else {"dead": dead}),
        "baselines": {baseline.name: contender(baseline) for baseline in baselines},
        "references": {reference.name: contender(reference) for reference in references},
        "paired": {
            name: {"best_baseline": best[name], **(comparisons[best[name]][name] or {})}
            if name in best
            else None
            for name in CRITERIA
        },
        "comparisons": comparisons,
    }


def subject(summary: Mapping[str, Any]) -> str:
    """What was optimized, for titles: "quadratic", or "mlp on digits"."""
    data = summary.get("data")
    return f"{summary['optimizee']} on {data}" if data else str(summary["optimizee"])


def contender(one: Contender) -> dict[str, Any]:
    """What one rule reached, and what its step costs."""
    summary: dict[str, Any] = {"name": one.name}
    summary |= {name: _spread(one, name) for name in CRITERIA}
    accuracy_from = one.records.get("held_out", next(iter(one.records.values())))
    if "held_out_accuracy" in accuracy_from.metrics:
        accuracy = accuracy_from.metrics["held_out_accuracy"][-1]
        summary["held_out_accuracy"] = _numbers(np.nan_to_num(accuracy, nan=0.0))
    if "suboptimality" in one.records["final"].metrics:
        above = one.records["final"].metrics["suboptimality"][-1]
        summary["suboptimality"] = _numbers(np.where(np.isfinite(above), above, np.inf))
    if one.tuned is not None:
        summary["lr"] = dict(one.tuned.rates)
        summary["validation"] = {name: one.validation_score(name) for name in one.records}
    summary["status"] = _count(one.records["final"])
    if one.records["final"].counts:
        summary["counts"] = {
            name: {"total": int(count.sum()), "problems": int((count > 0).sum())}
            for name, count in one.records["final"].counts.items()
        }
    summary["seconds_per_step"] = one.cost.rule_seconds
    summary["gradient_seconds_per_step"] = one.cost.gradient_seconds
    summary["state_bytes_per_coordinate"] = one.cost.state_bytes_per_coordinate
    return summary


def paired(learned: Contender, baseline: Contender, name: Criterion) -> dict[str, Any] | None:
    """Learned against one baseline on the same problems, by one criterion.

    Returns:
        `log_ratio`, the median over problems of log(learned / baseline), and `mean_difference`,
        the mean of learned - baseline, each with its 95 % interval.
    """
    if name not in learned.records:
        return None
    mine, theirs = _values(learned, name), _values(baseline, name)
    with np.errstate(invalid="ignore"):
        difference = np.where(mine == theirs, 0.0, mine - theirs)
    return {
        "log_ratio": _interval("median", median_interval(log_ratio(mine, theirs))),
        "mean_difference": _interval("mean", mean_interval(difference)),
    }


def _spread(one: Contender, name: Criterion) -> dict[str, float] | None:
    """Mean, median and the median's interval of one criterion."""
    return _numbers(_values(one, name)) if name in one.records else None


def _numbers(values: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, float]:
    """{mean, median, low, high} of values over problems."""
    interval = median_interval(values)
    return {
        "mean": float(np.mean(values)),
        "median": interval.estimate,
        "low": interval.low,
        "high": interval.high,
    }


def _values(one: Contender, name: Criterion) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(B,) values of a criterion that the record has."""
    values = one.records[name].criterion(name)
    if values is None:
        raise ValueError(f"{one.name} has no criterion {name}")
    return values


def _count(record: EvalRecord) -> dict[str, int]:
    """How many problems ended in each status."""
    return {name: int(np.sum(record.status == name)) for name in STATUSES}


def _interval(name: str, interval: Interval) -> dict[str, float]:
    """An interval as json, its estimate named by what it is."""
    return {name: interval.estimate, "low": interval.low, "high": interval.high}
