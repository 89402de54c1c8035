"""Random draws as a function of (seed, axis, problem, step), and of nothing else."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
Array = npt.NDArray[np.float64] | npt.NDArray[np.int64]


class Seed(NamedTuple):
    """What every draw of a set of problems starts from.

    Two seeds that differ in any field give unrelated draws, so that training, validation and
    test problems are disjoint even where their indices agree.
    """

    split: Split
    value: int


def generator(seed: Seed, axis: str, problem: int, step: int = 0) -> np.random.Generator:
    """Make the generator of one problem's draws of one kind at one inner step.

    Args:
        seed: the split and the seed of the set of problems.
        axis: what is drawn, e.g. "init" or "minibatch"; other axes are independent streams.
        problem: index of the problem, >= 0.
        step: inner step, >= 0.

    Returns:
        A counter-based generator (Philox) with a 128-bit key: streams neither overlap nor depend
        on how many problems are drawn together, in which order, or on which device.
    """
    name = f"{seed.split}/{seed.value}/{axis}/{problem}/{step}"
    key = hashlib.blake2b(name.encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))


def rotation(rng: np.random.Generator, size: int) -> npt.NDArray[np.float64]:
    """Draw an orthogonal matrix (size, size), uniformly (Haar)."""
    basis, triangle = np.linalg.qr(rng.standard_normal((size, size)))
    return basis * np.sign(np.diag(triangle))


def draw(
    seed: Seed,
    axis: str,
    problems: Sequence[int],
    sampler: Callable[[np.random.Generator], Array],
    *,
    step: int = 0,
) -> Tensor:
    """Stack one draw per problem: (B, ...) on the CPU, float64 or int64 as `sampler` returns it."""
    return torch.from_numpy(
        np.stack([sampler(generator(seed, axis, index, step)) for index in problems])
    )


def torch_key(seed: Seed, axis: str, problem: int, step: int = 0) -> int:
    """A number in [0, 2^63) for `torch_seeded`, drawn like everything else."""
    return int(generator(seed, axis, problem, step).integers(2**63 - 1))


@contextmanager
def torch_seeded(key: int, device: torch.device) -> Iterator[None]:
    """Torch's own generators start from `key` inside, and are afterwards as they were before.

    For code that takes no generator, such as the initialisation of an `nn.Module` or dropout.
    Torch's CPU generator keeps 32 bits of a seed: of a hundred thousand streams two may agree.

    Args:
        key: in [0, 2^63), e.g. of `torch_key`.
        device: whose generator is seeded beside the CPU's.
    """
    cuda = device.type == "cuda"
    with torch.random.fork_rng([device] if cuda else []):
        torch.default_generator.manual_seed(key)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(key)
        yield
