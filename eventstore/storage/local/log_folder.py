"""``LogFolder``: what one process has open of a log's folder, the lock and the segments that count.

It lists the segments and follows what others make of them, and keeps these invariants: all segments
are of one log; the one that commits go to is open; a segment that is damaged has a lower generation in
its place where one has all of its events; what the log was served is still there.
"""

from __future__ import annotations

import contextlib
import os
import threading
from bisect import bisect_right
from collections.abc import Mapping
from pathlib import Path

from eventstore.errors import DamagedLogError, StorageError
from eventstore.index import Landmark
from eventstore.storage.local import directory as folder
from eventstore.storage.local.directory import SegmentName
from eventstore.storage.local.lock import Lock
from eventstore.storage.local.segment import FlawedFrameError, Segment, former_file

UNKNOWN = -1
"""No generation of a folder."""


class LogFolder:
    """The lock and the segments of a log.

    Args:
        directory: The log's folder.
        read_only: Nothing of it is opened for writing, and it has no lock.

    Attributes:
        state: Held by who asks or changes what must fit together here; never across a commit's sync.
        lock: The log's lock; None for who only reads, and once closed.
        segments: Those that count, in order; the last is the active one. Empty once closed.
        generation: That of the folder when they were listed; -1 when nothing tells whether they still count.
        found_whole_in: The turn of the lock in which the active segment was last seen to end with what
            is known of it; 0 when it was not.
        served: The position up to which the log was given something, and the chain's value there, as it
            was then: the log decides on that.
    """

    def __init__(self, directory: Path, *, read_only: bool) -> None:
        self.directory = directory
        self.read_only = read_only
        self.state = threading.RLock()
        self.lock: Lock | None = None
        self.segments: list[Segment] = []
        self.generation = UNKNOWN
        self.found_whole_in = 0
        self.served: tuple[int, bytes] | None = None
        self._flawed: set[SegmentName] = set()

    def open_lock(self) -> Lock:
        """Open the lock, which writing takes; the folder must be there."""
        self.lock = Lock(self.directory)
        return self.lock

    def close(self) -> None:
        """Close all files, also when one of them cannot be closed."""
        with contextlib.ExitStack() as ends:
            for segment in self.segments:
                ends.callback(segment.close)
            if self.lock is not None:
                ends.callback(self.lock.close)
            self.segments, self.lock, self.generation = [], None, UNKNOWN

    def after_fork(self) -> None:
        """Called in a forked child: close what was inherited, which leaves the parent's lock alone."""
        self.state = threading.RLock()
        self.served = None
        with contextlib.suppress(OSError):  # somebody may have closed them behind our back
            self.close()

    # --- following the list of segments

    def notice_new_segments(self) -> None:
        """Bring the list of segments up to date, if it may have changed."""
        lock = self.lock
        if lock is None or (lock.held or lock.state())[0] != self.generation:
            self.list_segments()

    def list_segments(self) -> None:
        """Bring the list of segments up to date; the last one stays open.

        Raises:
            DamagedLogError: The first or the last of them cannot be read, or belongs to another log.
            StorageError: What was served is not there any more.
        """
        with self.state:
            generation = UNKNOWN if self.lock is None else self.lock.state()[0]
            known = {segment.name: segment for segment in self.segments}
            segments = self._listed(known)
            for name, segment in known.items():
                if name != segments[-1].name:
                    segment.close()
            self.segments, self.found_whole_in = segments, 0
            self.check_of_this_log(segments[-1])
            if not self.read_only:
                segments[-1].keep_open()
            # An odd one is of a change under way: the next look lists them again.
            self.generation = UNKNOWN if generation % 2 else generation

    def _listed(self, known: Mapping[SegmentName, Segment]) -> list[Segment]:
        """The segments that count; listed again while files go away, which re-encoding lets happen."""
        names: list[SegmentName] = []
        while True:
            names_before, names = names, folder.segment_names(self.directory, flawed=self._flawed)
            if not names:
                raise gone(self.directory / SegmentName(0).text, 0)
            segments = [known[name] if name in known else Segment(self.directory, name) for name in names]
            try:
                self._check_served_is_there(segments)
                # Of the others not even the first frame is read before somebody wants them.
                self._sound(segments, 0)
                self._sound(segments, len(segments) - 1)
            except FileNotFoundError:
                if names == names_before:
                    raise
            else:
                return segments

    def check_of_this_log(self, segment: Segment) -> None:
        """Raise ``DamagedLogError`` when a segment has not the id that the first one has."""
        first = self.segments[0]
        if segment.log_id != first.log_id:
            raise DamagedLogError(
                f"{segment.path} belongs to another log than {first.path.name}: move it away",
                path=str(segment.path),
                offset=0,
                position=segment.name.first_position,
            )

    # --- what was served

    def serve(self, next_position: int, chain: bytes) -> None:
        """Remember the end of what the log was given."""
        if self.served is None or next_position > self.served[0]:
            self.served = next_position, chain

    def _check_served_is_there(self, segments: list[Segment]) -> None:
        """A segment that was made anew after a failed sync lacks what the disk had lost by then."""
        if self.served is None:
            return
        position, chain = self.served
        place = _place_among(segments, position)
        if place < 0 or segments[place] in self.segments:
            return
        found = None
        with contextlib.suppress(FlawedFrameError):
            found = self._chain_among(segments, place, position)
        if found != chain:
            raise self.other_history()

    def other_history(self) -> StorageError:
        """The error for who read the log before it was repaired or restored."""
        return StorageError(
            f"the log in {self.directory} was repaired or replaced while this process had it open. "
            "Open it again, in a new process, and look what is there before repeating the call",
            path=str(self.directory),
        )

    # --- finding a segment, and one that stands in for it

    def place_of(self, position: int) -> int:
        """Which of the segments holds a position, or will.

        Raises:
            DamagedLogError: The first segment is missing.
        """
        place = _place_among(self.segments, position)
        if place < 0:
            first = self.segments[0]
            raise DamagedLogError(
                f"the segment that begins at position 0 is missing in {self.directory}; the first is "
                f"{first.path.name}. Restore it from a copy",
                path=str(first.path),
                offset=0,
                position=0,
            )
        return place

    def sound(self, place: int) -> Segment:
        """A segment of which at least the first frame is good; of a damaged one, a lower generation.

        Raises:
            DamagedLogError: There is none.
        """
        return self._sound(self.segments, place)

    def take_former(self, place: int, error: DamagedLogError) -> Segment:
        """A lower generation of a damaged rolled segment takes its place, if it has all of its events.

        The next segment vouches for that. Otherwise it is the error.
        """
        return self._former(self.segments, place, error)

    def chain_at(self, position: int, near: Landmark | None) -> bytes | None:
        """The chain's value at a position; None when the segment that it is in ends in front of it."""
        return self._chain_among(self.segments, self.place_of(position), position, near)

    def _sound(self, segments: list[Segment], place: int) -> Segment:
        try:
            segments[place].read_head()
        except DamagedLogError as error:
            return self._former(segments, place, error)
        return segments[place]

    def _former(self, segments: list[Segment], place: int, error: Exception) -> Segment:
        name = segments[place].name
        if place + 1 == len(segments) or not folder.former_names(self.directory, name):
            raise error from None
        try:
            following = self._sound(segments, place + 1)
        except DamagedLogError:
            raise error from None
        former = former_file(self.directory, name, following)
        if former is None or former.log_id != following.log_id:
            raise error from None
        self._flawed.update(each for each in folder.all_names(self.directory) if former.name < each <= name)
        segments[place] = former
        return former

    def _chain_among(
        self, segments: list[Segment], place: int, position: int, near: Landmark | None = None
    ) -> bytes | None:
        try:
            return self._sound(segments, place).chain_at(position, near)
        except FlawedFrameError as flawed:
            return self._former(segments, place, flawed).chain_at(position)


def gone(path: str | os.PathLike[str], position: int) -> DamagedLogError:
    """The error for a file of the log that somebody has deleted."""
    return DamagedLogError(
        f"{os.fspath(path)} was deleted while it was in use: events from position {position} on cannot "
        "be read or written. Restore it from a copy and open the log again",
        path=os.fspath(path),
        offset=0,
        position=position,
    )


def _place_among(segments: list[Segment], position: int) -> int:
    return bisect_right(segments, position, key=lambda segment: segment.name.first_position) - 1
