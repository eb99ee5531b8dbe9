"""Fleets of trainers on one log, simulated; and small cases simulated beside what was measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from tools.scale.measurement import ROUND_TRIPS, WRITERS, round_trip_name
from tools.scale.simulation import Engine, Outcome, simulated

STORAGES: Final[Mapping[str, Engine]] = {
    "object store, 40 ms": Engine(0.04, 0.02, looks_first=True),
    "object store, 8 ms": Engine(0.008, 0.004, looks_first=True),
    "PostgreSQL, 3 ms": Engine(0.003, 0.001, reads_many=True, looks_first=True),
}
"""Median latencies of a request that creates: a cloud's, one in the building, a database in the building."""

TRAINERS: Final = (10, 100, 1_000, 10_000)
EVERY: Final = (5.0, 60.0)
"""Seconds between a trainer's commits; 5 is what a buffered logger does by itself."""

SHARE: Final = 0.5
"""How much of what a log can do it should be asked for."""

_MANY_WRITERS: Final = 100
_TOO_MUCH: Final = 1.2


def capacity(engine: Engine) -> float:
    """Commits a second of a log that many writers want all the time."""
    return simulated(engine, writers=_MANY_WRITERS, seconds=20).commit_rate


def fleets() -> Iterator[dict[str, Any]]:
    """Every storage with every fleet: what one log makes of it, and how many bases it wants."""
    for storage, engine in STORAGES.items():
        most = capacity(engine)
        for every in EVERY:
            for trainers in TRAINERS:
                demand = trainers / every
                figures = {
                    "storage": storage,
                    "every_seconds": every,
                    "trainers": trainers,
                    "demand_per_second": demand,
                    "capacity_per_second": most,
                    "bases": max(1, math.ceil(demand / (SHARE * most))),
                }
                if demand < _TOO_MUCH * most:
                    seconds = max(60.0, every)
                    figures |= _summary(simulated(engine, writers=trainers, seconds=seconds, every=every))
                yield figures


def _summary(outcome: Outcome) -> dict[str, float]:
    appends = max(1, len(outcome.waits))
    return {
        "appends_per_second": outcome.append_rate,
        "median_wait_seconds": outcome.median_wait,
        "p99_wait_seconds": outcome.wait(0.99),
        "creates_per_append": outcome.creates / appends,
        "reads_per_append": outcome.reads / appends,
    }


def compared(cases: Sequence[Mapping[str, Any]], *, seconds: float) -> Iterator[dict[str, Any]]:
    """PostgreSQL behind a long line: what several writers made, and what the simulation says.

    How long a request takes it learns from the case of one writer; everything else follows. Both begin
    with writers that have not seen each other, and last equally long.
    """
    for trip in ROUND_TRIPS:
        found = {
            case["writers"]: case
            for case in cases
            if case["storage"] == round_trip_name(trip) and case["events"] == 1
        }
        if not found:
            continue
        engine = Engine(found[1]["median_wait_seconds"], trip, spread=0.1, reads_many=True)
        for writers in WRITERS:
            runs = [simulated(engine, writers=writers, seconds=seconds, seed=seed) for seed in range(20)]
            yield {
                "storage": round_trip_name(trip),
                "writers": writers,
                "measured_per_second": found[writers]["commits_per_second"],
                "simulated_per_second": statistics.median(run.commit_rate for run in runs),
            }
