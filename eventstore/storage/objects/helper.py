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
from typing import IO, Any, Final

from eventstore.storage.numbered.commit_store import UnclearError

_LENGTH: Final = struct.Struct("<Q")
_PROGRAM: Final = (
    "import sys; sys.path += [place for place in sys.argv[3:] if place not in sys.path]; "
    "from eventstore.storage.objects.helper import main; main()"
)


class Helper:
    """A client in a process of its own; its requests are done one after the other.

    Args:
        module: The module that makes the client.
        maker: What in it does: a function or a class.
        arguments: For the maker.
    """

    def __init__(self, module: str, maker: str, *arguments: Any) -> None:
        self._maker = (module, maker)
        self._arguments = arguments
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def do(self, name: str, *arguments: Any, **named: Any) -> Any:
        """Do a request: call the client's method of this name.

        Raises:
            UnclearError: The helper has ended meanwhile; the next request starts another one.
        """
        with self._turn:
            try:
                streams = self._streams()
                _send(streams[0], (name, arguments, named))
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

    def close(self) -> None:
        """End the helper."""
        with self._turn:
            self._end()

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
            _send(self._process.stdin, self._arguments)
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
    module, maker = sys.argv[1:3]
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    with contextlib.suppress(EOFError, BrokenPipeError):
        about = _receive(requests)
        client: Any = None
        while True:
            name, arguments, named = _receive(requests)
            try:
                if client is None:
                    client = getattr(importlib.import_module(module), maker)(*about)
                answer = getattr(client, name)(*arguments, **named)
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
