"""The values of the log: what a caller appends and what it gets back. All are frozen."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import msgspec

from eventstore import tagged_json

if TYPE_CHECKING:
    import pyarrow as pa


class StreamState(enum.Enum):
    """What a writer may believe of a stream without knowing its version."""

    ANY = "any"
    NO_STREAM = "no stream"
    STREAM_EXISTS = "stream exists"

    def __repr__(self) -> str:
        return self.name


_ID_BYTES = 16

ANY = StreamState.ANY
NO_STREAM = StreamState.NO_STREAM
STREAM_EXISTS = StreamState.STREAM_EXISTS

ExpectedVersion = StreamState | int
"""``ANY``, ``NO_STREAM``, ``STREAM_EXISTS``, or the version of the stream's last event."""


class Event(msgspec.Struct, frozen=True):
    """A fact to append. ``msgspec.structs.replace`` gives one that differs in some fields.

    Args:
        type: Its name in the past tense, e.g. ``"ConfigStored"``.
        data: Its small fields: any mix of mappings, sequences, strings, numbers, None and
            what ``tagged_json`` adds (NaN, tuples, bytes, paths, other keys).
        schema_version: The version of the shape of ``data``.
        index: A bulk key column (int64), e.g. iterations; an array, a sequence or None.
        values: Bulk numbers (float64; None marks an absent one), column after column.
        event_id: Give one where a repetition must be recognised; otherwise the log makes a UUIDv7.
        metadata: Who and where, in the form of ``data``.
        recorded_at: The writer's clock, UTC; None is now. For replays that keep old times.
    """

    type: str
    data: Any = msgspec.field(default_factory=dict)
    schema_version: int = 1
    index: Any = None
    values: Any = None
    event_id: UUID | None = None
    metadata: Mapping[str, Any] = msgspec.field(default_factory=dict)
    recorded_at: datetime | None = None


class EncodedMapping(Mapping[str, Any]):
    """Data, or metadata that many events have in common; made into text once, and never changed.

    What is appended is the text: whatever the mapping holds may be changed afterwards.

    Raises:
        InvalidEventError: As an append of an event with this would.
    """

    __slots__ = ("_items", "text")

    def __init__(self, items: Mapping[str, Any]) -> None:
        self._items = dict(items)
        self.text: Final = tagged_json.encode_utf8(self._items)

    def __getitem__(self, name: str) -> Any:
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)


@dataclass(frozen=True, eq=False)
class RecordedEvent:
    """An event as it stands in the log.

    ``data`` and ``metadata`` are decoded when asked for; their stored text is in ``data_json``
    and ``metadata_json``. ``index`` (int64) and ``values`` (float64) are Arrow arrays or None.
    """

    position: int
    event_id: UUID
    recorded_at: datetime
    stream: str
    stream_version: int
    type: str
    schema_version: int
    data_json: str
    metadata_json: str
    index: pa.Int64Array | None
    values: pa.DoubleArray | None

    @property
    def data(self) -> Any:
        """The event's fields, as they were given."""
        return self._decoded("data_json")

    @property
    def metadata(self) -> Any:
        """Who and where."""
        return self._decoded("metadata_json")

    def _decoded(self, name: str) -> Any:
        # Not functools.cached_property: before Python 3.12 it has a lock that a fork could leave locked.
        key = f"_{name}"
        if key not in self.__dict__:
            self.__dict__[key] = tagged_json.decode(getattr(self, name))
        return self.__dict__[key]


class StreamAppend(msgspec.Struct, frozen=True):
    """One stream's part of an append that extends several streams at once."""

    stream: str
    events: Sequence[Event]
    expected: ExpectedVersion = ANY


class Commit(msgspec.Struct, frozen=True):
    """What an append made: one unit of durability.

    Attributes:
        first_position: The position of its first event.
        next_position: The position behind its last event: the log *as of* this commit.
        stream_versions: For each stream that it extended, the version of its last event.
        id_bytes: The ids of its events, in order, 16 bytes each.
    """

    first_position: int
    next_position: int
    stream_versions: Mapping[str, int]
    id_bytes: bytes

    @property
    def event_ids(self) -> tuple[UUID, ...]:
        """The ids of its events, in order. Made when asked for, which few do and which takes a while."""
        starts = range(0, len(self.id_bytes), _ID_BYTES)
        return tuple([UUID(bytes=self.id_bytes[start : start + _ID_BYTES]) for start in starts])

    @property
    def last_stream_version(self) -> int:
        """The version of the last event in the one stream that this commit extended."""
        (version,) = self.stream_versions.values()
        return version


@dataclass(frozen=True)
class Finding:
    """Something that ``verify`` has to say about a file of the log.

    Attributes:
        severity: ``"damage"`` (acknowledged data cannot be trusted), ``"torn"`` (an unfinished
            tail that the next writer will set aside) or ``"note"``.
        path: The file, relative to the log's directory.
        offset: The byte in it, or None for the file as a whole.
        position: The first event position concerned, or None.
        message: What is wrong, what was expected, what to do.
    """

    severity: str
    path: str
    offset: int | None
    position: int | None
    message: str


Progress = Callable[[int, int], None]
"""Called now and then by what takes long: how much is done, and of how much, in whatever unit."""


def no_progress(done: int, of: int) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True)
class Verdict:
    """The outcome of ``verify``: what was read, what was found, and the hash that vouches for it.

    Attributes:
        events: How many events were read and found right.
        segments: How many segment files were read.
        bytes: How many bytes of them.
        chain: The chain's value behind the last of those events, as 64 hexadecimal digits.
        findings: Everything that is not as it should be; empty for a clean log.
        expected_at: The position at which the history has the chain value that ``verify_log`` was
            told to expect; None when it has no such position, or when none was expected.
    """

    events: int
    segments: int
    bytes: int
    chain: str
    findings: tuple[Finding, ...]
    expected_at: int | None = None

    @property
    def ok(self) -> bool:
        """True when nothing that was acknowledged is damaged."""
        return not any(finding.severity == "damage" for finding in self.findings)
