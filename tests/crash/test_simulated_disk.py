"""The simulated disk and its recorder: what a power cut may leave, and what it may not."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from random import Random

import pytest

from tools.torture.block_recorder import Recording
from tools.torture.recorder import Hooks, Recorder, read_folder, write_folder
from tools.torture.simulated_disk import (
    ROOT,
    Disk,
    Made,
    Named,
    Renamed,
    State,
    Step,
    SyncBegun,
    SyncEnded,
    WasCut,
    Written,
    crash_state,
)

FILE = 1
START: State = {"file": b"a" * 1024}


def folded(*steps: Step, start: State = START) -> Disk:
    disk = Disk(start)
    for step in steps:
        disk.apply(step)
    return disk


def possible(disk: Disk) -> set[tuple[tuple[str, bytes | None], ...]]:
    """Everything that many throws of the dice give."""
    throws = (Random(number) for number in range(400))  # noqa: S311 - to be repeated
    return {tuple(crash_state(disk, dice).items()) for dice in throws}


def contents(disk: Disk) -> set[bytes | None]:
    return {dict(state).get("file") for state in possible(disk)}


def test_what_was_not_synced_comes_and_goes_sector_by_sector() -> None:
    """Each sector in its old or its new state, whichever the other one is in."""
    disk = folded(Written(FILE, 0, b"b" * 1024))
    old, new = b"a" * 512, b"b" * 512
    assert contents(disk) == {old + old, old + new, new + old, new + new}
    assert disk.live() == {"file": new + new}


def test_what_a_sync_covers_stays() -> None:
    """What was written before the sync began, and nothing that came while it ran."""
    disk = folded(
        Written(FILE, 0, b"b" * 512), SyncBegun(FILE), Written(FILE, 512, b"c"), SyncEnded(FILE, 1, good=True)
    )
    assert contents(disk) == {b"b" * 512 + rest + b"a" * 511 for rest in (b"a", b"c")}


def test_a_sync_that_runs_covers_nothing() -> None:
    """Nobody was told anything yet."""
    assert b"a" * 1024 in contents(folded(Written(FILE, 0, b"b"), SyncBegun(FILE)))


def test_a_failed_sync_is_not_made_up_for_by_a_good_one() -> None:
    """The pages are clean; only what is written again is synced again."""
    failed = [Written(FILE, 0, b"b"), SyncBegun(FILE), SyncEnded(FILE, 1, good=False)]
    assert len(contents(folded(*failed, SyncBegun(FILE), SyncEnded(FILE, 3, good=True)))) == 2
    again = [Written(FILE, 1, b"b"), SyncBegun(FILE), SyncEnded(FILE, 4, good=True)]
    assert contents(folded(*failed, *again)) == {b"bb" + b"a" * 1022}


def test_a_file_that_grew_may_have_any_length_and_holes() -> None:
    """Between the length that was synced and the greatest; sectors that are missing are zeros."""
    found = contents(folded(Written(FILE, 1024, b"b" * 1024)))
    assert {len(content or b"") for content in found} > {1024, 1536, 2048}
    assert b"a" * 1024 + bytes(512) + b"b" * 512 in found


def test_a_cut_may_be_lost_and_what_came_behind_it_may_mix_with_what_was_cut() -> None:
    """Nothing holds the two apart unless the cut is synced."""
    steps: list[Step] = [WasCut(FILE, 512), Written(FILE, 512, b"b" * 1024)]
    assert b"a" * 1024 + b"b" * 512 in contents(folded(*steps))
    steps[1:1] = [SyncBegun(FILE), SyncEnded(FILE, 1, good=True)]
    assert all(b"a" not in (content or b"")[512:] for content in contents(folded(*steps)))


def test_a_name_is_certain_when_its_folder_was_synced() -> None:
    """A sync of the file does not do."""
    steps: list[Step] = [Made(2, is_folder=False), Named(ROOT, "new", 2)]
    unsure = folded(*steps, SyncBegun(2), SyncEnded(2, 2, good=True))
    assert {"new" in dict(state) for state in possible(unsure)} == {True, False}
    sure = folded(*steps, SyncBegun(ROOT), SyncEnded(ROOT, 2, good=True))
    assert {"new" in dict(state) for state in possible(sure)} == {True}


def test_what_was_renamed_keeps_one_of_its_names() -> None:
    """The old one, the new one or both."""
    disk = folded(Renamed(ROOT, "file", ROOT, "other", FILE))
    names = {tuple(sorted(dict(state))) for state in possible(disk)}
    assert names >= {("file",), ("other",)}
    assert () not in names


def test_a_recording_gives_the_folder_that_is_there(tmp_path: Path) -> None:
    """Whatever goes through ``os``, with pathlib or without."""
    with Recorder(tmp_path) as recorder:
        (tmp_path / "folder").mkdir()
        descriptor = os.open(tmp_path / "folder" / "a", os.O_RDWR | os.O_CREAT)
        os.write(descriptor, b"hello ")
        os.write(descriptor, b"world")
        os.pwrite(descriptor, b"W", 6)
        os.ftruncate(descriptor, 8)
        os.link(tmp_path / "folder" / "a", tmp_path / "b")
        (tmp_path / "folder" / "a").rename(tmp_path / "c")
        (tmp_path / "b").unlink()
    assert read_folder(tmp_path) == recorder.disk.live() == {"c": b"hello Wo", "folder": None}
    assert recorder.disk.certain() == {}


def test_a_change_that_the_recorder_does_not_see_is_an_error(tmp_path: Path) -> None:
    """The trace would be worth nothing."""
    with pytest.raises(AssertionError, match="does not see"), Recorder(tmp_path):
        (tmp_path / "a").write_text("by another way")


def test_a_failed_sync_is_reported_to_all_who_had_the_file_open(tmp_path: Path) -> None:
    """Once to each, as Linux does; who opens the file later hears nothing."""

    class Fails(Hooks):
        fails = True

        def sync_fails(self, path: str) -> bool:
            fails, self.fails = self.fails, False
            return fails

    write_folder(tmp_path, {"a": b""})
    with Recorder(tmp_path, Fails()):
        one, other = (os.open(tmp_path / "a", os.O_RDWR) for _ in range(2))
        for descriptor in (one, other):
            with pytest.raises(OSError, match=os.strerror(errno.EIO)):
                os.fsync(descriptor)
        for descriptor in (one, other, os.open(tmp_path / "a", os.O_RDWR)):
            os.fsync(descriptor)


def test_a_recorded_device_keeps_what_was_flushed() -> None:
    """And of what came later any sectors; requests are eight bytes of place, four of length, the bytes."""

    def write(offset: int, letter: bytes) -> bytes:
        return offset.to_bytes(8, "little") + (1024).to_bytes(4, "little") + letter * 1024

    flush = (-1).to_bytes(8, "little", signed=True) + bytes(4)
    record = write(0, b"a") + flush + write(0, b"b") + write(1024, b"c")
    assert Recording(bytes(2048), record).requests[:2] == [(0, b"a" * 1024), None]
    dice = Random(0)  # noqa: S311 - to be repeated
    images = {
        bytes(Recording(bytes(2048), record).after_power_cut(requests, dice))
        for requests in (2, 3, 4)
        for _ in range(200)
    }
    sectors = {tuple(image[start : start + 1].decode() for start in range(0, 2048, 512)) for image in images}
    assert ("a", "a", "\0", "\0") in sectors
    assert ("a", "b", "\0", "c") in sectors
    assert all(first in "ab" and third in "\0c" for first, _, third, _ in sectors)
