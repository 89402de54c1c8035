"""What all image classifiers share: images, their parts, noise, and how a theta is scored."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vmap

from l2l_exp.optimizees.base import Data, Optimizee, Problem, check_choice, check_positive
from l2l_exp.optimizees.images import Images, split_images
from l2l_exp.optimizees.init import INITS, init_stds
from l2l_exp.optimizees.seeding import SPLITS, Seed, Split, draw
from l2l_exp.optimizees.spec import ParamSpec

METRIC_CELLS = 8_000_000
"""Activations of one layer held at once while metrics walk through problems and images."""


class Shared(TypedDict, total=False):
    """The arguments that every network hands on to `ImageClassification`."""

    init: str
    init_std: float
    init_gain: float
    batch_size: int
    label_noise: float
    gradient_noise: float
    split_seed: int
    held_out_fraction: float


class ImageClassification(Optimizee):
    """Softmax cross-entropy of a network on minibatches of images; a subclass is the network.

    Problems differ in theta_0, in the minibatches and in the jitter of the drawn images; the
    images come from the split's own training part. Metrics are taken without jitter, and on
    held-out images always with the true labels.

    Args:
        images: the data set; it is split once by `split_images`. Its jitter, if it has one, is
            applied to every drawn image.
        spec: layout of theta.
        cells: >= 1, activations of the widest layer for one image; bounds the memory of metrics.
        init: distribution of theta_0, one of `INITS`: "gaussian" N(0, init_std^2) for weights and
            biases alike (paper, section 3.2), or "fan_in" N(0, init_gain^2 / inputs) for weights,
            zero for the rest.
        init_std: > 0, of init "gaussian" (public code: .01).
        init_gain: > 0, of init "fan_in".
        batch_size: D, >= 1, images per inner step, drawn with replacement (paper: 128).
        label_noise: in [0, 1), the share of a problem's training images with a wrong label; which
            ones, and the label, is drawn once per problem.
        gradient_noise: >= 0, standard deviation of Gaussian noise that is added to every
            coordinate of every gradient, drawn anew at every step; losses are not changed.
        split_seed: of the split, not the meta-seed.
        held_out_fraction: in (0, 1), of each split's images.

    Raises:
        ValueError: for a value outside these ranges.
    """

    has_held_out = True

    def __init__(
        self,
        images: Images,
        spec: ParamSpec,
        cells: int,
        *,
        init: str = "gaussian",
        init_std: float = 0.01,
        init_gain: float = 1.0,
        batch_size: int = 128,
        label_noise: float = 0.0,
        gradient_noise: float = 0.0,
        split_seed: int = 0,
        held_out_fraction: float = 0.25,
    ) -> None:
        super().__init__()
        check_positive(init_std=init_std, init_gain=init_gain, batch_size=batch_size)
        check_choice("init", init, INITS)
        if not 0 <= label_noise < 1:
            raise ValueError(f"label_noise={label_noise} must be in [0, 1)")
        if not 0 <= gradient_noise < math.inf:
            raise ValueError(f"gradient_noise={gradient_noise} must be >= 0")
        self.spec = spec
        self.cells = cells
        self.stds = init_stds(spec, init, init_std if init == "gaussian" else init_gain)
        self.batch_size = batch_size
        self.label_noise = label_noise
        self.gradient_noise = gradient_noise
        self.classes = images.class_count
        self.jitter = images.jitter
        self.register_buffer("pixels", images.pixels)  # (P, channels, height, width)
        self.register_buffer("labels", images.labels)  # (P,)
        parts = split_images(
            images.labels,
            chosen=images.chosen,
            seed=split_seed,
            held_out_fraction=held_out_fraction,
        )
        for name in SPLITS:
            self.register_buffer(f"{name}_part", parts[name].train)
            self.register_buffer(f"{name}_held_out", parts[name].held_out)

    @abstractmethod
    def logits(self, theta: Tensor, x: Tensor) -> Tensor:
        """Forward pass of one network: theta (N,), images (D, channels, h, w) -> (D, classes)."""

    def part(self, split: Split, *, held_out: bool = False) -> Tensor:
        """Indices of a split's training images, or of its held-out ones."""
        return self.get_buffer(f"{split}_held_out" if held_out else f"{split}_part")

    def sample(self, problems: Sequence[int], seed: Seed) -> Problem:
        """With label noise the labels of the training part, (B, P_train); else nothing."""
        if not self.label_noise:
            return Problem(tuple(problems), seed, {})
        part = self.part(seed.split)

        def entries(rng: np.random.Generator) -> np.ndarray:
            wrong = rng.random(len(part)) < self.label_noise
            return wrong * rng.integers(1, self.classes, len(part))

        added = self.place(draw(seed, "label_noise", problems, entries))
        labels = (self.get_buffer("labels")[part] + added) % self.classes
        return Problem(tuple(problems), seed, {"labels": labels})

    def init(self, problems: Sequence[int], seed: Seed) -> Tensor:
        """Draw theta_0: (B, N)."""
        normal = draw(seed, "init", problems, lambda rng: rng.standard_normal(self.spec.size))
        return self.place(self.stds * normal)

    def minibatch(self, problem: Problem, step: int) -> Data:
        """Draw images with replacement, and jitter them: x (B, D, channels, h, w), y (B, D)."""
        part = self.part(problem.seed.split)
        size, count = self.batch_size, len(part)
        draws = 0 if self.jitter is None else self.jitter.draws

        def entries(rng: np.random.Generator) -> np.ndarray:
            return np.column_stack(
                [rng.integers(0, count, size), rng.uniform(-1, 1, (size, draws))]
            )

        drawn = draw(problem.seed, "minibatch", problem.index, entries, step=step)
        place = drawn[..., 0].long().to(part.device)  # (B, D) in the part
        pixels = self.get_buffer("pixels")[part[place]].flatten(0, 1)
        if self.jitter is not None:
            pixels = self.jitter(pixels, self.place(drawn[..., 1:].flatten(0, 1)))
        if self.label_noise:
            labels = problem.data["labels"].gather(1, place)
        else:
            labels = self.get_buffer("labels")[part[place]]
        data = {"x": pixels.unflatten(0, place.shape), "y": labels}
        if self.gradient_noise:
            data["gradient_noise"] = self._noise(problem, step)
        return data

    def _noise(self, problem: Problem, step: int) -> Tensor:
        """What is added to the gradients of one step: (B, N)."""
        normal = draw(
            problem.seed,
            "gradient_noise",
            problem.index,
            lambda rng: rng.standard_normal(self.spec.size),
            step=step,
        )
        return self.place(self.gradient_noise * normal)

    def loss(self, theta: Tensor, data: Data) -> Tensor:
        """Mean cross-entropy of one problem's minibatch; its gradient may be noisy."""
        loss = F.cross_entropy(self.logits(theta, data["x"]), data["y"])
        if self.gradient_noise:
            loss = loss + (data["gradient_noise"] * (theta - theta.detach())).sum()
        return loss

    @torch.no_grad()
    def metrics(self, theta: Tensor, problem: Problem) -> Mapping[str, Tensor]:
        """`train_loss`, `held_out_loss`, `held_out_accuracy`: (B,) each, on unjittered images."""
        split, labels = problem.seed.split, self.get_buffer("labels")
        part, held_out = self.part(split), self.part(split, held_out=True)
        train_loss, _ = self._score(theta, part, problem.data.get("labels", labels[part]))
        held_out_loss, accuracy = self._score(theta, held_out, labels[held_out])
        return {
            "train_loss": train_loss,
            "held_out_loss": held_out_loss,
            "held_out_accuracy": accuracy,
        }

    def _score(self, theta: Tensor, index: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy and accuracy (B,) of every theta (B, N) on the same images.

        Where memory asks for it the images come in batches, each with every class in it: what a
        network that normalises over its batch makes of an image depends on the others.

        Args:
            index: (P,) images.
            labels: (P,), or (B, P) where every problem has its own.
        """
        batches = math.ceil(len(index) * self.cells / METRIC_CELLS)
        chunk = max(1, METRIC_CELLS // (len(index) * self.cells))
        labels = labels.expand(len(theta), -1)
        losses, right = [], []
        for start in range(batches):
            images = self.get_buffer("pixels")[index[start::batches]]
            logits = torch.cat([self._forward(part, images) for part in theta.split(chunk)])
            target = labels[:, start::batches]
            losses.append(F.cross_entropy(logits.transpose(1, 2), target, reduction="none"))
            right.append(logits.argmax(-1) == target)
        return torch.cat(losses, 1).mean(1), torch.cat(right, 1).to(theta.dtype).mean(1)

    def _forward(self, theta: Tensor, images: Tensor) -> Tensor:
        """Logits of every theta (B, N) on the same images: (B, P, classes)."""
        if self.batching == "loop":
            return torch.stack([self.logits(one, images) for one in theta])
        return vmap(self.logits, (0, None))(theta, images)
