"""The meta-loss: from the minibatch losses of a window to the number that meta-training lowers."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


class Weights(ABC):
    """Weight w_t of the loss after inner step t = 1..horizon, for the steps of one window."""

    @abstractmethod
    def __call__(self, start: int, steps: int, horizon: int) -> Tensor:
        """Weights (K,) of the K = `steps` losses at t = start+1 .. start+steps."""

    def check(self, truncation: int, horizon: int) -> None:  # noqa: B027
        """Raise ValueError where the weights make no sense with this truncation."""


class Uniform(Weights):
    """w_t = 1, as in every experiment of the paper (section 2)."""

    def __call__(self, start: int, steps: int, horizon: int) -> Tensor:
        """Ones."""
        return torch.ones(steps)


class Linear(Weights):
    """w_t proportional to t, mean 1 over the horizon: later losses count more."""

    def __call__(self, start: int, steps: int, horizon: int) -> Tensor:
        """2 t / (T + 1)."""
        return 2 * torch.arange(start + 1, start + steps + 1) / (horizon + 1)


class Geometric(Weights):
    """w_t proportional to ratio^(T - t), mean 1 over the horizon.

    Args:
        ratio: in (0, 1); the smaller, the more the end of the horizon counts.
    """

    def __init__(self, ratio: float = 0.97) -> None:
        if not 0 < ratio < 1:
            raise ValueError(f"ratio={ratio} must be in (0, 1)")
        self.ratio = ratio

    def __call__(self, start: int, steps: int, horizon: int) -> Tensor:
        """ratio^(T - t), normalised."""
        exponent = horizon - torch.arange(start + 1, start + steps + 1)
        mean = (1 - self.ratio**horizon) / (1 - self.ratio) / horizon
        return self.ratio**exponent / mean


class Final(Weights):
    """Only the last loss counts.

    Args:
        within: "window", the last loss of every window (as RNNprop, arXiv:1703.03633); or
            "horizon", the loss at T, which needs truncation = horizon, since every other window
            would have no gradient at all.
    """

    def __init__(self, within: str = "window") -> None:
        if within not in ("window", "horizon"):
            raise ValueError(f"within={within!r} must be one of window, horizon")
        self.within = within

    def check(self, truncation: int, horizon: int) -> None:
        """Refuse the loss at T with a truncated horizon."""
        if self.within == "horizon" and truncation != horizon:
            raise ValueError(
                f"weights that count only the end of the horizon need truncation = horizon, "
                f"got truncation={truncation}, horizon={horizon}: use within=window"
            )

    def __call__(self, start: int, steps: int, horizon: int) -> Tensor:
        """Zeros, then the number of steps, so that the mean is 1."""
        weights = torch.zeros(steps)
        weights[-1] = steps
        return weights


class Form(ABC):
    """How one loss enters the meta-loss."""

    @abstractmethod
    def __call__(self, losses: Tensor, first: Tensor) -> Tensor:
        """Transform losses (K, B) of problems whose loss at theta_0 was `first` (B,)."""


class Plain(Form):
    """The loss itself (paper, equation 3)."""

    def __call__(self, losses: Tensor, first: Tensor) -> Tensor:
        """f."""
        return losses


class Log(Form):
    """log(f + eps): every problem and every phase counts alike (arXiv:1703.04813, section 4).

    Args:
        eps: > 0, keeps the gradient bounded near a loss of zero.
    """

    def __init__(self, eps: float = 1e-8) -> None:
        if not eps > 0:
            raise ValueError(f"eps={eps} must be > 0")
        self.eps = eps

    def __call__(self, losses: Tensor, first: Tensor) -> Tensor:
        """log(f + eps)."""
        return (losses + self.eps).log()


class Relative(Form):
    """f / f(theta_0): problems of different scale count alike."""

    def __call__(self, losses: Tensor, first: Tensor) -> Tensor:
        """f / f_0."""
        return losses / first


@dataclass(frozen=True)
class MetaLoss:
    """Mean over problems and over the steps of the window of w_t * form(f_t).

    Deviation: the paper writes the sum over steps; the mean differs by a constant factor, which
    makes values comparable between truncations.

    Source: arXiv:1606.04474, equation 3.
    """

    weights: Weights
    form: Form

    def __call__(self, losses: Tensor, first: Tensor, start: int, horizon: int) -> Tensor:
        """Scalar meta-loss of one window.

        Args:
            losses: (K, B) minibatch losses after steps start+1 .. start+K.
            first: (B,) minibatch losses at theta_0.
            start: inner steps before the window.
            horizon: T.
        """
        weights = self.weights(start, losses.shape[0], horizon).to(losses)
        return (weights.unsqueeze(-1) * self.form(losses, first)).mean()
