"""The commands: l2l-train and l2l-evaluate.

Nothing heavy is imported here, so that --help answers at once.
"""

import os
import sys
from pathlib import Path
from typing import Literal

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from l2l_exp.config import register, shipped

USER_ERROR, INTERRUPTED = 2, 130
Command = Literal["train", "evaluate"]


def train() -> None:
    """Entry point of l2l-train."""
    sys.exit(_command("train"))


def evaluate() -> None:
    """Entry point of l2l-evaluate."""
    sys.exit(_command("evaluate"))


def _command(name: Command) -> int:
    """Compose, run the job or jobs, and turn what went wrong into one line and an exit code."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises, and the exit code is chosen here
    sys.path.append(os.getcwd())  # a user's own _target_ may lie in the working directory
    debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    register()
    failures: list[BaseException] = []

    def job(cfg: DictConfig) -> None:
        try:
            _run(name, cfg)
        except (Exception, KeyboardInterrupt) as error:
            if debug or _is_multirun():
                raise
            failures.append(error)  # Hydra would print lines of its own about it

    try:
        hydra.main(version_base="1.3", config_path=str(shipped("conf")), config_name=name)(job)()
    except (Exception, KeyboardInterrupt) as error:  # Hydra's own, or a job's of a sweep
        if debug:
            raise
        failures.append(error)
    return _exit_code(name, failures[0]) if failures else 0


def _run(name: Command, cfg: DictConfig) -> None:
    """One job; torch is imported no earlier than here."""
    from l2l_exp import jobs
    from l2l_exp.console import Console

    folder = Path(HydraConfig.get().runtime.output_dir)
    job = jobs.Job(cfg, folder, _choices(), Console())
    {"train": jobs.train, "evaluate": jobs.evaluate}[name](job)


def _is_multirun() -> bool:
    """Whether this job is one of several."""
    return HydraConfig.get().mode == hydra.types.RunMode.MULTIRUN


def _choices() -> dict[str, str]:
    """Which option of each group was chosen, e.g. optimizee -> quadratic."""
    choices = OmegaConf.to_container(HydraConfig.get().runtime.choices)
    wanted = ("optimizee", "optimizer", "experiment")
    return {
        key: str(choices[key]) for key in wanted if isinstance(choices, dict) and choices.get(key)
    }


def _exit_code(name: Command, error: BaseException) -> int:
    """Say what went wrong: one line for what a user can mend, a traceback for a bug."""
    if isinstance(error, KeyboardInterrupt):
        print(f"l2l-{name}: interrupted", file=sys.stderr)
        return INTERRUPTED
    if not isinstance(error, _user_errors()):
        raise error
    print(f"l2l-{name}: {_one_line(error)}", file=sys.stderr)
    return USER_ERROR


def _user_errors() -> tuple[type[Exception], ...]:
    """What a user can mend; anything else is a bug."""
    errors: list[type[Exception]] = [HydraException, OmegaConfBaseException, ValueError, OSError]
    if "l2l_exp.jobs" in sys.modules:
        from l2l_exp.meta.train import MetaTrainingError
        from l2l_exp.tracking import TrackingError

        errors += [MetaTrainingError, TrackingError]
    return tuple(errors)


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
