"""The commands: l2l-train and l2l-evaluate.

Nothing heavy is imported here, so that --help answers at once.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from l2l_exp.config import folder, register_schemas

USER_ERROR = 2
Job = Callable[[DictConfig], None]


def train() -> None:
    """Entry point of l2l-train."""
    sys.exit(_command("train", _train))


def evaluate() -> None:
    """Entry point of l2l-evaluate."""
    sys.exit(_command("evaluate", _evaluate))


def _train(cfg: DictConfig) -> None:
    """Meta-train, then compare."""
    from l2l_exp import jobs
    from l2l_exp.console import Console

    jobs.train(cfg, _run_folder(), _choices(), Console())


def _evaluate(cfg: DictConfig) -> None:
    """Compare."""
    from l2l_exp import jobs
    from l2l_exp.console import Console

    jobs.evaluate(cfg, _run_folder(), _choices(), Console())


def _command(name: str, job: Job) -> int:
    """Compose, run the job, and turn what went wrong into one line and an exit code."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises, and the exit code is chosen here
    sys.path.insert(0, os.getcwd())  # a user's own _target_ may lie in the working directory
    debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    register_schemas()
    try:
        hydra.main(version_base="1.3", config_path=str(folder("conf")), config_name=name)(job)()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if debug or not isinstance(error, _user_errors()):
            raise
        print(f"l2l-{name}: {_one_line(error)}", file=sys.stderr)
        return USER_ERROR
    return 0


def _user_errors() -> tuple[type[Exception], ...]:
    """What a user can mend; anything else is a bug and shows its traceback."""
    errors: list[type[Exception]] = [HydraException, OmegaConfBaseException, ValueError, OSError]
    if "l2l_exp.jobs" in sys.modules:
        from l2l_exp.meta.train import MetaTrainingError
        from l2l_exp.tracking import TrackingError

        errors += [MetaTrainingError, TrackingError]
    return tuple(errors)


def _one_line(error: Exception) -> str:
    """The message without line breaks, and the key it is about where OmegaConf knows it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("object_type=", "reference_type="))]
    return "; ".join(kept) or type(error).__name__


def _run_folder() -> Path:
    """The folder that Hydra made for this job."""
    return Path(HydraConfig.get().runtime.output_dir)


def _choices() -> dict[str, str]:
    """Which option of each group was chosen, e.g. optimizee -> quadratic."""
    choices = OmegaConf.to_container(HydraConfig.get().runtime.choices)
    wanted = ("optimizee", "optimizer", "experiment")
    return {key: str(choices[key]) for key in wanted if isinstance(choices, dict) and choices.get(key)}
