"""What is special about a user's own module: what reaches theta, and what may happen inside."""

import functools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import a_line, a_module, a_network, a_table
from torch import nn
from torch.func import grad, vmap
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from l2l_exp.comparison import Protocol, compare
from l2l_exp.evaluation import evaluate
from l2l_exp.meta.gradients import Replay
from l2l_exp.meta.objective import MetaLoss, Plain, Uniform
from l2l_exp.meta.schedule import Constant
from l2l_exp.meta.train import MetaTrainingError, Plan, train
from l2l_exp.optimizees import module as implementation
from l2l_exp.optimizees.objectives import Accuracy, Supervised
from l2l_exp.optimizees.repeated import Repeated
from l2l_exp.optimizees.seeding import Seed, torch_key, torch_seeded
from l2l_exp.optimizers.baseline import Baseline
from l2l_exp.optimizers.lstm import CoordinatewiseLSTM
from l2l_exp.tuning import TuningCache
from l2l_exp.unroll import differentiate

TRAIN = Seed("train", 0)
PROBLEMS = (4, 1, 7)
SQUARES = Supervised(nn.MSELoss())


def at_start(optimizee, step=0, problems=PROBLEMS):
    """Theta_0 and a minibatch of some problems."""
    problem = optimizee.sample(problems, TRAIN)
    return optimizee.init(problems, TRAIN), optimizee.minibatch(problem, step)


def of(data, row):
    """The data of one problem."""
    return {name: tensor[row] for name, tensor in data.items()}


# ------------------------------------------------------------------ the same as plain PyTorch


class Mixed(nn.Module):
    """A small convolutional network with batch and group normalisation."""

    def __init__(self, images=(6, 6)):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norms = nn.Sequential(nn.BatchNorm2d(4), nn.GroupNorm(2, 4))
        self.scale = nn.Parameter(torch.ones(()))
        self.readout = nn.Linear(4, 3, bias=False)

    def forward(self, x):
        return self.scale * self.readout(torch.tanh(self.norms(self.conv(x))).mean((-2, -1)))


