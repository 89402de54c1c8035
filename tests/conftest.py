"""What several test modules share: the tables of components under test, and tiny stand-ins.

A new component is one row of `OPTIMIZEES` or `RULES`: it meets the whole contract battery.
Everything is in float64, so that equalities can be asked for to the last few digits.
"""

import functools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import settings
from torch import nn

from l2l_exp.optimizees.art import NeuralArt
from l2l_exp.optimizees.base import Optimizee, Problem
from l2l_exp.optimizees.contents import Contents, read_contents
from l2l_exp.optimizees.conv import ConvNet
from l2l_exp.optimizees.data import digits
from l2l_exp.optimizees.features import RandomFeatures
from l2l_exp.optimizees.functions import Landscape
from l2l_exp.optimizees.images import Images
from l2l_exp.optimizees.jitter import Jitter
from l2l_exp.optimizees.lasso import Lasso
from l2l_exp.optimizees.logistic import Logistic
from l2l_exp.optimizees.mlp import ImageMLP
from l2l_exp.optimizees.module import ModuleOptimizee
from l2l_exp.optimizees.objectives import Supervised
from l2l_exp.optimizees.quadratic import Quadratic
from l2l_exp.optimizees.repeated import Repeated
from l2l_exp.optimizees.scaled import Scaled
from l2l_exp.optimizees.seeding import draw
from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizees.spectrum import Spectrum
from l2l_exp.optimizers.base import LearnedOptimizer, Observation
from l2l_exp.optimizers.baseline import Baseline
from l2l_exp.optimizers.by_hand import BFGSByHand
from l2l_exp.optimizers.encoded import EncodedController
from l2l_exp.optimizers.encoding import Identity, LogSign
from l2l_exp.optimizers.gac import GAC
from l2l_exp.optimizers.hierarchical import Hierarchical
from l2l_exp.optimizers.inputs import (
    EncodedGradient,
    Joined,
    MomentRatios,
    SizeRatios,
    WithProgress,
)
from l2l_exp.optimizers.lbfgs import LBFGS
from l2l_exp.optimizers.lstm import CoordinatewiseLSTM
from l2l_exp.optimizers.mlp import MLPOptimizer
from l2l_exp.optimizers.normalised import NormalisedController
from l2l_exp.optimizers.ntm_bfgs import NTMBFGS
from l2l_exp.optimizers.partitioned import Partitioned
from l2l_exp.optimizers.postprocess import Postprocessed
from l2l_exp.optimizers.recurrent import RecurrentRule
from l2l_exp.optimizers.safeguard import Safeguarded
from l2l_exp.optimizers.secant import SecantController
from l2l_exp.optimizers.star import STAR
from l2l_exp.optimizers.transformer import TransformerRule
from l2l_exp.optimizers.whitened import Whitened
from l2l_exp.optimizers.width import WidthScaled

torch.set_num_threads(1)
settings.register_profile("l2l_exp", deadline=None, derandomize=True, database=None)
settings.load_profile("l2l_exp")


@functools.cache
def some_digits() -> Images:
    """The first 300 digits: at least 25 of every class."""
    whole = digits()
    return Images(whole.pixels[:300], whole.labels[:300])


def tiny_mlp(jitter: Jitter | None = None, **changes) -> ImageMLP:
    """An MLP of a few hundred coordinates with smooth units."""
    tiny = {"hidden_units": 2, "batch_size": 4, "init_std": 0.5}
    return ImageMLP(some_digits()._replace(jitter=jitter), **{**tiny, **changes})


def tiny_conv(**changes) -> ConvNet:
    """A conv net of a few hundred coordinates with smooth units, on images in colour."""
    tiny = {"channels": 2, "layers": 2, "kernel": 3, "hidden_units": 4, "activation": "tanh"}
    images = some_digits()._replace(jitter=Jitter(flip=True, padding="reflection"))
    images = images._replace(pixels=images.pixels.expand(-1, 3, -1, -1))
    return ConvNet(images, **{**tiny, "batch_size": 5, "init_std": 0.3, "groups": 2, **changes})


def a_table(rows=36, inputs=3) -> tuple[np.ndarray, np.ndarray]:
    """Random inputs (rows, inputs) and targets (rows, 1)."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(rows, inputs)), rng.normal(size=(rows, 1))


def a_line(rng: np.random.Generator) -> dict:
    """Twelve points of a problem's own line, and how steep it is."""
    x, slope = rng.uniform(size=(12, 1)), rng.normal()
    return {"inputs": x, "targets": slope * x, "slope": slope}


def a_network(inputs=3) -> nn.Module:
    """A smooth network with a normalisation."""
    return nn.Sequential(nn.Linear(inputs, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 1))


