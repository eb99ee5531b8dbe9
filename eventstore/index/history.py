"""``HistoryIndex``: where the events of a log are and whose they are, without reading the log.

*Index files*, immutable, in ``index/``, follow each other from position 0 on; the *tail*, in memory,
has what comes after them. A look-up asks the tail, then the files. When the tail has grown it becomes
a file, and files of like size are merged, so that there are few and each event is written a few times.

They are derived and never needed. They are believed when each continues the chain value of the one in
front of it and the log has the last one's value at that position: the value vouches for everything
below it. What is damaged, or of another history, is deleted, said once, and made anew from the log.
"""

from __future__ import annotations

import contextlib
import errno
import logging
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from eventstore.index.folder import FileName, IndexFolder, longest_chain
from eventstore.index.index_file import (
    BlockCache,
    DamagedIndexError,
    IndexFile,
    StreamPart,
    encode,
    merged,
    stream_key,
)
from eventstore.index.marks import CLOCK_MIN, Landmark, Mark
from eventstore.index.tail import Tail, reading_microseconds

logger = logging.getLogger(__name__)

FILE_EVENTS_MIN = 512
"""A tail that takes as long to read as so many commits of one small event becomes a file: so much is read,
at most, when a log is opened. Writing it costs by the event, so commits of many events wait for more."""

FILE_EVENTS_MAX = 512 * FILE_EVENTS_MIN
"""Files of so many events are merged no more: merging takes memory and time in proportion."""

SYNCED_EVENTS_MIN = 64 * FILE_EVENTS_MIN
"""A file of so many events is durable before those that it replaces go: a power cut costs no more."""

_FAN_OUT = 8
_TAIL_EVENTS_MAX = 65_536
_VERSIONS_KEPT = 4096
_LISTINGS_MAX = 10
_OTHER_HISTORY = "the log does not hold the history that it is of"

Vouch = Callable[[Mark], bool]
"""Whether the log has this chain value at this position; it goes on reading from there."""

_said: set[Path] = set()


