"""``EventLog``: the log that programs use. It decides; a storage adapter keeps.

One append goes this way: encode and check everything · catch up with what others wrote · take the
turn · catch up with what came since · known ids? · expectations · positions · one put · give the turn
back · sync · return.
What the log must know of its history, its length, the chain's value, stream versions, event ids and
clocks, it asks its index, which is derived from the log and need not read it (``eventstore.index``).
"""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Literal, Self
from uuid import UUID

import pyarrow as pa

from eventstore import deciding
from eventstore.encoding import EncodedEvent
from eventstore.errors import (
    CommitUnknownError,
    LogClosedError,
    ReadOnlyLogError,
    StorageError,
)
from eventstore.follow import Stop, follow
from eventstore.group_commit import GroupCommit, PendingAppend
from eventstore.log_reader import LogReader, events_in
from eventstore.log_state import LogState
from eventstore.message import BatchMessage
from eventstore.model import (
    ANY,
    Commit,
    Event,
    ExpectedVersion,
    RecordedEvent,
    StreamAppend,
    Verdict,
)
from eventstore.placing import placed
from eventstore.storage.addresses import open_storage
from eventstore.storage.local import SEGMENT_BYTES_MAX
from eventstore.storage.protocol import GroupStorage, SharedFiles, Storage

Durability = Literal["commit", "os"]

_ALONE_SECONDS = 0.001
_open_logs: weakref.WeakSet[EventLog] = weakref.WeakSet()


