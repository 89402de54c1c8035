"""A tiny MLP on features of every coordinate: learned optimizers without recurrent units."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers import per_tensor
from l2l_exp.optimizers.averages import Averages, AveragesState
from l2l_exp.optimizers.base import LearnedOptimizer, Observation
from l2l_exp.optimizers.decay import factor

Activation = Literal["relu", "tanh", "elu", "gelu", "silu", "softplus"]


class FeatureMLP(nn.Module):
    """An MLP over n independent units, features first, with inputs that all of them share.

    Args:
        inputs: features of a unit, >= 1.
        shared: features that all units share, >= 0; they cost no more than a bias.
        outputs: >= 1.
        hidden_units: >= 1, of every hidden layer.
        layers: >= 1, hidden layers.
        activation: of the hidden layers, a name in `torch.nn.functional`.
        readout_std: >= 0, the readout's weights start as N(0, readout_std^2). The other weights
            start as N(0, 1 / inputs), biases as 0.
        seed: of the initial weights.

    Raises:
        ValueError: for a value outside these ranges.
    """

    def __init__(
        self,
        inputs: int,
        shared: int,
        outputs: int,
        *,
        hidden_units: int,
        layers: int,
        activation: Activation,
        readout_std: float,
        seed: int,
    ) -> None:
        super().__init__()
        for name, value in (("hidden_units", hidden_units), ("layers", layers)):
            if value < 1:
                raise ValueError(f"{name}={value} must be >= 1")
        if activation not in get_args(Activation):
            raise ValueError(
                f"activation={activation!r} must be one of {', '.join(get_args(Activation))}"
            )
        if not readout_std >= 0:
            raise ValueError(f"readout_std={readout_std} must be >= 0")
        self.activation = activation
        self.shared = shared
        rng = torch.Generator().manual_seed(seed)
        sizes = [inputs + shared] + [hidden_units] * layers
        shapes = list(zip([*sizes[1:], outputs], sizes, strict=True))
        scales = [1 / math.sqrt(size) for size in sizes[:-1]] + [readout_std]
        self.weights = nn.ParameterList(
            scale * torch.randn(*shape, generator=rng)
            for scale, shape in zip(scales, shapes, strict=True)
        )
        self.biases = nn.ParameterList(torch.zeros(rows, 1) for rows, _ in shapes)

    def forward(self, features: Tensor, shared: Tensor) -> Tensor:
        """Features (inputs, ...), shared (shared,) -> (outputs, ...)."""
        act = getattr(nn.functional, self.activation)
        own, common = self.weights[0].split((len(features), self.shared), 1)
        bias = self.biases[0] + common @ shared.unsqueeze(-1)
        signal = torch.addmm(bias, own, features.flatten(1))
        for weight, bias in zip(self.weights[1:], self.biases[1:], strict=True):
            signal = torch.addmm(bias, weight, act(signal))
        return signal.view(-1, *features.shape[1:])


class MLPState(NamedTuple):
    """State of `MLPOptimizer`."""

    averages: AveragesState


class MLPOptimizer(LearnedOptimizer):
    """Update of a coordinate = a tiny MLP of its features and of the time.

        step = d exp(exp_scale m),  update = scale * step / rms(step)  or  scale * step,

    d and m being the MLP's outputs, rms over the tensor. With `shortcut` d has a linear path from
    the features besides, which begins as minus Adam's: from a random direction, of which half lead
    upwards, a normalised rule may never find down. The scale falls from `output_scale` to
    `final_scale` of it over the horizon, as a half cosine. Features have no units (see
    `Averages`, also for the range), so that updates do not depend on the scale of the loss.

    Args:
        hidden_units: >= 1, of each hidden layer (Celo2: 8, small_fc_lopt: 4).
        layers: >= 1, hidden layers (both: 2).
        activation: relu (both), tanh, elu, gelu, silu, softplus.
        momentum_decays, rms_decays, factored_decays, clip: as for `Averages`.
        times: >= 0, time features: tanh(t / tau - 1) for the first of tau = 1, 3.2, 10, 32, ...
            (both: 11, to 1e5). Those with tau far beyond the horizons of meta-training begin to
            move where nothing was learned of them.
        progress: whether step / horizon is a feature.
        magnitude: whether there is an output m; without it step = d (Celo2).
        exp_scale: >= 0.
        shortcut: whether d has a linear path from the features.
        normalise: whether steps have unit root mean square in every tensor (Celo2). A tensor of
            one coordinate then moves by the scale at every step.
        output_scale: >= 0 (Celo2: a tuned learning rate; small_fc_lopt: .001).
        final_scale: in [0, 1], 1 for a constant scale (Celo2: 0; small_fc_lopt: 1).
        readout_std: >= 0, the outputs' weights start as N(0, readout_std^2); > 0 with `normalise`
            and without `shortcut`.
        seed: of the initial meta-parameters.

    Raises:
        ValueError: for a value outside these ranges.

    Source: Metz et al. 2019, arXiv:1810.10180; small_fc_lopt, arXiv:2203.11860; Celo2,
        arXiv:2602.19142. Deviation: the shortcut; one MLP for all tensors, vectors too; decays are
        constants.
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
        magnitude: bool = False,
        exp_scale: float = 0.001,
        shortcut: bool = True,
        normalise: bool = True,
        output_scale: float = 0.1,
        final_scale: float = 0.0,
        readout_std: float = 0.01,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (
            ("exp_scale", exp_scale), ("output_scale", output_scale), ("times", times)
        ):  # fmt: skip
            if not value >= 0:
                raise ValueError(f"{name}={value} must be >= 0")
        if not 0 <= final_scale <= 1:
            raise ValueError(f"final_scale={final_scale} must be in [0, 1]")
        if normalise and not shortcut and not readout_std > 0:
            raise ValueError(
                f"readout_std={readout_std} must be > 0 for normalised steps without a shortcut"
            )
        self.averages = Averages(momentum_decays, rms_decays, factored_decays, clip)
        self.network = FeatureMLP(
            self.averages.size, times + progress, 1 + magnitude, hidden_units=hidden_units,
            layers=layers, activation=activation, readout_std=readout_std, seed=seed,
        )  # fmt: skip
        self.shortcut: nn.Parameter | None = None
        if shortcut:
            path = torch.zeros(1, self.averages.size)
            path[0, self.averages.descent] = -1
            self.shortcut = nn.Parameter(path)
        self.times, self.progress = times, progress
        self.magnitude, self.normalise = magnitude, normalise
        self.exp_scale, self.output_scale, self.final_scale = exp_scale, output_scale, final_scale

    def init_state(self, theta: Tensor, spec: ParamSpec) -> MLPState:
        """Nothing seen yet."""
        return MLPState(self.averages.init_state(theta, spec))

    def step(self, seen: Observation, state: MLPState) -> tuple[Tensor, MLPState]:
        """Propose an update for every coordinate: (B, N)."""
        averages = self.averages.advance(seen.grad, state.averages, seen.spec)
        features = self.averages.features(seen, averages)
        outputs = self.network(features, clock(seen, self.times, progress=self.progress))
        step = outputs[0]
        if self.shortcut is not None:
            step = step + (self.shortcut @ features.flatten(1)).view_as(step)
        if self.magnitude:
            step = step * torch.exp(self.exp_scale * outputs[1])
        if self.normalise:
            step = per_tensor.unit(step, seen.spec)
        scale = self.output_scale * factor("cosine", seen.step, seen.horizon, self.final_scale)
        return scale * step, MLPState(averages)


def clock(seen: Observation, count: int, *, progress: bool) -> Tensor:
    """Features of the time: tanh(t / tau - 1), and step / horizon if asked for."""
    times = [math.tanh(seen.step / 10 ** (k / 2) - 1) for k in range(count)]
    if progress:
        times.append(seen.step / seen.horizon)
    return torch.tensor(times, dtype=seen.grad.dtype, device=seen.grad.device)
