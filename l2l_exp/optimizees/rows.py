"""Rows of data that something is fitted to: one table for all problems, or each problem's own."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from l2l_exp.optimizees.base import Problem
from l2l_exp.optimizees.seeding import SPLITS, Seed, Split, generator, torch_key, torch_seeded
from l2l_exp.optimizees.tables import named_tensors, row_names, shapes_told
from l2l_exp.optimizees.trial import told

Draw = Callable[[np.random.Generator], Mapping[str, Any]]
CPU = torch.device("cpu")


class Rows(nn.Module, ABC):
    """Named tensors with rows along their first axis, of which each problem may use some.

    Attributes:
        names: of the tensors that have rows; the others are constants of the problem.
        has_held_out: whether rows are held out.
    """

    names: tuple[str, ...]
    has_held_out: bool

    @property
    @abstractmethod
    def source(self) -> object:
        """What the rows come from: a hash of their content, or the code that draws them."""

    @abstractmethod
    def sample(self, problems: Sequence[int], seed: Seed) -> dict[str, Tensor]:
        """What belongs to these problems alone: (B, ...) each, on the CPU."""

    @abstractmethod
    def count(self, split: Split) -> int:
        """Training rows of a problem of this split, >= 1."""

    @abstractmethod
    def batch(self, problem: Problem, index: Tensor | None) -> dict[str, Tensor]:
        """Training rows (B, D, ...) at index (B, D) in [0, count), all for None; constants."""

    @abstractmethod
    def part(self, problem: Problem, *, held_out: bool) -> dict[str, Tensor]:
        """All training rows, or all held-out ones: (B, P, ...); constants (B, ...)."""


class SharedRows(Rows):
    """One table for all problems, whose rows are dealt out to the three splits.

    Args:
        tensors: name -> (P, ...), or any shape for constants.
        constants: names of what is not rows; numbers need not be named.
        seed: of the split; not the meta-seed, so that every run splits alike.
        held_out_fraction: in [0, 1), of the rows of each split.

    Raises:
        ValueError: if a part of the split would be empty.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        constants: Sequence[str],
        seed: int,
        held_out_fraction: float,
    ) -> None:
        super().__init__()
        self.names = row_names(tensors, constants)
        self.constants = tuple(name for name in tensors if name not in self.names)
        self.has_held_out = held_out_fraction > 0
        for name, tensor in tensors.items():
            self.register_buffer(f"data_{name}", tensor, persistent=False)
        order = np.random.default_rng(seed).permutation(len(tensors[self.names[0]]))
        for place, split in enumerate(SPLITS):
            mine = torch.from_numpy(order[place :: len(SPLITS)])
            kept = _kept(len(mine), held_out_fraction, f"split {split}")
            self.register_buffer(f"{split}_train", mine[:kept], persistent=False)
            self.register_buffer(f"{split}_held_out", mine[kept:], persistent=False)

    @property
    def source(self) -> str:
        """A hash of every number."""
        found = hashlib.sha256()
        for name in (*self.names, *self.constants):
            tensor = self._whole(name).cpu()
            found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            found.update(tensor.contiguous().numpy().tobytes())
        return found.hexdigest()

    def sample(self, problems: Sequence[int], seed: Seed) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def count(self, split: Split) -> int:
        """Training rows of the split."""
        return len(self._index(split, held_out=False))

    def batch(self, problem: Problem, index: Tensor | None) -> dict[str, Tensor]:
        """Rows of the split's training part."""
        if index is None:
            return self.part(problem, held_out=False)
        mine = self._index(problem.seed.split, held_out=False)
        mine = mine[index.to(mine.device)]
        taken = {name: self._whole(name)[mine] for name in self.names}
        return taken | self._repeated_constants(problem)

    def part(self, problem: Problem, *, held_out: bool) -> dict[str, Tensor]:
        """Rows of the split, the same for all problems, without a copy for each."""
        mine = self._index(problem.seed.split, held_out=held_out)
        rows = {name: _repeated(self._whole(name)[mine], problem) for name in self.names}
        return rows | self._repeated_constants(problem)

    def _repeated_constants(self, problem: Problem) -> dict[str, Tensor]:
        """The constants, for every problem."""
        return {name: _repeated(self._whole(name), problem) for name in self.constants}

    def _whole(self, name: str) -> Tensor:
        """A tensor of the table."""
        return self.get_buffer(f"data_{name}")

    def _index(self, split: Split, *, held_out: bool) -> Tensor:
        """Rows of a part of a split."""
        return self.get_buffer(f"{split}_{'held_out' if held_out else 'train'}")