class EventLog:
    """An append-only log of events in streams, shared by any number of processes.

    Threads may share one object; a forked child may go on using the one it inherited.

    Example:
        >>> import tempfile
        >>> log = EventLog.open(tempfile.mkdtemp())
        >>> commit = log.append("run-42", [Event("RunStarted", {"config": "unet"})], expected=NO_STREAM)
        >>> [event.data["config"] for event in log.read(stream="run-42")]
        ['unet']
        >>> log.close()
    """

    def __init__(self, storage: Storage) -> None:
        """Take a storage adapter; use ``EventLog.open`` for a folder."""
        self._storage: Storage | None = storage
        self._inherited = False
        self._alone_until = 0.0
        self._state = LogState(self._adapter)
        self._reader = LogReader(self._state, self._adapter)
        self._group: GroupCommit | None = None
        if isinstance(storage, GroupStorage):
            self._group = GroupCommit(self._state, self._group_adapter)
        try:
            self._state.begin()
            self._state.catch_up()
            self._state.keep_index()
        except BaseException:
            self._state.close()
            storage.close()
            raise
        _open_logs.add(self)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        read_only: bool = False,
        segment_bytes_max: int = SEGMENT_BYTES_MAX,
        options: Mapping[str, str] | None = None,
    ) -> Self:
        """Open the log in a folder or at an address, or create one there.

        A tail that a crash left unfinished is moved to ``quarantine/`` inside the folder, and what
        is served afterwards is synced first. Nothing that was acknowledged is ever cut.

        Args:
            path: The log's folder; or an address such as ``shared:///data/log`` for a folder that
                several hosts use.
            read_only: Take no lock, recover nothing, write nothing; the folder must hold a log.
            segment_bytes_max: A segment file that has this many bytes gets no further commit.
            options: For an address: what may also stand in its query, such as ``patience_seconds``.

        Raises:
            DamagedLogError: Bytes that must be right are wrong. Run ``verify`` and restore the file.
            FormatVersionError: The log is newer than this program: upgrade.
            LogNotFoundError: ``read_only`` and there is no log here.
            PermissionError: The folder cannot be written: open it with ``read_only=True``.
            StorageUnavailableError: The storage at an address does not answer.
            ValueError: The address, or an option, is none that is known; the text lists those.
        """
        if segment_bytes_max <= 0:
            raise ValueError(f"segment_bytes_max is a number of bytes above 0, not {segment_bytes_max}")
        log = cls(
            open_storage(
                path, read_only=read_only, segment_bytes_max=segment_bytes_max, options=options or {}
            )
        )
        if not read_only:
            # A disk that takes no writes can still be read; the next append says what is wrong.
            with contextlib.suppress(StorageError, ReadOnlyLogError):
                log._sync_opened()
        return log

    # --- writing

    def append(
        self,
        stream: str,
        events: Sequence[Event],
        *,
        expected: ExpectedVersion = ANY,
        durability: Durability = "commit",
    ) -> Commit:
        """Append events to one stream as a single commit.

        Readers see all of the events or none of them. Once this returns, the commit survives the
        end of the process and, with ``durability="commit"``, a power cut, on a disk that honours a
        sync. An append whose events carry ids that the log knows from one earlier commit writes
        nothing and returns that commit, whatever ``expected`` says.

        Args:
            stream: The stream to extend. Its first event creates it.
            events: One event or more, encoded and checked before the first byte is written.
            expected: What the caller decided on: ``ANY``, ``NO_STREAM``, ``STREAM_EXISTS`` or the
                version of the stream's last event.
            durability: ``"commit"`` waits for the disk, ``"os"`` for the operating system only.

        Raises:
            ExpectedVersionError: The stream has moved on and nothing was written. Read it again
                and decide anew.
            InvalidEventError: An event cannot be stored; nothing was written. Mend the call.
            DuplicateEventError: Ids were used before, differently. Use new ones.
            WriteRefusedError: The disk refused (full, for instance); nothing was written.
            StorageError: The disk did not confirm a sync: the commit may be lost in a power cut.
            ReadOnlyLogError: The log was opened read-only, or takes no writes any more.
        """
        return self.append_to_streams([StreamAppend(stream, events, expected)], durability=durability)

    def append_to_streams(
        self, appends: Sequence[StreamAppend], *, durability: Durability = "commit"
    ) -> Commit:
        """Append to several streams as a single commit: all of it or none.

        Args:
            appends: The parts; each names a stream once, with its events and its expectation. A
                part without events only checks its expectation.
            durability: As for ``append``.

        Raises:
            EventStoreError: As for ``append``; when one part fails, nothing is written.
        """
        if durability not in ("commit", "os"):
            raise ValueError(f'durability is "commit" or "os", not {durability!r}')
        encoded, chosen_ids = deciding.encode_parts(appends)
        message = BatchMessage(encoded)
        if self._group is not None:
            return self._append_in_group(
                PendingAppend(appends, encoded, message, chosen_ids), durability=durability
            )
        self._read_ahead(appends, chosen_ids)
        state, commit, known = self._state, None, None
        while commit is None:
            with state.lock:
                storage = self._adapter()
                with storage.turn():
                    # The decision is made on what is there now.
                    met_others = state.read_on(storage)
                    self._alone_until = 0.0 if met_others else state.looked_at + _ALONE_SECONDS
                    if chosen_ids:
                        commit = known = deciding.known_commit(encoded, chosen_ids, state)
                    if commit is None:
                        deciding.check_expectations(appends, state)
                        commit = self._put(storage, encoded, message)
        if durability == "commit":
            if known is not None:
                # This repetition may be there because the first one's sync failed: that is made up for.
                self._adapter().recover()
            self._adapter().sync(commit.next_position)
        if self._state.index.wants_writing:
            self._state.keep_index()
        return commit

    def _append_in_group(self, pending: PendingAppend, *, durability: Durability) -> Commit:
        storage = self._adapter()
        assert self._group is not None
        commit = self._group.commit(pending)
        if durability == "commit":
            storage.sync(commit.next_position)
        self._state.keep_index()
        return commit

    def resolve(self, unknown: CommitUnknownError) -> Commit | None:
        """What became of a commit whose outcome was unknown: the commit, or None if it will never be.

        Args:
            unknown: What an append to this log raised, in whatever process.

        Raises:
            CommitUnknownError: It is still not decided. Any append to the log, of whatever writer,
                decides it; so does waiting until its request is no more on its way.
        """
        next_position = self.next_position
        if next_position <= unknown.group_position:
            raise CommitUnknownError(unknown.message, **unknown.facts)
        if next_position < unknown.next_position:
            return None
        if self.chain_at(unknown.next_position).hex() != unknown.commit_id:
            return None
        events = list(self.read(unknown.position, unknown.next_position))
        return deciding.commit_of(events, unknown.position)

    def sync(self) -> None:
        """Return once everything that was committed before this call is durable.

        Decisions that write nothing because of what others wrote call this before they return.

        Raises:
            StorageError: The disk did not confirm it.
            ReadOnlyLogError: An earlier sync failed, and the disk takes no writes to make up for it.
        """
        with self._turn():
            self._state.catch_up(anew=False)
            next_position = self._state.next_position
        self._make_durable(next_position)

    def _sync_opened(self) -> None:
        """Make durable what was read; among hosts without another look, which would be a request."""
        if self._group is None:
            self.sync()
        else:
            self._make_durable(self._state.next_position)

    def _make_durable(self, next_position: int) -> None:
        storage = self._adapter()
        if storage.durable_position < next_position:
            storage.recover()
            storage.sync(next_position)

    def _read_ahead(self, appends: Sequence[StreamAppend], ids: Sequence[UUID]) -> None:
        """Read what will be needed before the lock is taken, so that under it little is left to read.

        Who has just looked under the lock and met nobody need not look twice: in so short a time others
        cannot have written much.
        """
        if time.monotonic() < self._alone_until and not ids:
            return
        with self._state.lock:
            self._state.catch_up()
            for part in appends:
                self._state.stream_version(part.stream)
            for event_id in ids:
                self._state.id_position(event_id.bytes)

    def _put(self, storage: Storage, encoded: Sequence[EncodedEvent], message: BatchMessage) -> Commit | None:
        tail = self._state.index.tail
        append = placed(
            encoded,
            message,
            first_position=tail.next_position,
            chain=tail.chain,
            last_version=self._state.stream_version,
        )
        new = append.new
        place = storage.put(
            new.message, first_position=new.first_position, event_count=new.event_count, chain=new.chain
        )
        if place is None:
            return None
        # Looked up anew: if a part of the index was damaged, there is another tail by now.
        self._state.index.tail.add(
            append.runs, ids=append.ids, clock=append.clock, chain=new.chain, place=place
        )
        return append.commit

    # --- reading

    def one_look(self) -> contextlib.AbstractContextManager[None]:
        """Several questions of this thread as one: they see what was committed before this began.

        To look for news costs a request where the log is far away. Within this, one look is enough for
        all reading; what comes during it may be seen or not. An append looks as often as it must, and
        belongs behind it: who is called by it may have to see what others have done meanwhile.

        Example:
            >>> with log.one_look():
            ...     version = log.stream_version("run-42")
            ...     events = list(log.read_stream("run-42"))
        """
        return self._state.one_look() if self._group is not None else contextlib.nullcontext()

    @property
    def next_position(self) -> int:
        """The position that the next event will get: the log's length, and its version number."""
        self._state.catch_up(anew=False)
        return self._state.next_position

    @property
    def durable_position(self) -> int:
        """Everything below this position is known to survive a power cut."""
        return self._adapter().durable_position

    @property
    def log_id(self) -> bytes:
        """The log's random id, 16 bytes."""
        return self._adapter().log_id

    @property
    def chain(self) -> bytes:
        """The 32-byte hash that vouches for every event below ``next_position``."""
        with self._state.lock:
            self._state.catch_up(anew=False)
            return self._state.chain

    def chain_at(self, position: int) -> bytes:
        """The 32-byte hash that vouches for every event below ``position``.

        Raises:
            ValueError: The log has no such position yet.
        """
        if not 0 <= position <= self.next_position:
            raise ValueError(f"the log has positions 0 to {self._state.next_position}, and not {position}")
        return self._reader.chain_at(position)

    def stream_version(self, stream: str) -> int | None:
        """The version of the stream's last event, or None when the stream does not exist."""
        with self._state.lock:
            self._state.catch_up(anew=False)
            return self._state.stream_version(stream)

    def read(
        self,
        from_position: int = 0,
        until: int | None = None,
        *,
        stream: str | None = None,
        types: Collection[str] | None = None,
    ) -> Iterator[RecordedEvent]:
        """The events from ``from_position`` up to, not including, ``until``, in order.

        Everything that was acknowledged before the call, by whatever process, is there; what is
        committed during the iteration is not.

        Args:
            from_position: The first position wanted.
            until: The position behind the last one wanted; None is the present ``next_position``.
            stream: Only events of this stream.
            types: Only events of these types.

        Raises:
            DamagedLogError: The log is damaged here; the events before it were given.
        """
        return events_in(self.read_batches(from_position, until, stream=stream, types=types))

    def read_batches(
        self,
        from_position: int = 0,
        until: int | None = None,
        *,
        stream: str | None = None,
        types: Collection[str] | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """As ``read``, as Arrow record batches in the envelope's schema, none of them empty."""
        next_position = self.next_position
        if from_position < 0 or (until is not None and until < 0):
            raise ValueError(f"positions count from 0, so not {from_position} until {until}")
        stop = next_position if until is None else min(until, next_position)
        return self._reader.batches(from_position, stop, stream=stream, types=types)

    def read_stream(self, stream: str, from_version: int = 0) -> Iterator[RecordedEvent]:
        """The events of one stream from a stream version on; goes straight to them."""
        if from_version < 0:
            raise ValueError(f"stream versions count from 0, so not {from_version}")
        with self._state.lock:
            self._state.catch_up(anew=False)
            positions = self._state.stream_positions(stream, from_version)
        return events_in(self._reader.batches_of_stream(stream, positions))

    def position_at(self, time: datetime) -> int:
        """The position as of a moment: the state then is the fold of the events below it.

        Clocks may go back; a moment counts by the greatest clock value recorded up to an event.

        Args:
            time: The moment, with a time zone.
        """
        if time.tzinfo is None:
            raise ValueError(f"a moment needs a time zone, and {time!r} has none")
        return self._reader.position_at(time)

    def follow(
        self, from_position: int = 0, *, timeout: float | None = None, stop: Stop | None = None
    ) -> Iterator[RecordedEvent]:
        """Give every event from a position on, then wait for what comes, in order, none left out.

        Args:
            from_position: The first position wanted.
            timeout: End when nothing has come for this many seconds; None never ends.
            stop: End soon after this event (``threading.Event`` or the like) is set.
        """
        storage = self._adapter()
        return follow(
            self.read,
            from_position,
            watched=storage.watched,
            wait=self._wait if isinstance(storage, GroupStorage) else None,
            timeout=timeout,
            stop=stop,
        )

    def _wait(self, seconds: float) -> bool:
        return self._group_adapter().wait(seconds)

    @property
    def shared_files(self) -> SharedFiles | None:
        """Where files that are derived from the log lie beside it, for hosts that have none yet.

        None where whoever reaches the log reaches a folder of it, too.
        """
        storage = self._adapter()
        return storage.shared_files if isinstance(storage, GroupStorage) else None

    def share_index(self) -> None:
        """Let hosts that meet the log for the first time begin with this one's index.

        Without it they read the whole log, to know who wrote what. Does nothing where the index lies
        beside the log anyway.

        Raises:
            OSError: The storage does not take it. Nothing is harmed.
        """
        self._state.keep_index()
        storage = self._adapter()
        if isinstance(storage, GroupStorage):
            storage.share_index()

    def verify(self) -> Verdict:
        """Read the whole log, change nothing, and list everything that is not as it should be."""
        return self._adapter().verify()

    # --- life

    def close(self) -> None:
        """Release files and locks. Everything acknowledged is safe without it, too."""
        with self._state.lock:
            if self._storage is not None:
                self._state.close()
                self._storage.close()
                self._storage = None
        _open_logs.discard(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _adapter(self) -> Storage:
        if self._inherited:
            self._begin_anew()
        if self._storage is None:
            raise LogClosedError("this log was closed: open it again")
        return self._storage

    def _group_adapter(self) -> GroupStorage:
        storage = self._adapter()
        assert isinstance(storage, GroupStorage)
        return storage

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        with self._state.lock, self._adapter().turn():
            yield

    def _after_fork(self) -> None:
        """Let go of what the parent holds; a child that never uses the log opens nothing."""
        self._state.after_fork()
        if self._group is not None:
            self._group.after_fork()
        if self._storage is not None:
            self._storage.after_fork()
            self._inherited = True

    def _begin_anew(self) -> None:
        """The first use in a forked child: a thread of the parent may have been half way through."""
        with self._state.lock:
            if self._inherited and self._storage is not None:
                self._storage.reopen()
                self._inherited = False
                self._state.begin()


def _reset_in_child() -> None:
    for log in list(_open_logs):
        log._after_fork()  # noqa: SLF001 - a part of the log


def _finish_loading() -> None:
    """Let no thread be within pyarrow's loading of pandas while the process forks.

    It loads pandas, where that is installed, under a lock of its own when it first makes an array of
    a list. A child that is forked meanwhile inherits the lock, held by a thread that it does not have.
    """
    if _open_logs:
        pa.array([0])


os.register_at_fork(before=_finish_loading, after_in_child=_reset_in_child)
