"""How a rule answers gradients of its own choosing: impulses, nothing at all, other scales."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from l2l_exp.evaluation import Floats
from l2l_exp.microscope.probe import respond
from l2l_exp.optimizers.base import LearnedOptimizer


@dataclass(frozen=True)
class Impulse:
    """What single gradients leave behind.

    Attributes:
        sizes: (K,) of the gradients.
        responses: (T, K) by how much the update at step t after the gradient (0: its own) differs
            from what it would have been without one.
        settled: the update without one, at the moment of the impulse.
    """

    sizes: Floats
    responses: Floats
    settled: float

    @property
    def half_lives(self) -> Floats:
        """(K,) memory half-lives in steps, see `half_life`."""
        return np.array([half_life(response) for response in self.responses.T])


def impulse_response(
    rule: LearnedOptimizer, sizes: Sequence[float] = (1.0,), steps: int = 100, settle: int = 1000
) -> Impulse:
    """One gradient after a long time without any, and none after it.

    Args:
        rule: as for `probe.respond`.
        sizes: of the gradients, none of them 0.
        steps: T >= 1, looked at from the impulse on.
        settle: >= 0, steps without gradient before it.

    Raises:
        ValueError: for a value outside these ranges.
    """
    if steps < 1 or settle < 0:
        raise ValueError(f"steps={steps} must be >= 1, and settle={settle} >= 0")
    if not len(sizes) or 0 in sizes:
        raise ValueError(f"sizes={list(sizes)} must be gradients, none of them 0")
    gradients = np.zeros((settle + steps, 1 + len(sizes)))
    gradients[settle, 1:] = sizes
    updates = respond(rule, gradients)[settle:]
    responses = updates[:, 1:] - updates[:, :1]
    return Impulse(np.array(sizes, dtype=np.float64), responses, float(updates[0, 0]))


def half_life(response: Floats) -> float:
    """Steps in which the first half of a response is given, by the sum of its absolute values.

    Between steps it is interpolated: a response that is over at once has half a step, momentum
    with decay beta about log 2 / log(1 / beta) steps. Not a number where there is no response.

    Args:
        response: (T,), from the impulse on.
    """
    given = np.concatenate([[0.0], np.abs(response).cumsum()])
    if not given[-1] > 0 or not np.isfinite(given[-1]):
        return float("nan")
    return float(np.interp(0.5, given / given[-1], np.arange(len(given))))


def drift(rule: LearnedOptimizer, steps: int = 100) -> Floats:
    """Updates (T,) from the rule's zero state while every gradient is 0.

    Args:
        rule: as for `probe.respond`.
        steps: T >= 1.

    Raises:
        ValueError: for another number of steps.
    """
    if steps < 1:
        raise ValueError(f"steps={steps} must be >= 1")
    return respond(rule, np.zeros((steps, 1)))[:, 0]


@dataclass(frozen=True)
class ScaleResponse:
    """The same gradients, times factors.

    Attributes:
        scales: (C,) the factors, rising.
        updates: (T, C) at every step and factor.
    """

    scales: Floats
    updates: Floats

    @property
    def sizes(self) -> Floats:
        """(C,) root mean square of the updates over the steps."""
        return np.asarray(np.sqrt(np.square(self.updates).mean(0)))

    @property
    def slope(self) -> float:
        """Of log size against log factor, least squares: 1 for SGD, 0 for Adam."""
        if not (self.sizes > 0).all():
            return float("nan")
        return float(np.polyfit(np.log(self.scales), np.log(self.sizes), 1)[0])

    @property
    def slopes(self) -> Floats:
        """(C - 1,) the same between neighbouring factors."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.diff(np.log(self.sizes)) / np.diff(np.log(self.scales)))

    @property
    def from_equivariant(self) -> Floats:
        """(C,) relative distance of updates from those at factor 1 times the factor: 0 for SGD."""
        return self._distance(self._unscaled * self.scales)

    @property
    def from_invariant(self) -> Floats:
        """(C,) relative distance of updates from those at factor 1: 0 for Adam."""
        return self._distance(self._unscaled * np.ones_like(self.scales))

    @property
    def _unscaled(self) -> Floats:
        """(T, 1) updates at the factor 1."""
        place = int(np.abs(np.log(self.scales)).argmin())
        return self.updates[:, place : place + 1]

    def _distance(self, expected: Floats) -> Floats:
        """(C,) of the updates, over the size of what was expected (T, C)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = np.linalg.norm(self.updates - expected, axis=0)
            return np.asarray(distance / np.linalg.norm(expected, axis=0))


def scale_response(
    rule: LearnedOptimizer, gradients: Floats, scales: Sequence[float]
) -> ScaleResponse:
    """Show a rule, from its zero state, the same gradients times factors.

    Args:
        rule: as for `probe.respond`.
        gradients: (T,).
        scales: two factors > 0 or more, rising, 1 among them.

    Raises:
        ValueError: for other factors.
    """
    factors = np.asarray(scales, dtype=np.float64)
    if len(factors) < 2 or not (factors > 0).all() or not (np.diff(factors) > 0).all():
        raise ValueError(f"scales={list(scales)} must be two factors > 0 or more, rising")
    if 1.0 not in factors:
        raise ValueError(f"scales={list(scales)} must have 1 among them, to compare with")
    return ScaleResponse(factors, respond(rule, np.asarray(gradients)[:, None] * factors))
