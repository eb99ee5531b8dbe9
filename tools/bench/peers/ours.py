"""These stores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tools.bench.peers.peer import Commit, Durability, LogRow, Peer, document
from tools.bench.workloads import Curve

RUN = "run_7"


class DacapoStore(Peer):
    """These stores and their log, as a program uses them."""

    name = "dacapo-store"

    @contextmanager
    def commits(self, durability: Durability) -> Iterator[Commit]:
        """The log itself."""
        from eventstore import Event, EventLog

        with EventLog.open(self.folder / "events") as log:

            def commit(first: int, count: int) -> None:
                events = [Event("Noted", document(number)) for number in range(first, first + count)]
                log.append("notes", events, durability=durability)

            yield commit

    @contextmanager
    def logger(self) -> Iterator[LogRow]:
        """The scalar logger: a row is in its spool file when the call returns."""
        with self.stats_store().scalar_logger(RUN) as log:

            def log_row(iteration: int, loss: float, time: float) -> None:
                log.add(iteration, loss=loss, time=time)

            yield log_row

    def logged(self) -> Curve:
        """The curve as columns."""
        stats = self.stats_store().retrieve_training_stats(RUN)
        return stats.iterations, stats.column("loss"), stats.column("time")

    def stats_store(self) -> Any:
        """The stats store of the folder."""
        from dacapo_store import FileStatsStore

        return FileStatsStore(self.folder / "stats")

    def config_store(self) -> Any:
        """The config store of the folder."""
        from dacapo_store import FileConfigStore

        return FileConfigStore(self.folder / "configs")


class DacapoStoreCalls(DacapoStore):
    """A hot loop without the scalar logger: the trainer keeps rows and stores them a thousand at a time."""

    name = "dacapo-store, store_training_stats each 1,000"
    _ROWS = 1000

    @contextmanager
    def logger(self) -> Iterator[LogRow]:
        """Rows in a ``TrainingStats``, which are lost when the process is killed."""
        from dacapo_store import TrainingIterationStats, TrainingStats

        store, stats = self.stats_store(), TrainingStats()

        def log_row(iteration: int, loss: float, time: float) -> None:
            stats.add_iteration_stats(TrainingIterationStats(iteration, loss, time))
            if len(stats.iteration_stats) == self._ROWS:
                store.store_training_stats(RUN, stats)
                stats.iteration_stats = []

        yield log_row
        store.store_training_stats(RUN, stats)


def as_arrays(rows: Any) -> Curve:
    """Rows of iteration, loss and time as three arrays, in the order of iterations."""
    table = np.array(sorted(rows), dtype=np.float64).reshape(-1, 3)
    return table[:, 0].astype(np.int64), table[:, 1].copy(), table[:, 2].copy()
