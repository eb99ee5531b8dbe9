"""Pickles are read as data: plain values come back, and nothing that a pickle names is ever run."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dacapo_store.moving.found import UnreadableError
from dacapo_store.moving.plain_pickle import loads
from dacapo_store.moving.stats_documents import training_rows, validation_rows

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(min_size=1, max_size=20)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4) | st.tuples(inner, inner)
    ),
    max_leaves=20,
)


@given(VALUES, st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_values_come_back_from_every_protocol(value: Any, protocol: int) -> None:
    """As pickle itself gives them back."""
    assert repr(loads(pickle.dumps(value, protocol))) == repr(value)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dtype", ["f8", ">f8", "f4", "f2", "i4", "u1", "?", "i8", "longdouble"])
def test_numpy_s_scalars_are_numbers(dtype: str, protocol: int) -> None:
    """Of every dtype of numbers and byte order."""
    for value in (0, 1, 100.5):
        scalar = np.array([value]).astype(dtype)[0]
        (number,) = loads(pickle.dumps([scalar], protocol))
        assert type(number) in (bool, int, float)
        assert number == float(scalar)


@pytest.fixture
def dacapo() -> Iterator[types.ModuleType]:
    """A class of the name that DaCapo's iteration stats have."""
    name = "dacapo.experiments.training_iteration_stats"
    modules = {part: types.ModuleType(part) for part in ("dacapo", "dacapo.experiments", name)}
    sys.modules.update(modules)
    module = modules[name]
    module.TrainingIterationStats = type("TrainingIterationStats", (), {"__module__": name})  # type: ignore[attr-defined]
    yield module
    for part in modules:
        del sys.modules[part]


def test_dacapo_s_records_come_as_their_attributes(dacapo: Any) -> None:
    """Early versions may have pickled the objects themselves."""
    row = dacapo.TrainingIterationStats()
    row.iteration, row.loss, row.time = 3, np.float64(0.5), 0.1
    data = pickle.dumps([row])
    assert loads(data) == [{"iteration": 3, "loss": 0.5, "time": 0.1}]
    assert training_rows(loads(data)).iterations.tolist() == [3]


class _Calls:
    def __init__(self, call: Any, *arguments: Any) -> None:
        self._reduced = call, arguments

    def __reduce__(self) -> Any:
        return self._reduced

    def __repr__(self) -> str:
        call, arguments = self._reduced
        return f"{call.__name__}{arguments}"


HARMFUL = [
    _Calls(os.system, "touch ran"),
    _Calls(eval, "open('ran', 'w')"),
    _Calls(getattr, "x", "upper"),
    _Calls(pickle.loads, b"N."),
    _Calls(np.load, "x"),
    _Calls(np.zeros, 3),
    Path("ran"),
    np.zeros(3),
]


