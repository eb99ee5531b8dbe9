"""B7: run configs: storing many, retrieving each, listing them, and filtering by task."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tools.bench import run_configs
from tools.bench.measure import Contestant, Figures, Size, metered, ratio, side_by_side
from tools.bench.peers.ours import DacapoStore
from tools.bench.peers.peer import Peer
from tools.bench.peers.upstream import DacapoFiles, quiet_dacapo
from tools.bench.results import Goal, Section

_STORE: Final = "s to store all"
_RETRIEVE: Final = "s to retrieve each"
GIVEN_DACAPO: Final = f"{DacapoStore.name}, DaCapo's classes"
GIVEN_STAND_INS: Final = f"{DacapoStore.name}, dataclasses"


def run_configs_stored(size: Size) -> Section:
    """B7: thousands of run configs."""
    count = size.pick(full=2000, quick=200, tiny=3)
    section = Section(
        "B7", f"{count:,} run configs of 12 kB: store, retrieve each, list names, filter by task"
    )
    theirs: dict[str, Any] = {"absent": DacapoFiles.absent(), "python": DacapoFiles.python}
    turn = store_and_retrieve
    section.rows = side_by_side(
        [
            Contestant(GIVEN_DACAPO, turn, (DacapoStore, run_configs.dacapo_classes, count), **theirs),
            Contestant(GIVEN_STAND_INS, turn, (DacapoStore, run_configs.stand_ins, count)),
            Contestant(
                DacapoFiles.name,
                turn,
                (DacapoFiles, run_configs.dacapo_classes, count),
                rounds_max=1,
                **theirs,
            ),
        ],
        rounds=size.pick(full=3, quick=2, tiny=1),
    )
    rows = section.rows
    section.goals = [
        Goal("store over DaCapo's", ratio(rows, GIVEN_DACAPO, DacapoFiles.name, _STORE), "at most", 1 / 10),
        Goal(
            "retrieve over DaCapo's",
            ratio(rows, GIVEN_DACAPO, DacapoFiles.name, _RETRIEVE),
            "at most",
            1 / 20,
        ),
    ]
    section.notes = [
        "With each run our store also stores its parts that are not stored yet.",
        "Each of our calls is durable when it returns; DaCapo's files are not synced.",
        "DaCapo's file store has no filter. The first list of names makes the read models.",
    ]
    return section


def store_and_retrieve(folder: Path, peer: type[Peer], classes_of: Callable[[], Any], count: int) -> Figures:
    """Store all, retrieve each in a store that is made anew, and look at the names."""
    with quiet_dacapo():
        classes = classes_of()
        configs = [run_configs.run_config(classes, number) for number in range(count)]
        store = peer(folder).config_store()
        with metered() as storing:
            for config in configs:
                store.store_run_config(config)
        with metered() as retrieving:
            found = [store.retrieve_run_config(config.name) for config in configs]
    if found != configs:
        raise AssertionError(f"{peer.name}: what came back is not what went in")
    figures = {
        _STORE: storing.seconds,
        "CPU s to store": storing.cpu_seconds,
        "kB written a config": storing.bytes_written / count / 1e3,
        _RETRIEVE: retrieving.seconds,
        "CPU s to retrieve": retrieving.cpu_seconds,
        "ms to list names, first time": _milliseconds(store.retrieve_run_config_names),
        "ms to list names": _milliseconds(store.retrieve_run_config_names),
    }
    if peer is DacapoStore:
        figures |= _ours_only(store, configs)
    return figures


def _ours_only(store: Any, configs: list[Any]) -> Figures:
    from dacapo_store import converter

    wanted = [run_configs.task_name(0)]
    names = store.retrieve_run_config_names(task_names=wanted)
    if names != [config.name for config in configs if config.task_config.name == wanted[0]]:
        raise AssertionError("the filter by task gave other runs")
    with metered() as unstructuring:
        documents = [converter.unstructure(config) for config in configs]
    with metered() as structuring:
        for document in documents:
            converter.structure(document)
    return {
        "ms to filter by task": _milliseconds(lambda: store.retrieve_run_config_names(task_names=wanted)),
        "s of storing in the converter": unstructuring.seconds,
        "s of retrieving in the converter": structuring.seconds,
    }


def _milliseconds(call: Any) -> float:
    began = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - began)
