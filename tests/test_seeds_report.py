"""Runs over meta-seeds: rows of summaries, their aggregation, the figure of both."""

import io
import json
import math
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from l2l_exp.comparison import Protocol, compare
from l2l_exp.optimizees.quadratic import Quadratic
from l2l_exp.optimizers.baseline import Baseline
from l2l_exp.optimizers.lstm import CoordinatewiseLSTM
from l2l_exp.report import seeds
from l2l_exp.report.aggregation import COLUMNS, HEAD, ROW_COLUMNS
from l2l_exp.report.summary import summarize
from l2l_exp.statistics import seeds_interval
from l2l_exp.tracking import NoTracker
from l2l_exp.tuning import TuningCache

INF, NAN = math.inf, math.nan


def row(seed: int, log_ratio=-0.5, half=0.1, **changes) -> dict:
    """A run by hand; its loss is .1 at ratio 1."""
    made = {
        "condition": "", "seed": seed, "run_id": f"r{seed}", "criterion": "final",
        "median": 0.1 * math.exp(log_ratio), "best_baseline": "nag", "log_ratio": log_ratio,
        "low": log_ratio - half, "high": log_ratio + half, "n_problems": 100, "not_ok": 0,
    }  # fmt: skip
    return {**made, **changes}


def without_baseline(seed: int, median: float, **changes) -> dict:
    nothing = {"best_baseline": None, "log_ratio": NAN, "low": NAN, "high": NAN}
    return row(seed, median=median, **{**nothing, **changes})


def validated(seed: int, median: float, **changes) -> dict:
    return without_baseline(
        seed, median, criterion="validation", **{"n_problems": 0, "not_ok": 0, **changes}
    )


def aggregated(*rows: dict) -> dict:
    """The only row of the table."""
    table = seeds.aggregate(pd.DataFrame(rows))
    assert len(table) == 1
    return table.iloc[0].to_dict()


def summary(ratio=(-0.5, -0.6, -0.4), median: float | None = 0.2, n_problems: int = 100) -> dict:
    """What rows are made from, as json gives it."""
    keys = ("median", "low", "high")
    spread = {"mean": 1.0, "median": median, "low": 0.1, "high": 0.3}
    paired = {"best_baseline": "nag", "log_ratio": dict(zip(keys, ratio, strict=True))}
    return {
        "run_id": "r7", "seed": 7, "n_problems": n_problems,
        "learned": {
            "average": None, "final": spread, "held_out": None,
            "status": {"ok": 90, "worse_than_start": 3, "diverged": 7},
        },
        "paired": {"average": None, "final": paired, "held_out": None},
        "selection": {"episode": 10, "criterion": "final", "validation": 0.4},
    }  # fmt: skip


# ------------------------------------------------------------------ rows


@pytest.fixture(scope="module")
def real() -> dict:
    """summary.json of a real comparison, written and read."""
    rules = {
        "learned": CoordinatewiseLSTM(hidden_units=2, layers=1, readout_std=0.5),
        "sgd": Baseline(torch.optim.SGD, search=(0.01, 0.1)),
    }
    protocol = Protocol(horizon=4, problems=32, tuning_problems=5, seed=2, identity={})
    learned, *baselines = compare(Quadratic(2), rules, protocol, TuningCache(None))
    about = {"run_id": "r1", "optimizee": "quadratic", "optimizer": "lstm", "seed": 3}
    return summarize(about, learned, baselines)


def test_rows_of_a_real_run_hold_what_its_summary_says(real, tmp_path):
    path = NoTracker(tmp_path).record("summary", real)
    rows = seeds.rows_of(json.loads(path.read_text()), "a=1")
    assert [one["criterion"] for one in rows] == ["average", "final"]
    for one in rows:
        assert tuple(sorted(one)) == tuple(sorted(ROW_COLUMNS))
        assert (one["condition"], one["seed"], one["run_id"]) == ("a=1", 3, "r1")
        assert one["median"] == real["learned"][one["criterion"]]["median"]
        paired = real["paired"][one["criterion"]]
        assert one["best_baseline"] == paired["best_baseline"] == "sgd"
        told = paired["log_ratio"]
        assert [one["log_ratio"], one["low"], one["high"]] == [
            told["median"], told["low"], told["high"]
        ]  # fmt: skip
        assert one["n_problems"] == 32
        assert one["not_ok"] == 32 - real["learned"]["status"]["ok"]


