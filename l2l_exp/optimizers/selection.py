"""Which tensors of a layout a part takes."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import get_args

from l2l_exp.optimizees.spec import Kind, TensorSpec


@dataclass(frozen=True)
class Selection:
    """Which tensors a part takes: those for which all conditions hold that are given.

    Attributes:
        kinds: of `optimizees.spec.Kind`, e.g. ("conv", "norm"); None for any.
        names: patterns of tensor names with the wildcards * ? [], e.g. ("conv*",); None for any.
        ranks: numbers of dimensions, >= 0, e.g. (1,) for vectors; None for any.

    Raises:
        ValueError: for an unknown kind, a negative rank, or a condition that is not a list of
            at least one value.
    """

    kinds: Sequence[Kind] | None = None
    names: Sequence[str] | None = None
    ranks: Sequence[int] | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            values = getattr(self, field.name)
            if values is None:
                continue
            if isinstance(values, str) or not isinstance(values, Sequence) or not values:
                raise ValueError(f"{field.name}={values!r} must be a list with a value, or null")
            object.__setattr__(self, field.name, tuple(values))
        for kind in self.kinds or ():
            if kind not in get_args(Kind):
                raise ValueError(f"kinds: {kind!r} is not one of {', '.join(get_args(Kind))}")
        for name in self.names or ():
            if not isinstance(name, str):
                raise ValueError(f"names: {name!r} must be a pattern such as 'conv*'")
        for rank in self.ranks or ():
            if not isinstance(rank, int) or rank < 0:
                raise ValueError(f"ranks: {rank!r} must be a number of dimensions >= 0")

    @property
    def is_rest(self) -> bool:
        """Whether there is no condition: the part takes what the others leave."""
        return self == Selection()

    def takes(self, tensor: TensorSpec) -> bool:
        """Whether all conditions hold for a tensor."""
        return (
            (self.kinds is None or tensor.kind in self.kinds)
            and (self.names is None or any(fnmatchcase(tensor.name, n) for n in self.names))
            and (self.ranks is None or len(tensor.shape) in self.ranks)
        )
