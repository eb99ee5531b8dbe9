"""Disks that are full, broken or locked, descriptors that run out, files that go, clocks that go back.

The long version of the first tests is ``tools.torture.faults``, which lets every single call fail.
"""

from __future__ import annotations

import datetime as dt
import errno
import os
import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import zarr

from dacapo_store import LocalWeightsStore
from dacapo_store.base import Base
from eventstore import (
    DamagedLogError,
    Event,
    EventLog,
    StorageError,
    derived_id,
    files,
    identifiers,
    verify_log,
)
from eventstore.storage.local.lock import Lock
from tools.torture import faults
from tools.torture.faults import FAULTS, Step, Tally
from tools.torture.operations import Operation, State, perform
from tools.torture.zygote import Zygote


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    """Forks processes whose limits, users and mounts are their own."""
    with Zygote("tools.torture.faults") as zygote:
        yield zygote


@pytest.fixture(scope="module", autouse=True)
def _small_segments() -> Iterator[None]:
    with faults.prepared_process():
        yield


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> list[Step]:
    """The scenario, with a copy of the base in front of each operation."""
    return faults.steps(tmp_path_factory.mktemp("steps"))


def test_a_disk_may_become_full_at_any_call(steps: list[Step], tmp_path: Path) -> None:
    """ENOSPC from each write on, half of it done: an error, nothing stored, no litter, and on it goes."""
    tally = Tally()
    name = "disk full after half of a write"
    failures = [failure for step in steps for failure in faults.fail_everywhere(step, name, tmp_path, tally)]
    assert failures == []
    assert tally.cases[name] > 25


@pytest.mark.parametrize("name", FAULTS)
def test_calls_may_fail(steps: list[Step], tmp_path: Path, name: str) -> None:
    """Some calls of some operations, others for each fault; the long run lets all of them fail."""
    tally = Tally()
    for step in steps[list(FAULTS).index(name) % 3 :: 3]:
        assert faults.fail_everywhere(step, name, tmp_path, tally, stride=7) == []
    assert tally.cases[name]


def test_calls_may_fail_while_a_log_is_opened(tmp_path: Path) -> None:
    """A new log, a good one and one with a torn tail, on a disk that is full or broken."""
    tally = Tally()
    for name in FAULTS:
        assert faults.fail_opening(name, tmp_path, tally) == []
    assert min(tally.cases.values()) > 1


@pytest.mark.parametrize(
    ("job", "room"), [("bytes", 1), ("names", 1), ("descriptors", 1), ("descriptors", 3), ("permissions", 0)]
)
def test_a_system_may_have_no_room(zygote: Zygote, tmp_path: Path, job: str, room: int) -> None:
    """A real small file system without bytes or inodes, few descriptors, folders that are locked."""
    tally = Tally()
    assert faults.in_a_worker(zygote, job, tmp_path, tally, room=room) == []
    assert sum(tally.filled.values()) or "could not be mounted" in str(tally.filled)


# --- a sync that fails, in several processes


def in_a_process(zygote: Zygote, job: str, **task: Any) -> dict[str, Any]:
    """What a process of its own tells of its job."""
    worker = zygote.fork(job, **task)
    (answer,) = worker.hear_all()
    assert worker.end() == 0, answer
    return answer


def test_a_sync_that_failed_in_one_process_is_made_up_for_by_another(zygote: Zygote, tmp_path: Path) -> None:
    """One is told that it failed; the next one writes the tail anew first; a reader sees all of it."""
    path = str(tmp_path / "events")
    append = {"path": path, "syncs_fail": False}
    assert in_a_process(zygote, "append", number=0, **append)["outcome"] == "acknowledged"
    failed = in_a_process(zygote, "append", number=1, **(append | {"syncs_fail": True}))
    assert failed == {"outcome": "StorageError", "durable": 1, "next": 2}
    assert in_a_process(zygote, "read", path=path) == {"numbers": [0, 1]}
    assert in_a_process(zygote, "append", number=2, **append) == {
        "outcome": "acknowledged",
        "durable": 3,
        "next": 3,
    }
    assert in_a_process(zygote, "read", path=path) == {"numbers": [0, 1, 2]}
    assert len(list(Path(path).glob("*.arrows"))) == 2
    assert {finding.severity for finding in verify_log(Path(path)).findings} == {"note"}


