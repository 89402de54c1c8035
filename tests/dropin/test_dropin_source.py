"""Where a rule is loaded from, and what is refused when it is put to work."""

import copy
import math
import re

import pytest
import torch
from conftest import Scripted, lstm_beside
from torch import nn

import l2l_exp
from l2l_exp import checkpoint
from l2l_exp.checkpoint import CheckpointError
from l2l_exp.dropin import LearnedTorchOptimizer
from l2l_exp.dropin.load import find
from l2l_exp.optimizees.spec import layout
from l2l_exp.optimizers.baseline import Baseline
from l2l_exp.optimizers.gac import GAC
from l2l_exp.optimizers.lstm import CoordinatewiseLSTM
from l2l_exp.optimizers.partitioned import Partitioned
from l2l_exp.optimizers.postprocess import Postprocessed
from l2l_exp.optimizers.safeguard import Safeguarded
from l2l_exp.optimizers.width import WidthScaled
from l2l_exp.tracking import MlflowTracker, TrackingError

pytest_plugins = ["edge_fixtures"]

LSTM = "l2l_exp.optimizers.lstm.CoordinatewiseLSTM"


def described(seed=0) -> CoordinatewiseLSTM:
    settings = {"hidden_units": 2, "layers": 1, "seed": seed, "readout_std": 0.5}
    rule = CoordinatewiseLSTM(**settings)
    rule.architecture = {"_target_": LSTM, **settings}
    return rule


def scripted(gain=1.0) -> Scripted:
    """theta - gain * gradient: on half the square every step multiplies theta by 1 - gain."""
    return Scripted(lambda seen: -seen.grad, gain)


def weight(*values, **settings) -> nn.Parameter:
    parameter = nn.Parameter(torch.tensor(values or (1.0, 2.0), dtype=torch.float64), **settings)
    parameter.grad = torch.ones_like(parameter)
    return parameter


def is_rule(rule, seed):
    return torch.equal(rule.readout, described(seed).readout)


# ------------------------------------------------------------------ sources


def test_a_rule_is_found_by_folder_file_run_and_multirun(tmp_path):
    for seed in (0, 1):
        run = tmp_path / str(seed)
        checkpoint.save(run / "checkpoint", described(seed), {"seed": seed})
        for source in (run, str(run), run / "checkpoint", run / "checkpoint" / "rule.json"):
            assert is_rule(find(source), seed)
        assert is_rule(find(tmp_path, seed), seed)
        assert is_rule(find(run / "checkpoint" / "rule.safetensors"), seed)
        assert is_rule(l2l_exp.load_optimizer(tmp_path, [weight()], seed=seed).rule, seed)
    with pytest.raises(CheckpointError, match=r"meta-seed None \(it has those of 0, 1\)"):
        find(tmp_path)


def test_a_path_from_home_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    checkpoint.save(tmp_path / "mine", described(3), {})
    assert is_rule(find("~/mine"), 3)


@pytest.mark.parametrize("source", ["nowhere", "runs", "models/x", ""])
def test_a_source_that_is_none_is_refused(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=re.escape(f"source={source!r}")):
        find(source)


def test_runs_and_registered_models_are_found_in_the_store(store, tmp_path, monkeypatch):
    from mlflow import MlflowClient

    tracker = MlflowTracker(tmp_path / "run", store, "study")
    tracker.checkpoint(described(5), {"seed": 5})
    assert tracker.finish("FINISHED")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    assert is_rule(find(f"runs:/{tracker.run_id}"), 5)
    assert is_rule(find(f"runs:/{tracker.run_id}/checkpoint"), 5)
    client = MlflowClient(store)
    client.create_registered_model("best")
    source = f"{client.get_run(tracker.run_id).info.artifact_uri}/checkpoint"
    client.create_model_version("best", source, run_id=tracker.run_id)
    client.set_registered_model_alias("best", "champion", "1")
    assert is_rule(find("models:/best@champion"), 5)
    assert is_rule(find("models:/best/1"), 5)
    for missing in ("runs:/no_such", "models:/worst@champion", "models:/best@other"):
        with pytest.raises(TrackingError, match=missing.rpartition("@")[2].removeprefix("runs:/")):
            find(missing)


def test_the_package_offers_nothing_else():
    with pytest.raises(AttributeError, match="no attribute 'load_optimiser'"):
        l2l_exp.load_optimiser  # noqa: B018


# ------------------------------------------------------------------ the step in closed form


