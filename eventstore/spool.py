"""Spools: rows that are on their way to become an event, safe from the end of their process.

A program that collects rows for one event puts each of them into a *spool* at once: a small file
beside the log, whose rows survive the process, though not a power cut. When the rows have become an
event the next ones take their place. What a killed process leaves is *adopted*: the next one that
writes to the log makes the event, and the spool goes.

- The owner holds a lock of the kernel on its spool for as long as it lives, so what is not locked is
  left over. One lock of the folder lets adopters go one after the other.
- An event's id is derived from the spool's id and the number of its first row, so the log recognises
  rows that it has. Whether a crash came before the event or after it need not be known, and of
  several who make it one does.
- A row counts when its checksum holds. Slots are used again; the number in a row tells the rows of
  today from those that an earlier event took.

``docs/format.md`` has the bytes. What rows mean is their program's business.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import struct
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self
from uuid import UUID
from zlib import crc32

import msgspec

from eventstore import files
from eventstore.errors import WriteRefusedError
from eventstore.identifiers import derived_id

FOLDER: Final = "spool"
SUFFIX: Final = ".spool"

_MAGIC: Final = b"DCPSPOL1"
_HEAD: Final = struct.Struct("<8s16sII")
_NUMBER: Final = struct.Struct("<Q")
_CHECK: Final = struct.Struct("<I")
_SECTOR_BYTES: Final = 512
_ROW_BYTES_MAX: Final = 1 << 20

assert _HEAD.size == 32, "docs/format.md says so"  # noqa: PLR2004


@dataclass(frozen=True)
class SpooledRows:
    """What a spool holds.

    Attributes:
        spool_id: The spool's id, 16 bytes.
        stream: The stream that the rows belong to.
        about: What the owner said of the rows.
        row_bytes: The length of a row with its number.
        first_row: The number of the row in the first slot.
        rows: The rows by number, each with its number, in order: those that were put in
            since the last event was made.
        flawed: True when a slot holds something that is no row: a row that was cut off, or damage.
    """

    spool_id: bytes
    stream: str
    about: Mapping[str, Any]
    row_bytes: int
    first_row: int
    rows: Mapping[int, bytes]
    flawed: bool


class Spool:
    """An open spool; get one with ``Spool.create``. The caller lets one thread in at a time.

    Attributes:
        spool_id: Its random id, 16 bytes.
        path: Its file.
        first_row: The number of the first row that is not an event yet; it has the first slot.
    """

    def __init__(self, path: Path, descriptor: int, spool_id: bytes, *, row_bytes: int, rows_at: int) -> None:
        """Take over an open, locked file; use ``Spool.create``."""
        self.path = path
        self.spool_id = spool_id
        self.first_row = 0
        self._descriptor = descriptor
        self._rows_at = rows_at
        self._slot_bytes = row_bytes + _CHECK.size
        self._offset_of_row_0 = rows_at
        self._seed = crc32(spool_id)
        _open_spools.add(self)

    @classmethod
    def create(cls, log_folder: Path, *, stream: str, about: Mapping[str, Any], row_bytes: int) -> Self:
        """Make a spool of one's own.

        Args:
            log_folder: The log's folder.
            stream: The stream that the rows belong to.
            about: What whoever adopts the rows must know; JSON can say it.
            row_bytes: The length of every row with its number.

        Raises:
            WriteRefusedError: The disk did not take it. Make room and try again.
        """
        spool_id = secrets.token_bytes(16)
        head = _header(spool_id, {**about, "stream": stream}, row_bytes)
        folder = log_folder / FOLDER
        try:
            files.make_directories(folder, like=log_folder)
            path = folder / f"{_stream_key(stream)}-{spool_id.hex()}{SUFFIX}"
            # Adopters hold this lock, so none of them takes the file for one that was left.
            with _folder_locked(folder):
                descriptor = _create_locked(path, head, like=folder)
        except OSError as error:
            raise _refused(folder, error) from error
        return cls(path, descriptor, spool_id, row_bytes=row_bytes, rows_at=len(head))

    def put(self, number: int, row: bytes) -> None:
        """Write a row. Once this returns it survives the end of the process.

        Args:
            number: How many rows this spool has had before. The caller counts them, so a row whose
                writing was interrupted is written over by the next one.
            row: As many bytes as every row has; the first eight are ``number``, little-endian.

        Raises:
            WriteRefusedError: The disk did not take it: it is no row. Those before it stay.
        """
        data = row + _CHECK.pack(crc32(row, self._seed))
        try:
            taken = files.write_at(self._descriptor, data, self._offset_of_row_0 + number * self._slot_bytes)
        except OSError as error:
            raise _refused(self.path, error) from error
        if taken != len(data):
            raise _refused(self.path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    def restart(self, first_row: int) -> None:
        """The rows below this number are events: the row of this number goes into the first slot."""
        self.first_row = first_row
        self._offset_of_row_0 = self._rows_at - first_row * self._slot_bytes

    @property
    def has_name(self) -> bool:
        """False once somebody has deleted the file: its rows do not survive the process any more."""
        return files.has_name(self._descriptor)

    def remove(self) -> None:
        """Delete the file, whose rows are events by now, and close it."""
        try:
            files.unlink(self.path)
        finally:
            self.close()

    def close(self) -> None:
        """Close the file and leave it to whoever adopts its rows."""
        descriptor, self._descriptor = self._descriptor, -1
        _open_spools.discard(self)
        if descriptor >= 0:
            _let_go(descriptor)

    def __del__(self) -> None:
        self.close()

    def _after_fork(self) -> None:
        # The child would keep the lock when its parent dies, and the rows would wait for it.
        self._descriptor = -1


def event_id(spool_id: bytes, first_row: int) -> UUID:
    """The id of the event whose first row has this number."""
    return derived_id("spool", spool_id, first_row)


def left_over(log_folder: Path, stream: str | None = None) -> list[Path]:
    """The files of spools, those of the living too; those of one stream when it is given.

    Cheap where there are none: one listing of a folder.
    """
    try:
        names = os.listdir(f"{log_folder}/{FOLDER}")  # noqa: PTH208 - a Path costs more
    except (FileNotFoundError, NotADirectoryError):
        return []
    if not names:
        return []
    begins = "" if stream is None else f"{_stream_key(stream)}-"
    folder = log_folder / FOLDER
    return [folder / name for name in sorted(names) if name.endswith(SUFFIX) and name.startswith(begins)]


def adopt_spools(
    log_folder: Path, adopt: Callable[[SpooledRows], bool], *, stream: str | None = None
) -> None:
    """Hand over the rows of all spools whose owners are gone, then take the spools away.

    Whoever else adopts at the same time is waited for. Spools with flaws are kept in ``quarantine/``.

    Args:
        log_folder: The log's folder.
        adopt: Makes events of the rows, with ids by ``event_id``, and returns True once they are
            durable; False leaves the spool to a program that knows more of it. It may get the same
            rows again if this process ends in between.
        stream: Only spools of this stream.

    Raises:
        OSError: The disk did not take it; nothing is lost, try again.
    """
    if not left_over(log_folder, stream):
        return
    with _folder_locked(log_folder / FOLDER):
        for path in left_over(log_folder, stream):
            with _taken(path) as data:
                if data is not None:
                    _adopt_one(log_folder, path, data, adopt)


def read_spools(log_folder: Path) -> dict[str, bytes]:
    """The spools of a log by their files' names, for a copy of it; also those of living owners.

    To be read before the segments: what an owner takes out of its spool is in the log by then.

    Raises:
        OSError: One of them cannot be read.
    """
    found = {}
    for path in left_over(log_folder):
        with contextlib.suppress(FileNotFoundError):
            found[path.name] = path.read_bytes()
    return found


def replace_spools(log_folder: Path, spools: Mapping[str, bytes]) -> None:
    """Make these the spools of a copy of a log, which nobody writes to, once it has the log's events."""
    folder = log_folder / FOLDER
    if spools:
        files.make_directories(folder, like=log_folder)
    for name, data in spools.items():
        temporary = folder / f".{name}.{secrets.token_hex(16)}.tmp"
        with files.new_file(temporary, like=folder) as (descriptor, made):
            files.write(descriptor, data)
            files.sync_file(descriptor)
            files.rename(made, folder / name)
    for path in left_over(log_folder):
        if path.name not in spools:
            files.unlink(path)


