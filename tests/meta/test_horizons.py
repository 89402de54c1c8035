"""Horizons of episodes: what is given, what is drawn, and what is refused."""

import math
from collections import Counter

import pytest

from l2l_exp.meta.horizons import Fixed, Growing, LogUniform, Stages
from l2l_exp.optimizees.seeding import Seed

SEED = Seed("train", 0)


def test_a_fixed_horizon_is_fixed():
    assert {Fixed(60)(episode, 3, 20, SEED) for episode in range(9)} == {60}
    assert str(Fixed(60)) == "60"


def test_stages_last_as_long_as_they_say_and_the_last_one_stays():
    stages = Stages([{"horizon": 20, "episodes": 2}, {"horizon": 100, "episodes": 1}])
    assert [stages(episode, 0, 20, SEED) for episode in range(5)] == [20, 20, 100, 100, 100]
    assert str(stages) == "20 to 100"


def test_a_drawn_horizon_is_log_uniform_and_made_of_whole_windows():
    horizons = LogUniform(20, 2000)
    drawn = [horizons(episode, 0, 20, SEED) for episode in range(4000)]
    assert min(drawn) == 20 and max(drawn) == 2000 and all(x % 20 == 0 for x in drawn)
    shares = Counter(x <= 200 for x in drawn)
    middle = math.log(210 / 20) / math.log(100)  # what rounds to at most 200
    assert abs(shares[True] / 4000 - middle) < 4 * math.sqrt(0.25 / 4000)


def test_a_drawn_horizon_depends_on_seed_and_episode_alone():
    horizons = LogUniform(20, 2000)
    one = [horizons(episode, 0, 20, SEED) for episode in range(40)]
    assert [horizons(episode, 5, 20, SEED) for episode in reversed(range(40))] == one[::-1]
    assert [horizons(episode, 0, 20, Seed("train", 1)) for episode in range(40)] != one


def test_a_growing_horizon_is_that_of_the_stage_and_the_last_one_stays():
    growing = Growing([20, 40, 100])
    assert [growing(7, stage, 20, SEED) for stage in range(5)] == [20, 40, 100, 100, 100]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Stages([]), "at least one"),
        (lambda: Stages([{"horizon": 20}]), "must be {horizon: T, episodes: n}"),
        (lambda: Stages([20]), "must be {horizon: T, episodes: n}"),
        (lambda: Stages([{"horizon": 20, "episodes": 0}]), "numbers >= 1"),
        (lambda: Stages([{"horizon": 2.5, "episodes": 1}]), "numbers >= 1"),
        (lambda: LogUniform(40, 20), "low=40, high=20 must be 1 <= low <= high"),
        (lambda: LogUniform(0, 20), "low=0"),
        (lambda: Growing([]), r"horizons=\[\] must be at least one"),
        (lambda: Growing([40, 20]), r"horizons=\[40, 20\] .* must grow"),
        (lambda: Growing([20, 20]), "must grow"),
        (lambda: Growing([20, 40], 0), "patience=0 must be a whole number >= 1"),
        (lambda: Growing([20, 40], 2.0), "patience=2.0 must be a whole number >= 1"),
        (lambda: Growing([20, 1e3]).check(20), "training.horizons: 1000.0 must be a whole number"),
        (lambda: LogUniform(20.0, 40).check(20), "20.0 must be a whole number"),
        (lambda: Fixed(1e3).check(20), "1000.0 must be a whole number"),
        (lambda: Growing([20, 30]).check(20), "truncation=20 must divide .* got 30"),
        (lambda: Fixed(0).check(20), "got 0"),
    ],
)
def test_horizons_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
