"""A user's own module, data and loss from the command line, with nothing but a file and a YAML."""

import json
import sys
from pathlib import Path

import pytest

pytest_plugins = ["edge_fixtures"]

MODULE = "module_of_a_test_user"
CODE = """
import numpy as np
import torch
from torch import nn


class Relaxation(nn.Module):
    def __init__(self, terms=2):
        super().__init__()
        self.rates = nn.Parameter(torch.linspace(-1, 1, terms))
        self.weights = nn.Parameter(torch.ones(terms))

    def forward(self, t):
        return (self.weights * torch.exp(-self.rates.exp() * t)).sum(-1)


class Noisy(Relaxation):
    def forward(self, t):
        return super().forward(nn.functional.dropout(t, 0.2, self.training))


def curve(rng, points=20):
    t = np.linspace(0, 3, points)[:, None]
    rates, weights = np.exp(rng.uniform(-1, 1, 2)), rng.uniform(0.5, 1.5, 2)
    signal = (weights * np.exp(-rates * t)).sum(-1)
    return {"t": t, "signal": signal + 0.01 * rng.normal(size=points)}


def squares(model, batch):
    return (model(batch["t"]) - batch["signal"]).square().mean()
"""
YAML = f"""
_target_: l2l_exp.optimizees.module.ModuleOptimizee
module: {{_target_: {MODULE}.Relaxation, _partial_: true, terms: 2}}
data: {{_target_: {MODULE}.curve, _partial_: true, points: 20}}
loss: {{_target_: {MODULE}.squares, _partial_: true}}
batching: vmap
"""
SHORT = (
    "--config-dir", "my_conf", "optimizee=mine", "training=smoke", "evaluation=smoke",
    "evaluation.horizon=3", "optimizer.hidden_units=2", "tracking=none",
)  # fmt: skip


@pytest.fixture
def own(workplace):
    """A user's module in the working directory, and a YAML that names it."""
    (workplace / f"{MODULE}.py").write_text(CODE)
    (workplace / "my_conf" / "optimizee").mkdir(parents=True)
    (workplace / "my_conf" / "optimizee" / "mine.yaml").write_text(YAML)
    yield workplace
    sys.modules.pop(MODULE, None)


def folder_of(workplace) -> Path:
    (path,) = workplace.rglob("run.json")
    return path.parent


def test_a_users_own_problem_needs_a_file_and_a_yaml(own, command):
    outcome = command("train", *SHORT)
    assert outcome.code == 0
    assert all("dead rule" in line for line in outcome.err.splitlines())  # of two episodes
    told = json.loads((folder_of(own) / "summary.json").read_text())
    assert told["optimizee"] == "mine" and told["n_problems"] == 8
    assert "held_out" in told["learned"] and told["baselines"].keys() == {"sgd", "adam"}
    assert MODULE in json.loads((folder_of(own) / "run.json").read_text())["sources"]
    assert "x 4 coordinates" in outcome.out


def test_the_users_keys_can_be_overridden_and_a_loop_does_what_vmap_cannot(own, command):
    target = f"optimizee.module._target_={MODULE}.Noisy"
    refused = command("train", *SHORT, target)
    assert refused.code == 2 and len(refused.err.splitlines()) == 1
    assert "Noisy" in refused.err and "optimizee.batching=loop" in refused.err
    assert not list(own.rglob("run.json"))
    done = command(
        "train", *SHORT, target, "optimizee.batching=loop", "optimizee.module.terms=3",
        "evaluation=none",
    )  # fmt: skip
    assert done.code == 0 and "x 6 coordinates" in done.out


WRONG = {
    "unknown file": (["optimizee.module._target_=nowhere.Net"], ["nowhere", "optimizee.module"]),
    "unknown class": ([f"optimizee.module._target_={MODULE}.Net"], [MODULE, "Net"]),
    "misspelt argument": (["+optimizee.module.tems=3"], ["tems"]),
    "a module that was made already": (
        ["optimizee.module._partial_=false"], ["Relaxation", "_partial_: true"],
    ),
    "data that were drawn already": (["optimizee.data._partial_=false"], ["optimizee.data", "rng"]),
    "a loss of two tensors": (
        ["optimizee.loss._target_=torch.nn.functional.mse_loss"],
        ["loss of Relaxation", "t (15, 1)"],
    ),
    "too many rows": (["+optimizee.batch_size=16"], ["batch_size=16", "[1, 15]"]),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_one_line_and_leaves_nothing(name, own, command):
    overrides, words = WRONG[name]
    outcome = command("train", *SHORT, *overrides)
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert "Traceback" not in outcome.out
    for word in words:
        assert word in line
    assert not list(own.rglob("run.json"))
