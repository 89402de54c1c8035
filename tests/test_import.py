"""Rules of others: torch's cells and Sonnet's kernels against oracles; files that are refused."""

import os
import pickle
import sys

import numpy as np
import pytest
import torch
from conftest import some_digits, tiny_mlp
from safetensors.torch import save_file
from torch import nn

from l2l_exp import checkpoint, rule_cli
from l2l_exp.checkpoint import CheckpointError
from l2l_exp.dead import dead_rule, try_rule
from l2l_exp.dropin.load import find
from l2l_exp.evaluation import evaluate
from l2l_exp.foreign import arrays
from l2l_exp.imported import Form, rule_of
from l2l_exp.optimizees.mlp import ImageMLP
from l2l_exp.optimizees.seeding import Seed
from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers.base import Observation
from l2l_exp.optimizers.lstm import CoordinatewiseLSTM

STEPS, N, HIDDEN = 20, 7, 5
FEATURES = {"log_sign": 2, "none": 1, "scale": 1}


def gradients() -> np.ndarray:
    """(STEPS, N), of very different magnitudes, zeros among them."""
    rng = np.random.default_rng(1)
    drawn = rng.normal(size=(STEPS, N)) * 10.0 ** rng.uniform(-8, 2, (STEPS, N))
    drawn[3] = 0.0
    return drawn


def encoded(grad: np.ndarray, form: Form) -> np.ndarray:
    """(N,) -> (N, features), by the paper's two cases."""
    if form.encoding != "log_sign":
        return (grad * (form.scale if form.encoding == "scale" else 1.0))[:, None]
    large = np.abs(grad) >= np.exp(-form.p)
    size = np.where(large, np.log(np.where(large, np.abs(grad), 1.0)) / form.p, -1.0)
    return np.stack([size, np.where(large, np.sign(grad), np.exp(form.p) * grad)], 1)


def updates(rule, dtype=torch.float64) -> np.ndarray:
    """(STEPS, N) of a rule on `gradients`."""
    spec = ParamSpec.of({"w": ((N,), "free")})
    theta = torch.zeros(1, N, dtype=dtype)
    rule, found = rule.to(dtype), []
    state = rule.init_state(theta, spec)
    with torch.no_grad():
        for step, grad in enumerate(gradients()):
            seen = Observation(
                torch.from_numpy(grad).to(dtype).view(1, N), theta, theta.sum(1), step, STEPS, spec
            )
            update, state = rule.step(seen, state)
            found.append(update[0].numpy())
    return np.stack(found)


class Theirs(nn.Module):
    """Two cells and a linear layer, as reproductions of the paper write it."""

    def __init__(self, inputs: int, bias: bool = True) -> None:
        super().__init__()
        self.recurs = nn.LSTMCell(inputs, HIDDEN, bias=bias)
        self.recurs2 = nn.LSTMCell(HIDDEN, HIDDEN, bias=bias)
        self.output = nn.Linear(HIDDEN, 1, bias=bias)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(3)

    def run(self, form: Form) -> np.ndarray:
        """Its updates on `gradients`, cell by cell."""
        memory = [(torch.zeros(N, HIDDEN).double(),) * 2 for _ in range(2)]
        found = []
        with torch.no_grad():
            for grad in gradients():
                signal = torch.from_numpy(encoded(grad, form))
                for place, cell in enumerate((self.recurs, self.recurs2)):
                    memory[place] = cell(signal, memory[place])
                    signal = memory[place][0]
                found.append(form.output_scale * self.output(signal)[:, 0].numpy())
        return np.stack(found)


def theirs(form: Form, **settings) -> Theirs:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Theirs(FEATURES[form.encoding], **settings).double()


FORMS = [
    Form(),
    Form(p=5.0, output_scale=0.01),
    Form(encoding="none"),
    Form(encoding="scale", scale=0.3, output_scale=2.0),
]


# ------------------------------------------------------------------ oracles


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_cells_of_torch_make_the_same_updates(form, bias):
    module = theirs(form, bias=bias)
    rule = rule_of(module.state_dict(), form)
    expected = module.run(form)
    assert np.abs(expected).max() > form.output_scale / 10
    np.testing.assert_allclose(updates(rule), expected, rtol=1e-10, atol=1e-12)
    single = rule_of({k: x.float() for k, x in module.state_dict().items()}, form)
    assert single.readout.dtype == torch.float32
    np.testing.assert_allclose(updates(single, torch.float32), expected, rtol=0, atol=1e-6)


