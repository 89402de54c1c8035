"""What the commands do: from a composed config to a finished run."""

import dataclasses
import json
import math
import re
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf

from l2l_exp import checkpoint, misspelt, record
from l2l_exp.comparison import Contender, Protocol, compare, gallery
from l2l_exp.config import (
    ConfigError,
    build,
    build_optimizee,
    build_options,
    build_rule,
    flatten,
    plain,
)
from l2l_exp.console import Console
from l2l_exp.errors import UserError
from l2l_exp.meta.gradients import MetaGradient
from l2l_exp.meta.objective import MetaLoss
from l2l_exp.meta.schedule import Schedule
from l2l_exp.meta.train import MetaOptimizer, Options, Plan, Progress, check
from l2l_exp.meta.train import train as meta_train
from l2l_exp.microscope import Updates
from l2l_exp.optimizees.base import Optimizee, VisibleOptimizee
from l2l_exp.optimizees.seeding import Seed
from l2l_exp.optimizers.base import LearnedOptimizer
from l2l_exp.optimizers.baseline import Baseline
from l2l_exp.provenance import code_version, commit_of, origin, sources
from l2l_exp.record import Record, differences
from l2l_exp.reference import Reference
from l2l_exp.report import figures, frames, pictures, studies, updates
from l2l_exp.report.summary import summarize
from l2l_exp.state import ContenderFiles, TrainingFile, forget
from l2l_exp.tracking import FOLDER_TAG, End, Tracker, TrackingError
from l2l_exp.tracking.registry import check_name
from l2l_exp.tuning import TuningCache

Command = Literal["train", "evaluate"]
Work = Callable[[Tracker], None]
"""Everything is built; what is left takes long."""
SHOWN_DIFFERENCES = 8
TRACEBACK = "traceback.txt"
STORE_WAIT, STORE_PAUSE = 600.0, 10.0
"""Seconds that a job of a multirun waits for a store that is away, and between attempts."""


@dataclass(frozen=True)
class Job:
    """One run that is to be done.

    Attributes:
        command: which of the commands.
        cfg: composed and checked against the schema of the command.
        folder: where the run writes; a run that lies there already goes on.
        choices: which option of each group was chosen, for titles and tags.
        overrides: of the command line, for the record.
        config_dirs: given by --config-dir, for the record.
        console: tells the user.
        parent: None, or the id of the run of the multirun that this job belongs to.
        swept: the keys that the multirun sweeps.
    """

    command: Command
    cfg: DictConfig
    folder: Path
    choices: Mapping[str, str]
    overrides: list[str]
    config_dirs: list[str]
    console: Console
    parent: str | None = None
    swept: Sequence[str] = ()

    @property
    def state(self) -> Path:
        """Folder of what has been reached, until the run has finished."""
        return self.folder / record.KEPT

    @property
    def in_multirun(self) -> bool:
        """Whether this is one of several jobs, whose failure must not stop the others."""
        return self.parent is not None


def perform(job: Job) -> record.Status:
    """Do a job, or what is left of it; a finished one is left alone.

    Returns:
        What became of it: "FINISHED", or "FAILED" for a job of a multirun that failed before and
        is not to be tried again.

    Raises:
        ConfigError, ValueError, OSError: for an impossible config, before anything is written.
        MetaTrainingError: if training cannot go on.
        TrackingError: if the store cannot be opened.
    """
    with record.alone(job.folder, wait=job.in_multirun):
        new, old = _new_record(job), record.read(job.folder)
        if old is not None:
            new = _continued(job, old, new)
            if new.run_id is not None and _has_ended(job, old):
                _send_rest(job, old)
                return old.status
        try:
            with _settings(job, new.threads):
                _do(job, new)
        except Exception as error:
            if not job.in_multirun:
                raise
            _note_failure(job, new, error)
            return "FAILED"
    return "FINISHED"


def _do(job: Job, new: Record) -> None:
    """Build, then run. A single run that cannot be built leaves nothing behind."""
    try:
        work = _prepare(job)
    except Exception:
        if not job.in_multirun:
            raise
        with _run(job, new):  # one of many: it leaves a failed run
            raise
    with _run(job, new) as tracker:
        work(tracker)


