"""What README.md tells a reader to type exists: commands compose, make targets are there.

Nothing is run here; values that a reader must fill in (RUN_ID, paths) are accepted as they are.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser

from l2l_exp.cli import OUR_OPTIONS, READERS, _arguments, presets_named
from l2l_exp.config import register, shipped
from l2l_exp.rule_cli import export_parser, import_parser
from l2l_exp.source import RULES

ROOT = Path(__file__).parent.parent
README = "\n".join(
    (ROOT / name).read_text()
    for name in (
        "README.md",
        "docs/optimizees.md",
        "docs/rules.md",
        "docs/robust.md",
        "docs/estimators.md",
        "docs/training.md",
        "docs/drop_in.md",
        "docs/studies.md",
        "sweeps/README.md",
        "docs/guide.md",
        *(f"l2l_exp/rules/{path.name}" for path in sorted(RULES.glob("*.md"))),
    )
)
COMMANDS = ("l2l-train", "l2l-evaluate", "l2l-report", "l2l-compare")
PARSERS = {"l2l-export": export_parser, "l2l-import": import_parser}
KNOWN = (*COMMANDS, *PARSERS, "make", "git", "cd", "mlflow", "pip", "uv", "python", "python3",
         "source", "export", "mkdir", "cp", "cat", "ls", "pytest", "nvidia-smi", "conda",
         "tmux")  # fmt: skip
ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z_0-9]*=\S*$")


def blocks(text: str) -> list[str]:
    """The content of every fenced bash block."""
    return re.findall(
        r"^[ \t]*```(?:bash|sh|shell)\n(.*?)^[ \t]*```", text, re.MULTILINE | re.DOTALL
    )


def lines(text: str) -> Iterator[list[str]]:
    """Words of every command line: continuations joined; prompts, comments and && taken apart."""
    for block in blocks(text):
        for line in re.sub(r"\\\n", " ", block).splitlines():
            line = line.strip().removeprefix("$ ")
            words = shlex.split(line, comments=True)
            while words:
                cut = next((i for i, word in enumerate(words) if word in ("&&", ";", "|")), None)
                one, words = words[:cut], [] if cut is None else words[cut + 1 :]
                while one and ASSIGNMENT.match(one[0]):
                    one = one[1:]  # FOO=bar in front of a command
                if one:
                    yield [Path(one[0]).name if "/" in one[0] else one[0], *one[1:]]


TOLD = list(lines(README))
COMMAND_LINES = [words for words in TOLD if words[0] in COMMANDS]
RULE_LINES = [words for words in TOLD if words[0] in PARSERS]
MAKE_LINES = [words for words in TOLD if words[0] == "make"]


def shipped_option(group: str, option: str) -> bool:
    folder = shipped("sweeps") if group == "sweeps" else shipped("conf") / group
    return (folder / f"{option}.yaml").is_file()


def composes(words: list[str]) -> None:
    """Compose a command line as Hydra would; of a sweep the first value of every key."""
    entry = words[0].removeprefix("l2l-")
    given = [word for word in words[1:] if word not in OUR_OPTIONS]
    given = _arguments(entry, given) if entry in READERS else given
    arguments = get_args_parser().parse_args(given)
    chosen = []
    for override in OverridesParser.create().parse_overrides(arguments.overrides):
        text = override.input_line
        if override.is_sweep_override():
            text = f"{override.get_key_element()}={next(override.sweep_string_iterator())}"
        group, option = override.get_key_element(), str(override.value())
        known = group == "sweeps" or (shipped("conf") / group).is_dir()
        own = arguments.config_dir and known
        if not (own and not shipped_option(group, option)):  # an option of the reader's own
            chosen.append(text)
    register((entry,), presets_named(chosen))
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(shipped("conf")), version_base="1.3"):
        compose(entry, overrides=chosen)


def test_the_readme_tells_commands():
    assert COMMAND_LINES, "README.md holds no l2l-train or l2l-evaluate in a fenced bash block"


@pytest.mark.parametrize("words", COMMAND_LINES, ids=" ".join)
def test_a_command_of_the_readme_composes(words):
    composes(words)


@pytest.mark.parametrize("words", RULE_LINES, ids=" ".join)
def test_a_command_on_rules_has_the_arguments_that_it_takes(words):
    given = PARSERS[words[0]]().parse_args(words[1:])
    assert given.out.suffix == ".safetensors"


@pytest.mark.parametrize("words", MAKE_LINES, ids=" ".join)
def test_a_make_target_of_the_readme_exists(words):
    targets = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
    makefile = (ROOT / "Makefile").read_text()
    for target in targets:
        assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("words", TOLD, ids=" ".join)
def test_a_line_of_the_readme_begins_with_a_program_that_is_known(words):
    """A misspelt l2l-trian would otherwise be skipped by every test above."""
    assert words[0] in KNOWN


SAMPLE = """
```bash
git clone URL && cd l2l_exp   # a comment
make demo
L2L_CACHE=/tmp .venv/bin/l2l-train experiment=smoke \\
    seed=3
$ l2l-train -m seed=0,1 'optimizee=quadratic'
```
```python
l2l-train nothing=here
```
"""


def test_lines_are_found_in_bash_blocks_alone():
    assert list(lines(SAMPLE)) == [
        ["git", "clone", "URL"],
        ["cd", "l2l_exp"],
        ["make", "demo"],
        ["l2l-train", "experiment=smoke", "seed=3"],
        ["l2l-train", "-m", "seed=0,1", "optimizee=quadratic"],
    ]


@pytest.mark.parametrize(
    "line",
    [
        "l2l-train -m seed=0,1,2 optimizee=quadratic,mlp",
        "l2l-train --config-dir my_conf optimizee=mine optimizer.layers=1",
        "l2l-evaluate optimizer.source=RUN_ID evaluation.horizon=200 --debug",
        "l2l-train experiment=smoke --cfg job --resolve",
    ],
)
def test_a_right_command_passes(line):
    composes(line.split())


@pytest.mark.parametrize(
    "line",
    [
        "l2l-train experiment=no_such",
        "l2l-train --config-dir my_conf optimizee=mine optimizer.layrs=1",
        "l2l-evaluate training.horizon=3",
        "l2l-train -m sede=0,1",
    ],
)
def test_a_wrong_command_fails(line):
    with pytest.raises(Exception, match="no_such|layrs|training|sede"):
        composes(line.split())
