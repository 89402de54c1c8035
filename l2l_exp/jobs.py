"""What the commands do: from a composed config to a finished run."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf

from l2l_exp import checkpoint
from l2l_exp.comparison import Protocol, compare
from l2l_exp.config import ConfigError, build, build_optimizee, build_rule, flatten, plain
from l2l_exp.console import Console
from l2l_exp.meta.objective import MetaLoss
from l2l_exp.meta.train import Plan, Progress
from l2l_exp.meta.train import train as meta_train
from l2l_exp.optimizees.base import Optimizee
from l2l_exp.optimizers.base import LearnedOptimizer
from l2l_exp.optimizers.baseline import Baseline
from l2l_exp.provenance import code_version, environment
from l2l_exp.report import figures, frames
from l2l_exp.report.summary import summarize
from l2l_exp.tracking import Tracker
from l2l_exp.tuning import TuningCache


@dataclass(frozen=True)
class Job:
    """One run that is to be done.

    Attributes:
        cfg: composed and checked against the schema of the command.
        folder: where the run writes.
        choices: which option of each group was chosen, for titles and tags.
        console: tells the user.
    """

    cfg: DictConfig
    folder: Path
    choices: Mapping[str, str]
    console: Console


def train(job: Job) -> None:
    """Meta-train a rule, then compare it with the baselines unless `evaluation.enabled` is false.

    Raises:
        ConfigError, ValueError, OSError: for an impossible config, before anything is written.
        MetaTrainingError: if training cannot go on.
    """
    cfg = job.cfg
    _set_threads(cfg)
    optimizee = build_optimizee(cfg)
    rule = build_rule(cfg, cfg.optimizer)
    if not any(True for _ in rule.parameters()):
        raise ConfigError(
            f"optimizer={job.choices['optimizer']} has no meta-parameters to train: "
            f"choose a learned one, or compare it by l2l-evaluate"
        )
    checkpoint.rebuild(rule.architecture or {}, Path("optimizer"))  # fail now, not once trained
    plan = _plan(cfg)
    meta_loss = MetaLoss(build(cfg.training.weights), build(cfg.training.form))
    meta_loss.weights.check(plan.truncation, plan.horizon)
    gradient, schedule = build(cfg.training.gradient), build(cfg.training.schedule)
    meta_optimizer = build(cfg.training.meta_optimizer)
    try:
        meta_optimizer([torch.nn.Parameter(torch.zeros(1))])
    except (TypeError, ValueError) as error:
        raise ConfigError(f"training.meta_optimizer: {error}") from error
    field = _field(cfg) if cfg.evaluation.enabled else None
    with _run(job) as tracker:
        with job.console.training(plan, optimizee, rule) as show:

            def report(progress: Progress, metrics: Mapping[str, float]) -> None:
                tracker.metrics(metrics, progress.episode)
                if progress.episode == progress.best_episode and "validation_final" in metrics:
                    about = {"run_id": tracker.run_id, **_selection(progress), "seed": cfg.seed}
                    checkpoint.save(job.folder / "checkpoint", rule, about)
                show(progress, metrics)

            progress = meta_train(
                optimizee, rule, gradient, meta_loss, meta_optimizer, schedule, plan, report
            )
        tracker.checkpoint(rule, {**_selection(progress), "seed": cfg.seed})
        cost = _cost(plan, progress)
        tracker.metrics({f"cost.{name}": value for name, value in cost.items()}, progress.episode)
        if field is not None:
            extra = {"cost": cost, "selection": _selection(progress)}
            _compare(job, optimizee, rule, field, tracker, cfg.seed, extra)


def evaluate(job: Job) -> None:
    """Compare a trained rule, or a baseline, with the baselines on fresh problems.

    Raises:
        ConfigError, ValueError, OSError: for an impossible config, before anything is written.
    """
    if not job.cfg.evaluation.enabled:
        raise ConfigError("evaluation=none leaves l2l-evaluate nothing to do: choose another")
    _set_threads(job.cfg)
    optimizee = build_optimizee(job.cfg)
    rule = build_rule(job.cfg, job.cfg.optimizer)
    if not (isinstance(rule, Baseline) or rule.about) and any(True for _ in rule.parameters()):
        raise ConfigError(
            f"optimizer={job.choices['optimizer']} is not trained: use optimizer=trained "
            f"optimizer.source=RUN_ID_OR_FOLDER, or train it by l2l-train"
        )
    field = _field(job.cfg)
    seed = int(rule.about.get("seed", job.cfg.seed))  # the meta-seed is the rule's own
    extra = {"source": job.cfg.optimizer.get("source")}
    with _run(job) as tracker:
        _compare(job, optimizee, rule, field, tracker, seed, extra)


class Field(NamedTuple):
    """What a rule is compared with, and on what."""

    protocol: Protocol
    baselines: Mapping[str, LearnedOptimizer]
    cache: TuningCache


def _compare(
    job: Job,
    optimizee: Optimizee,
    rule: LearnedOptimizer,
    field: Field,
    tracker: Tracker,
    seed: int,
    extra: Mapping[str, Any],
) -> None:
    """Tune, evaluate, write the table, the summary and the figure, and tell the result."""
    name = f"{job.choices['optimizer']} (evaluated)" if isinstance(rule, Baseline) else "learned"
    with job.console.evaluation() as announce:
        learned, *baselines = compare(
            optimizee, {name: rule, **field.baselines}, field.protocol, field.cache, announce
        )
    about = {"run_id": tracker.run_id, **job.choices, "seed": seed}
    summary = summarize(about, learned, baselines) | dict(extra)
    table = frames.curves(tracker.run_id, seed, learned, baselines)
    tracker.table("curves", table)
    tracker.record("summary", summary)
    tracker.metrics(_headline(summary), 0)
    tracker.figure("comparison", figures.comparison(table, summary))
    job.console.comparison(summary)


def _headline(summary: dict[str, Any]) -> dict[str, float]:
    """The numbers that runs are compared by in the store's own interface."""
    flat = flatten({name: summary[name] for name in ("learned", "paired")})
    return {f"test.{key}": float(value) for key, value in flat.items() if _is_number(value)}


