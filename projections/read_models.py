"""The read models of one log: catching up with it, and answering queries.

A query asks the log for its next position. If the read models stand there, it runs; otherwise one
thread applies all that is new first (see ``content``), to the read models that some query of this
process has asked for (see ``asked_for``). It runs on a cursor of its own, while others run on theirs. So
a query sees every commit that was acknowledged before it began, and how the events came, one by one or a
million at once, shows nowhere.

Where there is a folder of snapshot files, the newest usable one holds the older rows, and only the
events behind it are read. A process that has read many since then moves to a newer file, if there is
one, and otherwise says that one would be welcome. A file that turns out to be damaged is given up:
the query runs again on an older one, or on the log alone.

All of it is derived: nothing is ever written but in memory.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import duckdb

from projections.answer import Answer
from projections.arrays import ARRAYS
from projections.asked_for import asked_for
from projections.configs import CONFIGS
from projections.content import ENVIRONMENT_ERRORS, Content
from projections.database import Database
from projections.digest import digest
from projections.errors import CatchUpError, ReadModelsClosedError, ReadModelStoppedError
from projections.event_source import EventSource
from projections.events import EVENTS
from projections.guarded_sql import as_of, guarded, within
from projections.projection import Projection
from projections.query_result import Parameters, Query, QueryResult, missing_views_explained, one_select
from projections.shared_snapshots import fetch_newer
from projections.snapshot import TAIL_LIMIT, Snapshots, TailLimit
from projections.training_stats import TRAINING_STATS
from projections.validation_scores import VALIDATION_SCORES
from projections.weights import WEIGHTS

if TYPE_CHECKING:
    import pyarrow as pa

PROJECTIONS = (EVENTS, CONFIGS, TRAINING_STATS, VALIDATION_SCORES, WEIGHTS, ARRAYS)

T = TypeVar("T")


@dataclass
class _State:
    """What one process holds: made on first use, and again in each forked child.

    Attributes:
        minded_bytes: How long the tail was when it was last found too long.
    """

    pid: int = field(default_factory=os.getpid)
    lock: threading.Lock = field(default_factory=threading.Lock)
    content: Content | None = None
    minded_bytes: int = 0
    closed: bool = False


class ReadModels:
    """DuckDB views of a log that are never behind it.

    Any number of threads may query at once. A forked child that goes on using an inherited object
    silently gets a database of its own, made anew.

    DuckDB is opened, and the history read, at the first query. Memory holds every row that no snapshot
    file does, so what exceeds ``memory_limit`` is kept in a temporary folder until ``close``.

    Args:
        log: The log to follow.
        threads: How many threads one query may use.
        memory_limit: DuckDB's limit, e.g. ``"1GB"``.
        projections: The read models; one that builds on another's views stands behind it.
        snapshots: The folder of the log's snapshot files, which need not exist; None for the log alone.
        tail_limit: How many events may be kept in memory before a newer snapshot would be welcome.
        tail_too_long: Called, without any lock, when there are more and no newer snapshot.
        temporary: The temporary folder; DuckDB makes it. One below the system's by default.

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
        snapshots: Path | None = None,
        tail_limit: TailLimit = TAIL_LIMIT,
        tail_too_long: Callable[[], None] | None = None,
        temporary: Path | None = None,
    ) -> None:
        self._log = log
        self._threads = threads
        self._memory_limit = memory_limit
        self._temporary = temporary
        self._projections = tuple(projections)
        self._all = frozenset(projection.name for projection in self._projections)
        self._snapshots = None if snapshots is None else Snapshots(snapshots, log, self._projections)
        self._tail_limit = tail_limit
        self._tail_too_long = tail_too_long
        self._inherited: list[_State] = []
        self._state = _State()
        _instances.add(self)

    @property
    def position(self) -> int:
        """How many events have been applied to the read models that queries ask for; 0 before the first."""
        content = self._own_state().content
        return 0 if content is None else content.position

    @property
    def stopped(self) -> Mapping[str, ReadModelStoppedError]:
        """The read models that met an event they cannot fold, by name, with the error that says which.

        One that no query has asked for has met none yet; ``catch_up`` asks for all.
        """
        content = self._own_state().content
        return {} if content is None else dict(content.stopped)

    @property
    def checkpoints(self) -> Mapping[str, int]:
        """How many events each read model that was ever asked for has applied, by name."""
        content = self._own_state().content
        return {} if content is None else content.checkpoints

    @property
    def tail_is_too_long(self) -> bool:
        """Whether more events are in memory than ``tail_limit`` allows, so that a snapshot is welcome."""
        content = self._own_state().content
        return content is not None and self._tail_limit.is_exceeded(
            tail_bytes=content.tail_bytes, snapshot_bytes=content.snapshot_bytes
        )

    def catch_up(self) -> int:
        """Apply every event that was committed before this call to all read models, in one batch.

        Cheap when there is nothing new. Later queries go on with the read models that they ask for, and
        leave the others where they are. One that cannot fold an event stops there, which raises nothing
        here; see ``stopped``.

        Returns:
            The position reached: views show the state as of it, or later if another thread goes on.

        Raises:
            CatchUpError: Memory or disk ran out, or the log skipped a position. Mend that; the next
                call begins again.
            ReadModelsClosedError: ``close`` was called. Make new ones.
        """
        return self._caught_up(frozenset(), others=self._all).position

    def query(self, sql: str, parameters: Parameters | None = None) -> QueryResult:
        """Run one SELECT over all that was committed before this call.

        The views and macros are described in the modules of this package: ``events``, ``configs``
        (and ``runs``, ``tasks``, …), ``training_stats``, ``training_scalars``, ``validation_scores``,
        ``validation_iterations``, ``weights``, ``best_weights``, ``array_removals``, ``recorded_arrays``; for
        each view ``x`` the macro ``x_at(position)``, the state as of that position.

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
        return QueryResult(self, Query(sql, parameters))

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
        return self.answer(Query(sql, parameters).arrow, of=sql)

    def select(
        self,
        sql: str,
        parameters: Parameters | None = None,
        *,
        position: int | None = None,
        seconds: float | None = None,
        unsafe: bool = False,
    ) -> Answer:
        """Run one SELECT of somebody's, which is trusted with nothing but the public views.

        Args:
            sql: One SELECT over the public views and their macros; see ``guarded_sql``.
            parameters: As for ``query``.
            position: Views show the state as of this position; None is that of now.
            seconds: How long it may take; None sets no limit.
            unsafe: Trust it with all that a SELECT of DuckDB's can do: read files, for instance.

        Raises:
            duckdb.Error: The SQL is wrong; the text points at the place.
            QueryRefusedError: It is no single SELECT, or wants files, settings or the like.
            QueryTimeoutError: It took too long.
            ValueError: The position lies beyond the end of the log.
            ReadModelStoppedError: As for ``query``.
            CatchUpError: As for ``catch_up``.
            ReadModelsClosedError: As for ``catch_up``.
        """
        views = [view.name for projection in self._projections for view in projection.views]

        def ask(content: Content) -> Answer:
            now = content.position
            if position is not None and not 0 <= position <= now:
                raise ValueError(f"position {position} is beyond the end of the log, which has {now} events")
            cursor = content.database.cursor()
            if unsafe:
                statement, used = one_select(cursor, sql), frozenset(views)
            else:
                statement, used = guarded(cursor, sql, views=views)
            there = used - content.stopped_views.keys()
            pinned = now if position is None else position
            with as_of(cursor, there, pinned), within(cursor, seconds), missing_views_explained(content):
                return Answer(cursor.sql(statement, params=parameters).to_arrow_table(), pinned)

        return self.answer(ask, of=sql)

    def digests(self) -> dict[str, str]:
        """A SHA-256 over the rows of each read model, in order: equal content, equal digest.

        It depends on the events alone: not on how they came, on the process or on the machine.

        Raises:
            CatchUpError: As for ``catch_up``.
            ReadModelsClosedError: As for ``catch_up``.
        """
        return self.answer(self._digests)

    def answer(self, ask: Callable[[Content], T], *, of: str | None = None) -> T:
        """Ask the caught up read models something, and again where a damaged snapshot was in the way.

        Args:
            ask: Asks.
            of: The SQL that it will ask; None if it may be anything.
        """
        names = self._all if of is None else asked_for(of, self._projections)
        while True:
            content = self._caught_up(names)
            try:
                return ask(content)
            except duckdb.Error as error:
                if self.gave_up(content, error):
                    continue
                # Something that the text has not told; and DuckDB's errors name what there is.
                if names == self._all or not isinstance(
                    error, duckdb.CatalogException | duckdb.BinderException
                ):
                    raise
                names = self._all

    def gave_up(self, content: Content, error: duckdb.Error) -> bool:
        """Whether an error lies in the snapshot of this content; if so, it is not used any more."""
        if not content.is_damaged(error):
            return False
        self._distrust(content, error)
        state = self._own_state()
        with state.lock:
            if state.content is content:
                state.content = None
        return True

    def close(self) -> None:
        """Free DuckDB's memory and its temporary folder; what results still hold is gone with them."""
        state = self._own_state()
        with state.lock:
            state.closed = True
            if state.content is not None:
                state.content.database.close()
                state.content = None

    def _own_state(self) -> _State:
        # The hook below has replaced the state already, unless the fork happened outside Python.
        if self._state.pid != os.getpid():
            self._forget_parent()
        return self._state

    def _forget_parent(self) -> None:
        self._inherited.append(self._state)  # what is no longer referred to would be destroyed
        self._state = _State(closed=self._state.closed)

    def _caught_up(self, names: frozenset[str], *, others: frozenset[str] = frozenset()) -> Content:
        """What queries of read models of these names may ask; the ``others`` are up to date as well."""
        state = self._own_state()
        next_position = self._log.next_position
        content = state.content
        if (
            content is None
            or content.position < next_position
            or not names <= content.asked_for
            or not content.are_level(others)
        ):
            with state.lock:
                _refuse_closed(state)
                content = self._advanced(state, names, others, next_position)
            self._mind_tail(state)
        _refuse_closed(state)
        return content

    def _advanced(
        self, state: _State, names: frozenset[str], others: frozenset[str], next_position: int
    ) -> Content:
        while True:
            # What fails half way is derived: rather than to find out how far it came, begin again.
            content, state.content = state.content, None
            try:
                content = content or self._opened()
                content.use(names, self._log)
                content.bring_level(others, self._log)
                if content.position < next_position:
                    content.follow(self._log, others=others)
            except BaseException as error:
                if content is not None and content.is_damaged(error):
                    self._distrust(content, error)
                    continue
                if isinstance(error, ENVIRONMENT_ERRORS):
                    raise _not_caught_up(error) from error
                raise
            state.content = content
            return content

    def _opened(self, *, above: int = 0) -> Content:
        database = Database(threads=self._threads, memory_limit=self._memory_limit, temporary=self._temporary)
        snapshot = None
        if self._snapshots is not None:
            fetch_newer(self._snapshots)
            snapshot = self._snapshots.attach_newest(database, above=above)
        return Content(database, self._projections, snapshot)

    def _mind_tail(self, state: _State) -> None:
        """Where the tail has become too long, go on from a newer snapshot, or say that there is none."""
        content = state.content
        if self._snapshots is None or content is None:
            return
        # What was found too long before must have grown as much again: nobody is told twice.
        tail_bytes = content.tail_bytes - state.minded_bytes
        snapshot_bytes = content.snapshot_bytes + state.minded_bytes
        if not self._tail_limit.is_exceeded(tail_bytes=tail_bytes, snapshot_bytes=snapshot_bytes):
            return
        if self._moved(state, content):
            state.minded_bytes = 0
            return
        state.minded_bytes = content.tail_bytes
        if self._tail_too_long is not None:
            self._tail_too_long()

    def _moved(self, state: _State, content: Content) -> bool:
        """Put a content with a newer snapshot in the place of this one, if there is such a file."""
        assert self._snapshots is not None
        above = 0 if content.snapshot is None else content.snapshot.position
        fetch_newer(self._snapshots)
        if next(self._snapshots.usable_names(above=above), None) is None:
            return False
        # What goes wrong here is met again, and told, by whoever needs this content.
        with contextlib.suppress(duckdb.Error, MemoryError, CatchUpError), state.lock:
            newer = self._opened(above=above)
            if newer.snapshot is not None and state.content is content and not state.closed:
                newer.use(content.asked_for, self._log)
                newer.follow(self._log)
                state.content = newer
                return True
        return False

    def _distrust(self, content: Content, error: BaseException) -> None:
        assert self._snapshots is not None
        assert content.snapshot is not None
        self._snapshots.distrust(content.snapshot, error)

    def _digests(self, content: Content) -> dict[str, str]:
        cursor = content.database.cursor()
        cursor.begin()  # one state for all tables, whatever other threads apply meanwhile
        return {projection.name: digest(cursor, projection) for projection in self._projections}


_instances: weakref.WeakSet[ReadModels] = weakref.WeakSet()


def _forget_parents() -> None:
    # The lock may be held by a thread that the child does not have; the database is the parent's.
    for read_models in _instances:
        read_models._forget_parent()  # noqa: SLF001 - the hook belongs to the class


os.register_at_fork(after_in_child=_forget_parents)


def _refuse_closed(state: _State) -> None:
    if state.closed:
        raise ReadModelsClosedError("These read models were closed: make new ones with ReadModels(log).")


def _not_caught_up(error: BaseException) -> CatchUpError:
    return CatchUpError(
        f"The read models could not catch up with the log, for a reason outside the events ({error}). "
        "Give ReadModels a greater memory_limit or make room in the temporary folder; the next query "
        "begins again."
    )