def test_rows_count_every_problem_that_is_not_ok():
    (one,) = seeds.rows_of(summary(), "")
    assert one == {
        "condition": "", "seed": 7, "run_id": "r7", "criterion": "final", "median": 0.2,
        "best_baseline": "nag", "log_ratio": -0.5, "low": -0.6, "high": -0.4, "n_problems": 100,
        "not_ok": 10,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("ratio", "median", "n_problems", "expected"),
    [
        ((None, None, None), None, 100, (INF, INF, INF)),
        ((None, 0.3, None), None, 100, (INF, 0.3, INF)),
        ((None, None, None), 0.0, 100, (-INF, -INF, INF)),
        ((None, None, -2.0), 0.0, 100, (-INF, -INF, -2.0)),
        ((None, None, None), 0.2, 100, (INF, INF, INF)),
        ((-0.5, None, None), 0.2, 100, (-0.5, -INF, INF)),
        ((-0.5, None, None), 0.2, 5, (-0.5, NAN, NAN)),
        ((None, None, None), None, 5, (INF, NAN, NAN)),
        ((NAN, NAN, NAN), INF, 100, (INF, INF, INF)),
    ],
)
def test_a_ratio_that_is_null_is_infinite_and_stays(ratio, median, n_problems, expected):
    (one,) = seeds.rows_of(summary(ratio, median, n_problems), "")
    np.testing.assert_array_equal([one["log_ratio"], one["low"], one["high"]], expected)
    assert one["median"] == (INF if median is None else median)


def test_a_run_without_baselines_has_no_ratio():
    told = {**summary(), "paired": {"average": None, "final": None, "held_out": None}}
    (one,) = seeds.rows_of(told, "")
    assert one["best_baseline"] is None and one["median"] == 0.2
    assert all(math.isnan(one[name]) for name in ("log_ratio", "low", "high"))


@pytest.mark.parametrize(("told", "expected"), [(0.4, 0.4), (None, INF)])
def test_a_run_without_evaluation_tells_its_validation(told, expected):
    about = {
        "run_id": "r7",
        "seed": 7,
        "selection": {"episode": 3, "criterion": "final", "validation": told},
    }
    (one,) = seeds.rows_of(about, "b=2")
    assert one["criterion"] == "validation" and one["median"] == expected
    assert (one["n_problems"], one["not_ok"], one["best_baseline"]) == (0, 0, None)
    assert set(one) == set(ROW_COLUMNS)


def test_a_run_that_has_neither_has_no_rows():
    assert seeds.rows_of({"run_id": "r7", "seed": 7}, "") == []


# ------------------------------------------------------------------ aggregation


def test_the_mean_over_seeds_is_that_of_the_textbook():
    one = aggregated(row(2, -0.4), row(0, -0.5), row(1, -0.6))
    half = 4.302653 * 0.1 / math.sqrt(3)  # t of 2 degrees of freedom
    assert one["log_ratio"] == pytest.approx(-0.5)
    assert [one["low"], one["high"]] == pytest.approx([-0.5 - half, -0.5 + half])
    assert (one["n_seeds"], one["seeds"], one["method"]) == (3, "0, 1, 2", "Student-t")
    assert (one["n_problems"], one["not_ok"], one["best_baseline"]) == (300, 0, "nag")


def test_the_loss_is_the_geometric_mean_with_the_interval_of_logs():
    one = aggregated(row(0, median=0.01), row(1, median=0.1), row(2, median=1.0))
    half = 4.302653 * math.log(10) / math.sqrt(3)
    assert one["median"] == pytest.approx(0.1)
    assert one["median_low"] == pytest.approx(0.1 * math.exp(-half))
    assert one["median_high"] == pytest.approx(0.1 * math.exp(half))


def test_from_thirty_seeds_on_the_method_is_another():
    ratios = np.random.default_rng(0).normal(-0.5, 0.1, 30)
    one = aggregated(*(row(seed, ratio) for seed, ratio in enumerate(ratios)))
    expected = seeds_interval(ratios)
    assert one["method"] == expected.method == "studentized bootstrap"
    assert (one["log_ratio"], one["low"], one["high"]) == expected[:3]


