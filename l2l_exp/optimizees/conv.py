"""Image classification by a small convolutional network."""

import torch
import torch.nn.functional as F
from torch import Tensor

from l2l_exp.optimizees.activations import ACTIVATIONS
from l2l_exp.optimizees.base import Batching, check_choice, check_positive
from l2l_exp.optimizees.classification import ImageClassification
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
        init, init_std, init_gain, batch_size, label_noise, gradient_noise, split_seed,
        held_out_fraction: as for `ImageClassification`.

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
        init: str = "gaussian",
        init_std: float = 0.01,
        init_gain: float = 1.0,
        batch_size: int = 128,
        label_noise: float = 0.0,
        gradient_noise: float = 0.0,
        split_seed: int = 0,
        held_out_fraction: float = 0.25,
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
        shapes: dict[str, tuple[tuple[int, ...], Kind]] = {}
        for layer in range(layers):
            before = channels if layer else inputs
            shapes[f"conv{layer}.weight"] = ((channels, before, kernel, kernel), "conv")
            shapes[f"conv{layer}.bias"] = ((channels,), "bias")
            if norm != "none":
                shapes[f"norm{layer}.shift"] = ((channels,), "norm")
        features = channels * (height >> layers) * (width >> layers)
        shapes["fc0.weight"] = ((features, hidden_units), "fc")
        shapes["fc0.bias"] = ((hidden_units,), "bias")
        if norm != "none":
            shapes[f"norm{layers}.shift"] = ((hidden_units,), "norm")
        shapes["fc1.weight"] = ((hidden_units, images.class_count), "fc")
        shapes["fc1.bias"] = ((images.class_count,), "bias")
        super().__init__(
            images,
            ParamSpec.of(shapes),
            cells=channels * height * width,
            init=init,
            init_std=init_std,
            init_gain=init_gain,
            batch_size=batch_size,
            label_noise=label_noise,
            gradient_noise=gradient_noise,
            split_seed=split_seed,
            held_out_fraction=held_out_fraction,
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
