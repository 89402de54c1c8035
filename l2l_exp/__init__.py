"""l2l_exp: meta-train optimizers, and compare them honestly with hand-designed ones."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from l2l_exp.dropin import load_optimizer as load_optimizer

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import what users call when they call it: the commands' help needs no torch."""
    if name == "load_optimizer":
        from l2l_exp.dropin import load_optimizer

        return load_optimizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
