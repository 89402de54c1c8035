"""STAR: Adam with a learned length, and a learned term behind a preconditioner."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers import per_tensor
from l2l_exp.optimizers.averages import NOTHING, Averages, AveragesState, inverse, weight
from l2l_exp.optimizers.base import LearnedOptimizer, Observation
from l2l_exp.optimizers.mlp import Activation, FeatureMLP, clock
from l2l_exp.optimizers.sizes import or_one

Nominal = Literal["adam", "momentum"]


class STARState(NamedTuple):
    """State of `STAR`."""

    averages: AveragesState
    taken: Tensor  # (B, 1) number of gradients taken in


class STAR(LearnedOptimizer):
    """A nominal Adam step whose length is learned, plus a preconditioned learned term.

        update = -scale * (exp(nominal_gain a) m / v + learned_scale exp(learned_gain b) d / p)

    a, b and d are outputs of a tiny MLP (features as for `MLPOptimizer`); m and v are Adam's
    bias-corrected momentum and root of the second moment; with the root mean squares over the
    tensor, p = root(v^2 + (floor rms(v))^2) / rms(g). An MLP that says nothing leaves Adam.
    Updates do not depend on the scale of the loss (in float32: see `Averages`).

    Args:
        hidden_units, layers, activation, momentum_decays, rms_decays, factored_decays, clip,
            times, progress: as for `MLPOptimizer`; Adam uses the first momentum decay and the last
            rms decay.
        output_scale: >= 0, the learning rate of the Adam that it starts as (b1 in the paper).
        nominal_gain: >= 0 (b2).
        learned_scale: >= 0, of the learned term relative to Adam's (b3 / b1).
        learned_gain: >= 0 (b4).
        nominal: "adam", or "momentum": m alone, without the correction of its start, for gradients
            that have no size of their own (`Whitened`); on others steps grow with the loss.
        floor: in (0, 1], bounds the learned term at d / floor where a second moment is all but 0.
        readout_std: >= 0, the outputs' weights start as N(0, readout_std^2), their biases as 0.
        seed: of the initial meta-parameters.

    Raises:
        ValueError: for a value outside these ranges.

    Source: Harrison, Metz, Sohl-Dickstein 2022, arXiv:2209.11208. Deviation: d has the gradient's
        units, and the preconditioner a floor; Adam has no epsilon, and rests where v is 0,
        or below `NOTHING` of rms(v).
    """

    coupling = "tensor"

    def __init__(
        self,
        hidden_units: int = 8,
        layers: int = 2,
        activation: Activation = "relu",
        momentum_decays: Sequence[float] = (0.9, 0.99, 0.999),
        rms_decays: Sequence[float] = (0.999,),
        factored_decays: Sequence[float] = (0.9, 0.99, 0.999),
        clip: float = 1.0,
        times: int = 11,
        progress: bool = False,
        output_scale: float = 0.01,
        nominal_gain: float = 1.0,
        learned_scale: float = 1.0,
        learned_gain: float = 1.0,
        floor: float = 0.1,
        nominal: Nominal = "adam",
        readout_std: float = 0.01,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (
            ("output_scale", output_scale),
            ("nominal_gain", nominal_gain),
            ("learned_scale", learned_scale),
            ("learned_gain", learned_gain),
            ("times", times),
        ):
            if not value >= 0:
                raise ValueError(f"{name}={value} must be >= 0")
        if nominal not in get_args(Nominal):
            raise ValueError(f"nominal={nominal!r} must be one of {', '.join(get_args(Nominal))}")
        if not 0 < floor <= 1:
            raise ValueError(f"floor={floor} must be > 0 and <= 1")
        self.averages = Averages(momentum_decays, rms_decays, factored_decays, clip)
        self.network = FeatureMLP(
            self.averages.size, times + progress, 3, hidden_units=hidden_units, layers=layers,
            activation=activation, readout_std=readout_std, seed=seed,
        )  # fmt: skip
        self.times, self.progress = times, progress
        self.output_scale, self.floor = output_scale, floor
        self.nominal_gain, self.learned_gain = nominal_gain, learned_gain
        self.learned_scale, self.nominal = learned_scale, nominal

    def init_state(self, theta: Tensor, spec: ParamSpec) -> STARState:
        """Nothing seen yet."""
        return STARState(self.averages.init_state(theta, spec), torch.zeros_like(theta[:, :1]))

    def step(self, seen: Observation, state: STARState) -> tuple[Tensor, STARState]:
        """Propose an update for every coordinate: (B, N)."""
        averages = self.averages.advance(seen.grad, state.averages, seen.spec)
        after = STARState(averages, state.taken + 1)
        features = self.averages.features(seen, averages)
        length, gain, d = self.network(features, clock(seen, self.times, progress=self.progress))
        momentum, size = self._corrected(after)
        if self.nominal == "adam":
            nominal = _over(momentum, size, seen.spec)
        else:
            nominal = averages.momenta[0]
        nominal = torch.exp(self.nominal_gain * length) * nominal
        learned = torch.exp(self.learned_gain * gain) * d * self._preconditioner(seen, size)
        return -self.output_scale * (nominal + self.learned_scale * learned), after

    def _corrected(self, state: STARState) -> tuple[Tensor, Tensor]:
        """Adam's momentum and root of the second moment, bias-corrected: (B, N) each."""
        first = weight(self.averages.momentum_decays[0], state.taken)
        second = weight(self.averages.rms_decays[-1], state.taken)
        return state.averages.momenta[0] / first, state.averages.roots[-1] / second.sqrt()

    def _preconditioner(self, seen: Observation, size: Tensor) -> Tensor:
        """rms(g) / root(v^2 + (floor rms(v))^2), and 0 where all v are 0: (B, N)."""
        of_grad, of_size = per_tensor.sizes(torch.stack([seen.grad, size]), seen.spec)
        over = torch.where(of_size > 0, of_grad / or_one(of_size), 0.0)
        ratio = per_tensor.spread(over, seen.spec)
        relative = per_tensor.unit(size, seen.spec)
        return ratio * torch.rsqrt(relative.square() + self.floor**2)


def _over(momentum: Tensor, size: Tensor, spec: ParamSpec) -> Tensor:
    """momentum / size, both in units of the tensor first; 0 where size is `NOTHING`: (B, N)."""
    unit = per_tensor.spread(or_one(per_tensor.sizes(size, spec)), spec)
    return momentum / unit * inverse(size / unit, NOTHING)
