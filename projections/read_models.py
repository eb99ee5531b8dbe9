"""The read models of one log: catching up with it, and answering queries.

1. A query asks the log for its next position. If the read models stand there, it runs.
2. Otherwise one thread reads all that is new, as Arrow, and registers it once as ``batch``.
3. Every read model that the events concern folds it with its SQL, and the checkpoints advance, in one
   DuckDB transaction: a crash or an error leaves all of it or nothing.
4. If that fails, each read model folds alone, in a transaction of its own. One that fails again is
   brought up to the very event that it cannot fold, and stops there; the others go on.
5. The query runs on a cursor of its own, while others run on theirs.

So a query sees every commit that was acknowledged before it began, and how the events came, one by
one or a million at once, shows nowhere. All of it is derived: nothing is ever written but in memory.
"""

# ruff: noqa: S608 - the SQL is put together from constants of this package, never from input
from __future__ import annotations

import hashlib
import os
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from projections.arrays import ARRAYS
from projections.configs import CONFIGS
from projections.database import Database
from projections.errors import (
    CatchUpError,
    QueryRefusedError,
    ReadModelsClosedError,
    ReadModelStoppedError,
)
from projections.events import EVENTS
from projections.projection import Projection, Table
from projections.query_result import Parameters, QueryResult, run_to_arrow
from projections.training_stats import TRAINING_STATS
from projections.validation_scores import VALIDATION_SCORES
from projections.weights import WEIGHTS

PROJECTIONS = (EVENTS, CONFIGS, TRAINING_STATS, VALIDATION_SCORES, WEIGHTS, ARRAYS)

_BATCH_BYTES_MAX = 256 * 1024 * 1024
_DIGEST_ROWS = 65536

# Errors that say nothing about the events: memory, disk, an interrupted or broken DuckDB.
_ENVIRONMENT_ERRORS = (
    duckdb.OperationalError,
    duckdb.InterruptException,
    duckdb.InternalError,
    duckdb.FatalException,
    MemoryError,
)


class EventSource(Protocol):
    """What the read models need of a log."""

    @property
    def next_position(self) -> int:
        """The position that the next event will get, with every commit acknowledged so far below it."""

    def read_batches(self, from_position: int) -> Iterable[pa.RecordBatch]:
        """All events from a position on, in order and without gaps, in the envelope's columns."""


@dataclass
class _State:
    """What one process holds: made on first use, and again in each forked child."""

    pid: int = field(default_factory=os.getpid)
    lock: threading.Lock = field(default_factory=threading.Lock)
    database: Database | None = None
    position: int = 0
    stopped: dict[str, ReadModelStoppedError] = field(default_factory=dict)
    closed: bool = False

    def begin_again(self) -> None:
        """Forget everything applied; in place, for other threads may wait for the lock."""
        self.database = None
        self.position = 0
        self.stopped.clear()


