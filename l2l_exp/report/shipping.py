"""Studies as they are shipped: small enough for a repository, whole enough for every chart."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from l2l_exp.report import studies
from l2l_exp.report.pictures import at_the_end
from l2l_exp.report.sections import is_smoke, slug, youngest
from l2l_exp.report.sources import Found
from l2l_exp.report.studies import Study

DIGITS = 6
DROPPED_BITS = 12
"""Of the 23 bits of a single's mantissa: what is left is right to 1 part in 4000."""
LEFT_OUT = ("comparisons", "references")
"""Parts of a summary that neither charts nor tables of studies read, save for names."""


def ship(found: Iterable[Found], folder: Path) -> list[Path]:
    """Write studies, each into a folder of its own.

    Those that were shipped before, smoke runs, and studies without a finished run are left out.

    Args:
        found: studies.
        folder: takes them; what it holds of the same studies is replaced.

    Returns:
        The folders written.
    """
    kept = [one.study for one in youngest(one for one in found if not one.shipped)]
    written = []
    for study in kept:
        if len(study.finished) and not is_smoke(study):
            studies.write(slim(study), folder / slug(study))
            written.append(folder / slug(study))
    return written


def slim(study: Study) -> Study:
    """A study with what charts and tables need of it, and as many digits as they show."""
    return dataclasses.replace(
        study,
        steps=rounded(study.steps.dropna(axis="columns", how="all")),
        summaries={name: _summary(one) for name, one in study.summaries.items()},
        extras={name: _few(study, name, table) for name, table in study.extras.items()},
    )


def _few(study: Study, name: str, table: pd.DataFrame) -> pd.DataFrame:
    """A table of extras; of pictures those of one problem of every condition, after the last step.

    Pictures are large, and cannot be told with fewer digits.
    """
    if name != "pictures":
        return table
    runs = study.finished[study.finished["run_id"].isin(table["run_id"])].sort_values("seed")
    first = runs.drop_duplicates("condition")["run_id"]
    shown = at_the_end(table[table["run_id"].isin(first)])
    few: pd.DataFrame = shown[shown["problem"] == shown["problem"].min()]
    return few


def rounded(steps: pd.DataFrame) -> pd.DataFrame:
    """Numbers in single precision with fewer bits, which a file keeps in less space.

    Infinities and NaN stay what they are.
    """
    singles = steps.select_dtypes(np.float32)
    half, kept = np.uint32(1 << (DROPPED_BITS - 1)), np.uint32(~((1 << DROPPED_BITS) - 1) % 2**32)
    bits = singles.to_numpy().view(np.uint32)
    cut = np.where(np.isfinite(singles.to_numpy()), (bits + half) & kept, bits)
    shorter = pd.DataFrame(cut.view(np.float32), columns=singles.columns, index=singles.index)
    return steps.assign(**{str(name): shorter[name] for name in shorter})


def _summary(summary: Mapping[str, Any]) -> dict[str, Any]:
    """A summary without what is left out."""
    return {name: _short(one) for name, one in summary.items() if name not in LEFT_OUT}


def _short(value: Any) -> Any:
    """Floats with a few digits, at any depth."""
    if isinstance(value, Mapping):
        return {name: _short(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_short(one) for one in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
