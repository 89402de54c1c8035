"""Runs over several meta-seeds as rows, and what they come to together."""

import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import pandas as pd

from l2l_exp.report.style import CRITERION_LABELS
from l2l_exp.statistics import FEWEST_FOR_MEDIAN, Floats, SeedsInterval, seeds_interval

VALIDATION = "validation"
LABELS: Final = MappingProxyType({**CRITERION_LABELS, VALIDATION: "validation, at selection"})
ROW_COLUMNS = (
    "condition", "seed", "run_id", "criterion", "median", "best_baseline", "log_ratio", "low",
    "high", "n_problems", "not_ok",
)  # fmt: skip
COLUMNS = (
    "condition", "criterion", "n_seeds", "seeds", "best_baseline", "n_problems", "not_ok",
    "log_ratio", "low", "high", "median", "median_low", "median_high", "method", "seeds_better",
    "every_seed_better",
)  # fmt: skip
NOTE = """\
Ratios and losses are each seed's medians over problems, then geometric means over seeds, with their
95 % interval over seeds. A seed is better where its own 95 % interval over problems lies below
ratio 1; every seed is better where all are, and the interval over seeds lies there too.
"""
HEAD = (
    "condition", "criterion", "meta-seeds", "learned / best baseline", "best baseline", "loss",
    "interval", "seeds better", "every seed better", "problems not ok",
)  # fmt: skip


def rows_of(summary: Mapping[str, Any], condition: str) -> list[dict[str, Any]]:
    """Make the rows of one run, one for each criterion, from its summary.json.

    A null there is a number that is not finite. A median loss is then infinite, and so is a ratio:
    in the learned rule's disfavour, unless its median loss is 0. So no run that failed is dropped.

    Args:
        summary: as `summary.summarize` makes it; of a run without evaluation `run_id`, `seed` and
            `selection` are enough.
        condition: what tells the run apart besides its meta-seed, "" if nothing does.

    Returns:
        Rows with ROW_COLUMNS: `median` is the median loss over problems; `log_ratio`, `low` and
        `high` are the median of log(learned / best baseline) and its 95 % interval, NaN where there
        is none. A run without evaluation gives one row, of the criterion "validation", whose
        `median` is the validation loss that its checkpoint was selected by.
    """
    about = {"condition": condition, "seed": summary["seed"], "run_id": summary["run_id"]}
    learned = summary.get("learned") or {}
    criteria = [name for name in CRITERION_LABELS if learned.get(name) is not None]
    if not criteria:
        selection = summary.get("selection")
        if selection is None or selection["criterion"] == "meta_loss":  # which is not a loss
            return []
        return [{**about, **_selected(selection)}]
    not_ok = sum(count for status, count in learned["status"].items() if status != "ok")
    counts = {"n_problems": summary["n_problems"], "not_ok": not_ok}
    rows = []
    for name in criteria:
        median = number(learned[name]["median"], math.inf)
        ratio = _ratio(summary["paired"][name], median, summary["n_problems"])
        rows.append({**about, "criterion": name, "median": median, **ratio, **counts})
    return rows


def aggregate(rows: pd.DataFrame) -> pd.DataFrame:
    """Summarize over meta-seeds, for each condition and criterion.

    Args:
        rows: one row for each run and criterion, as `rows_of` makes them.

    Returns:
        A table with COLUMNS. `log_ratio` is the mean over seeds of their median log ratios, with
        its 95 % interval from `low` to `high`; NaN where a seed has none. `median` is the geometric
        mean over seeds of their median losses, and `median_low` to `median_high` the interval of
        the mean of their logs: losses have heavy tails, and their logs do not. Both intervals are
        by `method`. Runs with the same seed are no repetitions: there is then no mean. `n_problems`
        and `not_ok` are sums over seeds. `seeds_better` counts the seeds whose own interval lies
        below 0; `every_seed_better` says that all do, and that the interval over seeds does.

    Raises:
        ValueError: if a column is missing.
    """
    missing = [name for name in ROW_COLUMNS if name not in rows.columns]
    if missing:
        raise ValueError(f"rows of runs lack the columns {', '.join(missing)}")
    groups = [
        rows[(rows["condition"] == condition) & (rows["criterion"] == criterion)]
        for condition in rows["condition"].unique()
        for criterion in LABELS
    ]
    told = [_aggregated(group) for group in groups if len(group)]
    return pd.DataFrame(told, columns=list(COLUMNS))


def as_text(table: pd.DataFrame) -> str:
    """Tell in Markdown what `aggregate` made."""
    told = [HEAD, ["---"] * len(HEAD), *map(_told, table.to_dict("records"))]
    return f"# Over meta-seeds\n\n{NOTE}\n{''.join(map(line, told))}"


