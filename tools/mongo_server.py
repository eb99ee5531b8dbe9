"""A MongoDB server for tests, where there is none: today's wire protocol in front of mongomock.

It speaks to the real pymongo over a socket and does one command at a time, so that many threads and
processes can share it. Every command can be intercepted: answered with an error, lost, done without
an answer, or done later. It keeps what it is given in memory, and knows as much of MongoDB as the
log and the stores ask of it; about speed, elections and disks it says nothing.

    python -m tools.mongo_server        prints its address and serves until it is interrupted
"""

# ruff: noqa: N802, N815 - commands are called as MongoDB calls them
from __future__ import annotations

import contextlib
import itertools
import socket
import socketserver
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Final, Self

import bson
import mongomock
from mongomock import DuplicateKeyError

Document = dict[str, Any]

_HEADER: Final = struct.Struct("<iiii")
_OP_REPLY, _OP_QUERY, _OP_MSG = 1, 2004, 2013
_DOCUMENT_BYTES_MAX: Final = 16 << 20
_FIRST_BATCH: Final = 101
_WRITES: Final = frozenset({"insert", "update", "delete", "findAndModify"})

DUPLICATE_KEY: Final = 11000
NOT_A_REPLICA_SET: Final = 40573


class Fault(Enum):
    """What happens to a command instead of its answer."""

    LOSE_REQUEST = auto()
    LOSE_ANSWER = auto()
    LATE = auto()


Intercept = Callable[[str, Document], Fault | Mapping[str, Any] | None]
"""Gets a command's name and the command; None lets it pass, a document is the answer to it."""


@dataclass
class Data:
    """What servers of one replica set have in common."""

    client: Any = field(default_factory=mongomock.MongoClient)
    news: threading.Condition = field(default_factory=threading.Condition)
    inserted: list[tuple[str, Any]] = field(default_factory=list)
    answered: dict[tuple[bytes, int], Document] = field(default_factory=dict)


