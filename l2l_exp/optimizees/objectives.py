"""What a module is fitted by: functions of (model, batch)."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.loss import _Loss

Objective = Callable[[nn.Module, Mapping[str, Tensor]], Tensor]
"""(model, batch) -> scalar. `model` is the module with the problem's parameters in place; `batch`
holds the named tensors of some rows, and the problem's constants."""


class Supervised(nn.Module):
    """The loss of the model's outputs against targets, the ordinary case of an `Objective`.

    Args:
        loss: (outputs, targets) -> scalar, e.g. `torch.nn.CrossEntropyLoss()`.
        inputs: name, in the batch, of what the model is applied to.
        targets: name of what its outputs are compared with; the same as `inputs` for an
            autoencoder.

    Raises:
        ValueError: if `loss` cannot be called.
    """

    def __init__(
        self,
        loss: Callable[[Tensor, Tensor], Tensor],
        inputs: str = "inputs",
        targets: str = "targets",
    ) -> None:
        super().__init__()
        if not callable(loss):
            raise ValueError(f"loss={loss!r} must be a function of (outputs, targets)")
        self.criterion = loss
        self.inputs, self.targets = inputs, targets

    def forward(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Apply the model to the inputs, compare with the targets."""
        value: Tensor = self.criterion(
            model(_member(batch, self.inputs)), _member(batch, self.targets)
        )
        return value


class Accuracy(nn.Module):
    """The share of rows whose largest output is at the target's place.

    Args:
        inputs: name, in the batch, of what the model is applied to.
        targets: name of the classes, int64.
    """

    def __init__(self, inputs: str = "inputs", targets: str = "targets") -> None:
        super().__init__()
        self.inputs, self.targets = inputs, targets

    def forward(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Outputs (rows, classes) against targets (rows,): in [0, 1]."""
        outputs: Any = model(_member(batch, self.inputs))
        right: Tensor = outputs.argmax(-1) == _member(batch, self.targets)
        return right.to(outputs.dtype).mean()


def check_objective(name: str, function: object) -> None:
    """Raise ValueError for what cannot be called as an `Objective`."""
    if isinstance(function, _Loss):
        raise ValueError(
            f"{name} is a {type(function).__name__} of (outputs, targets), and must be a function "
            f"of (model, batch): wrap it in l2l_exp.optimizees.objectives.Supervised"
        )
    if not callable(function):
        raise ValueError(f"{name}={function!r} must be a function of (model, batch)")


def check_maker(module: object) -> None:
    """Raise ValueError for what cannot be called to make a module."""
    if isinstance(module, nn.Module):
        raise ValueError(
            f"module is a {type(module).__name__} that was made already, and must be a callable "
            f"that makes one: add _partial_: true"
        )
    if not callable(module):
        raise ValueError(f"module={module!r} must be a callable that makes a torch.nn.Module")


def _member(batch: Mapping[str, Tensor], name: str) -> Tensor:
    """A tensor of the batch."""
    if name not in batch:
        raise ValueError(f"the data have {', '.join(batch)}, and no {name!r}: name what is meant")
    return batch[name]
