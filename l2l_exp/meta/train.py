"""Meta-training: truncated episodes on fresh problems, selection on validation problems."""

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from l2l_exp.errors import UserError
from l2l_exp.meta.diagnostics import Diagnostics
from l2l_exp.meta.gradients import Estimate, MetaGradient
from l2l_exp.meta.horizons import Fixed, Horizons
from l2l_exp.meta.imitation import Imitation
from l2l_exp.meta.mixture import Mixture
from l2l_exp.meta.objective import MetaLoss, Plain, Uniform
from l2l_exp.meta.schedule import Schedule
from l2l_exp.optimizees.base import Optimizee, Problem
from l2l_exp.optimizees.seeding import Seed, generator
from l2l_exp.optimizers.base import LearnedOptimizer, Observation
from l2l_exp.unroll import Episode, unroll

MetaOptimizer = Callable[[Sequence[torch.nn.Parameter]], torch.optim.Optimizer]
Report = Callable[["Progress", Mapping[str, float]], None]
"""Called after every episode with where training stands, and the metrics of that moment."""
State = dict[str, Any]
"""Tensors, numbers, strings, and dicts and lists of them."""


VALIDATION_CRITERIA = ("final", "average", "meta_loss")


class MetaTrainingError(UserError, RuntimeError):
    """Meta-training cannot go on; the message says why and what to try."""


@dataclass(frozen=True)
class Plan:
    """How long and on what to meta-train.

    Attributes:
        horizon: T >= 1, inner steps per episode (paper: 100), unless `Options` have a curriculum.
        truncation: inner steps between meta-steps; divides `horizon` (paper: 20).
        episodes: >= 1, fresh problems are drawn for each.
        problems: B >= 1, problems per episode.
        seed: the meta-seed, of the training problems.
        validation_every: >= 1, episodes between validations.
        validation_problems: >= 1; always the same ones.
        validation_seed: of the validation problems, the same for every meta-seed.
        validation_horizon: None for the longest of the training episodes, or inner steps >= 1.
        validation_criterion: what is lowest where meta-parameters are kept: the mean over problems
            of "final" (paper), the loss of theta_T on the training part, or of "average", the
            minibatch losses of all steps; or "meta_loss", of the whole horizon.
        patience: None, or validations without improvement after which training stops, >= 1.
        max_seconds: None, or seconds > 0 of training and validation: the episode that passes them
            is the last, and is validated.
        clip: > 0, largest norm of the meta-gradient.
        max_skipped: >= 1, non-finite meta-gradients in a row after which training gives up.
    """

    horizon: int
    truncation: int
    episodes: int
    problems: int
    seed: int = 0
    validation_every: int = 20
    validation_problems: int = 64
    validation_seed: int = 0
    validation_horizon: int | None = None
    validation_criterion: str = "final"
    patience: int | None = None
    max_seconds: float | None = None
    clip: float = 1.0
    max_skipped: int = 10

    def __post_init__(self) -> None:
        """Raise ValueError for an impossible plan."""
        for name in (
            "horizon",
            "truncation",
            "episodes",
            "problems",
            "validation_every",
            "validation_problems",
            "max_skipped",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"training.{name}={getattr(self, name)} must be >= 1")
        if self.horizon % self.truncation:
            raise ValueError(
                f"training.truncation={self.truncation} must divide training.horizon={self.horizon}"
            )
        if self.validation_criterion not in VALIDATION_CRITERIA:
            raise ValueError(
                f"training.validation_criterion={self.validation_criterion} must be one of "
                f"{', '.join(VALIDATION_CRITERIA)}"
            )
        for name in ("patience", "validation_horizon"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"training.{name}={value} must be >= 1, or null")
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise ValueError(f"training.max_seconds={self.max_seconds} must be > 0, or null")
        if not self.clip > 0:
            raise ValueError(f"training.clip={self.clip} must be > 0")

    def is_over(self, seconds: float) -> bool:
        """Whether so many seconds are as many as training may take."""
        return self.max_seconds is not None and seconds >= self.max_seconds


@dataclass(frozen=True)
class Options:
    """What training does that no plan of numbers can say.

    Attributes:
        mixture: what training problems are drawn from; None for the optimizee itself. Validation
            problems are always the optimizee's.
        horizons: of the training episodes; None for `plan.horizon`.
        imitation: of a teacher in some of the episodes, or None.
        diagnostics: of the estimator; off by default.
    """

    mixture: Mixture | None = None
    horizons: Horizons | None = None
    imitation: Imitation | None = None
    diagnostics: Diagnostics = field(default_factory=Diagnostics)


