"""The microscope, held to rules whose answers are known in closed form."""

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from l2l_exp import microscope
from l2l_exp.evaluation import evaluate, snapshots
from l2l_exp.microscope.probe import Prescribed, watch
from l2l_exp.microscope.trajectories import label
from l2l_exp.microscope.updates import sweep
from l2l_exp.optimizees.functions import Landscape
from l2l_exp.optimizees.quadratic import Quadratic
from l2l_exp.optimizees.seeding import Seed
from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers.base import LearnedOptimizer, Observation
from l2l_exp.optimizers.baseline import Baseline
from l2l_exp.optimizers.by_hand import BFGSByHand
from l2l_exp.optimizers.gac import GAC
from l2l_exp.optimizers.lstm import CoordinatewiseLSTM, LSTMState
from l2l_exp.optimizers.normalised import NormalisedController
from l2l_exp.optimizers.ntm_bfgs import NTMBFGS
from l2l_exp.optimizers.partitioned import Partitioned
from l2l_exp.optimizers.recurrent import RecurrentRule
from l2l_exp.optimizers.secant import SecantController
from l2l_exp.optimizers.transformer import TransformerRule

LR, DECAY = 0.1, 0.8
TEST = Seed("test", 0)


class Buffers(NamedTuple):
    """State of the rules below."""

    buffers: tuple[Tensor, ...]  # (B, N) each


class Linear(LearnedOptimizer):
    """buffers <- matrix buffers + grad, update = bias - lr * the first buffer."""

    def __init__(self, matrix=((DECAY,),), lr: float = LR, bias: float = 0.0) -> None:
        super().__init__()
        self.matrix, self.lr, self.bias = np.array(matrix), lr, bias

    def init_state(self, theta: Tensor, spec: ParamSpec) -> Buffers:
        return Buffers((torch.zeros_like(theta),) * len(self.matrix))

    def step(self, seen: Observation, state: Buffers) -> tuple[Tensor, Buffers]:
        mixed = [sum(a * x for a, x in zip(row, state.buffers, strict=True)) for row in self.matrix]
        after = tuple(x + seen.grad for x in mixed)
        return self.bias - self.lr * after[0], Buffers(after)


class Power(LearnedOptimizer):
    """update = -lr sign(grad) |grad|^power; keeps nothing."""

    def __init__(self, power: float) -> None:
        super().__init__()
        self.power = power

    def init_state(self, theta: Tensor, spec: ParamSpec) -> Buffers:
        return Buffers(())

    def step(self, seen: Observation, state: Buffers) -> tuple[Tensor, Buffers]:
        return -LR * seen.grad.sign() * seen.grad.abs() ** self.power, state


def sgd(lr: float = LR) -> Baseline:
    return Baseline(torch.optim.SGD, lr=lr)


def adam(lr: float = LR) -> Baseline:
    return Baseline(torch.optim.Adam, lr=lr)


def lstm(std: float = 0.5, seed: int = 0) -> CoordinatewiseLSTM:
    """A rule that moves; a small one."""
    return CoordinatewiseLSTM(hidden_units=4, readout_std=std, seed=seed)


MOMENTUM = [Linear(), Baseline(torch.optim.SGD, lr=LR, momentum=DECAY)]
both_momenta = pytest.mark.parametrize("rule", MOMENTUM, ids=["by hand", "torch"])


# ------------------------------------------------------------------ given gradients


def test_sgd_answers_each_gradient_alone():
    gradients = np.array([[1.0, -2.0], [3.0, 0.5], [0.0, 1e-9]])
    found = microscope.respond(sgd(), gradients)
    np.testing.assert_allclose(found, -LR * gradients, rtol=1e-12, atol=1e-15)


@both_momenta
def test_momentum_answers_with_what_it_has_gathered(rule):
    gradients = np.random.default_rng(0).standard_normal((6, 3))
    gathered, expected = np.zeros(3), []
    for row in gradients:
        gathered = DECAY * gathered + row
        expected.append(-LR * gathered)
    np.testing.assert_allclose(microscope.respond(rule, gradients), expected, rtol=1e-12)


