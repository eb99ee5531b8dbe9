"""The read model of every event."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from projections import ReadModels
from projections.testing import FIRST_RECORDED_AT, GivenEvent, ListedLog, event, rows


def test_every_event_is_a_row_known_or_not() -> None:
    """A type that no read model knows, in any schema version, is in ``events`` all the same."""
    events = [event("NeverHeardOf", {"a": 1}, stream="s/1", schema_version=7)]

    assert rows(events, "FROM events") == [
        (0, UUID(int=0), FIRST_RECORDED_AT, "s/1", 0, "NeverHeardOf", 7, '{"a":1}', "{}")
    ]


def test_data_can_be_asked_with_json_functions() -> None:
    """``data`` is JSON to DuckDB."""
    events = [event("X", {"a": {"b": "c"}})]

    assert rows(events, "SELECT data->'a'->>'b', typeof(data) FROM events") == [("c", "JSON")]


def test_data_that_is_no_json_is_shown_as_a_json_string() -> None:
    """Nothing makes the view of all events fail."""
    assert rows([GivenEvent("X", '{"a":')], """SELECT data->>'$' FROM events""") == [('{"a":',)]


@dataclass
class _Identified(ListedLog):
    """One event with an id of its own."""

    event_id: bytes = bytes(16)

    def read_batches(self, from_position: int) -> Iterator[pa.RecordBatch]:
        for batch in super().read_batches(from_position):
            place = batch.schema.get_field_index("event_id")
            yield batch.set_column(place, batch.schema.field(place), pa.array([self.event_id], pa.binary(16)))


@given(
    st.binary(min_size=16, max_size=16)
    | st.text("0123456789abcdef", min_size=16, max_size=16).map(str.encode)
)
def test_an_id_is_its_bytes(event_id: bytes) -> None:
    """Whatever they are, text among them: DuckDB can also read an id out of a text."""
    read_models = ReadModels(_Identified([event("X", {})], event_id=event_id), threads=1)

    assert read_models.query("SELECT event_id FROM events").fetchall() == [(UUID(bytes=event_id),)]
    read_models.close()
