"""End to end: the commands from their arguments to what lies on the disk and in the store.

Most tests call the entry point's function in this process, in a working directory of their own;
what depends on a fresh process (imports, a store that is not there yet) starts one.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from l2l_exp import checkpoint, cli
from l2l_exp.tracking.journal import Journal

pytest_plugins = ["edge_fixtures"]

SMOKE = "experiment=smoke"
TINY = (
    "optimizee=quadratic", "optimizee.dimension=2", "evaluation=smoke", "evaluation.horizon=3",
    "evaluation.problems=3", "evaluation.tuning_problems=2",
)  # fmt: skip
"""Overrides that make either command take a fraction of a second."""
SHORT = (*TINY, "training=smoke", "training.horizon=4", "training.truncation=2",
         "training.episodes=2", "training.problems=2", "optimizer.hidden_units=2")  # fmt: skip
RESULTS = {
    "summary.json", "curves.parquet", "steps.parquet", "comparison.png", "comparison.pdf",
    "checkpoint", "config.yaml",
}  # fmt: skip
"""What a run leaves in the store."""
LOCAL = {"run.json", "metrics.jsonl"}
"""What it leaves beside that in its folder."""


def visible(folder: Path) -> set[str]:
    """Names in a folder, without hidden ones."""
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def run_folders(work: Path) -> list[Path]:
    """Folders of runs, oldest first."""
    return sorted(path.parent for path in work.rglob("run.json"))


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def meta_parameters(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoint" / checkpoint.PARAMETERS)


def runs_in(work: Path) -> list:
    """The runs of the store in a working directory, as MLflow reads them."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{work}/mlflow.db")
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(ids))


def losses(node: object) -> object:
    """A summary without what is measured in seconds, and without names of runs."""
    if isinstance(node, dict):
        return {
            key: losses(value)
            for key, value in node.items()
            if "seconds" not in key and key not in ("run_id", "source", "seed")
        }
    return [losses(item) for item in node] if isinstance(node, list) else node


@pytest.fixture
def only_run(command, workplace):
    """Runs a command that must succeed, and returns its folder."""

    def run(name: str, *arguments: str) -> Path:
        before = set(run_folders(workplace))
        outcome = command(name, *arguments)
        assert outcome.code == 0, outcome.err
        (folder,) = set(run_folders(workplace)) - before
        return folder

    return run


# ------------------------------------------------------------------ a whole run


