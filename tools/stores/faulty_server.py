"""An object store over HTTP, in memory, that can be told to misbehave as networks and stores do.

It knows ``PUT`` with ``If-None-Match: *``, ``GET`` of all or a part, uploads in parts, listings and
deletions, in the dialect of S3, one bucket, no signatures.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import random
import re
import secrets
import socket
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import ClassVar, Self
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape, unescape

FAULTS = ("lost answer", "lost request", "conflict", "slow down", "throttled", "late")
"""What may happen to a request: the answer, or all of it, is lost; 409; 503; 429; it takes its time."""


class FaultyServer:
    """The store, in threads of this process.

    Args:
        share: How many requests meet a fault, 0 to 1.
        seed: Of the dice.
        honours_conditions: False for a store that overwrites whatever is asked.
        latency_seconds: How long each request takes at least.

    Attributes:
        objects: What is in it, by path.
        modified: When each of them was put there, in seconds since 1970.
        counts: How often each fault happened.
        requests: How many there were of each kind: ``create``, ``put``, ``get``, ``missed`` (a ``get`` of
            what is not there), ``list``, ``delete``.
    """

    def __init__(
        self,
        *,
        share: float = 0.0,
        seed: int = 0,
        honours_conditions: bool = True,
        latency_seconds: float = 0.0,
    ) -> None:
        self.objects: dict[str, bytes] = {}
        self.counts = dict.fromkeys(FAULTS, 0)
        self.modified: dict[str, float] = {}
        self.requests: Counter[str] = Counter()
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.share = share
        self.latency_seconds = latency_seconds
        self._dice = random.Random(seed)  # noqa: S311 - dice
        self._honours_conditions = honours_conditions
        self._turn = threading.Lock()
        handler = type("Handler", (_Handler,), {"store": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def endpoint(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def address(self, prefix: str = "") -> str:
        """The address of a log in it."""
        return f"s3://bucket/{prefix}?endpoint={self.endpoint}&anonymous=true&timeout_seconds=5"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fault(self) -> str | None:
        """What happens to the next request."""
        time.sleep(self.latency_seconds)
        with self._turn:
            if self._dice.random() >= self.share:
                return None
            fault = self._dice.choice(FAULTS)
            self.counts[fault] += 1
            return fault

    def put(self, path: str, data: bytes, *, if_absent: bool) -> bool:
        """Keep an object; False when it is there and that matters."""
        with self._turn:
            if if_absent and self._honours_conditions and path in self.objects:
                return False
            self.objects[path] = data
            self.modified[path] = time.time()
            return True

    def note(self, kind: str) -> None:
        """Count a request."""
        with self._turn:
            self.requests[kind] += 1


class _Handler(BaseHTTPRequestHandler):
    store: ClassVar[FaultyServer]
    protocol_version = "HTTP/1.1"
    # An answer in two packets waits 40 ms for the acknowledgement of the first.
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if_absent = self.headers.get("If-None-Match") == "*"
        self.store.note("create" if if_absent else "put")
        fault = self.store.fault()
        if self._refused(fault) or (fault == "conflict" and self._answer(409, b"ConditionalRequestConflict")):
            return
        if "uploadId" in self._query:
            self.store.uploads[self._query["uploadId"]][int(self._query["partNumber"])] = data
            made = True
        else:
            made = self.store.put(self._path, data, if_absent=if_absent)
        if fault == "lost answer":
            self._hang_up()
        else:
            self._answer(200 if made else 412, b"" if made else b"PreconditionFailed")

    def do_GET(self) -> None:
        is_listing = "list-type" in self._query
        data = self.store.objects.get(self._path)
        self.store.note("list" if is_listing else "missed" if data is None else "get")
        fault = self.store.fault()
        if self._refused(fault):
            return
        if fault == "lost answer":
            self._hang_up()
        elif is_listing:
            self._answer(200, self._listing())
        elif data is None:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        elif wanted := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            first, last = int(wanted[1]), min(int(wanted[2]), len(data) - 1)
            self._answer(206, data[first : last + 1], f"bytes {first}-{last}/{len(data)}")
        else:
            self._answer(200, data)

    def do_POST(self) -> None:
        """An upload in parts begins or ends, or objects are deleted."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        self.store.note("delete" if "delete" in self._query else "put")
        if self._refused(self.store.fault()):
            return
        if "delete" in self._query:
            names = re.findall("<Key>(.*?)</Key>", body)
            for name in names:
                self.store.objects.pop(f"{self._path.rstrip('/')}/{unescape(name)}", None)
            deleted = "".join(f"<Deleted><Key>{name}</Key></Deleted>" for name in names)
            self._answer(200, f"<DeleteResult>{deleted}</DeleteResult>".encode())
        elif "uploads" in self._query:
            upload = secrets.token_hex(8)
            self.store.uploads[upload] = {}
            self._answer(200, _xml("InitiateMultipartUploadResult", UploadId=upload))
        else:
            parts = self.store.uploads.pop(self._query["uploadId"])
            self.store.put(self._path, b"".join(parts[each] for each in sorted(parts)), if_absent=False)
            self._answer(200, _xml("CompleteMultipartUploadResult", ETag="0"))

    def do_DELETE(self) -> None:
        """An upload in parts is given up."""
        self.store.uploads.pop(self._query.get("uploadId", ""), None)
        self._answer(204, b"")

    def _listing(self) -> bytes:
        bucket = f"{self._path.rstrip('/')}/"
        found = "".join(
            f"<Contents><Key>{escape(path.removeprefix(bucket))}</Key><Size>{len(data)}</Size>"
            f"<LastModified>{_time(self.store.modified[path])}</LastModified></Contents>"
            for path, data in sorted(
                item
                for item in self.store.objects.items()
                if item[0].startswith(bucket + self._query.get("prefix", ""))
            )
        )
        return f"<ListBucketResult>{found}<IsTruncated>false</IsTruncated></ListBucketResult>".encode()

    @property
    def _path(self) -> str:
        return self.path.partition("?")[0]

    @property
    def _query(self) -> dict[str, str]:
        parsed = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        return {name: values[0] for name, values in parsed.items()}

    def _refused(self, fault: str | None) -> bool:
        match fault:
            case "lost request":
                self._hang_up()
            case "slow down":
                self._answer(503, b"<Error><Code>SlowDown</Code></Error>")
            case "throttled":
                self._answer(429, b"<Error><Code>TooManyRequests</Code></Error>")
            case "late":
                time.sleep(0.02)
                return False
            case _:
                return False
        return True

    def _answer(self, status: int, body: bytes, content_range: str | None = None) -> bool:
        self.send_response(status)
        if content_range is not None:
            self.send_header("Content-Range", content_range)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"0"')
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()
        return True

    def _hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Say nothing."""


def _time(seconds: float) -> str:
    return f"{dt.datetime.fromtimestamp(seconds, dt.UTC):%Y-%m-%dT%H:%M:%S.000Z}"


def _xml(name: str, **fields: str) -> bytes:
    inside = "".join(f"<{each}>{escape(value)}</{each}>" for each, value in fields.items())
    return f"<{name}>{inside}</{name}>".encode()
