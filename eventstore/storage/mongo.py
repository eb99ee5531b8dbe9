"""The engine for MongoDB: a commit is a document whose ``_id`` is the position of its first event.

Every database of MongoDB keeps ``_id`` unique, so of several writers one wins. Writes are acknowledged
by a majority, journaled; reads go to the primary and see only what a majority has, so what was read or
acknowledged survives any failover.

pymongo's own repetition of writes is switched off: a refusal must speak of the one request that was
made, and not of the second of two, of which the first may yet arrive. The adapter repeats by its rules.

    event_log          {_id: position, data: bytes} or, of what a document cannot hold, {_id, digest}
    event_log_parts    {_id: digest/number, data: bytes}, there before the commit that needs them

Nothing else imports pymongo: what others need of it they take from here. A client is shared by all that
use an address in a process, and made anew in a forked child.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from bson import Binary, Int64
from bson.errors import InvalidDocument
from pymongo import MongoClient, ReadPreference, ReplaceOne, WriteConcern
from pymongo.errors import (
    ConfigurationError,
    DuplicateKeyError,
    OperationFailure,
    PyMongoError,
    WriteConcernError,
    WriteError,
)
from pymongo.read_concern import ReadConcern
from pymongo.uri_parser import split_options

from eventstore.errors import StorageUnavailableError, UnsuitableStorageError
from eventstore.storage.numbered import RefusedError, UnclearError

if TYPE_CHECKING:
    from pymongo.change_stream import CollectionChangeStream
    from pymongo.collection import Collection
    from pymongo.database import Database

Document = dict[str, Any]

__all__ = [
    "Connection",
    "DuplicateKeyError",
    "InvalidDocument",
    "MongoCommits",
    "PyMongoError",
    "ReplaceOne",
    "WriteError",
    "answered",
    "database_address",
    "open_store",
    "secrets_of",
]

COLLECTION: Final = "event_log"
PASSWORD_VARIABLE: Final = "MONGODB_PASSWORD"  # noqa: S105 - its name
"""The environment variable with the password of the user that an address names."""

_NOT_MONGODBS: Final = frozenset({"collection", "patience_seconds", "cache_bytes_max"})
_HEAD: Final = -1
_PART_BYTES: Final = 8 << 20
_DEFAULTS: Final = {
    "appName": "dacapo-store",
    "connectTimeoutMS": "5000",
    "serverSelectionTimeoutMS": "5000",
    "socketTimeoutMS": "30000",
}
_ACKNOWLEDGED_SECONDS: Final = 20

# Errors after which a repetition would fare no better, and this very request has changed nothing.
_REFUSALS: Final = frozenset(
    {
        2,  # BadValue
        13,  # Unauthorized
        18,  # AuthenticationFailed
        20,  # IllegalOperation
        59,  # CommandNotFound
        72,  # InvalidOptions
        73,  # InvalidNamespace
        121,  # DocumentValidationFailure
        166,  # CommandNotSupportedOnView
        8000,  # AtlasError: over the quota, not allowed
        10334,  # BSONObjectTooLarge
        14031,  # OutOfDiskSpace
    }
)
_UNAUTHORIZED: Final = 13
# No replica set; a stage or a command that is not known, as on servers that only resemble MongoDB; no right.
_NO_CHANGE_STREAMS: Final = frozenset({_UNAUTHORIZED, 40573, 40324, 59, 9, 303})


def open_store(location: str, *, options: Mapping[str, str], read_only: bool) -> MongoCommits:
    """The engine of a ``mongodb://`` address: ``mongodb://host/database``.

    Args:
        location: The address without its query.
        options: ``collection``, and whatever MongoDB's connection strings know.
        read_only: Not asked: nothing is made before the first commit.

    Raises:
        ValueError: The address names no database, or an option is not known.
    """
    del read_only
    rest = dict(options)
    name = rest.pop("collection", COLLECTION)
    return MongoCommits(Connection(location, rest), name)


def database_address(host: str, name: str) -> str:
    """The address of a database on a server that is given as MongoDB's own clients take it.

    A password in it does not stand in the address, which is shown and cited: it is kept in this process.

    Args:
        host: ``localhost``, ``host:port``, or a connection string.
        name: The database.
    """
    parts = urlsplit(host if "://" in host else f"mongodb://{host}")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    user, _, hosts = parts.netloc.rpartition("@")
    if user and "authsource" not in map(str.lower, query):
        # Without a word, a connection string's database is where its user is known.
        query["authSource"] = unquote(parts.path.strip("/")) or "admin"
    user, _, password = user.partition(":")
    netloc = f"{user}@{hosts}" if user else hosts
    if password:
        _passwords[netloc] = unquote(password)
    return urlunsplit(parts._replace(netloc=netloc, path=f"/{quote(name, safe='')}", query=urlencode(query)))


def secrets_of(address: str) -> dict[str, str]:
    """What the environment of a process must say, beside the address, to be let in as this process is."""
    password = _passwords.get(urlsplit(address).netloc)
    return {} if password is None else {PASSWORD_VARIABLE: password}


@contextlib.contextmanager
def answered(address: str) -> Iterator[None]:
    """Questions to a database; what goes wrong is told as errors of the log are.

    Raises:
        StorageUnavailableError: The database does not answer, or refuses.
    """
    try:
        yield
    except PyMongoError as error:
        raise StorageUnavailableError(
            f"{address} does not answer: {error}. Try again", path=address
        ) from error


class Connection:
    """A database at an address, by the client that this process has for it.

    Args:
        location: ``mongodb://…/database``, with or without a query.
        options: What else belongs in the query.

    Attributes:
        address: The address for people: without credentials and options.

    Raises:
        ValueError: The address names no database, or an option is not known.
    """

    def __init__(self, location: str, options: Mapping[str, str] | None = None) -> None:
        parts = urlsplit(location)
        self._name = unquote(parts.path.strip("/"))
        hosts = parts.netloc.rpartition("@")[2]
        self.address = f"{parts.scheme}://{hosts}/{self._name}"
        if not self._name or "/" in self._name:
            raise ValueError(f"{self.address} names no database: expected {parts.scheme}://host/database")
        given = {**dict(parse_qsl(parts.query)), **(options or {})}
        lower = {name.lower() for name in given}
        if parts.password is not None or "tlscertificatekeyfilepassword" in lower:
            raise ValueError(
                f"{self.address}: an address has no password in it, because addresses are shown and cited. "
                f"Give that of the user in {PASSWORD_VARIABLE}"
            )
        query = urlencode({**{k: v for k, v in _DEFAULTS.items() if k.lower() not in lower}, **given})
        try:
            split_options(query, warn=False)
        except (PyMongoError, ValueError) as error:
            raise ValueError(f"{self.address}: {error}") from error
        self._user = unquote(parts.username) if parts.username else None
        self._password = _passwords.get(parts.netloc) or os.environ.get(PASSWORD_VARIABLE)
        self._uri = urlunsplit(parts._replace(netloc=hosts, query=query))
        self._key = (self._uri, self._user, self._password)
        self._open = True
        with _lock:
            _users[self._key] = _users.get(self._key, 0) + 1

    @classmethod
    def at(cls, address: str) -> Connection:
        """The database in which the log at an address is."""
        parts = urlsplit(address)
        options = {name: value for name, value in parse_qsl(parts.query) if name not in _NOT_MONGODBS}
        return cls(urlunsplit(parts._replace(query="")), options)

    @property
    def client(self) -> MongoClient[Document]:
        """The client, which connects when it is first used.

        Raises:
            ValueError: The address is not one that pymongo can use.
        """
        with _lock:
            client = _clients.get(self._key)
            if client is None:
                try:
                    client = MongoClient(
                        self._uri,
                        retryWrites=False,
                        username=self._user,
                        password=self._password if self._user else None,
                    )
                except (ConfigurationError, ValueError) as error:
                    raise ValueError(f"{self.address}: {error}") from error
                _clients[self._key] = client
            return client

    @property
    def database(self) -> Database[Document]:
        """The database, as the address says how to use it."""
        return self.client[self._name]

    def collection(self, name: str) -> Collection[Document]:
        """A collection in which what is written and read survives a failover, whatever the address says."""
        return self.database.get_collection(
            name,
            read_preference=ReadPreference.PRIMARY,
            write_concern=WriteConcern("majority", j=True, wtimeout=_ACKNOWLEDGED_SECONDS * 1000),
            read_concern=ReadConcern("majority"),
        )

    def derived(self, name: str) -> Collection[Document]:
        """A collection that can be made again, so that nobody waits for the majority."""
        return self.database.get_collection(
            name, read_preference=ReadPreference.PRIMARY, write_concern=WriteConcern(1)
        )

    def close(self) -> None:
        """Give the client back; the last one to do so closes it."""
        with _lock:
            if not self._open:
                return
            self._open = False
            _users[self._key] -= 1
            client = None if _users[self._key] else _clients.pop(self._key, None)
        if client is not None:
            client.close()


class MongoCommits:
    """Commits in the documents of a collection.

    Args:
        connection: The database.
        name: The collection.
    """

    keys: Literal["positions"] = "positions"
    derived = None
    shared_files = None

    def __init__(self, connection: Connection, name: str = COLLECTION) -> None:
        self.address = connection.address
        self._connection = connection
        self._name = name
        self._is_alone: bool | None = None
        self._has_changes = True
        self._followers = threading.local()

    def check(self) -> None:
        """Refuse a collection that forgets, or in which ``_id`` need not be unique.

        Raises:
            UnsuitableStorageError: It is one, or the server does not let anybody in by this address.
        """
        found: list[Any] = []
        try:
            with self._asked():
                found = list(self._connection.database.list_collections(filter={"name": self._name}))
        except PermissionError as error:
            cause = error.__cause__
            if not isinstance(cause, OperationFailure) or cause.code != _UNAUTHORIZED:
                raise UnsuitableStorageError(str(error), path=self.address) from error
            # A role that may do no more than append and read will do.
        for each in found:
            kind = "capped collection" if each.get("options", {}).get("capped") else each.get("type")
            if kind not in (None, "collection"):
                raise UnsuitableStorageError(
                    f"{self.address}: {self._name} is a {kind}, which cannot keep a log. Name another "
                    "collection (?collection=) or another database",
                    path=self.address,
                )

    def create(self, key: int, data: bytes) -> bool:
        """See ``CommitStore.create``."""
        with self._told():
            document: Document = {"_id": Int64(key)}
            if len(data) <= _PART_BYTES:
                document["data"] = Binary(data)
            else:
                document["digest"] = self._put_parts(data)
            try:
                self._commits.insert_one(document)
            except DuplicateKeyError:
                if "digest" in document:
                    self._remove_parts_in_vain(key, document["digest"])
                return False
            return True

    def read(self, key: int, count: int) -> Sequence[bytes]:
        """See ``CommitStore.read``."""
        found: list[bytes] = []
        with self._asked():
            wanted = {"_id": Int64(key)} if count == 1 else {"_id": {"$gte": Int64(key)}}
            with self._commits.find(wanted, sort=[("_id", 1)], limit=count) as documents:
                for document in documents:
                    if not found and document["_id"] != key:
                        break
                    found.append(self._data(document))
        return found

    def settle(self) -> None:
        """What a majority has is durable; a server that stands alone is made to write its journal.

        It does so before it answers a journaled write, also to one that changes nothing.
        """
        try:
            with self._asked():
                if self._is_alone is None:
                    hello = self._connection.client.admin.command("hello")
                    self._is_alone = "setName" not in hello and hello.get("msg") != "isdbgrid"
                if self._is_alone:
                    with contextlib.suppress(DuplicateKeyError):
                        self._commits.insert_one({"_id": Int64(_HEAD)})
        except PermissionError as error:
            raise UnclearError(str(error)) from error

    def wait(self, seconds: float) -> bool:
        """Listen to a change stream, where the server has them; otherwise wait without looking."""
        if self._has_changes:
            try:
                stream = getattr(self._followers, "stream", None)
                if stream is None:
                    # What came before the stream began is found by looking once.
                    self._followers.stream = self._changes(seconds)
                    return True
                return stream.try_next() is not None
            except PyMongoError as error:
                self._followers.stream = None
                if isinstance(error, OperationFailure) and error.code in _NO_CHANGE_STREAMS:
                    self._has_changes = False
        time.sleep(seconds)
        return True

    def after_fork(self) -> None:
        """The client is made anew; what the parent listens to stays the parent's."""
        _inherited.append(self._followers)
        self._followers = threading.local()

    def close(self) -> None:
        """Give the client back."""
        self._connection.close()

    @property
    def _commits(self) -> Collection[Document]:
        return self._connection.collection(self._name)

    @property
    def _parts(self) -> Collection[Document]:
        return self._connection.collection(f"{self._name}_parts")

    def _changes(self, seconds: float) -> CollectionChangeStream[Document]:
        pipeline: list[Document] = [
            {"$match": {"operationType": "insert"}},
            {"$project": {"_id": 1, "operationType": 1}},
        ]
        return self._commits.watch(pipeline, max_await_time_ms=max(int(seconds * 1000), 1))

    # --- what is larger than a document

    def _put_parts(self, data: bytes) -> str:
        """Keep data in parts that are named by its digest, so that a repetition finds its own."""
        digest = hashlib.sha256(data).hexdigest()
        for number, start in enumerate(range(0, len(data), _PART_BYTES)):
            name = f"{digest}/{number:04d}"
            try:
                self._parts.insert_one({"_id": name, "data": Binary(data[start : start + _PART_BYTES])})
            except DuplicateKeyError:
                # It may stand on a primary only that loses it together with its office.
                if self._parts.find_one({"_id": name}, {"_id": 1}) is None:
                    raise UnclearError(
                        f"a part of the commit is not kept by a majority yet ({name})"
                    ) from None
        return digest

    def _remove_parts_in_vain(self, key: int, digest: str) -> None:
        """Take away the parts of a commit whose place another has won: it can never be made again."""
        with contextlib.suppress(PyMongoError):
            winner = self._commits.find_one({"_id": Int64(key)}, {"digest": 1})
            if winner is not None and winner.get("digest") != digest:
                self._parts.delete_many(_parts_of(digest))

    def _data(self, document: Document) -> bytes:
        if "data" in document:
            return bytes(document["data"])
        with self._parts.find(_parts_of(str(document.get("digest"))), sort=[("_id", 1)]) as parts:
            return b"".join(bytes(part["data"]) for part in parts)

    # --- errors

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except InvalidDocument as error:
            raise RefusedError(str(error)) from error
        except OperationFailure as error:
            # A write that a majority has not acknowledged is there all the same.
            if error.code in _REFUSALS and not isinstance(error, WriteConcernError):
                raise RefusedError(str(error)) from error
            raise UnclearError(str(error)) from error
        except PyMongoError as error:
            raise UnclearError(str(error)) from error

    @contextlib.contextmanager
    def _asked(self) -> Iterator[None]:
        try:
            yield
        except OperationFailure as error:
            if error.code in _REFUSALS:
                raise PermissionError(f"{self.address} may not be read: {error}") from error
            raise UnclearError(str(error)) from error
        except PyMongoError as error:
            raise UnclearError(str(error)) from error


def _parts_of(digest: str) -> Document:
    """The filter of the parts of this digest: ``0`` is the character behind ``/``."""
    return {"_id": {"$gte": f"{digest}/", "$lt": f"{digest}0"}}


_Key = tuple[str, str | None, str | None]
_lock = threading.Lock()
_clients: dict[_Key, MongoClient[Document]] = {}
_users: dict[_Key, int] = {}
_passwords: dict[str, str] = {}
_inherited: list[Any] = []


def _forget_parent() -> None:
    """A client of the parent shares its sockets: it must not be used here, nor closed."""
    global _lock  # noqa: PLW0603 - a thread of the parent may have held it
    _lock = threading.Lock()
    _inherited.append(dict(_clients))
    _clients.clear()


os.register_at_fork(after_in_child=_forget_parent)