def test_the_step_is_lr_times_update_less_decay():
    one, other = weight(1.0, -2.0), weight(3.0)
    groups = [{"params": [one]}, {"params": [other], "lr": 2.0, "weight_decay": 0.25}]
    optimizer = LearnedTorchOptimizer(groups, scripted(0.1), lr=0.5)
    optimizer.step()
    torch.testing.assert_close(one.detach(), torch.tensor([0.95, -2.05]).double())
    torch.testing.assert_close(other.detach(), torch.tensor([3 + 2 * (-0.1 - 0.25 * 3)]).double())


def test_maximize_ascends_and_the_rule_sees_the_negative_loss():
    seen = []
    parameter = weight(1.0, 1.0)
    rule = Scripted(lambda its: seen.append(its) or -its.grad)
    optimizer = LearnedTorchOptimizer([parameter], rule, maximize=True)
    optimizer.step(loss=3.0)
    assert parameter.tolist() == [2.0, 2.0] and seen[0].loss.tolist() == [-3.0, -3.0]
    other = weight(1.0)
    optimizer.add_param_group({"params": [other], "maximize": False})
    optimizer.step(loss=3.0)
    assert other.tolist() == [0.0] and all(its.loss.isnan().all() for its in seen[1:])


def test_steps_and_horizon_are_told():
    seen = []
    rule = Scripted(lambda its: seen.append((its.step, its.horizon)) or -its.grad)
    optimizer = LearnedTorchOptimizer([weight()], rule, horizon=7)
    for _ in range(3):
        optimizer.step()
    assert seen == [(0, 7), (1, 7), (2, 7)]


def test_a_rule_that_moves_nothing_beyond_the_horizon_says_so_once():
    fading = Scripted(lambda its: -its.grad * (its.step < its.horizon))
    optimizer = LearnedTorchOptimizer([weight()], fading, horizon=2)
    optimizer.step()
    optimizer.step()
    with pytest.warns(UserWarning, match="step 3 is beyond horizon=2") as told:
        optimizer.step()
    assert told[0].filename == __file__
    optimizer.step()
    going_on = LearnedTorchOptimizer([weight()], scripted(), horizon=1)
    for _ in range(3):
        going_on.step()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_step_with_a_gradient_that_is_not_finite_is_skipped_and_counted(bad):
    one, other = weight(), weight()
    optimizer = LearnedTorchOptimizer([one, other], described())
    optimizer.step()
    kept = [one.clone(), other.clone(), optimizer._problems[0].steps]
    other.grad[1] = bad
    assert optimizer.step(lambda: 3.0) == 3.0
    assert optimizer.skipped_steps == 1
    assert torch.equal(one, kept[0]) and torch.equal(other, kept[1])
    assert optimizer._problems[0].steps == kept[2]
    other.grad[1] = 1.0
    optimizer.step()
    assert optimizer.skipped_steps == 1 and not torch.equal(one, kept[0])


def test_a_safeguard_deals_with_such_a_gradient_itself():
    parameter = weight(1.0, 2.0)
    optimizer = LearnedTorchOptimizer([parameter], Safeguarded(scripted(0.5), blow_up=2.0))
    optimizer.step(loss=1.0)
    assert parameter.tolist() == [0.5, 1.5]
    parameter.grad[0] = math.nan
    optimizer.step(loss=math.nan)
    assert parameter.tolist() == [1.0, 2.0]
    assert optimizer.skipped_steps == 0 and optimizer.counts() == {"undos": 1}


# ------------------------------------------------------------------ layout


class Seen(Scripted):
    """Keeps what it was shown."""

    def __init__(self, coupling):
        super().__init__(lambda its: its.grad)
        self.coupling = coupling
        self.specs = ()

    def step(self, seen, state):
        Seen.shown = seen
        return super().step(seen, state)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 2), nn.GroupNorm(1, 2), nn.Flatten(), nn.Linear(8, 3))


@pytest.mark.parametrize("as_params", [lambda m: m, lambda m: m.named_parameters()])
def test_a_rule_is_told_names_shapes_and_kinds(as_params):
    module = network()
    optimizer = LearnedTorchOptimizer(as_params(module), Seen("problem"))
    module(torch.ones(1, 1, 3, 3)).sum().backward()
    optimizer.step()
    assert Seen.shown.spec == layout(module)
    assert Seen.shown.grad.shape == Seen.shown.theta.shape == (1, layout(module).size)


