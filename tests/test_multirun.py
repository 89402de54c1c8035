"""Multiruns: a parent run, jobs that are done once, failures that stop nobody, aggregation."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from processes import start, wait_for
from scipy import stats

from l2l_exp import record

pytest_plugins = ["edge_fixtures"]

SHORT = (
    "optimizee=quadratic", "optimizee.dimension=2", "evaluation=smoke", "evaluation.horizon=3",
    "evaluation.problems=3", "evaluation.tuning_problems=2", "training=smoke",
    "training.horizon=4", "training.truncation=2", "training.episodes=2", "training.problems=2",
)  # fmt: skip
TINY = (*SHORT, "optimizer.hidden_units=2")

FRAGILE = """
import time
import torch
from l2l_exp.optimizers.base import LearnedOptimizer


class Fragile(LearnedOptimizer):
    '''Gradient descent that fails for one meta-seed, and takes its time.'''

    def __init__(self, seed, broken_seed, sleep):
        super().__init__()
        if seed == broken_seed:
            raise ArithmeticError(f"seed {seed} is broken")
        self.rate = torch.nn.Parameter(torch.tensor(0.01 * (seed + 1)))
        self.sleep = sleep

    def init_state(self, theta, spec):
        return ()

    def step(self, seen, state):
        time.sleep(self.sleep)
        return -self.rate * seen.grad, state
"""


def use_fragile(work: Path, name: str) -> tuple[str, ...]:
    """Put the rule into a working directory; the arguments that choose it."""
    (work / f"{name}.py").write_text(FRAGILE)
    (work / "my_conf" / "optimizer").mkdir(parents=True)
    (work / "my_conf" / "optimizer" / "fragile.yaml").write_text(
        f"_target_: {name}.Fragile\nseed: ${{seed}}\nbroken_seed: -1\nsleep: 0.0\n"
    )
    return ("--config-dir", "my_conf", "optimizer=fragile", *SHORT)


@pytest.fixture
def fragile(workplace, request):
    """Arguments that choose the fragile rule in the working directory."""
    name = f"fragile_{abs(hash(request.node.name))}"
    yield use_fragile(workplace, name)
    sys.modules.pop(name, None)


def sweep_of(work: Path) -> Path:
    """The only multirun folder of a working directory."""
    (folder,) = work.glob("multirun/*")
    return folder


def statuses(work: Path) -> dict[int, str]:
    """Job number -> status, of the jobs that have begun."""
    found = [p.parent for p in sweep_of(work).glob("*/run.json") if p.parent.name.isdigit()]
    return {int(folder.name): record.read(folder).status for folder in found}


def runs_in(work: Path) -> tuple[object, list]:
    """The parent run of a store and its children."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{work}/mlflow.db")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    (parent,) = (run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    children = [run for run in runs if run is not parent]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} <= {parent.info.run_id}
    return parent, children


def artifacts(work: Path, run) -> set[str]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{work}/mlflow.db")
    return {a.path for a in client.list_artifacts(run.info.run_id)}


def check_aggregate(work: Path) -> None:
    """The parent's table says what the jobs' summaries say."""
    finished = [job for job, status in statuses(work).items() if status == "FINISHED"]
    told = [json.loads((sweep_of(work) / str(j) / "summary.json").read_text()) for j in finished]
    seeds = pd.read_parquet(sweep_of(work) / "seeds.parquet")
    table = pd.read_parquet(sweep_of(work) / "aggregate.parquet")
    for criterion in ("average", "final"):
        ratios = [one["paired"][criterion]["log_ratio"]["median"] for one in told]
        mine = seeds[seeds["criterion"] == criterion]
        assert sorted(mine["seed"]) == sorted(one["seed"] for one in told)
        np.testing.assert_allclose(sorted(mine["log_ratio"]), sorted(ratios))
        (row,) = table[table["criterion"] == criterion].to_dict("records")
        expected = stats.ttest_1samp(ratios, 0).confidence_interval(0.95)
        assert row["n_seeds"] == len(told)
        np.testing.assert_allclose(
            [row["log_ratio"], row["low"], row["high"]], [np.mean(ratios), *expected]
        )


