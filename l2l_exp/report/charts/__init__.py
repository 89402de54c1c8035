"""Stand-in until the charts are merged: every study by its meta-seeds."""

from matplotlib.figure import Figure

from l2l_exp.report import seeds
from l2l_exp.report.aggregation import aggregate
from l2l_exp.report.studies import Study


def render(study: Study) -> tuple[dict[str, Figure], dict[str, str]]:
    """Draw the charts of a study."""
    reasons = {name: "this chart is not there yet" for name in study.charts}
    if study.criteria.empty:
        return {}, {**reasons, "seeds": "no run was evaluated"}
    return {"seeds": seeds.figure(study.criteria, aggregate(study.criteria))}, reasons