@pytest.mark.parametrize("value", HARMFUL, ids=repr)
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_what_names_anything_else_is_refused(
    value: Any, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it is looked up: nothing has run."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnreadableError, match="could run code"):
        loads(pickle.dumps([{"iteration": 0, "loss": value}], protocol))
    assert list(tmp_path.iterdir()) == []


def test_a_file_cannot_change_what_reads_the_next_one() -> None:
    """A pickle may try to give the stand-ins, or the class of records, other attributes."""
    scalar = b"cnumpy.core.multiarray\nscalar\n"
    changing = b"(NI1\nN(dS'__call__'\nI1\nstb."
    with pytest.raises(UnreadableError):
        loads(scalar + changing)
    record = b"cdacapo.experiments.training_stats\nTrainingStats\n"
    with pytest.raises(UnreadableError):
        loads(record + b"(N(dS'x'\nI1\nstb.")
    assert loads(pickle.dumps([np.float64(0.5)])) == [0.5]


def test_a_torn_pickle_says_so() -> None:
    """Wherever it is cut off."""
    data = pickle.dumps([{"iteration": n, "loss": np.float64(n), "run_name": "r" * 100} for n in range(300)])
    for end in [*range(40), *range(40, len(data), 97)]:
        with pytest.raises(UnreadableError, match=r"cut off|no pickle"):
            loads(data[:end])


def test_a_few_bytes_that_stand_for_more_than_memory_holds_are_refused() -> None:
    """A list of lists of lists, each the same."""
    value: list[Any] = [0.5] * 100
    for _ in range(20):
        value = [value] * 100
    with pytest.raises(UnreadableError, match="more values"):
        loads(pickle.dumps(value))
    value.append(value)
    with pytest.raises(UnreadableError, match=r"more values|too deeply"):
        loads(pickle.dumps(value[-1:]))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_refused(data: bytes) -> None:
    """Never another error."""
    _value_or_refused(data)


@given(st.data())
def test_a_damaged_pickle_is_a_value_or_refused(data: st.DataObject) -> None:
    """Flipped, cut and repeated bytes of a good one."""
    good = bytearray(pickle.dumps([{"iteration": 1, "loss": np.float64(2), "s": [[1.0]]}]))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    _value_or_refused(bytes(good))


def _value_or_refused(data: bytes) -> None:
    with contextlib.suppress(UnreadableError):
        loads(data)


CLAIMS = [
    b"\x80\x04Nr\xff\xff\xff\x3f.",
    b"\x80\x05\x96" + (1 << 36).to_bytes(8, "little") + b".",
    b"\x80\x04\x8e" + (1 << 36).to_bytes(8, "little") + b".",
    b"\x80\x04\x95" + (1 << 36).to_bytes(8, "little") + b"N.",
    b"\x80\x02\x8b\xff\xff\xff\x7f1.",
]

CHILD = """
import resource, sys
from dacapo_store.moving.found import UnreadableError
from dacapo_store.moving.plain_pickle import loads
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
try:
    loads(bytes.fromhex(sys.argv[1]))
except UnreadableError as error:
    assert "Memory" not in str(error), error
"""


@pytest.mark.parametrize("data", CLAIMS, ids=bytes.hex)
def test_no_room_is_made_for_what_a_file_only_claims(data: bytes) -> None:
    """A place in the memo, a length of bytes: a flipped bit must not take all memory."""
    subprocess.run([sys.executable, "-c", CHILD, data.hex()], check=True)


FLOATS = st.floats(allow_nan=True, allow_infinity=True)


@given(st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), FLOATS, FLOATS)))
def test_training_stats_of_any_numbers_are_rows(rows: list[tuple[int, float, float]]) -> None:
    """Bit by bit, in their order."""
    documents = [{"iteration": n, "loss": a, "time": b, "run_name": "r"} for n, a, b in rows]
    read = training_rows(loads(pickle.dumps(documents)))
    assert read.iterations.tolist() == [n for n, _, _ in rows]
    for name, place in (("loss", 1), ("time", 2)):
        expected = np.array([row[place] for row in rows], np.float64)
        assert read.scalar(name).values.tobytes() == expected.tobytes()


@given(
    st.lists(st.tuples(st.integers(0, 2**40), st.lists(st.lists(st.lists(FLOATS, max_size=3), max_size=3))))
)
def test_scores_of_any_shape_are_rows(rows: list[tuple[int, list[list[list[float]]]]]) -> None:
    """Ragged ones, too."""
    documents = [{"iteration": n, "scores": scores, "run_name": "r"} for n, scores in rows]
    read = validation_rows(loads(pickle.dumps(documents)))
    assert read.iterations.tolist() == [n for n, _ in rows]
    flat = [np.array([x for p in s for c in p for x in c], np.float64).tobytes() for _, s in rows]
    assert [each.bits for each in read.scores] == flat


@pytest.mark.parametrize(
    ("documents", "reason"),
    [
        (5, "a list of iterations, not a int"),
        ([1], "item 0"),
        ([{"loss": 1.0}], "item 0"),
        ([{"iteration": 0, "loss": 1.0}, {"iteration": 1.5}], "item 1"),
        ([{"iteration": 0, "loss": "high"}], "item 0: .*loss"),
        ([{"iteration": 0, 5: 1.0}], "named by text"),
        ([{"iteration": 0}, {"iteration": 2**63}], "item 1: iteration .* 64 bits"),
    ],
)
def test_what_are_no_stats_is_named(documents: Any, reason: str) -> None:
    """With the first item that is none."""
    with pytest.raises(UnreadableError, match=reason):
        training_rows(documents)


def test_scores_without_scores_are_named() -> None:
    """Likewise."""
    with pytest.raises(UnreadableError, match="item 1 has no 'scores'"):
        validation_rows([{"iteration": 0, "scores": [[[1]]]}, {"iteration": 1}])
    with pytest.raises(UnreadableError, match="item 0"):
        validation_rows([{"iteration": 0, "scores": [1.0]}])
