"""The list of a multirun's jobs: which there are, how far they have come, what is left to pay."""

import dataclasses
from pathlib import Path

import pytest
from filelock import FileLock
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import open_dict

from l2l_exp import joblist, record
from l2l_exp.config import register, shipped
from l2l_exp.joblist import listed, planned, swept
from l2l_exp.record import Record
from l2l_exp.report.answers import duration

pytest_plugins = ["edge_fixtures"]


@pytest.fixture
def launch():
    """The config of a multirun, as its hook sees it."""

    def composed(*overrides):
        several = [o for o in overrides if "," in o]  # compose itself refuses them
        config = compose("train", [o for o in overrides if o not in several], True)
        with open_dict(config):
            config.hydra.overrides.task += several
        return config

    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(shipped("conf")), version_base="1.3"):
        yield composed


def leave(folder: Path, overrides, status="FINISHED", seconds=0.0) -> None:
    """The record of a job."""
    folder.mkdir(parents=True)
    one = Record("train", list(overrides), [], {}, {}, 1, ".")
    dataclasses.replace(one, status=status, seconds=seconds).write(folder)


def test_jobs_are_those_that_the_sweeper_makes(launch):
    jobs = planned(launch("sweeps=architectures", "optimizer=lstm,gru", "experiment=digits"))
    assert len(jobs) == 6
    assert jobs[0][:2] == ("optimizer=lstm", "seed=0") and jobs[5][:2] == (
        "optimizer=gru",
        "seed=2",
    )
    assert all("experiment=digits" in job for job in jobs)


def test_swept_keys_come_from_the_preset_and_the_command_line(launch):
    assert swept(launch("sweeps=seeds", "experiment=digits")) == ["seed"]
    assert swept(launch("seed=0,1", "optimizer.layers=1,2", "threads=1")) == [
        "seed", "optimizer.layers",
    ]  # fmt: skip


def test_every_job_is_listed_with_its_state(launch, tmp_path):
    config, folder = launch("sweeps=seeds", "experiment=digits"), tmp_path / "seeds-1"
    jobs = planned(config)
    for number, status in ((0, "FINISHED"), (1, "FAILED"), (2, "KILLED"), (3, "RUNNING")):
        leave(folder / str(number), jobs[number], status, seconds=10.0)
    found = listed(config, folder, "seeds")
    assert [job.state for job in found.jobs] == [
        "done", "failed", "interrupted", "interrupted", "to do",
    ]  # fmt: skip
    assert [job.values for job in found.jobs] == [(f"seed={seed}",) for seed in range(5)]
    with FileLock(folder / "3" / record.LOCK):
        assert listed(config, folder, "seeds").jobs[3].state == "running"


def test_the_forecast_is_the_mean_of_what_was_done(launch, tmp_path):
    config, folder = launch("sweeps=seeds", "experiment=digits"), tmp_path / "seeds-1"
    for number, seconds in ((0, 100.0), (1, 300.0)):
        leave(folder / str(number), planned(config)[number], seconds=seconds)
    found = listed(config, folder, "seeds")
    assert [job.forecast for job in found.jobs] == [0.0, 0.0, 200.0, 200.0, 200.0]
    assert "5 jobs: 2 done, 3 to do; about 10 min left (measured on those done)" in str(found)


def test_an_earlier_run_of_the_same_job_is_the_best_forecast(launch, tmp_path):
    config = launch("sweeps=seeds", "experiment=digits")
    jobs = planned(config)
    leave(tmp_path / "seeds-0" / "0", jobs[0], seconds=50.0)
    leave(tmp_path / "seeds-0" / "1", [*reversed(jobs[1]), "tracking.uri=x"], seconds=150.0)
    leave(tmp_path / "other-0" / "2", jobs[2], seconds=999.0)
    found = listed(config, tmp_path / "seeds-1", "seeds")
    assert [job.forecast for job in found.jobs] == [50.0, 150.0, 100.0, 100.0, 100.0]
    assert "earlier runs" in str(found)


def test_without_any_run_the_preset_is_believed(launch, tmp_path):
    config = launch("sweeps=seeds", "experiment=digits", "study.minutes=2")
    assert "about 10 min left (the preset says so" in str(listed(config, tmp_path / "a", "seeds"))
    config = launch("sweeps=seeds", "experiment=digits", "study.minutes=null")
    assert "no forecast" in str(listed(config, tmp_path / "a", "seeds"))


def test_jobs_side_by_side_take_less_time(launch, tmp_path):
    overrides = ["sweeps=seeds", "experiment=digits", "study.minutes=2", "hydra/launcher=joblib"]
    for count, told in ((2, "5 min left, 2 side by side"), (50, "2 min left")):
        config = launch(*overrides, f"hydra.launcher.n_jobs={count}")
        assert told in str(listed(config, tmp_path / "a", "seeds"))


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(3.2, "3 s"), (89, "89 s"), (91, "2 min"), (3600, "60 min"), (9000, "2.5 h")],
)
def test_durations_are_told_as_people_do(seconds, told):
    assert duration(seconds) == told


def test_a_listing_runs_nothing_and_leaves_nothing(command, workplace):
    outcome = command("train", "sweeps=seeds", "experiment=digits", "seed=7,8", "--list")
    assert outcome.code == 0
    assert "seed=7" in outcome.out and "seed=8" in outcome.out and "2 to do" in outcome.out
    assert list(workplace.iterdir()) == []


def test_a_listing_of_a_single_run_is_refused(command, workplace):
    outcome = command("train", "experiment=smoke", "--list")
    assert outcome.code == 2 and "--list" in outcome.err and "-m" in outcome.err
    assert "Traceback" not in outcome.err


def test_a_cluster_that_is_not_there_is_named_before_anything_begins(
    command, workplace, monkeypatch
):
    monkeypatch.setattr("shutil.which", lambda name: None)
    outcome = command("train", "sweeps=seeds", "experiment=digits", "hydra/launcher=slurm")
    assert outcome.code == 2 and "srun" in outcome.err and "joblib" in outcome.err
    assert not list(workplace.glob("multirun/*")) and not (workplace / "mlflow.db").exists()


@pytest.mark.parametrize("name", ["slurm", "slurm_gpu"])
def test_slurm_presets_compose_to_what_submitit_takes(launch, name):
    from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf

    config = launch(
        "sweeps=seeds", f"hydra/launcher={name}", "hydra.launcher.partition=short"
    ).hydra.launcher
    fields = {field.name for field in dataclasses.fields(SlurmQueueConf)}
    assert set(config) - fields == set()
    assert config._target_.endswith("SlurmLauncher") and config.partition == "short"
    assert config.max_num_timeout > 0 and config.signal_delay_s >= 30  # goes on where it was
    assert config.gpus_per_node == (1 if name == "slurm_gpu" else None)
    assert joblist._side_by_side(launch("seed=0,1", f"hydra/launcher={name}")) == 32
