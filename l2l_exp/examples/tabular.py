"""A small network on a table that comes with scikit-learn: the template of `optimizee=module`."""

import torch
from sklearn.datasets import load_breast_cancer
from torch import Tensor, nn


class Perceptron(nn.Module):
    """One hidden layer.

    Args:
        inputs: features.
        hidden: units.
        outputs: classes.
    """

    def __init__(self, inputs: int = 30, hidden: int = 8, outputs: int = 2) -> None:
        super().__init__()
        self.hidden = nn.Linear(inputs, hidden)
        self.readout = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Features (rows, inputs) to logits (rows, outputs)."""
        logits: Tensor = self.readout(torch.tanh(self.hidden(x)))
        return logits


def breast_cancer() -> tuple[Tensor, Tensor]:
    """569 tumours: 30 features, each with mean 0 and variance 1, and the class, 0 or 1."""
    features, classes = load_breast_cancer(return_X_y=True)
    features = (features - features.mean(0)) / features.std(0)
    return torch.from_numpy(features), torch.from_numpy(classes)