# ------------------------------------------------------------------ serial


def test_every_job_is_a_child_of_one_parent_which_aggregates(command, workplace_with_store):
    outcome = command("train", "-m", "seed=0,1,2", *TINY)
    assert outcome.code == 0, outcome.err
    assert "3 done, 0 finished before and skipped, 0 failed" in outcome.out
    parent, children = runs_in(workplace_with_store)
    assert parent.info.status == "FINISHED"
    assert [child.info.status for child in children] == ["FINISHED"] * 3
    assert {child.data.params["seed"] for child in children} == {"0", "1", "2"}
    assert {"seeds.parquet", "seeds.png", "seeds.pdf", "aggregate.parquet", "aggregate.md"} <= (
        artifacts(workplace_with_store, parent)
    )
    check_aggregate(workplace_with_store)


def test_a_multirun_of_rules_is_evaluated_seed_by_seed(command, workplace_with_store):
    assert command("train", "-m", "seed=1,2", *TINY).code == 0
    parent, _ = runs_in(workplace_with_store)
    sweep, few = sweep_of(workplace_with_store), [x for x in SHORT if "training" not in x]
    means = []
    for number, source in enumerate((sweep, sweep / "1", parent.info.run_id)):
        to = f"hydra.run.dir=evaluated/{number}"
        outcome = command("evaluate", f"optimizer.source={source}", "seed=2", *few, to)
        assert outcome.code == 0, outcome.err
        told = json.loads(Path(f"evaluated/{number}/summary.json").read_text())
        assert told["seed"] == 2
        means.append(told["learned"]["final"]["mean"])
    trained = json.loads((sweep / "1" / "summary.json").read_text())
    assert means == [trained["learned"]["final"]["mean"]] * 3
    for source in (sweep, parent.info.run_id):
        outcome = command("evaluate", f"optimizer.source={source}", "seed=3", *few)
        assert outcome.code == 2 and "meta-seed 3" in outcome.err and "1, 2" in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_finished_multirun_is_skipped_and_another_is_another(command, workplace_with_store):
    launch = ["train", "-m", "seed=0,1", *TINY]
    assert command(*launch).code == 0
    files = {p: p.stat().st_mtime_ns for p in sweep_of(workplace_with_store).glob("[01]/*.json")}
    outcome = command(*launch)
    assert outcome.code == 0
    assert "0 done, 2 finished before and skipped, 0 failed" in outcome.out
    assert files == {p: p.stat().st_mtime_ns for p in files}
    parent, children = runs_in(workplace_with_store)
    assert len(children) == 2 and parent.info.status == "FINISHED"
    assert command("train", "-m", "seed=0,1,2", *TINY).code == 0
    assert len(list(workplace_with_store.glob("multirun/*"))) == 2


def test_a_failed_job_is_recorded_and_stops_nobody(command, workplace_with_store, fragile):
    launch = ["train", "-m", "seed=0,1,2,3", *fragile, "optimizer.broken_seed=1"]
    outcome = command(*launch)
    assert outcome.code == 1
    assert "3 done, 0 finished before and skipped, 1 failed" in outcome.out
    assert "seed 1 is broken" in outcome.out and "retry_failed=true" in outcome.out
    parent, children = runs_in(workplace_with_store)
    assert parent.info.status == "FAILED"
    (failed,) = (child for child in children if child.info.status == "FAILED")
    assert failed.data.params["seed"] == "1"
    assert "traceback.txt" in artifacts(workplace_with_store, failed)
    text = (sweep_of(workplace_with_store) / "1" / "traceback.txt").read_text()
    assert "ArithmeticError: seed 1 is broken" in text and "Traceback" in text
    check_aggregate(workplace_with_store)

    again = command(*launch)
    assert again.code == 1
    assert "0 done, 3 finished before and skipped, 1 failed" in again.out
    assert len(runs_in(workplace_with_store)[1]) == 4


