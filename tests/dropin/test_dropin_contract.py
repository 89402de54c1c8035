"""The contract of torch.optim: whatever AdamW does in a loop, a rule that is Adam does too.

`Baseline(Adam)` and `Baseline(SGD)` behind `LearnedTorchOptimizer` are compared with torch's own,
parameter by parameter: lr is then a factor on the rate, and weight_decay stands for rate * decay.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from conftest import LEARNED
from torch import nn
from torch.optim import lr_scheduler

from l2l_exp.dropin import LearnedTorchOptimizer
from l2l_exp.optimizers import lstm as lstm_module
from l2l_exp.optimizers.base import LearnedOptimizer, state_tensors
from l2l_exp.optimizers.baseline import Baseline
from l2l_exp.optimizers.encoding import LogSign
from l2l_exp.optimizers.lbfgs import LBFGS
from l2l_exp.optimizers.lstm import CoordinatewiseLSTM
from l2l_exp.optimizers.postprocess import Postprocessed

RATE = 0.03


@dataclass(frozen=True)
class Maker:
    """torch's optimizer, or ours around it, from groups with factors on the rate."""

    rule: Callable[[], LearnedOptimizer]
    native: Callable[..., torch.optim.Optimizer]
    ours: bool

    def __call__(self, groups, decay=0.0, **settings):
        if self.ours:
            return LearnedTorchOptimizer(groups, self.rule(), 1.0, RATE * decay, **settings)
        return self.native(groups, lr=RATE, weight_decay=decay, **settings)

    def lr(self, factor):
        return factor if self.ours else factor * RATE

    def decay(self, decay):
        return RATE * decay if self.ours else decay


def adam(ours):
    return Maker(lambda: Baseline(torch.optim.Adam, RATE), torch.optim.AdamW, ours)


def momentum(ours):
    """No decay, and no count of steps: torch counts a parameter's own, a rule its problem's."""
    return Maker(
        lambda: Baseline(torch.optim.SGD, RATE, momentum=0.9),
        lambda *args, **settings: torch.optim.SGD(*args, momentum=0.9, **settings),
        ours,
    )


def network(dtype=torch.float64) -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3), nn.Linear(3, 2))
    return nn.Sequential(*layers).to(dtype)


def batch(step, dtype=torch.float64):
    rng = torch.Generator().manual_seed(step)
    return torch.randn(5, 1, 4, 4, generator=rng).to(dtype), torch.randint(2, (5,), generator=rng)


def loss_of(model, step):
    dtype = next(model.parameters()).dtype
    inputs, targets = batch(step, dtype)
    return nn.functional.cross_entropy(model(inputs).to(torch.float64), targets)


def train(model, optimizer, steps=range(6), before=None, after=None):
    """A plain loop."""
    for step in steps:
        optimizer.zero_grad()
        loss_of(model, step).backward()
        if before is not None:
            before(step)
        optimizer.step()
        if after is not None:
            after(step)


def plain_loop(make):
    model = network()
    train(model, make(model.parameters()))
    return model


def named_parameters(make):
    model = network()
    train(model, make(model.named_parameters()))
    return model


def weight_decay(make):
    model = network()
    train(model, make(model.parameters(), decay=0.3))
    return model


def groups(make):
    model = network()
    optimizer = make(
        [
            {"params": model[3].parameters(), "lr": make.lr(0.3)},
            {"params": model[0].parameters(), "weight_decay": make.decay(0.2)},
            {"params": model[4].weight, "lr": make.lr(0.0), "weight_decay": make.decay(0.1)},
            {"params": [model[4].bias], "lr": torch.tensor(make.lr(2.0), dtype=torch.float64)},
        ],
        decay=0.1,
    )
    train(model, optimizer)
    return model


def closures(make):
    model = network()
    optimizer = make(model.parameters())
    for step in range(4):

        def closure(step=step):
            assert torch.is_grad_enabled()
            optimizer.zero_grad()
            loss = loss_of(model, step)
            loss.backward()
            return loss

        expected = loss_of(model, step).detach()
        assert torch.equal(optimizer.step(closure).detach(), expected)
    return model


