"""Different rules for different parts: each part is what its rule alone would do to it."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from l2l_exp.meta.gradients import Backprop, Replay
from l2l_exp.optimizees.seeding import Seed
from l2l_exp.optimizees.spec import ParamSpec, layout, layout_of
from l2l_exp.optimizers.base import LearnedOptimizer, Observation, map_state, state_tensors
from l2l_exp.optimizers.baseline import Baseline
from l2l_exp.optimizers.encoding import Identity
from l2l_exp.optimizers.lbfgs import LBFGS
from l2l_exp.optimizers.lstm import CoordinatewiseLSTM
from l2l_exp.optimizers.partitioned import Partitioned
from l2l_exp.unroll import Episode, unroll

SPEC = ParamSpec.of(
    {
        "conv0.weight": ((2, 1, 3), "conv"),
        "conv0.bias": ((2,), "bias"),
        "norm0.shift": ((2,), "norm"),
        "conv1.weight": ((1, 2, 2), "conv"),
        "fc0.weight": ((2, 3), "fc"),
        "fc0.bias": ((3,), "bias"),
        "scale": ((), "free"),
    }
)
B = 3
COUPLINGS = ("none", "tensor", "problem")


def lstm(seed=0, **changes) -> CoordinatewiseLSTM:
    """A small LSTM whose updates are not small."""
    usual = {"hidden_units": 3, "layers": 1, "readout_std": 0.5}
    return CoordinatewiseLSTM(**{**usual, **changes}, seed=seed).double()


def adam(lr=0.01) -> Baseline:
    """Adam at one rate."""
    return Baseline(torch.optim.Adam, lr)


class Nosy(LearnedOptimizer):
    """Reads everything there is to see, of all coordinates that it may."""

    def __init__(self, coupling):
        super().__init__()
        self.coupling = coupling
        self.gain = nn.Parameter(torch.tensor(0.01, dtype=torch.float64))
        self.in_place = 0

    def init_state(self, theta, spec):
        return (torch.zeros_like(theta),)

    def step(self, seen, state):
        grad = seen.grad
        if self.coupling != "none":
            assert seen.grad.shape[-1] == seen.theta.shape[-1] == seen.spec.size
            grad = grad.mean(1, keepdim=True)
        memory = state[0] + grad
        update = memory * seen.theta + seen.loss.unsqueeze(1) * (seen.step + 1) / seen.horizon
        return -self.gain * update, (memory,)

    def step_in_place(self, seen, state):
        self.in_place += 1
        return self.step(seen, state)


def observations(spec, steps=4, seed=0):
    """What B problems of a layout show at some steps."""
    rng = torch.Generator().manual_seed(seed)
    for step in range(steps):
        grad, theta = torch.randn(2, B, spec.size, generator=rng, dtype=torch.float64)
        yield Observation(grad, theta, theta.square().sum(1), step, 10, spec)


def run(rule, seen):
    """Updates (steps, B, N) on given observations."""
    seen = list(seen)
    state, updates = rule.init_state(seen[0].theta, seen[0].spec), []
    for observation in seen:
        update, state = rule.step(observation, state)
        updates.append(update)
    return torch.stack(updates)


def named(rule, spec=SPEC):
    """Part -> names of its tensors."""
    return {part: [t.name for t in own.tensors] for part, own in rule.layouts(spec).items()}


# --- what belongs to which part ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("conditions", "taken"),
    [
        ({"kinds": ["conv"]}, ["conv0.weight", "conv1.weight"]),
        ({"kinds": ["norm", "free"]}, ["norm0.shift", "scale"]),
        ({"names": ["conv*"]}, ["conv0.weight", "conv0.bias", "conv1.weight"]),
        ({"names": ["*0.bias", "scal?"]}, ["conv0.bias", "fc0.bias", "scale"]),
        ({"names": ["CONV*"]}, []),
        ({"names": ["conv"]}, []),
        ({"ranks": [1]}, ["conv0.bias", "norm0.shift", "fc0.bias"]),
        ({"ranks": [0, 2]}, ["fc0.weight", "scale"]),
        ({"kinds": ["bias"], "names": ["fc*"]}, ["fc0.bias"]),
        ({"kinds": ["conv"], "names": ["*1*"], "ranks": [3]}, ["conv1.weight"]),
        ({"kinds": ["conv"], "ranks": [2]}, []),
        ({"kinds": None, "names": None, "ranks": [2]}, ["fc0.weight"]),
    ],
)
def test_a_part_takes_the_tensors_that_meet_all_its_conditions(conditions, taken):
    rule = Partitioned({"mine": {**conditions, "rule": lstm()}, "rest": {"rule": adam()}})
    rest = [t.name for t in SPEC.tensors if t.name not in taken]
    assert named(rule) == ({"mine": taken, "rest": rest} if taken else {"rest": rest})


def test_the_first_part_that_matches_takes_a_tensor_and_the_rest_is_last_wherever_it_stands():
    parts = {
        "rest": {"rule": adam()},
        "vectors": {"ranks": [1], "rule": adam()},
        "biases": {"kinds": ["bias", "free"], "rule": adam()},
    }
    matrices = ["conv0.weight", "conv1.weight", "fc0.weight"]
    vectors = ["conv0.bias", "norm0.shift", "fc0.bias"]
    expected = {"rest": matrices, "vectors": vectors, "biases": ["scale"]}
    assert named(Partitioned(parts)) == expected
    other = {name: parts[name] for name in ("biases", "vectors", "rest")}
    assert named(Partitioned(other))["biases"] == ["conv0.bias", "fc0.bias", "scale"]


def test_tensors_that_no_part_takes_are_named():
    rule = Partitioned({"conv": {"kinds": ["conv"], "rule": lstm()}})
    with pytest.raises(ValueError, match=r"'conv0.bias' \(kind bias, rank 1\)"):
        rule.init_state(torch.zeros(1, SPEC.size), SPEC)


def test_bare_parameters_are_parted_like_their_module():
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))
    rule = Partitioned({"conv": {"kinds": ["conv"], "rule": lstm()}, "rest": {"rule": adam()}})
    bare, own = layout_of(module.named_parameters()), layout(module)
    assert rule.layouts(bare) == rule.layouts(own)
    assert named(rule, bare)["conv"] == ["0.weight"]


# --- what every part does ---------------------------------------------------------------------


def rules_for(coupling) -> dict[str, LearnedOptimizer]:
    """A rule per part; the last of them makes the coupling."""
    last = lstm(2, layers=2) if coupling == "none" else Nosy(coupling)
    return {"conv": lstm(1), "fc": Nosy("none"), "vectors": adam(), "rest": last}


def parted(coupling="none") -> Partitioned:
    """Parts that lie scattered in the vector."""
    rules = rules_for(coupling)
    return Partitioned(
        {
            "conv": {"kinds": ["conv"], "rule": rules["conv"]},
            "fc": {"names": ["fc0.weight"], "rule": rules["fc"]},
            "vectors": {"ranks": [1], "rule": rules["vectors"]},
            "rest": {"rule": rules["rest"]},
        }
    )


def only(seen, own, spec=SPEC):
    """An observation of some tensors alone."""
    grad, theta = (own.flatten(spec.unflatten(x)) for x in (seen.grad, seen.theta))
    return seen._replace(grad=grad, theta=theta, spec=own)


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_every_part_is_what_its_rule_alone_would_do(coupling):
    rule = parted(coupling)
    assert rule.coupling == coupling
    seen = list(observations(SPEC))
    together = SPEC.unflatten(run(rule, seen))
    for name, own in rule.layouts(SPEC).items():
        alone = run(rules_for(coupling)[name], [only(x, own) for x in seen])
        mine = own.flatten(together)
        torch.testing.assert_close(mine, alone, rtol=1e-12, atol=1e-14)
        assert mine.count_nonzero() == mine.numel()


@pytest.mark.parametrize("make", [lstm, adam, lambda: LBFGS(0.1), lambda: Nosy("problem")])
def test_one_part_of_everything_is_the_rule_bit_for_bit(make):
    whole = run(make(), observations(SPEC))
    assert torch.equal(run(Partitioned({"all": {"rule": make()}}), observations(SPEC)), whole)


def test_a_part_with_nothing_to_do_changes_nothing():
    spec = ParamSpec.of({"w": ((2, 2), "fc")})
    rule = Partitioned({"conv": {"kinds": ["conv"], "rule": lstm(1)}, "rest": {"rule": lstm()}})
    assert torch.equal(run(rule, observations(spec)), run(lstm(), observations(spec)))


def test_parts_may_be_parted_again():
    inner = Partitioned({"big": {"ranks": [3], "rule": lstm(1)}, "rest": {"rule": lstm(2)}})
    nested = Partitioned(
        {"named": {"names": ["conv*"], "rule": inner}, "rest": {"rule": Nosy("problem")}}
    )
    flat = Partitioned(
        {
            "big": {"names": ["conv*"], "ranks": [3], "rule": lstm(1)},
            "named": {"names": ["conv*"], "rule": lstm(2)},
            "rest": {"rule": Nosy("problem")},
        }
    )
    seen = list(observations(SPEC))
    torch.testing.assert_close(run(nested, seen), run(flat, seen), rtol=1e-12, atol=1e-14)


# --- taking coordinates and problems apart ----------------------------------------------------


def warm(rule):
    """A state that has seen two steps."""
    seen = list(observations(SPEC, 2))
    state = rule.init_state(seen[0].theta, SPEC)
    for observation in seen:
        _, state = rule.step(observation, state)
    return state


@pytest.mark.parametrize("steps", [0, 2])
def test_coordinates_taken_in_any_order_and_twice_stay_with_their_rule(steps):
    rule, seen = parted(), next(observations(SPEC, seed=1))
    state = warm(rule) if steps else rule.init_state(seen.theta, SPEC)
    update, _ = rule.step(seen, state)
    rng = torch.Generator().manual_seed(0)
    first = torch.randperm(B * SPEC.size, generator=rng)[:40]
    second = torch.randperm(40, generator=rng)[:25]
    cut, taken = seen.take(first, "none").take(second, "none"), rule.take(state, first)
    part, _ = rule.step(cut, rule.take(taken, second))
    expected = update.flatten()[first[second]].unsqueeze(1)
    torch.testing.assert_close(part, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("place", range(SPEC.size))
def test_a_single_coordinate_meets_its_own_rule(place):
    rule, seen = parted(), next(observations(SPEC, seed=1))
    state = warm(rule)
    index = torch.tensor([SPEC.size + place])
    part, after = rule.step(seen.take(index, "none"), rule.take(state, index))
    whole, whole_after = rule.step(seen, state)
    torch.testing.assert_close(part[0, 0], whole[1, place], rtol=1e-12, atol=1e-14)
    assert after.parts.keys() == state.parts.keys()
    again, _ = rule.step(seen.take(index, "none"), after)
    torch.testing.assert_close(
        again[0, 0], rule.step(seen, whole_after)[0][1, place], rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize("coupling", COUPLINGS[1:])
def test_problems_taken_twice_stay_with_their_state(coupling):
    rule, seen = parted(coupling), next(observations(SPEC, seed=1))
    state = warm(rule)
    update, _ = rule.step(seen, state)
    first, second = torch.tensor([2, 0, 1]), torch.tensor([1, 0])
    cut = seen.take(first, coupling).take(second, coupling)
    part, _ = rule.step(cut, rule.take(rule.take(state, first), second))
    torch.testing.assert_close(part, update[first[second]], rtol=1e-12, atol=1e-14)


def test_a_state_keeps_the_owners_exact_when_it_changes_its_dtype():
    state = warm(parted())
    assert state.owner.dtype == torch.float64
    small = map_state(torch.Tensor.float, state)
    assert torch.equal(small.owner.double(), state.owner)
    assert {x.dtype for x in state_tensors(small)} == {torch.float32}
    numbers = SPEC.unflatten(small.owner[0])
    assert {name: x.unique().tolist() for name, x in numbers.items()} == {
        "conv0.weight": [0], "conv1.weight": [0], "conv0.bias": [2], "norm0.shift": [2],
        "fc0.bias": [2], "fc0.weight": [1], "scale": [3],
    }  # fmt: skip


def test_replay_on_subsets_is_the_full_gradient_on_average(mlp):
    rule = Partitioned(
        {"w": {"names": ["*weight"], "rule": lstm(1)}, "rest": {"rule": lstm(2, layers=2)}}
    )
    problem = mlp.sample((0, 1), Seed("train", 0))
    draws = np.random.default_rng(0)

    def estimate(gradient, steps=3):
        episode = Episode(mlp, problem, 10, gradient.attached)
        *_, carry = unroll(episode, rule, episode.start(rule), 2)
        result = gradient(episode, rule, carry.detach(), steps, torch.mean, draws)
        return torch.cat([grad.flatten() for grad in result.grads])

    exact = estimate(Backprop(order=1))
    assert (estimate(Replay(chunk=50)) - exact).norm() <= 1e-10 * exact.norm()
    many = torch.stack([estimate(Replay(subset=40)) for _ in range(200)])
    error = many.std(0) / len(many) ** 0.5
    assert ((many.mean(0) - exact).abs() <= 5 * error + 1e-12).all()
    assert (many.std(0) > 1e-3 * exact.abs()).any()  # the subsets do differ


def test_the_meta_parameters_are_those_of_all_parts_under_their_names():
    rule = parted()
    assert {name.split(".")[1] for name, _ in rule.named_parameters()} == {"conv", "fc", "rest"}
    alone = rules_for("none").values()
    count = sum(p.numel() for r in alone for p in r.parameters())
    assert sum(p.numel() for p in rule.parameters()) == count


def test_a_step_in_place_is_that_of_the_parts():
    rule, seen = parted(), next(observations(SPEC))
    with torch.no_grad():
        _, state = rule.step(seen, rule.init_state(seen.theta, SPEC))
        assert rule.rules["fc"].in_place == 0
        rule.step_in_place(seen, state)
    assert rule.rules["fc"].in_place == 1


def test_a_copy_has_meta_parameters_of_its_own():
    rule = parted()
    other = copy.deepcopy(rule)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert not torch.equal(run(rule, observations(SPEC)), run(other, observations(SPEC)))


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "at least one part"),
        ({"a": {"rule": lstm()}, "b": {"rule": adam()}}, "parts a, b have no condition"),
        (
            {"a": {"kinds": ["cnv"], "rule": lstm()}},
            "part 'a': kinds: 'cnv' is not one of fc, conv",
        ),
        ({"a": {"kinds": "conv", "rule": lstm()}}, "part 'a': kinds='conv' must be a list"),
        ({"a": {"names": [], "rule": lstm()}}, r"part 'a': names=\[\] must be a list"),
        ({"a": {"names": [3], "rule": lstm()}}, "part 'a': names: 3 must be a pattern"),
        ({"a": {"ranks": [-1], "rule": lstm()}}, "part 'a': ranks: -1 must be .* >= 0"),
        ({"a": {"ranks": ["1"], "rule": lstm()}}, "part 'a': ranks: '1' must be"),
        ({"a": {"kind": ["conv"], "rule": lstm()}}, "part 'a': 'kind' is none of .* names, ranks"),
        ({"a": {"kinds": ["conv"]}}, "part 'a': rule=None must be a learned optimizer"),
        ({"a": {"rule": nn.Linear(1, 1)}}, "part 'a': rule=Linear.* must be a learned optimizer"),
        ({"a": None}, "part 'a': None must be"),
        ({"a": {"rule": Baseline(torch.optim.SGD)}}, "part 'a': rule.lr=tuned must be one number"),
        ({"a": {"rule": Baseline(torch.optim.SGD, [1.0, 2.0])}}, r"rule.lr=\[1.0, 2.0\] must be"),
        ({"a.b": {"rule": lstm()}}, "cannot be called 'a.b'"),
        ({"keys": {"rule": lstm()}}, "cannot be called 'keys'"),
        ({3: {"rule": lstm()}}, "cannot be called 3"),
    ],
)
def test_impossible_parts_are_refused_by_name(parts, message):
    with pytest.raises(ValueError, match=message):
        Partitioned(parts)


def test_two_parts_cannot_be_one_rule():
    shared = lstm(1, encoding=Identity())
    with pytest.raises(ValueError, match="parts a, b share a rule"):
        Partitioned({"a": {"ranks": [1], "rule": shared}, "b": {"rule": shared}})
