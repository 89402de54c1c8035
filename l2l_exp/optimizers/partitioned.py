"""Different rules for different parts of the parameters."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from typing import Any, NamedTuple, cast, get_args

import torch
from torch import Tensor, nn

from l2l_exp.optimizees.spec import Kind, ParamSpec
from l2l_exp.optimizers.base import Coupling, LearnedOptimizer, Observation, State
from l2l_exp.optimizers.baseline import at_one_rate
from l2l_exp.optimizers.parts import check_name
from l2l_exp.optimizers.selection import Selection

Step = Callable[[Observation, State], tuple[Tensor, State]]


class PartitionedState(NamedTuple):
    """Which part every coordinate belongs to, and the state of every part that has some."""

    owner: Tensor  # (B, N) number of the part, of theta's dtype, so that the state moves as one
    parts: dict[str, State]  # elementwise rules have every coordinate as a problem of its own


class Partitioned(LearnedOptimizer):
    """An own rule for every part of the parameters; each sees its part and nothing else.

    A tensor belongs to the first part whose conditions it meets, or else to the part without
    conditions. A part may have no tensor, so that a trained rule serves optimizees without that
    kind. The coupling is the widest of the parts'. The update of a torch optimizer (`Baseline`) is
    a constant to the meta-gradient, in second order too.

    Args:
        parts: name -> settings: `rule`, a learned optimizer or a baseline at one learning rate,
            and any of `kinds`, `names`, `ranks` (see `Selection`). At most one part has none.

    Raises:
        ValueError: for settings outside these rules.

    Example:
        >>> rules = {"conv": {"kinds": ["conv"], "rule": CoordinatewiseLSTM(seed=0)},
        ...          "rest": {"rule": CoordinatewiseLSTM(seed=1)}}
        >>> rule = Partitioned(rules)

    Source: arXiv:1606.04474, section 3.3: one LSTM for convolutions, another for dense layers.
    """

    def __init__(self, parts: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__()
        if not parts:
            raise ValueError("parts={} must hold at least one part, name -> {rule, kinds, ...}")
        self.rules = nn.ModuleDict()
        self.selections: dict[str, Selection] = {}
        for name, settings in parts.items():
            check_name(name, self.rules)
            try:
                self.selections[name], self.rules[name] = _part(settings)
            except ValueError as error:
                raise ValueError(f"part {name!r}: {error}") from error
        rest = [name for name, selection in self.selections.items() if selection.is_rest]
        if len(rest) > 1:
            raise ValueError(
                f"parts {', '.join(rest)} have no condition: only one may take the rest"
            )
        if len({id(rule) for rule in self.rules.values()}) < len(self.rules):
            raise ValueError(f"parts {', '.join(parts)} share a rule: give each its own")
        couplings = [self._rule(name).coupling for name in parts]
        self.coupling = max(couplings, key=get_args(Coupling).index)

    def _rule(self, name: str) -> LearnedOptimizer:
        """The rule of a part."""
        return cast(LearnedOptimizer, self.rules[name])

    def layouts(self, spec: ParamSpec) -> dict[str, ParamSpec]:
        """The layout of every part that has a tensor, by the part's name.

        Raises:
            ValueError: if a tensor belongs to no part.
        """
        by_condition = sorted(self.selections.items(), key=lambda item: item[1].is_rest)
        shapes: dict[str, dict[str, tuple[tuple[int, ...], Kind]]] = {n: {} for n in self.rules}
        for tensor in spec.tensors:
            takers = (name for name, selection in by_condition if selection.takes(tensor))
            taker = next(takers, None)
            if taker is None:
                raise ValueError(
                    f"no part takes tensor {tensor.name!r} (kind {tensor.kind}, rank "
                    f"{len(tensor.shape)}); a part without conditions would take the rest"
                )
            shapes[taker][tensor.name] = (tensor.shape, tensor.kind)
        return {name: ParamSpec.of(mine) for name, mine in shapes.items() if mine}

    def init_state(self, theta: Tensor, spec: ParamSpec) -> PartitionedState:
        """The state of every part.

        Raises:
            ValueError: if a tensor belongs to no part.
        """
        layouts, tensors = self.layouts(spec), spec.unflatten(theta)
        numbers: dict[str, Tensor] = {}
        states = {}
        for number, name in enumerate(self.rules):
            if name not in layouts:
                continue
            rule, mine = self._rule(name), layouts[name].flatten(tensors)
            state = rule.init_state(mine, layouts[name])
            if rule.coupling == "none":
                state = rule.take(state, torch.arange(mine.numel(), device=mine.device))
            states[name] = state
            numbers |= {t.name: theta.new_full(t.shape, number) for t in layouts[name].tensors}
        return PartitionedState(spec.flatten(numbers).expand_as(theta), states)

    def step(self, seen: Observation, state: PartitionedState) -> tuple[Tensor, PartitionedState]:
        """Every part's own update, put together: (B, N)."""
        return self._step(seen, state, lambda rule, _: rule.step)

    def step_in_place(
        self, seen: Observation, state: PartitionedState
    ) -> tuple[Tensor, PartitionedState]:
        """The same by the parts' steps in place."""
        return self._step(seen, state, lambda rule, _: rule.step_in_place)

    def step_trusted(
        self, seen: Observation, state: PartitionedState, trusted: Tensor
    ) -> tuple[Tensor, PartitionedState]:
        """The same by the parts' steps that keep a pair from their memories."""

        def step(rule: LearnedOptimizer, mine: Observation) -> Step:
            each = trusted.repeat_interleave(mine.grad.shape[0] // len(trusted))
            return partial(rule.step_trusted, trusted=each)

        return self._step(seen, state, step)

    def _step(
        self,
        seen: Observation,
        state: PartitionedState,
        step_of: Callable[[LearnedOptimizer, Observation], Step],
    ) -> tuple[Tensor, PartitionedState]:
        """Deal out what is seen, step, and put the updates together."""
        layouts = self.layouts(seen.spec)
        whole = seen.grad.shape[-1] == seen.spec.size  # else every unit is one coordinate
        places = {} if whole else self._places(state)
        dealt = self._deal_tensors(seen, layouts) if whole else _deal_units(seen, layouts, places)
        updates, states = {}, dict(state.parts)
        for name, mine in dealt.items():
            rule = self._rule(name)
            updates[name], states[name] = step_of(rule, mine)(mine, state.parts[name])
        if not whole:
            order = torch.cat([places[name] for name in updates]).argsort()
            return torch.cat(list(updates.values()))[order], state._replace(parts=states)
        tensors: dict[str, Tensor] = {}
        for name, update in updates.items():
            tensors |= layouts[name].unflatten(update.reshape(-1, layouts[name].size))
        return seen.spec.flatten(tensors), state._replace(parts=states)

    def _deal_tensors(
        self, seen: Observation, layouts: Mapping[str, ParamSpec]
    ) -> dict[str, Observation]:
        """What every part sees of whole problems: its columns (B, n), or one by one (B*n, 1)."""
        grads, thetas = seen.spec.unflatten(seen.grad), seen.spec.unflatten(seen.theta)
        dealt = {}
        for name, spec in layouts.items():
            grad, theta, loss = spec.flatten(grads), spec.flatten(thetas), seen.loss
            if self._rule(name).coupling == "none":
                loss = loss.unsqueeze(-1).expand(*loss.shape, spec.size).reshape(-1)
                grad, theta = grad.reshape(-1, 1), theta.reshape(-1, 1)
            dealt[name] = seen._replace(grad=grad, theta=theta, loss=loss, spec=spec)
        return dealt

    def _places(self, state: PartitionedState) -> dict[str, Tensor]:
        """Flat places of every part's coordinates, in their order."""
        owner = state.owner.flatten()
        numbers = {name: number for number, name in enumerate(self.rules)}
        return {name: (owner == numbers[name]).nonzero().squeeze(1) for name in state.parts}

    def take(self, state: PartitionedState, index: Tensor) -> PartitionedState:
        """Restrict to flat coordinates, or to problems where some part couples coordinates."""
        size = state.owner.shape[-1]
        flat = index
        if self.coupling != "none":
            flat = (size * index.unsqueeze(1) + torch.arange(size, device=index.device)).flatten()
        owner = state.owner.flatten()[flat]
        states = {}
        for name, places in self._places(state).items():
            rule, mine = self._rule(name), index
            if rule.coupling == "none":
                own = flat[owner == list(self.rules).index(name)]
                mine = torch.searchsorted(places, own)  # counted among the part's coordinates
            states[name] = rule.take(state.parts[name], mine)
        return PartitionedState(owner.view(len(index), -1), states)

    def map_problems(
        self, function: Callable[..., Tensor], *states: PartitionedState
    ) -> PartitionedState:
        """Every part as its rule says; of an elementwise one the coordinates by problem.

        Of units of one coordinate, which belong to one part each, `function` must keep the number.
        """
        problems, size = states[0].owner.shape
        places = self._places(states[0]) if size == 1 else {}
        parts = {}
        for name in states[0].parts:
            rule, mine = self._rule(name), [state.parts[name] for state in states]
            each = partial(_by_problem, function, problems)
            if size == 1:
                each = partial(_among_units, function, problems, places[name])
            parts[name] = rule.map_problems(each if rule.coupling == "none" else function, *mine)
        return PartitionedState(function(-2, *(state.owner for state in states)), parts)

    def told(self, state: PartitionedState, update: Tensor) -> PartitionedState:
        """Tell every part its own of the update (B, N)."""
        parts = {}
        for name, mine in self._places(state).items():
            rule, own = self._rule(name), update.flatten()[mine]
            rows = len(mine) if rule.coupling == "none" else len(update)
            parts[name] = rule.told(state.parts[name], own.view(rows, -1))
        return state._replace(parts=parts)

    def counts(self, state: PartitionedState) -> Mapping[str, Tensor]:
        """What the parts have counted, by "part.name"."""
        return {
            f"{name}.{what}": count
            for name, mine in state.parts.items()
            for what, count in self._rule(name).counts(mine).items()
        }


def _by_problem(
    function: Callable[..., Tensor], problems: int, axis: int, *tensors: Tensor
) -> Tensor:
    """Apply `function` to tensors whose `axis` counts the coordinates of all problems."""
    first = axis if axis >= 0 else axis - 1
    cut = [x.unflatten(axis, (problems, -1)) for x in tensors]
    return function(first, *cut).flatten(first, first + 1)


def _among_units(
    function: Callable[..., Tensor], units: int, places: Tensor, axis: int, *tensors: Tensor
) -> Tensor:
    """Apply `function` to tensors whose `axis` counts the units of a part, at some of all places.

    It is given tensors of all units, and may know them by their places.
    """
    spread = []
    for x in tensors:
        shape = list(x.shape)
        shape[axis] = units
        spread.append(x.new_zeros(shape).index_copy(axis, places, x))
    return function(axis, *spread).index_select(axis, places)


def _deal_units(
    seen: Observation, layouts: Mapping[str, ParamSpec], places: Mapping[str, Tensor]
) -> dict[str, Observation]:
    """What every part that has some sees of units of one coordinate: its own of them, (n, 1)."""
    return {
        name: seen._replace(
            grad=seen.grad[mine], theta=seen.theta[mine], loss=seen.loss[mine], spec=layouts[name]
        )
        for name, mine in places.items()
        if len(mine)
    }


def _part(settings: Mapping[str, Any]) -> tuple[Selection, LearnedOptimizer]:
    """Check the settings of a part."""
    if not isinstance(settings, Mapping):
        raise ValueError(f"{settings!r} must be settings: rule, and kinds, names or ranks")
    conditions = [field.name for field in fields(Selection)]
    unknown = sorted(map(str, set(settings) - {*conditions, "rule"}))
    if unknown:
        raise ValueError(f"{unknown[0]!r} is none of its keys: {', '.join(conditions)}, rule")
    rule = settings.get("rule")
    if not isinstance(rule, LearnedOptimizer):
        raise ValueError(f"rule={rule!r} must be a learned optimizer or a baseline")
    at_one_rate("rule", rule)
    return Selection(**{name: settings.get(name) for name in conditions}), rule
