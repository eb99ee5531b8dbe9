"""Processes that are killed while they store weights in the background: all of it, or nothing of it.

Real kills, at failpoints and at random moments, of forked processes that train and store.
"""

from __future__ import annotations

import os
import random
import signal
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dacapo_store.base import Base
from dacapo_store.errors import WeightsMissingError
from dacapo_store.maintenance import collect_garbage, plan_gc
from dacapo_store.weights_store import LocalWeightsStore
from tools.torture.failpoints import FAILPOINTS, Failpoints

NOTHING_YET = [
    "before create weights",
    "before write weights",
    "in the middle write weights",
    "before sync_file weights",
    "after sync_file weights",
    "before sync_directory weights folder",
    "after sync_directory weights folder",
    "before write_at segment",
]
ON_RECORD = ["after sync_data segment", "before link link", "before rename link", "after rename link"]

# Enough for a digest in a thread, and several times what is written at once.
VALUES = 3_000_000


def run_of(number: int) -> Any:
    """A run whose weights are this number, many times."""
    model = types.SimpleNamespace(state_dict=lambda: {"weight": torch.full((VALUES,), float(number))})
    return types.SimpleNamespace(name="run_1", model=model, optimizer=types.SimpleNamespace(state_dict=dict))


def forked(work: Callable[[], None]) -> int:
    """A child that does this and ends without any of its parent's ways to end."""
    child = os.fork()
    if child == 0:
        try:
            # The parent's threads for large tensors are not here, and would be waited for.
            torch.set_num_threads(1)
            work()
        finally:
            os._exit(0)
    return child


def check(base: Path, iterations: list[int]) -> None:
    """These iterations and no others are there, whole; what else lies there is garbage, and goes."""
    store = LocalWeightsStore(base)
    events = list(Base.at(base).log.read_stream("weights/run_1"))
    assert [event.data["iteration"] for event in events] == iterations
    for iteration in iterations:
        weights = store.retrieve_weights("run_1", iteration).model["weight"]
        assert torch.all(weights == iteration)
    collect_garbage(base, grace_seconds=-60)
    objects = list((base / "run_1/checkpoints/objects").glob("*"))
    assert len(objects) == len(iterations)
    for iteration in iterations:
        store.retrieve_weights("run_1", iteration)


@pytest.mark.parametrize("failpoint", NOTHING_YET + ON_RECORD)
def test_killed_store_is_there_or_not_there(failpoint: str, tmp_path: Path) -> None:
    """Before the event nothing is on record, and a file is left at most; after it, all loads."""
    assert failpoint in FAILPOINTS
    LocalWeightsStore(tmp_path).store_weights(run_of(1), 1)

    def work() -> None:
        Failpoints(tmp_path, {failpoint: 1}, lambda _: None).install()
        LocalWeightsStore(tmp_path).store_weights(run_of(2), 2, wait=False).wait(60)

    status = os.waitstatus_to_exitcode(os.waitpid(forked(work), 0)[1])
    assert status == -signal.SIGKILL
    left = [each.kind for each in plan_gc(tmp_path, grace_seconds=-60).garbage]
    assert left.count("orphan") == (failpoint in NOTHING_YET[1:])
    if failpoint in NOTHING_YET:
        with pytest.raises(WeightsMissingError):
            LocalWeightsStore(tmp_path).retrieve_weights("run_1", 2)
    check(tmp_path, [1, 2] if failpoint in ON_RECORD else [1])


def test_kills_at_any_moment_leave_a_beginning_of_what_was_stored(tmp_path: Path) -> None:
    """What a process was told is done is there; of the rest, the first ones in their order."""
    dice = random.Random(5)  # noqa: S311 - moments, not secrets
    expected: list[int] = []
    for turn in range(6):
        reader, writer = os.pipe()
        first = 1000 * (turn + 1)

        def work(first: int = first, reader: int = reader, writer: int = writer) -> None:
            os.close(reader)
            store = LocalWeightsStore(tmp_path)
            for iteration in range(first, first + 1000):
                pending = store.store_weights(run_of(iteration), iteration, wait=False)
                os.write(writer, b"begun %d\n" % iteration)
                if iteration % 2:
                    pending.result()
                    os.write(writer, b"done %d\n" % iteration)

        child = forked(work)
        os.close(writer)
        with os.fdopen(reader) as said:
            lines = [said.readline() for _ in range(dice.randint(1, 5))]
            time.sleep(dice.random() * 0.1)
            os.kill(child, signal.SIGKILL)
            lines += said.readlines()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        begun = [int(line.split()[1]) for line in lines if line.startswith("begun")]
        done = [int(line.split()[1]) for line in lines if line.startswith("done")]
        events = Base.at(tmp_path).log.read_stream("weights/run_1")
        here = [number for event in events if (number := event.data["iteration"]) >= first]
        # One more may have begun than it came to say.
        assert here == list(range(first, first + len(here)))
        assert len(here) <= len(begun) + 1
        assert set(done) <= set(here)
        expected += here
        check(tmp_path, expected)
    assert expected
