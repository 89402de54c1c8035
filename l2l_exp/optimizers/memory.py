"""A memory that holds an approximate inverse Hessian: dense, or the last low-rank writes."""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from l2l_exp.optimizers.base import map_state
from l2l_exp.optimizers.sizes import mean_product, pair_of

Read = Literal["product", "two_loop"]


class Memory(NamedTuple):
    """M = dense + sum of left right^T over all pairs, one per problem.

    `recent` holds the writes that a graph leads to, one entry per write: there the base is what it
    was when the graph began, so that a window of K writes of W pairs keeps O(N W K) numbers and
    never K matrices. As soon as no graph leads to them they are moved into the base.
    """

    dense: Tensor  # (B, N, N); (B, 0, 0) where the history is bounded
    left: Tensor  # (P, B, N), oldest first, zeros where nothing was written yet; P = 0 if dense
    right: Tensor  # (P, B, N)
    recent_left: tuple[Tensor, ...]  # (W, B, N) each, oldest first
    recent_right: tuple[Tensor, ...]


def empty(theta: Tensor, history: int | None) -> Memory:
    """Nothing written: dense where `history` is None, else of the last `history` pairs."""
    problems, size = theta.shape
    side = 0 if history is not None else size
    pairs = theta.new_zeros(history or 0, problems, size)
    return Memory(theta.new_zeros(problems, side, side), pairs, pairs, (), ())


def write(memory: Memory, left: Tensor, right: Tensor) -> Memory:
    """M + sum over pairs of left right^T: (W, B, N) each."""
    recent = (*memory.recent_left, left), (*memory.recent_right, right)
    return settle(memory._replace(recent_left=recent[0], recent_right=recent[1]))


def settle(memory: Memory) -> Memory:
    """Move the writes that no graph leads to into the base; the memory stays what it is."""
    count = 0
    while count < len(memory.recent_left) and not (
        memory.recent_left[count].requires_grad or memory.recent_right[count].requires_grad
    ):
        count += 1
    if not count:
        return memory
    left, right = (torch.cat(part[:count]) for part in memory[3:])
    rest_left, rest_right = memory.recent_left[count:], memory.recent_right[count:]
    pairs = memory.left.shape[0]
    if pairs:
        left, right = torch.cat([memory.left, left]), torch.cat([memory.right, right])
        return Memory(memory.dense, left[-pairs:], right[-pairs:], rest_left, rest_right)
    dense = torch.baddbmm(memory.dense, left.permute(1, 2, 0), right.transpose(0, 1))
    return Memory(dense, memory.left, memory.right, rest_left, rest_right)


def map_problems(function: Callable[..., Tensor], *memories: Memory) -> Memory:
    """Apply `function(axis, tensor, ...)` tensor by tensor; `axis` counts the problems.

    Where several have different numbers of writes that a graph leads to, a dense memory counts as
    if it had written zeros since, and the pairs of bounded ones are lined up by age.
    """
    settled = [settle(memory) for memory in memories]
    if len({len(memory.recent_left) for memory in settled}) > 1:
        settled = _lined_up(settled)
    dense = function(0, *(memory.dense for memory in settled))
    return Memory(dense, *map_state(partial(function, -2), *(memory[1:] for memory in settled)))


def _lined_up(memories: list[Memory]) -> list[Memory]:
    """The same memories, as many entries each."""
    if memories[0].left.shape[0]:
        return [_gathered(memory) for memory in memories]
    longest = max(memories, key=lambda memory: len(memory.recent_left))
    lined = []
    for memory in memories:
        missing = longest.recent_left[len(memory.recent_left) :]
        zeros = tuple(torch.zeros_like(write) for write in missing)
        left, right = memory.recent_left + zeros, memory.recent_right + zeros
        lined.append(memory._replace(recent_left=left, recent_right=right))
    return lined


def _gathered(memory: Memory) -> Memory:
    """A bounded memory with all its pairs in `left` and `right`, recent ones too."""
    lefts, rights = zip(*_chunks(memory), strict=True)
    return Memory(memory.dense, torch.cat(lefts), torch.cat(rights), (), ())


def read(memory: Memory, vectors: Tensor) -> Tensor:
    """M r for every vector: (R, B, N) -> (R, B, N)."""
    found = torch.zeros_like(vectors)
    if memory.dense.shape[-1]:
        found = torch.bmm(memory.dense, vectors.permute(1, 2, 0)).permute(2, 0, 1)
    for left, right in _chunks(memory):
        weights = torch.einsum("pbn,rbn->rpb", right, vectors)
        found = found + torch.einsum("rpb,pbn->rbn", weights, left)
    return found


def read_two_loops(memory: Memory, vectors: Tensor, initial: Tensor) -> Tensor:
    """What L-BFGS's two loops make of vectors (R, B, N), with left as s and right as y.

    Pairs that lack positive curvature, such as places not written yet, are left out. The loops run
    on s and y over their sizes, so that they neither overflow nor underflow.

    Args:
        memory: of a bounded history.
        vectors: (R, B, N).
        initial: the initial inverse Hessian is `initial` * I, broadcast against `vectors`.

    Source: D. C. Liu, J. Nocedal, Mathematical Programming 45 (1989), 503-528.
    """
    pairs = [pair for chunk in _chunks(memory) for pair in _unit_pairs(*chunk)]
    found, weights = vectors, []
    for s, y, _, rho in reversed(pairs):
        weights.append(rho * mean_product(s, found))
        found = found - weights[-1] * y
    found = initial * found
    for (s, y, ratio, rho), weight in zip(pairs, reversed(weights), strict=True):
        found = found + (ratio * weight - rho * mean_product(y, found)) * s
    return found


def _unit_pairs(s: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Pairs (P, B, N) over their sizes, the ratio of these, and 1 / cosine: 0 where none counts."""
    pair = pair_of(s, y)
    rho = torch.where(pair.good, 1 / torch.where(pair.good, pair.cosine, 1.0), 0.0)
    return list(zip(pair.s, pair.y, pair.ratio, rho, strict=True))


def _chunks(memory: Memory) -> list[tuple[Tensor, Tensor]]:
    """Left and right vectors in pieces, oldest first, without those that a full memory dropped."""
    recent = list(zip(memory.recent_left, memory.recent_right, strict=True))
    pairs = memory.left.shape[0]
    if not pairs:
        return recent
    chunks, room = [], pairs
    for left, right in [*reversed(recent), (memory.left, memory.right)]:
        if room:
            chunks.append((left[-room:], right[-room:]))
            room -= chunks[-1][0].shape[0]
    return chunks[::-1]
