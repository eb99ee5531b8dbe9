"""Catching up, answering, stopping, threads and forks."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace

import duckdb
import pyarrow as pa
import pytest

from projections import (
    PROJECTIONS,
    CatchUpError,
    Projection,
    QueryRefusedError,
    ReadModels,
    ReadModelsClosedError,
    ReadModelStoppedError,
    Table,
    View,
)
from projections.configs import CONFIGS
from projections.projection import step
from projections.testing import GivenEvent, ListedLog, envelope, event

_BAD = event("ConfigStored", {"kind": "tasks"})


def _config(name: str, document: object = 1) -> GivenEvent:
    return event("ConfigStored", {"kind": "tasks", "name": name, "document": document})


def _stats(iteration: int, *, run: str = "r") -> GivenEvent:
    data = {"run": run, "epoch": 0, "columns": ["loss"]}
    return event("TrainingStatsRecorded", data, index=[iteration], values=[0.5])


def test_a_query_sees_every_event_that_was_there_before_it() -> None:
    """Without a call to ``catch_up``."""
    log = ListedLog()
    read_models = ReadModels(log)

    assert read_models.query("FROM tasks").fetchall() == []
    log.append(_config("a"), _config("b"))
    assert read_models.query("SELECT count(*) FROM tasks").fetchone() == (2,)
    log.append(_config("c"))
    assert read_models.query("SELECT count(*) FROM tasks").fetchone() == (3,)


def test_catching_up_tells_how_far() -> None:
    """The position is the number of events applied."""
    read_models = ReadModels(ListedLog([_config("a"), event("Unknown", {})]))

    assert read_models.position == 0
    assert read_models.catch_up() == 2
    assert read_models.position == 2


def test_everything_new_is_one_transaction() -> None:
    """However many batches the log hands out, each read model applies once."""
    log = ListedLog([_config(str(number)) for number in range(10)], batch_events=3)
    read_models, applied = _counting_transactions(log)

    read_models.catch_up()

    assert applied == [10]


def _counting_transactions(log: ListedLog) -> tuple[ReadModels, list[int]]:
    applied: list[int] = []

    class Counting(Projection):
        def apply(self, connection: duckdb.DuckDBPyConnection, event_types: frozenset[str]) -> None:
            (count,) = connection.execute("SELECT count(*) FROM batch").fetchone() or (0,)
            applied.append(count)

    return ReadModels(log, projections=(*PROJECTIONS, Counting("counting", (), (), ()))), applied


def test_nothing_new_is_not_read() -> None:
    """A query on an unchanged log asks for its position and no more."""
    log = ListedLog([_config("a")])
    read_models = ReadModels(log)
    read_models.catch_up()
    log.read_batches = None  # type: ignore[method-assign,assignment]

    assert read_models.query("SELECT name FROM tasks").fetchall() == [("a",)]


def test_a_long_history_is_applied_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would not fit into memory twice is cut, and nothing is lost on the way."""
    monkeypatch.setattr("projections.content._FIRST_BATCH_BYTES_MAX", 1)
    monkeypatch.setattr("projections.content._BATCH_BYTES_MAX", 1)
    log = ListedLog([_config(str(number)) for number in range(10)], batch_events=3)
    read_models, applied = _counting_transactions(log)

    read_models.catch_up()

    assert applied == [3, 3, 3, 1]
    assert read_models.query("SELECT count(*) FROM tasks").fetchone() == (10,)


