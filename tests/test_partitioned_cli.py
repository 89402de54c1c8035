"""Rules for parts from the command line: trained on a conv net, loaded, refused by name."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from l2l_exp import checkpoint

pytest_plugins = ["edge_fixtures"]

CONV = (
    "optimizee=conv", "optimizee.channels=2", "optimizee.kernel=3", "optimizee.hidden_units=3",
    "optimizee.batch_size=8", "data=digits", "evaluation=smoke", "evaluation.horizon=3",
    "evaluation.problems=2", "evaluation.tuning_problems=2", "tracking=none",
)  # fmt: skip
SHORT = (*CONV, "training=smoke", "training.validation_problems=2")
LSTM_OF_2 = "optimizer.parts.{}.rule.hidden_units=2"


def folder_of_the_last_run(work: Path) -> Path:
    """Where the latest run lies."""
    return max(work.rglob("run.json"), key=lambda path: path.stat().st_mtime).parent


def result(folder: Path) -> dict:
    """What the learned rule reached."""
    told = json.loads((folder / "summary.json").read_text())["learned"]
    return {criterion: told[criterion]["mean"] for criterion in ("average", "final")}


@pytest.mark.parametrize(
    ("option", "learned", "gradient"),
    [
        ("two_lstms", ["conv", "rest"], ["training.gradient.subset=50"]),
        ("lstm_and_adam", ["conv"], ["training.gradient.chunk=100"]),
    ],
)
def test_parts_are_trained_saved_and_loaded(option, learned, gradient, command, workplace):
    small = [LSTM_OF_2.format(part) for part in learned]
    outcome = command("train", *SHORT, f"optimizer={option}", *small, *gradient)
    assert outcome.code == 0, outcome.err
    trained = folder_of_the_last_run(workplace)
    rule = checkpoint.load(trained / "checkpoint")
    fresh = checkpoint.rebuild(rule.architecture, trained)
    assert list(rule.rules) == ["conv", "rest"]
    for part, own in rule.rules.items():
        pairs = list(zip(own.parameters(), fresh.rules[part].parameters(), strict=True))
        assert bool(pairs) == (part in learned)
        assert not any(torch.equal(mine, start) for mine, start in pairs)
    again = command("evaluate", *CONV, f"optimizer.source={trained}")
    assert again.code == 0, again.err
    evaluated = folder_of_the_last_run(workplace)
    assert evaluated != trained and result(evaluated) == result(trained)


def test_parts_without_meta_parameters_are_evaluated_and_not_called_learned(command, workplace):
    parts = ["optimizer=lstm_and_adam", "optimizer@optimizer.parts.conv.rule=sgd"]
    outcome = command("evaluate", *CONV, *parts, "optimizer.parts.conv.rule.lr=0.1")
    assert outcome.code == 0, outcome.err
    folder = folder_of_the_last_run(workplace)
    names = pd.read_parquet(folder / "curves.parquet")["rule"].unique()
    assert set(names) == {"lstm_and_adam (evaluated)", "sgd", "adam"}
    outcome = command("evaluate", *CONV, *parts, "optimizer.parts.conv.rule.lr=0.1",
                      "optimizer.parts.rest.ranks=[2]")  # fmt: skip
    assert outcome.code == 2 and "no part takes tensor 'conv0.bias'" in outcome.err


def test_the_two_lstms_do_not_start_alike(command, workplace):
    command("train", *SHORT, "optimizer=two_lstms", "evaluation=none")
    architecture = checkpoint.load(folder_of_the_last_run(workplace) / "checkpoint").architecture
    one, two = checkpoint.rebuild(architecture, workplace).rules.values()
    assert not torch.equal(one.readout, two.readout)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["optimizer=two_lstms", "optimizer.parts.rest.kinds=[fc]"], ["conv0.bias"]),
        (["optimizer=two_lstms", "optimizer.parts.conv.kinds=[cnv]"], ["conv", "cnv"]),
        (["optimizer=lstm_and_adam", "optimizer.parts.rest.rule.lr=tuned"], ["lr=tuned"]),
    ],
)
def test_what_cannot_be_parted_is_one_line_and_leaves_nothing(overrides, words, command, workplace):
    outcome = command("train", *SHORT, "evaluation=none", *overrides)
    assert outcome.code == 2 and len(outcome.err.splitlines()) == 1
    assert all(word in outcome.err for word in words)
    assert not list(workplace.rglob("run.json"))