class MongoServer:
    """One server; a context manager.

    Args:
        replica_set: Call itself the primary of a replica set, which has change streams and
            retryable writes.
        data: What it serves; shared by the servers of a set.
        late_seconds: How long a command of fault ``LATE`` is under way.

    Attributes:
        address: Host and port.
        intercept: What may meet a command on its way.
        commands: The names of the commands that came, the last ones.
        primary: False makes it refuse what only a primary takes.
    """

    def __init__(
        self, *, replica_set: bool = False, data: Data | None = None, late_seconds: float = 0.05
    ) -> None:
        self.data = data or Data()
        self.intercept: Intercept | None = None
        self.commands: deque[tuple[str, Document]] = deque(maxlen=10_000)
        self.primary = True
        self.set_hosts: list[str] = []
        self._replica_set = replica_set
        self._late_seconds = late_seconds
        self._cursors: dict[int, Iterator[Document]] = {}
        self._streams: dict[int, tuple[str, int]] = {}
        self._numbers = itertools.count(1)
        self._late: list[threading.Thread] = []
        self._listener = _Listener(("127.0.0.1", 0), _Connection)
        self._listener.mongo = self
        host, port = self._listener.server_address[:2]
        self.address = f"{host!s}:{port}"
        self._thread = threading.Thread(
            target=self._listener.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        self._thread.start()

    @property
    def uri(self) -> str:
        """The address for a client."""
        return (
            f"mongodb://{self.address}/?{'replicaSet=rs' if self._replica_set else 'directConnection=true'}"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop serving and cut every connection."""
        self._listener.shutdown()
        self._listener.server_close()
        self._listener.cut()
        self.arrive()
        self._thread.join()

    def cut(self) -> None:
        """Cut every connection that there is."""
        self._listener.cut()

    def arrive(self) -> None:
        """Wait until nothing is on its way any more."""
        for sender in self._late:
            sender.join()

    # --- commands

    def answer(self, command: Document) -> Document | None:
        """The answer to a command; None when the connection is to be cut."""
        name = next(iter(command))
        if name.lower() in ("hello", "ismaster"):
            return self._hello()
        self.commands.append((name, command))
        action = self.intercept(name, command) if self.intercept is not None else None
        match action:
            case Fault.LOSE_REQUEST:
                return None
            case Fault.LATE:
                sender = threading.Thread(target=self._do_late, args=(name, command))
                self._late.append(sender)
                sender.start()
                return None
            case Fault.LOSE_ANSWER:
                self._do(name, command)
                return None
            case None:
                return self._do(name, command)
            case _:
                return {"ok": 0.0, **action} if "code" in action else {"ok": 1.0, **action}

    def _do_late(self, name: str, command: Document) -> None:
        time.sleep(self._late_seconds)
        self._do(name, command)

    def _hello(self) -> Document:
        reply: Document = {
            "helloOk": True,
            "ismaster": self.primary,
            "isWritablePrimary": self.primary,
            "maxBsonObjectSize": _DOCUMENT_BYTES_MAX,
            "maxMessageSizeBytes": 48_000_000,
            "maxWriteBatchSize": 100_000,
            "minWireVersion": 0,
            "maxWireVersion": 21,
            "ok": 1.0,
        }
        if self._replica_set:
            reply |= {
                "setName": "rs",
                "secondary": not self.primary,
                "hosts": self.set_hosts or [self.address],
                "me": self.address,
                "logicalSessionTimeoutMinutes": 30,
            }
        return reply

    def _do(self, name: str, command: Document) -> Document:
        if not self.primary and name not in ("ping", "endSessions"):
            return error(10107, "NotWritablePrimary", "not primary")
        handler = getattr(self, f"_{name}", None)
        if handler is None:
            return error(59, "CommandNotFound", f"no such command: {name!r}")
        number = command.get("txnNumber")
        if name == "getMore":
            return self._getMore(command)
        with self.data.news:
            if number is None:
                try:
                    return dict(handler(command))
                except (mongomock.OperationFailure, NotImplementedError) as problem:
                    return error(238, "NotImplemented", f"mongomock: {problem}")
            # A retried write is recognised by its number, and answered as it was before.
            key = (bytes(command["lsid"]["id"]), int(number))
            if key not in self.data.answered:
                self.data.answered[key] = dict(handler(command))
            return self.data.answered[key]

    def _collection(self, command: Document, name: str) -> Any:
        return self.data.client[command["$db"]][command[name]]

    def _ping(self, _: Document) -> Document:
        return {"ok": 1.0}

    _endSessions = _killCursors = _ping

    def _insert(self, command: Document) -> Document:
        collection = self._collection(command, "insert")
        errors, count = [], 0
        for place, document in enumerate(command["documents"]):
            try:
                collection.insert_one(document)
            except DuplicateKeyError as problem:
                errors.append({"index": place, "code": DUPLICATE_KEY, "errmsg": f"E11000 {problem}"})
                if command.get("ordered", True):
                    break
            else:
                count += 1
                self.data.inserted.append((f"{command['$db']}.{command['insert']}", document["_id"]))
        self.data.news.notify_all()
        return {"n": count, **({"writeErrors": errors} if errors else {}), "ok": 1.0}

    def _update(self, command: Document) -> Document:
        collection = self._collection(command, "update")
        count, upserted = 0, []
        for place, each in enumerate(command["updates"]):
            query, change, upsert = each["q"], each["u"], each.get("upsert", False)
            try:
                if not next(iter(change), "$").startswith("$"):
                    result = collection.replace_one(query, change, upsert=upsert)
                elif each.get("multi"):
                    result = collection.update_many(query, change, upsert=upsert)
                else:
                    result = collection.update_one(query, change, upsert=upsert)
            except DuplicateKeyError as problem:
                text = {"index": place, "code": DUPLICATE_KEY, "errmsg": f"E11000 {problem}"}
                return {"n": count, "nModified": count, "writeErrors": [text], "ok": 1.0}
            count += max(result.matched_count, result.upserted_id is not None)
            if result.upserted_id is not None:
                upserted.append({"index": place, "_id": result.upserted_id})
        return {"n": count, "nModified": count, **({"upserted": upserted} if upserted else {}), "ok": 1.0}

    def _delete(self, command: Document) -> Document:
        collection = self._collection(command, "delete")
        count = 0
        for each in command["deletes"]:
            delete = collection.delete_one if each["limit"] else collection.delete_many
            count += delete(each["q"]).deleted_count
        return {"n": count, "ok": 1.0}

    def _findAndModify(self, command: Document) -> Document:
        collection = self._collection(command, "findAndModify")
        found = collection.find_one_and_update(
            command["query"],
            command["update"],
            upsert=command.get("upsert", False),
            return_document=command.get("new", False),
        )
        return {"value": found, "ok": 1.0}

    def _find(self, command: Document) -> Document:
        found = self._collection(command, "find").find(
            command.get("filter", {}),
            command.get("projection") or None,
            sort=list(command["sort"].items()) if command.get("sort") else None,
            limit=command.get("limit", 0),
        )
        namespace = f"{command['$db']}.{command['find']}"
        return self._batch(iter(list(found)), namespace, command.get("batchSize", _FIRST_BATCH), "firstBatch")

    def _count(self, command: Document) -> Document:
        return {"n": self._collection(command, "count").count_documents(command.get("query", {})), "ok": 1.0}

    def _getMore(self, command: Document) -> Document:
        number, namespace = command["getMore"], f"{command['$db']}.{command['collection']}"
        if number in self._streams:
            return self._changes(number, command.get("maxTimeMS", 1000) / 1000)
        with self.data.news:
            rest = self._cursors.pop(number)
            return self._batch(rest, namespace, command.get("batchSize", 1 << 30), "nextBatch", number)

    def _batch(
        self, rest: Iterator[Document], namespace: str, count: int, name: str, number: int | None = None
    ) -> Document:
        batch: list[Document] = []
        size = 0
        for document in rest:
            batch.append(document)
            size += len(bson.encode(document))
            if len(batch) >= count or size >= _DOCUMENT_BYTES_MAX:
                break
        following = next(rest, None)
        cursor = 0
        if following is not None:
            cursor = number or next(self._numbers)
            self._cursors[cursor] = itertools.chain([following], rest)
        return {"cursor": {"id": bson.Int64(cursor), "ns": namespace, name: batch}, "ok": 1.0}

    def _aggregate(self, command: Document) -> Document:
        namespace = f"{command['$db']}.{command['aggregate']}"
        if "$changeStream" not in next(iter(command["pipeline"]), {}):
            found = self._collection(command, "aggregate").aggregate(command["pipeline"])
            return self._batch(iter(list(found)), namespace, _FIRST_BATCH, "firstBatch")
        if not self._replica_set:
            return error(
                NOT_A_REPLICA_SET,
                "Location40573",
                "The $changeStream stage is only supported on replica sets",
            )
        number = next(self._numbers)
        token = command["pipeline"][0]["$changeStream"].get("resumeAfter")
        seen = int(token["_data"], 16) if token else len(self.data.inserted)
        self._streams[number] = namespace, seen
        cursor = {"id": bson.Int64(number), "ns": namespace, "firstBatch": []}
        return {"cursor": {**cursor, "postBatchResumeToken": {"_data": f"{seen:08x}"}}, "ok": 1.0}

    def _changes(self, number: int, seconds: float) -> Document:
        namespace, seen = self._streams[number]
        deadline = time.monotonic() + seconds
        with self.data.news:
            while len(self.data.inserted) == seen and time.monotonic() < deadline:
                self.data.news.wait(max(deadline - time.monotonic(), 0))
            new = self.data.inserted[seen:]
            self._streams[number] = namespace, seen + len(new)
        changes = [
            {"_id": {"_data": f"{place:08x}"}, "operationType": "insert", "documentKey": {"_id": key}}
            for place, (there, key) in enumerate(new, seen + 1)
            if there == namespace
        ]
        token = {"_data": f"{seen + len(new):08x}"}
        cursor = {"id": bson.Int64(number), "ns": namespace, "nextBatch": changes}
        return {"cursor": {**cursor, "postBatchResumeToken": token}, "ok": 1.0}

    def _createIndexes(self, command: Document) -> Document:
        collection = self._collection(command, "createIndexes")
        for each in command["indexes"]:
            collection.create_index(
                list(each["key"].items()), name=each["name"], unique=each.get("unique", False)
            )
        return {"ok": 1.0}

    def _listIndexes(self, command: Document) -> Document:
        known = self._collection(command, "listIndexes").index_information()
        found = [
            {
                "v": 2,
                "key": dict(each["key"]),
                "name": name,
                **({"unique": True} if each.get("unique") else {}),
            }
            for name, each in known.items()
        ]
        return self._batch(iter(found), f"{command['$db']}.$cmd.listIndexes", 1 << 30, "firstBatch")

    def _listCollections(self, command: Document) -> Document:
        wanted = command.get("filter", {}).get("name")
        database = self.data.client[command["$db"]]
        found = [
            {"name": name, "type": "collection", "options": {}, "info": {"readOnly": False}}
            for name in database.list_collection_names()
            if wanted in (None, name) or (isinstance(wanted, dict) and name in wanted.get("$in", ()))
        ]
        return self._batch(iter(found), f"{command['$db']}.$cmd.listCollections", 1 << 30, "firstBatch")

    def _drop(self, command: Document) -> Document:
        self._collection(command, "drop").drop()
        return {"ok": 1.0}

    def _renameCollection(self, command: Document) -> Document:
        database, _, name = command["renameCollection"].partition(".")
        _, _, new_name = command["to"].partition(".")
        self.data.client[database].rename_collection(name, new_name, command.get("dropTarget", False))
        return {"ok": 1.0}

    def _dropDatabase(self, command: Document) -> Document:
        self.data.client.drop_database(command["$db"])
        return {"ok": 1.0}


class ReplicaSet:
    """Servers of one set, one of them the primary; a context manager.

    Args:
        count: How many there are.
    """

    def __init__(self, count: int = 2) -> None:
        data = Data()
        self.servers = [MongoServer(replica_set=True, data=data) for _ in range(count)]
        for server in self.servers:
            server.set_hosts = [each.address for each in self.servers]
        self.elect(0)

    @property
    def uri(self) -> str:
        """The address for a client."""
        return f"mongodb://{','.join(server.address for server in self.servers)}/?replicaSet=rs"

    def elect(self, place: int | None) -> None:
        """Make one of them the primary, or none."""
        for number, server in enumerate(self.servers):
            server.primary = number == place

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for server in self.servers:
            server.close()


def error(code: int, name: str, text: str, labels: Sequence[str] = ()) -> Document:
    """The answer that says that a command failed."""
    return {"ok": 0.0, "code": code, "codeName": name, "errmsg": text, "errorLabels": list(labels)}


class _Listener(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    mongo: MongoServer

    def __init__(self, address: tuple[str, int], handler: type[socketserver.BaseRequestHandler]) -> None:
        super().__init__(address, handler)
        self._sockets: set[socket.socket] = set()
        self._guard = threading.Lock()

    def note(self, connection: socket.socket) -> None:
        with self._guard:
            self._sockets.add(connection)

    def forget(self, connection: socket.socket) -> None:
        with self._guard:
            self._sockets.discard(connection)

    def cut(self) -> None:
        with self._guard:
            for each in self._sockets:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)


class _Connection(socketserver.BaseRequestHandler):
    """The messages of one client."""

    server: _Listener
    request: socket.socket

    def handle(self) -> None:
        self.server.note(self.request)
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            # A connection that is cut in the middle is what clients are tested with.
            with contextlib.suppress(OSError, EOFError):
                while self._serve_one():
                    pass
        finally:
            self.server.forget(self.request)

    def _serve_one(self) -> bool:
        length, number, _, operation = _HEADER.unpack(self._read(_HEADER.size))
        body = self._read(length - _HEADER.size)
        is_query = operation == _OP_QUERY
        command = bson.decode(body[body.index(b"\0", 4) + 9 :]) if is_query else _message(body)
        reply = self.server.mongo.answer(command)
        if reply is None:
            return False
        data = bson.encode(reply)
        if is_query:
            code, payload = _OP_REPLY, struct.pack("<iqii", 8, 0, 0, 1) + data
        else:
            code, payload = _OP_MSG, struct.pack("<IB", 0, 0) + data
        self.request.sendall(_HEADER.pack(_HEADER.size + len(payload), 0, number, code) + payload)
        return True

    def _read(self, count: int) -> bytes:
        parts = []
        while count:
            part = self.request.recv(min(count, 1 << 20))
            if not part:
                raise EOFError
            parts.append(part)
            count -= len(part)
        return b"".join(parts)


def _message(body: bytes) -> Document:
    """The command of an OP_MSG: a document, and sequences of documents that belong into it."""
    command: Document = {}
    place = 4
    while place < len(body):
        kind, place = body[place], place + 1
        (size,) = struct.unpack_from("<i", body, place)
        section = body[place : place + size]
        place += size
        if kind == 0:
            command = {**bson.decode(section), **command}
        else:
            end = section.index(b"\0", 4)
            command[section[4:end].decode()] = bson.decode_all(section[end + 1 :])
    # The command's name is the first key of the document, wherever the sequences stood.
    return command


def main() -> None:
    """Serve until interrupted."""
    with MongoServer(replica_set=True) as server:
        print(server.uri, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
