"""The rule by which new stats meet stored ones, and the fold that says what is in view."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dacapo_store.events import (
    EVENT_TYPES,
    TrainingEpochBegun,
    TrainingStatsRecorded,
    ValidationScoresRecorded,
)
from dacapo_store.history import (
    KEEPS_NOTHING,
    TRAINING,
    VALIDATION,
    Change,
    History,
    appended,
    change,
    deleting,
    folded,
    storing,
)
from dacapo_store.rows import Scalar, Scores, Structure, TrainingRows, ValidationRows
from eventstore import Event, RecordedEvent, tagged_json

Row = tuple[int, float]


def rows(*pairs: Row) -> TrainingRows:
    """Rows with a loss each."""
    losses = np.array([loss for _, loss in pairs], np.float64)
    iterations = np.array([iteration for iteration, _ in pairs], np.int64)
    return TrainingRows(iterations, {"loss": Scalar.of(losses, np.ones(len(pairs), np.bool_))})


def pairs(of: TrainingRows) -> list[Row]:
    """The rows as pairs of iteration and loss."""
    return list(zip(of.iterations.tolist(), of.scalar("loss").values.tolist(), strict=True))


def scored(*pairs: tuple[int, Sequence[float]], dataset: str = "crop") -> ValidationRows:
    """Rows with scores each, of one dataset under one set of parameters."""
    return ValidationRows.of_pairs(
        (
            iteration,
            Scores(Structure(((len(scores),),), (dataset,), (), ()), np.array(scores, float).tobytes()),
        )
        for iteration, scores in pairs
    )


def recorded(events: Iterable[Event], *, first_version: int = 0) -> list[RecordedEvent]:
    """Events as the log would give them back."""
    return [
        RecordedEvent(
            position=version,
            event_id=uuid.UUID(int=version),
            recorded_at=datetime(2025, 1, 1, tzinfo=UTC),
            stream="training/run",
            stream_version=version,
            type=event.type,
            schema_version=event.schema_version,
            data_json=tagged_json.encode(event.data),
            metadata_json="{}",
            index=None if event.index is None else pa.array(event.index, pa.int64()),
            values=None
            if event.values is None
            else event.values
            if isinstance(event.values, pa.Array)
            else pa.array(event.values, pa.float64()),
        )
        for version, event in enumerate(events, first_version)
    ]


def store(history: History[TrainingRows], given_rows: TrainingRows) -> History[TrainingRows]:
    """The history after a store call, folded from the events that the call writes."""
    events = storing(TRAINING, "run", history, given_rows)
    return folded(history, recorded(events, first_version=history.events))


def changed(stored: TrainingRows, new: TrainingRows) -> tuple[int | None, list[Row]] | None:
    """What a store call writes: where it cuts, and what it adds."""
    wanted = change(stored, new)
    return None if wanted is None else (wanted.keeps_below, pairs(wanted.added))


def test_empty_stats_change_nothing() -> None:
    """X empty: nothing happens."""
    assert change(rows((0, 1.0)), rows()) is None


def test_the_same_stats_again_write_nothing() -> None:
    """Nothing new, nothing written."""
    assert change(rows((0, 1.0), (1, 0.5)), rows((0, 1.0), (1, 0.5))) is None


def test_a_grown_list_adds_what_is_new() -> None:
    """The present epoch goes on and gets the new rows only."""
    assert changed(rows((0, 1.0)), rows((0, 1.0), (1, 0.5))) == (None, [(1, 0.5)])


def test_a_list_of_only_new_iterations_is_added() -> None:
    """A list that begins behind the stored end is no loss of the stored rows."""
    assert changed(rows((0, 1.0)), rows((1, 0.5))) == (None, [(1, 0.5)])


def test_stats_that_end_earlier_replace_the_stored_ones() -> None:
    """X ends before S ends: X replaces S, and the common front is not written again."""
    assert changed(rows((0, 1.0), (1, 0.5), (2, 0.2)), rows((0, 1.0), (1, 0.5))) == (2, [])
    assert changed(rows((0, 1.0), (9, 0.5)), rows((5, 0.7))) == (KEEPS_NOTHING, [(5, 0.7)])


def test_a_resumed_runs_changed_tail_replaces_the_stored_tail() -> None:
    """What S has below X's begin stays, then comes X."""
    stored = rows((0, 1.0), (1, 0.5), (2, 0.4))
    assert changed(stored, rows((1, 0.6), (2, 0.3), (3, 0.2))) == (1, [(1, 0.6), (2, 0.3), (3, 0.2)])


def test_a_changed_past_is_noticed() -> None:
    """The rows behind the first changed one are recorded anew."""
    assert changed(rows((0, 1.0), (1, 0.5)), rows((0, 1.5), (1, 0.5))) == (
        KEEPS_NOTHING,
        [(0, 1.5), (1, 0.5)],
    )


