"""Event ids: new ones in the order of time, and derived ones that recognise a repetition.

Both are RFC 9562 UUIDs. ``uuid7`` never gives one id twice, in whatever thread or forked process,
and grows within a process even when the clock goes back. ``derived_id`` is a pure function: the
same parts give the same id on every machine, for ever, so its bytes are part of the log's format.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from array import array
from typing import Final
from uuid import UUID

_VERSION_7: Final = 7 << 76
_VERSION_8: Final = 8 << 76
_VARIANT: Final = 0b10 << 62
_LOW_62: Final = (1 << 62) - 1
_RANDOM_BITS: Final = 74
_RANDOM_BYTES: Final = 14
_STEP_BYTES: Final = 4
_KEPT_BYTES: Final = 1024
_LOW_74: Final = (1 << _RANDOM_BITS) - 1

assert array("I").itemsize == _STEP_BYTES, "a step is an unsigned int of the machine"


class _Clock:
    """The last number given out: milliseconds, then 74 random bits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0
        self._kept = b""
        self._kept_at = 0

    def tick(self, count: int) -> list[bytes]:
        """As many ids, at least one, each greater than every one before."""
        now = time.time_ns() // 1_000_000 << _RANDOM_BITS
        with self._lock:
            bits = int.from_bytes(self._random(_RANDOM_BYTES))
            number = now | bits & _LOW_74
            if number <= self._last:
                # Used within a millisecond: a random step, so that no id can be told from the one before.
                number = self._last + 1 + (bits >> 80)
            numbers = [number]
            if count > 1:
                for step in array("I", self._random(_STEP_BYTES * (count - 1))):
                    number += 1 + step
                    numbers.append(number)
            self._last = number
        return [
            (
                number >> 74 << 80 | (number >> 62 & 0xFFF) << 64 | _VERSION_7 | _VARIANT | number & _LOW_62
            ).to_bytes(16)
            for number in numbers
        ]

    def _random(self, count: int) -> bytes:
        """Random bytes that nobody had yet. The system call takes as long for many as for a few."""
        if self._kept_at + count > len(self._kept):
            self._kept, self._kept_at = os.urandom(count + _KEPT_BYTES), 0
        start = self._kept_at
        self._kept_at = start + count
        return self._kept[start : self._kept_at]

    def forget(self) -> None:
        """Begin anew in a forked child: the parent goes on from the same number and the same random bytes.

        The lock is new because a thread that does not exist here may have held it.
        """
        self.__init__()  # type: ignore[misc]


_clock = _Clock()
os.register_at_fork(after_in_child=_clock.forget)


def uuid7() -> UUID:
    """Make a new id, greater than every one that this process has made before.

    The first 48 bits are the time in milliseconds, or the last id's where the clock has gone
    back; the rest is random.
    """
    return UUID(bytes=_clock.tick(1)[0])


def new_ids(count: int) -> list[bytes]:
    """The 16 bytes of as many new ids, as ``uuid7`` makes them; a UUID object takes longer to make."""
    return _clock.tick(count) if count else []


def derived_id(*parts: bytes | str | int) -> UUID:
    """Make the id that stands for these parts: a version 8 UUID out of their SHA-256.

    Each part is hashed as its kind (``b``, ``s`` or ``i``), the length of its bytes as an unsigned
    64-bit little-endian number, and its bytes: strings as UTF-8, ints as decimal digits. So no two
    lists of parts run into each other, and ``1``, ``"1"`` and ``b"1"`` differ. The first 128 bits of
    the digest become the id, with version and variant set.

    Raises:
        UnicodeEncodeError: A string holds half of a surrogate pair; escape it first.
    """
    digest = hashlib.sha256()
    for part in parts:
        kind, content = _part_bytes(part)
        digest.update(kind + len(content).to_bytes(8, "little") + content)
    number = int.from_bytes(digest.digest()[:16])
    number &= ~(0xF << 76 | 0b11 << 62)
    return UUID(int=number | _VERSION_8 | _VARIANT)


def _part_bytes(part: bytes | str | int) -> tuple[bytes, bytes]:
    if isinstance(part, bytes):
        return b"b", part
    if isinstance(part, str):
        return b"s", part.encode()
    return b"i", str(int(part)).encode()
