"""Particles: copies of a rule at meta-parameters of their own, unrolled as one rule."""

from operator import itemgetter
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from l2l_exp.errors import UserError
from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers.base import LearnedOptimizer, Observation, State, map_state
from l2l_exp.unroll import Carry

Batching = Literal["vmap", "loop"]


class ParticleError(UserError, ValueError):
    """A rule that cannot be taken at several meta-parameters at once; says what to do."""


class Particles(LearnedOptimizer):
    """P copies of a rule as one rule of P*B rows, row p*B + b being problem b of particle p.

    It is meant for `unroll` on a `Repeated` optimizee: its state, the rule's with a leading axis P,
    is not cut by problems.

    Args:
        rule: not changed.
        phi: (P, D) meta-parameters of each copy, in the order of `rule.parameters()`.
        batching: "vmap", all copies at once; or "loop", one after the other, for rules that cannot
            be vmapped over meta-parameters.
    """

    coupling = "problem"

    def __init__(self, rule: LearnedOptimizer, phi: Tensor, batching: Batching) -> None:
        super().__init__()
        self.call = _Step(rule)
        self.count = phi.shape[0]
        self.batching = batching
        named = dict(self.call.named_parameters())
        parts = phi.split([parameter.numel() for parameter in named.values()], 1)
        self.phi = {
            name: part.view(-1, *parameter.shape)
            for (name, parameter), part in zip(named.items(), parts, strict=True)
        }

    def init_state(self, theta: Tensor, spec: ParamSpec) -> State:
        """The rule's own state of the B problems, which knows no meta-parameters, P times."""
        alone = self.call.rule.init_state(theta[: theta.shape[0] // self.count], spec)
        return _repeated(alone, self.count)

    def step(self, seen: Observation, state: State) -> tuple[Tensor, State]:
        """Every copy's own update of its own problems: (P*B, N).

        Raises:
            ParticleError: if the rule cannot be vmapped over its meta-parameters.
        """
        grad, theta, loss = (
            x.unflatten(0, (self.count, -1)) for x in (seen.grad, seen.theta, seen.loss)
        )

        def one(
            phi: dict[str, Tensor], grad: Tensor, theta: Tensor, loss: Tensor, state: State
        ) -> tuple[Tensor, State]:
            part = seen._replace(grad=grad, theta=theta, loss=loss)
            update, after = functional_call(self.call, phi, (part, state))
            return update, after

        if self.batching == "loop":
            whole = (self.phi, grad, theta, loss, state)
            each = [one(*map_state(itemgetter(p), whole)) for p in range(self.count)]
            updates, states = zip(*each, strict=True)
            return torch.cat(updates), map_state(lambda *parts: torch.stack(parts), *states)
        try:
            update, after = vmap(one)(self.phi, grad, theta, loss, state)
        except RuntimeError as error:
            if "vmap" not in str(error):
                raise
            raise ParticleError(
                f"{type(self.call.rule).__name__} cannot be stepped at several meta-parameters at "
                f"once (vmap): use training.gradient.batching=loop"
            ) from error
        return update.flatten(0, 1), after


class _Step(nn.Module):
    """A rule's step as a module's forward, for `functional_call`."""

    def __init__(self, rule: LearnedOptimizer) -> None:
        super().__init__()
        self.rule = rule

    def forward(self, seen: Observation, state: State) -> tuple[Tensor, State]:
        """The step."""
        return self.rule.step(seen, state)


def spread(carry: Carry, count: int) -> Carry:
    """The carry of `count` particles that all stand where `carry` does."""
    grad, theta, loss = (
        x.repeat(count, *[1] * (x.dim() - 1)) for x in (carry.seen.grad, carry.theta, carry.loss)
    )
    seen = carry.seen._replace(grad=grad, theta=theta, loss=loss)
    return Carry(theta, loss, seen, _repeated(carry.state, count))


def last_particle(carry: Carry, count: int) -> Carry:
    """The carry of the last of `count` particles."""
    mine = slice(-(carry.theta.shape[0] // count), None)
    seen = carry.seen._replace(
        grad=carry.seen.grad[mine], theta=carry.seen.theta[mine], loss=carry.seen.loss[mine]
    )
    state = map_state(itemgetter(-1), carry.state)
    return Carry(carry.theta[mine], carry.loss[mine], seen, state)


def _repeated(state: State, count: int) -> State:
    """A state with a leading axis of `count` equal entries, which no step changes."""
    return map_state(lambda x: x.expand(count, *x.shape), state)
