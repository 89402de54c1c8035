"""The conv net against torch's own modules."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from l2l_exp.optimizees.conv import NORMS, ConvNet
from l2l_exp.optimizees.images import Images
from l2l_exp.optimizees.seeding import Seed
from l2l_exp.unroll import differentiate

SEED = Seed("train", 0)


def colour_images(count=240, side=8):
    """Random images in three channels and ten classes."""
    generator = torch.Generator().manual_seed(0)
    return Images(torch.rand(count, 3, side, side, generator=generator), torch.arange(count) % 10)


def plain_network(net: ConvNet, norm: str) -> nn.Sequential:
    """The same network from torch's modules; parameters in the order of the layout."""
    made = {
        "batch": lambda n, flat: (nn.BatchNorm1d if flat else nn.BatchNorm2d)(n),
        "group": lambda n, flat: nn.GroupNorm(2, n),
        "none": lambda n, flat: nn.Identity(),
    }[norm]
    stages = []
    for inputs in (3, 4):
        stages += [nn.Conv2d(inputs, 4, 3, padding=1), made(4, False), nn.Tanh(), nn.MaxPool2d(2)]
    head = [nn.Flatten(), nn.Linear(16, 6), made(6, True), nn.Tanh(), nn.Linear(6, 10)]
    return nn.Sequential(*stages, *head).double()


def fill(plain: nn.Sequential, net: ConvNet, theta: torch.Tensor) -> None:
    """Give the plain network the tensors of theta; norms keep their scale of 1."""
    values = iter(net.spec.unflatten(theta).values())
    for module in plain:
        if isinstance(module, nn.Linear | nn.Conv2d):
            weight = next(values)
            module.weight.data = weight.T if isinstance(module, nn.Linear) else weight
            module.bias.data = next(values)
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.GroupNorm):
            module.bias.data = next(values)
    assert next(values, None) is None


@pytest.mark.parametrize("norm", NORMS)
def test_the_loss_is_that_of_torchs_own_modules(norm):
    net = ConvNet(
        colour_images(), 4, 2, 3, 6, "tanh", norm, groups=2, init_std=0.5, batch_size=9
    ).double()
    problem, theta = net.sample([0, 1], SEED), net.init([0, 1], SEED)
    data = net.minibatch(problem, 0)
    losses, _ = differentiate(net, theta, data)
    plain = plain_network(net, norm)
    for row in range(2):
        fill(plain, net, theta[row])
        loss = F.cross_entropy(plain(data["x"][row]), data["y"][row])
        torch.testing.assert_close(losses[row], loss, rtol=1e-10, atol=0)


def test_the_default_is_the_public_codes_network():
    net = ConvNet(colour_images(side=32))
    assert net.spec.size == 22_682  # paper's public code: three 5x5x16 stages, 256-32-10
    kinds = {tensor.name: tensor.kind for tensor in net.spec.tensors}
    assert [name for name, kind in kinds.items() if kind == "conv"] == [
        "conv0.weight", "conv1.weight", "conv2.weight",
    ]  # fmt: skip
    assert [name for name, kind in kinds.items() if kind == "fc"] == ["fc0.weight", "fc1.weight"]
    assert sum(kind == "norm" for kind in kinds.values()) == 4
    assert sum(kind == "bias" for kind in kinds.values()) == 5


def test_metrics_normalise_over_images_of_every_class(monkeypatch):
    """Two batches instead of one change little: each is a fair sample, not half of the classes."""
    from l2l_exp.optimizees import classification

    images = colour_images(2400)
    images = images._replace(pixels=(images.pixels + images.labels[:, None, None, None]) / 10)
    net = ConvNet(images, 4, 2, 3, 6, init_std=0.5).double()
    problem, theta = net.sample([0], SEED), net.init([0], SEED)
    whole = net.metrics(theta, problem)["train_loss"]
    monkeypatch.setattr(classification, "METRIC_CELLS", 300 * net.cells)  # 600 images
    torch.testing.assert_close(net.metrics(theta, problem)["train_loss"], whole, rtol=0.05, atol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": 0}, "channels=0 must be > 0"),
        ({"kernel": 4}, "kernel=4 must be odd"),
        ({"layers": 4}, "layers=4 halve images of 8x8 to nothing: layers must be at most 3"),
        ({"norm": "layer"}, "norm='layer' must be one of batch, group, none"),
        ({"norm": "group", "groups": 3}, "groups=3 must divide channels=16"),
        ({"activation": "step"}, "activation='step'"),
        ({"batching": "both"}, "batching='both' must be one of vmap, loop"),
    ],
)
def test_values_out_of_range_are_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        ConvNet(colour_images(), **settings)
