"""Every option, experiment and sweep composes and builds; what is misspelt is named.

Options are found by walking conf/ and sweeps/: a new file is tested without a line here.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from l2l_exp import checkpoint, cli
from l2l_exp.cli import presets_named
from l2l_exp.config import (
    ConfigError,
    EvaluationConfig,
    TrackingConfig,
    TrainingConfig,
    build,
    build_optimizee,
    build_options,
    build_rule,
    flatten,
    plain,
    register,
    shipped,
)
from l2l_exp.meta.objective import MetaLoss
from l2l_exp.meta.train import Options, Plan, check
from l2l_exp.optimizees.base import Optimizee
from l2l_exp.optimizees.scaled import Scaled
from l2l_exp.optimizers.base import LearnedOptimizer
from l2l_exp.optimizers.baseline import Baseline
from l2l_exp.optimizers.lstm import CoordinatewiseLSTM
from l2l_exp.reference import Reference

CONF, SWEEPS = shipped("conf"), shipped("sweeps")
ENTRIES = ("train", "evaluate")
NOT_COMPONENTS = ("experiment", "hydra", "variant", "smoke")


def options() -> list[tuple[str, str]]:
    """(group, option) of every file of every group, nested groups included."""
    found = []
    for path in sorted(CONF.rglob("*.yaml")):
        group = path.parent.relative_to(CONF).as_posix()
        if group != "." and group.split("/")[0] not in NOT_COMPONENTS:
            found.append((group, path.stem))
    return found


OPTIONS = options()
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
PRESETS = sorted(path.stem for path in SWEEPS.glob("*.yaml"))


@pytest.fixture
def composed() -> Iterator[Callable[..., DictConfig]]:
    """Composes as the commands do: composed("train", "seed=1")."""

    def made(entry: str, *overrides: str, **settings: Any) -> DictConfig:
        register((entry,), presets_named(list(overrides)))
        return compose(entry, overrides=list(overrides), **settings)

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield made


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    """A checkpoint for `optimizer=trained`."""
    rule = CoordinatewiseLSTM(hidden_units=2, layers=1)
    rule.architecture = {
        "_target_": "l2l_exp.optimizers.lstm.CoordinatewiseLSTM", "hidden_units": 2, "layers": 1,
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("trained")
    checkpoint.save(folder, rule, {})
    return str(folder)


def entries_of(group: str) -> list[str]:
    """The commands that have a group."""
    return ["train"] if group.split("/")[0] == "training" else list(ENTRIES)


def offline(cfg: DictConfig) -> DictConfig:
    """The same config on images and weights that need no download."""
    if "root" in cfg.data:
        cfg.data = {"_target_": "l2l_exp.optimizees.data.digits"}
    if "weights" in cfg.optimizee.get("features", {}):
        cfg.optimizee.features.weights = "random"
    return cfg


def build_all(node: DictConfig) -> list[object]:
    """Build a node, or what it holds."""
    if "_target_" in node:
        return [build(node)]
    children = [child for child in node.values() if isinstance(child, DictConfig)]
    return [thing for child in children for thing in build_all(child)]


def build_run(cfg: DictConfig, source: str) -> None:
    """Build everything that a run of this config would, but the tracker's run."""
    if "source" in cfg.optimizer:
        cfg.optimizer.source = source
    if "source" in (OmegaConf.select(cfg, "training.imitation.teacher") or ()):
        cfg.training.imitation.teacher.source = source
    offline(cfg)
    optimizee = build_optimizee(cfg)
    assert isinstance(optimizee, Optimizee)
    rule = build_rule(cfg, cfg.optimizer)
    assert isinstance(rule, LearnedOptimizer)
    for node in cfg.evaluation.baselines.values():
        assert isinstance(build_rule(cfg, node), Baseline)
    for node in cfg.evaluation.references.values():
        assert isinstance(build(node), Reference)
    build_all(cfg.tracking)
    if "training" in cfg:
        keys = {field.name for field in dataclasses.fields(Plan)} - {"seed"}
        plan = Plan(seed=cfg.seed, **{key: cfg.training[key] for key in keys})
        for node in set(OPEN_TRAINING_NODES) - MAY_BE_NULL:
            assert len(build_all(cfg.training[node])) == 1
        options = build_options(cfg, optimizee)
        assert isinstance(options, Options)
        meta_loss = MetaLoss(build(cfg.training.weights), build(cfg.training.form))
        check(rule, build(cfg.training.gradient), meta_loss, plan, options)
        meta_optimizer = build(cfg.training.meta_optimizer)
        assert isinstance(
            meta_optimizer([torch.nn.Parameter(torch.zeros(1))]), torch.optim.Optimizer
        )


