"""l2l-report and l2l-compare from their arguments to what lies on the disk."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml
from multirun_files import Planned, seeds, write_multirun, write_store

from l2l_exp import reporting
from l2l_exp.config import shipped

pytest_plugins = ["edge_fixtures"]


def visible(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_report_of_what_lies_here(workplace, command):
    write_multirun(workplace / "multirun", "fig4_mlp", seeds(2), 3)
    done = command("report")
    assert (done.code, done.err) == (0, "")
    assert "fig4_mlp: final: " in done.out and "report/index.html" in done.out
    text = (workplace / "report" / "index.html").read_text()
    assert "2 of 3 done, 1 missing" in text and "l2l-train sweeps=weighting" in text
    assert visible(workplace) == {"multirun", "report"}  # Hydra leaves nothing


def test_ship_and_report_what_was_shipped(workplace, command):
    write_multirun(workplace / "multirun", "fig4_mlp", seeds(2))
    done = command("report", "folders=multirun", "ship=results")
    assert done.code == 0 and "1 studies" in done.out and not (workplace / "report").exists()
    done = command("report", "results=results", "folders=[multirun]", "out=page")
    assert done.code == 0
    assert "Run again on this machine" in (workplace / "page" / "index.html").read_text()


def test_a_report_of_a_store(workplace, command, store):
    write_store(store, write_multirun(workplace / "elsewhere", "fig4_mlp", seeds(2)))
    done = command("report", f"store={store}", "studies=fig4_mlp")
    assert (done.code, done.err) == (0, "")
    text = (workplace / "report" / "index.html").read_text()
    assert "A question?" in text and "weighting" not in text


def test_an_empty_store_is_a_page_that_says_so(workplace, command, store):
    done = command("report", f"store={store}")
    assert done.code == 0
    assert "There is no study here" in (workplace / "report" / "index.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "there is nothing to report: give store=URI, folders=FOLDER or results=FOLDER"),
        (("folders=nothing",), "folders=nothing is not a folder"),
        (("results=nothing",), "results=nothing is not a folder"),
        (("store=sqlite:///nothing.db",), "does not exist"),
        (("folders=there", "studies=[fig4_mpl]"), "studies=fig4_mpl is no study"),
        (("folder=there",), "folder is no key: did you mean folders?"),
        (("-m", "out=a,b"), "leave out -m"),
    ],
)
def test_bad_reports_are_one_line(workplace, command, arguments, told):
    (workplace / "there").mkdir()
    done = command("report", *arguments)
    assert done.code == 2 and told in done.err and len(done.err.splitlines()) == 1
    assert visible(workplace) == {"there"}


def test_comparing_two_multiruns(workplace, command):
    write_multirun(workplace / "multirun", "fast", seeds(3, rate=0.1))
    write_multirun(workplace / "multirun", "slow", seeds(2, rate=0.02))
    done = command("compare", "fast", "slow", "out=both")
    assert (done.code, done.err) == (0, "")
    assert "fast / slow: median ratio" in done.out and "2 of 2" in done.out
    assert "fast (2 of 3 runs): 24 ok" in done.out and "slow (2 of 2 runs): 24 ok" in done.out
    assert visible(workplace / "both") == {
        "compare.csv",
        "compare.pdf",
        "compare.png",
        "compare.svg",
    }
    table = pd.read_csv(workplace / "both" / "compare.csv")
    assert len(table) == 4 and (table["log_ratio"] < 0).all()


def test_comparing_runs_by_folder_and_by_id(workplace, command, store):
    folder = write_multirun(workplace / "multirun", "mine", [Planned(0), Planned(0, rate=0.1)])
    parent = write_store(store, folder)
    from l2l_exp.tracking import Store

    (first, second) = (run.run_id for run in Store(store).children(parent))
    ratios = []
    for number, sides in enumerate([(folder / "1", folder / "0"), (second, first)]):
        done = command("compare", f"store={store}", *map(str, sides), f"out={number}")
        assert (done.code, done.err) == (0, ""), done
        ratios.append(list(pd.read_csv(workplace / str(number) / "compare.csv")["log_ratio"]))
    assert ratios[0] == ratios[1] and max(ratios[0]) < 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("mine",), "takes two runs or multiruns, and got mine"),
        (("mine", "mine", "mine"), "takes two runs or multiruns"),
        ((), "first"),
        (("mine", "nowhere/at/all"), "nowhere/at/all is no folder"),
        (("mine", "unknown", "store=null"), "unknown is no folder"),
        (("mine", "shorter"), "their problems differ by evaluation.horizon 4 and 3"),
        (("mine", "empty"), "neither a run nor a multirun"),
    ],
)
def test_bad_comparisons_are_one_line(workplace, command, arguments, told):
    write_multirun(workplace / "multirun", "mine", seeds(1))
    write_multirun(workplace / "multirun", "shorter", seeds(1, horizon=3))
    (workplace / "empty").mkdir()
    done = command("compare", *arguments)
    assert done.code == 2 and told in done.err and len(done.err.splitlines()) == 1, done.err


def test_an_unknown_run_is_one_line(workplace, command, store):
    write_multirun(workplace / "multirun", "mine", seeds(1))
    done = command("compare", "mine", "0123", f"store={store}")
    assert done.code == 2 and "no run '0123'" in done.err and len(done.err.splitlines()) == 1


def test_every_preset_has_title_question_and_command():
    told = {preset.name: preset for preset in reporting.presets()}
    assert set(told) == {path.stem for path in shipped("sweeps").glob("*.yaml")}
    assert told["fig4_mlp"].command == "l2l-train sweeps=fig4_mlp"
    assert told["fig5_transfer"].command == "l2l-evaluate sweeps=fig5_transfer"
    figures = [name for name in told if name.startswith("fig")]
    assert figures[:2] == ["fig4_mlp", "fig4_mlp_200"] and figures[-1] == "fig11_updates"
    assert list(told)[: len(figures)] == figures
    for preset in told.values():
        assert preset.title and preset.question.rstrip(".").strip()
        assert f"sweeps={preset.name}" in preset.command and "(" not in preset.command, preset


def test_a_list_may_be_written_as_one_text():
    assert reporting.listed("a,b") == reporting.listed(["a", "b"]) == ["a", "b"]
    assert reporting.listed(None) == [] and reporting.listed("a") == ["a"]
    assert json.dumps(reporting.listed("")) == "[]"


@pytest.mark.parametrize("name", ["report", "compare"])
def test_help_has_every_key_with_its_default(name):
    folder = shipped("conf")
    text = (folder / "hydra" / "help" / f"{name}.yaml").read_text()
    told = dict(re.findall(r"^    (\w+)(?:=(\S+))?  ", text, re.MULTILINE))
    keys = yaml.safe_load((folder / f"{name}.yaml").read_text())
    shown = {key: "null" if value is None else value for key, value in keys.items()}
    asked = {key: "" if value == "???" else value for key, value in shown.items()}
    assert told == {k: v for k, v in asked.items() if k not in ("defaults", "hydra")}
