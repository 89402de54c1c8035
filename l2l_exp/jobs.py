"""What the commands do: from a composed config to a finished run."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from l2l_exp import checkpoint
from l2l_exp.comparison import Protocol, compare
from l2l_exp.config import build, build_optimizee, build_rule, flatten, plain
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


def train(cfg: DictConfig, folder: Path, names: dict[str, str], console: Console) -> None:
    """Meta-train a rule, then compare it with the baselines unless `evaluation.enabled` is false.

    Args:
        cfg: composed for `TrainConfig`.
        folder: of the run.
        names: which option of each group was chosen, for titles and tags.
        console: tells the user.

    Raises:
        ConfigError: for an impossible config, before anything is written.
        MetaTrainingError: if training cannot go on.
    """
    _set_threads(cfg)
    optimizee = build_optimizee(cfg)
    rule = build_rule(cfg, cfg.optimizer)
    plan = _plan(cfg)
    meta_loss = MetaLoss(build(cfg.training.weights), build(cfg.training.form))
    meta_loss.weights.check(plan.truncation, plan.horizon)
    gradient, schedule = build(cfg.training.gradient), build(cfg.training.schedule)
    meta_optimizer = build(cfg.training.meta_optimizer)
    comparison = _comparison(cfg, optimizee) if cfg.evaluation.enabled else None
    with _run(cfg, folder, names, console) as tracker:
        with console.training(plan, optimizee, rule) as show:

            def report(progress: Progress, metrics: dict[str, float]) -> None:
                tracker.metrics(metrics, progress.episode)
                if progress.episode == progress.best_episode and "validation_final" in metrics:
                    checkpoint.save(folder / "checkpoint", rule, _selection(progress))
                show(progress, metrics)

            progress = meta_train(
                optimizee, rule, gradient, meta_loss, meta_optimizer, schedule, plan, report
            )
        tracker.checkpoint(rule, {**_selection(progress), "seed": cfg.seed})
        cost = _cost(plan, progress)
        tracker.metrics({f"cost.{name}": value for name, value in cost.items()}, progress.episode)
        selection = {"validation_final": progress.best_validation, "episode": progress.best_episode}
        if comparison is not None:
            extra = {"cost": cost, "selection": selection}
            _evaluate(cfg, optimizee, rule, comparison, tracker, names, console, extra)


def evaluate(cfg: DictConfig, folder: Path, names: dict[str, str], console: Console) -> None:
    """Compare a trained rule, or a baseline, with the baselines on fresh problems.

    Args and errors as `train`; `cfg` is composed for `EvaluateConfig`.
    """
    _set_threads(cfg)
    optimizee = build_optimizee(cfg)
    rule = build_rule(cfg, cfg.optimizer)
    comparison = _comparison(cfg, optimizee)
    with _run(cfg, folder, names, console) as tracker:
        _evaluate(cfg, optimizee, rule, comparison, tracker, names, console, {})


def _evaluate(
    cfg: DictConfig,
    optimizee: Optimizee,
    rule: LearnedOptimizer,
    comparison: tuple[Protocol, dict[str, Baseline], TuningCache],
    tracker: Tracker,
    names: dict[str, str],
    console: Console,
    extra: dict[str, Any],
) -> None:
    """Tune, evaluate, write the table, the summary and the figure, and tell the result."""
    protocol, baselines, cache = comparison
    name = "learned" if not isinstance(rule, Baseline) else f"{names['optimizer']} (evaluated)"
    with console.evaluation() as announce:
        learned, *others = compare(optimizee, {name: rule, **baselines}, protocol, cache, announce)
    about = {"run_id": tracker.run_id, **names, "seed": cfg.seed}
    summary = summarize(about, learned, others) | extra
    table = frames.curves(tracker.run_id, cfg.seed, learned, others)
    tracker.table("curves", table)
    tracker.record("summary", summary)
    tracker.metrics(_headline(summary), 0)
    tracker.figure("comparison", figures.comparison(table, summary))
    console.comparison(summary)


def _headline(summary: dict[str, Any]) -> dict[str, float]:
    """The numbers that runs are compared by in the store's own interface."""
    flat = flatten({name: summary[name] for name in ("learned", "paired")})
    return {f"test.{key}": float(value) for key, value in flat.items() if _is_number(value)}


def _is_number(value: object) -> bool:
    """Whether a value can be a metric."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _comparison(
    cfg: DictConfig, optimizee: Optimizee
) -> tuple[Protocol, dict[str, Baseline], TuningCache]:
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
    cache = None if section.cache is None else Path(section.cache).expanduser() / "tuning"
    return protocol, baselines, TuningCache(cache)


def _plan(cfg: DictConfig) -> Plan:
    """The plan of meta-training, from the keys of the same names."""
    keys = {field.name for field in fields(Plan)} - {"seed"}
    return Plan(seed=cfg.seed, **{key: cfg.training[key] for key in keys})


def _selection(progress: Progress) -> dict[str, Any]:
    """What a checkpoint says of the moment it is from."""
    return {
        "episode": progress.best_episode,
        "validation_final": progress.best_validation,
        "meta_steps": progress.meta_steps,
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
def _run(
    cfg: DictConfig, folder: Path, names: dict[str, str], console: Console
) -> Iterator[Tracker]:
    """Open a tracked run with its config and origin; close it as finished, killed or failed."""
    tracker: Tracker = build(cfg.tracking.tracker)(folder=folder)
    started = time.perf_counter()
    console.started(tracker.run_id, folder)
    try:
        tracker.params(flatten(plain(cfg)))
        tracker.tags({**names, **code_version(), **environment(), "run_folder": str(folder)})
        tracker.text("config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
        yield tracker
    except KeyboardInterrupt:
        tracker.finish("KILLED")
        raise
    except BaseException:
        tracker.finish("FAILED")
        raise
    tracker.metrics({"wall_seconds": time.perf_counter() - started}, 0)
    tracker.finish("FINISHED")
    console.finished(tracker.run_id, folder, cfg.tracking.uri)


def _set_threads(cfg: DictConfig) -> None:
    """Apply the root key `threads`."""
    if cfg.threads is not None:
        if cfg.threads < 1:
            raise ValueError(f"threads={cfg.threads} must be >= 1, or null for torch's choice")
        torch.set_num_threads(cfg.threads)