def test_a_claim_needs_every_seed_and_the_interval_over_seeds():
    clear = [row(seed, ratio) for seed, ratio in enumerate((-0.5, -0.6, -0.55))]
    assert aggregated(*clear)["every_seed_better"] is True
    one_unclear = aggregated(*clear[:2], row(2, -0.55, half=0.6))
    assert one_unclear["every_seed_better"] is False and one_unclear["seeds_better"] == 2
    scattered = aggregated(row(0, -0.2), row(1, -4.0), row(2, -0.3))
    assert scattered["high"] > 0
    assert scattered["every_seed_better"] is False and scattered["seeds_better"] == 3


@pytest.mark.parametrize("alone", [row(0), row(0, low=NAN, high=NAN)])
def test_one_seed_has_a_value_no_interval_and_makes_no_claim(alone):
    one = aggregated(alone)
    assert one["log_ratio"] == -0.5 and one["median"] == pytest.approx(0.1 * math.exp(-0.5))
    assert all(math.isnan(one[name]) for name in ("low", "high", "median_low", "median_high"))
    assert one["method"] == "none" and one["every_seed_better"] is False


def test_a_seed_that_diverged_is_counted_as_infinite():
    bad = row(2, INF, low=INF, high=INF, median=INF, not_ok=100)
    one = aggregated(row(0), row(1), bad)
    assert (one["log_ratio"], one["low"], one["high"]) == (INF, -INF, INF)
    assert (one["median"], one["median_low"], one["median_high"]) == (INF, 0, INF)
    assert (one["n_seeds"], one["not_ok"], one["seeds_better"]) == (3, 100, 2)
    assert one["every_seed_better"] is False


def test_where_a_seed_has_no_ratio_there_is_none_over_seeds():
    one = aggregated(row(0), row(1), without_baseline(2, 0.2))
    assert all(math.isnan(one[name]) for name in ("log_ratio", "low", "high"))
    assert math.isfinite(one["median_high"]) and one["every_seed_better"] is False


def test_runs_of_the_same_seed_are_no_repetitions():
    one = aggregated(row(0), row(0, run_id="other"), row(1))
    assert all(math.isnan(one[name]) for name in ("log_ratio", "low", "high", "median"))
    assert one["method"] == "none: a seed is there twice" and one["every_seed_better"] is False


def test_conditions_keep_their_order_and_criteria_have_theirs():
    rows = [
        row(seed, condition=condition, criterion=criterion)
        for criterion in ("held_out", "average")
        for seed in (1, 0)
        for condition in ("b=2", "a=1")
    ]
    table = seeds.aggregate(pd.DataFrame(rows))
    assert list(table.columns) == list(COLUMNS)
    assert list(zip(table["condition"], table["criterion"], strict=True)) == [
        ("b=2", "average"), ("b=2", "held_out"), ("a=1", "average"), ("a=1", "held_out"),
    ]  # fmt: skip


def test_seeds_with_other_best_baselines_name_them_all():
    assert aggregated(row(0), row(1, best_baseline="adam"))["best_baseline"] == "nag, adam"


def test_the_tables_survive_a_file(tmp_path):
    rows = pd.DataFrame([row(0), without_baseline(1, INF), validated(2, 0.3)])
    table = seeds.aggregate(rows)
    for name, one in (("seeds", rows), ("aggregate", table)):
        back = pd.read_parquet(NoTracker(tmp_path).table(name, one))
        pd.testing.assert_frame_equal(back, one, check_dtype=False)


def test_rows_that_lack_columns_are_refused():
    with pytest.raises(ValueError, match="lack the columns seed, not_ok"):
        seeds.aggregate(pd.DataFrame([row(0)]).drop(columns=["seed", "not_ok"]))


# ------------------------------------------------------------------ text


