"""NTM-BFGS in full: what the experiment's header and the documentation say of it."""

import json
import math

import numpy as np
import pandas as pd
import pytest

pytest_plugins = ["edge_fixtures"]


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ntm_bfgs_beats_every_first_order_baseline_by_far(seed, command, workplace):
    outcome = command("train", "experiment=ntm_bfgs_quadratic", f"seed={seed}", "tracking=none")
    assert outcome.code == 0, outcome.err
    (folder,) = {path.parent for path in workplace.rglob("run.json")}
    told = json.loads((folder / "summary.json").read_text())
    assert told["learned"]["status"] == {"ok": 1000, "worse_than_start": 0, "diverged": 0}
    assert told["paired"]["average"]["log_ratio"]["high"] < math.log(0.6)
    table = pd.read_parquet(folder / "curves.parquet")
    kept = (table["kind"] != "baseline") | (table["tuned_for"] == "final")
    last = table[kept & (table["step"] == told["horizon"])]
    finals = {name: rows["train_loss"] for name, rows in last.groupby("rule", observed=True)}
    learned = finals.pop("learned")
    assert len(learned) == 1000 and np.median(learned) < 1e-8
    first_order = [finals[name] for name in ("sgd", "momentum", "nag", "rmsprop", "adam")]
    assert learned.mean() < 1e-3 * min(rows.mean() for rows in first_order)
