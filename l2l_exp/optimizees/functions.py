"""Test functions of numerical optimization, whose minima are known."""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

import torch
from torch import Tensor

from l2l_exp.optimizees.base import Data, Optimizee, Problem, check_choice
from l2l_exp.optimizees.seeding import Seed, draw, rotation
from l2l_exp.optimizees.spec import ParamSpec


def rosenbrock(x: Tensor) -> Tensor:
    """sum_i 100 (x_{i+1} - x_i^2)^2 + (1 - x_i)^2: (..., N) -> (...); a curved valley.

    From N = 4 on there is a second, local minimum near (-1, 1, ..., 1).
    Source: H. H. Rosenbrock, Computer Journal 3 (1960), 175-184; N-dimensional as in scipy.
    """
    here, following = x[..., :-1], x[..., 1:]
    return (100 * (following - here.square()).square() + (1 - here).square()).sum(-1)


def rastrigin(x: Tensor) -> Tensor:
    """10 N + sum_i x_i^2 - 10 cos(2 pi x_i): (..., N) -> (...); a minimum near every integer point.

    Source: L. A. Rastrigin, Systems of extremal control (1974), for N = 2; any N: H. Muehlenbein,
    M. Schomisch, J. Born, Parallel Computing 17 (1991), 619-632.
    """
    return (x.square() + 10 * (1 - (2 * math.pi * x).cos())).sum(-1)


def ackley(x: Tensor) -> Tensor:
    """-20 exp(-.2 |x| / sqrt N) - exp(mean_i cos(2 pi x_i)) + 20 + e: (..., N) -> (...).

    A funnel with many small dents; its slope at the minimum, where it has none, is taken as 0.
    Source: D. H. Ackley, A connectionist machine for genetic hillclimbing (1987), for N = 2; any N:
    T. Baeck, Evolutionary algorithms in theory and practice (1996).
    """
    size = math.sqrt(x.shape[-1])
    bowl = -20 * torch.expm1(-0.2 * torch.linalg.vector_norm(x, dim=-1) / size)
    return bowl - math.e * torch.expm1((2 * math.pi * x).cos().mean(-1) - 1)


def beale(x: Tensor) -> Tensor:
    """(1.5 - x + xy)^2 + (2.25 - x + xy^2)^2 + (2.625 - x + xy^3)^2: (..., 2) -> (...).

    Flat near its minimum, steep at the corners of its domain.
    Source: E. M. L. Beale, On an iterative method for finding a local minimum of a function of more
    than one variable, Princeton (1958).
    """
    first, second = x[..., 0], x[..., 1]
    parts = [c - first * (1 - second**k) for k, c in enumerate((1.5, 2.25, 2.625), start=1)]
    return torch.stack(parts, -1).square().sum(-1)


class Function(NamedTuple):
    """A function, where it is searched, and where its minimum, 0, lies."""

    value: Callable[[Tensor], Tensor]  # (..., N) -> (...)
    low: float  # the domain is [low, high] in every coordinate
    high: float
    minimiser: tuple[float, ...]  # repeated over the coordinates
    fewest: int  # smallest N
    most: int | None  # largest N


FUNCTIONS: Final[Mapping[str, Function]] = MappingProxyType(
    {
        "rosenbrock": Function(rosenbrock, -2.048, 2.048, (1.0,), 2, None),
        "rastrigin": Function(rastrigin, -5.12, 5.12, (0.0,), 1, None),
        "ackley": Function(ackley, -32.768, 32.768, (0.0,), 1, None),
        "beale": Function(beale, -4.5, 4.5, (3.0, 0.5), 2, 2),
    }
)