class HistoryIndex:
    """The index files of a log and its tail.

    Args:
        folder: The folder of the log on this host, or None: then everything is in the tail.
        log_id: The log's id.
        first_chain: The chain's value in front of the first event.
        read_only: Write nothing.

    Attributes:
        tail: The events behind the index files. What is appended is added there.
    """

    def __init__(self, folder: Path | None, *, log_id: bytes, first_chain: bytes, read_only: bool) -> None:
        self._folder = None if folder is None else IndexFolder(folder / "index", like=folder)
        self._log_id = log_id
        self._read_only = read_only
        self._beginning = Mark(0, first_chain, CLOCK_MIN, None)
        self._bad: set[str] = set()
        self._cache = BlockCache()
        self._versions: dict[str, int | None] = {}
        self._index_files: list[IndexFile] = []
        self.tail = Tail(self._beginning)
        self._written_at = _tail_max()

    # --- look-ups; each may raise DamagedIndexError

    def stream_version(self, stream: str) -> int | None:
        """The version of a stream's last event, or None."""
        version = self.tail.last_version(stream)
        if version is not None:
            return version
        if stream not in self._versions:
            part = next(self._parts(stream), None)
            if len(self._versions) >= _VERSIONS_KEPT:
                self._versions.clear()
            self._versions[stream] = None if part is None else part[1].next_version - 1
        return self._versions[stream]

    def stream_positions(self, stream: str, from_version: int) -> array[int]:
        """The positions of a stream's events, from a stream version on."""
        found = [self.tail.positions(stream, from_version)]
        first_version = self.tail.first_version(stream)
        if first_version is None or first_version > from_version:
            for file, part in self._parts(stream):
                found.append(file.positions(part, from_version))
                if part.first_version <= from_version:
                    break
        positions = array("Q")
        for each in reversed(found):
            positions.extend(each)
        return positions

    def id_position(self, event_id: bytes) -> int | None:
        """The position of the event with this id, 16 bytes, or None."""
        position = self.tail.id_position(event_id)
        if position is not None:
            return position
        found = (file.id_position(event_id) for file in reversed(self._index_files))
        return next((each for each in found if each is not None), None)

    def near(self, position: int) -> Landmark | None:
        """A frame at or in front of a position that a reader can begin with, or None."""
        landmark = self.tail.landmark(position)
        place = bisect_right(self._index_files, position, key=lambda file: file.first.position)
        while landmark is None and place:
            place -= 1
            landmark = self._index_files[place].landmark(position)
        return landmark

    def around(self, clock: int) -> tuple[int, int] | None:
        """Positions between which the running maximum of the clocks first exceeds ``clock``, or None."""
        if clock >= self.tail.clock:
            return None
        place = bisect_right(self._index_files, clock, key=lambda file: file.next.clock)
        return (
            self.tail.around(clock)
            if place == len(self._index_files)
            else self._index_files[place].around(clock)
        )

    def _parts(self, stream: str) -> Iterator[tuple[IndexFile, StreamPart]]:
        """A stream's events in the index files, the latest first."""
        # What no log can hold is found nowhere.
        name = stream.encode("utf-8", "surrogatepass")
        key = stream_key(name)
        for file in reversed(self._index_files):
            part = file.stream(name, key)
            if part is not None:
                yield file, part
                if part.first_version == 0:
                    return

    # --- growing

    @property
    def wants_writing(self) -> bool:
        """True when the tail should become a file soon."""
        return self.tail.microseconds >= self._written_at and self._folder is not None and not self._read_only

    @property
    def needs_writing(self) -> bool:
        """True when the tail should become a file now, whoever waits."""
        return len(self.tail) >= _TAIL_EVENTS_MAX and self.wants_writing

    def write(self, vouch: Vouch, state: AbstractContextManager[object], *, durable_position: int) -> None:
        """Make the tail a file, and fewer index files of many. What the disk refuses is tried again later.

        Args:
            vouch: See ``load``.
            state: Held while this object changes.
            durable_position: Files that end behind it may be lost in a power cut, and are not merged
                with those in front.
        """
        assert self._folder is not None
        try:
            with self._folder.turn() as mine:
                if not mine:
                    self._written_at = self.tail.microseconds + _tail_max() // 8
                    return
                with state:
                    self._folder.remove_unfinished()
                    self.refresh(vouch)
                    self._put_back()
                    if self.tail.microseconds >= _tail_max():
                        self._write_tail()
                    self._written_at = _tail_max()
                while group := _to_merge(self._index_files, durable_position):
                    self._merge(group)
                    with state:
                        self.refresh(vouch)
        except DamagedIndexError as damaged:
            with state:
                self.drop(damaged, vouch)
        except OSError as error:
            _say_once(self._folder.path, f"no index can be written ({error}): opening this log takes longer")
            self._written_at = 2 * max(self.tail.microseconds, _tail_max())

    def _write_tail(self) -> None:
        content = self.tail.content()
        name = self._publish(encode(self._log_id, content), content.first, content.next, synced=False)
        self._index_files.append(self._opened(name))
        self.tail = Tail(content.next)
        self._versions.clear()

    def _put_back(self) -> None:
        """Files that are in use here and whose files somebody has deleted: others need them, too."""
        assert self._folder is not None
        there = {name.text for name in self._folder.names()}
        for place, file in enumerate(self._index_files):
            if file.path.name not in there:
                name = self._publish(file.whole(), file.first, file.next, synced=False)
                self._index_files[place] = self._opened(name)
                file.close()

    def _merge(self, group: Sequence[IndexFile]) -> None:
        """Write one file for several. They are read anew, since threads may be using those that are open."""
        assert self._folder is not None
        contents = []
        for file in group:
            with contextlib.closing(IndexFile(file.path, self._log_id, BlockCache())) as again:
                contents.append(again.content(group[0].first.position))
        content = merged(contents)
        # Its writer waits for a sync: only what would take seconds to make anew is worth one. A crash
        # behind this line leaves index files that are not needed, which go with the next merge.
        synced = len(content.id_places) >= SYNCED_EVENTS_MIN
        self._publish(encode(self._log_id, content), content.first, content.next, synced=synced)
        self._folder.remove(
            name.text
            for name in self._folder.names()
            if content.first.position <= name.first_position
            and name.next_position <= content.next.position
            and (name.first_position, name.next_position) != (content.first.position, content.next.position)
        )

    def _publish(self, content: bytes, first: Mark, following: Mark, *, synced: bool) -> FileName:
        assert self._folder is not None
        return self._folder.publish(
            content, first_position=first.position, next_position=following.position, synced=synced
        )

    # --- opening

    def load(self, vouch: Vouch) -> None:
        """Take the index files that are there, as far as the log vouches for them, and an empty tail.

        Args:
            vouch: Asked about the end of the last file.
        """
        self.close()
        taken: list[IndexFile] = []
        while self._folder is not None:
            held, taken = taken, self._take(taken)
            _close(set(held) - set(taken))
            if not taken or vouch(taken[-1].next):
                break
            self._leave_out(taken[-1].path, _OTHER_HISTORY)
        self._index_files = taken
        self.tail = Tail(taken[-1].next if taken else self._beginning)
        self._written_at = _tail_max()

    def refresh(self, vouch: Vouch) -> bool:
        """Take the files that there are by now, if they reach as far. True if beyond the tail."""
        if self._folder is None:
            return False
        held, end = self._index_files, self.tail.first
        while True:
            taken = self._take(held)
            reached = taken[-1].next if taken else self._beginning
            if reached[:2] == end[:2] or (reached.position > end.position and vouch(reached)):
                break
            _close(set(taken) - set(held))
            if reached.position < end.position:
                return False
            self._leave_out(taken[-1].path, _OTHER_HISTORY)
        _close(set(held) - set(taken))
        self._index_files = taken
        self._versions.clear()
        if reached.position > self.tail.next_position:
            self.tail = Tail(reached)
            return True
        self.tail.begin_at(reached)
        return False

    def drop(self, damaged: DamagedIndexError, vouch: Vouch) -> None:
        """Go on without a file that has turned out to be damaged; what it covers is to be added anew."""
        self._leave_out(damaged.path, str(damaged))
        self.load(vouch)

    def close(self) -> None:
        """Let go of all files."""
        _close(self._index_files)
        self._index_files, self.tail = [], Tail(self._beginning)
        self._versions.clear()

    def after_fork(self) -> None:
        """Called in a forked child: close what was inherited."""
        if self._folder is not None:
            self._folder.after_fork()
        self.close()

    def _take(self, held: Sequence[IndexFile]) -> list[IndexFile]:
        """The index files in the folder that reach farthest, each checked against the one in front of it.

        Those that are ``held`` already are not opened again.
        """
        assert self._folder is not None
        opened = {file.path.name: file for file in held}
        for _ in range(_LISTINGS_MAX):
            names = self._folder.names()
            index_files = self._chosen(names, opened)
            if index_files is not None:
                break
        taken = set(index_files or ())
        _close(file for file in opened.values() if file not in taken and file not in held)
        return index_files or []

    def _chosen(self, names: Sequence[FileName], opened: dict[str, IndexFile]) -> list[IndexFile] | None:
        """None when a file is gone that was there a moment ago: it was merged, and a new one is there."""
        assert self._folder is not None
        index_files: list[IndexFile] = []
        for name in longest_chain(name for name in names if name.text not in self._bad):
            try:
                file = opened.get(name.text) or self._opened(name)
            except FileNotFoundError:
                return None
            except (DamagedIndexError, OSError) as error:
                if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
                    raise
                self._leave_out(self._folder.path / name.text, str(error))
                return self._chosen(names, opened)
            opened[name.text] = file
            mark = index_files[-1].next if index_files else self._beginning
            if (file.first.position, file.first.chain) != (mark.position, mark.chain):
                self._leave_out(file.path, "it does not continue the one in front of it")
                return self._chosen(names, opened)
            index_files.append(file)
        return index_files

    def _opened(self, name: FileName) -> IndexFile:
        assert self._folder is not None
        file = IndexFile(self._folder.path / name.text, self._log_id, self._cache)
        if (file.first.position, file.next.position) != name[:2]:
            file.close()
            raise DamagedIndexError(file.path, "it covers other events than its name says")
        return file

    def _leave_out(self, path: Path, reason: str) -> None:
        assert self._folder is not None
        self._bad.add(path.name)
        _say_once(path, f"{reason}. It is not used; the log is read instead")
        if not self._read_only:
            self._folder.remove([path.name])


def _tail_max() -> int:
    """The microseconds of reading behind which a tail becomes a file."""
    return FILE_EVENTS_MIN * reading_microseconds(1, 0)


def _to_merge(index_files: Sequence[IndexFile], durable_position: int) -> list[IndexFile]:
    """The last index files, when together they are as long as one of the next size; or none."""
    durable = [file for file in index_files if file.next.position <= durable_position]
    for side in (list(index_files[len(durable) :]), durable):
        size = FILE_EVENTS_MAX
        while size > FILE_EVENTS_MIN:
            small = len(side)
            while small and side[small - 1].events < size:
                small -= 1
            group = side[small:]
            if len(group) > 1 and sum(file.events for file in group) >= size:
                return group
            size //= _FAN_OUT
    return []


def _close(index_files: Iterable[IndexFile]) -> None:
    for file in index_files:
        # Somebody may have closed the descriptor behind our back.
        with contextlib.suppress(OSError):
            file.close()


def _say_once(path: Path, text: str) -> None:
    if path not in _said:
        _said.add(path)
        logger.warning("%s: %s", path, text)
