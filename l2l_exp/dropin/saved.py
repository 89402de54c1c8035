"""A rule and its problems as plain types and tensors, and back."""

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from l2l_exp import checkpoint
from l2l_exp.dropin.problem import FlatProblem
from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers.base import LearnedOptimizer, State, map_state


def plain(
    rule: LearnedOptimizer, problems: Sequence[FlatProblem], parameters: Sequence[Tensor]
) -> dict[str, Any]:
    """What `torch.load(weights_only=True)` reads; tensors are not copied.

    Args:
        rule: its architecture, if it knows one, and meta-parameters are kept.
        problems: of some of the parameters.
        parameters: all of the optimizer's, whose places stand for them.
    """
    places = {parameter: place for place, parameter in enumerate(parameters)}
    architecture = rule.architecture
    return {
        "architecture": None if architecture is None else json.dumps(dict(architecture)),
        "meta_parameters": dict(rule.state_dict()),
        "problems": [
            {
                "parameters": [places[parameter] for parameter in problem.parameters],
                "layout": [(t.name, list(t.shape), t.kind) for t in problem.spec.tensors],
                "double": problem.place[1] == torch.float64,
                "steps": problem.steps,
                "state": None if problem.state is None else _plain(problem.state),
            }
            for problem in problems
        ],
    }


def restored(
    saved: Mapping[str, Any], like: LearnedOptimizer, parameters: Sequence[Tensor]
) -> tuple[LearnedOptimizer, list[FlatProblem]]:
    """The inverse of `plain`, in tensors of its own.

    Args:
        saved: from `plain`.
        like: a rule of the same form, needed where the saved one knew no architecture.
        parameters: all of the optimizer's.

    Raises:
        CheckpointError: if the architecture cannot be built.
        ValueError: if what is saved does not fit the parameters or the rule.
    """
    rule = _rebuilt(saved, like)
    return rule, [_problem(one, rule, parameters) for one in saved["problems"]]


def _rebuilt(saved: Mapping[str, Any], like: LearnedOptimizer) -> LearnedOptimizer:
    """The rule with its meta-parameters."""
    rule = copy.deepcopy(like)
    if saved["architecture"] is not None:
        architecture = json.loads(saved["architecture"])
        rule = checkpoint.rebuild(architecture, Path("the state dict"))
        rule.architecture = architecture
    try:  # assigned, to keep float64
        weights = {name: x.clone() for name, x in saved["meta_parameters"].items()}
        rule.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"the state dict is of another rule: {reason}") from error
    return rule.requires_grad_(False)


def _problem(
    one: Mapping[str, Any], rule: LearnedOptimizer, parameters: Sequence[Tensor]
) -> FlatProblem:
    """A problem that goes on where it was saved, in the precision that it was in."""
    mine = [parameters[place] for place in one["parameters"]]
    for parameter, (name, shape, _) in zip(mine, one["layout"], strict=True):
        if tuple(parameter.shape) != tuple(shape):
            raise ValueError(
                f"the state dict has {name} of shape {tuple(shape)}, the optimizer of shape "
                f"{tuple(parameter.shape)}"
            )
    spec = ParamSpec.of({name: (tuple(shape), kind) for name, shape, kind in one["layout"]})
    problem = FlatProblem.of(mine, spec, rule)
    device, dtype = problem.place[0], torch.float64 if one["double"] else torch.float32
    problem.place, problem.steps = (device, dtype), one["steps"]
    problem.rule.to(dtype)
    if one["state"] is not None:
        fresh = problem.started(torch.zeros(1, spec.size, device=device, dtype=dtype))
        state = _structured(one["state"], fresh)
        problem.state = map_state(lambda x: x.to(device, copy=True), state)
    return problem


def _plain(state: State) -> Any:
    """A state as lists, dicts and tensors."""
    if isinstance(state, Tensor):
        return state
    if isinstance(state, dict):
        return {key: _plain(value) for key, value in state.items()}
    return [_plain(part) for part in state]


def _structured(saved: Any, like: State) -> State:
    """The inverse of `_plain`, for a state like another; what a dict holds may be new."""
    if isinstance(saved, Tensor):
        return saved
    if isinstance(saved, dict):
        return {key: _structured(part, like.get(key, part)) for key, part in saved.items()}
    if len(saved) != len(like):
        raise ValueError("the saved state is of another rule, or of another version of this one")
    parts = [_structured(part, other) for part, other in zip(saved, like, strict=True)]
    return type(like)(*parts) if hasattr(like, "_fields") else type(like)(parts)
