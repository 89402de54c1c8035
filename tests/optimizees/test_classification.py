"""Noise and initial distributions of the image classifiers."""

import math

import pytest
import torch

from l2l_exp.optimizees.data import digits
from l2l_exp.optimizees.mlp import ImageMLP
from l2l_exp.optimizees.seeding import Seed
from l2l_exp.unroll import differentiate

TRAIN = Seed("train", 0)


def test_label_noise_changes_its_share_of_the_training_labels_to_other_classes():
    noisy = ImageMLP(digits(), label_noise=0.3)
    labels = noisy.sample(range(20), TRAIN).data["labels"]
    true = noisy.labels[noisy.part("train")]
    assert labels.min() == 0 and labels.max() == 9
    assert (labels != true).float().mean().item() == pytest.approx(0.3, abs=0.02)
    wrong = (labels - true)[labels != true] % 10
    assert (wrong.bincount(minlength=10)[1:] / len(wrong) - 1 / 9).abs().max() < 0.03


def test_minibatches_and_training_metrics_use_the_noisy_labels_and_held_out_ones_the_true():
    noisy, clean = ImageMLP(digits(), label_noise=0.5), ImageMLP(digits())
    problem, theta = noisy.sample([0, 3], TRAIN), noisy.init([0, 3], TRAIN)
    fair = clean.sample([0, 3], TRAIN)
    one, other = noisy.minibatch(problem, 2), clean.minibatch(fair, 2)
    assert torch.equal(one["x"], other["x"]) and not torch.equal(one["y"], other["y"])
    scores, true = noisy.metrics(theta, problem), clean.metrics(theta, fair)
    assert torch.equal(scores["held_out_loss"], true["held_out_loss"])
    assert not torch.isclose(scores["train_loss"], true["train_loss"]).any()


def test_an_image_keeps_its_wrong_label_for_the_whole_problem():
    noisy = ImageMLP(digits(), label_noise=0.5, batch_size=2000)
    problem = noisy.sample([4], TRAIN)
    seen: dict[bytes, int] = {}
    for step in range(3):
        data = noisy.minibatch(problem, step)
        for pixels, label in zip(data["x"][0], data["y"][0], strict=True):
            assert seen.setdefault(pixels.numpy().tobytes(), int(label)) == int(label)
    assert len(seen) > 400


def test_gradient_noise_adds_independent_gaussians_and_leaves_the_loss_alone():
    noisy, clean = ImageMLP(digits(), gradient_noise=0.01), ImageMLP(digits())
    problem, theta = noisy.sample(range(4), TRAIN), noisy.init(range(4), TRAIN)
    added = []
    for step in range(3):
        loss, grad = differentiate(noisy, theta, noisy.minibatch(problem, step))
        true_loss, true = differentiate(clean, theta, clean.minibatch(problem, step))
        assert torch.equal(loss, true_loss)
        added.append(grad - true)
    noise = torch.stack(added).double().flatten()
    assert noise.mean().abs() < 4 * 0.01 / math.sqrt(len(noise))
    assert noise.std().item() == pytest.approx(0.01, rel=0.02)
    rows = torch.stack(added).flatten(0, 1).corrcoef()
    assert (rows - torch.eye(len(rows))).abs().max() < 0.15


def test_a_noisy_gradient_reaches_the_meta_gradient_as_a_constant():
    noisy = ImageMLP(digits(), hidden_units=2, gradient_noise=0.01).double()
    problem, theta = noisy.sample([0], TRAIN), noisy.init([0], TRAIN)
    data = noisy.minibatch(problem, 0)
    theta.requires_grad_()
    _, grad = differentiate(noisy, theta, data, "everything")
    (hessian_row,) = torch.autograd.grad(grad.sum(), theta)
    noisy.gradient_noise = 0.0
    _, grad = differentiate(noisy, theta, data, "everything")
    torch.testing.assert_close(torch.autograd.grad(grad.sum(), theta)[0], hessian_row)


def test_fan_in_keeps_the_scale_of_linear_units_and_starts_biases_at_zero():
    mlp = ImageMLP(digits(), hidden_units=50, layers=2, init="fan_in", init_gain=2.0)
    tensors = mlp.spec.unflatten(mlp.init(range(30), TRAIN))
    for name, value in tensors.items():
        if name.startswith("bias"):
            assert not value.any()
        else:
            assert value.std().item() == pytest.approx(2 / math.sqrt(value.shape[1]), rel=0.03)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_noise": 1.0}, r"label_noise=1.0 must be in \[0, 1\)"),
        ({"label_noise": -0.1}, "label_noise=-0.1"),
        ({"gradient_noise": -1.0}, "gradient_noise=-1.0 must be >= 0"),
        ({"gradient_noise": math.inf}, "gradient_noise=inf must be >= 0"),
        ({"init": "xavier"}, "init='xavier' must be one of gaussian, fan_in"),
        ({"init_gain": 0.0}, "init_gain=0.0 must be > 0"),
    ],
)
def test_values_out_of_range_are_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        ImageMLP(digits(), **settings)