def test_a_failed_job_is_tried_again_when_asked(
    command, workplace_with_store, fragile, monkeypatch
):
    from l2l_exp import jobs

    launch = ["train", "-m", "seed=0,1", *fragile]
    plain = jobs.meta_train

    def fail(optimizee, rule, *rest):
        if rule.rate.item() > 0.015:
            raise ZeroDivisionError("for once")
        return plain(optimizee, rule, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "meta_train", fail)
        assert command(*launch).code == 1
    assert statuses(workplace_with_store) == {0: "FINISHED", 1: "FAILED"}
    assert command(*launch).code == 1
    outcome = command(*launch, "retry_failed=true")
    assert outcome.code == 0
    assert "1 done, 1 finished before and skipped, 0 failed" in outcome.out
    parent, children = runs_in(workplace_with_store)
    assert [child.info.status for child in children] == ["FINISHED"] * 2
    assert parent.info.status == "FINISHED"


def test_an_interrupted_multirun_goes_on(command, workplace_with_store, monkeypatch):
    from l2l_exp import jobs

    plain, begun = jobs.meta_train, []

    def interrupt(*args):
        begun.append(args)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return plain(*args)

    launch = ["train", "-m", "seed=0,1,2", *TINY]
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "meta_train", interrupt)
        outcome = command(*launch)
    assert outcome.code == 130 and "launch the same command again" in outcome.err
    assert statuses(workplace_with_store) == {0: "FINISHED", 1: "KILLED"}
    parent, children = runs_in(workplace_with_store)
    assert parent.info.status == "KILLED"
    assert sorted(child.info.status for child in children) == ["FINISHED", "KILLED"]
    outcome = command(*launch)
    assert outcome.code == 0
    assert "2 done, 1 finished before and skipped" in outcome.out
    parent, children = runs_in(workplace_with_store)
    assert parent.info.status == "FINISHED" and len(children) == 3


def test_a_run_that_nothing_could_close_is_closed_by_the_next_launch(command, workplace_with_store):
    """What a kill -9 leaves: a run without an end, and no one who holds its lock."""
    launch = ["train", "-m", "seed=0,1", *TINY]
    assert command(*launch).code == 0
    folder = sweep_of(workplace_with_store) / "1"
    one = record.read(folder)
    record.dataclasses.replace(one, status="RUNNING", ended=None).write(folder)
    outcome = command(*launch)
    assert outcome.code == 0 and "1 done, 1 finished before" in outcome.out
    assert len(runs_in(workplace_with_store)[1]) == 2


def test_conditions_are_told_apart(command, workplace_with_store):
    outcome = command("train", "-m", "seed=0,1", "optimizee.dimension=2,3", *SHORT[:1],
                      *SHORT[2:], "optimizer.hidden_units=2")  # fmt: skip
    assert outcome.code == 0, outcome.err
    table = pd.read_parquet(sweep_of(workplace_with_store) / "aggregate.parquet")
    assert set(table["condition"]) == {"optimizee.dimension=2", "optimizee.dimension=3"}
    assert set(table["n_seeds"]) == {2}


def test_training_without_evaluation_is_aggregated_by_validation(command, workplace):
    outcome = command("train", "-m", "seed=0,1", *TINY, "evaluation=none", "tracking=none")
    assert outcome.code == 0, outcome.err
    table = pd.read_parquet(sweep_of(workplace) / "aggregate.parquet")
    assert set(table["criterion"]) == {"validation"}
    assert [path.name for path in workplace.iterdir()] == ["multirun"]


def test_a_preset_is_a_multirun(command, workplace_with_store):
    outcome = command("train", "sweeps=seeds", "seed=0,1", *TINY)
    assert outcome.code == 0, outcome.err
    assert sweep_of(workplace_with_store).name.startswith("seeds-")
    assert statuses(workplace_with_store) == {0: "FINISHED", 1: "FINISHED"}


def test_a_child_resumes_alone(command, workplace_with_store):
    assert command("train", "sweeps=seeds", "seed=0,1", *TINY).code == 0
    folder = sweep_of(workplace_with_store) / "1"
    one = record.read(folder)
    record.dataclasses.replace(one, status="RUNNING", ended=None).write(folder)
    outcome = command("train", f"resume={one.run_id}")
    assert outcome.code == 0, outcome.err
    assert statuses(workplace_with_store) == {0: "FINISHED", 1: "FINISHED"}
    assert len(runs_in(workplace_with_store)[1]) == 2


