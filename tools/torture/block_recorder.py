"""A disk image as a file of a file system of our own, so that every block that reaches it is recorded.

A loop device on the image turns what a real file system writes, and when it wants the disk's cache
emptied, into requests to this small FUSE server. It keeps them, in order, in a file: what a disk with
a volatile cache would have been told. ``Recording`` then gives the image after a power cut at any of
them: what was written before the last flush is there, of the rest any sectors may be.

The server speaks the kernel's protocol itself (``/dev/fuse``, version 7.31), as much of it as one file
needs. It wants root, and it runs in a process of its own: the kernel waits for it.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import signal
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from random import Random
from typing import BinaryIO, Final, NoReturn

from tools.torture.simulated_disk import SECTOR_BYTES

_IN = struct.Struct("<IIQQIIIHH")
_OUT = struct.Struct("<IiQ")
_INIT_OUT = struct.Struct("<IIIIHHIIHHI7I")
_ATTRIBUTES = struct.Struct("<6Q10I")
_ENTRY_OUT = struct.Struct("<4Q2I")
_ATTRIBUTES_OUT = struct.Struct("<QII")
_TRANSFER = struct.Struct("<QQIIQII")
RECORD = struct.Struct("<qI")
"""In front of each write in the record: its place and its length; ``FLUSHED`` as the place for a flush."""

assert (_IN.size, _OUT.size, _INIT_OUT.size, _ATTRIBUTES.size, _TRANSFER.size) == (40, 16, 64, 88, 40)


class _Call(IntEnum):
    """What the kernel may ask for."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    RELEASEDIR = 29
    ACCESS = 34
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42


_UNANSWERED: Final = {_Call.FORGET, _Call.INTERRUPT, _Call.BATCH_FORGET}
_EMPTY_ANSWERS: Final = {_Call.RELEASE, _Call.FLUSH, _Call.RELEASEDIR, _Call.ACCESS, _Call.DESTROY}
_ROOT_NODE, _IMAGE_NODE = 1, 2
_MAX_WRITE: Final = 128 << 10
_REQUEST_BYTES: Final = _MAX_WRITE + 4096
FLUSHED: Final = -1
_FOR_EVER: Final = 10**6


