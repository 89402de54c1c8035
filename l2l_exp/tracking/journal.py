"""The journal of a run's metrics: a file that knows what has been measured already."""

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from l2l_exp.files import finite

RESERVED = ("step", "time")


class Entry(NamedTuple):
    """Metrics of one step."""

    step: int
    time: int  # milliseconds since 1970
    values: dict[str, float | None]  # None where a number was not finite


class Journal:
    """Metrics as lines of json, each (name, step) once.

    A run that is resumed goes again over steps that it had measured before it was stopped; what
    the journal holds stays as it is. A line that was cut off in the middle is dropped.

    Args:
        path: of the file; its folder must exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        whole = 0
        self._seen: set[tuple[str, int]] = set()
        if path.is_file():
            content = path.read_bytes()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                with path.open("r+b") as file:
                    file.truncate(whole)
            for entry in self.entries():
                self._seen |= {(name, entry.step) for name in entry.values}

    def add(self, values: Mapping[str, float], step: int) -> Entry:
        """Append metrics of a step, and return those that are new."""
        new = {name: value for name, value in values.items() if (name, step) not in self._seen}
        entry = Entry(step, int(time.time() * 1000), finite(new))
        if new:
            line = {"step": step, "time": entry.time, **entry.values}
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")
            self._seen |= {(name, step) for name in new}
        return entry

    def entries(self) -> Iterator[Entry]:
        """Everything that was measured, in order."""
        if not self.path.is_file():
            return
        for text in self.path.read_text().splitlines():
            line = json.loads(text)
            values = {name: value for name, value in line.items() if name not in RESERVED}
            yield Entry(line["step"], line["time"], values)
