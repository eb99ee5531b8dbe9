"""A process has the read models that its queries ask for, and no query can tell."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from projections import ANYTHING_NEW, PROJECTIONS, ReadModels, ReadModelStoppedError, publish_snapshot
from projections.asked_for import asked_for
from projections.testing import GivenEvent, ListedLog, event

if TYPE_CHECKING:
    import pyarrow as pa

_VIEWS = {view.name: projection.name for projection in PROJECTIONS for view in projection.views}


def _config(name: str) -> GivenEvent:
    return event("ConfigStored", {"kind": "tasks", "name": name, "document": 1})


def _stats(iteration: int) -> GivenEvent:
    data = {"run": "r", "epoch": 0, "columns": ["loss"]}
    return event("TrainingStatsRecorded", data, index=[iteration], values=[0.5])


def _scores(iteration: int) -> GivenEvent:
    data = {"run": "r", "epoch": 0, "datasets": [], "parameters": [], "criteria": [], "lengths": [[1]]}
    return event("ValidationScoresRecorded", data, index=[iteration], values=[0.5])


class Reading(ListedLog):
    """A log that notes from where it was read."""

    def read_batches(self, from_position: int) -> Iterator[pa.RecordBatch]:
        """All events from a position on."""
        self.read_from = [*getattr(self, "read_from", []), from_position]
        return super().read_batches(from_position)


@pytest.mark.parametrize("view", _VIEWS)
@pytest.mark.parametrize(
    "sql", ["FROM {}", 'SELECT 1 FROM "{}"', "FROM {}_at(1)", "FROM main.{}", "DESCRIBE {}"]
)
def test_a_view_in_the_text_asks_for_its_read_model(view: str, sql: str) -> None:
    """However it is written."""
    text = sql.format(view)
    assert _VIEWS[view] in asked_for(text, PROJECTIONS)
    assert _VIEWS[view] in asked_for(text.upper(), PROJECTIONS)


def test_only_what_is_asked_for_is_made() -> None:
    """A query on training leaves the others where they are."""
    read_models = ReadModels(ListedLog([_config("a"), _stats(1)]))
    assert read_models.select("SELECT 42").position == 2
    assert read_models.checkpoints == {}
    assert read_models.query("SELECT count(*) FROM training_stats WHERE run = 'r'").fetchone() == (1,)
    assert read_models.checkpoints == {"training_stats": 2}


def test_what_is_asked_for_later_has_the_whole_history() -> None:
    """The events that others applied before are read again for it."""
    log = Reading([_config("a"), _stats(1)], batch_events=1)
    read_models = ReadModels(log)
    assert read_models.query("SELECT count(*) FROM training_stats").fetchone() == (1,)
    log.append(_config("b"), _stats(2))
    assert read_models.query("SELECT name FROM tasks ORDER BY name").fetchall() == [("a",), ("b",)]
    assert read_models.query("SELECT count(*) FROM training_stats").fetchone() == (2,)
    assert read_models.checkpoints == {"configs": 4, "training_stats": 4}
    assert log.read_from == [0, 0, 2]


def test_what_no_query_asks_for_is_left_where_it_is() -> None:
    """Who once wanted everything does not pay for it with each query from then on."""
    log = Reading([_config("a"), _stats(1)])
    read_models = ReadModels(log)
    everything = dict.fromkeys((projection.name for projection in PROJECTIONS), 2)
    assert read_models.catch_up() == 2
    assert read_models.checkpoints == everything
    log.append(_config("b"), _stats(2))
    assert read_models.query("SELECT count(*) FROM training_stats").fetchone() == (2,)
    assert read_models.checkpoints == everything | {"training_stats": 4}
    log.append(_config("c"), _stats(3))
    assert read_models.query("SELECT count(*) FROM tasks").fetchone() == (3,)
    assert read_models.checkpoints == everything | {"training_stats": 6, "configs": 6}
    assert log.read_from == [0, 2, 2, 4]
    assert read_models.catch_up() == 6
    assert set(read_models.checkpoints.values()) == {6}


def test_events_count_once_towards_the_tail() -> None:
    """However many read models they are applied to, one after the other."""
    given = [_config("a"), _stats(1), _config("b"), _stats(2)]
    log = ListedLog(given[:2], batch_events=1)
    read_models = ReadModels(log, tail_limit=ANYTHING_NEW)
    bytes_of_one = [batch.nbytes for batch in ListedLog(given, batch_events=1).read_batches(0)]
    tail: list[int] = []
    for sql in ("SELECT 42", "FROM tasks", "FROM training_stats", "FROM events"):
        read_models.query(sql)
        tail.append(_tail_bytes(read_models))
    log.append(*given[2:])
    read_models.query("FROM tasks")
    read_models.catch_up()

    assert tail == [0, *[sum(bytes_of_one[:2])] * 3]
    assert _tail_bytes(read_models) == sum(bytes_of_one)


def _tail_bytes(read_models: ReadModels) -> int:
    return read_models.answer(lambda content: content.tail_bytes, of="")


@pytest.mark.parametrize("before", [[], [_stats(0)]])
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) FROM query('FROM eve' || 'nts')",
        "SELECT count(*) FROM query_table('eve' || 'nts')",
        "SELECT count(*) FROM history.events",
    ],
)
def test_what_no_word_tells_is_there(sql: str, before: list[GivenEvent]) -> None:
    """A text that is put together at run time, and tables behind the views; and it is not behind."""
    log = ListedLog(list(before))
    read_models = ReadModels(log)
    read_models.catch_up()
    log.append(_config("a"), _stats(1))
    assert read_models.query(sql).fetchone() == (len(before) + 2,)


@pytest.mark.parametrize("sql", ["SHOW TABLES", "SELECT view_name FROM duckdb_views()"])
def test_listings_are_complete(sql: str) -> None:
    """They name every view, whatever was asked before."""
    listed = {name for (name,) in ReadModels(ListedLog([_config("a")])).query(sql).fetchall()}
    assert listed >= set(_VIEWS)


def test_error_over_a_missing_name_is_that_of_a_whole_database() -> None:
    """DuckDB proposes what there is."""
    log = ListedLog([_config("a")])
    whole = ReadModels(log)
    whole.catch_up()
    with pytest.raises(duckdb.CatalogException) as expected:
        whole.query("FROM training_stat")
    with pytest.raises(duckdb.CatalogException) as found:
        ReadModels(log).query("FROM training_stat")
    assert str(found.value) == str(expected.value)


def test_one_that_stops_when_it_is_asked_for_stops_alone() -> None:
    """The others were there before, and go on."""
    log = ListedLog([_stats(1), event("ConfigStored", {"kind": "tasks"}), _stats(2)])
    read_models = ReadModels(log)
    assert read_models.query("SELECT count(*) FROM training_stats").fetchone() == (2,)
    assert not read_models.stopped
    with pytest.raises(ReadModelStoppedError) as stopped:
        read_models.query("FROM tasks")
    assert stopped.value.position == 1
    log.append(_stats(3))
    assert read_models.query("SELECT count(*) FROM training_stats").fetchone() == (3,)
    assert read_models.checkpoints == {"configs": 1, "training_stats": 4}


def test_one_that_a_snapshot_shows_stopped_is_stopped(tmp_path: Path) -> None:
    """Whether it was asked for or not."""
    log = ListedLog([_stats(1), event("ConfigStored", {"kind": "tasks"})])
    publish_snapshot(tmp_path / "views", log, tail_limit=ANYTHING_NEW)
    read_models = ReadModels(log, snapshots=tmp_path / "views")
    assert read_models.query("SELECT count(*) FROM training_stats").fetchone() == (1,)
    assert read_models.stopped.keys() == {"configs"}
    with pytest.raises(ReadModelStoppedError):
        read_models.query("FROM tasks")
    assert read_models.query("SELECT count(*) FROM events").fetchone() == (2,)


_MADE = {"config": _config("a"), "stats": _stats(1), "scores": _scores(1)}
_STEPS = st.lists(
    st.one_of(
        st.sampled_from(["config", "stats", "scores", "publish", "newer", "catch up"]),
        st.sampled_from(["tasks", "training_stats", "validation_scores", "events", "(SELECT 1 AS position)"]),
    ),
    max_size=14,
)


@given(_STEPS)
def test_the_order_of_asking_shows_nowhere(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    """Each answer is that of a process that had everything from the first event on."""
    log, folder = ListedLog(batch_events=2), tmp_path_factory.mktemp("base") / "views"
    lazy, whole = ReadModels(log, snapshots=folder, tail_limit=ANYTHING_NEW), ReadModels(log)
    for each in steps:
        if each == "publish":
            publish_snapshot(folder, log, tail_limit=ANYTHING_NEW)
        elif each == "newer":
            lazy = ReadModels(log, snapshots=folder, tail_limit=ANYTHING_NEW)
        elif each == "catch up":
            assert lazy.catch_up() == log.next_position
        elif each in _MADE:
            log.append(_MADE[each])
        else:
            whole.catch_up()
            sql = f"FROM {each} ORDER BY position"
            assert lazy.query(sql).fetchall() == whole.query(sql).fetchall()
    assert lazy.digests() == whole.digests()
    assert lazy.checkpoints == whole.checkpoints
    lazy.close()
    whole.close()
