"""Fixtures of the tests of the edge: an MLflow store to copy, a work place, commands in-process."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra


@pytest.fixture(scope="session")
def store_template(tmp_path_factory) -> Path:
    """An sqlite store with its schema and nothing else; making one takes seconds."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("store_template") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments(max_results=1)
    return path


@pytest.fixture
def store(store_template, tmp_path) -> str:
    """Tracking URI of a fresh store in `tmp_path`."""
    shutil.copy(store_template, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def workplace(tmp_path, monkeypatch, tmp_path_factory) -> Path:
    """An empty working directory; caches and data lie elsewhere, the process is left as it was."""
    cache = tmp_path_factory.getbasetemp() / "cache"  # shared: tuned rates are found once
    monkeypatch.setenv("L2L_CACHE", str(cache))
    monkeypatch.setenv("L2L_DATA", str(cache / "no_data"))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # the commands set it
    monkeypatch.setattr(sys, "path", list(sys.path))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


@pytest.fixture
def workplace_with_store(workplace, store_template) -> Path:
    """The same, with the default store in it, so that a run need not create it."""
    shutil.copy(store_template, workplace / "mlflow.db")
    return workplace


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def command(workplace, monkeypatch, capfd) -> Iterator[Callable[..., Outcome]]:
    """Calls l2l-train or l2l-evaluate as its entry point does, in this process."""
    from l2l_exp import cli

    def call(name: str, *arguments: str) -> Outcome:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", [f"l2l-{name}", *arguments])
        capfd.readouterr()
        code = cli._command(name)
        return Outcome(code, *capfd.readouterr())

    yield call
    GlobalHydra.instance().clear()
