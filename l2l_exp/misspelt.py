"""Keys that a command line has and the config has not: what was meant instead."""

import difflib
import re
from collections.abc import Mapping, Sequence

from omegaconf import DictConfig, OmegaConf

from l2l_exp.config import SCHEMAS, ConfigError, shipped

GROUPS = ("experiment", "sweeps", "variant", "smoke")
"""What may stand at the root of a command line, and is no key of the config."""
REFUSED = re.compile(r"Could not override '([^']+)'\.\s+To append to your config use \+")
"""How Hydra begins, whose advice makes a key of every slip of the pen."""
ALIKE = 0.8
"""From so alike on (difflib's ratio), a key at the root is taken for another one misspelt."""


def check(command: str, cfg: DictConfig) -> None:
    """Raise ConfigError for keys that were added where all keys are known.

    At the root, where one may be added for others to refer to, only those that look like another.
    """
    fields = _fields(command)
    for parent, names in fields.items():
        node = OmegaConf.select(cfg, parent) if parent else cfg
        for key in map(str, node) if isinstance(node, DictConfig) else ():
            unknown = key not in names
            if unknown and (parent or difflib.get_close_matches(key, names, 1, ALIKE)):
                raise ConfigError(_told(f"{parent}.{key}".lstrip("."), fields))


def reworded(command: str, message: str, arguments: Sequence[str]) -> str | None:
    """What to say instead of Hydra's message about a key; None where it is about something else.

    Args:
        command: "train", "evaluate", "report" or "compare".
        message: Hydra's.
        arguments: of the command line.
    """
    found = REFUSED.match(message)
    if found is None:
        return None
    presets = [one.partition("=")[2] for one in arguments if one.startswith("sweeps=")]
    others = [told for name in presets if (told := _of_another_command(command, name))]
    return others[0] if others else _told(found[1], _fields(command))


def check_preset(command: str, name: str | None) -> None:
    """Raise ConfigError if the preset that is chosen is a study of another command."""
    told = _of_another_command(command, name or "")
    if told is not None:
        raise ConfigError(told)


def _of_another_command(command: str, preset: str) -> str | None:
    """Whose a preset is, as its header says, if it is not this command's."""
    path = shipped("sweeps") / f"{preset}.yaml"
    text = path.read_text() if path.is_file() else ""
    theirs = re.findall(rf"^# l2l-(\w+) sweeps={preset}\b", text, re.MULTILINE)
    if not theirs or command in theirs:
        return None
    return f"sweeps={preset} is a study of l2l-{theirs[0]}"


def _told(key: str, fields: Mapping[str, Sequence[str]]) -> str:
    """That a key is none, and what is one."""
    parent, _, name = key.rpartition(".")
    if parent not in fields:
        return (
            f"{key} is no key that is there (--cfg job shows those that are): +{key}=... adds it, "
            f"if what {parent} describes takes it"
        )
    alike = difflib.get_close_matches(name, fields[parent], 1)
    if alike:
        return f"{key} is no key: did you mean {f'{parent}.{alike[0]}'.lstrip('.')}?"
    of = f" of {parent}" if parent else ""
    return f"{key} is no key: those{of} are {', '.join(fields[parent])}"


def _fields(command: str) -> dict[str, list[str]]:
    """Nodes all of whose keys are known -> these; the root is ""."""
    root = OmegaConf.structured(SCHEMAS[command])
    nodes = {str(key): root._get_node(key) for key in root}
    closed = {
        key: [str(one) for one in node]
        for key, node in nodes.items()
        if isinstance(node, DictConfig) and OmegaConf.get_type(node) is not dict
    }
    return {"": [*nodes, *(GROUPS if command in ("train", "evaluate") else ())], **closed}
