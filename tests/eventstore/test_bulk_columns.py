"""Bulk columns of an event in all the forms that programs have them in: what is stored is what Arrow says."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_st

from eventstore import Event, InvalidEventError
from eventstore.encoding import encode_events
from eventstore.format import Numbers, numbers_of

TYPES = {"index": pa.int64(), "values": pa.float64()}
DTYPES = [np.dtype(code) for code in ("i8", "f8", "i4", "f4", "u8", "?")]
STEPS = st.sampled_from([slice(None), slice(None, None, 2), slice(None, None, -1), slice(1, None, 3)])


def stored(name: str, column: Any) -> Numbers | None:
    (event,) = encode_events("s", [Event("A", {}, **{name: column})])
    return event.index if name == "index" else event.values


@given(st.data())
def test_a_numpy_array_is_stored_as_arrow_reads_it(data: st.DataObject) -> None:
    """Of any type and stride; what Arrow refuses is refused."""
    name = data.draw(st.sampled_from(sorted(TYPES)))
    dtype = data.draw(st.sampled_from(DTYPES))
    given_array = data.draw(numpy_st.arrays(dtype, st.integers(0, 20)))[data.draw(STEPS)]
    try:
        expected = numbers_of(pa.array(given_array, from_pandas=False).cast(TYPES[name]))
    except pa.ArrowException:
        with pytest.raises(InvalidEventError):
            stored(name, given_array)
        return
    assert stored(name, given_array) == expected


@pytest.mark.parametrize(("name", "code", "items"), [("index", "q", [1, -2]), ("values", "d", [0.5, -0.0])])
def test_an_array_of_the_standard_library_is_taken_as_it_is(name: str, code: str, items: list[Any]) -> None:
    """As a list of the same items."""
    assert stored(name, array(code, items)) == stored(name, items)


def test_a_mask_is_heeded() -> None:
    """The memory behind a masked array holds numbers that are none."""
    masked = np.ma.masked_array([1.0, 2.0], mask=[False, True])
    assert stored("values", masked) == stored("values", [1.0, None])
    with pytest.raises(InvalidEventError, match="must not hold None"):
        stored("index", np.ma.masked_array([1, 2], mask=[False, True]))


@pytest.mark.parametrize("column", [np.zeros((2, 2)), np.array(1.0), np.array(["a"]), np.ones(2, ">f8")])
def test_what_is_no_flat_sequence_of_numbers_is_refused(column: Any) -> None:
    """Whatever numpy calls it."""
    with pytest.raises(InvalidEventError, match="flat sequence"):
        stored("values", column)
