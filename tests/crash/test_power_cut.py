"""Power cuts on a simulated disk: what was promised is there, and the suite notices when it is not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore import Event, EventLog, StorageError, WriteRefusedError, files
from eventstore import format as log_format
from eventstore.format import Flaw
from eventstore.storage.local import directory, recovery
from eventstore.storage.local.directory import SegmentName
from eventstore.storage.local.segment import Segment
from eventstore.storage.local.storage import LocalStorage
from tools.torture import power_cut
from tools.torture.boots import Plan
from tools.torture.power_cut import Suite, fast_folder
from tools.torture.promises import BrokenPromiseError
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


# --- the suite notices


def _nothing(*_: Any, **__: Any) -> None:
    pass


def _claim_before_the_sync(patch: Patch) -> None:
    honest = LocalStorage._sync_all

    def claim(self: LocalStorage) -> None:
        self._synced = self._segments[-1].next_position
        honest(self)

    patch.setattr(LocalStorage, "_sync_all", claim)


def _begin_a_segment_without_syncing_the_last(patch: Patch) -> None:
    def roll(self: LocalStorage, segment: Segment) -> None:
        self._create_segment(SegmentName(segment.next_position), segment.schema, segment.chain, [])
        self._list_segments()

    patch.setattr(LocalStorage, "_roll", roll)


def _try_a_failed_sync_again(patch: Patch) -> None:
    def sync(_: LocalStorage, descriptor: int, __: Any) -> None:
        try:
            files.sync_data(descriptor)
        except OSError:
            with suppress(OSError):
                files.sync_data(descriptor)

    patch.setattr(LocalStorage, "_sync_descriptor", sync)


def _name_a_segment_before_its_bytes_are_synced(patch: Patch) -> None:
    def create(path: Path, name: SegmentName, first_bytes: bytes) -> None:
        descriptor = files.create(path / name.text, like=path)
        files.sync_directory(path)
        files.write(descriptor, first_bytes)
        files.sync_file(descriptor)
        os.close(descriptor)

    patch.setattr(directory, "create_segment", create)


def _cut_without_looking_at_what_was_synced(patch: Patch) -> None:
    patch.setattr(log_format, "greatest_synced_position", lambda _: 0)
    honest = recovery.torn_tail
    patch.setattr(recovery, "torn_tail", lambda *place, **_: honest(*place, synced_position=0))


def _take_every_bad_tail_for_a_torn_one(patch: Patch) -> None:
    honest = log_format.find_flaw
    patch.setattr(
        log_format, "find_flaw", lambda *data: Flaw.SHORT if honest(*data) is Flaw.WRONG else honest(*data)
    )


def _take_a_sector_that_was_never_written_for_damage(patch: Patch) -> None:
    honest = log_format.find_flaw
    patch.setattr(
        log_format, "find_flaw", lambda *data: Flaw.WRONG if honest(*data) is Flaw.HOLE else honest(*data)
    )


def _take_any_zero_sector_for_one_that_was_never_written(patch: Patch) -> None:
    honest = log_format.find_flaw

    def find(data: bytes, offset: int) -> Flaw:
        return Flaw.HOLE if log_format.count_zero_sectors(data, offset) else honest(data, offset)

    patch.setattr(log_format, "find_flaw", find)


def _ignore_how_much_the_disk_took(patch: Patch) -> None:
    honest = files.write_at

    def write(descriptor: int, data: bytes, offset: int) -> int:
        honest(descriptor, data, offset)
        return len(data)

    patch.setattr(files, "write_at", write)


def _open_without_syncing_what_is_there(patch: Patch) -> None:
    def open_log(path: Path, *, read_only: bool = False, segment_bytes_max: int = 1 << 20) -> EventLog:
        return EventLog(LocalStorage(path, read_only=read_only, segment_bytes_max=segment_bytes_max))

    patch.setattr(EventLog, "open", open_log)


def _cut_without_a_copy(patch: Patch) -> None:
    patch.setattr(recovery, "_set_aside", _nothing)


def _cut_before_the_copy_is_durable(patch: Patch) -> None:
    def set_aside(folder: Path, segment: Segment, offset: int, rest: bytes) -> None:
        files.make_directories(folder / "quarantine", like=folder)
        copy = folder / "quarantine" / f"{segment.path.name}.{offset}.{os.urandom(8).hex()}.bytes"
        descriptor = files.create(copy, like=folder)
        files.write(descriptor, rest)
        os.close(descriptor)

    patch.setattr(recovery, "_set_aside", set_aside)


def _cut_back_without_a_sync(patch: Patch) -> None:
    def write(_: LocalStorage, segment: Segment, frame: bytes) -> None:
        descriptor = segment.keep_open()
        with suppress(OSError):
            if files.write_at(descriptor, frame, segment.end_offset) == len(frame):
                return
        files.cut(descriptor, segment.end_offset)
        raise WriteRefusedError("the disk took a part", path=str(segment.path))

    patch.setattr(LocalStorage, "_write", write)


MUTATIONS: dict[str, Callable[[Patch], None]] = {
    "commits are not synced": lambda patch: patch.setattr(files, "sync_data", _nothing),
    "new files are not synced": lambda patch: patch.setattr(files, "sync_file", _nothing),
    "folders are not synced": lambda patch: patch.setattr(files, "sync_directory", _nothing),
    "acknowledged without a sync": lambda patch: patch.setattr(LocalStorage, "sync", _nothing),
    "claimed before the sync": _claim_before_the_sync,
    "a segment begun before the last is synced": _begin_a_segment_without_syncing_the_last,
    "a segment named before its bytes are synced": _name_a_segment_before_its_bytes_are_synced,
    "a failed sync tried again": _try_a_failed_sync_again,
    "a failed sync not told to others": lambda patch: patch.setattr(
        LocalStorage, "_mark_failed_sync", _nothing
    ),
    "synced positions ignored": _cut_without_looking_at_what_was_synced,
    "every bad tail taken for a torn one": _take_every_bad_tail_for_a_torn_one,
    "holes taken for damage": _take_a_sector_that_was_never_written_for_damage,
    "zero sectors not counted": _take_any_zero_sector_for_one_that_was_never_written,
    "short writes ignored": _ignore_how_much_the_disk_took,
    "opened without a sync": _open_without_syncing_what_is_there,
    "cut without a copy": _cut_without_a_copy,
    "cut before the copy is durable": _cut_before_the_copy_is_durable,
    "cut back without a sync": _cut_back_without_a_sync,
}


def _scenario(number: int) -> tuple[Random, Plan]:
    """One as the suite draws it, one with much trouble of one kind, one with much of all."""
    dice = Random(f"mutation {number}")  # noqa: S311 - to be repeated
    plan = Plan.drawn(dice)
    if number % 3 == 1:
        plan = replace(plan, killing=0.0, failing=0.0, refusing=0.4, segment_bytes_max=64 << 20)
    elif number % 3 == 2:
        plan = replace(plan, killing=0.02, failing=0.2, refusing=0.1, switching=0.4, processes=2, threads=2)
    return dice, plan


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_suite_notices_broken_code(mutation: str, monkeypatch: Patch) -> None:
    """Each of these breaks a promise, and some scenario shows it."""
    MUTATIONS[mutation](monkeypatch)
    with fast_folder() as folder:
        suite = Suite(folder)
        with pytest.raises(BrokenPromiseError):  # noqa: PT012 - any of them may notice
            for number in range(100):
                dice, plan = _scenario(number)
                suite.scenario(dice, plan=plan, points=25)


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
            with pytest.raises(WriteRefusedError, match="make room"):
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
            other._storage._mark_failed_sync()

        with monkeypatch.context() as patch:
            patch.setattr(files, "sync_data", sync)
            with pytest.raises(StorageError, match="not acknowledged"):
                _append(log, 1)
        assert log.durable_position == 1
