"""Labelled images, the choice of their classes, and their split into disjoint parts."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from l2l_exp.optimizees.jitter import Jitter
from l2l_exp.optimizees.seeding import SPLITS, Split

COMPLEMENT = "complement"


class Images(NamedTuple):
    """Labelled images, and the jitter that suits them when they are drawn."""

    pixels: Tensor  # (P, channels, height, width) in [0, 1]
    labels: Tensor  # (P,) int64 in [0, class_count)
    jitter: Jitter | None = None  # None: images are drawn as they are
    chosen: tuple[int, ...] | None = None  # what label i is in the whole data set; None: i

    @property
    def class_count(self) -> int:
        """Number of classes: the largest label, plus one."""
        return int(self.labels.max()) + 1


class Part(NamedTuple):
    """Indices of the images that the problems of one split may use."""

    train: Tensor  # (P_train,) what gradients see
    held_out: Tensor  # (P_held,) what no gradient ever sees


def choose_classes(
    count: int, classes: int | Sequence[int] | str | None, complement_of: int | Sequence[int]
) -> list[int]:
    """The labels of a data set that are asked for, in order.

    Args:
        count: >= 2, classes of the whole data set, labelled from 0.
        classes: None for all; an integer >= 2 for the first so many; at least two distinct labels;
            or "complement" for all but those of `complement_of`.
        complement_of: an integer >= 1 for the first so many, or distinct labels; at least two
            classes must be left. Without "complement" it is not read.

    Raises:
        ValueError: for anything else.

    Source: the CIFAR-5, CIFAR-2 and LSTM-sub of Andrychowicz et al. 2016, arXiv:1606.04474,
        figure 7. Which labels these are the paper does not say.
    """
    if classes is None:
        return list(range(count))
    if classes == COMPLEMENT:
        left_out = _labels(complement_of, count)
        kept = [label for label in range(count) if label not in left_out]
        if not left_out or len(kept) < 2:
            raise ValueError(
                f"complement_of={complement_of!r} must be an integer from 1 to {count - 2}, or "
                f"distinct labels from 0 to {count - 1} that leave at least two classes"
            )
        return kept
    kept = _labels(classes, count)
    if len(kept) < 2:
        raise ValueError(
            f"classes={classes!r} must be null, an integer from 2 to {count}, at least two "
            f"distinct labels from 0 to {count - 1}, or {COMPLEMENT!r}"
        )
    return kept


def _labels(value: object, count: int) -> list[int]:
    """The labels that an integer or a list stands for; none if it stands for no valid ones."""
    if isinstance(value, int) and not isinstance(value, bool):
        return list(range(value)) if 1 <= value <= count else []
    if isinstance(value, str) or not isinstance(value, Sequence):
        return []
    valid = all(type(label) is int and 0 <= label < count for label in value)
    return list(value) if valid and len(set(value)) == len(value) else []


def subset(labels: Tensor, chosen: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Keep the images of some classes, and number these anew.

    Args:
        labels: (P,) int64, >= 0.
        chosen: k distinct labels; the i-th becomes label i.

    Returns:
        Indices of the images that are kept, in their order, and their new labels: (K,) each.
    """
    renumbered = torch.full((max(int(labels.max()), *chosen) + 1,), -1)
    renumbered[torch.tensor(chosen)] = torch.arange(len(chosen))
    index = torch.nonzero(renumbered[labels] >= 0).squeeze(1)
    return index, renumbered[labels[index]]


def split_images(
    labels: Tensor,
    *,
    chosen: Sequence[int] | None = None,
    seed: int = 0,
    held_out_fraction: float = 0.25,
) -> Mapping[Split, Part]:
    """Split images once into meta-train, meta-validation and meta-test parts.

    The images of every class are shuffled by `seed` and dealt out in turn to the three splits,
    so that each gets a third of every class; within a split the last `held_out_fraction` of every
    class is held out. The six parts are disjoint and together hold every image. A class is split
    alike whatever other classes are chosen: what is trained on all classes can be tested on two.

    Args:
        labels: (P,) int64.
        chosen: what each label is in the whole data set; None where they are all there.
        seed: of the shuffle; not the meta-seed, so that every run splits alike.
        held_out_fraction: in (0, 1), of each split.

    Raises:
        ValueError: if the fraction is out of range or leaves a part of some class empty.
    """
    if not 0 < held_out_fraction < 1:
        raise ValueError(f"held_out_fraction={held_out_fraction} must be in (0, 1)")
    parts: dict[Split, tuple[list[Tensor], list[Tensor]]] = {name: ([], []) for name in SPLITS}
    for label in np.unique(labels.numpy()):
        rng = np.random.default_rng([seed, label if chosen is None else chosen[label]])
        members = torch.from_numpy(rng.permutation(np.flatnonzero(labels.numpy() == label)))
        for place, name in enumerate(SPLITS):
            mine = members[place :: len(SPLITS)]
            kept = len(mine) - round(held_out_fraction * len(mine))
            if not 0 < kept < len(mine):
                raise ValueError(
                    f"held_out_fraction={held_out_fraction} leaves an empty part: split {name} "
                    f"has {len(mine)} images of class {label}"
                )
            parts[name][0].append(mine[:kept])
            parts[name][1].append(mine[kept:])
    return {name: Part(torch.cat(train), torch.cat(held)) for name, (train, held) in parts.items()}
