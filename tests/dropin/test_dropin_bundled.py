"""Bundled rules: what their names mean beside other things of that name, and their cards."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import l2l_exp
from l2l_exp import checkpoint
from l2l_exp.architecture import rebuild
from l2l_exp.checkpoint import CheckpointError
from l2l_exp.dropin.load import find
from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers.base import Observation
from l2l_exp.optimizers.lstm import CoordinatewiseLSTM
from l2l_exp.provenance import sources
from l2l_exp.source import RULES, bundled_rules
from l2l_exp.tracking import MlflowTracker, TrackingError, trained_rule

ROOT = Path(__file__).parents[2]
BUNDLE = runpy.run_path(str(ROOT / "docs" / "bundle_rules.py"))
SETTINGS = {"hidden_units": 2, "layers": 1, "readout_std": 0.5}
ARCHITECTURE = {"_target_": "l2l_exp.optimizers.lstm.CoordinatewiseLSTM", **SETTINGS}


def mine(seed=0) -> CoordinatewiseLSTM:
    rule = rebuild(ARCHITECTURE | {"seed": seed}, Path("here"))
    rule.architecture = ARCHITECTURE | {"seed": seed}
    return rule


def is_mine(rule) -> bool:
    return getattr(rule, "hidden_units", None) == 2


def by_both(name):
    """What load_optimizer and optimizer.source make of a name."""
    return find(name), trained_rule(name, None)


# ------------------------------------------------------------------ names


def test_the_two_rules_of_the_documentation_are_there():
    assert {"lstm", "robust"} <= set(bundled_rules())


@pytest.mark.parametrize("name", bundled_rules())
def test_a_bundled_rule_is_found_by_name_anywhere(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = checkpoint.load(RULES / f"{name}.safetensors").state_dict()
    for rule in (*by_both(name), *by_both(f"bundled:/{name}")):
        assert all(torch.equal(x, expected[key]) for key, x in rule.state_dict().items())
    model = nn.Linear(2, 1)
    optimizer = l2l_exp.load_optimizer(name, model.named_parameters())
    assert optimizer.horizon == optimizer.rule.about["horizon"] >= 100


def test_a_folder_or_file_of_the_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint.save(tmp_path / "robust", mine(), {})
    checkpoint.export(tmp_path / "lstm", mine(), {})
    for name in ("robust", "lstm"):
        assert all(map(is_mine, by_both(name)))
        assert not any(map(is_mine, by_both(f"bundled:/{name}")))


def test_a_preset_that_was_run_here_comes_before_a_bundled_rule_the_latest_one(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for age, code in enumerate(("0a", "0b")):
        folder = tmp_path / "multirun" / f"robust-{code}"
        checkpoint.save(folder / "0" / "checkpoint", mine(age), {"seed": age})
        (folder / "sweep.json").write_text("{}")
        os.utime(folder / "sweep.json", (age, age))
    assert is_mine(find("robust", 1)) and is_mine(trained_rule("robust", None, 1))
    with pytest.raises(CheckpointError, match="robust-0b holds 0 rules of meta-seed 0"):
        find("robust", 0)
    (tmp_path / "robust").mkdir()
    with pytest.raises(CheckpointError, match=r"robust holds no rule\.json"):
        find("robust")


@pytest.mark.parametrize("name", ["robost", "Robust", "robust.safetensors", "../rules/robust"])
def test_an_unknown_name_tells_what_is_bundled(name, store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / "..")
    names = re.escape(f"bundled are {', '.join(bundled_rules())}")
    for source in (name, f"bundled:/{name}"):
        with pytest.raises(CheckpointError, match=names):
            find(source)
    for uri, error in ((None, ValueError), (store, (TrackingError, ValueError))):
        with pytest.raises(error, match=names) as caught:
            trained_rule(name, uri)
        assert name in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=names):
        trained_rule(None, None)


def test_a_name_that_is_none_has_nothing_to_hash():
    node = {"_target_": "l2l_exp.tracking.trained_rule", "source": "bundled:/no_such"}
    assert not [name for name in sources({"optimizer": node}) if name.endswith(".safetensors")]


# ------------------------------------------------------------------ what it takes to load one

LOAD = """
import sys, torch, l2l_exp
weight = torch.nn.Parameter(torch.zeros(3, 2))
optimizer = l2l_exp.load_optimizer(sys.argv[1], [("w", weight)])
weight.sum().backward()
optimizer.step()
print(weight.count_nonzero().item(), *{name.split(".")[0] for name in sys.modules} & set(
    "hydra,omegaconf,mlflow,rich,filelock,matplotlib,pandas,scipy,sklearn".split(",")))
