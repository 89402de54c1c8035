"""VGG: torchvision's own networks are the oracle; files of weights, and what may be wrong there."""

import hashlib
import urllib.request
from urllib.error import URLError

import pytest
import torch
from torch import nn

from l2l_exp.optimizees.vgg import LETTERS, VGG
from l2l_exp.optimizees.vision import torchvision

STYLE = ["conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1"]
AFTER_RELU = {
    "vgg16": {"conv1_1": 1, "conv2_1": 6, "conv3_1": 11, "conv4_1": 18, "conv4_2": 20,
              "conv5_1": 25},
    "vgg19": {"conv1_1": 1, "conv2_1": 6, "conv3_1": 11, "conv4_1": 20, "conv4_2": 22,
              "conv5_1": 29},
}  # fmt: skip
"""Place of each layer's ReLU in torchvision's `features`, counted in its printed architecture."""


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """torch hub's folder of checkpoints, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


def theirs(network: str) -> nn.Sequential:
    """torchvision's layers up to conv5_1, with random weights."""
    models = torchvision("models")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = models.vgg.make_layers(models.vgg.cfgs[LETTERS[network]])
    return layers[: AFTER_RELU[network]["conv5_1"] + 1]


def save(layers: nn.Sequential, path) -> None:
    """Write weights under the keys that torchvision's files have."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({f"features.{name}": x for name, x in layers.state_dict().items()}, path)


@pytest.mark.parametrize(("network", "pooling"), [("vgg16", "max"), ("vgg19", "average")])
def test_layers_are_those_of_torchvisions_network(network, pooling, tmp_path):
    layers, wanted = theirs(network), AFTER_RELU[network]
    save(layers, tmp_path / "weights.pth")
    vgg = VGG(network, str(tmp_path / "weights.pth"), style=STYLE, pooling=pooling)
    pictures = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    weights = getattr(torchvision("models"), f"{network.upper()}_Weights").IMAGENET1K_V1
    transform = weights.transforms()
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (transform.mean, transform.std))
    x, maps = (pictures - mean) / std, vgg(pictures)
    assert maps.keys() == wanted.keys()
    with torch.no_grad():
        for place, layer in enumerate(layers):
            if isinstance(layer, nn.MaxPool2d) and pooling == "average":
                layer = nn.AvgPool2d(2)
            x = layer(x)
            for name in [name for name, index in wanted.items() if index == place]:
                torch.testing.assert_close(maps[name], x, rtol=1e-4, atol=1e-5)


def test_a_network_of_random_weights_has_maps_of_unit_scale_and_needs_no_file(hub):
    vgg = VGG("vgg19", "random", content=["conv2_2"], style=["conv1_1", "conv2_1"])
    rng = torch.Generator().manual_seed(1)
    maps = vgg(0.45 + 0.225 * torch.randn(2, 3, 32, 32, generator=rng))
    assert maps.keys() == {"conv1_1", "conv2_1", "conv2_2"} and not hub.exists()
    assert maps["conv1_1"].square().mean() == pytest.approx(1, rel=0.3)
    assert 1 / 10 < maps["conv2_2"].square().mean() < 10  # max pooling lets it grow
    assert not list(vgg.parameters())


def test_missing_weights_are_named_with_their_file_their_address_and_their_folder(hub):
    with pytest.raises(FileNotFoundError) as error:
        VGG("vgg16")
    told, url = str(error.value), "https://download.pytorch.org/models/vgg16-397923af.pth"
    path = hub / "vgg16-397923af.pth"
    assert f"curl -fL --create-dirs -o {path} {url}" in told and "\n" not in told
    with pytest.raises(FileNotFoundError, match=r"mine\.pth, the weights of vgg19, is not there"):
        VGG("vgg19", weights="mine.pth")


def test_a_download_without_network_leaves_nothing_and_says_why(hub, monkeypatch):
    def no_network(request, *args, **kwargs):
        raise URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    monkeypatch.setattr(torch.hub, "urlopen", no_network)
    with pytest.raises(FileNotFoundError, match="cannot be fetched .*no network in tests"):
        VGG("vgg19", download=True)
    assert not [path for path in hub.rglob("*") if path.is_file()]


def test_the_checksum_in_a_files_name_is_held(tmp_path):
    layers = theirs("vgg16")[:2]
    save(layers, tmp_path / "a.pth")
    digest = hashlib.sha256((tmp_path / "a.pth").read_bytes()).hexdigest()[:8]
    right, wrong = tmp_path / f"vgg16-{digest}.pth", tmp_path / "vgg16-01234567.pth"
    for path in (right, wrong):
        path.write_bytes((tmp_path / "a.pth").read_bytes())
    few = {"content": ["conv1_1"], "style": ["conv1_1"]}
    vgg = VGG("vgg16", str(right), **few)
    assert torch.equal(vgg.conv1_1_weight, layers[0].weight)
    with pytest.raises(ValueError, match=f"its sha256 begins with {digest}, not with 01234567"):
        VGG("vgg16", str(wrong), **few)


def test_a_file_that_holds_no_such_weights_is_named(tmp_path):
    few = {"content": ["conv1_1"], "style": ["conv1_1"]}
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ValueError, match=r"text\.pth cannot be read as a file of weights"):
        VGG("vgg16", str(tmp_path / "text.pth"), **few)
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "half.pth")
    with pytest.raises(ValueError, match=r"features\.0\.bias is absent, not \(64,\)"):
        VGG("vgg16", str(tmp_path / "half.pth"), **few)
    torch.save({"features.0.weight": torch.zeros(8, 3, 3, 3)}, tmp_path / "small.pth")
    with pytest.raises(ValueError, match=r"\(8, 3, 3, 3\), not \(64, 3, 3, 3\)"):
        VGG("vgg16", str(tmp_path / "small.pth"), **few)


def test_another_network_and_another_layer_are_refused():
    with pytest.raises(ValueError, match="network='vgg11' must be one of vgg16, vgg19"):
        VGG("vgg11")
    with pytest.raises(ValueError, match="content layer='conv3_4' must be one of conv1_1"):
        VGG("vgg16", "random", content=["conv3_4"])
