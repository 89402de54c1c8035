"""Every preset runs: the smoke command of its header, after those whose rules it takes."""

import re
import shlex

import pytest

from l2l_exp import record
from l2l_exp.config import shipped

pytest_plugins = ["edge_fixtures"]

SWEEPS = shipped("sweeps")
HEADERS = {
    path.stem: path.read_text().partition("\nstudy:")[0] for path in sorted(SWEEPS.glob("*.yaml"))
}


def smoke(name: str) -> list[str]:
    """The words of a preset's smoke command."""
    (line,) = re.findall(r"^# Smoke: (l2l-(?:train|evaluate) .*)$", HEADERS[name], re.MULTILINE)
    return shlex.split(line)


def needed(name: str) -> list[str]:
    """The presets whose rules a preset takes."""
    line = re.search(r"^# Takes the rules of: (.*)$", HEADERS[name], re.MULTILINE)
    return re.findall(r"sweeps=(\w+)", line[1]) if line else []


def chains() -> list[list[str]]:
    """Presets in chains: each takes rules of those before it in its chain, and of no others."""
    roots: dict[str, list[str]] = {}
    for name in HEADERS:
        sources = needed(name)
        roots.setdefault(sources[0] if sources else name, []).append(name)
    found = []
    for root, names in roots.items():
        first = dict.fromkeys(source for name in names for source in needed(name))
        found.append(list(dict.fromkeys([root, *first, *names])))
    return found


def test_every_preset_tells_what_it_takes():
    for name, header in HEADERS.items():
        assert set(needed(name)) <= set(HEADERS)
        text = (SWEEPS / f"{name}.yaml").read_text()
        taken = re.findall(r"source: ([\w,]+)", text)
        assert set(needed(name)) == {one for names in taken for one in names.split(",") if one}, (
            name
        )
        assert f"sweeps={name} " in " ".join(smoke(name)) + " "
        assert re.search(r"^# Jobs: \d+", header, re.MULTILINE)


QUICK = ("seeds", "fig4_quadratic", "robust_training")


@pytest.mark.parametrize(
    "chain",
    [
        pytest.param(chain, id=chain[0], marks=() if chain[0] in QUICK else pytest.mark.slow)
        for chain in chains()
    ],
)
@pytest.mark.timeout(1500)
def test_the_smoke_variant_of_every_preset_runs(chain, command, workplace):
    for name in chain:
        entry, *arguments = smoke(name)
        outcome = command(entry.removeprefix("l2l-"), *arguments, "tracking=none")
        assert outcome.code == 0, f"{name}: {outcome.err}"
        (folder,) = workplace.glob(f"multirun/{name}-*")
        runs = [record.read(path.parent) for path in folder.glob("*/run.json")]
        assert runs and all(run.status == "FINISHED" for run in runs)
        assert (folder / "seeds.png").stat().st_size > 1000
        assert "learned / best baseline" in (folder / "aggregate.md").read_text()
