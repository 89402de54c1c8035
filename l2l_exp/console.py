"""What a command tells its user: progress, the comparison, where things lie."""

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rich.console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from l2l_exp.evaluation import CRITERIA
from l2l_exp.joblist import JobList
from l2l_exp.meta.train import Plan, Progress
from l2l_exp.optimizees.base import Optimizee
from l2l_exp.optimizers.base import LearnedOptimizer
from l2l_exp.report.answers import duration
from l2l_exp.report.summary import subject

LINE_SECONDS = 10.0
"""On what is not a terminal a line of progress appears at most this often."""


class Console:
    """Writes to standard output; bars on a terminal, plain lines elsewhere.

    Args:
        prefix: of every line, where several jobs write into one terminal; each is brief then.
    """

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        width = None if sys.stdout.isatty() else 120
        self._out = rich.console.Console(width=width, highlight=False, soft_wrap=False)
        self._brief = bool(prefix)

    def jobs(self, jobs: JobList, in_full: bool) -> None:
        """Tell how far the jobs of a multirun have come, line by line or all in one."""
        if in_full:
            table = Table()
            for name in ("job", "values", "state", "spent", "left"):
                table.add_column(name, justify="left" if name in ("values", "state") else "right")
            for one in jobs.jobs:
                spent = duration(one.seconds) if one.seconds else ""
                left = "" if not one.forecast else duration(one.forecast)
                table.add_row(str(one.number), " ".join(one.values), one.state, spent, left)
            self._out.print(table)
        self._say(str(jobs))

    def started(self, run_id: str, folder: Path) -> None:
        """Name the run."""
        self._say(f"run {run_id} in {folder}")

    def resumed(self, progress: Mapping[str, Any], plan: Plan) -> None:
        """Say where meta-training goes on."""
        self._say(f"going on after episode {progress['episode']} of {plan.episodes}")

    def nothing_to_do(self, run_id: str, folder: Path, status: str) -> None:
        """Say that a run has ended already."""
        self._say(f"run {run_id} in {folder} is {status.lower()}: nothing to do")

    def warn(self, text: str) -> None:
        """Tell something on the error stream."""
        print(f"{self._prefix}{text}", file=sys.stderr, flush=True)

    def registered(self, text: str) -> None:
        """Say what became of a rule that was to be registered."""
        self._say(text)

    def finished(self, run_id: str, folder: Path, uri: str | None) -> None:
        """Say where everything lies."""
        if self._brief:
            self._say("finished")
            return
        for path in sorted(folder.iterdir()):
            if path.suffix in (".png", ".json", ".parquet") or path.name == "checkpoint":
                self._say(f"  {path}")
        if uri is not None:
            served = uri.startswith(("http:", "https:"))
            hint = "" if served else f": look at it with  mlflow ui --backend-store-uri {uri}"
            self._say(f"  run {run_id} in {uri}{hint}")

    @contextmanager
    def training(
        self, plan: Plan, horizons: str, optimizee: Optimizee, rule: LearnedOptimizer
    ) -> Iterator[Callable[[Progress, Mapping[str, float]], None]]:
        """Show meta-training: episodes, validation loss, time left."""
        size = sum(parameter.numel() for parameter in rule.parameters())
        self._say(
            f"meta-training {size} meta-parameters: {plan.episodes} episodes of {plan.problems} "
            f"problems x {optimizee.spec.size} coordinates x {horizons} steps"
        )
        if self._out.is_terminal and not self._brief:
            with Bars(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                TimeRemainingColumn(), console=self._out,
            ) as bars:  # fmt: skip
                task = bars.add_task("episodes", total=plan.episodes)
                yield lambda progress, metrics: bars.update(
                    task, completed=_passed(plan, progress), description=_standing(progress)
                )
            return
        last = time.perf_counter()

        def line(progress: Progress, metrics: Mapping[str, float]) -> None:
            nonlocal last
            done = progress.episode >= plan.episodes or progress.stopped_early
            if done or time.perf_counter() - last >= LINE_SECONDS:
                last = time.perf_counter()
                left = progress.seconds / progress.episode * (plan.episodes - progress.episode)
                if plan.max_seconds is not None:
                    left = max(0.0, min(left, plan.max_seconds - progress.seconds))
                self._say(
                    f"  episode {progress.episode}/{plan.episodes}  {_standing(progress)}  "
                    f"{progress.seconds:.0f} s, {0 if done else left:.0f} s left"
                )

        yield line

    @contextmanager
    def evaluation(self) -> Iterator[Callable[[str], None]]:
        """Show what is being evaluated."""
        if self._out.is_terminal and not self._brief:
            with self._out.status("evaluating") as status:
                yield lambda text: status.update(f"evaluating {text}")
        else:
            yield lambda text: self._say(f"  evaluating {text}")

    def comparison(self, summary: Mapping[str, Any]) -> None:
        """Print the comparison as a table."""
        if not self._brief:
            self._say(
                f"{subject(summary)}, {summary['horizon']} steps: median loss over "
                f"{summary['n_problems']} fresh problems"
            )
            self._out.print(_table(summary))
        learned = summary["learned"]
        if "dead" in learned:
            self.warn(f"{learned['name']}: {learned['dead']}")
        if "counts" in learned:
            counted = _counted(learned["counts"], summary["n_problems"])
            self._say(f"{learned['name']}: {counted}")
        for criterion, paired in summary["paired"].items():
            if paired is not None:
                ratio = {key: _exp(value) for key, value in paired["log_ratio"].items()}
                self._say(
                    f"{criterion}: {learned['name']} / {paired['best_baseline']} (best on "
                    f"validation) = {_cell(ratio)}"
                )
        if not self._brief:
            self._say(
                f"brackets: {summary['interval']}, n = {summary['n_problems']} "
                f"(medians have one from n = 6 on, means from 30)"
            )

    def _say(self, text: str) -> None:
        """Print a line as it is, at once."""
        self._out.print(f"{self._prefix}{text}", markup=False, soft_wrap=True)


