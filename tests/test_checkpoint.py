"""Checkpoints: what is saved comes back; what is broken, foreign or hostile is refused by name."""

import importlib
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from l2l_exp import checkpoint
from l2l_exp.checkpoint import DESCRIPTION, FORMAT_VERSION, PARAMETERS, CheckpointError
from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers.base import LearnedOptimizer, Observation

LSTM = "l2l_exp.optimizers.lstm.CoordinatewiseLSTM"
ENCODINGS = "l2l_exp.optimizers.encoding"
ARCHITECTURES = {
    "default encoding": {"_target_": LSTM, "hidden_units": 3, "layers": 1, "seed": 4},
    "identity": {
        "_target_": LSTM,
        "hidden_units": 2,
        "layers": 2,
        "output_scale": 1.0,
        "readout_std": 0.5,
        "encoding": {"_target_": f"{ENCODINGS}.Identity", "scale": 0.25},
    },
    "log sign": {
        "_target_": LSTM,
        "hidden_units": 4,
        "layers": 1,
        "readout_std": 0.5,
        "encoding": {"_target_": f"{ENCODINGS}.LogSign", "p": 3.0},
    },
}


def make(architecture: dict) -> LearnedOptimizer:
    """Build a rule by hand, its meta-parameters shaken so that no constructor could guess them."""
    arguments = {k: v for k, v in architecture.items() if k != "_target_"}
    if "encoding" in arguments:
        inner = dict(arguments["encoding"])
        module, name = inner.pop("_target_").rsplit(".", 1)
        arguments["encoding"] = getattr(importlib.import_module(module), name)(**inner)
    module, name = architecture["_target_"].rsplit(".", 1)
    rule = getattr(importlib.import_module(module), name)(**arguments)
    rng = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for parameter in rule.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=rng)
    rule.architecture = architecture
    return rule


def updates(rule: LearnedOptimizer, dtype=torch.float32) -> list[torch.Tensor]:
    """What a rule proposes at five steps on gradients of its own."""
    spec = ParamSpec.of({"theta": ((5,), "free")})
    rng = torch.Generator().manual_seed(1)
    theta = torch.zeros(2, 5, dtype=dtype)
    state, proposed = rule.init_state(theta, spec), []
    with torch.no_grad():
        for step in range(5):
            grad = torch.randn(2, 5, generator=rng).to(dtype)
            update, state = rule.step(Observation(grad, theta, theta.sum(1), step, 5, spec), state)
            proposed.append(update)
    return proposed


@pytest.fixture
def saved(tmp_path) -> Path:
    """A checkpoint that `load` accepts."""
    folder = tmp_path / "checkpoint"
    checkpoint.save(folder, make(ARCHITECTURES["log sign"]), {"run_id": "abc", "loss": 0.5})
    return folder


def rewrite(folder: Path, change) -> None:
    """Change the description of a checkpoint in place."""
    path = folder / DESCRIPTION
    description = json.loads(path.read_text())
    change(description)
    path.write_text(json.dumps(description))


def refused(folder: Path, names: Path, *telling: str) -> None:
    """`load` raises a CheckpointError that names the file and what is wrong."""
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(folder)
    assert str(names) in str(caught.value)
    for word in telling:
        assert word in str(caught.value)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_rule_comes_back_as_it_was(name, tmp_path):
    rule = make(ARCHITECTURES[name])
    checkpoint.save(tmp_path / "deep" / "folder", rule, {})
    loaded = checkpoint.load(tmp_path / "deep" / "folder")
    assert type(loaded) is type(rule)
    assert loaded.architecture == rule.architecture
    mine, theirs = rule.state_dict(), loaded.state_dict()
    assert list(mine) == list(theirs)
    for key in mine:
        assert torch.equal(mine[key], theirs[key])
    assert all(torch.equal(a, b) for a, b in zip(updates(rule), updates(loaded), strict=True))
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_the_nested_encoding_is_rebuilt_with_its_arguments(tmp_path):
    checkpoint.save(tmp_path, make(ARCHITECTURES["identity"]), {})
    encoding = checkpoint.load(tmp_path).encoding
    assert type(encoding).__name__ == "Identity" and encoding.scale == 0.25


def test_a_float64_rule_loses_no_digit(tmp_path):
    rule = make(ARCHITECTURES["log sign"]).double()
    with torch.no_grad():
        rule.readout += 1e-12
    checkpoint.save(tmp_path, rule, {})
    loaded = checkpoint.load(tmp_path).double()
    for mine, theirs in zip(rule.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    for mine, theirs in zip(
        updates(rule, torch.float64), updates(loaded, torch.float64), strict=True
    ):
        assert torch.equal(mine, theirs)


def test_a_loaded_rule_can_be_saved_again(saved, tmp_path):
    checkpoint.save(tmp_path / "again", checkpoint.load(saved), {})
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            updates(checkpoint.load(saved)), updates(checkpoint.load(tmp_path / "again")),
            strict=True,
        )
    )  # fmt: skip


