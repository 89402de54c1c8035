"""Image classification by a multilayer perceptron."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vmap

from l2l_exp.optimizees.base import Data, Optimizee, Problem, check_choice, check_positive
from l2l_exp.optimizees.images import SPLITS, Images, split_images
from l2l_exp.optimizees.jitter import Jitter
from l2l_exp.optimizees.seeding import Seed, Split, draw
from l2l_exp.optimizees.spec import Kind, ParamSpec

ACTIVATIONS: Final[Mapping[str, Callable[[Tensor], Tensor]]] = MappingProxyType(
    {
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "relu": F.relu,
        "leaky_relu": F.leaky_relu,
        "elu": F.elu,
        "gelu": F.gelu,
        "silu": F.silu,
        "softplus": F.softplus,
    }
)
CLASSES = 10
METRIC_CELLS = 8_000_000
"""Hidden activations held at once while metrics walk through the problems in chunks."""


class ImageMLP(Optimizee):
    """Softmax cross-entropy of an MLP on minibatches of images.

    Problems differ in theta_0, in the minibatches and in the jitter of the drawn images; the
    images come from the split's own training part. Metrics are taken without jitter.

    Args:
        images: the data set; it is split once by `split_images`.
        hidden_units: >= 1, units of each hidden layer (paper: 20).
        layers: >= 1, hidden layers (paper: 1).
        activation: of the hidden layers, one of `ACTIVATIONS` (paper: sigmoid).
        init_std: > 0, theta_0 ~ N(0, init_std^2) for weights and biases alike (public code: .01).
        batch_size: D, >= 1, images per inner step, drawn with replacement (paper: 128).
        jitter: applied to every drawn image, None for none.
        split_seed: of the split, not the meta-seed.
        held_out_fraction: in (0, 1), of each split's images.

    Raises:
        ValueError: for a value outside these ranges.

    Source: Andrychowicz et al. 2016, arXiv:1606.04474, section 3.2.
    """

    has_held_out = True

    def __init__(
        self,
        images: Images,
        hidden_units: int = 20,
        layers: int = 1,
        activation: str = "sigmoid",
        init_std: float = 0.01,
        batch_size: int = 128,
        jitter: Jitter | None = None,
        split_seed: int = 0,
        held_out_fraction: float = 0.25,
    ) -> None:
        super().__init__()
        check_positive(
            hidden_units=hidden_units, layers=layers, init_std=init_std, batch_size=batch_size
        )
        check_choice("activation", activation, tuple(ACTIVATIONS))
        self.activation = ACTIVATIONS[activation]
        self.layers = layers
        self.init_std = init_std
        self.batch_size = batch_size
        self.jitter = jitter
        self.register_buffer("pixels", images.pixels)  # (P, channels, height, width)
        self.register_buffer("labels", images.labels)  # (P,)
        parts = split_images(images.labels, seed=split_seed, held_out_fraction=held_out_fraction)
        for name in SPLITS:
            self.register_buffer(f"{name}_part", parts[name].train)
            self.register_buffer(f"{name}_held_out", parts[name].held_out)
        features = images.pixels[0].numel()
        sizes = [features] + [hidden_units] * layers + [CLASSES]
        shapes: dict[str, tuple[tuple[int, ...], Kind]] = {}
        for layer, (inputs, outputs) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
            shapes[f"weight{layer}"] = ((inputs, outputs), "fc")
            shapes[f"bias{layer}"] = ((outputs,), "bias")
        self.spec = ParamSpec.of(shapes)

    def sample(self, problems: Sequence[int], seed: Seed) -> Problem:
        """Nothing fixed beyond the split's images."""
        return Problem(tuple(problems), seed, {})

    def init(self, problems: Sequence[int], seed: Seed) -> Tensor:
        """Draw theta_0: (B, N)."""
        normal = draw(seed, "init", problems, lambda rng: rng.standard_normal(self.spec.size))
        return self.place(self.init_std * normal)

    def minibatch(self, problem: Problem, step: int) -> Data:
        """Draw images with replacement, and jitter them: x (B, D, F), y (B, D)."""
        part = self.part(problem.seed.split)
        size, count = self.batch_size, len(part)

        def entries(rng: np.random.Generator) -> np.ndarray:
            return np.column_stack([rng.integers(0, count, size), rng.uniform(-1, 1, (size, 5))])

        drawn = draw(problem.seed, "minibatch", problem.index, entries, step=step).flatten(0, 1)
        index = part[drawn[:, 0].long().to(part.device)]
        pixels = self.get_buffer("pixels")[index]
        if self.jitter is not None:
            pixels = self.jitter(pixels, self.place(drawn[:, 1:]))
        labels = self.get_buffer("labels")[index]
        shape = (problem.size, size)
        return {"x": pixels.reshape(*shape, -1), "y": labels.reshape(shape)}

    def loss(self, theta: Tensor, data: Data) -> Tensor:
        """Mean cross-entropy of one problem's minibatch."""
        return F.cross_entropy(self.logits(theta, data["x"]), data["y"])

    def logits(self, theta: Tensor, x: Tensor) -> Tensor:
        """Forward pass of one network: theta (N,), images (D, F) -> (D, 10)."""
        tensors = self.spec.unflatten(theta)
        for layer in range(self.layers):
            x = self.activation(x @ tensors[f"weight{layer}"] + tensors[f"bias{layer}"])
        return x @ tensors[f"weight{self.layers}"] + tensors[f"bias{self.layers}"]

    def part(self, split: Split, *, held_out: bool = False) -> Tensor:
        """Indices of a split's training images, or of its held-out ones."""
        return self.get_buffer(f"{split}_held_out" if held_out else f"{split}_part")

    @torch.no_grad()
    def metrics(self, theta: Tensor, problem: Problem) -> Mapping[str, Tensor]:
        """`train_loss`, `held_out_loss`, `held_out_accuracy`: (B,) each, on unjittered images."""
        split = problem.seed.split
        train_loss, _ = self._score(theta, self.part(split))
        held_out_loss, accuracy = self._score(theta, self.part(split, held_out=True))
        return {
            "train_loss": train_loss,
            "held_out_loss": held_out_loss,
            "held_out_accuracy": accuracy,
        }

    def _score(self, theta: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy and accuracy (B,) of every theta (B, N) on the same images."""
        x = self.get_buffer("pixels")[index].flatten(1)
        labels = self.get_buffer("labels")[index]
        widest = max(tensor.shape[-1] for tensor in self.spec.tensors)
        chunk = max(1, METRIC_CELLS // (len(index) * widest))
        losses, accuracies = [], []
        for part in theta.split(chunk):
            logits = vmap(self.logits, (0, None))(part, x)
            target = labels.expand(len(part), -1)
            losses.append(F.cross_entropy(logits.transpose(1, 2), target, reduction="none").mean(1))
            accuracies.append((logits.argmax(-1) == target).to(theta.dtype).mean(1))
        return torch.cat(losses), torch.cat(accuracies)