def test_the_rule_itself_is_left_alone():
    rule = lstm()
    before = {name: x.clone() for name, x in rule.state_dict().items()}
    microscope.respond(rule, np.ones((3, 2)))
    assert all(torch.equal(x, before[name]) for name, x in rule.state_dict().items())
    assert rule.readout.dtype == torch.float32


@pytest.mark.parametrize("wrong", [np.ones(3), np.ones((0, 2)), np.full((2, 2), np.nan)])
def test_impossible_gradients_are_refused(wrong):
    with pytest.raises(ValueError, match=r"must be \(steps, problems\), finite"):
        microscope.respond(sgd(), wrong)


def test_an_untuned_baseline_is_refused():
    with pytest.raises(ValueError, match=r"rule.lr=tuned must be one number"):
        microscope.respond(Baseline(torch.optim.SGD), np.ones((2, 1)))


def test_given_gradients_end_in_zeros():
    optimizee = Prescribed(np.ones((2, 1)))
    seen = [m.seen.grad.item() for m in watch(optimizee, {"a": sgd()}, [0], TEST, 4)]
    assert seen == [1, 1, 0, 0]


@both_momenta
def test_proposals_after_a_history(rule):
    asked, times = np.array([-2.0, 0.0, 3.0]), [0, 1, 4]
    found = microscope.proposals_after(rule, np.ones(4), asked, times)
    for time, row in zip(times, found, strict=True):
        gathered = (1 - DECAY**time) / (1 - DECAY)
        np.testing.assert_allclose(row, -LR * (DECAY * gathered + asked), rtol=1e-12)


def test_a_time_outside_the_history_is_refused():
    with pytest.raises(ValueError, match=r"time 5 must be in \[0, 4\]"):
        microscope.proposals_after(sgd(), np.ones(4), np.ones(1), [5])


def test_histories():
    assert microscope.history("constant", 3, 2.0).tolist() == [2, 2, 2]
    assert microscope.history("alternating", 3, 2.0).tolist() == [2, -2, 2]
    assert microscope.history("zero", 2, 2.0).tolist() == [0, 0]
    noisy = microscope.history("noisy", 4000, 2.0, seed=1)
    assert noisy.std() == pytest.approx(2, rel=0.05) and abs(noisy.mean()) < 0.1
    assert (noisy != microscope.history("noisy", 4000, 2.0, seed=2)).all()
    with pytest.raises(ValueError, match="history='loud' must be one of constant, alternating"):
        microscope.history("loud", 3)


# ------------------------------------------------------------------ impulses, drift, scale


@both_momenta
def test_an_impulse_decays_by_the_rules_own_decay(rule):
    found = microscope.impulse_response(rule, [1.0, -3.0], steps=60, settle=5)
    powers = DECAY ** np.arange(60)
    np.testing.assert_allclose(found.responses, -LR * np.outer(powers, [1, -3]), rtol=1e-9)
    assert found.settled == 0
    half = math.log(2) / math.log(1 / DECAY)
    np.testing.assert_allclose(found.half_lives, half, rtol=0.02)


def test_an_impulse_is_what_differs_from_none():
    found = microscope.impulse_response(Linear(bias=0.5), [2.0], steps=3, settle=0)
    np.testing.assert_allclose(found.responses[:, 0], -2 * LR * DECAY ** np.arange(3), rtol=1e-9)
    assert found.settled == 0.5


@pytest.mark.parametrize(
    ("response", "expected"),
    [([1, 0, 0], 0.5), ([0, 0, 2], 2.5), ([1, -1], 1), ([3, 1, 1, 1], 1), ([0, 0], math.nan),
     ([math.inf, 1], math.nan)],
)  # fmt: skip
def test_half_of_a_response(response, expected):
    found = microscope.half_life(np.array(response, dtype=float))
    assert found == pytest.approx(expected, nan_ok=True)