class ReadModels:
    """DuckDB views of a log that are never behind it.

    Any number of threads may query at once. A forked child that goes on using an inherited object
    silently gets a database of its own, built again from the log.

    DuckDB is opened, and the history read, at the first query. Memory holds every row there is, so
    what exceeds ``memory_limit`` is kept in a temporary folder until ``close``.

    Args:
        log: The log to follow: anything with ``next_position`` and ``read_batches(from_position)``.
        threads: How many threads one query may use.
        memory_limit: DuckDB's limit, e.g. ``"1GB"``.
        projections: The read models; one that builds on another's views stands behind it.

    Example:
        >>> views = ReadModels(log)
        >>> views.query("SELECT min(loss) FROM training_stats WHERE run = ?", ["run_7"]).fetchone()
    """

    def __init__(
        self,
        log: EventSource,
        *,
        threads: int = 2,
        memory_limit: str = "1GB",
        projections: Sequence[Projection] = PROJECTIONS,
    ) -> None:
        self._log = log
        self._threads = threads
        self._memory_limit = memory_limit
        self._projections = tuple(projections)
        self._inherited: list[_State] = []
        self._state = _State()
        _instances.add(self)

    @property
    def position(self) -> int:
        """How many events have been applied; 0 before the first query."""
        return self._own_state().position

    @property
    def stopped(self) -> Mapping[str, ReadModelStoppedError]:
        """The read models that met an event they cannot fold, by name, with the error that says which."""
        return dict(self._own_state().stopped)

    def catch_up(self) -> int:
        """Apply every event that was committed before this call, all of them in one batch.

        Cheap when there is nothing new. A read model that cannot fold an event stops there, which
        raises nothing here; see ``stopped``.

        Returns:
            The position reached: views show the state as of it, or later if another thread goes on.

        Raises:
            CatchUpError: Memory or disk ran out, or the log skipped a position. Mend that; the next
                call begins again.
            ReadModelsClosedError: ``close`` was called. Make new ones.
        """
        return self._caught_up().position

    def query(self, sql: str, parameters: Parameters | None = None) -> QueryResult:
        """Run one SELECT over all that was committed before this call.

        The views and macros are described in the modules of this package: ``events``, ``configs``
        (and ``runs``, ``tasks``, …), ``training_stats``, ``training_scalars``, ``validation_scores``,
        ``validation_iterations``, ``weights``, ``best_weights``, ``array_removals``; for each view
        ``x`` the macro ``x_at(position)``, the state as of that position.

        Args:
            sql: One SELECT statement (WITH, FROM, VALUES, DESCRIBE and SUMMARIZE included).
            parameters: Values for ``?`` and ``$1`` in order, or for ``$name`` by name.

        Raises:
            duckdb.Error: The SQL is wrong; the text points at the place.
            QueryRefusedError: The text is no SELECT, or more than one statement.
            ReadModelStoppedError: It asks for a view whose read model is stopped.
            CatchUpError: As for ``catch_up``.
            ReadModelsClosedError: As for ``catch_up``.

        Example:
            >>> views.query("SELECT * FROM best_weights_at(?) WHERE run = ?", [4711, "run_7"]).fetchall()
        """
        state = self._caught_up()
        database = _database(state)
        return QueryResult(database, _one_select(database, sql), parameters, self._stopped_views(state))

    def arrow(self, sql: str, parameters: Parameters | None = None) -> pa.Table:
        """Run one SELECT as ``query`` does, straight into an Arrow table: the fast way to many rows.

        Args:
            sql: One SELECT statement.
            parameters: As for ``query``.

        Raises:
            duckdb.Error: As for ``query``.
            QueryRefusedError: As for ``query``.
            ReadModelStoppedError: As for ``query``.
            CatchUpError: As for ``catch_up``.
            ReadModelsClosedError: As for ``catch_up``.
        """
        state = self._caught_up()
        database = _database(state)
        return run_to_arrow(database, _one_select(database, sql), parameters, self._stopped_views(state))

    def digests(self) -> dict[str, str]:
        """A SHA-256 over the rows of each read model, in order: equal content, equal digest.

        It depends on the events alone: not on how they came, on the process or on the machine.

        Raises:
            CatchUpError: As for ``catch_up``.
            ReadModelsClosedError: As for ``catch_up``.
        """
        cursor = _database(self._caught_up()).cursor()
        cursor.begin()  # one state for all tables, whatever other threads apply meanwhile
        return {projection.name: _digest(cursor, projection) for projection in self._projections}

    def close(self) -> None:
        """Free DuckDB's memory and its temporary folder; what results still hold is gone with them."""
        state = self._own_state()
        with state.lock:
            state.closed = True
            if state.database is not None:
                state.database.close()
                state.database = None

    def _own_state(self) -> _State:
        # The hook below has replaced the state already, unless the fork happened outside Python.
        if self._state.pid != os.getpid():
            self._forget_parent()
        return self._state

    def _forget_parent(self) -> None:
        self._inherited.append(self._state)  # what is no longer referred to would be destroyed
        self._state = _State(closed=self._state.closed)

    def _caught_up(self) -> _State:
        state = self._own_state()
        next_position = self._log.next_position
        if state.database is None or state.position < next_position:
            with state.lock:
                _refuse_closed(state)
                self._advance(state)
        return state

    def _stopped_views(self, state: _State) -> dict[str, ReadModelStoppedError]:
        return {
            name: state.stopped[projection.name]
            for projection in self._projections
            if projection.name in state.stopped
            for view in projection.views
            for name in (view.name, f"{view.name}_at")
        }

    def _advance(self, state: _State) -> None:
        try:
            if state.database is None:
                state.database = self._open()
            for batch in _large_batches(self._log.read_batches(state.position)):
                end = _end_of(batch, expected_start=state.position)
                self._apply(state, state.database, batch)
                state.position = end
        except BaseException as error:
            # An interruption (Ctrl-C, no memory) may fall between any two of these lines. What the
            # database holds is derived: rather than to find out how far it came, begin again.
            state.begin_again()
            if isinstance(error, _ENVIRONMENT_ERRORS):
                raise _not_caught_up(error) from error
            raise

    def _open(self) -> Database:
        database = Database(threads=self._threads, memory_limit=self._memory_limit)
        with database.transaction() as connection:
            connection.execute("CREATE TABLE tail.checkpoints (read_model VARCHAR, position UBIGINT)")
            for projection in self._projections:
                connection.execute("INSERT INTO tail.checkpoints VALUES (?, 0)", [projection.name])
                connection.execute(";".join(projection.table_definitions() + projection.view_definitions()))
        return database

    def _apply(self, state: _State, database: Database, batch: pa.Table) -> None:
        going = [projection for projection in self._projections if projection.name not in state.stopped]
        try:
            _fold(database, going, batch)
        except _ENVIRONMENT_ERRORS:
            raise
        except Exception:  # noqa: BLE001 - whichever read model it was, and why, is found out one by one
            for projection in going:
                stopped = _fold_alone(database, projection, batch)
                if stopped is not None:
                    state.stopped[projection.name] = stopped
                    _take_views_away(database, projection)