def header(path: Path) -> str:
    """The comment lines at the top of a file."""
    lines = path.read_text().splitlines()
    return "\n".join(line for line in lines if line.startswith("#"))


def content(path: Path) -> list[str]:
    """Lines that are neither comment nor blank."""
    return [line for line in path.read_text().splitlines() if line.strip() and line[0] != "#"]


def entry_of(path: Path) -> str:
    """The command that a header names."""
    match = re.search(r"^# l2l-(train|evaluate) ", header(path), re.MULTILINE)
    assert match, f"{path} does not name its command on a line of its own"
    return match[1]


OWNERS = {
    "optimizer/encoding": "optimizer=lstm",
    "optimizer/inputs": "optimizer=rnnprop",
    "optimizer/controller": "optimizer=ntm_bfgs",
    "optimizer/controller=secant": "optimizer=ntm_lbfgs",
    "optimizee/features": "optimizee=neural_art",
}
"""An option that has the group, or that the one option makes sense in."""
MAY_BE_NULL = {"scaling", "imitation", "optimizees", "optimizee_weights"}
OPEN_TRAINING_NODES = {
    "gradient", "weights", "form", "schedule", "meta_optimizer", "horizons",
    "diagnostics", *MAY_BE_NULL,
}  # fmt: skip


# ------------------------------------------------------------------ what is shipped


def test_there_is_something_to_find():
    assert len(OPTIONS) >= 20 and EXPERIMENTS and PRESETS
    groups = {group.split("/")[0] for group, _ in OPTIONS}
    assert groups == {"data", "optimizee", "optimizer", "training", "evaluation", "tracking"}


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=["=".join(pair) for pair in OPTIONS])
def test_every_option_composes_and_builds(group, option, composed, source):
    for entry in entries_of(group):
        overrides = [f"{group}={option}"]
        owner = OWNERS.get(f"{group}={option}", OWNERS.get(group))
        if owner is not None:
            overrides.insert(0, owner)
        cfg = composed(entry, *overrides)
        node = OmegaConf.select(cfg, group.replace("/", "."))
        written = OmegaConf.load(CONF / group / f"{option}.yaml")
        for key in set(written) - {"defaults"}:
            assert key in node
        build_run(cfg, source)


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda p: p.stem)
def test_every_file_says_what_it_is(path):
    first = path.read_text().splitlines()[:2]
    assert first[0].startswith("# ")
    assert not first[0].startswith("# @package") or first[1].startswith("# ")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_and_builds_with_its_entry(name, composed, source):
    entry = entry_of(CONF / "experiment" / f"{name}.yaml")
    overrides = [f"experiment={name}"]
    if entry == "evaluate":
        overrides.append(f"optimizer.source={source}")
    build_run(composed(entry, *overrides), source)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_is_a_short_difference_under_a_header(name):
    path = CONF / "experiment" / f"{name}.yaml"
    assert path.read_text().splitlines()[0] == "# @package _global_"
    assert f"experiment={name}" in header(path)
    assert 0 < len(content(path)) <= 15


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_changes_something_and_everything_it_writes_arrives(name, composed):
    path = CONF / "experiment" / f"{name}.yaml"
    entry = entry_of(path)
    cfg = plain(composed(entry, f"experiment={name}"))
    assert cfg != plain(composed(entry))
    written = OmegaConf.to_container(OmegaConf.load(path))
    arrived = flatten(cfg)
    for key, value in flatten({k: v for k, v in written.items() if k != "defaults"}).items():
        if not (isinstance(value, str) and "${" in value):
            assert arrived[key] == value


