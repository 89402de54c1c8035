"""What a recurrent rule is told of every coordinate: features, with a state of their own."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from l2l_exp.optimizers.averages import inverse, weight
from l2l_exp.optimizers.base import Observation
from l2l_exp.optimizers.encoding import Encoding
from l2l_exp.optimizers.parts import check_name
from l2l_exp.optimizers.sizes import hypot, log_ratio, root

InputState = tuple[Tensor, ...]
"""Tensors (B, N) each."""


class Inputs(nn.Module, ABC):
    """Map from what is seen, and a state per coordinate, to `size` features."""

    size: int

    def init_state(self, theta: Tensor) -> InputState:
        """Make the state before the first step, tensors (B, N); nothing by default."""
        return ()

    @abstractmethod
    def forward(self, seen: Observation, state: InputState) -> tuple[Tensor, InputState]:
        """Features (size, B, N), and the next state."""


def _check(decays: Sequence[float], limit: float) -> None:
    """Raise ValueError for a decay or a limit that cannot be."""
    for decay in decays:
        if not 0 <= decay < 1:
            raise ValueError(f"decay {decay} of {list(decays)} must be in [0, 1)")
    if not limit > 0:
        raise ValueError(f"limit={limit} must be > 0")


def _average_size(old: Tensor, grad: Tensor, decay: float) -> Tensor:
    """root(decay * old^2 + (1 - decay) * grad^2): (B, N)."""
    return hypot(math.sqrt(decay) * old, math.sqrt(1 - decay) * grad)


class EncodedGradient(Inputs):
    """An encoding of the gradient; without a state.

    Args:
        encoding: elementwise, e.g. logarithm and sign (arXiv:1606.04474, appendix A).
    """

    def __init__(self, encoding: Encoding) -> None:
        super().__init__()
        self.encoding = encoding
        self.size = encoding.size

    def forward(self, seen: Observation, state: InputState) -> tuple[Tensor, InputState]:
        """The encoding's features of every coordinate."""
        return self.encoding(seen.grad.flatten()).view(-1, *seen.grad.shape), state


class MomentRatios(Inputs):
    """The gradient, and its running means, over the root of its running mean square.

    With v the mean square (decay `beta2`) and m_i the means (decays `betas`), all free of the bias
    of their start: g / sqrt(v), m_1 / sqrt(v), ... A factor on the loss changes nothing, nor does
    one on a coordinate, in float32 while gradients are between 1e-30 and 1e30.

    Args:
        betas: decays in [0, 1) of the means (RNNprop: one, .95); each is one feature.
        beta2: decay in [0, 1) of the mean square (RNNprop: .95).
        limit: > 0, features are kept in [-limit, limit].

    Raises:
        ValueError: for a value outside these ranges.

    Source: Lv, Jiang, Li 2017 (RNNprop), arXiv:1703.03633, section 4.2.
    """

    def __init__(
        self, betas: Sequence[float] = (0.95,), beta2: float = 0.95, limit: float = 5.0
    ) -> None:
        super().__init__()
        _check((*betas, beta2), limit)
        self.betas = tuple(betas)
        self.beta2 = beta2
        self.limit = limit
        self.size = 1 + len(self.betas)

    def init_state(self, theta: Tensor) -> InputState:
        """Zeros: how many gradients it has seen, the root of the mean square, the means."""
        return (torch.zeros_like(theta),) * (1 + self.size)

    def forward(self, seen: Observation, state: InputState) -> tuple[Tensor, InputState]:
        """g / sqrt(v) and m_i / sqrt(v); zeros where no gradient has been seen yet."""
        taken = state[0] + 1  # of its own: an older state may be put back while steps go on
        size = _average_size(state[1], seen.grad, self.beta2)
        means = [
            torch.lerp(seen.grad, old, beta)
            for old, beta in zip(state[2:], self.betas, strict=True)
        ]
        whole = size / weight(self.beta2, taken).sqrt()
        unbiased = [m / weight(beta, taken) for m, beta in zip(means, self.betas, strict=True)]
        features = torch.stack([seen.grad, *unbiased]) * inverse(whole)
        return features.clamp(-self.limit, self.limit), (taken, size, *means)