def test_a_stacked_lstm_of_torch_is_two_cells():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stacked, readout = nn.LSTM(2, HIDDEN, 2).double(), nn.Linear(HIDDEN, 1).double()
    given = {f"m.lstm.{k}": x for k, x in stacked.state_dict().items()}
    given |= {f"m.head.{k}": x for k, x in readout.state_dict().items()}
    inputs = np.stack([encoded(grad, Form()) for grad in gradients()])
    with torch.no_grad():
        expected = readout(stacked(torch.from_numpy(inputs))[0])[..., 0].numpy()
    np.testing.assert_allclose(updates(rule_of(given, Form())), 0.1 * expected, atol=1e-12)


def sonnet_arrays(form: Form, dtype=np.float64) -> dict[str, np.ndarray]:
    """Kernels as Sonnet 1 names and shapes them."""
    rng = np.random.default_rng(2)
    shapes = {
        "rnn/lstm_1/w_gates:0": (FEATURES[form.encoding] + HIDDEN, 4 * HIDDEN),
        "rnn/lstm_1/b_gates:0": (4 * HIDDEN,),
        "rnn/lstm_2/w_gates:0": (2 * HIDDEN, 4 * HIDDEN),
        "rnn/lstm_2/b_gates:0": (4 * HIDDEN,),
        "rnn/linear/w:0": (HIDDEN, 1),
        "rnn/linear/b:0": (1,),
    }
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


def sonnet_updates(given: dict[str, np.ndarray], form: Form) -> np.ndarray:
    """Sonnet's equations: one product of [input, h], gates i, j, f, o, forget bias at run time."""

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    h, c = np.zeros((2, N, HIDDEN)), np.zeros((2, N, HIDDEN))
    found = []
    for grad in gradients():
        signal = encoded(grad, form)
        for layer in range(2):
            kernel = given[f"rnn/lstm_{layer + 1}/w_gates:0"]
            bias = given[f"rnn/lstm_{layer + 1}/b_gates:0"]
            i, j, f, o = np.split(np.concatenate([signal, h[layer]], 1) @ kernel + bias, 4, 1)
            c[layer] = sigmoid(f + form.forget_bias) * c[layer] + sigmoid(i) * np.tanh(j)
            h[layer] = sigmoid(o) * np.tanh(c[layer])
            signal = h[layer]
        output = signal @ given["rnn/linear/w:0"] + given["rnn/linear/b:0"]
        found.append(form.output_scale * output[:, 0])
    return np.stack(found)


@pytest.mark.parametrize("forget_bias", [1.0, 0.0])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_kernels_of_sonnet_make_the_same_updates(form, forget_bias):
    settings = {**vars(form), "layout": "sonnet", "forget_bias": forget_bias}
    form, given = Form(**settings), sonnet_arrays(form)
    expected = sonnet_updates(given, form)
    rule = rule_of({name: torch.from_numpy(x) for name, x in given.items()}, form)
    np.testing.assert_allclose(updates(rule), expected, rtol=1e-10, atol=1e-12)
    with np.errstate(over="ignore"):
        single = {name: torch.from_numpy(x.astype(np.float32)) for name, x in given.items()}
    found = updates(rule_of(single, form), torch.float32)
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6 * form.output_scale / 0.1)


def test_what_is_subtracted_there_is_added_here():
    given = theirs(Form()).state_dict()
    one, other = (updates(rule_of(given, Form(subtracted=x))) for x in (False, True))
    np.testing.assert_array_equal(one, -other)


def test_cells_are_in_the_order_in_which_signals_pass_them():
    given = theirs(Form()).state_dict()
    expected = updates(rule_of(given, Form()))
    renamed = {  # the first by size, though not by name
        name.replace("recurs.", "z.").replace("recurs2.", "a."): x for name, x in given.items()
    }
    np.testing.assert_array_equal(updates(rule_of(renamed, Form())), expected)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        cells = {f"cell{i}": nn.LSTMCell(HIDDEN if i else 2, HIDDEN) for i in range(11)}
    many = {f"{name}.{k}": x for name, one in cells.items() for k, x in one.state_dict().items()}
    many |= nn.Linear(HIDDEN, 1).state_dict()
    by_text = dict(sorted(many.items()))
    rule = rule_of(by_text, Form())
    candidate = cells["cell10"].weight_hh.detach()[2 * HIDDEN : 3 * HIDDEN]
    assert torch.equal(rule.cells[10].recurrent_weight[3 * HIDDEN :], candidate)


# ------------------------------------------------------------------ files


