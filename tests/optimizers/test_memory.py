"""The memory against a matrix that is written out."""

from functools import partial

import pytest
import torch

from l2l_exp.optimizers import memory
from l2l_exp.optimizers.base import choose, map_state, state_tensors

B, N, PAIRS = 3, 5, 2


def vectors(count, seed):
    """Random vectors (count, B, N)."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(count, B, N, generator=rng, dtype=torch.float64)


def matrix(writes):
    """Sum of left right^T over all pairs of all writes: (B, N, N)."""
    return sum(torch.einsum("pbi,pbj->bij", left, right) for left, right in writes)


def written(history, writes, graph):
    """A memory after these writes, with or without a graph leading to them."""
    with torch.set_grad_enabled(graph):
        stored = memory.empty(torch.zeros(B, N).double(), history)
        for left, right in writes:
            left, right = (x.clone().requires_grad_(graph) for x in (left, right))
            stored = memory.write(stored, left, right)
    return stored


def some_writes(count):
    """Pairs to write."""
    return [(vectors(PAIRS, 2 * i), vectors(PAIRS, 2 * i + 1)) for i in range(count)]


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("count", [0, 1, 4])
def test_a_dense_memory_is_the_sum_of_its_writes(count, graph):
    writes, asked = some_writes(count), vectors(3, 99)
    found = memory.read(written(None, writes, graph), asked)
    expected = torch.einsum("bij,rbj->rbi", matrix(writes), asked) if writes else 0 * asked
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("history", [1, 2, 3, 5, 8, 30])
def test_a_bounded_memory_is_the_sum_of_its_last_pairs(history, graph):
    writes, asked = some_writes(4), vectors(3, 99)
    pairs = [(left[p : p + 1], right[p : p + 1]) for left, right in writes for p in range(PAIRS)]
    found = memory.read(written(history, writes, graph), asked)
    expected = torch.einsum("bij,rbj->rbi", matrix(pairs[-history:]), asked)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("history", [None, 3])
def test_what_was_written_before_the_graph_moves_into_the_base_and_stays(history):
    writes, asked = some_writes(5), vectors(2, 99)
    whole = written(history, writes, graph=True)
    cut = map_state(torch.Tensor.detach, written(history, writes[:3], graph=True))
    assert len(cut.recent_left) == 3
    for left, right in writes[3:]:
        cut = memory.write(cut, left.clone().requires_grad_(), right)
    assert len(cut.recent_left) == 2
    torch.testing.assert_close(memory.read(cut, asked), memory.read(whole, asked))


@pytest.mark.parametrize("history", [None, 6])
def test_shapes_are_fixed_where_no_graph_is_kept(history):
    empty, full = (written(history, some_writes(count), graph=False) for count in (0, 5))
    assert [x.shape for x in state_tensors(empty)] == [x.shape for x in state_tensors(full)]


def test_gradients_reach_every_write():
    writes = [(x.requires_grad_(), y.requires_grad_()) for x, y in some_writes(3)]
    stored = memory.empty(torch.zeros(B, N).double(), None)
    for left, right in writes:
        stored = memory.write(stored, left, right)
    loss = memory.read(stored, vectors(1, 99)).square().sum()
    direct = torch.einsum("bij,rbj->rbi", matrix(writes), vectors(1, 99)).square().sum()
    leaves = [x for pair in writes for x in pair]
    ours, theirs = (torch.autograd.grad(value, leaves) for value in (loss, direct))
    for one, other in zip(ours, theirs, strict=True):
        assert one.count_nonzero()
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_a_graph_holds_the_vectors_written_and_never_a_matrix_of_each_step():
    # 20 writes of 2 pairs at N = 400: 20 matrices would be 3,200,000 numbers, the pairs 32,000.
    size, steps, saved = 400, 20, {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes() // tensor.element_size()
        return tensor

    stored = memory.empty(torch.zeros(1, size), None)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        signal = torch.ones(1, 1, size)
        for step in range(steps):
            left = torch.full((PAIRS, 1, size), 1.0 + step, requires_grad=True)
            stored = memory.write(stored, left, 2 * left)
            signal = 1e-9 * memory.read(stored, signal)
    assert saved and sum(saved.values()) < 2 * size * size


@pytest.mark.parametrize("history", [None, 3])
@pytest.mark.parametrize("graph", [True, False])
def test_taking_problems_takes_their_memory(graph, history):
    stored, index = written(history, some_writes(4), graph), torch.tensor([2, 0])
    part = memory.map_problems(lambda axis, x: x.index_select(axis, index), stored)
    asked = vectors(1, 99)
    torch.testing.assert_close(
        memory.read(part, asked[:, index]), memory.read(stored, asked)[:, index]
    )


@pytest.mark.parametrize("history", [None, 3, 5, 20])
@pytest.mark.parametrize("graph", [True, False])
def test_problems_of_two_memories_are_mixed(graph, history):
    one, other = (written(history, some_writes(count), graph) for count in (4, 2))
    where, asked = torch.tensor([True, False, True]), vectors(2, 99)
    mixed = memory.map_problems(partial(choose, where), one, other)
    expected = torch.where(where.unsqueeze(-1), memory.read(one, asked), memory.read(other, asked))
    torch.testing.assert_close(memory.read(mixed, asked), expected)


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("history", [2, 10])
def test_two_loops_are_the_product_of_the_recursion(history, graph):
    # H_k = (I - rho s y^T) H_{k-1} (I - rho y s^T) + rho s s^T, from `initial` * I
    writes = [(vectors(1, 2 * i), vectors(1, 2 * i + 1)) for i in range(4)]
    writes = [(s, torch.where((s * y).sum(-1, keepdim=True) > 0, y, -y)) for s, y in writes]
    initial, asked, eye = torch.tensor([[0.5], [2.0], [1.0]]).double(), vectors(2, 99), torch.eye(N)
    found = memory.read_two_loops(written(history, writes, graph), asked, initial)
    for b in range(B):
        inverse = initial[b] * eye
        for left, right in writes[-history:]:
            s, y = left[0, b], right[0, b]
            side = eye - s.outer(y) / (s @ y)
            inverse = side @ inverse @ side.T + s.outer(s) / (s @ y)
        torch.testing.assert_close(found[:, b], asked[:, b] @ inverse.T)


def test_pairs_without_positive_curvature_are_left_out():
    good = (vectors(1, 0), vectors(1, 0) + 0.1)
    bad = (vectors(1, 1), -vectors(1, 1))
    asked, one = vectors(1, 99), torch.ones(B, 1).double()
    with_bad = memory.read_two_loops(written(3, [bad, good, bad], graph=False), asked, one)
    without = memory.read_two_loops(written(3, [good], graph=False), asked, one)
    torch.testing.assert_close(with_bad, without)
