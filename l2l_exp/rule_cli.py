"""The commands on rules that are trained: l2l-export.

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
    parser = Parser("l2l-export", description="Write a trained rule as one safetensors file.")
    parser.add_argument("source", metavar="SOURCE", help=SOURCE)
    parser.add_argument("out", metavar=f"OUT{SUFFIX}", type=Path, help="replaced if it exists")
    parser.add_argument("--seed", type=int, help="meta-seed of the member of a multirun")
    parser.add_argument(
        "--horizon", type=count, help="what the rule was trained on, where its checkpoint is silent"
    )
    given = parser.parse_args(arguments)
    check_name(given.out)
    from l2l_exp.dropin.load import find

    rule = find(given.source, given.seed)
    if given.horizon is not None:
        rule.about = {**rule.about, "horizon": given.horizon}
    write(given.out, rule)


def count(text: str) -> int:
    """A whole number >= 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} must be a whole number >= 1")
    return int(text)


def check_name(path: Path) -> None:
    """Raise ValueError for the name of a file that would not be known as what it is."""
    if path.suffix != SUFFIX:
        raise ValueError(f"{path} must end in {SUFFIX}")


def write(path: Path, rule: "LearnedOptimizer") -> None:
    """Write an exported file, and say so."""
    from l2l_exp import checkpoint

    checkpoint.export(path, rule, rule.about)
    size = sum(parameter.numel() for parameter in rule.parameters())
    kilobytes = path.stat().st_size / 1e3
    print(f"{path}: {type(rule).__name__}, {size} meta-parameters, {kilobytes:.0f} kB")