@pytest.mark.parametrize("name", PRESETS)
def test_every_sweep_composes_and_its_keys_exist(name, composed, source):
    path = SWEEPS / f"{name}.yaml"
    entry = entry_of(path)
    cfg = composed(entry, f"sweeps={name}", return_hydra_config=True)
    assert cfg.hydra.mode.name == "MULTIRUN"
    params = cfg.hydra.sweeper.params
    assert params
    choices = []
    for key, values in params.items():
        parsed = OverridesParser.create().parse_overrides([f"{key}={values}"])[0]
        assert parsed.is_sweep_override(), f"{key} has a single value"
        choices.append([f"{key}={value}" for value in parsed.sweep_string_iterator()])
    for place in (0, -1):  # the first and the last value of every key
        build_run(composed(entry, f"sweeps={name}", *[values[place] for values in choices]), source)


@pytest.mark.parametrize("name", PRESETS)
def test_every_sweep_tells_its_command_and_its_cost(name):
    told = header(SWEEPS / f"{name}.yaml")
    assert f"sweeps={name}" in told and "cost" in told.lower()
    table = (SWEEPS / "README.md").read_text()
    assert f"| `{name}` |" in table and f"sweeps={name}" in table


def test_a_sweep_changes_nothing_but_hydra(composed):
    for name in PRESETS:
        entry = entry_of(SWEEPS / f"{name}.yaml")
        assert (
            set(OmegaConf.load(SWEEPS / f"{name}.yaml")) == {"hydra"}
            or plain(composed(entry, f"sweeps={name}")).keys() == plain(composed(entry)).keys()
        )


@pytest.mark.parametrize("name", [name for group, name in OPTIONS if group == "optimizer"])
def test_every_rule_with_meta_parameters_comes_back_from_its_checkpoint(
    name, composed, source, tmp_path
):
    cfg = composed("train", f"optimizer={name}")
    if "source" in cfg.optimizer:
        cfg.optimizer.source = source
    rule = build_rule(cfg, cfg.optimizer)
    if any(True for _ in rule.parameters()):
        checkpoint.save(tmp_path, rule, {})
        loaded = checkpoint.load(tmp_path)
        assert type(loaded) is type(rule) and repr(loaded) == repr(rule)
        assert all(torch.equal(x, rule.state_dict()[key]) for key, x in loaded.state_dict().items())


WRAPPED = ["optimizer=safeguarded", "optimizer@optimizer.fallback=sgd"]


@pytest.mark.parametrize("inner", ["lstm", "trained"])
def test_a_wrapped_rule_is_rebuilt_from_a_checkpoint_alone(inner, composed, source, tmp_path):
    cfg = composed(
        "train", *WRAPPED, "optimizer.fallback.lr=0.1", "optimizer.ascent=0.5",
        f"optimizer@optimizer.rule={inner}",
    )  # fmt: skip
    if inner == "trained":
        cfg.optimizer.rule.source = source
    rule = build_rule(cfg, cfg.optimizer)
    checkpoint.save(tmp_path, rule, {})
    loaded = checkpoint.load(tmp_path)
    assert "source" not in loaded.architecture["rule"]
    assert loaded.ascent == 0.5 and loaded.fallback.rates == (0.1,)
    assert loaded.fallback.optimizer is torch.optim.SGD
    mine, theirs = rule.state_dict(), loaded.state_dict()
    assert list(mine) == list(theirs) and all(torch.equal(mine[k], theirs[k]) for k in mine)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimizer.blow_up=0.5"], "optimizer: blow_up=0.5 must be >= 1, or null"),
        (["optimizer.ascent=0"], "ascent=0 has no effect without fallback"),
        (["optimizer@optimizer.fallback=adam"], "fallback.lr=tuned must be one number"),
        (["optimizer@optimizer.rule=adam"], "rule.lr=tuned must be one number"),
    ],
)
def test_what_a_safeguard_refuses_is_told_in_one_line(overrides, message, composed):
    cfg = composed("train", "optimizer=safeguarded", *overrides)
    with pytest.raises(ConfigError, match=message) as caught:
        build_rule(cfg, cfg.optimizer)
    assert "\n" not in str(caught.value)


MIXED = ["+optimizee@training.optimizees.wide=mlp", "training.optimizees.wide.hidden_units=40"]


