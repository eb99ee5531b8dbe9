"""The errors of the log: one class for each thing a caller would do differently.

Every error carries its facts as attributes, says in its text what was expected and what to
do next, and survives pickling, so that a worker process can hand it to its parent.
"""

from __future__ import annotations

from typing import Any


class EventStoreError(Exception):
    """Base of every error that the log raises."""

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.message = message
        self.facts = facts
        for name, value in facts.items():
            setattr(self, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.facts)


def _rebuild(error_type: type[EventStoreError], message: str, facts: dict[str, Any]) -> EventStoreError:
    return error_type(message, **facts)


class InvalidEventError(EventStoreError, ValueError):
    """The call is wrong and nothing was written: mend the event, the stream name or the ids."""


class ExpectedVersionError(EventStoreError):
    """A stream is not where the caller believed and nothing was written: read it and decide anew.

    Attributes:
        stream: The stream whose version did not fit.
        expected: What the caller expected: ``ANY``, ``NO_STREAM``, ``STREAM_EXISTS`` or a version.
        actual: The stream's last version, or None when the stream does not exist.
    """

    stream: str
    expected: Any
    actual: int | None


class DuplicateEventError(InvalidEventError):
    """Event ids were used before, with other content or in another grouping: use new ids.

    Attributes:
        event_id: The first id in question, as 32 hexadecimal digits.
        position: Where an event with this id stands in the log.
    """

    event_id: str
    position: int


class UnknownEventTypeError(EventStoreError):
    """An event's meaning is needed and its type is not registered: register it or upgrade.

    The event itself is never lost: it reads as a raw ``RecordedEvent``.
    """


class SchemaVersionError(EventStoreError):
    """An event's meaning is needed and its schema version cannot be lifted to the present one.

    Upgrade this program when the version is newer; register an upcaster when it is older.
    """


class LogNotFoundError(EventStoreError, FileNotFoundError):
    """There is no log at this path, and it was to be opened without writing: check the path."""


class LogClosedError(EventStoreError, ValueError):
    """The log was closed: open it again."""


class ReadOnlyLogError(EventStoreError):
    """The log was opened read-only, or its disk no longer takes writes: the message says which."""


class WriteRefusedError(EventStoreError, OSError):
    """A write failed and was cut back (disk full, quota, I/O error); nothing was written.

    The log goes on: make room and repeat the call.
    """


class StorageError(EventStoreError, OSError):
    """A sync failed: whether the last commits are on the disk is unknown.

    They are not acknowledged. The log goes on: the next append first writes them anew, elsewhere.
    Look what is there before repeating this one.
    """


class CommitUnknownError(EventStoreError, OSError):
    """A storage on other hosts did not say whether a commit was kept, in the time that it had.

    It is there, or it will never be, or its request is still on the way; whatever comes to stand in its
    place decides it. Ask ``EventLog.resolve(error)`` before you repeat the append.

    Attributes:
        commit_id: The chain's value behind it, 64 hexadecimal digits, which no other commit has.
        position: The position of its first event.
        next_position: The position behind its last event.
        group_position: The position of the first event in its request, which appends of other threads
            may share: what comes to stand there decides.
    """

    commit_id: str
    position: int
    next_position: int
    group_position: int


class StorageUnavailableError(EventStoreError, OSError):
    """A storage on other hosts does not answer. Nothing was written by this call: try it again."""


class UnsuitableStorageError(EventStoreError):
    """A storage does not promise what a log needs, or does not let it in: use another, or mend its rights."""


class DamagedLogError(EventStoreError):
    """Bytes that must be right are wrong; reading stops in front of them.

    Run ``eventstore.verify_log(path)`` for the whole list. Restore the file from a copy, or let
    ``eventstore.repair_log`` keep what can be proven good, with what a copy has.

    Attributes:
        path: The damaged file.
        offset: The byte in it where the damaged frame begins.
        position: The first event position that cannot be read.
    """

    path: str
    offset: int
    position: int


class FormatVersionError(EventStoreError):
    """The log was written in a newer format than this program knows: upgrade the program."""
