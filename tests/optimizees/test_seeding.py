"""Draws are a function of (split, seed, axis, problem, step), and of all of them."""

import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from l2l_exp.optimizees.seeding import Seed, draw, generator, torch_key, torch_seeded

keys = st.tuples(
    st.sampled_from(["train", "validation", "test"]), st.integers(0, 30),
    st.sampled_from(["init", "minibatch"]), st.integers(0, 30), st.integers(0, 30),
)  # fmt: skip


def stream(key):
    """The first draws of one key's generator."""
    split, value, axis, problem, step = key
    return generator(Seed(split, value), axis, problem, step).integers(0, 2**63, 4).tolist()


@given(keys, keys, st.integers(0, 4))
def test_streams_are_repeatable_and_differ_where_any_part_of_the_key_differs(key, other, part):
    assert stream(key) == stream(key)
    assume(key[part] != other[part])
    changed = (*key[:part], other[part], *key[part + 1 :])
    assert not set(stream(key)) & set(stream(changed))


def test_a_stacked_draw_holds_each_problems_own_stream_in_the_order_asked_for():
    seed = Seed("train", 3)
    rows = draw(seed, "init", [4, 1], lambda rng: rng.standard_normal(2), step=6)
    for row, problem in zip(rows, [4, 1], strict=True):
        assert row.tolist() == generator(seed, "init", problem, 6).standard_normal(2).tolist()


def test_torchs_generator_is_seeded_inside_and_left_as_it_was():
    def inside(key):
        with torch_seeded(key, torch.device("cpu")):
            return torch.rand(3).tolist()

    one, other = (torch_key(Seed("train", 3), "init", problem) for problem in (1, 2))
    before = torch.get_rng_state()
    first = inside(one)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(5)
    assert inside(one) == first != inside(other)
