"""``EventTypes``: what is appended fits its struct, what is old is lifted, what is unknown is said."""

from __future__ import annotations

import datetime as dt
import enum
import math
import pathlib
from typing import Any
from uuid import UUID

import msgspec
import numpy as np
import pytest

from eventstore import tagged_json
from eventstore.errors import InvalidEventError, SchemaVersionError, UnknownEventTypeError
from eventstore.event_types import EventTypes
from eventstore.log import EventLog
from eventstore.model import Event, RecordedEvent

_ID = UUID("01890a5d-ac96-774b-bcce-b302099a8057")


class _Grid(msgspec.Struct, frozen=True):
    shape: tuple[int, ...]


class _Level(enum.IntEnum):
    HIGH = 2


class _ConfigStored(msgspec.Struct, frozen=True):
    name: str
    document: Any = None


class _Counted(msgspec.Struct, frozen=True):
    count: int


@pytest.fixture
def types() -> EventTypes:
    """A registry that knows one type, in its third schema version."""
    types = EventTypes()
    types.register("ConfigStored", schema_version=3)(_ConfigStored)
    return types


def _recorded(event: Event, position: int = 7) -> RecordedEvent:
    """The event as a log would give it back."""
    return RecordedEvent(
        position=position,
        event_id=_ID,
        recorded_at=dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
        stream="s",
        stream_version=0,
        type=event.type,
        schema_version=event.schema_version,
        data_json=tagged_json.encode(event.data),
        metadata_json="{}",
        index=None,
        values=None,
    )


def _round_trip(types: EventTypes, struct: msgspec.Struct) -> Any:
    return types.decode(_recorded(types.event(struct)))


def test_a_struct_becomes_an_event_of_its_type(types: EventTypes) -> None:
    """Name, schema version, fields, columns and id all reach the event."""
    event = types.event(_ConfigStored("run_7"), index=[1], values=[2.0], event_id=_ID)
    assert event == Event(
        type="ConfigStored",
        data={"name": "run_7", "document": None},
        schema_version=3,
        index=[1],
        values=[2.0],
        event_id=_ID,
    )


def test_a_recorded_event_becomes_its_struct(types: EventTypes) -> None:
    """Decoding is the inverse of making the event."""
    stored = _ConfigStored("run_7", {"a": [1, 2]})
    assert _round_trip(types, stored) == stored


def test_fields_of_any_type_keep_what_json_has_no_word_for(types: EventTypes) -> None:
    """NaN, tuples, bytes, paths and other keys survive within a document."""
    document = {"a": (1, [2, (3,)]), "p": pathlib.Path("/x"), "b": b"\0", "k": {1: "one"}, "nan": math.nan}
    back = _round_trip(types, _ConfigStored("n", document)).document
    assert math.isnan(back.pop("nan"))
    del document["nan"]
    assert back == document
    assert type(back["a"][1][1]) is tuple


def test_typed_fields_come_back_as_their_types() -> None:
    """Structs within containers, tuples, enums, times, sets and renamed or unset fields fit again."""
    types = EventTypes()

    @types.register("Rich")
    class Rich(msgspec.Struct, frozen=True, rename="camel", tag=True):
        grid_list: list[_Grid]
        by_name: dict[str, _Grid]
        pair: tuple[_Grid, float]
        level: _Level
        at: dt.datetime
        where: pathlib.Path
        raw: bytes
        names: set[str]
        loss: float
        note: str | msgspec.UnsetType = msgspec.UNSET

    rich = Rich(
        grid_list=[_Grid((1, 2))],
        by_name={"a": _Grid(())},
        pair=(_Grid((3,)), math.inf),
        level=_Level.HIGH,
        at=dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
        where=pathlib.Path("a/b"),
        raw=b"\xff",
        names={"x", "y"},
        loss=-math.inf,
    )
    assert _round_trip(types, rich) == rich
    assert types.event(rich).data["type"] == "Rich"
    assert "gridList" in types.event(rich).data
    assert "note" not in types.event(rich).data


