"""What is special about the image MLP: which images reach what."""

import pytest
import torch
import torch.nn.functional as F

from l2l_exp.optimizees import classification
from l2l_exp.optimizees.activations import ACTIVATIONS
from l2l_exp.optimizees.data import digits
from l2l_exp.optimizees.images import Images
from l2l_exp.optimizees.jitter import Jitter
from l2l_exp.optimizees.mlp import ImageMLP
from l2l_exp.optimizees.seeding import SPLITS, Seed
from l2l_exp.unroll import differentiate

PROBLEMS = (0, 1)


def gradients(mlp, split, steps=30):
    """Gradients of two problems at theta_0 on many minibatches: (steps, 2, N)."""
    seed = Seed(split, 0)
    problem, theta = mlp.sample(PROBLEMS, seed), mlp.init(PROBLEMS, seed)
    return torch.stack(
        [differentiate(mlp, theta, mlp.minibatch(problem, t))[1] for t in range(steps)]
    )


def measured(mlp, split):
    """Metrics of two problems at theta_0."""
    seed = Seed(split, 0)
    return mlp.metrics(mlp.init(PROBLEMS, seed), mlp.sample(PROBLEMS, seed))


@pytest.mark.parametrize("split", SPLITS)
def test_gradients_see_the_splits_own_training_images_and_no_others(mlp, split):
    before = gradients(mlp, split)
    original = mlp.pixels.clone()
    mine = mlp.part(split)
    mlp.pixels[:] = 1 - original
    mlp.pixels[mine] = original[mine]
    assert torch.equal(gradients(mlp, split), before)
    mlp.pixels[mine] = 1 - original[mine]
    assert not torch.equal(gradients(mlp, split), before)


@pytest.mark.parametrize("split", SPLITS)
def test_held_out_loss_depends_on_the_held_out_images_alone(mlp, split):
    before = measured(mlp, split)
    mlp.pixels[mlp.part(split, held_out=True)] += 0.5
    after = measured(mlp, split)
    assert torch.equal(after["train_loss"], before["train_loss"])
    assert not torch.isclose(after["held_out_loss"], before["held_out_loss"]).any()


def test_metrics_are_the_loss_and_accuracy_of_a_plain_network_on_every_image(mlp):
    seed = Seed("test", 0)
    theta = mlp.init(PROBLEMS, seed)
    held_out = mlp.part("test", held_out=True)
    metrics = measured(mlp, "test")
    for row, flat in enumerate(theta):
        w0, b0, w1, b1 = mlp.spec.unflatten(flat).values()
        logits = torch.sigmoid(mlp.pixels.flatten(1) @ w0 + b0) @ w1 + b1
        right = (logits.argmax(1) == mlp.labels).double()
        assert metrics["held_out_accuracy"][row].item() == right[held_out].mean().item()
        for name, part in (("train_loss", mlp.part("test")), ("held_out_loss", held_out)):
            loss = F.cross_entropy(logits[part], mlp.labels[part])
            torch.testing.assert_close(metrics[name][row], loss, rtol=1e-12, atol=0)


@pytest.mark.parametrize("cells", [1, 500, 10_000])
def test_walking_through_problems_and_images_in_chunks_changes_no_metric(mlp, monkeypatch, cells):
    whole = measured(mlp, "train")
    monkeypatch.setattr(classification, "METRIC_CELLS", cells)
    for name, values in measured(mlp, "train").items():
        torch.testing.assert_close(values, whole[name], rtol=1e-12, atol=1e-12)


def test_a_minibatch_holds_images_with_their_own_labels():
    images = digits()
    tagged = Images(torch.zeros(len(images.labels), 1, 2, 2), images.labels)
    tagged.pixels[:, 0, 0, 0] = torch.arange(len(images.labels))
    optimizee = ImageMLP(tagged, batch_size=500).double()
    data = optimizee.minibatch(optimizee.sample([0, 3], Seed("validation", 1)), 2)
    drawn = data["x"][..., 0, 0, 0].long()
    assert data["x"].shape == (2, 500, 1, 2, 2)
    assert torch.equal(images.labels[drawn], data["y"])
    assert torch.isin(drawn, optimizee.part("validation")).all()
    assert drawn.unique().numel() > 300  # of 450: all over the part


def test_every_step_and_problem_draws_its_own_images(mlp):
    problem = mlp.sample(PROBLEMS, Seed("train", 0))
    batches = [mlp.minibatch(problem, step)["x"] for step in range(4)]
    assert torch.cat(batches).flatten(1).unique(dim=0).shape[0] == 4 * len(PROBLEMS)


class Recorder:
    """A jitter that changes nothing, and keeps its draws."""

    def __init__(self, seen):
        self.draws, self.seen = 5, seen

    def __call__(self, pixels, draws):
        self.seen.append(draws)
        return pixels


def test_jitter_draws_are_uniform_and_independent_of_which_image_is_drawn():
    draws = []
    optimizee = ImageMLP(digits(jitter=Jitter()), batch_size=2000).double()
    optimizee.jitter = Recorder(draws)
    optimizee.minibatch(optimizee.sample([0], Seed("train", 0)), 0)
    (drawn,) = draws
    assert drawn.shape == (2000, 5) and drawn.abs().max() <= 1
    assert drawn.mean(0).abs().max() < 0.07 and (drawn.var(0) - 1 / 3).abs().max() < 0.04
    assert (drawn.T.corrcoef() - torch.eye(5)).abs().max() < 0.1


def test_theta_0_has_the_standard_deviation_asked_for():
    images = Images(torch.zeros(300, 1, 8, 8), digits().labels[:300])
    theta = ImageMLP(images, init_std=0.2).init(range(40), Seed("train", 0))
    assert theta.std().item() == pytest.approx(0.2, rel=0.02)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_has_a_finite_gradient(activation):
    images = Images(digits().pixels[:300], digits().labels[:300])
    assert gradients(ImageMLP(images, 2, activation=activation), "train", 1).isfinite().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_units": 0}, "hidden_units=0 must be > 0"),
        ({"layers": 0}, "layers=0 must be > 0"),
        ({"init_std": 0.0}, "init_std=0.0 must be > 0"),
        ({"batch_size": 0}, "batch_size=0 must be > 0"),
        ({"activation": "step"}, "activation='step' must be one of sigmoid"),
        ({"held_out_fraction": 1.0}, r"held_out_fraction=1.0 must be in \(0, 1\)"),
    ],
)
def test_values_out_of_range_are_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        ImageMLP(digits(), **settings)
