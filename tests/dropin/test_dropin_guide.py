"""docs/guide.md: its loop runs with a registered rule, and its table is what the runs say."""

import math
import re
import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from l2l_exp.architecture import rebuild
from l2l_exp.config import build, shipped
from l2l_exp.meta.gradients import Replay
from l2l_exp.meta.objective import MetaLoss, Relative, Uniform
from l2l_exp.meta.schedule import Constant
from l2l_exp.meta.train import Plan, train
from l2l_exp.tracking import MlflowTracker

pytest_plugins = ["edge_fixtures"]

DOCS = Path(__file__).parents[2] / "docs"
PAYOFF = runpy.run_path(str(DOCS / "payoff.py"))
ARCHITECTURE = {
    "_target_": "l2l_exp.optimizers.lstm.CoordinatewiseLSTM", "hidden_units": 8, "layers": 1,
    "encoding": {"_target_": "l2l_exp.optimizers.encoding.LogSign"},
}  # fmt: skip


def test_the_loop_of_the_guide_fits_a_spectrum_with_a_registered_rule(store, tmp_path, monkeypatch):
    from omegaconf import OmegaConf

    optimizee = build(OmegaConf.load(shipped("conf") / "optimizee" / "spectrum_fit.yaml"))
    rule = rebuild(ARCHITECTURE, Path("here"))
    rule.architecture = ARCHITECTURE
    plan = Plan(horizon=40, truncation=20, episodes=25, problems=8, validation_problems=4)
    train(
        optimizee, rule, Replay(), MetaLoss(Uniform(), Relative()),
        lambda parameters: torch.optim.Adam(parameters, lr=0.01), Constant(), plan,
    )  # fmt: skip
    tracker = MlflowTracker(tmp_path / "run", store, "study")
    tracker.checkpoint(rule, {"seed": 0, "validation": 1.0, "validated": "same"})
    tracker.register("spectra", print)
    tracker.finish("FINISHED")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    (block,) = re.findall(r"^```python\n(.*?)^```", (DOCS / "guide.md").read_text(), re.M | re.S)
    names: dict[str, object] = {}
    exec(compile(block, "guide.md", "exec"), names)
    losses = names["losses"]
    assert len(losses) == 100 and losses[-1] < losses[0] / 4


def curves(**falls: float) -> pd.DataFrame:
    """Losses factor^step of three problems, 10 steps; baselines were tuned once."""
    rows = [
        {"rule": rule, "tuned_for": "" if rule == "learned" else "final", "problem": problem,
         "step": step, "loss": factor**step * (1 + (problem - 1) / 10)}
        for rule, factor in falls.items() for problem in range(3) for step in range(11)
    ]  # fmt: skip
    return pd.DataFrame(rows).astype({"rule": "category", "tuned_for": "category"})


def summary(cost: float, **seconds: float) -> dict:
    """Costs of training and of a step; gradients take a quarter of it."""
    each = {
        name: {"seconds_per_step": 0.75 * s, "gradient_seconds_per_step": 0.25 * s}
        for name, s in seconds.items()
    }
    return {"learned": each.pop("learned"), "baselines": each, "cost": {"seconds": cost}}


def test_training_has_paid_when_what_was_saved_is_what_it_cost():
    table = curves(learned=0.25, adam=0.5, sgd=0.9)
    told = summary(30.0, learned=1.0, adam=0.75, sgd=0.1)
    two, five, six = PAYOFF["payoff"](told, table, (2, 5, 6))
    assert two.loss == pytest.approx(0.25**2) and two.seconds == 2
    # Adam is there after 4 steps of .75 seconds, and after 2 seconds has taken 2 steps
    assert two.their_seconds == pytest.approx(3.0) and two.reached
    assert two.their_loss == pytest.approx(min(0.5**2, 0.9**10))
    assert two.uses == pytest.approx(30.0 / (3.0 - 2.0))
    assert five.their_seconds == pytest.approx(7.5) and five.uses == pytest.approx(30 / 2.5)
    assert not six.reached and six.their_seconds == pytest.approx(1.0)  # all steps of sgd
    assert six.uses == math.inf


def test_what_is_slower_than_a_baseline_never_pays():
    told = summary(30.0, learned=2.0, adam=0.75)
    (row,) = PAYOFF["payoff"](told, curves(learned=0.25, adam=0.5), (2,))
    assert row.reached and row.uses == math.inf


def test_the_table_is_printed_as_markdown(tmp_path, capsys):
    import json

    table = curves(learned=0.25, adam=0.5)
    table = pd.concat([table, table.assign(step=table["step"] + 90)])  # as long as the real ones
    table["step"] = table["step"].replace({95: 40, 96: 60, 94: 20})
    (tmp_path / "summary.json").write_text(json.dumps(summary(30.0, learned=1.0, adam=0.75)))
    table.to_parquet(tmp_path / "curves.parquet")
    PAYOFF["main"]([str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(PAYOFF["STEPS"]) and all(line.count("|") == 7 for line in lines)
    assert np.all([line.startswith("| ") for line in lines if "---" not in line])
