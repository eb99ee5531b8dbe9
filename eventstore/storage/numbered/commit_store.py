"""What the adapter asks of an engine: create an object under a number, if there is none; read it back.

An engine keeps bytes and never looks into them. Every decision is the adapter's (``winning``): an
engine need not know whether it won, retry, or remember anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from eventstore.storage.protocol import SharedFiles


class UnclearError(Exception):
    """The engine did not answer, or not clearly: all may be as it was asked for, or nothing."""


class RefusedError(Exception):
    """The engine said no, and this very request has changed nothing: no room, no permission."""


class DerivedObjects(Protocol):
    """Objects that are derived from the commits: what is lost of them is made again.

    Attributes:
        has_blocks: Whether a request for each commit costs so much that small blocks are worth making.
    """

    @property
    def has_blocks(self) -> bool:
        """Whether small blocks are worth making."""

    def get(self, name: str) -> bytes | None:
        """The object of this name, or None.

        Raises:
            UnclearError: It could not be asked.
        """

    def get_many(self, names: Sequence[str]) -> Sequence[bytes | None]:
        """As ``get``, for several at once."""

    def put(self, name: str, data: bytes) -> None:
        """Keep an object; one that is there already has the same bytes.

        Raises:
            UnclearError: It may be kept or not.
            RefusedError: It is not.
        """

    def replace(self, name: str, data: bytes) -> None:
        """Keep an object, whatever was under its name: a hint, which nothing depends on.

        Raises:
            UnclearError: It may be kept or not.
            RefusedError: It is not.
        """


class CommitStore(Protocol):
    """An engine. All methods may be called from several threads.

    Attributes:
        address: Where it is, for people; without credentials.
        keys: What the objects of a log are numbered by: ``"numbers"`` counts them, from 0 on, and
            ``"positions"`` gives each the position of its first event (and the log's head -1).
        derived: Where derived objects are kept; None where the engine reads many commits at once as
            fast as one object.
        shared_files: Files that are derived from the log, for hosts that do not have them; None where
            hosts share their files anyway.
    """

    @property
    def address(self) -> str:
        """Where it is, for people; without credentials."""

    @property
    def keys(self) -> Literal["numbers", "positions"]:
        """What the objects of a log are numbered by."""

    @property
    def derived(self) -> DerivedObjects | None:
        """Where derived objects are kept, or None."""

    @property
    def shared_files(self) -> SharedFiles | None:
        """Files that are derived from the log, or None."""

    def check(self) -> None:
        """Make sure that ``create`` does what it says; called before the first one.

        Raises:
            UnsuitableStorageError: It does not.
            UnclearError: It could not be found out.
        """

    def create(self, key: int, data: bytes) -> bool:
        """Keep ``data`` under ``key``, durably, if nothing is there. Never changes what is there.

        Returns:
            True: it was created by this call. False: the engine says that something is there, or
            that others are about to create it (HTTP 409); what it is, ``read`` tells.

        Raises:
            UnclearError: It may have been created or not, or may yet be.
            RefusedError: This call has created nothing, and a repetition would fare no better.
        """

    def read(self, key: int, count: int) -> Sequence[bytes]:
        """The objects from ``key`` on, in order, without a gap, at most ``count``.

        Fewer only if nothing was behind the last of them. What a ``create`` that has returned put
        there, by whatever host, is seen.

        Raises:
            UnclearError: It could not be asked.
            OSError: It may not be read, and asking again would not help.
        """

    def settle(self) -> None:
        """Return once everything that ``read`` has given is durable.

        Raises:
            UnclearError: It cannot be known.
        """

    def wait(self, seconds: float) -> bool:
        """Wait for news, at most so long; True when there may be some. May wait without looking."""

    def after_fork(self) -> None:
        """Called in a forked child, at once: let go of what was inherited; make it anew on the next call."""

    def close(self) -> None:
        """Release everything that is held."""
