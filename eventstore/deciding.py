"""What is decided on an append: whether it can be one at all, what it expects, whether it was made before.

The first needs nothing but the append. The others are asked of a log that was just caught up with, while
nobody can put anything behind what is known of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING
from uuid import UUID

from eventstore import format as log_format
from eventstore.encoding import EncodedEvent, encode_events
from eventstore.errors import DuplicateEventError, ExpectedVersionError, InvalidEventError
from eventstore.format import Numbers
from eventstore.model import ANY, Commit, Event, ExpectedVersion, RecordedEvent, StreamAppend, StreamState
from eventstore.schema import recorded_events

if TYPE_CHECKING:
    import pyarrow as pa

    from eventstore.log_state import LogState


_chosen_id = attrgetter("event_id")


def encode_parts(appends: Sequence[StreamAppend]) -> tuple[list[EncodedEvent], list[UUID]]:
    """The events of an append in their stored form, and the ids among theirs that the caller chose.

    Raises:
        InvalidEventError: It can be no append, whatever the log holds.
    """
    encoded: list[EncodedEvent] = []
    chosen_ids: list[UUID] = []
    for part in appends:
        if isinstance(part.events, Event):
            raise InvalidEventError("an append takes a sequence of events; put the one into a list")
        # Taken once: whose list it is may go on filling it.
        events = tuple(part.events)
        encoded += encode_events(part.stream, events)
        chosen_ids.extend(filter(None, map(_chosen_id, events)))
    if not encoded:
        raise InvalidEventError("an append needs at least one event")
    if len(appends) > 1 or len(encoded) > 1:
        _check_nothing_is_there_twice(appends, encoded)
    for part in appends:
        if part.expected is not ANY:
            _check_means_something(part.expected)
    return encoded, chosen_ids


def _check_nothing_is_there_twice(appends: Sequence[StreamAppend], encoded: Sequence[EncodedEvent]) -> None:
    streams = [part.stream for part in appends]
    if len(set(streams)) != len(streams):
        raise InvalidEventError(f"an append names each stream once, not {streams}")
    if len({event.id_bytes for event in encoded}) != len(encoded):
        raise InvalidEventError("the events of an append have different ids; one is there twice")


def _check_means_something(expected: object) -> None:
    counted = isinstance(expected, int) and not isinstance(expected, bool) and expected >= 0
    if not counted and not isinstance(expected, type(ANY)):
        raise InvalidEventError(
            f"expected is ANY, NO_STREAM, STREAM_EXISTS or a stream version, not {expected!r}"
        )


def check_expectations(appends: Sequence[StreamAppend], state: LogState) -> None:
    """Raise ``ExpectedVersionError`` when a stream is not as its part expects."""
    for part in appends:
        if part.expected is ANY:
            continue
        actual = state.stream_version(part.stream)
        if not _fits(part.expected, actual):
            there = "does not exist" if actual is None else f"is at version {actual}"
            raise ExpectedVersionError(
                f"stream {part.stream!r} {there}, not as expected: {part.expected!r}; nothing written",
                stream=part.stream,
                expected=part.expected,
                actual=actual,
            )


def _fits(expected: ExpectedVersion, actual: int | None) -> bool:
    match expected:
        case StreamState.ANY:
            return True
        case StreamState.NO_STREAM:
            return actual is None
        case StreamState.STREAM_EXISTS:
            return actual is not None
    return expected == actual


def known_commit(
    encoded: Sequence[EncodedEvent], chosen_ids: Sequence[UUID], state: LogState
) -> Commit | None:
    """The commit that these very events made earlier, or None when none of their ids is known.

    Args:
        encoded: The events.
        chosen_ids: The ids among theirs that somebody may have used before.
        state: What is known of the log.

    Raises:
        DuplicateEventError: An id is known, and what was appended with it is not this.
    """
    known = ((each, state.id_position(each.bytes)) for each in chosen_ids)
    event_id, position = next((each for each in known if each[1] is not None), (None, None))
    if event_id is None or position is None:
        return None
    stored = next(state.stored(position, position + 1))
    events = list(recorded_events(stored.first_commit()))
    if len(events) != len(encoded) or not all(map(_same_event, events, encoded)):
        raise DuplicateEventError(
            f"event {event_id} stands at position {position} already, with other content or in another "
            "commit: a repetition must repeat the whole append; anything else needs new ids",
            event_id=event_id.hex,
            position=position,
        )
    return commit_of(events, stored.first_position)


def commit_of(events: Sequence[RecordedEvent], first_position: int) -> Commit:
    """What was answered to who appended these events, as a commit at this position."""
    versions = {event.stream: event.stream_version for event in events}
    ids = b"".join([event.event_id.bytes for event in events])
    return Commit(first_position, first_position + len(events), versions, ids)


def _same_event(recorded: RecordedEvent, event: EncodedEvent) -> bool:
    """Equal in everything that the caller gave; the clock and the metadata may differ."""
    return (
        recorded.event_id.bytes == event.id_bytes
        and recorded.stream == event.stream
        and recorded.type.encode() == event.type_name
        and recorded.schema_version == event.schema_version
        and recorded.data_json.encode() == event.data
        and _same_numbers(recorded.index, event.index)
        and _same_numbers(recorded.values, event.values)
    )


def _same_numbers(recorded: pa.Array | None, given: Numbers | None) -> bool:
    return (None if recorded is None else log_format.numbers_of(recorded)) == given
