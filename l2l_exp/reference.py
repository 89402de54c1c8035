"""References: scipy's quasi-Newton methods with line search, on problems small enough for them."""

import contextlib
import copy
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import scipy.optimize
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from l2l_exp.evaluation import EvalRecord, StepCost, metric_steps, recorded_steps
from l2l_exp.optimizees.base import Optimizee, Problem, check_choice
from l2l_exp.optimizees.seeding import Seed
from l2l_exp.unroll import differentiate

METHODS: Final = ("BFGS", "L-BFGS-B")
LARGEST = 2000
"""Most coordinates: BFGS holds a dense N x N matrix."""

Floats = npt.NDArray[np.float64]


class Reference:
    """A method that says how good a solution can be; no rule, and no baseline.

    It evaluates loss and gradient where it likes, as its line search asks for, so that its axis
    is the number of evaluations: step t is the best point of those that it chose after seeing t
    gradients, as a rule's theta_t is. It is not tuned, and has no tolerances: only the horizon, or
    a line search that finds nothing lower, ends it.

    Args:
        method: one of `METHODS`.
        history_size: >= 1, pairs of differences that L-BFGS-B keeps.

    Raises:
        ValueError: for a value outside these ranges.

    Source: P. Virtanen et al., SciPy 1.0, Nature Methods 17 (2020), 261-272.
    """

    def __init__(self, method: str = "BFGS", history_size: int = 10) -> None:
        check_choice("method", method, METHODS)
        if history_size < 1:
            raise ValueError(f"history_size={history_size} must be >= 1")
        self.method = method
        self.history_size = history_size

    def check(self, optimizee: Optimizee) -> None:
        """Raise ValueError if this optimizee is not one for a line search."""
        if not optimizee.deterministic:
            raise ValueError(
                f"{self.method} needs the same loss at every step, and {type(optimizee).__name__} "
                f"is not deterministic: leave it out, or use whole batches"
            )
        if optimizee.spec.size > LARGEST:
            raise ValueError(
                f"{self.method} is for at most {LARGEST} coordinates, not {optimizee.spec.size}"
            )

    def options(self, evaluations: int) -> Any:
        """What scipy is told: to go on as long as it may. An iteration evaluates at least once."""
        if self.method == "BFGS":
            return {"gtol": 0.0, "maxiter": evaluations}
        return {
            "gtol": 0.0, "ftol": 0.0, "maxiter": evaluations, "maxfun": evaluations,
            "maxcor": self.history_size,
        }  # fmt: skip


class Enough(Exception):
    """The evaluations that were allowed are used up."""


class Recorder:
    """Evaluates one problem for scipy, as often as allowed, and remembers the best point.

    Attributes:
        loss: the lowest so far, after each evaluation.
        theta: (N,) float64, where that was, after those evaluations at which metrics are taken.
        seconds: spent in evaluations.
    """

    def __init__(self, optimizee: Optimizee, problem: Problem, horizon: int) -> None:
        self.loss: list[float] = []
        self.theta: list[Tensor] = []
        self.seconds = 0.0
        self._optimizee, self._data = optimizee, optimizee.minibatch(problem, 0)
        self._measured, self._horizon = set(metric_steps(horizon)), horizon

    def __call__(self, point: Floats) -> tuple[float, Floats]:
        """Loss and gradient at a point (N,).

        Raises:
            Enough: if no evaluation is left.
        """
        if len(self.loss) > self._horizon:
            raise Enough
        start = time.perf_counter()
        theta = torch.tensor(point, dtype=torch.float64)
        loss, grad = differentiate(self._optimizee, theta.unsqueeze(0), self._data)
        value = loss.item()
        self._note(value, theta)
        self.seconds += time.perf_counter() - start
        if not math.isfinite(value):
            return math.inf, np.zeros_like(point)
        return value, grad.squeeze(0).numpy()

    def rest(self) -> None:
        """Stay at the best point until the horizon."""
        while len(self.loss) <= self._horizon:
            self._note(math.inf, self._best)

    def _note(self, value: float, theta: Tensor) -> None:
        """Enter an evaluation."""
        if not self.loss or value < self.loss[-1]:
            self._best, lowest = theta, value
        else:
            lowest = self.loss[-1]
        if len(self.loss) in self._measured:
            self.theta.append(self._best)
        self.loss.append(lowest)


