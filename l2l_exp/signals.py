"""Signals: SIGTERM as an exception, so that a run that is told to stop can close itself."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

WATCH = "parent watch"
WATCH_SECONDS = 1.0


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived."""


@contextmanager
def terminable() -> Iterator[None]:
    """Raise `Terminated` on SIGTERM; the handler of before is put back at the end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def exit_code(error: KeyboardInterrupt) -> int:
    """What a shell expects of a program that a signal ended: 128 + its number."""
    return 128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)


def _terminate(number: int, frame: FrameType | None) -> None:
    """Handle SIGTERM."""
    raise Terminated


def end_with_parent() -> None:
    """Send SIGTERM to this process once its parent is dead.

    The workers of a launcher that was killed would live on, with nothing to do and all their
    memory. Watching is done by one thread, however often it is asked for.
    """
    if all(thread.name != WATCH for thread in threading.enumerate()):
        threading.Thread(target=_watch, args=(os.getppid(),), name=WATCH, daemon=True).start()


def _watch(parent: int) -> None:
    """Wait until another process has adopted this one; let a job close itself, then end."""
    while os.getppid() == parent:
        time.sleep(WATCH_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    while signal.getsignal(signal.SIGTERM) is _terminate:
        time.sleep(WATCH_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
