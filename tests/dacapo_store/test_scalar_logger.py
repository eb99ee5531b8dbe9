"""Scalars of a hot loop: cheap to add, recorded exactly once, whatever happens to the process."""

from __future__ import annotations

import errno
import logging
import math
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dacapo_store import Base, FileStatsStore, TrainingIterationStats
from dacapo_store import scalar_logger as scalar_logger_module
from dacapo_store.folds import history_of
from dacapo_store.history import TRAINING
from dacapo_store.scalar_logger import ScalarLogger
from dacapo_store.spooled_scalars import KIND, Layout
from eventstore import ReadOnlyLogError, WriteRefusedError, files
from eventstore.spool import Spool, left_over


@pytest.fixture(autouse=True)
def _time_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is, nothing is flushed by time here."""
    monkeypatch.setattr(scalar_logger_module, "monotonic", lambda: 0.0)


@pytest.fixture
def store(tmp_path: Path) -> FileStatsStore:
    return FileStatsStore(tmp_path / "stats")


def in_view(store: FileStatsStore, run: str = "run") -> list[tuple[int, dict[str, float]]]:
    """The run's rows as the views show them, which the fold must show as well."""
    rows = store.retrieve_training_stats(run).iteration_stats
    found = [(row.iteration, dict(row.scalars)) for row in rows]
    fold = history_of(store._base, TRAINING, run).rows
    assert fold.iterations.tolist() == [iteration for iteration, _ in found]
    return found


def iterations(store: FileStatsStore, run: str = "run") -> list[int]:
    return [iteration for iteration, _ in in_view(store, run)]


def recorded(store: FileStatsStore, run: str = "run") -> list[int]:
    """Every iteration that was ever recorded, in view or not, in order."""
    events = store._base.log.read_stream(f"training/{run}")
    return [item for event in events if event.index is not None for item in event.index.to_pylist()]


def kill_while_logging(folder: Path, code: str) -> None:
    """Run this on a store of the folder in another process, and kill that."""
    program = f"""
import os
from dacapo_store import FileStatsStore
store = FileStatsStore({str(folder / "stats")!r})
log = store.scalar_logger("run", flush_seconds=1e9, flush_rows=10)
{code}
os.kill(os.getpid(), 9)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == -9, result.stderr


def test_rows_are_there_after_the_with_statement(store: FileStatsStore) -> None:
    """Any named scalars, in order, and one commit for all."""
    with store.scalar_logger(SimpleNamespace(name="run")) as log:
        for iteration in range(5):
            log.add(iteration, loss=iteration / 2, lr=1e-4)
    assert in_view(store) == [(i, {"loss": i / 2, "lr": 1e-4}) for i in range(5)]
    assert store._base.log.stream_version("training/run") == 1
    assert left_over(store._base.path / "events") == []


@pytest.mark.parametrize("spool", [True, False])
def test_rows_are_flushed_by_number(store: FileStatsStore, spool: bool) -> None:  # noqa: FBT001
    """Every so many rows are an event; others see them, and only them."""
    log = store.scalar_logger("run", flush_rows=3, spool=spool)
    for iteration in range(8):
        log.add(iteration, loss=0.0)
    assert recorded(store) == [0, 1, 2, 3, 4, 5]
    log.close()
    assert recorded(store) == list(range(8))


def test_rows_are_flushed_by_time_durably(store: FileStatsStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call that comes after the time is over flushes what was there before it."""
    now = [0.0]
    monkeypatch.setattr(scalar_logger_module, "monotonic", lambda: now[0])
    log = store.scalar_logger("run", flush_seconds=5)
    log.add(0, loss=0.0)
    log.add(1, loss=0.0)
    now[0] = 5.0
    log.add(2, loss=0.0)
    assert recorded(store) == [0, 1]
    assert store._base.log.durable_position == store._base.log.next_position
    log.add(3, loss=0.0)
    assert recorded(store) == [0, 1]


