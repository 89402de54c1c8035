"""What happens to a run whose store stops answering."""

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from l2l_exp import record
from l2l_exp.tracking import MlflowTracker, mlflow_tracker, outbox, store
from l2l_exp.tracking.journal import Journal
from l2l_exp.tracking.outbox import Outbox, RefusedError

pytest_plugins = ["edge_fixtures"]


class Receiver:
    """Takes things, unless it is away."""

    def __init__(self) -> None:
        self.got: list[int] = []
        self.away = False

    def send(self, thing: int):
        def attempt() -> None:
            if self.away:
                raise ConnectionError("gone away\nwith details")
            self.got.append(thing)

        return attempt


@pytest.fixture
def clock(monkeypatch):
    """A clock that tests turn, and sleeping turns too."""
    now = [100.0]
    monkeypatch.setattr(outbox.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(outbox.time, "sleep", lambda s: now.__setitem__(0, now[0] + s))
    return now


def test_what_is_put_is_sent_at_once_and_in_order(clock):
    told, receiver = [], Receiver()
    box = Outbox(told.append)
    for thing in range(3):
        box.put(receiver.send(thing))
    assert receiver.got == [0, 1, 2] and len(box) == 0 and told == []


def test_what_is_not_taken_waits_and_is_sent_later_in_order(clock):
    told, receiver = [], Receiver()
    box = Outbox(told.append)
    receiver.away = True
    for thing in range(3):
        box.put(receiver.send(thing))
    assert receiver.got == [] and len(box) == 3
    assert len(told) == 1 and "gone away" in told[0] and "details" not in told[0]
    receiver.away = False
    box.put(receiver.send(3))
    assert receiver.got == []  # not yet time
    clock[0] += outbox.FIRST_DELAY
    box.put(receiver.send(4))
    assert receiver.got == [0, 1, 2, 3, 4]
    assert len(told) == 2 and "again" in told[1]


def test_attempts_become_rare_but_do_not_end(clock):
    attempts, box = [], Outbox(lambda text: None)

    def fail() -> None:
        attempts.append(clock[0])
        raise ConnectionError

    for _ in range(4000):
        box.put(fail)
        clock[0] += 1.0
    gaps = [b - a for a, b in zip(attempts, attempts[1:], strict=False)]
    assert gaps[0] == outbox.FIRST_DELAY and max(gaps) == outbox.LONGEST_DELAY
    assert 25 < len(attempts) < 60


def test_what_is_refused_is_told_and_holds_up_nothing(clock):
    told, receiver = [], Receiver()
    box = Outbox(told.append)

    def refuse() -> None:
        raise RefusedError("no such param")

    box.put(refuse)
    box.put(receiver.send(1))
    assert receiver.got == [1] and told == ["the store refused: no such param"]


def test_insisting_has_an_end(clock):
    receiver = Receiver()
    box = Outbox(lambda text: None)
    receiver.away = True
    box.put(receiver.send(0))
    before = clock[0]
    assert box.insist(10.0) is False
    assert 10 <= clock[0] - before < 13
    receiver.away = False
    assert box.insist(10.0) is True and receiver.got == [0]


# ------------------------------------------------------------------ the journal


def test_a_journal_holds_each_metric_of_a_step_once(tmp_path):
    journal = Journal(tmp_path / "m.jsonl")
    assert journal.add({"a": 1.0, "b": math.nan}, 1).values == {"a": 1.0, "b": None}
    assert journal.add({"a": 2.0, "c": 3.0}, 1).values == {"c": 3.0}
    assert journal.add({"a": 2.0}, 2).values == {"a": 2.0}
    again = Journal(tmp_path / "m.jsonl")
    assert again.add({"a": 9.0, "b": 9.0, "d": 4.0}, 1).values == {"d": 4.0}
    assert [entry.values for entry in again.entries()] == [
        {"a": 1.0, "b": None}, {"c": 3.0}, {"a": 2.0}, {"d": 4.0},
    ]  # fmt: skip


def test_a_journal_that_was_cut_off_loses_the_broken_line_only(tmp_path):
    path = tmp_path / "m.jsonl"
    journal = Journal(path)
    journal.add({"a": 1.0}, 1)
    journal.add({"a": 2.0}, 2)
    path.write_bytes(path.read_bytes()[:-7])
    again = Journal(path)
    assert again.add({"a": 2.5}, 2).values == {"a": 2.5}
    assert [json.loads(line)["a"] for line in path.read_text().splitlines()] == [1.0, 2.5]


# ------------------------------------------------------------------ a store that fails


class Failing:
    """An MLflow client some of whose calls fail, before or after the store has what it was sent."""

    def __init__(self, client, fail) -> None:
        self._client, self._fail = client, fail

    def __getattr__(self, name):
        plain = getattr(self._client, name)

        def call(*args, **settings):
            when = self._fail(name)
            if when == "before":
                raise ConnectionError("not reached")
            result = plain(*args, **settings)
            if when == "after":
                raise ConnectionError("no answer came")
            return result

        return call if callable(plain) else plain


@pytest.mark.parametrize("when", ["before", "after"])
def test_nothing_is_lost_and_nothing_is_sent_twice(when, store, tmp_path, monkeypatch):
    """A request whose answer is lost may have arrived: it is asked for before it is sent again."""
    from mlflow import MlflowClient

    monkeypatch.setattr(outbox, "FIRST_DELAY", 1e-6)
    told: list[str] = []
    tracker = MlflowTracker(tmp_path / "run", store, "study", warn=told.append)
    calls = {"log_batch": 0}

    def fail(name):
        if name == "log_batch":
            calls[name] += 1
            return when if calls[name] in (2, 3, 5) else None
        return None

    tracker._client = Failing(tracker._client, fail)
    for step in range(350):
        tracker.metrics({"a": float(step), "b": -float(step)}, step)
    tracker.record("summary", {"n": 1})
    assert tracker.finish("FINISHED") is True
    client = MlflowClient(store)
    run = client.get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    for name, sign in (("a", 1), ("b", -1)):
        history = client.get_metric_history(tracker.run_id, name)
        assert sorted((m.step, m.value) for m in history) == [(s, sign * s) for s in range(350)]
    assert {a.path for a in client.list_artifacts(tracker.run_id)} == {"summary.json"}
    assert any("does not answer" in text for text in told)
    assert any("answers again" in text for text in told)


def test_a_store_that_stays_away_leaves_everything_in_the_folder(
    command, workplace_with_store, monkeypatch
):
    """The run finishes; what the store lacks is sent by resuming it later."""
    from mlflow import MlflowClient

    monkeypatch.setattr(mlflow_tracker, "SECONDS_AT_THE_END", 0.2)
    arguments = ("experiment=smoke", "training.episodes=2", "optimizer.hidden_units=2")
    plain = mlflow_tracker.open_client
    away = [False]

    def opened(uri):
        fail = lambda name: "before" if away[0] else None  # noqa: E731
        return Failing(plain(uri), fail)

    from l2l_exp import jobs

    train = jobs.meta_train

    def leaving(*args):
        away[0] = True
        return train(*args)

    with monkeypatch.context() as patch:
        patch.setattr(mlflow_tracker, "open_client", opened)
        patch.setattr(jobs, "meta_train", leaving)
        outcome = command("train", *arguments)
    assert outcome.code == 0
    assert "does not answer" in outcome.err and "did not get everything" in outcome.err
    (path,) = workplace_with_store.glob("outputs/*/*/run.json")
    assert record.read(path.parent).unsent and record.read(path.parent).status == "FINISHED"
    client = MlflowClient(f"sqlite:///{workplace_with_store}/mlflow.db")
    run_id = record.read(path.parent).run_id
    assert client.get_run(run_id).info.status == "RUNNING"

    outcome = command("train", f"resume={path.parent}")
    assert outcome.code == 0 and outcome.err == ""
    assert not record.read(path.parent).unsent
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert {m.step for m in client.get_metric_history(run_id, "meta_loss")} == {1, 2}
    names = {a.path for a in client.list_artifacts(run_id)}
    assert {"curves.parquet", "summary.json", "comparison.png", "checkpoint"} <= names


# ------------------------------------------------------------------ a real server


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_a_port_that_listens_and_says_nothing_is_no_server(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "PROBE_SECONDS", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(store.TrackingError, match="no server answers"):
            MlflowTracker(tmp_path, uri, "study")


def serve(folder: Path, port: int) -> subprocess.Popen:
    """An MLflow server that answers."""
    process = subprocess.Popen(
        [
            Path(sys.executable).with_name("mlflow"), "server", "--host", "127.0.0.1", "--port",
            str(port), "--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/server.db",
            "--artifacts-destination", str(folder / "artifacts"),
        ],
        cwd=folder, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
    )  # fmt: skip
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            return process
        except OSError:
            time.sleep(0.3)
    raise AssertionError("the server does not start")


@pytest.mark.slow  # a minute: an MLflow server is started twice
@pytest.mark.timeout(400)
def test_a_server_that_dies_in_the_middle_of_a_run_and_comes_back(tmp_path, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.setenv("L2L_CACHE", str(tmp_path / "cache"))
    port = free_port()
    server = serve(tmp_path, port)
    process = subprocess.Popen(
        [
            Path(sys.executable).with_name("l2l-train"), "experiment=smoke",
            "training.episodes=2000", f"tracking.uri=http://127.0.0.1:{port}",
        ],
        cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("outputs/*/*/.resume/training.pt")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()
    time.sleep(6)  # the run notices
    server = serve(tmp_path, port)
    try:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        assert "does not answer" in err and "answers again" in err
        client = MlflowClient(f"http://127.0.0.1:{port}")
        (run,) = client.search_runs(["1"])
        assert run.info.status == "FINISHED"
        history = client.get_metric_history(run.info.run_id, "meta_loss")
        assert sorted(m.step for m in history) == list(range(1, 2001))
        names = {a.path for a in client.list_artifacts(run.info.run_id)}
        assert {"summary.json", "curves.parquet", "checkpoint", "config.yaml"} <= names
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.mark.slow  # a minute: an MLflow server, and four processes that share it
@pytest.mark.timeout(400)
def test_a_server_takes_a_multirun_of_four_processes(tmp_path, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.setenv("L2L_CACHE", str(tmp_path / "cache"))
    port = free_port()
    server = serve(tmp_path, port)
    try:
        outcome = subprocess.run(
            [
                Path(sys.executable).with_name("l2l-train"), "sweeps=fig4_quadratic",
                "smoke=training", "seed=0,1,2,3,4,5,6,7", "hydra/launcher=joblib",
                "hydra.launcher.n_jobs=4", f"tracking.uri=http://127.0.0.1:{port}",
            ],
            cwd=tmp_path, text=True, capture_output=True, timeout=300,
        )  # fmt: skip
        assert outcome.returncode == 0, outcome.stderr
        client = MlflowClient(f"http://127.0.0.1:{port}")
        runs = client.search_runs(["1"])
        (parent,) = (run for run in runs if run.data.tags.get("sweeps"))
        children = [run for run in runs if run is not parent]
        owner = {run.data.tags["mlflow.parentRunId"] for run in children}
        assert owner == {parent.info.run_id}
        assert sorted(run.data.params["seed"] for run in children) == list("01234567")
        for run in (*children, parent):
            assert run.info.status == "FINISHED"
        for run in children:
            names = {a.path for a in client.list_artifacts(run.info.run_id)}
            assert {"summary.json", "curves.parquet", "steps.parquet", "checkpoint"} <= names
            history = client.get_metric_history(run.info.run_id, "curve.learned")
            assert [m.step for m in history] == list(range(9))
        table = {a.path for a in client.list_artifacts(parent.info.run_id)}
        assert {"aggregate.parquet", "seeds.png", "sweep.json"} <= table
        assert "Figure 4" in parent.data.tags["mlflow.note.content"]
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