def test_a_job_that_is_no_longer_the_same_begins_anew(command, workplace_with_store, fragile):
    """Its YAML was edited between two launches of the same command."""
    path = workplace_with_store / "my_conf" / "optimizer" / "other.yaml"
    text = (path.parent / "fragile.yaml").read_text()
    path.write_text(text.replace("broken_seed: -1", "broken_seed: 0"))
    launch = ["train", "-m", "optimizer=fragile,other", *fragile[3:], *fragile[:2]]
    assert command(*launch).code == 1
    assert statuses(workplace_with_store) == {0: "FINISHED", 1: "FAILED"}
    path.write_text(text)
    outcome = command(*launch)
    assert outcome.code == 0, outcome.err
    assert "begins anew, since optimizer.broken_seed 0 -> -1" in outcome.err
    assert statuses(workplace_with_store) == {0: "FINISHED", 1: "FINISHED"}
    kept = sweep_of(workplace_with_store) / "1.before-1"
    assert record.read(kept).status == "FAILED"
    children = runs_in(workplace_with_store)[1]
    assert sorted(c.info.status for c in children) == ["FAILED", "FINISHED", "FINISHED"]


def test_every_job_that_cannot_begin_is_recorded_and_the_others_go_on(
    command, workplace_with_store
):
    outcome = command("train", "-m", "threads=1,0,2", *TINY)
    assert outcome.code == 1 and "2 done" in outcome.out and "1 failed" in outcome.out
    assert statuses(workplace_with_store) == {0: "FINISHED", 1: "FAILED", 2: "FINISHED"}
    assert "threads=0 must be >= 1" in record.read(sweep_of(workplace_with_store) / "1").error


def test_a_store_that_is_away_between_two_jobs_is_waited_for(
    command, workplace_with_store, monkeypatch
):
    from l2l_exp import jobs
    from l2l_exp.tracking import TrackingError, mlflow_tracker

    plain, calls = mlflow_tracker.open_client, []

    def sometimes(uri):
        calls.append(uri)
        if len(calls) in (3, 4):  # of the second job
            raise TrackingError("no server answers there")
        return plain(uri)

    monkeypatch.setattr(mlflow_tracker, "open_client", sometimes)
    monkeypatch.setattr(jobs, "STORE_PAUSE", 0.01)
    outcome = command("train", "-m", "seed=0,1,2", *TINY)
    assert outcome.code == 0 and "3 done" in outcome.out
    assert outcome.err.count("waiting") == 2


def test_a_store_that_stays_away_fails_the_jobs_and_not_the_launch(
    command, workplace_with_store, monkeypatch
):
    from l2l_exp import jobs
    from l2l_exp.tracking import TrackingError, mlflow_tracker

    plain, calls = mlflow_tracker.open_client, []

    def sometimes(uri):
        calls.append(uri)
        if len(calls) == 3:
            raise TrackingError("no server answers there")
        return plain(uri)

    launch = ["train", "-m", "seed=0,1,2", *TINY]
    with monkeypatch.context() as patch:
        patch.setattr(mlflow_tracker, "open_client", sometimes)
        patch.setattr(jobs, "STORE_WAIT", 0.0)
        assert command(*launch).code == 1
    assert statuses(workplace_with_store) == {0: "FINISHED", 1: "FAILED", 2: "FINISHED"}
    assert command(*launch, "retry_failed=true").code == 0
    assert len(runs_in(workplace_with_store)[1]) == 3


def test_a_folder_with_an_apostrophe_is_a_folder(command, workplace, tmp_path, monkeypatch):
    (tmp_path / "it's a, place").mkdir()
    monkeypatch.chdir(tmp_path / "it's a, place")
    outcome = command("train", "-m", "seed=0,1", *TINY, "tracking=none")
    assert outcome.code == 0, outcome.err
    assert statuses(Path.cwd()) == {0: "FINISHED", 1: "FINISHED"}
    folder = sweep_of(Path.cwd()) / "1"
    record.dataclasses.replace(record.read(folder), status="RUNNING").write(folder)
    assert command("train", f"resume={folder}").code == 0


