"""Tuning finds the rate that is best by calculation, and remembers it."""

import json
import math
from functools import partial

import pytest
import torch

from l2l_exp import tuning
from l2l_exp.optimizees.seeding import Seed
from l2l_exp.optimizers.baseline import Baseline
from l2l_exp.tuning import Tuned, TuningCache, grid, source_hash, tune

VALIDATION, PROBLEMS = Seed("validation", 0), (0, 1)
KEY = {"data": "digits", "split_seed": 0, "horizon": 100, "search": [1e-3, 1.0], "momentum": None}


def test_a_grid_has_two_rates_per_half_decade():
    assert grid(0.01, 1.0) == pytest.approx([10 ** (k / 4) for k in range(-8, 1)])
    assert grid(0.009, 0.011) == [0.01]


@pytest.mark.parametrize(
    "range_", [(1e-2, 1.0), (1e-4, 1e-3), (10.0, 100.0), (0.1, 0.11), (1e3, 2e3)],
)  # fmt: skip
@pytest.mark.parametrize("search", tuning.SEARCHES)
def test_the_best_rate_of_gradient_descent_on_a_parabola_is_one_over_its_curvature(
    separable, search, range_
):
    # theta_1 = (1 - lr a) theta_0 = 0 exactly where lr = 1 / a; the grid must widen to get there
    baseline = Baseline(torch.optim.SGD, search=range_)
    tuned = tune(separable((10.0, 10.0)), baseline, PROBLEMS, VALIDATION, 5, search)
    assert tuned.rates == {"average": pytest.approx(0.1), "final": pytest.approx(0.1)}
    for scores in tuned.scores.values():
        assert list(scores) == sorted(scores)
        assert min(scores) <= 10**-1.5 and max(scores) >= 10**-0.5  # the best is not at an edge


def test_each_criterion_has_its_own_best_rate(separable):
    # Two curvatures: what is lowest after one step is not what is lowest after many.
    optimizee = separable((1.0, 30.0))
    baseline = Baseline(torch.optim.SGD, search=(1e-3, 1.0))
    tuned = tune(optimizee, baseline, PROBLEMS, VALIDATION, horizon=40)
    start = optimizee.init(PROBLEMS, VALIDATION)
    for name, last in (("average", range(1, 41)), ("final", [40])):
        scores = {}
        for rate in tuned.scores[name]:
            shrink = 1 - rate * optimizee.curvature
            losses = [(optimizee.curvature * (start * shrink**t) ** 2).sum(1) / 2 for t in last]
            scores[rate] = torch.stack(losses).mean().item()
            assert tuned.scores[name][rate] == pytest.approx(scores[rate], rel=1e-9)
        assert tuned.rates[name] == min(scores, key=scores.get)


def test_held_out_is_tuned_where_there_is_one(mlp):
    tuned = tune(mlp, Baseline(torch.optim.Adam, search=(0.03, 0.3)), PROBLEMS, VALIDATION, 3)
    assert set(tuned.rates) == set(tuned.scores) == {"average", "final", "held_out"}


def test_coarse_to_fine_finds_what_the_full_grid_finds_in_fewer_runs(mlp):
    adam = Baseline(torch.optim.Adam, search=(1e-3, 1.0))
    full, fewer = (tune(mlp, adam, PROBLEMS, VALIDATION, 20, how) for how in tuning.SEARCHES)
    assert fewer.rates == full.rates
    for name, table in fewer.scores.items():
        assert table == pytest.approx({rate: full.scores[name][rate] for rate in table})
        assert len(table) < len(full.scores[name])
        place = round(4 * math.log10(fewer.rates[name]))
        assert {place - 1, place + 1} <= {round(4 * math.log10(rate)) for rate in table}


def test_an_unknown_search_is_refused_by_name(separable):
    with pytest.raises(ValueError, match="'fine' must be one of full, coarse_to_fine"):
        tune(separable(), Baseline(torch.optim.SGD), PROBLEMS, VALIDATION, 1, "fine")


def test_a_rate_that_diverges_on_one_problem_is_never_the_best(separable):
    baseline = Baseline(torch.optim.SGD, search=(0.01, 1e3))
    tuned = tune(separable((10.0,)), baseline, PROBLEMS, VALIDATION, horizon=200)
    assert tuned.scores["final"][max(tuned.scores["final"])] == math.inf
    assert tuned.rates["final"] == pytest.approx(0.1)


def test_a_grid_of_which_every_rate_diverges_widens_until_one_does_not(separable):
    baseline = Baseline(torch.optim.SGD, search=(1e2, 1e3))
    tuned = tune(separable((10.0,)), baseline, PROBLEMS, VALIDATION, horizon=200)
    assert tuned.rates == {"average": pytest.approx(0.1), "final": pytest.approx(0.1)}