"""


@pytest.mark.parametrize("name", bundled_rules())
def test_a_bundled_rule_is_used_without_hydra_mlflow_and_omegaconf(name, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", LOAD, name], capture_output=True, text=True, cwd=tmp_path,
        check=False, timeout=120, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, "6"), (done.stdout, done.stderr)


def test_the_files_are_small_and_part_of_the_wheel(tmp_path):
    files = [*RULES.glob("*.safetensors"), *RULES.glob("*.md")]
    assert sum(path.stat().st_size for path in files) < 200_000
    ignored = subprocess.run(
        ["git", "check-ignore", *map(str, files)], cwd=ROOT, capture_output=True, check=False
    )
    assert ignored.stdout == b""  # hatchling leaves out what git ignores, and nothing else
    hatchling = pytest.importorskip("hatchling.builders.wheel")
    (wheel,) = hatchling.WheelBuilder(str(ROOT)).build(directory=str(tmp_path))
    import zipfile

    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"l2l_exp/rules/{path.name}" for path in files} <= names


# ------------------------------------------------------------------ cards


@pytest.mark.parametrize("name", bundled_rules())
def test_a_card_tells_the_facts_of_its_file(name):
    card = (RULES / f"{name}.md").read_text()
    assert BUNDLE["facts"](RULES / f"{name}.safetensors") in card
    for heading in ("Trained on", "Where it holds", "Where it does not", "What a step costs"):
        assert f"**{heading}**" in card
    assert f"bundle_rules.py {name} " in card and f'load_optimizer("{name}"' in card


def test_there_is_no_card_without_a_rule():
    assert sorted(path.stem for path in RULES.glob("*.md")) == bundled_rules()


def a_run(folder: Path, seed: int, validation: float, meaning="same") -> None:
    """The folder of a finished run."""
    about = {
        "seed": seed, "validation": validation, "validated": meaning, "criterion": "final",
        "episode": 3, "validations": [{"episode": 5, "seconds": 7.4, "loss": 1.0}],
    }  # fmt: skip
    checkpoint.save(folder / "checkpoint", mine(seed), about)
    overrides = ["experiment=digits", f"seed={seed}", "tracking=none", "evaluation=none"]
    record = {"command": "train", "overrides": overrides, "config": {"training": {"horizon": 50}}}
    (folder / "run.json").write_text(json.dumps({"status": "FINISHED", **record}))


def test_bundling_takes_the_best_member_and_renews_the_facts_alone(tmp_path):
    for seed, validation in ((0, 0.5), (1, 0.25), (2, 0.75)):
        a_run(tmp_path / "many" / str(seed), seed, validation)
    path = BUNDLE["bundle"]("mine", tmp_path / "many", tmp_path)
    assert path == tmp_path / "mine.safetensors"
    rule = checkpoint.load(path)
    assert torch.equal(rule.readout, mine(1).readout) and rule.about["horizon"] == 50
    card = tmp_path / "mine.md"
    assert "`l2l-train experiment=digits seed=1`" in card.read_text()
    card.write_text(f"before\n{card.read_text()}after\n")
    BUNDLE["bundle"]("mine", tmp_path / "many" / "0", tmp_path)
    text = card.read_text()
    assert text.startswith("before\n") and text.endswith("after\n")
    assert "seed=0`" in text and "seed=1`" not in text
    assert BUNDLE["facts"](path) in text


def test_members_whose_validations_mean_something_else_are_not_compared(tmp_path):
    a_run(tmp_path / "many" / "0", 0, 0.5)
    a_run(tmp_path / "many" / "1", 1, 0.5, "other")
    with pytest.raises(SystemExit, match="do not mean the same"):
        BUNDLE["bundle"]("mine", tmp_path / "many", tmp_path)


# ------------------------------------------------------------------ every way to a rule


def ways(name: str, tmp_path: Path, store: str) -> dict[str, str]:
    """Every source that means the same rule."""
    rule = find(name)
    checkpoint.save(tmp_path / "folder", rule, rule.about)
    checkpoint.export(tmp_path / "one.safetensors", rule, rule.about)
    tracker = MlflowTracker(tmp_path / "run", store, "study")
    tracker.checkpoint(rule, {**rule.about, "validated": "same"})
    tracker.register("best", print)
    assert tracker.finish("FINISHED")
    return {
        "name": name, "bundled": f"bundled:/{name}", "folder": str(tmp_path / "folder"),
        "exported": str(tmp_path / "one.safetensors"), "run": f"runs:/{tracker.run_id}",
        "champion": "models:/best@champion",
    }  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", bundled_rules())
def test_by_every_way_the_updates_are_those_of_step_bit_for_bit(
    name, dtype, store, tmp_path, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    rule = checkpoint.load(RULES / f"{name}.safetensors").to(dtype)
    spec = ParamSpec.of({"w": ((3, 4), "fc"), "b": ((3,), "bias")})
    begin = torch.randn(1, 15, generator=torch.Generator().manual_seed(0), dtype=dtype)
    for way, source in ways(name, tmp_path, store).items():
        tensors = spec.unflatten(begin[0].clone())
        parameters = {key: nn.Parameter(x.clone()) for key, x in tensors.items()}
        groups = [{"params": list(parameters.items()), "kinds": ["fc", "bias"]}]
        optimizer = l2l_exp.load_optimizer(source, groups, horizon=6)
        theta, state = begin, rule.init_state(begin, spec)
        for step in range(6):
            grad = theta**3 + 0.1
            for key, x in spec.unflatten(grad[0]).items():
                parameters[key].grad = x.clone()
            optimizer.step()
            with torch.no_grad():
                seen = Observation(grad, theta, theta.sum(1), step, 6, spec)
                update, state = rule.step(seen, state)
            theta = theta + update
            assert torch.equal(spec.flatten(parameters), theta[0]), (way, step)
        assert not torch.equal(theta, begin)


@pytest.mark.parametrize("source", [None, torch.nn.Linear(2, 1)], ids=["nothing", "a module"])
def test_a_source_that_is_no_name_is_told_from_the_parameters(source):
    with pytest.raises(TypeError, match="and must be a name or a path; the parameters"):
        l2l_exp.load_optimizer(source, torch.nn.Linear(2, 1))