def test_optimizees_of_any_kind_are_mixed_and_scaled(composed):
    cfg = composed(
        "train", "optimizee=quadratic", *MIXED, "training.optimizee_weights.main=0.5",
        "training/scaling=random",
    )  # fmt: skip
    main = build_optimizee(cfg)
    mixture = build_options(cfg, main).mixture
    assert set(mixture.optimizees) == {"main", "wide"} and mixture.weights == {"main": 0.5}
    assert all(isinstance(one, Scaled) for one in mixture.optimizees.values())
    assert mixture.optimizees["main"].inner is main and not isinstance(main, Scaled)
    assert mixture.optimizees["wide"].spec.size == 64 * 40 + 40 + 40 * 10 + 10


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([*MIXED, "+training.optimizee_weights.wde=1"], "training.optimizee_weights: .*wde"),
        ([*MIXED, "+training.optimizee_weights.wide=-1"], "wide.*-1.0 must be"),
        (["+optimizee@training.optimizees.main=quadratic"], "training.optimizees.main is the"),
        (["+training.optimizees.wide=4"], "training.optimizees.wide is no optimizee"),
        ([*MIXED, "training.optimizees.wide.hidden_units=0"], "optimizees.wide: hidden_units=0"),
    ],
)
def test_a_mixture_that_makes_no_sense_is_refused_in_one_line(overrides, message, composed):
    cfg = composed("train", "optimizee=quadratic", *overrides)
    with pytest.raises(ConfigError, match=message) as caught:
        build_options(cfg, build_optimizee(cfg))
    assert "\n" not in str(caught.value)


def test_a_teacher_is_any_rule_at_a_rate(composed):
    cfg = composed(
        "train", "training/imitation=adam", "optimizer@training.imitation.teacher=nag",
        "training.imitation.teacher.lr=0.03",
    )  # fmt: skip
    imitation = build_options(cfg, build_optimizee(cfg)).imitation
    assert imitation.teacher.rates == (0.03,) and imitation.teacher.settings["nesterov"]


# ------------------------------------------------------------------ keys that scripts rely on

