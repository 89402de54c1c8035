"""Studies from folders, stores and shipped results; what cannot be read is told, not raised."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from multirun_files import Planned, compared, seeds, write_multirun, write_store

from l2l_exp.report import sources, studies
from l2l_exp.report.sections import sections
from l2l_exp.report.shipping import rounded, ship, slim
from l2l_exp.report.sources import Collection
from l2l_exp.tracking import Store, TrackingError

pytest_plugins = ["edge_fixtures"]

CONDITIONS = [
    Planned(seed, (f"optimizer.a={a}",), rate)
    for a, rate in ((1, 0.05), (2, 0.1))
    for seed in (0, 1)
]


def only(collection: Collection) -> studies.Study:
    """The single study, read without a problem."""
    assert collection.problems == []
    (found,) = collection.found
    return found.study


def same(one: studies.Study, other: studies.Study, keys=("run_id", "seed", "condition")) -> None:
    """Two studies say the same, but for ids and errors."""
    ids = dict(zip(one.runs["run_id"], other.runs["run_id"], strict=True))
    for column in ("seed", "condition", "status", "seconds", "commit"):
        assert list(one.runs[column]) == list(other.runs[column]), column
    steps = one.steps.assign(run_id=one.steps["run_id"].astype(str).map(ids))
    theirs = other.steps.assign(run_id=other.steps["run_id"].astype(str))
    pd.testing.assert_frame_equal(steps, theirs, check_categorical=False, check_dtype=False)
    mine = one.criteria.drop(columns="run_id")
    pd.testing.assert_frame_equal(mine, other.criteria.drop(columns="run_id"))
    for name in ("name", "title", "question", "command", "charts", "expected"):
        assert getattr(one, name) == getattr(other, name), name


def test_a_folder_is_read_with_its_conditions_and_what_its_summaries_say(tmp_path):
    folder = write_multirun(tmp_path, "mine", CONDITIONS, 4)
    study = only(sources.from_folders([tmp_path]))
    assert (study.name, study.title, study.expected) == ("mine", "A title", 4)
    assert study.command == "l2l-train sweeps=mine" and study.keys == ["optimizer.a"]
    assert list(study.runs["condition"]) == ["optimizer.a=1"] * 2 + ["optimizer.a=2"] * 2
    for planned in CONDITIONS:
        summary, curves = compared(planned)
        rows = study.criteria[study.criteria["run_id"] == planned.run_id]
        final = rows[rows["criterion"] == "final"].iloc[0]
        assert final["log_ratio"] == summary["paired"]["final"]["log_ratio"]["median"]
        losses = curves[(curves["kind"] == "learned") & (curves["step"] == 4)]["loss"]
        steps = study.steps[study.steps["run_id"] == planned.run_id]
        last = steps[(steps["kind"] == "learned") & (steps["step"] == 4)].iloc[0]
        assert last["loss_mean"] == pytest.approx(losses.mean(), rel=1e-5)
    same(study, only(sources.from_folders([folder])))


def test_a_store_gives_what_the_folder_gives(tmp_path, store):
    stopped = Planned(7, ("optimizer.a=2",), status="KILLED")
    older = [*CONDITIONS[:3], Planned(1, ("optimizer.a=2",), 0.1, stepwise=False), stopped]
    folder = write_multirun(tmp_path / "multirun", "mine", older, 6)
    from_folder = only(sources.from_folders([folder]))
    write_store(store, folder)
    from_store = only(sources.from_store(store))
    same(from_folder, from_store)
    assert list(from_store.runs["status"]) == ["FINISHED"] * 4 + ["KILLED"]


def test_artifacts_that_lie_elsewhere_are_downloaded(tmp_path, store):
    folder = write_multirun(tmp_path / "multirun", "mine", seeds(1))
    parent = write_store(store, folder)
    (run,) = Store(store).children(parent)
    beside = Store(store).files([run], ["summary.json", "nothing"], tmp_path / "away")[run.run_id]
    assert list(beside) == ["summary.json"] and not (tmp_path / "away").exists()
    remote = run.__class__(**{**run.__dict__, "artifacts": "mlflow-artifacts:/0/artifacts"})
    fetched = Store(store).files([remote], ["summary.json", "nothing"], tmp_path / "away")
    (path,) = fetched[run.run_id].values()
    assert tmp_path / "away" in path.parents
    assert path.read_bytes() == beside["summary.json"].read_bytes()


def test_an_empty_store_has_no_studies_and_one_that_is_not_there_is_an_error(tmp_path, store):
    assert sources.from_store(store) == Collection()
    with pytest.raises(TrackingError, match="does not exist"):
        sources.from_store(f"sqlite:///{tmp_path / 'none.db'}")


def test_a_run_that_began_anew_counts_once(tmp_path, store):
    folder = write_multirun(tmp_path / "multirun", "mine", seeds(2))
    parent = write_store(store, folder)
    from l2l_exp.tracking import MlflowTracker

    again = MlflowTracker(folder / "1", store, "reports", parent=parent)
    again.tags({"overrides": json.dumps(["seed=1"])})
    again.finish("FAILED")
    study = only(sources.from_store(store))
    assert list(study.runs["status"]) == ["FINISHED", "FAILED"]


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("steps.parquet", "its table of losses cannot be read: ArrowInvalid"),
        ("summary.json", "cannot be read: JSONDecodeError"),
        ("run.json", "run.json cannot be read: JSONDecodeError"),
    ],
)
def test_a_broken_file_costs_its_own_run_and_is_named(tmp_path, file, told):
    folder = write_multirun(tmp_path, "mine", CONDITIONS, 4)
    (folder / "2" / file).write_text("{broken")
    study = only(sources.from_folders([folder]))
    assert [type(error) is str for error in study.runs["error"]] == [False, False, True, False]
    assert study.runs["error"].iloc[2].startswith(told)
    assert study.keys == ["optimizer.a"]
    assert set(study.steps["run_id"]) == {CONDITIONS[i].run_id for i in (0, 1, 3)}
    (section,) = sections(Collection(sources.from_folders([folder]).found), [])
    assert told in " ".join(section.complaints)


def test_a_broken_study_costs_itself_and_is_named(tmp_path):
    ship(sources.from_folders([write_multirun(tmp_path / "a", "mine", seeds(1))]).found, tmp_path)
    ship(sources.from_folders([write_multirun(tmp_path / "b", "other", seeds(1))]).found, tmp_path)
    (tmp_path / "mine" / studies.FILE).write_text('{"name": "mine"}')
    collection = sources.from_shipped(tmp_path)
    assert [found.study.name for found in collection.found] == ["other"]
    assert collection.problems == [f"{tmp_path / 'mine'} cannot be read: KeyError: 'summaries'"]
    broken = write_multirun(tmp_path / "c", "third", seeds(1))
    (broken / "sweep.json").write_text("{")
    assert "third-0a1b2c3d cannot be read" in sources.from_folders([broken]).problems[0]


def test_what_is_no_folder_is_one_line(tmp_path):
    for read, key in (
        (lambda p: sources.from_folders([p]), "folders"),
        (sources.from_shipped, "results"),
    ):
        with pytest.raises(ValueError, match=f"{key}=.*nothing is not a folder"):
            read(tmp_path / "nothing")


# ------------------------------------------------------------------ shipping


def test_a_shipped_study_says_the_same_to_four_digits(tmp_path):
    study = only(sources.from_folders([write_multirun(tmp_path / "m", "mine", CONDITIONS, 4)]))
    assert ship(sources.from_folders([tmp_path / "m"]).found, tmp_path / "out") == [
        tmp_path / "out" / "mine"
    ]
    back = only(sources.from_shipped(tmp_path / "out"))
    pd.testing.assert_frame_equal(back.criteria, study.criteria, rtol=1e-5)
    pd.testing.assert_frame_equal(back.runs, study.runs, check_dtype=False)
    kept = list(study.steps.dropna(axis="columns", how="all"))
    assert list(back.steps) == kept and "held_out_loss_mean" not in kept
    pd.testing.assert_frame_equal(
        back.steps, study.steps[kept], rtol=3e-4, check_categorical=False, check_dtype=False
    )
    assert all("comparisons" not in one for one in back.summaries.values())


def test_rounding_is_to_the_nearest_and_leaves_what_is_not_finite_alone():
    rng = np.random.default_rng(0)
    values = np.concatenate(
        [rng.lognormal(0, 15, 10_000) * rng.choice([-1, 1], 10_000), [0, np.inf, -np.inf, np.nan]]
    ).astype(np.float32)
    table = pd.DataFrame({"a": values, "step": np.arange(len(values))})
    got = rounded(table)["a"].to_numpy()
    normal = np.isfinite(values) & (np.abs(values) > 1e-37)
    error = np.abs(got[normal] / values[normal] - 1)
    assert error.max() <= 2.0**-12 and error.max() > 2.0**-13
    np.testing.assert_array_equal(got[-4:], values[-4:])
    assert len(np.unique(got.view(np.uint32) & 0xFFF)) == 1  # the bits that compress
    pd.testing.assert_series_equal(rounded(table)["step"], table["step"])


def test_smoke_runs_and_unfinished_studies_are_not_shipped(tmp_path):
    write_multirun(tmp_path / "m", "short", seeds(1), overrides=["smoke=training"])
    write_multirun(tmp_path / "m", "begun", seeds(1, status="RUNNING"))
    write_multirun(tmp_path / "m", "done", seeds(1), overrides=["experiment=digits"])
    written = ship(sources.from_folders([tmp_path / "m"]).found, tmp_path / "out")
    assert [path.name for path in written] == ["done-experiment-digits"]
    assert ship(sources.from_shipped(tmp_path / "out").found, tmp_path / "again") == []


def test_slimming_leaves_the_study_alone(tmp_path):
    study = only(sources.from_folders([write_multirun(tmp_path, "mine", seeds(2))]))
    before = study.steps.copy()
    slim(study)
    pd.testing.assert_frame_equal(study.steps, before)


def test_the_youngest_multirun_of_a_command_is_told_of(tmp_path):
    import os

    first = write_multirun(tmp_path / "a", "mine", seeds(2))
    second = write_multirun(tmp_path / "b", "mine", seeds(3))
    begun = write_multirun(tmp_path / "c", "mine", seeds(1, status="RUNNING"))
    for age, folder in ((300, first), (200, second), (100, begun)):
        os.utime(folder / "sweep.json", (1e9 - age, 1e9 - age))
    found = sources.from_folders([first, second, begun])
    (section,) = sections(found, [])
    assert len(section.study.runs) == 3 and Path(section.origin) == second
