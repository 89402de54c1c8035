"""The commands on rules that are trained: l2l-export, l2l-import.

Nothing heavy is imported here, so that --help answers at once.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from l2l_exp.errors import UserError

if TYPE_CHECKING:
    from l2l_exp.optimizers.base import LearnedOptimizer

USER_ERROR, INTERRUPTED = 2, 130
SUFFIX = ".safetensors"
SOURCE = (
    "of the rule: the name of a bundled one, the path of a checkpoint, a run or a multirun, "
    "runs:/RUN_ID, or models:/NAME@ALIAS (of the store in MLFLOW_TRACKING_URI, else ./mlflow.db)"
)


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with the arguments."""

    def error(self, message: str) -> NoReturn:
        """Exit with 2."""
        self.exit(USER_ERROR, f"{self.prog}: {message} (--help shows what there is)\n")


def export() -> None:
    """Entry point of l2l-export."""
    sys.exit(_told("l2l-export", export_rule))


def import_() -> None:
    """Entry point of l2l-import."""
    sys.exit(_told("l2l-import", import_rule))


def _told(name: str, command: Callable[[Sequence[str]], None]) -> int:
    """Run a command; what a user can mend is one line and exit code 2."""
    try:
        command(sys.argv[1:])
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except (UserError, ValueError, OSError) as error:
        print(f"{name}: {' '.join(str(error).split())}", file=sys.stderr)
        return USER_ERROR
    return 0


def export_rule(arguments: Sequence[str]) -> None:
    """Write a rule as one file that needs nothing else.

    Raises:
        UserError, ValueError, OSError: for what a user can mend.
    """
    given = export_parser().parse_args(arguments)
    _check_name(given.out)
    from l2l_exp.dropin.load import find

    rule = find(given.source, given.seed)
    if given.horizon is not None:
        rule.about = {**rule.about, "horizon": given.horizon}
    _write(given.out, rule)


def export_parser() -> Parser:
    """Arguments of l2l-export."""
    parser = Parser("l2l-export", description="Write a trained rule as one safetensors file.")
    parser.add_argument("source", metavar="SOURCE", help=SOURCE)
    parser.add_argument("out", metavar=f"OUT{SUFFIX}", type=Path, help="replaced if it exists")
    parser.add_argument("--seed", type=int, help="meta-seed of the member of a multirun")
    parser.add_argument(
        "--horizon",
        type=_count,
        help="what the rule was trained on, where its checkpoint is silent",
    )
    return parser


def import_rule(arguments: Sequence[str]) -> None:
    """Write the LSTM of others, which lies in a file of plain arrays, as a rule.

    Raises:
        UserError, ValueError, OSError: for what a user can mend.
    """
    given = import_parser().parse_args(arguments)
    _check_name(given.out)
    from l2l_exp import foreign, imported

    names = ("layout", "encoding", "p", "scale", "output_scale", "forget_bias", "subtracted")
    form = imported.Form(**{name: getattr(given, name) for name in names})
    rule = imported.rule_of(foreign.arrays(given.arrays), form)
    rule.about = {"imported": given.arrays.name, "layout": given.layout}
    if given.horizon is not None:
        rule.about |= {"horizon": given.horizon}
    _write(given.out, rule)
    if given.trial:
        _try(rule)


def import_parser() -> Parser:
    """Arguments of l2l-import."""
    parser = Parser(
        "l2l-import",
        description="Write an LSTM of others as a rule: npz, safetensors, or a torch state dict. "
        "Nothing is unpickled.",
    )
    add = parser.add_argument
    add("arrays", metavar="ARRAYS", type=Path, help="file with the arrays of cells and a readout")
    add("out", metavar=f"OUT{SUFFIX}", type=Path, help="replaced if it exists")
    add("--layout", choices=("torch", "sonnet"), default="torch", help="default: torch")
    add(
        "--encoding", choices=("log_sign", "none", "scale"), default="log_sign", help="of gradients"
    )
    add("--p", type=float, default=10.0, help="of log_sign, default: 10")
    add("--scale", type=float, default=1.0, help="of the encoding scale, default: 1")
    add("--output-scale", type=float, default=0.1, help="factor on the readout, default: .1")
    add("--forget-bias", type=float, default=1.0, help="what sonnet adds at run time, default: 1")
    add("--subtracted", action="store_true", help="theta - output, instead of theta + output")
    add("--horizon", type=_count, help="steps that the rule was trained on")
    add("--no-trial", dest="trial", action="store_false", help="do not try it on small networks")
    return parser


def _try(rule: "LearnedOptimizer") -> None:
    """Run a rule on a few small networks, and say so if it does nothing."""
    from l2l_exp.dead import try_rule
    from l2l_exp.optimizees.data import digits
    from l2l_exp.optimizees.mlp import ImageMLP

    optimizee = ImageMLP(digits(), init="fan_in").to(dtype=next(rule.parameters()).dtype)
    trial = try_rule(optimizee, rule)
    print(
        f"tried on 4 small networks, 100 steps: median loss {trial.first:.3g} -> {trial.last:.3g}"
    )
    if trial.complaint is not None:
        print(f"l2l-import: {trial.complaint}", file=sys.stderr)


def _count(text: str) -> int:
    """A whole number >= 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} must be a whole number >= 1")
    return int(text)


def _check_name(path: Path) -> None:
    """Raise ValueError for the name of a file that would not be known as what it is."""
    if path.suffix != SUFFIX:
        raise ValueError(f"{path} must end in {SUFFIX}")


def _write(path: Path, rule: "LearnedOptimizer") -> None:
    """Write an exported file, and say so."""
    from l2l_exp import checkpoint

    checkpoint.export(path, rule, rule.about)
    size = sum(parameter.numel() for parameter in rule.parameters())
    kilobytes = path.stat().st_size / 1e3
    print(f"{path}: {type(rule).__name__}, {size} meta-parameters, {kilobytes:.0f} kB")