def written(kind: str, path, given: dict[str, torch.Tensor]):
    """A file of arrays, as others write it."""
    if kind == "npz":
        np.savez(path, **{name: x.numpy() for name, x in given.items()})
    elif kind == "npz, big endian":
        np.savez(path, **{name: x.numpy().astype(">f8") for name, x in given.items()})
    elif kind == "safetensors":
        save_file(given, path)
    elif kind == "torch":
        torch.save(given, path)
    elif kind == "torch, old":
        torch.save(given, path, _use_new_zipfile_serialization=False)
    else:
        torch.save({"epoch": 3, "model": {"opt": given}, "note": "x"}, path)
    found = [one for one in path.parent.iterdir() if one.name.startswith(path.name)]
    return found[0]


KINDS = ["npz", "npz, big endian", "safetensors", "torch", "torch, old", "torch, nested"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_same_rule_by_the_command(kind, tmp_path, capsys):
    module = theirs(Form())
    path = written(kind, tmp_path / "theirs", module.state_dict())
    out = tmp_path / "ours.safetensors"
    rule_cli.import_rule([str(path), str(out), "--horizon", "50", "--no-trial"])
    assert "CoordinatewiseLSTM" in capsys.readouterr().out
    rule = find(out)
    assert rule.about == {"imported": path.name, "layout": "torch", "horizon": 50}
    np.testing.assert_allclose(updates(rule), module.run(Form()), rtol=1e-10, atol=1e-12)


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, place):
        self.place = str(place)

    def __reduce__(self):
        return os.mkdir, (self.place,)


def attack(kind: str, path, place) -> None:
    """A file that runs code where it is unpickled."""
    bad = Malicious(place)
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"w": bad}))
    elif kind == "old pickle":
        path.write_bytes(pickle.dumps(bad, protocol=0))
    elif kind == "npz":
        with path.open("wb") as file:
            np.savez(file, w=np.array([bad], dtype=object))
    else:
        torch.save({"w": bad}, path, _use_new_zipfile_serialization=kind == "torch")


@pytest.mark.parametrize("kind", ["pickle", "old pickle", "npz", "torch", "torch, old"])
def test_a_malicious_pickle_is_refused_in_one_line_and_runs_nothing(kind, tmp_path, capsys):
    path, place = tmp_path / "bad", tmp_path / "made"
    attack(kind, path, place)
    monkeyed = sys.argv
    sys.argv = ["l2l-import", str(path), str(tmp_path / "out.safetensors")]
    try:
        with pytest.raises(SystemExit) as ended:
            rule_cli.import_()
    finally:
        sys.argv = monkeyed
    out, err = capsys.readouterr()
    assert ended.value.code == 2 and err.count("\n") == 1 and "could run any code" in err
    assert out == "" and not place.exists() and not (tmp_path / "out.safetensors").exists()


def test_the_attack_is_one(tmp_path):
    attack("pickle", tmp_path / "bad", tmp_path / "made")
    pickle.loads((tmp_path / "bad").read_bytes())
    assert (tmp_path / "made").is_dir()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kept", [0, 1, 9, 100, -1, -30])
def test_a_truncated_file_is_refused_in_one_line(kind, kept, tmp_path):
    path = written(kind, tmp_path / "theirs", theirs(Form()).state_dict())
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError) as caught:
        rule_of(arrays(path), Form())
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"# a text\n", b"{}", b"\0" * 99, b"PK\x03\x04" + b"x" * 50])
def test_a_foreign_file_is_refused(content, tmp_path):
    path = tmp_path / "what"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"[^\n]+"):
        arrays(path)


def test_what_is_no_file_or_holds_no_floats_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="No such file"):
        arrays(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="Is a directory"):
        arrays(tmp_path)
    for name, content in (("tensor", torch.zeros(2)), ("ints", {"a": torch.arange(3)})):
        torch.save(content, tmp_path / name)
        with pytest.raises(CheckpointError, match="no arrays of floating point"):
            arrays(tmp_path / name)
    torch.save({"a": torch.tensor([1.0, torch.nan])}, tmp_path / "nan")
    with pytest.raises(CheckpointError, match="a holds numbers that are not finite"):
        arrays(tmp_path / "nan")


# ------------------------------------------------------------------ arrays that do not fit


def changed(**changes) -> dict[str, torch.Tensor]:
    """The arrays of `theirs` with some changed, or taken away by None."""
    given = {**theirs(Form()).state_dict(), **{k.replace("__", "."): x for k, x in changes.items()}}
    return {name: x for name, x in given.items() if x is not None}