def test_a_field_of_the_wrong_type_is_refused_before_it_is_written(types: EventTypes) -> None:
    """Msgspec does not check a struct that is made in Python; a log is for ever."""
    wrong = _ConfigStored(5)  # type: ignore[arg-type]
    message = r"event 'ConfigStored' does not fit _ConfigStored .*Expected `str`, got `int` - at `\$\.name`"
    with pytest.raises(InvalidEventError, match=message):
        types.event(wrong)


def test_a_field_that_cannot_be_stored_is_refused_with_its_place(types: EventTypes) -> None:
    """The encoder's own error names the place within the document."""
    with pytest.raises(InvalidEventError, match=r"^\$\.document\.a\[0\]: object cannot be stored"):
        types.event(_ConfigStored("n", {"a": [object()]}))


def test_what_is_appended_is_what_was_checked(types: EventTypes, tmp_path: pathlib.Path) -> None:
    """The text is made once: whose document it was may go on with it."""
    document = {"a": [1]}
    event = types.event(_ConfigStored("n", document))
    document["a"].append(object())  # type: ignore[arg-type]
    with EventLog.open(tmp_path / "log") as log:
        log.append("s", [event])
        (recorded,) = log.read()
    assert types.decode(recorded) == _ConfigStored("n", {"a": [1]})


def test_a_number_of_numpy_fits_where_pythons_own_does(types: EventTypes) -> None:
    """It comes back as one."""
    types.register("Counted")(_Counted)
    counted = _round_trip(types, _Counted(np.int64(3)))  # type: ignore[arg-type]
    assert counted == _Counted(3)
    assert type(counted.count) is int


def test_an_unregistered_struct_is_refused(types: EventTypes) -> None:
    """There is no name to store it under."""
    with pytest.raises(UnknownEventTypeError, match="_Grid is not registered"):
        types.event(_Grid((1,)))


def test_an_unknown_type_is_refused_only_where_its_meaning_is_needed(types: EventTypes) -> None:
    """The raw event reads as what it is; decoding names type, position and what is known."""
    recorded = _recorded(Event("Later", {"a": (1,)}))
    assert recorded.data == {"a": (1,)}
    message = r"event type 'Later' \(at position 7\) is not registered; known are: ConfigStored"
    with pytest.raises(UnknownEventTypeError, match=message):
        types.decode(recorded)
    assert "Later" not in types
    assert "ConfigStored" in types


def test_a_newer_schema_version_is_refused(types: EventTypes) -> None:
    """Guessing at a shape from the future would be a silent error."""
    recorded = _recorded(Event("ConfigStored", {"name": "n", "extra": 1}, schema_version=4))
    message = "has schema version 4, and this program knows up to 3"
    with pytest.raises(SchemaVersionError, match=message) as caught:
        types.decode(recorded)
    assert caught.value.facts == {"schema_version": 4, "known": 3}


def test_old_data_are_lifted_version_by_version(types: EventTypes) -> None:
    """Upcasters are chained in the order of versions, whatever order they were registered in."""

    @types.upcaster("ConfigStored", from_version=2)
    def add_document(data: dict[str, Any]) -> dict[str, Any]:
        return {**data, "document": data.pop("title")}

    @types.upcaster("ConfigStored", from_version=1)
    def name_title(data: dict[str, Any]) -> dict[str, Any]:
        return {"name": data["n"], "title": ("was", data["n"])}

    first = _recorded(Event("ConfigStored", {"n": "run_7"}, schema_version=1))
    second = _recorded(Event("ConfigStored", {"name": "run_8", "title": "t"}, schema_version=2))
    assert types.decode(first) == _ConfigStored("run_7", ("was", "run_7"))
    assert types.decode(second) == _ConfigStored("run_8", "t")


def test_an_upcaster_cannot_change_the_event_that_was_read(types: EventTypes) -> None:
    """It works on data of its own, though the event caches what it decoded."""

    @types.upcaster("ConfigStored", from_version=2)
    def clear(data: dict[str, Any]) -> dict[str, Any]:
        data["document"].clear()
        return data

    recorded = _recorded(Event("ConfigStored", {"name": "n", "document": {"a": 1}}, schema_version=2))
    assert recorded.data["document"] == {"a": 1}
    assert types.decode(recorded) == _ConfigStored("n", {})
    assert recorded.data["document"] == {"a": 1}