def images(rows=36):
    """Random images (rows, 1, 6, 6) and classes."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(rows, 1, 6, 6)), rng.integers(0, 3, rows)


CROSS_ENTROPY = Supervised(nn.CrossEntropyLoss())
PLAIN = {
    "network": (a_network, a_table(), SQUARES, F.mse_loss),
    "convolutions": (Mixed, images(), CROSS_ENTROPY, F.cross_entropy),
}


@pytest.mark.parametrize("batching", ["vmap", "loop"])
@pytest.mark.parametrize("name", PLAIN)
def test_loss_and_gradient_are_those_of_the_module_alone(name, batching):
    make, data, loss, plain_loss = PLAIN[name]
    optimizee = a_module(module=make, data=data, loss=loss, batch_size=6, batching=batching)
    theta, batch = at_start(optimizee.double())
    values, grads = differentiate(optimizee, theta, batch)
    for row in range(len(theta)):
        alone = make().double().train()
        vector_to_parameters(theta[row], alone.parameters())
        mine = of(batch, row)
        value = plain_loss(alone(mine["inputs"]), mine["targets"])
        value.backward()
        torch.testing.assert_close(values[row], value.detach(), rtol=1e-10, atol=1e-12)
        slope = parameters_to_vector(p.grad for p in alone.parameters())
        torch.testing.assert_close(grads[row], slope, rtol=1e-10, atol=1e-12)


def test_metrics_are_those_of_the_module_alone_on_every_row_of_its_part():
    accuracy = Accuracy()
    optimizee = a_module(module=Mixed, data=images(), loss=CROSS_ENTROPY, accuracy=accuracy)
    optimizee.double()
    problem, theta = optimizee.sample(PROBLEMS, TRAIN), optimizee.init(PROBLEMS, TRAIN)
    metrics = optimizee.metrics(theta, problem)
    assert set(metrics) == {"train_loss", "held_out_loss", "held_out_accuracy"}
    for row in range(len(theta)):
        alone = Mixed().double().train()  # batch normalisation by the batch, always
        vector_to_parameters(theta[row], alone.parameters())
        for part, name in ((False, "train_loss"), (True, "held_out_loss")):
            rows = of(optimizee.rows.part(problem, held_out=part), row)
            logits = alone(rows["inputs"])
            value = F.cross_entropy(logits, rows["targets"]).detach()
            torch.testing.assert_close(metrics[name][row], value, rtol=1e-10, atol=1e-12)
        right = (logits.argmax(1) == rows["targets"]).double().mean()
        assert metrics["held_out_accuracy"][row] == right


def test_walking_through_the_problems_in_chunks_changes_no_metric(monkeypatch):
    optimizee = a_module().double()
    problem, theta = optimizee.sample(PROBLEMS, TRAIN), optimizee.init(PROBLEMS, TRAIN)
    whole = optimizee.metrics(theta, problem)
    monkeypatch.setattr(implementation, "METRIC_ROWS", 1)
    for name, values in optimizee.metrics(theta, problem).items():
        torch.testing.assert_close(values, whole[name], rtol=1e-12, atol=1e-12)


# ------------------------------------------------------------------ where theta begins


def test_theta_0_is_the_modules_own_start_of_each_problem():
    theta = a_module().init(PROBLEMS, TRAIN)
    for row, problem in enumerate(PROBLEMS):
        with torch_seeded(torch_key(TRAIN, "init", problem), torch.device("cpu")):
            alone = a_network()
        assert torch.equal(theta[row], parameters_to_vector(alone.parameters()))
    assert not torch.equal(theta[0], theta[1])


def test_theta_0_can_be_normal_instead():
    theta = a_module(init_std=0.25).init(range(300), TRAIN)
    assert theta.mean().abs() < 0.01 and (theta.std() - 0.25).abs() < 0.01


class Tied(nn.Module):
    """Two layers that share a weight, and one that is frozen."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.two.weight = self.one.weight
        self.frozen = nn.Linear(3, 1).requires_grad_(False)

    def forward(self, x):
        return self.frozen(self.two(torch.tanh(self.one(x))))


