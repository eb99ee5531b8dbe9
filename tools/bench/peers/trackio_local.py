"""trackio, which writes to SQLite behind a thread of its own."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

from tools.bench.peers.ours import as_arrays
from tools.bench.peers.peer import LogRow, Peer
from tools.bench.workloads import Curve


class Trackio(Peer):
    """A local project; rows wait in memory and are lost when the process is killed."""

    name = "trackio"
    packages = ("trackio",)

    @contextmanager
    def logger(self) -> Iterator[LogRow]:
        """``trackio.log``; ``finish`` waits for what is left."""
        os.environ["TRACKIO_DIR"] = str(self.folder)
        import trackio

        run = trackio.init("bench", name="run_7", embed=False, auto_log_gpu=False, auto_log_cpu=False)

        def log_row(iteration: int, loss: float, time: float) -> None:
            run.log({"loss": loss, "seconds": time}, step=iteration)

        yield log_row
        run.finish()

    def logged(self) -> Curve:
        """The rows of its table, as they lie there."""
        (path,) = self.folder.glob("*.db")
        with closing(sqlite3.connect(path)) as database:
            rows = database.execute("SELECT step, metrics FROM metrics ORDER BY step").fetchall()
        documents = [(step, json.loads(metrics)) for step, metrics in rows]
        return as_arrays((step, each["loss"], each["seconds"]) for step, each in documents)
