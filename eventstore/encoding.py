"""From what a caller appends to what is stored: every check of an event, its texts, its digest.

Nothing here depends on where in the log an event will stand, so all of it is done before the lock
is taken. The common case makes no Arrow object and copies a bulk column once.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

import msgspec
import pyarrow as pa

from eventstore import format as log_format
from eventstore import tagged_json
from eventstore.errors import InvalidEventError
from eventstore.format import Numbers
from eventstore.identifiers import new_ids
from eventstore.model import EncodedMapping, Event

NAME_BYTES_MAX: Final = 4096
SCHEMA_VERSION_MAX: Final = 0xFFFF
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_NO_METADATA: Final = b"{}"


class EncodedEvent(msgspec.Struct, frozen=True):
    """An event ready for the log, short of its position and stream version. Texts are UTF-8."""

    id_bytes: bytes
    recorded_at: int
    stream: str
    stream_name: bytes
    type_name: bytes
    schema_version: int
    data: bytes
    metadata: bytes
    index: Numbers | None
    values: Numbers | None
    content_digest: bytes


_METADATA: Final = frozenset({dict, EncodedMapping})


def encode_events(stream: str, events: Sequence[Event]) -> list[EncodedEvent]:
    """Check events of one stream and bring them into their stored form.

    Raises:
        InvalidEventError: An event or the stream's name cannot be stored; the text says why.
    """
    encoded: list[EncodedEvent] = []
    stream_name = _name("a stream's name", stream) if events else b""
    type_name, named = b"", object()
    now = time.time_ns() // 1000
    shared: Mapping[str, Any] | None = None
    metadata = _NO_METADATA
    for event, new_id in zip(events, new_ids(len(events)), strict=True):
        if not isinstance(event, Event):
            raise InvalidEventError(f"an append takes a sequence of Event, and {event!r} is none")
        if event.type is not named:
            type_name, named = _name("an event's type", event.type), event.type
        schema_version, event_id, moment = event.schema_version, event.event_id, event.recorded_at
        if not (
            # What nearly all events are like, in one look.
            event_id is None
            and moment is None
            and type(schema_version) is int
            and 0 <= schema_version <= SCHEMA_VERSION_MAX
            and type(event.metadata) in _METADATA
        ):
            _check_facts(event)
        data = _text(event.data)
        # The events of a commit often share one object, or have none of it.
        given = event.metadata
        if given is not shared:
            shared, metadata = given, _metadata_text(given) if given else _NO_METADATA
        index = None if event.index is None else _bulk_column("index", event, event.index)
        values = None if event.values is None else _bulk_column("values", event, event.values)
        id_bytes = new_id if event_id is None else event_id.bytes
        recorded_at = now if moment is None else (moment - _EPOCH) // _MICROSECOND
        digest = log_format.content_digest(
            event_id=id_bytes,
            recorded_at=recorded_at,
            stream=stream_name,
            event_type=type_name,
            schema_version=schema_version,
            data=data,
            metadata=metadata,
            index=index,
            values=values,
        )
        encoded.append(
            EncodedEvent(
                id_bytes,
                recorded_at,
                stream,
                stream_name,
                type_name,
                schema_version,
                data,
                metadata,
                index,
                values,
                digest,
            )
        )
    return encoded


def _text(value: Any) -> bytes:
    return value.text if type(value) is EncodedMapping else tagged_json.encode_utf8(value)


def _metadata_text(metadata: Mapping[str, Any]) -> bytes:
    return _text(metadata if type(metadata) is EncodedMapping else dict(metadata))


def _name(what: str, text: str) -> bytes:
    # A subclass may compare and hash as it likes: it takes the careful way.
    return _checked_name(what, text) if type(text) is str else _checked_name.__wrapped__(what, text)


@lru_cache(maxsize=1024)
def _checked_name(what: str, text: str) -> bytes:
    if not isinstance(text, str) or not text or "\0" in text:
        raise InvalidEventError(f"{what} is non-empty text without NUL, not {text!r}")
    try:
        name = text.encode()
    except UnicodeEncodeError as error:
        raise InvalidEventError(f"{what} is not valid Unicode text: {text!r}") from error
    if len(name) > NAME_BYTES_MAX:
        raise InvalidEventError(f"{what} has {len(name)} bytes; at most {NAME_BYTES_MAX} are allowed")
    return name


def _check_facts(event: Event) -> None:
    version = event.schema_version
    if not isinstance(version, int) or isinstance(version, bool) or not 0 <= version <= SCHEMA_VERSION_MAX:
        raise InvalidEventError(
            f"schema_version of a {event.type} is 0 to {SCHEMA_VERSION_MAX}, not {version!r}"
        )
    if event.event_id is not None and not isinstance(event.event_id, UUID):
        raise InvalidEventError(f"event_id of a {event.type} is a UUID, not {event.event_id!r}")
    if not isinstance(event.metadata, Mapping):
        raise InvalidEventError(f"metadata of a {event.type} is a mapping, not {event.metadata!r}")
    moment = event.recorded_at
    if moment is None:
        return
    if not isinstance(moment, datetime):
        raise InvalidEventError(f"recorded_at of a {event.type} is a datetime, not {moment!r}")
    if moment.tzinfo is None:
        raise InvalidEventError(f"recorded_at of a {event.type} needs a time zone: {moment!r}")


# --- bulk columns


# For each column: the codes of its items in array and struct, and the types of a list's items that
# are taken as they are. Everything else goes through Arrow, which knows all the numbers there are; but
# before it looks at the first, it loads pandas where that is installed, which takes half a second.
_ITEM_CODES: Final = {"index": "ql", "values": "d"}
_ITEM_KINDS: Final = {"index": {int}, "values": {float}}
_ITEM_BYTES: Final = 8
_ARROW_TYPES: Final = {"index": pa.int64(), "values": pa.float64()}


def _bulk_column(name: str, event: Event, column: Any) -> Numbers:
    kind = type(column)
    if (kind is list or kind is tuple) and set(map(type, column)) == _ITEM_KINDS[name]:
        try:
            return Numbers(len(column), b"", array(_ITEM_CODES[name][0], column).tobytes())
        except OverflowError:
            pass  # Arrow's words for it are the ones that callers know.
    elif _is_array(kind):
        view = memoryview(column)
        if view.ndim == 1 and view.itemsize == _ITEM_BYTES and view.format in _ITEM_CODES[name]:
            return Numbers(len(view), b"", view.tobytes())
    numbers = log_format.numbers_of(_arrow_column(name, event, column))
    if name == "index" and numbers.validity:
        raise InvalidEventError(f"index of a {event.type} must not hold None")
    return numbers


def _is_array(kind: type) -> bool:
    """Whether memory is all there is to it: no mask, as in classes that are derived from numpy's."""
    return kind is array or (kind.__module__, kind.__qualname__) == ("numpy", "ndarray")


def _arrow_column(name: str, event: Event, column: Any) -> pa.Array:
    wanted = _ARROW_TYPES[name]
    try:
        # In two steps: told the type at once, Arrow cuts 1.5 down to 1 without a word. And
        # from_pandas=False, so that a NaN of a pandas series stays one and does not become a null.
        array = column if isinstance(column, pa.Array) else pa.array(column, from_pandas=False)
        return array if array.type == wanted else _numeric(array).cast(wanted)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise InvalidEventError(
            f"{name} of a {event.type} must be a flat sequence of {wanted} numbers: {error}"
        ) from error


def _numeric(array: pa.Array) -> pa.Array:
    kind = array.type
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    if not numeric and not pa.types.is_null(kind):
        raise TypeError(f"its items are {kind}")
    return array