def test_tied_parameters_are_one_and_frozen_ones_stay():
    optimizee = a_module(module=Tied).double()
    assert [t.name for t in optimizee.spec.tensors] == ["one.weight"] and optimizee.spec.size == 9
    theta, batch = at_start(optimizee)
    values, grads = differentiate(optimizee, theta, batch)
    frozen = optimizee.fit.model.frozen
    before = [p.clone() for p in frozen.parameters()]
    for row in range(len(theta)):
        weight = theta[row].view(3, 3).clone().requires_grad_()
        mine = of(batch, row)
        outputs = frozen(torch.tanh(mine["inputs"] @ weight.T) @ weight.T)
        value = F.mse_loss(outputs, mine["targets"])
        value.backward()
        torch.testing.assert_close(values[row], value.detach(), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(grads[row], weight.grad.flatten(), rtol=1e-10, atol=1e-12)
    evaluate(optimizee, Baseline(torch.optim.SGD, 0.1), range(2), TRAIN, 3)
    assert all(torch.equal(a, b) for a, b in zip(before, frozen.parameters(), strict=True))


# ------------------------------------------------------------------ losses of physics


class Curve(nn.Module):
    """A function of time that is 1 at 0."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))

    def forward(self, t):
        return 1 + t * self.net(t)


def decay(rng):
    """Times, and a rate for each problem: u' = -rate u."""
    return {"t": rng.uniform(size=(10, 1)), "rate": rng.uniform(1, 3)}


def by_func(model, batch):
    """The residual by torch.func: traceable by vmap."""
    u = lambda t: model(t[None])[0, 0]  # noqa: E731
    slope = vmap(grad(u))(batch["t"])
    return (slope[:, 0] + batch["rate"] * model(batch["t"])[:, 0]).square().mean()


def by_autograd(model, batch):
    """The same by autograd."""
    t = batch["t"].requires_grad_()
    u = model(t)
    (slope,) = torch.autograd.grad(u.sum(), t, create_graph=True)
    return (slope + batch["rate"] * u).square().mean()


def test_a_loss_may_differentiate_the_model_in_its_inputs_either_way():
    found = []
    for loss, batching in ((by_func, "vmap"), (by_func, "loop"), (by_autograd, "loop")):
        optimizee = a_module(module=Curve, data=decay, loss=loss, batching=batching).double()
        theta, batch = at_start(optimizee)
        problem = optimizee.sample(PROBLEMS, TRAIN)
        values, grads = differentiate(optimizee, theta, batch)
        found.append([values, grads, *optimizee.metrics(theta, problem).values()])
    for other in found[1:]:
        for one, same in zip(found[0], other, strict=True):
            torch.testing.assert_close(one, same, rtol=1e-10, atol=1e-12)


def test_a_loss_may_call_other_methods_of_the_model_and_read_its_parameters():
    def loss(model, batch):
        return (model.net[0](batch["t"])).square().mean() + model.net[2].bias.square().sum()

    optimizee = a_module(module=Curve, data=decay, loss=loss).double()
    theta, batch = at_start(optimizee)
    tensors = optimizee.spec.unflatten(theta)
    hidden = batch["t"] @ tensors["net.0.weight"].mT + tensors["net.0.bias"].unsqueeze(1)
    expected = hidden.square().mean((1, 2)) + tensors["net.2.bias"].square().sum(1)
    torch.testing.assert_close(differentiate(optimizee, theta, batch)[0], expected)


# ------------------------------------------------------------------ what vmap cannot do


class Dropping(nn.Module):
    """Dropout in the middle."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 30), nn.Dropout(0.5), nn.Linear(30, 1))

    def forward(self, x):
        return self.net(x)


class Branching(nn.Module):
    """Control flow that depends on data."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 1)

    def forward(self, x):
        return self.net(x) if x.sum() > 0 else -2 * self.net(x)


class Counting(nn.Module):
    """Writes to a buffer, and reads it."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 1)
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, x):
        self.mean.mul_(0.5).add_(x.mean(0))
        return self.net(x - self.mean)


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (Dropping, "random"),
        (Branching, "data-dependent control flow"),
        (Counting, "output with shape"),
    ],
)
def test_what_vmap_cannot_do_is_refused_with_the_reason_and_the_remedy(module, reason):
    with pytest.raises(ValueError) as refused:
        a_module(module=module)
    told = str(refused.value)
    assert module.__name__ in told and reason in told and "optimizee.batching=loop" in told
    assert "\n" not in told and len(told) < 400


@pytest.mark.parametrize("module", [Dropping, Branching, Counting])
def test_what_vmap_cannot_do_a_loop_does(module):
    optimizee = a_module(module=module, batching="loop", batch_size=6).double()
    records = evaluate(optimizee, Baseline(torch.optim.SGD, 0.01), range(3), TRAIN, 20)
    assert (records[0].status == "ok").all()


def test_a_branch_is_taken_by_each_problem_for_itself():
    optimizee = a_module(module=Branching, batching="loop", batch_size=3).double()
    problems = range(20)
    theta, batch = at_start(optimizee, problems=problems)
    values, _ = differentiate(optimizee, theta, batch)
    positive = batch["inputs"].sum((1, 2)) > 0
    assert 0 < positive.sum() < 20
    tensors = optimizee.spec.unflatten(theta)
    outputs = batch["inputs"] @ tensors["net.weight"].mT + tensors["net.bias"].unsqueeze(1)
    outputs = torch.where(positive[:, None, None], outputs, -2 * outputs)
    expected = (outputs - batch["targets"]).square().mean((1, 2))
    torch.testing.assert_close(values, expected, rtol=1e-10, atol=1e-12)


def test_writes_to_a_buffer_last_for_one_call():
    optimizee = a_module(module=Counting, batching="loop").double()
    theta, batch = at_start(optimizee)
    once, again = (differentiate(optimizee, theta, batch) for _ in range(2))
    assert torch.equal(once[0], again[0]) and torch.equal(once[1], again[1])
    assert not optimizee.fit.model.mean.any()
    mine = of(batch, 0)
    alone = Counting().double()
    vector_to_parameters(theta[0], alone.parameters())
    value = F.mse_loss(alone(mine["inputs"]), mine["targets"])
    torch.testing.assert_close(once[0][0], value.detach(), rtol=1e-10, atol=1e-12)


# ------------------------------------------------------------------ randomness inside


def dropping(**changes):
    """Dropout, in float64."""
    return a_module(module=Dropping, batching="loop", **changes).double()


def test_a_mask_belongs_to_its_problem_and_step_and_to_nothing_else():
    optimizee = dropping()
    theta, first = at_start(optimizee)
    torch.manual_seed(1)
    values, grads = differentiate(optimizee, theta, first)
    torch.manual_seed(2)
    for row, problem in enumerate(PROBLEMS):
        alone, batch = at_start(optimizee, problems=[problem])
        value, slope = differentiate(optimizee, alone, batch)
        assert torch.equal(value[0], values[row]) and torch.equal(slope[0], grads[row])
    _, later = at_start(optimizee, step=1)
    same_rows = {**later, "inputs": first["inputs"], "targets": first["targets"]}
    assert not (differentiate(optimizee, theta, same_rows)[0] == values).any()
    assert len(set(first[implementation.RANDOM].tolist())) == len(PROBLEMS)


def test_the_gradient_is_the_slope_of_the_loss_under_the_same_mask():
    optimizee = dropping()
    theta, batch = at_start(optimizee, problems=[0])
    _, slope = differentiate(optimizee, theta, batch)
    mine, eps = of(batch, 0), 1e-6
    for place in (0, 50, optimizee.spec.size - 1):
        move = torch.zeros(optimizee.spec.size).double()
        move[place] = eps
        up, down = (optimizee.loss(theta[0] + s * move, mine) for s in (1, -1))
        torch.testing.assert_close((up - down) / (2 * eps), slope[0, place], rtol=1e-6, atol=1e-8)


def test_dropout_is_on_for_the_loss_and_off_for_metrics():
    optimizee = dropping()
    problem, theta = optimizee.sample(PROBLEMS, TRAIN), optimizee.init(PROBLEMS, TRAIN)
    alone = Dropping().double()
    vector_to_parameters(theta[0], alone.parameters())
    rows = of(optimizee.rows.part(problem, held_out=False), 0)
    value = F.mse_loss(alone.eval()(rows["inputs"]), rows["targets"]).detach()
    metrics = optimizee.metrics(theta, problem)
    torch.testing.assert_close(metrics["train_loss"][0], value, rtol=1e-10, atol=1e-12)
    seen = differentiate(optimizee, theta, optimizee.minibatch(problem, 0))[0]  # the same rows
    assert not torch.isclose(seen, metrics["train_loss"]).any()


def test_copies_of_a_problem_meet_the_same_mask():
    copies = Repeated(dropping(), 3)
    theta, batch = at_start(copies)
    values, _ = differentiate(copies, theta, batch)
    assert torch.equal(values[:3], values[3:6]) and torch.equal(values[:3], values[6:])


def test_a_random_loss_neither_reads_nor_touches_torchs_global_generator():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    optimizee = dropping()
    theta, batch = at_start(optimizee)
    differentiate(optimizee, theta, batch)
    optimizee.metrics(theta, optimizee.sample(PROBLEMS, TRAIN))
    assert torch.equal(torch.get_rng_state(), before)


# ------------------------------------------------------------------ losses that are not numbers


def half_bad(rng):
    """A line whose targets are not numbers in about half of the problems."""
    drawn = a_line(rng)
    return {**drawn, "targets": drawn["targets"] * (1 if rng.uniform() < 0.5 else math.nan)}


def bad_ones(optimizee, problems, seed):
    """Which problems have targets that are not numbers."""
    return optimizee.sample(problems, seed).data["targets"].isnan().all((1, 2)).numpy()


def test_a_loss_that_is_not_a_number_is_a_diverged_problem_and_a_skipped_meta_step():
    optimizee = a_module(module=functools.partial(a_network, 1), data=half_bad)
    bad = bad_ones(optimizee, range(20), TRAIN)
    assert 0 < bad.sum() < 20
    rule = CoordinatewiseLSTM(2, 1)
    (record,) = evaluate(optimizee, rule, range(20), TRAIN, 3)
    assert ((record.status == "diverged") == bad).all()
    assert np.isinf(record.criterion("final")[bad]).all()
    plan = Plan(horizon=2, truncation=2, episodes=12, problems=1, validation_problems=2)
    arguments = (Replay(), MetaLoss(Uniform(), Plain()), torch.optim.Adam, Constant())
    progress = train(optimizee, rule, *arguments, plan)
    assert progress.skipped == bad_ones(optimizee, range(12), TRAIN).sum()
    assert progress.meta_steps == 12 - progress.skipped
    assert all(tensor.isfinite().all() for tensor in rule.state_dict().values())


def test_a_loss_that_is_never_a_number_ends_meta_training_with_a_message():
    nothing = lambda model, batch: SQUARES(model, batch) * math.nan  # noqa: E731
    plan = Plan(horizon=2, truncation=2, episodes=9, problems=1, max_skipped=4)
    arguments = (Replay(), MetaLoss(Uniform(), Plain()), torch.optim.Adam, Constant())
    with pytest.raises(MetaTrainingError, match="4 meta-gradients in a row were not finite"):
        train(a_module(loss=nothing), CoordinatewiseLSTM(2, 1), *arguments, plan)


# ------------------------------------------------------------------ what decides tuned rates


def test_sources_name_the_users_code_and_the_content_of_the_data():
    optimizee = a_module()
    assert {a_network, SQUARES.criterion.__class__} <= {
        x if callable(x) and not isinstance(x, nn.Module) else type(x) for x in optimizee.sources
    }
    inputs, targets = a_table()
    targets = targets.copy()
    targets[0] += 1e-9
    one, same, other = (
        a_module(data=data).rows.source for data in (a_table(), a_table(), (inputs, targets))
    )
    assert one == same != other
    assert a_line in a_module(data=a_line, module=functools.partial(a_network, 1)).sources


def test_tuned_rates_are_forgotten_when_the_content_of_the_data_changes(tmp_path):
    protocol = Protocol(horizon=1, problems=1, tuning_problems=1, seed=0, identity={"as": "ever"})
    inputs, targets = a_table()
    for data, files in (((inputs, targets), 1), ((inputs, targets), 1), ((inputs, -targets), 2)):
        rule = Baseline(torch.optim.SGD, 0.1)
        compare(a_module(data=data), {"sgd": rule}, protocol, TuningCache(tmp_path))
        assert len(list(tmp_path.iterdir())) == files


# ------------------------------------------------------------------ what a user gets wrong


class Shared(nn.Module):
    """A module whose layer is made elsewhere."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)


def unseeded():
    """A module whose start comes from another generator than torch's."""
    made = a_network()
    nn.init.constant_(made[0].bias, np.random.default_rng().normal())
    return made


class Remembering(nn.Module):
    """A state that is no buffer."""

    def __init__(self):
        super().__init__()
        self.net, self.calls = nn.Linear(3, 1), 0

    def forward(self, x):
        self.calls += 1
        return self.calls * self.net(x)


class Failing(nn.Module):
    """An error of the user's own."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 1)

    def forward(self, x):
        raise KeyError("the user's own words")


def global_noise(rng):
    """Data that come from another generator than the one that is given."""
    return a_line(np.random.default_rng())


def a_file_that_is_not_there(rng):
    """Data that cannot be read."""
    raise FileNotFoundError("my_data.csv")


WRONG = {
    "data of another generator": ({"data": global_noise}, "data is not the same twice"),
    "data that cannot be drawn": (
        {"data": a_file_that_is_not_there},
        "data, called with a numpy.random.Generator, failed: FileNotFoundError: my_data.csv",
    ),
    "data that take no generator": (
        {"data": lambda: None}, "data, called with a numpy.random.Generator, failed: TypeError",
    ),
    "data of words": (
        {"data": lambda rng: {"x": np.array(["a", "b"])}}, "x is a ndarray of <U1, and must be",
    ),
    "a module that was made already": ({"module": a_network()}, "_partial_: true"),
    "no callable": ({"module": 3}, "module=3 must be a callable"),
    "a callable that makes something else": ({"module": dict}, "dict, not a torch.nn.Module"),
    "a module that cannot be made": (
        {"module": functools.partial(nn.Linear, 3)}, "module cannot be made: TypeError",
    ),
    "no parameters": ({"module": nn.Identity}, "Identity has no parameter"),
    "frozen parameters only": (
        {"module": lambda: a_network().requires_grad_(False)}, "no parameter that requires",
    ),
    "a lazy layer": (
        {"module": functools.partial(nn.LazyLinear, 1)}, "weight of LazyLinear has no shape yet",
    ),
    "a complex parameter": (
        {"module": functools.partial(nn.Linear, 3, 1, dtype=torch.complex64)}, "must be real",
    ),
    "parts that are made once": (
        {"module": functools.partial(Shared, nn.Linear(3, 1))}, "share parameters",
    ),
    "a start that is not torch's": ({"module": unseeded}, "module is not the same twice"),
    "a state that is no buffer": ({"module": Remembering}, "not the same twice"),
    "an error inside": ({"module": Failing}, "the user's own words"),
    "a loss that must be wrapped": ({"loss": nn.MSELoss()}, "wrap it in"),
    "a loss of two tensors": (
        {"loss": F.mse_loss}, r"Sequential, called with \(model, batch\), failed on inputs",
    ),
    "a loss that is no function": ({"loss": 2.5}, "loss=2.5 must be a function"),
    "a loss that is no scalar": (
        {"loss": Supervised(nn.MSELoss(reduction="none"))}, r"scalar tensor, not \(9, 1\)",
    ),
    "a loss that is no tensor": ({"loss": lambda model, batch: 1.0}, "scalar tensor, not float"),
    "a loss that does not depend on theta": (
        {"loss": lambda model, batch: batch["inputs"].sum()}, "does not require grad",
    ),
    "a loss of unknown data": (
        {"loss": Supervised(nn.MSELoss(), targets="labels")},
        "the data have inputs, targets, and no 'labels'",
    ),
    "an accuracy without held-out rows": (
        {"accuracy": Accuracy(), "held_out_fraction": 0.0}, "held_out_fraction must be > 0",
    ),
    "an accuracy that is no function": ({"accuracy": 1}, "accuracy=1 must be a function"),
    "too many rows per step": ({"batch_size": 10}, r"batch_size=10 must be in \[1, 9\]"),
    "no rows per step": ({"batch_size": 0}, r"batch_size=0 must be in \[1, 9\]"),
    "no spread": ({"init_std": 0.0}, "init_std=0.0 must be > 0"),
    "an unknown batching": ({"batching": "pmap"}, "batching='pmap' must be one of vmap, loop"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_one_line_that_names_it(name):
    changes, message = WRONG[name]
    with pytest.raises(ValueError, match=message) as refused:
        a_module(**changes)
    assert "\n" not in str(refused.value)


def test_a_supervised_loss_must_be_a_function():
    with pytest.raises(ValueError, match="loss='mse' must be a function of"):
        Supervised("mse")