def _has_ended(job: Job, old: Record) -> bool:
    """Whether nothing is left to do."""
    failed_for_good = old.status == "FAILED" and job.in_multirun and not job.cfg.retry_failed
    return old.status == "FINISHED" or failed_for_good


def _note_failure(job: Job, new: Record, error: Exception) -> None:
    """Write down the failure of one of many jobs, also of one that could not open its run."""
    line = " ".join(f"{type(error).__name__}: {error}".split())
    job.console.warn(f"failed: {line}")
    written = record.read(job.folder)
    if written is None or written.status != "FAILED":
        (job.folder / TRACEBACK).write_text("".join(traceback.format_exception(error)))
        failed = dataclasses.replace(written or new, status="FAILED", error=line, ended=time.time())
        failed.write(job.folder)


def _new_record(job: Job) -> Record:
    """The record of a run that begins; what its multirun is about is no part of it."""
    config = {name: node for name, node in plain(job.cfg).items() if name != "study"}
    threads = torch.get_num_threads() if job.cfg.threads is None else job.cfg.threads
    return Record(
        command=job.command,
        overrides=job.overrides,
        config_dirs=job.config_dirs,
        config=config,
        sources=sources(config),
        threads=int(threads),
        cwd=str(Path.cwd()),
        commit=commit_of(code_version()),
    )


def _continued(job: Job, old: Record, new: Record) -> Record:
    """The record of a run that goes on, or of another one in its place.

    A job of a multirun whose config or code has changed is another run, and begins anew.

    Raises:
        ConfigError: if config or code of a single run changed and that was not accepted, or if the
            run that is to be changed has finished.
    """
    changes = differences(old, new)
    if changes and job.in_multirun and not job.cfg.accept_changes:
        place = record.set_aside(job.folder)
        job.console.warn(f"begins anew, since {changes[0]}; what there was lies in {place}")
        return new
    if changes and not job.cfg.accept_changes:
        shown = "; ".join(changes[:SHOWN_DIFFERENCES])
        more = len(changes) - SHOWN_DIFFERENCES
        raise ConfigError(
            f"the run in {job.folder} was begun with another config or code: {shown}"
            f"{f'; and {more} more' if more > 0 else ''}. Undo that, or say accept_changes=true"
        )
    if changes and old.status == "FINISHED":
        raise ConfigError(
            f"the run in {job.folder} is finished and cannot be changed ({changes[0]}): begin "
            f"another with optimizer=trained optimizer.source={job.folder}"
        )
    if changes:
        ContenderFiles(job.state).clear()
        return dataclasses.replace(new, run_id=old.run_id, accepted=[*old.accepted, *changes])
    return dataclasses.replace(old, status="RUNNING", error=None, ended=None)


def _send_rest(job: Job, old: Record) -> None:
    """Say that a run has ended before; first send what its store did not get."""
    asked = job.cfg.get("register") if old.status == "FINISHED" else None
    newly = asked is not None and asked != old.config.get("register")
    if newly:
        _check_register(job.cfg)
    if (old.unsent or newly) and old.status in ("FINISHED", "FAILED"):
        tracker = _open(job, old)
        _describe(job, old, tracker)
        for path in sorted(job.folder.iterdir()):
            if path.is_file() and not path.name.startswith(".") and path.name != record.FILE:
                tracker.publish(path)
        for path in sorted((job.folder / "checkpoint").glob("rule.*")):
            tracker.publish(path, "checkpoint")
        if asked is not None:
            tracker.register(asked, job.console.registered)
        dataclasses.replace(old, unsent=not tracker.finish(old.status)).write(job.folder)
    job.console.nothing_to_do(str(old.run_id), job.folder, old.status)


def _prepare(job: Job) -> Work:
    """Build everything; what a constructor refuses is the user's to mend.

    Raises:
        UserError: for an impossible config.
    """
    misspelt.check(job.command, job.cfg)
    threads = job.cfg.threads
    if threads is not None and threads < 1:
        raise ConfigError(f"threads={threads} must be >= 1, or null for torch's choice")
    try:
        return {"train": _prepare_training, "evaluate": _prepare_evaluation}[job.command](job)
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise ConfigError(str(error)) from error


