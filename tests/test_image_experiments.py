"""Experiments on images in full: what their headers and the documentation say of them."""

import json
import math

import pytest

pytest_plugins = ["edge_fixtures"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "arguments",
    [
        ("experiment=photos_conv", "seed=0"),
        ("experiment=photos_conv", "seed=1"),
        ("experiment=photos_conv", "seed=2"),
        ("experiment=photos_conv", "data.classes=2"),
        ("experiment=neural_art",),
    ],
    ids=" ".join,
)
def test_a_learned_rule_has_a_lower_average_loss_than_every_tuned_baseline(
    arguments, command, workplace
):
    outcome = command("train", *arguments, "tracking=none")
    assert outcome.code == 0, outcome.err
    (folder,) = {path.parent for path in workplace.rglob("run.json")}
    told = json.loads((folder / "summary.json").read_text())
    assert told["learned"]["status"] == {"ok": 16, "worse_than_start": 0, "diverged": 0}
    paired = told["paired"]
    assert paired["average"]["log_ratio"]["high"] < 0
    if told["learned"]["held_out"] is not None:
        assert paired["held_out"]["log_ratio"]["high"] < math.log(1.05)
