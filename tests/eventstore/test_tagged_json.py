"""``tagged_json``: what comes back equals what went in, and the text is strict JSON."""

from __future__ import annotations

import datetime as dt
import enum
import json
import math
import pathlib
import subprocess
import sys
from collections import OrderedDict
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore import tagged_json
from eventstore.errors import InvalidEventError


def _round_trip(value: Any) -> Any:
    return tagged_json.decode(tagged_json.encode(value))


def _refuse_constant(name: str) -> float:
    message = f"{name} is not strict JSON"
    raise AssertionError(message)


def _exactly(value: Any) -> str:
    """Write a value out so that types, signed zeros and the order of mappings count, and NaN equals NaN."""
    if isinstance(value, dict):
        inner = [f"{_exactly(key)}:{_exactly(item)}" for key, item in value.items()]
    elif isinstance(value, (list, tuple)):
        inner = [_exactly(item) for item in value]
    elif isinstance(value, (set, frozenset)):
        inner = sorted(_exactly(item) for item in value)
    elif isinstance(value, complex):
        inner = [repr(value.real), repr(value.imag)]
    else:
        inner = [repr(value)]
    return f"{type(value).__name__}({','.join(inner)})"


_TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["$float", "$mapping", "$", "a.b", ""]
)
_HASHABLE_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | _TEXT
    | st.binary(max_size=8)
    | st.dates()
)
_ZONES = st.none() | st.just(dt.timezone(dt.timedelta(hours=5, minutes=30, seconds=7)))
_LEAVES = (
    _HASHABLE_LEAVES
    | st.floats()
    | st.complex_numbers()
    | st.datetimes(timezones=_ZONES).map(lambda moment: moment.replace(fold=0))
    | st.times(timezones=_ZONES).map(lambda moment: moment.replace(fold=0))
    | st.builds(pathlib.Path, st.text("abc/.", min_size=1, max_size=8))
)
_HASHABLE = st.recursive(
    _HASHABLE_LEAVES, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=5
)
_VALUES = st.recursive(
    _LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.sets(_HASHABLE, max_size=3)
        | st.dictionaries(_TEXT, inner, max_size=4)
        | st.dictionaries(_HASHABLE, inner, max_size=3)
    ),
    max_leaves=20,
)


@given(_VALUES)
def test_any_value_comes_back_as_it_went_in(value: Any) -> None:
    """Types, NaN, signed zeros, tuples and the order of keys all survive."""
    assert _exactly(_round_trip(value)) == _exactly(value)


@given(_VALUES)
def test_the_text_is_strict_json(value: Any) -> None:
    """A reader that knows nothing but the JSON standard accepts every text."""
    text = tagged_json.encode(value)
    json.loads(text, parse_constant=_refuse_constant)
    text.encode("utf-8")


@given(_VALUES)
def test_encoding_again_gives_the_same_text(value: Any) -> None:
    """A text stands for its value: two encodings can be compared."""
    text = tagged_json.encode(value)
    assert tagged_json.encode(tagged_json.decode(text)) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [1, 2.5, True, None, "x"]}, '{"a":[1,2.5,true,null,"x"]}'),
        (math.nan, '{"$float":"nan"}'),
        (-math.inf, '{"$float":"-inf"}'),
        (-0.0, "-0.0"),
        (1.0, "1.0"),
        (2**64 - 1, "18446744073709551615"),
        (2**64, '{"$int":"18446744073709551616"}'),
        ((1, (2,)), '{"$tuple":[1,{"$tuple":[2]}]}'),
        (b"\x00\xff", '{"$bytes":"AP8="}'),
        (pathlib.Path("/data/raw.zarr"), '{"$path":"/data/raw.zarr"}'),
        ({3, 1, 2}, '{"$set":[1,2,3]}'),
        (frozenset("b"), '{"$frozenset":["b"]}'),
        (1 - 2j, '{"$complex":[1.0,-2.0]}'),
        (dt.datetime(2024, 5, 6, 7, tzinfo=dt.UTC), '{"$datetime":"2024-05-06T07:00:00+00:00"}'),
        (dt.date(2024, 5, 6), '{"$date":"2024-05-06"}'),
        (dt.time(7, 8), '{"$time":"07:08:00"}'),
        ({2: "b", 1: "a"}, '{"$mapping":[[2,"b"],[1,"a"]]}'),
        ({"$float": "nan"}, '{"$mapping":[["$float","nan"]]}'),
        ({}, "{}"),
    ],
)
def test_the_text_of_each_kind_is_fixed(value: Any, text: str) -> None:
    """The stored form is part of the log's format: it never changes."""
    assert tagged_json.encode(value) == text
    assert _exactly(tagged_json.decode(text)) == _exactly(value)


