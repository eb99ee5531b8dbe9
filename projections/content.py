"""One database of read models and what has been applied to it: opening, folding, stopping.

1. A new database attaches the newest usable snapshot, if there is any, and goes on from its position.
2. A read model is defined, and follows the log, from the first query on that may name one of its views.
   What came before is applied to it then. All that queries have asked for stand at one position; others
   may be behind, where somebody wanted to have everything once.
3. Everything new is read as Arrow and registered once as ``batch``.
4. Every read model that goes on and that the events concern folds it with its SQL, in one DuckDB transaction:
   a crash or an error leaves all of it or nothing.
5. If that fails, each read model folds alone, in a transaction of its own. One that fails again is
   brought up to the very event that it cannot fold, and stops there; the others go on.

An error that says nothing about the events (no memory, a damaged snapshot) is passed on, and whoever
called begins again with another database.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from projections.database import Database
from projections.errors import CatchUpError, ReadModelStoppedError
from projections.event_source import EventSource, Prefix
from projections.projection import Projection
from projections.snapshot import CATALOG, Snapshot

_BATCH_BYTES_MAX = 64 << 20
_FIRST_BATCH_BYTES_MAX = 8 << 20

ENVIRONMENT_ERRORS = (
    duckdb.OperationalError,
    duckdb.InterruptException,
    duckdb.InternalError,
    duckdb.FatalException,
    MemoryError,
)
"""Errors that say nothing about the events: memory, disk, an interrupted or broken DuckDB."""


class Content:
    """Read models in one database. One thread at a time applies events; any number may query.

    Args:
        database: A new one, perhaps with a snapshot attached.
        projections: The read models.
        snapshot: The attached snapshot of these very read models, or None.

    Attributes:
        database: Where the rows are.
        snapshot: The file that holds the older ones, or None.
        position: How many events have been applied to the read models that queries have asked for, those in
            the snapshot included. No other has more.
        tail_bytes: The size in memory of the events that were applied behind the snapshot.
        stopped: The read models that met an event they cannot fold, with the error that says which.
        asked_for: The names of the read models that queries have asked for.
    """

    def __init__(
        self, database: Database, projections: Sequence[Projection], snapshot: Snapshot | None
    ) -> None:
        self.database = database
        self.snapshot = snapshot
        self.position = 0 if snapshot is None else snapshot.position
        self.tail_bytes = 0
        self.stopped: dict[str, ReadModelStoppedError] = {}
        self.asked_for: frozenset[str] = frozenset()
        self._others: dict[str, int] = {}  # where those stand that no query has asked for
        self._counted = self.position
        self._projections = projections
        self._shortcuts = {
            each.name: (each.shortcut.table, each.shortcut.made()) for each in projections if each.shortcut
        }
        for checkpoint in () if snapshot is None else snapshot.checkpoints:
            if checkpoint.stopped is not None:
                self.stopped[checkpoint.read_model] = checkpoint.stopped

    @property
    def snapshot_bytes(self) -> int:
        """The size in memory of the events in the snapshot."""
        return 0 if self.snapshot is None else self.snapshot.event_bytes

    @property
    def stopped_views(self) -> Mapping[str, ReadModelStoppedError]:
        """For each view and macro of a stopped read model, why it is gone."""
        return {
            name: self.stopped[projection.name]
            for projection in self._projections
            if projection.name in self.stopped
            for view in projection.views
            for name in (view.name, f"{view.name}_at")
        }

    @property
    def checkpoints(self) -> dict[str, int]:
        """How many events each read model that is defined has applied, by its name."""
        positions = dict.fromkeys(self.asked_for, self.position) | self._others
        for name, stopped in self.stopped.items():
            if name in positions:
                positions[name] = stopped.facts["position"]
        return dict(sorted(positions.items()))

    def are_level(self, names: Collection[str]) -> bool:
        """Whether these read models are defined and stand at ``position``."""
        position, others = self.position, self._others
        return all(name in self.asked_for or others.get(name) == position for name in names)

    def use(self, names: Collection[str], log: EventSource) -> None:
        """Have these read models, from now on together with all that were asked for before.

        Raises:
            CatchUpError: The log skipped a position.
            Exception: As for ``follow``.
        """
        self.bring_level(names, log)
        self.asked_for |= frozenset(names)
        self._others = {name: at for name, at in self._others.items() if name not in self.asked_for}

    def bring_level(self, names: Collection[str], log: EventSource) -> None:
        """Have these read models up to ``position``.

        Raises:
            CatchUpError: The log skipped a position.
            Exception: As for ``follow``.
        """
        self._define(
            [each for each in self._of(names) if each.name not in self.asked_for | self._others.keys()]
        )
        behind = {name: self._others[name] for name in names if name not in self.asked_for}
        for start in sorted(set(behind.values())):
            if start < self.position:
                level = [name for name, at in behind.items() if at == start]
                for _ in self._applied(Prefix(log, self.position), start, level):
                    pass
        self._others |= dict.fromkeys(behind, self.position)

    def follow(self, log: EventSource, *, others: Collection[str] = ()) -> None:
        """Apply every event that the log has by now.

        Args:
            log: The log.
            others: Names of read models that are to go on with those that were asked for: all stand at
                ``position``.

        Raises:
            CatchUpError: The log skipped a position.
            Exception: Something outside the events is wrong; this content is of no use any more.
        """
        assert self.are_level(others)
        names = self.asked_for.union(others)
        if not names:
            self.position = log.next_position  # there is nothing to apply it to
            return
        for end in self._applied(log, self.position, names):
            self.position = end
        self._others |= {name: self.position for name in names if name not in self.asked_for}

    def is_damaged(self, error: BaseException) -> bool:
        """Whether an error says that the snapshot's file is not what it was."""
        if self.snapshot is None or not isinstance(error, duckdb.Error):
            return False
        return "Corrupt database file" in str(error) or str(self.snapshot.path) in str(error)

    def _of(self, names: Collection[str]) -> list[Projection]:
        return [each for each in self._projections if each.name in names]

    def _define(self, projections: Collection[Projection]) -> None:
        catalog = None if self.snapshot is None else CATALOG
        if not projections:
            return
        with self.database.transaction() as connection:
            for projection in projections:
                texts = projection.table_definitions(catalog)
                if projection.name not in self.stopped:
                    texts += projection.view_definitions()
                connection.execute(";".join(texts))
        start = 0 if self.snapshot is None else self.snapshot.position
        self._others |= {each.name: start for each in projections}

    def _applied(self, log: EventSource, start: int, names: Collection[str]) -> Iterator[int]:
        """Apply the log's events from a position on, in parts; gives the position behind each."""
        projections = self._of(names)
        for batch in _large_batches(log.read_batches(start)):
            end = _end_of(batch, expected_start=start)
            self._apply(batch, self._going(projections))
            if end > self._counted:
                self.tail_bytes += batch.nbytes * (end - max(start, self._counted)) // (end - start)
                self._counted = end
            yield end
            start = end

    def _going(self, projections: Iterable[Projection]) -> list[Projection]:
        return [projection for projection in projections if projection.name not in self.stopped]

    def _apply(self, batch: pa.Table, going: Sequence[Projection]) -> None:
        try:
            self._fold(going, batch)
        except Exception as error:  # whichever read model it was, and why, is found out one by one
            if self._is_outside(error):
                raise
            for projection in going:
                stopped = self._fold_alone(projection, batch)
                if stopped is not None:
                    self._stop(projection, stopped)

    def _fold(self, projections: Sequence[Projection], batch: pa.Table) -> None:
        """Apply a batch to several read models in one transaction."""
        inserts: list[tuple[str, pa.Table]] = []
        rest: list[Projection] = []
        for projection in projections:
            rows = self._few_rows(projection, batch)
            if rows is None:
                rest.append(projection)
            elif rows.num_rows:
                inserts.append((self._shortcuts[projection.name][0], rows))
        if not rest and len(inserts) <= 1:
            # One statement needs no transaction around it, which takes half as long again.
            for table, rows in inserts:
                self.database.insert(table, rows)
            return
        event_types = frozenset(pc.unique(batch["type"]).to_pylist())
        with self.database.batch(batch), self.database.transaction() as connection:
            for table, rows in inserts:
                self.database.insert(table, rows)
            for projection in rest:
                projection.apply(connection, event_types)

    def _few_rows(self, projection: Projection, batch: pa.Table) -> pa.Table | None:
        """What a batch of few events adds to a read model that has a shorter way for it; else None."""
        if projection.name not in self._shortcuts:
            return None
        return self._shortcuts[projection.name][1].rows(batch, self.database.cursor())

    def _is_outside(self, error: Exception) -> bool:
        return isinstance(error, ENVIRONMENT_ERRORS) or self.is_damaged(error)

    def _fold_alone(self, projection: Projection, batch: pa.Table) -> ReadModelStoppedError | None:
        """Apply a batch to one read model, up to the first event that it cannot fold.

        A slice fails if and only if it holds such an event, so halving finds the first one, and every
        slice before it can be kept.
        """
        done, failing = 0, int(batch.num_rows) + 1
        size = failing - 1
        cause: Exception | None = None
        while size > 0:
            try:
                self._fold([projection], batch.slice(done, size))
                done += size
            except Exception as error:  # any exception stops this read model, and is told
                if self._is_outside(error):
                    raise
                failing, cause = done + size, error
            size = (failing - done) // 2
        if cause is None:
            return None
        return _stopped_error(projection, batch.slice(done, 1), cause)

    def _stop(self, projection: Projection, error: ReadModelStoppedError) -> None:
        # Without its views no query can be answered with half the truth, whatever its shape: DuckDB
        # cannot even bind it, and the error is told as the read model's.
        self.stopped[projection.name] = error
        with self.database.transaction() as connection:
            connection.execute(";".join(projection.view_removals()))


def _large_batches(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """All batches as one table; a long history as several, each read while the one before is folded.

    The first is short: nothing is folded while it is read.
    """
    tables = _tables(iter(batches))
    first = next(tables, None)
    if first is None:
        return
    if first.nbytes < _FIRST_BATCH_BYTES_MAX:
        yield first
        return
    with ThreadPoolExecutor(1) as reader:
        table: pa.Table | None = first
        while table is not None:
            following = reader.submit(next, tables, None)
            yield table
            table = following.result()


def _tables(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    waiting: list[pa.RecordBatch] = []
    waiting_bytes, bytes_max = 0, _FIRST_BATCH_BYTES_MAX
    for batch in batches:
        if batch.num_rows == 0:
            continue
        waiting.append(batch)
        waiting_bytes += batch.nbytes
        if waiting_bytes >= bytes_max:
            yield pa.Table.from_batches(waiting)
            waiting, waiting_bytes, bytes_max = [], 0, min(2 * bytes_max, _BATCH_BYTES_MAX)
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
