"""A transformer per coordinate: causal attention over what was seen in the last steps."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers.base import LearnedOptimizer, Observation
from l2l_exp.optimizers.inputs import Inputs, InputState, MomentRatios

EPS = 1e-6
"""Added to the mean square of a token, whose entries are of the order of 1."""


class TransformerState(NamedTuple):
    """What attention looks back to; the oldest step first, zeros where there was none yet."""

    keys: tuple[Tensor, ...]  # per layer (D, K, B, N)
    values: tuple[Tensor, ...]  # per layer (D, K, B, N)
    inputs: InputState  # (B, N) each
    taken: Tensor  # (B, N) steps seen: an older state may be put back while steps go on


class Block(nn.Module):
    """Attention of a token to the last K, itself included, then an MLP; both add to the token.

    Args:
        width: D, a multiple of `heads`.
        heads: >= 1.
        history: K, >= 1.
        rng: draws the weights, N(0, 1 / inputs).
    """

    def __init__(self, width: int, heads: int, history: int, rng: torch.Generator) -> None:
        super().__init__()
        self.heads = heads

        def normal(rows: int, columns: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(rows, columns, generator=rng) / math.sqrt(columns))

        self.attend = normal(3 * width, width)  # rows: query, key, value
        self.join = normal(width, width)
        self.age_bias = nn.Parameter(torch.zeros(heads, history, 1))  # the oldest first
        self.gains = nn.Parameter(torch.ones(2, width, 1))
        self.up, self.up_bias = normal(2 * width, width), nn.Parameter(torch.zeros(2 * width, 1))
        self.down = normal(width, 2 * width)

    def forward(
        self, token: Tensor, keys: Tensor, values: Tensor, seen: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Advance one step.

        Args:
            token: (D, n).
            keys, values: (D, K, n) of the K steps before.
            seen: (n,) steps that there were before, >= 0; what is older is not attended to.

        Returns:
            The token (D, n), and the keys and values of the last K steps, this one included.
        """
        query, key, value = (self.attend @ _unit(token, self.gains[0])).chunk(3)
        keys = torch.cat([keys[:, 1:], key.unsqueeze(1)], 1)
        values = torch.cat([values[:, 1:], value.unsqueeze(1)], 1)
        q, k, v = (x.unflatten(0, (self.heads, -1)) for x in (query, keys, values))
        scores = (q.unsqueeze(2) * k).sum(1) / math.sqrt(q.shape[1]) + self.age_bias
        ages = torch.arange(keys.shape[1] - 1, -1, -1, device=keys.device).unsqueeze(1)
        weights = scores.masked_fill(ages > seen, -math.inf).softmax(1)
        mixed = (weights.unsqueeze(1) * v).sum(2).flatten(0, 1)
        token = token + self.join @ mixed
        inner = torch.addmm(self.up_bias, self.up, _unit(token, self.gains[1]))
        return token + self.down @ nn.functional.gelu(inner), keys, values


class TransformerRule(LearnedOptimizer):
    """Update of a coordinate = output_scale * tanh(readout(transformer(inputs of the last steps))).

    Keys and values of the last `history` steps are kept, so that a step costs one token. Attention
    knows the age of a step by a bias of its own.

    Args:
        inputs: what a step is told of; moment ratios if not given.
        width: D, >= 1, a multiple of `heads`.
        layers: >= 1.
        heads: >= 1.
        history: K, >= 1, steps that a layer looks back to, this one included.
        output_scale: >= 0, bound of a step.
        readout_std: >= 0, the readout's weights start as N(0, readout_std^2), its bias as 0.
        seed: of the initial meta-parameters.

    Raises:
        ValueError: for a value outside these ranges.

    Source: Vaswani et al. 2017, arXiv:1706.03762, with the normalisation before each part. As a
    rule of every coordinate it is this project's.
    """

    coupling = "none"

    def __init__(
        self,
        inputs: Inputs | None = None,
        width: int = 16,
        layers: int = 1,
        heads: int = 2,
        history: int = 8,
        output_scale: float = 0.1,
        readout_std: float = 0.01,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("width", width, 1),
            ("layers", layers, 1),
            ("heads", heads, 1),
            ("history", history, 1),
            ("output_scale", output_scale, 0),
            ("readout_std", readout_std, 0),
        ):
            if not value >= least:
                raise ValueError(f"{name}={value} must be >= {least}")
        if width % heads:
            raise ValueError(f"width={width} must be a multiple of heads={heads}")
        self.inputs = inputs if inputs is not None else MomentRatios()
        self.width, self.history = width, history
        self.output_scale = output_scale
        rng = torch.Generator().manual_seed(seed)
        size = self.inputs.size
        self.embedding = nn.Parameter(torch.randn(width, size, generator=rng) / math.sqrt(size))
        self.embedding_bias = nn.Parameter(torch.zeros(width, 1))
        self.blocks = nn.ModuleList(Block(width, heads, history, rng) for _ in range(layers))
        self.gain = nn.Parameter(torch.ones(width, 1))
        self.readout = nn.Parameter(readout_std * torch.randn(1, width, generator=rng))
        self.readout_bias = nn.Parameter(torch.zeros(1, 1))

    def init_state(self, theta: Tensor, spec: ParamSpec) -> TransformerState:
        """Nothing to look back to."""
        empty = (theta.new_zeros(self.width, self.history, *theta.shape),) * len(self.blocks)
        inputs, taken = self.inputs.init_state(theta), torch.zeros_like(theta)
        return TransformerState(empty, empty, inputs, taken)

    def step(self, seen: Observation, state: TransformerState) -> tuple[Tensor, TransformerState]:
        """Propose an update for every coordinate: (B, N), already scaled."""
        features, inputs = self.inputs(seen, state.inputs)
        token = torch.addmm(self.embedding_bias, self.embedding, features.flatten(1))
        keys, values = [], []
        for block, old_keys, old_values in zip(self.blocks, *state[:2], strict=True):
            token, new_keys, new_values = block(
                token, old_keys.flatten(2), old_values.flatten(2), state.taken.flatten()
            )
            keys.append(new_keys.view(old_keys.shape))
            values.append(new_values.view(old_values.shape))
        output = torch.addmm(self.readout_bias, self.readout, _unit(token, self.gain))
        update = self.output_scale * torch.tanh(output).view(seen.grad.shape)
        return update, TransformerState(tuple(keys), tuple(values), inputs, state.taken + 1)


def _unit(token: Tensor, gain: Tensor) -> Tensor:
    """Tokens (D, n) over their root mean square, times a gain (D, 1)."""
    return token * torch.rsqrt(token.square().mean(0, keepdim=True) + EPS) * gain
