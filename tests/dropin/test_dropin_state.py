"""What is saved goes on as if nothing had happened; what does not fit is refused, harmlessly."""

import copy
import io
import json
import pickle

import pytest
import torch
from conftest import LEARNED, RULES
from torch import nn

from l2l_exp import checkpoint
from l2l_exp.dropin import LearnedTorchOptimizer
from l2l_exp.optimizers import lstm
from l2l_exp.optimizers.base import state_tensors
from l2l_exp.optimizers.lstm import CoordinatewiseLSTM

LSTM = "l2l_exp.optimizers.lstm.CoordinatewiseLSTM"


def network(dtype=torch.float32) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 2)).to(dtype)


def train(model, optimizer, steps):
    for step in steps:
        rng = torch.Generator().manual_seed(step)
        inputs = torch.randn(6, 3, generator=rng).to(model[0].weight)
        optimizer.zero_grad()
        loss = model(inputs).square().sum(1).mean()
        loss.backward()
        if step == 1:
            model[3].bias.grad = None
        optimizer.step(loss=loss)


def same(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(mine, its) for mine, its in pairs)


def through_a_file(content):
    """As a training script keeps it: no pickled code."""
    file = io.BytesIO()
    torch.save(content, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def described(hidden_units=3, shift=0.0) -> CoordinatewiseLSTM:
    """A rule that knows its architecture."""
    settings = {"hidden_units": hidden_units, "layers": 1, "readout_std": 0.5}
    rule = CoordinatewiseLSTM(**settings)
    rule.architecture = {"_target_": LSTM, **settings}
    with torch.no_grad():
        for parameter in rule.parameters():
            parameter += shift
    return rule


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", RULES)
def test_a_state_dict_goes_on_bit_for_bit(name, dtype):
    model = network(dtype)
    optimizer = LearnedTorchOptimizer(model.named_parameters(), RULES[name](), 0.7, horizon=9)
    train(model, optimizer, range(3))
    kept = through_a_file({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    train(model, optimizer, range(3, 6))

    again = network(dtype)
    again.load_state_dict(kept["model"])
    other = RULES[name]()
    with torch.no_grad():
        for parameter in other.parameters():  # a rule of the same form, not the same rule
            parameter.zero_()
    resumed = LearnedTorchOptimizer(again.named_parameters(), other, horizon=1)
    resumed.load_state_dict(kept["optimizer"])
    assert resumed.horizon == 9 and resumed.param_groups[0]["lr"] == 0.7
    train(again, resumed, range(3, 6))
    assert same(again, model) and not same(model, network(dtype))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("name", LEARNED)
def test_copies_go_on_bit_for_bit_and_apart(name, copied):
    model = network()
    optimizer = LearnedTorchOptimizer(model, LEARNED[name](), horizon=9)
    train(model, optimizer, range(3))
    again, resumed = copied((model, optimizer))
    train(model, optimizer, range(3, 6))
    assert not same(again, model)
    train(again, resumed, range(3, 6))
    assert same(again, model)


def test_a_loaded_state_dict_is_not_changed_by_later_steps_nor_changes_them(monkeypatch):
    monkeypatch.setattr(lstm, "BLOCK", 7)  # so that steps in place overwrite states
    model = network()
    optimizer = LearnedTorchOptimizer(model, described())
    train(model, optimizer, range(2))
    content = copy.deepcopy(optimizer.state_dict())
    kept = copy.deepcopy(content)
    optimizer.load_state_dict(content)
    train(model, optimizer, range(2, 5))
    assert json.dumps(content, default=torch.Tensor.tolist) == json.dumps(
        kept, default=torch.Tensor.tolist
    )
    for weights in content["state"]["rule"]["meta_parameters"].values():
        weights.zero_()
    assert optimizer.rule.readout.count_nonzero() > 0


def test_a_state_dict_brings_its_rule_along():
    model = network()
    optimizer = LearnedTorchOptimizer(model, described(5).double())
    with torch.no_grad():
        optimizer.rule.readout += 1e-12  # digits that float32 does not have
    train(model, optimizer, range(2))
    content = through_a_file(optimizer.state_dict())
    again = copy.deepcopy(model)
    train(model, optimizer, range(2, 4))
    resumed = LearnedTorchOptimizer(again, described(2))
    resumed.load_state_dict(content)
    assert torch.equal(resumed.rule.readout, optimizer.rule.readout)
    assert resumed.rule.hidden_units == 5 and resumed.rule.architecture["hidden_units"] == 5
    train(again, resumed, range(2, 4))
    assert same(again, model)
    assert through_a_file(resumed.state_dict()).keys() == {"state", "param_groups"}


def test_a_state_dict_before_the_first_step_is_one_too():
    model, again = network(), network()
    optimizer = LearnedTorchOptimizer(model, described(shift=0.1))
    resumed = LearnedTorchOptimizer(again, described())
    resumed.load_state_dict(through_a_file(optimizer.state_dict()))
    train(model, optimizer, range(2))
    train(again, resumed, range(2))
    assert same(again, model)


def test_groups_added_later_are_saved_too():
    def begun():
        model = network()
        return model, LearnedTorchOptimizer(model[3].parameters(), described())

    model, optimizer = begun()
    train(model, optimizer, range(2))
    optimizer.add_param_group({"params": model[0].parameters(), "lr": 0.3})
    train(model, optimizer, range(2, 4))
    content = through_a_file(optimizer.state_dict())
    again, resumed = begun()
    resumed.add_param_group({"params": again[0].parameters()})
    again.load_state_dict(model.state_dict())
    resumed.load_state_dict(content)
    assert [problem.steps for problem in resumed._problems] == [4, 2]
    train(model, optimizer, range(4, 6))
    train(again, resumed, range(4, 6))
    assert same(again, model)


def test_counts_of_skipped_steps_are_saved():
    model = network()
    optimizer = LearnedTorchOptimizer(model, described())
    model[0].weight.grad = torch.full_like(model[0].weight, torch.nan)
    optimizer.step()
    resumed = LearnedTorchOptimizer(network(), described())
    resumed.load_state_dict(through_a_file(optimizer.state_dict()))
    assert resumed.skipped_steps == optimizer.skipped_steps == 1


@pytest.mark.parametrize("ours", [False, True])
def test_hooks_of_state_dicts_see_all_of_it(ours):
    def make():
        model = network()
        parameters = model.parameters()
        if ours:
            return LearnedTorchOptimizer(parameters, described())
        return torch.optim.AdamW(parameters)

    optimizer, called = make(), []
    optimizer.register_state_dict_pre_hook(lambda its: called.append("before saving"))

    def mark(its, content):
        called.append("rule" in content["state"])
        return {**content, "mark": 1}

    optimizer.register_state_dict_post_hook(mark)
    content = optimizer.state_dict()
    assert content["mark"] == 1 and called == ["before saving", ours]
    other = make()
    other.register_load_state_dict_pre_hook(lambda its, given: called.append(given["mark"]))
    other.register_load_state_dict_post_hook(lambda its: called.append("loaded"))
    other.load_state_dict(content)
    assert called[2:] == [1, "loaded"]


def unchanged(optimizer, content, error, telling):
    """Loading is refused in one line, and leaves the optimizer as it was."""
    rule, groups = optimizer.rule, copy.deepcopy(optimizer.state_dict()["param_groups"])
    kept = [x.clone() for problem in optimizer._problems for x in state_tensors(problem.state)]
    with pytest.raises(error, match=telling) as caught:
        optimizer.load_state_dict(content)
    assert "\n" not in str(caught.value)
    assert optimizer.rule is rule and optimizer.state_dict()["param_groups"] == groups
    its = [x for problem in optimizer._problems for x in state_tensors(problem.state)]
    assert all(map(torch.equal, its, kept))


@pytest.fixture
def begun() -> tuple[nn.Module, LearnedTorchOptimizer]:
    """After two steps."""
    model = network()
    optimizer = LearnedTorchOptimizer(model, described())
    train(model, optimizer, range(2))
    return model, optimizer


def test_the_state_dict_of_another_optimizer_is_refused(begun):
    model, optimizer = begun
    adam = torch.optim.AdamW(model.parameters())
    unchanged(optimizer, adam.state_dict(), ValueError, "has no rule: it is of another optimizer")


@pytest.mark.parametrize("ours", [False, True])
def test_other_groups_are_refused_as_torch_does(begun, ours):
    model, optimizer = begun
    if not ours:
        optimizer = torch.optim.AdamW(model.parameters())
    two = [{"params": model[0].parameters()}, {"params": model[3].parameters()}]
    make = LearnedTorchOptimizer if ours else (lambda params, rule: torch.optim.AdamW(params))
    with pytest.raises(ValueError, match="different number of parameter groups"):
        make(two, described()).load_state_dict(optimizer.state_dict())
    with pytest.raises(ValueError, match="doesn't match the size"):
        make(model[0].parameters(), described()).load_state_dict(optimizer.state_dict())


def test_other_shapes_are_refused(begun):
    wider = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 2))
    other = LearnedTorchOptimizer(wider, described())
    train(wider, other, range(1))
    content = begun[1].state_dict()
    unchanged(other, content, ValueError, r"0.weight of shape \(4, 3\)")


def test_without_an_architecture_the_rule_must_be_of_the_same_form(begun):
    model, optimizer = begun
    bare = described(4)
    bare.architecture = None
    content = LearnedTorchOptimizer(model, bare).state_dict()
    unchanged(optimizer, content, ValueError, "of another rule: .*size mismatch")


def test_an_architecture_that_is_no_rule_is_refused(begun):
    content = copy.deepcopy(begun[1].state_dict())
    content["state"]["rule"]["architecture"] = '{"_target_": "os.system"}'
    unchanged(begun[1], content, checkpoint.CheckpointError, "os.system, which is not a torch")


def test_a_memory_of_another_rule_is_refused(begun):
    content = copy.deepcopy(begun[1].state_dict())
    content["state"]["rule"]["problems"][0]["state"] = [torch.zeros(1)] * 7
    unchanged(begun[1], content, ValueError, "saved state is of another rule")
