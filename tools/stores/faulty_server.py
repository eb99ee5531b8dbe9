"""An object store over HTTP, in memory, that can be told to misbehave as networks and stores do.

It knows ``PUT`` with ``If-None-Match: *``, ``GET`` of ranges, uploads in parts, deletions and listings, in
the dialect of S3, one bucket, no signatures.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import html
import random
import re
import secrets
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import ClassVar, Self
from urllib.parse import parse_qsl, unquote

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
        uploads: What was begun in parts and not completed: path and parts, by upload.
        counts: How often each fault happened.
        requests: How many there were of each kind: ``create``, ``put``, ``get``, ``missed`` (a ``get`` of
            what is not there), ``head``, ``list``, ``delete``.
        connections: How many clients are connected.
        answered: What was asked and answered, in order: method and path.
        signatures: What requests were signed with, as they say it.
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
        self.uploads: dict[str, tuple[str, dict[int, bytes]]] = {}
        self.modified: dict[str, float] = {}
        self.counts = dict.fromkeys(FAULTS, 0)
        self.requests: Counter[str] = Counter()
        self.connections = 0
        self.answered: list[str] = []
        self.signatures: set[str] = set()
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
            self._keep(path, data)
            return True

    def begin(self, path: str) -> str:
        """Begin an upload in parts; its id."""
        upload = secrets.token_hex(8)
        with self._turn:
            self.uploads[upload] = (path, {})
        return upload

    def put_part(self, upload: str, number: int, data: bytes) -> bool:
        """Keep a part; False when there is no such upload."""
        with self._turn:
            if upload not in self.uploads:
                return False
            self.uploads[upload][1][number] = data
            return True

    def complete(self, upload: str, numbers: Sequence[int]) -> bool:
        """Make an object of the parts; False when there is no such upload, perhaps not any more."""
        with self._turn:
            if upload not in self.uploads:
                return False
            path, parts = self.uploads.pop(upload)
            self._keep(path, b"".join(parts[number] for number in numbers))
            return True

    def _keep(self, path: str, data: bytes) -> None:
        self.objects[path] = data
        self.modified[path] = time.time()

    def take_away(self, paths: Iterable[str]) -> None:
        """Delete objects."""
        with self._turn:
            for path in paths:
                self.objects.pop(path, None)

    def listed(self, prefix: str) -> dict[str, bytes]:
        """The objects whose paths begin so, in order."""
        with self._turn:
            return {path: data for path, data in sorted(self.objects.items()) if path.startswith(prefix)}

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

    def setup(self) -> None:
        super().setup()
        self.store.connections += 1

    def finish(self) -> None:
        super().finish()
        self.store.connections -= 1

    def do_PUT(self) -> None:
        data, query = self._body(), self._query
        if_absent = self.headers.get("If-None-Match") == "*"
        self.store.signatures.add(self.headers.get("Authorization", ""))
        self.store.note("create" if if_absent else "put")
        if data is None or self._refused(fault := self.store.fault()):
            return
        if "partNumber" in query:
            kept = self.store.put_part(query["uploadId"], int(query["partNumber"]), data)
            self._answer_unless_lost(fault, 200 if kept else 404, _NO_UPLOAD if not kept else b"")
            return
        if fault == "conflict" and self._answer(409, b"ConditionalRequestConflict"):
            return
        made = self.store.put(self._path, data, if_absent=if_absent)
        self._answer_unless_lost(fault, 200 if made else 412, b"" if made else b"PreconditionFailed")

    def do_POST(self) -> None:
        data, query = self._body(), self._query
        self.store.note("delete" if "delete" in query else "put")
        if data is None or self._refused(fault := self.store.fault()):
            return
        body = data.decode()
        if "uploads" in query:
            upload = self.store.begin(self._path)
            text = f"<Bucket/><Key/><UploadId>{upload}</UploadId>"
            self._answer_unless_lost(fault, 200, _xml("InitiateMultipartUploadResult", text))
        elif "delete" in query:
            names = [html.unescape(name) for name in re.findall("<Key>(.*?)</Key>", body)]
            self.store.take_away([f"{self._path.rstrip('/')}/{name}" for name in names])
            text = "".join(f"<Deleted><Key>{html.escape(name)}</Key></Deleted>" for name in names)
            self._answer_unless_lost(fault, 200, _xml("DeleteResult", text))
        else:
            numbers = [int(number) for number in re.findall("<PartNumber>(.*?)</PartNumber>", body)]
            made = self.store.complete(query["uploadId"], numbers)
            answer = (
                _xml("CompleteMultipartUploadResult", "<ETag>&quot;0&quot;</ETag>") if made else _NO_UPLOAD
            )
            self._answer_unless_lost(fault, 200 if made else 404, answer)

    def do_DELETE(self) -> None:
        self.store.note("delete")
        fault = self.store.fault()
        if self._refused(fault):
            return
        if "uploadId" in self._query:
            self.store.uploads.pop(self._query["uploadId"], None)
        else:
            self.store.take_away([self._path])
        self._answer_unless_lost(fault, 204, b"")

    def do_GET(self) -> None:
        is_listing, data = "list-type" in self._query, self.store.objects.get(self._path)
        kind = "list" if is_listing else "missed" if data is None else "get"
        self.store.note("head" if self.command == "HEAD" else kind)
        fault = self.store.fault()
        if self._refused(fault):
            return
        if is_listing:
            self._answer_unless_lost(fault, 200, self._listing())
            return
        if data is None:
            self._answer_unless_lost(fault, 404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if wanted is None:
            self._answer_unless_lost(fault, 200, data)
            return
        start, last = int(wanted[1]), min(int(wanted[2]), len(data) - 1)
        if start > last:
            self._answer_unless_lost(fault, 416, b"InvalidRange")
        else:
            content_range = {"Content-Range": f"bytes {start}-{last}/{len(data)}"}
            self._answer_unless_lost(fault, 206, data[start : last + 1], content_range)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _listing(self) -> bytes:
        prefix = self._query.get("prefix", "")
        bucket = f"{self._path.rstrip('/')}/"
        files, folders = [], set()
        for path, data in self.store.listed(bucket + prefix).items():
            name = path.removeprefix(bucket)
            head, slash, _ = name[len(prefix) :].partition("/")
            if slash and "delimiter" in self._query:
                folders.add(f"{prefix}{head}/")
            else:
                tag = hashlib.md5(data, usedforsecurity=False).hexdigest()
                modified = dt.datetime.fromtimestamp(self.store.modified[path], dt.UTC)
                files.append(
                    f"<Contents><Key>{html.escape(name)}</Key>"
                    f"<LastModified>{modified:%Y-%m-%dT%H:%M:%S.000Z}</LastModified>"
                    f"<ETag>&quot;{tag}&quot;</ETag><Size>{len(data)}</Size></Contents>"
                )
        files += [
            f"<CommonPrefixes><Prefix>{html.escape(each)}</Prefix></CommonPrefixes>"
            for each in sorted(folders)
        ]
        return _xml("ListBucketResult", "<IsTruncated>false</IsTruncated>" + "".join(files))

    def _body(self) -> bytes | None:
        """What came with the request; None where its sender has gone before all of it was sent."""
        count = int(self.headers.get("Content-Length", 0))
        data = self.rfile.read(count)
        if len(data) == count:
            return data
        self._hang_up()
        return None

    @property
    def _query(self) -> dict[str, str]:
        return dict(parse_qsl(self.path.partition("?")[2], keep_blank_values=True))

    @property
    def _path(self) -> str:
        return unquote(self.path.partition("?")[0])

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

    def _answer_unless_lost(
        self, fault: str | None, status: int, body: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        if fault == "lost answer":
            self._hang_up()
        else:
            self._answer(status, body, headers)

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> bool:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"0"')
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()
        return True

    def _hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Note it."""
        del code, size
        self.store.answered.append(f"{self.command} {self.path}")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Say nothing."""


def _xml(name: str, content: str) -> bytes:
    return f'<?xml version="1.0"?><{name}>{content}</{name}>'.encode()


_NO_UPLOAD = b"<Error><Code>NoSuchUpload</Code></Error>"


def main() -> None:
    """Serve until somebody ends this: ``python -m tools.stores.faulty_server SHARE``."""
    with FaultyServer(share=float(sys.argv[1])) as server:
        print(server.endpoint, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