@dataclass
class Progress:
    """Where meta-training stands."""

    episode: int = 0  # episodes finished
    meta_steps: int = 0  # meta-steps taken
    inner_steps: int = 0  # inner steps taken, counted per problem and particle
    skipped: int = 0  # meta-steps left out because the meta-gradient was not finite
    skipped_in_a_row: int = 0
    seconds: float = 0.0  # spent in training and validation
    validation: float = math.inf  # latest validation loss
    best_validation: float = math.inf
    best_episode: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)  # the rule's state dict at best_episode
    validations_since_best: int = 0  # or since the stage began
    stage: int = 0  # of horizons that grow with validation
    stopped_early: bool = False
    validations: list[tuple[int, float, float]] = field(default_factory=list)
    """Episode, seconds spent until then, validation loss; in order."""


class Memory:
    """Where meta-training is kept, so that it can go on after any end. This one forgets."""

    def recall(self) -> State | None:
        """What was kept last; None at the beginning."""
        return None

    def keep(self, state: Callable[[], State]) -> None:
        """Keep the state of this moment, after an episode; calling `state` copies nothing."""

    def keep_now(self, state: Callable[[], State]) -> None:
        """The same for a moment that would not come again: it is what the clock decided."""
        self.keep(state)


FORGETFUL = Memory()
PAPERS = MetaLoss(Uniform(), Plain())
PLAIN = Options()


@dataclass(frozen=True)
class Validator:
    """The loss on fixed validation problems: what decides which meta-parameters are kept."""

    optimizee: Optimizee
    problems: int
    seed: int
    horizon: int
    criterion: str = "final"
    meta_loss: MetaLoss = PAPERS

    @torch.no_grad()
    def __call__(self, rule: LearnedOptimizer) -> float:
        """The criterion, as `Plan` defines it, on the validation problems.

        Not finite losses count as infinity: a rule that diverges on one problem is not selected.
        """
        problem = self.optimizee.sample(range(self.problems), Seed("validation", self.seed))
        episode = Episode(self.optimizee, problem, self.horizon)
        carry, losses = episode.start(rule), []
        first = carry.loss
        for after in unroll(episode, rule, carry, self.horizon, reuse_state=True):
            carry = after
            losses.append(carry.loss)
        score = self._score(torch.stack(losses), first, carry.theta, problem).item()
        return score if math.isfinite(score) else math.inf

    def _score(self, losses: Tensor, first: Tensor, theta: Tensor, problem: Problem) -> Tensor:
        """The criterion of losses (T, B) that began at `first` (B,) and ended at theta (B, N)."""
        if self.criterion == "meta_loss":
            return self.meta_loss(losses, first, 0, self.horizon)
        if self.criterion == "average":
            return losses.mean()
        return self.optimizee.metrics(theta, problem)["train_loss"].mean()