def maximize(make):
    model = network()
    train(model, make(model.parameters(), maximize=True), range(3))
    return model


def clipping(make):
    model = network()
    parameters = list(model.parameters())
    train(
        model,
        make(parameters),
        before=lambda step: nn.utils.clip_grad_norm_(parameters, 0.1 + 0.3 * (step % 2)),
    )
    return model


def accumulation(make):
    model = network()
    optimizer = make(model.parameters())
    for step in range(6):
        loss_of(model, step).backward()
        if step % 2:
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
    return model


def added_group(make):
    model = network()
    optimizer = make(model[0].parameters())
    train(model, optimizer, range(3))
    optimizer.add_param_group({"params": model[3].parameters(), "lr": make.lr(0.5)})
    train(model, optimizer, range(3, 6))
    return model


def frozen(make):
    model = network()
    model[3].requires_grad_(False)
    optimizer = make(model.parameters(), decay=0.1)
    train(model, optimizer, range(3))
    assert torch.equal(model[3].weight, network()[3].weight)
    model[3].requires_grad_(True)
    train(model, optimizer, range(3, 6))
    return model


def strided(make):
    """Neither contiguous nor of one memory format; a scalar and an empty parameter beside them."""
    model = network()
    model[0].to(memory_format=torch.channels_last)
    model[3].weight.data = model[3].weight.data.t().contiguous().t()
    assert not model[3].weight.is_contiguous()
    scale = nn.Parameter(torch.ones((), dtype=torch.float64))
    empty = nn.Parameter(torch.zeros(0, 3, dtype=torch.float64))
    optimizer = make([*model.parameters(), empty, scale])
    for step in range(4):
        optimizer.zero_grad()
        (scale * loss_of(model, step) + empty.sum()).backward()
        optimizer.step()
    model.register_parameter("scale", scale)
    return model


def copies(make):
    """A deep copy of model and optimizer goes on by itself."""
    model = network()
    optimizer = make(model.parameters())
    train(model, optimizer, range(3))
    model, optimizer = copy.deepcopy((model, optimizer))
    train(model, optimizer, range(3, 6))
    return model


SCHEDULERS = {
    "step": lambda o: lr_scheduler.StepLR(o, 2, 0.3),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 6),
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
    "one_cycle": lambda o: lr_scheduler.OneCycleLR(
        o, [2 * g["lr"] for g in o.param_groups], total_steps=8, cycle_momentum=False
    ),
    "sequential": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.1, 2), lr_scheduler.ExponentialLR(o, 0.5)], [2]
    ),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=0.5, patience=0),
}


def scheduled(name):
    def run(make):
        model = network()
        optimizer = make(model.parameters(), decay=0.1)
        scheduler = SCHEDULERS[name](optimizer)
        worse = (1.0,) if name == "plateau" else ()
        train(model, optimizer, after=lambda step: scheduler.step(*worse))
        return model

    return run


SCENARIOS = [
    plain_loop, named_parameters, weight_decay, groups, closures, maximize, clipping, accumulation,
    added_group, frozen, strided, copies, *map(scheduled, SCHEDULERS),
]  # fmt: skip


def alike(one, other, **tolerance):
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, **(tolerance or {"rtol": 1e-9, "atol": 1e-12}))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_rule_that_is_adam_does_what_adamw_does(scenario):
    native = scenario(adam(ours=False))
    alike(scenario(adam(ours=True)), native)
    still = all(map(torch.equal, native.parameters(), network().parameters()))
    assert not still


def missing_gradients(make):
    """A branch that is used in every other step, and not in the first."""
    model = network()
    branch = nn.Linear(2, 2).double()
    nn.init.eye_(branch.weight)
    nn.init.zeros_(branch.bias)
    model.register_module("branch", nn.Identity())
    optimizer = make([*model.parameters(), *branch.parameters()])
    for step in range(7):
        model.branch = branch if step % 2 else nn.Identity()
        kept = [p.detach().clone() for p in branch.parameters()]
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()
        unchanged = all(map(torch.equal, branch.parameters(), kept))
        assert unchanged == (step % 2 == 0)
    model.branch = branch
    return model


