"""A check of a log's index against the log, for whoever reads all of the log anyway."""

from __future__ import annotations

from pathlib import Path

from eventstore.index.folder import IndexFolder, longest_chain
from eventstore.index.index_file import ID_BYTES, BlockCache, Content, DamagedIndexError, IndexFile
from eventstore.index.marks import CLOCK_MIN, Landmark, Mark, Place
from eventstore.index.tail import Tail


class IndexAudit:
    """Takes the events of a log one after the other and compares them with the index files that are in use.

    Args:
        folder: The log's folder.
        log_id: The log's id.
        first_chain: The chain's value in front of the first event.

    Attributes:
        findings: What is wrong with index_files, as file name and text.
    """

    def __init__(self, folder: Path, *, log_id: bytes, first_chain: bytes) -> None:
        index = IndexFolder(folder / "index", like=folder)
        self.findings: list[tuple[str, str]] = []
        self._log_id = log_id
        self._paths = [index.path / name.text for name in longest_chain(index.names())]
        self._tail = Tail(Mark(0, first_chain, CLOCK_MIN, None))
        self._path: Path | None = None
        self._next_position = 0
        self._content: Content | None = None
        self._landmarks: dict[int, Place] = {}

    def add(
        self,
        *,
        position: int,
        stream: str,
        version: int,
        event_id: bytes,
        clock: int,
        chain: bytes,
        place: Place,
    ) -> None:
        """The next event, the chain's value behind it, and the frame that it is in.

        One that was given already, from a file that turned out damaged behind it, is passed over.
        """
        if position < self._tail.next_position:
            return
        if self._path is None:
            self._begin_file()
        if self._path is None:
            return
        expected = self._landmarks.pop(self._tail.next_position, place)
        if expected[:2] == place[:2] and expected != place:
            self._find("it points to other bytes than those of the frame")
        self._tail.add([(stream, version, 1)], ids=event_id, clock=clock, chain=chain, place=place)
        if self._tail.next_position == self._next_position:
            if self._content is not None and _facts(self._content) != _facts(self._tail.content()):
                self._find("it says other things than the log")
            self._path, self._tail = None, Tail(self._tail.next)

    def _begin_file(self) -> None:
        if not self._paths:
            return
        self._path, self._content, self._landmarks = self._paths.pop(0), None, {}
        self._next_position = int(self._path.name.partition("-")[2].partition(".")[0])
        try:
            file = IndexFile(self._path, self._log_id, BlockCache())
        except FileNotFoundError:
            return  # merged with others meanwhile
        except (DamagedIndexError, OSError) as error:
            self._find(str(error))
            return
        try:
            self._content = file.content()
        except DamagedIndexError as damaged:
            self._find(str(damaged))
        else:
            self._landmarks = dict([*self._content.landmarks, *_last(file.next)])
        finally:
            file.close()

    def _find(self, text: str) -> None:
        assert self._path is not None
        self.findings.append(
            (f"index/{self._path.name}", f"{text}. It is derived from the log and may be deleted")
        )


def _last(mark: Mark) -> list[Landmark]:
    return [] if mark.last is None else [mark.last]


def _facts(content: Content) -> tuple[object, ...]:
    """What two index files of the same events have in common, wherever the events are kept."""
    ids = [content.ids[at : at + ID_BYTES] for at in range(0, len(content.ids), ID_BYTES)]
    marks = [mark._replace(last=None) for mark in (content.first, content.next)]
    return *marks, content.streams, sorted(zip(ids, content.id_places, strict=True))