class DrawnRows(Rows):
    """Every problem has a table of its own, some random rows of which are held out.

    Args:
        draw: makes the named arrays of one problem; all problems need the same shapes.
        constants: names of what is not rows; numbers need not be named.
        held_out_fraction: in [0, 1), of the rows of each problem.

    Raises:
        ValueError: if a part would be empty.
    """

    def __init__(self, draw: Draw, constants: Sequence[str], held_out_fraction: float) -> None:
        super().__init__()
        self.draw = draw
        first, again = (self._draw(Seed("train", 0), 0) for _ in range(2))
        if not _same(first, again):
            raise ValueError(
                "data is not the same twice: what is random in it must come from the generator "
                "that it is given"
            )
        self.shapes = {name: tensor.shape for name, tensor in first.items()}
        self.names = row_names(first, constants)
        self.constants = tuple(name for name in first if name not in self.names)
        self.total = len(first[self.names[0]])
        self.kept = _kept(self.total, held_out_fraction, "a problem")
        self.has_held_out = held_out_fraction > 0

    @property
    def source(self) -> Draw:
        """The callable."""
        return self.draw

    def sample(self, problems: Sequence[int], seed: Seed) -> dict[str, Tensor]:
        """Draw the tables, training rows first: (B, P, ...); constants (B, ...)."""
        drawn = [self._problem(seed, index) for index in problems]
        return {name: torch.stack([one[name] for one in drawn]) for name in drawn[0]}

    def count(self, split: Split) -> int:
        """Training rows of a problem."""
        return self.kept

    def batch(self, problem: Problem, index: Tensor | None) -> dict[str, Tensor]:
        """Rows of each problem's training part."""
        if index is None:
            return self.part(problem, held_out=False)
        place = index.to(problem.data[self.names[0]].device)
        row = torch.arange(problem.size, device=place.device).unsqueeze(1)
        rows = {name: problem.data[name][row, place] for name in self.names}
        return rows | {name: problem.data[name] for name in self.constants}

    def part(self, problem: Problem, *, held_out: bool) -> dict[str, Tensor]:
        """Rows of each problem."""
        mine = slice(self.kept, None) if held_out else slice(self.kept)
        rows = {name: problem.data[name][:, mine] for name in self.names}
        return rows | {name: problem.data[name] for name in self.constants}

    def _draw(self, seed: Seed, index: int) -> dict[str, Tensor]:
        """The table of one problem as it was drawn."""
        try:
            with torch_seeded(torch_key(seed, "data", index, 1), CPU):
                drawn: Any = self.draw(generator(seed, "data", index))
        except Exception as error:
            raise ValueError(
                f"data, called with a numpy.random.Generator, failed: {told(error)}"
            ) from error
        if not isinstance(drawn, Mapping):
            raise ValueError(f"data: what is drawn is a {type(drawn).__name__}, and must be a dict")
        return named_tensors(drawn)

    def _problem(self, seed: Seed, index: int) -> dict[str, Tensor]:
        """The same with its rows in order: training rows, then held-out ones."""
        drawn = self._draw(seed, index)
        shapes = {name: tensor.shape for name, tensor in drawn.items()}
        if shapes != self.shapes:
            raise ValueError(
                f"data: problem {index} has {shapes_told(shapes)}, another "
                f"{shapes_told(self.shapes)}: all problems need the same shapes"
            )
        order = generator(seed, "held_out", index).permutation(self.total)
        order = np.concatenate([np.sort(order[: self.kept]), np.sort(order[self.kept :])])
        place = torch.from_numpy(order)
        return drawn | {name: drawn[name][place] for name in self.names}


def rows_of(data: Any, constants: Sequence[str], seed: int, held_out_fraction: float) -> Rows:
    """Make the rows that `data` means, by its type.

    Args:
        data: shared by all problems: named tensors or arrays, a tuple (inputs, targets), or a
            `torch.utils.data.Dataset`, which is read once; or a callable that draws one problem's
            own named arrays from a `numpy.random.Generator`.
        constants: names of what is not rows; numbers need not be named.
        seed: of the split of shared rows.
        held_out_fraction: in [0, 1).

    Raises:
        ValueError: for anything else, or for rows that do not fit together.
    """
    if not 0 <= held_out_fraction < 1:
        raise ValueError(f"held_out_fraction={held_out_fraction} must be in [0, 1)")
    if isinstance(data, Mapping | tuple | list | Dataset):
        return SharedRows(named_tensors(data, seed), constants, seed, held_out_fraction)
    if callable(data):
        return DrawnRows(data, constants, held_out_fraction)
    raise ValueError(
        f"data is a {type(data).__name__}, and must be named tensors, a tuple (inputs, targets), "
        f"a torch Dataset, or a callable that draws one problem's data"
    )


def _same(first: Mapping[str, Tensor], again: Mapping[str, Tensor]) -> bool:
    """Whether two tables have the same numbers, of which some may be NaN."""
    return first.keys() == again.keys() and all(
        x.shape == y.shape and torch.equal(x.nan_to_num(), y.nan_to_num())
        for x, y in zip(first.values(), again.values(), strict=True)
    )


def _kept(rows: int, fraction: float, whose: str) -> int:
    """How many rows gradients may see."""
    kept = rows - round(fraction * rows)
    if kept < 1 or (fraction > 0 and kept == rows):
        raise ValueError(
            f"held_out_fraction={fraction} leaves an empty part: {whose} has {rows} rows"
        )
    return kept


def _repeated(tensor: Tensor, problem: Problem) -> Tensor:
    """The same tensor for every problem, without a copy: (B, ...)."""
    return tensor.expand(problem.size, *tensor.shape)
