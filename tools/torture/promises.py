"""What writers append in front of a power cut, what the log promises of it, and whether that holds.

Each commit has a number, which decides its events and the file beside the log that it names, if it
names one: whoever finds the number in a log knows what else must be there.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from random import Random

import pyarrow as pa

from eventstore import Event, EventLog, EventStoreError, StreamAppend, tagged_json
from tools.torture.simulated_disk import State
from tools.torture.turns import StuckError

Key = tuple[int, int]
"""An event: the number of its commit, and its place in it."""


class BrokenPromiseError(AssertionError):
    """The log did not keep what it had promised."""


@contextmanager
def no_error(doing: str) -> Iterator[None]:
    """Any error of the log's or of the system's in here is a broken promise."""
    try:
        yield
    except (EventStoreError, OSError, StuckError) as error:
        raise BrokenPromiseError(f"{doing}: {type(error).__name__}: {error}") from error


# --- what is appended


@cache
def commit_of(number: int) -> tuple[StreamAppend, ...]:
    """The events of a commit; its number decides them."""
    dice = Random(number)  # noqa: S311 - the same content for the same number
    parts = [_event(number, part, dice) for part in range(dice.choice([1, 1, 1, 2, 3]))]
    name = f"stream {dice.randrange(4)}"
    if len(parts) > 1 and dice.random() < 0.5:  # noqa: PLR2004 - one half in two streams, one in one
        return (StreamAppend(name, parts[:1]), StreamAppend("shared", parts[1:]))
    return (StreamAppend(name, parts),)


def _event(number: int, part: int, dice: Random) -> Event:
    """A small event, one of many sectors, or one with sectors of zeros of its own."""
    kinds: dict[str, Callable[[], list[float | None]]] = {
        "small": list,
        "large": lambda: [dice.random() for _ in range(dice.randrange(100, 600))],
        "zeros": lambda: [0.0] * dice.randrange(64, 400),
        "mixed": lambda: (
            [dice.choice([0.0, 0.0, 0.0, None, dice.random()]) for _ in range(200)] + [0.0] * 130
        ),
    }
    values = kinds[dice.choice(["small", "small", "small", "large", "zeros", "mixed"])]()
    text = "n" * dice.choice([0, 0, 0, 700])
    return Event("Happened", {"commit": number, "part": part, "text": text}, values=values or None)


def payload_of(number: int) -> tuple[str, bytes] | None:
    """The file beside the log that a commit names, if it names one, and what the file holds."""
    if number % 5 != 2:  # noqa: PLR2004 - one commit of five
        return None
    dice = Random(-number)  # noqa: S311 - the same content for the same number
    return f"payloads/{number % 2}/{number}", dice.randbytes(dice.choice([0, 100, 1500]))


@cache
def _expected(number: int) -> tuple[tuple[str, str, pa.Array | None], ...]:
    """What the log must hold of a commit: stream, data and values of each event."""
    return tuple(
        (
            part.stream,
            tagged_json.encode(event.data),
            None if event.values is None else pa.array(event.values, pa.float64()),
        )
        for part in commit_of(number)
        for event in part.events
    )


def keys_of(log: EventLog) -> list[Key]:
    """What the log holds, each event compared with what was appended.

    Raises:
        BrokenPromiseError: It holds something that nobody appended, or positions with gaps.
    """
    keys: list[Key] = []
    for batch in log.read_batches():
        positions, streams, texts = (
            batch.column(name).to_pylist() for name in ("position", "stream", "data")
        )
        if positions != list(range(len(keys), len(keys) + len(positions))):
            raise BrokenPromiseError(f"positions {positions} behind {len(keys)} events")
        for place, values in enumerate(batch.column("values")):
            data = tagged_json.decode(texts[place])
            key = data["commit"], data["part"]
            stream, text, expected = _expected(key[0])[key[1]]
            if (stream, text) != (streams[place], texts[place]) or not _same(values.values, expected):
                raise BrokenPromiseError(f"position {positions[place]} holds other data than was appended")
            keys.append(key)
    return keys


def _same(found: pa.Array | None, expected: pa.Array | None) -> bool:
    return found is expected if found is None or expected is None else bool(found.equals(expected))


# --- what was promised


@dataclass
class Promise:
    """What the log has promised so far, as of each step of the trace."""

    keys: dict[int, Key] = field(default_factory=dict)
    floors: list[tuple[int, int]] = field(default_factory=lambda: [(0, 0)])
    era: int = 0

    @property
    def floor(self) -> int:
        """Everything below this position is promised by now."""
        return self.floors[-1][1]

    @property
    def end(self) -> int:
        """The position behind the last event that is known to be in the log."""
        return max(self.keys, default=-1) + 1

    def floor_at(self, step: int) -> int:
        """What was promised when this many steps had been taken."""
        return next(floor for made, floor in reversed(self.floors) if made <= step)

    def make(self, step: int, floor: int) -> None:
        """Everything below ``floor`` is promised from now on."""
        if floor > self.floor:
            self.floors.append((step, floor))

    def learn(self, position: int, keys: Sequence[Key]) -> None:
        """These events stand at a position and behind it. What was promised cannot be another."""
        for place, key in enumerate(keys, position):
            if place < self.floor and self.keys.get(place, key) != key:
                raise BrokenPromiseError(f"position {place} held {self.keys[place]}, and now {key}")
            self.keys[place] = key

    def forget_the_rest(self) -> None:
        """What was not promised may be gone."""
        self.keys = {position: key for position, key in self.keys.items() if position < self.floor}
        self.era += 1

    def begin_anew(self, floor: int) -> None:
        """The next boot: only what was promised at the moment of the power cut counts."""
        self.floors = [(0, floor)]
        self.forget_the_rest()


# --- whether it holds


def must_hold(found: Sequence[Key], floor: int, promised: dict[int, Key]) -> None:
    """What was promised is there, and every commit as a whole and once."""
    if len(found) < floor:
        raise BrokenPromiseError(f"{len(found)} events of {floor} that were promised are there")
    for position in range(floor):
        if promised.get(position, found[position]) != found[position]:
            raise BrokenPromiseError(
                f"position {position} holds {found[position]} instead of {promised[position]}"
            )
    whole = [
        (number, part)
        for number, _ in itertools.groupby(found, key=lambda key: key[0])
        for part in range(len(_expected(number)))
    ]
    if whole != list(found) or len(set(found)) != len(found):
        raise BrokenPromiseError(f"half a commit, or one twice: {found}")


def must_have_payloads(found: Sequence[Key], state: State) -> None:
    """A payload is durable before an event names it."""
    for number in {number for number, _ in found}:
        payload = payload_of(number)
        if payload is not None and state.get(payload[0]) != payload[1]:
            raise BrokenPromiseError(f"commit {number} names {payload[0]}, which is not there or not whole")


def must_be_kept(before: State, now: State) -> bool:
    """No byte of the log is ever thrown away: what is not in its place any more is in quarantine.

    Returns:
        Whether anything has been set aside.

    Raises:
        BrokenPromiseError: Bytes are in neither place.
    """
    moved = False
    for path, content in before.items():
        if content is None or not path.endswith((".arrows", ".bytes")):
            continue
        kept = _same_bytes(content, now.get(path) or b"")
        if kept < len(content):
            moved = True
            if not any(content[offset:] == copy for offset, copy in _set_aside(path, now) if offset <= kept):
                raise BrokenPromiseError(f"{path} from byte {kept} on is neither there nor in quarantine")
    return moved


def _same_bytes(one: bytes, other: bytes) -> int:
    """How many bytes at the beginning are the same."""
    if one.startswith(other):
        return len(other)
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def _set_aside(path: str, now: State) -> Iterator[tuple[int, bytes]]:
    """What is in quarantine of a segment: from which byte on, and what."""
    folder, _, name = path.rpartition("/")
    start = f"{folder}/quarantine/{name}."
    for title, copy in now.items():
        if copy is not None and title.startswith(start):
            yield int(title.removeprefix(start).split(".")[0]), copy