def _adopt_one(log_folder: Path, path: Path, data: bytes, adopt: Callable[[SpooledRows], bool]) -> None:
    if not any(data[: _HEAD.size]) and not any(data):
        # Its maker ended before the header was written: there never was a row.
        files.unlink(path)
        return
    spooled = parse(data)
    if spooled is None:
        if data.startswith(_MAGIC[:-1]) and not data.startswith(_MAGIC):
            return  # of a newer format: for a newer program
        _quarantine(log_folder, path)
    elif adopt(spooled):
        # A crash in front of this line leaves rows that the log has: their id tells the next adopter.
        if spooled.flawed:
            _quarantine(log_folder, path)
        else:
            files.unlink(path)


def parse(data: bytes) -> SpooledRows | None:
    """What the bytes of a spool say; None when they begin with no good header."""
    head = _parse_header(data)
    if head is None:
        return None
    spool_id, about, row_bytes, rows_at = head
    slot_bytes, seed = row_bytes + _CHECK.size, crc32(spool_id)
    first: int | None = None
    rows: dict[int, bytes] = {}
    flawed = False
    for place, offset in enumerate(range(rows_at, len(data), slot_bytes)):
        slot = data[offset : offset + slot_bytes]
        good = (
            len(slot) == slot_bytes and crc32(slot[: -_CHECK.size], seed) == _CHECK.unpack_from(slot, -4)[0]
        )
        if not good:
            flawed = flawed or any(slot)
            continue
        number = _NUMBER.unpack_from(slot)[0]
        first = number - place if first is None else first
        if number - place != first:
            break  # from here on the slots hold what earlier events took
        rows[number] = slot[: -_CHECK.size]
    stream = about.pop("stream")
    return SpooledRows(spool_id, stream, about, row_bytes, first or 0, rows, flawed)


