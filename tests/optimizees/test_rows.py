"""Rows of data: what counts as a table, who sees which rows."""

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from l2l_exp.optimizees.base import Problem
from l2l_exp.optimizees.images import Images
from l2l_exp.optimizees.rows import SPLITS, DrawnRows, SharedRows, rows_of
from l2l_exp.optimizees.seeding import Seed

TRAIN = Seed("train", 0)


def numbered(rows=30):
    """A table whose rows say who they are."""
    return {"inputs": torch.arange(rows).unsqueeze(1), "targets": torch.arange(rows) * 10}


def problem_of(rows, problems=(0, 1), seed=TRAIN):
    """Some problems with their own rows."""
    return Problem(tuple(problems), seed, rows.sample(problems, seed))


def held(rows, split, *, held_out):
    """The numbers of the rows of a part, of the first problem."""
    part = rows.part(problem_of(rows, seed=Seed(split, 0)), held_out=held_out)
    return part["inputs"][0, :, 0].tolist()


# ------------------------------------------------------------------ shared by all problems


class Items(Dataset):
    """A data set of pairs or dicts."""

    def __init__(self, as_dict, noise=False):
        self.as_dict, self.noise = as_dict, noise

    def __len__(self):
        return 30

    def __getitem__(self, item):
        table = numbered()
        shift = torch.rand(()) if self.noise else 0
        pair = (table["inputs"][item] + shift, int(table["targets"][item]))
        return dict(zip(("inputs", "targets"), pair, strict=True)) if self.as_dict else pair


TABLES = {
    "tensors": numbered(),
    "arrays": {name: x.numpy() for name, x in numbered().items()},
    "lists": {name: x.tolist() for name, x in numbered().items()},
    "pair": tuple(numbered().values()),
    "images": Images(*numbered().values()),
    "data set of tensors": TensorDataset(*numbered().values()),
    "data set of pairs": Items(as_dict=False),
    "data set of dicts": Items(as_dict=True),
}


@pytest.mark.parametrize("form", TABLES)
def test_a_table_may_come_in_many_forms(form):
    rows = rows_of(TABLES[form], (), 0, 0.25)
    expected = rows_of(numbered(), (), 0, 0.25)
    assert isinstance(rows, SharedRows) and rows.names == ("inputs", "targets")
    for part in (True, False):
        mine, theirs = (r.part(problem_of(r), held_out=part) for r in (rows, expected))
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_a_table_without_targets_is_a_table():
    assert rows_of((numbered()["inputs"],), (), 0, 0.25).names == ("inputs",)
    assert rows_of(TensorDataset(numbered()["inputs"]), (), 0, 0.25).names == ("inputs",)


def test_reading_a_random_data_set_is_seeded_and_touches_no_global_generator():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, same, other = (rows_of(Items(False, noise=True), (), s, 0.25).source for s in (0, 0, 1))
    assert one == same != other
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("rows", "fraction"), [(30, 0.25), (31, 0.4), (6, 0.5), (12, 0.0)])
def test_the_parts_of_the_splits_are_disjoint_and_hold_every_row(rows, fraction):
    table = rows_of(numbered(rows), (), 0, fraction)
    parts = [held(table, split, held_out=out) for split in SPLITS for out in (False, True)]
    assert sorted(sum(parts, [])) == list(range(rows))
    for split, train, out in zip(SPLITS, parts[::2], parts[1::2], strict=True):
        assert table.count(split) == len(train)
        assert abs(len(train) + len(out) - rows / 3) < 1
        assert abs(len(out) - fraction * (len(train) + len(out))) <= 0.5
    assert table.has_held_out == (fraction > 0)


def test_the_split_depends_on_its_seed_and_not_on_the_meta_seed():
    one, same, other = (rows_of(numbered(), (), seed, 0.25) for seed in (0, 0, 1))
    assert held(one, "train", held_out=False) == held(same, "train", held_out=False)
    assert held(one, "train", held_out=False) != held(other, "train", held_out=False)
    a, b = (one.part(problem_of(one, seed=Seed("test", s)), held_out=True) for s in (0, 5))
    assert torch.equal(a["inputs"], b["inputs"])


def test_a_batch_holds_rows_of_the_training_part_with_their_own_targets():
    rows = rows_of(numbered(), (), 0, 0.25)
    index = torch.tensor([[0, 3], [3, 1]])
    batch = rows.batch(problem_of(rows), index)
    train = held(rows, "train", held_out=False)
    assert batch["inputs"][..., 0].tolist() == [[train[0], train[3]], [train[3], train[1]]]
    assert torch.equal(batch["targets"], 10 * batch["inputs"][..., 0])
    whole = rows.batch(problem_of(rows), None)
    assert whole["inputs"][..., 0].tolist() == [train, train]


