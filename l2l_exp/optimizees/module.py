"""A user's own `nn.Module`, data and loss as an optimizee."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, replace_all_batch_norm_modules_, vmap

from l2l_exp.optimizees.base import Data, Optimizee, Problem, check_choice, check_positive
from l2l_exp.optimizees.objectives import Objective, check_maker, check_objective
from l2l_exp.optimizees.rows import CPU, rows_of
from l2l_exp.optimizees.seeding import SPLITS, Seed, draw, torch_key, torch_seeded
from l2l_exp.optimizees.spec import layout
from l2l_exp.optimizees.trial import told, try_alone, try_together

RANDOM = "random key"
"""In a minibatch: where randomness inside the module starts. No name of the user's has a space."""
METRIC_ROWS = 16_384
"""Rows of data held at once while metrics walk through the problems in chunks."""
FIRST = Seed("train", 0)


class ModuleOptimizee(Optimizee):
    """Fits an `nn.Module` to data: theta are its parameters that require a gradient.

    Parameters that require none, and buffers, are those of the module as it is made first, the
    same for all problems. What is written to a buffer lasts for one call. Batch normalisation
    always uses the statistics of its batch. The module is in training mode for the loss, and in
    evaluation mode for metrics.

    Args:
        module: a callable that makes the module, such as its class; called for every problem,
            whose theta_0 is the module's own initialisation.
        data: shared by all problems, each split of which has a third of the rows: named tensors, a
            tuple (inputs, targets) or a torch Dataset; or each problem's own: a callable that
            draws named arrays from a `numpy.random.Generator`.
        loss: (model, batch) -> scalar; `objectives.Supervised` makes one of (outputs, targets).
        accuracy: None, or (model, batch) -> scalar in [0, 1], taken on held-out rows.
        batch_size: D, rows per inner step, drawn without replacement; None for all of them.
        held_out_fraction: in [0, 1), of the rows of each split, or of each problem's own.
        split_seed: of the split of shared rows, not the meta-seed.
        constants: names of data that are not rows but belong to a problem as a whole.
        init_std: None, or theta_0 ~ N(0, init_std^2), > 0, instead of the module's own.
        batching: "vmap", or "loop" for what `torch.func.vmap` cannot do: dropout and other
            randomness, writes to buffers, control flow that depends on data.

    Raises:
        ValueError: for a value outside these ranges, and for a module, data and loss that do not
            work together: the loss is tried out at theta_0.
    """

    def __init__(
        self,
        module: Callable[[], nn.Module],
        data: Any,
        loss: Objective,
        accuracy: Objective | None = None,
        batch_size: int | None = None,
        held_out_fraction: float = 0.25,
        split_seed: int = 0,
        constants: Sequence[str] = (),
        init_std: float | None = None,
        batching: str = "vmap",
    ) -> None:
        super().__init__()
        check_maker(module)
        check_objective("loss", loss)
        if accuracy is not None:
            check_objective("accuracy", accuracy)
        check_choice("batching", batching, ("vmap", "loop"))
        if init_std is not None:
            check_positive(init_std=init_std)
        self.batching = "loop" if batching == "loop" else "vmap"
        self.deterministic = batch_size is None and batching == "vmap"  # which has no randomness
        self.module, self.init_std, self.batch_size = module, init_std, batch_size
        self.given = (module, loss, getattr(loss, "criterion", loss), accuracy)
        self.rows = rows_of(data, constants, split_seed, held_out_fraction)
        self.has_held_out = self.rows.has_held_out
        if accuracy is not None and not self.has_held_out:
            raise ValueError("accuracy is taken on held-out rows: held_out_fraction must be > 0")
        self._check_batch_size()
        template = self._first()
        self.spec = layout(template)
        replace_all_batch_norm_modules_(template).requires_grad_(False)
        self.fit = _Applied(template, loss)
        self.rate = None if accuracy is None else _Applied(template, accuracy)
        self._try_out()

    @property
    def sources(self) -> tuple[object, ...]:
        """The code of the module, its data and its losses, and the content of shared data."""
        return (*super().sources, *self.given, self.rows.source)

    def sample(self, problems: Sequence[int], seed: Seed) -> Problem:
        """Each problem's own rows, if they have their own."""
        data = self.rows.sample(problems, seed)
        return Problem(tuple(problems), seed, self._placed(data))

    def init(self, problems: Sequence[int], seed: Seed) -> Tensor:
        """Draw theta_0: (B, N)."""
        if self.init_std is None:
            return self.place(torch.stack([self._start(seed, index) for index in problems]))
        return self.gaussian_start(problems, seed, self.init_std)

    def minibatch(self, problem: Problem, step: int) -> Data:
        """Training rows (B, D, ...), constants (B, ...), and what randomness starts from (B,)."""
        index = None
        if self.batch_size is not None:
            count, size = self.rows.count(problem.seed.split), self.batch_size
            index = draw(
                problem.seed, "minibatch", problem.index,
                lambda rng: rng.choice(count, size, replace=False), step=step,
            )  # fmt: skip
        data = self._placed(self.rows.batch(problem, index))
        if self.batching == "loop":
            data[RANDOM] = self._keys(problem, "inside", step)
        return data

    def loss(self, theta: Tensor, data: Data) -> Tensor:
        """The user's loss, in training mode; randomness inside starts from the data's key."""
        return self._value(self.fit, theta, data, training=True)

    @torch.no_grad()
    def metrics(self, theta: Tensor, problem: Problem) -> Mapping[str, Tensor]:
        """`train_loss`, `held_out_loss`, `held_out_accuracy`, as far as they exist: (B,) each."""
        found = {"train_loss": self._measure(self.fit, theta, problem, held_out=False)}
        if self.has_held_out:
            found["held_out_loss"] = self._measure(self.fit, theta, problem, held_out=True)
        if self.rate is not None:
            found["held_out_accuracy"] = self._measure(self.rate, theta, problem, held_out=True)
        return found

    def _measure(
        self, function: "_Applied", theta: Tensor, problem: Problem, *, held_out: bool
    ) -> Tensor:
        """A function of every problem's theta (B, N) on a whole part of its rows: (B,)."""
        data = self._placed(self.rows.part(problem, held_out=held_out))
        value = partial(self._value, function, training=False)
        if self.batching == "loop":
            data[RANDOM] = self._keys(problem, "metrics", 0)
            values = [
                value(theta[i], {n: x[i] for n, x in data.items()}) for i in range(len(theta))
            ]
            return torch.stack(values).detach()
        chunk = max(1, METRIC_ROWS // data[self.rows.names[0]].shape[1])
        return vmap(value, chunk_size=chunk)(theta, data).detach()

    def _value(self, function: "_Applied", theta: Tensor, data: Data, *, training: bool) -> Tensor:
        """A function of the module with theta (N,) in place, on one problem's data."""
        batch = {name: tensor for name, tensor in data.items() if name != RANDOM}
        function.model.train(training)
        tensors = {f"model.{name}": x for name, x in self.spec.unflatten(theta).items()}
        tensors |= {f"model.{name}": x.clone() for name, x in function.model.named_buffers()}
        seeded = torch_seeded(int(data[RANDOM]), theta.device) if RANDOM in data else nullcontext()
        with seeded, torch.enable_grad():  # a loss may differentiate the model in its inputs
            value: Tensor = functional_call(function, tensors, (batch,))
        return value

    def _placed(self, data: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors on the device and of the dtype of this optimizee."""
        return {name: self.place(tensor) for name, tensor in data.items()}

    def _keys(self, problem: Problem, axis: str, step: int) -> Tensor:
        """What torch's generator starts from in each problem: (B,) int64."""
        keys = [torch_key(problem.seed, axis, index, step) for index in problem.index]
        return self.place(torch.tensor(keys))

    def _start(self, seed: Seed, index: int) -> Tensor:
        """A module's own initialisation (N,) on the CPU."""
        parameters = dict(self._made(seed, index).named_parameters())
        return self.spec.flatten({t.name: parameters[t.name].detach() for t in self.spec.tensors})

    def _made(self, seed: Seed, index: int) -> nn.Module:
        """A fresh module, a function of the problem."""
        with torch_seeded(torch_key(seed, "init", index), CPU):
            return self.module()

    def _first(self) -> nn.Module:
        """The module that theta is put into; making it twice must give the same twice."""
        try:
            first, again = (self._made(FIRST, 0) for _ in range(2))
        except Exception as error:
            raise ValueError(f"module cannot be made: {told(error)}") from error
        if not isinstance(first, nn.Module):
            raise ValueError(f"module gives a {type(first).__name__}, not a torch.nn.Module")
        if {id(x) for x in first.parameters()} & {id(x) for x in again.parameters()}:
            raise ValueError(
                f"module gives {type(first).__name__}s that share parameters: it must make all its "
                f"parts anew each time"
            )
        if layout(first) != layout(again) or any(
            not torch.equal(a, b)
            for a, b in zip(first.parameters(), again.parameters(), strict=True)
        ):
            raise ValueError(
                f"module is not the same twice: {type(first).__name__} must draw its start from "
                f"torch's own generator only"
            )
        return first

    def _check_batch_size(self) -> None:
        """Raise ValueError if there are not that many rows."""
        most = min(self.rows.count(split) for split in SPLITS)
        if self.batch_size is not None and not 1 <= self.batch_size <= most:
            raise ValueError(
                f"batch_size={self.batch_size} must be in [1, {most}], the training rows of a "
                f"problem, or null for all of them"
            )

    def _try_out(self) -> None:
        """Evaluate everything once on two problems, as later on."""
        problem, theta = self.sample((0, 1), FIRST), self.init((0, 1), FIRST)
        data = self.minibatch(problem, 0)
        name = type(self.fit.model).__name__
        functions = {f"the loss of {name}": (self.loss, True)}
        for what, function in (("loss", self.fit), ("accuracy", self.rate)):
            if function is not None:
                measure = partial(self._value, function, training=False)
                functions[f"the {what} of {name} in evaluation mode"] = (measure, False)
        for what, (one, slope) in functions.items():
            try_alone(what, one, theta, data, slope=slope)
            if self.batching == "vmap":
                try_together(what, one, theta, data, slope=slope)


class _Applied(nn.Module):
    """A function of (model, batch) as a module, so that `functional_call` can fill the model."""

    def __init__(self, model: nn.Module, function: Objective) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Apply."""
        return self.function(self.model, batch)
