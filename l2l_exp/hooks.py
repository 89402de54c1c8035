"""What Hydra calls when a multirun begins; light, since Hydra loads it for single runs too."""

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

if TYPE_CHECKING:
    from l2l_exp.multirun import Multirun

CURRENT: ContextVar["Multirun | None"] = ContextVar("multirun", default=None)
"""What the hook, which Hydra makes, hands to the command, which calls Hydra."""


class Refused(BaseException):
    """A multirun cannot begin, for the reason in `__cause__`; Hydra swallows lesser exceptions."""


class ParentRun(Callback):
    """Makes the parent run before any job starts, or finds the one of an earlier launch."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Begin."""
        from l2l_exp.multirun import begin

        try:
            CURRENT.set(begin(config, str(kwargs["config_name"])))
        except Exception as error:
            raise Refused from error
