"""The physical limits: what the machine can do when nothing is promised but the bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tools.bench.peers.peer import Commit, Durability, Peer

EVENT_BYTES = 640
"""About what the log writes for one small event in a commit of its own."""


class RawAppend(Peer):
    """A file that grows by one ``write``, and ``fdatasync``."""

    name = "limit: write + fdatasync"

    @contextmanager
    def commits(self, durability: Durability) -> Iterator[Commit]:
        """As many bytes as the log writes for an event."""
        file = os.open(self.folder / "appended", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

        def commit(first: int, count: int) -> None:  # noqa: ARG001 - bytes have no number
            os.write(file, b"\x5a" * (EVENT_BYTES * count))
            if durability == "commit":
                os.fdatasync(file)

        try:
            yield commit
        finally:
            os.close(file)


class TorchFiles(Peer):
    """``torch.save``, synced and renamed; ``torch.load``."""

    name = "limit: torch.save + fsync + rename"
    packages = ("torch",)

    def store(self, state: dict[str, Any]) -> None:
        """Write the state and make it durable."""
        import torch

        written = self.folder / "state.writing"
        with written.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        written.rename(self.folder / "state.pt")
        sync_folder(self.folder)

    def retrieve(self) -> dict[str, Any]:
        """Read it without running code."""
        import torch

        state: dict[str, Any] = torch.load(self.folder / "state.pt", weights_only=True)
        return state


def sync_folder(path: Path) -> None:
    """Make a name in a folder durable."""
    folder = os.open(path, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def create_table_seconds(table: Any, select: str, *, threads: int) -> float:
    """How long DuckDB takes for ``CREATE TABLE AS`` out of an Arrow table in memory, named ``given``."""
    import time

    import duckdb

    with duckdb.connect(config={"threads": threads}) as database:
        database.register("given", table)
        began = time.perf_counter()
        database.execute(f"CREATE TABLE made AS {select}")
        return time.perf_counter() - began