def test_the_first_parts_of_a_long_history_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be folded while the first is read; each is twice as long as the last, up to a bound."""
    log = ListedLog([_config(f"{number:02d}") for number in range(18)], batch_events=1)
    bytes_of_one = next(iter(log.read_batches(0))).nbytes
    monkeypatch.setattr("projections.content._FIRST_BATCH_BYTES_MAX", bytes_of_one)
    monkeypatch.setattr("projections.content._BATCH_BYTES_MAX", 4 * bytes_of_one)
    read_models, applied = _counting_transactions(log)

    read_models.catch_up()

    assert applied == [1, 2, 4, 4, 4, 3]
    assert read_models.query("SELECT count(*) FROM tasks").fetchone() == (18,)


def test_an_error_while_the_next_part_is_read_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """It passes from the thread that reads ahead, and the next call begins again."""
    monkeypatch.setattr("projections.content._FIRST_BATCH_BYTES_MAX", 1)
    monkeypatch.setattr("projections.content._BATCH_BYTES_MAX", 1)

    class Unreadable(ListedLog):
        def read_batches(self, from_position: int) -> Iterator[pa.RecordBatch]:
            for batch in super().read_batches(from_position):
                if trouble and batch["position"][0].as_py() == 6:
                    raise trouble.pop()
                yield batch

    trouble = [OSError("no such sector")]
    read_models = ReadModels(Unreadable([_config(str(number)) for number in range(10)], batch_events=3))

    with pytest.raises(OSError, match="no such sector"):
        read_models.catch_up()
    assert read_models.catch_up() == 10
    assert read_models.query("SELECT count(*) FROM tasks").fetchone() == (10,)


def test_the_checkpoint_advances_with_the_rows() -> None:
    """Each read model's checkpoint says how far its rows go."""
    read_models = ReadModels(ListedLog([_config("a"), _BAD, _config("b")]))
    read_models.catch_up()

    assert read_models.checkpoints["events"] == 3
    assert read_models.checkpoints["configs"] == 1


def test_a_read_model_stops_at_the_event_it_cannot_fold_and_the_others_go_on() -> None:
    """Its rows are those of the events before, whatever the batches were."""
    given = [_config("a"), _config("b"), _BAD, _config("c"), _stats(1)]
    at_once = ReadModels(ListedLog(given))
    log = ListedLog()
    one_by_one = ReadModels(log)
    for given_event in given:
        log.append(given_event)
        one_by_one.catch_up()

    assert at_once.digests() == one_by_one.digests()
    assert at_once.query("SELECT count(*) FROM history.config_documents").fetchone() == (2,)
    assert at_once.query("SELECT count(*) FROM training_stats").fetchone() == (1,)
    assert at_once.query("SELECT count(*) FROM events").fetchone() == (5,)


@pytest.mark.parametrize("place", ["configs", "main.tasks", "configs_at(1)", "TASKS"])
def test_a_view_of_a_stopped_read_model_says_why(place: str) -> None:
    """Read model, position and cause; never an answer from half of the events."""
    read_models = ReadModels(ListedLog([_config("a"), _BAD]))

    with pytest.raises(ReadModelStoppedError) as stopped:
        read_models.query(f"SELECT count(*) FROM {place}")  # noqa: S608

    assert stopped.value.read_model == "configs"
    assert stopped.value.position == 1
    assert '"name"' in stopped.value.cause
    assert isinstance(stopped.value.__cause__, duckdb.Error)
    assert read_models.stopped.keys() == {"configs"}
    with pytest.raises(ReadModelStoppedError, match="position 1"):
        read_models.arrow("FROM configs")


def test_a_stopped_read_model_stays_stopped() -> None:
    """Going on behind the event would show a state that never was."""
    log = ListedLog([_BAD])
    read_models = ReadModels(log)
    read_models.catch_up()
    log.append(_config("a"), _stats(1))

    assert read_models.query("SELECT count(*) FROM training_stats").fetchone() == (1,)
    with pytest.raises(ReadModelStoppedError):
        read_models.query("FROM tasks")


def test_when_all_are_stopped_the_log_is_followed_all_the_same() -> None:
    """Each says why; nothing else goes wrong."""
    log = ListedLog([_BAD])
    read_models = ReadModels(log, projections=[CONFIGS])
    assert read_models.catch_up() == 1
    log.append(_config("a"))
    assert read_models.catch_up() == 2
    assert read_models.stopped.keys() == {"configs"}


