"""``Base``: one base directory, which is one log, and everything that the four stores share of it.

A process has one ``Base`` per directory, however many stores are made on it; making a store on an
open base is cheap. The read models are made when a query first needs them, so a process that only
writes never loads DuckDB.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from dacapo_store import housekeeping
from dacapo_store.background import BackgroundWriter
from dacapo_store.events import EVENT_TYPES
from dacapo_store.location import Location
from dacapo_store.moments import Moment, position_of
from dacapo_store.names import validate_run_name
from dacapo_store.payload_place import place_at
from dacapo_store.process_record import process_record
from dacapo_store.provenance import event_metadata
from eventstore import (
    Commit,
    EncodedMapping,
    Event,
    EventLog,
    EventStoreError,
    ExpectedVersionError,
    ReadOnlyLogError,
    RecordedEvent,
    StreamAppend,
    files,
)
from eventstore.model import ANY, NO_STREAM, ExpectedVersion
from eventstore.spool import left_over

if TYPE_CHECKING:
    from dacapo_store.mongo_views import MongoViews
    from dacapo_store.scalar_logger import ScalarLogger
    from eventstore.log import Durability
    from projections import ReadModels

logger = logging.getLogger(__name__)

_bases: dict[tuple[str, bool], Base] = {}
_bases_lock = threading.Lock()

_IN_BACKGROUND_MAX = 2
"""How many payloads may be under way at once; each holds a copy of its data."""

Decision = Callable[[list[RecordedEvent]], Sequence[Event | msgspec.Struct]]


def _fresh_lock() -> None:
    global _bases_lock  # noqa: PLW0603 - a thread of the parent may have held it
    _bases_lock = threading.Lock()
    for base in _bases.values():
        base.after_fork()


os.register_at_fork(after_in_child=_fresh_lock)


@atexit.register
def _let_go_of_views() -> None:
    """A DuckDB that lives longer than its module is reported as leaked, object by object, on stderr."""
    for base in open_bases():
        base.let_go_of_views()


def open_bases() -> list[Base]:
    """The bases that this process has open."""
    with _bases_lock:
        return list(_bases.values())


class Base:
    """A base directory; get one with ``Base.at``.

    Attributes:
        location: Where it is.
        path: The directory, absolute; of a base at an address, that of its weights and arrays, or
            where these lie in a bucket, one of this host for what is derived.
        payload_place: Where its weights lie.
        spool_home: The folder of this host in which rows wait to become events.
        read_only: True when it was opened without writing to it.
        log: Its log, the ground truth.
        background: What this process writes to it without being waited for.
        mongo: What its database shows of it, where its log is in MongoDB; otherwise None.
        loggers: The scalar loggers of this process that are open on it.
        whole_folds: How many streams were read from their beginning to be shown; see ``folds``.
        as_of: The position that this is a view of; None for the base as it is.
    """

    def __init__(self, location: Location, *, read_only: bool) -> None:
        """Open the base; ``Base.at`` shares one object per directory."""
        self.location = location
        self.path = location.files
        self.payload_place = place_at(location.payloads)
        self.read_only = read_only
        self.as_of: int | None = None
        self.log = EventLog.open(location.log, read_only=read_only)
        self.spool_home = location.spool_home(self.log.log_id)
        if not read_only and not location.is_local:
            self._make_folders()
        self._views: ReadModels | None = None
        self._views_lock = threading.Lock()
        self.mongo = self._mongo_views()
        self.background = BackgroundWriter(_IN_BACKGROUND_MAX)
        self.loggers: weakref.WeakSet[ScalarLogger] = weakref.WeakSet()
        self.whole_folds = 0
        self._told: set[tuple[int, str]] = set()
        self.settle_if_possible()

    @classmethod
    def at(
        cls, path: str | os.PathLike[str], *, read_only: bool = False, as_of: Moment | None = None
    ) -> Base:
        """The base in a directory, which is made if need be.

        Args:
            path: The directory, a relative one is resolved now; or an address, see ``location``.
            read_only: Take no lock and write nothing; the base must exist.
            as_of: Look at the base as it was at this position or time, read-only.

        Raises:
            ValueError: There is no such position or time; or the address is not known.
            eventstore.EventStoreError: The log cannot be opened; the text says why and what to do.
        """
        if as_of is not None:
            from dacapo_store.past import PastBase

            present = cls.at(path, read_only=True)
            return PastBase(present, position_of(present.log, as_of))
        location = Location.of(path)
        key = location.name, read_only
        with _bases_lock:
            base = _bases.get(key)
            # Somebody may have deleted the directory under this process.
            if base is None or not location.exists:
                base = _bases[key] = cls(location, read_only=read_only)
            return base

    def __reduce__(self) -> tuple[Any, ...]:
        """A base travels to another process as its directory or address and is opened there."""
        return _at, (self.location.name, self.read_only)

    @property
    def present(self) -> Base:
        """The base as it is now."""
        return self

    @property
    def has_views(self) -> bool:
        """Whether this process has the read models already."""
        return self._views is not None

    @property
    def views(self) -> ReadModels:
        """The read models over this base's log."""
        with self._views_lock:
            if self._views is None:
                from projections import ReadModels

                self._views = ReadModels(
                    self.log,
                    snapshots=self.location.views,
                    tail_too_long=None if self.read_only else self._keep_house,
                )
            return self._views

    def query(self, sql: str, parameters: Any = None) -> Any:
        """Run SQL over the public views, which show everything committed before this call.

        What scalar loggers of this process hold, and what those of killed ones left, is recorded first.

        Raises:
            ValueError: A parameter is no Unicode text, so nothing of that name can be stored.
        """
        if parameters is not None:
            for each in parameters.values() if isinstance(parameters, Mapping) else parameters:
                check_text(each)
        self.settle_if_possible()
        with self.log.one_look():
            return self.views.query(sql, parameters)

    def run_directory(self, run_name: str) -> Path:
        """The folder of a run.

        Raises:
            ValueError: The name cannot be a folder of the base.
        """
        return self.path / validate_run_name(run_name)

    def settle(self, stream: str | None = None) -> None:
        """Record what scalar loggers hold in this process, and what those of killed ones left.

        To be called before what is in view of a run is decided on. Cheap where there is nothing.

        Args:
            stream: Only what belongs to this stream.

        Raises:
            eventstore.EventStoreError: The log did not take it; nothing is lost, try again.
            OSError: Likewise.
        """
        if self.read_only:
            return
        for each in list(self.loggers):
            if stream in (None, each.stream):
                each.settle()
        if left_over(self.spool_home, stream):
            from dacapo_store.spooled_scalars import adopt_left_spools

            adopt_left_spools(self, stream)

    def settle_if_possible(self) -> None:
        """A base whose disk takes no writes can be opened and asked all the same."""
        try:
            self.settle()
        except (EventStoreError, OSError) as error:
            logger.warning("rows of scalar loggers could not be recorded and stay in their spools: %s", error)

    def append(
        self,
        stream: str,
        events: Sequence[Event | msgspec.Struct],
        *,
        expected: ExpectedVersion = ANY,
        durability: Durability = "commit",
        trains: str | None = None,
    ) -> Commit:
        """Append experiment events to one stream; see ``EventLog.append``.

        Args:
            stream: The stream to extend.
            events: Experiment events, or events of the log.
            expected: What the caller decided on.
            durability: What the append waits for.
            trains: The run that this process trains, if it does: its first event tells how the process
                was started.
        """
        recorded = _as_events(events)
        if trains is not None and recorded and (os.getpid(), trains) not in self._told:
            metadata = {**recorded[0].metadata, "process": process_record(os.getpid())}
            recorded[0] = msgspec.structs.replace(recorded[0], metadata=metadata)
        commit = self.append_to_streams([StreamAppend(stream, recorded, expected)], durability=durability)
        if trains is not None:
            self._told.add((os.getpid(), trains))
        return commit

    def append_to_streams(
        self, appends: Sequence[StreamAppend], *, durability: Durability = "commit"
    ) -> Commit:
        """Append to several streams at once, all or none; see ``EventLog.append_to_streams``."""
        metadata = event_metadata()
        commit = self.log.append_to_streams(
            [
                StreamAppend(
                    part.stream,
                    [_with_metadata(event, metadata) for event in part.events],
                    part.expected,
                )
                for part in appends
            ],
            durability=durability,
        )
        if self.mongo is not None:
            self.mongo.catch_up_if_possible(commit.next_position)
        return commit

    def decide(self, stream: str, decision: Decision) -> Commit | None:
        """Decide on a stream's events and append what follows from them, if anything.

        Somebody else may extend the stream in between: then it is read and decided again.

        Args:
            stream: The stream to decide on.
            decision: Gets the stream's events, gives those to append; none means there is nothing
                to do, and that what it saw is durable when this returns. It may be called several
                times and may raise to end the matter.
        """
        while True:
            with self.log.one_look():
                known = list(self.log.read_stream(stream))
                events = decision(known)
                if not events:
                    self.log.sync()
                    return None
            expected = known[-1].stream_version if known else NO_STREAM
            try:
                return self.append(stream, events, expected=expected)
            except ExpectedVersionError:
                continue

    def require_writable(self) -> None:
        """Return when the base may be written to.

        Raises:
            ReadOnlyLogError: It was opened read-only.
        """
        if self.read_only:
            raise ReadOnlyLogError(
                f"{self.location.name} was opened read-only: open it without read_only=True to write"
            )

    def close(self) -> None:
        """Give back files and memory. Stores that were made on it are of no use any more; make new ones.

        Its scalar loggers are closed first, and what is under way in the background is waited for. Nothing
        is lost without closing: what was acknowledged is safe.

        Raises:
            eventstore.EventStoreError: A scalar logger's rows were not recorded; see its ``close``.
            Exception: What failed in the background, if nobody was told of it yet. The base is closed.
        """
        with contextlib.ExitStack() as ends:
            ends.callback(self.background.tell_failures)
            ends.callback(self._close)
            ends.callback(self.background.wait)
            for each in list(self.loggers):
                ends.callback(each.close)

    def _close(self) -> None:
        with _bases_lock:
            key = self.location.name, self.read_only
            if _bases.get(key) is self:
                del _bases[key]
        with self._views_lock:
            if not self.read_only:
                self._start_housekeeping(self._views)
            if self._views is not None:
                self._views.close()
        if self.mongo is not None:
            self.mongo.close()
        if self.payload_place.bucket is not None:
            self.payload_place.bucket.close()
        self.log.close()

    def _mongo_views(self) -> MongoViews | None:
        if not self.location.is_in_mongodb:
            return None
        from dacapo_store.mongo_views import MongoViews

        return MongoViews(self.log, str(self.location.log), read_only=self.read_only)

    def _make_folders(self) -> None:
        like = next(folder for folder in (self.path, *self.path.parents) if folder.is_dir())
        files.make_directories(self.path, like=like)
        self.spool_home.mkdir(parents=True, exist_ok=True)

    def _keep_house(self) -> None:
        housekeeping.start(self.location.name)

    def _start_housekeeping(self, views: ReadModels | None) -> None:
        """Whoever comes next should find a snapshot that is not too old, and a compact log."""
        with contextlib.suppress(EventStoreError, OSError):  # also where the folder is gone
            if views is None:
                behind = housekeeping.has_grown(self.location, self.log.next_position)
            else:
                behind = views.tail_is_too_long
            if behind or housekeeping.compaction_is_due(self.location):
                housekeeping.start(self.location.name)

    def let_go_of_views(self) -> None:
        """At the end of the process: whoever still asks them something, in another thread, keeps them."""
        self._views = None

    def after_fork(self) -> None:
        """Called in a forked child: a thread of the parent may have held the lock."""
        self._views_lock = threading.Lock()
        if self.mongo is not None:
            self.mongo.after_fork()


def check_text(parameter: Any) -> None:
    """Refuse a text that nothing can be stored under.

    Raises:
        ValueError: It is no Unicode text.
    """
    if isinstance(parameter, str):
        try:
            parameter.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{parameter!r} is not valid Unicode text") from error


def _at(path: str, read_only: bool) -> Base:  # noqa: FBT001 - pickle passes arguments by place
    return Base.at(path, read_only=read_only)


def _with_metadata(event: Event, metadata: EncodedMapping) -> Event:
    """The event with who and where; what it says itself comes first."""
    told = {**metadata, **event.metadata} if event.metadata else metadata
    return msgspec.structs.replace(event, metadata=told)


def _as_events(events: Sequence[Event | msgspec.Struct]) -> list[Event]:
    return [event if isinstance(event, Event) else EVENT_TYPES.event(event) for event in events]
