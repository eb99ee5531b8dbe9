"""Config documents in YAML: what DaCapo's store writes is read, and the other way; no code is run."""

from __future__ import annotations

import collections
import contextlib
import enum
import pathlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dacapo_store.converter import documents_equal
from dacapo_store.moving.found import UnreadableError
from dacapo_store.moving.plain_yaml import as_dacapo_has_it, dump, load

# What PyYAML itself brings back as it was: no text that YAML has no escape for.
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.binary(max_size=20)
DOCUMENTS = st.dictionaries(
    TEXT,
    st.recursive(
        SCALARS,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(TEXT, inner, max_size=4)
            | st.lists(inner, max_size=3).map(tuple)
        ),
        max_leaves=20,
    ),
)


@given(DOCUMENTS)
def test_what_dacapo_s_store_writes_is_read(document: dict[str, Any]) -> None:
    """Tuples, NaN, infinities, any text: as ``full_load`` reads it."""
    text = yaml.dump(document)
    assert documents_equal(load(text.encode()), yaml.full_load(text))


@given(DOCUMENTS)
def test_what_is_written_is_what_dacapo_s_store_would_write(document: dict[str, Any]) -> None:
    """And it is read as the document that it was."""
    text = dump(document)
    assert text == yaml.dump(document)
    assert documents_equal(load(text.encode()), document)


def test_what_dacapo_s_store_writes_and_cannot_read_is_read() -> None:
    """Numbers of NumPy, ordered dicts and paths."""
    document = {
        "rate": np.float64(0.25),
        "steps": [np.int32(-7), np.bool_(True), np.float32(0.5), np.array([3]).astype(">i8")[0]],  # noqa: FBT003
        "ordered": collections.OrderedDict(b=1, a=[2]),
        "path": pathlib.PurePosixPath("/data/x"),
        "complex": 1 + 2j,
    }
    text = yaml.dump(document)
    with pytest.raises(yaml.YAMLError):
        yaml.full_load(text)
    assert load(text.encode()) == {
        "rate": 0.25,
        "steps": [-7, True, 0.5, 3],
        "ordered": {"b": 1, "a": [2]},
        "path": "/data/x",
        "complex": 1 + 2j,
    }


class _Colour(enum.Enum):
    RED = 1


HARMFUL = [
    "!!python/object/apply:os.system ['touch ran']",
    "!!python/object/new:os.system ['touch ran']",
    "!!python/name:os.system",
    "!!python/module:os",
    "!!python/object:pathlib.Path {}",
    "a: !!python/object/apply:eval ['1']",
    "!!python/object/apply:numpy.core.multiarray.scalar [os, 1]",
    "!!python/object/apply:numpy.dtype {args: [f8], state: 1}",
    "!!python/object/apply:numpy.dtype {args: [1]}",
    "!unknown x",
    yaml.dump(_Colour.RED),
]


@pytest.mark.parametrize("text", HARMFUL)
def test_objects_are_not_made(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever they are; nothing has run."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnreadableError):
        load(text.encode())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text", ["a: [1", "\x00", "a: b: c", "? [1]\n: 2", "a: 2026-13-01", "{[]: 1}", "&a [*a]"]
)
def test_what_is_no_yaml_says_so_in_one_line(text: str) -> None:
    """For a list of what could not be imported."""
    with pytest.raises(UnreadableError) as failure:
        load(text.encode())
    assert "\n" not in str(failure.value)


def test_aliases_are_followed_but_not_without_end() -> None:
    """``yaml.dump`` writes them for what is there twice."""
    shared = [1, 2]
    assert load(yaml.dump({"a": shared, "b": shared}).encode()) == {"a": [1, 2], "b": [1, 2]}
    bomb = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
        f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
        for before, name in zip("abcdefg", "bcdefgh", strict=True)
    )
    with pytest.raises(UnreadableError, match="aliases"):
        load(bomb.encode())


@given(st.binary(max_size=100) | st.text(max_size=60).map(str.encode))
def test_any_bytes_are_a_document_or_refused(data: bytes) -> None:
    """Never another error."""
    with contextlib.suppress(UnreadableError):
        load(data)


def test_what_dacapo_cannot_read_is_not_written() -> None:
    """Sets that are frozen, for one."""
    with pytest.raises(UnreadableError):
        dump({"set": frozenset({1})})
    with pytest.raises(UnreadableError):
        dump({"path": pathlib.PurePosixPath("x")})


def test_only_what_our_converter_adds_is_taken_away() -> None:
    """DaCapo's own typed documents stay as they are."""
    document = {
        "__type__": "ZarrArrayConfig",
        "file_name": {"__type__": "UPath", "path": "/data/x.zarr"},
        "size": {"__type__": "Coordinate", "__value__": (1, {"__type__": "Size", "__value__": (2,)})},
        "other": {"__type__": "Unknown", "__value__": {"a": 1}},
        "rest": [pathlib.PurePosixPath("y")],
    }
    assert as_dacapo_has_it(document) == {
        "__type__": "ZarrArrayConfig",
        "file_name": "/data/x.zarr",
        "size": (1, (2,)),
        "other": {"__type__": "Unknown", "__value__": {"a": 1}},
        "rest": ["y"],
    }
