"""What a rule does on its own trajectory, and what others would do in its place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from l2l_exp.evaluation import Floats
from l2l_exp.microscope.probe import propose, watch
from l2l_exp.optimizees.base import Optimizee
from l2l_exp.optimizees.seeding import Seed
from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers.base import LearnedOptimizer
from l2l_exp.unroll import differentiate


@dataclass(frozen=True)
class Followed:
    """Some coordinates along the trajectory of the first of several rules.

    Attributes:
        coordinates: (C,) places in theta.
        labels: (C,) what they are called, e.g. "fc0.weight[3, 17]".
        loss: (T,) minibatch loss before every step.
        gradients: (T, C).
        updates: rule -> (T, C); the first rule's were made, the others' would have been.
    """

    coordinates: tuple[int, ...]
    labels: tuple[str, ...]
    loss: Floats
    gradients: Floats
    updates: Mapping[str, Floats]


@torch.no_grad()
def follow(
    optimizee: Optimizee,
    rules: Mapping[str, LearnedOptimizer],
    coordinates: Sequence[int],
    seed: Seed,
    horizon: int,
    problem: int = 0,
) -> Followed:
    """Run the first rule, and record its updates of some coordinates beside the other rules'.

    All rules see the gradients of the first one's trajectory, and each keeps its own state.

    Args:
        optimizee: distribution of the problem.
        rules: name -> rule; baselines at one learning rate.
        coordinates: each in [0, N).
        seed: split and seed of the draws.
        horizon: T >= 1.
        problem: index of the problem.

    Raises:
        ValueError: for a coordinate outside its range, or as `probe.watch`.

    Source: arXiv:1606.04474, appendix B.
    """
    labels = tuple(label(optimizee.spec, coordinate) for coordinate in coordinates)
    places = list(coordinates)
    loss, gradients = [], []
    updates: dict[str, list[Floats]] = {name: [] for name in rules}
    for moment in watch(optimizee, rules, [problem], seed, horizon):
        loss.append(moment.seen.loss.item())
        gradients.append(_array(moment.seen.grad[0, places]))
        for name, update in moment.updates.items():
            updates[name].append(_array(update[0, places]))
    proposed = {name: np.stack(rows) for name, rows in updates.items()}
    return Followed(tuple(places), labels, np.array(loss), np.stack(gradients), proposed)


@dataclass(frozen=True)
class Proposals:
    """Updates against the gradient of one coordinate, the history as it was.

    Attributes:
        coordinates, labels: (C,) as of `Followed`.
        steps: (S,) at which it was asked.
        gradients: (C, G) that the coordinate might have seen.
        seen: (S, C) the gradients that it did see.
        updates: rule -> (S, C, G).
    """

    coordinates: tuple[int, ...]
    labels: tuple[str, ...]
    steps: tuple[int, ...]
    gradients: Floats
    seen: Floats
    updates: Mapping[str, Floats]


@torch.no_grad()
def proposals(
    optimizee: Optimizee,
    rules: Mapping[str, LearnedOptimizer],
    coordinates: Sequence[int],
    steps: Sequence[int],
    gradients: Floats,
    seed: Seed,
    horizon: int,
    problem: int = 0,
) -> Proposals:
    """Sweep the gradient of one coordinate at a time, at some steps of the first rule's trajectory.

    Args:
        optimizee, rules, coordinates, seed, horizon, problem: as for `follow`.
        steps: each in [0, T).
        gradients: (C, G) that each coordinate might see.

    Raises:
        ValueError: for a step or a coordinate outside its range, or as `probe.watch`.

    Source: arXiv:1606.04474, appendix B.
    """
    for step in steps:
        if not 0 <= step < horizon:
            raise ValueError(f"step {step} must be in [0, {horizon}), the steps of the episode")
    if not len(steps):
        raise ValueError("there must be a step to ask at, got none")
    labels = tuple(label(optimizee.spec, coordinate) for coordinate in coordinates)
    asked = torch.from_numpy(np.asarray(gradients, dtype=np.float64)).to(optimizee.anchor)
    wanted, places, seen = sorted(set(steps)), list(coordinates), []
    updates: dict[str, list[Floats]] = {name: [] for name in rules}
    for moment in watch(optimizee, rules, [problem], seed, horizon, wanted[-1] + 1):
        if moment.seen.step not in wanted:
            continue
        seen.append(_array(moment.seen.grad[0, places]))
        for name, rule in rules.items():
            state = moment.before[name]
            rows = [
                propose(rule, moment.seen, state, coordinate, values)
                for coordinate, values in zip(places, asked, strict=True)
            ]
            updates[name].append(np.stack(rows))
    proposed = {name: np.stack(rows) for name, rows in updates.items()}
    return Proposals(tuple(places), labels, tuple(wanted), _array(asked), np.stack(seen), proposed)


@dataclass(frozen=True)
class EffectiveRates:
    """Learning rates that updates amount to, step by step, over all coordinates of all problems.

    With updates u and gradients g of a step, of every rule on the first one's trajectory:

    Attributes:
        rates: rule -> (T,) the slope -u.g / g.g of the regression of -u on g through 0.
        cosines: rule -> (T,) of -u with g: how much of the update such a rate says.
        sizes: rule -> (T,) root mean square of u.
        gradient: (T,) root mean square of g.
    """

    rates: Mapping[str, Floats]
    cosines: Mapping[str, Floats]
    sizes: Mapping[str, Floats]
    gradient: Floats


@torch.no_grad()
def effective_rates(
    optimizee: Optimizee,
    rules: Mapping[str, LearnedOptimizer],
    problems: Sequence[int],
    seed: Seed,
    horizon: int,
) -> EffectiveRates:
    """Regress the updates of rules on the gradients of the first one's trajectory.

    Args:
        optimizee, rules, seed, horizon: as for `follow`.
        problems: indices of the problems.

    Raises:
        ValueError: as `probe.watch`.
    """
    names = ("rates", "cosines", "sizes")
    found: dict[str, dict[str, list[float]]] = {key: {name: [] for name in rules} for key in names}
    gradient = []
    for moment in watch(optimizee, rules, problems, seed, horizon):
        grad = moment.seen.grad.double()
        gradient.append(float(grad.square().mean().sqrt()))
        for name, update in moment.updates.items():
            for key, value in zip(names, _regression(update.double(), grad), strict=True):
                found[key][name].append(value)
    arrays = {
        key: {name: np.array(values) for name, values in of.items()} for key, of in found.items()
    }
    return EffectiveRates(**arrays, gradient=np.array(gradient))


def _regression(update: Tensor, grad: Tensor) -> tuple[float, float, float]:
    """Slope of -update on the gradient, their cosine, root mean square of the update."""
    product, size = -(update * grad).sum(), torch.linalg.vector_norm
    return (
        float(product / grad.square().sum()),
        float(product / (size(update) * size(grad))),
        float(update.square().mean().sqrt()),
    )


def label(spec: ParamSpec, coordinate: int) -> str:
    """What a coordinate is called: the name of its tensor, and its place in it.

    Raises:
        ValueError: if there is no such coordinate.
    """
    for tensor in spec.tensors:
        if tensor.slice.start <= coordinate < tensor.slice.stop:
            place = np.unravel_index(coordinate - tensor.start, tensor.shape)
            return f"{tensor.name}[{', '.join(str(int(number)) for number in place)}]"
    raise ValueError(f"coordinate {coordinate} must be in [0, {spec.size})")


@torch.no_grad()
def choose(optimizee: Optimizee, count: int, seed: Seed, problem: int = 0) -> tuple[int, ...]:
    """Some coordinates to follow: the tensors in turn, those in the middle of them first.

    Of a tensor those come in question whose first gradient is not among its smaller half, so that
    no weight of a pixel is taken that is always black.

    Args:
        optimizee: of the problem.
        count: >= 1; as many as there are, if these are fewer.
        seed: split and seed of the draws.
        problem: index of the problem.

    Raises:
        ValueError: for another count.
    """
    if count < 1:
        raise ValueError(f"coordinates={count} must be >= 1")
    drawn = optimizee.sample([problem], seed)
    theta = optimizee.init([problem], seed)
    _, grad = differentiate(optimizee, theta, optimizee.minibatch(drawn, 0))
    queues = [_queue(grad[0, tensor.slice], tensor.start) for tensor in optimizee.spec.tensors]
    longest = max(map(len, queues))
    turns = [queue[turn] for turn in range(longest) for queue in queues if turn < len(queue)]
    return tuple(turns[:count])


def _queue(grad: Tensor, start: int) -> list[int]:
    """Places in theta of a tensor's larger gradients (n,), from the median of these outwards."""
    order = grad.abs().argsort(descending=True, stable=True)
    larger = order[: (len(order) + 1) // 2]
    middle = len(larger) // 2
    outwards = sorted(range(len(larger)), key=lambda place: abs(place - middle))
    return [start + int(larger[place]) for place in outwards]


def _array(tensor: Tensor) -> Floats:
    """As float64 on the CPU."""
    return tensor.double().cpu().numpy()