class Counter:
    """A number that several processes see: how many requests have been recorded."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8)

    @property
    def value(self) -> int:
        """The number at present."""
        return int.from_bytes(self._memory[:8], "little")

    def increase(self) -> None:
        """One more."""
        self._memory[:8] = (self.value + 1).to_bytes(8, "little")


@contextmanager
def recorded_image(image: Path, mount_point: Path, record: Path, counter: Counter) -> Iterator[Path]:
    """Give the image another name; what is written to it under that name goes to ``record``, too.

    Args:
        image: The image as it is at the beginning; it is changed.
        mount_point: An empty folder.
        record: A file to be made.
        counter: Grows with each request that was recorded.

    Raises:
        OSError: This cannot be done here.
    """
    device = os.open("/dev/fuse", os.O_RDWR)
    try:
        options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(b"power_cut", os.fsencode(mount_point), b"fuse", 0, options):
            number = ctypes.get_errno()
            raise OSError(number, f"mount: {os.strerror(number)}")
        server = os.fork()
        if server == 0:
            _serve_and_exit(device, image, record, counter)
    finally:
        os.close(device)
    try:
        yield mount_point / "image"
    finally:
        subprocess.run(["umount", str(mount_point)], check=False, capture_output=True)  # noqa: S603, S607
        os.kill(server, signal.SIGTERM)
        os.waitpid(server, 0)


def _serve_and_exit(device: int, image: Path, record: Path, counter: Counter) -> None:
    status = 1
    try:
        with image.open("r+b") as opened, record.open("wb") as recorded:
            _serve(device, mmap.mmap(opened.fileno(), 0), recorded, counter)
    except OSError as error:
        # The folder was unmounted: nothing more comes.
        status = 0 if error.errno == errno.ENODEV else 1
    finally:
        os._exit(status)


def _serve(device: int, content: mmap.mmap, recorded: BinaryIO, counter: Counter) -> NoReturn:
    while True:
        request = os.read(device, _REQUEST_BYTES)
        _, call, unique, node, *_ = _IN.unpack_from(request)
        failure, answer, change = _perform(call, node, request[_IN.size :], content)
        if change:
            recorded.write(change)
            recorded.flush()
            counter.increase()
        if call not in _UNANSWERED:
            os.write(device, _OUT.pack(_OUT.size + len(answer), -failure, unique) + answer)


def _perform(  # noqa: C901 - one case for each thing the kernel asks
    call: int, node: int, body: bytes, content: mmap.mmap
) -> tuple[int, bytes, bytes]:
    """Do what the kernel asks for: an error number or 0, the answer, and what to record of it."""
    failure, answer, change = 0, b"", b""
    match call:
        case _Call.INIT:
            answer = _INIT_OUT.pack(7, 31, _MAX_WRITE, 0, 12, 9, _MAX_WRITE, 1, 0, 0, 0, *[0] * 7)
        case _Call.LOOKUP if body == b"image\0":
            answer = _ENTRY_OUT.pack(_IMAGE_NODE, 0, _FOR_EVER, _FOR_EVER, 0, 0)
            answer += _attributes(_IMAGE_NODE, len(content))
        case _Call.LOOKUP:
            failure = errno.ENOENT
        case _Call.GETATTR | _Call.SETATTR:
            answer = _ATTRIBUTES_OUT.pack(_FOR_EVER, 0, 0) + _attributes(node, len(content))
        case _Call.OPEN | _Call.OPENDIR:
            answer = bytes(16)
        case _Call.STATFS:
            answer = bytes(80)
        case _Call.FSYNC:
            change = RECORD.pack(FLUSHED, 0)
        case _Call.READ:
            _, offset, count, *_ = _TRANSFER.unpack_from(body)
            answer = content[offset : offset + count]
        case _Call.WRITE:
            _, offset, count, *_ = _TRANSFER.unpack_from(body)
            data = body[_TRANSFER.size : _TRANSFER.size + count]
            content[offset : offset + count] = data
            answer, change = struct.pack("<II", count, 0), RECORD.pack(offset, count) + data
        case _ if call not in _EMPTY_ANSWERS:
            failure = errno.ENOSYS
    return failure, answer, change


def _attributes(node: int, size: int) -> bytes:
    mode, length = (0o40755, 0) if node == _ROOT_NODE else (0o100600, size)
    return _ATTRIBUTES.pack(node, length, length // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


class Recording:
    """The requests that were recorded, and the image as it was at the beginning.

    Args:
        start: The image before anything was written.
        record: The file that ``recorded_image`` made.
    """

    def __init__(self, start: bytes, record: bytes) -> None:
        self.requests = list(_parsed(record))
        self._durable = bytearray(start)
        self._flushed = 0

    def after_power_cut(self, requests: int, dice: Random) -> bytearray:
        """An image that a power cut behind so many requests could leave. Their number must not shrink."""
        last = max((at for at in range(requests) if self.requests[at] is None), default=-1) + 1
        for request in self.requests[self._flushed : last]:
            if request is not None:
                _apply(self._durable, *request)
        self._flushed = last
        image = bytearray(self._durable)
        way, share = dice.choice(["all", "none", "writes", "sectors"]), dice.choice([0.1, 0.5, 0.9])
        for request in self.requests[last:requests]:
            if request is None or way == "none" or (way == "writes" and dice.random() > share):
                continue
            offset, data = request
            for start in range(0, len(data), SECTOR_BYTES):
                if way != "sectors" or dice.random() < share:
                    _apply(image, offset + start, data[start : start + SECTOR_BYTES])
        return image


def _parsed(record: bytes) -> Iterator[tuple[int, bytes] | None]:
    """Each write as its place and its bytes; None for a flush."""
    at = 0
    while at < len(record):
        offset, count = RECORD.unpack_from(record, at)
        at += RECORD.size
        yield None if offset == FLUSHED else (offset, record[at : at + count])
        at += count


def _apply(image: bytearray, offset: int, data: bytes) -> None:
    image[offset : offset + len(data)] = data
