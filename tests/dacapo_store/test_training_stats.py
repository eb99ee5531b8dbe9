"""Training stats are columns that behave like DaCapo's list of rows and keep every bit."""

from __future__ import annotations

import copy
import logging
import operator
import pickle
import struct
import subprocess
import sys
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dacapo_store.training_iteration_stats import TrainingIterationStats
from dacapo_store.training_stats import TrainingStats, as_training_stats

Row = TrainingIterationStats
NAN = float("nan")
ODD_NAN = struct.unpack("<d", struct.pack("<Q", 0x7FF8_0000_0000_1234))[0]

whole = st.integers(min_value=-(2**63), max_value=2**63 - 1)
names = st.sampled_from(["loss", "time", "learning_rate", "lr/encoder", "scalars"])
rows = st.builds(
    lambda iteration, scalars: Row(iteration, **scalars),
    whole,
    st.dictionaries(names, st.floats(), max_size=4),
)


@attrs.define
class TheirRow:
    """A row of somebody else's, with slots and a scalar of its own."""

    iteration: int
    loss: Any = None
    time: Any = None
    grad_norm: Any = None


@attrs.define
class TheirStats:
    """Stats as DaCapo makes them: an object with a list."""

    iteration_stats: list[Any]


def some_stats(*at: int) -> TrainingStats:
    return TrainingStats([Row(iteration, loss=iteration / 2, time=0.1) for iteration in at])


def bits(value: float) -> bytes:
    return struct.pack("<d", value)


# --- rows ---------------------------------------------------------------------------------------


def test_a_row_gives_its_scalars_as_attributes() -> None:
    """Loss, time and any other scalar are read by name."""
    row = Row(3, 0.5, 0.1, learning_rate=1e-4)
    assert (row.iteration, row.loss, row.time, row.learning_rate) == (3, 0.5, 0.1, 1e-4)
    assert dict(row.scalars) == {"loss": 0.5, "time": 0.1, "learning_rate": 1e-4}


def test_an_absent_scalar_is_none_or_an_attribute_error() -> None:
    """Loss and time may be absent; what was never named is a mistake of the reader."""
    row = Row(3)
    assert row.loss is None
    assert row.time is None
    assert dict(row.scalars) == {}
    with pytest.raises(AttributeError, match="learning_rate"):
        _ = row.learning_rate


def test_a_row_is_frozen() -> None:
    """A change would be lost in silence, since rows are made when asked for."""
    with pytest.raises(AttributeError, match="frozen"):
        Row(3, 0.5).loss = 0.25  # type: ignore[misc]


def test_rows_compare_by_value_with_nan_equal_to_itself() -> None:
    """NaN equals NaN; absent does not."""
    assert Row(1, NAN) == Row(1, float("nan"))
    assert hash(Row(1, NAN)) == hash(Row(1, float("nan")))
    assert Row(1, NAN) != Row(1)
    assert Row(1, 0.5) != Row(2, 0.5)
    assert Row(1, 0.5) != Row(1, 0.5, lr=1.0)
    assert Row(1, 0.5) != "a row"


def test_a_row_shows_what_it_holds() -> None:
    """The repr reads like the call."""
    assert repr(Row(7, 0.25, lr=1e-4)) == "TrainingIterationStats(iteration=7, loss=0.25, lr=0.0001)"


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda row: pickle.loads(pickle.dumps(row))])
def test_a_row_can_be_copied_and_pickled(again: Any) -> None:
    assert again(Row(1, 0.5, lr=NAN)) == Row(1, 0.5, lr=NAN)


@pytest.mark.parametrize("value", [True, 2, np.float32(0.5), np.int16(3), np.array(0.25), np.bool_(1)])
def test_any_number_is_a_scalar(value: Any) -> None:
    """Bools, ints, numpy scalars and arrays without dimensions read as floats."""
    loss = Row(0, value).loss
    assert type(loss) is float
    assert loss == value


def test_a_tensor_without_dimensions_is_a_scalar() -> None:
    """A trainer may pass its loss as torch gives it."""
    torch = pytest.importorskip("torch")
    assert Row(0, torch.tensor(0.5, requires_grad=True)).loss == 0.5
    with pytest.raises(TypeError, match=r"iteration 0, loss: .* shape \(2,\)"):
        Row(0, torch.tensor([0.5, 1.0]))


