"""The short way of a few plain events leads to the rows of the fold."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projections import ReadModels, ReadModelStoppedError, few_rows
from projections.database import Database
from projections.testing import GivenEvent, ListedLog, event

if TYPE_CHECKING:
    from collections.abc import Sequence

_RECORDED = "TrainingStatsRecorded"


def _stats(
    *columns: str, run: str = "r", epoch: int = 0, index: Sequence[int | None] = (7, 8), values: Any = None
) -> GivenEvent:
    count = len(index) * len(columns)
    numbers = [number / 4 for number in range(count)] if values is None else values
    return event(
        _RECORDED, {"run": run, "epoch": epoch, "columns": list(columns)}, index=index, values=numbers
    )


def _spelled(text: str) -> GivenEvent:
    return GivenEvent(_RECORDED, text, index=[7], values=[0.5])


def _followed(first: Sequence[GivenEvent], then: Sequence[GivenEvent], *, short: bool) -> tuple[Any, bool]:
    """What a follower has that met ``then`` on its own, and whether it took the short way."""
    log = ListedLog(list(first))
    read_models = ReadModels(log, threads=1)
    insert = Database.insert
    with (
        mock.patch.object(few_rows, "EVENTS_MAX", few_rows.EVENTS_MAX if short else 0),
        mock.patch.object(Database, "insert", autospec=True, side_effect=insert) as inserted,
    ):
        read_models.catch_up()
        log.append(*then)
        read_models.catch_up()
        outcome = read_models.digests(), {name: str(error) for name, error in read_models.stopped.items()}
        read_models.close()
    return outcome, inserted.called


@pytest.mark.parametrize(
    ("then", "taken"),
    [
        ([_stats("loss", "time")], True),
        ([_stats("time", "loss")], True),
        ([_stats("loss"), event("Unknown", {}), _stats("time", index=[9])], True),
        ([_stats(index=[1])], True),
        ([_stats("loss", values=[None, float("nan")])], True),
        ([event("Unknown", {})], False),
        ([_stats("loss", "rate")], False),
        ([_stats("loss", epoch=1)], False),
        ([_stats("loss", run="another")], False),
        ([_stats("loss"), event("TrainingStatsDeleted", {"run": "r", "epoch": 1})], False),
        ([_stats("loss")] * (few_rows.EVENTS_MAX + 1), False),
        ([_spelled('{"run":"r","epoch":0, "columns":["loss"]}')], False),
        ([_spelled('{"epoch":0,"run":"r","columns":["loss"]}')], False),
        ([_spelled('{"run":"another","run":"r","epoch":0,"columns":["loss"]}')], False),
        ([_spelled('{"run":"r","epoch":0,"columns":["loss"],"more":1}')], False),
        ([GivenEvent(_RECORDED, json.dumps({"run": "r"}), schema_version=2)], False),
        # The rest stops the read model, with the error that the fold gives.
        ([_stats("loss", values=[0.5])], False),
        ([_stats("loss", "loss")], False),
        ([_stats("loss", index=[1, None])], False),
        ([_spelled('{"run":"r","epoch":99999999999999999999,"columns":["loss"]}')], False),
        ([_spelled('{"run":"r","epoch":0}')], False),
        ([GivenEvent(_RECORDED, '{"run":"r","epoch":0,"columns":["loss"]}')], False),
    ],
)
def test_only_plain_events_take_the_short_way_and_none_shows_it(then: list[GivenEvent], taken: bool) -> None:  # noqa: FBT001 - a parameter
    """Rows, and the errors over what has no rows, are those of the fold."""
    first = [_stats("loss", "time", index=[1, 2]), _stats("rate", index=[3])]
    by_short_way, was_taken = _followed(first, then, short=True)
    by_fold, _ = _followed(first, then, short=False)
    assert (by_short_way, was_taken) == (by_fold, taken)


_EVENTS = st.builds(
    lambda columns, numbers, run, epoch: _stats(
        *columns, run=run, epoch=epoch, index=range(len(numbers)), values=numbers * len(columns)
    ),
    st.lists(st.sampled_from(["loss", "time", "rate"]), unique=True),
    st.lists(st.sampled_from([0.5, -0.0, None, float("nan"), float("-inf")]), max_size=3),
    st.sampled_from(["r", 'a "quoted" \u00fc\n', "\0"]),
    st.integers(0, 1),
)


@given(st.lists(_EVENTS, max_size=3), st.lists(_EVENTS, min_size=1, max_size=3))
def test_rows_are_those_of_the_fold(first: list[GivenEvent], then: list[GivenEvent]) -> None:
    """Whatever numbers, names and columns."""
    assert _followed(first, then, short=True)[0] == _followed(first, then, short=False)[0]


def test_what_was_taken_back_is_not_known() -> None:
    """A life that an event began, whose transaction failed, is looked for anew."""
    log = ListedLog([_stats("loss", run="first")])
    read_models = ReadModels(log, threads=1)
    read_models.catch_up()
    log.append(_stats("loss"), event("ConfigStored", {"kind": "tasks"}))
    log.append(_stats("loss", index=[9]))
    read_models.catch_up()
    log.append(_stats("loss", index=[10]))
    found = read_models.query("SELECT iteration FROM training_stats WHERE run = 'r' ORDER BY iteration")
    assert found.fetchall() == [(7,), (8,), (9,), (10,)]
    with pytest.raises(ReadModelStoppedError):
        read_models.query("FROM tasks")


def test_each_of_many_short_ways_inserts_its_own_rows() -> None:
    """The statement is planned once, and rows of other events go through it each time."""
    log = ListedLog([_stats("loss", "time")])
    read_models = ReadModels(log, threads=1)
    asked = "SELECT iteration, loss, time, position FROM training_stats ORDER BY position, ordinal"
    whole = read_models.query(asked).fetchall()
    with mock.patch.object(Database, "insert", autospec=True, side_effect=Database.insert) as inserted:
        for count in (1, 300, 2, 7):
            values = [count + number / 4 for number in range(2 * count)]
            log.append(_stats("loss", "time", index=range(count), values=values))
            position = log.next_position - 1
            whole += [(at, values[at], values[count + at], position) for at in range(count)]
            assert read_models.query(asked).fetchall() == whole

    assert inserted.call_count == 4
