"""The comparison: a rule and its baselines on the same fresh problems, each at its best."""

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

from torch import Tensor

from l2l_exp.evaluation import (
    CRITERIA,
    Criterion,
    EvalRecord,
    Floats,
    StepCost,
    evaluate,
    measure_step,
    snapshots,
)
from l2l_exp.optimizees.base import Optimizee, VisibleOptimizee
from l2l_exp.optimizees.seeding import Seed
from l2l_exp.optimizers.base import LearnedOptimizer
from l2l_exp.optimizers.baseline import Baseline
from l2l_exp.reference import Reference, refer
from l2l_exp.tuning import SEARCHES, Search, Tuned, TuningCache, source_hash, tune

SHOWN_PROBLEMS = 3
"""Test problems of a gallery."""


@dataclass(frozen=True)
class Protocol:
    """On what rules are compared.

    Attributes:
        horizon: T >= 1, inner steps.
        problems: n >= 1, fresh test problems.
        tuning_problems: >= 1, validation problems on which baselines choose their learning rates.
        seed: of both, which lie in different splits; the same for every meta-seed.
        tuning_search: how learning rates are searched, one of `SEARCHES`.
        identity: what the draws and the loss depend on, as json values; a part of cache keys.
    """

    horizon: int
    problems: int
    tuning_problems: int
    seed: int
    identity: Mapping[str, object]
    tuning_search: Search = "full"

    def __post_init__(self) -> None:
        """Raise ValueError for an impossible protocol."""
        for name in ("horizon", "problems", "tuning_problems"):
            if getattr(self, name) < 1:
                raise ValueError(f"evaluation.{name}={getattr(self, name)} must be >= 1")
        if self.tuning_search not in SEARCHES:
            raise ValueError(
                f"evaluation.tuning_search={self.tuning_search} must be one of "
                f"{', '.join(SEARCHES)}"
            )


@dataclass(frozen=True)
class Contender:
    """One rule in a comparison.

    Attributes:
        name: shown in tables and figures.
        records: per criterion, the run that is judged by it: a baseline's at the rate tuned for
            that criterion; the same record for every criterion of a learned rule or a reference.
        tuned: a baseline's learning rates and validation scores.
        cost: of one inner step.
    """

    name: str
    records: Mapping[Criterion, EvalRecord]
    tuned: Tuned | None
    cost: StepCost

    def validation_score(self, criterion: Criterion) -> float:
        """Mean on the validation problems at the tuned rate: what baselines are ranked by."""
        if self.tuned is None:
            raise ValueError(f"{self.name} was not scored on validation problems")
        return self.tuned.scores[criterion][self.tuned.rates[criterion]]


def compare(
    optimizee: Optimizee,
    rules: Mapping[str, LearnedOptimizer | Reference],
    protocol: Protocol,
    cache: TuningCache,
    announce: Callable[[str], None] = lambda text: None,
    finished: MutableMapping[str, Contender] | None = None,
    known: MutableMapping[str, Contender] | None = None,
) -> list[Contender]:
    """Evaluate rules on the same fresh test problems, baselines after tuning.

    Args:
        optimizee: distribution of the problems.
        rules: name -> rule or reference, in the order of the result.
        protocol: on what.
        cache: of tuned learning rates.
        announce: told what is being done.
        finished: contenders by name that need not be evaluated again; the others are added.
        known: baselines of earlier comparisons, by a hash of all that their losses depend on:
            those of the same protocol are not run again, only timed; new ones are added.
    """
    finished = {} if finished is None else finished
    known = {} if known is None else known
    for name, rule in rules.items():
        if name in finished:
            continue
        if isinstance(rule, Baseline):
            one = _baseline(optimizee, rule, protocol, cache, known, partial(_say, announce, name))
            finished[name] = replace(one, name=name)
        else:
            finished[name] = _contender(name, optimizee, rule, protocol, announce)
    return [finished[name] for name in rules]


def _say(announce: Callable[[str], None], name: str, text: str) -> None:
    """Announce what a rule is doing."""
    announce(f"{name}: {text}")


def _baseline(
    optimizee: Optimizee,
    rule: Baseline,
    protocol: Protocol,
    cache: TuningCache,
    known: MutableMapping[str, Contender],
    announce: Callable[[str], None],
) -> Contender:
    """Tune a baseline and evaluate it, or remember both; its time is always today's."""
    key = _key(optimizee, rule, protocol)
    name = cache.digest({**key, "test_problems": protocol.problems})
    if name in known:
        announce("remembered")
        one = known[name]
        return replace(one, cost=measure_step(optimizee, rule.with_rates(_rates(one)[:1])))
    announce(f"learning rate on {protocol.tuning_problems} validation problems")
    tuned = _tuned(optimizee, rule, protocol, cache, key)
    rule = rule.with_rates(sorted(set(tuned.rates.values())))
    announce(f"{protocol.problems} test problems")
    problems, seed = range(protocol.problems), Seed("test", protocol.seed)
    records = evaluate(optimizee, rule, problems, seed, protocol.horizon)
    cost = measure_step(optimizee, rule.with_rates(rule.rates[:1]))
    known[name] = Contender("", _judged(records, tuned), tuned, cost)
    return known[name]


