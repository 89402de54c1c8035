"""Image classification by a small convolutional network."""

from collections.abc import Sequence
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from l2l_exp.optimizees.activations import ACTIVATIONS
from l2l_exp.optimizees.base import Batching, check_choice, check_positive
from l2l_exp.optimizees.classification import ImageClassification, Shared
from l2l_exp.optimizees.images import Images
from l2l_exp.optimizees.spec import Kind, ParamSpec

NORMS = ("batch", "group", "none")


class ConvNet(ImageClassification):
    """Stages of convolution, norm, activation and 2x2 max pooling; then two dense layers.

    The hidden dense layer has a norm and an activation too. Norms shift but do not scale, as in
    the public code; "batch" normalises over the batch at hand at all times, in metrics as well.

    Args:
        images: the data set.
        channels: >= 1, of every convolution (public code: 16).
        layers: >= 1, stages; each halves the image (paper: 3).
        kernel: odd and >= 1, width of the convolutions, which keep the image's size (code: 5).
        hidden_units: >= 1, of the dense layer (paper: 32).
        activation: one of `ACTIVATIONS` (paper: relu).
        norm: one of `NORMS` (paper: batch).
        groups: >= 1, of norm "group"; divides `channels` and `hidden_units`.
        batching: "loop" or "vmap", how problems are batched; on a CPU the loop is faster.
        shared: init, batch_size, noise and split, as for `ImageClassification`.

    Raises:
        ValueError: for a value outside these ranges, or images too small for the stages.

    Source: Andrychowicz et al. 2016, arXiv:1606.04474, section 3.3; sizes by its public code.
    """

    def __init__(
        self,
        images: Images,
        channels: int = 16,
        layers: int = 3,
        kernel: int = 5,
        hidden_units: int = 32,
        activation: str = "relu",
        norm: str = "batch",
        groups: int = 4,
        batching: Batching = "loop",
        **shared: Unpack[Shared],
    ) -> None:
        check_positive(channels=channels, layers=layers, hidden_units=hidden_units, groups=groups)
        check_choice("activation", activation, tuple(ACTIVATIONS))
        check_choice("norm", norm, NORMS)
        check_choice("batching", batching, ("vmap", "loop"))
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernel={kernel} must be odd and >= 1")
        if norm == "group" and (channels % groups or hidden_units % groups):
            raise ValueError(
                f"groups={groups} must divide channels={channels} and hidden_units={hidden_units}"
            )
        inputs, height, width = images.pixels.shape[1:]
        if min(height, width) < 2**layers:
            raise ValueError(
                f"layers={layers} halve images of {height}x{width} to nothing: "
                f"layers must be at most {min(height, width).bit_length() - 1}"
            )
        features = channels * (height >> layers) * (width >> layers)
        stages = [(inputs, channels)] + [(channels, channels)] * (layers - 1)
        dense = [(features, hidden_units), (hidden_units, images.class_count)]
        super().__init__(
            images,
            _layout(stages, kernel, dense, norms=norm != "none"),
            cells=channels * height * width,
            **shared,
        )
        self.layers = layers
        self.kernel = kernel
        self.activation = ACTIVATIONS[activation]
        self.norm = norm
        self.groups = groups
        self.batching = batching

    def logits(self, theta: Tensor, x: Tensor) -> Tensor:
        """Forward pass of one network: theta (N,), images (D, C, h, w) -> (D, classes)."""
        tensors = self.spec.unflatten(theta)
        if self.batching == "loop":  # a third faster on a CPU; vmap cannot batch it
            x = x.contiguous(memory_format=torch.channels_last)
        for layer in range(self.layers):
            weight, bias = tensors[f"conv{layer}.weight"], tensors[f"conv{layer}.bias"]
            x = F.conv2d(x, weight, bias, padding=self.kernel // 2)
            x = F.max_pool2d(self._activated(x, tensors.get(f"norm{layer}.shift")), 2)
        x = x.flatten(1) @ tensors["fc0.weight"] + tensors["fc0.bias"]
        x = self._activated(x, tensors.get(f"norm{self.layers}.shift"))
        return x @ tensors["fc1.weight"] + tensors["fc1.bias"]

    def _activated(self, x: Tensor, shift: Tensor | None) -> Tensor:
        """Norm, if there is one, and activation of (D, channels, ...)."""
        if self.norm == "batch":
            x = F.batch_norm(x, None, None, bias=shift, training=True)
        elif shift is not None:  # torch cannot differentiate group_norm(bias=) without a weight
            x = F.group_norm(x, self.groups) + shift.unflatten(0, (-1, *[1] * (x.dim() - 2)))
        return self.activation(x)


def _layout(
    stages: Sequence[tuple[int, int]],
    kernel: int,
    dense: Sequence[tuple[int, int]],
    *,
    norms: bool,
) -> ParamSpec:
    """Weights and biases of every layer by (inputs, outputs), with shifts for all but the last."""
    shapes: dict[str, tuple[tuple[int, ...], Kind]] = {}
    for layer, (inputs, outputs) in enumerate(stages):
        shapes[f"conv{layer}.weight"] = ((outputs, inputs, kernel, kernel), "conv")
        shapes[f"conv{layer}.bias"] = ((outputs,), "bias")
        if norms:
            shapes[f"norm{layer}.shift"] = ((outputs,), "norm")
    for layer, (inputs, outputs) in enumerate(dense):
        shapes[f"fc{layer}.weight"] = ((inputs, outputs), "fc")
        shapes[f"fc{layer}.bias"] = ((outputs,), "bias")
        if norms and layer < len(dense) - 1:
            shapes[f"norm{len(stages) + layer}.shift"] = ((outputs,), "norm")
    return ParamSpec.of(shapes)
