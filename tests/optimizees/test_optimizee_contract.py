"""The contract of an optimizee, held by every row of `OPTIMIZEES`.

Theta may have several rows per problem (`Repeated`): those of problem b are `rows[b::B]`.
"""

import numpy as np
import pytest
import torch

from l2l_exp.optimizees.seeding import Seed
from l2l_exp.unroll import differentiate

TRAIN = Seed("train", 0)
PROBLEMS = (5, 0, 9)
STEPS = (0, 1, 7)


def drawn(optimizee, problems=PROBLEMS, seed=TRAIN, steps=STEPS):
    """Everything that is random about some problems: named tensors with leading B."""
    problem = optimizee.sample(problems, seed)
    everything = {f"data/{name}": x for name, x in problem.data.items()}
    everything["init"] = optimizee.init(problems, seed)
    for step in steps:
        batch = optimizee.minibatch(problem, step)
        everything |= {f"batch{step}/{name}": x for name, x in batch.items()}
    return everything


def same(one, other):
    """Whether two sets of named tensors are bit for bit the same."""
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def at_start(optimizee, seed=TRAIN):
    """A problem, theta_0 and the first minibatch."""
    problem = optimizee.sample(PROBLEMS, seed)
    return problem, optimizee.init(PROBLEMS, seed), optimizee.minibatch(problem, 0)


def test_theta_is_float64_with_one_row_of_n_coordinates_per_run(optimizee):
    problem, theta, data = at_start(optimizee)
    assert problem.index == PROBLEMS and problem.size == 3 and problem.seed == TRAIN
    assert theta.shape[1] == optimizee.spec.size and theta.shape[0] % 3 == 0
    assert theta.dtype == torch.float64
    assert all(x.shape[0] == theta.shape[0] for x in data.values())
    assert all(x.dtype == torch.float64 for x in data.values() if x.is_floating_point())
    loss, grad = differentiate(optimizee, theta, data)
    assert loss.shape == theta.shape[:1] and grad.shape == theta.shape
    assert loss.dtype == grad.dtype == torch.float64


def test_a_problem_is_the_same_whatever_batch_it_is_drawn_in(optimizee):
    together = drawn(optimizee)
    for place, index in enumerate(PROBLEMS):
        alone = drawn(optimizee, [index])
        assert same(alone, {name: x[place :: len(PROBLEMS)] for name, x in together.items()})


def test_splits_and_seeds_and_problems_draw_differently(optimizee):
    seeds = [TRAIN, Seed("train", 1), Seed("validation", 0), Seed("test", 0)]
    draws = [drawn(optimizee, seed=seed) for seed in seeds]
    for name in draws[0]:
        for i in range(len(seeds)):
            assert not torch.equal(draws[0][name][0], draws[0][name][1])
            for j in range(i):
                assert not torch.equal(draws[i][name], draws[j][name])


def test_drawing_neither_reads_nor_touches_global_generators(optimizee):
    torch.manual_seed(1)
    np.random.seed(1)
    first = drawn(optimizee)
    torch.manual_seed(2)
    np.random.seed(2)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()
    assert same(drawn(optimizee), first)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), numpy_state))  # noqa: B905


def test_no_argument_is_modified(optimizee):
    problem, theta, data = at_start(optimizee)
    before = [x.clone() for x in (theta, *problem.data.values(), *data.values())]
    differentiate(optimizee, theta, data)
    optimizee.metrics(theta, problem)
    optimizee.minibatch(problem, 1)
    after = [theta, *problem.data.values(), *data.values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("batching", ["vmap", "loop"])
@pytest.mark.parametrize("attached", ["nothing", "loss", "everything"])
def test_gradients_equal_a_python_loop_over_problems(optimizee, batching, attached):
    optimizee.batching = batching
    _, theta, data = at_start(optimizee)
    loss, grad = differentiate(optimizee, theta, data, attached)
    for row in range(len(theta)):
        one = theta[row].clone().requires_grad_()
        value = optimizee.loss(one, {name: x[row] for name, x in data.items()})
        (slope,) = torch.autograd.grad(value, one)
        torch.testing.assert_close(loss[row], value, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(grad[row], slope, rtol=1e-10, atol=1e-12)


def test_the_gradient_is_the_slope_of_the_loss(optimizee):
    _, theta, data = at_start(optimizee)
    data = {name: x[0] for name, x in data.items()}
    eps = 1e-5
    moves = eps * torch.eye(optimizee.spec.size, dtype=torch.float64)
    value = torch.func.vmap(lambda move: optimizee.loss(theta[0] + move, data))
    slope = (value(moves) - value(-moves)) / (2 * eps)
    grad = torch.func.grad(optimizee.loss)(theta[0], data)
    assert (grad - slope).norm() <= 1e-6 * grad.norm()


def test_metrics_are_one_number_per_run_and_equal_those_of_each_problem_alone(optimizee):
    problem, theta, _ = at_start(optimizee)
    together = optimizee.metrics(theta, problem)
    assert "train_loss" in together and ("held_out_loss" in together) == optimizee.has_held_out
    for place, index in enumerate(PROBLEMS):
        rows = theta[place :: len(PROBLEMS)]
        alone = optimizee.metrics(rows, optimizee.sample([index], TRAIN))
        for name, values in together.items():
            assert values.shape == theta.shape[:1] and not values.requires_grad
            mine = values[place :: len(PROBLEMS)]
            torch.testing.assert_close(alone[name], mine, rtol=1e-12, atol=1e-12)


def test_a_deterministic_optimizee_sees_its_training_part_at_every_step_and_no_other_does(
    optimizee,
):
    problem, theta, data = at_start(optimizee)
    later = optimizee.minibatch(problem, 7)
    assert same(data, later) == optimizee.deterministic
    if optimizee.deterministic:
        loss, _ = differentiate(optimizee, theta, data)
        measured = optimizee.metrics(theta, problem)["train_loss"]
        torch.testing.assert_close(loss, measured, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_theta_is_below_a_known_minimum(optimizee, dtype):
    optimizee = optimizee.to(dtype)
    problem, theta, _ = at_start(optimizee)
    start, elsewhere = optimizee.metrics(theta, problem), optimizee.metrics(theta / 2, problem)
    assert ("suboptimality" in start) == optimizee.has_minimum
    if optimizee.has_minimum:
        above = start["suboptimality"]
        assert above.dtype == torch.float64 and (above > 0).all()
        difference = (start["train_loss"] - elsewhere["train_loss"]).double()
        torch.testing.assert_close(
            above - elsewhere["suboptimality"], difference, rtol=1e-4, atol=1e-4
        )


def test_theta_survives_unflatten_and_flatten(optimizee):
    theta = optimizee.init(PROBLEMS, TRAIN)
    tensors = optimizee.spec.unflatten(theta)
    assert torch.equal(optimizee.spec.flatten(tensors), theta)
    for part in optimizee.spec.tensors:
        assert tensors[part.name].shape == theta.shape[:1] + part.shape
        assert torch.equal(tensors[part.name].flatten(1), theta[:, part.slice])
