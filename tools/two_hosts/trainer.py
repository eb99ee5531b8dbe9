"""What runs on a host: ``python -m tools.two_hosts.trainer train|look ADDRESS [RUN ITERATIONS]``.

``train`` stores ten iterations a call and says on stdout how many were acknowledged. Where the storage does
not answer, it tries again: the stores recognise what they have. ``look`` says what this host sees.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Final

import dacapo_store
from dacapo_store import Options, TrainingIterationStats, create_stats_store
from eventstore import CommitUnknownError, StorageUnavailableError

_ITERATION_SECONDS: Final = 0.02
_ITERATIONS_OF_A_CALL: Final = 10


def train(address: str, run: str, iterations: int) -> None:
    """Store the stats of a training that computes nothing."""
    stats = create_stats_store(Options(runs_base_dir=address))
    rows: list[TrainingIterationStats] = []
    for iteration in range(iterations):
        time.sleep(_ITERATION_SECONDS)
        rows.append(TrainingIterationStats(iteration, loss=1 / (1 + iteration), time=_ITERATION_SECONDS))
        if len(rows) % _ITERATIONS_OF_A_CALL == 0:
            while True:
                try:
                    stats.store_training_stats(run, rows)
                    break
                except (StorageUnavailableError, CommitUnknownError) as error:
                    print(f"{run}: {error}", file=sys.stderr)
            print(len(rows), flush=True)


def look(address: str) -> None:
    """Say what is there: position, chain value, and the iterations of each run."""
    with dacapo_store.open(address, read_only=True) as store:
        cited = store.cite()
        rows = store.sql("SELECT run, count(*), max(iteration) FROM training_stats GROUP BY run ORDER BY run")
        runs = {run: [count, last] for run, count, last in rows}
    print(json.dumps({"position": cited.position, "chain": cited.chain, "runs": runs}))


if __name__ == "__main__":
    if sys.argv[1] == "train":
        train(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        look(sys.argv[2])