@pytest.mark.parametrize("scenario", [missing_gradients, added_group])
def test_parameters_without_a_gradient_and_what_is_known_of_them_rest(scenario):
    alike(scenario(momentum(ours=True)), scenario(momentum(ours=False)))


@pytest.mark.parametrize("name", LEARNED)
def test_with_any_rule_a_parameter_without_a_gradient_rests_and_the_others_move(name):
    model = network()
    optimizer = LearnedTorchOptimizer(model, LEARNED[name]().double(), horizon=9)
    for step in range(4):
        before = copy.deepcopy(model.state_dict())
        versions = {path: p._version for path, p in model.named_parameters()}
        optimizer.zero_grad()
        loss = loss_of(model, step)
        loss.backward()
        absent = {"3.weight": step % 2 == 1, "0.bias": step == 0}
        for path, parameter in model.named_parameters():
            if absent.get(path):
                parameter.grad = None
        optimizer.step(loss=loss)
        for path, parameter in model.named_parameters():
            rests = absent.get(path, False)
            assert torch.equal(parameter, before[path]) == rests, (step, path)
            assert (parameter._version == versions[path]) == rests  # nor is it written to


@pytest.mark.parametrize("name", ["lstm", "lstm_two_layers", "two_lstms", "rnnprop", "gru"])
def test_elementwise_rules_go_on_as_if_steps_without_a_gradient_had_not_been(name, monkeypatch):
    monkeypatch.setattr(lstm_module, "BLOCK", 2)  # so that its steps in place overwrite states
    some, alone, others = (nn.Parameter(torch.ones(3).double()) for _ in range(3))
    make = LEARNED[name]
    together = LearnedTorchOptimizer([("a.bias", others), ("b.bias", some)], make().double())
    apart = LearnedTorchOptimizer([("b.bias", alone)], make().double())
    for step in range(6):
        others.grad = torch.full_like(others, 1.0 + step)
        some.grad = None if step in (2, 4) else torch.arange(3.0).double() - step
        together.step()
        if some.grad is not None:
            alone.grad = some.grad
            apart.step()
    assert torch.equal(some, alone) and not torch.equal(some, torch.ones(3).double())


def test_a_rule_is_told_what_became_of_its_update():
    """As `Postprocessed` does with the same factor and decay; a quasi-Newton memory needs it."""
    ends = []
    for wrapped in (False, True):
        theta, scale = nn.Parameter(torch.ones(4).double()), torch.tensor([1.0, 2, 5, 9]).double()
        rule, settings = LBFGS(0.5, history_size=3), {"lr": 0.6, "weight_decay": 0.05}
        if wrapped:
            optimizer = LearnedTorchOptimizer([theta], Postprocessed(rule, **settings))
        else:
            optimizer = LearnedTorchOptimizer([theta], rule, **settings)
        for _ in range(8):
            optimizer.zero_grad()
            (scale * theta.square()).sum().backward()
            optimizer.step()
        ends.append(theta.detach())
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-14)


def lstm(**settings):
    """A learned rule with steps that are large enough to be seen in bfloat16."""
    return CoordinatewiseLSTM(3, 1, LogSign(), readout_std=0.5, output_scale=0.5, **settings)


@pytest.mark.parametrize("ours", [False, True])
def test_hooks_are_called_around_the_step(ours):
    model = network()
    optimizer, seen = adam(ours)(model.parameters()), []
    start = model[0].bias.detach().clone()

    def hook(word):
        def call(its, args, kwargs):
            assert its is optimizer
            seen.append((word, torch.equal(model[0].bias, start)))

        return call

    optimizer.register_step_pre_hook(hook("before"))
    optimizer.register_step_post_hook(hook("after"))
    train(model, optimizer, range(1))
    assert seen == [("before", True), ("after", False)]


@pytest.mark.parametrize("ours", [False, True])
def test_zero_grad_clears_gradients(ours):
    model = network()
    optimizer = adam(ours)(model.parameters())
    loss_of(model, 0).backward()
    optimizer.zero_grad(set_to_none=False)
    assert all(p.grad.count_nonzero() == 0 for p in model.parameters())
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("ours", [False, True])
def test_nothing_happens_without_any_gradient(ours):
    model = network()
    optimizer = adam(ours)(model.parameters())
    assert optimizer.step() is None
    alike(model, network(), rtol=0, atol=0)


