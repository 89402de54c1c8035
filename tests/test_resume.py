"""A run that was stopped goes on, and ends as if it had not been.

What a kill -9 leaves is what lies on the disk at that moment. So most tests copy the working
directory, store included, at many moments of one run, and resume the copies; the slow ones kill.
"""

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from omegaconf import OmegaConf
from processes import start, wait_for

from l2l_exp import jobs, record, state
from l2l_exp.comparison import Contender
from l2l_exp.evaluation import EvalRecord, StepCost
from l2l_exp.state import ContenderFiles, StateError, TrainingFile
from l2l_exp.tuning import Tuned

pytest_plugins = ["edge_fixtures"]

RUN = (
    "optimizee=quadratic", "optimizee.dimension=2", "evaluation=smoke", "evaluation.horizon=3",
    "evaluation.problems=3", "evaluation.tuning_problems=2", "training=smoke",
    "training.horizon=4", "training.truncation=2", "training.episodes=4",
    "training.problems=2", "optimizer.hidden_units=2", "evaluation.cache=null",
)  # fmt: skip
MEASURED = ("seconds", "wall")
"""Parts of the names of what is measured by the clock, which no resume can repeat."""


def folder_of(work: Path) -> Path:
    """The only run folder of a working directory."""
    (path,) = work.glob("outputs/*/*/run.json")
    return path.parent


def untimed(node: object) -> object:
    """A summary without what the clock measured."""
    if isinstance(node, dict):
        return {
            key: untimed(value)
            for key, value in node.items()
            if not any(word in key for word in MEASURED)
        }
    return [untimed(item) for item in node] if isinstance(node, list) else node


