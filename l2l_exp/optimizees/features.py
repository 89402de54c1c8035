"""Frozen convolutional networks that map pictures to named feature maps; random filters."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2l_exp.optimizees.base import check_choice, check_positive

POOLINGS = ("average", "max")


class Convolution(NamedTuple):
    """One convolution, whose output goes through a ReLU."""

    weight: Tensor  # (channels out, channels in, k, k), k odd: the size stays
    bias: Tensor  # (channels out,)


class Features(nn.Module):
    """Convolutions with ReLU, in blocks with 2x2 pooling between them; nothing is trainable.

    Layer "conv2_1" is the first of the second block, after its ReLU. Layers above the last one
    that is wanted are left away.

    Args:
        names: of all layers there are, in order: "conv{block}_{place}".
        make: name -> convolution; called in order, of the layers that are kept.
        mean: of the pictures' three channels; subtracted.
        std: of the same, > 0; divided by.
        content: names of the layers that are compared with those of the content picture.
        style: names of the layers whose Gram matrices are compared.
        pooling: "average" or "max".

    Raises:
        ValueError: for a layer that there is not, for none, or for another pooling.
    """

    def __init__(
        self,
        names: Sequence[str],
        make: Callable[[str], Convolution],
        mean: Sequence[float],
        std: Sequence[float],
        content: Sequence[str],
        style: Sequence[str],
        pooling: str,
    ) -> None:
        super().__init__()
        check_choice("pooling", pooling, POOLINGS)
        for key, wanted in (("content", content), ("style", style)):
            if isinstance(wanted, str) or not wanted:
                raise ValueError(f"{key}={wanted!r} must be a list of layers of {', '.join(names)}")
            for layer in wanted:
                check_choice(f"{key} layer", layer, names)
        self.content, self.style = tuple(content), tuple(style)
        self.pool = F.avg_pool2d if pooling == "average" else F.max_pool2d
        last = max(names.index(layer) for layer in (*content, *style))
        self.layers = tuple(names[: last + 1])
        for layer in self.layers:
            weight, bias = make(layer)
            self.register_buffer(f"{layer}_weight", weight, persistent=False)
            self.register_buffer(f"{layer}_bias", bias, persistent=False)
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    @property
    def smallest(self) -> int:
        """The smallest height and width of a picture that no pooling makes vanish."""
        return 1 << (_block(self.layers[-1]) - _block(self.layers[0]))

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """Feature maps of pictures (n, 3, height, width) in [0, 1].

        Returns:
            layer -> (n, channels, height / 2^k, width / 2^k), k the poolings before it; of the
            wanted layers alone.
        """
        maps: dict[str, Tensor] = {}
        signal = (pictures - self.get_buffer("mean")) / self.get_buffer("std")
        for before, layer in zip((self.layers[0], *self.layers), self.layers, strict=False):
            if _block(layer) > _block(before):
                signal = self.pool(signal, 2)
            weight, bias = (self.get_buffer(f"{layer}_{part}") for part in ("weight", "bias"))
            signal = F.relu(F.conv2d(signal, weight, bias, padding=weight.shape[-1] // 2))
            if layer in self.content or layer in self.style:
                maps[layer] = signal
        return maps


class RandomFeatures(Features):
    """A network of random filters: no download, and textures are told apart well enough.

    Every block is one convolution, with weights N(0, 2 / inputs) and no bias, so that the mean
    square of a map is about that of the picture, which is one for usual contrast.

    Args:
        channels: >= 1, of every block.
        kernel_sizes: odd, of every block.
        content: layers, of "conv1_1", "conv2_1", ..., one per block.
        style: layers.
        pooling: "average" or "max".
        seed: of the filters; not the meta-seed: every run has the same.

    Raises:
        ValueError: for a value outside these ranges.

    Source: Ustyuzhaninov et al. 2016, arXiv:1606.00021 (one layer; several are ours).
    """

    def __init__(
        self,
        channels: Sequence[int] = (32, 64, 64),
        kernel_sizes: Sequence[int] = (5, 3, 3),
        content: Sequence[str] = ("conv2_1",),
        style: Sequence[str] = ("conv1_1", "conv2_1", "conv3_1"),
        pooling: str = "average",
        seed: int = 0,
    ) -> None:
        for count, size in zip(channels, kernel_sizes, strict=False):
            check_positive(channels=count, kernel_sizes=size)
        if len(channels) != len(kernel_sizes) or any(size % 2 == 0 for size in kernel_sizes):
            raise ValueError(
                f"kernel_sizes={list(kernel_sizes)} must be odd, one for each of "
                f"channels={list(channels)}"
            )
        rng = torch.Generator().manual_seed(seed)
        inputs = (3, *channels)

        def make(layer: str) -> Convolution:
            place = _block(layer) - 1
            return random_convolution(channels[place], inputs[place], kernel_sizes[place], rng)

        names = [f"conv{block}_1" for block in range(1, len(channels) + 1)]
        super().__init__(names, make, (0.5,) * 3, (0.25,) * 3, content, style, pooling)


def random_convolution(outputs: int, inputs: int, size: int, rng: torch.Generator) -> Convolution:
    """Random weights of a scale that a ReLU after them preserves; no bias."""
    weight = torch.randn(outputs, inputs, size, size, generator=rng)
    return Convolution(weight * math.sqrt(2 / (inputs * size**2)), torch.zeros(outputs))


def _block(layer: str) -> int:
    """Number of the block that a layer belongs to: of "conv4_2" it is 4."""
    return int(layer.removeprefix("conv").partition("_")[0])