def a_module(**changes) -> ModuleOptimizee:
    """A network fitted to a table by least squares."""
    usual = {"module": a_network, "data": a_table(), "loss": Supervised(nn.MSELoss())}
    return ModuleOptimizee(**{**usual, **changes})


@functools.cache
def photographs() -> Contents:
    """The bundled content pictures."""
    return read_contents()


def tiny_art(**changes) -> NeuralArt:
    """Neural art on 8x8 pixels with a few random filters."""
    features = RandomFeatures((3, 4), (3, 3), ["conv2_1"], ["conv1_1", "conv2_1"])
    return NeuralArt(photographs(), features, **{"style": "retina", "size": 8, **changes})


OPTIMIZEES: dict[str, Callable[[], Optimizee]] = {
    "quadratic_gaussian": lambda: Quadratic(4, "gaussian", init_std=1.0),
    "quadratic_uniform": lambda: Quadratic(3, "uniform", init_std=0.5),
    "mlp": lambda: tiny_mlp(),
    "mlp_two_layers": lambda: tiny_mlp(layers=2, activation="tanh"),
    "mlp_jitter": lambda: tiny_mlp(jitter=Jitter()),
    "mlp_jitter_two_layers": lambda: tiny_mlp(jitter=Jitter(), layers=2),
    "mlp_fan_in": lambda: tiny_mlp(init="fan_in", activation="softplus"),
    "mlp_label_noise": lambda: tiny_mlp(label_noise=0.3),
    "conv": lambda: tiny_conv(),
    "conv_group": lambda: tiny_conv(norm="group", activation="gelu", batching="vmap"),
    "conv_without_norm": lambda: tiny_conv(norm="none", init="fan_in", label_noise=0.2),
    "module": lambda: a_module(batch_size=5),
    "module_loop": lambda: a_module(batch_size=5, batching="loop", init_std=0.5),
    "module_drawn": lambda: a_module(
        data=a_line, module=functools.partial(a_network, 1), held_out_fraction=0.5
    ),
    "module_drawn_batches": lambda: a_module(
        data=a_line, module=functools.partial(a_network, 1), batch_size=3, held_out_fraction=0.0
    ),
    "rosenbrock": lambda: Landscape("rosenbrock", 3),
    "rosenbrock_moved": lambda: Landscape("rosenbrock", 2, spread=0.5, shift=1.0, rotate=True),
    "rastrigin": lambda: Landscape("rastrigin", 2),
    "ackley": lambda: Landscape("ackley", 3, shift=5.0),
    "beale": lambda: Landscape("beale", rotate=True),
    "spectrum": lambda: Spectrum(4),
    "spectrum_linear": lambda: Spectrum(3, 1000.0, "linear"),
    "lasso": lambda: Lasso(3, 5),
    "logistic": lambda: Logistic(cases=20),
    "logistic_minibatch": lambda: Logistic(cases=20, batch_size=4),
    "art_from_noise": lambda: tiny_art(),
    "art_from_content": lambda: tiny_art(start="content", style="brick"),
    "repeated": lambda: Repeated(tiny_mlp(jitter=Jitter()), 3),
    "repeated_lasso": lambda: Repeated(Lasso(3, 5), 2),
    "scaled": lambda: Scaled(tiny_mlp(jitter=Jitter(), label_noise=0.3), scale=2.0),
    "scaled_tensors": lambda: Scaled(Lasso(3, 5), "tensor"),
    "scaled_problem": lambda: Scaled(Quadratic(3, "gaussian", init_std=1.0), "problem"),
}


def lstm_beside(biases: LearnedOptimizer, **settings) -> Partitioned:
    """An own rule for the biases; an LSTM for the rest, of which every optimizee has some."""
    lstm = CoordinatewiseLSTM(3, 1, LogSign(), readout_std=0.5, **settings)
    return Partitioned({"rest": {"rule": lstm}, "biases": {"kinds": ["bias"], "rule": biases}})


LEARNED: dict[str, Callable[[], LearnedOptimizer]] = {
    "lstm": lambda: CoordinatewiseLSTM(3, 1, LogSign(), readout_std=0.5),
    "lstm_two_layers": lambda: CoordinatewiseLSTM(3, 2, LogSign(5.0), readout_std=0.5),
    "lstm_identity": lambda: CoordinatewiseLSTM(2, 1, Identity(), readout_std=0.5),
    "lstm_identity_two_layers": lambda: CoordinatewiseLSTM(2, 2, Identity(0.5), readout_std=0.5),
    "two_lstms": lambda: lstm_beside(CoordinatewiseLSTM(2, 2, Identity(), readout_std=0.5, seed=1)),
    "lstm_and_adam": lambda: lstm_beside(Baseline(torch.optim.Adam, 0.02)),
    "lstm_and_lbfgs": lambda: lstm_beside(LBFGS(0.02, history_size=3)),
}

TINY: dict[str, int | float] = {"hidden_units": 3, "layers": 1, "global_cells": 1}