def partitioned(path="torch.optim.Adam") -> dict:
    """An architecture with a torch optimizer in it, as a config writes it."""
    adam = {"_target_": "hydra.utils.get_class", "path": path}
    baseline = "l2l_exp.optimizers.baseline.Baseline"
    return {
        "_target_": "l2l_exp.optimizers.partitioned.Partitioned",
        "parts": {
            "free": {"kinds": ["free"], "names": None, "rule": ARCHITECTURES["default encoding"]},
            "rest": {"rule": {"_target_": baseline, "optimizer": adam, "lr": 0.01}},
        },
    }


def test_a_partitioned_rule_with_a_torch_optimizer_comes_back(saved):
    rule = checkpoint.rebuild(partitioned(), Path("here"))
    with torch.no_grad():
        for parameter in rule.parameters():
            parameter += 0.3
    rule.architecture = partitioned()
    checkpoint.save(saved, rule, {})
    loaded = checkpoint.load(saved)
    assert loaded.rules["rest"].optimizer is torch.optim.Adam
    assert loaded.architecture == rule.architecture
    for mine, theirs in zip(updates(rule), updates(loaded), strict=True):
        assert torch.equal(mine, theirs) and mine.count_nonzero() > 0


@pytest.mark.parametrize("path", ["os.mkdir", "torch.nn.Linear", "pathlib.Path", "", None, "no.x"])
def test_a_class_that_is_no_torch_optimizer_is_refused(saved, path):
    rewrite(saved, lambda d: d.update(architecture=partitioned(path)))
    refused(saved, saved / DESCRIPTION, str(path))


def test_an_older_checkpoint_in_the_folder_is_replaced(saved):
    rule = make(ARCHITECTURES["identity"])
    checkpoint.save(saved, rule, {"loss": 0.25})
    assert torch.equal(checkpoint.load(saved).readout, rule.readout)
    assert checkpoint.read_description(saved)["about"] == {"loss": 0.25}


def test_the_description_tells_version_architecture_and_provenance(saved):
    description = checkpoint.read_description(saved)
    assert description["format_version"] == FORMAT_VERSION
    assert description["architecture"] == ARCHITECTURES["log sign"]
    assert description["about"] == {"run_id": "abc", "loss": 0.5}


def test_a_rule_that_does_not_know_its_architecture_is_not_saved(tmp_path):
    rule = make(ARCHITECTURES["identity"])
    rule.architecture = None
    with pytest.raises(ValueError, match="architecture of this CoordinatewiseLSTM"):
        checkpoint.save(tmp_path / "new", rule, {})
    assert not (tmp_path / "new").exists()


def test_a_newer_format_is_refused_by_its_number(saved):
    rewrite(saved, lambda d: d.update(format_version=FORMAT_VERSION + 1))
    refused(
        saved, saved / DESCRIPTION, f"format_version {FORMAT_VERSION + 1}", f"to {FORMAT_VERSION}"
    )


@pytest.mark.parametrize("version", [0, -1, "1", None, 1.5])
def test_a_version_that_is_none_is_refused(saved, version):
    rewrite(saved, lambda d: d.update(format_version=version))
    refused(saved, saved / DESCRIPTION, "format_version", repr(version))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe\x00",
        b"{}",
        b'{"format_version": 1}',
        b'{"format_version": 1, "architecture": null}',
        b'{"format_version": 1, "architecture": "torch.nn.Linear"}',
        b'{"format_version": 1, "architecture": {"hidden_units": 3}}',
    ],
)
def test_a_description_that_is_none_is_refused(saved, content):
    (saved / DESCRIPTION).write_bytes(content)
    refused(saved, saved / DESCRIPTION, "not a checkpoint's description")


def test_missing_files_are_named(saved, tmp_path):
    refused(tmp_path / "nowhere", tmp_path / "nowhere", DESCRIPTION)
    (saved / PARAMETERS).unlink()
    refused(saved, saved, PARAMETERS)
    (saved / DESCRIPTION).unlink()
    refused(saved, saved, DESCRIPTION)


@pytest.mark.parametrize("kept", [0, 1, 8, 40, -1])
def test_truncated_parameters_are_refused(saved, kept):
    content = (saved / PARAMETERS).read_bytes()
    (saved / PARAMETERS).write_bytes(content[:kept])
    refused(saved, saved / PARAMETERS, "truncated or foreign")


def test_foreign_parameters_are_refused(saved):
    torch.save({"readout": torch.zeros(1)}, saved / PARAMETERS)
    refused(saved, saved / PARAMETERS, "truncated or foreign")


def test_parameters_of_other_shapes_are_refused(saved):
    rewrite(saved, lambda d: d["architecture"].update(hidden_units=7))
    refused(saved, saved / PARAMETERS, "does not fit", "readout")


