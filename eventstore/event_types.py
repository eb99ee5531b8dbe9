"""The registry of event types: from msgspec structs to events, and back to the present structs.

An ``EventTypes`` owns the meaning of ``data``: which struct belongs to a type's name, which schema
version is the present one, and how older data are lifted to it. An event that is appended through
it fits its struct; an event that is read is lifted version by version, then checked.

It is asked only where a meaning is needed. Reading needs none: an event of an unknown type or of
a newer schema version is a raw ``RecordedEvent`` like any other.

Fields hold what ``tagged_json`` can write; a field of type ``Any`` keeps tuples, NaN and the rest
as they are. Structs may hold structs, which are written as mappings of their encoded names.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from eventstore import tagged_json
from eventstore.errors import InvalidEventError, SchemaVersionError, UnknownEventTypeError
from eventstore.model import EncodedMapping, Event, RecordedEvent

if TYPE_CHECKING:
    from uuid import UUID

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]
"""Lifts an event's data by one schema version; it may change the dict that it is given."""

_StructType = TypeVar("_StructType", bound=type[msgspec.Struct])
_UpcasterType = TypeVar("_UpcasterType", bound=Upcaster)

_SCHEMA_VERSION_MAX: Final = 2**16 - 1

# What tagged_json gives back as it is, so that it is not looked for in a string.
_NATIVE: Final = (bytes, dt.datetime, dt.date, dt.time)


@dataclass(frozen=True)
class _EventType:
    name: str
    struct: type[msgspec.Struct]
    schema_version: int
    upcasters: dict[int, Upcaster] = field(default_factory=dict)


class EventTypes:
    """A registry of event types.

    Example:
        >>> types = EventTypes()
        >>> @types.register("ConfigStored", schema_version=2)
        ... class ConfigStored(msgspec.Struct, frozen=True):
        ...     kind: str
        ...     name: str
        >>> @types.upcaster("ConfigStored", from_version=1)
        ... def with_kind(data):
        ...     return {"kind": "runs", **data}
        >>> types.event(ConfigStored("runs", "run_7")).schema_version
        2
    """

    def __init__(self) -> None:
        self._by_name: dict[str, _EventType] = {}
        self._by_struct: dict[type[msgspec.Struct], _EventType] = {}

    def __contains__(self, name: object) -> bool:
        """Say whether events of this type's name can be decoded."""
        return name in self._by_name

    def register(self, name: str, *, schema_version: int = 1) -> Callable[[_StructType], _StructType]:
        """Make the decorated struct the present shape of the events of this type.

        Args:
            name: The type's name in the past tense. It never changes: it stands in every log.
            schema_version: Raise it with each change of shape and add an ``upcaster`` from the
                version before.

        Raises:
            InvalidEventError: The name or the struct is taken, or one of them cannot be used.
        """

        def decorate(struct: _StructType) -> _StructType:
            event_type = _EventType(name, struct, schema_version)
            self._check_new(event_type)
            self._by_name[name] = self._by_struct[struct] = event_type
            return struct

        return decorate

    def upcaster(self, name: str, *, from_version: int) -> Callable[[_UpcasterType], _UpcasterType]:
        """Lift this type's data of one schema version to the next by the decorated function.

        Upcasters are chained: data of version 1 go through those from 1, 2, … up to the present.

        Raises:
            UnknownEventTypeError: The type is not registered; register its struct first.
            InvalidEventError: There is one from this version, or no version to lift it to.
        """
        event_type = self._named(name)
        if not 1 <= from_version < event_type.schema_version:
            message = (
                f"upcaster of {name!r} from schema version {from_version}: expected a version from 1 "
                f"to {event_type.schema_version - 1}, below the struct's own"
            )
            raise InvalidEventError(message)
        if from_version in event_type.upcasters:
            message = f"{name!r} has an upcaster from schema version {from_version} already"
            raise InvalidEventError(message)

        def decorate(lift: _UpcasterType) -> _UpcasterType:
            event_type.upcasters[from_version] = lift
            return lift

        return decorate

    def event(
        self, struct: msgspec.Struct, *, index: Any = None, values: Any = None, event_id: UUID | None = None
    ) -> Event:
        """Make the event that says this, checked now so that it can be decoded ever after.

        Args:
            struct: An instance of a registered struct.
            index: The bulk key column; see ``Event``.
            values: The bulk numbers; see ``Event``.
            event_id: Give one where a repetition must be recognised.

        Raises:
            UnknownEventTypeError: The struct's class is not registered; register it.
            InvalidEventError: A field's value is not of the field's type or cannot be stored;
                the message names the field.
        """
        event_type = self._by_struct.get(type(struct))
        if event_type is None:
            message = f"{type(struct).__qualname__} is not registered; decorate it with EventTypes.register"
            raise UnknownEventTypeError(message, type=type(struct).__qualname__)
        data = _encoded(struct)
        if not _fits(data, event_type):
            # What comes back may fit better: a number of numpy does as Python's own.
            _convert(tagged_json.decode(data.text.decode()), event_type, f"event {event_type.name!r}")
        return Event(
            type=event_type.name,
            data=data,
            schema_version=event_type.schema_version,
            index=index,
            values=values,
            event_id=event_id,
        )

    def decode(self, recorded: RecordedEvent) -> msgspec.Struct:
        """Give the event's data as the present struct of its type.

        The struct shares nothing with the event.

        Raises:
            UnknownEventTypeError: The type is not registered; register it, upgrade this program,
                or use ``recorded.data`` as it is.
            SchemaVersionError: The data are of a newer schema version (upgrade this program), or
                cannot be lifted (add or mend the upcaster that the message names).
            InvalidEventError: The data do not fit the struct; the message names the field.
        """
        event_type = self._named(recorded.type, f" (at position {recorded.position})")
        where = f"event {recorded.type!r} at position {recorded.position}"
        # Decoded anew: an upcaster may change what it gets, and recorded.data belongs to the reader.
        data = _lifted(tagged_json.decode(recorded.data_json), recorded.schema_version, event_type, where)
        return _convert(data, event_type, where)

    def fact(self, event: Event) -> msgspec.Struct:
        """Give the struct of an event that is yet to be appended, as ``event`` made it.

        Raises:
            UnknownEventTypeError: The type is not registered.
            InvalidEventError: The data do not fit the struct.
        """
        return _convert(event.data, self._named(event.type), f"event {event.type!r}")

    def _named(self, name: str, where: str = "") -> _EventType:
        event_type = self._by_name.get(name)
        if event_type is None:
            known = ", ".join(sorted(self._by_name)) or "none"
            message = f"event type {name!r}{where} is not registered; known are: {known}"
            raise UnknownEventTypeError(message, type=name)
        return event_type

    def _check_new(self, event_type: _EventType) -> None:
        name, struct = event_type.name, event_type.struct
        problem = None
        if not name:
            problem = "the type's name is empty"
        elif name in self._by_name:
            problem = f"the name belongs to {self._by_name[name].struct.__qualname__} already; choose another"
        elif struct in self._by_struct:
            problem = f"the struct is registered as {self._by_struct[struct].name!r} already"
        elif struct.__struct_config__.array_like:
            problem = "an array_like struct has no field names; register one without array_like"
        elif not 1 <= event_type.schema_version <= _SCHEMA_VERSION_MAX:
            problem = f"schema version {event_type.schema_version} is not in 1 to {_SCHEMA_VERSION_MAX}"
        if problem is not None:
            message = f"event type {name!r} ({struct.__qualname__}) cannot be registered: {problem}"
            raise InvalidEventError(message)