@pytest.fixture(scope="module")
def smoke_process(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    """`l2l-train experiment=smoke` as a user runs it first, in an empty directory."""
    work = tmp_path_factory.mktemp("empty")
    program = Path(sys.executable).with_name("l2l-train")
    env = os.environ | {"L2L_CACHE": str(tmp_path_factory.mktemp("cache"))}
    done = subprocess.run(
        [program, SMOKE], cwd=work, env=env, capture_output=True, text=True, timeout=200
    )
    return work, done


def test_the_first_run_leaves_everything_where_it_says(smoke_process):
    work, done = smoke_process
    assert done.returncode == 0, done.stderr
    (folder,) = run_folders(work)
    assert visible(folder) == RESULTS | LOCAL
    assert not (folder / ".resume").exists()  # what was kept to resume it is gone
    assert {path.name for path in work.iterdir()} >= {"outputs", "mlflow.db", "mlartifacts"}
    assert str(folder) in done.stdout and summary_of(folder)["run_id"] in done.stdout
    assert "mlflow ui --backend-store-uri sqlite:///mlflow.db" in done.stdout
    assert (folder / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_the_first_run_says_nothing_on_the_error_stream(smoke_process):
    assert smoke_process[1].stderr == ""


def test_the_first_run_is_a_finished_run_of_the_store(smoke_process):
    from mlflow import MlflowClient

    work, _ = smoke_process
    (folder,) = run_folders(work)
    (run,) = runs_in(work)
    assert run.info.status == "FINISHED" and run.info.run_id == summary_of(folder)["run_id"]
    assert run.data.params["optimizer.hidden_units"] == "4"
    assert run.data.params["training.truncation"] == "5"
    assert run.data.params["seed"] == "0"
    tags = run.data.tags
    assert tags["optimizee"] == "quadratic" and tags["optimizer"] == "lstm"
    assert tags["torch"] == torch.__version__ and tags["run_folder"] == str(folder)
    assert "l2l_exp.version" in tags and "cpu_count" in tags
    if (Path(cli.__file__).parent.parent / ".git").exists():
        assert len(tags["git.commit"]) == 40 and tags["git.clean"] in ("true", "false")
    metrics = run.data.metrics
    told = summary_of(folder)
    assert metrics["test.learned.final.median"] == pytest.approx(told["learned"]["final"]["median"])
    assert metrics["validation_final"] > 0 and metrics["wall_seconds"] > 0
    client = MlflowClient(f"sqlite:///{work}/mlflow.db")
    assert {a.path for a in client.list_artifacts(run.info.run_id)} == RESULTS
    steps = {m.step for m in client.get_metric_history(run.info.run_id, "meta_loss")}
    assert steps == {1, 2, 3, 4}


def test_the_first_runs_summary_counts_what_training_cost(smoke_process):
    (folder,) = run_folders(smoke_process[0])
    told = summary_of(folder)
    cost = told["cost"]
    assert cost.keys() >= {"episodes", "problems", "inner_steps", "meta_steps", "seconds"}
    assert (cost["episodes"], cost["problems"]) == (4, 4 * 2)
    assert cost["meta_steps"] == 4 * (10 // 5) and cost["inner_steps"] == 4 * 2 * 10
    assert 0 < cost["seconds"] < 200
    assert set(told["baselines"]) == {"sgd", "adam"} and told["n_problems"] == 8
    assert told["selection"]["episode"] in (2, 4)
    about = json.loads((folder / "checkpoint" / "rule.json").read_text())["about"]
    assert (about["horizon"], about["seed"]) == (10, 0)


def test_the_config_that_is_kept_is_resolved_and_whole(smoke_process):
    (folder,) = run_folders(smoke_process[0])
    kept = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    assert kept["optimizer"]["hidden_units"] == 4 and kept["optimizer"]["seed"] == 0
    assert "${" not in (folder / "config.yaml").read_text()


def test_a_run_without_a_store_stays_in_its_folder(only_run, workplace):
    folder = only_run("train", *SHORT, "tracking=none")
    assert visible(folder) == RESULTS | LOCAL
    assert [path.name for path in workplace.iterdir()] == ["outputs"]


def test_a_run_without_evaluation_is_trained_and_not_compared(only_run):
    folder = only_run("train", *SHORT, "evaluation=none", "tracking=none")
    assert visible(folder) == {"checkpoint", "config.yaml", *LOCAL}
    assert checkpoint.read_description(folder / "checkpoint")["about"]["seed"] == 0


# ------------------------------------------------------------------ evaluating


def test_a_trained_rule_is_evaluated_elsewhere_by_run_id_and_by_path(
    only_run, workplace_with_store
):
    trained = only_run("train", *SHORT)
    run_id = summary_of(trained)["run_id"]
    elsewhere = [*TINY, "optimizee.dimension=3", "evaluation.horizon=6"]
    by_id = only_run("evaluate", f"optimizer.source={run_id}", *elsewhere)
    by_path = only_run("evaluate", f"optimizer.source={trained / 'checkpoint'}", *elsewhere)
    one, two = summary_of(by_id), summary_of(by_path)
    assert losses(one) == losses(two)
    assert one["horizon"] == 6 and one["optimizer"] == "trained"
    assert one["source"] == run_id and "cost" not in one
    assert one["learned"]["final"] != summary_of(trained)["learned"]["final"]
    assert len(runs_in(workplace_with_store)) == 3
    assert {run.info.status for run in runs_in(workplace_with_store)} == {"FINISHED"}


def test_evaluating_a_trained_rule_as_training_did_gives_the_same_numbers(only_run):
    trained = only_run("train", *SHORT, "tracking=none")
    again = only_run("evaluate", f"optimizer.source={trained}", *TINY, "tracking=none")
    mine, theirs = summary_of(trained), summary_of(again)
    for key in ("learned", "baselines", "paired"):
        assert losses(mine[key]) == losses(theirs[key])


def test_a_baseline_can_take_the_place_of_the_learned_rule(only_run):
    folder = only_run("evaluate", "optimizer=adam", *TINY, "tracking=none")
    told = summary_of(folder)
    assert told["optimizer"] == "adam"
    for criterion in ("average", "final"):
        assert told["learned"][criterion] == told["baselines"]["adam"][criterion]
        assert told["comparisons"]["adam"][criterion]["log_ratio"]["median"] == 0
    names = pd.read_parquet(folder / "curves.parquet")["rule"].unique()
    assert set(names) == {"adam (evaluated)", "sgd", "adam"}


def test_a_trained_rule_is_evaluated_with_safeguards_whose_use_is_told(
    command, only_run, workplace
):
    trained = only_run("train", *SHORT, "tracking=none")
    guarded = [
        "optimizer=safeguarded", "optimizer@optimizer.rule=trained",
        f"optimizer.rule.source={trained}", "seed=3",
    ]  # fmt: skip
    off = only_run("evaluate", *guarded, *TINY, "tracking=none")
    for criterion in ("average", "final"):
        assert summary_of(off)["learned"][criterion] == summary_of(trained)["learned"][criterion]
    assert "counts" not in summary_of(off)["learned"] and summary_of(off)["seed"] == 0
    outcome = command(
        "evaluate", *guarded, *TINY, "tracking=none", "optimizer.growth=1",
        "optimizer.first_step=1e-6",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    folder = run_folders(workplace)[-1]
    count = summary_of(folder)["learned"]["counts"]["bounded_steps"]
    assert count["problems"] <= 3 <= count["total"] <= 9
    assert f"bounded steps in {count['problems']} of 3 problems" in outcome.out
    assert '"test.learned.counts.bounded_steps.total"' in (folder / "metrics.jsonl").read_text()


@pytest.mark.parametrize("wrapper", ["safeguarded", "postprocessed", "width_scaled"])
def test_a_trained_rule_is_evaluated_inside_any_wrapper(wrapper, only_run):
    trained = only_run("train", *SHORT, "tracking=none")
    wrapped = only_run(
        "evaluate", f"optimizer={wrapper}", "optimizer@optimizer.rule=trained",
        f"optimizer.rule.source={trained}", "seed=3", *TINY, "tracking=none",
    )  # fmt: skip
    assert summary_of(wrapped)["seed"] == 0  # the rule's own
    for criterion in ("average", "final"):  # by default a wrapper does nothing
        mine, theirs = (summary_of(one)["learned"][criterion] for one in (wrapped, trained))
        assert mine == theirs


def test_a_trained_rule_teaches_another(only_run):
    teacher = only_run("train", *SHORT, "tracking=none", "evaluation=none")
    before = meta_parameters(teacher)
    plain, taught = (
        only_run("train", *SHORT, "tracking=none", "evaluation=none", "seed=1", *more)
        for more in (
            [],
            ["training/imitation=trained", f"training.imitation.teacher.source={teacher}",
             "training.imitation.probability=1"],
        )
    )  # fmt: skip
    assert logged(taught)["imitation_loss"][0] > 0 and "meta_loss" not in logged(taught)
    one, other, after = map(meta_parameters, (plain, taught, teacher))
    assert not all(torch.equal(one[key], other[key]) for key in one)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_rule_is_trained_inside_its_safeguards(only_run):
    short = [key for key in SHORT if not key.startswith("optimizer.")]
    trained = only_run(
        "train", "optimizer=safeguarded", "optimizer.blow_up=2", "optimizer.rule.hidden_units=2",
        "optimizer@optimizer.fallback=sgd", "optimizer.fallback.lr=0.01", *short, "tracking=none",
    )  # fmt: skip
    again = only_run("evaluate", f"optimizer.source={trained}", *TINY, "tracking=none")
    for criterion in ("average", "final"):
        assert summary_of(again)["learned"][criterion] == summary_of(trained)["learned"][criterion]
    assert set(summary_of(again)["learned"]["counts"]) == {"undos", "fallbacks"}


def test_a_baseline_can_be_given_its_rate(only_run):
    folder = only_run("evaluate", "optimizer=sgd", "optimizer.lr=0.01", *TINY, "tracking=none")
    assert summary_of(folder)["learned"]["lr"] == {"average": 0.01, "final": 0.01}


def test_a_comparison_without_baselines_is_a_comparison(only_run):
    folder = only_run(
        "evaluate", "optimizer=adam", *TINY, "tracking=none", "~evaluation.baselines.adam",
        "~evaluation.baselines.sgd",
    )  # fmt: skip
    told = summary_of(folder)
    assert told["baselines"] == {} and set(told["paired"].values()) == {None}


def test_a_trained_rule_can_be_trained_on(only_run):
    first = only_run("train", *SHORT, "tracking=none", "evaluation=none")
    more = [override for override in SHORT if not override.startswith("optimizer.")]
    second = only_run("train", *more, "optimizer=trained", f"optimizer.source={first}",
                      "tracking=none", "evaluation=none")  # fmt: skip
    one, two = (checkpoint.read_description(f / "checkpoint") for f in (first, second))
    assert one["architecture"] == two["architecture"]
    before, after = meta_parameters(first), meta_parameters(second)
    assert not all(torch.equal(before[key], after[key]) for key in before)


# ------------------------------------------------------------------ what depends on what


def test_the_same_seed_gives_the_same_run_and_another_another(only_run):
    one, two, other = (only_run("train", *SHORT, "tracking=none", f"seed={s}") for s in (5, 5, 6))
    assert losses(summary_of(one)) == losses(summary_of(two))
    a, b, c = (meta_parameters(folder) for folder in (one, two, other))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not all(torch.equal(a[key], c[key]) for key in a)
    mine, theirs = summary_of(one), summary_of(other)
    assert mine["learned"]["final"] != theirs["learned"]["final"]
    assert losses(mine["baselines"]) == losses(theirs["baselines"])  # tests are not the meta-seed's


@pytest.mark.parametrize(
    "change",
    [
        ["evaluation=none"],
        ["evaluation.problems=5", "evaluation.horizon=7", "evaluation.seed=3"],
        ["~evaluation.baselines.sgd"],
        ["tracking=none"],
    ],
    ids=" ".join,
)
def test_evaluation_and_tracking_do_not_touch_what_is_learned(
    change, only_run, workplace_with_store
):
    plain = meta_parameters(only_run("train", *SHORT))
    changed = meta_parameters(only_run("train", *SHORT, *change))
    assert all(torch.equal(plain[key], changed[key]) for key in plain)


def test_double_precision_is_double_to_the_last(only_run):
    folder = only_run("train", *SHORT, "tracking=none", "dtype=float64")
    assert {tensor.dtype for tensor in meta_parameters(folder).values()} == {torch.float64}
    single = only_run("train", *SHORT, "tracking=none")
    one, two = summary_of(folder)["learned"]["final"], summary_of(single)["learned"]["final"]
    assert one["mean"] != two["mean"]
    assert one["mean"] == pytest.approx(two["mean"], rel=1e-3)
    again = only_run("evaluate", f"optimizer.source={folder}", *TINY, "tracking=none",
                     "dtype=float64")  # fmt: skip
    assert summary_of(again)["learned"]["final"] == one


def test_threads_are_torchs_and_are_given_back(only_run, monkeypatch):
    from l2l_exp import jobs

    plain, used = jobs.meta_train, []

    def train(*args):
        used.append(torch.get_num_threads())
        return plain(*args)

    monkeypatch.setattr(jobs, "meta_train", train)
    before = torch.get_num_threads()
    only_run("train", *SHORT, "tracking=none", "evaluation=none", f"threads={before + 1}")
    assert used == [before + 1] and torch.get_num_threads() == before


def test_a_multirun_of_impossible_values_names_each(command, workplace):
    outcome = command("train", "-m", "seed=0,1", *SHORT, "tracking=none", "training.truncation=3")
    assert outcome.code == 1
    assert "Traceback" not in outcome.err
    assert [line[:4] for line in outcome.err.splitlines()] == ["[0] ", "[1] "]
    assert all("truncation=3" in line for line in outcome.err.splitlines())
    assert "2 failed" in outcome.out


# ------------------------------------------------------------------ a user's own components

MY_MODULE = """
import torch
from torch import nn
from l2l_exp.optimizees.base import Optimizee, Problem
from l2l_exp.optimizees.seeding import draw
from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers.base import LearnedOptimizer


class Bowl(Optimizee):
    def __init__(self, size, steepness):
        super().__init__()
        self.spec = ParamSpec.of({"theta": ((size,), "free")})
        self.steepness = steepness

    def sample(self, problems, seed):
        centre = draw(seed, "centre", problems, lambda rng: rng.normal(size=self.spec.size))
        return Problem(tuple(problems), seed, {"centre": self.place(centre)})

    def init(self, problems, seed):
        return self.place(draw(seed, "init", problems, lambda rng: rng.normal(size=self.spec.size)))

    def minibatch(self, problem, step):
        return problem.data

    def loss(self, theta, data):
        return self.steepness * (theta - data["centre"]).square().sum()

    def metrics(self, theta, problem):
        return {"train_loss": self.steepness * (theta - problem.data["centre"]).square().sum(-1)}


class OneStepSize(LearnedOptimizer):
    def __init__(self, start):
        super().__init__()
        self.log_rate = nn.Parameter(torch.tensor(start).log())

    def init_state(self, theta, spec):
        return ()

    def step(self, seen, state):
        return -self.log_rate.exp() * seen.grad, state
"""


def test_components_of_a_users_own_need_a_class_and_a_yaml(only_run, workplace):
    name = "components_of_a_test_user"
    (workplace / f"{name}.py").write_text(MY_MODULE)
    for group, text in {
        "optimizee": f"_target_: {name}.Bowl\nsize: 3\nsteepness: 0.5\n",
        "optimizer": f"_target_: {name}.OneStepSize\nstart: 0.01\n",
    }.items():
        (workplace / "my_conf" / group).mkdir(parents=True)
        (workplace / "my_conf" / group / "mine.yaml").write_text(text)
    common = ["--config-dir", "my_conf", "optimizee=mine", "evaluation=smoke", "tracking=none"]
    try:
        trained = only_run(
            "train", *common, "optimizer=mine", "training=smoke", "training.episodes=20",
            "training.meta_optimizer.lr=0.2",
        )  # fmt: skip
        told = summary_of(trained)
        assert (told["optimizee"], told["optimizer"]) == ("mine", "mine")
        rate = meta_parameters(trained)["log_rate"].exp().item()
        assert 0.02 < rate < 2  # gradient is theta - centre: it must have grown from .01 towards 1
        again = only_run("evaluate", *common, f"optimizer.source={trained}")
        assert losses(summary_of(again)["learned"]) == losses(told["learned"])
    finally:
        sys.modules.pop(name, None)


# ------------------------------------------------------------------ options of training


def logged(folder: Path) -> dict[str, list[float]]:
    """Every metric of a run, in order."""
    found: dict[str, list[float]] = {}
    for entry in Journal(folder / "metrics.jsonl").entries():
        for name, value in entry.values.items():
            found.setdefault(name, []).append(value)
    return found


def test_all_options_of_training_at_once(only_run):
    short = [override for override in SHORT if not override.startswith("optimizer.")]
    folder = only_run(
        "train", *short, "evaluation=none", "tracking=none", "training.episodes=8",
        "training/scaling=random", "training/meta_optimizer=adamw", "training/imitation=adam",
        "training.imitation.probability=0.5", "training.imitation.weight=0.5",
        "training/horizons=log_uniform", "training.horizons.high=8",
        "+optimizee@training.optimizees.wide=mlp", "training.optimizees.wide.hidden_units=2",
        "optimizer=whitened", "optimizer.rule.hidden_units=2",
    )  # fmt: skip
    values = logged(folder)
    assert set(values["horizon"]) <= {2, 4, 6, 8} and len(set(values["horizon"])) > 1
    assert 0 < len(values["imitation_loss"]) < 8 == len(values["meta_loss"])
    about = json.loads((folder / "checkpoint" / "rule.json").read_text())["about"]
    assert about["horizon"] == 8


def test_training_that_has_no_time_is_one_episode_and_its_validation(only_run):
    folder = only_run(
        "train", *SHORT, "evaluation=none", "tracking=none", "training.episodes=1000000",
        "training.max_seconds=1e-9",
    )  # fmt: skip
    values = logged(folder)
    assert len(values["meta_loss"]) == len(values["validation_final"]) == 1


# ------------------------------------------------------------------ what a user gets wrong


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


BAD_INPUTS = {
    # name: (command, overrides, words that the line must hold)
    "misspelt key": (
        "train", ["training.horizn=5"], ["training.horizn", "did you mean training.horizon?"],
    ),
    "misspelt key, added": (
        "train", ["+training.horizn=5"], ["training.horizn", "did you mean training.horizon?"],
    ),
    "a key like no other, added": (
        "train", ["+evaluation.xyz=5"], ["evaluation.xyz", "tuning_problems"],
    ),
    "misspelt root key": ("train", ["sede=5"], ["sede", "did you mean seed?"]),
    "misspelt root key, added": (
        "train", ["+optimizeee.dimension=5"], ["did you mean optimizee?"],
    ),
    "misspelt group": ("train", ["experimnt=smoke"], ["did you mean experiment?"]),
    "a key that a component has not": (
        "train", ["optimizee.foo=5"], ["optimizee.foo", "+optimizee.foo=..."],
    ),
    "a component without a class": (
        "train", ["~optimizee._target_"], ["optimizee has no _target_"],
    ),
    "a study of the other command": (
        "train", ["sweeps=fig5_transfer"], ["sweeps=fig5_transfer is a study of l2l-evaluate"],
    ),
    "misspelt component key": ("train", ["+optimizer.hiden_units=5"], ["hiden_units"]),
    "misspelt baseline key": (
        "train", ["+evaluation.baselines.adam.betaz=5"], ["betaz", "adam"],
    ),
    "misspelt meta-optimizer key": (
        "train", ["+training.meta_optimizer.lrr=5"], ["lrr", "meta_optimizer"],
    ),
    "unknown option": ("train", ["optimizee=cubic"], ["cubic", "quadratic"]),
    "unknown preset": ("train", ["sweeps=sedes"], ["sedes", "seeds"]),
    "unknown experiment": ("train", ["experiment=fast"], ["fast", "smoke"]),
    "not an override": ("train", ["seed"], ["seed"]),
    "wrong type": ("train", ["training.episodes=many"], ["training.episodes", "many"]),
    "wrong type of a component": ("train", ["optimizer.layers=two"], ["optimizer", "two"]),
    "fractional hidden units": ("train", ["optimizer.hidden_units=2.5"], ["hidden_units", "2.5"]),
    "zero hidden units": ("train", ["optimizer.hidden_units=0"], ["hidden_units=0"]),
    "negative layers": ("train", ["optimizer.layers=-1"], ["layers=-1"]),
    "zero dimension": ("train", ["optimizee.dimension=0"], ["dimension=0"]),
    "zero horizon": ("train", ["training.horizon=0"], ["training.horizon=0"]),
    "zero problems": ("train", ["training.problems=0"], ["training.problems=0"]),
    "negative episodes": ("train", ["training.episodes=-3"], ["training.episodes=-3"]),
    "zero clip": ("train", ["training.clip=0"], ["training.clip=0"]),
    "zero threads": ("train", ["threads=0"], ["threads=0"]),
    "zero evaluation problems": ("train", ["evaluation.problems=0"], ["evaluation.problems=0"]),
    "negative evaluation horizon": (
        "evaluate", ["optimizer=adam", "evaluation.horizon=-1"], ["evaluation.horizon=-1"],
    ),
    "negative learning rate": ("evaluate", ["optimizer=adam", "optimizer.lr=-1"], ["lr=-1"]),
    "learning rate in words": ("evaluate", ["optimizer=adam", "optimizer.lr=big"], ["lr='big'"]),
    "impossible search range": (
        "train", ["evaluation.baselines.sgd.search=[1,0.1]"], ["search", "0.1"],
    ),
    "negative meta-learning rate": (
        "train", ["training.meta_optimizer.lr=-1"], ["meta_optimizer", "-1"],
    ),
    "impossible betas of a baseline": (
        "train", ["evaluation.baselines.adam.betas=[2,0.9]"], ["adam", "2"],
    ),
    "truncation that does not divide": (
        "train", ["training.truncation=3"], ["truncation=3", "horizon=4"],
    ),
    "unknown activation": (
        "train", ["optimizee=mlp", "~optimizee.dimension", "optimizee.activation=swoosh"],
        ["swoosh", "sigmoid"],
    ),
    "unknown distribution": ("train", ["optimizee.distribution=cauchy"], ["cauchy", "gaussian"]),
    "bad dtype": ("train", ["dtype=float8"], ["float8", "float64"]),
    "unknown device": ("train", ["device=abacus"], ["device=abacus"]),
    "absent device": ("train", ["device=cuda:99"], ["device=cuda:99"]),
    "device without numbers": ("train", ["device=meta"], ["device=meta"]),
    "missing data set": (
        "train",
        ["optimizee=mlp", "~optimizee.dimension", "data=mnist", "data.download=false",
         "data.root=no_data"],
        ["MNIST", "no_data"],
    ),
    "too many classes": (
        "train", ["optimizee=mlp", "~optimizee.dimension", "data.classes=11"], ["11", "10"],
    ),
    "images too small": (
        "train", ["optimizee=conv", "~optimizee.dimension", "data=digits", "optimizee.layers=4"],
        ["layers=4", "8x8"],
    ),
    "unknown search": ("train", ["evaluation.tuning_search=fine"], ["fine", "coarse_to_fine"]),
    "unknown data set": (
        "train",
        ["optimizee=mlp", "~optimizee.dimension", "data=mnist", "data.download=false",
         "data.name=EMNISTT"],
        ["EMNISTT"],
    ),
    "closed port": ("train", ["tracking.uri=http://127.0.0.1:{port}"], ["{port}", "no server"]),
    "store that is none": ("train", ["tracking.uri=./mlruns"], ["mlruns"]),
    "no store named": ("train", ["tracking.uri=null"], ["tracking.uri"]),
    "no experiment named": ("train", ["tracking.experiment=null"], ["tracking.experiment"]),
    "no source": ("evaluate", [], ["optimizer.source"]),
    "run id without a store": (
        "evaluate", ["optimizer.source=0123abc"], ["mlflow.db", "does not exist", "tracking.uri"],
    ),
    "unknown run id without a store": (
        "evaluate", ["optimizer.source=0123abc", "tracking=none"], ["0123abc"],
    ),
    "a model without a store": (
        "evaluate", ["optimizer.source=models:/mine@champion", "tracking=none"],
        ["models:/mine@champion", "tracking=none has no store"],
    ),
    "rules of a study that was not run": (
        "evaluate", ["optimizer.source=fig4_mlp"], ["first l2l-train sweeps=fig4_mlp"],
    ),
    "rules of a study that was not run, in a multirun": (
        "evaluate", ["-m", "optimizer.source=robust,fig4_mlp"],
        ["first l2l-train sweeps=fig4_mlp"],
    ),
    "missing checkpoint at an absolute path": (
        "evaluate", ["optimizer.source=/gone/checkpoint"], ["/gone/checkpoint"],
    ),
    "missing checkpoint": ("evaluate", ["optimizer.source=./gone/checkpoint"], ["./gone"]),
    "folder without a checkpoint": ("evaluate", ["optimizer.source=."], ["rule.json"]),
    "final weights over windows": (
        "train", ["training/weights=final", "training.weights.within=horizon"],
        ["truncation", "horizon"],
    ),
    "unknown window of the weights": (
        "train", ["training/weights=final", "training.weights.within=day"], ["day", "window"],
    ),
    "a stage that the truncation does not divide": (
        "train",
        ["training/horizons=stages", "training.horizons.stages=[{{horizon:5,episodes:1}}]"],
        ["truncation=2", "5"],
    ),
    "a stage without episodes": (
        "train", ["training/horizons=stages", "training.horizons.stages=[{{horizon:4}}]"],
        ["training.horizons", "episodes"],
    ),
    "a range of horizons that is empty": (
        "train", ["training/horizons=log_uniform", "training.horizons.low=8"],
        ["training.horizons", "low=8", "high=4"],
    ),
    "horizons that shrink": (
        "train", ["training/horizons=growing", "training.horizons.horizons=[8,4]"],
        ["training.horizons", "[8, 4]"],
    ),
    "horizons that are no whole numbers": (
        "train", ["training/horizons=growing", "training.horizons.horizons=[4,1e3]"],
        ["training.horizons", "1000.0", "whole number"],
    ),
    "a fractional number of pairs": (
        "train", ["training/gradient=es", "training.gradient.pairs=16.0"],
        ["training.gradient", "pairs=16.0"],
    ),
    "patience before horizons grow": (
        "train", ["training/horizons=growing", "training.patience=3"],
        ["training.patience=3", "training.horizons.patience=3"],
    ),
    "zero validation horizon": (
        "train", ["training.validation_horizon=0"], ["training.validation_horizon=0"],
    ),
    "a teacher that is still to be tuned": (
        "train", ["training/imitation=adam", "training.imitation.teacher.lr=tuned"],
        ["training.imitation", "teacher.lr=tuned"],
    ),
    "imitation in more than every episode": (
        "train", ["training/imitation=adam", "training.imitation.probability=2"],
        ["training.imitation", "probability=2"],
    ),
    "a subset of coordinates that are coupled": (
        "train", ["optimizer=gac", "training.gradient.subset=3"], ["subset=3", "problem"],
    ),
    "a subset of coordinates that are coupled, in every particle": (
        "train",
        ["optimizer=mlp", "training/gradient=merged", "+training.gradient.gradient.subset=2"],
        ["subset=2", "tensor"],
    ),
    "a trained teacher from nowhere": (
        "train", ["training/imitation=trained"], ["training.imitation.teacher", "source"],
    ),
    "imitation on a subset of coordinates that are coupled": (
        "train", ["optimizer=gac", "training/imitation=adam", "training.imitation.subset=3"],
        ["subset=3", "problem"],
    ),
    "no seconds": ("train", ["training.max_seconds=0"], ["training.max_seconds=0"]),
    "a weight of an optimizee that is not there": (
        "train", ["+training.optimizee_weights.wide=1"], ["training.optimizee_weights", "wide"],
    ),
    "an optimizee that is none": (
        "train", ["+training.optimizees.wide=3"], ["training.optimizees.wide"],
    ),
    "no ridge": ("train", ["optimizer=whitened", "optimizer.ridge=0"], ["ridge=0", "> 0"]),
    "a nominal term of no name": (
        "train", ["optimizer=star", "optimizer.nominal=sgd"], ["nominal='sgd'", "momentum"],
    ),
    "a width of nothing": (
        "train", ["optimizer=width_scaled", "optimizer.base=0"], ["base=0"],
    ),
    "a baseline that is still to be tuned, postprocessed": (
        "evaluate", ["optimizer=postprocessed", "optimizer@optimizer.rule=adam"],
        ["optimizer: ", "rule.lr=tuned"],
    ),
    "steps that are counted on, scaled by width": (
        "evaluate",
        ["optimizer=width_scaled", "optimizer@optimizer.rule=ntm_bfgs",
         "optimizer/controller@optimizer.rule.controller=by_hand",
         "optimizer.rule.learn_initial_memory=false"],
        ["BFGSByHand", "its own steps"],
    ),
    "scaling of unknown units": (
        "train", ["training/scaling=random", "training.scaling.per=layer"],
        ["training.scaling", "layer", "coordinate"],
    ),
    "scaling by nothing": (
        "train", ["training/scaling=random", "training.scaling.scale=0"],
        ["training.scaling", "scale=0"],
    ),
    "misspelt scaling key": (
        "train", ["training/scaling=random", "+training.scaling.pre=tensor"],
        ["training.scaling", "pre"],
    ),
    "a baseline to train": ("train", ["optimizer=adam"], ["adam", "l2l-evaluate"]),
    "unknown class": ("train", ["optimizer._target_=nowhere.Rule"], ["nowhere"]),
    "class of another kind": (
        "train", ["optimizee._target_=torch.nn.Identity"], ["optimizee", "Identity"],
    ),
    "rule of another kind": (
        "train", ["optimizer._target_=torch.nn.Identity"], ["optimizer", "Identity"],
    ),
    "a learned rule among the baselines": (
        "train", ["+optimizer@evaluation.baselines.other=lstm"], ["evaluation.baselines.other"],
    ),
    "a baseline called learned": (
        "train", ["+optimizer@evaluation.baselines.learned=sgd"], ["evaluation.baselines.learned"],
    ),
}  # fmt: skip


def arguments_of(name: str) -> tuple[str, list[str], list[str]]:
    """Command, arguments and expected words of a bad input."""
    which, overrides, words = BAD_INPUTS[name]
    base = list(SHORT if which == "train" else TINY)
    if any(override.startswith("optimizer=") for override in overrides) and which == "train":
        base = [override for override in base if not override.startswith("optimizer.")]
    if "~optimizee.dimension" in overrides:
        base = [override for override in base if not override.startswith("optimizee")]
    port = str(closed_port())
    overrides = [o.format(port=port) for o in overrides if o != "~optimizee.dimension"]
    return which, [*base, *overrides], [word.format(port=port) for word in words]


def test_the_table_of_bad_inputs_is_made_of_good_ones(only_run, workplace_with_store):
    """What they share works, so that each fails by what its name says."""
    only_run("train", *SHORT, "evaluation=none", "tracking=none")


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_a_bad_input_is_one_line_and_leaves_nothing(name, command, workplace):
    which, arguments, words = arguments_of(name)
    outcome = command(which, *arguments)
    assert outcome.code == cli.USER_ERROR == 2
    lines = outcome.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"l2l-{which}: "), outcome.err
    assert "Traceback" not in outcome.err + outcome.out
    for word in words:
        assert word in lines[0]
    assert list(workplace.iterdir()) == []


def test_a_yaml_that_is_none_is_one_line_with_its_place(command, workplace):
    folder = workplace / "my_conf" / "optimizee"
    folder.mkdir(parents=True)
    (folder / "broken.yaml").write_text("_target_: mine\nmodule: {_target_: mine.Net\nloss: 3\n")
    outcome = command("train", "--config-dir", "my_conf", "optimizee=broken")
    (line,) = outcome.err.splitlines()
    assert outcome.code == 2 and "broken.yaml" in line and "line 3" in line


def test_a_key_of_ones_own_may_stand_at_the_root_for_others_to_refer_to(only_run, workplace):
    made = only_run("train", *SHORT, "evaluation=none", "tracking=none", "+width=3")
    assert made is not None


@pytest.mark.parametrize("folder", ["run", "a/b/run"])
def test_a_refused_command_leaves_the_working_directory_where_it_is(folder, workplace, command):
    outcome = command("train", "experiment=smoke", "dtype=float8", f"hydra.run.dir={folder}")
    assert outcome.code == 2 and workplace.is_dir() and list(workplace.iterdir()) == []


@pytest.fixture
def broken_checkpoint(only_run, request) -> Path:
    """A checkpoint folder, spoilt in one way."""
    folder = only_run("train", *SHORT, "evaluation=none", "tracking=none") / "checkpoint"
    rule, parameters = folder / checkpoint.DESCRIPTION, folder / checkpoint.PARAMETERS
    match request.param:
        case "truncated":
            parameters.write_bytes(parameters.read_bytes()[:200])
        case "foreign parameters":
            parameters.write_bytes(b"PK not a checkpoint of ours")
        case "foreign description":
            rule.write_text("[1, 2]")
        case "without parameters":
            parameters.unlink()
        case "of a newer format":
            rule.write_text(rule.read_text().replace('"format_version": 1', '"format_version": 9'))
        case "of another size":
            rule.write_text(rule.read_text().replace('"hidden_units": 2', '"hidden_units": 3'))
        case "that calls something else":
            target = "l2l_exp.optimizers.lstm.CoordinatewiseLSTM"
            rule.write_text(rule.read_text().replace(target, "os.system"))
    return folder


@pytest.mark.parametrize(
    ("broken_checkpoint", "word"),
    [
        ("truncated", "truncated"),
        ("foreign parameters", "foreign"),
        ("foreign description", "rule.json"),
        ("without parameters", "rule.safetensors"),
        ("of a newer format", "newer"),
        ("of another size", "does not fit"),
        ("that calls something else", "os.system"),
    ],
    indirect=["broken_checkpoint"],
)
def test_a_broken_checkpoint_is_one_line(broken_checkpoint, word, command, workplace):
    outcome = command("evaluate", f"optimizer.source={broken_checkpoint}", *TINY)
    assert outcome.code == 2 and len(outcome.err.splitlines()) == 1
    assert word in outcome.err and str(broken_checkpoint) in outcome.err
    assert not (workplace / "mlflow.db").exists()


@pytest.mark.parametrize("place", ["hydra.run.dir=/dev/null/run", "hydra.run.dir=/proc/run"])
def test_a_folder_that_cannot_be_made_is_one_line(place, command):
    outcome = command("train", *SHORT, "tracking=none", place)
    assert outcome.code == 2 and len(outcome.err.splitlines()) == 1
    assert place.removeprefix("hydra.run.dir=") in outcome.err


def test_a_full_disk_is_one_line_and_the_run_goes_on_once_there_is_room(
    command, workplace_with_store, monkeypatch
):
    import errno

    from l2l_exp import checkpoint, state

    monkeypatch.setattr(state, "SECONDS_BETWEEN", 0.0)

    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_text", full)
        outcome = command("train", *SHORT)
    assert outcome.code == 2 and len(outcome.err.splitlines()) == 1
    assert "No space left on device" in outcome.err and "rule.json" in outcome.err
    assert [run.info.status for run in runs_in(workplace_with_store)] == ["FAILED"]
    (folder,) = run_folders(workplace_with_store)
    assert command("train", f"resume={folder}").code == 0
    assert [run.info.status for run in runs_in(workplace_with_store)] == ["FINISHED"]
    assert visible(folder) >= RESULTS


def test_an_unknown_run_id_of_a_store_that_exists_is_named(command, workplace_with_store):
    outcome = command("evaluate", "optimizer.source=0123abc", *TINY)
    assert outcome.code == 2 and "no run '0123abc'" in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert runs_in(workplace_with_store) == []


def test_meta_training_that_cannot_go_on_is_a_failed_run(command, workplace_with_store):
    """An output scale that throws theta to infinity at once."""
    outcome = command(
        "train", *SHORT, "optimizer.output_scale=1e30", "optimizer.readout_std=1e8",
        "training.max_skipped=1",
    )  # fmt: skip
    assert outcome.code == 2
    assert "not finite" in outcome.err and len(outcome.err.splitlines()) == 1
    assert [run.info.status for run in runs_in(workplace_with_store)] == ["FAILED"]


def test_an_interrupted_run_is_killed_and_says_so(command, workplace_with_store, monkeypatch):
    from l2l_exp import jobs

    def interrupt(*args, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs, "meta_train", interrupt)
    outcome = command("train", *SHORT)
    assert outcome.code == 130 and outcome.err.strip() == "l2l-train: interrupted"
    assert [run.info.status for run in runs_in(workplace_with_store)] == ["KILLED"]


def test_a_bug_is_not_dressed_as_a_users_mistake(command, workplace_with_store, monkeypatch):
    from l2l_exp import jobs

    def fail(*args, **settings):
        raise AttributeError("a bug")

    monkeypatch.setattr(jobs, "meta_train", fail)
    with pytest.raises(AttributeError, match="a bug"):
        command("train", *SHORT)
    assert [run.info.status for run in runs_in(workplace_with_store)] == ["FAILED"]


@pytest.mark.parametrize("override", ["optimizee.dimension=0", "optimizee=cubic", "seed=x"])
def test_debug_shows_the_traceback_too(override, command):
    for arguments in ([*SHORT, override, "--debug"], ["--debug", *SHORT, override]):
        outcome = command("train", *arguments)
        assert outcome.code == 2 and "Traceback (most recent call last)" in outcome.err
        assert outcome.err.splitlines()[-1].startswith("l2l-train: ")


def test_an_error_in_a_users_own_rule_is_not_called_a_mistake_in_the_config(
    command, workplace, monkeypatch
):
    """It comes with its place: a ValueError from within the work is no wrong value of a key."""
    from l2l_exp.optimizers.lstm import CoordinatewiseLSTM

    def step(self, seen, state):
        return int("abc")

    monkeypatch.setattr(CoordinatewiseLSTM, "step", step)
    with pytest.raises(ValueError, match="abc"):
        command("train", *SHORT, "tracking=none")
    (folder,) = run_folders(workplace)
    assert 'int("abc")' in (folder / "traceback.txt").read_text()


# ------------------------------------------------------------------ help

HELP = """
import json, sys
from l2l_exp import cli
sys.argv = ["l2l-train", "--help"]
try:
    code = cli._command("train")
except SystemExit as leaving:
    code = leaving.code or 0
sys.stdout.flush()
heavy = sorted({name.split(".")[0] for name in sys.modules} & set(HEAVY))
print(json.dumps({"code": code, "heavy": heavy}), file=sys.stderr)
"""
HEAVY = ["torch", "mlflow", "pandas", "matplotlib", "scipy", "sklearn", "numpy"]


def test_help_answers_at_once_with_examples_and_every_group(workplace):
    done = subprocess.run(
        [sys.executable, "-c", HELP.replace("HEAVY", repr(HEAVY))],
        capture_output=True, text=True, timeout=60, cwd=workplace,
    )  # fmt: skip
    told = json.loads(done.stderr.splitlines()[-1])
    assert (done.returncode, told["code"]) == (0, 0)
    assert not set(told["heavy"]) & {"torch", "mlflow"}
    assert told["heavy"] == []
    for wanted in ("Examples", "l2l-train experiment=smoke", "optimizee:", "l2l-evaluate",
                   "--debug"):  # fmt: skip
        assert wanted in done.stdout
    assert list(workplace.iterdir()) == []


def test_the_examples_of_help_name_what_exists():
    from l2l_exp.config import shipped

    text = (shipped("conf") / "hydra" / "help" / "l2l.yaml").read_text()
    for group in ("experiment", "optimizee", "optimizer"):
        for line in text.splitlines():
            if "--config-dir" in line:
                continue
            for word in line.split():
                if word.startswith(f"{group}="):
                    option = word.split("=")[1]
                    assert (shipped("conf") / group / f"{option}.yaml").is_file(), word


def test_the_config_can_be_shown_without_running_it(command, workplace):
    outcome = command("train", *SHORT, "--cfg", "job", "--resolve")
    assert outcome.code == 0
    shown = OmegaConf.create(outcome.out)
    assert shown.training.horizon == 4 and shown.optimizer.hidden_units == 2
    assert list(workplace.iterdir()) == []


def test_options_may_stand_anywhere_among_overrides(command):
    mixed = command("train", "seed=3", "--cfg", "job", *SHORT, "--resolve", "dtype=float64")
    ordered = command("train", "--cfg", "job", "--resolve", "seed=3", *SHORT, "dtype=float64")
    assert mixed.code == ordered.code == 0
    assert mixed.out == ordered.out and "dtype: float64" in mixed.out


def test_losses_of_the_table_agree_with_the_summary(only_run):
    """The two files that scripts read tell the same."""
    folder = only_run("train", *SHORT, "tracking=none")
    table, told = pd.read_parquet(folder / "curves.parquet"), summary_of(folder)
    last = table[(table["step"] == told["horizon"]) & (table["kind"] == "learned")]
    assert told["learned"]["final"]["median"] == pytest.approx(
        float(np.median(last["train_loss"])), rel=1e-6
    )
    assert set(table["run_id"]) == {told["run_id"]}