@pytest.mark.parametrize("change", ["missing", "extra"])
def test_missing_and_extra_tensors_are_named(saved, change):
    tensors = load_file(saved / PARAMETERS)
    if change == "missing":
        del tensors["readout_bias"]
    else:
        tensors["readout_bias_of_another"] = torch.zeros(1)
    save_file(tensors, saved / PARAMETERS)
    refused(saved, saved / PARAMETERS, "does not fit", "readout_bias")


@pytest.mark.parametrize(
    "name", ["os.mkdir", "torch.optim.lr_scheduler.StepLR", "torch.load", None]
)
def test_of_classes_that_are_asked_for_by_name_only_torch_optimizers_are_given(saved, name):
    node = {"_target_": "hydra.utils.get_class", "path": name}
    rewrite(saved, lambda d: d["architecture"].update(encoding=node))
    refused(saved, saved / DESCRIPTION, str(name), "torch optimizer" if name else "cannot be")


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    "target",
    ["os.mkdir", "pathlib.Path.mkdir", "builtins.print", "subprocess.Popen", "torch.load"],
)
def test_what_is_not_a_module_class_is_never_called(saved, tmp_path, capfd, target, nested):
    node = {"_target_": target, "path": str(tmp_path / "made"), "args": ["touch", "made"]}
    if target == "os.mkdir":
        del node["args"]

    def change(description):
        if nested:
            description["architecture"]["encoding"] = node
        else:
            description["architecture"] = node

    rewrite(saved, change)
    refused(saved, saved / DESCRIPTION, target)
    assert not (tmp_path / "made").exists()
    assert capfd.readouterr().out == ""


def test_mkdir_would_have_been_seen(tmp_path):
    """The probe of the test above works: called with these arguments it leaves a trace."""
    import os

    os.mkdir(path=str(tmp_path / "made"))
    assert (tmp_path / "made").is_dir()


@pytest.mark.parametrize(
    "target",
    ["nowhere.at.all.Rule", "l2l_exp.optimizers.lstm.Gone", "Rule", "", ".Rule", "torch.nn.", None],
)
def test_an_unknown_import_path_is_refused(saved, target):
    rewrite(saved, lambda d: d["architecture"].update(_target_=target))
    refused(saved, saved / DESCRIPTION, str(target))


def test_a_module_whose_import_fails_is_refused(saved, tmp_path, monkeypatch):
    (tmp_path / "breaks_on_import.py").write_text("raise RuntimeError('no luck')\n")
    monkeypatch.syspath_prepend(tmp_path)
    rewrite(saved, lambda d: d["architecture"].update(_target_="breaks_on_import.Rule"))
    refused(saved, saved / DESCRIPTION, "breaks_on_import.Rule", "no luck")


@pytest.mark.parametrize(
    ("arguments", "telling"),
    [
        ({"no_such_argument": 1}, "no_such_argument"),
        ({"hidden_units": 0}, "hidden_units=0"),
        ({"hidden_units": "many"}, "refuses its arguments"),
        ({"hidden_units": 2.5}, "refuses its arguments"),
    ],
)
def test_arguments_that_a_rule_refuses_are_told(saved, arguments, telling):
    rewrite(saved, lambda d: d["architecture"].update(arguments))
    refused(saved, saved / DESCRIPTION, LSTM, telling)


def test_a_module_that_raises_something_else_is_refused_too(saved):
    node = {"_target_": "torch.nn.Linear", "in_features": -1, "out_features": 2}
    rewrite(saved, lambda d: d["architecture"].update(encoding=node))
    refused(saved, saved / DESCRIPTION, "torch.nn.Linear", "refuses its arguments")


def test_a_module_that_is_no_rule_is_refused(saved):
    rewrite(saved, lambda d: d.update(architecture={"_target_": "torch.nn.Identity"}))
    refused(saved, saved / DESCRIPTION, "Identity, not a rule")


def test_an_interface_cannot_be_built(saved):
    abstract = "l2l_exp.optimizers.base.LearnedOptimizer"
    rewrite(saved, lambda d: d.update(architecture={"_target_": abstract}))
    refused(saved, saved / DESCRIPTION, abstract, "abstract")


def test_the_error_is_a_value_error_on_one_line(saved):
    """The commands print it as it is, and exit with 2."""
    rewrite(saved, lambda d: d["architecture"].update(hidden_units=7))
    with pytest.raises(ValueError) as caught:
        checkpoint.load(saved)
    assert re.fullmatch(r"[^\n]+", str(caught.value))


@pytest.mark.parametrize("record", [b"", b'{"status": "FINI', b"\xff\xfe\x00", b"[]", b"null"])
def test_a_member_of_a_multirun_whose_record_cannot_be_read_is_not_finished(record, tmp_path):
    for name, content in (("0", b'{"status": "FINISHED"}'), ("1", record)):
        folder = tmp_path / name / checkpoint.FOLDER
        checkpoint.save(folder, make(ARCHITECTURES["identity"]), {"seed": 0})
        (tmp_path / name / "run.json").write_bytes(content)
    assert checkpoint.locate(tmp_path, 0) == tmp_path / "0" / checkpoint.FOLDER
