"""What a chart says of its runs: how many there are, what is missing, and what failed."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from l2l_exp.report.charts.naming import condition_name, value_name
from l2l_exp.report.studies import UNREADABLE_RUN, Study

MOST_NAMED = 3
STATUS_WORDS = (
    ("FAILED", "failed"), ("KILLED", "stopped"), ("RUNNING", "not finished"),
    (UNREADABLE_RUN, "unreadable"),
)  # fmt: skip
FAILURES = (("diverged", "diverged"), ("worse_than_start", "worse than start"))

Summary = Mapping[str, Any]


def evaluated(study: Study) -> pd.DataFrame:
    """The rows of `study.runs` that were compared on test problems.

    Raises:
        ValueError: if there is none.
    """
    rows = study.finished
    rows = rows[[bool(study.summaries.get(one, {}).get("learned")) for one in rows["run_id"]]]
    if rows.empty:
        raise ValueError(
            f"study {study.name!r} has no run that was evaluated: {len(study.finished)} of "
            f"{study.expected or len(study.runs)} finished"
        )
    return rows


def many(values: Iterable[float]) -> str:
    """ "3", or "2 to 5"."""
    some = list(values)
    low, high = min(some), max(some)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def headline(study: Study, runs: pd.DataFrame) -> str:
    """How many problems and meta-seeds are drawn.

    Args:
        study: the study.
        runs: rows of `study.runs` that are drawn.
    """
    problems = [study.summaries[one].get("n_problems") or 0 for one in runs["run_id"]]
    counts = runs.groupby("condition", sort=False)["seed"].nunique()
    seeds = sorted(runs["seed"].unique())
    told = f"{many(counts)} meta-seed{'s' if counts.max() > 1 else ''}"
    told += f" ({', '.join(map(str, seeds))})" if len(seeds) <= 2 * MOST_NAMED else ""
    told += " per condition" if len(counts) > 1 else ""
    if counts.max() == 1:
        told += ": no interval over seeds"
    if len(runs) > counts.sum():
        told += ", some of them twice: no repetitions"
    if max(problems) == 0:
        return told
    return f"n = {many(one for one in problems if one)} fresh test problems each; {told}"


def told_of(study: Study) -> pd.DataFrame:
    """The rows of `study.runs` that have finished and whose summary could be read."""
    return study.finished[study.finished["run_id"].isin(list(study.summaries))]


def missing(study: Study) -> str:
    """Which runs there should be and are not; "" if none."""
    total = max(study.expected or 0, len(study.runs))
    there = told_of(study)
    if len(there) == total:
        return ""
    told = [f"{len(there)} of {total} runs"]
    lost = study.finished[~study.finished["run_id"].isin(there["run_id"])]
    found = [(study.runs[study.runs["status"] == status], word) for status, word in STATUS_WORDS]
    for rows, word in [*found, (lost, "finished but unreadable")]:
        if len(rows):
            told.append(f"{len(rows)} {word} ({_names(study, rows)})")
    if total > len(study.runs):
        told.append(f"{total - len(study.runs)} not begun")
    return "; ".join(told)


def _names(study: Study, rows: pd.DataFrame) -> str:
    """Runs by condition and seed."""
    names = [
        f"{condition_name(study, run['condition'])} seed {run['seed']}".strip()
        if run["status"] != UNREADABLE_RUN
        else f"run {value_name(run['run_id'])}"  # the name of its folder
        for _, run in rows.iterrows()
    ]
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def of_seeds(study: Study, runs: pd.DataFrame) -> str:
    """ "2 of 3 meta-seeds", where a condition lacks some; "" otherwise."""
    seeds, everywhere = runs["seed"].nunique(), _known_seeds(study)
    if seeds == everywhere:
        return ""
    told = f"{seeds} of {everywhere} meta-seeds"
    return told if seeds > 1 else f"{told}; no interval over seeds"


def _known_seeds(study: Study) -> int:
    """How many meta-seeds the study has; of a record that cannot be read none is known."""
    rows = study.runs[study.runs["status"] != UNREADABLE_RUN]
    return int(rows["seed"].nunique())


def failures(summaries: Sequence[Summary], rule: str | None = None) -> str:
    """ "5 of 300 diverged", over the runs of a rule; "" if every problem ended well.

    Args:
        summaries: of runs that were evaluated.
        rule: name of a baseline; None for the learned rule.
    """
    found = [one["learned"] if rule is None else one["baselines"].get(rule) for one in summaries]
    counts = [one["status"] for one in found if one and one.get("status")]
    total = sum(sum(count.values()) for count in counts)
    told = [(sum(count.get(status, 0) for count in counts), word) for status, word in FAILURES]
    shown = [f"{count} of {total} {word}" for count, word in told if count]
    return ", ".join(shown)


def baseline_failures(study: Study, runs: pd.DataFrame) -> str:
    """Baselines that failed on some problems, as the first run of each condition met them."""
    firsts = {
        str(condition): summaries_of(study, rows)[:1]
        for condition, rows in runs.groupby("condition", sort=False)
    }
    told = [
        ": ".join(filter(None, (condition_name(study, condition), _failed_baselines(one))))
        for condition, one in firsts.items()
        if _failed_baselines(one)
    ]
    if len(told) > MOST_NAMED:
        everywhere = [summary for one in firsts.values() for summary in one]
        told = [f"over all conditions: {_failed_baselines(everywhere)}"]
    return f"Baselines' failed problems: {'; '.join(told)}" if told else ""


def _failed_baselines(summaries: Sequence[Summary]) -> str:
    """Failures of every baseline that has some."""
    names = dict.fromkeys(name for one in summaries for name in one["baselines"])
    told = {name: failures(summaries, name) for name in names}
    return ", ".join(f"{name} {text}" for name, text in told.items() if text)


def learned_failures(study: Study, runs: pd.DataFrame) -> str:
    """Failures of the learned rule over all runs, "" if there are none."""
    failed = failures(summaries_of(study, runs))
    where = ", over all conditions" if runs["condition"].nunique() > 1 else ""
    return f"Learned{where}: {failed}" if failed else ""


def summaries_of(study: Study, runs: pd.DataFrame) -> list[Summary]:
    """Summaries of rows of `study.runs`."""
    return [study.summaries[one] for one in runs["run_id"]]