def test_a_missing_upcaster_is_named(types: EventTypes) -> None:
    """The chain stops at the version that has no way up."""
    types.upcaster("ConfigStored", from_version=1)(lambda data: data)
    recorded = _recorded(Event("ConfigStored", {"name": "n"}, schema_version=1))
    with pytest.raises(SchemaVersionError, match="no upcaster from version 2"):
        types.decode(recorded)


def test_a_failing_upcaster_is_named_with_its_cause(types: EventTypes) -> None:
    """Its exception stays as the cause, and the event is still there to be read raw."""

    @types.upcaster("ConfigStored", from_version=2)
    def fail(data: dict[str, Any]) -> dict[str, Any]:
        return {"name": data["title"]}

    recorded = _recorded(Event("ConfigStored", {"name": "n"}, schema_version=2))
    message = r"at position 7: the upcaster from schema version 2 failed with KeyError\('title'\)"
    with pytest.raises(SchemaVersionError, match=message) as caught:
        types.decode(recorded)
    assert isinstance(caught.value.__cause__, KeyError)


def test_data_that_do_not_fit_are_refused_with_position_type_and_field(types: EventTypes) -> None:
    """Another program may have written anything under this name."""
    recorded = _recorded(Event("ConfigStored", {"document": 1}, schema_version=3))
    message = "event 'ConfigStored' at position 7 does not fit _ConfigStored .*missing required field `name`"
    with pytest.raises(InvalidEventError, match=message):
        types.decode(recorded)


def test_a_name_is_registered_once(types: EventTypes) -> None:
    """Two meanings of one name would depend on the order of imports."""
    with pytest.raises(InvalidEventError, match="the name belongs to _ConfigStored already"):
        types.register("ConfigStored")(_Grid)


def test_a_struct_is_registered_once(types: EventTypes) -> None:
    """Otherwise it would not be known under which name to store it."""
    with pytest.raises(InvalidEventError, match="registered as 'ConfigStored' already"):
        types.register("ConfigKept")(_ConfigStored)


@pytest.mark.parametrize(("name", "schema_version"), [("", 1), ("A", 0), ("A", 65536)])
def test_a_registration_that_no_log_could_hold_is_refused(name: str, schema_version: int) -> None:
    """Names are not empty, and versions fit 16 bits, from 1."""
    with pytest.raises(InvalidEventError, match="cannot be registered"):
        EventTypes().register(name, schema_version=schema_version)(_Grid)


def test_a_struct_without_field_names_is_refused() -> None:
    """Data are mappings, so that SQL and people can read them."""

    class Row(msgspec.Struct, array_like=True):
        x: int

    with pytest.raises(InvalidEventError, match="array_like"):
        EventTypes().register("Row")(Row)


def test_a_second_upcaster_from_a_version_is_refused(types: EventTypes) -> None:
    """One way up from each version."""
    types.upcaster("ConfigStored", from_version=1)(lambda data: data)
    with pytest.raises(InvalidEventError, match="has an upcaster from schema version 1 already"):
        types.upcaster("ConfigStored", from_version=1)(lambda data: data)


@pytest.mark.parametrize("from_version", [0, 3])
def test_an_upcaster_that_leads_nowhere_is_refused(types: EventTypes, from_version: int) -> None:
    """It starts at a version from 1 and ends at the struct's own at most."""
    with pytest.raises(InvalidEventError, match="expected a version from 1 to 2"):
        types.upcaster("ConfigStored", from_version=from_version)(lambda data: data)


def test_an_upcaster_of_an_unknown_type_is_refused(types: EventTypes) -> None:
    """The struct comes first."""
    with pytest.raises(UnknownEventTypeError, match="'Later' is not registered"):
        types.upcaster("Later", from_version=1)