def histories(work: Path) -> dict[str, list[tuple[int, float]]]:
    """Every metric of the only run of a store, with each of its entries."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{work}/mlflow.db")
    (run,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert run.info.status == "FINISHED"
    return {
        name: sorted((m.step, m.value) for m in client.get_metric_history(run.info.run_id, name))
        for name in run.data.metrics
    }


def result_of(work: Path) -> dict[str, object]:
    """Everything that must be the same, bit for bit."""
    folder = folder_of(work)
    entries = histories(work)
    for name, entry in entries.items():
        steps = [step for step, _ in entry]
        assert len(steps) == len(set(steps)), f"{name} was logged twice at a step"
    return {
        "meta-parameters": (folder / "checkpoint" / "rule.safetensors").read_bytes(),
        "checkpoint": json.loads((folder / "checkpoint" / "rule.json").read_text()) | {"about": ""},
        "summary": untimed(json.loads((folder / "summary.json").read_text()) | {"run_id": ""}),
        "metrics": {
            name: entry if not any(word in name for word in MEASURED) else len(entry)
            for name, entry in entries.items()
        },
    }


@pytest.fixture
def photographed(command, workplace_with_store, tmp_path, monkeypatch):
    """A whole run, and copies of its working directory at every moment something was written."""
    monkeypatch.setattr(state, "SECONDS_BETWEEN", 0.0)
    copies: dict[str, Path] = {}

    def after(patch, owner: type, name: str) -> None:
        plain = getattr(owner, name)

        def call(self, *args, **settings):
            result = plain(self, *args, **settings)
            label = f"{len(copies):02d} after {owner.__name__}.{name}"
            copies[label] = tmp_path / label.replace(" ", "_")
            shutil.copytree(workplace_with_store, copies[label])
            return result

        patch.setattr(owner, name, call)

    from l2l_exp.tracking.journal import Journal
    from l2l_exp.tracking.mlflow_tracker import MlflowTracker

    with monkeypatch.context() as patch:
        after(patch, Journal, "add")
        after(patch, TrainingFile, "keep")
        after(patch, ContenderFiles, "__setitem__")
        after(patch, MlflowTracker, "publish")
        outcome = command("train", *RUN)
    assert outcome.code == 0, outcome.err
    return result_of(workplace_with_store), copies


def test_a_run_killed_at_any_moment_ends_as_if_it_had_not_been(photographed, command, monkeypatch):
    expected, copies = photographed
    assert len(copies) > 15
    assert {"keep", "add", "__setitem__", "publish"} <= {name.split(".")[-1] for name in copies}
    for label, work in copies.items():
        monkeypatch.chdir(work)
        folder = folder_of(work)
        record.dataclasses.replace(record.read(folder), cwd=str(work)).write(folder)
        outcome = command("train", f"resume={folder}")
        assert outcome.code == 0, f"{label}: {outcome.err}"
        assert result_of(work) == expected, label


# ------------------------------------------------------------------ what is refused


@pytest.fixture
def stopped(command, workplace_with_store, monkeypatch) -> Path:
    """Folder of a run that was interrupted after two episodes."""
    plain = jobs.meta_train

    def interrupted(*args):
        *objects, report, memory = args

        def stop(progress, metrics):
            report(progress, metrics)
            if progress.episode == 3:
                raise KeyboardInterrupt

        return plain(*objects, stop, memory)

    monkeypatch.setattr(state, "SECONDS_BETWEEN", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "meta_train", interrupted)
        outcome = command("train", *RUN)
    assert outcome.code == 130 and outcome.err.strip() == "l2l-train: interrupted"
    return folder_of(workplace_with_store)


def status_in_store(work: Path) -> list[str]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{work}/mlflow.db")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    return [run.info.status for run in runs]


def test_an_interrupted_run_is_killed_and_resumes_by_its_id(stopped, command, workplace):
    assert record.read(stopped).status == "KILLED"
    assert status_in_store(workplace) == ["KILLED"]
    outcome = command("train", f"resume={record.read(stopped).run_id}")
    assert outcome.code == 0, outcome.err
    assert "going on after episode 2 of 4" in outcome.out
    assert status_in_store(workplace) == ["FINISHED"]
    assert record.read(stopped).status == "FINISHED"


def test_the_whole_command_with_resume_added_goes_on_too(stopped, command):
    outcome = command("train", *RUN, f"resume={stopped}")
    assert outcome.code == 0, outcome.err


def test_a_run_is_found_by_the_store_from_another_directory(
    stopped, command, workplace, tmp_path, monkeypatch
):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    uri = f"tracking.uri=sqlite:///{workplace}/mlflow.db"
    outcome = command("train", f"resume={record.read(stopped).run_id}", uri)
    assert outcome.code == 0, outcome.err
    assert status_in_store(workplace) == ["FINISHED"]
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_finished_run_cannot_be_changed(stopped, command):
    assert command("train", f"resume={stopped}").code == 0
    more = (f"resume={stopped}", "training.episodes=6", "accept_changes=true")
    outcome = command("train", *more)
    assert outcome.code == 2 and "optimizer=trained" in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_a_change_of_the_meta_optimizer_that_is_accepted_takes_effect(
    stopped, command, monkeypatch
):
    from l2l_exp.meta import train as meta

    used = []
    plain = meta._meta_step

    def step(rule, optimizer, *rest):
        used.append(optimizer.param_groups[0]["betas"])
        return plain(rule, optimizer, *rest)

    monkeypatch.setattr(meta, "_meta_step", step)
    change = "+training.meta_optimizer.betas=[0.5,0.9]"
    assert command("train", f"resume={stopped}", change, "accept_changes=true").code == 0
    assert {tuple(betas) for betas in used} == {(0.5, 0.9)}


def test_a_run_that_is_shortened_before_its_first_validation_ends_with_one(stopped, command):
    kept = stopped / record.KEPT / state.TRAINING
    what = torch.load(kept, weights_only=True)
    what["progress"] |= {"best": {}, "validations": [], "best_episode": 0}
    torch.save(what, kept)
    outcome = command("train", f"resume={stopped}", "training.episodes=1", "accept_changes=true")
    assert outcome.code == 0, outcome.err
    assert json.loads((stopped / "checkpoint" / "rule.json").read_text())["about"]["episode"] == 2


@pytest.mark.parametrize(
    ("change", "compared"),
    [("training.validation_seed=1", False), ("training.meta_optimizer.lr=0.002", True)],
)
def test_scores_of_other_validations_are_not_compared(stopped, command, change, compared):
    kept = stopped / record.KEPT / state.TRAINING
    what = torch.load(kept, weights_only=True)
    what["progress"]["best_validation"] = -1e9  # nothing beats it
    torch.save(what, kept)
    assert command("train", f"resume={stopped}", change, "accept_changes=true").code == 0
    about = json.loads((stopped / "checkpoint" / "rule.json").read_text())["about"]
    assert (about["validation"] == -1e9) == compared == (about["episode"] <= 2)
    assert [x["episode"] for x in about["validations"]] == ([2, 4] if compared else [4])


META_LOSS = {"training.validation_criterion": "meta_loss"}
SCORED = {
    "seed": 0,
    "dtype": "float32",
    "optimizee": {"_target_": "of mlps", "hidden_units": 2, "images": {"root": "here"}},
    "training": {
        "horizon": 20, "horizons": None, "episodes": 4, "problems": 2, "validation_horizon": None,
        "validation_criterion": "final", "validation_problems": 4, "validation_seed": 0,
        "form": {"_target_": "of a loss"}, "weights": {"_target_": "of steps"},
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"seed": 1, "training.episodes": 9, "training.problems": 3}, True),
        ({"optimizee.images.root": "elsewhere"}, True),
        ({"dtype": "float64"}, False),
        ({"optimizee.hidden_units": 3}, False),
        ({"training.horizon": 10}, False),
        ({"training.validation_horizon": 10}, False),
        ({"training.validation_problems": 10}, False),
        ({"training.validation_seed": 10}, False),
        ({"training.validation_criterion": "average"}, False),
        ({"training.form": {"_target_": "another"}}, True),
        ({"training.form": {"_target_": "another"}, **META_LOSS}, False),
        ({"training.weights": {"_target_": "other"}, **META_LOSS}, False),
    ],
)
def test_what_a_validation_score_means_is_all_that_it_depends_on(changes, same):
    def meaning(changes):
        cfg = OmegaConf.create(SCORED)
        for key, value in changes.items():
            OmegaConf.update(cfg, key, value, merge=False)
        return jobs._meaning(cfg)

    base = META_LOSS if META_LOSS.items() <= changes.items() else {}
    assert (meaning(changes) == meaning(base)) == same


def test_a_run_is_resumed_in_its_own_working_directory(
    stopped, command, workplace, tmp_path, monkeypatch
):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert command("train", f"resume={stopped}").code == 0
    assert status_in_store(workplace) == ["FINISHED"]
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_run_that_the_store_lost_gets_another_in_its_place(stopped, command, workplace):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{workplace}/mlflow.db")
    old = record.read(stopped).run_id
    client.delete_run(old)
    outcome = command("train", f"resume={stopped}")
    assert outcome.code == 0 and "another takes its place" in outcome.err
    new = record.read(stopped).run_id
    assert new != old and client.get_run(new).info.status == "FINISHED"
    steps = {m.step for m in client.get_metric_history(new, "meta_loss")}
    assert steps == {1, 2, 3, 4}


def test_a_finished_run_has_nothing_to_go_on_with(stopped, command):
    assert command("train", f"resume={stopped}").code == 0
    before = {path: path.stat().st_mtime_ns for path in stopped.rglob("*") if path.is_file()}
    outcome = command("train", f"resume={stopped}")
    assert outcome.code == 0 and "is finished: nothing to do" in outcome.out
    after = {path: path.stat().st_mtime_ns for path in stopped.rglob("*") if path.is_file()}
    assert {p: t for p, t in before.items() if p.name != record.LOCK} == {
        p: t for p, t in after.items() if p.name != record.LOCK
    }


def test_a_changed_config_is_refused_with_the_difference(stopped, command, workplace):
    outcome = command("train", f"resume={stopped}", "training.episodes=6", "optimizee.dimension=3")
    assert outcome.code == 2 and len(outcome.err.splitlines()) == 1
    assert "training.episodes 4 -> 6" in outcome.err
    assert "optimizee.dimension 2 -> 3" in outcome.err
    assert "accept_changes=true" in outcome.err
    assert status_in_store(workplace) == ["KILLED"]


def test_a_change_that_is_accepted_goes_on_from_where_it_was(stopped, command, workplace):
    outcome = command("train", f"resume={stopped}", "training.episodes=6", "accept_changes=true")
    assert outcome.code == 0, outcome.err
    assert "going on after episode 2 of 6" in outcome.out
    assert max(step for step, _ in histories(workplace)["meta_loss"]) == 6
    assert record.read(stopped).config["training"]["episodes"] == 6
    from mlflow import MlflowClient

    run = MlflowClient(f"sqlite:///{workplace}/mlflow.db").get_run(record.read(stopped).run_id)
    assert run.data.tags["accepted_changes"] == "training.episodes 4 -> 6"
    assert run.data.params["training.episodes"] == "4"  # a store's params cannot change


def test_a_rule_that_what_was_kept_does_not_fit_is_told(stopped, command):
    outcome = command(
        "train", f"resume={stopped}", "optimizer.hidden_units=3", "accept_changes=true"
    )
    assert outcome.code == 2 and "does not fit this rule" in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_changed_code_is_refused_by_name(stopped, command):
    old = record.read(stopped)
    changed = {**old.sources, "l2l_exp/unroll.py": "0" * 16, "torch": "1.13.0"}
    record.dataclasses.replace(old, sources=changed).write(stopped)
    outcome = command("train", f"resume={stopped}")
    assert outcome.code == 2 and "l2l_exp/unroll.py changed" in outcome.err
    assert "torch 1.13.0 -> " in outcome.err
    assert command("train", f"resume={stopped}", "accept_changes=true").code == 0


def test_places_are_no_change(stopped, command, tmp_path):
    outcome = command("train", f"resume={stopped}", f"evaluation.cache={tmp_path / 'other'}")
    assert outcome.code == 0, outcome.err


def test_a_run_that_is_alive_is_left_alone(stopped, command):
    with FileLock(stopped / record.LOCK):
        outcome = command("train", f"resume={stopped}")
    assert outcome.code == 2 and "another process" in outcome.err


@pytest.mark.parametrize(
    ("source", "telling"),
    [("0123abc", "no run '0123abc'"), (".", "no run.json"), ("./gone", "./gone")],
)
def test_a_run_that_is_not_there_is_told(source, telling, command, workplace_with_store):
    outcome = command("train", f"resume={source}")
    assert outcome.code == 2 and len(outcome.err.splitlines()) == 1
    assert telling in outcome.err
    assert {path.name for path in workplace_with_store.iterdir()} <= {"mlflow.db", "mlflow.db.lock"}


def test_another_commands_run_is_told(stopped, command):
    outcome = command("evaluate", f"resume={stopped}")
    assert outcome.code == 2 and "l2l-train" in outcome.err


def test_what_cannot_be_read_is_named_and_kept(stopped, command):
    path = stopped / record.KEPT / state.TRAINING
    path.write_bytes(path.read_bytes()[:100])
    outcome = command("train", f"resume={stopped}")
    assert outcome.code == 2 and str(path) in outcome.err
    path.unlink()
    assert command("train", f"resume={stopped}").code == 0


def test_a_broken_record_is_named(stopped, command):
    (stopped / record.FILE).write_text("{")
    outcome = command("train", f"resume={stopped}")
    assert outcome.code == 2 and str(stopped / record.FILE) in outcome.err


def test_an_evaluation_resumes_too(stopped, command, workplace, monkeypatch):
    from l2l_exp import comparison

    assert command("train", f"resume={stopped}").code == 0
    evaluated = []
    plain = comparison.evaluate

    def stop_at_the_second(*args):
        evaluated.append(args)
        if len(evaluated) == 2:
            raise KeyboardInterrupt
        return plain(*args)

    few = [o for o in RUN if o.startswith(("optimizee", "evaluation"))]
    arguments = ["evaluate", f"optimizer.source={stopped}", *few]
    with monkeypatch.context() as patch:
        patch.setattr(comparison, "evaluate", stop_at_the_second)
        assert command(*arguments).code == 130
    (half,) = {path.parent for path in workplace.glob("outputs/*/*/run.json")} - {stopped}
    assert list(ContenderFiles(half / record.KEPT)) == ["learned"]
    outcome = command("evaluate", f"resume={half}")
    assert outcome.code == 0, outcome.err
    assert "evaluating learned" not in outcome.out and "evaluating sgd" in outcome.out


# ------------------------------------------------------------------ parts


def a_contender(tuned: bool) -> Contender:
    rng = np.random.default_rng(0)

    def one(lr):
        return EvalRecord(
            np.arange(3), np.array([0, 1, 2]), rng.normal(size=(3, 3)), rng.normal(size=(3, 3)),
            np.array([0, 2]), {"train_loss": np.array([[1.0, 2.0, np.inf]] * 2)},
            np.array([False, True, False]), lr, {"undos": np.array([0, 2, 1])},
        )  # fmt: skip

    scores = {"average": {0.1: 1.0, 10 ** (-1 / 4): np.inf}, "final": {0.1: 2.0, 0.3: 1.5}}
    if not tuned:
        record = one(None)
        return Contender("learned", {"average": record, "final": record}, None, StepCost(1, 2, 3))
    records = {"average": one(0.1), "final": one(0.3)}
    return Contender(
        "adam", records, Tuned({"average": 0.1, "final": 0.3}, scores), StepCost(1, 2, 3)
    )


@pytest.mark.parametrize("tuned", [False, True])
def test_a_contender_comes_back_exactly(tuned, tmp_path):
    files, given = ContenderFiles(tmp_path), a_contender(tuned)
    files[given.name] = given
    ((name, back),) = files.items()
    assert (name, back.name, back.tuned, back.cost) == (
        given.name, given.name, given.tuned, given.cost,
    )  # fmt: skip
    assert list(back.records) == list(given.records)
    for criterion, mine in given.records.items():
        for field, value in vars(mine).items():
            if field in ("metrics", "counts"):
                theirs = getattr(back.records[criterion], field)
                assert list(value) == list(theirs)
                for key in value:
                    np.testing.assert_array_equal(value[key], theirs[key])
            else:
                np.testing.assert_array_equal(value, getattr(back.records[criterion], field))


def test_a_contender_that_was_cut_off_counts_as_absent(tmp_path):
    files = ContenderFiles(tmp_path)
    files["adam"] = a_contender(True)
    (path,) = tmp_path.glob("*.npz")
    path.write_bytes(path.read_bytes()[:200])
    assert "adam" not in files
    files["adam"] = a_contender(True)
    assert "adam" in files


def test_training_that_cannot_be_read_is_an_error(tmp_path):
    (tmp_path / state.TRAINING).write_bytes(b"no such thing")
    with pytest.raises(StateError, match=state.TRAINING):
        TrainingFile(tmp_path).recall()


# ------------------------------------------------------------------ real signals

LONGER = (
    *RUN, "training.episodes=600", "training.validation_every=50", "training.horizon=10",
    "training.truncation=5", "evaluation.problems=50", "evaluation.tuning_problems=50",
    "evaluation.horizon=300",
)  # fmt: skip


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run_cleanly(number, code, workplace_with_store):
    process = start(workplace_with_store, *LONGER, "training.episodes=100000")
    wait_for(lambda: list(workplace_with_store.glob("outputs/*/*/.resume/training.pt")))
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err.splitlines()[-1] == "l2l-train: interrupted" and "Traceback" not in err
    assert status_in_store(workplace_with_store) == ["KILLED"]
    folder = folder_of(workplace_with_store)
    assert record.read(folder).status == "KILLED" and not record.read(folder).unsent


@pytest.mark.slow  # minutes: ten runs of about ten seconds, each in two processes or more
@pytest.mark.timeout(1200)
def test_kill_9_at_ten_random_moments(store_template, tmp_path, monkeypatch):
    monkeypatch.setenv("L2L_CACHE", str(tmp_path / "cache"))

    def fresh(name: str) -> Path:
        work = tmp_path / name
        work.mkdir()
        shutil.copy(store_template, work / "mlflow.db")
        return work

    began = time.monotonic()
    process = start(fresh("whole"), *LONGER)
    wait_for(lambda: list((tmp_path / "whole").glob("outputs/*/*/run.json")))
    opened = time.monotonic() - began
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    lasted = time.monotonic() - began
    expected = result_of(tmp_path / "whole")

    rng, phases = random.Random(0), []
    for k in range(10):
        work = fresh(f"killed{k}")
        process = start(work, *LONGER)
        wait_for(lambda work=work: list(work.glob("outputs/*/*/run.json")))
        time.sleep((lasted - opened) * (k + rng.random()) / 10)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        kept = folder_of(work) / record.KEPT
        phases.append((k, record.read(folder_of(work)).status, len(list(kept.glob("*.npz")))))
        _, err = (process := start(work, f"resume={folder_of(work)}")).communicate(timeout=300)
        assert process.returncode == 0, err
        assert result_of(work) == expected, f"killed at moment {k}"
    print(phases)
    assert sum(status == "RUNNING" for _, status, _ in phases) >= 8
    assert any(count for _, _, count in phases) and any(not count for _, _, count in phases)
