"""How a learning rate falls over the horizon."""

import math
from typing import Literal, get_args

Decay = Literal["constant", "linear", "cosine"]


def checked(decay: str) -> Decay:
    """The name of a decay.

    Raises:
        ValueError: if there is none of that name.
    """
    for name in get_args(Decay):
        if decay == name:
            return name  # type: ignore[no-any-return]
    raise ValueError(f"decay={decay!r} must be one of {', '.join(get_args(Decay))}")


def factor(decay: Decay, step: int, horizon: int, final: float = 0.0) -> float:
    """Factor on the learning rate of inner step `step`, counted from 0: 1 at first.

    Args:
        decay: constant; linear; or half a cosine (Loshchilov, Hutter 2017, arXiv:1608.03983).
        step: >= 0; from `horizon` on the factor is `final`.
        horizon: >= 1, the step at which `final` is reached, one after the last.
        final: in [0, 1].
    """
    if decay == "constant":
        return 1.0
    progress = min(1.0, step / horizon)
    left = 1 - progress if decay == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return final + (1 - final) * left
