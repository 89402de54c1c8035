"""Configuration: schemas of the closed nodes, and the one place where configs become objects."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from hydra.core.config_store import ConfigStore
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import MISSING, DictConfig, OmegaConf

from l2l_exp.errors import UserError
from l2l_exp.nested import flatten as flatten

PACKAGE = Path(__file__).parent
DTYPES = ("float32", "float64")
MAIN = "main"
"""What `optimizee` is called among those that training is mixed of."""


class ConfigError(UserError, ValueError):
    """An impossible value in the config; the message names the key and what would be right."""


@dataclass
class TrainingConfig:
    """Group `training`; the fields are those of `l2l_exp.meta.train.Plan`, and open nodes.

    Nodes that may be null are groups whose option is null by default.
    """

    horizon: int = MISSING
    truncation: int = MISSING
    episodes: int = MISSING
    problems: int = MISSING
    clip: float = MISSING
    validation_every: int = MISSING
    validation_problems: int = MISSING
    validation_seed: int = MISSING
    validation_horizon: int | None = MISSING
    validation_criterion: str = MISSING
    patience: int | None = MISSING
    max_seconds: float | None = MISSING
    max_skipped: int = MISSING
    gradient: dict[str, Any] = MISSING
    weights: dict[str, Any] = MISSING
    form: dict[str, Any] = MISSING
    schedule: dict[str, Any] = MISSING
    meta_optimizer: dict[str, Any] = MISSING
    diagnostics: dict[str, Any] = MISSING
    horizons: dict[str, Any] = MISSING
    optimizees: dict[str, Any] = MISSING
    optimizee_weights: dict[str, float] = MISSING
    scaling: dict[str, Any] | None = None
    imitation: dict[str, Any] | None = None


@dataclass
class EvaluationConfig:
    """Group `evaluation`."""

    enabled: bool = MISSING
    horizon: int = MISSING
    problems: int = MISSING
    tuning_problems: int = MISSING
    tuning_search: str = MISSING
    seed: int = MISSING
    cache: str | None = MISSING
    baselines: dict[str, Any] = MISSING
    references: dict[str, Any] = MISSING
    microscope: dict[str, Any] | None = None


@dataclass
class TrackingConfig:
    """Group `tracking`."""

    uri: str | None = MISSING
    experiment: str | None = MISSING
    tracker: dict[str, Any] = MISSING


@dataclass
class StudyConfig:
    """What a multirun is about, for its parent run and for reports."""

    title: str | None = None
    question: str | None = None
    minutes: float | None = None
    charts: dict[str, Any] = field(default_factory=dict)


@dataclass
class EvaluateConfig:
    """Root of `l2l-evaluate`."""

    seed: int = MISSING
    device: str = MISSING
    dtype: str = MISSING
    threads: int | None = MISSING
    resume: str | None = MISSING
    accept_changes: bool = MISSING
    retry_failed: bool = MISSING
    data: dict[str, Any] = field(default_factory=dict)
    optimizee: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    study: StudyConfig = field(default_factory=StudyConfig)


@dataclass
class TrainConfig(EvaluateConfig):
    """Root of `l2l-train`."""

    training: TrainingConfig = field(default_factory=TrainingConfig)
    register: str | None = MISSING


@dataclass
class ReportConfig:
    """Root of `l2l-report`."""

    store: str | None = MISSING
    folders: Any = MISSING
    results: Any = MISSING
    studies: Any = MISSING
    out: str = MISSING
    ship: str | None = MISSING


@dataclass
class CompareConfig:
    """Root of `l2l-compare`."""

    first: str = MISSING
    second: str = MISSING
    store: str | None = MISSING
    out: str | None = MISSING


SCHEMAS: Final[Mapping[str, type]] = MappingProxyType(
    {"train": TrainConfig, "evaluate": EvaluateConfig, "report": ReportConfig,
     "compare": CompareConfig}
)  # fmt: skip
"""By command."""


def register(
    commands: Collection[str] = tuple(SCHEMAS), wanted: Collection[str] | None = None
) -> None:
    """Make schemas known to Hydra, and the presets of `sweeps/` as the group of that name.

    Args:
        commands: whose schemas.
        wanted: presets that are read; of others only the names are known, since Hydra copies all
            that it knows again and again. None for all of them.
    """
    store = ConfigStore.instance()
    for command in commands:
        store.store(name=f"{command}_schema", node=SCHEMAS[command])
    for path in sorted(shipped("sweeps").glob("*.yaml")):
        read = wanted is None or path.stem in wanted
        node: Any = OmegaConf.load(path) if read else {}
        store.store(path.stem, node, group="sweeps", package="_global_")


def shipped(name: str) -> Path:
    """The folder `conf` or `sweeps`: inside the package of a wheel, beside it in a checkout."""
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name


def check_source(source: object) -> None:
    """Raise ConfigError if a rule's source is the name of a preset that was not run here."""
    from l2l_exp.source import place_of

    name = str(source)
    if not name.isidentifier() or not (shipped("sweeps") / f"{name}.yaml").is_file():
        return
    if place_of(name) is None:
        raise ConfigError(
            f"optimizer.source={name} is a study that was not run here: first l2l-train "
            f"sweeps={name}"
        )