def test_any_exception_of_a_read_model_stops_it() -> None:
    """Not only DuckDB's."""

    class Failing(Projection):
        def apply(self, connection: duckdb.DuckDBPyConnection, event_types: frozenset[str]) -> None:
            raise RuntimeError("out of luck")

    failing = Failing("failing", (), (), (View("lucky", "SELECT 1 AS number WHERE as_of >= 0"),))
    read_models = ReadModels(ListedLog([_config("a")]), projections=(*PROJECTIONS, failing))

    assert read_models.query("SELECT name FROM tasks").fetchall() == [("a",)]
    with pytest.raises(ReadModelStoppedError, match="out of luck"):
        read_models.query("FROM lucky")


def test_a_projection_of_ones_own_gets_its_views() -> None:
    """Tables, steps and views are all that it takes."""
    counter = Projection(
        "counter",
        (Table("numbers", {"position": "UBIGINT NOT NULL"}),),
        (step("INSERT INTO tail.numbers SELECT position FROM batch WHERE type = 'Counted'", "Counted"),),
        (View("counted", "SELECT count(*) AS number FROM history.numbers WHERE position < as_of"),),
    )
    read_models = ReadModels(ListedLog([event("Counted", {})] * 3), projections=[counter])

    assert read_models.query("SELECT number FROM counted").fetchone() == (3,)
    assert read_models.query("SELECT number FROM counted_at(?)", [2]).fetchone() == (2,)


def test_trouble_outside_the_events_stops_nothing_and_passes() -> None:
    """The next query begins again."""

    class Full(Projection):
        def apply(self, connection: duckdb.DuckDBPyConnection, event_types: frozenset[str]) -> None:
            if trouble:
                raise trouble.pop()

    trouble: list[Exception] = [duckdb.OutOfMemoryException("no memory")]
    read_models = ReadModels(ListedLog([_config("a")]), projections=(*PROJECTIONS, Full("full", (), (), ())))

    with pytest.raises(CatchUpError, match="no memory"):
        read_models.catch_up()
    assert read_models.catch_up() == 1
    assert read_models.query("SELECT name FROM tasks").fetchall() == [("a",)]
    assert not read_models.stopped


def test_an_interruption_leaves_nothing_half_applied() -> None:
    """Ctrl-C between two transactions does not make an event count twice."""

    class Interrupted(Projection):
        def apply(self, connection: duckdb.DuckDBPyConnection, event_types: frozenset[str]) -> None:
            raise outcomes.pop() if outcomes else RuntimeError("always")

    # The shared transaction fails, the others are applied one by one, then comes the interruption.
    outcomes = [KeyboardInterrupt(), RuntimeError("first")]
    interrupted = Interrupted("interrupted", (), (), ())
    log = ListedLog([event("ArrayRemoved", _REMOVED)])
    read_models = ReadModels(log, projections=(*PROJECTIONS, interrupted))

    with pytest.raises(KeyboardInterrupt):
        read_models.catch_up()
    assert read_models.query("SELECT count(*) FROM array_removals").fetchone() == (1,)


_REMOVED = {
    "container": "c",
    "dataset": "d",
    "shape": None,
    "dtype": None,
    "chunks": None,
    "bytes": 0,
    "listing": [],
    "listing_digest": "",
}


def test_a_log_that_skips_a_position_is_refused() -> None:
    """A checkpoint is a prefix: an event missed now would be missed for ever."""

    class Gap(ListedLog):
        def read_batches(self, from_position: int) -> Iterator[pa.RecordBatch]:
            yield envelope(self.events, first_position=from_position + 1)

    with pytest.raises(CatchUpError, match="Verify the log"):
        ReadModels(Gap([_config("a")])).catch_up()


