"""Pictures of an evaluation: the problems again, what is shown of them, and the figure."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from l2l_exp.comparison import Contender, Protocol, compare, gallery, shown_steps
from l2l_exp.evaluation import StepCost, evaluate, snapshots
from l2l_exp.optimizees.seeding import Seed
from l2l_exp.optimizers.baseline import Baseline
from l2l_exp.optimizers.lstm import CoordinatewiseLSTM
from l2l_exp.report import pictures
from l2l_exp.tuning import Tuned, TuningCache
from l2l_exp.unroll import differentiate

pytest_plugins = ["edge_fixtures"]

TEST = Seed("test", 3)
PROTOCOL = Protocol(horizon=32, problems=5, tuning_problems=1, seed=3, identity={})


def rules():
    """A learned rule, and two baselines whose rates are given."""
    return {
        "learned": CoordinatewiseLSTM(2, 1, readout_std=0.5).double(),
        "sgd": Baseline(torch.optim.SGD, lr=0.001),
        "adam": Baseline(torch.optim.Adam, lr=0.002),
    }


@pytest.fixture(scope="module")
def shown(art):
    """The gallery of a real comparison."""
    optimizee = art()
    contenders = compare(optimizee, rules(), PROTOCOL, TuningCache(None))
    return gallery(optimizee, rules(), contenders, PROTOCOL)


@pytest.mark.parametrize("name", ["learned", "sgd", "adam"])
def test_snapshots_are_what_the_evaluation_went_through(art, name):
    optimizee, rule, problems = art(), rules()[name], (2, 0)
    (record,) = evaluate(optimizee, rule, problems, TEST, 12)
    thetas = snapshots(optimizee, rule, problems, TEST, 12, [12, 0, 5])
    assert list(thetas) == [12, 0, 5]
    assert torch.equal(thetas[0], optimizee.init(problems, TEST))
    data = optimizee.sample(problems, TEST).data
    for step, theta in thetas.items():
        loss, _ = differentiate(optimizee, theta, data)
        np.testing.assert_allclose(loss.numpy(), record.loss[step], rtol=1e-12)


@given(st.integers(1, 100_000))
def test_three_steps_are_shown_the_last_among_them(horizon):
    steps = shown_steps(horizon)
    assert steps == sorted(set(steps)) and steps[0] >= 1 and steps[-1] == horizon
    assert len(steps) == 3 or horizon < 8
    assert shown_steps(128) == [8, 32, 128]


def test_a_gallery_shows_the_first_problems_under_every_rule(shown, art):
    optimizee = art()
    problem = optimizee.sample(range(3), TEST)
    assert list(shown.references) == ["content", "style", "start"]
    assert list(shown.rules) == ["learned", "sgd", "adam"] == list(shown.losses)
    for rule in shown.rules:
        thetas = snapshots(optimizee, rules()[rule], range(3), TEST, 32, [2, 8, 32])
        for step, theta in thetas.items():
            expected = optimizee.pictures(theta).permute(0, 2, 3, 1).numpy()
            np.testing.assert_array_equal(shown.rules[rule][step], expected)
            loss = optimizee.metrics(theta, problem)["train_loss"]
            np.testing.assert_array_equal(shown.losses[rule][step], loss.numpy())
    for picture in [*shown.references.values(), *shown.rules["learned"].values()]:
        assert picture.shape == (3, 8, 8, 3) and picture.min() >= 0 and picture.max() <= 1


def test_a_baseline_is_shown_at_the_rate_tuned_for_the_final_loss(art):
    optimizee, rule = art(), Baseline(torch.optim.SGD)
    (record,) = evaluate(optimizee, rule.with_rates([0.001]), range(5), TEST, 32)
    tuned = Tuned({"average": 0.005, "final": 0.001}, {})
    contender = Contender("sgd", {"final": record}, tuned, StepCost(0, 0, 0))
    seen = gallery(optimizee, {"sgd": rule}, [contender], PROTOCOL)
    np.testing.assert_allclose(seen.losses["sgd"][32], record.loss[-1][:3], rtol=1e-12)


def test_fewer_problems_than_are_shown_are_all_shown(art):
    protocol = Protocol(horizon=2, problems=2, tuning_problems=1, seed=3, identity={})
    contenders = compare(art(), rules(), protocol, TuningCache(None))
    seen = gallery(art(), rules(), contenders, protocol)
    assert len(seen.references["content"]) == 2 and list(seen.rules["sgd"]) == [1, 2]


def test_every_picture_of_a_gallery_is_drawn_once_and_none_overlaps(shown):
    figure = pictures.figure(shown)
    drawn = [axes.images[0].get_array() for axes in figure.axes]
    wanted = [*shown.references.values(), *(x for by in shown.rules.values() for x in by.values())]
    every = [one for several in wanted for one in several]
    assert len(drawn) == len(every) == 3 * (3 + 3 * 3)
    for one in every:
        assert any(np.array_equal(one, other) for other in drawn)
    boxes = [axes.get_position() for axes in figure.axes]
    assert all(0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1 for box in boxes)
    for one, other in itertools.combinations(boxes, 2):
        assert not (one.x0 < other.x1 and other.x0 < one.x1 and one.y0 < other.y1
                    and other.y0 < one.y1)  # fmt: skip


def test_the_table_has_every_picture_to_a_byte(shown):
    table = pictures.table("run", 5, shown)
    assert list(table.columns) == list(pictures.COLUMNS) and len(table) == 3 * (3 + 3 * 3)
    for row in table.to_dict("records"):
        if row["reference"]:
            exact = shown.references[row["reference"]][row["problem"]]
            assert np.isnan(row["loss"]) and row["rule"] == ""
        else:
            exact = shown.rules[row["rule"]][row["step"]][row["problem"]]
            assert row["loss"] == shown.losses[row["rule"]][row["step"]][row["problem"]]
        assert np.abs(pictures.picture_of(row) - exact).max() <= 0.5 / 255 + 1e-9
        assert (row["run_id"], row["seed"]) == ("run", 5)


def test_the_texts_of_the_figure_name_rules_references_and_losses_and_stay_inside(shown):
    figure = pictures.figure(shown)
    told = [text.get_text() for text in figure.texts]
    for name in (*shown.rules, *shown.references):
        assert told.count(name) == (1 if name in shown.rules else 3)
    for rule, by_step in shown.losses.items():
        for step, losses in by_step.items():
            for loss in losses:
                assert f"step {step}: {loss:.3g}" in told, rule
    figure.canvas.draw()
    for text in figure.texts:
        box = text.get_window_extent().transformed(figure.transFigure.inverted())
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= 1 and box.y1 <= 1, text.get_text()


# ------------------------------------------------------------------ the commands

ART = (
    "optimizee=neural_art", "optimizee.size=8", "evaluation=smoke", "evaluation.horizon=4",
    "evaluation.problems=3", "evaluation.tuning_problems=1", "tracking=none",
    "optimizee.features.channels=[2,3,4]",
)  # fmt: skip


def folder_of(work):
    (path,) = work.glob("outputs/*/*/run.json")
    return path.parent


def test_a_run_that_is_stopped_while_it_looks_at_its_pictures_goes_on_there(
    command, workplace, monkeypatch
):
    from l2l_exp import jobs

    def interrupted(*args):
        raise KeyboardInterrupt

    training = ("training=smoke", "training.horizon=4", "training.truncation=2",
                "training.episodes=2", "optimizer.hidden_units=2")  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "gallery", interrupted)
        assert command("train", *ART, *training).code == 130
    folder = folder_of(workplace)
    assert not (folder / "pictures.png").exists()
    with monkeypatch.context() as patch:
        patch.setattr("l2l_exp.comparison.evaluate", interrupted)  # what was evaluated stays
        outcome = command("train", f"resume={folder}")
    assert outcome.code == 0, outcome.err
    assert (folder / "pictures.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "pictures.pdf").read_bytes().startswith(b"%PDF")
    assert str(folder / "pictures.png") in outcome.out
    run = json.loads((folder / "run.json").read_text())
    assert set(pd.read_parquet(folder / "pictures.parquet")["run_id"]) == {run["run_id"]}
    assert json.loads((folder / "summary.json").read_text())["n_problems"] == 3


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("optimizee.style=van_gogh", "style='van_gogh' must be a picture file"),
        ("optimizee.contents.source=nowhere", "source=nowhere must be 'photographs'"),
        ("optimizee.features.content=[conv9_1]", "content layer='conv9_1' must be one of"),
        ("optimizee.start=grey", "start='grey' must be one of noise, content"),
        ("optimizee/features=vgg19", "curl -fL --create-dirs -o"),
    ],
)
def test_what_cannot_be_is_one_line(override, told, command, workplace, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(workplace / "no_torch"))
    outcome = command("evaluate", "optimizer=adam", "optimizee=neural_art", override)
    assert outcome.code == 2 and told in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1 and not list(workplace.iterdir())