@pytest.mark.parametrize("ours", [False, True])
def test_the_gradient_scaler_unscales_and_skips(ours):
    results = []
    for scale in (1.0, 2.0**10):
        model = network(torch.float32)
        optimizer = adam(ours)(model.parameters())
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        for step in range(4):
            optimizer.zero_grad()
            scaler.scale(loss_of(model, step)).backward()
            if step == 2:
                model[3].weight.grad[0, 0] = math.inf
                kept = copy.deepcopy(model)
            scaler.step(optimizer)
            scaler.update()
            if step == 2:
                alike(model, kept, rtol=0, atol=0)
        results.append(model)
    alike(*results, rtol=1e-4, atol=1e-6)
    assert not any(map(torch.equal, results[0].parameters(), network(torch.float32).parameters()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_stepped_in_float32(dtype):
    model = network(dtype)
    shadow = network(dtype).float()
    rule = lstm()
    optimizer = LearnedTorchOptimizer(model, rule)
    reference = LearnedTorchOptimizer(shadow, rule)
    for step in range(4):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        for mine, its in zip(model.parameters(), shadow.parameters(), strict=True):
            its.data = mine.detach().float()
            its.grad = mine.grad.float()
        optimizer.step()
        reference.step()
        for mine, its in zip(model.parameters(), shadow.parameters(), strict=True):
            assert mine.dtype == dtype and torch.equal(mine, its.to(dtype))


def test_autocast_around_the_step_changes_nothing():
    models = []
    for enabled in (False, True):
        model = network(torch.float32)
        optimizer = LearnedTorchOptimizer(model, lstm())
        for step in range(3):
            optimizer.zero_grad()
            loss_of(model, step).backward()
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                optimizer.step()
        models.append(model)
    alike(*models, rtol=0, atol=0)


def test_no_graph_is_kept_and_the_rule_given_is_left_alone():
    model, rule = network(), lstm().double()
    optimizer = LearnedTorchOptimizer(model, rule)
    train(model, optimizer, range(3))
    assert all(p.requires_grad for p in rule.parameters())
    assert not any(p.requires_grad for p in optimizer.rule.parameters())
    assert not any(x.requires_grad for x in state_tensors(optimizer._problems[0].state))
    assert all(p.is_leaf and p.requires_grad for p in model.parameters())


def test_state_follows_a_model_whose_dtype_changes():
    model = network(torch.float32)
    optimizer = LearnedTorchOptimizer(model, lstm())
    train(model, optimizer, range(2))
    model.double()
    train(model, optimizer, range(2, 4))
    (problem,) = optimizer._problems
    assert problem.place[1] == torch.float64 and problem.steps == 4
    assert next(problem.rule.parameters()).dtype == torch.float64


@pytest.mark.parametrize("ours", [False, True])
@pytest.mark.parametrize(
    ("params", "error", "telling"),
    [
        ([], ValueError, "empty parameter list"),
        (torch.zeros(2), TypeError, "iterable of Tensors or dicts"),
        ([torch.zeros(2), "text"], TypeError, "can only optimize Tensors"),
        ([{"params": {torch.zeros(2)}}], TypeError, "ordered collections"),
        ([torch.zeros(2, requires_grad=True) * 2], ValueError, "non-leaf"),
        ([("a", torch.zeros(2)), torch.zeros(3)], ValueError, "with/without names"),
    ],
)
def test_parameters_that_torch_refuses_are_refused(ours, params, error, telling):
    with pytest.raises(error, match=telling):
        adam(ours)(params)


@pytest.mark.parametrize("ours", [False, True])
def test_a_parameter_in_two_groups_is_refused(ours):
    shared = nn.Parameter(torch.zeros(2))
    with pytest.raises(ValueError, match="more than one parameter group"):
        adam(ours)([{"params": [shared]}, {"params": [shared]}])