def test_stored_rows_out_of_order_survive_a_cut() -> None:
    """A cut goes by iteration: kept rows that it would take away are recorded again."""
    stored = rows((1, 0.1), (5, 0.5), (2, 0.2))
    assert changed(stored, rows((3, 0.3), (6, 0.6))) == (2, [(2, 0.2), (3, 0.3), (6, 0.6)])


def test_equal_is_bitwise() -> None:
    """NaN equals itself, -0.0 is not 0.0, another NaN is another value."""
    other_nan = float(np.array([0x7FF8000000000001], np.uint64).view(np.float64)[0])
    assert change(rows((0, float("nan"))), rows((0, float("nan")))) is None
    assert change(rows((0, 0.0)), rows((0, -0.0))) is not None
    assert change(rows((0, float("nan"))), rows((0, other_nan))) is not None


def test_an_absent_scalar_is_not_a_nan() -> None:
    """Absent and NaN are different contents, and a scalar that no row has is no content at all."""
    one = np.array([3], np.int64)
    absent = TrainingRows(one, {"loss": Scalar.absent(1)})
    nan = TrainingRows(one, {"loss": Scalar.of(np.array([np.nan]), np.array([True]))})
    assert change(absent, nan) is not None
    assert change(absent, TrainingRows(one, {})) is None


def test_rows_with_different_scalars_share_an_event() -> None:
    """The columns of an event are the union; null says which rows lack one."""
    mixed = TrainingRows.joined(
        [rows((0, 1.0)), TrainingRows(np.array([1]), {"rate": Scalar.of(np.array([0.1]), np.array([True]))})]
    )
    (event,) = mixed.recorded("run", 0)
    assert event.data["columns"] == ["loss", "rate"]
    assert event.values.to_pylist() == [1.0, None, None, 0.1]
    assert change(mixed, store(TRAINING.unwritten(), mixed).rows) is None


def test_scores_of_one_structure_share_an_event() -> None:
    """Iterations of one structure and the same names are one event, another structure begins the next."""
    events = ValidationRows.joined([scored((1, [0.1]), (2, [0.2])), scored((3, [0.3, 0.4]))]).recorded(
        "run", 0
    )
    assert [list(event.index) for event in events] == [[1, 2], [3]]
    assert [event.data["lengths"] for event in events] == [[[1]], [[2]]]


def test_names_alone_make_no_scores_new() -> None:
    """Names are for people and may differ from program to program; the scores decide."""
    assert change(scored((1, [0.1])), scored((1, [0.1]), dataset="another name")) is None


def test_scores_without_any_number_have_a_history_too() -> None:
    """No dataset was validated: there is still a row for the iteration."""
    empty = ValidationRows.of_pairs([(7, Scores(Structure((), (), (), ()), b""))])
    history = folded(
        VALIDATION.unwritten(), recorded(storing(VALIDATION, "run", VALIDATION.unwritten(), empty))
    )
    assert history.rows.iterations.tolist() == [7]
    assert history.rows.scores[0].structure.lengths == ()


def test_deleting_begins_an_epoch_once() -> None:
    """What is deleted leaves the view; deleting nothing writes nothing."""
    history = store(TRAINING.unwritten(), rows((0, 1.0)))
    history = folded(history, recorded(deleting(TRAINING, "run", history), first_version=history.events))
    assert (pairs(history.rows), history.epoch) == ([], 1)
    assert deleting(TRAINING, "run", history) == []


def test_late_rows_of_an_ended_epoch_are_cut_like_its_others() -> None:
    """Rows adopted from a spool after a rewind stay out of view where the rewind cut."""
    late = TrainingStatsRecorded(run="run", epoch=0, columns=["loss"])
    events = [
        *rows((0, 1.0), (5, 0.5)).recorded("run", 0),
        EVENT_TYPES.event(TrainingEpochBegun(run="run", epoch=1, keeps_below=3)),
        EVENT_TYPES.event(late, index=[2, 6], values=[0.2, 0.6]),
    ]
    assert pairs(folded(TRAINING.unwritten(), recorded(events)).rows) == [(0, 1.0), (2, 0.2)]


def test_folding_on_equals_folding_at_once() -> None:
    """A kept fold may be carried on by what came since."""
    events = recorded(
        itertools.chain(
            rows((0, 1.0), (5, 0.5)).recorded("run", 0),
            [EVENT_TYPES.event(TrainingEpochBegun(run="run", epoch=1, keeps_below=3))],
            rows((4, 0.4)).recorded("run", 1),
        )
    )
    at_once = folded(TRAINING.unwritten(), events)
    carried_on = folded(folded(TRAINING.unwritten(), events[:2]), events[2:])
    assert pairs(at_once.rows) == pairs(carried_on.rows) == [(0, 1.0), (4, 0.4)]
    assert (at_once.epoch, at_once.cuts, at_once.events) == (
        carried_on.epoch,
        carried_on.cuts,
        carried_on.events,
    )