def test_drift_is_what_zero_gradients_do():
    assert microscope.drift(sgd(), 3).tolist() == [0, 0, 0]
    assert microscope.drift(Linear(bias=0.25), 2).tolist() == [0.25, 0.25]
    rule = lstm()
    found = microscope.drift(rule, 5)
    assert len(found) == 5 and (found != 0).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: microscope.drift(sgd(), 0), "steps=0"),
        (lambda: microscope.impulse_response(sgd(), [0.0]), r"sizes=\[0.0\]"),
        (lambda: microscope.impulse_response(sgd(), []), r"sizes=\[\]"),
        (lambda: microscope.impulse_response(sgd(), steps=0), "steps=0"),
        (lambda: microscope.impulse_response(sgd(), settle=-1), "settle=-1"),
    ],
)
def test_impossible_impulses_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


SCALES = [1e-3, 1e-1, 1.0, 1e2]
NOISY = np.random.default_rng(3).standard_normal(20)


@both_momenta
def test_momentum_is_equivariant(rule):
    found = microscope.scale_response(rule, NOISY, SCALES)
    assert found.slope == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(found.slopes, 1, atol=1e-10)
    np.testing.assert_allclose(found.from_equivariant, 0, atol=1e-12)
    np.testing.assert_allclose(found.from_invariant, np.abs(np.array(SCALES) - 1), atol=1e-9)


def test_adam_is_invariant():
    rule = Baseline(torch.optim.Adam, lr=LR, eps=1e-30)
    found = microscope.scale_response(rule, NOISY, SCALES)
    assert found.slope == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(found.from_invariant, 0, atol=1e-9)
    np.testing.assert_allclose(found.from_equivariant, np.abs(1 / np.array(SCALES) - 1), rtol=1e-6)


@pytest.mark.parametrize("power", [0.0, 0.5, 2.0])
def test_the_slope_is_the_power(power):
    found = microscope.scale_response(Power(power), NOISY, SCALES)
    assert found.slope == pytest.approx(power, abs=1e-9)
    np.testing.assert_allclose(found.sizes[2], LR * np.sqrt((np.abs(NOISY) ** (2 * power)).mean()))


@pytest.mark.parametrize("scales", [[1.0], [1.0, 0.5], [0.0, 1.0], [0.5, 2.0], []])
def test_impossible_factors_are_refused(scales):
    with pytest.raises(ValueError, match="scales="):
        microscope.scale_response(sgd(), NOISY, scales)


def test_a_rule_that_rests_has_no_slope():
    assert math.isnan(microscope.scale_response(Linear(lr=0.0), NOISY, SCALES).slope)


# ------------------------------------------------------------------ fixed points


@both_momenta
def test_the_fixed_point_of_momentum(rule):
    found = microscope.fixed_point(rule, gradient=0.5)
    assert found.settled
    np.testing.assert_allclose(found.state, [0.5 / (1 - DECAY)], rtol=1e-7)
    assert found.update == pytest.approx(-LR * 0.5 / (1 - DECAY), rel=1e-7)
    np.testing.assert_allclose(found.eigenvalues, [DECAY], rtol=1e-8)
    np.testing.assert_allclose(found.time_constants, [-1 / math.log(DECAY)], rtol=1e-7)


def test_modes_of_adam_and_of_sgd():
    found = microscope.fixed_point(adam())
    np.testing.assert_allclose(found.eigenvalues, [0.999, 0.9], rtol=1e-8)
    assert found.settled and found.update == 0
    nothing = microscope.fixed_point(sgd(), 2.0)
    assert nothing.settled and nothing.update == -2 * LR
    assert len(nothing.eigenvalues) == len(nothing.time_constants) == len(nothing.state) == 0


