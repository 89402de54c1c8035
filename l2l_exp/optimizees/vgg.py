"""VGG networks as features: torchvision's architectures, and its files of trained weights."""

import hashlib
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

from l2l_exp.optimizees.base import check_choice
from l2l_exp.optimizees.features import Convolution, Features, random_convolution
from l2l_exp.optimizees.vision import torchvision

LETTERS: Final[Mapping[str, str]] = MappingProxyType({"vgg16": "D", "vgg19": "E"})
"""What torchvision calls the architectures."""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation that the trained weights expect."""
HASH_IN_NAME: Final = re.compile(r"-([0-9a-f]{8,})\.pth$")


class VGG(Features):
    """VGG-16 or VGG-19 without its classifier, cut above the last layer that is wanted.

    Args:
        network: "vgg16" or "vgg19" (Gatys et al. and, it seems, the paper: vgg19).
        weights: "default" for torchvision's file, in torch hub's checkpoint folder; the path of
            such a file; or "random", which needs none.
        content: layers (Gatys et al.: conv4_2); all are taken after their ReLU.
        style: layers (Gatys et al.: the first of every block).
        pooling: "max", as it was trained, or "average" (Gatys et al.: gives nicer pictures).
        download: fetch torchvision's file if it is missing.
        seed: of random weights.

    Raises:
        FileNotFoundError: if the weights are missing; says how to get them.
        ValueError: for another network, or for a file that does not hold its weights.

    Source: Gatys et al. 2015, arXiv:1508.06576.
    """

    def __init__(
        self,
        network: str = "vgg19",
        weights: str = "default",
        content: Sequence[str] = ("conv4_2",),
        style: Sequence[str] = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1"),
        pooling: str = "max",
        download: bool = False,
        seed: int = 0,
    ) -> None:
        check_choice("network", network, tuple(LETTERS))
        shapes = _shapes(network)
        rng = torch.Generator().manual_seed(seed)
        path = None if weights == "random" else _weights_file(network, weights, download=download)
        tensors = {} if path is None else _read(path)

        def make(layer: str) -> Convolution:
            key, shape = shapes[layer]
            if path is None:
                return random_convolution(shape[0], shape[1], shape[2], rng)
            return Convolution(
                _tensor(tensors, f"{key}.weight", shape, path),
                _tensor(tensors, f"{key}.bias", shape[:1], path),
            )

        super().__init__(list(shapes), make, *IMAGENET, content, style, pooling)


def _shapes(network: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Layer -> its key in torchvision's files, and the shape of its weight."""
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {}
    block, place, index, inputs = 1, 1, 0, 3
    for item in torchvision("models").vgg.cfgs[LETTERS[network]]:
        if item == "M":  # a pooling is one module, a convolution and its ReLU are two
            block, place, index = block + 1, 1, index + 1
        else:
            shapes[f"conv{block}_{place}"] = (f"features.{index}", (item, inputs, 3, 3))
            inputs, place, index = item, place + 1, index + 2
    return shapes


def _weights_file(network: str, weights: str, *, download: bool) -> Path:
    """The file of the weights, fetched if that is wanted; its checksum is held to its name."""
    url = getattr(torchvision("models"), f"{network.upper()}_Weights").IMAGENET1K_V1.url
    name = url.rpartition("/")[2]
    own = weights != "default"
    path = Path(weights).expanduser() if own else Path(torch.hub.get_dir(), "checkpoints", name)
    reason = ""
    if not path.is_file() and download and not own:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            prefix = name.rpartition("-")[2].removesuffix(".pth")
            torch.hub.download_url_to_file(url, str(path), hash_prefix=prefix, progress=False)
        except (OSError, RuntimeError) as error:
            reason = f" and cannot be fetched ({error})"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}, the weights of {network}, is not there{reason}: put torchvision's {name} "
            f"there (curl -fL --create-dirs -o {path} {url}), or run with network access, "
            f"optimizee.features.weights=default and optimizee.features.download=true"
        )
    found = HASH_IN_NAME.search(path.name)
    if found is not None:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if not digest.startswith(found[1]):
            raise ValueError(
                f"{path} is damaged: its sha256 begins with {digest[: len(found[1])]}, not with "
                f"{found[1]} as its name says; delete it and fetch {url} again"
            )
    return path


def _read(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a file."""
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} cannot be read as a file of weights ({reason})") from error
    return tensors if isinstance(tensors, Mapping) else {}


def _tensor(tensors: Mapping[str, Tensor], key: str, shape: tuple[int, ...], path: Path) -> Tensor:
    """One tensor of a file, which must have this shape."""
    found = tensors.get(key)
    if not isinstance(found, Tensor) or tuple(found.shape) != shape:
        there = tuple(found.shape) if isinstance(found, Tensor) else "absent"
        raise ValueError(f"{path}: {key} is {there}, not {shape} as in the network")
    return found.float()
