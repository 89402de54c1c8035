"""Charts: functions of a study, in the size and the style of a paper's figures."""

from l2l_exp.report.charts.costs import overhead
from l2l_exp.report.charts.final import selection, strips
from l2l_exp.report.charts.grids import heat_map, lines
from l2l_exp.report.charts.rendering import CHARTS, Rendered, render
from l2l_exp.report.charts.training import payoff, training_cost, tuning, validations
from l2l_exp.report.charts.trajectories import curves, horizons, seconds
from l2l_exp.report.charts.updates import updates

__all__ = [
    "CHARTS", "Rendered", "curves", "heat_map", "horizons", "lines", "overhead", "payoff",
    "render", "seconds", "selection", "strips", "training_cost", "tuning", "updates", "validations",
]  # fmt: skip