def _header(spool_id: bytes, about: Mapping[str, Any], row_bytes: int) -> bytes:
    text = msgspec.json.encode(about)
    head = _HEAD.pack(_MAGIC, spool_id, row_bytes, len(text)) + text
    head += _CHECK.pack(crc32(head))
    return head + bytes(-len(head) % _SECTOR_BYTES)


def _parse_header(data: bytes) -> tuple[bytes, dict[str, Any], int, int] | None:
    if len(data) < _HEAD.size:
        return None
    magic, spool_id, row_bytes, about_bytes = _HEAD.unpack_from(data)
    checked = _HEAD.size + about_bytes
    end = checked + _CHECK.size
    if magic != _MAGIC or len(data) < end or _CHECK.unpack_from(data, checked)[0] != crc32(data[:checked]):
        return None
    try:
        about = msgspec.json.decode(data[_HEAD.size : checked])
    except msgspec.DecodeError:
        return None
    told = isinstance(about, dict) and isinstance(about.get("stream"), str)
    if not told or not _NUMBER.size <= row_bytes <= _ROW_BYTES_MAX:
        return None
    return spool_id, about, row_bytes, end + -end % _SECTOR_BYTES


def _quarantine(log_folder: Path, path: Path) -> None:
    folder = log_folder / "quarantine"
    files.make_directories(folder, like=log_folder)
    files.rename(path, folder / f"{path.name}.{secrets.token_hex(4)}.bytes")


def _stream_key(stream: str) -> str:
    return hashlib.sha256(stream.encode()).hexdigest()[:16]


def _refused(path: Path, error: OSError) -> WriteRefusedError:
    return WriteRefusedError(
        f"{path} takes no row: {error.strerror}. This row is not kept, those before it are: make room, or "
        "mend the folder's permissions, and try again",
        path=str(path),
        errno=error.errno,
    )


# --- locks


# Reentrant: the collection of garbage may close a spool at any moment.
_opening = threading.RLock()
_held: set[int] = set()
_open_spools: weakref.WeakSet[Spool] = weakref.WeakSet()


def _open(path: Path, flags: int) -> int:
    """Open a file that is to be locked; a child that is forked at any moment closes it."""
    with _opening:
        descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
        _held.add(descriptor)
    return descriptor


def _let_go(descriptor: int) -> None:
    with _opening:
        _held.discard(descriptor)
        os.close(descriptor)


def _create_locked(path: Path, head: bytes, *, like: Path) -> int:
    descriptor = _open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        files.share(descriptor, like=like)
        files.write(descriptor, head)
    except BaseException:
        path.unlink(missing_ok=True)
        _let_go(descriptor)
        raise
    return descriptor


@contextlib.contextmanager
def _folder_locked(folder: Path) -> Iterator[None]:
    descriptor = _open(folder / "lock", os.O_RDWR | os.O_CREAT)
    try:
        if os.fstat(descriptor).st_uid == os.geteuid():
            files.share(descriptor, like=folder)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        _let_go(descriptor)


@contextlib.contextmanager
def _taken(path: Path) -> Iterator[bytes | None]:
    """The bytes of a spool that nobody owns, which is locked meanwhile; None of any other."""
    try:
        # Nothing is written: NFS locks a whole file only for those who might.
        descriptor = _open(path, os.O_RDWR)
    except (FileNotFoundError, PermissionError):
        # Its owner has just ended it; or it is another person's, who keeps it to himself.
        yield None
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield files.read_at(descriptor, files.size(descriptor), 0) if files.has_name(descriptor) else None
    finally:
        _let_go(descriptor)


def _after_fork_in_child() -> None:
    global _opening  # noqa: PLW0603 - it was taken before the fork
    for spool in list(_open_spools):
        spool._after_fork()  # noqa: SLF001 - a part of the spool
    _open_spools.clear()
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()
    _opening = threading.RLock()


os.register_at_fork(
    before=lambda: _opening.acquire(),  # noqa: PLW0108 - a child has another lock
    after_in_parent=lambda: _opening.release(),  # noqa: PLW0108 - as above
    after_in_child=_after_fork_in_child,
)