def test_kinds_of_a_group_come_before_what_ranks_suggest():
    groups = [{"params": [weight()], "kinds": ["norm"]}, {"params": [weight()]}]
    LearnedTorchOptimizer(groups, Seen("problem")).step()
    assert [(t.name, t.kind) for t in Seen.shown.spec.tensors] == [("0", "norm"), ("1", "free")]


def test_frozen_parameters_stay_out_of_the_layout_until_they_have_a_gradient():
    module = network()
    module[0].requires_grad_(False)
    optimizer = LearnedTorchOptimizer(module, Seen("problem"))
    module(torch.ones(1, 1, 3, 3)).sum().backward()
    optimizer.step()
    assert Seen.shown.spec == layout(module)
    module[0].requires_grad_(True)
    module(torch.ones(1, 1, 3, 3)).sum().backward()
    optimizer.step()
    assert Seen.shown.spec == layout(module) and Seen.shown.step == 0


@pytest.mark.parametrize(
    ("rule", "steps"),
    [
        (described(), [2, 1]),
        (GAC(2, 1, 1), [1]),
        (WidthScaled(described()), [1]),
    ],
)
def test_parameters_of_a_group_added_later_begin_by_themselves_or_all_anew(rule, steps):
    optimizer = LearnedTorchOptimizer([weight()], rule)
    optimizer.step()
    optimizer.add_param_group({"params": [weight()]})
    optimizer.step()
    assert [problem.steps for problem in optimizer._problems] == steps


def test_a_problem_that_had_no_gradient_yet_has_counted_nothing():
    later = nn.Parameter(torch.zeros(2))  # of the other precision: a problem of its own
    rule = Partitioned({"all": {"rule": described()}})
    optimizer = LearnedTorchOptimizer([weight(), later], rule)
    optimizer.step()
    assert [problem.steps for problem in optimizer._problems] == [1, 0]
    assert optimizer.counts() == {}
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    later.grad = torch.ones_like(later)
    optimizer.step()
    assert [problem.steps for problem in optimizer._problems] == [2, 1]


def test_parameters_of_both_precisions_are_problems_of_their_own_or_one_in_the_higher():
    for rule, dtypes in ((described(), [torch.float64, torch.float32]), (GAC(2, 1, 1), [None])):
        single = nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))
        single.grad = torch.ones_like(single)
        optimizer = LearnedTorchOptimizer([weight(), single], rule)
        optimizer.step()
        places = [problem.place[1] for problem in optimizer._problems]
        assert places == [dtype or torch.float64 for dtype in dtypes]


# ------------------------------------------------------------------ refusals


def judging():
    return Safeguarded(described(), blow_up=2.0)


def decaying():
    return Postprocessed(described(), decay="linear")


