"""``ScalarLogger``: scalars of one iteration a call, for training loops that do thousands a second.

A store call is a commit and waits for the disk. Here a call writes one row to a spool (see
``eventstore.spool``), which survives the process, and every few hundred rows become one event.

- A row that ``add`` has accepted is recorded exactly once: by a flush, or, after a kill, by whoever
  opens the base next. ``spooled_scalars`` owns how.
- A logger's first iteration begins an epoch that keeps what lies below it, and so does an iteration
  at or below the one before: training went back, as ``TrainingStats.add_iteration_stats`` has it.
- Nothing runs beside the loop: no thread, no signal. When it is time to flush, the next call does.
- A forked child has no part in its parent's logger.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import secrets
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from itertools import compress, count
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec

from dacapo_store.scalars import INT64_MAX, as_float, as_iteration
from dacapo_store.spooled_scalars import (
    COLUMNS_MAX,
    KIND,
    About,
    Layout,
    Standing,
    begin_epoch,
    looked_again,
    record,
    training_stream,
)
from dacapo_store.training_iteration_stats import check_name
from eventstore.spool import Spool

if TYPE_CHECKING:
    from dacapo_store.base import Base
    from eventstore.log import Durability

logger = logging.getLogger(__name__)

FLUSH_ROWS: Final = 1000
FLUSH_SECONDS: Final = 5.0

_AT_ONCE: Final = -1


class ScalarLogger:
    """Collects scalars of a run; get one with ``FileStatsStore.scalar_logger``.

    Threads may share one. A forked child may not use its parent's.

    Example:
        >>> import tempfile
        >>> from dacapo_store import FileStatsStore
        >>> store = FileStatsStore(tempfile.mkdtemp())
        >>> with store.scalar_logger("run_7") as log:
        ...     for iteration in range(3):
        ...         log.add(iteration, loss=1 / (iteration + 1), learning_rate=1e-4)
        >>> store.retrieve_training_stats("run_7").column("loss").tolist()
        [1.0, 0.5, 0.3333333333333333]
    """

    def __init__(
        self,
        base: Base,
        run: str,
        *,
        columns: Iterable[str] = (),
        flush_rows: int = FLUSH_ROWS,
        flush_seconds: float = FLUSH_SECONDS,
        spool: bool = True,
    ) -> None:
        """Make a logger; see ``FileStatsStore.scalar_logger`` for the arguments."""
        if flush_rows < 1:
            raise ValueError(f"flush_rows is 1 or more, not {flush_rows}")
        if not flush_seconds > 0:
            raise ValueError(f"flush_seconds is a number of seconds above 0, not {flush_seconds}")
        self.run = run
        self.stream = training_stream(run)
        self._base = base
        self._flush_rows = flush_rows
        self._flush_seconds = flush_seconds
        self._spooling = spool
        self._lock = threading.RLock()
        self._closed: str | None = None
        self._take_layout(Layout(_checked_names(columns)))
        # The number of the row that has to look at more than itself: when there are rows enough, or at
        # once where this logger may not know where it stands.
        self._stop = _AT_ONCE
        self._standing: Standing | None = None
        self._warned = False
        self._last = 0
        self._spool: Spool | None = None
        self._spool_id = secrets.token_bytes(16)
        self._first_row = 0
        self._rows: list[bytes] = []
        self._unsynced = False
        self._flush_at = monotonic() + flush_seconds
        base.loggers.add(self)
        _open_loggers.add(self)
        if not spool:
            _unspooled.add(self)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(run={self.run!r}, {self._closed or f'{len(self._rows)} rows to flush'})"
        )

    def add(self, iteration: int, **scalars: Any) -> None:
        """Add the scalars of one iteration.

        Once this returns the row survives the end of the process, unless the logger was made with
        ``spool=False``. Others see it after the next flush, which a call does first when there are
        ``flush_rows`` rows or ``flush_seconds`` have passed. When this raises, the row was not added
        and all before it are kept.

        Args:
            iteration: The iteration. One that is at or below that of the call before means that
                training went back: a warning is logged, and of the run's rows those below this
                iteration stay in view. So give all scalars of an iteration in one call.
            scalars: Its scalars by name; None is an absent one. For names that are no identifiers:
                ``add(7, **{"lr/encoder": 1e-4})``.

        Raises:
            TypeError: The iteration is no integer, or a scalar is no number; the message names it.
            ValueError: A number is out of range, a name cannot be a scalar's, or the logger is closed.
            eventstore.EventStoreError: The disk did not take it: make room and call again.
        """
        with self._lock:
            rows = self._rows
            number = self._first_row + len(rows)
            if (
                number < self._stop
                and type(iteration) is int
                and self._last < iteration <= INT64_MAX
                and tuple(scalars) == self._columns
                and monotonic() < self._flush_at
            ):
                values = scalars.values()
                for value in values:
                    if type(value) is not float:
                        row = self._row(number, iteration, _present(iteration, scalars))
                        break
                else:
                    row = self._pack(number, iteration, *values, *self._everything)
            else:
                self._check_open()
                iteration = as_iteration(iteration, where=f"scalars of run {self.run!r}")
                present = _present(iteration, scalars)
                self._make_ready(iteration, [name for name in present if name not in self._columns])
                number = self._first_row + len(rows)
                row = self._row(number, iteration, present)
            if self._spool is not None:
                self._spool.put(number, row)
            self._last = iteration
            rows.append(row)

    def flush(self, *, durable: bool = True) -> None:
        """Record the rows so far, for everybody to see.

        Args:
            durable: Wait for the disk as well: afterwards they survive a power cut.

        Raises:
            ValueError: The logger is closed.
            eventstore.EventStoreError: The disk did not take them. They are kept; try again.
        """
        with self._lock:
            self._check_open()
            self._flush("commit" if durable else "os")

    def settle(self) -> None:
        """Record the rows so far, if this is open: somebody is about to look at the run, or to change it.

        Raises:
            eventstore.EventStoreError: The disk did not take them. They are kept; try again.
        """
        with self._lock:
            if self._closed is None:
                # The next call looks what became of the run.
                self._stop = _AT_ONCE
                self._flush("os")

    def close(self) -> None:
        """Record the rows so far, durably, and end. A second call does nothing.

        Raises:
            eventstore.EventStoreError: The disk did not take them. With a spool the logger is closed
                all the same, and the rows are recorded when the base is opened next; without one
                they are kept, and closing may be tried again.
        """
        with self._lock:
            if self._closed is not None:
                return
            try:
                self._flush("commit")
            except BaseException:
                if self._spool is not None:
                    self._end(f"closed, with {len(self._rows)} rows left in {self._spool.path}")
                    self._spool.close()
                raise
            self._end("closed")
            self._drop_spool()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- the next row

    def _row(self, number: int, iteration: int, present: Mapping[str, float]) -> bytes:
        if len(present) == len(self._columns):
            presence = self._everything
        else:
            presence = self._layout.presence(compress(count(), [name in present for name in self._columns]))
        return self._pack(number, iteration, *[present.get(name, 0.0) for name in self._columns], *presence)

    def _make_ready(self, iteration: int, new_names: Sequence[str]) -> None:
        """Flush if it is time to; then see to epoch, layout and spool of the row that comes."""
        went_back = self._standing is not None and iteration <= self._last
        late = monotonic() >= self._flush_at
        if new_names or went_back or late or len(self._rows) >= self._flush_rows:
            self._flush("commit" if late else "os")
        if not self._rows:
            self._find_epoch(iteration, went_back=went_back)
            if new_names:
                self._take_layout(Layout(_checked_names([*self._columns, *new_names])))
                self._drop_spool()
            if self._spool is not None and not self._spool.has_name:
                self._drop_spool()
            if self._spooling and self._spool is None:
                self._make_spool()
        self._stop = self._first_row + self._flush_rows

    def _find_epoch(self, iteration: int, *, went_back: bool) -> None:
        """See which epoch the next row belongs to; a new one begins where that is needed."""
        standing = self._standing
        if standing is not None:
            standing = self._standing = looked_again(self._base, self.run, standing)
        if standing is not None and standing.ended:
            # Somebody has stored stats over this logger's, or deleted them. What is in view now is not
            # to be cut by one who did not know of it: only what is ahead of that goes on.
            greatest = self._greatest_iteration()
            if greatest is not None and iteration <= greatest:
                self._warn_of_history(iteration, greatest)
                return
        elif standing is not None:
            if not went_back:
                return
            logger.warning(
                "training of run %s went back from iteration %d to %d: the rows from there on leave the view",
                self.run,
                self._last,
                iteration,
            )
        self._standing = begin_epoch(self._base, self.run, keeps_below=iteration)
        self._drop_spool()

    def _greatest_iteration(self) -> int | None:
        """The greatest iteration of the run that is in view; asked only after others have written."""
        from dacapo_store.folds import history_of
        from dacapo_store.history import TRAINING

        return history_of(self._base, TRAINING, self.run).ends

    def _warn_of_history(self, iteration: int, greatest: int) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "somebody else has stored stats of run %s up to iteration %d while this logger is at %d: "
                "until it is ahead of them, its rows are recorded in the history and are not in view",
                self.run,
                greatest,
                iteration,
            )

    def _take_layout(self, layout: Layout) -> None:
        self._layout = layout
        self._columns = layout.columns
        self._pack = layout.pack
        self._everything = layout.everything

    # --- the spool and the log

    def _make_spool(self) -> None:
        assert self._standing is not None, "a row belongs to an epoch"
        about = About(
            KIND, self.run, self._standing.epoch, self._standing.stream_version, list(self._columns)
        )
        self._spool = Spool.create(
            self._base.spool_home,
            stream=self.stream,
            about=msgspec.to_builtins(about),
            row_bytes=self._layout.row_bytes,
        )
        self._spool_id, self._first_row = self._spool.spool_id, 0

    def _drop_spool(self) -> None:
        """End a spool whose rows are all recorded."""
        spool, self._spool = self._spool, None
        if spool is not None:
            with contextlib.suppress(OSError):  # the next adopter finds that the log has its rows
                spool.remove()

    def _flush(self, durability: Durability) -> None:
        if self._rows:
            assert self._standing is not None, "a row belongs to an epoch"
            rows = dict(enumerate(self._rows, self._first_row))
            before = self._standing
            self._standing = record(
                self._base,
                self.run,
                before,
                rows,
                layout=self._layout,
                spool_id=self._spool_id,
                first_row=self._first_row,
                durability=durability,
            )
            self._unsynced = True
            self._first_row += len(rows)
            self._rows.clear()
            if self._spool is not None:
                self._spool.restart(self._first_row)
            if before.epoch != self._standing.epoch:
                self._drop_spool()
        elif self._unsynced and durability == "commit":
            self._base.log.sync()
        if durability == "commit":
            self._unsynced = False
            self._flush_at = monotonic() + self._flush_seconds

    def _check_open(self) -> None:
        if self._closed is not None:
            raise ValueError(f"this scalar logger of run {self.run!r} is {self._closed}: make a new one")

    def _end(self, how: str) -> None:
        self._closed, self._stop = how, _AT_ONCE
        self._base.loggers.discard(self)
        _open_loggers.discard(self)
        _unspooled.discard(self)

    def _after_fork(self) -> None:
        """In a forked child: the rows are the parent's, and a thread of it may have held the lock."""
        self._lock = threading.RLock()
        self._rows = []
        self._spool = None
        self._end("its parent's, who goes on with it")


_open_loggers: weakref.WeakSet[ScalarLogger] = weakref.WeakSet()

# Rows that are nowhere else must not go when the last reference does.
_unspooled: set[ScalarLogger] = set()


def _present(iteration: int, scalars: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: as_float(value, where=f"iteration {iteration}, {name}")
        for name, value in scalars.items()
        if value is not None
    }


def _checked_names(names: Iterable[str]) -> list[str]:
    checked = list(dict.fromkeys([names] if isinstance(names, str) else names))
    for name in checked:
        check_name(name)
    if len(checked) > COLUMNS_MAX:
        raise ValueError(f"a scalar logger takes up to {COLUMNS_MAX} names, not {len(checked)}")
    return checked


def _close_all() -> None:
    for each in list(_open_loggers):
        try:
            each.close()
        except Exception:
            logger.exception("the last rows of run %s were not recorded at the end of the process", each.run)


def _after_fork_in_child() -> None:
    for each in list(_open_loggers):
        each._after_fork()  # noqa: SLF001 - a part of the logger


atexit.register(_close_all)
os.register_at_fork(after_in_child=_after_fork_in_child)
