"""Names of parts, of which the names of their meta-parameters are made."""

from torch import nn


def check_name(name: str, parts: nn.ModuleDict) -> None:
    """Raise ValueError for a name that cannot be a further part's, as "a.b" or "keys"."""
    if not isinstance(name, str) or not name.isidentifier() or hasattr(parts, name):
        raise ValueError(f"a part cannot be called {name!r}: use another plain word")
