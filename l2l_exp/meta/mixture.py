"""Several optimizees in one meta-training: every episode draws its own."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from l2l_exp.optimizees.base import Optimizee
from l2l_exp.optimizees.seeding import Seed, generator


@dataclass(frozen=True)
class Mixture:
    """What the optimizee of a training episode is drawn from.

    They may differ in everything, the number of coordinates included: a rule's meta-parameters
    serve all of them.

    Attributes:
        optimizees: by name, at least one.
        weights: name -> finite number >= 0, 1 where a name is missing; chances are in proportion.

    Raises:
        ValueError: for a weight outside this range or of an unknown name, or if all are zero.
    """

    optimizees: Mapping[str, Optimizee]
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, weight in self.weights.items():
            if name not in self.optimizees:
                raise ValueError(
                    f"weight of {name!r}: there is no such optimizee among "
                    f"{', '.join(self.optimizees)}"
                )
            if not 0 <= weight < math.inf:
                raise ValueError(f"weight of {name!r}: {weight} must be a number >= 0")
        if not sum(self._all_weights()) > 0:
            raise ValueError("the weights of all optimizees are 0: one must be above")

    def draw(self, episode: int, seed: Seed) -> Optimizee:
        """The optimizee of an episode."""
        weights, choices = self._all_weights(), list(self.optimizees.values())
        if len(choices) == 1:
            return choices[0]
        total, rng = sum(weights), generator(seed, "optimizee", episode)
        return choices[rng.choice(len(choices), p=[weight / total for weight in weights])]

    def _all_weights(self) -> list[float]:
        """One weight per optimizee."""
        return [self.weights.get(name, 1.0) for name in self.optimizees]