class Landscape(Optimizee):
    """A test function; problems differ in theta_0, and by choice in where and how they lie.

    f(theta) = function(x* + Q (theta - theta*)), where x* is the function's own minimiser.
    Deterministic; the minimum of every problem is 0.

    Args:
        function: one of `FUNCTIONS`.
        dimension: N; >= 2 for rosenbrock, 2 for beale, >= 1 for the others.
        spread: theta_0 is uniform within +-spread, > 0, of theta* in every coordinate; None: on the
            function's own domain.
        shift: >= 0; theta* - x* is uniform within +-shift in every coordinate, one per problem.
        rotate: whether Q is a random rotation, one per problem, rather than the identity.

    Raises:
        ValueError: for a value outside these ranges.

    Source: each function names its own.
    """

    has_minimum = True
    deterministic = True
    minimum: float = 0.0

    def __init__(
        self,
        function: str = "rosenbrock",
        dimension: int = 2,
        spread: float | None = None,
        shift: float = 0.0,
        rotate: bool = False,
    ) -> None:
        super().__init__()
        check_choice("function", function, tuple(FUNCTIONS))
        self.function = FUNCTIONS[function]
        _check_dimension(function, dimension)
        if spread is not None and not spread > 0:
            raise ValueError(f"spread={spread} must be > 0, or null for the function's domain")
        if not shift >= 0:
            raise ValueError(f"shift={shift} must be >= 0")
        self.dimension = dimension
        self.spread = spread
        self.shift = shift
        self.rotate = rotate
        own = self.function.minimiser
        self.register_buffer("own_minimiser", torch.tensor(own * (dimension // len(own))))
        self.spec = ParamSpec.of({"theta": ((dimension,), "free")})

    def sample(self, problems: Sequence[int], seed: Seed) -> Problem:
        """Draw theta* and Q of each problem, where they are random."""
        data: dict[str, Tensor] = {}
        if self.shift > 0:
            data["minimiser"] = self._minimisers(problems, seed)
        if self.rotate:
            drawn = draw(seed, "rotation", problems, lambda rng: rotation(rng, self.dimension))
            data["rotation"] = self.place(drawn)
        return Problem(tuple(problems), seed, data)

    def init(self, problems: Sequence[int], seed: Seed) -> Tensor:
        """Draw theta_0: (B, N)."""
        uniform = self.place(draw(seed, "init", problems, lambda rng: rng.random(self.dimension)))
        if self.spread is not None:
            return self._minimisers(problems, seed) + self.spread * (2 * uniform - 1)
        return self.function.low + (self.function.high - self.function.low) * uniform

    def minibatch(self, problem: Problem, step: int) -> Data:
        """The whole problem, at every step."""
        return problem.data

    def loss(self, theta: Tensor, data: Data) -> Tensor:
        """The function's value."""
        return self._value(theta, data)

    def minimiser(self, problem: Problem) -> Tensor:
        """theta* of each problem: (B, N)."""
        own = self.get_buffer("own_minimiser").expand(problem.size, -1)
        return problem.data.get("minimiser", own)

    @torch.no_grad()
    def metrics(self, theta: Tensor, problem: Problem) -> Mapping[str, Tensor]:
        """`train_loss` and `suboptimality`, both the loss itself since the minimum is 0: (B,)."""
        exact = {name: tensor.double() for name, tensor in problem.data.items()}
        return {
            "train_loss": self._value(theta, problem.data),
            "suboptimality": self._value(theta.double(), exact) - self.minimum,
        }

    def _minimisers(self, problems: Sequence[int], seed: Seed) -> Tensor:
        """theta* (B, N) of these problems."""
        own = self.get_buffer("own_minimiser")
        unit = draw(seed, "shift", problems, lambda rng: rng.uniform(-1, 1, self.dimension))
        return own + self.shift * self.place(unit)

    def _value(self, theta: Tensor, data: Data) -> Tensor:
        """Values at theta (..., N) -> (...)."""
        own = self.get_buffer("own_minimiser").to(theta)
        if data:
            theta = theta - data.get("minimiser", own)
            if "rotation" in data:
                theta = (data["rotation"] @ theta.unsqueeze(-1)).squeeze(-1)
            theta = theta + own
        return self.function.value(theta)


def _check_dimension(name: str, dimension: int) -> None:
    """Raise ValueError if a function is not defined in so many dimensions."""
    function = FUNCTIONS[name]
    if dimension < function.fewest or (function.most is not None and dimension > function.most):
        right = str(function.most) if function.most is not None else f">= {function.fewest}"
        raise ValueError(f"dimension={dimension} must be {right} for {name}")
