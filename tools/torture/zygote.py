"""A process that has everything loaded and forks when told to: a new worker costs milliseconds.

Importing torch, zarr and the rest takes two seconds, so thousands of workers cannot each do it. And a
process that has threads (DuckDB's, zarr's) must not fork workers that are to be like fresh ones. So the
zygote imports, does each store operation once, without DuckDB, and then only forks.

Each worker has two pipes: one to be told things, one to tell. Both carry one JSON document a line. A
worker that hangs is ended by an alarm; one whose parent is gone ends itself.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

_HANG_SECONDS: Final = 120
_ROOT: Final = Path(__file__).resolve().parents[2]

Tell = Callable[[Mapping[str, Any]], None]
"""Tells the parent something; it has it once this returns, whatever happens to this process then."""

Job = Callable[[Mapping[str, Any], Iterator[dict[str, Any]], Tell], None]
"""What a worker does, given its task, whatever else it will be told, and a way to tell."""


class Worker:
    """A forked process, as its parent sees it.

    Attributes:
        pid: Its process id; it stays valid until ``end``.
    """

    def __init__(self, zygote: Zygote, pid: int, *, tell: int, hear: int) -> None:
        self.pid = pid
        self._zygote = zygote
        self._tell = tell
        self._hear = hear
        self._rest = b""
        self.status: int | None = None

    def fileno(self) -> int:
        """For ``select``: readable when it has said something or has ended."""
        return self._hear

    def tell(self, document: Mapping[str, Any]) -> None:
        """Tell it something."""
        with contextlib.suppress(BrokenPipeError):
            _write_all(self._tell, json.dumps(document).encode() + b"\n")

    def hear(self) -> list[dict[str, Any]] | None:
        """What it has said since; waits until it says something. None when it has ended."""
        said = os.read(self._hear, 1 << 20)
        if not said:
            return None
        *lines, self._rest = (self._rest + said).split(b"\n")
        return [json.loads(line) for line in lines]

    def hear_all(self) -> list[dict[str, Any]]:
        """All that it says until it ends."""
        heard: list[dict[str, Any]] = []
        while (said := self.hear()) is not None:
            heard += said
        return heard

    def answer(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Tell it something and wait for the one thing that it says to that.

        Raises:
            RuntimeError: It has ended instead.
        """
        self.tell(document)
        while (said := self.hear()) is not None:
            if said:
                return said[0]
        raise RuntimeError(f"a worker ended with status {self.end()} instead of answering {document}")

    def kill(self) -> None:
        """SIGKILL."""
        os.kill(self.pid, signal.SIGKILL)

    def end(self) -> int:
        """Wait for its end and let go of it; what it has said must have been heard.

        Returns:
            Its exit code; negative for a signal.
        """
        if self.status is None:
            for descriptor in (self._tell, self._hear):
                os.close(descriptor)
            self.status = self._zygote.reap(self.pid)
        return self.status


class Zygote:
    """A fork server; use it as a context manager.

    Args:
        jobs: The module whose ``JOBS`` names what workers can do: a ``Job`` by each name.
    """

    def __init__(self, jobs: str) -> None:
        self._socket, theirs = socket.socketpair()
        # One thread each: these libraries' own threads would not survive a fork.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(  # noqa: S603 - this very module
            [sys.executable, "-m", "tools.torture.zygote", jobs, str(theirs.fileno())],
            cwd=_ROOT,
            env=environment,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        self._process.wait()

    def fork(self, job: str, **task: Any) -> Worker:
        """Start a worker and tell it its job and its task."""
        their_ears, tell = os.pipe()
        hear, their_mouth = os.pipe()
        socket.send_fds(self._socket, [b"fork    "], [their_ears, their_mouth])
        os.close(their_ears)
        os.close(their_mouth)
        worker = Worker(self, self._number(), tell=tell, hear=hear)
        worker.tell({"job": job, **task})
        return worker

    def reap(self, pid: int) -> int:
        """Wait for a worker's end; its exit code."""
        self._socket.sendall(pid.to_bytes(8, "little"))
        return os.waitstatus_to_exitcode(self._number())

    def _number(self) -> int:
        answer = self._socket.recv(8, socket.MSG_WAITALL)
        if len(answer) < 8:  # noqa: PLR2004 - the size of an answer
            raise RuntimeError(f"the zygote ended with status {self._process.wait()}")
        return int.from_bytes(answer, "little")


def _serve(jobs: Mapping[str, Job], parent: socket.socket) -> None:
    while True:
        message, descriptors, _, _ = socket.recv_fds(parent, 8, 2)
        if not message:
            return
        if message != b"fork    ":
            status = os.waitpid(int.from_bytes(message, "little"), 0)[1]
            parent.sendall(status.to_bytes(8, "little"))
            continue
        pid = os.fork()
        if pid == 0:
            parent.close()
            _work(jobs, *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        parent.sendall(pid.to_bytes(8, "little"))


def _work(jobs: Mapping[str, Job], ears: int, mouth: int) -> None:
    """The life of a worker. It never returns."""
    signal.alarm(_HANG_SECONDS)

    def tell(document: Mapping[str, Any]) -> None:
        _write_all(mouth, json.dumps(document).encode() + b"\n")

    status = 1
    try:
        told = _documents(ears)
        task = next(told)
        jobs[task["job"]](task, told, tell)
        status = 0
    except BrokenPipeError:
        pass
    except BaseException:  # noqa: BLE001 - the parent is told, and the process ends either way
        with contextlib.suppress(BrokenPipeError):
            tell({"error": traceback.format_exc()})
    os._exit(status)


def _documents(descriptor: int) -> Iterator[dict[str, Any]]:
    with os.fdopen(descriptor, "rb") as lines:
        for line in lines:
            yield json.loads(line)


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def main() -> None:
    """Load everything, warm up, and fork when told to."""
    jobs, descriptor = sys.argv[1], int(sys.argv[2])
    module = importlib.import_module(jobs)
    importlib.import_module("projections")
    from tools.torture.operations import warm_up

    with tempfile.TemporaryDirectory() as folder:
        warm_up(Path(folder) / "base")
    with socket.socket(fileno=descriptor) as parent:
        _serve(module.JOBS, parent)


if __name__ == "__main__":
    main()
