"""Provenance: which files a run's numbers are said to depend on."""

import json
from pathlib import Path

import pytest

from l2l_exp.provenance import sources

RULE = "l2l_exp.tracking.trained_rule"


@pytest.fixture
def multirun(tmp_path) -> Path:
    """A folder with a rule of each of two meta-seeds; the files are told apart by their content."""
    for seed in (0, 1):
        folder = tmp_path / "multirun" / str(seed) / "checkpoint"
        folder.mkdir(parents=True)
        (folder / "rule.safetensors").write_text(f"rule of {seed}")
        about = {"format_version": 1, "architecture": {"_target_": "x"}, "about": {"seed": seed}}
        (folder / "rule.json").write_text(json.dumps(about))
    return tmp_path / "multirun"


def trained(source: object, seed: object = 0) -> dict[str, object]:
    """The node of a trained rule."""
    return {"_target_": RULE, "source": source, "uri": None, "seed": seed}


def rules(config: dict[str, object]) -> dict[str, str]:
    """Checkpoints among the sources of a config, and their hashes."""
    found = sources({"seed": 0, **config})
    return {name: value for name, value in found.items() if name.endswith(".safetensors")}


def parts(node: object) -> dict[str, object]:
    """Where a config may hold a rule."""
    return {
        "whole": {"optimizer": node},
        "wrapped": {"optimizer": {"_target_": "l2l_exp.x.Y", "rule": node}},
        "teacher": {"training": {"imitation": {"teacher": node}}},
        "part": {"optimizer": {"parts": {"conv": {"rule": node}}}},
        "list": {"optimizer": {"rules": [node]}},
    }


@pytest.mark.parametrize("place", parts(None))
def test_a_trained_rule_is_hashed_wherever_it_is(place, multirun):
    one = multirun / "0" / "checkpoint" / "rule.safetensors"
    first = rules(parts(trained(str(multirun / "0")))[place])
    assert list(first) == [str(one)]
    one.write_text("trained again")
    again = rules(parts(trained(str(multirun / "0")))[place])
    assert again.keys() == first.keys() and again != first


def test_of_a_multirun_the_member_of_the_nodes_own_seed_is_hashed(multirun):
    (path,) = rules({"optimizer": trained(str(multirun), seed=1), "seed": 0})
    assert path == str(multirun / "1" / "checkpoint" / "rule.safetensors")


def test_of_a_multirun_whose_seed_is_not_known_yet_all_are_hashed(multirun):
    assert len(rules({"optimizer": trained(str(multirun), seed="${seed}")})) == 2


def test_several_trained_rules_are_all_hashed(multirun):
    nodes = [trained(str(multirun), seed) for seed in (0, 1)]
    config = {"optimizer": nodes[0], "training": {"imitation": {"teacher": nodes[1]}}}
    assert len(set(rules(config).values())) == 2


@pytest.mark.parametrize("source", [None, "0123abc", "gone/checkpoint"])
def test_what_is_no_folder_has_nothing_to_hash(source):
    assert rules({"optimizer": trained(source)}) == {}


def test_the_source_of_something_else_is_not_a_checkpoint(multirun):
    node = trained(str(multirun / "0")) | {"_target_": "l2l_exp.tracking.other"}
    assert rules({"optimizer": node}) == {}
