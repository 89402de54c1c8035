"""Charts: functions of a study, in the size and the style of a paper's figures."""

from l2l_exp.report.charts.coordinates import updates
from l2l_exp.report.charts.costs import overhead
from l2l_exp.report.charts.effort import payoff, training_cost
from l2l_exp.report.charts.final import selection, strips
from l2l_exp.report.charts.gallery import pictures
from l2l_exp.report.charts.maps import heat_map
from l2l_exp.report.charts.profiles import lines
from l2l_exp.report.charts.races import horizons, seconds
from l2l_exp.report.charts.rendering import CHARTS, Rendered, check, render
from l2l_exp.report.charts.training import tuning, validations
from l2l_exp.report.charts.trajectories import curves

__all__ = [
    "CHARTS", "Rendered", "check", "curves", "heat_map", "horizons", "lines", "overhead", "payoff",
    "pictures", "render", "seconds", "selection", "strips", "training_cost", "tuning", "updates",
    "validations",
]  # fmt: skip