def train(
    optimizee: Optimizee,
    rule: LearnedOptimizer,
    gradient: MetaGradient,
    meta_loss: MetaLoss,
    meta_optimizer: MetaOptimizer,
    schedule: Schedule,
    plan: Plan,
    options: Options = PLAIN,
    meaning: str = "",
    report: Report = lambda progress, metrics: None,
    memory: Memory = FORGETFUL,
) -> Progress:
    """Meta-train `rule` in place; it ends with the meta-parameters of the best validation.

    Args:
        optimizee: distribution of the validation problems, and of the training problems unless
            `options` has others.
        rule: its parameters are trained.
        gradient: estimator of the meta-gradient.
        meta_loss: what is lowered.
        meta_optimizer: makes a torch optimizer of the meta-parameters.
        schedule: factor on the meta-optimizer's learning rate.
        plan: how long, on how many problems.
        options: what else training does.
        meaning: names what a validation score depends on, the rule apart. Scores that the memory
            recalls under another name are forgotten, since they cannot be compared.
        report: is told after every episode.
        memory: is asked first where to go on, and told after every report. Draws are functions of
            the seed and the episode, so that the rule, the meta-optimizer and the progress are all
            there is to keep: training goes on bit for bit as if it had not been stopped.

    Raises:
        MetaTrainingError: after `plan.max_skipped` non-finite meta-gradients in a row, or if what
            the memory recalls does not fit the rule.
        ValueError: as `check`.
    """
    check(rule, gradient, meta_loss, plan, options)
    training = _Training(
        optimizee, rule, gradient, meta_loss, schedule, plan, meta_optimizer, options, meaning
    )
    progress = training.progress
    kept = memory.recall()
    if kept is not None:
        training.load_state(kept)
    validate = Validator(
        optimizee, plan.validation_problems, plan.validation_seed, training.validation_horizon,
        plan.validation_criterion, meta_loss,
    )  # fmt: skip
    clock = time.perf_counter()
    # What was kept may be over, since its plan was changed, and yet without a score.
    while not (over := training.is_over()) or not progress.best:
        metrics = {} if over else training.episode()
        progress.episode += not over
        late = plan.is_over(progress.seconds + time.perf_counter() - clock)
        last = over or progress.episode == plan.episodes
        due = last or progress.episode % plan.validation_every == 0
        if due or late:
            _select(rule, validate(rule), progress)
            training.go_on_or_stop()
            progress.stopped_early |= late
            metrics[f"validation_{plan.validation_criterion}"] = progress.validation
            metrics["zero_gradient_update"] = zero_gradient_update(
                optimizee, rule, training.validation_horizon
            )
        progress.seconds += time.perf_counter() - clock
        if due or late:
            progress.validations.append((progress.episode, progress.seconds, progress.validation))
        report(progress, metrics)
        (memory.keep_now if late else memory.keep)(training.state)
        clock = time.perf_counter()
    rule.load_state_dict(progress.best)
    return progress


def check(
    rule: LearnedOptimizer,
    gradient: MetaGradient,
    meta_loss: MetaLoss,
    plan: Plan,
    options: Options,
) -> None:
    """Raise ValueError where these, which are `train`'s, do not fit together."""
    gradient.check(rule)
    if options.imitation is not None:
        options.imitation.check(rule)
    horizons = options.horizons or Fixed(plan.horizon)
    horizons.check(plan.truncation)
    for horizon in horizons.all:
        meta_loss.weights.check(plan.truncation, horizon)
    growth = horizons.patience
    if plan.patience is not None and growth is not None and plan.patience <= growth:
        raise ValueError(
            f"training.patience={plan.patience} ends training before the horizon grows: it must "
            f"be > training.horizons.patience={growth}, or null"
        )


