"""Neural art: a picture with the content of one picture and the style of another."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from l2l_exp.optimizees.base import Data, Problem, VisibleOptimizee, check_choice, check_positive
from l2l_exp.optimizees.contents import Contents, centre, crop
from l2l_exp.optimizees.features import Features
from l2l_exp.optimizees.pictures import BUNDLED, bundled, read_picture
from l2l_exp.optimizees.seeding import Seed, generator
from l2l_exp.optimizees.spec import ParamSpec

STARTS = ("noise", "content")
CALIBRATION = 8
"""Training contents over which the scales of the layers are taken."""
MIDDLE, CONTRAST = 0.5, 0.25
"""About the mean and the standard deviation of a photograph's pixels."""


class NeuralArt(VisibleOptimizee):
    """Loss = alpha * content + beta * style + gamma * roughness of one picture.

    Theta is the picture itself: pixel = .5 + spread * theta. Pixels outside [0, 1] are allowed, and
    cut off only where they are looked at. With feature maps F of theta, C of the content and S of
    the style picture, and Gram matrices G(F) = F F^T / positions:

    - content: mean over the content layers of mean (F - C)^2 / E mean C^2,
    - style: mean over the style layers of |G(F) - G(S)|^2 / E |G(C)|^2 (Frobenius),
    - roughness: mean squared difference of vertical neighbours, plus that of horizontal ones, in
      units of .25, the usual contrast.

    E is the mean over some training contents, a constant of each layer; so every term is of the
    order of one at the start, whatever the features and the size are. A problem is its content
    picture, a random crop; the style is the same for all. Every step sees the whole problem, and
    nothing is held out.

    Args:
        contents: pictures of the three splits.
        features: the network.
        style: name of a bundled picture, or the path of a picture file; its middle square is used.
        size: height and width of the picture (paper: 64 for training, 128 for test); the same
            problem shows the same crop at every size.
        alpha: >= 0, weight of the content.
        beta: >= 0, weight of the style; one weight at least is not zero.
        gamma: >= 0, weight of the roughness.
        start: "noise", pixels N(.5, noise_std^2), or the "content" picture.
        noise_std: > 0.
        spread: > 0. It sets the scale of theta and of gradients: with 16, steps of some 1/1000 in
            theta matter, and gradients of single coordinates are about 1/100 and falling.
        smallest_crop: in (0, 1], least side of a crop over the shorter side of its picture.
        batching: of the gradients of several problems.

    Raises:
        ValueError: for a value outside these ranges, or contents that are all plain grey.

    Source: Gatys et al. 2015, arXiv:1508.06576; Andrychowicz et al. 2016, arXiv:1606.04474,
        section 3.4. The latter does not say its weights, layers and start.
    """

    deterministic = True

    def __init__(
        self,
        contents: Contents,
        features: Features,
        style: str,
        size: int = 64,
        alpha: float = 1.0,
        beta: float = 6.0,
        gamma: float = 0.3,
        start: str = "noise",
        noise_std: float = 0.25,
        spread: float = 16.0,
        smallest_crop: float = 0.6,
        batching: Literal["vmap", "loop"] = "vmap",
    ) -> None:
        super().__init__()
        check_positive(noise_std=noise_std, spread=spread)
        check_choice("start", start, STARTS)
        check_choice("batching", batching, ("vmap", "loop"))
        if size < max(2, features.smallest):
            raise ValueError(f"size={size} must be >= {max(2, features.smallest)} pixels")
        if min(alpha, beta, gamma) < 0 or not max(alpha, beta, gamma) > 0:
            raise ValueError(
                f"alpha={alpha}, beta={beta}, gamma={gamma} must be >= 0, and one of them > 0"
            )
        if not 0 < smallest_crop <= 1:
            raise ValueError(f"smallest_crop={smallest_crop} must be in (0, 1]")
        self.contents, self.features = contents, features
        self.size, self.start, self.noise_std = size, start, noise_std
        self.alpha, self.beta, self.gamma = alpha, beta, gamma
        self.spread, self.smallest_crop = spread, smallest_crop
        self.batching = batching
        self.spec = ParamSpec.of({"picture": ((3, size, size), "free")})
        self._calibrate()
        picture = centre(style_picture(style), size)
        self.register_buffer("style", picture, persistent=False)
        for layer, maps in self._maps(picture).items():
            self.register_buffer(f"{layer}_gram", gram(maps), persistent=False)

    def _calibrate(self) -> None:
        """Register each layer's mean square, and that of its Gram matrices, over contents."""
        pictures = self.contents["train"][:CALIBRATION]
        seen = [self._maps(centre(picture.float() / 255, self.size)) for picture in pictures]
        for layer in seen[0]:
            scale = torch.stack([maps[layer].square().mean() for maps in seen]).mean()
            grams = torch.stack([gram(maps[layer]).square().sum() for maps in seen]).mean()
            if not min(scale, grams) > 0:
                raise ValueError(f"layer {layer} of the features sees nothing in the contents")
            self.register_buffer(f"{layer}_scale", scale, persistent=False)
            self.register_buffer(f"{layer}_gram_scale", grams, persistent=False)

    @torch.no_grad()
    def _maps(self, picture: Tensor) -> dict[str, Tensor]:
        """Feature maps (c, height, width) of one picture (3, size, size), constants."""
        return {layer: maps[0] for layer, maps in self.features(picture[None]).items()}

    def sample(self, problems: Sequence[int], seed: Seed) -> Problem:
        """Crop the contents: maps (B, channels, height, width) of every content layer."""
        maps = [self._maps(one) for one in self._crops(problems, seed)]  # no bit by the batch
        layers = self.features.content
        data = {layer: torch.stack([each[layer] for each in maps]) for layer in layers}
        return Problem(tuple(problems), seed, data)

    def init(self, problems: Sequence[int], seed: Seed) -> Tensor:
        """Theta_0: noise, or the content picture; (B, N)."""
        if self.start == "content":
            return ((self._crops(problems, seed) - MIDDLE) / self.spread).flatten(1)
        normal = [generator(seed, "init", k).standard_normal(self.spec.size) for k in problems]
        noise = torch.stack([torch.from_numpy(x) for x in normal])
        return self.place(self.noise_std / self.spread * noise)

    def minibatch(self, problem: Problem, step: int) -> Data:
        """The whole problem, at every step."""
        return problem.data

    def loss(self, theta: Tensor, data: Data) -> Tensor:
        """The weighted sum of the terms of one problem."""
        terms = self._terms(theta, data)
        return (
            self.alpha * terms["content_loss"]
            + self.beta * terms["style_loss"]
            + self.gamma * terms["roughness"]
        )

    @torch.no_grad()
    def metrics(self, theta: Tensor, problem: Problem) -> Mapping[str, Tensor]:
        """`train_loss`, the loss; `content_loss`, `style_loss`, `roughness`, unweighted."""
        rows = [
            (one, {name: x[place] for name, x in problem.data.items()})
            for place, one in enumerate(theta)
        ]
        terms = [{"train_loss": self.loss(*row), **self._terms(*row)} for row in rows]
        return {name: torch.stack([each[name] for each in terms]) for name in terms[0]}

    def pictures(self, theta: Tensor) -> Tensor:
        """Pixels of theta (B, N), cut off at 0 and 1."""
        return self._pixels(theta).clamp(0, 1)

    def references(self, problem: Problem) -> Mapping[str, Tensor]:
        """The `content` pictures, and the `style`."""
        crops = self._crops(problem.index, problem.seed)
        return {"content": crops, "style": self.get_buffer("style").expand_as(crops)}

    def _pixels(self, theta: Tensor) -> Tensor:
        """(..., N) -> (..., 3, size, size)."""
        return MIDDLE + self.spread * self.spec.unflatten(theta)["picture"]

    def _terms(self, theta: Tensor, data: Data) -> dict[str, Tensor]:
        """The three terms of one problem."""
        pixels = self._pixels(theta)
        maps = self.features(pixels[None])
        content = [
            (maps[layer][0] - data[layer]).square().mean() / self.get_buffer(f"{layer}_scale")
            for layer in self.features.content
        ]
        style = [
            (gram(maps[layer][0]) - self.get_buffer(f"{layer}_gram")).square().sum()
            / self.get_buffer(f"{layer}_gram_scale")
            for layer in self.features.style
        ]
        return {
            "content_loss": torch.stack(content).mean(),
            "style_loss": torch.stack(style).mean(),
            "roughness": roughness(pixels / CONTRAST),
        }

    def _crops(self, problems: Sequence[int], seed: Seed) -> Tensor:
        """The content pictures (B, 3, size, size); cut and resampled on the CPU."""
        pictures = self.contents[seed.split]
        crops = []
        for index in problems:
            draws = generator(seed, "content", index).random(5)
            picture = pictures[int(draws[0] * len(pictures))]
            crops.append(crop(picture, draws[1:], self.size, self.smallest_crop))
        return self.place(torch.stack(crops))


def style_picture(style: str) -> Tensor:
    """A bundled picture by its name, or a file: (3, height, width) in [0, 1].

    Raises:
        FileNotFoundError: if it is neither.
        ValueError: if the file cannot be read as a picture.
    """
    if style in BUNDLED:
        return bundled(style)
    path = Path(style).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"style={style!r} must be a picture file, or one of {', '.join(BUNDLED)}"
        )
    return read_picture(path)


def gram(maps: Tensor) -> Tensor:
    """Mean products of the channels over all positions: (c, height, width) -> (c, c)."""
    flat = maps.flatten(1)
    return flat @ flat.T / flat.shape[1]


def roughness(picture: Tensor) -> Tensor:
    """Total variation with squares: of (3, height, width), both at least 2."""
    vertical, horizontal = picture.diff(dim=1), picture.diff(dim=2)
    return vertical.square().mean() + horizontal.square().mean()
