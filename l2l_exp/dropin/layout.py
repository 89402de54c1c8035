"""Names and kinds of the parameters of a torch optimizer: what a rule is told of a layout."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from torch import Tensor, nn

from l2l_exp.optimizees.spec import Kind, ParamSpec, kind_of, layout_of
from l2l_exp.optimizers.base import LearnedOptimizer
from l2l_exp.optimizers.partitioned import Partitioned

Group = Mapping[str, Any]
"""A parameter group of torch: "params", and perhaps "param_names" and "kinds" beside them."""


def group_of(module: nn.Module) -> dict[str, Any]:
    """A module's parameters with their names and the kinds that its layers tell."""
    named = list(module.named_parameters())
    kinds = []
    for path, _ in named:
        prefix, _, name = path.rpartition(".")
        kinds.append(kind_of(module.get_submodule(prefix), name))
    return {"params": named, "kinds": kinds}


def layout(groups: Sequence[Group], members: Iterable[Tensor]) -> ParamSpec:
    """Lay out parameters of some groups under their names, or numbers where they have none.

    Kinds are those of the group where it has them, else by name and rank, as `layout_of` guesses.

    Args:
        groups: all of the optimizer's.
        members: what is laid out, in order.

    Raises:
        ValueError: if a name comes twice.
    """
    names: dict[Tensor, str] = {}
    kinds: dict[Tensor, Kind] = {}
    for group in groups:
        count = len(group["params"])
        numbers = [str(len(names) + place) for place in range(count)]
        names |= dict(zip(group["params"], group.get("param_names", numbers), strict=True))
        kinds |= dict(zip(group["params"], group.get("kinds") or (), strict=False))
    members = list(members)
    if not members:
        return ParamSpec(())
    guess = layout_of((names[parameter], parameter) for parameter in members)
    return ParamSpec.of(
        {
            tensor.name: (tensor.shape, kinds.get(parameter, tensor.kind))
            for parameter, tensor in zip(members, guess.tensors, strict=True)
        }
    )


def check(rule: LearnedOptimizer, groups: Sequence[Group]) -> None:
    """Raise ValueError if the last of some groups cannot be laid out as the rule needs it."""
    params, kinds = groups[-1]["params"], groups[-1].get("kinds")
    if kinds is not None and len(kinds) != len(params):
        raise ValueError(f"kinds={list(kinds)} must be as many as the group's {len(params)} params")
    for kind in kinds or ():
        if kind not in get_args(Kind):
            raise ValueError(f"kinds: {kind!r} is not one of {', '.join(get_args(Kind))}")
    members = [parameter for group in groups for parameter in group["params"]]
    layout(groups, [parameter for parameter in members if parameter.numel()])
    if "param_names" not in groups[-1]:
        _check_nameless(rule, kinds is not None)


def _check_nameless(rule: LearnedOptimizer, has_kinds: bool) -> None:
    """Raise ValueError for parameters without names that the rule would tell apart by them."""
    for part in rule.modules():
        for name, chosen in part.selections.items() if isinstance(part, Partitioned) else ():
            if chosen.names is not None or (chosen.kinds is not None and not has_kinds):
                raise ValueError(
                    f"the rule's part {name!r} is chosen by kind or name: give the module itself "
                    f"or its named_parameters() instead of parameters without names"
                )