def _encoded(struct: msgspec.Struct) -> EncodedMapping:
    fields = _fields_of(struct)
    try:
        return EncodedMapping(fields)
    except InvalidEventError:
        # Structs within are rare, and it takes as long to look for them as to encode everything.
        return EncodedMapping({name: _plain(value) for name, value in fields.items()})


def _plain(value: Any) -> Any:
    """Replace structs, also those within containers, by mappings of their encoded names."""
    if isinstance(value, msgspec.Struct):
        return _plain(_fields_of(value))
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    return value


def _fields_of(struct: msgspec.Struct) -> dict[str, Any]:
    """A struct's fields by their encoded names."""
    config = struct.__struct_config__
    names = zip(struct.__struct_fields__, struct.__struct_encode_fields__, strict=True)
    fields = {encoded: getattr(struct, name) for name, encoded in names}
    present = {name: value for name, value in fields.items() if value is not msgspec.UNSET}
    return present if config.tag_field is None else {config.tag_field: config.tag, **present}


def _lifted(data: Any, schema_version: int, event_type: _EventType, where: str) -> Any:
    present = event_type.schema_version
    if schema_version > present:
        message = (
            f"{where} has schema version {schema_version}, and this program knows up to {present}; upgrade it"
        )
        raise SchemaVersionError(message, schema_version=schema_version, known=present)
    for version in range(schema_version, present):
        lift = event_type.upcasters.get(version)
        facts = {"schema_version": schema_version, "known": present}
        if lift is None:
            message = f"{where} has schema version {schema_version}, and no upcaster from version {version}"
            raise SchemaVersionError(message, **facts)
        try:
            data = lift(data)
        except Exception as error:
            message = f"{where}: the upcaster from schema version {version} failed with {error!r}; mend it"
            raise SchemaVersionError(message, **facts) from error
    return data


def _fits(data: EncodedMapping, event_type: _EventType) -> bool:
    try:
        msgspec.convert(data, event_type.struct, builtin_types=_NATIVE)
    except msgspec.ValidationError:
        return False
    return True


def _convert(data: Any, event_type: _EventType, where: str) -> msgspec.Struct:
    try:
        return msgspec.convert(data, event_type.struct, builtin_types=_NATIVE)
    except msgspec.ValidationError as error:
        struct = event_type.struct.__qualname__
        message = f"{where} does not fit {struct} (schema version {event_type.schema_version}): {error}"
        raise InvalidEventError(message) from error