ROOT_KEYS = ["seed", "device", "dtype", "threads"]
SHARED_KEYS = [
    *ROOT_KEYS, "evaluation.horizon", "evaluation.problems", "evaluation.seed", "tracking.uri",
    "tracking.experiment",
]  # fmt: skip
TRAINING_KEYS = [f"training.{k}" for k in ("horizon", "truncation", "episodes", "problems")]
OPTION_KEYS = {
    "optimizer=lstm": ["hidden_units", "layers", "output_scale"],
    "optimizer=trained": ["source"],
    "optimizee=mlp": [
        "hidden_units",
        "layers",
        "activation",
        "init",
        "init_std",
        "label_noise",
        "gradient_noise",
    ],
    "optimizee=conv": ["channels", "layers", "kernel", "hidden_units", "activation", "norm"],
    "optimizee=neural_art": ["size", "style", "alpha", "beta", "gamma", "start"],
    "optimizee=quadratic": ["init_std", "distribution"],
    **{
        f"optimizee={name}": ["function", "dimension", "spread", "shift", "rotate"]
        for name in ("rosenbrock", "rastrigin", "ackley", "beale")
    },
    "optimizee=spectrum": ["dimension", "condition", "eigenvalues", "rotate"],
    "optimizee=lasso": ["rows", "dimension", "l1"],
    "optimizee=logistic": ["cases", "l2", "batch_size"],
    **{
        f"optimizer={stem}": ["lr"]
        for group, stem in OPTIONS
        if group == "optimizer" and "lr: tuned" in (CONF / group / f"{stem}.yaml").read_text()
    },
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_keys_that_scripts_rely_on_exist(entry, composed):
    keys = flatten(plain(composed(entry)))
    for key in SHARED_KEYS + (TRAINING_KEYS if entry == "train" else []):
        assert key in keys


@pytest.mark.parametrize("choice", OPTION_KEYS)
def test_keys_of_components_are_scalars_that_can_be_swept(choice, composed):
    node = composed("evaluate", choice)[choice.split("=")[0]]
    for key in OPTION_KEYS[choice]:
        assert key in node
        assert not OmegaConf.is_config(node[key])


def test_the_baselines_are_found():
    found = [choice for choice, keys in OPTION_KEYS.items() if keys == ["lr"]]
    assert len(found) >= 6


def test_evaluation_none_turns_evaluation_off_and_nothing_else(composed):
    on, off = plain(composed("train")), plain(composed("train", "evaluation=none"))
    assert on["evaluation"]["enabled"] is True and off["evaluation"]["enabled"] is False
    on["evaluation"]["enabled"] = False
    assert on == off


@pytest.mark.parametrize("entry", ENTRIES)
def test_tracking_none_has_no_store(entry, composed):
    tracking = composed(entry, "tracking=none").tracking
    assert tracking.uri is None and tracking.experiment is None


def test_the_evaluation_horizon_follows_the_training_horizon_until_it_is_set(composed):
    assert composed("train", "training.horizon=40").evaluation.horizon == 40
    assert composed("train", "training.horizon=40", "evaluation.horizon=7").evaluation.horizon == 7


def test_the_meta_seed_reaches_the_rule_and_not_the_test_problems(composed):
    cfg = plain(composed("train", "seed=17"))
    assert cfg["optimizer"]["seed"] == 17
    seeds = (cfg["evaluation"]["seed"], cfg["training"]["validation_seed"])
    assert seeds == (0, 0) and cfg["optimizee"].get("split_seed", 0) == 0


# ------------------------------------------------------------------ schemas


def test_the_training_group_is_the_plan_and_the_open_nodes():
    plan = {field.name: field.type for field in dataclasses.fields(Plan)}
    schema = {field.name: field.type for field in dataclasses.fields(TrainingConfig)}
    assert set(schema) - set(plan) == OPEN_TRAINING_NODES
    assert set(plan) - set(schema) == {"seed"}
    assert all(schema[name] == plan[name] for name in set(schema) & set(plan))


@pytest.mark.parametrize(
    ("group", "schema"),
    [
        ("training", TrainingConfig),
        ("evaluation", EvaluationConfig),
        ("tracking", TrackingConfig),
    ],
)
def test_every_key_of_a_schema_has_a_value(group, schema, composed):
    node = plain(composed("train"))[group]
    assert set(node) == {field.name for field in dataclasses.fields(schema)}


@pytest.mark.parametrize(
    "override",
    [
        "sede=1",
        "training.horizn=5",
        "evaluation.problms=5",
        "tracking.url=x",
        "optimizer.hiden_units=5",
        "optimizee.hiden_units=5",
        "training.meta_optimizer.lrr=1",
        "training.weights.ratoi=1",
        "evaluation.baselines.adam.betaz=1",
        "evaluation.baselines.adm.lr=1",
        "trainin=smoke",
    ],
)
def test_a_misspelt_key_is_named(override, composed):
    with pytest.raises((HydraException, OmegaConfBaseException)) as caught:
        composed("train", override)
    misspelt = override.split("=")[0].split(".")[-1]
    if override.startswith("evaluation.baselines.adm"):
        misspelt = "adm"
    told = cli._one_line(caught.value)
    assert misspelt in told and "\n" not in told


@pytest.mark.parametrize(
    "override",
    [
        "seed=one",
        "seed=1.5",
        "seed=null",
        "threads=many",
        "training.horizon=long",
        "training.clip=x",
        "training.patience=soon",
        "training.episodes=null",
        "evaluation.problems=1.5",
        "evaluation.enabled=perhaps",
        "evaluation.baselines=none",
        "training.gradient=4",
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_its_key(override, composed):
    with pytest.raises((HydraException, OmegaConfBaseException)) as caught:
        composed("train", override)
    key, value = override.split("=")
    told = cli._one_line(caught.value)
    assert key in told
    assert value in told or value == "null"


@pytest.mark.parametrize(
    "override",
    [
        "optimizee=nothing_like_it",
        "optimizer=nothing_like_it",
        "optimizer/encoding=nothing_like_it",
        "training=nothing_like_it",
        "training/gradient=nothing_like_it",
        "evaluation=nothing_like_it",
        "tracking=nothing_like_it",
        "experiment=nothing_like_it",
        "sweeps=nothing_like_it",
    ],
)
def test_an_unknown_option_is_named_beside_those_there_are(override, composed):
    with pytest.raises(HydraException) as caught:
        composed("train", override)
    told = cli._one_line(caught.value)
    group = override.split("=")[0]
    assert "nothing_like_it" in told and group in told
    folder = SWEEPS if group == "sweeps" else CONF / group
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    assert known and all(name in told for name in known)


def test_flatten_is_undone_by_walking_the_dots():
    nested = {"a": {"b": {"c": 1}, "empty": {}}, "list": [{"x": 1}], "none": None}
    flat = flatten(nested)
    assert flat == {"a.b.c": 1, "a.empty": {}, "list": [{"x": 1}], "none": None}