def _rates(one: Contender) -> list[float]:
    """The tuned rates of a baseline, from the smallest."""
    return [] if one.tuned is None else sorted(set(one.tuned.rates.values()))


def _contender(
    name: str,
    optimizee: Optimizee,
    rule: LearnedOptimizer | Reference,
    protocol: Protocol,
    announce: Callable[[str], None],
) -> Contender:
    """Evaluate a learned rule or a reference."""
    problems, seed = range(protocol.problems), Seed("test", protocol.seed)
    if isinstance(rule, Reference):
        announce(f"{name}: {protocol.problems} test problems, one by one")
        record, cost = refer(optimizee, rule, problems, seed, protocol.horizon)
        return Contender(name, _judged([record], None), None, cost)
    announce(f"{name}: {protocol.problems} test problems")
    records = evaluate(optimizee, rule, problems, seed, protocol.horizon)
    return Contender(name, _judged(records, None), None, measure_step(optimizee, rule))


def _judged(records: Sequence[EvalRecord], tuned: Tuned | None) -> dict[Criterion, EvalRecord]:
    """The record of each criterion that the optimizee has."""
    by_rate = {record.lr: record for record in records}
    return {
        criterion: by_rate[None if tuned is None else tuned.rates[criterion]]
        for criterion in CRITERIA
        if records[0].criterion(criterion) is not None
    }


def best_baseline(contenders: list[Contender], criterion: Criterion) -> Contender:
    """The baseline with the lowest validation score; test problems have no say in it."""
    return min(contenders, key=lambda contender: contender.validation_score(criterion))


class Gallery(NamedTuple):
    """What the first test problems look like. Pictures are (B, height, width, 3) in [0, 1]."""

    references: Mapping[str, Floats]  # by name
    rules: Mapping[str, Mapping[int, Floats]]  # by rule and step
    losses: Mapping[str, Mapping[int, Floats]]  # (B,) each, by rule and step, on the training part


def gallery(
    optimizee: VisibleOptimizee,
    rules: Mapping[str, LearnedOptimizer],
    contenders: Sequence[Contender],
    protocol: Protocol,
    announce: Callable[[str], None] = lambda text: None,
) -> Gallery:
    """Look at what a comparison's rules do; baselines at the rate that is tuned for `final`.

    Args:
        optimizee: of the comparison.
        rules: the rules that were compared.
        contenders: what `compare` made of them, in the same order.
        protocol: of the comparison.
        announce: told what is being done.
    """
    seed, problems = Seed("test", protocol.seed), range(min(SHOWN_PROBLEMS, protocol.problems))
    problem, steps = optimizee.sample(problems, seed), shown_steps(protocol.horizon)
    seen: dict[str, dict[int, Floats]] = {}
    losses: dict[str, dict[int, Floats]] = {}
    for (name, rule), contender in zip(rules.items(), contenders, strict=True):
        announce(f"{name}: pictures of {len(problems)} test problems")
        if isinstance(rule, Baseline) and contender.tuned is not None:
            rule = rule.with_rates([contender.tuned.rates["final"]])
        thetas = snapshots(optimizee, rule, problems, seed, protocol.horizon, steps)
        seen[name] = {t: _channels_last(optimizee.pictures(x)) for t, x in thetas.items()}
        losses[name] = {
            t: optimizee.metrics(x, problem)["train_loss"].double().cpu().numpy()
            for t, x in thetas.items()
        }
    start = optimizee.pictures(optimizee.init(problems, seed))
    references = {**optimizee.references(problem), "start": start}
    return Gallery({n: _channels_last(x) for n, x in references.items()}, seen, losses)


def shown_steps(horizon: int) -> list[int]:
    """Three steps that are drawn, each about four times the one before: at 128, 8, 32, 128."""
    return sorted({max(1, horizon // 16), max(1, horizon // 4), horizon})


def _channels_last(pictures: Tensor) -> Floats:
    """(B, 3, height, width) -> (B, height, width, 3) on the CPU."""
    return pictures.permute(0, 2, 3, 1).double().cpu().numpy()


def _key(optimizee: Optimizee, rule: Baseline, protocol: Protocol) -> dict[str, object]:
    """All that the tuned rates of a baseline depend on, but for the code of the package."""
    return {
        "data": protocol.identity,
        "horizon": protocol.horizon,
        "problems": protocol.tuning_problems,
        "seed": protocol.seed,
        "optimizer": getattr(rule.optimizer, "__qualname__", repr(rule.optimizer)),
        "sources": [source_hash(source) for source in (*optimizee.sources, rule.optimizer)],
        "rule": source_hash(type(rule)),
        "settings": {**rule.settings, "decay": rule.decay},
        "rates": rule.rates,
        "search": [*rule.search, protocol.tuning_search],
        "device": str(optimizee.anchor.device),
        "dtype": str(optimizee.anchor.dtype),
    }


def _tuned(
    optimizee: Optimizee,
    rule: Baseline,
    protocol: Protocol,
    cache: TuningCache,
    key: Mapping[str, object],
) -> Tuned:
    """Tune, or remember."""
    tuned = cache.read(key)
    if tuned is None:
        seed = Seed("validation", protocol.seed)
        problems = range(protocol.tuning_problems)
        tuned = tune(optimizee, rule, problems, seed, protocol.horizon, protocol.tuning_search)
        cache.write(key, tuned)
    return tuned
