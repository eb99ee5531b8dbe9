"""B13 and B14: what an iteration takes on the disk, and what it takes to get going."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Final

from eventstore import reencode_log
from tools.bench.history import History, write_history
from tools.bench.measure import Contestant, Figures, Row, Size, folder_bytes, in_child, scratch, side_by_side
from tools.bench.peers.ours import DacapoStore
from tools.bench.results import Goal, Section

_BYTES: Final = "bytes an iteration"
_ACTIVE: Final = f"{DacapoStore.name}, active"
_REENCODED: Final = f"{DacapoStore.name}, re-encoded"
_ACTIVE_BYTES: Final = 24
_SEGMENTS: Final = 8
"""Segments are so short that most of the history is in rolled ones."""


def footprint(size: Size) -> Section:
    """B13: bytes on disk for an iteration."""
    # One run: the curves of several would be the same numbers, which zstd would find.
    history = size.pick(full=History(1, 1000, 1000), quick=History(1, 100, 1000), tiny=History(1, 2, 100))
    section = Section(
        "B13", f"Bytes on disk for an iteration (iteration, loss, time), events of {history.rows:,}"
    )
    section.rows = side_by_side(
        [
            Contestant(_ACTIVE, active_bytes, (history,)),
            Contestant(_REENCODED, reencoded_bytes, (history,)),
        ],
        rounds=1,
    )
    section.goals = [
        Goal("active", section.rows[_ACTIVE].median(_BYTES), "at most", 30.0, "bytes"),
        Goal("re-encoded", section.rows[_REENCODED].median(_BYTES), "at most", 18.0, "bytes"),
    ]
    section.notes = [
        "Losses are float32 in doubles, as `loss.item()` gives them; times have all the bits of a clock."
    ]
    return section


def active_bytes(folder: Path, history: History) -> Figures:
    """The log as it was written."""
    write_history(folder, history)
    return {_BYTES: folder_bytes(folder / "events") / history.iterations}


def reencoded_bytes(folder: Path, history: History) -> Figures:
    """The log's rolled segments when they are re-encoded and the older files are gone."""
    write_history(folder, history, segment_bytes_max=history.iterations * _ACTIVE_BYTES // _SEGMENTS)
    reencode_log(folder / "events", grace_seconds=0)
    *rolled, active = sorted((folder / "events").glob("*.arrows"))
    if not rolled or not all(path.name.endswith(".r1.arrows") for path in rolled):
        raise AssertionError(f"rolled segments that are not re-encoded: {rolled}")
    events = int(active.name.partition(".")[0])
    return {_BYTES: sum(path.stat().st_size for path in rolled) / (events * history.rows)}


_IMPORT: Final = "import dacapo_store"


def getting_going(size: Size) -> Section:
    """B14: making stores on an open base, and importing the package."""
    section = Section("B14", "`create_*_store()` on an open base; `import dacapo_store`")
    rounds = size.pick(full=15, quick=7, tiny=1)
    section.rows = side_by_side([Contestant(_IMPORT, import_package)], rounds=rounds)
    with scratch() as folder:
        for name, milliseconds in in_child(
            make_stores, folder, size.pick(full=200, quick=50, tiny=3)
        ).items():
            section.rows[name] = Row({"wall ms": [milliseconds]})
    section.goals = [
        Goal(name, row.median("wall ms"), "at most", 150.0 if name == _IMPORT else 1.0, "ms")
        for name, row in section.rows.items()
    ]
    return section


def import_package(_: Path) -> Figures:
    """Import in a process that has imported nothing but the standard library."""
    began = time.perf_counter()
    import dacapo_store  # noqa: F401

    return {"wall ms": 1e3 * (time.perf_counter() - began)}


def make_stores(folder: Path, times: int) -> Figures:
    """The median time of each factory function, reading the options file as DaCapo's do."""
    import os

    import dacapo_store

    options = folder / "dacapo.yaml"
    options.write_text(f"type: files\nruns_base_dir: {folder / 'base'}\n")
    os.environ["DACAPO_OPTIONS_FILE"] = str(options)
    figures = {}
    for name in ("create_config_store", "create_stats_store", "create_weights_store", "create_array_store"):
        create = getattr(dacapo_store, name)
        create()
        waits = []
        for _ in range(times):
            began = time.perf_counter()
            create()
            waits.append(time.perf_counter() - began)
        figures[f"{name}()"] = 1e3 * statistics.median(waits)
    return figures
