"""Registered rules: which version is the champion, and what l2l-train register=NAME does."""

import math
import re

import pytest
import torch
from mlflow import MlflowClient

from l2l_exp import checkpoint
from l2l_exp.architecture import rebuild
from l2l_exp.dropin.load import find
from l2l_exp.tracking import MlflowTracker, NoTracker, TrackingError, registry, trained_rule

pytest_plugins = ["edge_fixtures"]

ARCHITECTURE = {
    "_target_": "l2l_exp.optimizers.lstm.CoordinatewiseLSTM", "hidden_units": 2, "layers": 1,
    "readout_std": 0.5,
}  # fmt: skip
SHORT = (
    "experiment=smoke", "optimizee.dimension=2", "evaluation=none", "training.horizon=4",
    "training.truncation=2", "training.episodes=2", "training.problems=2",
    "optimizer.hidden_units=2",
)  # fmt: skip


def rule(seed):
    made = rebuild(ARCHITECTURE | {"seed": seed}, "here")
    made.architecture = ARCHITECTURE | {"seed": seed}
    return made


@pytest.fixture
def register(store, tmp_path, monkeypatch):
    """Registers a rule as `best`; told by its seed, its validation loss and what that means."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)

    def one(seed, validation, validated="same", **more):
        tracker = MlflowTracker(tmp_path / f"{seed}", store, "study", warn=more.pop("warn", print))
        about = {"seed": seed, "validation": validation, "validated": validated, **more}
        tracker.checkpoint(rule(seed), about)
        told = []
        tracker.register("best", told.append)
        tracker.register("best", told.append)  # as a resumed run would
        tracker.finish("FINISHED")
        assert len(told) == 2 and told[0].split(":")[0] == told[1].split(":")[0]
        return told[0]

    return one


def champion() -> int:
    """The meta-seed of the champion, as both doors find it."""
    seeds = {one("models:/best@champion").about["seed"] for one in (find, by_source)}
    (seed,) = seeds
    return seed


def by_source(name):
    import os

    return trained_rule(name, os.environ["MLFLOW_TRACKING_URI"])


def test_the_lowest_validation_loss_is_the_champion(register, store):
    assert "version 1: the first champion (validation loss 0.5)" in register(0, 0.5)
    assert "version 2: the champion stays (validation loss 0.7" in register(1, 0.7)
    assert champion() == 0
    assert "version 3: the new champion (validation loss 0.3, before 0.5)" in register(2, 0.3)
    assert champion() == 2
    assert "the champion stays" in register(3, 0.3)  # a tie
    assert champion() == 2
    found = find("models:/best/2")
    assert torch.equal(found.readout, rule(1).readout)
    tags = MlflowClient(store).get_model_version("best", "3").tags
    assert tags == {"seed": "2", "validation": "0.3", "validated": "same"}


@pytest.mark.parametrize("meaning", ["other", None])
def test_validations_that_mean_something_else_are_not_compared(meaning, register):
    register(0, 0.5)
    assert "means something else: compare the two" in register(1, 0.1, meaning)
    assert champion() == 0


def test_losses_without_a_meaning_are_not_compared_either(register):
    register(0, 0.5, None)
    assert "means something else" in register(1, 0.1, None)


@pytest.mark.parametrize("loss", [None, math.inf])
def test_a_rule_without_a_validation_is_registered_and_never_champion(loss, register, store):
    if loss == math.inf:  # no checkpoint can hold it, a hand-written one may
        wins, _ = registry._judged({"validation": loss, "validated": "same"}, None)
        assert not wins
        return
    assert "version 1: it has no validation loss" in register(0, loss)
    assert MlflowClient(store).get_registered_model("best").aliases == {}
    assert "version 2: the first champion" in register(1, 0.5)


def test_a_champion_set_by_hand_stays_where_nothing_is_known_of_it(register, store):
    register(0, 0.5)
    client = MlflowClient(store)
    source = client.get_model_version("best", "1").source
    client.create_model_version("best", source)
    client.set_registered_model_alias("best", "champion", "2")
    assert "means something else" in register(1, 0.1)
    assert client.get_registered_model("best").aliases == {"champion": 2}


def test_a_run_whose_checkpoint_is_not_in_the_store_is_not_registered(store, tmp_path):
    warned, told = [], []
    tracker = MlflowTracker(tmp_path / "run", store, "study", warn=warned.append)
    checkpoint.save(tracker.folder / "checkpoint", rule(0), {"validation": 0.5})
    tracker.register("best", told.append)
    assert not tracker.finish("FINISHED") and told == []
    assert "has no checkpoint in the store: best is not registered" in warned[0]
    assert MlflowClient(store).search_registered_models() == []


def test_a_store_that_does_not_answer_at_once_registers_later(store, tmp_path, monkeypatch):
    real, calls, warned, told = registry.register, [], [], []

    def fails_once(*arguments):
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError("gone")
        return real(*arguments)

    monkeypatch.setattr("l2l_exp.tracking.mlflow_tracker.register", fails_once)
    tracker = MlflowTracker(tmp_path / "run", store, "study", warn=warned.append)
    tracker.checkpoint(rule(0), {"validation": 0.5})
    tracker.register("best", told.append)
    assert told == [] and "does not answer" in warned[0]
    assert tracker.finish("FINISHED") and "version 1" in told[0]


def test_without_a_store_nothing_is_registered(tmp_path):
    told = []
    NoTracker(tmp_path / "run").register("best", told.append)
    assert told == ["not registered as best: there is no store"]


@pytest.mark.parametrize("name", ["", "a/b", "a:b", "a@champion", ".", "..", "a\nb", " a", "a%b"])
def test_a_name_that_no_uri_could_hold_is_refused(name):
    with pytest.raises(
        TrackingError, match=re.escape(f"register={name!r} must be a name of letters")
    ):
        registry.check_name(name)


@pytest.mark.parametrize("name", ["best", "digits LSTM 1.2", "a_b-c", "7"])
def test_a_name_of_letters_digits_and_marks_is_taken(name, store):
    registry.check_name(name)
    MlflowClient(store).create_registered_model(name)


# ------------------------------------------------------------------ the command


def test_every_member_of_a_multirun_is_a_version_and_the_best_is_champion(
    command, workplace_with_store
):
    uri = f"sqlite:///{workplace_with_store}/mlflow.db"
    done = command("train", "-m", "seed=0,1", *SHORT, "register=mine")
    assert done.code == 0, done.err
    assert "registered as mine version 1: the first champion" in done.out
    scores = {}
    for folder in workplace_with_store.glob("multirun/*/*/checkpoint"):
        about = checkpoint.read_description(folder)["about"]
        scores[about["validation"]] = about["seed"]
    assert len(scores) == 2
    for source in ("models:/mine@champion", "models:/mine/1", "models:/mine/2"):
        found = trained_rule(source, uri)
        if "champion" in source:
            assert found.about["seed"] == scores[min(scores)]
    again = command("train", "-m", "seed=0,1", *SHORT, "register=mine")
    assert again.code == 0 and "registered" not in again.out
    assert len(MlflowClient(uri).search_model_versions("name = 'mine'")) == 2
    done = command(
        "evaluate", "optimizer.source=models:/mine@champion", "optimizee=quadratic",
        "smoke=evaluation", "evaluation.baselines={}",
    )  # fmt: skip
    assert done.code == 0, done.err


def test_a_finished_run_is_registered_afterwards(command, workplace_with_store):
    assert command("train", *SHORT).code == 0
    (folder,) = workplace_with_store.glob("outputs/*/*")
    done = command("train", f"resume={folder}", "register=late")
    assert done.code == 0 and "registered as late version 1: the first champion" in done.out
    done = command("train", f"resume={folder}", "register=a/b")
    assert done.code == 2 and "register='a/b' must be" in done.err


@pytest.mark.parametrize(
    ("arguments", "telling"),
    [
        (("tracking=none", "register=mine"), "register=mine needs a store, and tracking=none"),
        (("register=a/b",), "register='a/b' must be a name"),
        (("register=models:/x",), "must be a name"),
    ],
)
def test_what_cannot_be_registered_is_told_before_anything_is_trained(
    arguments, telling, command, workplace
):
    done = command("train", *SHORT, *arguments)
    assert done.code == 2 and telling in done.err and done.err.count("\n") == 1
    assert not list(workplace.glob("outputs/*/*/checkpoint")) and "meta-training" not in done.out


def test_an_evaluation_has_nothing_to_register(command, workplace):
    done = command("evaluate", "optimizer=adam", "register=mine")
    assert done.code == 2 and "register" in done.err