def _failing_sync(_: int) -> None:
    raise OSError(errno.EIO, "Input/output error")


def test_an_append_that_is_repeated_makes_up_for_its_own_failed_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ids are known, so nothing is appended; without another append it would fail for ever."""
    events = [Event("A", {"n": 1}, event_id=derived_id("a", 1))]
    with EventLog.open(tmp_path) as log:
        with monkeypatch.context() as patch:
            patch.setattr(files, "sync_data", _failing_sync)
            with pytest.raises(StorageError):
                log.append("s", events)
        assert log.append("s", events).first_position == 0
        assert log.durable_position == log.next_position == 1


def test_a_process_whose_mark_of_a_failed_sync_is_refused_knows_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fails altogether: it is told as a failed sync, and the next append writes elsewhere."""
    with EventLog.open(tmp_path) as log:
        log.append("s", [Event("A", {"n": 0})])
        with monkeypatch.context() as patch:
            patch.setattr(files, "sync_data", _failing_sync)
            lock = log._storage._folder.lock  # type: ignore[union-attr]
            patch.setattr(lock, "write_state", lambda **_: _failing_sync(0))
            with pytest.raises(StorageError):
                log.append("s", [Event("A", {"n": 1})])
        log.append("s", [Event("A", {"n": 2})])
        assert [event.data["n"] for event in log.read()] == [0, 1, 2]
        assert len(list(tmp_path.glob("*.arrows"))) == 2


def test_a_tail_that_is_cut_meanwhile_does_not_concern_who_waits_for_a_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does one whose cutter was killed at it, so that the mark stays: the next append goes elsewhere."""
    cut_off = []
    with EventLog.open(tmp_path) as log, EventLog.open(tmp_path) as other:
        log.append("s", [Event("A", {"n": 0})])

        def sync(descriptor: int) -> None:
            os.fdatasync(descriptor)
            if not cut_off:
                cut_off.append(other._storage._writer.cutting())  # type: ignore[union-attr]
                assert other.next_position == 2
                with other._turn():
                    cut_off[0].__enter__()

        with monkeypatch.context() as patch:
            patch.setattr(files, "sync_data", sync)
            log.append("s", [Event("A", {"n": 1})])
        assert cut_off
        assert log.durable_position == 2
        log.append("s", [Event("A", {"n": 2})])
        assert [event.data["n"] for event in other.read()] == [0, 1, 2]
        assert len(list(tmp_path.glob("*.arrows"))) == 2
        assert log.verify().ok


def test_a_sync_comes_to_an_end_although_the_log_was_mended_by_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tail is in a file that this process has listed and has not read to its end: it looks first."""
    with EventLog.open(tmp_path) as log, EventLog.open(tmp_path) as other:
        for number in range(3):
            log.append("s", [Event("A", {"n": number})], durability="os")
        with monkeypatch.context() as patch:
            patch.setattr(files, "sync_data", _failing_sync)
            with pytest.raises(StorageError):
                other.append("s", [Event("A", {"n": 3})])
        other.append("s", [Event("A", {"n": 4})])
        assert len(list(tmp_path.glob("*.arrows"))) == 2
        storage = log._storage
        assert next(iter(storage.read(0, 1))).first_position == 0  # as a thread that reads the past does
        storage.sync(3)
        assert log.durable_position >= 3


# --- descriptors that run out


def test_a_want_of_descriptors_says_what_ran_out_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the limit and the command; the number and the file stay what they were."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", _no_descriptor)
        with pytest.raises(
            OSError, match=rf"as many files open as it may, {limit}: raise `ulimit -n`"
        ) as caught:
            EventLog.open(tmp_path)
    assert caught.value.errno == errno.EMFILE
    assert str(tmp_path).startswith(caught.value.filename)