def test_a_mode_that_turns_has_complex_eigenvalues():
    turn = 0.9 * np.array([[math.cos(0.3), -math.sin(0.3)], [math.sin(0.3), math.cos(0.3)]])
    found = microscope.fixed_point(Linear(turn.tolist()), 1.5)
    np.testing.assert_allclose(found.jacobian, turn, atol=1e-8)
    np.testing.assert_allclose(np.abs(found.eigenvalues), 0.9, rtol=1e-8)
    np.testing.assert_allclose(np.sort(np.angle(found.eigenvalues)), [-0.3, 0.3], rtol=1e-7)
    rest = np.linalg.solve(np.eye(2) - turn, [1.5, 1.5])
    np.testing.assert_allclose(found.state, rest, rtol=1e-6)


@pytest.mark.parametrize(("matrix", "expected"), [(1.0, 1.0), (1.01, 1.01)])
def test_what_does_not_come_to_rest_is_told(matrix, expected):
    found = microscope.fixed_point(Linear([[matrix]]), 0.5, most_steps=50)
    assert not found.settled and found.change > 0.4 and found.steps == 50
    np.testing.assert_allclose(found.eigenvalues, [expected], rtol=1e-6)
    assert found.time_constants.tolist() == [math.inf]


def test_the_jacobian_of_an_lstm_is_autograds():
    rule = lstm().double()
    found = microscope.fixed_point(rule, 0.3)
    assert found.settled and found.jacobian.shape == (16, 16)

    def advance(flat: Tensor) -> Tensor:
        h0, h1, c0, c1 = flat.view(4, 4, 1, 1)
        _, after = rule.step(seen, LSTMState((h0, h1), (c0, c1)))
        return torch.cat([x.flatten() for part in after for x in part])

    theta = torch.zeros(1, 1, dtype=torch.float64)
    spec = ParamSpec.of({"theta": ((1,), "free")})
    seen = Observation(theta + 0.3, theta, theta[0], 0, 100, spec)
    flat = torch.from_numpy(found.state)
    np.testing.assert_allclose(advance(flat).detach(), found.state, atol=1e-8)
    exact = torch.func.jacrev(advance)(flat).detach()
    np.testing.assert_allclose(found.jacobian, exact, atol=1e-8)
    assert (np.diff(np.abs(found.eigenvalues)) <= 0).all()


def test_counters_of_steps_are_no_part_of_the_state():
    rule = RecurrentRule(hidden_units=3, readout_std=0.5)
    found = microscope.fixed_point(rule, 0.1)
    assert found.settled and found.jacobian.shape == (12 + 2, 12 + 2)  # m and the root of v
    kept = np.sort(np.abs(found.eigenvalues))[-2:]
    np.testing.assert_allclose(kept.max(), math.sqrt(0.95), rtol=0.05)


def test_a_transformer_forgets_all_at_once():
    rule = TransformerRule(history=3)
    found = microscope.fixed_point(rule, 0.1)
    assert found.settled and np.isfinite(found.jacobian).all()


PARTS = Partitioned({"conv": {"rule": lstm(), "kinds": ["conv"]}, "rest": {"rule": lstm()}})


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        (GAC(hidden_units=4, global_cells=1), {}, "couples the coordinates of a"),
        (NTMBFGS(BFGSByHand()), {}, "NTMBFGS couples the coordinates of a problem"),
        (PARTS, {}, "Partitioned has a rule for every part: give one of conv, rest"),
        (Baseline(torch.optim.SGD), {}, "rule.lr=tuned must be one number"),
        (sgd(), {"gradient": math.nan}, "gradient=nan must be finite"),
        (sgd(), {"most_steps": 1}, "most_steps=1 >= 2"),
        (sgd(), {"tolerance": 0.0}, "tolerance=0.0 > 0"),
    ],
)
def test_what_has_no_fixed_point_of_a_coordinate_is_refused(rule, options, message):
    with pytest.raises(ValueError, match=message):
        microscope.fixed_point(rule, **options)


# ------------------------------------------------------------------ trajectories

QUADRATIC = Quadratic(4)


