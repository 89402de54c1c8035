"""Hand-designed rules: torch.optim behind the interface of a learned optimizer."""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor

from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers.base import (
    Coupling,
    LearnedOptimizer,
    Observation,
    State,
    map_state,
)
from l2l_exp.optimizers.decay import Decay, checked, factor

Native = Callable[..., torch.optim.Optimizer]
TUNED = "tuned"


class BaselineState(NamedTuple):
    """The torch optimizer's own state of every parameter group."""

    slots: tuple[dict[str, Tensor], ...]  # per learning rate, e.g. exp_avg (B, N), step ()


class Baseline(LearnedOptimizer):
    """An elementwise torch optimizer, possibly at several learning rates at once.

    On (B, N) an elementwise rule is exactly B separate runs. With G learning rates theta has
    G*B rows, rate by rate, and each rate is one parameter group.

    Args:
        optimizer: a class of `torch.optim` (or a callable like one) that is elementwise.
        lr: learning rate > 0, several of them, or "tuned": found on validation problems before
            the rule is used.
        search: (low, high), 0 < low < high: where the tuning of the learning rate begins; it
            widens when the best value lies at an edge.
        decay: of the learning rate over the horizon, down to 0: "constant", "linear", "cosine".
        settings: further arguments of `optimizer`, the same for every learning rate.

    Raises:
        ValueError: for a learning rate or a range that is not positive, or an unknown decay.

    Example:
        >>> rule = Baseline(torch.optim.SGD, lr=0.1, momentum=0.9)
    """

    coupling: Coupling = "none"

    def __init__(
        self,
        optimizer: Native,
        lr: float | Sequence[float] | str = TUNED,
        search: Sequence[float] = (1e-3, 1.0),
        decay: Decay = "constant",
        **settings: Any,
    ) -> None:
        super().__init__()
        if isinstance(lr, str) and lr != TUNED:
            raise ValueError(f"lr={lr!r} must be a number > 0, or {TUNED!r}")
        rates = () if isinstance(lr, str) else (lr,) if isinstance(lr, int | float) else tuple(lr)
        if not isinstance(lr, str) and not (rates and all(rate > 0 for rate in rates)):
            raise ValueError(f"lr={lr} must be > 0")
        if len(search) != 2 or not 0 < search[0] < search[1]:
            raise ValueError(f"search={list(search)} must be two rates, 0 < low < high")
        self.optimizer = optimizer
        self.rates = tuple(float(rate) for rate in rates)
        self.search = (float(search[0]), float(search[1]))
        self.decay = checked(decay)
        self.settings = settings
        probe = {"params": [torch.zeros(1)], "lr": self.rates[0] if self.rates else self.search[0]}
        optimizer([probe], **settings)  # refuses wrong settings now, not after an hour

    @property
    def needs_tuning(self) -> bool:
        """Whether no learning rate has been chosen yet."""
        return not self.rates

    def with_rates(self, rates: Sequence[float]) -> "Baseline":
        """The same rule at other learning rates."""
        return Baseline(self.optimizer, list(rates), self.search, self.decay, **self.settings)

    def native(self, parameters: Sequence[Tensor], left: float = 1.0) -> torch.optim.Optimizer:
        """The torch optimizer itself, one parameter and group per learning rate.

        Args:
            parameters: one per learning rate.
            left: factor on every learning rate.
        """
        if self.needs_tuning:
            raise ValueError("the learning rate is still to be tuned: call with_rates first")
        groups = [
            {"params": [parameter], "lr": rate * left}
            for parameter, rate in zip(parameters, self.rates, strict=True)
        ]
        return self.optimizer(groups, **self.settings)

    def native_step(self, seen: Observation) -> Callable[[], object]:
        """torch's own step on a copy of theta, ready to be timed: at one learning rate."""
        parameter = seen.theta.detach().clone()
        parameter.grad = seen.grad.detach()
        return self.native([parameter]).step

    def check_rows(self, theta: Tensor) -> None:
        """Raise ValueError if the rows of theta are not a multiple of the learning rates."""
        if theta.shape[0] % max(1, len(self.rates)):
            raise ValueError(
                f"{theta.shape[0]} rows cannot be shared by {len(self.rates)} learning rates"
            )

    def init_state(self, theta: Tensor, spec: ParamSpec) -> State:
        """Nothing: torch optimizers make their state at the first step."""
        return BaselineState(tuple({} for _ in self.rates))

    @torch.no_grad()
    def step(self, seen: Observation, state: State) -> tuple[Tensor, State]:
        """The update that the torch optimizer makes on a copy of theta: theta' - theta, (G*B, N).

        Raises:
            ValueError: if theta's rows are not a multiple of the number of learning rates.
        """
        self.check_rows(seen.theta)
        copies = [part.clone() for part in seen.theta.detach().chunk(max(1, len(self.rates)))]
        optimizer = self.native(copies, factor(self.decay, seen.step, seen.horizon))
        for copy, grad, slots in zip(
            copies, seen.grad.detach().chunk(len(copies)), state.slots, strict=True
        ):
            copy.grad = grad
            if slots:
                optimizer.state[copy] = map_state(Tensor.clone, slots)
        optimizer.step()
        after = tuple(
            {name: x for name, x in optimizer.state[copy].items() if isinstance(x, Tensor)}
            for copy in copies
        )
        return torch.cat(copies) - seen.theta, BaselineState(after)

    def take(self, state: State, index: Tensor) -> State:
        """Restrict to flat coordinates; step counts are shared by all of them."""
        if len(self.rates) != 1:
            raise ValueError(f"only a state of one learning rate can be cut, not {self.rates}")
        cut = map_state(lambda x: x.flatten()[index].unsqueeze(-1) if x.dim() else x, state)
        return BaselineState(cut.slots)

    def map_problems(self, function: Callable[..., Tensor], *states: State) -> State:
        """Problems are rows; step counts are shared by all of them, the highest is kept.

        What torch has not made yet counts as zeros, which is what it begins with.
        """
        groups = zip(*(state.slots for state in states), strict=True)
        return BaselineState(tuple(_map_slots(function, group) for group in groups))


def at_one_rate(name: str, rule: LearnedOptimizer) -> LearnedOptimizer:
    """The rule, which something else is built around.

    Args:
        name: the argument that it is, for the message.
        rule: any rule.

    Raises:
        ValueError: for a baseline that is still to be tuned, or at several rates at once.
    """
    if isinstance(rule, Baseline) and len(rule.rates) != 1:
        given = list(rule.rates) or TUNED
        raise ValueError(f"{name}.lr={given} must be one number: inside others nothing is tuned")
    return rule


def _map_slots(
    function: Callable[..., Tensor], group: Sequence[dict[str, Tensor]]
) -> dict[str, Tensor]:
    """`function` on the tensors of the same name."""
    known = max(group, key=len)
    mapped = {}
    for name, like in known.items():
        tensors = [slots.get(name, torch.zeros_like(like)) for slots in group]
        mapped[name] = function(-2, *tensors) if like.dim() else reduce(torch.maximum, tensors)
    return mapped