_instances: weakref.WeakSet[ReadModels] = weakref.WeakSet()


def _forget_parents() -> None:
    # The lock may be held by a thread that the child does not have; the database is the parent's.
    for read_models in _instances:
        read_models._forget_parent()  # noqa: SLF001 - the hook belongs to the class


os.register_at_fork(after_in_child=_forget_parents)


def _database(state: _State) -> Database:
    _refuse_closed(state)
    database = state.database
    if database is None:
        raise CatchUpError("Another thread failed to catch up with the log at this moment: query again.")
    return database


def _refuse_closed(state: _State) -> None:
    if state.closed:
        raise ReadModelsClosedError("These read models were closed: make new ones with ReadModels(log).")


def _large_batches(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """All batches as one table, or as a few when a long history would not fit into memory twice."""
    waiting: list[pa.RecordBatch] = []
    waiting_bytes = 0
    for batch in batches:
        if batch.num_rows == 0:
            continue
        waiting.append(batch)
        waiting_bytes += batch.nbytes
        if waiting_bytes >= _BATCH_BYTES_MAX:
            yield pa.Table.from_batches(waiting)
            waiting, waiting_bytes = [], 0
    if waiting:
        yield pa.Table.from_batches(waiting)


def _end_of(batch: pa.Table, *, expected_start: int) -> int:
    """The position behind a batch, once it is certain that no event was skipped or repeated."""
    start, last = batch["position"][0].as_py(), batch["position"][-1].as_py()
    end = expected_start + int(batch.num_rows)
    if (start, last) != (expected_start, end - 1):
        raise CatchUpError(
            f"The log gave the positions {start} to {last} where {expected_start} to {end - 1} were due; "
            "nothing of them was applied. Verify the log.",
            expected=expected_start,
            actual=start,
        )
    return end


def _fold(database: Database, projections: Sequence[Projection], batch: pa.Table) -> None:
    """Apply a batch to several read models, and advance their checkpoints, in one transaction."""
    event_types = frozenset(pc.unique(batch["type"]).to_pylist())
    names = [projection.name for projection in projections]
    with database.batch(batch), database.transaction() as connection:
        for projection in projections:
            projection.apply(connection, event_types)
        connection.execute(
            "UPDATE tail.checkpoints SET position = ? WHERE list_contains(?, read_model)",
            [batch["position"][-1].as_py() + 1, names],
        )


def _fold_alone(database: Database, projection: Projection, batch: pa.Table) -> ReadModelStoppedError | None:
    """Apply a batch to one read model, up to the first event that it cannot fold.

    A slice fails if and only if it holds such an event, so halving finds the first one, and every
    slice before it can be kept.
    """
    done, failing = 0, int(batch.num_rows) + 1
    size = failing - 1
    cause: Exception | None = None
    while size > 0:
        try:
            _fold(database, [projection], batch.slice(done, size))
            done += size
        except _ENVIRONMENT_ERRORS:
            raise
        except Exception as error:  # noqa: BLE001 - any exception stops this read model, and is told
            failing, cause = done + size, error
        size = (failing - done) // 2
    if cause is None:
        return None
    return _stopped_error(projection, batch.slice(done, 1), cause)


def _stopped_error(projection: Projection, event: pa.Table, cause: Exception) -> ReadModelStoppedError:
    position, event_type, stream = (event[column][0].as_py() for column in ("position", "type", "stream"))
    error = ReadModelStoppedError(
        f"The read model {projection.name!r} stopped at position {position}, an event {event_type!r} "
        f"of stream {stream!r} that it cannot read ({cause}). Its views are gone until the program is mended "
        "or upgraded and the base opened again; the view 'events' shows the event.",
        read_model=projection.name,
        position=position,
        cause=str(cause),
    )
    error.__cause__ = cause
    return error


def _take_views_away(database: Database, projection: Projection) -> None:
    # Without them no query can be answered with half the truth, whatever its shape: DuckDB cannot
    # even bind it, and the error is told as the read model's.
    with database.transaction() as connection:
        connection.execute(";".join(projection.view_removals()))


def _not_caught_up(error: BaseException) -> CatchUpError:
    return CatchUpError(
        f"The read models could not catch up with the log, for a reason outside the events ({error}). "
        "Give ReadModels a greater memory_limit or make room in the temporary folder; the next query "
        "begins again."
    )


def _one_select(database: Database, sql: str) -> duckdb.Statement:
    statements = database.cursor().extract_statements(sql)
    kinds = [statement.type.name for statement in statements]
    if kinds != ["SELECT"]:
        raise QueryRefusedError(
            f"Expected one SELECT statement, got {' and '.join(kinds) or 'an empty text'}. The views are "
            "derived from the log and cannot be changed; results leave through fetchall, arrow or df.",
            kinds=kinds,
        )
    return statements[0]


def _digest(cursor: duckdb.DuckDBPyConnection, projection: Projection) -> str:
    digest = hashlib.sha256()
    for table in projection.tables:
        digest.update(f"{table.name}\n".encode())
        cursor.execute(_lines(table))
        while rows := cursor.fetchmany(_DIGEST_ROWS):
            digest.update("".join(line for (line,) in rows).encode())
    return digest.hexdigest()


def _lines(table: Table) -> str:
    """A query for the rows of a table, in order, each as a line of JSON."""
    columns = ", ".join(_as_text(name, sql_type) for name, sql_type in table.columns.items())
    order = ", ".join(table.key)
    return f"SELECT json_array({columns})::VARCHAR || chr(10) FROM history.{table.name} ORDER BY {order}"


def _as_text(column: str, sql_type: str) -> str:
    # JSON has no NaN and would lose the sign of a zero; a time's text depends on settings.
    plain_type = sql_type.removesuffix(" NOT NULL")
    casts = {"DOUBLE": "VARCHAR", "DOUBLE[]": "VARCHAR[]", "UUID": "VARCHAR", "JSON": "VARCHAR"}
    if plain_type == "TIMESTAMPTZ":
        return f'epoch_us("{column}")'
    return f'"{column}"::{casts[plain_type]}' if plain_type in casts else f'"{column}"'