def test_rules_trained_before_are_conditions_and_no_seeds(command, workplace):
    """What tells two sources apart is not known to be their seed alone."""
    assert command("train", "-m", "seed=0,1", *TINY, "evaluation=none", "tracking=none").code == 0
    one, two = (sweep_of(workplace) / name for name in "01")
    few = [o for o in TINY if o.startswith(("optimizee", "evaluation"))]
    outcome = command("evaluate", "-m", f"optimizer.source={one},{two}", *few, "tracking=none")
    assert outcome.code == 0, outcome.err
    (path,) = workplace.glob("multirun/evaluate-*/aggregate.parquet")
    assert set(pd.read_parquet(path)["n_seeds"]) == {1}


@pytest.mark.parametrize(
    ("overrides", "telling"),
    [
        (["optimizer=lstm,cubic"], "cubic"),
        (["seed=0,1", "training.horizn=3"], "horizn"),
        (["seed=0,one"], "one"),
        (["seed=0,1", "resume=here"], "launch the same multirun again"),
        (["sweeps=sedes"], "sedes"),
    ],
)
def test_a_multirun_that_cannot_begin_leaves_nothing(
    overrides, telling, command, workplace_with_store
):
    outcome = command("train", "-m", *TINY, *overrides)
    assert outcome.code == 2
    assert len(outcome.err.splitlines()) == 1 and telling in outcome.err
    assert list(workplace_with_store.glob("multirun/*")) == []
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{workplace_with_store}/mlflow.db")
    assert not client.search_runs([e.experiment_id for e in client.search_experiments()])


def test_a_multirun_on_a_closed_port_ends_before_any_job(workplace):
    process = start(workplace, "-m", "seed=0,1", *TINY, "tracking.uri=http://127.0.0.1:9")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2 and "no server answers" in err
    assert len(err.splitlines()) == 1
    assert list(workplace.glob("multirun/*")) == []


def test_jobs_leave_no_global_state_behind(command, workplace_with_store, monkeypatch):
    import torch

    before = (
        torch.get_num_threads(), torch.get_default_dtype(), torch.random.get_rng_state().sum(),
        np.random.get_state()[1].sum(), signal.getsignal(signal.SIGTERM), os.getcwd(),
    )  # fmt: skip
    assert command("train", "-m", "seed=0,1", *TINY, "threads=2", "dtype=float64").code == 0
    assert before == (
        torch.get_num_threads(), torch.get_default_dtype(), torch.random.get_rng_state().sum(),
        np.random.get_state()[1].sum(), signal.getsignal(signal.SIGTERM), os.getcwd(),
    )  # fmt: skip


# ------------------------------------------------------------------ in parallel


def count(work: Path, status: str) -> int:
    folders = list(work.glob("multirun/*"))
    return sum(one == status for one in statuses(work).values()) if folders else 0


def workers_of(process: subprocess.Popen) -> list:
    """Processes of a joblib launcher that run jobs."""
    import psutil

    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "popen_loky" in " ".join(child.cmdline())]