class Training(NamedTuple):
    """Everything that meta-training needs."""

    optimizee: Optimizee
    rule: LearnedOptimizer
    gradient: MetaGradient
    meta_loss: MetaLoss
    meta_optimizer: MetaOptimizer
    schedule: Schedule
    plan: Plan
    options: Options
    meaning: str


def _prepare_training(job: Job) -> Work:
    """Build what l2l-train needs: it meta-trains a rule, and compares it if that is enabled."""
    cfg = job.cfg
    optimizee = build_optimizee(cfg)
    rule = build_rule(cfg, cfg.optimizer)
    if not any(True for _ in rule.parameters()):
        raise ConfigError(
            f"optimizer={job.choices['optimizer']} has no meta-parameters to train: "
            f"choose a learned one, or compare it by l2l-evaluate"
        )
    checkpoint.rebuild(rule.architecture or {}, Path("optimizer"))  # fail now, not once trained
    _check_fit(rule, optimizee)
    plan = _plan(cfg)
    meta_loss = MetaLoss(build(cfg.training.weights), build(cfg.training.form))
    gradient, schedule = build(cfg.training.gradient), build(cfg.training.schedule)
    meta_optimizer = build(cfg.training.meta_optimizer)
    try:
        meta_optimizer([torch.nn.Parameter(torch.zeros(1))])
    except (TypeError, ValueError) as error:
        raise ConfigError(f"training.meta_optimizer: {error}") from error
    field = _field(cfg, optimizee) if cfg.evaluation.enabled else None
    options = build_options(cfg, optimizee)
    _check_register(cfg)
    for part in options.mixture.optimizees.values():
        _check_fit(rule, part)
    check(rule, gradient, meta_loss, plan, options)
    training = Training(
        optimizee, rule, gradient, meta_loss, meta_optimizer, schedule, plan, options, _meaning(cfg)
    )
    return partial(_train, job, training, field)


def _train(job: Job, training: Training, field: "Field | None", tracker: Tracker) -> None:
    """Meta-train, keep the checkpoint, compare."""
    optimizee, rule, plan, seed = training.optimizee, training.rule, training.plan, job.cfg.seed
    memory = TrainingFile(job.state, lambda state: job.console.resumed(state["progress"], plan))
    horizons = str(training.options.horizons or plan.horizon)
    known = {"seed": seed, "horizon": _longest(training)}
    with job.console.training(plan, horizons, optimizee, rule) as show:

        def report(progress: Progress, metrics: Mapping[str, float]) -> None:
            tracker.metrics(metrics, progress.episode)
            validated = f"validation_{plan.validation_criterion}" in metrics
            if validated and progress.episode == progress.best_episode:
                about = {"run_id": tracker.run_id, **_selection(plan, progress), **known}
                checkpoint.save(job.folder / "checkpoint", rule, about)
            show(progress, metrics)

        progress = meta_train(*training, report, memory)
    told = _validated(progress, training.meaning)
    tracker.checkpoint(rule, {**_selection(plan, progress), **known, **told})
    cost = _cost(plan, progress)
    tracker.metrics({f"cost.{name}": value for name, value in cost.items()}, progress.episode)
    if field is not None:
        extra = {"cost": cost, "selection": _selection(plan, progress), **told}
        extra["trained_horizon"] = known["horizon"]
        _compare(job, optimizee, rule, field, tracker, seed, extra)
    if job.cfg.register is not None:
        tracker.register(job.cfg.register, job.console.registered)


def _check_register(cfg: DictConfig) -> None:
    """Raise UserError if what is trained could not be registered at the end."""
    if cfg.register is not None:
        check_name(cfg.register)
        if cfg.tracking.uri is None:
            raise ConfigError(
                f"register={cfg.register} needs a store, and tracking=none has none: leave one out"
            )


