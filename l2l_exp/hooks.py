"""What Hydra calls when a multirun begins; light, since Hydra loads it for single runs too."""

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

if TYPE_CHECKING:
    from l2l_exp.multirun import Multirun

CURRENT: ContextVar["Multirun | None"] = ContextVar("multirun", default=None)
"""What the hook, which Hydra makes, hands to the command, which calls Hydra."""


LISTING: ContextVar[bool] = ContextVar("listing", default=False)
"""Whether the jobs of a multirun are to be listed, not done."""


class Listed(BaseException):
    """The jobs have been listed, and that was all."""


class Refused(BaseException):
    """A multirun cannot begin, for the reason in `__cause__`; Hydra swallows lesser exceptions."""


class ParentRun(Callback):
    """Lists the jobs; makes the parent run before any starts, or finds an earlier launch's."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Begin."""
        from l2l_exp.misspelt import check, check_preset
        from l2l_exp.multirun import announce, begin

        try:
            command = str(kwargs["config_name"])
            check_preset(command, config.hydra.runtime.choices.get("sweeps"))
            check(command, config)
            announce(config, command, in_full=LISTING.get())
            if LISTING.get():
                raise Listed
            CURRENT.set(begin(config, command))
        except Exception as error:
            raise Refused from error
