"""Requests done by another process, for a client that cannot be used in this one.

The helper is started anew, not forked; it makes the client, takes one request after the other from its
standard input and ends when that is closed, as it is when this process ends.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Final

from eventstore.storage.numbered.commit_store import LargeObject, UnclearError

_LENGTH: Final = struct.Struct("<Q")
_PROGRAM: Final = (
    "import sys; sys.path += [place for place in sys.argv[3:] if place not in sys.path]; "
    "from eventstore.storage.numbered.helper import main; main()"
)


class Helper:
    """A client in a process of its own; its requests are done one after the other.

    Args:
        module: The module that makes the client.
        function: The function of it that does: of a location and options.
        location: For the function.
        options: For the function.
    """

    def __init__(self, module: str, function: str, location: str, options: Mapping[str, str]) -> None:
        self._about = (location, dict(options))
        self._maker = (module, function)
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def create(self, name: str, data: bytes) -> bool:
        """As the client's."""
        created: bool = self._request("create", name, data)
        return created

    def get(self, name: str) -> bytes | None:
        """As the client's."""
        data: bytes | None = self._request("get", name)
        return data

    def replace(self, name: str, data: bytes) -> None:
        """As the client's."""
        self._request("replace", name, data)

    def listed(self, folder: str) -> list[LargeObject]:
        """As the client's."""
        found: list[LargeObject] = self._request("listed", folder)
        return found

    def part(self, name: str, start: int, count: int) -> bytes | None:
        """As the client's."""
        data: bytes | None = self._request("part", name, start, count)
        return data

    def keep_file(self, name: str, path: Path) -> None:
        """As the client's."""
        self._request("keep_file", name, path)

    def remove(self, name: str) -> None:
        """As the client's."""
        self._request("remove", name)

    def close(self) -> None:
        """End the helper."""
        with self._turn:
            self._end()

    def _request(self, *request: Any) -> Any:
        with self._turn:
            try:
                streams = self._streams()
                _send(streams[0], request)
                answer = _receive(streams[1])
            except (OSError, EOFError) as error:
                self._end()
                raise UnclearError(f"the process that does the requests has ended: {error}") from error
            except BaseException:
                self._end()  # interrupted: the answer would be taken for that of the next request
                raise
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _streams(self) -> tuple[IO[bytes], IO[bytes]]:
        if self._process is None:
            places = [os.path.abspath(place) for place in sys.path if place]  # noqa: PTH100 - no link is resolved
            self._process = subprocess.Popen(  # noqa: S603 - this very interpreter
                [sys.executable, "-P", "-c", _PROGRAM, *self._maker, *places],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
            assert self._process.stdin is not None
            _send(self._process.stdin, self._about)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        return self._process.stdin, self._process.stdout

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
            process.kill()
            process.wait()


def main() -> None:
    """Do requests until nobody asks any more."""
    module, function = sys.argv[1:3]
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    with contextlib.suppress(EOFError, BrokenPipeError):
        location, options = _receive(requests)
        client: Any = None
        while True:
            name, *arguments = _receive(requests)
            try:
                if client is None:
                    client = getattr(importlib.import_module(module), function)(location, options)
                answer = getattr(client, name)(*arguments)
            except Exception as error:  # noqa: BLE001 - it is raised where the request was made
                error.__cause__ = error.__context__ = None
                answer = error
            _send(answers, answer)


def _send(stream: IO[bytes], content: Any) -> None:
    data = pickle.dumps(content)
    stream.write(_LENGTH.pack(len(data)) + data)
    stream.flush()


def _receive(stream: IO[bytes]) -> Any:
    (length,) = _LENGTH.unpack(_exactly(stream, _LENGTH.size))
    return pickle.loads(_exactly(stream, length))  # noqa: S301 - our own helper's bytes


def _exactly(stream: IO[bytes], count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError
    return data
