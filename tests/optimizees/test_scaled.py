"""Problems in random units: the same functions, reparametrised by factors of their own."""

import math

import pytest
import torch

from l2l_exp.optimizees.quadratic import Quadratic
from l2l_exp.optimizees.scaled import FACTORS, UNITS, Scaled
from l2l_exp.optimizees.seeding import Seed
from l2l_exp.optimizers.baseline import Baseline
from l2l_exp.unroll import Episode, differentiate, unroll

SEED, PROBLEMS = Seed("train", 0), (2, 5, 9)


def factors(optimizee, problems=PROBLEMS, seed=SEED):
    """What the problems are scaled by, (B, N)."""
    return optimizee.sample(problems, seed).data[FACTORS]


@pytest.mark.parametrize("per", UNITS)
def test_it_is_the_inner_problem_at_c_theta(mlp, per):
    scaled = Scaled(mlp, per, 2.0)
    problem, inner = scaled.sample(PROBLEMS, SEED), mlp.sample(PROBLEMS, SEED)
    c, start = problem.data[FACTORS], mlp.init(PROBLEMS, SEED)
    torch.testing.assert_close(scaled.init(PROBLEMS, SEED) * c, start, rtol=1e-14, atol=0)
    theta = scaled.init(PROBLEMS, SEED) + 0.1
    ours = differentiate(scaled, theta, scaled.minibatch(problem, 3))
    theirs = differentiate(mlp, c * theta, mlp.minibatch(inner, 3))
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-13, atol=0)
    torch.testing.assert_close(ours[1], c * theirs[1], rtol=1e-12, atol=1e-15)
    for name, values in mlp.metrics(c * theta, inner).items():
        assert torch.equal(scaled.metrics(theta, problem)[name], values)


def test_a_factor_belongs_to_the_problem_a_tensor_or_a_coordinate(mlp):
    alike = {}
    for per in UNITS:
        c = factors(Scaled(mlp, per))
        parts = [part.flatten(1) for part in mlp.spec.unflatten(c).values()]
        alike[per] = [len(part[0].unique()) for part in parts], len(c[0].unique())
    sizes = [tensor.size for tensor in mlp.spec.tensors]
    assert alike["problem"] == ([1] * len(sizes), 1)
    assert alike["tensor"] == ([1] * len(sizes), len(sizes))
    assert alike["coordinate"] == (sizes, mlp.spec.size)


def test_logarithms_of_factors_are_uniform_up_to_the_scale():
    logs = factors(Scaled(Quadratic(50), scale=3.0).double(), range(400)).log()
    assert logs.abs().max() < 3 and logs.abs().max() > 2.99
    for power, moment in ((1, 0.0), (2, 3.0), (4, 81 / 5)):  # of U(-3, 3); 20,000 draws
        spread = (3.0 ** (2 * power) / (2 * power + 1) - moment**2) ** 0.5 / math.sqrt(20_000)
        assert abs((logs**power).mean() - moment) < 4 * spread


def test_gradient_descent_takes_steps_that_depend_on_the_units(separable):
    # f(c x) by steps of -lr grad: c x moves by -lr c^2 f'(c x)
    inner = separable((2.0,))
    scaled = Scaled(inner, scale=1.0)
    c, lr = factors(scaled), 0.1
    episode = Episode(scaled, scaled.sample(PROBLEMS, SEED), 5)
    rule = Baseline(torch.optim.SGD, lr)
    *_, last = unroll(episode, rule, episode.start(rule), 5)
    expected = inner.init(PROBLEMS, SEED) * (1 - lr * 2 * c**2) ** 5
    torch.testing.assert_close(c * last.theta, expected, rtol=1e-12, atol=0)


def test_it_is_what_the_inner_optimizee_is_and_shares_its_buffers(mlp):
    mlp.batching = "loop"
    scaled = Scaled(mlp)
    assert (scaled.batching, scaled.has_held_out, scaled.spec) == ("loop", True, mlp.spec)
    assert scaled.anchor.dtype == torch.float64
    ours = {x.data_ptr() for x in scaled.buffers() if x.numel()}
    assert ours == {x.data_ptr() for x in mlp.buffers() if x.numel()}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"per": "layer"}, "per='layer' must be one of problem, tensor, coordinate"),
        ({"scale": 0.0}, "scale=0.0 must be > 0"),
        ({"scale": math.nan}, "scale=nan must be > 0"),
    ],
)
def test_what_makes_no_sense_is_refused(mlp, settings, message):
    with pytest.raises(ValueError, match=message):
        Scaled(mlp, **settings)


def test_a_scaling_of_a_scaling_is_refused(mlp):
    with pytest.raises(ValueError, match="scaled already"):
        Scaled(Scaled(mlp))