def test_batches_whose_schemas_differ_in_metadata_make_one() -> None:
    """Two segments of a log may say different things about themselves."""

    class Segments(ListedLog):
        def read_batches(self, from_position: int) -> Iterator[pa.RecordBatch]:
            for number, batch in enumerate(super().read_batches(from_position)):
                yield batch.replace_schema_metadata({"segment": str(number)})

    read_models = ReadModels(Segments([_config("a"), _config("b")], batch_events=1))

    assert read_models.query("SELECT count(*) FROM tasks").fetchone() == (2,)


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM tail.events",
        "SELECT 1; DROP VIEW events",
        "COPY events TO '/nowhere/events.csv'",
        "EXPLAIN ANALYZE DELETE FROM tail.events",
        "SET memory_limit = '1TB'",
        "",
    ],
)
def test_only_one_select_is_run(sql: str) -> None:
    """The read models cannot be changed by a query."""
    read_models = ReadModels(ListedLog([_config("a")]))

    with pytest.raises(QueryRefusedError, match="one SELECT"):
        read_models.query(sql)
    with pytest.raises(QueryRefusedError, match="one SELECT"):
        read_models.arrow(sql)
    assert read_models.query("SELECT count(*) FROM events").fetchone() == (1,)


def test_a_mistake_in_the_sql_is_duckdbs_to_tell() -> None:
    """With the place in the text."""
    with pytest.raises(duckdb.CatalogException, match="training_stat"):
        ReadModels(ListedLog()).query("SELECT * FROM training_stat")
    with pytest.raises(duckdb.ParserException, match="SELEC"):
        ReadModels(ListedLog()).query("SELEC 1")


def test_a_python_variable_is_no_table() -> None:
    """A typing error does not silently query something else."""
    training_statistics = pa.table({"a": [1]})

    with pytest.raises(duckdb.CatalogException):
        ReadModels(ListedLog()).query("FROM training_statistics")
    assert training_statistics.num_rows == 1


def test_parameters_go_by_place_or_by_name() -> None:
    """Values never become part of the text, in views and in macros alike."""
    read_models = ReadModels(ListedLog([_config("it's")]))

    assert read_models.query("SELECT name FROM tasks WHERE name = ?", ["it's"]).fetchone() == ("it's",)
    assert read_models.query("SELECT name FROM tasks_at($n)", {"n": 1}).fetchone() == ("it's",)
    assert read_models.arrow("SELECT name FROM tasks WHERE name = ?", ["it's"]).num_rows == 1


def test_each_public_view_has_a_macro_for_the_past() -> None:
    """With the same columns, and empty as of 0."""
    read_models = ReadModels(ListedLog([_config("a"), _stats(1)]))
    for view in (view.name for projection in PROJECTIONS for view in projection.views):
        present = read_models.query(f"DESCRIBE {view}").fetchall()
        assert read_models.query(f"DESCRIBE FROM {view}_at(2)").fetchall() == present
        assert read_models.query(f"FROM {view}_at(0)").fetchall() == []


def test_threads_query_while_others_catch_up() -> None:
    """Each sees at least what was there before its query, and whole events only."""
    log = ListedLog()
    read_models = ReadModels(log)
    wrong: list[object] = []

    def ask() -> None:
        for _ in range(10):
            before = log.next_position
            result = read_models.query("SELECT count(*), count(DISTINCT position) FROM training_stats")
            rows, events = result.fetchone() or (0, 0)
            if events < before or rows != 2 * events:
                wrong.append((before, rows, events))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(20):
        log.append(replace(_stats(number), index=[number, number], values=[1.0, 2.0]))
        read_models.catch_up()
    for thread in threads:
        thread.join()

    assert wrong == []
    assert read_models.query("SELECT count(*) FROM training_stats").fetchone() == (40,)


