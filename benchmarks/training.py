"""Meta-training on the digits for equal seconds: what a faster estimator buys.

The recipe of conf/experiment/digits.yaml, with a schedule that follows the clock.
"""

import statistics
import time
from dataclasses import dataclass
from functools import partial

import torch
from rich.table import Table

from benchmarks import measure
from benchmarks.measure import Part, Result
from benchmarks.port import PortGradient
from benchmarks.problems import META_LOSS, mean_cosine
from l2l_exp.meta.gradients import MetaGradient, Replay
from l2l_exp.meta.schedule import Cosine
from l2l_exp.meta.train import Validator
from l2l_exp.optimizees.base import Optimizee
from l2l_exp.optimizees.data import digits
from l2l_exp.optimizees.jitter import Jitter
from l2l_exp.optimizees.mlp import ImageMLP
from l2l_exp.optimizees.seeding import Seed, generator
from l2l_exp.optimizers.lstm import CoordinatewiseLSTM
from l2l_exp.unroll import Episode

SUBSET = 1024
ESTIMATORS: tuple[tuple[str, MetaGradient], ...] = (
    ("plain port", PortGradient()),
    ("replay, exact", Replay()),
    (f"replay, {SUBSET} coordinates", Replay(subset=SUBSET)),
)
SCHEDULE = Cosine(warmup=0.1)
RATE, CLIP = 0.005, 1.0


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    seconds: float = 30.0  # of training, for every estimator
    seeds: tuple[int, ...] = (0,)
    horizon: int = 100
    truncation: int = 20
    problems: int = 4
    validation_problems: int = 32
    draws: int = 20


TINY = Size(seconds=0.1, seeds=(0, 1), horizon=4, truncation=2, problems=2, validation_problems=2)


class Contender:
    """A rule that one estimator trains until its seconds are used up.

    Args:
        gradient: the estimator.
        seed: of the initial meta-parameters and of the training problems.
        size: the recipe.
    """

    def __init__(self, gradient: MetaGradient, seed: int, size: Size) -> None:
        self.gradient, self.seed, self.size = gradient, seed, size
        self.rule = CoordinatewiseLSTM(seed=seed)
        self.optimizer = torch.optim.Adam(self.rule.parameters(), lr=RATE)
        self.seconds = 0.0
        self.episodes = 0

    @property
    def running(self) -> bool:
        """Whether time is left."""
        return self.seconds < self.size.seconds

    def train_episode(self, optimizee: Optimizee) -> None:
        """One episode on fresh problems: a meta-step per window."""
        begin, size, seed = time.perf_counter(), self.size, Seed("train", self.seed)
        first = self.episodes * size.problems
        problem = optimizee.sample(range(first, first + size.problems), seed)
        episode = Episode(optimizee, problem, size.horizon, self.gradient.attached)
        carry = episode.start(self.rule).detach()
        objective = partial(META_LOSS, first=carry.loss, horizon=size.horizon)
        progress = min(1.0, self.seconds / size.seconds)
        for start in range(0, size.horizon, size.truncation):
            estimate = self.gradient(
                episode,
                self.rule,
                carry,
                size.truncation,
                partial(objective, start=start),
                generator(seed, "meta_gradient", self.episodes, start),
            )
            self.meta_step(estimate.grads, SCHEDULE(progress))
            carry = estimate.carry
        self.episodes += 1
        self.seconds += time.perf_counter() - begin

    def meta_step(self, grads: list[torch.Tensor], factor: float) -> None:
        """One step of Adam along the clipped meta-gradient."""
        for parameter, grad in zip(self.rule.parameters(), grads, strict=True):
            parameter.grad = grad
        torch.nn.utils.clip_grad_norm_(self.rule.parameters(), CLIP, error_if_nonfinite=True)
        self.optimizer.param_groups[0]["lr"] = factor * RATE
        self.optimizer.step()


def measure_training(tiny: bool = False) -> Result:
    """Validation loss after equal seconds, per estimator and meta-seed; one thread."""
    size = TINY if tiny else Size()
    optimizee = ImageMLP(digits(), jitter=Jitter(rotation=0.3, scale=0.15, shift=1.0))
    validate = Validator(optimizee, size.validation_problems, 0, size.horizon)
    with measure.threads(1):
        runs = {seed: _train(size, seed, optimizee) for seed in size.seeds}
        start = {seed: validate(CoordinatewiseLSTM(seed=seed)) for seed in size.seeds}
        rows = {
            name: {
                "validation_loss": [validate(runs[seed][name].rule) for seed in size.seeds],
                "episodes": [runs[seed][name].episodes for seed in size.seeds],
                "seconds": [runs[seed][name].seconds for seed in size.seeds],
            }
            for name, _ in ESTIMATORS
        }
        trained = runs[size.seeds[0]]["replay, exact"].rule
        cosine = mean_cosine(
            optimizee,
            trained,
            SUBSET,
            size.draws,
            steps=size.truncation,
            before=size.truncation,
            problems=size.problems,
        )
    return {
        "seconds": size.seconds,
        "seeds": list(size.seeds),
        "threads": 1,
        "validation_loss_untrained": list(start.values()),
        "estimators": rows,
        "cosine_of_subset_trained_rule": cosine,
        "claims": [],
    }


def _train(size: Size, seed: int, optimizee: Optimizee) -> dict[str, Contender]:
    """Train one rule by every estimator; they take turns by episodes, on one machine."""
    contenders = {name: Contender(gradient, seed, size) for name, gradient in ESTIMATORS}
    while any(contender.running for contender in contenders.values()):
        for contender in contenders.values():
            if contender.running:
                contender.train_episode(optimizee)
    return contenders


def tables(result: Result) -> list[Table]:
    """One row per estimator; validation losses of every meta-seed."""
    title = f"Digits: validation loss after {result['seconds']:.0f} s of meta-training, 1 thread"
    table = Table(title=title)
    table.add_column("estimator")
    for heading in ("episodes", "validation loss, by meta-seed", "median"):
        table.add_column(heading, justify="right")
    for name, row in result["estimators"].items():
        losses = row["validation_loss"]
        table.add_row(
            name,
            ", ".join(str(count) for count in row["episodes"]),
            ", ".join(f"{loss:.3f}" for loss in losses),
            f"{statistics.median(losses):.3f}",
        )
    untrained = ", ".join(f"{loss:.3f}" for loss in result["validation_loss_untrained"])
    table.caption = (
        f"untrained: {untrained}; cosine of the subset's gradient with the exact one, second "
        f"window of the trained rule: {result['cosine_of_subset_trained_rule']:.2f}"
    )
    return [table]


PART = Part(measure_training, tables)
