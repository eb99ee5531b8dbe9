"""Processes that write to one log and note what was acknowledged, for tests that hinder them.

python -m tools.stores.writers ADDRESS NAME COUNT NOTES
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from eventstore import Commit, CommitUnknownError, Event, EventLog, verify_log


class Writers:
    """Writers that are under way.

    Args:
        addresses: For each of them, the address of the log.
        counts: For each of them, how many events it appends.
        folder: For their notes.
    """

    def __init__(self, addresses: Sequence[str], counts: Sequence[int], folder: Path) -> None:
        self._counts = counts
        self._notes = [folder / f"acknowledged-{number}" for number in range(len(counts))]
        self._processes = [
            subprocess.Popen(  # noqa: S603 - this very interpreter
                [sys.executable, "-m", "tools.stores.writers", address, str(number), str(count), str(note)]
            )
            for number, (address, count, note) in enumerate(zip(addresses, counts, self._notes, strict=True))
        ]

    def acknowledged(self, number: int) -> int:
        """How many events of a writer were acknowledged."""
        return len(_noted(self._notes[number]))

    def kill(self, number: int) -> None:
        """End a writer as the kernel does when memory is out."""
        self._processes[number].kill()

    def wait(self) -> list[int]:
        """Wait until all have ended; their exit codes."""
        return [process.wait() for process in self._processes]

    def failures(self, address: str) -> list[str]:
        """What is wrong with the log afterwards; nothing, if all is well."""
        with EventLog.open(address) as log:
            there = [event.data["text"] for event in log.read()]
        ended = [process.returncode == 0 for process in self._processes]
        noted = [_noted(note) for note in self._notes]
        return [
            *failures_of(
                there, noted, [count if end else None for count, end in zip(self._counts, ended, strict=True)]
            ),
            *map(str, verify_log(address).findings),
        ]


def failures_of(
    there: Sequence[str], noted: Sequence[Sequence[tuple[int, str]]], counts: Sequence[int | None]
) -> list[str]:
    """What is wrong with the texts of a log.

    Args:
        there: The texts, in order.
        noted: For each writer, the positions and texts that were acknowledged.
        counts: For each writer, how many there must be; None if it did not get to its end.
    """
    failures = []
    if len(set(there)) != len(there):
        failures.append("an event is there twice")
    for number, (notes, count) in enumerate(zip(noted, counts, strict=True)):
        failures += [
            f"{text} was lost" for position, text in notes if list(there[position : position + 1]) != [text]
        ]
        mine = [text for text in there if text.startswith(f"{number}.")]
        if mine != [f"{number}.{each}" for each in range(len(mine))]:
            failures.append(f"the events of writer {number} are not in their order: {mine}")
        if count is not None and len(mine) != count:
            failures.append(f"writer {number} has {len(mine)} events there, not {count}")
    return failures


def _noted(note: Path) -> list[tuple[int, str]]:
    # The last line of a writer that was killed may be cut off.
    return notes_of(note.read_text().split("\n")[:-1] if note.is_file() else [])


def notes_of(lines: Sequence[str]) -> list[tuple[int, str]]:
    """Positions and texts, from the lines that a writer has noted."""
    return [(position, text) for position, text in map(json.loads, lines)]


def main() -> None:
    """Append, and note what was acknowledged."""
    address, name, count, note = sys.argv[1:]
    with EventLog.open(address) as log, Path(note).open("a", buffering=1, encoding="utf-8") as notes:
        for number in range(int(count)):
            text = f"{name}.{number}"
            commit = None
            while commit is None:
                try:
                    commit = log.append("all" if number % 2 else name, [Event("A", {"text": text})])
                except CommitUnknownError as unknown:
                    commit = _resolved(log, unknown)
            print(json.dumps([commit.first_position, text]), file=notes)


def _resolved(log: EventLog, unknown: CommitUnknownError) -> Commit | None:
    while True:
        try:
            return log.resolve(unknown)
        except CommitUnknownError:
            continue


if __name__ == "__main__":
    main()