def test_what_is_followed_is_the_rules_own_trajectory():
    rule, horizon = lstm(), 6
    found = microscope.follow(QUADRATIC, {"learned": rule}, [1, 3], TEST, horizon, problem=2)
    record = evaluate(QUADRATIC, rule, [2], TEST, horizon)[0]
    np.testing.assert_array_equal(found.loss, record.loss[:-1, 0])
    thetas = snapshots(QUADRATIC, rule, [2], TEST, horizon, range(horizon + 1))
    path = torch.stack([thetas[step][0, [1, 3]] for step in range(horizon + 1)]).double().numpy()
    np.testing.assert_allclose(found.updates["learned"], np.diff(path, axis=0), atol=1e-6)
    assert found.labels == ("theta[1]", "theta[3]")


def test_others_would_have_done_what_torch_does_on_these_gradients():
    rules = {"learned": lstm(), "sgd": sgd(), "adam": adam()}
    found = microscope.follow(QUADRATIC, rules, range(4), TEST, 7)
    for name, kind in (("sgd", torch.optim.SGD), ("adam", torch.optim.Adam)):
        parameter = torch.zeros(4, requires_grad=True)
        native, before = kind([parameter], lr=LR), np.zeros(4)
        for gradient, update in zip(found.gradients, found.updates[name], strict=True):
            parameter.grad = torch.from_numpy(gradient).float()
            native.step()
            after = parameter.detach().double().numpy().copy()
            np.testing.assert_allclose(update, after - before, atol=1e-5)
            before = after


def test_the_one_who_moves_theta_is_the_first():
    one = microscope.follow(QUADRATIC, {"a": sgd(), "b": adam()}, [0], TEST, 3)
    other = microscope.follow(QUADRATIC, {"b": adam(), "a": sgd()}, [0], TEST, 3)
    assert one.loss[0] == other.loss[0] and one.loss[2] != other.loss[2]


@torch.no_grad()
@pytest.mark.parametrize(
    "rule",
    [
        lstm(),
        GAC(hidden_units=4, global_cells=1, readout_std=0.5),
        Partitioned({"rest": {"rule": lstm()}}),
        Partitioned(
            {
                "free": {"rule": lstm(), "kinds": ["free"]},
                "rest": {"rule": GAC(hidden_units=4, global_cells=1)},
            }
        ),
        adam(),
        NTMBFGS(NormalisedController(hidden_units=4, global_cells=1, readout_std=0.1)),
        NTMBFGS(
            SecantController(hidden_units=4, global_cells=1, readout_std=0.1),
            history=3,
            read="two_loop",
        ),
    ],
    ids=["lstm", "gac", "parts", "mixed", "adam", "ntm", "ntm_lbfgs"],
)
def test_a_swept_gradient_changes_what_the_rule_would_do_and_nothing_else(rule):
    asked = np.array([[-3.0, 0.1, 2.0], [0.0, 1e-6, 1.0]])
    found = microscope.proposals(QUADRATIC, {"a": rule}, [2, 0], [0, 4], asked, TEST, 8)
    assert found.steps == (0, 4) and found.updates["a"].shape == (2, 2, 3)
    for moment in watch(QUADRATIC, {"a": rule}, [0], TEST, 8):
        if moment.seen.step not in found.steps:
            continue
        row = found.steps.index(moment.seen.step)
        for place, coordinate in enumerate((2, 0)):
            assert found.seen[row, place] == moment.seen.grad[0, coordinate].double().item()
            for number, gradient in enumerate(asked[place]):
                grad = moment.seen.grad.clone()
                grad[0, coordinate] = gradient
                update, _ = rule.step(moment.seen._replace(grad=grad), moment.before["a"])
                expected = update[0, coordinate].item()
                assert found.updates["a"][row, place, number] == pytest.approx(
                    expected, rel=1e-4, abs=1e-7
                )


@pytest.mark.parametrize(
    ("steps", "coordinates", "message"),
    [([8], [0], r"step 8 must be in \[0, 8\)"), ([], [0], "got none"),
     ([0], [4], r"coordinate 4 must be in \[0, 4\)"), ([0], [-1], "coordinate -1 must")],
)  # fmt: skip
def test_impossible_sweeps_are_refused(steps, coordinates, message):
    with pytest.raises(ValueError, match=message):
        microscope.proposals(QUADRATIC, {"a": sgd()}, coordinates, steps, np.zeros((1, 2)), TEST, 8)


