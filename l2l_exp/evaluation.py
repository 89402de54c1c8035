"""Evaluation: run rules on fresh problems and record what happened, failures included."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from l2l_exp.optimizees.base import Optimizee
from l2l_exp.optimizees.repeated import Repeated
from l2l_exp.optimizees.seeding import Seed
from l2l_exp.optimizers.base import LearnedOptimizer, Observation, state_tensors
from l2l_exp.optimizers.baseline import Baseline
from l2l_exp.unroll import Episode, differentiate, unroll

Floats = npt.NDArray[np.float64]
Criterion = Literal["average", "final", "held_out"]
CRITERIA: tuple[Criterion, ...] = ("average", "final", "held_out")
STATUSES = ("ok", "worse_than_start", "diverged")
BLOW_UP = 10.0
"""A minibatch loss above this multiple of the first one counts as divergence."""
DENSE_STEPS = 200
STEPS_TIMED, GRADIENTS_TIMED = 40, 6
"""So many in a row are timed together; what a rule does every few steps falls into every block."""
COORDINATES_AT_ONCE = 500_000
"""Problems are walked through in chunks of so many coordinates, which bounds the rule's state."""


@dataclass(frozen=True)
class EvalRecord:
    """What one rule did on B problems over T inner steps; step t is after t updates.

    Attributes:
        problems: (B,) problem indices.
        steps: (S,) recorded steps, from 0 to T: all up to 200, then log-spaced.
        loss: (S, B) minibatch loss at those steps.
        running_mean: (S, B) mean of the minibatch losses at steps 1..t; row 0 is the first loss.
        metric_steps: (M,) steps at which metrics were taken, from 0 to T.
        metrics: name -> (M, B), as `Optimizee.metrics` gives them.
        diverged: (B,) a loss was not finite, or above ten times the first one, at any step.
        lr: learning rate, None for rules without one.
        counts: name -> (B,), what the rule counted over the T steps, as a safeguard does.
    """

    problems: npt.NDArray[np.int64]
    steps: npt.NDArray[np.int64]
    loss: Floats
    running_mean: Floats
    metric_steps: npt.NDArray[np.int64]
    metrics: Mapping[str, Floats]
    diverged: npt.NDArray[np.bool_]
    lr: float | None = None
    counts: Mapping[str, npt.NDArray[np.int64]] = field(default_factory=dict)

    @property
    def status(self) -> npt.NDArray[np.str_]:
        """(B,) of `STATUSES`: the loss on the training part is compared with theta_0's."""
        train_loss = self.metrics["train_loss"]
        worse = ~(train_loss[-1] <= train_loss[0])
        return np.where(self.diverged, STATUSES[2], np.where(worse, STATUSES[1], STATUSES[0]))

    def criterion(self, name: Criterion) -> Floats | None:
        """(B,) values of a criterion, lower is better, infinite where not finite; None if absent.

        average: mean minibatch loss over steps 1..T. final: loss of theta_T on the problem's whole
        training part. held_out: its loss on the held-out part.
        """
        if name == "average":
            values = self.running_mean[-1]
        elif name == "final":
            values = self.metrics["train_loss"][-1]
        elif "held_out_loss" in self.metrics:
            values = self.metrics["held_out_loss"][-1]
        else:
            return None
        return np.where(np.isfinite(values), values, np.inf)


def recorded_steps(horizon: int, dense: int = DENSE_STEPS) -> list[int]:
    """Steps whose losses are kept: 0..dense, then about 100 per factor of ten, and metric steps."""
    if horizon <= dense:
        return list(range(horizon + 1))
    sparse = np.geomspace(dense, horizon, math.ceil(100 * math.log10(horizon / dense)) + 1)
    return sorted({*range(dense + 1), *sparse.round().astype(int).tolist(), *metric_steps(horizon)})


def metric_steps(horizon: int) -> list[int]:
    """Steps at which metrics are taken: 0, four per factor of ten, and the last."""
    sparse = np.geomspace(1, horizon, math.ceil(4 * math.log10(horizon)) + 1)
    return sorted({0, *sparse.round().astype(int).tolist(), horizon})


