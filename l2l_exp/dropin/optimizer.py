"""A rule behind the interface of torch.optim.Optimizer."""

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from l2l_exp.dropin import layout
from l2l_exp.dropin.problem import FlatProblem, Place, Proposal, Settings, place_of
from l2l_exp.dropin.saved import plain, restored
from l2l_exp.optimizers.base import LearnedOptimizer
from l2l_exp.optimizers.baseline import at_one_rate
from l2l_exp.optimizers.safeguard import Safeguarded
from l2l_exp.optimizers.width import WidthScaled

RULE = "rule"
"""Where a state dict has what is not a parameter's own, beside the (empty) states of parameters."""
OWN = ("rule", "horizon", "skipped_steps", "_problems")


class LearnedTorchOptimizer(Optimizer):
    """An update rule as a torch optimizer: theta + lr * (update - weight_decay * theta).

    What torch.optim.AdamW does with closures, parameter groups, schedulers, hooks, gradients that
    are missing, state dicts and copies, this does. Arithmetic and state are in float32, or float64
    for parameters of that dtype. All parameters are one problem of a rule whose coordinates talk
    across tensors, on the device of the first; other rules have one problem per device. Parameters
    that get their first gradient later begin with a fresh state, as a problem of their own; where
    there can only be one, it begins anew as a whole.

    A step is skipped, and counted, if a gradient is not finite; a rule whose safeguard judges
    losses sees such gradients and deals with them.

    Args:
        params: a module, whose layers tell the kinds of their parameters; or what torch takes:
            named parameters (kinds are guessed by name and rank), parameters, or groups of either.
            A group may have `lr`, `weight_decay`, `maximize`, and `kinds`, one per parameter.
        rule: is copied; a `Baseline` at one learning rate.
        lr: >= 0, factor on the rule's updates, which have a size of their own: 1 is as trained.
        weight_decay: >= 0, decoupled; as `lr` is 1 here, it stands for AdamW's lr * weight_decay.
        maximize: ascend instead.
        horizon: steps of the whole run, >= 1; None for what the rule was trained on, if its
            checkpoint tells. Only rules that change with the progress read it.

    Attributes:
        rule: with its meta-parameters, as they were trained.
        horizon: as given or known.
        skipped_steps: how many steps were skipped.

    Raises:
        ValueError: for a value outside these ranges, parameters that are not real, and parameters
            without names where the rule goes by names or kinds.
    """

    rule: LearnedOptimizer
    horizon: int | None
    skipped_steps: int

    def __init__(
        self,
        params: ParamsT | nn.Module,
        rule: LearnedOptimizer,
        lr: float | Tensor = 1.0,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        horizon: int | None = None,
    ) -> None:
        self.rule = copy.deepcopy(at_one_rate("rule", rule)).requires_grad_(False)
        self.horizon = _checked_horizon(rule.about.get("horizon") if horizon is None else horizon)
        self.skipped_steps = 0
        self._problems: list[FlatProblem] = []
        groups = [layout.group_of(params)] if isinstance(params, nn.Module) else params
        if isinstance(params, nn.Module) and not any(True for _ in params.parameters()):
            raise ValueError(f"{type(params).__name__} has no parameters")
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay, "maximize": maximize})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, with settings of their own.

        Raises:
            ValueError: as the constructor.
        """
        super().add_param_group(param_group)
        try:
            _settings(self.param_groups[-1])
            layout.check(self.rule, self.param_groups)
        except ValueError:
            del self.param_groups[-1]
            raise

    @torch.no_grad()
    def step(
        self,
        closure: Callable[[], Any] | None = None,
        *,
        loss: float | Tensor | None = None,
    ) -> Any:
        """Take a step along the gradients that parameters have.

        Args:
            closure: clears and computes gradients and returns the loss.
            loss: instead of a closure, at the parameters as they are, not scaled; only needed by
                rules that read it.

        Returns:
            What the closure returned, else None.

        Raises:
            RuntimeError: for sparse gradients, or if the rule's update is not finite and no loss
                was given.
            ValueError: if both or, where the rule needs one, none of closure and loss are given,
                if the loss is not one number, or if the rule reads a horizon that is not known.
        """
        if closure is not None and not callable(closure):
            raise ValueError("closure must be callable; a loss goes in by its name: step(loss=...)")
        if closure is not None and loss is not None:
            raise ValueError("closure and loss are both given: the loss is the closure's")
        returned = None
        if closure is not None:
            with torch.enable_grad():
                returned = loss = closure()
        active = self._active()
        value, laid_out = self._value(loss, active), self._laid_out(active)
        problems = [p for p in laid_out if any(x in active for x in p.parameters)]
        for problem in problems:
            problem.follow()
        grads = [problem.gradient(active) for problem in problems]
        if not _judges(self.rule) and not all(bool(grad.isfinite().all()) for grad in grads):
            self.skipped_steps += 1
            return returned
        proposals = [
            problem.propose(grad, active, value, self.horizon)
            for problem, grad in zip(problems, grads, strict=True)
        ]
        if loss is None and not all(bool(x.change.isfinite().all()) for x in proposals):
            raise RuntimeError(
                "the rule's update is not finite: if it reads the loss, call step(closure) or "
                "step(loss=...)"
            )
        self._problems = laid_out
        for problem, proposal in zip(problems, proposals, strict=True):
            self._warn_at_the_end(problem, proposal)
            problem.take(proposal, active)
        return returned

    def _warn_at_the_end(self, problem: FlatProblem, proposal: Proposal) -> None:
        """Warn, once, that a rule whose steps fall to 0 over the horizon is beyond it."""
        if problem.steps == self.horizon and not proposal.change.any():
            warnings.warn(
                f"step {problem.steps + 1} is beyond horizon={self.horizon}, and the rule moves "
                f"nothing any more: give the number of steps of the whole run",
                stacklevel=5,  # where the user calls step, through torch's wrappers
            )

    def counts(self) -> dict[str, int]:
        """What the rule has counted so far, by name, as a safeguard counts its undone steps."""
        found: dict[str, int] = {}
        for problem in self._problems:
            if problem.state is None:
                continue
            for name, count in problem.rule.counts(problem.state).items():
                found[name] = found.get(name, 0) + int(count.sum())
        return found

    def state_dict(self) -> dict[str, Any]:
        """As torch's; under state["rule"] the rule with its meta-parameters and all it remembers.

        Only plain types and tensors: `torch.load` reads it with `weights_only=True`.
        """
        self.state[RULE] = self._content()  # type: ignore[index]
        try:
            return super().state_dict()
        finally:
            del self.state[RULE]  # type: ignore[arg-type]

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {name: self.__dict__[name] for name in OWN}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if RULE not in state:  # from load_state_dict; else a copy, or unpickled
            saved = state["state"].pop(RULE, None)
            if saved is None:
                raise ValueError("the state dict has no rule: it is of another optimizer")
            rule, problems = restored(saved, self.rule, list(self._parameters()))
            counts = {name: saved[name] for name in ("horizon", "skipped_steps")}
            state = state | {RULE: rule, "_problems": problems, **counts}
        super().__setstate__(state)

    def _content(self) -> dict[str, Any]:
        """Everything that is not in param_groups."""
        content = plain(self.rule, self._problems, list(self._parameters()))
        return content | {"horizon": self.horizon, "skipped_steps": self.skipped_steps}

    def _active(self) -> dict[Tensor, Settings]:
        """Parameters that have a gradient, with their groups' settings."""
        active = {}
        for group in self.param_groups:
            settings = _settings(group)
            for parameter in group["params"]:
                if parameter.grad is None or not parameter.numel():
                    continue
                if parameter.grad.layout != torch.strided:
                    raise RuntimeError(
                        f"{type(self).__name__} does not support sparse gradients: consider "
                        f"torch.optim.SparseAdam for these parameters"
                    )
                active[parameter] = settings
        return active

    def _laid_out(self, active: Mapping[Tensor, Settings]) -> list[FlatProblem]:
        """The problems, with new ones for parameters in none, once one of these has a gradient.

        Those that may get one later, as they require it, are laid out with them.
        """
        known = {p for problem in self._problems for p in problem.parameters}
        if all(parameter in known for parameter in active):
            return self._problems
        ready = {p for p in self._parameters() if p in active or (p.requires_grad and p.numel())}
        if _sees_all(self.rule):
            members = [p for p in self._parameters() if p in known or p in ready]
            return [self._problem(members)]
        places: dict[Place, list[Tensor]] = {}
        for parameter in self._parameters():
            if parameter in ready and parameter not in known:
                places.setdefault(place_of([parameter]), []).append(parameter)
        return self._problems + [self._problem(members) for members in places.values()]

    def _problem(self, members: list[Tensor]) -> FlatProblem:
        """A problem of its own."""
        return FlatProblem.of(members, layout.layout(self.param_groups, members), self.rule)

    def _parameters(self) -> Iterator[Tensor]:
        """Of all groups."""
        return (parameter for group in self.param_groups for parameter in group["params"])

    def _value(self, loss: Any, active: Mapping[Tensor, Settings]) -> Tensor | float:
        """What is to be lowered, NaN where it is not known."""
        if loss is None:
            if active and any(_judges(module) for module in self.rule.modules()):
                raise ValueError(
                    "the rule's safeguard (blow_up) reads the loss: call step(closure) or "
                    "step(loss=...)"
                )
            return math.nan
        if torch.as_tensor(loss).numel() != 1:
            raise ValueError(f"loss={loss} must be one number")
        signs = {settings.maximize for settings in active.values()}
        if len(signs) > 1:
            return math.nan  # up for some, down for others: it is no value of this problem
        value: Tensor | float = -loss if signs == {True} else loss
        return value


