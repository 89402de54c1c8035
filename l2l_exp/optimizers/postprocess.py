"""What is done to the steps of any rule: normalised, bounded, times a learning rate that falls."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers import per_tensor
from l2l_exp.optimizers.base import LearnedOptimizer, Observation, State
from l2l_exp.optimizers.baseline import at_one_rate
from l2l_exp.optimizers.decay import Decay, checked, factor


class Postprocessed(LearnedOptimizer):
    """update = lr_t * (bound * tanh(u / bound) - weight_decay * theta), u a rule's, or u / RMS(u).

    Every part is optional, and applies in this order; lr_t = lr * decay(t / T). With the defaults
    it is the rule itself.

    Args:
        rule: any rule; a `Baseline` at one learning rate.
        normalise: divide the update of every tensor by its root mean square (Celo2).
        bound: > 0, largest step of a coordinate before the learning rate; None for no bound.
        lr: > 0, a learning rate of the user's own.
        decay: of the learning rate over the horizon: "constant", "linear" or "cosine".
        final: in [0, 1], factor that the decay ends with.
        weight_decay: >= 0, decoupled (Loshchilov, Hutter 2019, arXiv:1711.05101).

    Raises:
        ValueError: for a value outside these ranges.

    Source: Celo2, arXiv:2602.19142 (RMS of a step); PyLO, arXiv:2506.10315 (schedule and weight
    decay on top of a learned update).
    """

    def __init__(
        self,
        rule: LearnedOptimizer,
        normalise: bool = False,
        bound: float | None = None,
        lr: float = 1.0,
        decay: Decay = "constant",
        final: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__()
        for name, value, good, right in (
            ("bound", bound, bound is None or bound > 0, "> 0, or null"),
            ("lr", lr, lr > 0, "> 0"),
            ("final", final, 0 <= final <= 1, "in [0, 1]"),
            ("weight_decay", weight_decay, weight_decay >= 0, ">= 0"),
        ):
            if not good:
                raise ValueError(f"{name}={value} must be {right}")
        self.rule = at_one_rate("rule", rule)
        self.coupling = "tensor" if normalise and rule.coupling == "none" else rule.coupling
        self.about = dict(rule.about)
        self.normalise, self.bound = normalise, bound
        self.lr, self.decay, self.final = lr, checked(decay), final
        self.weight_decay = weight_decay

    def init_state(self, theta: Tensor, spec: ParamSpec) -> State:
        """The rule's."""
        return self.rule.init_state(theta, spec)

    def step(self, seen: Observation, state: State) -> tuple[Tensor, State]:
        """What becomes of the rule's update (B, N); the rule is told of it."""
        return self._after(seen, *self.rule.step(seen, state))

    def step_in_place(self, seen: Observation, state: State) -> tuple[Tensor, State]:
        """The same, by the rule's own step in place."""
        return self._after(seen, *self.rule.step_in_place(seen, state))

    def step_trusted(
        self, seen: Observation, state: State, trusted: Tensor
    ) -> tuple[Tensor, State]:
        """The same, by the rule's own trusted step."""
        return self._after(seen, *self.rule.step_trusted(seen, state, trusted))

    def take(self, state: State, index: Tensor) -> State:
        """As the rule takes it, where the wrapper couples no more than the rule does."""
        if self.coupling == self.rule.coupling:
            return self.rule.take(state, index)
        return super().take(state, index)

    def map_problems(self, function: Callable[..., Tensor], *states: State) -> State:
        """The rule's."""
        return self.rule.map_problems(function, *states)

    def told(self, state: State, update: Tensor) -> State:
        """The rule's."""
        return self.rule.told(state, update)

    def counts(self, state: State) -> Mapping[str, Tensor]:
        """The rule's."""
        return self.rule.counts(state)

    def _after(self, seen: Observation, update: Tensor, state: State) -> tuple[Tensor, State]:
        """Normalise, bound, decay, and tell the rule what became of its update."""
        if self.normalise:
            update = per_tensor.unit(update, seen.spec)
        if self.bound is not None:
            update = self.bound * torch.tanh(update / self.bound)
        if self.weight_decay:
            update = update - self.weight_decay * seen.theta
        rate = self.lr * factor(self.decay, seen.step, seen.horizon, self.final)
        update = update if rate == 1.0 else rate * update
        return update, self.rule.told(state, update)