def _is_number(value: object) -> bool:
    """Whether a value can be a metric."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _field(cfg: DictConfig) -> Field:
    """What the evaluation needs, built before anything long begins."""
    section = cfg.evaluation
    protocol = Protocol(
        horizon=section.horizon,
        problems=section.problems,
        tuning_problems=section.tuning_problems,
        seed=section.seed,
        identity=plain(cfg.optimizee),
    )
    baselines = {str(name): build_rule(cfg, node) for name, node in section.baselines.items()}
    for name, rule in baselines.items():
        if not isinstance(rule, Baseline) or name == "learned":
            raise ConfigError(
                f"evaluation.baselines.{name} must be a hand-designed rule under another name "
                f"than 'learned', not a {type(rule).__name__}"
            )
    cache = None if section.cache is None else Path(section.cache).expanduser() / "tuning"
    return Field(protocol, baselines, TuningCache(cache))


def _plan(cfg: DictConfig) -> Plan:
    """The plan of meta-training, from the keys of the same names."""
    keys = {field.name for field in fields(Plan)} - {"seed"}
    return Plan(seed=cfg.seed, **{key: cfg.training[key] for key in keys})


def _selection(progress: Progress) -> dict[str, Any]:
    """What a checkpoint says of the moment it is from."""
    best = progress.best_validation
    return {
        "episode": progress.best_episode,
        "validation_final": best if math.isfinite(best) else None,
    }


def _cost(plan: Plan, progress: Progress) -> dict[str, float]:
    """What meta-training cost, validation included in the seconds."""
    return {
        "episodes": progress.episode,
        "problems": progress.episode * plan.problems,
        "inner_steps": progress.inner_steps,
        "meta_steps": progress.meta_steps,
        "skipped_meta_steps": progress.skipped,
        "seconds": progress.seconds,
    }


@contextmanager
def _run(job: Job) -> Iterator[Tracker]:
    """Open a tracked run with its config and origin; close it as finished, killed or failed."""
    cfg, folder = job.cfg, job.folder
    tracker: Tracker = build(cfg.tracking.tracker)(folder=folder, run_name=_run_name(job))
    started = time.perf_counter()
    job.console.started(tracker.run_id, folder)
    try:
        tracker.params(flatten(plain(cfg)))
        tracker.tags({**job.choices, **code_version(), **environment(), "run_folder": str(folder)})
        tracker.text("config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
        yield tracker
    except BaseException as error:
        with suppress(Exception):  # a store that is gone must not hide what happened
            tracker.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    tracker.metrics({"wall_seconds": time.perf_counter() - started}, 0)
    tracker.finish("FINISHED")
    job.console.finished(tracker.run_id, folder, cfg.tracking.uri)


def _run_name(job: Job) -> str:
    """What a reader knows a run by, e.g. "digits, seed 0"."""
    what = (
        job.choices.get("experiment") or f"{job.choices['optimizer']} on {job.choices['optimizee']}"
    )
    return f"{what}, seed {job.cfg.seed}"


def _set_threads(cfg: DictConfig) -> None:
    """Apply the root key `threads`."""
    if cfg.threads is not None:
        if cfg.threads < 1:
            raise ValueError(f"threads={cfg.threads} must be >= 1, or null for torch's choice")
        torch.set_num_threads(cfg.threads)
