"""Which optimizee an episode is of."""

import math
from collections import Counter

import pytest

from l2l_exp.meta.mixture import Mixture
from l2l_exp.optimizees.quadratic import Quadratic
from l2l_exp.optimizees.seeding import Seed

SEED = Seed("train", 0)


@pytest.fixture
def three() -> dict[str, Quadratic]:
    """Optimizees that differ in size."""
    return {"small": Quadratic(1), "middle": Quadratic(2), "large": Quadratic(3)}


def counted(mixture, episodes=2000, seed=SEED):
    """How often every dimension is drawn."""
    return Counter(mixture.draw(episode, seed).spec.size for episode in range(episodes))


def test_chances_are_in_proportion_to_the_weights(three):
    counts = counted(Mixture(three, {"large": 3.0, "middle": 0.0}))
    assert set(counts) == {1, 3}
    assert abs(counts[3] / 2000 - 0.75) < 4 * math.sqrt(0.75 * 0.25 / 2000)
    counts = counted(Mixture(three))
    assert all(abs(counts[n] / 2000 - 1 / 3) < 4 * math.sqrt(2 / 9 / 2000) for n in (1, 2, 3))


def test_what_is_drawn_depends_on_seed_and_episode_alone(three):
    def drawn(seed, episodes=range(40)):
        return {e: Mixture(three).draw(e, seed).spec.size for e in episodes}

    one = drawn(SEED)
    assert drawn(SEED, reversed(range(40))) == one
    assert drawn(Seed("train", 1)) != one


def test_a_single_optimizee_is_always_drawn(three):
    assert counted(Mixture({"main": three["middle"]}), 20) == {2: 20}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"larg": 1.0}, "weight of 'larg': there is no such optimizee among small, middle, large"),
        ({"large": -1.0}, "weight of 'large': -1.0 must be a number >= 0"),
        ({"large": math.inf}, "weight of 'large': inf must be a number >= 0"),
        ({"large": math.nan}, "weight of 'large': nan must be a number >= 0"),
        ({"small": 0, "middle": 0, "large": 0}, "weights of all optimizees are 0"),
    ],
)
def test_weights_that_make_no_sense_are_refused(three, weights, message):
    with pytest.raises(ValueError, match=message):
        Mixture(three, weights)
