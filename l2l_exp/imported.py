"""Coordinatewise LSTMs of others as rules: torch's cells, and kernels in Sonnet's layout."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from l2l_exp.architecture import rebuild
from l2l_exp.optimizers.base import LearnedOptimizer

Layout = Literal["torch", "sonnet"]
EncodingName = Literal["log_sign", "none", "scale"]
LSTM = "l2l_exp.optimizers.lstm.CoordinatewiseLSTM"
ENCODINGS = "l2l_exp.optimizers.encoding"
TORCH_CELL = re.compile(
    r"(?P<cell>.*?)\.?(?P<part>weight_ih|weight_hh|bias_ih|bias_hh)(?P<layer>_l\d+)?"
)


@dataclass(frozen=True)
class Form:
    """What arrays do not tell of a rule.

    Attributes:
        layout: torch: cells `weight_ih` (4H, inputs), `weight_hh` (4H, H), `bias_ih` and `bias_hh`
            (4H,) of `LSTMCell` or `LSTM`, whose gates are input, forget, candidate, output, and a
            readout `weight` (1, H), `bias` (1,). sonnet: kernels (inputs + H, 4H) and biases (4H,)
            whose gates are input, candidate, forget, output, and a readout (H, 1), (1,).
        encoding: of the gradient: log_sign, none, or scale.
        p: of log_sign (the paper: 10; its public code: 5).
        scale: of the encoding scale.
        output_scale: factor on the readout (the paper: .1 on MNIST; its public code: .01).
        forget_bias: what Sonnet adds to the forget gate at run time; of no use for torch's cells.
        subtracted: theta - output instead of theta + output.

    Raises:
        ValueError: for a layout or an encoding that there is not.
    """

    layout: Layout = "torch"
    encoding: EncodingName = "log_sign"
    p: float = 10.0
    scale: float = 1.0
    output_scale: float = 0.1
    forget_bias: float = 1.0
    subtracted: bool = False

    def __post_init__(self) -> None:
        for name, choices in (("layout", get_args(Layout)), ("encoding", get_args(EncodingName))):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} must be one of {', '.join(choices)}"
                )

    @property
    def inputs(self) -> int:
        """Features that the encoding has."""
        return 2 if self.encoding == "log_sign" else 1


class Cell(NamedTuple):
    """An LSTM cell of H units whose gates are input, forget, output, candidate, as ours."""

    name: str
    input_weight: Tensor  # (4H, inputs)
    recurrent_weight: Tensor  # (4H, H)
    bias: Tensor  # (4H,)


class Readout(NamedTuple):
    """The linear layer on top."""

    weight: Tensor  # (1, H)
    bias: Tensor  # (1,)


def rule_of(arrays: Mapping[str, Tensor], form: Form) -> LearnedOptimizer:
    """The rule that arrays of others describe.

    Args:
        arrays: by name, of floating point; all of them belong to the rule.
        form: what they do not tell.

    Returns:
        A `CoordinatewiseLSTM` that knows its architecture; in float64 if an array is.

    Raises:
        ValueError: if the arrays are no such LSTM, or do not fit each other or the encoding.
    """
    cells, readout = _of_torch(arrays) if form.layout == "torch" else _of_sonnet(arrays, form)
    cells = _in_order(cells, form.inputs)
    hidden = readout.weight.shape[1]
    for cell, inputs in zip(cells, [form.inputs] + [hidden] * (len(cells) - 1), strict=True):
        found, units = cell.input_weight.shape[1], cell.recurrent_weight.shape[1]
        if (found, units) != (inputs, hidden):
            raise ValueError(
                f"cell {cell.name!r} has {found} inputs and {units} units, and should have "
                f"{inputs} and {hidden}: encoding={form.encoding} has {form.inputs} features, the "
                f"readout takes {hidden} units"
            )
    architecture = {
        "_target_": LSTM,
        "hidden_units": hidden,
        "layers": len(cells),
        "output_scale": form.output_scale,
        "encoding": _encoding(form),
    }
    rule = rebuild(architecture, Path("the imported rule"))
    rule.load_state_dict(_state_dict(cells, readout, form), assign=True)
    rule.architecture = architecture
    return rule


def _of_torch(arrays: Mapping[str, Tensor]) -> tuple[list[Cell], Readout]:
    """Cells and readout of modules of torch."""
    parts: dict[str, dict[str, Tensor]] = {}
    rest: dict[str, Tensor] = {}
    for name, x in arrays.items():
        found = TORCH_CELL.fullmatch(name)
        if found is None:
            rest[name] = x
        else:
            cell = f"{found['cell']}{found['layer'] or ''}"
            parts.setdefault(cell, {})[found["part"]] = x
    return [_torch_cell(name, part) for name, part in parts.items()], _readout(rest)


def _torch_cell(name: str, part: Mapping[str, Tensor]) -> Cell:
    """A cell of torch, its two biases summed."""
    for wanted in ("weight_ih", "weight_hh"):
        if wanted not in part or part[wanted].ndim != 2:
            raise ValueError(f"cell {name!r} has no matrix {wanted}")
    units = part["weight_hh"].shape[1]
    zeros = part["weight_hh"].new_zeros(4 * units)
    sizes = [("weight_ih", 2), ("weight_hh", 2), ("bias_ih", 1), ("bias_hh", 1)]
    given = {key: part.get(key, zeros) for key, _ in sizes}
    for key, axes in sizes:
        if given[key].ndim != axes or len(given[key]) != 4 * units:
            raise ValueError(
                f"cell {name!r}: {key} of shape {tuple(given[key].shape)} must have "
                f"4 x {units} rows"
            )

    def ours(x: Tensor) -> Tensor:
        admit, keep, candidate, expose = x.chunk(4)
        return torch.cat([admit, keep, expose, candidate])

    bias = ours(given["bias_ih"] + given["bias_hh"])
    return Cell(name, ours(given["weight_ih"]), ours(given["weight_hh"]), bias)


def _of_sonnet(arrays: Mapping[str, Tensor], form: Form) -> tuple[list[Cell], Readout]:
    """Cells and readout of kernels whose columns are gates."""
    arrays = {name.removesuffix(":0"): x for name, x in arrays.items()}
    kernels = {
        name: x for name, x in arrays.items() if x.ndim == 2 and x.shape[1] % 4 == 0
        if x.shape[0] > x.shape[1] // 4
    }  # fmt: skip
    cells, used = [], set(kernels)
    for name, kernel in kernels.items():
        columns = kernel.shape[1]
        beside = [
            other for other, x in arrays.items()
            if x.shape == (columns,) and _group(other) == _group(name)
        ]  # fmt: skip
        if len(beside) != 1:
            raise ValueError(f"kernel {name!r} needs one bias of {columns} numbers beside it")
        used.add(beside[0])
        cells.append(_sonnet_cell(_group(name), kernel, arrays[beside[0]], form.forget_bias))
    rest = {name: x for name, x in arrays.items() if name not in used}
    return cells, _readout({name: x.T if x.ndim == 2 else x for name, x in rest.items()})


def _sonnet_cell(name: str, kernel: Tensor, bias: Tensor, forget_bias: float) -> Cell:
    """A cell of Sonnet, with what it adds to the forget gate."""
    units = kernel.shape[1] // 4

    def ours(x: Tensor) -> Tensor:
        admit, candidate, keep, expose = x.chunk(4, -1)
        return torch.cat([admit, keep, expose, candidate], -1)

    bias = ours(bias).clone()
    bias[units : 2 * units] += forget_bias
    weight = ours(kernel).T
    return Cell(name, weight[:, :-units], weight[:, -units:], bias)


def _readout(rest: Mapping[str, Tensor]) -> Readout:
    """The linear layer that is left when the cells are taken away: (1, H), (1,)."""
    weights = [name for name, x in rest.items() if x.ndim == 2 and x.shape[0] == 1]
    biases = [name for name, x in rest.items() if x.shape == (1,)]
    spare = [name for name in rest if name not in (*weights[:1], *biases[:1])]
    if not weights or spare:
        told = f"{', '.join(spare[:5])} belong to none" if spare else "there is no readout"
        raise ValueError(
            f"the arrays are not LSTM cells with one linear readout in this layout: {told}"
        )
    weight = rest[weights[0]]
    return Readout(weight, rest[biases[0]] if biases else weight.new_zeros(1))


def _in_order(cells: list[Cell], inputs: int) -> list[Cell]:
    """The cell that alone can see the gradient, then the others by name, numbers as numbers."""
    if not cells:
        raise ValueError("there is no LSTM cell among the arrays: choose another layout")
    later = [cell.input_weight.shape[1] != inputs for cell in cells]

    def place(numbered: tuple[int, Cell]) -> tuple[bool, list[tuple[int, str]]]:
        parts = re.findall(r"(\d*)(\D*)", numbered[1].name)
        by_name = [(int(digits or 0), rest) for digits, rest in parts]
        return later.count(False) == 1 and later[numbered[0]], by_name

    return [cell for _, cell in sorted(enumerate(cells), key=place)]


def _group(name: str) -> str:
    """What stands before the last part of a name."""
    return re.sub(r"[/.]?[^/.]*$", "", name)


def _encoding(form: Form) -> dict[str, Any]:
    """The encoding as an architecture has it."""
    if form.encoding == "log_sign":
        return {"_target_": f"{ENCODINGS}.LogSign", "p": form.p}
    scale = form.scale if form.encoding == "scale" else 1.0
    return {"_target_": f"{ENCODINGS}.Identity", "scale": scale}


def _state_dict(cells: list[Cell], readout: Readout, form: Form) -> dict[str, Tensor]:
    """The meta-parameters under our names."""
    sign = -1.0 if form.subtracted else 1.0
    found = {"readout": sign * readout.weight, "readout_bias": sign * readout.bias.view(1, 1)}
    for place, cell in enumerate(cells):
        found[f"cells.{place}.input_weight"] = cell.input_weight
        found[f"cells.{place}.recurrent_weight"] = cell.recurrent_weight
        found[f"cells.{place}.bias"] = cell.bias.view(-1, 1)
    double = any(x.dtype == torch.float64 for x in found.values())
    dtype = torch.float64 if double else torch.float32
    return {name: x.to(dtype).contiguous() for name, x in found.items()}