class _Colour(enum.IntEnum):
    RED = 3


class _Mode(str, enum.Enum):  # noqa: UP042 - the older way, whose str() is not its value
    FAST = "fast"


class _Point(NamedTuple):
    x: int
    y: float


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (_Colour.RED, 3),
        (_Mode.FAST, "fast"),
        (_Point(1, math.inf), (1, math.inf)),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (MappingProxyType({"a": (1,)}), {"a": (1,)}),
        ({_Mode.FAST: 1}, {"fast": 1}),
        (bytearray(b"ab"), b"ab"),
        (memoryview(b"ab"), b"ab"),
        (pathlib.PurePosixPath("a/b"), pathlib.Path("a/b")),
        (np.float64(0.1), 0.1),
        (np.float32(0.5), 0.5),
        (np.float64(-0.0), -0.0),
        (np.int64(-7), -7),
        (np.uint64(2**64 - 1), 2**64 - 1),
        (np.bool_(True), True),  # noqa: FBT003 - numpy's own signature
        (np.complex64(1j), 1j),
        (np.array(4), 4),
        (np.str_("ä"), "ä"),
    ],
)
def test_a_subclass_comes_back_as_the_plain_value_that_it_equals(value: Any, plain: Any) -> None:
    """Enum members, named tuples, other mappings and numpy scalars lose their class, not their value."""
    assert _exactly(_round_trip({"x": value})) == _exactly({"x": plain})


def test_a_numpy_nan_stays_nan() -> None:
    """NumPy's float64 is a float, so that msgspec alone would write null."""
    assert math.isnan(_round_trip([np.float64("nan")])[0])
    assert math.isnan(_round_trip([np.float32("nan")])[0])


def test_two_nan_keys_stay_two() -> None:
    """NaN differs from itself, and so do the keys of a mapping."""
    assert len(_round_trip({float("nan"): 1, float("nan"): 2})) == 2


def _cycle() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {1: value}
    return value


class _Plain(enum.Enum):
    A = 1


class _Url(pathlib.PurePosixPath):
    """A path as some libraries have them, whose text is an address."""

    def __str__(self) -> str:
        return f"s3://{super().__str__()}"