class _Training:
    """The objects of a meta-training, and where it stands."""

    def __init__(
        self,
        optimizee: Optimizee,
        rule: LearnedOptimizer,
        gradient: MetaGradient,
        meta_loss: MetaLoss,
        schedule: Schedule,
        plan: Plan,
        meta_optimizer: MetaOptimizer,
        options: Options,
        meaning: str,
    ) -> None:
        self.mixture = options.mixture or Mixture({"main": optimizee})
        self.horizons = options.horizons or Fixed(plan.horizon)
        self.validation_horizon = plan.validation_horizon or max(self.horizons.all)
        self.options, self.meaning, self.seed = options, meaning, Seed("train", plan.seed)
        self.rule, self.gradient = rule, gradient
        self.meta_loss, self.schedule, self.plan = meta_loss, schedule, plan
        self.meta_optimizer = meta_optimizer(list(rule.parameters()))
        self.base_rates = [group["lr"] for group in self.meta_optimizer.param_groups]
        self.progress = Progress()

    def state(self) -> State:
        """Everything that the next episode depends on."""
        return {
            "rule": self.rule.state_dict(),
            "meta_optimizer": self.meta_optimizer.state_dict(),
            "progress": dict(vars(self.progress)),
            "criterion": self.meaning,
        }

    def load_state(self, state: State) -> None:
        """Stand where `state` was taken."""
        try:
            self.rule.load_state_dict(state["rule"])
            self._load_meta_optimizer(state["meta_optimizer"])
            for name, value in state["progress"].items():
                setattr(self.progress, name, value)
            if state["criterion"] != self.meaning:  # scores cannot be compared
                self.progress.best_validation, self.progress.best = math.inf, {}
                self.progress.validations_since_best = 0
                self.progress.validations = []
        except (RuntimeError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())
            raise MetaTrainingError(f"what was kept does not fit this rule: {reason}") from error
        progress = self.progress
        late = progress.stopped_early and self.plan.is_over(progress.seconds)
        progress.stopped_early = late or self._out_of_patience()

    def is_over(self) -> bool:
        """Whether no episode is left."""
        return self.progress.episode >= self.plan.episodes or self.progress.stopped_early

    def _load_meta_optimizer(self, state: State) -> None:
        """Load moments and counts; settings are the config's, which may have been changed."""
        groups = self.meta_optimizer.param_groups
        settings = [{k: v for k, v in group.items() if k != "params"} for group in groups]
        self.meta_optimizer.load_state_dict(state)
        for group, mine in zip(self.meta_optimizer.param_groups, settings, strict=True):
            group.update(mine)

    def go_on_or_stop(self) -> None:
        """After a validation: go on to longer horizons, or stop, where nothing got better."""
        progress, patience = self.progress, self.horizons.patience
        stalled = patience is not None and progress.validations_since_best >= patience
        if stalled and progress.stage < len(self.horizons.all) - 1:
            progress.stage += 1
            progress.validations_since_best = 0
        progress.stopped_early = self._out_of_patience()

    def _out_of_patience(self) -> bool:
        """Whether so many validations brought nothing better that training stops."""
        patience = self.plan.patience
        return patience is not None and self.progress.validations_since_best >= patience

    def episode(self) -> dict[str, float]:
        """One episode on fresh problems: a meta-step per window. Returns its metrics."""
        plan, progress = self.plan, self.progress
        episode = self._draw()
        measured = self._measured(episode)
        sources = self._sources(episode)
        losses: dict[str, list[float]] = {name: [] for name in sources}
        norms: list[float] = []
        for start in range(0, episode.horizon, plan.truncation):
            estimates = {name: next(windows) for name, (_, windows) in sources.items()}
            progress.inner_steps += plan.truncation * plan.problems * self._rows(sources)
            self._set_rates((progress.episode + start / episode.horizon) / plan.episodes)
            mixed = _mixed([(sources[name][0], one) for name, one in estimates.items()])
            norm = _meta_step(self.rule, self.meta_optimizer, mixed, plan.clip)
            if not math.isfinite(norm):
                _count_skipped(plan, progress)
                break  # this episode's theta or state is beyond repair: go on with fresh problems
            progress.meta_steps += 1
            progress.skipped_in_a_row = 0
            for name, one in estimates.items():
                losses[name].append(one.meta_loss)
            norms.append(norm)
        return {name: _mean(values) for name, values in losses.items()} | {
            "meta_gradient_norm": _mean(norms),
            "meta_lr": self.meta_optimizer.param_groups[0]["lr"],
            "skipped_meta_steps": float(progress.skipped),
            "horizon": float(episode.horizon),
            **measured,
        }

    def _draw(self) -> Episode:
        """The next episode: its optimizee, its horizon, its problems."""
        plan, progress, seed = self.plan, self.progress, self.seed
        first_index = progress.episode * plan.problems
        optimizee = self.mixture.draw(progress.episode, seed)
        problem = optimizee.sample(range(first_index, first_index + plan.problems), seed)
        horizon = self.horizons(progress.episode, progress.stage, plan.truncation, seed)
        return Episode(optimizee, problem, horizon, self.gradient.attached)

    def _sources(self, episode: Episode) -> dict[str, tuple[float, Iterator[Estimate]]]:
        """What an episode is learned from: the name of a loss -> its weight, its windows."""
        number, imitation = self.progress.episode, self.options.imitation
        share = 0.0 if imitation is None else imitation.weight_of(number, self.seed)
        sources = {}
        if share < 1:
            sources["meta_loss"] = (1 - share, self._windows(episode))
        if imitation is not None and share > 0:
            rng = partial(generator, self.seed, "imitation_gradient", number)
            windows = imitation.windows(episode, self.rule, self.plan.truncation, rng)
            sources["imitation_loss"] = (share, windows)
        return sources

    def _rows(self, sources: Mapping[str, object]) -> int:
        """Trajectories per problem of an episode."""
        return sum(self.gradient.particles if name == "meta_loss" else 1 for name in sources)

    def _measured(self, episode: Episode) -> dict[str, float]:
        """What the diagnostics say of the estimator, in the episodes that they are due in."""
        number = self.progress.episode
        if not self.options.diagnostics.due(number):
            return {}
        first = episode.start(self.rule).loss.detach()
        return self.options.diagnostics(
            self.gradient, episode, self.rule, self.plan.truncation,
            partial(self.meta_loss, first=first, horizon=episode.horizon),
            partial(generator, self.seed, f"diagnostics_{number}"),
        )  # fmt: skip

    def _windows(self, episode: Episode) -> Iterator[Estimate]:
        """The windows of the rule's own trajectory, each when it is asked for."""
        truncation, number = self.plan.truncation, self.progress.episode
        rng = generator(self.seed, "meta_gradient_start", number)
        carry = self.gradient.start(episode, self.rule, rng)
        objective = partial(self.meta_loss, first=carry.loss, horizon=episode.horizon)
        for start in range(0, episode.horizon, truncation):
            rng = generator(self.seed, "meta_gradient", number, start)
            estimate = self.gradient(
                episode, self.rule, carry, truncation, partial(objective, start=start), rng
            )
            yield estimate
            carry = estimate.carry

    def _set_rates(self, progress: float) -> None:
        """Apply the schedule at a progress in [0, 1]."""
        factor = self.schedule(progress)
        for group, rate in zip(self.meta_optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = factor * rate


def _mixed(parts: Sequence[tuple[float, Estimate]]) -> Estimate:
    """The weighted sum of losses and gradients; the carry is the first one's."""
    (weight, mixed), *others = parts
    if not others:
        return mixed
    loss, grads = weight * mixed.meta_loss, [weight * grad for grad in mixed.grads]
    for weight, one in others:
        loss += weight * one.meta_loss
        grads = [total + weight * grad for total, grad in zip(grads, one.grads, strict=True)]
    return mixed._replace(grads=grads, meta_loss=loss)


def _mean(values: Sequence[float]) -> float:
    """The mean; NaN where there is none."""
    return sum(values) / len(values) if values else math.nan


def _meta_step(
    rule: LearnedOptimizer, optimizer: torch.optim.Optimizer, estimate: Estimate, clip: float
) -> float:
    """Clip and apply a meta-gradient, unless it is not finite; returns its norm before clipping."""
    for parameter, grad in zip(rule.parameters(), estimate.grads, strict=True):
        parameter.grad = grad
    norm = torch.nn.utils.clip_grad_norm_(rule.parameters(), clip).item()
    if math.isfinite(norm) and math.isfinite(estimate.meta_loss):
        optimizer.step()
    else:
        norm = math.nan
    optimizer.zero_grad(set_to_none=True)
    return norm


def _count_skipped(plan: Plan, progress: Progress) -> None:
    """Count a skipped meta-step; give up after too many in a row."""
    progress.skipped += 1
    progress.skipped_in_a_row += 1
    if progress.skipped_in_a_row >= plan.max_skipped:
        raise MetaTrainingError(
            f"{progress.skipped_in_a_row} meta-gradients in a row were not finite (episode "
            f"{progress.episode}): lower the meta-learning rate or optimizer.output_scale, or use "
            f"a log or relative meta-loss; where the problem's own loss is not finite, mend that"
        )


def _select(rule: LearnedOptimizer, validation: float, progress: Progress) -> None:
    """Keep the meta-parameters if this validation is the best so far."""
    progress.validation = validation
    if validation < progress.best_validation or not progress.best:
        progress.best_validation = validation
        progress.best_episode = progress.episode
        progress.best = copy.deepcopy(rule.state_dict())
        progress.validations_since_best = 0
        return
    progress.validations_since_best += 1


@torch.no_grad()
def zero_gradient_update(optimizee: Optimizee, rule: LearnedOptimizer, horizon: int) -> float:
    """Mean |update| over a horizon of zero gradients.

    A constant drift where there is nothing to follow is a common cause of late divergence.
    """
    theta = torch.zeros(1, optimizee.spec.size).to(optimizee.anchor)
    state, total = rule.init_state(theta, optimizee.spec), 0.0
    for step in range(horizon):
        seen = Observation(
            torch.zeros_like(theta), theta, theta.new_zeros(1), step, horizon, optimizee.spec
        )
        update, state = rule.step(seen, state)
        theta = theta + update
        total += update.abs().mean().item()
    return total / horizon
