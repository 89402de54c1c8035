"""What the benchmark compares with is the same rule, and its parts run; nothing is timed here."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import rules, step
from benchmarks.__main__ import PARTS, main
from benchmarks.measure import claim, peak_memory, ratio
from benchmarks.port import PortGradient, memory_of, port_of, state_of
from benchmarks.problems import image_mlp, window_of
from l2l_exp.meta.gradients import Backprop, Replay
from l2l_exp.optimizees.seeding import Seed
from l2l_exp.optimizers.base import state_tensors
from l2l_exp.optimizers.encoding import Identity
from l2l_exp.optimizers.lstm import CoordinatewiseLSTM
from l2l_exp.unroll import Episode, unroll


@pytest.fixture
def rule():
    """The rule with updates that matter, its biases away from zero, in float64."""
    rule = CoordinatewiseLSTM(5, readout_std=0.5).double()
    rng = torch.Generator().manual_seed(0)
    for parameter in rule.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
    return rule


@pytest.fixture
def small():
    """A small image MLP, in float64."""
    return image_mlp(4, 3).double()


def test_the_port_makes_the_same_updates(rule, small):
    port = port_of(rule)
    episode = Episode(small, small.sample([0, 1], Seed("train", 0)), 5)
    with torch.no_grad():
        carry = episode.start(rule)
        memory = memory_of(carry.state)
        for after in unroll(episode, rule, carry, 5):
            update, memory = port(carry.seen.grad.flatten(), memory)
            expected = after.theta - carry.theta
            torch.testing.assert_close(update.view_as(expected), expected, rtol=1e-10, atol=1e-14)
            carry = after
    theirs = state_tensors(state_of(memory, carry.theta.shape))
    for one, other in zip(theirs, state_tensors(carry.state), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-14)


def test_the_port_sees_gradients_of_every_size_alike(rule):
    grad = torch.tensor([0.0, 1e-9, -1e-9, 4.5e-5, -4.6e-5, 1e-3, -1.0, 50.0]).double()
    ours = rule.encoding(grad).T
    torch.testing.assert_close(port_of(rule).preprocess(grad), ours, rtol=1e-12, atol=0)


@pytest.mark.parametrize("before", [0, 4])
def test_the_port_has_the_same_meta_gradient(rule, small, before):
    exact, port, autograd = (
        window_of(gradient, small, rule, 4, before, problems=3)()
        for gradient in (Replay(chunk=10), PortGradient(), Backprop(order=1))
    )
    for theirs in (port, autograd):
        assert theirs.meta_loss == pytest.approx(exact.meta_loss, rel=1e-12)
        torch.testing.assert_close(theirs.losses, exact.losses, rtol=1e-12, atol=0)
        torch.testing.assert_close(theirs.carry.theta, exact.carry.theta, rtol=1e-12, atol=1e-14)
        pairs = zip(
            state_tensors(theirs.carry.state), state_tensors(exact.carry.state), strict=True
        )
        for one, other in pairs:
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-14)
        for one, other in zip(theirs.grads, exact.grads, strict=True):
            assert (one - other).norm() <= 1e-10 * other.norm()


@pytest.mark.parametrize("other", [{"layers": 1}, {"encoding": Identity()}])
def test_only_the_rule_that_the_port_is_can_be_ported(other):
    with pytest.raises(TypeError, match="LSTM of two layers"):
        port_of(CoordinatewiseLSTM(3, **other))


KEYS = {
    "window": {
        "coordinates",
        "threads",
        "max_relative_error_float64",
        "max_relative_error_float32",
    },
    "step": {"nanoseconds_per_coordinate"},
    "rules": {"rows"},
    "memory": {"rows"},
    "history": {"rows"},
    "tuning": {"optimizees"},
    "art": {"rows"},
    "startup": {"seconds"},
    "report": {"runs", "rows", "seconds", "processor_seconds"},
    "training": {"estimators", "seeds", "cosine_of_subset_trained_rule"},
    "estimators": {"toy", "lstm", "size"},
    "dropin": {"rows"},
}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_runs_alone_and_writes_what_it_promises(part, tmp_path, capsys):
    path = main([part, str(tmp_path / "deep" / "figures.json")], tiny=True)
    results = json.loads(path.read_text())
    assert set(results) == {"machine", part}
    assert {"cpu", "cpus", "threads", "torch", "python"} <= set(results["machine"])
    assert KEYS[part] | {"claims", "seconds_of_benchmark"} <= set(results[part])
    for promise in results[part]["claims"]:
        assert set(promise) == {"what", "value", "bound", "limit", "holds"}
        assert promise["value"] >= 0  # a tiny window may take no new page of memory
    assert str(path) in capsys.readouterr().out.replace("\n", "")


@pytest.mark.parametrize("of", ["rules", "step"])
def test_timed_steps_go_on_from_each_other(of, monkeypatch):
    class Counting(CoordinatewiseLSTM):
        def step(self, observed, state):
            steps.append(observed.step)
            assert observed.step < observed.horizon
            return super().step(observed, state)

    steps = []
    if of == "rules":
        call = rules._steps(Counting(2, 1), 10, 3)
    else:
        monkeypatch.setattr(step, "CoordinatewiseLSTM", Counting)
        call = step._steps(step.PURE, 10, 3)
    call()
    call()
    assert steps == list(range(len(steps))) and len(steps) >= 6


def test_every_part_has_its_keys_checked():
    assert set(KEYS) == set(PARTS)


@pytest.mark.parametrize("arguments", [["windows"], ["a.json", "b.json"]])
def test_an_argument_that_means_nothing_is_refused_before_anything_runs(arguments):
    with pytest.raises(SystemExit, match=arguments[0]):
        main(arguments, tiny=True)


def test_a_ratio_is_the_median_of_the_rounds_ratios():
    assert ratio([1.0, 20.0, 3.0], [1.0, 10.0, 1.0]) == 2.0


@pytest.mark.parametrize(("bound", "holds"), [("at most", False), ("at least", True)])
def test_a_claim_says_whether_it_holds(bound, holds):
    assert claim("speed", 2.0, bound, 1.0)["holds"] is holds


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_the_peak_is_what_a_call_holds_at_once():
    peak = peak_memory(lambda: np.ones(8_000_000))  # 64 MB, which are given back
    assert 60 < peak.increase < 100 and peak.process > peak.increase
