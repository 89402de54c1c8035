"""The choice of classes, and the split into six parts."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from l2l_exp.optimizees.data import digits
from l2l_exp.optimizees.images import Images, choose_classes, split_images, subset
from l2l_exp.optimizees.seeding import SPLITS


def parts_of(parts):
    """The six index tensors."""
    return [index for name in SPLITS for index in parts[name]]


def test_the_six_parts_are_disjoint_and_hold_every_image():
    labels = digits().labels
    index = torch.cat(parts_of(split_images(labels)))
    assert index.sort().values.tolist() == list(range(len(labels)))


def test_every_split_has_a_third_of_every_class_and_holds_a_quarter_of_it_out():
    labels = digits().labels
    count = labels.bincount()
    for train, held_out in split_images(labels, held_out_fraction=0.25).values():
        mine, held = labels[torch.cat([train, held_out])].bincount(), labels[held_out].bincount()
        assert (mine - count / 3).abs().max() < 1
        assert (held - mine / 4).abs().max() <= 0.5


def test_the_split_depends_on_its_seed_and_on_nothing_else():
    labels = digits().labels
    one, again, other = (parts_of(split_images(labels, seed=seed)) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, math.nan])
def test_a_held_out_fraction_outside_its_range_is_refused(fraction):
    with pytest.raises(ValueError, match=r"held_out_fraction=.* must be in \(0, 1\)"):
        split_images(digits().labels, held_out_fraction=fraction)


def test_a_class_too_small_for_six_parts_is_refused_by_name():
    with pytest.raises(ValueError, match="split validation has 1 images of class 7"):
        split_images(torch.tensor([7] * 4 + [3] * 60), held_out_fraction=0.5)


@pytest.mark.parametrize(
    ("classes", "complement_of", "chosen"),
    [
        (None, 5, [*range(10)]),
        (10, 5, [*range(10)]),
        (5, 5, [0, 1, 2, 3, 4]),
        (2, 5, [0, 1]),
        ([7, 3, 4], 5, [7, 3, 4]),
        ("complement", 5, [5, 6, 7, 8, 9]),
        ("complement", 2, [2, 3, 4, 5, 6, 7, 8, 9]),
        ("complement", 8, [8, 9]),
        ("complement", [9, 0, 4], [1, 2, 3, 5, 6, 7, 8]),
    ],
)
def test_classes_are_chosen_by_number_list_or_complement(classes, complement_of, chosen):
    assert choose_classes(10, classes, complement_of) == chosen


@pytest.mark.parametrize(
    "classes",
    [1, 0, -2, 11, 2.0, True, "5", "complment", "all", [], [3], [3, 3], [0, 10], [-1, 2], [0, 1.0],
     [0, True], ["0", "1"]],
)  # fmt: skip
def test_wrong_classes_are_named_with_what_is_right(classes):
    with pytest.raises(ValueError) as error:
        choose_classes(10, classes, 5)
    assert str(error.value) == (
        f"classes={classes!r} must be null, an integer from 2 to 10, at least two distinct labels "
        f"from 0 to 9, or 'complement'"
    )


@pytest.mark.parametrize(
    "complement_of",
    [0, -1, 9, 10, 11, 2.0, True, "5", None, [], [1, 1], [10], [-1], [0, 1, 2, 3, 4, 5, 6, 7, 8]],
)
def test_a_wrong_complement_is_named_with_what_is_right(complement_of):
    with pytest.raises(ValueError) as error:
        choose_classes(10, "complement", complement_of)
    assert str(error.value) == (
        f"complement_of={complement_of!r} must be an integer from 1 to 8, or distinct labels from "
        f"0 to 9 that leave at least two classes"
    )


@given(st.integers(2, 12).flatmap(lambda k: st.tuples(st.just(k), st.sets(st.integers(0, k - 1)))))
def test_classes_and_their_complement_are_all_classes(drawn):
    count, named = drawn
    if not 2 <= len(named) <= count - 2:
        return
    kept = choose_classes(count, "complement", sorted(named))
    assert sorted([*kept, *choose_classes(count, sorted(named), 5)]) == [*range(count)]


def test_a_subset_keeps_the_order_of_the_images_and_numbers_the_classes_anew():
    labels = torch.tensor([4, 0, 7, 4, 2, 7, 0])
    index, renumbered = subset(labels, [7, 4])
    assert index.tolist() == [0, 2, 3, 5] and renumbered.tolist() == [1, 0, 1, 0]
    assert renumbered.dtype == torch.int64


def test_a_class_without_images_is_no_error():
    index, renumbered = subset(torch.tensor([1, 0]), [5, 1])
    assert index.tolist() == [0] and renumbered.tolist() == [1]


def test_the_first_classes_alone_are_split_as_among_all():
    labels = digits().labels
    index, renumbered = subset(labels, [0, 1, 2])
    whole, alone = split_images(labels), split_images(renumbered)
    for name in SPLITS:
        for ours, theirs in zip(alone[name], whole[name], strict=True):
            assert set(index[ours].tolist()) == set(theirs[labels[theirs] < 3].tolist())


def test_the_number_of_classes_is_that_of_the_labels():
    assert Images(torch.zeros(3, 1, 2, 2), torch.tensor([0, 6, 2])).class_count == 7


@pytest.mark.parametrize("classes", [2, [3, 9, 1], "complement"])
def test_a_class_is_split_alike_whatever_other_classes_are_chosen(classes):
    """What is trained on all classes and tested on some meets no image that it was trained on."""
    whole, some = digits(), digits(classes=classes)
    ours, theirs = (split_images(images.labels, chosen=images.chosen) for images in (some, whole))
    kept = torch.isin(whole.labels, torch.tensor(some.chosen))
    for split in SPLITS:
        for mine, all_ in zip(ours[split], theirs[split], strict=True):
            expected = whole.pixels[all_[kept[all_]]].flatten(1)
            found = some.pixels[mine].flatten(1)
            assert {x.numpy().tobytes() for x in found} == {x.numpy().tobytes() for x in expected}