def cells(text: str) -> list[list[str]]:
    """The lines of the Markdown table."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_text_tells_every_row():
    rows = [row(0, -0.4), row(1, -0.6, not_ok=3), validated(0, 0.2, condition="a|b=1")]
    head, rule, first, second = cells(seeds.as_text(seeds.aggregate(pd.DataFrame(rows))))
    assert head == list(HEAD) and set(rule) == {"---"}
    one = aggregated(*rows[:2])
    low, high = np.exp([one["low"], one["high"]])
    assert first[:5] == [
        "all", "final, training part", "2: 0, 1", f"0.607 [{low:.3g}, {high:.3g}]", "nag",
    ]  # fmt: skip
    assert first[6:] == ["Student-t", "2 of 2", "no", "3 of 200"]
    assert second == [
        "a/b=1", "validation, at selection", "1: 0", "", "none", "0.2", "none", "", "", "",
    ]  # fmt: skip


# ------------------------------------------------------------------ figure


def drawn(*rows: dict) -> Figure:
    """The figure, drawn to the last pixel without a single warning."""
    frame = pd.DataFrame(rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = seeds.figure(frame, seeds.aggregate(frame))
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", bbox_inches="tight")
    assert buffer.getvalue().startswith(b"\x89PNG")
    return figure


def texts(figure: Figure) -> str:
    """Everything a reader can read."""
    found = [figure.get_suptitle().replace("\n", " ")]
    for axes in figure.axes:
        found += [axes.get_xlabel(), axes.get_title()]
        found += [tick.get_text() for tick in axes.get_yticklabels()]
    found += [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return "\n".join(found)


def points(figure: Figure, marker: str, panel: int = 0) -> list[float]:
    """Where the markers of a kind stand, from the top."""
    lines = [line for line in figure.axes[panel].lines if line.get_marker() == marker]
    lines.sort(key=lambda line: -line.get_ydata()[0])
    return [float(line.get_xdata()[0]) for line in lines]


def segments(figure: Figure, panel: int = 0) -> list[list[float]]:
    """Ends of the intervals, from the top."""
    found = [path for many in figure.axes[panel].collections for path in many.get_segments()]
    found.sort(key=lambda path: -path[0][1])
    return [[float(path[0][0]), float(path[1][0])] for path in found]


THREE = [row(2, -0.4), row(0, -0.6, half=0.05), row(1, -0.5)]


def test_every_seed_is_a_point_with_its_interval_and_the_mean_stands_beneath():
    figure = drawn(*THREE)
    table = aggregated(*THREE)
    assert points(figure, "o") == pytest.approx(np.exp([-0.6, -0.5, -0.4]))  # by seed
    assert points(figure, "D") == pytest.approx([math.exp(-0.5)])
    expected = [[-0.65, -0.55], [-0.6, -0.4], [-0.5, -0.3], [table["low"], table["high"]]]
    np.testing.assert_allclose(segments(figure), np.exp(expected))
    assert points(figure, "<") == points(figure, ">") == []
    left, right = figure.axes[0].get_xlim()
    assert left < math.exp(table["low"]) and right > 1


def test_the_figure_says_unit_n_and_method():
    told = texts(drawn(*THREE))
    for wanted in (
        "n = 3 meta-seeds (0, 1, 2)", "100 fresh test problems each", "Student-t 95 %",
        "geometric mean over n = 3 meta-seeds", "median over problems, 95 % interval",
        "learned / best baseline", "best baseline on validation: nag", "final, training part",
    ):  # fmt: skip
        assert wanted in told, wanted
    assert "not ok" not in told


def test_failures_and_conditions_are_named():
    many = [{**one, "condition": "a=1 b.c=2", "not_ok": 4} for one in THREE]
    told = texts(drawn(*many, row(0, condition="a=2 b.c=[1,2]")))
    assert "a=1\nb.c=2\nn = 3\nnot ok: 12 of 300" in told
    assert "a=2\nb.c=[1,2]\nn = 1" in told
    assert "n = 1 to 3 meta-seeds per condition" in told


def test_there_is_a_panel_for_each_criterion_and_a_row_for_each_condition():
    rows = [
        row(seed, criterion=criterion, condition=f"a={number}")
        for criterion in ("held_out", "average", "final") for seed in (0, 1) for number in range(4)
    ]  # fmt: skip
    figure = drawn(*rows)
    assert [axes.get_title().split("\n")[0] for axes in figure.axes] == [
        "average over steps", "final, training part", "final, held-out part",
    ]  # fmt: skip
    assert [tick.get_text()[:3] for tick in figure.axes[0].get_yticklabels()] == [
        "a=0", "a=1", "a=2", "a=3",
    ]  # fmt: skip
    assert all(len(points(figure, "D", panel)) == 4 for panel in range(3))


@pytest.mark.parametrize("of", [without_baseline, validated])
def test_without_baselines_the_losses_are_drawn(of):
    figure = drawn(of(0, 0.1), of(1, 0.4))
    assert points(figure, "o") == pytest.approx([0.1, 0.4])
    assert points(figure, "D") == pytest.approx([0.2])
    told = texts(figure)
    assert "ratio" not in told and "best baseline" not in told
    assert ("validation loss" if of is validated else "median loss over problems") in told
    assert ("fresh test problems" in told) == (of is without_baseline)


def test_runs_without_evaluation_beside_others_have_no_problems_to_tell_of():
    told = texts(drawn(row(0), validated(0, 0.2, condition="a=1")))
    assert "100 fresh test problems each" in told and "0 to" not in told


def test_one_seed_has_no_mean_beneath_it():
    figure = drawn(row(0))
    assert len(points(figure, "o")) == 1 and points(figure, "D") == []
    assert "geometric mean" not in texts(figure) and "n = 1 meta-seed (0)" in texts(figure)


def test_what_lies_beyond_the_axis_ends_in_an_arrow():
    figure = drawn(row(0, -0.5), row(1, -0.6), row(2, INF, low=-0.2, high=INF, median=INF))
    left, right = figure.axes[0].get_xlim()
    assert len(points(figure, "o")) == 2
    # the seed that diverged and its bound, then the mean and its bound
    assert points(figure, ">") == pytest.approx([right] * 4)
    assert points(figure, "<") == pytest.approx([left])
    assert np.isfinite([left, right]).all()


def test_an_interval_of_two_seeds_does_not_push_the_seeds_together():
    figure = drawn(row(0, -0.5, half=0.01), row(1, -0.3, half=0.01))
    assert aggregated(row(0, -0.5), row(1, -0.3))["high"] > 0.8
    left, right = np.log(figure.axes[0].get_xlim())
    assert right - left < 2 and len(points(figure, ">")) == len(points(figure, "<")) == 1


@pytest.mark.parametrize(
    "rows",
    [
        [row(seed, INF, low=INF, high=INF, median=INF) for seed in range(3)],
        [row(0, INF, low=INF, high=INF), row(1, -INF, low=-INF, high=-INF)],
        [row(0, 700.0), row(1, -1500.0)],
        [row(0, 0.0, half=0.0), row(1, 0.0, half=0.0)],
        [row(0, -0.5, low=NAN, high=NAN), row(1, -0.4, low=NAN, high=NAN)],
        [row(0), row(0), row(1)],
        [row(0), without_baseline(0, 0.2, condition="a=1")],
        [without_baseline(0, 0.0), without_baseline(1, 0.0)],
        [without_baseline(0, INF), without_baseline(1, 0.0), without_baseline(2, 1.0)],
        [validated(0, 0.3), row(0, condition="a=1")],
        [row(seed, -0.01 * seed) for seed in range(40)],
    ],
    ids=[
        "all diverged", "opposite infinities", "beyond floating point", "no width", "few problems",
        "a seed twice", "a baseline in one condition", "zero losses", "infinite losses",
        "not all evaluated", "many seeds",
    ],
)  # fmt: skip
def test_whatever_runs_come_to_can_be_drawn_and_told(rows):
    drawn(*rows)
    text = seeds.as_text(seeds.aggregate(pd.DataFrame(rows)))
    assert len({len(line) for line in cells(text)}) == 1


@pytest.mark.parametrize("conditions", [1, 12])
@pytest.mark.parametrize("count", [1, 10])
def test_labels_and_points_do_not_overlap(conditions, count):
    rng = np.random.default_rng(0)
    rows = [
        row(seed, rng.normal(-0.5, 0.1), condition=f"optimizee.hidden_units={number} optimizer.b=1")
        for number in range(conditions) for seed in range(count)
    ]  # fmt: skip
    figure = drawn(*rows)
    labels = [tick.get_window_extent() for tick in figure.axes[0].get_yticklabels()]
    assert all(above.y0 >= below.y1 for above, below in zip(labels, labels[1:], strict=False))
    assert figure.get_figheight() < 14
    lines = figure.axes[0].lines
    heights = sorted(line.get_ydata()[0] for line in lines if line.get_marker() in ("o", "D"))
    pixels = figure.axes[0].transData.transform([(1, height) for height in heights])[:, 1]
    assert (np.diff(pixels) > 3 / 72 * figure.dpi).all()  # a point is 3/72 inch high


def test_drawing_leaves_the_tables_alone():
    rows = pd.DataFrame(THREE)
    table = seeds.aggregate(rows)
    before = rows.copy(), table.copy()
    seeds.figure(rows, table)
    seeds.as_text(table)
    pd.testing.assert_frame_equal(rows, before[0])
    pd.testing.assert_frame_equal(table, before[1])
