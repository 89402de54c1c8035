"""Bundle a trained rule: l2l_exp/rules/NAME.safetensors, and the facts of its card NAME.md.

Run from the repository: python docs/bundle_rules.py NAME SOURCE, where SOURCE is the folder of a
run, or that of a multirun over meta-seeds, whose best member on validation problems is taken. What
the card says in words is written by hand, above and below the facts.
"""

import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

from l2l_exp import checkpoint
from l2l_exp.optimizers.base import LearnedOptimizer
from l2l_exp.source import RULES

BEGIN, END = "<!-- facts -->", "<!-- end of facts -->"
PLACES = ("tracking", "hydra", "evaluation", "seed", "training.max_seconds")
"""Overrides that say nothing about the rule, or are told apart."""


def bundle(name: str, source: Path, rules: Path = RULES) -> Path:
    """Export the best member of a multirun, or one run, and renew the card's facts.

    Raises:
        CheckpointError: if there is no checkpoint.
        SystemExit: if the members' validations do not mean the same.
    """
    members = sorted(path.parent for path in source.glob(f"*/{checkpoint.FOLDER}")) or [source]
    told = [checkpoint.read_description(_checkpoint(run))["about"] for run in members]
    if len({about.get("validated") for about in told}) > 1:
        raise SystemExit(f"{source}: the validations of its members do not mean the same")
    best = min(range(len(members)), key=lambda place: told[place]["validation"])
    rule = checkpoint.load(_checkpoint(members[best]))
    record = json.loads((members[best] / "run.json").read_text())
    others = {str(about["seed"]): about["validation"] for about in told}
    about = {"horizon": record["config"]["training"]["horizon"], **rule.about}
    about |= {"command": _command(record), "chosen_from": others}
    path = rules / f"{name}.safetensors"
    checkpoint.export(path, rule, about)
    card = path.with_suffix(".md")
    text = card.read_text() if card.is_file() else f"# {name}\n\n{BEGIN}\n{END}\n"
    block = f"{BEGIN}\n{facts(path)}{END}"
    card.write_text(re.sub(f"{BEGIN}.*{END}", lambda _: block, text, flags=re.DOTALL))
    return path


def facts(path: Path) -> str:
    """What a bundled file says of itself, as a table."""
    rule = checkpoint.load(path)
    about: dict[str, Any] = dict(rule.about)
    scores = [f"{score:.4g} of {seed}" for seed, score in about["chosen_from"].items()]
    last = about["validations"][-1]
    rows = {
        "rule": f"`{_nested(rule)}`, {sum(p.numel() for p in rule.parameters())} meta-parameters",
        "trained by": f"`{about['command']} seed={about['seed']}`",
        "horizon": f"{about['horizon']} steps, the longest that it was trained on",
        "cost": f"{last['seconds']:.0f} seconds on one core, {last['episode']} episodes",
        "taken": f"as it was after episode {about['episode']}",
        "meta-seed": f"{about['seed']}, by `{about['criterion']}` on validation problems: "
        f"{', '.join(scores)}",
        "sha256": f"`{hashlib.sha256(path.read_bytes()).hexdigest()}`",
    }
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines]) + "\n"


def _checkpoint(run: Path) -> Path:
    """The checkpoint of a run's folder."""
    return checkpoint.locate(run, None)


def _command(record: dict[str, Any]) -> str:
    """What was typed, but for where things lie, the meta-seed, and what came after training."""
    told = [o for o in record["overrides"] if not o.lstrip("+~").startswith(PLACES)]
    return " ".join([f"l2l-{record['command']}", *told])


def _nested(rule: LearnedOptimizer) -> str:
    """Names of a rule's classes, from the outside in."""
    inner = getattr(rule, "rule", None)
    name = type(rule).__name__
    return f"{name}({_nested(inner)})" if isinstance(inner, LearnedOptimizer) else name


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("python docs/bundle_rules.py NAME SOURCE")
    print(bundle(sys.argv[1], Path(sys.argv[2])))