LEARNED |= {
    "gac": lambda: GAC(3, 1, 1, readout_std=0.5),
    "gac_tensor": lambda: GAC(3, 2, 2, "tensor", readout_std=0.5),
    "ntm": lambda: NTMBFGS(EncodedController(readout_std=0.5, **TINY), 0.0, output_scale=0.1),
    "ntm_same_step": lambda: NTMBFGS(
        EncodedController(2, 1, 0, encoding=Identity(0.5), readout_std=0.5, **TINY),
        0.1,
        True,
        output_scale=0.1,
    ),
    "ntm_bounded": lambda: NTMBFGS(
        EncodedController(readout_std=0.5, **TINY), 0.0, history=4, output_scale=0.1
    ),
    "ntm_normalised": lambda: NTMBFGS(
        NormalisedController(False, 2, readout_std=0.2, **TINY), 1e-7, True
    ),
    "ntm_textbook": lambda: NTMBFGS(
        NormalisedController(True, 1, readout_std=0.5, **TINY), 0.01, True
    ),
    "ntm_secant": lambda: NTMBFGS(
        SecantController(readout_std=0.2, **TINY), 0.01, True, history=2, read="two_loop"
    ),
    "safeguarded": lambda: Safeguarded(
        CoordinatewiseLSTM(3, 1, readout_std=0.5), blow_up=3.0, growth=1.1, curvature=0.1
    ),
    "safeguarded_ntm": lambda: Safeguarded(
        NTMBFGS(NormalisedController(True, 1, readout_std=0.2, **TINY), 0.01, True),
        growth=3.0,
        curvature=0.1,
    ),
    "safeguarded_fallback": lambda: Safeguarded(
        CoordinatewiseLSTM(2, 1, readout_std=0.5),
        fallback=CoordinatewiseLSTM(2, 1, Identity(0.5), readout_std=0.5, seed=1),
        ascent=0.0,
    ),
}

LEARNED |= {
    "rnnprop": lambda: RecurrentRule(
        MomentRatios((0.5, 0.9), 0.8, limit=50.0), embedding=4, readout_std=0.5, hidden_units=3
    ),
    "rnnprop_gru": lambda: RecurrentRule(
        WithProgress(MomentRatios(limit=50.0), [2.0, 9.0]), "gru", 3, embedding=3, readout_std=0.5
    ),
    "rnnprop_sizes": lambda: RecurrentRule(
        Joined({"moments": MomentRatios(limit=50.0), "sizes": SizeRatios((0.5,), limit=50.0)}),
        "lstm",
        2,
        1,
        3,
        readout_std=0.5,
    ),
    "gru": lambda: RecurrentRule(
        EncodedGradient(LogSign()), "gru", 3, 1, None, bounded=False, readout_std=0.5
    ),
    "postprocessed": lambda: Postprocessed(
        RecurrentRule(EncodedGradient(LogSign()), "lstm", 2, 1, None, readout_std=0.5),
        bound=0.2,
        lr=0.3,
        decay="linear",
        final=0.1,
    ),
    "postprocessed_by_tensor": lambda: Postprocessed(
        CoordinatewiseLSTM(2, 1, LogSign(), readout_std=0.5),
        normalise=True,
        lr=0.02,
        decay="cosine",
    ),
    "postprocessed_ntm": lambda: Postprocessed(
        NTMBFGS(NormalisedController(True, 1, readout_std=0.2, **TINY), 0.01, True),
        lr=0.4,
        decay="linear",
    ),
}

LEARNED |= {
    "transformer": lambda: TransformerRule(
        EncodedGradient(LogSign()), 4, 2, 2, 3, output_scale=0.1, readout_std=0.5
    ),
}

SMOOTH = {"hidden_units": 3, "activation": "tanh", "readout_std": 0.5}

LEARNED |= {
    "mlp": lambda: MLPOptimizer(**SMOOTH),
    "mlp_raw": lambda: MLPOptimizer(
        magnitude=True,
        exp_scale=0.3,
        shortcut=False,
        normalise=False,
        progress=True,
        final_scale=1.0,
        **SMOOTH,
    ),
    "star": lambda: STAR(**SMOOTH),
    "hierarchical": lambda: Hierarchical(2, 3, 2, 3, output_scale=0.05, readout_std=0.5),
    "width_scaled": lambda: WidthScaled(CoordinatewiseLSTM(3, 1, LogSign(), readout_std=0.5), 0.5),
    "width_scaled_gac": lambda: WidthScaled(GAC(3, 1, 1, readout_std=0.5), 0.5),
    "whitened": lambda: Whitened(
        CoordinatewiseLSTM(3, 1, Identity(), readout_std=0.5), 0.7, 0.3, every=1
    ),
    "whitened_seldom": lambda: Whitened(
        STAR(nominal="momentum", **SMOOTH), 0.7, 0.3, every=2, max_side=2
    ),
}

