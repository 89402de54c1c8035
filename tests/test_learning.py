"""What only a longer run shows: a rule that is meta-trained learns to optimize."""

import numpy as np
import pytest
import torch

from l2l_exp.evaluation import evaluate
from l2l_exp.meta.gradients import Backprop, MetaGradient, Replay
from l2l_exp.meta.objective import MetaLoss, Plain, Uniform
from l2l_exp.meta.schedule import Cosine
from l2l_exp.meta.train import Plan, train
from l2l_exp.optimizees.quadratic import Quadratic
from l2l_exp.optimizees.seeding import Seed
from l2l_exp.optimizers.baseline import Baseline
from l2l_exp.optimizers.encoding import Identity
from l2l_exp.optimizers.lstm import CoordinatewiseLSTM
from l2l_exp.statistics import log_ratio, median_interval
from l2l_exp.tuning import tune

PLAN = Plan(
    horizon=100, truncation=20, episodes=120, problems=64, validation_every=20,
    validation_problems=256,
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("gradient", [Replay(), Backprop(order=2)], ids=["first", "second"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_minute_of_meta_training_beats_tuned_gradient_descent(gradient: MetaGradient, seed):
    optimizee = Quadratic()
    rule = CoordinatewiseLSTM(encoding=Identity(), seed=seed)
    train(
        optimizee, rule, gradient, MetaLoss(Uniform(), Plain()),
        lambda parameters: torch.optim.Adam(parameters, lr=0.005), Cosine(),
        Plan(**{**vars(PLAN), "seed": seed}),
    )  # fmt: skip
    sgd = Baseline(torch.optim.SGD, search=(0.003, 0.1))
    rate = tune(optimizee, sgd, range(256), Seed("validation", 0), 100).rates["final"]
    ours, theirs = (
        evaluate(optimizee, one, range(1000), Seed("test", 0), 100)[0].criterion("final")
        for one in (rule, sgd.with_rates([rate]))
    )
    assert median_interval(log_ratio(ours, theirs)).high < np.log(0.5)
