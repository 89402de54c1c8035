"""The comparison and what is told of it: contenders, summary, table, figure.

Numbers of the summary are recomputed from the table by numpy alone.
"""

import io
import json
import math
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from l2l_exp import comparison
from l2l_exp.comparison import Contender, Protocol, best_baseline, compare
from l2l_exp.console import Console
from l2l_exp.evaluation import CRITERIA, EvalRecord, StepCost, evaluate
from l2l_exp.optimizees.data import digits
from l2l_exp.optimizees.images import Images
from l2l_exp.optimizees.mlp import ImageMLP
from l2l_exp.optimizees.quadratic import Quadratic
from l2l_exp.optimizees.seeding import Seed
from l2l_exp.optimizers.baseline import Baseline
from l2l_exp.optimizers.lstm import CoordinatewiseLSTM
from l2l_exp.report import figures, frames, style
from l2l_exp.report.summary import summarize
from l2l_exp.state import ContenderFiles
from l2l_exp.tracking import NoTracker
from l2l_exp.tuning import Tuned, TuningCache

ABOUT = {"run_id": "r1", "optimizee": "quadratic", "optimizer": "lstm", "seed": 3}
SPREAD = {"mean", "median", "low", "high"}
PROTOCOL = Protocol(horizon=6, problems=32, tuning_problems=5, seed=2, identity={"dimension": 2})
FLOAT32 = 1e-5


def rules() -> dict:
    return {
        "learned": CoordinatewiseLSTM(hidden_units=2, layers=1, readout_std=0.5),
        "sgd": Baseline(torch.optim.SGD, search=(0.01, 0.1)),
        "adam": Baseline(torch.optim.Adam, lr=0.1),
    }


@pytest.fixture(scope="module")
def contenders() -> list[Contender]:
    """A real comparison on two-dimensional quadratics."""
    return compare(Quadratic(2), rules(), PROTOCOL, TuningCache(None))


@pytest.fixture(scope="module")
def mlp_contenders() -> list[Contender]:
    """A real comparison on an optimizee that has held-out images."""
    whole = digits()
    images = Images(whole.pixels[:300], whole.labels[:300])
    optimizee = ImageMLP(images, hidden_units=2, batch_size=4)
    protocol = Protocol(horizon=4, problems=30, tuning_problems=3, seed=0, identity={})
    return compare(optimizee, rules(), protocol, TuningCache(None))


@pytest.fixture(params=["quadratic", "mlp"])
def either(request) -> list[Contender]:
    """With and without the criterion `held_out`."""
    name = "contenders" if request.param == "quadratic" else "mlp_contenders"
    return request.getfixturevalue(name)


def record(final, average=None, held_out=None, lr=None, diverged=None) -> EvalRecord:
    """Losses by hand: horizon 2, metrics at its ends; theta_0 has loss 10 everywhere."""
    final = np.asarray(final, dtype=float)
    average = final if average is None else np.asarray(average, dtype=float)
    start = np.full_like(final, 10.0)
    metrics = {"train_loss": np.stack([start, final])}
    if held_out is not None:
        metrics["held_out_loss"] = np.stack([start, np.asarray(held_out, dtype=float)])
        metrics["held_out_accuracy"] = np.stack([0 * start, np.full_like(final, 0.75)])
    return EvalRecord(
        problems=np.arange(len(final)),
        steps=np.array([0, 1, 2]),
        loss=np.stack([start, final, final]),
        running_mean=np.stack([start, average, average]),
        metric_steps=np.array([0, 2]),
        metrics=metrics,
        diverged=np.zeros(len(final), dtype=bool) if diverged is None else np.asarray(diverged),
        lr=lr,
    )


def contender(name: str, one: EvalRecord, validation: float | None = None) -> Contender:
    """A contender that is judged by one record throughout."""
    records = {c: one for c in CRITERIA if one.criterion(c) is not None}
    tuned = None
    if validation is not None:
        tuned = Tuned(dict.fromkeys(records, one.lr), {c: {one.lr: validation} for c in records})
    return Contender(name, records, tuned, StepCost(1e-5, 2e-5, 8.0))