REFUSED = {
    "another encoding": (changed(), Form(encoding="none"), "'recurs' has 2 inputs"),
    "another layout": (changed(), Form(layout="sonnet"), "in this layout: .* none"),
    "no cell": ({"output.weight": torch.zeros(1, 5)}, Form(), "no LSTM cell"),
    "no readout": (changed(output__weight=None, output__bias=None), Form(), "there is no readout"),
    "half a cell": (changed(recurs2__weight_hh=None), Form(), "'recurs2' has no matrix weight_hh"),
    "more": (changed(extra__weight=torch.zeros(3, 3)), Form(), "extra.weight belong to none"),
    "a third readout": (changed(z__weight=torch.zeros(1, 5)), Form(), "z.weight belong to none"),
    "rows": (changed(recurs__bias_ih=torch.zeros(3)), Form(), r"bias_ih of shape \(3,\)"),
    "widths": (
        changed(output__weight=torch.zeros(1, 4)), Form(), "'recurs' has 2 inputs and 5 units"
    ),
    "p": (changed(), Form(p=-1.0), "p=-1"),
    "scale": (changed(), Form(output_scale=-1.0), "output_scale=-1"),
    "kernel without bias": (
        {"a/w": torch.zeros(7, 20), "b/w": torch.zeros(5, 1)}, Form(layout="sonnet"),
        "'a/w' needs one bias of 20",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_arrays_that_are_no_such_rule_are_refused_in_one_line(name):
    given, form, telling = REFUSED[name]
    with pytest.raises(ValueError, match=telling) as caught:
        rule_of(given, form)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", [{"layout": "keras"}, {"encoding": "log"}])
def test_a_form_that_there_is_not_is_refused(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name}='{value}' must be one of"):
        Form(**wrong)


# ------------------------------------------------------------------ dead rules


def lstm(**settings) -> CoordinatewiseLSTM:
    return CoordinatewiseLSTM(**{"hidden_units": 3, "layers": 1, **settings})


def test_a_rule_that_moves_nothing_is_dead():
    trial = try_rule(tiny_mlp(), lstm(output_scale=0.0), horizon=10)
    assert trial.moved == 0 and trial.first == trial.last
    assert trial.complaint == "dead rule: 10 steps move theta by 0 of its length"


def test_a_rule_that_moves_and_gets_nowhere_is_dead():
    """Without a gradient that could tell it where, all coordinates drift alike."""
    rule = lstm(readout_std=0.0)
    with torch.no_grad():
        rule.readout_bias += 0.05
    optimizee = ImageMLP(some_digits(), init="fan_in", hidden_units=2, batch_size=16)
    trial = try_rule(optimizee, rule, horizon=20)
    assert trial.moved > 0.01
    assert (
        trial.complaint.startswith("dead rule: after 20 steps")
        and "of 4 problems" in trial.complaint
    )


def test_a_rule_that_learns_is_not_dead():
    optimizee = ImageMLP(some_digits(), init="fan_in", batch_size=32)
    trial = try_rule(optimizee, find("lstm"), horizon=60)
    assert trial.complaint is None and trial.last < trial.first / 2


def test_the_threshold_is_the_share_of_the_median_problem():
    (record,) = evaluate(tiny_mlp(), lstm(output_scale=0.0), range(3), Seed("validation", 0), 2)

    def told(*last):
        record.metrics["train_loss"][0] = 2.0
        record.metrics["train_loss"][-1] = last
        return dead_rule(record)

    assert told(1.97, 1.97, 2.0) is None
    assert told(1.99, 1.97, 1.99) == (
        "dead rule: after 2 steps 2 of 3 problems are at their starting loss, or above it"
    )
    assert "3 of 3" in told(np.nan, np.inf, 2.0)
    assert dead_rule(record, least_gain=0.0) is not None
    record.metrics["train_loss"][:] = 0.0
    assert "3 of 3" in dead_rule(record) and "3 of 3" in dead_rule(record, least_gain=0.0)


def test_an_import_that_does_nothing_says_so(tmp_path, capsys):
    given = {name: 0 * x for name, x in theirs(Form()).state_dict().items()}
    path = written("torch", tmp_path / "theirs", given)
    rule_cli.import_rule([str(path), str(tmp_path / "out.safetensors")])
    out, err = capsys.readouterr()
    assert "tried on 4 small networks" in out
    assert (
        err.startswith("l2l-import: dead rule: 100 steps move theta by 0") and err.count("\n") == 1
    )


def test_what_is_imported_can_be_saved_and_trained_on(tmp_path):
    rule = rule_of(theirs(Form()).state_dict(), Form())
    checkpoint.save(tmp_path, rule, {})
    loaded = checkpoint.load(tmp_path)
    np.testing.assert_array_equal(updates(loaded), updates(rule))
    assert all(parameter.requires_grad for parameter in loaded.parameters())