def _passed(plan: Plan, progress: Progress) -> int:
    """Episodes that a bar counts: where seconds are limited, as large a share of them."""
    share = 0.0 if plan.max_seconds is None else progress.seconds / plan.max_seconds
    return max(progress.episode, min(plan.episodes, round(share * plan.episodes)))


def _standing(progress: Progress) -> str:
    """Validation loss so far."""
    if not progress.best:
        return "no validation yet"
    return (
        f"validation loss {progress.validation:.4g}, best {progress.best_validation:.4g} "
        f"(episode {progress.best_episode})"
    )


def _table(summary: Mapping[str, Any]) -> Table:
    """Rules as rows, criteria as columns."""
    table = Table()
    table.add_column("rule")
    shown = [name for name in CRITERIA if summary["learned"][name] is not None]
    for criterion in shown:
        table.add_column(criterion, justify="right")
    has_accuracy = "held_out_accuracy" in summary["learned"]
    if has_accuracy:
        table.add_column("held-out accuracy", justify="right")
    has_minimum = "suboptimality" in summary["learned"]
    if has_minimum:
        table.add_column("above minimum", justify="right")
    for name in ("not ok", "µs/step"):
        table.add_column(name, justify="right")
    references = {f"{name} (reference)": one for name, one in summary["references"].items()}
    learned = {summary["learned"]["name"]: summary["learned"]}
    for name, one in {**learned, **summary["baselines"], **references}.items():
        cells = [_cell(one[criterion]) for criterion in shown]
        if has_accuracy:
            cells.append(f"{one['held_out_accuracy']['median']:.3f}")
        if has_minimum:
            cells.append(_cell(one["suboptimality"]))
        failed = sum(count for status, count in one["status"].items() if status != "ok")
        cells += [str(failed), f"{one['seconds_per_step'] * 1e6:.0f}"]
        table.add_row(name, *cells)
    return table


def _counted(counts: Mapping[str, Mapping[str, int]], problems: int) -> str:
    """How often something happened, and in how many problems."""
    return "; ".join(
        f"{count['total']} {name.replace('_', ' ')} in {count['problems']} of {problems} problems"
        for name, count in counts.items()
    )


def _cell(spread: Mapping[str, float]) -> str:
    """A median with its interval, where there is one."""
    text = f"{spread['median']:.3g}"
    return text if math.isnan(spread["low"]) else f"{text} {_brackets(spread)}"


def _brackets(spread: Mapping[str, float]) -> str:
    """An interval."""
    return f"[{spread['low']:.3g}, {spread['high']:.3g}]"


def _exp(value: float) -> float:
    """exp, infinite where it overflows."""
    return math.exp(value) if value < 709 or math.isnan(value) else math.inf
