"""``Base``: one base directory, which is one log, and everything that the four stores share of it.

A process has one ``Base`` per directory, however many stores are made on it; making a store on an
open base is cheap. The read models are made when a query first needs them, so a process that only
writes never loads DuckDB.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from dacapo_store.background import BackgroundWriter
from dacapo_store.events import EVENT_TYPES
from dacapo_store.names import validate_run_name
from dacapo_store.provenance import event_metadata
from eventstore import (
    Commit,
    Event,
    EventLog,
    ExpectedVersionError,
    ReadOnlyLogError,
    RecordedEvent,
    StreamAppend,
)
from eventstore.model import ANY, NO_STREAM, ExpectedVersion

if TYPE_CHECKING:
    from projections import ReadModels

_bases: dict[tuple[Path, bool], Base] = {}
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


def open_bases() -> list[Base]:
    """The bases that this process has open."""
    with _bases_lock:
        return list(_bases.values())


class Base:
    """A base directory; get one with ``Base.at``.

    Attributes:
        path: The directory, absolute.
        read_only: True when it was opened without writing to it.
        log: Its log, the ground truth.
        background: What this process writes to it without being waited for.
    """

    def __init__(self, path: Path, *, read_only: bool) -> None:
        """Open the base; ``Base.at`` shares one object per directory."""
        self.path = path
        self.read_only = read_only
        self.log = EventLog.open(path / "events", read_only=read_only)
        self._views: ReadModels | None = None
        self._views_lock = threading.Lock()
        self.background = BackgroundWriter(_IN_BACKGROUND_MAX)

    @classmethod
    def at(cls, path: str | os.PathLike[str], *, read_only: bool = False) -> Base:
        """The base in a directory, which is made if need be.

        Args:
            path: The directory; a relative one is resolved now.
            read_only: Take no lock and write nothing; the base must exist.

        Raises:
            eventstore.EventStoreError: The log cannot be opened; the text says why and what to do.
        """
        resolved = Path(path).expanduser().resolve()
        with _bases_lock:
            base = _bases.get((resolved, read_only))
            # Somebody may have deleted the directory under this process.
            if base is None or not (resolved / "events").is_dir():
                base = _bases[resolved, read_only] = cls(resolved, read_only=read_only)
            return base

    def __reduce__(self) -> tuple[Any, ...]:
        """A base travels to another process as its directory and is opened there."""
        return _at, (self.path, self.read_only)

    @property
    def views(self) -> ReadModels:
        """The read models over this base's log."""
        with self._views_lock:
            if self._views is None:
                from projections import ReadModels

                self._views = ReadModels(self.log)
            return self._views

    def query(self, sql: str, parameters: Any = None) -> Any:
        """Run SQL over the public views, which show everything committed before this call.

        Raises:
            ValueError: A parameter is no Unicode text, so nothing of that name can be stored.
        """
        if parameters is not None:
            for each in parameters.values() if isinstance(parameters, Mapping) else parameters:
                _check_text(each)
        return self.views.query(sql, parameters)

    def run_directory(self, run_name: str) -> Path:
        """The folder of a run.

        Raises:
            ValueError: The name cannot be a folder of the base.
        """
        return self.path / validate_run_name(run_name)

    def append(
        self, stream: str, events: Sequence[Event | msgspec.Struct], *, expected: ExpectedVersion = ANY
    ) -> Commit:
        """Append experiment events to one stream; see ``EventLog.append``."""
        return self.append_to_streams([StreamAppend(stream, _as_events(events), expected)])

    def append_to_streams(self, appends: Sequence[StreamAppend]) -> Commit:
        """Append to several streams at once, all or none; see ``EventLog.append_to_streams``."""
        metadata = event_metadata()
        return self.log.append_to_streams(
            [
                StreamAppend(
                    part.stream,
                    [replace(event, metadata={**metadata, **event.metadata}) for event in part.events],
                    part.expected,
                )
                for part in appends
            ]
        )

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
                f"{self.path} was opened read-only: open it without read_only=True to write"
            )

    def close(self) -> None:
        """Give back files and memory. Stores that were made on it are of no use any more; make new ones.

        What is under way in the background is waited for. Nothing is lost without closing: what was
        acknowledged is safe.

        Raises:
            Exception: What failed in the background, if nobody was told of it yet. The base is closed.
        """
        self.background.wait()
        with _bases_lock:
            if _bases.get((self.path, self.read_only)) is self:
                del _bases[self.path, self.read_only]
        with self._views_lock:
            if self._views is not None:
                self._views.close()
        self.log.close()
        self.background.tell_failures()

    def after_fork(self) -> None:
        """Called in a forked child: a thread of the parent may have held the lock."""
        self._views_lock = threading.Lock()


def _check_text(parameter: Any) -> None:
    if isinstance(parameter, str):
        try:
            parameter.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{parameter!r} is not valid Unicode text") from error


def _at(path: Path, read_only: bool) -> Base:  # noqa: FBT001 - pickle passes arguments by place
    return Base.at(path, read_only=read_only)


def _as_events(events: Sequence[Event | msgspec.Struct]) -> list[Event]:
    return [event if isinstance(event, Event) else EVENT_TYPES.event(event) for event in events]
