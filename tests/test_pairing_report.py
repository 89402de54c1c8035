"""Two runs on the same draws: the ratio problem by problem, and what must not be paired."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from multirun_files import (
    DIVERGES,
    Planned,
    compared,
    seeds,
    write_multirun,
    write_run,
    write_store,
)

from l2l_exp.report import pairing, sides
from l2l_exp.report.aggregation import aggregate
from l2l_exp.statistics import student_interval

pytest_plugins = ["edge_fixtures"]

SLOW, FAST = 0.02, 0.1


def side(folder: Path, *runs: Planned, name="mine") -> pairing.Side:
    """A multirun of some runs."""
    return sides.of_folder(name, write_multirun(folder, name, runs))


def losses(one: Planned) -> np.ndarray:
    """(12,) final losses, from the curves that were written."""
    _, curves = compared(one)
    rows = curves[(curves["kind"] == "learned") & (curves["step"] == one.horizon)]
    return rows.sort_values("problem")["train_loss"].to_numpy(dtype=np.float64)


def test_the_ratio_is_the_median_over_problems_of_both_runs_losses(tmp_path):
    one, other = Planned(0, rate=FAST), Planned(0, rate=SLOW)
    for planned in (one, other):
        write_run(tmp_path / planned.run_id, planned)
    both = [sides.of_folder(p.run_id, tmp_path / p.run_id) for p in (one, other)]
    rows = pairing.rows(pairing.pairs(*both), "other")
    assert list(rows["criterion"]) == ["average", "final"]  # quadratics hold nothing out
    final = rows.iloc[1]
    logs = np.log(losses(one) / losses(other))
    assert final["log_ratio"] == pytest.approx(np.median(logs), rel=1e-6)
    assert final["low"] < final["log_ratio"] < final["high"] < 0
    assert final["better"] == np.mean(logs < 0) > 0.5
    assert (final["n_problems"], final["not_ok"], final["best_baseline"]) == (12, 0, "other")
    assert final["other_median"] == pytest.approx(np.median(losses(other)))
    back = pairing.rows(pairing.pairs(*reversed(both)), "one").iloc[1]
    assert back["log_ratio"] == pytest.approx(-final["log_ratio"])
    assert back["better"] == pytest.approx(1 - final["better"])


def test_multiruns_meet_by_condition_and_meta_seed(tmp_path):
    fast = [Planned(s, (f"a={a}",), FAST * a) for a in (1, 2) for s in (0, 1, 2)]
    slow = [Planned(s, (f"a={a}",), SLOW * a) for a in (2, 1) for s in (2, 0, 1)]
    met = pairing.pairs(side(tmp_path / "a", *fast), side(tmp_path / "b", *slow, name="other"))
    assert len(met) == 6
    assert all((x.seed, x.condition) == (y.seed, y.condition) for x, y in met)
    rows = pairing.rows(met, "other")
    table = aggregate(rows)
    one = table[(table["condition"] == "a=2") & (table["criterion"] == "final")].iloc[0]
    logs = [
        np.median(np.log(losses(x) / losses(y)))
        for x in fast[3:] for y in slow[:3] if x.seed == y.seed
    ]  # fmt: skip
    expected = student_interval(np.array(logs))
    np.testing.assert_allclose([one["log_ratio"], one["low"], one["high"]], expected, rtol=1e-5)


def test_two_multiruns_of_one_condition_each_meet_whatever_it_is(tmp_path):
    mine = side(tmp_path / "a", *seeds(3, rate=FAST))
    theirs = side(tmp_path / "b", *seeds(2, rate=SLOW), name="other")
    assert [(x.seed, y.seed) for x, y in pairing.pairs(mine, theirs)] == [(0, 0), (1, 1)]


def test_a_problem_that_diverged_is_infinite_and_counted(tmp_path):
    mine = side(tmp_path / "a", Planned(0, rate=DIVERGES))
    theirs = side(tmp_path / "b", Planned(0), name="other")
    final = pairing.rows(pairing.pairs(mine, theirs), "other").iloc[1]
    assert final["log_ratio"] > 10 and (final["not_ok"], final["other_not_ok"]) == (12, 0)
    assert final["better"] == 0
    assert pairing.statuses(mine.entrants) == {"diverged": 12}
    assert pairing.statuses(theirs.entrants) == {"ok": 12}


def test_a_run_that_ended_in_nan_has_infinite_losses(tmp_path):
    mine, theirs = side(tmp_path / "a", Planned(0)), side(tmp_path / "b", Planned(0), name="other")
    table = mine.entrants[0].table.copy()
    last = table["step"] == 4
    table.loc[last & (table["problem"] == 3), "train_loss"] = np.nan
    broken = dataclasses.replace(mine.entrants[0], load=lambda: table)
    (final,) = pairing.rows([(broken, theirs.entrants[0])], "o").query("criterion == 'final'")[
        "log_ratio"
    ]
    assert final == 0  # the others tie
    values = pairing._values(broken, theirs.entrants[0], "final")
    assert values is not None and np.isinf(values[0][3]) and len(values[0]) == 12


def test_costs_are_medians_over_runs(tmp_path):
    mine = side(tmp_path, *seeds(3))
    told = pairing.cost(mine.entrants)
    each = [compared(one)[0]["learned"]["seconds_per_step"] * 1e6 for one in seeds(3)]
    assert told["microseconds_per_step"] == pytest.approx(np.median(each))
    assert told["training_seconds"] == 3.0


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"horizon": 3}, "evaluation.horizon 4 and 3"),
        ({"evaluation_seed": 5}, "evaluation.seed 2 and 5"),
    ],
)
def test_other_draws_are_refused_by_their_configs(tmp_path, changes, told):
    mine = side(tmp_path / "a", Planned(0))
    theirs = side(tmp_path / "b", Planned(0, **changes), name="other")
    with pytest.raises(ValueError, match=f"cannot be paired: their problems differ by {told}$"):
        pairing.pairs(mine, theirs)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"horizon": 3}, "one has 4 steps, the other 3"),
        ({"evaluation_seed": 5}, "on problem .* their first losses are .* not the same draws"),
    ],
)
def test_other_draws_are_refused_by_their_tables_where_configs_are_silent(tmp_path, changes, told):
    mine, theirs = (
        [dataclasses.replace(run, config={}) for run in side(tmp_path / name, planned).entrants]
        for name, planned in (("a", Planned(0)), ("b", Planned(0, **changes)))
    )
    with pytest.raises(ValueError, match=told):
        pairing.check_draws(mine[0], theirs[0])


@pytest.mark.parametrize(("factor", "same"), [(1 + 1e-5, True), (1.01, False)])
def test_first_losses_may_differ_by_rounding_alone(tmp_path, factor, same):
    mine, theirs = (side(tmp_path / name, Planned(0)).entrants[0] for name in "ab")
    table = theirs.table.copy()
    table.loc[(table["step"] == 0) & (table["problem"] == 5), "loss"] *= np.float32(factor)
    theirs = dataclasses.replace(theirs, load=lambda: table)
    if same:
        pairing.check_draws(mine, theirs)
        return
    with pytest.raises(ValueError, match="on problem 5 their first losses are"):
        pairing.check_draws(mine, theirs)


def test_what_draws_nothing_may_differ(tmp_path):
    mine, theirs = (side(tmp_path / name, Planned(0)).entrants[0] for name in "ab")
    places = {"optimizee.images.root": "/else", "data.classes": "None", "optimizer.layers": "3"}
    pairing.check_draws(mine, dataclasses.replace(theirs, config={**theirs.config, **places}))
    other = {**theirs.config, "data.classes": "5"}
    with pytest.raises(ValueError, match="data.classes None and 5"):
        pairing.check_draws(mine, dataclasses.replace(theirs, config=other))


def test_nothing_in_common_is_refused(tmp_path):
    mine = side(tmp_path / "a", *seeds(2))
    theirs = side(tmp_path / "b", Planned(5), Planned(6), name="other")
    with pytest.raises(ValueError, match="no condition and meta-seed in common: seed=0, seed=1"):
        pairing.pairs(mine, theirs)
    twice = side(tmp_path / "c", Planned(0), Planned(0, rate=FAST), name="other")
    with pytest.raises(ValueError, match="other has two runs of seed=0"):
        pairing.pairs(mine, twice)


def test_sides_without_a_finished_run_are_refused(tmp_path):
    folder = write_multirun(tmp_path, "mine", seeds(2, status="RUNNING"))
    with pytest.raises(ValueError, match="mine has nothing to compare: 0 of 2 runs finished"):
        sides.of_folder("mine", folder)
    with pytest.raises(ValueError, match="neither a run nor a multirun"):
        sides.of_folder("empty", tmp_path)


def test_a_side_from_a_store_is_that_of_its_folder(tmp_path, store):
    folder = write_multirun(tmp_path / "multirun", "mine", [*seeds(2), Planned(2, status="FAILED")])
    parent = write_store(store, folder)
    there, here = sides.of_store("a", store, parent, tmp_path), sides.of_folder("b", folder)
    met = pairing.pairs(there, here)
    assert len(met) == 2 and (pairing.rows(met, "b")["log_ratio"] == 0).all()
    one = sides.of_store("one", store, there.entrants[0].run_id, tmp_path)
    pd.testing.assert_frame_equal(one.entrants[0].table, here.entrants[0].table)
    assert one.entrants[0].config["evaluation.horizon"] == "4"
    record = json.loads((folder / "0" / "run.json").read_text())
    assert here.entrants[0].config["evaluation.horizon"] == str(
        record["config"]["evaluation"]["horizon"]
    )
