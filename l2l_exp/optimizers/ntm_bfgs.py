"""NTM-BFGS: a controller that reads and writes an approximate inverse Hessian."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from l2l_exp.optimizees.spec import ParamSpec
from l2l_exp.optimizers import memory
from l2l_exp.optimizers.base import LearnedOptimizer, Observation, State, choose, map_state
from l2l_exp.optimizers.memory import Memory, Read


class Heads(NamedTuple):
    """What a controller emits for every coordinate."""

    update: Tensor  # (B, N)
    query: Tensor  # (R, B, N) read vectors, for the next step; R = 0 if it reads in the same step
    left: Tensor  # (W, B, N)
    right: Tensor  # (W, B, N)


class Controller(nn.Module, ABC):
    """What drives the memory: coordinates share its weights and meet in means and in the memory.

    Attributes:
        read_delay: 0, what `query` asks is answered in the same step; 1, what the heads ask is
            answered in the next one (paper).
        read_heads: R >= 1.
        reads: forms of reading that its writes are meant for.
        needs_memory: whether it moves along what it reads alone, so that M_0 = 0 rests for ever.
        needs_own_steps: whether it counts on theta moving by the update that it emits.
    """

    read_delay: int
    read_heads: int
    reads: tuple[Read, ...] = ("product",)
    needs_memory: bool = True
    needs_own_steps: bool = False

    @abstractmethod
    def init_state(self, theta: Tensor) -> State:
        """The state before the first step: theta (B, N)."""

    def rescaled(self, seen: Observation, state: State, multiple: Tensor) -> Tensor:
        """The multiple of I in the memory (B, 1), asked before it is read: it stays what it is."""
        return multiple

    def note(self, seen: Observation, state: State) -> tuple[Tensor, Tensor, Tensor] | None:
        """What is to be written before anything is read, if anything.

        Returns:
            Left and right vectors (W, B, N), and in which problems (B,) they are written.
        """
        return None

    def without_pair(self, seen: Observation, state: State, trusted: Tensor) -> State:
        """The state for a step that makes no use of the latest pair where it is not trusted."""
        return state

    def told(self, state: State, update: Tensor) -> State:
        """The state after a step whose update was replaced: what keeps none need not know."""
        return state

    @abstractmethod
    def query(self, seen: Observation, state: State) -> Tensor:
        """Read vectors (R, B, N) of this step; asked only if `read_delay` is 0."""

    @abstractmethod
    def forward(self, seen: Observation, answers: Tensor, state: State) -> tuple[Heads, State]:
        """Emit the heads.

        Args:
            seen: what a rule sees.
            answers: (R, B, N) the memory times the read vectors.
            state: its own.
        """


class NTMState(NamedTuple):
    """State of the controller, its memory, and what was asked for."""

    controller: State
    memory: Memory
    multiple: Tensor  # (B, 1) the memory is this times I, plus what was written; 0 before it starts
    started: Tensor  # (B, 1) 0 before the first step, then 1
    answers: Tensor  # (R, B, N) read at the step before; (0, B, N) if read_delay = 0


class NTMBFGS(LearnedOptimizer):
    """A controller with an external memory: M_{t+1} = M_t + sum over write heads of left right^T.

    Args:
        controller: emits update, read vectors and writes.
        initial_memory: >= 0, M_0 is this multiple of I; > 0 for a controller that moves along what
            it reads.
        learn_initial_memory: whether that multiple, > 0, is a meta-parameter.
        history: None for a dense memory, O(N^2) per problem; or the number of pairs, >= 1, that
            are kept, O(N history): NTM-L-BFGS.
        read: "product", M r; or, with a bounded history, "two_loop": L-BFGS's two loops over the
            pairs, left as s and right as y.
        max_coordinates: a dense memory refuses more than so many.
        output_scale: >= 0, constant factor on the update.

    Raises:
        ValueError: for a value outside these ranges.

    Source: arXiv:1606.04474, appendix D. Not stated there: M_0 and any scaling of the heads.
    """

    coupling = "problem"

    def __init__(
        self,
        controller: Controller,
        initial_memory: float = 0.01,
        learn_initial_memory: bool = False,
        history: int | None = None,
        read: Read = "product",
        max_coordinates: int = 512,
        output_scale: float = 1.0,
    ) -> None:
        super().__init__()
        _check_read(controller, history, read)
        _check_initial(controller, initial_memory, learn_initial_memory)
        if max_coordinates < 1:
            raise ValueError(f"max_coordinates={max_coordinates} must be >= 1")
        if not 0 <= output_scale < math.inf:
            raise ValueError(f"output_scale={output_scale} must be >= 0")
        if controller.needs_own_steps and output_scale != 1:
            raise ValueError(
                f"output_scale={output_scale} must be 1: {type(controller).__name__} counts on its "
                f"own steps"
            )
        self.controller = controller
        self.initial_memory: float | nn.Parameter = initial_memory
        if learn_initial_memory:  # the inverse of softplus
            inverse = initial_memory + math.log(-math.expm1(-initial_memory))
            self.initial_memory = nn.Parameter(torch.tensor(inverse))
        self.history = history
        self.read_form = read
        self.max_coordinates = max_coordinates
        self.output_scale = output_scale

    def init_state(self, theta: Tensor, spec: ParamSpec) -> NTMState:
        """Nothing written.

        Raises:
            ValueError: if the memory is dense and theta (B, N) has more than `max_coordinates`.
        """
        problems, size = theta.shape
        if self.history is None and size > self.max_coordinates:
            raise ValueError(
                f"a dense memory of {size} x {size} per problem: max_coordinates="
                f"{self.max_coordinates}. Use optimizer=ntm_lbfgs, or raise max_coordinates"
            )
        asked = self.controller.read_heads if self.controller.read_delay else 0
        return NTMState(
            self.controller.init_state(theta),
            memory.empty(theta, self.history),
            torch.zeros_like(theta[:, :1]),
            torch.zeros_like(theta[:, :1]),
            theta.new_zeros(asked, problems, size),
        )

    def step(self, seen: Observation, state: NTMState) -> tuple[Tensor, NTMState]:
        """Read, advance the controller, write: the update (B, N)."""
        stored = memory.settle(state.memory)
        multiple = torch.where(state.started > 0, state.multiple, self._initial())
        multiple = self.controller.rescaled(seen, state.controller, multiple)
        noted = self.controller.note(seen, state.controller)
        if noted is not None:
            left, right, where = noted
            written = memory.write(stored, left, right)
            stored = memory.map_problems(partial(choose, where), written, stored)
        answers = state.answers
        if not self.controller.read_delay:
            query = self.controller.query(seen, state.controller)
            answers = self._read(stored, multiple, query)
        heads, after = self.controller(seen, answers, state.controller)
        if self.controller.read_delay:
            answers = self._read(stored, multiple, heads.query)
        written = memory.write(stored, heads.left, heads.right) if len(heads.left) else stored
        kept = answers if self.controller.read_delay else state.answers
        started = torch.ones_like(state.started)
        update = self.output_scale * heads.update
        return update, NTMState(after, written, multiple, started, kept)

    def step_trusted(
        self, seen: Observation, state: NTMState, trusted: Tensor
    ) -> tuple[Tensor, NTMState]:
        """The step; a pair that is not trusted reaches neither the memory nor the direction."""
        controller = self.controller.without_pair(seen, state.controller, trusted)
        return self.step(seen, state._replace(controller=controller))

    def told(self, state: NTMState, update: Tensor) -> NTMState:
        """Tell the controller."""
        return state._replace(controller=self.controller.told(state.controller, update))

    def _initial(self) -> Tensor | float:
        """The multiple of I that M_0 is."""
        initial = self.initial_memory
        return softplus(initial) if isinstance(initial, Tensor) else initial

    def _read(self, stored: Memory, multiple: Tensor, vectors: Tensor) -> Tensor:
        """The memory, the multiple of I included, times every vector (R, B, N)."""
        if self.read_form == "two_loop":
            return memory.read_two_loops(stored, vectors, multiple)
        return multiple * vectors + memory.read(stored, vectors)

    def map_problems(self, function: Callable[..., Tensor], *states: Any) -> NTMState:
        """The memory as it says; of the rest every tensor ends in (B, N) or (B, 1)."""
        rows = partial(function, -2)
        return NTMState(
            map_state(rows, *(state.controller for state in states)),
            memory.map_problems(function, *(state.memory for state in states)),
            map_state(rows, *(state.multiple for state in states)),
            map_state(rows, *(state.started for state in states)),
            map_state(rows, *(state.answers for state in states)),
        )


def _check_read(controller: Controller, history: int | None, read: Read) -> None:
    """Raise ValueError for a memory that cannot be, or that this controller does not write."""
    if history is not None and (not isinstance(history, int) or history < 1):
        raise ValueError(f"history={history} must be an integer >= 1, or null for a dense memory")
    if read not in ("product", "two_loop"):
        raise ValueError(f"read={read!r} must be one of product, two_loop")
    if read == "two_loop" and history is None:
        raise ValueError("read='two_loop' needs a bounded history, got history=null")
    if read not in controller.reads:
        raise ValueError(
            f"read={read!r} makes no sense of what {type(controller).__name__} writes: use read="
            f"{controller.reads[0]}, or another controller"
        )


def _check_initial(controller: Controller, initial: float, learned: bool) -> None:
    """Raise ValueError for an M_0 that cannot be."""
    positive = learned or controller.needs_memory
    if not (initial > 0 if positive else initial >= 0) or initial == math.inf:
        why = " to be learned" if learned else ": this controller moves along what it reads"
        raise ValueError(f"initial_memory={initial} must be {'> 0' + why if positive else '>= 0'}")


def check_heads(read_heads: int, write_heads: int, read_delay: int) -> None:
    """Raise ValueError for numbers that make no sense."""
    for name, value in (("read_heads", read_heads), ("write_heads", write_heads)):
        if value < 1:
            raise ValueError(f"{name}={value} must be >= 1")
    if read_delay not in (0, 1):
        raise ValueError(f"read_delay={read_delay} must be 0 or 1")