def test_a_forked_child_goes_on_with_a_database_of_its_own() -> None:
    """It sees the history and what is new, ends normally, and the parent is not disturbed.

    In a process of its own, which has no other threads, since the child ends as a child of
    ``os.fork`` does when nobody takes care: destructors run.
    """
    done = subprocess.run([sys.executable, "-c", _FORKING], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["child", "2", "3", "parent", "0", "2"]


_FORKING = """
import os, sys
from projections import ReadModels
from projections.testing import ListedLog, event

log = ListedLog([event("X", {}), event("Y", {})])
read_models = ReadModels(log)
open_result = read_models.query("FROM range(1000000)")
open_result.fetchone()
count = "SELECT count(*) FROM events"
pid = os.fork()
if pid == 0:
    print("child", *read_models.query(count).fetchone(), flush=True)
    del open_result
    log.append(event("Z", {}))
    print(*read_models.query(count).fetchone(), flush=True)
    sys.exit(0)
_, status = os.waitpid(pid, 0)
print("parent", status, *read_models.query(count).fetchone(), flush=True)
"""


def test_a_child_forked_while_another_thread_catches_up_is_not_locked_out() -> None:
    """The lock that the thread held belongs to the parent."""
    log = ListedLog([_config("a")])
    read_models = ReadModels(log)
    read_models.catch_up()
    with read_models._state.lock:
        pid = os.fork()
        if pid == 0:
            seen = read_models.query("SELECT name FROM tasks").fetchall()
            os._exit(0 if seen == [("a",)] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_fork_that_python_did_not_see_is_noticed_by_its_process_id() -> None:
    """What was inherited is kept, untouched."""
    read_models = ReadModels(ListedLog([_config("a")]))
    read_models.catch_up()
    inherited = read_models._state
    inherited.pid = -1

    assert read_models.query("SELECT name FROM tasks").fetchall() == [("a",)]
    assert read_models._state is not inherited
    assert inherited.content is not None
    assert read_models._inherited == [inherited]


def test_closed_read_models_refuse() -> None:
    """And closing twice is closing."""
    log = ListedLog([_config("a")])
    read_models = ReadModels(log)
    read_models.catch_up()
    read_models.close()
    read_models.close()

    log.append(_config("b"))
    with pytest.raises(ReadModelsClosedError, match="make new ones"):
        read_models.query("FROM tasks")


def test_digests_tell_contents_apart() -> None:
    """Equal events, equal digests; one bit of one number, another digest of that read model alone."""
    zero, minus_zero = (
        ReadModels(ListedLog([replace(_stats(1), values=[value]), _config("a")])).digests()
        for value in (0.0, -0.0)
    )
    again = ReadModels(ListedLog([replace(_stats(1), values=[0.0]), _config("a")])).digests()

    assert zero == again
    assert zero.keys() == {projection.name for projection in PROJECTIONS}
    assert {name for name in zero if zero[name] != minus_zero[name]} == {"training_stats"}


def test_times_are_utc_whatever_the_machine_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """A time printed by a query reads alike everywhere."""
    monkeypatch.setenv("TZ", "America/New_York")

    sql = "SELECT recorded_at::VARCHAR FROM events"
    assert ReadModels(ListedLog([_config("a")])).query(sql).fetchone() == ("2025-01-01 00:00:00+00",)


def test_catching_up_draws_no_progress_bar() -> None:
    """DuckDB would, where Python is interactive or runs text: what a program prints is its own."""
    code = """
from projections.database import Database
connection = Database(threads=1, memory_limit="100MB")._connection
print(connection.execute("SELECT current_setting('enable_progress_bar')").fetchone())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "(False,)\n"


def test_errors_survive_pickling() -> None:
    """A worker process hands them to its parent, facts included."""
    error = ReadModelStoppedError("text", read_model="configs", position=3, cause="why")

    copy = pickle.loads(pickle.dumps(error))

    assert (type(copy), str(copy), copy.facts) == (ReadModelStoppedError, "text", error.facts)
    assert copy.position == 3
