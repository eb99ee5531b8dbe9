"""``NumberedStorage``: a log as numbered commits that are created once each, by writers on any host.

What a log asks of a storage adapter, made of parts that have one task each: ``winning`` creates a commit
at the next place, or learns whose it is; ``turns`` makes pauses, so that others win as well; ``reading``
reads commits and knows how far the log goes; ``compaction`` makes what is derived from them.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

from eventstore import format as log_format
from eventstore.errors import LogNotFoundError, ReadOnlyLogError, StorageError
from eventstore.index import Landmark, Mark, Place
from eventstore.model import Verdict
from eventstore.storage.numbered.commit_bytes import StoredCommit, damaged, encode_commit
from eventstore.storage.numbered.commit_store import CommitStore, UnclearError
from eventstore.storage.numbered.compaction import Compactor
from eventstore.storage.numbered.patience import PATIENCE_SECONDS, PatientStore
from eventstore.storage.numbered.reading import Reader
from eventstore.storage.numbered.recent import RecentCommits
from eventstore.storage.numbered.segments import CACHE_BYTES_MAX, Segments
from eventstore.storage.numbered.shared_index import fetch_index, publish_index
from eventstore.storage.numbered.turns import Turns
from eventstore.storage.numbered.verify import verify_commits
from eventstore.storage.numbered.winning import Contest
from eventstore.storage.protocol import Glimpse, NewCommit, StoredBatch

logger = logging.getLogger(__name__)


class NumberedStorage:
    """Commits in a store that creates each of them once.

    Args:
        store: The engine.
        read_only: Create nothing; the log must be there.
        patience_seconds: For so long a store that does not answer is asked again.
        cache: A folder of this host where what was read may be kept, or None.
        cache_bytes_max: How much of it.

    Raises:
        LogNotFoundError: ``read_only`` and there is no log.
        StorageUnavailableError: The store does not answer.
        WriteRefusedError: The store takes no log.
    """

    watched: Path | None = None

    def __init__(
        self,
        store: CommitStore,
        *,
        read_only: bool,
        patience_seconds: float = PATIENCE_SECONDS,
        cache: Path | None = None,
        cache_bytes_max: int = CACHE_BYTES_MAX,
    ) -> None:
        self.read_only = read_only
        self._store = PatientStore(store, patience_seconds)
        self._contest = Contest(self._store)
        self._turns = Turns(self._store, self._contest)
        self._durable = 0
        try:
            head = self._open()
        except BaseException:
            store.close()
            raise
        self.log_id = head.log_id
        self.index_folder = _folder_of_log(cache, self.log_id)
        self.shared_files = store.shared_files
        if self.shared_files is not None and self.index_folder is not None:
            fetch_index(self.shared_files, self.index_folder)
        self._segments: Segments | None = None
        if store.derived is not None:
            self._segments = Segments(
                store.derived, log_id=self.log_id, folder=self.index_folder, cache_bytes_max=cache_bytes_max
            )
        self._recent = RecentCommits(self._store, self._segments)
        self._reader = Reader(self._store, head, self._segments, self._recent)
        self._compactor: Compactor | None = None
        if self._segments is not None:
            self._compactor = Compactor(self._store, self.log_id, self._segments, self._recent)

    def _open(self) -> StoredCommit:
        store, key = self._store, self._store.first_key
        if not self.read_only:
            store.ask(store.engine.check, "open the log")
        there = store.read(key, 1, "open the log")
        if not there:
            if self.read_only:
                raise LogNotFoundError(f"there is no log at {store.address}", path=store.address)
            log_id = secrets.token_bytes(16)
            first_chain = log_format.first_chain(log_id)
            mine = encode_commit(log_id, first_position=0, first_chain=first_chain, commits=())
            there = [self._contest.settled(key, mine) or mine]
        head = store.decoded(key, there[0])
        if head.frames or head.first_chain != log_format.first_chain(head.log_id):
            raise damaged(head.name, 0, 0, "the head of a log belongs")
        return head

    # --- reading

    @property
    def durable_position(self) -> int:
        """Everything that was read or created counts, once the store says that it is durable."""
        end = self._reader.end.position
        if self._durable < end:
            with contextlib.suppress(UnclearError):
                self._store.engine.settle()
                self._durable = max(self._durable, end)
        return self._durable

    def turn(self) -> contextlib.AbstractContextManager[object]:
        """There is no lock among hosts: ``put`` tells who came second."""
        return contextlib.nullcontext()

    def has_news(self, position: int) -> bool:
        """There may be: to ask the store would cost as much as to read."""
        del position
        return True

    def glance(self, position: int) -> Sequence[Glimpse]:
        """See ``Storage.glance``: next to a request, what Arrow takes is little."""
        del position
        return ()

    def read(
        self, from_position: int, until: int | None = None, *, near: Landmark | None = None
    ) -> Iterator[StoredBatch]:
        """See ``Storage.read``."""
        for commit in self._reader.commits(from_position, until, near):
            if self._reader.go_on(commit):
                self._note_others(self._store.key_behind(commit))
            yield from commit.batches(from_position, until)

    def resume(self, mark: Mark) -> bool:
        """See ``Storage.resume``."""
        return self._reader.resume(mark)

    def wait(self, seconds: float) -> bool:
        """See ``GroupStorage.wait``."""
        return self._store.engine.wait(seconds)

    def verify(self, *, expect: bytes | None = None) -> Verdict:
        """Read every commit and every segment, compute the chain again, and compare."""
        return verify_commits(self._store, self.log_id, self._segments, expect=expect)

    # --- writing

    def put(self, message: bytes, *, first_position: int, event_count: int, chain: bytes) -> Place | None:
        """See ``Storage.put``."""
        places = self.put_together([NewCommit(message, first_position, event_count, chain)])
        return None if places is None else places[0]

    def put_together(self, commits: Sequence[NewCommit]) -> list[Place] | None:
        """See ``GroupStorage.put_together``."""
        if self.read_only:
            raise ReadOnlyLogError(
                f"{self._store.address} was opened read-only: open it without read_only=True to write"
            )
        end = self._reader.end
        if commits[0].first_position != end.position:
            return None
        self._turns.let_others_in()
        data = encode_commit(self.log_id, first_position=end.position, first_chain=end.chain, commits=commits)
        others = self._contest.settled(end.key, data, commits[0])
        self._recent.keep(1, end.key, data if others is None else others)
        if others is not None:
            self._note_others(end.key + 1)
            self._turns.lost()
            return None
        self._turns.won()
        mine = self._store.decoded(end.key, data)
        self._reader.go_on(mine)
        self._durable = max(self._durable, mine.next_position)
        if self._compactor is not None:
            self._compactor.make_soon(end.key)
        return [Place(end.key, 0, frame.offset, frame.seal.frame_bytes) for frame in mine.frames]

    def sync(self, next_position: int) -> None:
        """See ``Storage.sync``: what was created is durable, and others' commits are made so."""
        if self._durable < next_position and self.durable_position < next_position:
            raise StorageError(
                f"{self._store.address}: it cannot be known whether the log is durable up to position "
                f"{next_position}; look at the storage and try again",
                path=self._store.address,
            )

    def recover(self) -> None:
        """There is nothing that a sync could have failed to do."""

    def _note_others(self, key: int) -> None:
        """What is in front of this key was committed by others, in part, and just now."""
        self._turns.met_others()
        if self._compactor is not None:
            self._compactor.note_others(key)

    # --- what is derived

    def share_index(self) -> None:
        """See ``GroupStorage.share_index``."""
        if self.shared_files is not None and self.index_folder is not None:
            publish_index(self.shared_files, self.index_folder)

    def compact(self) -> int:
        """Make the segments that are not there yet; see ``Compactor.make_segments``."""
        return 0 if self._compactor is None else self._compactor.make_segments()

    # --- life

    def after_fork(self) -> None:
        """Let the engine go; a thread of the parent may have held a lock."""
        self._store.engine.after_fork()
        self._reader.after_fork()
        self._recent.after_fork()
        if self._segments is not None:
            self._segments.after_fork()
        if self._compactor is not None:
            self._compactor.after_fork()

    def reopen(self) -> None:
        """The engine is made anew on its first use, and what was read is still true."""

    def close(self) -> None:
        """Release the engine."""
        self._store.close()


def _folder_of_log(cache: Path | None, log_id: bytes) -> Path | None:
    """A folder of this host that belongs to the log; None where there can be none."""
    if cache is None:
        return None
    folder = cache / log_id.hex()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        logger.warning("%s cannot be made (%s): what is read of the log is not kept.", folder, error)
        return None
    return folder