def refer(
    optimizee: Optimizee, reference: Reference, problems: Sequence[int], seed: Seed, horizon: int
) -> tuple[EvalRecord, StepCost]:
    """Run a reference on the problems that rules meet, one by one, in float64 on the CPU.

    Args:
        optimizee: distribution of the problems; deterministic, with at most `LARGEST` coordinates.
        reference: the method.
        problems: indices of the B problems.
        seed: split and seed of the draws.
        horizon: T >= 1: loss and gradient are evaluated at theta_0 and at no more than T points.

    Returns:
        A record whose losses are the lowest so far, with metrics at that point; and the cost of an
        evaluation, `rule_seconds` being scipy's share; the size of scipy's state is not known.

    Raises:
        ValueError: if there is no problem, or the optimizee is not one for a line search.
    """
    reference.check(optimizee)
    if not problems:
        raise ValueError("an evaluation needs at least one problem, got none")
    exact = copy.deepcopy(optimizee).to("cpu", torch.float64)
    exact.batching = "loop"
    problem = _exact(optimizee, problems, seed)
    thetas, losses, costs = [], [], []
    for index in problems:
        recorder = Recorder(exact, _exact(optimizee, [index], seed), horizon)
        start = optimizee.init([index], seed).double().cpu().squeeze(0).numpy()
        seconds = _minimize(recorder, reference, start, horizon)
        spent = np.array([seconds - recorder.seconds, recorder.seconds])
        costs.append(spent / len(recorder.loss))
        recorder.rest()
        thetas.append(torch.stack(recorder.theta))
        losses.append(recorder.loss)
    measured = [exact.metrics(theta, problem) for theta in torch.stack(thetas, 1)]
    rule_seconds, gradient_seconds = np.median(costs, axis=0)
    record = _record(np.array(losses).T, measured, problems, horizon)
    return record, StepCost(float(rule_seconds), float(gradient_seconds), math.nan)


def _exact(optimizee: Optimizee, problems: Sequence[int], seed: Seed) -> Problem:
    """Problems as rules meet them, rounded to their dtype, in float64 on the CPU."""
    drawn = optimizee.sample(problems, seed)
    moved = {name: tensor.cpu() for name, tensor in drawn.data.items()}
    data = {k: x.double() if x.is_floating_point() else x for k, x in moved.items()}
    return Problem(drawn.index, drawn.seed, data)


def _minimize(recorder: Recorder, reference: Reference, start: Floats, horizon: int) -> float:
    """Let scipy go as far as it may; the seconds that took."""
    minimize: Any = scipy.optimize.minimize  # its types know no callable that keeps a record
    begun = time.perf_counter()
    with (
        warnings.catch_warnings(),
        np.errstate(all="ignore"),
        contextlib.suppress(Enough),
        threadpool_limits(1, "blas"),  # on matrices this small threads wait for each other
    ):
        warnings.simplefilter("ignore")  # overflow far out, a line search that finds nothing lower
        minimize(
            recorder, start, jac=True, method=reference.method, options=reference.options(horizon)
        )
    return time.perf_counter() - begun


def _record(
    loss: Floats, measured: Sequence[Mapping[str, Tensor]], problems: Sequence[int], horizon: int
) -> EvalRecord:
    """A record of losses (T+1, B) and of metrics, (B,) each, at every metric step."""
    steps = np.asarray(recorded_steps(horizon))
    mean = np.cumsum(loss[1:], axis=0) / np.arange(1, horizon + 1)[:, None]
    return EvalRecord(
        problems=np.asarray(problems, dtype=np.int64),
        steps=steps,
        loss=loss[steps],
        running_mean=np.concatenate([loss[:1], mean])[steps],
        metric_steps=np.asarray(metric_steps(horizon)),
        metrics={
            name: torch.stack([each[name].double() for each in measured]).cpu().numpy()
            for name in measured[0]
        },
        diverged=np.asarray(~np.isfinite(loss).all(axis=0)),
    )
