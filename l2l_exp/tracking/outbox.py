"""The outbox: what is sent to a store in order, and waits where the store does not answer."""

import time
from collections import deque
from collections.abc import Callable

Send = Callable[[], None]
FIRST_DELAY, LONGEST_DELAY = 5.0, 120.0
"""Seconds between attempts: the delay doubles from one to the next, up to the longest."""


class RefusedError(ValueError):
    """The store answered, and does not take what it was sent: trying again would not help."""


class Outbox:
    """Things to send, each a function that raises where the store does not take it.

    Args:
        warn: is told, once each time, that the store does not answer, that it does again, and what
            it refused.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._waiting: deque[Send] = deque()
        self._refused = 0
        self._delay = 0.0  # > 0 while the store does not answer
        self._next_attempt = 0.0

    def __len__(self) -> int:
        """How many things wait."""
        return len(self._waiting)

    def put(self, send: Send) -> None:
        """Send after everything that waits, now if the store answers."""
        self._waiting.append(send)
        if time.monotonic() >= self._next_attempt:
            self._attempt()

    def insist(self, seconds: float) -> bool:
        """Send everything, trying for so many seconds; whether all arrived and was taken."""
        deadline = time.monotonic() + seconds
        self._attempt()
        while self._waiting and time.monotonic() < deadline:
            time.sleep(min(1.0, seconds / 5))
            self._attempt()
        return not self._waiting and not self._refused

    def _attempt(self) -> None:
        """Send what waits until something fails."""
        while self._waiting:
            try:
                self._waiting[0]()
            except RefusedError as error:
                self._refused += 1
                self._warn(f"the store refused: {error}")
            except Exception as error:  # whatever the client lets through: the run must go on
                self._postpone(error)
                return
            self._waiting.popleft()
        if self._delay:
            self._warn("the store answers again: everything has been sent")
        self._delay = self._next_attempt = 0.0

    def _postpone(self, error: Exception) -> None:
        """Wait longer before the next attempt."""
        if not self._delay:
            reason = (str(error) or repr(error)).splitlines()[0][:100]
            self._warn(
                f"the store does not answer ({reason} ...): the run goes on, and tries again"
            )
        self._delay = min(LONGEST_DELAY, max(FIRST_DELAY, 2 * self._delay))
        self._next_attempt = time.monotonic() + self._delay