def test_a_flush_by_number_does_not_wait_for_the_disk(
    store: FileStatsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is for ``flush()``, for ``close()`` and for the flush by time."""
    log = store.scalar_logger("run", flush_rows=2, flush_seconds=1e9)
    log.add(0, loss=0.0)
    syncs: list[int] = []
    sync_data = files.sync_data
    monkeypatch.setattr(files, "sync_data", lambda descriptor: (syncs.append(1), sync_data(descriptor)))
    for iteration in range(1, 7):
        log.add(iteration, loss=0.0)
    assert syncs == []
    log.flush(durable=False)
    assert syncs == []
    log.flush()
    assert syncs == [1]
    assert store._base.log.durable_position == store._base.log.next_position


def test_this_process_sees_its_own_rows(store: FileStatsStore) -> None:
    """A query here flushes first; another process sees flushed rows only."""
    log = store.scalar_logger("run")
    log.add(0, loss=1.0)
    code = f"""
from dacapo_store import FileStatsStore
print(len(FileStatsStore({str(store.path)!r}).retrieve_training_stats("run").iteration_stats))"""
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert seen == "0\n"
    assert iterations(store) == [0]
    assert Base.at(store._base.path).query("SELECT count(*) FROM training_stats").fetchone() == (1,)
    log.add(1, loss=1.0)
    assert iterations(store) == [0, 1]


# --- values


def test_every_kind_of_number_is_taken(store: FileStatsStore) -> None:
    """Numbers of Python, numpy and torch, None for an absent one, bits kept."""
    payload = struct.unpack("<d", struct.pack("<Q", 0x7FF8_0000_0000_1234))[0]
    with store.scalar_logger("run") as log:
        log.add(0, a=1, b=np.float32(0.5), c=torch.tensor(0.25), d=np.array(2.0))
        log.add(np.int64(1), a=True, b=payload, c=-0.0, d=math.inf)
        log.add(torch.tensor(2), a=None, b=None, c=None, d=None)
        log.add(3)
    rows = in_view(store)
    assert rows[0] == (0, {"a": 1.0, "b": 0.5, "c": 0.25, "d": 2.0})
    assert struct.pack("<d", rows[1][1]["b"]) == struct.pack("<d", payload)
    assert math.copysign(1, rows[1][1]["c"]) == -1
    assert rows[2:] == [(2, {}), (3, {})]


def test_names_may_come_and_go(store: FileStatsStore) -> None:
    """A scalar that a row lacks is absent; a new name changes the layout of the rows behind it."""
    with store.scalar_logger("run", columns=["loss", "rate"]) as log:
        log.add(0, loss=1.0)
        log.add(1, rate=0.5, loss=2.0)
        log.add(2, loss=3.0, **{"lr/encoder": 4.0})
        log.add(3)
        log.add(4, loss=math.nan)
    rows = in_view(store)
    assert rows[:4] == [
        (0, {"loss": 1.0}),
        (1, {"loss": 2.0, "rate": 0.5}),
        (2, {"loss": 3.0, "lr/encoder": 4.0}),
        (3, {}),
    ]
    assert rows[4][1].keys() == {"loss"}


def test_more_names_than_a_word_has_bits(store: FileStatsStore) -> None:
    """Presence takes as many words as needed."""
    names = [f"s{number}" for number in range(130)]
    with store.scalar_logger("run") as log:
        log.add(0, **dict.fromkeys(names, 1.0))
        log.add(1, s0=0.0, s64=64.0, s129=129.0)
    assert in_view(store) == [(0, dict.fromkeys(names, 1.0)), (1, {"s0": 0.0, "s64": 64.0, "s129": 129.0})]


@pytest.mark.parametrize(
    ("iteration", "scalars", "error", "text"),
    [
        (1.5, {"loss": 1.0}, TypeError, "iteration must be an integer"),
        (True, {"loss": 1.0}, TypeError, "iteration must be an integer"),
        (2**63, {"loss": 1.0}, ValueError, "does not fit 64 bits"),
        (9, {"loss": "1.0"}, TypeError, "iteration 9, loss"),
        (9, {"loss": 1.0, "rate": np.zeros(2)}, TypeError, "iteration 9, rate"),
        (9, {"loss": 10**400}, ValueError, "iteration 9, loss"),
        (9, {"loss": 1j}, TypeError, "iteration 9, loss"),
        (9, {"_x": 1.0}, ValueError, "'_x' cannot name a scalar"),
        (9, {"": 1.0}, ValueError, "cannot name a scalar"),
    ],
)
def test_bad_input_is_refused_and_costs_nothing(
    store: FileStatsStore, iteration: int, scalars: dict[str, float], error: type[Exception], text: str
) -> None:
    """The error names the scalar; what was added stays, and the logger goes on."""
    with store.scalar_logger("run") as log:
        log.add(0, loss=0.5)
        with pytest.raises(error, match=text):
            log.add(iteration, **scalars)
        log.add(10, loss=0.25)
    assert in_view(store) == [(0, {"loss": 0.5}), (10, {"loss": 0.25})]


@pytest.mark.parametrize(
    "arguments", [{"flush_rows": 0}, {"flush_seconds": 0}, {"flush_seconds": math.nan}, {"columns": ["_a"]}]
)
def test_bad_arguments_are_refused(store: FileStatsStore, arguments: dict[str, object]) -> None:
    """When the logger is made, not when rows are in it."""
    with pytest.raises(ValueError, match=r"flush|scalar"):
        store.scalar_logger("run", **arguments)  # type: ignore[arg-type]


def test_a_read_only_store_logs_nothing(store: FileStatsStore) -> None:
    """It says so at once."""
    with pytest.raises(ReadOnlyLogError, match="read-only"):
        FileStatsStore(store.path, read_only=True).scalar_logger("run")


# --- epochs


def test_going_back_drops_what_lies_ahead(store: FileStatsStore, caplog: pytest.LogCaptureFixture) -> None:
    """As when a trainer's own list goes back: what lies below stays in view, all stays in the history."""
    with store.scalar_logger("run") as log:
        for iteration in (0, 1, 2, 3, 2, 3, 3):
            log.add(iteration, loss=float(iteration))
    assert iterations(store) == [0, 1, 2, 3]
    assert recorded(store) == [0, 1, 2, 3, 2, 3, 3]
    assert "went back from iteration 3 to 2" in caplog.text


def test_a_resumed_logger_replaces_what_lies_ahead(store: FileStatsStore) -> None:
    """A second session begins where it begins; below that the first one's rows stay."""
    with store.scalar_logger("run") as log:
        for iteration in range(10):
            log.add(iteration, loss=1.0)
    with store.scalar_logger("run") as log:
        log.add(6, loss=2.0)
    assert in_view(store)[-2:] == [(5, {"loss": 1.0}), (6, {"loss": 2.0})]


def test_store_calls_and_loggers_make_one_history(store: FileStatsStore) -> None:
    """Stats that were stored before stay below the logger's; stored ones go on behind it."""
    store.store_training_stats("run", [TrainingIterationStats(i, loss=0.0) for i in range(3)])
    with store.scalar_logger("run") as log:
        log.add(3, loss=1.0)
    store.store_training_stats("run", [TrainingIterationStats(4, loss=2.0)])
    assert iterations(store) == [0, 1, 2, 3, 4]


def test_the_newest_logger_of_a_run_has_the_view(store: FileStatsStore) -> None:
    """What an older one holds at or behind the newer one's beginning goes to the history."""
    old, new = store.scalar_logger("run"), store.scalar_logger("run")
    old.add(0, loss=1.0)
    old.add(1, loss=1.0)
    new.add(1, loss=2.0)
    old.close()
    new.close()
    assert in_view(store) == [(0, {"loss": 1.0}), (1, {"loss": 2.0})]
    assert sorted(recorded(store)) == [0, 1, 1]


def test_after_a_deletion_a_logger_goes_on(store: FileStatsStore) -> None:
    """What was added before it is history, and what comes behind it is in view."""
    log = store.scalar_logger("run")
    log.add(0, loss=1.0)
    store.delete_training_stats("run")
    log.add(1, loss=1.0)
    log.close()
    assert iterations(store) == [1]
    assert recorded(store) == [0, 1]


def test_a_deletion_by_another_process_is_noticed_at_the_next_flush(
    store: FileStatsStore, tmp_path: Path
) -> None:
    """Until then rows go to the epoch that has ended: to the history."""
    log = store.scalar_logger("run", flush_rows=2)
    log.add(0, loss=1.0)
    code = f"""
from dacapo_store import FileStatsStore, TrainingIterationStats
store = FileStatsStore({str(tmp_path / "stats")!r})
store.store_training_stats("run", [TrainingIterationStats(0)])
store.delete_training_stats("run")"""
    subprocess.run([sys.executable, "-c", code], check=True)
    for iteration in range(1, 5):
        log.add(iteration, loss=1.0)
    log.close()
    assert iterations(store) == [2, 3, 4]
    assert recorded(store)[-5:] == [0, 1, 2, 3, 4]


def test_a_logger_whose_epoch_was_ended_goes_on_when_it_is_ahead(
    store: FileStatsStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows that are not ahead of what somebody else has stored are recorded as history, with a warning."""
    log = store.scalar_logger("run", flush_rows=1)
    log.add(0, loss=1.0)
    log.add(1, loss=1.0)
    store.store_training_stats("run", [TrainingIterationStats(i, loss=2.0) for i in range(4)])
    for iteration in range(2, 7):
        log.add(iteration, loss=3.0)
    log.close()
    assert [row["loss"] for _, row in in_view(store)] == [2.0, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0]
    assert sorted(recorded(store)) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 5, 6]
    assert caplog.text.count("somebody else has stored stats of run run up to iteration 3") == 1


def test_rows_that_somebody_else_overtook_fall_behind(store: FileStatsStore, tmp_path: Path) -> None:
    """Another process, which cannot know of rows in a living spool, stores the same iterations first."""
    log = store.scalar_logger("run")
    log.add(0, loss=1.0)
    log.flush()
    log.add(1, loss=1.0)
    code = f"""
from dacapo_store import FileStatsStore, TrainingIterationStats
store = FileStatsStore({str(tmp_path / "stats")!r})
store.store_training_stats("run", [TrainingIterationStats(i, loss=2.0) for i in (1, 2)])"""
    subprocess.run([sys.executable, "-c", code], check=True)
    log.add(2, loss=1.0)
    log.add(3, loss=1.0)
    log.close()
    assert in_view(store) == [(i, {"loss": 1.0}) for i in range(4)]
    assert sorted(recorded(store)) == [0, 1, 1, 2, 2, 3]


# --- ends of processes


def test_rows_of_a_killed_process_are_there_when_the_base_is_opened(tmp_path: Path) -> None:
    """Every row that was added, flushed or not, once."""
    kill_while_logging(tmp_path, "for i in range(25): log.add(i, loss=i / 2)")
    assert len(left_over(tmp_path / "events")) == 1
    store = FileStatsStore(tmp_path / "stats")
    assert recorded(store) == list(range(25))
    assert in_view(store) == [(i, {"loss": i / 2}) for i in range(25)]
    assert left_over(tmp_path / "events") == []


def test_reading_only_adopts_nothing(tmp_path: Path) -> None:
    """A read-only opener sees what was flushed, and leaves the spool to others."""
    kill_while_logging(tmp_path, "for i in range(25): log.add(i, loss=1.0)")
    reader = FileStatsStore(tmp_path / "stats", read_only=True)
    assert reader.retrieve_training_stats("run").trained_until() == 20
    assert len(left_over(tmp_path / "events")) == 1


@pytest.mark.parametrize("what", ["store", "delete", "retrieve", "query"])
def test_rows_are_adopted_before_a_run_is_decided_on(tmp_path: Path, what: str) -> None:
    """A process that had the base open all the while does so as well."""
    store = FileStatsStore(tmp_path / "stats")
    store.store_training_stats("run", [])
    kill_while_logging(tmp_path, "for i in range(5): log.add(i, loss=1.0)")
    if what == "store":
        store.store_training_stats("run", [TrainingIterationStats(3, loss=2.0)])
    elif what == "delete":
        store.delete_training_stats("run")
    elif what == "retrieve":
        assert store.retrieve_training_stats("run").trained_until() == 5
    else:
        assert store._base.query("SELECT count(*) FROM training_stats_at(2)").fetchone() == (5,)
    assert recorded(store)[:5] == [0, 1, 2, 3, 4]
    assert left_over(tmp_path / "events") == []


def test_a_killed_loggers_rows_do_not_replace_what_was_stored_over_them(tmp_path: Path) -> None:
    """Its epoch ended while it lived: its last rows are history."""
    store = FileStatsStore(tmp_path / "stats")
    kill_while_logging(
        tmp_path,
        """
for i in range(15): log.add(i, loss=1.0)
other = FileStatsStore(store.path)
other._base.loggers.clear()  # as if it were another process, which cannot flush this logger
from dacapo_store import TrainingIterationStats
other.store_training_stats("run", [TrainingIterationStats(i, loss=2.0) for i in range(5, 8)])
""",
    )
    assert [row["loss"] for _, row in in_view(store)] == [2.0] * 3
    assert recorded(store) == [*range(10), 5, 6, 7, *range(10, 15)]


@pytest.mark.parametrize(
    "changed",
    [
        {"kind": "something else"},
        {"columns": ["loss", "loss"]},
        {"columns": ["loss", "time", "rate"]},
        {"run": "another"},
        {"epoch": "first"},
        {"epoch": 2**70},
    ],
)
def test_a_spool_that_no_logger_made_is_left_alone(store: FileStatsStore, changed: dict[str, object]) -> None:
    """It harms nobody: the base opens, and the run can be stored."""
    about = {"kind": KIND, "run": "run", "epoch": 1, "stream_version": 0, "columns": ["loss", "time"]}
    layout = Layout(["loss", "time"])
    folder = store._base.path / "events"
    spool = Spool.create(
        folder, stream="training/run", about={**about, **changed}, row_bytes=layout.row_bytes
    )
    spool.put(0, layout.pack(0, 5, 1.0, 1.0, *layout.everything))
    spool.close()
    store.store_training_stats("run", [TrainingIterationStats(1, loss=2.0)])
    assert iterations(store) == [1]
    assert len(left_over(folder)) == 1


def test_rows_are_adopted_by_a_log_that_was_restored_without_their_run(tmp_path: Path) -> None:
    """The spool knows of events that an older copy of the log does not have."""
    store = FileStatsStore(tmp_path / "stats")
    store._base.close()
    events = tmp_path / "events"
    (segment,) = events.glob("*.arrows")
    before = segment.read_bytes()
    kill_while_logging(tmp_path, "for i in range(15): log.add(i, loss=i / 2)")
    segment.write_bytes(before)
    store = FileStatsStore(tmp_path / "stats")
    assert in_view(store) == [(i, {"loss": i / 2}) for i in range(10, 15)]


def test_an_exit_without_close_loses_nothing(tmp_path: Path) -> None:
    """Also without a spool: the interpreter's end flushes."""
    for spool in (True, False):
        code = f"""
from dacapo_store import FileStatsStore
def loop():
    log = FileStatsStore({str(tmp_path / "stats")!r}).scalar_logger("run{spool}", spool={spool})
    for i in range(5): log.add(i, loss=1.0)
    return log
{"log = " if spool else ""}loop()"""
        subprocess.run([sys.executable, "-c", code], check=True)
        assert len(left_over(tmp_path / "events")) == 0
        assert recorded(FileStatsStore(tmp_path / "stats"), f"run{spool}") == list(range(5))


def test_a_forgotten_logger_loses_nothing(store: FileStatsStore) -> None:
    """Its spool is adopted by the next who looks, in this process too."""
    log = store.scalar_logger("run")
    log.add(0, loss=1.0)
    del log
    assert iterations(store) == [0]


def test_a_forked_child_has_no_part_in_it(store: FileStatsStore) -> None:
    """Its copy is closed and says so, and its end changes nothing; the parent goes on."""
    log = store.scalar_logger("run")
    log.add(0, loss=1.0)
    child = os.fork()
    if child == 0:
        try:
            log.add(1, loss=1.0)
        except ValueError as error:
            log.close()
            os._exit(7 if "its parent's" in str(error) else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    log.add(1, loss=2.0)
    log.close()
    assert in_view(store) == [(0, {"loss": 1.0}), (1, {"loss": 2.0})]


def test_threads_may_share_a_logger(store: FileStatsStore) -> None:
    """Rows of all are there, each once; here every call is ahead of the one before."""
    log = store.scalar_logger("run", flush_rows=50)
    turn = threading.Lock()
    numbers = iter(range(2000))

    def work() -> None:
        while True:
            with turn:
                number = next(numbers, None)
                if number is None:
                    return
                log.add(number, loss=float(number))
            if number % 100 == 0:
                log.flush(durable=False)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert recorded(store) == list(range(2000))


# --- failures


def test_a_closed_logger_says_so(store: FileStatsStore) -> None:
    """Closing twice is fine, adding and flushing is not."""
    log = store.scalar_logger("run")
    log.close()
    log.close()
    for call in (lambda: log.add(0, loss=1.0), log.flush):
        with pytest.raises(ValueError, match="is closed: make a new one"):
            call()
    assert "closed" in repr(log)


def test_closing_the_base_closes_its_loggers(store: FileStatsStore) -> None:
    """Their rows are recorded first."""
    log = store.scalar_logger("run")
    log.add(0, loss=1.0)
    store._base.close()
    with pytest.raises(ValueError, match="closed"):
        log.add(1, loss=1.0)
    assert recorded(FileStatsStore(store.path)) == [0]


def full(*_: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_refuses_the_row_and_keeps_the_others(
    store: FileStatsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Add raises; with room again the same call goes on where it was."""
    with store.scalar_logger("run", flush_rows=3) as log:
        log.add(0, loss=1.0)
        for iteration in range(1, 7):
            with monkeypatch.context() as patched:
                patched.setattr(files, "write_at", full)
                with pytest.raises(WriteRefusedError):
                    log.add(iteration, loss=1.0)
            log.add(iteration, loss=1.0)
    assert recorded(store) == list(range(7))


def test_a_close_on_a_full_disk_leaves_the_rows_in_the_spool(
    store: FileStatsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The logger is closed all the same; the next use of the base records them."""
    log = store.scalar_logger("run")
    log.add(0, loss=1.0)
    with monkeypatch.context() as patched:
        patched.setattr(files, "write_at", full)
        with pytest.raises(WriteRefusedError):
            log.close()
        assert len(left_over(store._base.path / "events")) == 1
        assert store._base.query("SELECT count(*) FROM training_stats").fetchone() == (0,)
        with pytest.raises(WriteRefusedError):
            store.store_training_stats("run", [TrainingIterationStats(1)])
    log.close()
    assert iterations(store) == [0]


def test_a_close_without_a_spool_on_a_full_disk_may_be_repeated(
    store: FileStatsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows are nowhere else."""
    log = store.scalar_logger("run", spool=False)
    log.add(0, loss=1.0)
    with monkeypatch.context() as patched:
        patched.setattr(files, "write_at", full)
        with pytest.raises(WriteRefusedError):
            log.close()
    log.close()
    assert iterations(store) == [0]


def test_a_commit_whose_outcome_was_unknown_is_not_repeated(
    store: FileStatsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sync failed though the commit is there; more rows come; each is recorded once."""
    log = store.scalar_logger("run")
    log.add(0, loss=1.0)
    log.flush()
    log.add(1, loss=1.0)
    with monkeypatch.context() as patched:
        patched.setattr(files, "sync_data", full)
        with pytest.raises(OSError, match=r"sync|confirm"):
            log.flush()
    log.add(2, loss=1.0)
    log.close()
    assert recorded(store) == [0, 1, 2]
    assert iterations(store) == [0, 1, 2]


def test_a_deleted_spool_is_made_anew(store: FileStatsStore) -> None:
    """At the next flush, when somebody has tidied up behind the logger's back."""
    log = store.scalar_logger("run", flush_rows=2)
    log.add(0, loss=1.0)
    (path,) = left_over(store._base.path / "events")
    path.unlink()
    for iteration in range(1, 4):
        log.add(iteration, loss=1.0)
    assert len(left_over(store._base.path / "events")) == 1
    log.close()
    assert recorded(store) == [0, 1, 2, 3]


def test_a_logger_loads_nothing_heavy(tmp_path: Path) -> None:
    """Making one needs nothing that the log itself does not, and a process that only logs no DuckDB."""
    code = f"""
import sys
heavy = lambda: [name for name in ("numpy", "pandas", "duckdb", "torch") if name in sys.modules]
from dacapo_store.base import Base
from dacapo_store.scalar_logger import ScalarLogger
log = ScalarLogger(Base.at({str(tmp_path)!r}), "run", flush_rows=2)
print([name for name in heavy() if name not in before])
for i in range(5): log.add(i, loss=1.0)
log.add(5, rate=1.0)
log.close()
print("duckdb" in sys.modules)"""
    code = code.replace(
        "from dacapo_store.base", "import eventstore; before = heavy()\nfrom dacapo_store.base", 1
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\nFalse\n"


def test_a_logger_shows_where_it_stands(store: FileStatsStore, caplog: pytest.LogCaptureFixture) -> None:
    """For people at a prompt."""
    caplog.set_level(logging.INFO)
    log = store.scalar_logger("run")
    log.add(0, loss=1.0)
    assert isinstance(log, ScalarLogger)
    assert repr(log) == "ScalarLogger(run='run', 1 rows to flush)"
