"""Where a base is: its log, which may be at an address, and where weights and arrays lie.

    /data/base                                      the log in /data/base/events, for one host
    shared:///data/base                             the same folders, for many hosts
    s3://bucket/base                                all in a bucket
    s3://bucket/base?files=/data/base               the log in a bucket, weights and arrays in a folder
    postgresql://host/db?files=s3://bucket/base     the log in a database, weights and arrays in a bucket

``files=`` stands in the query of any address. An address in it has the options of the log's, where both
are of one kind and it has none of its own; if it has, its ``?`` and ``&`` are written as %xx. Snapshots of
the views lie in the folder of weights and arrays, but where the log is in a bucket: then they lie beside it,
and each host keeps some.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from eventstore import Address, cache_folder, is_address

LOG: str = "events"
"""The name of the log within a base."""

VIEWS: str = "views"
"""The folder of a base that holds the snapshot files."""

_BUCKETS = ("s3://", "gs://", "az://")


@dataclass(frozen=True)
class Location:
    """Where a base is; get one with ``Location.of``.

    Attributes:
        name: One text for each base: the absolute path, or the address.
        log: What ``EventLog.open`` takes.
        payloads: Where weights and arrays lie: a folder, or the address of a bucket.
        files: A folder of this host, for snapshots: that of weights and arrays, if they lie in one,
            otherwise one in the user's cache, of which all may be lost.
        is_local: Whether the log is for one host, in a folder of it.
    """

    name: str
    log: str | Path
    payloads: str | Path
    files: Path
    is_local: bool

    @classmethod
    def of(cls, given: str | os.PathLike[str]) -> Location:
        """The location that a path or an address means; a relative path is resolved now.

        Raises:
            ValueError: The address is not one that is known, or does not say where files lie.
        """
        text = os.fspath(given)
        if not is_address(text):
            root = Path(text).expanduser().resolve()
            return cls(str(root), root / LOG, root, root, is_local=True)
        address = Address.parse(text)
        options = dict(address.options)
        named = options.pop("files", None)
        payloads = _payloads(address, options, named)
        if isinstance(payloads, str):
            files = _folder_of_host(address.location)
            kept = {**options, **({"files": payloads} if named else {})}
        else:
            files = payloads
            kept = {**options, **({"files": str(files)} if named else {})}
        return cls(
            _with_query(address.location, kept),
            _with_query(address.inside(LOG), options),
            payloads,
            files,
            is_local=False,
        )

    @property
    def exists(self) -> bool:
        """False when the folder of a local base is gone."""
        return not self.is_local or Path(self.log).is_dir()

    @property
    def is_in_mongodb(self) -> bool:
        """Whether the log is in a MongoDB database, which then shows what is in view, too."""
        return not self.is_local and self.name.startswith(("mongodb://", "mongodb+srv://"))

    def secrets(self) -> dict[str, str]:
        """What the environment of a process that is started for this base must say beside its address."""
        if not self.is_in_mongodb:
            return {}
        from eventstore.storage.mongo import secrets_of

        return secrets_of(self.name)

    @property
    def views(self) -> Path:
        """The folder of snapshots of the views.

        Where the log is in a bucket they lie beside it, and this is where the host keeps some of them.
        """
        cache = cache_folder() if self.name.startswith(_BUCKETS) else None
        if cache is None:
            return self.files / VIEWS
        place = self.name.partition("?")[0]
        return cache / VIEWS / hashlib.sha256(place.encode()).hexdigest()[:32]

    def inside(self, name: str) -> str | Path:
        """The location of a store on this base, such as ``configs``."""
        if self.is_local:
            return self.files / name
        path, question, query = self.name.partition("?")
        return f"{path}/{name}{question}{query}"

    @property
    def shown(self) -> str:
        """What it is called in texts: the folder or the place in a bucket, in which no password is."""
        return self.payloads.partition("?")[0] if isinstance(self.payloads, str) else str(self.files)

    def spool_home(self, log_id: bytes) -> Path:
        """The folder of this host in which rows lie on their way to the log (``eventstore.spool``).

        That of a log for many hosts is in the user's state directory: who owns a spool is told by locks
        that hold on one host only.
        """
        if self.is_local:
            return Path(self.log)
        return _state_folder() / log_id.hex() / socket.gethostname()


def store_location(given: str | os.PathLike[str], folder: str) -> str | os.PathLike[str]:
    """The base of a store that is made on an address, where DaCapo's own would be ``<base>/<folder>``."""
    path, question, query = os.fspath(given).partition("?")
    return f"{path.rstrip('/').removesuffix(f'/{folder}')}{question}{query}"


def _payloads(address: Address, options: Mapping[str, str], named: str | None) -> str | Path:
    """Where weights and arrays lie: where ``files=`` says, otherwise beside the log."""
    if not named:
        if address.folder is not None:
            return address.folder
        if address.is_bucket:
            return _with_query(address.location, options)
        raise ValueError(
            f"{_without_user(address.location)} does not say where weights and arrays lie: add "
            "?files=/a/folder that the hosts share, or ?files=s3://bucket/prefix (a folder of this host is "
            "enough where only configs and stats are used)"
        )
    if not is_address(named):
        return Path(named).expanduser().resolve()
    place = Address.parse(named)
    if place.folder is not None and not place.options:
        return place.folder
    if not place.is_bucket:
        raise ValueError(
            f"files={place.scheme}://… is no place for weights and arrays: a folder is one, and so is an "
            "address that begins with s3://, gs:// or az://"
        )
    shared = options if place.scheme == address.scheme else {}
    return _with_query(place.location, place.options or shared)


def _folder_of_host(location: str) -> Path:
    """A folder of this host for a base that has none of its own; all in it may be made again."""
    name = hashlib.sha256(location.encode()).hexdigest()[:32]
    return (cache_folder() or _state_folder()) / "bases" / name


def _state_folder() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state).absolute() / "dacapo-store"


def _with_query(location: str, options: Mapping[str, str]) -> str:
    return f"{location}?{urlencode(options, safe='/:')}" if options else location


def _without_user(address: str) -> str:
    """For errors: what stands in front of the host may hold a password."""
    return re.sub(r"(?<=://)[^/]*@", "", address)