def evaluate(
    optimizee: Optimizee,
    rule: LearnedOptimizer,
    problems: Sequence[int],
    seed: Seed,
    horizon: int,
    measured: Sequence[int] | None = None,
) -> list[EvalRecord]:
    """Run a rule on fresh problems; every rule that gets the same seed meets the same draws.

    Args:
        optimizee: distribution of the problems.
        rule: a learned optimizer, or a baseline at G learning rates.
        problems: indices of the B problems, walked through in chunks that fit memory.
        seed: split and seed of the draws.
        horizon: T >= 1.
        measured: steps in [0, T] at which metrics are taken, in order; None for `metric_steps(T)`.
            Criteria need T, and `EvalRecord.status` needs 0 too.

    Returns:
        One record per learning rate of a baseline, in order; one record for other rules.

    Raises:
        ValueError: if there is no problem.
    """
    if not problems:
        raise ValueError("an evaluation needs at least one problem, got none")
    rates = rule.rates if isinstance(rule, Baseline) else (None,)
    rows = max(1, COORDINATES_AT_ONCE // (optimizee.spec.size * len(rates)))
    chunks = [problems[i : i + rows] for i in range(0, len(problems), rows)]
    measured = metric_steps(horizon) if measured is None else measured
    parts = [_evaluate_chunk(optimizee, rule, c, seed, horizon, rates, measured) for c in chunks]
    return [_join([part[place] for part in parts]) for place in range(len(rates))]


@torch.no_grad()
def _evaluate_chunk(
    optimizee: Optimizee,
    rule: LearnedOptimizer,
    problems: Sequence[int],
    seed: Seed,
    horizon: int,
    rates: Sequence[float | None],
    measured: Sequence[int],
) -> list[EvalRecord]:
    """Run one chunk of problems at all learning rates at once."""
    if len(rates) > 1:
        optimizee = Repeated(optimizee, len(rates))
    problem = optimizee.sample(problems, seed)
    episode = Episode(optimizee, problem, horizon)
    start = last = episode.start(rule)
    first = start.loss
    keep = set(recorded_steps(horizon))
    losses, means = [first], [first]
    metrics = [optimizee.metrics(start.theta, problem)] if 0 in measured else []
    total, bad = torch.zeros_like(first, dtype=torch.float64), ~first.isfinite()
    for carry in unroll(episode, rule, start, horizon, reuse_state=True):
        last, step = carry, carry.seen.step
        total += carry.loss
        bad |= ~(carry.loss <= BLOW_UP * first)  # true for NaN too
        if step in keep:
            losses.append(carry.loss)
            means.append(total / step)
        if step in measured:
            metrics.append(optimizee.metrics(carry.theta, problem))
    whole = EvalRecord(
        problems=np.asarray(problems, dtype=np.int64),
        steps=np.asarray(recorded_steps(horizon)),
        loss=_stack(losses),
        running_mean=_stack(means),
        metric_steps=np.asarray(measured),
        metrics={name: _stack([m[name] for m in metrics]) for name in metrics[0]},
        diverged=bad.cpu().numpy(),
        counts={k: x.long().cpu().numpy() for k, x in rule.counts(last.state).items()},
    )
    return [_rows(whole, place, rate) for place, rate in enumerate(rates)]


def _rows(record: EvalRecord, place: int, rate: float | None) -> EvalRecord:
    """Cut one learning rate's rows out of a record of several."""
    count = len(record.problems)
    rows = slice(place * count, (place + 1) * count)
    return EvalRecord(
        record.problems,
        record.steps,
        record.loss[:, rows],
        record.running_mean[:, rows],
        record.metric_steps,
        {name: values[:, rows] for name, values in record.metrics.items()},
        record.diverged[rows],
        rate,
        {name: count[rows] for name, count in record.counts.items()},
    )


def _join(parts: Sequence[EvalRecord]) -> EvalRecord:
    """Put the chunks of one learning rate side by side."""
    first = parts[0]
    return EvalRecord(
        np.concatenate([p.problems for p in parts]),
        first.steps,
        np.concatenate([p.loss for p in parts], axis=1),
        np.concatenate([p.running_mean for p in parts], axis=1),
        first.metric_steps,
        {k: np.concatenate([p.metrics[k] for p in parts], axis=1) for k in first.metrics},
        np.concatenate([p.diverged for p in parts]),
        first.lr,
        {k: np.concatenate([p.counts[k] for p in parts]) for k in first.counts},
    )


def _stack(tensors: Sequence[Tensor]) -> Floats:
    """Stack along a new first axis, as float64 on the CPU."""
    return torch.stack([tensor.double() for tensor in tensors]).cpu().numpy()


@torch.no_grad()
def snapshots(
    optimizee: Optimizee,
    rule: LearnedOptimizer,
    problems: Sequence[int],
    seed: Seed,
    horizon: int,
    steps: Sequence[int],
) -> dict[int, Tensor]:
    """Run a rule on problems again, on the draws that `evaluate` gives them.

    Args:
        optimizee: distribution of the problems.
        rule: a learned optimizer, or a baseline at one learning rate.
        problems: indices of the B problems.
        seed: split and seed of the draws.
        horizon: T >= 1.
        steps: in [0, T].

    Returns:
        Step -> theta (B, N).
    """
    episode = Episode(optimizee, optimizee.sample(problems, seed), horizon)
    start = episode.start(rule)
    seen = {0: start.theta}
    for carry in unroll(episode, rule, start, max(steps), reuse_state=True):
        if carry.seen.step in steps:
            seen[carry.seen.step] = carry.theta
    return {step: seen[step] for step in steps}


@dataclass(frozen=True)
class StepCost:
    """What one inner step on one problem costs."""

    rule_seconds: float  # of the rule's step (baselines: torch's own step)
    gradient_seconds: float  # of minibatch, loss and gradient
    state_bytes_per_coordinate: float


@torch.no_grad()
def measure_step(optimizee: Optimizee, rule: LearnedOptimizer, repeats: int = 5) -> StepCost:
    """Time one inner step on a single problem, the rule and the gradient apart.

    The rule goes on from step to step, so that work which it does every few steps counts by its
    share. Baselines are timed on the native torch optimizer, not on its wrapper.

    Args:
        optimizee: of the problem.
        rule: a learned optimizer, or a baseline at one learning rate.
        repeats: >= 1, blocks of steps: the cost is the median over them of the mean per step.
    """
    problem = optimizee.sample([0], Seed("validation", 0))
    theta = optimizee.init(problem.index, problem.seed)
    loss, grad = differentiate(optimizee, theta, optimizee.minibatch(problem, 0))
    horizon = 1 + (1 + repeats) * STEPS_TIMED
    seen = Observation(grad, theta, loss, 0, horizon, optimizee.spec)
    _, state = rule.step(seen, rule.init_state(theta, optimizee.spec))
    size = sum(tensor.numel() * tensor.element_size() for tensor in state_tensors(state))

    def step() -> None:
        nonlocal seen, state
        seen = seen._replace(step=seen.step + 1)
        _, state = rule.step(seen, state)

    native = rule.native_step(seen) if isinstance(rule, Baseline) else step
    return StepCost(
        _median_seconds(native, repeats, STEPS_TIMED, theta.device),
        _median_seconds(
            lambda: differentiate(optimizee, theta, optimizee.minibatch(problem, 0)),
            repeats,
            GRADIENTS_TIMED,
            theta.device,
        ),
        size / theta.numel(),
    )


def _median_seconds(
    call: Callable[[], object], repeats: int, block: int, device: torch.device
) -> float:
    """Median over blocks of a call's mean wall-clock seconds, after a block to warm up."""
    seconds = []
    for _ in range(1 + repeats):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        for _ in range(block):
            call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append((time.perf_counter() - start) / block)
    return float(np.median(seconds[1:]))