def _checked_horizon(horizon: Any) -> int | None:
    """A horizon that can be.

    Raises:
        ValueError: for one that cannot.
    """
    if horizon is None:
        return None
    if isinstance(horizon, bool) or not isinstance(horizon, int) or horizon < 1:
        raise ValueError(f"horizon={horizon!r} must be a whole number >= 1")
    return horizon


def _settings(group: Mapping[str, Any]) -> Settings:
    """The settings of a group, as they are at this step.

    Raises:
        ValueError: for a value outside its range.
    """
    for name in ("lr", "weight_decay"):
        number = isinstance(group[name], int | float | Tensor)
        if not number or not 0 <= float(group[name]) < math.inf:
            raise ValueError(f"{name}={group[name]!r} must be a number >= 0")
    return Settings(float(group["lr"]), float(group["weight_decay"]), group["maximize"])


def _judges(rule: nn.Module) -> bool:
    """Whether a rule decides by the loss, and by gradients that are not finite."""
    return isinstance(rule, Safeguarded) and rule.blow_up is not None


def _sees_all(rule: LearnedOptimizer) -> bool:
    """Whether a rule must have all parameters in one layout."""
    first_and_last = any(isinstance(module, WidthScaled) for module in rule.modules())
    return rule.coupling == "problem" or first_and_last