@pytest.mark.parametrize(
    "value", ["0.5", b"2", [1.0], np.array([1.0]), 1j, np.complex128(1), np.datetime64(1, "ns"), np.str_("1")]
)
def test_what_is_no_number_is_refused_by_name(value: Any) -> None:
    """Nothing is parsed or guessed; the message names iteration and scalar."""
    with pytest.raises(TypeError, match=r"iteration 12, grad_norm: expected a number"):
        Row(12, grad_norm=value)


def test_a_number_beyond_floats_is_refused() -> None:
    with pytest.raises(ValueError, match=r"iteration 12, loss: .* too large"):
        Row(12, 10**400)


@pytest.mark.parametrize("iteration", [1.0, True, "1", None, np.float64(2)])
def test_an_iteration_must_be_an_integer(iteration: Any) -> None:
    with pytest.raises(TypeError, match="must be an integer"):
        Row(iteration)


def test_an_iteration_has_64_bits() -> None:
    """Both ends fit, one beyond does not."""
    assert Row(np.int64(-(2**63))).iteration == -(2**63)
    assert Row(2**63 - 1).iteration == 2**63 - 1
    with pytest.raises(ValueError, match="64 bits"):
        Row(2**63)


@pytest.mark.parametrize("name", ["", "_hidden"])
def test_a_scalar_needs_a_public_name(name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a scalar"):
        Row(0, **{name: 1.0})


# --- DaCapo's interface -------------------------------------------------------------------------


def test_new_stats_are_empty() -> None:
    """An unknown run has stats without rows."""
    stats = TrainingStats()
    assert stats.trained_until() == 0
    assert stats.iteration_stats == []
    assert not stats.iteration_stats
    assert stats.columns == ()
    assert stats.column("loss").tolist() == []


def test_trained_until_is_the_greatest_iteration_plus_one() -> None:
    assert some_stats(0, 1, 7).trained_until() == 8


def test_delete_after_keeps_what_lies_below() -> None:
    """The given iteration itself goes, as in DaCapo."""
    stats = some_stats(0, 1, 2, 3)
    stats.delete_after(2)
    assert stats.iterations.tolist() == [0, 1]


def test_going_back_keeps_every_iteration_below_the_new_one(caplog: pytest.LogCaptureFixture) -> None:
    """DaCapo's own class loses iteration 1 here."""
    stats = some_stats(0, 1, 2, 3)
    with caplog.at_level(logging.WARNING):
        stats.add_iteration_stats(Row(2, loss=9.0))
    assert stats.iterations.tolist() == [0, 1, 2]
    assert stats.column("loss").tolist() == [0.0, 0.5, 9.0]
    assert "from iteration 3 to 2" in caplog.text


def test_going_on_warns_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    stats = some_stats(0)
    stats.add_iteration_stats(Row(5))
    assert stats.iterations.tolist() == [0, 5]
    assert not caplog.records


def test_a_refused_row_changes_nothing() -> None:
    """The rows behind the new iteration go only when the new row is good."""
    stats = some_stats(0, 1, 2)
    with pytest.raises(TypeError, match="iteration 1, loss"):
        stats.add_iteration_stats(SimpleNamespace(iteration=1, loss="bad", time=0.0))
    assert stats == some_stats(0, 1, 2)


def test_to_xarray_gives_the_loss_over_iterations() -> None:
    """As DaCapo's; other scalars by name, absent ones as NaN."""
    pytest.importorskip("xarray")
    stats = TrainingStats([Row(2, 0.5), Row(4, 0.25, lr=1.0)])
    data = stats.to_xarray()
    assert data.dims == ("iterations",)
    assert data.coords["iterations"].values.tolist() == [2, 4]
    assert data.values.tolist() == [0.5, 0.25]
    assert np.array_equal(stats.to_xarray("lr").values, [np.nan, 1.0], equal_nan=True)
    assert TrainingStats().to_xarray().shape == (0,)


@given(st.lists(rows, max_size=20))
def test_to_arrow_gives_every_bit_and_null_for_what_is_absent(some: list[Row]) -> None:
    """The table has what the rows have, loss and time always."""
    table = TrainingStats(some).to_arrow()
    table.validate(full=True)
    names = dict.fromkeys(["iteration", "loss", "time", *(name for row in some for name in row.scalars)])
    assert set(table.column_names) == set(names)
    assert table.column("iteration").to_pylist() == [row.iteration for row in some]
    for name in list(names)[1:]:
        found = [None if value is None else bits(value) for value in table.column(name).to_pylist()]
        assert found == [bits(row.scalars[name]) if name in row.scalars else None for row in some]


def test_to_arrow_does_not_change_with_the_stats() -> None:
    """It shares their memory, which is never written again."""
    stats = some_stats(0, 1)
    table = stats.to_arrow()
    stats.add_iteration_stats(Row(0, loss=9.0))
    assert table.column("loss").to_pylist() == [0.0, 0.5]


def test_without_xarray_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(ImportError, match="pip install xarray"):
        some_stats(0).to_xarray()


# --- the list of rows ---------------------------------------------------------------------------


def test_the_rows_read_like_a_list() -> None:
    stats = some_stats(0, 1, 2)
    view = stats.iteration_stats
    assert len(view) == 3
    assert view[-1] == view[2] == Row(2, 1.0, 0.1)
    assert view[:2] == [Row(0, 0.0, 0.1), Row(1, 0.5, 0.1)]
    assert view[::-1][0].iteration == 2
    assert [row.loss for row in view] == [0.0, 0.5, 1.0]
    assert view == list(view)
    assert view == some_stats(0, 1, 2).iteration_stats
    assert view != list(view)[:2]
    assert operator.add(view, [Row(9)]) == [*view, Row(9)]
    assert operator.add([Row(9)], view) == [Row(9), *view]
    with pytest.raises(IndexError):
        _ = view[3]


def test_the_rows_change_like_a_list() -> None:
    """Whatever people do to DaCapo's list, they can do here."""
    stats = TrainingStats()
    stats.iteration_stats.append(Row(0, 0.5))
    stats.iteration_stats.extend([Row(5), Row(1, lr=2.0)])
    stats.iteration_stats += [Row(7)]
    assert stats.iteration_stats == [Row(0, 0.5), Row(5), Row(1, lr=2.0), Row(7)]
    stats.iteration_stats[1] = Row(6)
    del stats.iteration_stats[0]
    stats.iteration_stats.insert(0, Row(3))
    assert stats.iterations.tolist() == [3, 6, 1, 7]
    assert stats.columns == ("lr",)
    stats.iteration_stats.sort(key=lambda row: row.iteration)
    stats.iteration_stats.reverse()
    assert stats.iterations.tolist() == [7, 6, 3, 1]
    assert stats.iteration_stats.pop().lr == 2.0
    stats.iteration_stats.clear()
    assert stats == TrainingStats()


def test_the_rows_can_be_assigned() -> None:
    """People write `stats.iteration_stats = [...]` with DaCapo's class."""
    stats, other = some_stats(0, 1), some_stats(5)
    stats.iteration_stats = [Row(3, 1.0)]
    assert stats.iteration_stats == [Row(3, 1.0)]
    stats.iteration_stats = other.iteration_stats
    other.iteration_stats.append(Row(6))
    assert stats == some_stats(5)
    stats.iteration_stats = stats.iteration_stats
    stats.iteration_stats.extend(stats.iteration_stats)
    assert stats.iterations.tolist() == [5, 5]


def test_the_repr_of_many_rows_is_short() -> None:
    text = repr(some_stats(*range(1000)))
    assert "994 more" in text
    assert len(text) < 500


# --- columns ------------------------------------------------------------------------------------


def test_columns_tell_absent_from_nan() -> None:
    stats = TrainingStats([Row(0, NAN), Row(1), Row(2, 0.5, lr=1.0)])
    assert stats.columns == ("loss", "lr")
    assert np.array_equal(stats.column("loss"), [np.nan, np.nan, 0.5], equal_nan=True)
    assert stats.present("loss").tolist() == [True, False, True]
    assert stats.present("lr").tolist() == [False, False, True]
    assert stats.present("time").tolist() == [False] * 3
    assert stats.iterations.dtype == np.int64
    assert stats.column("lr").dtype == np.float64


def test_an_unknown_column_is_named() -> None:
    with pytest.raises(KeyError, match="no row has a scalar 'los'; there are: loss, time"):
        some_stats(0).column("los")
    with pytest.raises(KeyError, match="none yet"):
        TrainingStats().present("lr")


def test_an_array_handed_out_never_changes() -> None:
    """Neither appending nor going back reaches into it, and nobody can write to it."""
    stats = some_stats(*range(20))
    loss, before = stats.column("loss"), stats.column("loss").tolist()
    for iteration in (20, 3, 4, 5):
        stats.add_iteration_stats(Row(iteration, -1.0))
    assert loss.tolist() == before
    with pytest.raises(ValueError, match="read-only"):
        loss[0] = 1.0


def test_a_scalar_that_no_row_has_any_more_is_no_column() -> None:
    stats = TrainingStats([Row(0, 0.5), Row(1, lr=1.0)])
    stats.delete_after(1)
    assert stats.columns == ("loss",)
    assert stats == TrainingStats([Row(0, 0.5)])


def test_take_selects_rows() -> None:
    """By slice, booleans or row numbers; nothing is nothing."""
    stats = some_stats(0, 1, 2)
    assert stats.take(slice(1, None)) == some_stats(1, 2)
    assert stats.take(stats.iterations != 1) == some_stats(0, 2)
    assert stats.take([2, 0]) == some_stats(2, 0)
    assert stats.take([]) == TrainingStats()


def test_from_columns_takes_arrays() -> None:
    stats = TrainingStats.from_columns([0, 1], {"loss": np.float32([0.5, 1]), "lr": [1, 2]})
    assert stats == TrainingStats([Row(0, 0.5, lr=1), Row(1, 1.0, lr=2)])


def test_from_columns_copies() -> None:
    loss = np.array([0.5])
    stats = TrainingStats.from_columns(np.array([0]), {"loss": loss})
    loss[0] = 9
    assert stats.column("loss").tolist() == [0.5]


@pytest.mark.parametrize("how", ["present", "masked", "arrow", "none"])
def test_from_columns_knows_absent_scalars(how: str) -> None:
    """However an array says that an element is missing."""
    loss: Any = [NAN, 7.0, 0.5]
    mask = [True, False, True]
    present = {"loss": mask} if how == "present" else None
    if how == "masked":
        loss = np.ma.masked_array(loss, mask=np.logical_not(mask))
    elif how == "arrow":
        loss = pytest.importorskip("pyarrow").array([NAN, None, 0.5])
    elif how == "none":
        loss = [NAN, None, 0.5]
    stats = TrainingStats.from_columns([0, 1, 2], {"loss": loss}, present=present)
    assert stats.identical(TrainingStats([Row(0, NAN), Row(1), Row(2, 0.5)]))


@pytest.mark.parametrize(
    ("at", "columns", "present", "error", "match"),
    [
        ([[0]], {}, None, ValueError, "iterations: expected one dimension"),
        ([0.5], {}, None, TypeError, "iterations: expected integers"),
        (np.uint64([2**63]), {}, None, ValueError, "64 bits"),
        ([0, 1], {"loss": [1.0]}, None, ValueError, "column 'loss': expected 2 values"),
        ([0], {"loss": ["1"]}, None, TypeError, "column 'loss': expected numbers"),
        ([4], {"loss": np.array([{}])}, None, TypeError, "iteration 4, loss"),
        ([0], {"_x": [1.0]}, None, ValueError, "'_x' cannot name a scalar"),
        ([0], {"lr": [1.0]}, {"lr": [True, False]}, ValueError, r"present\['lr'\]"),
    ],
)
def test_from_columns_names_what_is_wrong(
    at: Any, columns: Any, present: Any, error: Any, match: str
) -> None:
    with pytest.raises(error, match=match):
        TrainingStats.from_columns(at, columns, present=present)


def test_identical_compares_bits_and_equal_compares_values() -> None:
    """0.0 and -0.0 are equal and not identical; so are two NaN of different payload."""
    for mine, theirs in [(0.0, -0.0), (NAN, ODD_NAN)]:
        a, b = TrainingStats([Row(0, mine)]), TrainingStats([Row(0, theirs)])
        assert a == b
        assert not a.identical(b)
        assert a.identical(TrainingStats([Row(0, mine)]))
    assert TrainingStats([Row(0, NAN)]) != TrainingStats([Row(0)])
    assert TrainingStats([Row(0, 1.0)]) != TrainingStats([Row(0, 2.0)])
    assert some_stats(0) != "stats"


# --- stats of any make --------------------------------------------------------------------------


def test_ours_are_given_back_as_they_are() -> None:
    stats = some_stats(0)
    assert as_training_stats(stats) is stats
    assert as_training_stats(stats.iteration_stats) == stats


@pytest.mark.parametrize("make", [TheirRow, SimpleNamespace])
def test_rows_of_any_class_are_read(make: Any) -> None:
    """With slots or without, each public attribute is a scalar and None an absent one."""
    theirs = [
        make(iteration=0, loss=np.float64(0.5), time=1, grad_norm=None),
        make(iteration=np.int32(1), loss=NAN, time=None, grad_norm=True),
    ]
    expected = TrainingStats([Row(0, 0.5, 1.0), Row(1, NAN, grad_norm=1.0)])
    assert as_training_stats(TheirStats(theirs)) == expected
    assert as_training_stats(iter(theirs)) == expected
    assert as_training_stats(tuple(theirs)) == expected


def test_a_row_may_compute_its_attributes() -> None:
    """Loss and time are found even where they are properties; private attributes are left alone."""

    @dataclass
    class Computed:
        iteration: int
        _state: str = "private"

        @property
        def loss(self) -> float:
            return self.iteration / 4

    assert as_training_stats([Computed(1), Computed(2)]) == TrainingStats([Row(1, 0.25), Row(2, 0.5)])


def test_rows_of_several_classes_may_be_mixed() -> None:
    mixed = [Row(0, lr=1.0), TheirRow(1, 0.5), SimpleNamespace(iteration=2, loss=0.25, time=1.0, lr=2.0)]
    assert as_training_stats(mixed) == TrainingStats([Row(0, lr=1.0), Row(1, 0.5), Row(2, 0.25, 1.0, lr=2.0)])


@pytest.mark.parametrize(
    ("rows", "error", "match"),
    [
        (
            [SimpleNamespace(iteration=3, loss=1.0, time="long")],
            TypeError,
            "iteration 3, time: .* not str 'long'",
        ),
        ([TheirRow(3, 1.0, 1.0, [])], TypeError, "iteration 3, grad_norm"),
        ([TheirRow(3, 10**400)], ValueError, "iteration 3, loss"),
        (
            [SimpleNamespace(iteration=0, loss=1.0, time=1.0), (1, 2.0)],
            TypeError,
            "row 1: expected an object",
        ),
        ([TheirRow(0), TheirRow(1.5)], TypeError, "row 1: an iteration must be an integer"),
        ([TheirRow(0), TheirRow(2**64)], ValueError, "row 1: iteration .* 64 bits"),
        ("rows", TypeError, "expected training stats"),
        (None, TypeError, "expected training stats .* not None"),
        (Row(0), TypeError, "expected training stats"),
    ],
)
def test_what_cannot_be_read_is_named(rows: Any, error: Any, match: str) -> None:
    with pytest.raises(error, match=match):
        as_training_stats(rows)


# --- properties ---------------------------------------------------------------------------------


@given(st.lists(rows, max_size=40), st.integers(0, 40))
def test_columns_and_rows_say_the_same(given_rows: list[Row], cut: int) -> None:
    """In bulk, one by one, through columns and through pickle: the same rows, bit by bit."""
    stats = TrainingStats(given_rows)
    assert stats.iteration_stats == given_rows
    for made, row in zip(stats.iteration_stats, given_rows, strict=True):
        assert {n: bits(v) for n, v in made.scalars.items()} == {n: bits(v) for n, v in row.scalars.items()}
    one_by_one = TrainingStats(given_rows[:cut])
    for row in given_rows[cut:]:
        one_by_one.iteration_stats.append(row)
    assert one_by_one.identical(stats)
    in_two = TrainingStats(given_rows[:cut])
    in_two.iteration_stats.extend(given_rows[cut:])
    assert in_two.identical(stats)
    columns = {name: stats.column(name) for name in stats.columns}
    present = {name: stats.present(name) for name in stats.columns}
    assert TrainingStats.from_columns(stats.iterations, columns, present=present).identical(stats)
    assert pickle.loads(pickle.dumps(stats)).identical(stats)  # our own bytes
    assert copy.deepcopy(stats).identical(stats)


@given(st.lists(rows, max_size=20))
def test_adding_rows_follows_the_rule_of_a_list(given_rows: list[Row]) -> None:
    """Against the rule in plain words: a row that goes back keeps what lies below it."""
    stats, model = TrainingStats(), list[Row]()
    for row in given_rows:
        stats.add_iteration_stats(row)
        if model and row.iteration <= model[-1].iteration:
            model = [old for old in model if old.iteration < row.iteration]
        model.append(row)
        assert stats.iteration_stats == model


def test_appending_a_row_does_not_copy_the_others() -> None:
    """Room grows by doubling: the buffer is replaced about log2(n) times, not n times."""
    stats = TrainingStats()
    buffers = set()
    for iteration in range(5000):
        stats.add_iteration_stats(Row(iteration, 0.5))
        buffers.add(len(stats.column("loss").base))
    assert len(buffers) < 15


def test_importing_training_stats_loads_no_heavy_package() -> None:
    """Columns need numpy and nothing else."""
    code = (
        "import sys, dacapo_store.training_stats;"
        "print(*{'torch', 'xarray', 'pandas', 'duckdb', 'zarr', 'pyarrow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
