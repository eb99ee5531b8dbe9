"""How much a base holds, and where it lies on the disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from dacapo_store.store import Store

_RATE: Final = """
    SELECT count(*) AS events, count(DISTINCT stream) AS streams, max(recorded_at) AS last_event,
        count(*) FILTER (recorded_at > (SELECT max(recorded_at) FROM events) - INTERVAL 1 HOUR) AS last_hour
    FROM events"""


def sizes(store: Store) -> dict[str, Any]:
    """What a base holds: counts, and bytes on the disk.

    ``tail`` is how many events lie behind the newest snapshot: what the first query of a process reads.
    """
    root, views = store.path, store._base.location.views  # noqa: SLF001 - a part of it
    events = root / "events"
    (row,) = store.sql(_RATE).arrow().to_pylist()
    weights = store.sql("SELECT count(*), coalesce(sum(bytes), 0)::BIGINT FROM weights").fetchone() or (0, 0)
    segments = list(events.glob("*.arrows"))
    snapshots = sorted(views.glob("*.duckdb"))
    newest = int(snapshots[-1].name[:20]) if snapshots else 0
    return {
        "position": store.position,
        "streams": row["streams"],
        "last_event": row["last_event"],
        "events_in_its_last_hour": row["last_hour"],
        "segments": len(segments),
        "log_bytes": sum(path.stat().st_size for path in segments),
        "index_bytes": folder_bytes(events / "index"),
        "spool_bytes": folder_bytes(events / "spool"),
        "quarantine_bytes": folder_bytes(events / "quarantine"),
        "snapshots": len(snapshots),
        "snapshot_bytes": folder_bytes(views),
        "tail": store.position - newest,
        "weights": weights[0],
        "weights_bytes": weights[1],
    }


def folder_bytes(folder: Path) -> int:
    """How many bytes the files in a folder have, those in its folders included; 0 where there is none."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(place) / name).lstat().st_size
            except FileNotFoundError:
                continue  # it went away meanwhile
    return total
