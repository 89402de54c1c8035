"""The scripts of examples/, run as they stand."""

import re
import runpy
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def printed(tmp_path, monkeypatch, capsys):
    """Runs a script in an empty folder and returns what it prints."""
    monkeypatch.chdir(tmp_path)

    def run(name: str) -> str:
        path = EXAMPLES / f"{name}.py"
        monkeypatch.setattr("sys.argv", [str(path)])
        with torch.random.fork_rng():
            runpy.run_path(str(path), run_name="__main__")
        return capsys.readouterr().out

    yield run
    assert list(tmp_path.iterdir()) == []


def numbers(text: str) -> list[float]:
    return [float(found) for found in re.findall(r"loss (\d+\.\d+)", text)]


def test_on_digits_the_learned_rule_is_ahead_of_adamw(printed):
    learned, *adamw = printed("digits").splitlines()
    assert learned.startswith("robust") and len(adamw) == 3
    for line in adamw:
        assert numbers(learned)[0] < numbers(line)[0] / 4
        assert numbers(learned)[1] < numbers(line)[1]


def test_a_run_with_schedule_and_mixed_precision_is_resumed_bit_for_bit(printed):
    told = printed("schedule_and_resume")
    first, last = re.search(r"loss (\S+) -> (\S+);", told).groups()
    assert float(first) > 2 and float(last) < 0.5
    assert told.endswith("same losses is True\n")


def test_a_learned_rule_and_adamw_share_a_network(printed):
    told = printed("part_of_a_network")
    assert "0.weight (16, 1, 3, 3), 5.weight (10, 256)" in told
    first, last = numbers(told)
    assert first > 2 and last < 0.1


def test_all_examples_are_short_plain_and_run_here():
    scripts = {path.stem: path.read_text() for path in EXAMPLES.glob("*.py")}
    assert set(scripts) == {"digits", "schedule_and_resume", "part_of_a_network"}
    for text in scripts.values():
        assert len(text.splitlines()) < 60 and not re.search(r"import (hydra|mlflow)", text)
