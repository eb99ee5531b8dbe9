"""Writers are killed at random moments, again and again; what was acknowledged stays.

Three processes append to one log and tell, over a pipe, what each append returned. One after the
other is killed (SIGKILL) while the others go on, and a new one takes its place. A kill of the
process leaves the operating system's pages alone: what a power cut does is tested elsewhere.
"""

from __future__ import annotations

import os
import random
import select
import signal
import struct
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventstore import Event, EventLog, StreamAppend, derived_id, files

_KILLS = 25
_WRITERS = 3
_HANG_SECONDS = 120
_SEGMENT_BYTES_MAX = 15_000

# What a writer says of a commit: its first position, its number of events, and its own number.
_ACKNOWLEDGED = struct.Struct("<QII")


class _Writer:
    """A process that appends until it is killed; ``acknowledged`` is what it heard from the log."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.acknowledged: list[tuple[int, int, int]] = []
        self._rest = b""
        self._read_end, write_end = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(_HANG_SECONDS)
            try:
                _append_for_ever(folder, name, write_end)
            except BaseException:  # noqa: BLE001 - it is shown, and the process must not go on as a test
                traceback.print_exc()
            os._exit(1)
        os.close(write_end)

    def listen(self, seconds: float) -> None:
        """Take note of what it says, for up to this long or until its pipe ends."""
        while select.select([self._read_end], [], [], seconds)[0]:
            said = os.read(self._read_end, 1 << 16)
            if not said:
                return
            self._rest += said
            whole = len(self._rest) - len(self._rest) % _ACKNOWLEDGED.size
            self.acknowledged += _ACKNOWLEDGED.iter_unpack(self._rest[:whole])
            self._rest = self._rest[whole:]
            seconds = 0

    def kill(self) -> None:
        """End it at once, and hear the last of what it said."""
        os.kill(self._pid, signal.SIGKILL)
        status = os.waitpid(self._pid, 0)[1]
        self.listen(_HANG_SECONDS)
        os.close(self._read_end)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, f"{self.name} ended by itself"


def _append_for_ever(folder: Path, name: str, write_end: int) -> None:
    dice = random.Random(name)  # noqa: S311 - a writer's habits, not a secret
    files.write_at = _write_slowly
    log = EventLog.open(folder, segment_bytes_max=_SEGMENT_BYTES_MAX)
    number = 0
    while True:
        values = [float(number)] * dice.choice([0, 1, 1, 1, 10, 10, 10, 10, 1_000])
        parts = [
            StreamAppend(name, [_event(name, number, part, values) for part in range(dice.randint(1, 3))])
        ]
        if dice.random() < 0.3:
            parts.append(StreamAppend("shared", [_event(name, number, 9, [])]))
        commit = log.append_to_streams(parts, durability=dice.choice(["commit", "os"]))
        count = commit.next_position - commit.first_position
        os.write(write_end, _ACKNOWLEDGED.pack(commit.first_position, count, number))
        number += 1
        time.sleep(dice.random() * 0.02)  # so that the log does not grow faster than it is checked


def _write_slowly(descriptor: int, data: bytes, offset: int) -> int:
    """Write in two steps, so that some kills fall between them and leave a torn frame."""
    half = len(data) // 2
    written = os.pwrite(descriptor, data[:half], offset)
    time.sleep(0.003)
    return written + os.pwrite(descriptor, data[half:], offset + half)


def _event(name: str, number: int, part: int, values: list[float]) -> Event:
    return Event("A", {"writer": name, "n": number}, values=values, event_id=derived_id(name, number, part))


class _Witness:
    """What has been acknowledged so far, and what the log must therefore hold."""

    def __init__(self) -> None:
        self._by_position: dict[int, tuple[str, int]] = {}

    def hear(self, writer: _Writer) -> None:
        for first_position, count, number in writer.acknowledged:
            for position in range(first_position, first_position + count):
                claim = (writer.name, number)
                assert self._by_position.setdefault(position, claim) == claim, "one position, two events"
        writer.acknowledged.clear()

    def check(self, log: EventLog) -> None:
        events = list(log.read())
        assert [event.position for event in events] == list(range(len(events)))
        assert len(events) > max(self._by_position, default=-1)
        for position, (name, number) in self._by_position.items():
            assert events[position].data == {"writer": name, "n": number}
        versions: dict[str, int] = {}
        for event in events:
            assert event.stream_version == versions.get(event.stream, -1) + 1
            versions[event.stream] = event.stream_version

    def __len__(self) -> int:
        return len(self._by_position)


@pytest.fixture
def names() -> Iterator[str]:
    """A name of its own for each writer."""
    return (f"writer {number}" for number in range(1_000))


def test_what_was_acknowledged_survives_every_kill(tmp_path: Path, names: Iterator[str]) -> None:
    """The log opens, verifies, is dense and holds each acknowledged event, while others append."""
    folder = tmp_path / "events"
    dice = random.Random(20)  # noqa: S311 - when to kill whom
    witness = _Witness()
    writers = [_Writer(folder, next(names)) for _ in range(_WRITERS)]
    try:
        for writer in writers:
            writer.listen(_HANG_SECONDS)
        for _ in range(_KILLS):
            victim = writers.pop(dice.randrange(_WRITERS))
            time.sleep(dice.random() * 0.15)  # a new one may be killed while it opens the log
            victim.kill()
            witness.hear(victim)
            for writer in writers:
                writer.listen(0)
                witness.hear(writer)
            with EventLog.open(folder, segment_bytes_max=_SEGMENT_BYTES_MAX) as log:
                witness.check(log)
                verdict = log.verify()
                assert verdict.ok, verdict.findings
            writers.append(_Writer(folder, next(names)))
    finally:
        for writer in writers:
            writer.kill()
            witness.hear(writer)
    with EventLog.open(folder) as log:
        witness.check(log)
        # Behind a kill in the middle of a recovery the log goes on in a new file, which is noted.
        assert {finding.severity for finding in log.verify().findings} <= {"note"}
        assert log.verify().segments > 1
    assert len(witness) > _KILLS