def test_effective_rates_of_rules_that_are_known():
    rules = {"sgd": sgd(0.01), "adam": adam(0.3), "opposite": Linear([[0.0]], lr=-0.2)}
    found = microscope.effective_rates(QUADRATIC, rules, range(5), TEST, 4)
    np.testing.assert_allclose(found.rates["sgd"], 0.01, rtol=1e-5)
    np.testing.assert_allclose(found.cosines["sgd"], 1, rtol=1e-6)
    np.testing.assert_allclose(found.rates["opposite"], -0.2, rtol=1e-5)
    np.testing.assert_allclose(found.cosines["opposite"], -1, rtol=1e-6)
    first = next(iter(watch(QUADRATIC, rules, range(5), TEST, 4))).seen.grad.double()
    assert found.rates["adam"][0] == pytest.approx(
        0.3 * float(first.abs().sum() / first.square().sum()), rel=1e-4
    )
    assert found.sizes["adam"][0] == pytest.approx(0.3, rel=1e-4)
    assert found.gradient[0] == pytest.approx(float(first.square().mean().sqrt()), rel=1e-6)


def test_coordinates_are_chosen_from_the_tensors_in_turn():
    class Bowl(Quadratic):
        """Two tensors; the even coordinates of the first have no gradient."""

        def __init__(self) -> None:
            super().__init__(7)
            self.spec = ParamSpec.of({"w": ((2, 3), "fc"), "b": ((1,), "bias")})

        def loss(self, theta, data):
            return (theta - torch.tensor([0.0, 3.0, 0.0, 2.0, 0.0, 1.0, 1.0])).square().sum() / 2

        def init(self, problems, seed):
            return torch.zeros(len(problems), 7)

    bowl = Bowl()
    assert microscope.choose(bowl, 2, TEST) == (3, 6)
    assert microscope.choose(bowl, 9, TEST) == (3, 6, 1, 5)
    assert [label(bowl.spec, place) for place in (3, 6)] == ["w[1, 0]", "b[0]"]
    with pytest.raises(ValueError, match="coordinates=0 must be >= 1"):
        microscope.choose(bowl, 0, TEST)


# ------------------------------------------------------------------ noise


def test_sgd_has_the_variance_of_its_closed_form():
    h, noises = [0.5, 2.0, 6.0], [0.0, 0.3]
    found = microscope.stability(sgd(0.3), h, noises, horizon=600, repetitions=64)
    exact = microscope.sgd_variance(0.3, np.array(h), 0.3)
    np.testing.assert_allclose(found.variance[1], exact, rtol=0.1)
    np.testing.assert_allclose(found.mean_square[1], exact, rtol=0.1)
    assert found.settled.all() and not found.diverged.any()
    assert (found.mean_square[0] < 1e-20).all()


def test_the_closed_form_is_what_the_recursion_comes_to():
    lr, h, noise = 0.3, np.array([0.5, 2.0, 6.5]), 0.7
    variance = np.zeros(3)
    for _ in range(3000):
        variance = (1 - lr * h) ** 2 * variance + (lr * noise) ** 2
    np.testing.assert_allclose(microscope.sgd_variance(lr, h, noise), variance, rtol=1e-10)
    assert microscope.sgd_variance(1.0, np.array([2.0, 3.0]), 1.0).tolist() == [math.inf] * 2


def test_sgd_diverges_where_it_must():
    found = microscope.stability(sgd(1.0), [0.1, 1.9, 2.1, 50.0], [0.0], 400, 2)
    assert found.diverged.tolist() == [[0, 0, 1, 1]]
    assert found.settled.tolist() == [[True, True, False, False]]


