"""Where runs write and what can be read back: a folder, and an sqlite MLflow store beside it."""

import json
import math
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from l2l_exp import checkpoint
from l2l_exp.checkpoint import CheckpointError
from l2l_exp.optimizers.lstm import CoordinatewiseLSTM
from l2l_exp.tracking import (
    MlflowTracker,
    NoTracker,
    Store,
    Tracker,
    TrackingError,
    absolute_uri,
    trained_rule,
)
from l2l_exp.tracking.mlflow_tracker import PARAM_LENGTH

pytest_plugins = ["edge_fixtures"]


@pytest.fixture
def rule() -> CoordinatewiseLSTM:
    made = CoordinatewiseLSTM(hidden_units=2, layers=1, seed=3)
    made.architecture = {
        "_target_": "l2l_exp.optimizers.lstm.CoordinatewiseLSTM", "hidden_units": 2, "layers": 1,
    }  # fmt: skip
    return made


@pytest.fixture
def tracker(store, tmp_path) -> MlflowTracker:
    """A tracker on a store of its own."""
    return MlflowTracker(tmp_path / "run", store, "study")


@pytest.fixture(params=["none", "mlflow"])
def any_tracker(request, tmp_path) -> Tracker:
    """Both implementations."""
    if request.param == "none":
        return NoTracker(tmp_path / "run")
    return MlflowTracker(tmp_path / "run", request.getfixturevalue("store"), "study")


def run_of(tracker: MlflowTracker):
    """What MLflow's own client reads back."""
    from mlflow import MlflowClient

    return MlflowClient(tracker.uri).get_run(tracker.run_id)


def artifacts(tracker: MlflowTracker, folder: str | None = None) -> set[str]:
    from mlflow import MlflowClient

    return {a.path for a in MlflowClient(tracker.uri).list_artifacts(tracker.run_id, folder)}


def closed_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Drawing:
    """The smallest thing that can be saved as a figure."""

    def savefig(self, fname, **settings):
        Path(fname).write_bytes(b"drawn")


