"""The chart of what a rule does to single coordinates: appendix B of the paper."""

from matplotlib.figure import Figure

from l2l_exp.report.studies import Study
from l2l_exp.report.updates import figure


def updates(study: Study, seed: int | None = None, condition: str | None = None) -> Figure:
    """Draw the updates of one run beside those of SGD and Adam on its trajectory.

    Args:
        study: whose runs recorded updates, by evaluation/microscope=updates.
        seed: which meta-seed; None for the first.
        condition: which condition; None for the first.

    Raises:
        ValueError: if there is no such run.
    """
    runs, table = study.finished, study.extras.get("updates")
    if table is None:
        raise ValueError(
            f"study {study.name!r} has no run with updates: add evaluation/microscope=updates"
        )
    found = runs[runs["run_id"].isin(table["run_id"])]
    chosen = found if seed is None else found[found["seed"] == seed]
    chosen = chosen if condition is None else chosen[chosen["condition"] == condition]
    if chosen.empty:
        seeds = ", ".join(map(str, sorted(found["seed"].unique())))
        raise ValueError(
            f"study {study.name!r} has updates of the meta-seeds {seeds}, and none of seed={seed}, "
            f"condition={condition!r}"
        )
    return figure(table[table["run_id"] == chosen["run_id"].iloc[0]])
