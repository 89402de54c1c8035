"""The commands: l2l-train and l2l-evaluate make runs, l2l-report and l2l-compare read them.

Nothing heavy is imported here, so that --help answers at once.
"""

import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from l2l_exp import misspelt, resume
from l2l_exp.config import ConfigError, register, shipped
from l2l_exp.errors import UserError
from l2l_exp.hooks import CURRENT, LISTING, Listed, Refused
from l2l_exp.signals import end_with_parent, exit_code, terminable

if TYPE_CHECKING:
    from l2l_exp.multirun import Multirun

FAILED, USER_ERROR = 1, 2
OUR_OPTIONS = ("--debug", "--list")
OPTIONS_WITH_VALUE = frozenset(
    ("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp", "--package", "-p")
    + ("--cfg", "-c", "--info", "-i", "--experimental-rerun")
)
USER_ERRORS = (UserError, HydraException, OmegaConfBaseException, yaml.YAMLError, OSError)
"""What a user can mend; anything else is a bug."""
TOLD = (KeyboardInterrupt, *USER_ERRORS)
READERS = ("report", "compare")
Command = Literal["train", "evaluate", "report", "compare"]


def train() -> None:
    """Entry point of l2l-train."""
    sys.exit(_command("train"))


def evaluate() -> None:
    """Entry point of l2l-evaluate."""
    sys.exit(_command("evaluate"))


def report() -> None:
    """Entry point of l2l-report."""
    sys.exit(_command("report"))


def compare() -> None:
    """Entry point of l2l-compare."""
    sys.exit(_command("compare"))


def _command(name: Command) -> int:
    """Compose, run the job or jobs, and turn what went wrong into one line and an exit code."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises, and the exit code is chosen here
    debug = "--debug" in sys.argv
    LISTING.set("--list" in sys.argv)
    failures: list[BaseException] = []

    def job(cfg: DictConfig) -> None:
        try:
            _job(name, cfg)
        except (Exception, KeyboardInterrupt) as error:
            if _is_multirun():
                raise
            failures.append(error)  # Hydra would print lines of its own about it

    try:
        arguments = [argument for argument in sys.argv[1:] if argument not in OUR_OPTIONS]
        arguments = _arguments(name, arguments)
        register((name,), presets_named(arguments))
        sys.argv = [sys.argv[0], *_options_first(arguments)]
        sys.path.append(os.getcwd())  # a user's own _target_ may lie in the working directory
        with terminable():
            main = hydra.main(
                version_base="1.3", config_path=str(shipped("conf")), config_name=name
            )
            main(job)()
    except Listed:
        return 0
    except Refused as error:
        failures.append(error.__cause__ or error)
    except (Exception, KeyboardInterrupt) as error:  # Hydra's own, or the launcher's
        failures.append(error)
    if debug and failures and isinstance(failures[0], TOLD):
        traceback.print_exception(failures[0])
    try:
        with terminable():
            return _ended(name, failures[0] if failures else None)
    except TOLD as error:  # the store, the disk, or a signal while the multirun was being closed
        return _told(name, error)


def _arguments(name: Command, given: list[str]) -> list[str]:
    """The arguments that Hydra is to see."""
    if name not in READERS:
        return resume.arguments(name, given)
    if {"-m", "--multirun"} & set(given):
        raise ConfigError(f"l2l-{name} is one job: leave out -m")
    sides = [one for one in given if "=" not in one and not one.startswith("-")]
    if name == "report" or not sides:
        return given
    if len(sides) != 2:
        raise ConfigError(f"l2l-compare takes two runs or multiruns, and got {', '.join(sides)}")
    named = zip(("first", "second"), sides, strict=True)
    rest = [one for one in given if one not in sides]
    return [*rest, *(f"{key}={resume.quoted(side)}" for key, side in named)]


def presets_named(arguments: list[str]) -> list[str] | None:
    """The presets that a command line names; None where others may be meant by what it says."""
    chosen = [one.partition("=")[2] for one in arguments if one.lstrip("+").startswith("sweeps=")]
    names = [name.strip("\"' ") for value in chosen for name in value.split(",")]
    known = {path.stem for path in shipped("sweeps").glob("*.yaml")} | {"null"}
    return names if known.issuperset(names) else None


def _options_first(arguments: list[str]) -> list[str]:
    """Put options before overrides: Hydra's parser refuses overrides on both sides of one."""
    options: list[str] = []
    overrides: list[str] = []
    for place, argument in enumerate(arguments):
        is_value = place > 0 and arguments[place - 1] in OPTIONS_WITH_VALUE
        (options if is_value or argument.startswith("-") else overrides).append(argument)
    return options + overrides