def _prepare_evaluation(job: Job) -> Work:
    """Build what l2l-evaluate needs: it compares a trained rule, or a baseline, with baselines."""
    if not job.cfg.evaluation.enabled:
        raise ConfigError("evaluation=none leaves l2l-evaluate nothing to do: choose another")
    optimizee = build_optimizee(job.cfg)
    rule = build_rule(job.cfg, job.cfg.optimizer)
    if not (isinstance(rule, Baseline) or rule.about) and any(True for _ in rule.parameters()):
        raise ConfigError(
            f"optimizer={job.choices['optimizer']} is not trained: use optimizer=trained "
            f"optimizer.source=RUN_ID_OR_FOLDER, or train it by l2l-train"
        )
    _check_fit(rule, optimizee)
    field = _field(job.cfg, optimizee)
    seed = int(rule.about.get("seed", job.cfg.seed))  # the meta-seed is the rule's own
    extra = {
        "source": job.cfg.optimizer.get("source"), "trained_horizon": rule.about.get("horizon"),
    }  # fmt: skip

    def work(tracker: Tracker) -> None:
        _compare(job, optimizee, rule, field, tracker, seed, extra)

    return work


def _check_fit(rule: LearnedOptimizer, optimizee: Optimizee) -> None:
    """Raise ValueError if a rule cannot be used on an optimizee's tensors."""
    theta = optimizee.anchor.new_zeros(1, optimizee.spec.size)
    rule.init_state(theta, optimizee.spec)


class Field(NamedTuple):
    """What a rule is compared with, and on what."""

    protocol: Protocol
    baselines: Mapping[str, LearnedOptimizer]
    references: Mapping[str, Reference]
    cache: TuningCache
    known: MutableMapping[str, Contender]
    microscope: Updates | None = None


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
    learns = any(True for _ in rule.parameters())
    name = "learned" if learns else f"{job.choices['optimizer']} (evaluated)"
    rules = {name: rule, **field.baselines}
    with job.console.evaluation() as announce:
        learned, *others = compare(
            optimizee,
            {**rules, **field.references},
            field.protocol,
            field.cache,
            announce,
            ContenderFiles(job.state),
            field.known,
        )
        if isinstance(optimizee, VisibleOptimizee):
            ruled = [learned, *others[: len(field.baselines)]]
            shown = gallery(optimizee, rules, ruled, field.protocol, announce)
            tracker.table("pictures", pictures.table(tracker.run_id, seed, shown))
            tracker.figure("pictures", pictures.figure(shown))
    about = {
        "run_id": tracker.run_id, **job.choices, "seed": seed, "size": optimizee.spec.size,
    }  # fmt: skip
    contenders = learned, others[: len(field.baselines)], others[len(field.baselines) :]
    summary = summarize(about, *contenders) | dict(extra)
    table = frames.curves(tracker.run_id, seed, *contenders)
    tracker.table("curves", table)
    tracker.table("steps", steps := studies.by_step(table))
    for step, medians in studies.medians(steps).items():
        tracker.metrics(medians, step)
    tracker.record("summary", summary)
    tracker.metrics(_headline(summary), 0)
    tracker.figure("comparison", figures.comparison(table, summary))
    if field.microscope is not None:
        _look(field.microscope, optimizee, rules, contenders[1], field.protocol, tracker, seed)
    job.console.comparison(summary)


def _look(
    microscope: Updates,
    optimizee: Optimizee,
    rules: Mapping[str, LearnedOptimizer],
    baselines: Sequence[Contender],
    protocol: Protocol,
    tracker: Tracker,
    seed: int,
) -> None:
    """Write the updates of the first rule, and those of the baselines in its place."""
    tuned = {one.name: one.tuned.rates["final"] for one in baselines if one.tuned is not None}
    shown = {
        name: rule.with_rates([tuned[name]])
        if isinstance(rule, Baseline) and name in tuned
        else rule
        for name, rule in rules.items()
    }
    seen = microscope(optimizee, shown, Seed("test", protocol.seed), protocol.horizon)
    table = updates.table(tracker.run_id, seed, *seen)
    tracker.table("updates", table)
    tracker.figure("updates", updates.figure(table))


def _headline(summary: dict[str, Any]) -> dict[str, float]:
    """The numbers that runs are compared by in the store's own interface."""
    flat = flatten({name: summary[name] for name in ("learned", "paired")})
    return {f"test.{key}": float(value) for key, value in flat.items() if _is_number(value)}