def test_a_commit_that_cannot_be_synced_for_want_of_a_descriptor_is_of_unknown_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is written, and others see it: nobody may be told that nothing happened."""
    with EventLog.open(tmp_path) as log:
        log.append("s", [Event("A", {"n": 0})])
        with monkeypatch.context() as patch:
            patch.setattr(os, "dup", _no_descriptor)
            with pytest.raises(StorageError, match="ulimit -n"):
                log.append("s", [Event("A", {"n": 1})])
        assert log.durable_position == 1
        log.append("s", [Event("A", {"n": 2})])
        assert [event.data["n"] for event in log.read()] == [0, 1, 2]
        assert log.durable_position == 3


def _no_descriptor(*_: Any) -> int:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


# --- files that are deleted


def _log_of_some_segments(path: Path) -> EventLog:
    log = EventLog.open(path, segment_bytes_max=3_000)
    for number in range(9):
        log.append("s", [Event("A", {"n": number}, values=[0.0] * 40)])
    assert len(list(path.glob("*.arrows"))) > 3
    return log


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("place", [0, 1])
def test_a_rolled_segment_that_is_deleted_under_a_reader_is_damage(
    tmp_path: Path, *, place: int, read_only: bool
) -> None:
    """An error that says which events cannot be read, and never a gap."""
    with _log_of_some_segments(tmp_path), EventLog.open(tmp_path, read_only=read_only) as reader:
        sorted(tmp_path.glob("*.arrows"))[place].unlink()
        seen = []
        with pytest.raises(DamagedLogError) as caught:
            seen += [event.data["n"] for event in reader.read()]
        assert caught.value.position == (0, 2)[place]
        assert not seen


def test_an_active_segment_that_is_deleted_under_a_reader_is_damage(tmp_path: Path) -> None:
    """What was there a moment ago does not silently end earlier."""
    with _log_of_some_segments(tmp_path), EventLog.open(tmp_path, read_only=True) as reader:
        assert reader.next_position == 9
        max(tmp_path.glob("*.arrows")).unlink()
        with pytest.raises(DamagedLogError, match="gone"):
            list(reader.read())


def test_nothing_is_written_to_a_segment_that_was_deleted(tmp_path: Path) -> None:
    """It would be acknowledged and gone with the process."""
    with EventLog.open(tmp_path) as log:
        log.append("s", [Event("A", {"n": 0})])
        next(tmp_path.glob("*.arrows")).unlink()
        with pytest.raises(DamagedLogError, match="was deleted while it was in use"):
            log.append("s", [Event("A", {"n": 1})])


def test_a_log_whose_folder_is_deleted_says_so(tmp_path: Path) -> None:
    """Reading and writing raise what names the path; nothing is made in its place."""
    path = tmp_path / "events"
    with _log_of_some_segments(path) as log:
        shutil.rmtree(path)
        with pytest.raises((DamagedLogError, FileNotFoundError), match=str(path)):
            list(log.read())
        with pytest.raises((DamagedLogError, FileNotFoundError), match=str(path)):
            log.append("s", [Event("A")])
        assert not path.exists()


def test_a_lock_whose_file_cannot_be_opened_again_keeps_its_own_descriptor(tmp_path: Path) -> None:
    """The number of a closed one may be another file's next, and the lock writes to its own."""
    folder = tmp_path / "events"
    folder.mkdir()
    lock = Lock(folder)
    shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError):
        lock.state()
    with (tmp_path / "weights").open("wb") as another:
        assert lock._descriptor != another.fileno()
        lock.write_state(generation=2, failed_at=None)
    assert (tmp_path / "weights").read_bytes() == b""
    lock.close()


# --- clocks that go back


def test_a_clock_that_is_set_back_changes_no_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Order is position; a moment counts by the greatest clock so far, in this process and a new one."""
    moments = [dt.datetime(2026, 1, day, tzinfo=dt.UTC) for day in (5, 6, 1, 2, 7)]
    with EventLog.open(tmp_path) as log:
        for number, moment in enumerate(moments):
            log.append("s", [Event("A", {"n": number}, recorded_at=moment)])
    with EventLog.open(tmp_path) as log:
        assert [event.data["n"] for event in log.read()] == [0, 1, 2, 3, 4]
        assert [event.recorded_at for event in log.read()] == moments
        by_day = {day: log.position_at(dt.datetime(2026, 1, day, tzinfo=dt.UTC)) for day in range(4, 9)}
        assert by_day == {4: 0, 5: 1, 6: 4, 7: 5, 8: 5}
        assert log.verify().findings == ()


def test_the_host_s_clock_may_go_back_between_appends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids and times are made of it; nothing is refused, mixed up or taken for known."""
    clock = iter(range(2_000_000_000, 0, -1_000_000))
    monkeypatch.setattr(time, "time_ns", lambda: next(clock) * 1_000_000_000)
    with EventLog.open(tmp_path) as log:
        for number in range(20):
            log.append("s", [Event("A", {"n": number})])
        assert [event.data["n"] for event in log.read()] == list(range(20))
        assert len({event.event_id for event in log.read()}) == 20
        times = [event.recorded_at for event in log.read()]
        assert times == sorted(times, reverse=True)
        assert log.position_at(times[0]) == 20
        assert log.position_at(times[0] - dt.timedelta(seconds=1)) == 0
    identifiers._clock.forget()  # or the ids of later tests go on from that time


