"""Image classification by a multilayer perceptron."""

from typing import Unpack

from torch import Tensor

from l2l_exp.optimizees.activations import ACTIVATIONS
from l2l_exp.optimizees.base import check_choice, check_positive
from l2l_exp.optimizees.classification import ImageClassification, Shared
from l2l_exp.optimizees.images import Images
from l2l_exp.optimizees.spec import Kind, ParamSpec


class ImageMLP(ImageClassification):
    """A fully connected network; everything else as in `ImageClassification`.

    Args:
        images: the data set.
        hidden_units: >= 1, units of each hidden layer (paper: 20).
        layers: >= 1, hidden layers (paper: 1).
        activation: of the hidden layers, one of `ACTIVATIONS` (paper: sigmoid).
        shared: init, batch_size, noise and split, as for `ImageClassification`.

    Raises:
        ValueError: for a value outside these ranges.

    Source: Andrychowicz et al. 2016, arXiv:1606.04474, section 3.2.
    """

    def __init__(
        self,
        images: Images,
        hidden_units: int = 20,
        layers: int = 1,
        activation: str = "sigmoid",
        **shared: Unpack[Shared],
    ) -> None:
        check_positive(hidden_units=hidden_units, layers=layers)
        check_choice("activation", activation, tuple(ACTIVATIONS))
        sizes = [images.pixels[0].numel()] + [hidden_units] * layers + [images.class_count]
        shapes: dict[str, tuple[tuple[int, ...], Kind]] = {}
        for layer, (inputs, outputs) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
            shapes[f"weight{layer}"] = ((inputs, outputs), "fc")
            shapes[f"bias{layer}"] = ((outputs,), "bias")
        super().__init__(
            images,
            ParamSpec.of(shapes),
            cells=max(sizes[1:]),
            **shared,
        )
        self.layers = layers
        self.activation = ACTIVATIONS[activation]

    def logits(self, theta: Tensor, x: Tensor) -> Tensor:
        """Forward pass of one network: theta (N,), images (D, ...) -> (D, classes)."""
        tensors = self.spec.unflatten(theta)
        x = x.flatten(1)
        for layer in range(self.layers):
            x = self.activation(x @ tensors[f"weight{layer}"] + tensors[f"bias{layer}"])
        return x @ tensors[f"weight{self.layers}"] + tensors[f"bias{self.layers}"]