def _job(name: Command, cfg: DictConfig) -> None:
    """One job; torch is imported no earlier than here."""
    if name == "report" or name == "compare":
        from l2l_exp import reporting

        misspelt.check(name, cfg)
        return {"report": reporting.report, "compare": reporting.compare}[name](cfg)
    from l2l_exp import jobs, multirun
    from l2l_exp.console import Console

    config = HydraConfig.get()
    if LISTING.get():
        raise ConfigError("--list is for a multirun: choose sweeps=... or add -m")
    number = config.job.num if _is_multirun() else None
    job = jobs.Job(
        command=name,
        cfg=cfg,
        folder=Path(config.runtime.output_dir),
        choices=_choices(),
        overrides=[o for o in config.overrides.task if not resume.is_launch_only(o)],
        config_dirs=multirun.config_dirs(config),
        console=Console("" if number is None else f"[{number}] "),
        parent=None if number is None else multirun.parent_of(Path(config.sweep.dir)),
        swept=[] if number is None else multirun.swept_of(Path(config.sweep.dir)),
    )
    if job.in_multirun and CURRENT.get() is None:
        end_with_parent()  # this is a launcher's worker
    with terminable():
        jobs.perform(job)


def _is_multirun() -> bool:
    """Whether this job is one of several."""
    return HydraConfig.initialized() and HydraConfig.get().mode == hydra.types.RunMode.MULTIRUN


def _choices() -> dict[str, str]:
    """Which option of each group was chosen, e.g. optimizee -> quadratic."""
    choices = OmegaConf.to_container(HydraConfig.get().runtime.choices)
    wanted = ("optimizee", "data", "optimizer", "experiment")
    return {
        key: str(choices[key]) for key in wanted if isinstance(choices, dict) and choices.get(key)
    }


def _ended(name: Command, error: BaseException | None) -> int:
    """Close what is open, say what happened, choose the exit code."""
    multirun = CURRENT.get()
    if multirun is not None:
        CURRENT.set(None)
        return _multirun_ended(name, multirun, error)
    if error is None:
        return 0
    if not isinstance(error, TOLD):
        raise error
    return _told(name, error)


def _multirun_ended(name: Command, multirun: "Multirun", error: BaseException | None) -> int:
    """Aggregate and count; failed jobs fail the multirun."""
    from l2l_exp.multirun import discard, end

    if error is not None and discard(multirun):
        return _told(name, error)
    interrupted = isinstance(error, KeyboardInterrupt)
    count = end(multirun, "FINISHED" if error is None else "KILLED" if interrupted else "FAILED")
    print(f"multirun in {multirun.folder}: {count}")
    for line in count.failed:
        print(f"  {line}")
    if count.failed:
        print("  run the failed ones again: the same command with retry_failed=true")
    if error is not None:
        code = _told(name, error)
        print(f"l2l-{name}: launch the same command again to go on", file=sys.stderr)
        return code
    return FAILED if count.failed or count.unfinished else 0


def _told(name: Command, error: BaseException) -> int:
    """Say in one line what went wrong; the exit code that goes with it."""
    if isinstance(error, KeyboardInterrupt):
        print(f"l2l-{name}: interrupted", file=sys.stderr)
        return exit_code(error)
    user_error = isinstance(error, USER_ERRORS)
    kind = "" if user_error else f"{type(error).__name__}: "
    said = misspelt.reworded(name, str(error), sys.argv) or _one_line(error)
    print(f"l2l-{name}: {kind}{said}", file=sys.stderr)
    return USER_ERROR if user_error else FAILED


def _one_line(error: BaseException) -> str:
    """The message without line breaks; of Hydra's chains of errors what is telling, once."""
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return " ".join(str(error).split())
    messages = []
    cause: BaseException | None = error
    while cause is not None:
        lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
        noise = ("object_type=", "reference_type=", "Config search path:", "provider=")
        messages.append("; ".join(line for line in lines if not line.startswith(noise)))
        cause = cause.__cause__
    telling = dict.fromkeys(message for message in messages if message)
    return ": ".join(telling) or type(error).__name__