def test_ties_are_broken_alike_when_tuned_and_when_read_back(separable, tmp_path):
    baseline = Baseline(torch.optim.SGD, search=(1e2, 1e3))  # every rate scores infinity
    tuned = tune(separable((1e9,)), baseline, PROBLEMS, VALIDATION, horizon=200)
    TuningCache(tmp_path).write(KEY, tuned)
    assert TuningCache(tmp_path).read(KEY) == tuned


def test_given_rates_are_chosen_among_and_not_widened(separable):
    baseline = Baseline(torch.optim.SGD, [0.01, 0.03])
    tuned = tune(separable((10.0,)), baseline, PROBLEMS, VALIDATION, horizon=5)
    assert tuned.rates == {"average": 0.03, "final": 0.03}
    assert list(tuned.scores["final"]) == [0.01, 0.03]


@pytest.mark.parametrize("search", tuning.SEARCHES)
@pytest.mark.parametrize("gain", [1e-6, 1e10])
def test_widening_ends_at_the_limits_of_the_grid(separable, gain, search):
    optimizee = separable((gain,))  # the best rate is 1 / gain, far outside
    tuned = tune(optimizee, Baseline(torch.optim.SGD), PROBLEMS, VALIDATION, 1, search)
    best = tuned.rates["final"]
    assert best == pytest.approx(tuning.LARGEST if gain < 1 else tuning.SMALLEST)


@pytest.mark.parametrize("split", ["train", "test"])
def test_only_validation_problems_may_decide(separable, split):
    with pytest.raises(ValueError, match=f"validation problems, not on {split} ones"):
        tune(separable(), Baseline(torch.optim.SGD), PROBLEMS, Seed(split, 0), 1)


# --- the cache --------------------------------------------------------------------------------


@pytest.fixture
def tuned():
    """A result with an infinite score."""
    return Tuned({"final": 0.1}, {"final": {0.1: 0.25, 10**0.25: math.inf}})


def test_what_is_written_is_read_back(tmp_path, tuned):
    cache = TuningCache(tmp_path / "not" / "yet")
    assert cache.read(KEY) is None
    cache.write(KEY, tuned)
    assert cache.read(KEY) == tuned
    assert [path.suffix for path in (tmp_path / "not" / "yet").iterdir()] == [".json"]


def test_a_cache_without_folder_keeps_nothing(tuned):
    cache = TuningCache(None)
    cache.write(KEY, tuned)
    assert cache.read(KEY) is None


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", "null", '{"final": 3}', '{"final": {"a": 1}}', b"\xff\xfe"]
    + [text for text in ("{}", '{"final": {}}', '{"a": {"1": null}}')],
)
def test_a_corrupted_file_counts_as_absent_and_is_overwritten(tmp_path, tuned, text):
    cache = TuningCache(tmp_path)
    path = cache.path(KEY)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert cache.read(KEY) is None
    cache.write(KEY, tuned)
    assert cache.read(KEY) == tuned


@pytest.mark.parametrize("name", KEY)
def test_any_other_ingredient_is_another_key(tmp_path, tuned, name):
    cache = TuningCache(tmp_path)
    cache.write(KEY, tuned)
    assert cache.read(KEY | {name: "other"}) is None
    assert cache.read({k: v for k, v in KEY.items() if k != name}) is None


def test_other_code_is_another_key_and_the_order_of_ingredients_is_not(
    tmp_path, tuned, monkeypatch
):
    cache = TuningCache(tmp_path)
    cache.write(KEY, tuned)
    assert cache.read(dict(reversed(KEY.items()))) == tuned
    monkeypatch.setattr(tuning, "_code_hash", lambda: "other code")
    assert cache.read(KEY) is None


def test_the_file_is_plain_json_for_people(tmp_path, tuned):
    cache = TuningCache(tmp_path)
    cache.write(KEY, tuned)
    (path,) = tmp_path.iterdir()
    assert json.loads(path.read_text())["final"]["0.1"] == 0.25


def test_code_is_hashed_through_partials_and_objects_and_texts_stand_for_themselves(tmp_path):
    class Local:
        """A class of this file."""

    mine = source_hash(test_a_cache_without_folder_keeps_nothing)
    assert mine == source_hash(Local) == source_hash(Local()) == source_hash(partial(Local))
    assert mine != source_hash(TuningCache)
    assert source_hash("content a") != source_hash("content b")
    assert source_hash(math.sqrt) == source_hash(math.sqrt) != source_hash(math.exp)
