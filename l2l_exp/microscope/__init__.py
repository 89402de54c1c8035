"""A microscope of update rules: what one coordinate's gradients make of its updates.

Functions take ready rules and problems and return arrays; `l2l_exp.report.scope` draws them.
"""

from l2l_exp.microscope.fixed_points import FixedPoint, fixed_point
from l2l_exp.microscope.inverse_hessian import MemoryFit, hessian, memory_fit, memory_matrix
from l2l_exp.microscope.noise import Stability, sgd_variance, stability
from l2l_exp.microscope.probe import history, proposals_after, respond
from l2l_exp.microscope.responses import (
    Impulse,
    ScaleResponse,
    drift,
    half_life,
    impulse_response,
    scale_response,
)
from l2l_exp.microscope.trajectories import (
    EffectiveRates,
    Followed,
    Proposals,
    choose,
    effective_rates,
    follow,
    proposals,
)
from l2l_exp.microscope.updates import Updates

__all__ = [
    "EffectiveRates", "FixedPoint", "Followed", "Impulse", "MemoryFit", "Proposals",
    "ScaleResponse", "Stability", "Updates", "choose", "drift", "effective_rates", "fixed_point",
    "follow", "half_life", "hessian", "history", "impulse_response", "memory_fit",
    "memory_matrix", "proposals", "proposals_after", "respond", "scale_response", "sgd_variance",
    "stability",
]  # fmt: skip