def _is_number(value: object) -> bool:
    """Whether a value can be a metric."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _field(cfg: DictConfig, optimizee: Optimizee) -> Field:
    """What the evaluation needs, built before anything long begins."""
    section = cfg.evaluation
    protocol = Protocol(
        horizon=section.horizon,
        problems=section.problems,
        tuning_problems=section.tuning_problems,
        seed=section.seed,
        identity=plain(cfg.optimizee),
        tuning_search=section.tuning_search,
    )
    baselines = {str(name): build_rule(cfg, node) for name, node in section.baselines.items()}
    for name, rule in baselines.items():
        if not isinstance(rule, Baseline) or name == "learned":
            raise ConfigError(
                f"evaluation.baselines.{name} must be a hand-designed rule under another name "
                f"than 'learned', not a {type(rule).__name__}"
            )
    references = {str(name): build(node) for name, node in section.references.items()}
    for name, reference in references.items():
        _check_reference(name, reference, optimizee, baselines)
    microscope = _microscope(section)
    if section.cache is None:
        return Field(protocol, baselines, references, TuningCache(None), {}, microscope)
    cache = Path(section.cache).expanduser()
    known = ContenderFiles(cache / "baselines")
    return Field(protocol, baselines, references, TuningCache(cache / "tuning"), known, microscope)


def _microscope(section: DictConfig) -> Updates | None:
    """What is to be recorded of the rule's updates, if anything."""
    made = None if section.microscope is None else build(section.microscope)
    if made is not None and not isinstance(made, Updates):
        raise ConfigError(f"evaluation.microscope must be a l2l_exp.microscope.Updates, not {made}")
    return made


def _check_reference(
    name: str, reference: object, optimizee: Optimizee, baselines: Mapping[str, object]
) -> None:
    """Raise ConfigError for what is no reference, has another's name, or cannot do its work."""
    key = f"evaluation.references.{name}"
    if not isinstance(reference, Reference):
        raise ConfigError(f"{key} must be a l2l_exp.reference.Reference, not {reference!r}")
    if name in baselines or name == "learned":
        raise ConfigError(f"{key} must have another name than 'learned' and the baselines")
    try:
        reference.check(optimizee)
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from error


def _plan(cfg: DictConfig) -> Plan:
    """The plan of meta-training, from the keys of the same names."""
    keys = {field.name for field in fields(Plan)} - {"seed"}
    return Plan(seed=cfg.seed, **{key: cfg.training[key] for key in keys})


def _longest(training: Training) -> int:
    """The longest horizon that a rule is trained on."""
    horizons = training.options.horizons
    return training.plan.horizon if horizons is None else max(horizons.all)


def _selection(plan: Plan, progress: Progress) -> dict[str, Any]:
    """What a checkpoint says of the moment it is from."""
    best = progress.best_validation
    return {
        "episode": progress.best_episode,
        "criterion": plan.validation_criterion,
        "validation": best if math.isfinite(best) else None,
    }


def _meaning(cfg: DictConfig) -> str:
    """A hash of what the loss of a validation depends on, the rule apart."""
    training = plain(cfg.training)
    names = [
        "horizon", "horizons", "validation_horizon", "validation_criterion", "validation_problems",
        "validation_seed",
    ]  # fmt: skip
    if training["validation_criterion"] == "meta_loss":
        names += ["form", "weights"]
    meant = {name: training[name] for name in names}
    return record.digest(
        record.identity({"optimizee": plain(cfg.optimizee), "dtype": cfg.dtype, "training": meant})
    )