@pytest.mark.slow  # two minutes or so: joblib's processes import everything
@pytest.mark.timeout(900)
def test_twelve_jobs_survive_the_death_of_a_worker_and_of_the_launcher(tmp_path, monkeypatch):
    monkeypatch.setenv("L2L_CACHE", str(tmp_path / "cache"))
    work = tmp_path / "work"
    work.mkdir()
    launch = (
        "-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seed=range(12)",
        *use_fragile(work, "fragile_in_parallel"), "optimizer.broken_seed=5",
        "optimizer.sleep=0.03", "training.episodes=8",
    )  # fmt: skip
    ends: dict[int, float] = {}

    def note_ends() -> None:
        for path in sweep_of(work).glob("*/run.json"):
            one = record.read(path.parent)
            if one.status in ("FINISHED", "FAILED"):
                job = int(path.parent.name)
                assert ends.setdefault(job, one.ended) == one.ended, f"job {job} ended twice"

    process = start(work, *launch)
    wait_for(lambda: count(work, "FINISHED") >= 2 and count(work, "RUNNING"))
    workers_of(process)[0].kill()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1 and "launch the same command again" in err
    assert "Traceback" not in err
    note_ends()
    had = len(ends)

    process = start(work, *launch)
    wait_for(lambda: count(work, "FINISHED") >= had + 2 and count(work, "RUNNING"))
    workers = workers_of(process)
    process.send_signal(signal.SIGKILL)
    wait_for(lambda: not any(worker.is_running() for worker in workers), 30)
    process.communicate()
    note_ends()

    for _ in range(5):
        process = start(work, *launch)
        out, err = process.communicate(timeout=300)
        note_ends()
        if len(ends) == 12:
            break
    assert process.returncode == 1 and "1 failed" in out
    assert statuses(work) == {job: "FAILED" if job == 5 else "FINISHED" for job in range(12)}
    process = start(work, *launch)
    out, err = process.communicate(timeout=300)
    note_ends()
    assert "0 done, 11 finished before and skipped, 1 failed" in out
    parent, children = runs_in(work)
    assert parent.info.status == "FAILED"
    by_seed = {int(child.data.params["seed"]): child.info.status for child in children}
    assert by_seed == {s: "FAILED" if s == 5 else "FINISHED" for s in range(12)}
    assert len(children) == 12
    for path in sweep_of(work).glob("[0-9]*/metrics.jsonl"):
        lines = [json.loads(text) for text in path.read_text().splitlines()]
        seen = [
            (name, one["step"]) for one in lines for name in one if name not in ("step", "time")
        ]
        assert len(seen) == len(set(seen))
    check_aggregate(work)


@pytest.mark.slow  # half a minute: joblib's processes import everything
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("number", "whom", "code"),
    [(signal.SIGINT, "everybody", 130), (signal.SIGTERM, "the launcher", 143)],
)
def test_a_signal_closes_a_parallel_multirun(number, whom, code, tmp_path, monkeypatch):
    monkeypatch.setenv("L2L_CACHE", str(tmp_path / "cache"))
    launch = (
        "-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seed=range(4)",
        *use_fragile(tmp_path, "fragile_in_parallel"), "optimizer.sleep=0.03",
        "training.episodes=20",
    )  # fmt: skip
    process = start(tmp_path, *launch)
    wait_for(lambda: count(tmp_path, "RUNNING") == 2)
    workers = workers_of(process)
    (os.killpg if whom == "everybody" else os.kill)(process.pid, number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code and err.splitlines()[-2:] == [
        "l2l-train: interrupted", "l2l-train: launch the same command again to go on",
    ]  # fmt: skip
    wait_for(lambda: not any(worker.is_running() for worker in workers), 30)
    parent, children = runs_in(tmp_path)
    assert parent.info.status == "KILLED"
    assert {child.info.status for child in children} == {"KILLED"}
    assert set(statuses(tmp_path).values()) == {"KILLED"}


@pytest.mark.slow  # half a minute: four processes on a few cores
@pytest.mark.timeout(400)
def test_four_processes_at_once_on_a_store_that_does_not_exist(tmp_path, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.setenv("L2L_CACHE", str(tmp_path / "cache"))
    processes = [start(tmp_path, "experiment=smoke", f"seed={seed}") for seed in range(4)]
    outcomes = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, outcomes
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert sorted(run.data.params["seed"] for run in runs) == ["0", "1", "2", "3"]
    for run in runs:
        assert run.info.status == "FINISHED"
        assert {m.step for m in client.get_metric_history(run.info.run_id, "meta_loss")} == {
            1, 2, 3, 4,
        }  # fmt: skip
        assert {a.path for a in client.list_artifacts(run.info.run_id)} == {
            "checkpoint", "comparison.pdf", "comparison.png", "config.yaml", "curves.parquet",
            "steps.parquet", "summary.json",
        }  # fmt: skip
    shutil.rmtree(tmp_path / "mlartifacts")
