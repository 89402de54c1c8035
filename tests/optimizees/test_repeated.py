"""Copies of a problem start alike and meet the same minibatches."""

import pytest
import torch

from l2l_exp.optimizees.repeated import Repeated
from l2l_exp.optimizees.seeding import Seed

SEED, PROBLEMS, COPIES = Seed("train", 0), (2, 5), 3


def test_row_g_times_b_plus_b_is_a_copy_of_problem_b(mlp):
    many = Repeated(mlp, COPIES)
    problem = many.sample(PROBLEMS, SEED)
    assert problem.index == PROBLEMS
    pairs = [(many.init(PROBLEMS, SEED), mlp.init(PROBLEMS, SEED))]
    one_batch, many_batch = mlp.minibatch(problem, 4), many.minibatch(problem, 4)
    pairs += [(many_batch[name], one_batch[name]) for name in one_batch]
    for copies, single in pairs:
        for g in range(COPIES):
            assert torch.equal(copies[g * 2 : (g + 1) * 2], single)


def test_metrics_are_those_of_each_row_under_the_inner_optimizee(mlp):
    many = Repeated(mlp, COPIES)
    problem = many.sample(PROBLEMS, SEED)
    theta = many.init(PROBLEMS, SEED) * torch.arange(1.0, 7.0).double().unsqueeze(1)
    metrics = many.metrics(theta, problem)
    for g in range(COPIES):
        rows = slice(g * 2, (g + 1) * 2)
        for name, values in mlp.metrics(theta[rows], problem).items():
            assert torch.equal(metrics[name][rows], values)


def test_it_is_what_the_inner_optimizee_is(mlp):
    mlp.batching = "loop"
    many = Repeated(mlp, COPIES)
    assert (many.batching, many.has_held_out, many.spec) == ("loop", True, mlp.spec)
    assert many.anchor.dtype == torch.float64
    with pytest.raises(ValueError, match="copies=0 must be >= 1"):
        Repeated(mlp, 0)