# --- what else this has found


class _Holder:
    """Gives its state, as a model and an optimizer do."""

    def state_dict(self) -> dict[str, Any]:
        return {"weight": torch.zeros(3)}


class _Run:
    name = "run_1"
    model: Any = _Holder()
    optimizer: Any = _Holder()


def _full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_weights_on_a_full_disk_raise_the_disk_s_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What torch then complains of is something else; there is no event and no litter."""
    store = LocalWeightsStore(tmp_path)

    def full_at_half(descriptor: int, data: memoryview) -> None:
        os.write(descriptor, data[: len(data) // 2])
        _full()

    with monkeypatch.context() as patch:
        patch.setattr(files, "write", full_at_half)
        with pytest.raises(OSError, match="No space left") as caught:
            store.store_weights(_Run(), 1)
    assert caught.value.errno == errno.ENOSPC
    assert store.latest_iteration("run_1") is None
    assert [path for path in tmp_path.rglob("*") if path.is_file() and "events" not in path.parts] == []
    store.store_weights(_Run(), 1)
    assert store.latest_iteration("run_1") == 1


def test_a_link_that_cannot_be_put_in_place_leaves_no_second_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would keep the bytes of the weights on the disk after they are removed."""
    store = LocalWeightsStore(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(files, "rename", _full)
        store.store_weights(_Run(), 1)
    (payload,) = (tmp_path / "run_1" / "checkpoints" / "objects").iterdir()
    assert payload.stat().st_nlink == 1
    store.remove("run_1", 1)
    assert not payload.exists()


def test_weights_are_deleted_though_their_link_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link is derived: repair_links() takes it away, and nothing else is left to do."""
    store = LocalWeightsStore(tmp_path)
    store.store_weights(_Run(), 1)
    (payload,) = (tmp_path / "run_1" / "checkpoints" / "objects").iterdir()
    link = tmp_path / "run_1" / "checkpoints" / "iterations" / "1"
    unlink = files.unlink
    with monkeypatch.context() as patch:
        patch.setattr(files, "unlink", lambda path: _full() if path == link else unlink(path))
        store.remove("run_1", 1)
    assert not payload.exists()
    store.repair_links()
    assert not link.exists()


def test_an_array_whose_removal_is_interrupted_is_whole_and_can_be_removed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk takes the event and refuses the rename: one removal on record, the array in its place."""
    state = State(arrays={"7/crop/prediction": "there"})
    perform(Operation("make_array", "7/crop/prediction", 7), State(), base=tmp_path, writer="w0")
    removal = Operation("remove_array", "7/crop/prediction")
    folder = tmp_path / "w0" / "validation.zarr" / "7" / "crop" / "prediction"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(files, "rename", _full)
        with pytest.raises(OSError, match="No space left"):
            perform(removal, state, base=tmp_path, writer="w0")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    perform(removal, state, base=tmp_path, writer="w0")
    assert not folder.exists()
    rows = Base.at(tmp_path).query("SELECT count(*) FROM array_removals").fetchone()
    assert rows == (1,)


def test_an_array_is_not_removed_while_it_cannot_be_described(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too many open files say nothing of the array: its shape would be missing on record for ever."""
    perform(Operation("make_array", "7/crop/prediction", 7), State(), base=tmp_path, writer="w0")
    state, removal = (
        State(arrays={"7/crop/prediction": "there"}),
        Operation("remove_array", "7/crop/prediction"),
    )

    def exhausted(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(zarr, "open", exhausted)
        with pytest.raises(OSError, match="Too many open files"):
            perform(removal, state, base=tmp_path, writer="w0")
    assert Base.at(tmp_path).log.next_position == 0
    perform(removal, state, base=tmp_path, writer="w0")
    assert Base.at(tmp_path).query("SELECT shape FROM array_removals").fetchall() == [([3, 64],)]
