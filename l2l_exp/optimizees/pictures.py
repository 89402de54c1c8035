"""Photographs and textures that scikit-image and scikit-learn carry, and the user's own files."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

PHOTOGRAPHS = (
    "astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field", "immunohistochemistry",
    "retina", "motorcycle", "china", "flower",
)  # fmt: skip
TEXTURES = ("brick", "grass", "gravel", "camera", "coins", "moon", "text", "page", "cell")
BUNDLED = PHOTOGRAPHS + TEXTURES


def bundled(name: str) -> Tensor:
    """One of the pictures that need no download: (3, height, width) in [0, 1].

    Args:
        name: one of `BUNDLED`; the textures are grey, their three channels the same.

    Raises:
        ValueError: for another name.
    """
    if name not in BUNDLED:
        raise ValueError(f"picture {name!r} must be one of {', '.join(BUNDLED)}")
    if name in ("china", "flower"):
        from sklearn.datasets import load_sample_image

        pixels = load_sample_image(f"{name}.jpg")
    else:
        from skimage import data

        load = getattr(data, "stereo_motorcycle" if name == "motorcycle" else name)
        pixels = load()[0] if name == "motorcycle" else load()
    return _channels_first(pixels)


def read_picture(path: Path) -> Tensor:
    """A picture file of the user's, as RGB: (3, height, width) in [0, 1].

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read as a picture.
    """
    from PIL import Image, UnidentifiedImageError

    if not path.is_file():
        raise FileNotFoundError(f"picture {path} does not exist")
    try:
        with Image.open(path) as image:
            return _channels_first(np.array(image.convert("RGB")))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be read as a picture ({error})") from error


def resized(picture: Tensor, height: int, width: int) -> Tensor:
    """Resample (3, h, w) to (3, height, width), bilinear and antialiased."""
    small = F.interpolate(
        picture[None], (height, width), mode="bilinear", antialias=True, align_corners=False
    )
    return small[0].clamp(0, 1)


def _channels_first(pixels: np.ndarray) -> Tensor:
    """uint8 (height, width) or (height, width, 3) -> (3, height, width) in [0, 1]."""
    colour = np.stack([pixels] * 3, -1) if pixels.ndim == 2 else pixels
    return torch.from_numpy(np.ascontiguousarray(colour.transpose(2, 0, 1))).float() / 255