def test_constants_are_handed_to_every_problem_whole():
    weights = torch.rand(5, generator=torch.Generator().manual_seed(0))
    rows = rows_of(numbered() | {"weights": weights, "level": 2.5}, ["weights"], 0, 0.25)
    assert rows.names == ("inputs", "targets") and rows.constants == ("weights", "level")
    for part in (rows.part(problem_of(rows), held_out=True), rows.batch(problem_of(rows), None),
                 rows.batch(problem_of(rows), torch.tensor([[0], [1]]))):  # fmt: skip
        assert part["level"].tolist() == [2.5, 2.5]
        assert torch.equal(part["weights"], weights.expand(2, 5))


# ------------------------------------------------------------------ each problem's own


def own(rng):
    """Rows that know their number, the problem's own number, and a vector that is no rows."""
    whose = rng.uniform()
    return {"inputs": np.arange(12.0)[:, None], "whose": np.full(12, whose), "vector": [whose] * 3}


def test_a_problems_own_rows_are_parted_for_each_problem_and_stay_in_order():
    rows = rows_of(own, ["vector"], 0, 0.25)
    assert isinstance(rows, DrawnRows) and rows.count("test") == 9
    problem = problem_of(rows, range(6))
    train, out = (rows.part(problem, held_out=part) for part in (False, True))
    for place in range(6):
        mine, theirs = (part["inputs"][place, :, 0].tolist() for part in (train, out))
        assert sorted(mine + theirs) == list(range(12)) and len(theirs) == 3
        assert mine == sorted(mine) and theirs == sorted(theirs)
        assert set(train["whose"][place].tolist()) == set(out["whose"][place].tolist())
        assert train["vector"][place].tolist() == [train["whose"][place, 0]] * 3
    assert len({tuple(x) for x in out["inputs"][..., 0].tolist()}) > 1
    assert len(set(train["whose"][:, 0].tolist())) == 6


def test_a_batch_of_own_rows_is_taken_from_the_training_part():
    rows = rows_of(own, ["vector"], 0, 0.5)
    problem = problem_of(rows)
    index = torch.tensor([[5, 0], [1, 2]])
    batch, train = rows.batch(problem, index), rows.part(problem, held_out=False)
    for place in range(2):
        assert torch.equal(batch["inputs"][place], train["inputs"][place, index[place]])
        assert torch.equal(batch["whose"][place], train["whose"][place, index[place]])
    assert torch.equal(batch["vector"], train["vector"])


def test_torchs_generator_is_seeded_for_the_callable_too():
    def draw(rng):
        return {"inputs": torch.rand(6)}

    torch.manual_seed(0)
    before = torch.get_rng_state()
    rows = rows_of(draw, (), 0, 0.5)
    one, two = (rows.sample([3, 4], TRAIN)["inputs"] for _ in range(2))
    assert torch.equal(one, two) and not torch.equal(one[0].sort()[0], one[1].sort()[0])
    assert torch.equal(torch.get_rng_state(), before)


# ------------------------------------------------------------------ what a user gets wrong


def uneven(rng):
    """Another length for every problem."""
    return {"inputs": np.zeros(rng.integers(5, 50))}


WRONG = {
    "no data": (3, (), 0.25, "data is a int, and must be named tensors"),
    "a text": ({"inputs": "text"}, (), 0.25, "data: inputs is a str"),
    "an object": ({"inputs": [object()]}, (), 0.25, "data: inputs is a list"),
    "a strange name": ({"my inputs": [1]}, (), 0.25, "'my inputs' must be a name"),
    "three members": (([1], [2], [3]), (), 0.25, "this one has 3 members"),
    "unequal lengths": (
        {"inputs": [1, 2], "targets": [1]}, (), 0.25, "got inputs 2, targets 1; name in `constants`"
    ),
    "no rows": ({"level": 2.5}, (), 0.25, "got none"),
    "an unknown constant": ({"inputs": [1]}, ["speed"], 0.25, "'speed' must be one of inputs"),
    "too few rows": (numbered(3), (), 0.25, "split train has 1 rows"),
    "a fraction of one": (numbered(), (), 1.0, r"held_out_fraction=1.0 must be in \[0, 1\)"),
    "a negative fraction": (numbered(), (), -0.1, "held_out_fraction=-0.1"),
    "an empty data set": (TensorDataset(torch.zeros(0, 1)), (), 0.25, "length >= 1"),
    "items of unequal shape": (
        type("Ragged", (Items,), {"__getitem__": lambda self, i: torch.zeros(i)})(False), (), 0.25,
        "the items of Ragged cannot be stacked",
    ),
    "a draw that is no dict": (lambda rng: [1.0], (), 0.25, "what is drawn is a list"),
    "a draw with too few rows": (lambda rng: {"x": [1.0]}, (), 0.25, "a problem has 1 rows"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_one_line_that_names_it(name):
    data, constants, fraction, message = WRONG[name]
    with pytest.raises(ValueError, match=message) as refused:
        rows_of(data, constants, 0, fraction)
    assert "\n" not in str(refused.value)


def test_a_draw_of_another_shape_is_named_with_its_problem():
    rows = rows_of(uneven, (), 0, 0.25)
    with pytest.raises(ValueError, match=r"problem \d+ has inputs \(\d+,\), another inputs"):
        rows.sample(range(1, 9), TRAIN)
