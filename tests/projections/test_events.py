"""The read model of every event."""

from __future__ import annotations

from uuid import UUID

from projections.testing import FIRST_RECORDED_AT, GivenEvent, event, rows


def test_every_event_is_a_row_known_or_not() -> None:
    """A type that no read model knows, in any schema version, is in ``events`` all the same."""
    given = [event("NeverHeardOf", {"a": 1}, stream="s/1", schema_version=7)]

    assert rows(given, "FROM events") == [
        (0, UUID(int=0), FIRST_RECORDED_AT, "s/1", 0, "NeverHeardOf", 7, '{"a":1}', "{}")
    ]


def test_data_can_be_asked_with_json_functions() -> None:
    """``data`` is JSON to DuckDB."""
    given = [event("X", {"a": {"b": "c"}})]

    assert rows(given, "SELECT data->'a'->>'b', typeof(data) FROM events") == [("c", "JSON")]


def test_data_that_is_no_json_is_shown_as_a_json_string() -> None:
    """Nothing makes the view of all events fail."""
    assert rows([GivenEvent("X", '{"a":')], """SELECT data->>'$' FROM events""") == [('{"a":',)]
