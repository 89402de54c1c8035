"""How keys, values and conditions are called in charts."""

import math
from collections.abc import Iterable, Sequence
from types import MappingProxyType
from typing import Final

import pandas as pd

from l2l_exp.report.studies import Study

WORDS: Final = MappingProxyType(
    {
        "optimizee.hidden_units": "hidden units per layer",
        "optimizee.layers": "hidden layers",
        "optimizee.gradient_noise": "gradient noise (standard deviation)",
        "optimizee.label_noise": "wrong labels (share)",
        "optimizer.hidden_units": "hidden units of the rule",
        "optimizer.layers": "layers of the rule",
        "optimizer.source": "rule of",
        "training.episodes": "meta-training (episodes)",
        "training.meta_optimizer.lr": "meta-learning rate",
        "training.truncation": "truncation (inner steps)",
        "training/gradient": "meta-gradient",
        "training/weights": "weights of the meta-loss",
    }
)
CROSS_ENTROPIES = frozenset({"mlp", "conv"})
"""Optimizees whose loss is a cross-entropy with the natural logarithm."""
SPEAK_FOR_THEMSELVES = ("variant", "optimizer", "optimizee", "experiment")
"""Keys whose values need no name before them."""
OF_RULES = ("optimizer", "training")
"""How keys begin that make another rule, on the same problems."""
TRAINED_ON = "optimizer.where."
"""Before the keys that say which of a study's rules is meant."""
NOT_VARIED = "(not varied)"
LONGEST = 24


def words(key: str, keys: Iterable[str] = ()) -> str:
    """What an axis of a key is called.

    Args:
        key: of a config, e.g. "optimizee.hidden_units".
        keys: all that are varied; with "optimizer.where.KEY" among them, KEY is that tested on.
    """
    if key.startswith(TRAINED_ON):
        return f"{words(key.removeprefix(TRAINED_ON))}, trained on"
    last = key.replace("/", ".").rpartition(".")[2].replace("_", " ")
    tested = ", tested on" if f"{TRAINED_ON}{key}" in keys else ""
    return WORDS.get(key, last) + tested


def value_name(value: object) -> str:
    """A value as it is shown: of a path its end, and never long."""
    text = str(value).strip("'\"").rstrip("/").rpartition("/")[2]
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def condition_name(study: Study, condition: str, keys: Sequence[str] | None = None) -> str:
    """A condition as titles and legends call it, e.g. "relu" or "encoding none, scale 0.1"."""
    keys = study.keys if keys is None else keys
    rows = study.runs[study.runs["condition"] == condition]
    told = [
        value_name(value) if key in SPEAK_FOR_THEMSELVES else f"{words(key)} {value_name(value)}"
        for key, value in ((key, rows[key].iloc[0]) for key in keys)
        if not pd.isna(value)
    ]
    return ", ".join(told)


def number_of(value: object) -> float:
    """A value as a number; NaN if it is none."""
    try:
        return float(str(value))
    except ValueError:
        return math.nan


def ordered(values: Iterable[object]) -> list[str]:
    """Different values as texts: by size if they are numbers, else in their order."""
    found = list(dict.fromkeys(map(str, values)))
    numbers = [number_of(value) for value in found]
    if any(map(math.isnan, numbers)):
        return found
    return [value for _, value in sorted(zip(numbers, found, strict=True))]


def values_of(study: Study, key: str) -> dict[str, str]:
    """Condition -> its value of a key; NOT_VARIED where no run says one."""
    rows = study.runs.drop_duplicates("condition")
    if key not in study.keys:
        return dict.fromkeys(rows["condition"], NOT_VARIED)
    shown = rows[key].where(rows[key].notna(), NOT_VARIED)
    return dict(zip(rows["condition"], shown.astype(str), strict=True))


def check_keys(study: Study, chart: str, *keys: str, rules: bool = False) -> None:
    """Raise ValueError where runs differ by more than a chart's axes: it would mix them.

    Args:
        study: the study.
        chart: its name, for the message.
        keys: of the axes.
        rules: whether the chart tells several rules apart.
    """
    others = [key for key in study.keys if key not in keys]
    others = [key for key in others if not (rules and key.startswith(OF_RULES))]
    if others:
        raise ValueError(
            f"{chart} over {', '.join(keys)} would mix runs of {study.name!r}, which also differ "
            f"in {', '.join(others)}"
        )


def unit(study: Study) -> str:
    """The unit of the losses with a space before it; "" where they have none."""
    optimizees = {one.get("optimizee") for one in study.summaries.values()}
    return " (nats)" if optimizees and optimizees <= CROSS_ENTROPIES else ""
