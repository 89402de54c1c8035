"""Figures of the microscope: what they say, where their lines lie; a run that records updates."""

import io
import math
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text

from l2l_exp import microscope
from l2l_exp.optimizees.quadratic import Quadratic
from l2l_exp.optimizees.seeding import Seed
from l2l_exp.optimizers.baseline import Baseline
from l2l_exp.optimizers.by_hand import BFGSByHand
from l2l_exp.optimizers.lstm import CoordinatewiseLSTM
from l2l_exp.optimizers.ntm_bfgs import NTMBFGS
from l2l_exp.report import scope, studies, updates
from l2l_exp.report.looks import looks_of

pytest_plugins = ["edge_fixtures"]

TEST = Seed("test", 0)
RULES = {
    "learned": CoordinatewiseLSTM(hidden_units=3, readout_std=0.5),
    "sgd": Baseline(torch.optim.SGD, lr=0.5),
    "adam": Baseline(torch.optim.Adam, lr=0.1),
}


def drawn(figure: Figure) -> Figure:
    """The figure, drawn to the last pixel without a single warning, its text large enough."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(io.BytesIO(), format="png", bbox_inches="tight", dpi=30)
    assert figure.get_figwidth() <= 6.9
    shown = [one for one in figure.findobj(Text) if one.get_text().strip()]
    assert min(one.get_fontsize() for one in shown) >= 7
    return figure


def lines(axes) -> dict[str, list[float]]:
    """Label -> y values, of lines that have a label."""
    return {
        str(one.get_label()): list(one.get_ydata())
        for one in axes.lines
        if not str(one.get_label()).startswith("_")
    }


def told(figure: Figure) -> str:
    """All text of a figure."""
    return " | ".join(one.get_text() for one in figure.findobj(Text) if one.get_text())


def test_answers_have_a_row_per_rule_and_a_line_per_time():
    gradients, times = np.array([-1.0, -1e-3, 0.0, 1e-3, 1.0]), (0, 2)
    found = {
        name: {
            kind: microscope.proposals_after(rule, microscope.history(kind, 2), gradients, times)
            for kind in ("constant", "zero")
        }
        for name, rule in RULES.items()
    }
    figure = drawn(scope.answers(gradients, times, found))
    assert len(figure.axes) == 6
    assert [axes.get_title() for axes in figure.axes[:2]] == [
        "constant gradients before", "zero gradients before"
    ]  # fmt: skip
    shown = lines(figure.axes[2])
    assert set(shown) == {"after 0 steps", "after 2 steps"}
    np.testing.assert_allclose(shown["after 2 steps"], -0.5 * gradients, atol=1e-12)
    assert figure.axes[2].get_ylabel() == "update of sgd"
    assert all(axes.get_xlabel() == "gradient" for axes in figure.axes[-2:])


def test_impulses_are_drawn_over_the_largest_response():
    found = {name: microscope.impulse_response(one, [0.1, -2], 9, 9) for name, one in RULES.items()}
    figure = drawn(scope.impulses(found))
    assert [axes.get_title() for axes in figure.axes] == [
        "one gradient of 0.1",
        "one gradient of -2",
    ]
    shown = lines(figure.axes[1])
    assert shown["sgd: half-life 0.5, largest 1"] == pytest.approx([1] + [0] * 8)
    assert all(max(map(abs, one)) == pytest.approx(1) for one in shown.values())


def test_a_rule_without_response_is_drawn_too():
    nothing = microscope.Impulse(np.ones(1), np.zeros((4, 1)), 0.0)
    assert "half-life nan" in told(drawn(scope.impulses({"learned": nothing})))


def test_spectra_show_eigenvalues_and_time_constants():
    momentum = Baseline(torch.optim.SGD, lr=0.1, momentum=0.9)
    rules = {"learned": RULES["learned"], "momentum": momentum, "adam": RULES["adam"]}
    found = {name: microscope.fixed_point(rule) for name, rule in rules.items()}
    found["learned"] = microscope.fixed_point(RULES["learned"], most_steps=3)
    figure = drawn(scope.spectra(found))
    shown = lines(figure.axes[1])
    assert shown["momentum, gradient 0: update 0"] == pytest.approx([-1 / math.log(0.9)])
    assert shown["adam, gradient 0: update 0"] == pytest.approx([999.5, 9.4912], rel=1e-4)
    assert any(name.endswith("not at rest") for name in shown)


def test_drifts_are_drawn_as_they_are():
    found = microscope.drift(RULES["learned"], 5)
    figure = drawn(scope.drifts({"learned, meta-seed 1": found}))
    assert lines(figure.axes[0]) == {"learned, meta-seed 1": pytest.approx(list(found))}


def test_stability_shows_the_closed_form_and_marks_what_failed():
    h = [0.1, 1.0, 8.0]
    found = {n: microscope.stability(r, h, [0.0, 0.1], 80, 3) for n, r in RULES.items()}
    figure = drawn(scope.stabilities(found, {"sgd": 0.5}))
    assert len(figure.axes) == 2 and "n = 3 draws" in told(figure)
    axes = figure.axes[1]
    exact = np.sqrt(microscope.sgd_variance(0.5, np.array(h), 0.1))
    assert lines(axes)["sgd: closed form"][:2] == pytest.approx(list(exact[:2]))
    assert math.isnan(lines(axes)["sgd"][2])
    crosses = [list(one.get_xdata()) for one in axes.lines if one.get_marker() == "x"]
    assert [8.0] in crosses


def test_scales_tell_their_slopes():
    found = {
        name: microscope.scale_response(rule, np.array([1.0, -2.0]), [0.1, 1, 10])
        for name, rule in RULES.items()
    }
    figure = drawn(scope.scales(found))
    shown = lines(figure.axes[0])
    assert shown["sgd: slope 1.000"] == pytest.approx([0.0790569, 0.790569, 7.90569], rel=1e-5)
    assert "adam: slope 0.000" in shown


def test_rates_leave_gaps_where_updates_go_uphill():
    steps = np.array([1.0, -1.0, 2.0])
    found = microscope.EffectiveRates({"learned": steps}, {"learned": steps / 2}, {}, steps)
    figure = drawn(scope.rates(found))
    shown = lines(figure.axes[0])["learned"]
    assert shown[0] == 1 and math.isnan(shown[1]) and shown[2] == 2
    assert lines(figure.axes[1])["learned"] == [0.5, -0.5, 1.0]


def test_memories_show_medians_over_problems():
    rule = NTMBFGS(BFGSByHand(lr=0.5), initial_memory=0.1)
    fit = microscope.memory_fit(Quadratic(3), rule, range(5), TEST, 6)
    figure = drawn(scope.memories({"learned": fit}))
    for axes, values in zip(
        figure.axes, (fit.cosine, fit.error, fit.identity_error, fit.direction), strict=True
    ):
        np.testing.assert_allclose(lines(axes)["learned"], np.median(values, axis=1))
    assert "n = 5 problems" in told(figure)


def test_learned_rules_differ_from_each_other_and_from_baselines():
    names = ["learned, meta-seed 0", "learned, meta-seed 1", "sgd", "mine"]
    looks = looks_of(names)
    assert list(looks) == names
    assert len({str(one["color"]) for one in looks.values()}) == 4
    assert looks[names[0]]["color"] == "black"
    assert looks[names[1]]["linewidth"] > looks["sgd"]["linewidth"]


# ------------------------------------------------------------------ a run's table and figure


@pytest.fixture(scope="module")
def seen() -> tuple[microscope.Followed, microscope.Proposals]:
    return microscope.Updates(coordinates=2, steps=3, points=5)(Quadratic(4), RULES, TEST, 7)


def test_the_table_holds_all_that_was_seen(seen):
    followed, swept = seen
    table = updates.table("r1", 3, followed, swept)
    assert tuple(table.columns) == updates.COLUMNS
    assert (table["run_id"] == "r1").all() and (table["seed"] == 3).all()
    for what, count in (("followed", 3 * 2 * 7), ("proposed", 3 * 2 * 3 * 5)):
        assert (table["what"] == what).sum() == count
    for place, coordinate in enumerate(followed.coordinates):
        mine = table[(table["coordinate"] == coordinate) & (table["rule"] == "adam")]
        path = mine[mine["what"] == "followed"]
        np.testing.assert_array_equal(path["update"], followed.updates["adam"][:, place])
        np.testing.assert_array_equal(path["gradient"], followed.gradients[:, place])
        grid = mine[mine["what"] == "proposed"].pivot(
            index="step", columns="gradient", values="update"
        )
        np.testing.assert_array_equal(grid, swept.updates["adam"][:, place])
        assert list(grid.index) == [0, 3, 6]
        seen_there = mine[mine["what"] == "proposed"].groupby("step")["seen"].first()
        np.testing.assert_array_equal(seen_there, swept.seen[:, place])
        assert (mine["label"] == f"theta[{coordinate}]").all()


def test_the_figure_leaves_out_sweeps_of_a_rule_without_memory(seen):
    figure = drawn(updates.figure(updates.table("r1", 3, *seen)))
    ylabels = [axes.get_ylabel() for axes in figure.axes[::2]]
    assert ylabels == ["gradient", "update", "update of\nlearned", "update of\nadam"]
    assert "meta-seed 3" in told(figure)
    shown = lines(figure.axes[2])
    assert set(shown) == {"learned", "sgd", "adam"}
    assert shown["sgd"] == pytest.approx(list(seen[0].updates["sgd"][:, 0]))


def test_updates_that_are_not_finite_are_drawn_as_far_as_they_go(seen):
    table = updates.table("r1", 0, *seen)
    table.loc[table.index[3:6], ["gradient", "update"]] = np.inf
    table.loc[table.index[-9:], "update"] = np.nan
    drawn(updates.figure(table))


SMALL = [
    "optimizee=quadratic", "optimizee.dimension=3", "evaluation=smoke", "tracking=none",
    "optimizer=lstm", "optimizer.hidden_units=2", "training=smoke",
]  # fmt: skip


def test_a_run_records_updates_where_it_is_asked_to(command, workplace):
    small = ["evaluation.microscope.coordinates=2", "evaluation.microscope.steps=3"]
    asked = ["evaluation/microscope=updates", *small, "-m", "seed=0,1"]
    assert command("train", *SMALL, *asked).code == 0
    (folder,) = workplace.glob("multirun/*")
    for seed in (0, 1):
        assert {path.suffix for path in (folder / str(seed)).glob("updates.*")} == {
            ".parquet", ".png", ".pdf"
        }  # fmt: skip
    study = studies.from_folder(folder)
    tables = [pd.read_parquet(folder / str(seed) / "updates.parquet") for seed in (0, 1)]
    assert len(study.extras["updates"]) == sum(map(len, tables))
    table = tables[1]
    assert set(table["seed"]) == {1} and list(table["rule"].unique()) == ["learned", "sgd", "adam"]
    summary = study.summaries[str(table["run_id"].iloc[0])]
    rate = summary["baselines"]["sgd"]["lr"]["final"]
    mine = table[(table["rule"] == "sgd") & (table["what"] == "followed")]
    np.testing.assert_allclose(mine["update"], -rate * mine["gradient"], rtol=1e-3, atol=1e-6)


def test_without_being_asked_a_run_records_none(command, workplace):
    assert command("train", *SMALL).code == 0
    assert not list(workplace.rglob("updates.*"))


def test_something_else_than_updates_is_refused(command, workplace):
    outcome = command(
        "train", *SMALL, "evaluation/microscope=updates",
        "evaluation.microscope._target_=builtins.dict",
    )  # fmt: skip
    assert outcome.code == 2 and "evaluation.microscope must be a" in outcome.err