def same_parameters(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


# ------------------------------------------------------------------ every tracker


def test_a_tracker_makes_its_folder_and_has_a_run_id(any_tracker):
    assert any_tracker.folder.is_dir()
    assert len(any_tracker.run_id) == 32


def test_a_table_comes_back_from_the_folder(any_tracker):
    table = pd.DataFrame({"step": [0, 1], "loss": [1.5, math.inf]})
    path = any_tracker.table("curves", table)
    assert path == any_tracker.folder / "curves.parquet"
    pd.testing.assert_frame_equal(pd.read_parquet(path), table)


def test_json_has_null_where_a_number_is_not_finite(any_tracker):
    content = {
        "bad": math.nan,
        "nested": {"list": [1.0, math.inf, {"deep": -math.inf}], "tuple": (2, math.nan)},
        "good": [1, 2.5, True, None, "inf"],
    }
    text = any_tracker.record("summary", content).read_text()

    def refuse(constant):
        raise AssertionError(f"{constant} is not json")

    assert json.loads(text, parse_constant=refuse) == {
        "bad": None,
        "nested": {"list": [1.0, None, {"deep": None}], "tuple": [2, None]},
        "good": [1, 2.5, True, None, "inf"],
    }


def test_a_figure_is_written_for_eyes_and_for_papers(any_tracker):
    paths = any_tracker.figure("comparison", Drawing())
    assert {path.name for path in paths} == {"comparison.png", "comparison.pdf"}
    assert all(path.read_bytes() == b"drawn" for path in paths)


def test_a_text_is_written(any_tracker):
    assert any_tracker.text("config.yaml", "seed: 0\n").read_text() == "seed: 0\n"


def test_a_checkpoint_knows_its_run(any_tracker, rule):
    folder = any_tracker.checkpoint(rule, {"episode": 4})
    about = checkpoint.read_description(folder)["about"]
    assert about == {"run_id": any_tracker.run_id, "episode": 4}
    assert same_parameters(checkpoint.load(folder), rule)


# ------------------------------------------------------------------ no store


def test_without_a_store_metrics_are_lines_of_json(tmp_path):
    tracker = NoTracker(tmp_path)
    tracker.metrics({"loss": 2.0, "norm": math.inf}, 3)
    tracker.metrics({"loss": 1.0}, 4)
    tracker.finish("FINISHED")
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all(abs(line.pop("time") / 1000 - time.time()) < 60 for line in lines)
    assert lines == [{"step": 3, "loss": 2.0, "norm": None}, {"step": 4, "loss": 1.0}]


def test_without_a_store_nothing_leaves_the_folder(workplace, rule):
    tracker = NoTracker(workplace / "run")
    tracker.params({"a": 1})
    tracker.tags({"b": 2})
    tracker.metrics({"c": 3.0}, 0)
    tracker.record("summary", {})
    tracker.checkpoint(rule, {})
    tracker.finish("FINISHED")
    assert [path.name for path in workplace.iterdir()] == ["run"]


def test_without_a_store_runs_still_have_names_of_their_own(tmp_path):
    assert NoTracker(tmp_path / "a").run_id != NoTracker(tmp_path / "b").run_id


# ------------------------------------------------------------------ MLflow


def test_params_tags_and_metrics_land_in_the_run(tracker):
    tracker.params({"seed": 3, "optimizer.layers": 2, "patience": None})
    tracker.tags({"git.clean": True, "python": "3.11"})
    tracker.metrics({"loss": 2.0}, 1)
    tracker.metrics({"loss": 1.5, "norm": 3.0}, 2)
    tracker.finish("FINISHED")
    run = run_of(tracker)
    assert run.data.params == {"seed": "3", "optimizer.layers": "2", "patience": "None"}
    assert run.data.tags.items() >= {"git.clean": "True", "python": "3.11"}.items()
    assert run.data.metrics == {"loss": 1.5, "norm": 3.0}
    assert run.info.status == "FINISHED" and run.info.end_time is not None


@pytest.mark.parametrize("end", ["FINISHED", "FAILED", "KILLED"])
def test_a_run_ends_as_it_is_told(tracker, end):
    assert run_of(tracker).info.status == "RUNNING"
    tracker.finish(end)
    assert run_of(tracker).info.status == end


def test_every_step_of_a_metric_is_kept_in_order_however_many(tracker):
    from mlflow import MlflowClient

    for step in range(130):  # more than one batch
        tracker.metrics({"loss": 1000.0 - step, "norm": float(step)}, step)
    tracker.finish("FAILED")
    for name, first in (("loss", 1000.0), ("norm", 0.0)):
        history = MlflowClient(tracker.uri).get_metric_history(tracker.run_id, name)
        assert sorted(m.step for m in history) == list(range(130))
        assert {m.step: m.value for m in history}[0] == first


def test_metrics_that_are_not_finite_are_left_out(tracker):
    tracker.metrics({"inf": math.inf, "minus": -math.inf, "nan": math.nan, "fine": 0.5}, 0)
    tracker.finish("FINISHED")
    assert run_of(tracker).data.metrics == {"fine": 0.5}


def test_more_params_than_a_batch_holds_are_all_logged(tracker):
    values = {f"key.{i}": i for i in range(250)}
    tracker.params(values)
    assert run_of(tracker).data.params == {key: str(value) for key, value in values.items()}


def test_a_long_param_is_cut_to_what_the_store_holds(tracker):
    tracker.params({"long": "x" * (PARAM_LENGTH + 1000), "short": "y"})
    assert run_of(tracker).data.params == {"long": "x" * PARAM_LENGTH, "short": "y"}


def test_what_is_written_is_an_artifact_too(tracker, rule):
    tracker.table("curves", pd.DataFrame({"loss": [1.0]}))
    tracker.record("summary", {"n": 1})
    tracker.text("config.yaml", "seed: 0\n")
    tracker.figure("comparison", Drawing())
    tracker.checkpoint(rule, {})
    tracker.finish("FINISHED")
    assert artifacts(tracker) == {
        "curves.parquet", "summary.json", "config.yaml", "comparison.png", "comparison.pdf",
        "checkpoint",
    }  # fmt: skip
    assert artifacts(tracker, "checkpoint") == {
        "checkpoint/rule.json", "checkpoint/rule.safetensors",
    }  # fmt: skip
    copy = Store(tracker.uri).artifact(tracker.run_id, "summary.json")
    assert copy.read_text() == (tracker.folder / "summary.json").read_text()


def test_artifacts_lie_beside_the_store_wherever_the_run_started(
    store, tmp_path, monkeypatch, rule
):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    tracker = MlflowTracker(tmp_path / "run", "sqlite:///mlflow.db", "study")
    monkeypatch.chdir(tmp_path / "elsewhere")
    tracker.record("summary", {"n": 1})
    uri = run_of(tracker).info.artifact_uri
    assert uri.startswith((tmp_path / "mlartifacts").as_uri())
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert Store(store).artifact(tracker.run_id, "summary.json").is_file()


def test_runs_of_one_experiment_share_it(store, tmp_path):
    one = MlflowTracker(tmp_path / "a", store, "study")
    two = MlflowTracker(tmp_path / "b", store, "study", run_name="second")
    other = MlflowTracker(tmp_path / "c", store, "another")
    ids = [run_of(tracker).info.experiment_id for tracker in (one, two, other)]
    assert ids[0] == ids[1] != ids[2]
    assert run_of(two).info.run_name == "second"


def test_no_run_is_left_active_in_the_process(tracker):
    import mlflow

    assert mlflow.active_run() is None


# ------------------------------------------------------------------ addresses


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("sqlite:///mlflow.db", "sqlite:///{here}/mlflow.db"),
        ("sqlite:///a/b.db", "sqlite:///{here}/a/b.db"),
        ("sqlite:////tmp/b.db", "sqlite:////tmp/b.db"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
    ],
)
def test_a_relative_sqlite_path_means_the_working_directory(uri, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    absolute = absolute_uri(uri)
    assert absolute == expected.format(here=tmp_path)
    monkeypatch.chdir("/")
    assert absolute_uri(absolute) == absolute


@pytest.mark.parametrize("host", ["http://127.0.0.1", "https://localhost"])
def test_where_no_server_listens_a_tracker_fails_within_seconds(host, tmp_path):
    uri = f"{host}:{closed_port()}"
    start = time.perf_counter()
    for opened in (lambda: MlflowTracker(tmp_path, uri, "study"), lambda: Store(uri)):
        with pytest.raises(TrackingError, match="no server answers") as caught:
            opened()
        assert uri in str(caught.value)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("uri", ["sqlite:////proc/nowhere/mlflow.db", "./mlruns", "ftp://x/y"])
def test_a_store_that_cannot_be_opened_is_named(uri, tmp_path):
    with pytest.raises(TrackingError) as caught:
        MlflowTracker(tmp_path, uri, "study")
    assert uri in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_no_store_is_named(tmp_path):
    (tmp_path / "mlflow.db").write_text("this is not a database, but it is long enough for one\n")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with pytest.raises(TrackingError) as caught:
        MlflowTracker(tmp_path / "run", uri, "study")
    assert uri in str(caught.value) and "\n" not in str(caught.value)


def test_a_deleted_experiment_is_named(store, tmp_path):
    from mlflow import MlflowClient

    client = MlflowClient(store)
    client.delete_experiment(client.create_experiment("study"))
    with pytest.raises(TrackingError, match="study"):
        MlflowTracker(tmp_path / "run", store, "study")


OPENS = """
import sys, time, pathlib
from l2l_exp.tracking import MlflowTracker
name, folder, uri = sys.argv[1:]
pathlib.Path(folder, f"{name}.ready").touch()
while len(list(pathlib.Path(folder).glob("*.ready"))) < 2:
    time.sleep(0.01)
tracker = MlflowTracker(pathlib.Path(folder, name), uri, "study")
tracker.record("summary", {"name": name})
tracker.finish("FINISHED")
print(tracker.run_id)
"""


@pytest.mark.slow  # about 20 s: two processes import everything, one creates the store
def test_processes_that_open_a_new_store_together_all_succeed(tmp_path):
    uri = f"sqlite:///{tmp_path}/fresh/mlflow.db"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPENS, name, str(tmp_path), uri],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ),
        )
        for name in ("one", "two")
    ]  # fmt: skip
    results = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    store = Store(uri)
    names = {
        json.loads(store.artifact(out.split()[-1], "summary.json").read_text())["name"]
        for out, _ in results
    }
    assert names == {"one", "two"}