SET_BY_HAND: dict[str, Callable[[], LearnedOptimizer]] = {
    "bfgs_by_hand": lambda: NTMBFGS(BFGSByHand(0.1), 1.0),
}

BASELINES: dict[str, Callable[[], LearnedOptimizer]] = {
    "sgd": lambda: Baseline(torch.optim.SGD, 0.02),
    "momentum": lambda: Baseline(torch.optim.SGD, 0.02, momentum=0.9),
    "nag": lambda: Baseline(torch.optim.SGD, 0.02, momentum=0.9, nesterov=True),
    "rmsprop": lambda: Baseline(torch.optim.RMSprop, 0.02),
    "adam": lambda: Baseline(torch.optim.Adam, 0.02),
    "adam_cosine": lambda: Baseline(torch.optim.Adam, 0.02, decay="cosine"),
    "lbfgs": lambda: LBFGS(0.02, history_size=3),
}

RULES = LEARNED | SET_BY_HAND | BASELINES


@pytest.fixture(params=OPTIMIZEES)
def optimizee(request) -> Optimizee:
    """Every optimizee of the table, in float64."""
    return OPTIMIZEES[request.param]().double()


@pytest.fixture(params=RULES)
def rule(request) -> LearnedOptimizer:
    """Every rule of the table, in float64."""
    return RULES[request.param]().double()


@pytest.fixture(params=LEARNED)
def learned_rule(request) -> LearnedOptimizer:
    """Every rule that has meta-parameters, in float64."""
    return LEARNED[request.param]().double()


@pytest.fixture(params=BASELINES)
def baseline(request) -> Baseline:
    """Every baseline of the table."""
    return BASELINES[request.param]()


@pytest.fixture
def mlp() -> ImageMLP:
    """One of the tiny MLPs, with jitter, in float64."""
    return tiny_mlp(jitter=Jitter()).double()


@pytest.fixture
def digits_() -> Images:
    """The first 300 digits."""
    return some_digits()


@pytest.fixture(name="photographs_")
def content_pictures() -> Contents:
    """The bundled content pictures."""
    return photographs()


@pytest.fixture(scope="session")
def art() -> Callable[..., NeuralArt]:
    """Makes a `tiny_art` in float64."""
    return lambda **changes: tiny_art(**changes).double()


class Separable(Optimizee):
    """f(theta) = sum_i curvature_i (theta_i - target_i)^2 / 2; target 0; every step the same."""

    def __init__(self, curvature=(1.0, 2.0, 3.0), start=3.0, spread=0.5) -> None:
        super().__init__()
        self.start, self.spread = start, spread
        self.register_buffer("curvature", torch.tensor(curvature))
        self.spec = ParamSpec.of({"theta": ((len(curvature),), "free")})

    def sample(self, problems, seed):
        return Problem(tuple(problems), seed, {})

    def init(self, problems, seed):
        offset = draw(seed, "init", problems, lambda rng: rng.uniform(-1, 1, self.spec.size))
        return self.place(self.start + self.spread * offset)

    def minibatch(self, problem, step):
        return {"active": torch.ones(problem.size).to(self.anchor)}

    def loss(self, theta, data):
        return (data["active"] * self.curvature * theta**2).sum() / 2

    def metrics(self, theta, problem):
        return {"train_loss": (self.curvature * theta**2).sum(-1) / 2}


class Linear(Separable):
    """f_t(theta) = a_t . theta + 10, another slope a_t for every problem and step: no Hessian."""

    def minibatch(self, problem, step):
        slope = draw(
            problem.seed, "slope", problem.index, lambda rng: rng.normal(size=self.spec.size),
            step=step,
        )  # fmt: skip
        return {"slope": self.place(slope)}

    def loss(self, theta, data):
        return data["slope"] @ theta + 10

    def metrics(self, theta, problem):
        return {"train_loss": theta.sum(-1)}


class Scripted(LearnedOptimizer):
    """A rule by hand: update = gain * script(observation), without state."""

    def __init__(self, script: Callable[[Observation], torch.Tensor], gain: float = 1.0) -> None:
        super().__init__()
        self.script = script
        self.gain = nn.Parameter(torch.tensor(gain, dtype=torch.float64))

    def init_state(self, theta, spec):
        return ()

    def step(self, seen, state):
        return self.gain * self.script(seen), state


@pytest.fixture
def separable() -> Callable[..., Separable]:
    """Makes a `Separable` in float64."""
    return lambda *args: Separable(*args).double()


@pytest.fixture
def linear() -> Linear:
    """A `Linear` in float64."""
    return Linear().double()


@pytest.fixture
def scripted() -> type[Scripted]:
    """The class `Scripted`."""
    return Scripted