def _validated(progress: Progress, meaning: str) -> dict[str, Any]:
    """Every validation of a training, and what their losses mean."""
    return {
        "validations": [
            {"episode": episode, "seconds": seconds, "loss": loss if math.isfinite(loss) else None}
            for episode, seconds, loss in progress.validations
        ],
        "validated": meaning,
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
def _run(job: Job, new: Record) -> Iterator[Tracker]:
    """Open a tracked run, new or resumed; close it as finished, killed or failed."""
    tracker = _open(job, new)
    started = time.perf_counter()
    running = dataclasses.replace(new, run_id=tracker.run_id)
    try:
        running.write(job.folder)
        job.console.started(tracker.run_id, job.folder)
        _describe(job, running, tracker)
        yield tracker
        running = dataclasses.replace(running, seconds=new.seconds + time.perf_counter() - started)
        tracker.metrics({"wall_seconds": running.seconds}, 0)
    except BaseException as error:
        spent = new.seconds + time.perf_counter() - started
        _end_badly(job, dataclasses.replace(running, seconds=spent), tracker, error)
        raise
    _end(job, running, tracker, "FINISHED")
    forget(job.state)
    job.console.finished(tracker.run_id, job.folder, job.cfg.tracking.uri)


def _open(job: Job, of: Record) -> Tracker:
    """Open the store; one of many jobs waits for it, since the parent run has seen it."""
    make: Callable[[], Tracker] = partial(
        build(job.cfg.tracking.tracker),
        folder=job.folder,
        run_name=_run_name(job),
        run_id=of.run_id,
        parent=job.parent,
        warn=job.console.warn,
    )
    deadline = time.monotonic() + (STORE_WAIT if job.in_multirun else 0)
    while True:
        try:
            return make()
        except TrackingError as error:
            if time.monotonic() >= deadline:
                raise
            job.console.warn(f"{error}: waiting")
            time.sleep(STORE_PAUSE)


def _describe(job: Job, of: Record, tracker: Tracker) -> None:
    """Log what a run is and where it comes from."""
    tracker.params(flatten(of.config))
    if of.accepted:
        tracker.tags({"accepted_changes": "; ".join(of.accepted)})
    tracker.tags({**job.choices, **origin(job.command), FOLDER_TAG: str(job.folder)})
    tracker.tags({"overrides": json.dumps(of.overrides), "condition": _condition(job)})
    tracker.text("config.yaml", OmegaConf.to_yaml(OmegaConf.create(of.config)))


def _end_badly(job: Job, running: Record, tracker: Tracker, error: BaseException) -> None:
    """Close a run that was stopped; what stopped it must not be hidden by a store that is gone."""
    if isinstance(error, KeyboardInterrupt):
        with suppress(Exception):
            _end(job, running, tracker, "KILLED")
        return
    with suppress(Exception):
        tracker.text(TRACEBACK, "".join(traceback.format_exception(error)))
    with suppress(Exception):
        line = " ".join(f"{type(error).__name__}: {error}".split())
        _end(job, dataclasses.replace(running, error=line), tracker, "FAILED")


def _end(job: Job, running: Record, tracker: Tracker, end: End) -> None:
    """Write down how a run ended, then tell the store."""
    ended = dataclasses.replace(running, status=end, ended=time.time(), unsent=True)
    ended.write(job.folder)
    if tracker.finish(end):
        dataclasses.replace(ended, unsent=False).write(job.folder)
    else:
        job.console.warn(
            f"{job.cfg.tracking.uri} did not get everything, which lies in {job.folder}; "
            f"to send it:  l2l-{job.command} resume={job.folder}"
        )


def _run_name(job: Job) -> str:
    """What a reader knows a run by, e.g. "digits, seed 0"."""
    if job.swept:
        return f"{_condition(job)} seed {job.cfg.seed}".strip()
    data = f" of {job.choices['data']}" if "data" in job.choices else ""
    chosen = f"{job.choices['optimizer']} on {job.choices['optimizee']}{data}"
    what = job.choices.get("experiment") or chosen
    return f"{what}, seed {job.cfg.seed}"


def _condition(job: Job) -> str:
    """The values of a multirun's job besides its meta-seed, e.g. "hidden_units=40 layers=2"."""
    values = {}
    for override in job.overrides:
        key, _, value = override.lstrip("+").partition("=")
        if key in set(job.swept) - {studies.SEED}:
            values[key] = value
    short = [re.split(r"[./]", key)[-1] for key in values]
    names = short if len(set(short)) == len(short) else list(values)
    return " ".join(map("=".join, zip(names, values.values(), strict=True)))


@contextmanager
def _settings(job: Job, threads: int) -> Iterator[None]:
    """What is global in torch, for one job: the next one in the same process finds it as it was."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, threads))
    try:
        with torch.random.fork_rng():
            torch.manual_seed(job.cfg.seed)
            yield
    finally:
        torch.set_num_threads(before)
