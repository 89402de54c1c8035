"""Seconds of meta-training to a common validation loss, against numbers worked out by hand."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest

from l2l_exp.report import race

pytest_plugins = ["edge_fixtures"]


def summary(seed, validations, step=1e-4):
    """What a run's summary.json has of it."""
    learned = {"seconds_per_step": step, "state_bytes_per_coordinate": 320.0}
    meant = {"validated": "alike"}
    told = [dict(zip(("episode", "seconds", "loss"), one, strict=True)) for one in validations]
    return {"run_id": f"r{seed}", "seed": seed, "validations": told, "learned": learned} | meant


ROWS = [
    race.row_of(summary(0, [[5, 10.0, 0.9], [10, 20.0, 0.5], [15, 30.0, 0.6]], 2e-4), "a"),
    race.row_of(summary(1, [[5, 12.0, 0.8], [10, 24.0, 0.2], [15, 36.0, 0.1]]), "a"),
    race.row_of(summary(0, [[5, 40.0, None], [10, 80.0, 0.7]]), "b"),
]


def test_the_level_is_the_median_of_the_bests_and_who_never_came_there_is_censored():
    runs = race.table(ROWS)
    assert runs["level"].tolist() == [0.5] * 3
    assert runs["best_validation"].tolist() == [0.5, 0.1, 0.7]
    assert runs["seconds_to_level"].tolist() == [20.0, 24.0, math.inf]
    assert runs["seconds"].tolist() == [30.0, 36.0, 80.0]


def test_the_text_shows_censored_runs_as_bounds_and_every_seed():
    text = race.as_text(race.table(ROWS))
    assert "validation loss of 0.5" in text
    assert "| a | 20, 24 | 0.5, 0.1 | 33 | 150 | 320 |" in text
    assert "| b | > 80 | 0.7 | 80 | 100 | 320 |" in text


def test_a_run_that_was_never_finite_reaches_no_level():
    lost = race.row_of(summary(1, [[5, 9.0, None], [10, 18.0, None]]), "b")
    runs = race.table([ROWS[0], lost, {**lost, "seed": 2}])
    assert runs["level"].tolist() == [0.5] * 3
    assert runs["seconds_to_level"].tolist() == [20.0, math.inf, math.inf]
    assert race.table([{**lost, "condition": "a"}, lost]) is None


def test_losses_that_mean_different_things_are_not_compared():
    other = {**ROWS[2], "validated": "on another optimizee"}
    assert race.table([ROWS[0], ROWS[2]]) is not None
    assert race.table([ROWS[0], other]) is None
    assert race.table(ROWS[:2]) is None  # one condition


def test_a_run_that_was_not_trained_has_no_row():
    assert race.row_of({"run_id": "r", "seed": 0, "learned": {}}, "") is None
    assert race.found([None, ROWS[0]]) == [ROWS[0]]


@pytest.mark.parametrize("sweep", ["optimizer.hidden_units=2,3"])
def test_a_multirun_of_several_conditions_tells_the_race(command, workplace_with_store, sweep):
    outcome = command(
        "train", "-m", "seed=0,1", sweep, "optimizee=quadratic", "optimizee.dimension=2",
        "training=smoke", "training.episodes=4", "training.validation_every=1", "evaluation=smoke",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    (folder,) = Path("multirun").glob("*")
    runs = pd.read_parquet(folder / "race.parquet")
    assert sorted(runs["condition"].unique()) == [
        "optimizer.hidden_units=2",
        "optimizer.hidden_units=3",
    ]
    assert sorted(runs["seed"]) == [0, 0, 1, 1] and (runs["seconds"] > 0).all()
    told = json.loads((folder / "0" / "summary.json").read_text())["validations"]
    assert [one["episode"] for one in told] == [1, 2, 3, 4]
    assert [one["seconds"] for one in told] == sorted(one["seconds"] for one in told)
    assert "Meta-training to a validation loss" in (folder / "aggregate.md").read_text()
