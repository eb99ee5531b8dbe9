"""Everything imported that a store imports when it is first used, so that a clock sees the store only."""

from __future__ import annotations

from tools.bench.measure import scratch


def warm_up(*, query: bool) -> None:
    """Store one iteration in a small base of its own, retrieve it and, if asked to, query it.

    Args:
        query: Whether DuckDB is needed; a process that only writes shall stay without.
    """
    from dacapo_store import FileStatsStore, TrainingIterationStats
    from dacapo_store.base import Base

    with scratch() as folder:
        store = FileStatsStore(folder / "stats")
        store.store_training_stats("warm_up", [TrainingIterationStats(0, 0.5, 0.1)])
        store.retrieve_training_stats("warm_up")
        if query:
            Base.at(folder).views.arrow("FROM training_stats")
        Base.at(folder).close()