def build(node: DictConfig, **arguments: Any) -> Any:
    """Make the object that a node with a `_target_` describes.

    Raises:
        ConfigError: if its constructor refuses a value or a key, or its import path is wrong.
    """
    if "_target_" not in node:
        key = node._get_full_key(None)
        raise ConfigError(f"{key} has no _target_: choose it by {key}=OPTION, or say what makes it")
    try:
        return instantiate(node, _convert_="all", **arguments)
    except InstantiationException as error:
        raise ConfigError(_explain(error, node)) from error


def build_optimizee(cfg: DictConfig, node: DictConfig | None = None) -> Any:
    """The optimizee, or the one of another node, on its device and of its dtype."""
    import torch

    if cfg.dtype not in DTYPES:
        raise ConfigError(f"dtype={cfg.dtype} must be one of {', '.join(DTYPES)}")
    from l2l_exp.optimizees.base import Optimizee

    node = cfg.optimizee if node is None else node
    optimizee = build(node)
    if not isinstance(optimizee, Optimizee):
        raise ConfigError(f"{node._get_full_key(None)}: {node._target_} is not an Optimizee")
    return optimizee.to(_device(cfg), getattr(torch, cfg.dtype))


def build_rule(cfg: DictConfig, node: DictConfig) -> Any:
    """The update rule of a node, on its device and of its dtype; it knows its architecture."""
    import torch

    from l2l_exp.optimizers.base import LearnedOptimizer

    check_source(node.get("source"))
    torch.manual_seed(cfg.seed)  # for rules that draw their start from torch's own generator
    rule = build(node)
    if not isinstance(rule, LearnedOptimizer):
        raise ConfigError(f"{node._get_full_key(None)}: {node._target_} is not a LearnedOptimizer")
    if rule.architecture is None:
        rule.architecture = plain(node) | {
            name: part.architecture  # a trained rule inside another one: it is rebuilt, not read
            for name, part in rule.named_children()
            if name in node and getattr(part, "architecture", None) is not None
        }
    return rule.to(_device(cfg), getattr(torch, cfg.dtype))


def build_options(cfg: DictConfig, optimizee: Any) -> Any:
    """What training does beside its plan (`l2l_exp.meta.train.Options`).

    Args:
        cfg: of `l2l-train`.
        optimizee: the main one.
    """
    from l2l_exp.meta.train import Options

    return Options(
        _mixture(cfg, optimizee),
        build(cfg.training.horizons),
        _imitation(cfg, optimizee),
        build(cfg.training.diagnostics),
    )


def _mixture(cfg: DictConfig, optimizee: Any) -> Any:
    """What training problems are drawn from: the main optimizee and those beside it, scaled."""
    from l2l_exp.meta.mixture import Mixture

    others = cfg.training.optimizees
    if MAIN in others:
        raise ConfigError(f"training.optimizees.{MAIN} is the optimizee itself: use another name")
    for name, node in others.items():
        if not isinstance(node, DictConfig) or "_target_" not in node:
            raise ConfigError(
                f"training.optimizees.{name} is no optimizee: choose one by "
                f"+optimizee@training.optimizees.{name}=OPTION"
            )
    mixed = {MAIN: optimizee} | {name: build_optimizee(cfg, others[name]) for name in others}
    if cfg.training.scaling is not None:
        wrap = build(cfg.training.scaling)
        try:
            mixed = {name: wrap(one) for name, one in mixed.items()}
        except (TypeError, ValueError) as error:
            raise ConfigError(f"training.scaling: {error}") from error
    try:
        return Mixture(mixed, dict(cfg.training.optimizee_weights))
    except ValueError as error:
        raise ConfigError(f"training.optimizee_weights: {error}") from error


def _imitation(cfg: DictConfig, optimizee: Any) -> Any:
    """Imitation of a teacher, on the optimizee's device and of its dtype."""
    if cfg.training.imitation is None:
        return None
    imitation = build(cfg.training.imitation)
    imitation.teacher.to(optimizee.anchor.device, optimizee.anchor.dtype)
    return imitation


def plain(node: DictConfig) -> dict[str, Any]:
    """A resolved node as dicts, lists and scalars."""
    resolved: Any = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    return dict(resolved)


def _device(cfg: DictConfig) -> Any:
    """The torch device of a config, which must exist."""
    import torch

    try:
        device = torch.device(cfg.device)
        if device.type == "meta":
            raise RuntimeError("it holds no numbers")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device={cfg.device} cannot be used here ({reason})") from error
    return device


def _explain(error: InstantiationException, node: DictConfig) -> str:
    """One line: the key, and what the constructor said."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    key = next((line.removeprefix("full_key: ") for line in lines if "full_key" in line), None)
    reason = lines[0] if error.__cause__ is None else " ".join(str(error.__cause__).split())
    key = key or node._get_full_key(None)
    if isinstance(error.__cause__, TypeError | RuntimeError):  # these do not name the value
        given = OmegaConf.select(node._get_root(), str(key), default=node)
        scalars = [
            f"{k}={v}" for k, v in given.items() if not isinstance(v, dict | list | DictConfig)
        ]
        reason += f" (given {', '.join(scalars)})"
    return f"{key}: {reason}"
