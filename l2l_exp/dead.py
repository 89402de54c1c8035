"""Rules that do nothing: stuck at their starting loss, or with updates that move theta nowhere."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from l2l_exp.evaluation import EvalRecord, evaluate, snapshots
from l2l_exp.optimizees.base import Optimizee
from l2l_exp.optimizees.seeding import Seed
from l2l_exp.optimizers.base import LearnedOptimizer

LEAST_GAIN, LEAST_MOVE = 0.01, 1e-3
"""A rule is dead that lowers the median loss by less than this share, or moves theta by less."""


class Trial(NamedTuple):
    """What a rule did on some validation problems."""

    first: float  # median loss at the start
    last: float  # and at the end
    moved: float  # median of |theta_T - theta_0| / |theta_0|
    complaint: str | None  # one line, if the rule is dead


def dead_rule(record: EvalRecord, least_gain: float = LEAST_GAIN) -> str | None:
    """Say that a rule is stuck at its starting loss, if it is.

    Args:
        record: of some problems, with metrics at the first step and at the last.
        least_gain: >= 0, the share of its starting loss by which the median problem's loss on its
            training part should fall.

    Returns:
        One line; None for a rule that lowers losses.
    """
    first, last = record.metrics["train_loss"][0], record.metrics["train_loss"][-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        gain = np.where(np.isfinite(last), (first - last) / np.abs(first), -np.inf)
    gain = np.where(np.isnan(gain), 0.0, gain)  # 0 / 0: nothing was gained
    if np.median(gain) > least_gain:
        return None
    stuck = int(np.sum(gain <= least_gain))
    return (
        f"dead rule: after {record.steps[-1]} steps {stuck} of {len(gain)} problems are at their "
        f"starting loss, or above it"
    )


def try_rule(
    optimizee: Optimizee,
    rule: LearnedOptimizer,
    horizon: int = 100,
    problems: Sequence[int] = range(4),
    seed: int = 0,
) -> Trial:
    """Run a rule on validation problems, and say whether it is dead.

    Args:
        optimizee: distribution of the problems.
        rule: a learned optimizer, or a baseline at one learning rate.
        horizon: T >= 1.
        problems: indices, at least one.
        seed: of the draws.
    """
    draws = Seed("validation", seed)
    (record,) = evaluate(optimizee, rule, problems, draws, horizon)
    seen = snapshots(optimizee, rule, problems, draws, horizon, (0, horizon))
    length, way = seen[0].norm(dim=1), (seen[horizon] - seen[0]).norm(dim=1)
    moved = float(torch.where(way > 0, way / length, 0.0).median())
    complaint = dead_rule(record)
    if moved < LEAST_MOVE:
        complaint = f"dead rule: {horizon} steps move theta by {moved:.1g} of its length"
    losses = record.metrics["train_loss"]
    return Trial(float(np.median(losses[0])), float(np.median(losses[-1])), moved, complaint)
