"""The code of docs/drop_in.md, run as it stands, with a rule that is meta-trained here."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import some_digits

from l2l_exp import checkpoint
from l2l_exp.meta.gradients import Replay
from l2l_exp.meta.objective import MetaLoss, Plain, Uniform
from l2l_exp.meta.schedule import Constant
from l2l_exp.meta.train import Plan, train
from l2l_exp.optimizees.mlp import ImageMLP
from l2l_exp.optimizers.encoding import LogSign
from l2l_exp.optimizers.lstm import CoordinatewiseLSTM

DOCS = Path(__file__).parents[2] / "docs" / "drop_in.md"
TARGET = "l2l_exp.optimizers.lstm.CoordinatewiseLSTM"
ENCODING = "l2l_exp.optimizers.encoding.LogSign"


@pytest.fixture(scope="module")
def trained() -> CoordinatewiseLSTM:
    """Seconds of meta-training on networks like the one of the example."""
    settings = {"hidden_units": 8, "layers": 1}
    rule = CoordinatewiseLSTM(encoding=LogSign(), **settings)
    rule.architecture = {"_target_": TARGET, "encoding": {"_target_": ENCODING}, **settings}
    plan = Plan(horizon=40, truncation=20, episodes=40, problems=1, validation_problems=2)
    optimizee = ImageMLP(some_digits(), batch_size=32, init_std=0.1)
    train(
        optimizee, rule, Replay(), MetaLoss(Uniform(), Plain()),
        lambda parameters: torch.optim.Adam(parameters, lr=0.02), Constant(), plan,
    )  # fmt: skip
    return rule


def test_the_code_of_the_documentation_runs_and_learns(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint.save(tmp_path / "outputs" / "my_run" / "checkpoint", trained, {"horizon": 40})
    blocks = re.findall(r"^```python\n(.*?)^```", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    torch.manual_seed(0)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, DOCS.name, "exec"), names)
    losses = names["losses"]
    assert len(losses) == 100 and losses[0] > 2.2
    assert np.mean(losses[-10:]) < 1.0
    assert names["optimizer"].param_groups[1]["lr"] < 0.5
