"""From an address to a storage adapter: a path, or ``shared://``, ``s3://`` and the like.

An engine's module, and the client that it needs, is imported when an address asks for it.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import parse_qsl

from eventstore.model import Progress, Verdict, no_progress
from eventstore.storage.local import SEGMENT_BYTES_MAX, LocalStorage
from eventstore.storage.local.verify import chain_value
from eventstore.storage.local.verify import verify_log as verify_local_log
from eventstore.storage.numbered import CACHE_BYTES_MAX, PATIENCE_SECONDS, CommitStore, NumberedStorage
from eventstore.storage.protocol import Storage
from eventstore.storage.shared import folder_of

if TYPE_CHECKING:
    from eventstore.storage.bucket import Bucket

CACHE_VARIABLE: Final = "DACAPO_STORE_CACHE"

_BUCKETS: Final = ("s3", "gs", "az")
_PATHS: Final = ("file://", "local://")
_SHARED_HEAD: Final = "log/00000000000000000000.arrow"


class Engine(NamedTuple):
    """An engine that is made when an address asks for it.

    Attributes:
        module: The module whose ``open_store`` makes it.
        has_folders: Whether a place within an address is an address, too.
    """

    module: str
    has_folders: bool


_ENGINES: Final = {
    "shared": Engine("eventstore.storage.shared", has_folders=True),
    "s3": Engine("eventstore.storage.objects", has_folders=True),
    "gs": Engine("eventstore.storage.objects", has_folders=True),
    "az": Engine("eventstore.storage.objects", has_folders=True),
    "mongodb": Engine("eventstore.storage.mongo", has_folders=False),
    "mongodb+srv": Engine("eventstore.storage.mongo", has_folders=False),
    "postgresql": Engine("eventstore.storage.postgres", has_folders=False),
}


class Address(NamedTuple):
    """An address in its parts.

    Attributes:
        scheme: What stands in front of ``://``, lower case.
        location: The address without its query.
        options: What its query says, by name.
    """

    scheme: str
    location: str
    options: Mapping[str, str]

    @classmethod
    def parse(cls, address: str) -> Address:
        """The parts of an address.

        Raises:
            ValueError: It has a scheme that is not known here; the text lists those.
        """
        scheme, _, _ = address.partition("://")
        if scheme.lower() not in _ENGINES:
            known = ", ".join(f"{name}://" for name in _ENGINES)
            # The address is not shown: it may have a password in it.
            raise ValueError(
                f"{scheme}:// is not known: expected a path, or an address that begins with one of {known}"
            )
        location, _, query = address.partition("#")[0].partition("?")
        try:
            options = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
        except ValueError:
            raise ValueError(
                "behind its '?' an address has name=value&name=value, with special characters as %xx"
            ) from None
        location = f"{scheme.lower()}://{location.partition('://')[2].rstrip('/')}"
        if scheme.lower() == "shared":
            location = f"shared://{folder_of(location)}"
        return cls(scheme.lower(), location, options)

    @property
    def is_bucket(self) -> bool:
        """Whether it is a place in a bucket."""
        return self.scheme in _BUCKETS

    @property
    def folder(self) -> Path | None:
        """The folder that it names, where it names one."""
        return folder_of(self.location) if self.scheme == "shared" else None

    def inside(self, name: str) -> str:
        """The address of a log of this name in here; of a database, which is one log, the database."""
        return f"{self.location}/{name}" if _ENGINES[self.scheme].has_folders else self.location


def is_address(path: str | os.PathLike[str]) -> bool:
    """Whether this is an address, and not a path; ``file://`` is a path."""
    return isinstance(path, str) and "://" in path and not path.startswith(_PATHS)


def cache_folder() -> Path | None:
    """Where this host keeps what it has read of logs that are elsewhere; None where that is switched off.

    ``DACAPO_STORE_CACHE`` names it, or says ``off``; otherwise it is in the user's cache directory.
    """
    named = os.environ.get(CACHE_VARIABLE, "").strip()
    if named.lower() in ("off", "none"):
        return None
    if named:
        return Path(named).expanduser().absolute()
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        return None  # a user without a home
    return Path(base).absolute() / "dacapo-store"