def test_without_noise_theta_falls_by_the_contraction():
    found = microscope.stability(sgd(0.1), [1.0], [0.0], 8, 1, start=-2.0)
    path = -2 * 0.9 ** np.arange(5, 9)
    assert found.mean[0, 0] == pytest.approx(path.mean())
    assert found.variance[0, 0] == pytest.approx(path.var())
    assert found.mean_square[0, 0] == pytest.approx((path**2).mean())


def test_a_rule_that_walks_away_has_not_settled():
    found = microscope.stability(Linear(lr=0.0, bias=0.1), [1.0], [0.0], 100, 1)
    assert not found.settled.any() and not found.diverged.any()


def test_rules_meet_the_same_noise():
    one, other = (microscope.stability(sgd(), [1.0], [1.0], 20, 3) for _ in range(2))
    assert one.variance == other.variance
    assert one.variance != microscope.stability(sgd(), [1.0], [1.0], 20, 3, seed=1).variance


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"curvatures": [0.0]}, r"curvatures=\[0.0\]"),
        ({"curvatures": []}, r"curvatures=\[\]"),
        ({"noises": [-1.0]}, r"noises=\[-1.0\]"),
        ({"horizon": 3}, "horizon=3"),
        ({"repetitions": 0}, "repetitions=0"),
        ({"start": 0.0}, "start=0.0"),
    ],
)
def test_impossible_parabolas_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        microscope.stability(sgd(), **{"curvatures": [1.0], "noises": [0.0], **options})


# ------------------------------------------------------------------ memories

SPECTRUM = Quadratic(3, "gaussian", gradient_scale=0.5)


def test_the_hessian_of_a_quadratic_is_exact():
    optimizee = SPECTRUM.to(torch.float64)
    problem = optimizee.sample([0, 1], TEST)
    theta = optimizee.init([0, 1], TEST)
    w = problem.data["W"]
    found = microscope.hessian(optimizee, theta, problem)
    torch.testing.assert_close(found, w.mT @ w, rtol=1e-7, atol=1e-7)


def test_the_hessian_of_another_function_is_that_at_theta():
    optimizee = Landscape("rosenbrock").to("cpu", torch.float64)
    theta = torch.tensor([[0.5, -1.0]], dtype=torch.float64)
    found = microscope.hessian(optimizee, theta, optimizee.sample([0], TEST))
    exact = torch.autograd.functional.hessian(
        lambda x: 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2, theta[0]
    )
    torch.testing.assert_close(found[0], exact, rtol=1e-5, atol=1e-5)


def textbook(rule_lr: float, multiple: float, steps: int) -> np.ndarray:
    """BFGS with steps of one length, in numpy: the memory after so many steps."""
    optimizee = SPECTRUM.to(torch.float64)
    data = optimizee.sample([1], TEST).data
    w, y = data["W"][0].numpy(), data["y"][0].numpy()
    theta, matrix, last = optimizee.init([1], TEST)[0].numpy(), multiple * np.eye(3), None
    for _ in range(steps):
        grad = w.T @ (w @ theta - y)
        if last is not None:
            s, change = theta - last[0], grad - last[1]
            rho = 1 / (s @ change)
            left = np.eye(3) - rho * np.outer(s, change)
            matrix = left @ matrix @ left.T + rho * np.outer(s, s)
        last = theta, grad
        theta = theta - rule_lr * matrix @ grad
    return matrix


@pytest.mark.parametrize("history", [None, 40])
def test_the_memory_of_bfgs_is_the_textbooks(history):
    rule = NTMBFGS(BFGSByHand(lr=0.5), initial_memory=0.1, history=history).double()
    moments = list(watch(SPECTRUM.to(torch.float64), {"rule": rule}, [1], TEST, 6))
    for steps in (1, 2, 6):
        found = microscope.memory_matrix(rule, moments[steps - 1].after["rule"])
        np.testing.assert_allclose(found[0], textbook(0.5, 0.1, steps), rtol=1e-6, atol=1e-9)