class _Twins(str):
    """Strings with an identity of their own."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__


class _Hashable(list[int]):
    def __hash__(self) -> int:  # type: ignore[override]
        return 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (object(), r"^\$: object cannot be stored; allowed are None, bool"),
        ({"a": [1, {"b": object()}]}, r"^\$\.a\[1\]\.b: object"),
        ({"a b": (object(),)}, r"^\$\['a b'\]\[0\]: object"),
        ({(1, object()): 2}, r"^\$\{key\}\[1\]: object"),
        ({"a": {object()}}, r"^\$\.a\{item\}: object"),
        ({2: _Plain.A}, r"^\$\[2\]: .*_Plain cannot be stored"),
        ({"a": np.zeros(3)}, r"^\$\.a: numpy\.ndarray cannot be stored"),
        ([np.longdouble(1)], r"^\$\[0\]: numpy\.longdouble cannot be stored"),
        ([np.datetime64("2024-01-01")], r"numpy\.datetime64 cannot be stored"),
        (["\ud800"], r"^\$\[0\]: the text '\\ud800' is not Unicode \(surrogates not allowed at 0\)"),
        ({"\udfff": 1}, r"^\$\['\\udfff'\]: the text"),
        (pathlib.Path("\udc80"), r"^\$: the text"),
        (2**4000, r"an int of 4001 bits is too long; at most 2048 bits"),
        (_cycle(), r"^\$(\[0\])+: lies more than 100 containers deep; does a container hold itself\?"),
        (_nested(101), r"lies more than 100 containers deep"),
        ({_Twins("a"): 1, _Twins("a"): 2}, r"^\$: some of its keys would come back equal"),
        ({_Hashable()}, r"^\$: its items would not come back hashable"),
        (
            _Url("bucket/key"),
            r"does not survive as a pathlib.Path; store it as a string",
        ),
    ],
)
def test_what_cannot_be_stored_is_refused_with_its_place(value: Any, message: str) -> None:
    """Nothing is dropped or replaced: the error names the place, the type and what is allowed."""
    with pytest.raises(InvalidEventError, match=message):
        tagged_json.encode(value)


def test_a_datetime_that_may_hold_more_is_refused() -> None:
    """A pandas Timestamp keeps nanoseconds, which would be lost."""

    class Stamp(dt.datetime):
        pass

    with pytest.raises(InvalidEventError, match=r"^\$\.at: .*Stamp is a subclass that may hold more"):
        tagged_json.encode({"at": Stamp(2024, 1, 1)})


def test_the_deepest_value_that_is_allowed_comes_back() -> None:
    """The limit is on containers, whatever their tags cost in JSON."""
    assert _exactly(_round_trip(_nested(100))) == _exactly(_nested(100))


def test_a_stack_that_is_nearly_used_up_is_a_clear_error() -> None:
    """A caller deep in a recursion learns that, and not of a RecursionError."""

    def descend() -> str:
        try:
            return descend()
        except RecursionError:
            return tagged_json.encode(_nested(60))

    with pytest.raises(InvalidEventError, match="recursion limit"):
        descend()


@pytest.mark.parametrize(
    "text",
    [
        '{"$new":1}',
        '{"$float":"NaN"}',
        '{"$float":1}',
        '{"$float":["nan"]}',
        '{"$int":5}',
        '{"$int":"five"}',
        '{"$tuple":{"a":1}}',
        '{"$tuple":[1],"b":2}',
        '{"$bytes":"not base64!"}',
        '{"$datetime":"yesterday"}',
        '{"$set":[[1]]}',
        '{"$set":[1,1]}',
        '{"$mapping":[["a",1],["a",2]]}',
        '{"$mapping":["ab"]}',
        '{"$mapping":[["a",1,2]]}',
        '{"$complex":[1,2]}',
    ],
)
def test_what_is_no_known_tag_is_read_as_the_mapping_that_it_is(text: str) -> None:
    """A newer program's tags, and anything malformed, are kept and not refused."""
    assert tagged_json.decode(text) == json.loads(text)


def test_tags_within_an_unknown_tag_are_read() -> None:
    """An unknown tag hides nothing."""
    assert tagged_json.decode('{"$new":{"$tuple":[1]}}') == {"$new": (1,)}


def test_escaped_tags_of_another_writer_are_read() -> None:
    """A writer may escape any character in JSON."""
    assert tagged_json.decode('{"\\u0024tuple": [1]}') == (1,)


@pytest.mark.parametrize("text", ["", "{", "NaN", '{"a":1}x', '"\\ud800"', "[" * 10_000])
def test_what_is_no_json_is_refused(text: str) -> None:
    """A text that cannot come from ``encode`` is an error of ours, not of a library's."""
    with pytest.raises(InvalidEventError, match="the text"):
        tagged_json.decode(text)


def test_sets_have_the_same_text_in_every_process() -> None:
    """Hashes of strings differ from process to process; a retry must still encode the same text."""
    program = """
from eventstore import tagged_json
print(tagged_json.encode({frozenset('abc'), 'x', 'y', (1, 'z')}))
"""
    texts = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(texts) == 1