def _told(one: Mapping[Any, Any]) -> list[str]:
    """One condition and criterion as texts, in the order of HEAD."""
    ratio = _bracketed(*exp([one["log_ratio"], one["low"], one["high"]]))
    compared = bool(one["best_baseline"])
    return [
        one["condition"] or "all",
        LABELS[one["criterion"]],
        f"{one['n_seeds']}: {one['seeds']}",
        ratio,
        one["best_baseline"] or "none",
        _bracketed(one["median"], one["median_low"], one["median_high"]),
        one["method"],
        f"{one['seeds_better']} of {one['n_seeds']}" if compared else "",
        ("yes" if one["every_seed_better"] else "no") if compared else "",
        f"{one['not_ok']} of {one['n_problems']}" if one["n_problems"] else "",
    ]


def line(texts: Iterable[str]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(text.replace('|', '/') for text in texts)} |\n"


def _bracketed(estimate: float, low: float, high: float) -> str:
    """An estimate with its interval, as far as there is one."""
    if math.isnan(estimate) and math.isnan(low):
        return ""
    return f"{estimate:.3g}" if math.isnan(low) else f"{estimate:.3g} [{low:.3g}, {high:.3g}]"


def exp(values: Any) -> Floats:
    """exp, infinite beyond floating point."""
    with np.errstate(over="ignore"):
        return np.exp(np.asarray(values, dtype=np.float64))


def log(values: Any) -> Floats:
    """log, -inf at 0."""
    with np.errstate(divide="ignore"):
        return np.log(np.asarray(values, dtype=np.float64))


def number(value: float | None, otherwise: float) -> float:
    """A number of summary.json; `otherwise` where it is null or NaN."""
    return otherwise if value is None or math.isnan(value) else float(value)


def _selected(selection: Mapping[str, Any]) -> dict[str, Any]:
    """Columns of a run without evaluation."""
    median = number(selection.get("validation"), math.inf)
    counts = {"n_problems": 0, "not_ok": 0}
    return {"criterion": VALIDATION, "median": median, **_ratio(None, median, 0), **counts}


def _ratio(paired: Mapping[str, Any] | None, median: float, n_problems: int) -> dict[str, Any]:
    """Columns of the comparison with the best baseline.

    Bounds that are null are infinite, each to its own side, where there are problems enough for an
    interval; of a ratio that is infinite itself the lower bound is too.
    """
    if not paired:
        return {"best_baseline": None, "log_ratio": math.nan, "low": math.nan, "high": math.nan}
    told = paired["log_ratio"]
    value = number(told["median"], -math.inf if median == 0 else math.inf)
    low, high = math.inf if value == math.inf else -math.inf, math.inf
    if n_problems < FEWEST_FOR_MEDIAN:
        low = high = math.nan
    return {
        "best_baseline": paired["best_baseline"],
        "log_ratio": value,
        "low": number(told["low"], low),
        "high": number(told["high"], high),
    }


def _aggregated(group: pd.DataFrame) -> dict[str, Any]:
    """The row of one condition and criterion."""
    group = group.sort_values("seed", kind="stable")
    loss = _over_seeds(group, log(group["median"]))
    ratio = _over_seeds(group, group["log_ratio"].to_numpy(dtype=np.float64))
    better = int((group["high"] < 0).sum())
    median, median_low, median_high = map(float, exp(loss[:3]))
    return {
        "condition": group["condition"].iloc[0],
        "criterion": group["criterion"].iloc[0],
        "n_seeds": len(group),
        "seeds": ", ".join(map(str, group["seed"])),
        "best_baseline": baselines_of(group),
        "n_problems": int(group["n_problems"].sum()),
        "not_ok": int(group["not_ok"].sum()),
        "log_ratio": ratio.estimate,
        "low": ratio.low,
        "high": ratio.high,
        "median": median,
        "median_low": median_low,
        "median_high": median_high,
        "method": loss.method,
        "seeds_better": better,
        "every_seed_better": better == len(group) and ratio.high < 0,
    }


def _over_seeds(group: pd.DataFrame, values: Floats) -> SeedsInterval:
    """Mean over seeds; nothing where a value is missing or a seed is there twice."""
    repeated = bool(group["seed"].duplicated().any())
    if repeated or np.isnan(values).any():
        method = "none: a seed is there twice" if repeated else "none"
        return SeedsInterval(math.nan, math.nan, math.nan, len(values), method)
    return seeds_interval(values)


def baselines_of(rows: pd.DataFrame) -> str:
    """Names of the best baselines, "" if there are none."""
    return ", ".join(rows["best_baseline"].dropna().unique())
