"""The read model of removed arrays."""

from __future__ import annotations

from typing import Any

from projections.testing import FIRST_RECORDED_AT, GivenEvent, event, rows


def _removed(**fields: Any) -> GivenEvent:
    data = {
        "container": "run/validation.zarr",
        "dataset": "60/d",
        "shape": [2, 3],
        "dtype": "uint8",
        "chunks": [1, 3],
        "bytes": 9,
        "listing": [["0.0", 4], ["1.0", 5]],
        "listing_digest": "x",
    }
    return event("ArrayRemoved", data | fields)


def test_what_a_removed_array_was_stays_on_record() -> None:
    """With the number of its files instead of their names."""
    assert rows([_removed()], "FROM array_removals") == [
        ("run/validation.zarr", "60/d", [2, 3], "uint8", [1, 3], 9, 2, "x", 0, FIRST_RECORDED_AT)
    ]


def test_a_group_has_no_shape() -> None:
    """None stays None."""
    given = [_removed(shape=None, dtype=None, chunks=None, listing=[])]

    assert rows(given, "SELECT shape, dtype, chunks, files FROM array_removals") == [(None, None, None, 0)]


def test_each_removal_of_one_array_is_a_row() -> None:
    """An array written and removed again was removed twice."""
    given = [_removed(), _removed()]

    assert rows(given, "SELECT position FROM array_removals ORDER BY 1") == [(0,), (1,)]
    assert rows(given, "SELECT position FROM array_removals_at(1)") == [(0,)]


def _recorded(**fields: Any) -> GivenEvent:
    data = {
        "container": "run/validation.zarr",
        "dataset": "60/d",
        "shape": [2, 3],
        "dtype": "uint8",
        "chunks": [1, 3],
        "bytes": 9,
        "files": 2,
        "digest": None,
    }
    return event("ArrayRecorded", data | fields)


def test_an_array_on_record_is_shown_as_it_was_last() -> None:
    """And as of an earlier position, as it was then."""
    given = [_recorded(), _recorded(bytes=10, digest="x")]

    assert rows(given, "SELECT bytes, digest, position FROM recorded_arrays") == [(10, "x", 1)]
    assert rows(given, "SELECT bytes, digest, position FROM recorded_arrays_at(1)") == [(9, None, 0)]


def test_a_removal_ends_what_lies_below_it_and_nothing_else() -> None:
    """A group takes its arrays with it; a name that only begins alike stays; a later record counts."""
    given = [
        _recorded(),
        _recorded(dataset="60/e"),
        _recorded(dataset="600/d"),
        _recorded(container="other/validation.zarr"),
        _removed(dataset="60", shape=None, dtype=None, chunks=None),
        _recorded(dataset="60/e"),
    ]

    assert rows(given, "SELECT container, dataset FROM recorded_arrays ORDER BY ALL") == [
        ("other/validation.zarr", "60/d"),
        ("run/validation.zarr", "60/e"),
        ("run/validation.zarr", "600/d"),
    ]