# ------------------------------------------------------------------ reading


def test_a_store_that_does_not_exist_is_not_created_by_looking(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with pytest.raises(
        TrackingError, match=r"does not exist: check its address \(tracking\.uri"
    ) as caught:
        Store(uri)
    assert uri in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_run_is_named(store):
    with pytest.raises(TrackingError, match="no run '0123'") as caught:
        Store(store).artifact("0123", "summary.json")
    assert store in str(caught.value)


@pytest.mark.parametrize("path", ["checkpoint", "gone.json"])
def test_an_unknown_artifact_is_named(tracker, path):
    tracker.record("summary", {})
    with pytest.raises(TrackingError) as caught:
        Store(tracker.uri).artifact(tracker.run_id, path)
    assert tracker.run_id in str(caught.value) and repr(path) in str(caught.value)


@pytest.mark.parametrize("form", ["run id", "run folder", "checkpoint folder"])
def test_a_trained_rule_is_found_by(form, tracker, rule):
    folder = tracker.checkpoint(rule, {})
    tracker.finish("FINISHED")
    source = {
        "run id": tracker.run_id,
        "run folder": str(tracker.folder),
        "checkpoint folder": str(folder),
    }[form]
    uri = tracker.uri if form == "run id" else None
    found = trained_rule(source, uri)
    assert same_parameters(found, rule) and found.architecture == rule.architecture


def test_a_trained_rule_is_found_below_the_home_folder(tmp_path, monkeypatch, rule):
    monkeypatch.setenv("HOME", str(tmp_path))
    checkpoint.save(tmp_path / "mine", rule, {})
    assert same_parameters(trained_rule("~/mine", None), rule)


@pytest.mark.parametrize(
    ("source", "uri", "error", "telling"),
    [
        (None, None, ValueError, "optimizer.source is not set"),
        ("", "sqlite:///mlflow.db", ValueError, "optimizer.source is not set"),
        ("no/such/folder", "sqlite:///mlflow.db", ValueError, "no/such/folder"),
        ("0123", None, ValueError, "0123"),
        ("0123", "sqlite:///mlflow.db", TrackingError, "does not exist"),
        (".", None, CheckpointError, "rule.json"),
    ],
)
def test_a_source_that_is_none_is_told(source, uri, error, telling, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error) as caught:
        trained_rule(source, uri)
    assert telling in str(caught.value)


def test_a_run_without_a_checkpoint_is_told(tracker):
    with pytest.raises(TrackingError, match="has no artifact 'checkpoint'"):
        trained_rule(tracker.run_id, tracker.uri)
