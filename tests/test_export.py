"""A rule as one file: what is written, what comes back, and what is refused."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import l2l_exp
from l2l_exp import checkpoint, rule_cli
from l2l_exp.architecture import rebuild
from l2l_exp.checkpoint import METADATA, CheckpointError
from l2l_exp.optimizers.base import Observation
from l2l_exp.tracking import trained_rule

pytest_plugins = ["edge_fixtures"]

LSTM = "l2l_exp.optimizers.lstm.CoordinatewiseLSTM"
STAR = "l2l_exp.optimizers.star.STAR"
ARCHITECTURES = {
    "lstm": {"_target_": LSTM, "hidden_units": 3, "layers": 1, "readout_std": 0.5},
    "encoded": {
        "_target_": LSTM, "hidden_units": 2, "readout_std": 0.5,
        "encoding": {"_target_": "l2l_exp.optimizers.encoding.Identity", "scale": 0.25},
    },
    "wrapped": {
        "_target_": "l2l_exp.optimizers.postprocess.Postprocessed", "decay": "linear",
        "rule": {"_target_": "l2l_exp.optimizers.whitened.Whitened", "rule": {"_target_": STAR}},
    },
}  # fmt: skip
ABOUT = {"seed": 4, "horizon": 7, "validation": 0.5, "validations": [{"loss": None}]}


def make(name: str):
    rule = rebuild(ARCHITECTURES[name], "here")
    with torch.no_grad():
        for parameter in rule.parameters():
            parameter += 0.01
    rule.architecture, rule.about = ARCHITECTURES[name], ABOUT
    return rule


@pytest.fixture
def exported(tmp_path):
    """A file that `load` accepts."""
    path = tmp_path / "mine.safetensors"
    checkpoint.export(path, make("lstm"), ABOUT)
    return path


def trajectory(rule) -> torch.Tensor:
    """Four steps down 1/2 |theta|^2 in two dimensions."""
    from l2l_exp.optimizees.spec import ParamSpec

    spec = ParamSpec.of({"w": ((2, 3), "fc")})
    theta = torch.linspace(-1, 1, 6).unsqueeze(0)
    state = rule.init_state(theta, spec)
    with torch.no_grad():
        for step in range(4):
            seen = Observation(theta.clone(), theta, theta.square().sum(1) / 2, step, 5, spec)
            update, state = rule.step(seen, state)
            theta = theta + update
    return theta


def l2l_export(capsys, *arguments: str) -> tuple[int, str, str]:
    """Code, output and errors of l2l-export."""
    capsys.readouterr()
    old, sys.argv = sys.argv, ["l2l-export", *arguments]
    try:
        with pytest.raises(SystemExit) as ended:
            rule_cli.export()
    finally:
        sys.argv = old
    return (int(ended.value.code), *capsys.readouterr())


# ------------------------------------------------------------------ what comes back


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_one_file_is_the_whole_rule(name, tmp_path):
    rule, path = make(name), tmp_path / "deep" / "mine.safetensors"
    checkpoint.export(path, rule, ABOUT)
    assert [one.name for one in path.parent.iterdir()] == ["mine.safetensors"]
    parameter = torch.nn.Parameter(torch.zeros(2, 3))
    for loaded in (
        checkpoint.load(path),
        trained_rule(str(path), None),
        l2l_exp.load_optimizer(path, [parameter]).rule,
    ):
        assert type(loaded) is type(rule) and loaded.architecture == rule.architecture
        assert loaded.about == ABOUT
        assert torch.equal(trajectory(loaded), trajectory(rule))


def test_the_same_rule_gives_the_same_bytes_and_float64_stays(tmp_path):
    rule = make("lstm").double()
    with torch.no_grad():
        rule.readout += 1e-12
    for name in "ab":
        checkpoint.export(tmp_path / f"{name}.safetensors", rule, ABOUT)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert torch.equal(checkpoint.load(tmp_path / "a.safetensors").readout, rule.readout)


def test_a_file_named_as_that_of_a_folder_is_told_from_it(tmp_path):
    alone, whole = tmp_path / "alone", tmp_path / "whole"
    checkpoint.export(alone / "rule.safetensors", make("lstm"), {"seed": 1})
    checkpoint.save(whole, make("encoded"), {"seed": 2})
    for folder, seed in ((alone, 1), (whole, 2)):
        found = checkpoint.locate(folder / "rule.safetensors", None)
        assert checkpoint.load(found).about == {"seed": seed}


def test_a_rule_that_does_not_know_its_architecture_is_not_exported(tmp_path):
    rule = make("lstm")
    rule.architecture = None
    with pytest.raises(ValueError, match="architecture of this CoordinatewiseLSTM"):
        checkpoint.export(tmp_path / "mine.safetensors", rule, {})
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------ the command


def test_the_command_exports_checkpoints_members_and_exports(tmp_path, capsys):
    for seed in (0, 1):
        checkpoint.save(tmp_path / "many" / str(seed) / "checkpoint", make("lstm"), {"seed": seed})
    out = tmp_path / "out.safetensors"
    code, told, error = l2l_export(capsys, str(tmp_path / "many"), str(out), "--seed", "1")
    assert (code, error) == (0, "") and "CoordinatewiseLSTM" in told
    assert checkpoint.load(out).about == {"seed": 1}
    again = tmp_path / "again.safetensors"
    assert l2l_export(capsys, str(out), str(again), "--horizon", "30")[0] == 0
    assert checkpoint.load(again).about == {"seed": 1, "horizon": 30}


@pytest.mark.parametrize(
    ("arguments", "telling"),
    [
        ([], "SOURCE"),
        (["lstm"], "OUT.safetensors"),
        (["nowhere", "{}/a.safetensors"], "bundled are"),
        (["bundled:/nowhere", "{}/a.safetensors"], "bundled are"),
        (["{}", "{}/a.safetensors"], "holds no rule.json"),
        (["{}/many", "{}/a.safetensors"], "choose by seed="),
        (["{}/many", "{}/a.safetensors", "--seed", "x"], "invalid int value"),
        (["{}/many/0", "{}/a.pt"], "a.pt must end in .safetensors"),
        (["{}/many/0", "{}/a.safetensors", "--horizon", "0"], "0 must be a whole number >= 1"),
        (["{}/many/0", "/proc/a.safetensors"], "/proc"),
        (["models:/x@y", "{}/a.safetensors"], "no.db does not exist"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_2(
    arguments, telling, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/no.db")
    for seed in (0, 1):
        checkpoint.save(tmp_path / "many" / str(seed) / "checkpoint", make("lstm"), {"seed": seed})
    code, out, error = l2l_export(capsys, *(one.format(tmp_path) for one in arguments))
    assert (code, out) == (2, "")
    assert error.startswith("l2l-export: ") and error.count("\n") == 1 and telling in error
    assert not (tmp_path / "a.safetensors").exists()


@pytest.mark.parametrize(
    ("program", "main", "shown"),
    [("l2l-export", "export", "SOURCE"), ("l2l-import", "import_", "--layout")],
)
def test_help_imports_neither_torch_nor_the_edge(program, main, shown):
    code = (
        "import sys, l2l_exp.rule_cli as cli\n"
        f"sys.argv = ['{program}', '--help']\n"
        f"try: cli.{main}()\n"
        "finally: print(*{'torch', 'hydra', 'mlflow', 'numpy'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "") and shown in done.stdout


@pytest.mark.parametrize("source", ["exported", "robust", "bundled:/lstm"])
def test_a_comparison_takes_a_rule_s_file_and_notes_its_hash(source, exported, command, workplace):
    name = f"l2l_exp/rules/{source.rpartition('/')[2]}.safetensors"
    if source == "exported":
        source = name = str(exported)
    done = command(
        "evaluate", f"optimizer.source={source}", "optimizee=quadratic", "smoke=evaluation",
        "tracking=none", "evaluation.baselines={}",
    )  # fmt: skip
    assert done.code == 0, done.err
    (told,) = workplace.glob("outputs/*/*/run.json")
    assert name in json.loads(told.read_text())["sources"]


# ------------------------------------------------------------------ what is refused


def refused(path, *telling: str) -> None:
    """`load` raises a CheckpointError on one line that names the file and what is wrong."""
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(path)
    for word in (str(path), *telling):
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def rewrite(path, change) -> None:
    """Change what an exported file says of itself, and leave its tensors."""
    description = checkpoint.read_description(path)
    changed = change(description)
    text = changed if isinstance(changed, str) else json.dumps(description)
    save_file(load_file(path), path, {METADATA: text})


@pytest.mark.parametrize("kept", [0, 1, 8, 40, -1])
def test_a_truncated_file_is_refused(exported, kept):
    exported.write_bytes(exported.read_bytes()[:kept])
    refused(exported, "truncated or foreign")


@pytest.mark.parametrize("content", [b"# a text\n", b"PK\x03\x04", b"\x80\x04K\x01.", b"\0" * 64])
def test_a_foreign_file_is_refused(exported, content):
    exported.write_bytes(content)
    refused(exported)


def test_a_file_of_torch_is_refused(exported):
    torch.save({"readout": torch.zeros(1)}, exported)
    refused(exported, "truncated or foreign")


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_the_safetensors_of_something_else_are_refused(exported, metadata):
    save_file({"weight": torch.zeros(2)}, exported, metadata)
    refused(exported, "no exported rule")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"a": ' * 100_000])
def test_a_description_that_is_none_is_refused(exported, text):
    rewrite(exported, lambda _: text)
    refused(exported, "not a checkpoint's description")


@pytest.mark.parametrize("about", ["text", [1, 2], 3])
def test_an_about_that_is_none_is_refused(exported, about):
    rewrite(exported, lambda told: told.update(about=about))
    refused(exported, "not a checkpoint's description")


def test_a_rule_that_is_nested_beyond_measure_is_refused(exported):
    node = {"_target_": LSTM}
    for _ in range(400):
        node = {"_target_": "l2l_exp.optimizers.whitened.Whitened", "rule": node}
    rewrite(exported, lambda told: told.update(architecture=node))
    refused(exported)


@pytest.mark.parametrize("target", ["os.mkdir", "builtins.print", "torch.load", "no.such.Rule"])
def test_nothing_but_classes_of_modules_is_called(exported, tmp_path, target):
    node = {"_target_": target, "path": str(tmp_path / "made")}
    rewrite(exported, lambda told: told.update(architecture=node))
    refused(exported, target)
    assert not (tmp_path / "made").exists()


def test_a_module_that_exits_when_it_is_imported_is_refused(exported, tmp_path, monkeypatch):
    (tmp_path / "exits_on_import.py").write_text("raise SystemExit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    rewrite(exported, lambda told: told["architecture"].update(_target_="exits_on_import.Rule"))
    refused(exported, "exits_on_import.Rule")


def test_tensors_that_do_not_fit_are_refused(exported):
    rewrite(exported, lambda told: told["architecture"].update(hidden_units=5))
    refused(exported, "does not fit")
    rewrite(exported, lambda told: told.update(format_version=99))
    refused(exported, "format_version 99")


def test_a_damaged_header_is_refused_or_means_a_rule(exported, tmp_path):
    content = exported.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    rng, refusals = np.random.default_rng(0), 0
    for number in range(150):
        damaged = bytearray(content)
        damaged[rng.integers(header)] = rng.integers(256)
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(damaged)
        try:
            checkpoint.load(path)
        except CheckpointError as error:
            assert "\n" not in str(error)
            refusals += 1
    assert refusals > 75
