"""A TCP proxy between clients and a server of this host: it delays, loses and cuts as it is told to."""

from __future__ import annotations

import asyncio
import random
import threading
from types import TracebackType
from typing import Final, Self

_PIECE: Final = 1 << 16


class TcpProxy:
    """A proxy in a thread of its own; a context manager that ends it.

    Args:
        server_port: Where the server listens on 127.0.0.1.
        delay_seconds: How long each piece is on its way, in each direction.
        lost_answers: The share of the server's pieces that are lost, the line with them, 0 to 1.
        lost_requests: The share of the clients' pieces that are lost, the line with them.
        seed: Of the dice.

    Attributes:
        port: Where it listens on 127.0.0.1.
        losses: How many pieces were lost.
    """

    def __init__(
        self,
        server_port: int,
        *,
        delay_seconds: float = 0.0,
        lost_answers: float = 0.0,
        lost_requests: float = 0.0,
        seed: int = 0,
    ) -> None:
        self._server_port = server_port
        self._delay = delay_seconds
        self.lost_answers = lost_answers
        self.lost_requests = lost_requests
        self.losses = 0
        self._dice = random.Random(seed)  # noqa: S311 - dice
        self._is_silent = False
        self._is_cut = False
        self._lines: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()
        started.wait()

    def cut(self) -> None:
        """Cut all lines; none can be made until ``mend``."""
        self._is_cut = True
        self._loop.call_soon_threadsafe(self._cut_lines)

    def silence(self) -> None:
        """Let nothing pass, and tell nobody, until ``mend``; lines that lost something stay silent."""
        self._is_silent = True

    def mend(self) -> None:
        """Let everything pass again."""
        self._is_cut = self._is_silent = False

    def close(self) -> None:
        """End it."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def __enter__(self) -> Self:
        """It runs already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self.close()

    def _run(self, started: threading.Event) -> None:
        serving = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port: int = serving.sockets[0].getsockname()[1]
        started.set()
        self._loop.run_forever()
        serving.close()
        self._loop.run_until_complete(self._end())
        self._loop.close()

    async def _end(self) -> None:
        self._cut_lines()
        under_way = asyncio.all_tasks() - {asyncio.current_task()}
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)

    def _cut_lines(self) -> None:
        for line in list(self._lines):
            line.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.transport.abort()
            return
        try:
            answers, requests = await asyncio.open_connection("127.0.0.1", self._server_port)
        except OSError:
            writer.transport.abort()
            return
        line = {writer, requests}
        self._lines |= line
        await asyncio.gather(
            self._pass_on(reader, requests, is_answer=False), self._pass_on(answers, writer, is_answer=True)
        )
        self._lines -= line

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_answer: bool
    ) -> None:
        due, is_dead = 0.0, False
        try:
            while data := await reader.read(_PIECE):
                if self._dice.random() < (self.lost_answers if is_answer else self.lost_requests):
                    self.losses += 1
                    break
                is_dead = is_dead or self._is_silent
                if not is_dead:
                    due = max(self._loop.time() + self._delay, due + 1e-9)  # ties would lose their order
                    self._loop.call_at(due, writer.write, data)
        except ConnectionError:
            pass
        self._loop.call_at(max(self._loop.time(), due + 1e-9), writer.close)