REFUSALS = {
    "lr": (lambda: LearnedTorchOptimizer([weight()], scripted(), -0.1), "lr=-0.1 must be"),
    "lr nan": (lambda: LearnedTorchOptimizer([weight()], scripted(), math.nan), "lr=nan must be"),
    "weight_decay": (
        lambda: LearnedTorchOptimizer([weight()], scripted(), weight_decay=-1.0),
        "weight_decay=-1.0 must be a number >= 0",
    ),
    "horizon": (
        lambda: LearnedTorchOptimizer([weight()], scripted(), horizon=0),
        "horizon=0 must be a whole number >= 1",
    ),
    "a horizon that is none": (
        lambda: LearnedTorchOptimizer([weight()], scripted(), horizon=True),
        "horizon=True must be a whole number >= 1",
    ),
    "lr in words": (
        lambda: LearnedTorchOptimizer([weight()], scripted(), "0.1"), "lr='0.1' must be a number",
    ),
    "a module without parameters": (
        lambda: LearnedTorchOptimizer(torch.nn.ReLU(), scripted()), "ReLU has no parameters",
    ),
    "a loss in the closure's place": (
        lambda: LearnedTorchOptimizer([weight()], scripted()).step(torch.ones(())),
        "a loss goes in by its name",
    ),
    "half a horizon": (
        lambda: LearnedTorchOptimizer([weight()], scripted(), horizon=1.5),
        "horizon=1.5 must be",
    ),
    "a group's lr": (
        lambda: LearnedTorchOptimizer([{"params": [weight()], "lr": -1}], scripted()),
        "lr=-1 must be",
    ),
    "complex": (
        lambda: LearnedTorchOptimizer([torch.zeros(2, dtype=torch.complex64)], scripted()),
        "parameter 0 is torch.complex64, and must be real",
    ),
    "integers": (
        lambda: LearnedTorchOptimizer([("steps", torch.zeros(2).int())], scripted()),
        "parameter steps is torch.int32, and must be real",
    ),
    "names": (
        lambda: LearnedTorchOptimizer([("a", weight()), ("a", weight())], scripted()),
        "parameter a comes twice",
    ),
    "kinds": (
        lambda: LearnedTorchOptimizer([{"params": [weight()], "kinds": ["dense"]}], scripted()),
        "'dense' is not one of fc, conv",
    ),
    "too few kinds": (
        lambda: LearnedTorchOptimizer([{"params": [weight()], "kinds": []}], scripted()),
        r"kinds=\[\] must be as many as the group's 1 params",
    ),
    "parameters without names": (
        lambda: LearnedTorchOptimizer([weight()], lstm_beside(described())),
        "part 'biases' is chosen by kind or name: .*named_parameters",
    ),
    "an untuned baseline": (
        lambda: LearnedTorchOptimizer([weight()], Baseline(torch.optim.SGD)),
        "rule.lr=tuned must be one number",
    ),
    "closure and loss": (
        lambda: LearnedTorchOptimizer([weight()], scripted()).step(lambda: 1.0, loss=1.0),
        "closure and loss are both given",
    ),
    "several losses": (
        lambda: LearnedTorchOptimizer([weight()], scripted()).step(loss=torch.ones(2)),
        "must be one number",
    ),
    "no loss": (
        lambda: LearnedTorchOptimizer([weight()], judging()).step(),
        r"reads the loss: call step\(closure\) or step\(loss=...\)",
    ),
    "no loss, deep inside": (
        lambda: LearnedTorchOptimizer([weight()], Postprocessed(judging(), lr=0.5)).step(),
        "reads the loss",
    ),
    "a closure without a loss": (
        lambda: LearnedTorchOptimizer([weight()], judging()).step(lambda: None),
        "reads the loss",
    ),
    "no horizon": (
        lambda: LearnedTorchOptimizer([weight()], decaying()).step(),
        "give horizon=, the number of steps of the whole run",
    ),
    "no part for a tensor": (
        lambda: LearnedTorchOptimizer(
            [("a.weight", weight())],
            Partitioned({"fc": {"kinds": ["fc"], "rule": described()}}),
        ).step(),
        "no part takes tensor 'a.weight'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_is_refused_in_one_line(name):
    call, telling = REFUSALS[name]
    with pytest.raises(ValueError, match=telling) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_group_that_is_refused_is_not_added():
    optimizer = LearnedTorchOptimizer([weight()], scripted())
    with pytest.raises(ValueError, match="lr=-1"):
        optimizer.add_param_group({"params": [weight()], "lr": -1})
    assert len(optimizer.param_groups) == 1


def test_only_rules_that_compute_with_the_horizon_need_one(tmp_path):
    for rule in (described(), Baseline(torch.optim.SGD, 0.1), Postprocessed(described(), lr=0.5)):
        LearnedTorchOptimizer([weight()], rule).step()
    rule = described()
    checkpoint.save(tmp_path, rule, {"horizon": 30})
    assert l2l_exp.load_optimizer(tmp_path, [weight()]).horizon == 30
    assert l2l_exp.load_optimizer(tmp_path, [weight()], horizon=50).horizon == 50


def test_a_rule_that_reads_a_loss_that_is_not_there_moves_nothing():
    parameter = weight(1.0, 2.0)
    rule = Scripted(lambda seen: -seen.loss.view(-1, 1) * seen.grad)
    optimizer = LearnedTorchOptimizer([parameter], rule)
    with pytest.raises(RuntimeError, match=r"if it reads the loss, call step\(closure\)"):
        optimizer.step()
    assert parameter.tolist() == [1.0, 2.0]
    optimizer.step(loss=0.5)
    assert parameter.tolist() == [0.5, 1.5]


def test_a_sparse_gradient_is_refused_before_anything_moves():
    table, other = nn.Embedding(3, 2, sparse=True), weight(1.0, 2.0)
    table(torch.tensor([1])).sum().backward()
    optimizer = LearnedTorchOptimizer([other, table.weight], scripted())
    with pytest.raises(RuntimeError, match="does not support sparse gradients: .*SparseAdam"):
        optimizer.step()
    assert other.tolist() == [1.0, 2.0]