def model(stored: list[Row], new: list[Row]) -> list[Row]:
    """The rule in plain words."""
    if not new:
        return stored
    begins, ends = min(iteration for iteration, _ in new), max(iteration for iteration, _ in new)
    if stored and ends < max(iteration for iteration, _ in stored):
        return new
    return [row for row in stored if row[0] < begins] + new


SOME_ROWS = st.lists(st.tuples(st.integers(0, 6), st.sampled_from([0.0, -0.0, 1.0, 2.0])), max_size=8)


def exactly(some: Sequence[Row]) -> list[tuple[int, bytes]]:
    """Rows in a form in which equal means equal bits."""
    return [(iteration, np.float64(loss).tobytes()) for iteration, loss in some]


@given(st.lists(SOME_ROWS, max_size=6))
def test_any_sequence_of_stores_follows_the_rule(calls: list[list[Row]]) -> None:
    """Whatever is stored, in or out of order, the fold of the events is the rule's outcome."""
    history, unseen, expected = TRAINING.unwritten(), TRAINING.unwritten(), list[Row]()
    for new in calls:
        expected = model(expected, new)
        # Looking at the rows joins the parts of one of the two.
        history, unseen = store(history, rows(*new)), store(unseen, rows(*new))
        assert exactly(pairs(history.rows)) == exactly(expected)
        assert unseen.ends == max((iteration for iteration, _ in expected), default=None)
    assert exactly(pairs(unseen.rows)) == exactly(expected)


@given(st.lists(SOME_ROWS, max_size=6))
def test_what_was_appended_need_not_be_read(calls: list[list[Row]]) -> None:
    """The history that a call knows is the one that the next process folds."""
    history = known = TRAINING.unwritten()
    for new in calls:
        events = storing(TRAINING, "run", history, rows(*new))
        known = appended(known, events)
        history = folded(history, recorded(events, first_version=history.events))
        assert (known.ends, known.epoch, known.cuts, known.events) == (
            history.ends,
            history.epoch,
            history.cuts,
            history.events,
        )
    assert exactly(pairs(known.rows)) == exactly(pairs(history.rows))


def test_a_growing_run_is_few_parts_that_are_copied_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that adds rows costs the same, however many there are."""
    copied = 0
    joined = TrainingRows.joined.__func__  # type: ignore[attr-defined]

    def counting(kind: type[TrainingRows], parts: Sequence[TrainingRows]) -> TrainingRows:
        nonlocal copied
        copied += sum(map(len, parts))
        return joined(kind, parts)

    monkeypatch.setattr(TrainingRows, "joined", classmethod(counting))
    history = TRAINING.unwritten()
    for first in range(0, 10_000, 10):
        history = store(history, rows(*((iteration, 0.5) for iteration in range(first, first + 10))))
        assert len(history.parts) < 12
    assert copied < 20 * 10_000
    assert len(history.rows) == 10_000


@given(SOME_ROWS, SOME_ROWS)
def test_what_is_recorded_again_is_as_little_as_a_cut_allows(stored: list[Row], new: list[Row]) -> None:
    """No cut would leave a longer front of the stored rows that the outcome begins with."""
    wanted: Change[TrainingRows] | None = change(rows(*stored), rows(*new))
    if wanted is None or wanted.keeps_below is None:
        return
    front, outcome = exactly(stored), exactly(model(stored, new))
    for cut in range(8):
        kept = exactly([row for row in stored if row[0] < cut])
        is_front = kept == front[: len(kept)] and kept == outcome[: len(kept)]
        assert not is_front or len(kept) <= len(outcome) - len(wanted.added)


@pytest.mark.parametrize("lengths", [[], [[]], [[2], []], [[1, 3], [2]]])
def test_scores_come_out_of_an_event_as_they_went_in(lengths: list[list[int]]) -> None:
    """Ragged and empty structures keep their shape and the order of their numbers."""
    width = sum(itertools.chain.from_iterable(lengths))
    fact = ValidationScoresRecorded(
        run="run", epoch=0, datasets=["a"], parameters=[], criteria=["c"], lengths=lengths
    )
    event = EVENT_TYPES.event(fact, index=[10, 20], values=[float(number) for number in range(2 * width)])
    history = folded(VALIDATION.unwritten(), recorded([event]))
    (again,) = history.rows.recorded("run", 0)
    assert (again.data, list(again.index), list(again.values)) == (event.data, event.index, event.values)