def png(figure: Figure) -> bytes:
    """Draw for real, as the tracker does."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    return buffer.getvalue()


def texts(figure: Figure) -> str:
    """Everything a reader can read."""
    found = [figure.get_suptitle()]
    for axes in figure.axes:
        found += [axes.get_xlabel(), axes.get_ylabel(), axes.get_title()]
        found += [tick.get_text() for tick in axes.get_yticklabels()]
    found += [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return "\n".join(found)


# ------------------------------------------------------------------ compare


def test_contenders_come_in_the_order_they_were_given(either):
    assert [one.name for one in either] == ["learned", "sgd", "adam"]


def test_a_contender_has_a_record_for_every_criterion_of_the_optimizee(contenders, mlp_contenders):
    assert all(set(one.records) == {"average", "final"} for one in contenders)
    assert all(set(one.records) == set(CRITERIA) for one in mlp_contenders)


def test_a_learned_rule_is_judged_by_one_run_and_has_no_rate(either):
    learned = either[0]
    assert learned.tuned is None
    assert len({id(one) for one in learned.records.values()}) == 1
    with pytest.raises(ValueError, match="learned was not scored"):
        learned.validation_score("final")


def test_a_baseline_is_judged_at_the_rate_tuned_for_the_criterion(either):
    for one in either[1:]:
        for criterion, its_record in one.records.items():
            scores = one.tuned.scores[criterion]
            assert its_record.lr == one.tuned.rates[criterion]
            assert scores[its_record.lr] == min(scores.values())
            assert one.validation_score(criterion) == min(scores.values())


def test_rates_are_scored_on_validation_problems_alone(contenders):
    sgd = contenders[1]
    grid = sorted(sgd.tuned.scores["final"])
    records = evaluate(
        Quadratic(2), rules()["sgd"].with_rates(grid), range(PROTOCOL.tuning_problems),
        Seed("validation", PROTOCOL.seed), PROTOCOL.horizon,
    )  # fmt: skip
    for one in records:
        assert sgd.tuned.scores["final"][one.lr] == pytest.approx(
            one.metrics["train_loss"][-1].mean(), rel=FLOAT32
        )
        assert sgd.tuned.scores["average"][one.lr] == pytest.approx(
            one.loss[1:].mean(), rel=FLOAT32
        )


def test_every_rule_is_run_on_the_same_fresh_test_problems(contenders):
    optimizee, horizon = Quadratic(2), PROTOCOL.horizon
    problems, seed = range(PROTOCOL.problems), Seed("test", PROTOCOL.seed)
    for one, rule in zip(contenders, rules().values(), strict=True):
        for its_record in one.records.values():
            alone = rule if one.tuned is None else rule.with_rates([its_record.lr])
            (expected,) = evaluate(optimizee, alone, problems, seed, horizon)
            np.testing.assert_allclose(its_record.loss, expected.loss, rtol=1e-4)
            np.testing.assert_array_equal(its_record.loss[0], expected.loss[0])
            np.testing.assert_array_equal(its_record.problems, np.arange(PROTOCOL.problems))


def test_the_seed_of_the_evaluation_draws_other_problems():
    protocol = Protocol(horizon=2, problems=3, tuning_problems=2, seed=9, identity={})
    one = compare(Quadratic(2), {"adam": rules()["adam"]}, protocol, TuningCache(None))
    other = Protocol(horizon=2, problems=3, tuning_problems=2, seed=10, identity={})
    two = compare(Quadratic(2), {"adam": rules()["adam"]}, other, TuningCache(None))
    assert not np.array_equal(one[0].records["final"].loss[0], two[0].records["final"].loss[0])


def test_what_was_tuned_is_remembered_until_something_it_depends_on_changes(tmp_path, monkeypatch):
    tuned = []
    original = comparison.tune
    monkeypatch.setattr(comparison, "tune", lambda *args: tuned.append(args) or original(*args))

    def run(rule=None, **changes):
        values = dict(horizon=3, problems=2, tuning_problems=2, seed=0, identity={"a": 1})
        protocol = Protocol(**(values | changes))
        before = len(tuned)
        sgd = rule or Baseline(torch.optim.SGD, search=(0.01, 0.1))
        (one,) = compare(Quadratic(2), {"sgd": sgd}, protocol, TuningCache(tmp_path))
        return len(tuned) > before, one.tuned

    fresh, first = run()
    again, second = run(problems=4)  # test problems have no say
    assert fresh and not again
    assert second.rates == first.rates and second.scores == first.scores
    for change in (
        {"horizon": 4}, {"tuning_problems": 3}, {"seed": 1}, {"identity": {"a": 2}},
        {"rule": Baseline(torch.optim.SGD, search=(0.01, 0.1), momentum=0.5)},
        {"rule": Baseline(torch.optim.Adam, search=(0.01, 0.1))},
        {"rule": Baseline(torch.optim.SGD, search=(0.02, 0.1))},
    ):  # fmt: skip
        assert run(**change)[0], change


def test_a_baseline_is_run_once_for_all_rules_that_meet_it_on_the_same_problems(
    tmp_path, monkeypatch
):
    runs, timed = [], []
    evaluate, measure = comparison.evaluate, comparison.measure_step
    monkeypatch.setattr(comparison, "evaluate", lambda *a: runs.append(a[1]) or evaluate(*a))
    monkeypatch.setattr(comparison, "measure_step", lambda *a: timed.append(a) or measure(*a))
    known = ContenderFiles(tmp_path / "baselines")

    def run(name="sgd", **changes):
        values = dict(horizon=3, problems=2, tuning_problems=2, seed=0, identity={"a": 1})
        protocol = Protocol(**(values | changes))
        contestants = {"learned": rules()["learned"], name: Baseline(torch.optim.SGD, (0.01, 0.1))}
        runs.clear(), timed.clear()
        cache = TuningCache(tmp_path / "tuning")
        _, one = compare(Quadratic(2), contestants, protocol, cache, known=known)
        return one, any(isinstance(rule, Baseline) for rule in runs)

    first, was_run = run()
    assert was_run and len(timed) == 2
    again, was_run = run("sgd_too")
    assert not was_run and len(timed) == 2  # today's time, yesterday's losses
    assert (first.name, again.name) == ("sgd", "sgd_too")
    assert again.tuned == first.tuned
    for criterion, record in first.records.items():
        assert np.array_equal(again.records[criterion].loss, record.loss)
    for change in (
        {"horizon": 4}, {"problems": 3}, {"tuning_problems": 3}, {"seed": 1}, {"identity": {}},
    ):  # fmt: skip
        assert run(**change)[1], change


def test_the_user_is_told_what_is_being_done():
    told = []
    protocol = Protocol(horizon=2, problems=3, tuning_problems=2, seed=0, identity={})
    compare(Quadratic(2), rules(), protocol, TuningCache(None), told.append)
    assert [line.split(":")[0] for line in told] == ["learned", "sgd", "sgd", "adam", "adam"]
    assert "3 test problems" in told[0] and "2 validation problems" in told[1]


@pytest.mark.parametrize("name", ["horizon", "problems", "tuning_problems"])
def test_an_impossible_protocol_is_refused_by_key(name):
    values = dict(horizon=1, problems=1, tuning_problems=1, seed=0, identity={})
    Protocol(**values)
    with pytest.raises(ValueError, match=f"evaluation.{name}=0"):
        Protocol(**(values | {name: 0}))


def test_the_best_baseline_is_chosen_on_validation_against_the_test_problems():
    good_on_test = contender("lucky", record([1.0] * 4, lr=0.1), validation=5.0)
    good_on_validation = contender("solid", record([2.0] * 4, lr=0.1), validation=1.0)
    baselines = [good_on_test, good_on_validation]
    for order in (baselines, baselines[::-1]):
        assert best_baseline(order, "final").name == "solid"
    summary = summarize(ABOUT, contender("learned", record([1.0] * 4)), baselines)
    assert summary["paired"]["final"]["best_baseline"] == "solid"
    assert summary["paired"]["final"]["log_ratio"]["median"] == pytest.approx(math.log(1 / 2))


def test_the_best_baseline_may_differ_between_criteria():
    def tuned(name, scores):
        one = contender(name, record([1.0] * 3, held_out=[1.0] * 3, lr=0.1), validation=0.0)
        table = {criterion: {0.1: score} for criterion, score in scores.items()}
        return Contender(name, one.records, Tuned(one.tuned.rates, table), one.cost)

    a = tuned("a", {"average": 1.0, "final": 3.0, "held_out": math.inf})
    b = tuned("b", {"average": 2.0, "final": 2.0, "held_out": 7.0})
    assert [best_baseline([a, b], criterion).name for criterion in CRITERIA] == ["a", "b", "b"]


# ------------------------------------------------------------------ summary.json


def test_the_summary_holds_what_scripts_rely_on(either, tmp_path):
    summary = summarize(ABOUT, either[0], either[1:])
    path = NoTracker(tmp_path).record("summary", summary)
    told = json.loads(path.read_text())
    assert told.items() >= {"schema_version": 1, **ABOUT}.items()
    assert told["horizon"] == either[0].records["final"].steps[-1]
    assert told["n_problems"] == len(either[0].records["final"].problems)
    assert set(told["baselines"]) == {"sgd", "adam"}
    for name, one in {"learned": told["learned"], **told["baselines"]}.items():
        contended = {c.name: c for c in either}[name]
        has_held_out = "held_out" in contended.records
        for criterion in CRITERIA:
            if criterion == "held_out" and not has_held_out:
                assert one[criterion] is None
            else:
                assert set(one[criterion]) == SPREAD
        assert ("held_out_accuracy" in one) == has_held_out
        if has_held_out:
            assert set(one["held_out_accuracy"]) == SPREAD
            assert 0 <= one["held_out_accuracy"]["median"] <= 1
        assert ("lr" in one) == (name != "learned")
        if name != "learned":
            assert one["lr"] == contended.tuned.rates
        assert set(one["status"]) == {"ok", "worse_than_start", "diverged"}
        assert sum(one["status"].values()) == told["n_problems"]
        assert one["seconds_per_step"] > 0
    assert set(told["paired"]) == set(CRITERIA)
    for criterion, paired in told["paired"].items():
        if criterion in either[0].records:
            assert paired["best_baseline"] in told["baselines"]
            assert set(paired["log_ratio"]) == {"median", "low", "high"}
        else:
            assert paired is None


def test_the_numbers_of_the_summary_follow_from_the_table(either, tmp_path):
    learned, *baselines = either
    told = summarize(ABOUT, learned, baselines)
    path = NoTracker(tmp_path).table("curves", frames.curves("r1", 3, learned, baselines))
    table = frames.read_curves(path)
    last = table[table["step"] == told["horizon"]]
    columns = {"average": "running_mean", "final": "train_loss", "held_out": "held_out_loss"}

    def values(rule: str, criterion: str) -> np.ndarray:
        rows = last[last["rule"] == rule]
        if rule != "learned":
            rows = rows[[criterion in tuned.split("+") for tuned in rows["tuned_for"]]]
        rows = rows.sort_values("problem")
        assert len(rows) == told["n_problems"]
        return rows[columns[criterion]].to_numpy(dtype=float)

    for criterion in learned.records:
        for rule, one in {"learned": told["learned"], **told["baselines"]}.items():
            mine = values(rule, criterion)
            assert one[criterion]["mean"] == pytest.approx(mine.mean(), rel=FLOAT32)
            assert one[criterion]["median"] == pytest.approx(np.median(mine), rel=FLOAT32)
            assert one[criterion]["low"] <= one[criterion]["median"] <= one[criterion]["high"]
        for rule in told["baselines"]:
            ratio = np.log(values("learned", criterion) / values(rule, criterion))
            interval = told["comparisons"][rule][criterion]["log_ratio"]
            assert interval["median"] == pytest.approx(np.median(ratio), abs=1e-4)
            assert interval["low"] <= interval["median"] <= interval["high"]
        paired = told["paired"][criterion]
        against_best = told["comparisons"][paired["best_baseline"]][criterion]
        assert paired["log_ratio"] == against_best["log_ratio"]
        validation = {name: one["validation"][criterion] for name, one in told["baselines"].items()}
        assert paired["best_baseline"] == min(validation, key=validation.get)
    if "held_out" in learned.records:
        accuracy = last.loc[last["rule"] == "learned", "held_out_accuracy"]
        assert told["learned"]["held_out_accuracy"]["mean"] == pytest.approx(accuracy.mean())


def test_status_counts_name_every_failure():
    losses = [1.0, 11.0, math.inf, math.nan, 2.0]
    one = record(losses, diverged=[False, False, True, True, True])
    told = summarize(ABOUT, contender("learned", one), [])
    assert told["learned"]["status"] == {"ok": 1, "worse_than_start": 1, "diverged": 3}


def test_a_failure_is_infinitely_bad_and_never_dropped():
    one = contender("learned", record([1.0, 2.0, math.nan, math.inf, math.inf]))
    told = summarize(ABOUT, one, [contender("sgd", record([1.0] * 5, lr=0.1), 1.0)])
    assert told["n_problems"] == 5
    assert told["learned"]["final"]["median"] == told["learned"]["final"]["mean"] == math.inf
    assert told["paired"]["final"]["log_ratio"]["median"] == math.inf


def test_without_baselines_nothing_is_paired():
    told = summarize(ABOUT, contender("learned", record([1.0, 2.0])), [])
    assert told["baselines"] == {} and told["comparisons"] == {}
    assert told["paired"] == {"average": None, "final": None, "held_out": None}


@pytest.mark.filterwarnings("error")
def test_rules_that_fail_on_different_problems_are_compared_without_a_warning():
    mine, theirs = np.full(40, 2.0), np.full(40, 1.0)
    mine[:3] = theirs[5:8] = math.inf
    told = summarize(
        ABOUT, contender("learned", record(mine)), [contender("sgd", record(theirs, lr=0.1), 1.0)]
    )
    assert told["paired"]["final"]["log_ratio"]["median"] == pytest.approx(math.log(2))


# ------------------------------------------------------------------ the table


def test_the_table_has_its_columns_and_types(either):
    table = frames.curves("r1", 3, either[0], either[1:])
    assert list(table.columns) == [
        "schema_version", "run_id", "seed", "rule", "kind", "tuned_for", "lr", "problem", "step",
        "loss", "running_mean", "train_loss", "held_out_loss", "held_out_accuracy", "suboptimality",
        "status",
    ]  # fmt: skip
    for name in ("loss", "running_mean", "lr", *frames.METRICS):
        assert pd.api.types.is_float_dtype(table[name]), name
    for name in ("schema_version", "seed", "problem", "step"):
        assert pd.api.types.is_integer_dtype(table[name]), name
    for name in ("run_id", "rule", "kind", "tuned_for", "status"):
        assert isinstance(table[name].dtype, pd.CategoricalDtype), name
    assert set(table["run_id"]) == {"r1"} and set(table["seed"]) == {3}
    kinds = table.groupby("rule", observed=True)["kind"].unique()
    assert {rule: list(kind) for rule, kind in kinds.items()} == {
        "learned": ["learned"], "sgd": ["baseline"], "adam": ["baseline"],
    }  # fmt: skip


def test_the_table_has_one_row_per_rule_rate_problem_and_step(either):
    table = frames.curves("r1", 3, either[0], either[1:])
    runs = {(one.name, r.lr) for one in either for r in one.records.values()}
    first = either[0].records["final"]
    assert len(table) == len(runs) * len(first.problems) * len(first.steps)
    assert not table.duplicated(["rule", "lr", "problem", "step"]).any()
    assert set(table["step"]) == set(first.steps) and set(table["problem"]) == set(first.problems)


def test_the_rows_of_the_table_are_the_records_values(either):
    table = frames.curves("r1", 3, either[0], either[1:])
    for one in either:
        for criterion, r in one.records.items():
            rows = table[table["rule"] == one.name]
            if one.tuned is not None:
                rows = rows[rows["lr"] == r.lr]
                assert all(criterion in tuned.split("+") for tuned in rows["tuned_for"])
            else:
                assert rows["lr"].isna().all() and set(rows["tuned_for"]) == {""}
            for column, values in (("loss", r.loss), ("running_mean", r.running_mean)):
                wide = rows.pivot(index="step", columns="problem", values=column)
                np.testing.assert_allclose(wide.to_numpy(), values, rtol=1e-6)
            for name, values in r.metrics.items():
                wide = rows.pivot(index="step", columns="problem", values=name)
                np.testing.assert_allclose(wide.loc[r.metric_steps].to_numpy(), values, rtol=1e-6)
                rest = wide.drop(index=r.metric_steps)
                assert rest.isna().all(axis=None)
            status = rows.drop_duplicates("problem").sort_values("problem")["status"]
            assert list(status) == list(r.status)


def test_diverged_problems_stay_in_the_table(tmp_path):
    one = record([1.0, math.inf, math.nan], diverged=[False, True, True])
    table = frames.curves("r1", 0, contender("learned", one), [])
    path = NoTracker(tmp_path).table("curves", table)
    back = frames.read_curves(path)
    assert len(back) == 9
    last = back[back["step"] == 2].sort_values("problem")
    assert list(last["status"]) == ["ok", "diverged", "diverged"]
    np.testing.assert_array_equal(last["loss"], [1.0, math.inf, math.nan])


def test_rates_tuned_for_the_same_value_are_written_once():
    shared, own = record([1.0, 2.0], lr=0.1), record([3.0, 4.0], held_out=[1.0, 1.0], lr=0.2)
    tuned = Tuned({"average": 0.1, "final": 0.1, "held_out": 0.2}, {})
    records = {"average": shared, "final": shared, "held_out": own}
    sgd = Contender("sgd", records, tuned, StepCost(0.0, 0.0, 0.0))
    table = frames.curves("r1", 0, contender("learned", record([1.0, 1.0])), [sgd])
    rates = table[table["rule"] == "sgd"].drop_duplicates("lr").set_index("lr")["tuned_for"]
    assert rates.to_dict() == {0.1: "average+final", 0.2: "held_out"}


@pytest.mark.filterwarnings("error")
def test_losses_beyond_single_precision_are_infinite_in_the_table():
    table = frames.curves("r1", 0, contender("learned", record([1.0, 1e60])), [])
    assert set(table.loc[table["problem"] == 1, "loss"]) == {10.0, math.inf}


def test_a_table_of_a_newer_schema_is_refused(tmp_path):
    table = frames.curves("r1", 0, contender("learned", record([1.0])), [])
    table["schema_version"] = frames.SCHEMA_VERSION + 1
    path = tmp_path / "curves.parquet"
    table.to_parquet(path)
    with pytest.raises(ValueError, match="use a newer one") as caught:
        frames.read_curves(path)
    assert str(path) in str(caught.value) and str(frames.SCHEMA_VERSION + 1) in str(caught.value)


# ------------------------------------------------------------------ the figure


def drawn(
    learned: Contender, baselines: list[Contender], references: list[Contender] | None = None
) -> Figure:
    """The figure of a comparison, drawn to the last pixel without a single warning."""
    summary = summarize(ABOUT, learned, baselines, references or [])
    table = frames.curves("r1", 3, learned, baselines, references or [])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = figures.comparison(table, summary)
        assert png(figure).startswith(b"\x89PNG")
    return figure


def test_the_figure_says_what_is_compared_and_on_how_many_problems(either):
    figure = drawn(either[0], either[1:])
    told = texts(figure)
    n = len(either[0].records["final"].problems)
    for wanted in (
        f"n = {n} ", "quadratic", "meta-seed 3", "validation", "inner step", "minibatch loss",
        "median and quartiles over problems", "95 % interval", "learned", "sgd", "adam",
    ):  # fmt: skip
        assert wanted in told, wanted
    assert ("held-out" in told) == ("held_out" in either[0].records)
    assert all(axes.get_xlabel() and axes.get_ylabel() for axes in figure.axes[:-1])
    assert figure.axes[-1].get_xlabel()


def test_the_learned_curve_is_the_median_over_problems(contenders):
    figure = drawn(contenders[0], contenders[1:])
    line = next(line for line in figure.axes[0].lines if line.get_label() == "learned")
    loss = contenders[0].records["final"].loss
    np.testing.assert_allclose(line.get_ydata(), np.median(loss[1:], axis=1), rtol=FLOAT32)
    np.testing.assert_array_equal(line.get_xdata(), contenders[0].records["final"].steps[1:])


def test_the_ratio_panel_shows_every_median_and_interval(contenders):
    figure = drawn(contenders[0], contenders[1:])
    told = summarize(ABOUT, contenders[0], contenders[1:])
    panel = figure.axes[-1]
    points = sorted(float(line.get_xdata()[0]) for line in panel.lines if line.get_marker() == "o")
    expected = sorted(
        math.exp(told["comparisons"][rule][criterion]["log_ratio"]["median"])
        for rule in ("sgd", "adam") for criterion in ("average", "final")
    )  # fmt: skip
    assert points == pytest.approx(expected)


def test_references_are_dashed_and_in_no_ratio():
    losses = np.linspace(1, 2, 31)
    sgd = contender("sgd", record(losses, lr=0.1), 1.0)
    bfgs = contender("bfgs", record(losses / 1e3))
    plain, both = drawn(bfgs, [sgd]), drawn(contender("learned", record(losses)), [sgd], [bfgs])
    styles = {line.get_label(): line.get_linestyle() for line in both.axes[0].lines}
    assert styles == {"learned": "-", "sgd": "-", "bfgs (reference: line search)": "--"}
    assert both.axes[0].get_xlabel() == "inner step (references: evaluation)"
    assert plain.axes[0].get_xlabel() == "inner step"
    assert len(both.axes[-1].lines) == len(plain.axes[-1].lines)


def test_a_reference_is_listed_and_compared_with_nobody():
    losses = np.linspace(1, 2, 31)
    sgd = contender("sgd", record(losses, lr=0.1), 1.0)
    bfgs = contender("bfgs", record(losses / 1e3, diverged=[True] * 2 + [False] * 29))
    told = summarize(ABOUT, contender("learned", record(losses)), [sgd], [bfgs])
    assert told["references"]["bfgs"]["final"]["median"] == pytest.approx(1.5e-3)
    assert told["references"]["bfgs"]["status"] == {"ok": 29, "worse_than_start": 0, "diverged": 2}
    assert set(told["comparisons"]) == set(told["baselines"]) == {"sgd"}
    assert told["paired"]["final"]["best_baseline"] == "sgd"
    without = summarize(ABOUT, contender("learned", record(losses)), [sgd])
    assert without == told | {"references": {}}


def test_distances_to_the_minimum_are_infinite_where_they_are_no_number():
    one = record([1.0, 2.0, math.nan])
    one.metrics["suboptimality"] = np.array([[9.0] * 3, [0.5, 1.5, math.nan]])
    told = summarize(ABOUT, contender("learned", one), [])
    assert told["learned"]["suboptimality"]["median"] == 1.5
    assert told["learned"]["suboptimality"]["mean"] == math.inf


def test_a_loss_far_below_the_digits_of_others_leaves_them_room():
    losses = np.linspace(1, 2, 31)
    sgd = contender("sgd", record(losses, lr=0.1), 1.0)
    figure = drawn(contender("learned", record(losses * 1e-30)), [sgd])
    low, high = figure.axes[0].get_ylim()
    assert high / low <= 1.1 * 10**figures.DECADES


def test_failures_are_named_in_the_title():
    losses = np.linspace(1, 2, 31)
    bad = losses.copy()
    bad[:4] = 11.0
    learned = contender("learned", record(bad))
    figure = drawn(learned, [contender("sgd", record(losses, lr=0.1), 1.0)])
    assert "not ok: learned 4" in figure.get_suptitle()
    assert "sgd" not in figure.get_suptitle()


def test_without_failures_none_are_named():
    losses = np.linspace(1, 2, 31)
    figure = drawn(contender("learned", record(losses)), [])
    assert "not ok" not in figure.get_suptitle()


@pytest.mark.parametrize("count", [1, 2, 29])
def test_few_problems_are_drawn_without_intervals_and_without_warnings(count):
    losses = np.linspace(1, 2, count)
    figure = drawn(
        contender("learned", record(losses, held_out=losses)),
        [contender("sgd", record(2 * losses, held_out=3 * losses, lr=0.1), 1.0)],
    )
    assert f"n = {count} " in figure.get_suptitle()


@pytest.mark.parametrize("failed", [1, 20, 39, 40])
@pytest.mark.parametrize("who", ["learned", "sgd", "both"])
def test_infinite_losses_are_drawn_without_warnings(failed, who):
    good = np.linspace(1, 2, 40)
    bad = good.copy()
    bad[:failed] = math.inf
    flags = np.isinf(bad)
    mine = record(bad if who != "sgd" else good, diverged=flags if who != "sgd" else None)
    theirs = record(
        bad if who != "learned" else good, lr=0.1, diverged=flags if who != "learned" else None
    )
    figure = drawn(contender("learned", mine), [contender("sgd", theirs, 1.0)])
    assert f"{who if who != 'both' else 'learned'} {failed}" in figure.get_suptitle()


def test_a_loss_of_zero_is_drawn_without_warnings():
    zero = np.zeros(35)
    drawn(contender("learned", record(zero)), [contender("sgd", record(zero + 1, lr=0.1), 1.0)])


def test_a_ratio_beyond_floating_point_is_told_and_drawn_as_infinite(capsys):
    mine, theirs = np.full(8, 1e300), np.full(8, 1e-30)
    learned = contender("learned", record(mine))
    sgd = contender("sgd", record(theirs, lr=0.1), 1.0)
    Console().comparison(summarize(ABOUT, learned, [sgd]))
    assert "learned / sgd (best on validation) = inf" in capsys.readouterr().out
    drawn(learned, [sgd])


def test_the_console_tells_every_rule_and_the_paired_ratio(either, capsys):
    told = summarize(ABOUT, either[0], either[1:])
    Console().comparison(told)
    out = capsys.readouterr().out
    for criterion in either[0].records:
        paired = told["paired"][criterion]
        ratio = math.exp(paired["log_ratio"]["median"])
        best = paired["best_baseline"]
        assert f"{criterion}: learned / {best} (best on validation) = {ratio:.3g} [" in out
    for name in ("learned", "sgd", "adam"):
        assert f"│ {name} " in out
    assert f"n = {told['n_problems']}" in out and ("held_out" in out) == (
        "held_out" in either[0].records
    )


def test_drawing_leaves_the_global_style_alone(contenders):
    import matplotlib as mpl

    before = {key: mpl.rcParams[key] for key in style.STYLE}
    drawn(contenders[0], contenders[1:])
    assert {key: mpl.rcParams[key] for key in style.STYLE} == before
    assert any(before[key] != value for key, value in style.STYLE.items())
