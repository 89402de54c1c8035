"""l2l-train as a process of its own, for tests that signal and kill."""

import functools
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

PROGRAM = str(Path(sys.executable).with_name("l2l-train"))


def start(work: Path, *arguments: str) -> subprocess.Popen:
    """l2l-train in a process and a process group of its own, which obeys Ctrl-C.

    Where the tests are a shell's background job they ignore it, and their children would too.
    """
    return subprocess.Popen(
        [PROGRAM, *arguments], cwd=work, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def wait_for(condition: Callable[[], object], seconds: float = 120.0) -> object:
    """Wait until a condition holds, and return what it gave."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return found