class SizeRatios(Inputs):
    """How large gradients are of late, beside all those since the start.

    log10 of the running root mean square over that of all gradients so far, one feature for each
    decay, kept in [-limit, limit]; 0 where there was no gradient yet. Moment ratios forget by how
    much gradients have shrunk, which is what steps without normalisation, as momentum's, live by.
    No factor on the loss or on a coordinate changes them, in float32 while gradients are between
    1e-30 and 1e30.

    Args:
        betas: decays in [0, 1) of the mean squares.
        limit: > 0.

    Raises:
        ValueError: for a value outside these ranges.
    """

    def __init__(self, betas: Sequence[float] = (0.5, 0.95), limit: float = 5.0) -> None:
        super().__init__()
        _check(betas, limit)
        self.betas = tuple(betas)
        self.limit = limit
        self.size = len(self.betas)

    def init_state(self, theta: Tensor) -> InputState:
        """Zeros: how many gradients it has seen, the root mean square of all, the running ones."""
        return (torch.zeros_like(theta),) * (2 + self.size)

    def forward(self, seen: Observation, state: InputState) -> tuple[Tensor, InputState]:
        """The log10 of running sizes over that of all gradients."""
        taken = state[0] + 1
        share = 1 / taken.detach()
        everything = hypot(root(1 - share) * state[1], share.sqrt() * seen.grad)
        recent = [
            _average_size(old, seen.grad, beta)
            for old, beta in zip(state[2:], self.betas, strict=True)
        ]
        ratios = [
            log_ratio(size / weight(beta, taken).sqrt(), everything)
            for size, beta in zip(recent, self.betas, strict=True)
        ]
        features = torch.stack(ratios) / math.log(10)
        return features.clamp(-self.limit, self.limit), (taken, everything, *recent)


class Joined(Inputs):
    """Several inputs, one after the other.

    Args:
        parts: by name, at least one.

    Raises:
        ValueError: if there is none, or for a name that is no plain word.
    """

    def __init__(self, parts: Mapping[str, Inputs]) -> None:
        super().__init__()
        if not parts:
            raise ValueError("parts={} must hold at least one kind of inputs")
        self.parts = nn.ModuleDict()
        for name, part in parts.items():
            check_name(name, self.parts)
            self.parts[name] = part
        self.size = sum(part.size for part in parts.values())

    def init_state(self, theta: Tensor) -> InputState:
        """Every part's."""
        return tuple(x for part in self._kinds() for x in part.init_state(theta))

    def forward(self, seen: Observation, state: InputState) -> tuple[Tensor, InputState]:
        """Every part's."""
        features: list[Tensor] = []
        after: list[Tensor] = []
        left = list(state)
        for part in self._kinds():
            count = len(part.init_state(seen.theta[:0]))
            more, new = part(seen, tuple(left[:count]))
            features.append(more)
            after += new
            left = left[count:]
        return torch.cat(features), tuple(after)

    def _kinds(self) -> list[Inputs]:
        """The parts in order."""
        return [part for part in self.parts.values() if isinstance(part, Inputs)]


class WithProgress(Inputs):
    """Other inputs, and how much of the horizon has passed: a rule can then end in small steps.

    Args:
        inputs: the others.
        timescales: > 0, further features tanh(steps / tau - 1) that tell early steps apart.

    Raises:
        ValueError: for a timescale that is not positive.

    Source: time features as in Metz et al. 2019, arXiv:1810.10180, appendix.
    """

    def __init__(self, inputs: Inputs, timescales: Sequence[float] = ()) -> None:
        super().__init__()
        if not all(tau > 0 for tau in timescales):
            raise ValueError(f"timescales={list(timescales)} must be > 0")
        self.inputs = inputs
        self.timescales = tuple(timescales)
        self.size = inputs.size + 1 + len(self.timescales)

    def init_state(self, theta: Tensor) -> InputState:
        """The others'."""
        return self.inputs.init_state(theta)

    def forward(self, seen: Observation, state: InputState) -> tuple[Tensor, InputState]:
        """The others' features, then step / horizon, then the time features."""
        features, state = self.inputs(seen, state)
        times = [math.tanh(seen.step / tau - 1) for tau in self.timescales]
        constants = features.new_tensor([seen.step / seen.horizon, *times]).view(-1, 1, 1)
        return torch.cat([features, constants.expand(-1, *seen.grad.shape)]), state