def open_storage(
    path: str | os.PathLike[str],
    *,
    read_only: bool,
    segment_bytes_max: int = SEGMENT_BYTES_MAX,
    options: Mapping[str, str],
) -> Storage:
    """The storage at a path or an address; see ``EventLog.open``."""
    if not is_address(path):
        if options:
            raise ValueError(
                f"a path takes no options, and {dict(options)} were given: they are for addresses"
            )
        folder = Path(path).expanduser().absolute()
        if (folder / _SHARED_HEAD).exists():
            raise FileExistsError(f"{folder} holds a log that hosts share: open it as shared://{folder}")
        return LocalStorage(folder, read_only=read_only, segment_bytes_max=segment_bytes_max)
    return _open_numbered(os.fspath(path), read_only=read_only, options=options)


def verify_log(
    path: str | os.PathLike[str], *, expect: str | None = None, progress: Progress = no_progress
) -> Verdict:
    """Check the log in a folder or at an address; also one that is too damaged to open.

    Args:
        path: The log's folder, e.g. ``<base>/events``, or its address.
        expect: A chain value that was noted earlier, as 64 hexadecimal digits. The verdict says at
            which position the history has it: ``Verdict.expected_at``.
        progress: Told of the segments that were read, in a folder.

    Raises:
        LogNotFoundError: There is none.
        StorageUnavailableError: The storage at an address does not answer.
        ValueError: ``expect`` is no chain value.
    """
    if not is_address(path):
        return verify_local_log(path, expect=expect, progress=progress)
    expected = None if expect is None else chain_value(expect)
    with closing(_open_numbered(os.fspath(path), read_only=True, options={})) as storage:
        return storage.verify(expect=expected)


def compact_log(address: str) -> int:
    """Make the compacted segments of the log at an address that are not there yet.

    They are made by writers, too, as the log grows. Readers who have not read the log before need them.

    Returns:
        How many were made.

    Raises:
        DamagedLogError: A commit is not as it was written.
        LogNotFoundError: There is no log at the address.
        StorageUnavailableError: The storage does not answer.
    """
    with closing(_open_numbered(address, read_only=True, options={})) as storage:
        return storage.compact()


def open_store(address: Address, *, read_only: bool) -> CommitStore:
    """The engine that keeps the commits at an address."""
    opens: Callable[..., CommitStore] = importlib.import_module(_ENGINES[address.scheme].module).open_store
    return opens(address.location, options=address.options, read_only=read_only)


def open_bucket(address: str) -> Bucket:
    """The files at an ``s3://``, ``gs://`` or ``az://`` address, for what lies beside a log.

    Nothing is asked of the store yet.

    Raises:
        ValueError: The address names no bucket, or an option is not known; the text lists those.
    """
    from eventstore.storage.bucket import Bucket

    parts = Address.parse(address)
    if not parts.is_bucket:
        raise ValueError(f"{parts.scheme}:// is no bucket: files are kept in one of s3://, gs://, az://")
    options = dict(parts.options)
    patience_seconds = _number(options, "patience_seconds", PATIENCE_SECONDS)
    options.pop("cache_bytes_max", None)
    return Bucket(parts.location, options, patience_seconds=patience_seconds)


def _open_numbered(address: str, *, read_only: bool, options: Mapping[str, str]) -> NumberedStorage:
    parts = Address.parse(address)
    merged = {**parts.options, **options}
    patience_seconds = _number(merged, "patience_seconds", PATIENCE_SECONDS)
    cache_bytes_max = int(_number(merged, "cache_bytes_max", CACHE_BYTES_MAX))
    return NumberedStorage(
        open_store(parts._replace(options=merged), read_only=read_only),
        read_only=read_only,
        patience_seconds=patience_seconds,
        cache=cache_folder(),
        cache_bytes_max=cache_bytes_max,
    )


def _number(options: dict[str, str], name: str, default: float) -> float:
    text = options.pop(name, None)
    if text is None:
        return default
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < math.inf:
        raise ValueError(f"the option {name} of an address is a number not below 0, and not {text!r}")
    return number
