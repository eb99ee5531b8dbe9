"""What the log asks of a storage adapter: read commits in order, put one at exactly the next position.

The log decides; an adapter only keeps. On one host an adapter may make ``turn`` exclusive, so that
``put`` cannot fail; elsewhere ``turn`` is empty and ``put`` tells the loser that another commit
stands at its position.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import msgspec
import pyarrow as pa

from eventstore.index import Landmark, Mark, Place
from eventstore.keys import EventKeys
from eventstore.model import Verdict


class StoredBatch(msgspec.Struct, frozen=True, gc=False):
    """Events as they are kept: one commit, or several where commits were merged since.

    Attributes:
        first_position: The position of the batch's first event.
        batch: The events, in the envelope's schema.
        chain: The chain's value behind the last of them.
        place: Where they are kept.
        first_commit_events: How many of them the first commit has; None when it has all of them.
        frame_position: The first position of what is kept there, where the batch begins behind it.
    """

    first_position: int
    batch: pa.RecordBatch
    chain: bytes
    place: Place
    first_commit_events: int | None = None
    frame_position: int | None = None

    @property
    def next_position(self) -> int:
        """The position behind the batch's last event."""
        return int(self.first_position + self.batch.num_rows)

    def first_commit(self) -> pa.RecordBatch:
        """The events of the first commit."""
        return self.batch.slice(0, self.first_commit_events)


class Glimpse(NamedTuple):
    """What is to be known of a commit without its events' content.

    Attributes:
        first_position: The position of its first event.
        keys: Streams, versions, ids and clock.
        chain: The chain's value behind it.
        place: Where it is kept.
    """

    first_position: int
    keys: EventKeys
    chain: bytes
    place: Place


class Storage(Protocol):
    """An adapter. All methods may be called from several threads."""

    @property
    def log_id(self) -> bytes:
        """The log's random id, 16 bytes."""

    @property
    def read_only(self) -> bool:
        """True when ``put`` is refused."""

    @property
    def durable_position(self) -> int:
        """All events below this position are known to survive a power cut."""

    @property
    def index_folder(self) -> Path | None:
        """The folder of the log on this host, where an index may be kept beside it, or None."""

    @property
    def watched(self) -> Path | None:
        """A local folder that changes when something is put, or None."""

    def turn(self) -> AbstractContextManager[object]:
        """Hold this while deciding on a commit and putting it."""

    def has_news(self, position: int) -> bool:
        """Whether there may be something at ``position`` or behind it; False only when there is not.

        Every append asks this under the lock, so it is as cheap as can be.
        """

    def glance(self, position: int) -> Sequence[Glimpse]:
        """The commits from ``position`` on, checked as by ``read``, as far as a cheap look can tell.

        Empty when ``read`` has to look: there is nothing, or something is not as it should be.
        """

    def read(
        self, from_position: int, until: int | None = None, *, near: Landmark | None = None
    ) -> Iterator[StoredBatch]:
        """The batches that hold positions from ``from_position`` up to ``until``, or up to now, in order.

        The first of them begins with the commit that holds ``from_position``; they follow on each other.

        Args:
            from_position: The first position wanted.
            until: The position behind the last one wanted.
            near: A hint: where a batch at or in front of ``from_position`` is kept.

        Raises:
            DamagedLogError: Bytes that must be right are wrong; what came before them was right.
        """

    def resume(self, mark: Mark) -> bool:
        """Whether the log has this chain value at this position, which vouches for all in front of it.

        If so, what is in front need not be looked at before something is put behind it.
        """

    def put(self, message: bytes, *, first_position: int, event_count: int, chain: bytes) -> Place | None:
        """Keep a commit at exactly ``first_position`` and say where; None when another stands there.

        Args:
            message: Its events, as an encapsulated Arrow message of the envelope's schema.
            first_position: The position of the first of them.
            event_count: How many there are.
            chain: The chain's value behind the last of them.

        Raises:
            WriteRefusedError: Nothing was kept; the log goes on.
            ReadOnlyLogError: The storage takes no writes.
        """

    def sync(self, next_position: int) -> None:
        """Return once everything below ``next_position`` is durable.

        Raises:
            StorageError: It cannot be known whether it is; ``recover`` before trying again.
        """

    def recover(self) -> None:
        """Make up for an earlier sync that failed, if one has, so that ``sync`` can be true again.

        Raises:
            ReadOnlyLogError: It cannot be done; what was durable before is safe.
        """

    def verify(self) -> Verdict:
        """Read everything, change nothing, and say what is not as it should be."""

    def after_fork(self) -> None:
        """Called in a forked child, at once: let go of what was inherited."""

    def reopen(self) -> None:
        """Called in a forked child that goes on using what it inherited, before anything else."""

    def close(self) -> None:
        """Release everything that is held."""


class SharedFile(NamedTuple):
    """A file that is derived from a log and lies beside it.

    Attributes:
        folder: Which kind of files it is with.
        name: What the file is called on a host.
        digest: The SHA-256 of its bytes, in hexadecimal digits.
        size: How many bytes it has.
        modified: When it was published, in seconds since 1970, by the clock of the storage.
    """

    folder: str
    name: str
    digest: str
    size: int
    modified: float


class SharedFiles(Protocol):
    """Files that are derived from a log and lie beside it, for hosts that do not have them yet.

    What goes wrong with them is told, and harms nothing. All of them may be deleted at any time.
    """

    def listed(self, folder: str) -> list[SharedFile]:
        """The files of a folder. What is listed may be gone, and what is not may be there.

        Raises:
            OSError: The storage does not answer, or does not allow it.
        """

    def fetch(self, file: SharedFile, descriptor: int) -> None:
        """Write a file's bytes to a descriptor, which is at the end of an empty file.

        Raises:
            StorageError: They are not those that its digest vouches for.
            OSError: The storage, or the disk, does not do it; or the file is gone.
        """

    def publish(self, folder: str, path: Path) -> None:
        """Put a file there, which does not change meanwhile.

        Raises:
            OSError: The storage does not take it.
        """

    def remove(self, file: SharedFile) -> None:
        """Take a file away.

        Raises:
            OSError: The storage does not do it.
        """


class NewCommit(NamedTuple):
    """A commit that is to be kept; see ``Storage.put``."""

    message: bytes
    first_position: int
    event_count: int
    chain: bytes


@runtime_checkable
class GroupStorage(Storage, Protocol):
    """An adapter to which a request costs more than what is in it, so that commits are put together."""

    def put_together(self, commits: Sequence[NewCommit]) -> list[Place] | None:
        """As ``put``, for several commits that follow each other: all are kept, or none.

        Raises:
            CommitUnknownError: Whether they are kept is not known, and may not be decided yet.
            WriteRefusedError: Nothing was kept; the log goes on.
            ReadOnlyLogError: The storage takes no writes.
        """

    def wait(self, seconds: float) -> bool:
        """Wait for news, at most so long; True when there may be some."""

    @property
    def shared_files(self) -> SharedFiles | None:
        """Files that are derived from the log and lie beside it, or None."""

    def share_index(self) -> None:
        """Put the index of this host beside the log, for hosts that have none.

        Raises:
            OSError: The storage does not take it. Nothing is harmed.
        """
