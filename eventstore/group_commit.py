"""Appends of all threads of a process, put together: where a request is slow, it carries what has gathered.

While one request is under way, appends that come wait; then one of their threads takes all of them and
makes the next. Each keeps its own expectation and its own answer. An append that can only be judged when
another one in front of it has been kept waits for the request after.

Nobody looks for news first: whoever decided on an old state finds the next place taken, reads what is
new, and decides again. So an append costs one request where nobody else writes.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

from eventstore import deciding
from eventstore.encoding import EncodedEvent
from eventstore.errors import CommitUnknownError, EventStoreError
from eventstore.message import BatchMessage
from eventstore.model import ANY, Commit, StreamAppend
from eventstore.placing import PlacedAppend, placed
from eventstore.storage.protocol import GroupStorage

if TYPE_CHECKING:
    from eventstore.log_state import LogState


@dataclass(eq=False)
class PendingAppend:
    """An append that waits.

    Attributes:
        parts: Its streams and what is expected of them.
        encoded: Its events.
        message: Their message.
        ids: Those of their ids that may be known: they are looked up.
        outcome: What became of it.
    """

    parts: Sequence[StreamAppend]
    encoded: Sequence[EncodedEvent]
    message: BatchMessage
    ids: Sequence[UUID]
    outcome: Commit | Exception | None = field(default=None, init=False)


class GroupCommit:
    """Puts appends of several threads together.

    Args:
        state: What is known of the log.
        storage: Gives the adapter, or raises when the log was closed.
    """

    def __init__(self, state: LogState, storage: Callable[[], GroupStorage]) -> None:
        self._state = state
        self._storage = storage
        self.after_fork()

    def after_fork(self) -> None:
        """Those who waited in the parent are not here."""
        self._waiting: list[PendingAppend] = []
        self._gathering = threading.Lock()
        self._leading = threading.Lock()

    def commit(self, pending: PendingAppend) -> Commit:
        """Return when this append has its answer: its commit, or the error."""
        with self._gathering:
            self._waiting.append(pending)
        try:
            with self._leading:
                while pending.outcome is None:
                    self._lead()
        finally:
            if pending.outcome is None:
                self._leave(pending)
        if isinstance(pending.outcome, Exception):
            raise pending.outcome
        return pending.outcome

    def _leave(self, pending: PendingAppend) -> None:
        """Whoever was interrupted is not there to be answered."""
        with self._gathering, contextlib.suppress(ValueError):
            self._waiting.remove(pending)

    def _lead(self) -> None:
        """Make one request for all that wait; those without an answer afterwards wait for the next."""
        with self._gathering:
            group, self._waiting = self._waiting, []
        try:
            self._decide_and_put(group)
        except EventStoreError as error:
            for pending in group:
                pending.outcome = pending.outcome or error
        except BaseException:
            # Interrupted, perhaps with the request on its way: those who try again look whether they won.
            for pending in group:
                pending.ids = [UUID(bytes=event.id_bytes) for event in pending.encoded]
            raise
        finally:
            with self._gathering:
                self._waiting[:0] = [pending for pending in group if pending.outcome is None]

    def _decide_and_put(self, group: Sequence[PendingAppend]) -> None:
        with self._state.lock:
            if not all(map(self._seems_right, group)):
                # What others have written may be the reason, or the remedy.
                self._state.catch_up()
            taken = self._take(group)
        if not taken:
            return
        try:
            places = self._storage().put_together([append.new for _, append in taken])
        except CommitUnknownError as error:
            for pending, append in taken:
                pending.outcome = _unknown(error, append)
            return
        with self._state.lock:
            if places is None:
                self._state.catch_up()
                return
            # A thread that reads may have met them already.
            if self._state.next_position == taken[0][1].new.first_position:
                for (_, append), place in zip(taken, places, strict=True):
                    self._state.index.tail.add(
                        append.runs, ids=append.ids, clock=append.clock, chain=append.new.chain, place=place
                    )
        for pending, append in taken:
            pending.outcome = append.commit

    def _seems_right(self, pending: PendingAppend) -> bool:
        with contextlib.suppress(EventStoreError):
            deciding.check_expectations(pending.parts, self._state)
            return True
        return False

    def _take(self, group: Sequence[PendingAppend]) -> list[tuple[PendingAppend, PlacedAppend]]:
        """Answer what can be answered, and give the others their places behind each other."""
        taken: list[tuple[PendingAppend, PlacedAppend]] = []
        versions: dict[str, int] = {}
        ids: set[bytes] = set()
        position, chain = self._state.next_position, self._state.chain

        def last_version(stream: str) -> int | None:
            version = versions.get(stream)
            return self._state.stream_version(stream) if version is None else version

        for pending in group:
            if not ids.isdisjoint(each.bytes for each in pending.ids) or _depends(pending, versions):
                continue
            try:
                known = (
                    deciding.known_commit(pending.encoded, pending.ids, self._state) if pending.ids else None
                )
                if known is not None:
                    pending.outcome = known
                    continue
                deciding.check_expectations(pending.parts, self._state)
            except EventStoreError as error:
                pending.outcome = error
                continue
            append = placed(
                pending.encoded,
                pending.message,
                first_position=position,
                chain=chain,
                last_version=last_version,
            )
            taken.append((pending, append))
            ids.update(event.id_bytes for event in pending.encoded)
            versions.update(append.commit.stream_versions)
            position, chain = append.commit.next_position, append.new.chain
        return taken


def _depends(pending: PendingAppend, versions: dict[str, int]) -> bool:
    """Whether something is expected of a stream that an append in front extends, which may yet be lost."""
    return any(part.expected is not ANY and part.stream in versions for part in pending.parts)


def _unknown(error: CommitUnknownError, append: PlacedAppend) -> CommitUnknownError:
    new = append.new
    return CommitUnknownError(
        error.message,
        commit_id=new.chain.hex(),
        position=new.first_position,
        next_position=append.commit.next_position,
        group_position=error.group_position,
    )