def test_a_two_loop_memory_is_what_its_loops_make_of_vectors():
    controller = SecantController(hidden_units=4, global_cells=1)
    rule = NTMBFGS(controller, history=3, read="two_loop").double()
    *_, last = watch(SPECTRUM.to(torch.float64), {"rule": rule}, [0, 1], TEST, 5)
    found = microscope.memory_matrix(rule, last.after["rule"])
    torch.testing.assert_close(found, found.mT, rtol=1e-8, atol=1e-10)  # as L-BFGS's must be


def test_measures_of_fit_against_the_textbooks_memory():
    rule = NTMBFGS(BFGSByHand(lr=0.5), initial_memory=0.1)
    found = microscope.memory_fit(SPECTRUM, rule, [1], TEST, 10, steps=[1, 6])
    data = SPECTRUM.to(torch.float64).sample([1], TEST).data["W"][0].numpy()
    inverse = np.linalg.inv(data.T @ data)
    for row, steps in enumerate((1, 6)):
        matrix = textbook(0.5, 0.1, steps)
        size = np.linalg.norm
        cosine = (matrix * inverse).sum() / (size(matrix) * size(inverse))
        assert found.cosine[row, 0] == pytest.approx(cosine, rel=1e-6)
        error = size(matrix - inverse) / size(inverse)
        assert found.error[row, 0] == pytest.approx(error, rel=1e-6)
        identity = size(matrix @ data.T @ data - np.eye(3)) / math.sqrt(3)
        assert found.identity_error[row, 0] == pytest.approx(identity, rel=1e-5)
    assert found.steps == (1, 6) and found.loss[1, 0] < found.loss[0, 0]
    assert found.direction.min() >= -1 and found.direction.max() <= 1
    assert found.direction[1, 0] > found.direction[0, 0]


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        (lstm(), {}, "CoordinatewiseLSTM has no memory to compare"),
        (NTMBFGS(BFGSByHand()), {"steps": [0]}, r"steps=\[0\] must be in \[1, 5\]"),
        (NTMBFGS(BFGSByHand()), {"steps": [6]}, r"steps=\[6\]"),
        (NTMBFGS(BFGSByHand()), {"optimizee": Prescribed(np.ones((2, 1)))}, "another Hessian"),
    ],
)
def test_impossible_memories_are_refused(rule, options, message):
    given = {"optimizee": QUADRATIC, "problems": [0], "seed": TEST, "horizon": 5, **options}
    with pytest.raises(ValueError, match=message):
        microscope.memory_fit(given.pop("optimizee"), rule, **given)


# ------------------------------------------------------------------ what a run records


def test_updates_of_a_run():
    rules = {"learned": lstm(), "sgd": sgd(), "momentum": MOMENTUM[1]}
    look = microscope.Updates(coordinates=2, steps=3, points=5, span=2.0)
    followed, swept = look(QUADRATIC, rules, TEST, 9)
    assert list(followed.updates) == list(swept.updates) == ["learned", "sgd"]
    assert swept.steps == (0, 4, 8) and swept.gradients.shape == (2, 5)
    size = np.sqrt((followed.gradients**2).mean(0))
    np.testing.assert_allclose(swept.gradients[:, -1], 2 * size, rtol=1e-6)
    np.testing.assert_allclose(swept.seen, followed.gradients[[0, 4, 8]])
    np.testing.assert_allclose(swept.updates["sgd"][1], -LR * swept.gradients, rtol=1e-3)


def test_a_sweep_of_a_coordinate_that_never_has_a_gradient():
    asked = sweep(np.array([[0.0, 1.0, math.inf], [0.0, -1.0, 1.0]]), 3, 2.0)
    np.testing.assert_allclose(asked, [[-2, 0, 2]] * 3)


@pytest.mark.parametrize("wrong", [("coordinates", 0), ("steps", 0), ("points", 1), ("span", 0.0)])
def test_impossible_options_are_refused(wrong):
    with pytest.raises(ValueError, match=f"microscope.{wrong[0]}={wrong[1]} must be"):
        microscope.Updates(**dict([wrong]))
