"""Power cuts on a simulated disk: what was promised is there, and the suite notices when it is not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore import Event, EventLog, StorageError, WriteRefusedError, files
from tools.torture import power_cut
from tools.torture.power_cut import Suite, fast_folder
from tools.torture.recorder import Hooks, Recorder, write_folder
from tools.torture.simulated_disk import State

Patch = pytest.MonkeyPatch


# --- the suite


def test_nothing_that_was_promised_is_lost_in_a_power_cut() -> None:
    """Two thousand crash points of writers, faults and recoveries, from one seed."""
    report = power_cut.run(long=False, seed=20)
    assert report.failures == []
    assert report.figures["crash points"] >= 2_000
    for name in ("... with a torn tail", "... during recovery", "damage told from torn tails"):
        assert int(report.figures[name]) > 50


class _Chosen(Random):
    """Dice that show what hypothesis chose, and then zeros: nothing more happens."""

    def __init__(self, faces: list[int]) -> None:
        super().__init__(0)
        self._faces = iter(faces)

    def random(self) -> float:
        return next(self._faces, 0) / 256

    def getrandbits(self, count: int, /) -> int:
        value = 0
        for _ in range(-(-count // 8)):
            value = value << 8 | next(self._faces, 0)
        return value >> -count % 8


@settings(max_examples=30)
@given(st.lists(st.integers(0, 255), max_size=400))
def test_no_choice_of_the_disk_and_the_schedule_breaks_a_promise(faces: list[int]) -> None:
    """The same with choices that hypothesis makes, and makes smaller when it finds something."""
    with fast_folder() as folder:
        Suite(folder).scenario(_Chosen(faces), boots=2, points=10)


# --- what the suite has found


class _KilledError(BaseException):
    """The end of a process, for the test that goes on."""


class _Trouble(Hooks):
    """A process that is killed, a disk that takes less, a sync that fails: as a test says."""

    def __init__(self) -> None:
        self.killed = False
        self.takes: int | None = None
        self.fails = False
        self.forgets = False

    def step(self) -> None:
        if self.killed:
            raise _KilledError

    def bytes_taken(self, path: str, count: int) -> int:
        taken, self.takes = (self.takes, None) if path.endswith(".arrows") else (None, self.takes)
        return count if taken is None else min(taken, count)

    def sync_fails(self, path: str) -> bool:
        fails, self.fails = self.fails, False
        return fails

    def kernel_forgets(self) -> bool:
        return self.forgets


@pytest.fixture
def trouble() -> _Trouble:
    return _Trouble()


@pytest.fixture
def recorder(tmp_path: Path, trouble: _Trouble) -> Iterator[Recorder]:
    """A disk of its own, in the folder ``disk``."""
    (tmp_path / "disk").mkdir()
    with Recorder(tmp_path / "disk", trouble) as recorder:
        yield recorder


def _append(log: EventLog, number: int, durability: Literal["commit", "os"] = "commit") -> None:
    log.append("s", [Event("Happened", {"number": number}, values=[1.0] * 200)], durability=durability)


def _numbers(log: EventLog) -> list[int]:
    return [event.data["number"] for event in log.read()]


def _after_a_power_cut(folder: Path, state: State) -> list[int]:
    """What a log holds that is opened on what a power cut left; it has to be sound, too."""
    folder.mkdir()
    write_folder(folder, state)
    with EventLog.open(folder / "events") as log:
        assert log.verify().ok
        return _numbers(log)


def test_a_segment_whose_maker_died_before_its_name_was_durable_gets_another_name(
    tmp_path: Path, recorder: Recorder, trouble: _Trouble, monkeypatch: Patch
) -> None:
    """A commit in it would be lost with the name, although its sync was good."""
    log = EventLog.open(tmp_path / "disk" / "events", segment_bytes_max=1500)
    _append(log, 0)
    with monkeypatch.context() as patch:
        patch.setattr(files, "sync_directory", lambda _: setattr(trouble, "killed", True))
        with pytest.raises(_KilledError):
            _append(log, 1)
    trouble.killed = False
    with EventLog.open(tmp_path / "disk" / "events") as other:
        _append(other, 1)
    assert _after_a_power_cut(tmp_path / "after", recorder.disk.certain()) == [0, 1]


def test_a_segment_whose_name_the_disk_did_not_confirm_gets_another_name(
    tmp_path: Path, recorder: Recorder, trouble: _Trouble, monkeypatch: Patch
) -> None:
    """The sync of a folder is never tried again either."""
    honest = files.sync_directory

    def fail(path: Path) -> None:
        trouble.fails = True
        honest(path)

    with EventLog.open(tmp_path / "disk" / "events", segment_bytes_max=1500) as log:
        _append(log, 0)
        with monkeypatch.context() as patch:
            patch.setattr(files, "sync_directory", fail)
            with pytest.raises(WriteRefusedError, match="mend that"):
                _append(log, 1)
        _append(log, 1)
        assert _numbers(log) == [0, 1]
    assert _after_a_power_cut(tmp_path / "after", recorder.disk.certain()) == [0, 1]


def test_a_log_whose_folder_was_made_by_a_process_that_died_is_durable(
    tmp_path: Path, recorder: Recorder, trouble: _Trouble, monkeypatch: Patch
) -> None:
    """Whoever finds a folder cannot know that its name was synced."""
    with monkeypatch.context() as patch:
        patch.setattr(files, "sync_directory", lambda _: setattr(trouble, "killed", True))
        with pytest.raises(_KilledError):
            EventLog.open(tmp_path / "disk" / "events")
    trouble.killed = False
    with EventLog.open(tmp_path / "disk" / "events") as log:
        _append(log, 0)
    assert _after_a_power_cut(tmp_path / "after", recorder.disk.certain()) == [0]


def test_a_log_whose_folder_the_disk_did_not_confirm_is_made_anew(
    tmp_path: Path, recorder: Recorder, trouble: _Trouble
) -> None:
    """Opening fails, and the next opening makes another folder."""
    trouble.fails = True
    with pytest.raises(OSError, match="Input/output"):
        EventLog.open(tmp_path / "disk" / "events")
    with EventLog.open(tmp_path / "disk" / "events") as log:
        _append(log, 0)
    assert _after_a_power_cut(tmp_path / "after", recorder.disk.certain()) == [0]


def test_what_was_cut_back_is_not_mixed_with_what_came_in_its_place(
    tmp_path: Path, recorder: Recorder, trouble: _Trouble
) -> None:
    """Sectors of both in one frame would look like damage, and the log would not open."""
    with EventLog.open(tmp_path / "disk" / "events") as log:
        _append(log, 0)
        trouble.takes = 1500
        with pytest.raises(WriteRefusedError):
            _append(log, 1)
        log.append("s", [Event("Happened", {"number": 2, "text": "x" * 4000})], durability="os")
        oldest = recorder.disk.state(
            lambda cell: cell.values()[1] if cell.later else cell.certain, lambda size: size.latest
        )
    assert _after_a_power_cut(tmp_path / "after", oldest) in ([0], [0, 2])


def test_a_cut_whose_sync_did_not_end_is_left_alone_by_the_next_writer(
    tmp_path: Path, recorder: Recorder, trouble: _Trouble, monkeypatch: Patch
) -> None:
    """The process dies in between: the file looks sound, and may not be so after a power cut."""
    log = EventLog.open(tmp_path / "disk" / "events")
    _append(log, 0)
    trouble.takes = 1500
    with monkeypatch.context() as patch:
        patch.setattr(files, "sync_data", lambda _: setattr(trouble, "killed", True))
        with pytest.raises(_KilledError):
            _append(log, 1)
    trouble.killed = False
    with EventLog.open(tmp_path / "disk" / "events") as other:
        other.append("s", [Event("Happened", {"number": 2, "text": "x" * 4000})], durability="os")
        oldest = recorder.disk.state(
            lambda cell: cell.values()[1] if cell.later else cell.certain, lambda size: size.latest
        )
    assert _after_a_power_cut(tmp_path / "after", oldest) in ([0], [0, 2])


def test_what_a_failing_disk_has_forgotten_is_no_obstacle(
    tmp_path: Path, recorder: Recorder, trouble: _Trouble
) -> None:
    """A failed sync, and then the kernel reads the pages anew: the log goes on with what there is."""
    with EventLog.open(tmp_path / "disk" / "events") as log:
        _append(log, 0)
        trouble.fails = trouble.forgets = True
        with pytest.raises(StorageError, match="not acknowledged"):
            _append(log, 1)
        with pytest.raises(StorageError, match="Open it again"):
            _append(log, 2)
    with EventLog.open(tmp_path / "disk" / "events") as log:
        _append(log, 2)
        assert _numbers(log) == [0, 2]
        assert log.verify().ok
    assert _after_a_power_cut(tmp_path / "after", recorder.disk.certain()) == [0, 2]


def test_who_read_what_a_failing_disk_has_forgotten_writes_nothing_behind_it(
    tmp_path: Path, recorder: Recorder, trouble: _Trouble
) -> None:
    """Its stream versions would not be those of the log."""
    folder = tmp_path / "disk" / "events"
    with EventLog.open(folder) as reader, EventLog.open(folder) as writer:
        _append(writer, 0)
        _append(writer, 1, durability="os")
        assert _numbers(reader) == [0, 1]
        trouble.fails = trouble.forgets = True
        with pytest.raises(StorageError):
            writer.sync()
        with EventLog.open(folder) as other:
            for number in (2, 3):
                other.append("t", [Event("Happened", {"number": number})])
        with pytest.raises(StorageError, match="Open it again"):
            _append(reader, 4)
    assert _after_a_power_cut(tmp_path / "after", recorder.disk.certain()) == [0, 2, 3]


def test_a_sync_that_others_saw_fail_meanwhile_acknowledges_nothing(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    """Who opened the file after the failure does not hear of it from the kernel."""
    with EventLog.open(tmp_path) as log, EventLog.open(tmp_path) as other:
        _append(log, 0)

        def sync(descriptor: int) -> None:
            os.fdatasync(descriptor)
            other._storage._syncer.mark_failed_sync()

        with monkeypatch.context() as patch:
            patch.setattr(files, "sync_data", sync)
            with pytest.raises(StorageError, match="not acknowledged"):
                _append(log, 1)
        assert log.durable_position == 1


def test_a_sync_that_others_have_made_up_for_meanwhile_acknowledges_nothing_that_is_lost(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    """Its failure was seen, marked and mended while this one waited for the disk: no mark is left of that."""
    with EventLog.open(tmp_path) as log, EventLog.open(tmp_path) as other:
        _append(log, 0)
        (segment,) = tmp_path.glob("*.arrows")
        kept, entered = segment.stat().st_size, list[int]()

        def sync(descriptor: int) -> None:
            os.fdatasync(descriptor)
            entered.append(descriptor)
            if len(entered) == 1:
                os.truncate(segment, kept)  # what a failing disk has forgotten
                other._storage._syncer.mark_failed_sync()
                _append(other, 2)

        with monkeypatch.context() as patch:
            patch.setattr(files, "sync_data", sync)
            with pytest.raises(StorageError, match="Open it again"):
                _append(log, 1)
        assert _numbers(other) == [0, 2]


def test_a_sync_goes_on_in_the_segment_that_others_have_begun_meanwhile(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    """After a failed sync of another one: what was written is in it, and the old file says nothing."""
    with EventLog.open(tmp_path) as log, EventLog.open(tmp_path) as other:
        _append(log, 0)
        entered = list[int]()

        def sync(descriptor: int) -> None:
            os.fdatasync(descriptor)
            entered.append(os.fstat(descriptor).st_ino)
            if len(entered) == 1:
                other._storage._syncer.mark_failed_sync()
                _append(other, 2, durability="os")

        with monkeypatch.context() as patch:
            patch.setattr(files, "sync_data", sync)
            _append(log, 1)
        assert len(set(entered)) == 2
        assert log.durable_position == 2
        assert _numbers(log) == [0, 1, 2]


def test_a_sync_comes_to_an_end_when_somebody_was_killed_at_a_new_segment(tmp_path: Path) -> None:
    """The list of segments then counts as one that is changing until the next writer comes."""
    with EventLog.open(tmp_path) as log:
        log.append("s", [Event("Happened", {"number": 0})], durability="os")
        lock = log._storage._folder.lock
        with lock:
            generation, failed_at = lock.state()
            lock.write_state(generation=generation | 1, failed_at=failed_at)
        assert log.next_position == 1
        log._storage.sync(1)
        assert log.durable_position == 1
