"""The adapter for one host: rolling, recovery, faults of the disk, and what readers see meanwhile."""

from __future__ import annotations

import errno
import os
import threading
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import pytest

from eventstore import (
    DamagedLogError,
    Event,
    EventLog,
    LogNotFoundError,
    NetworkFileSystemWarning,
    ReadOnlyLogError,
    StorageError,
    WriteRefusedError,
    files,
)
from eventstore.storage.local import storage
from eventstore.storage.local.lock import Lock
from eventstore.storage.local.log_folder import LogFolder
from eventstore.storage.local.reading import Reader


def append(log: EventLog, count: int = 1, stream: str = "s") -> None:
    for number in range(count):
        log.append(stream, [Event("Happened", {"number": number}, values=[0.0] * 80)])


def numbers(log: EventLog) -> list[int]:
    return [event.data["number"] for event in log.read()]


def segments(path: Path) -> list[Path]:
    return sorted(path.glob("*.arrows"))


def test_segments_roll_and_the_log_reads_on(tmp_path: Path) -> None:
    """A small limit makes many segments, each named by its first position."""
    with EventLog.open(tmp_path, segment_bytes_max=4000) as log:
        append(log, 20)
        assert numbers(log) == list(range(20))
        assert len(segments(tmp_path)) > 5
        assert log.verify().ok
    with EventLog.open(tmp_path) as log:
        assert numbers(log) == list(range(20))


def test_another_process_s_reader_follows_a_roll(tmp_path: Path) -> None:
    """A second handle sees segments that the first one made since."""
    with EventLog.open(tmp_path, segment_bytes_max=4000) as writer, EventLog.open(tmp_path) as reader:
        for total in range(1, 15):
            append(writer)
            assert reader.next_position == total


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 9, 200, 1000])
def test_a_short_tail_is_set_aside(tmp_path: Path, kept: int) -> None:
    """Half a frame at the end goes to quarantine, byte for byte; the log goes on behind whole ones."""
    with EventLog.open(tmp_path) as log:
        append(log, 3)
        before = segments(tmp_path)[0].stat().st_size
        append(log)
    os.truncate(segments(tmp_path)[0], before + kept)
    torn = segments(tmp_path)[0].read_bytes()[before:]
    with EventLog.open(tmp_path) as log:
        assert numbers(log) == [0, 1, 2]
        append(log)
        assert log.verify().findings == ()
    copies = list((tmp_path / "quarantine").glob("*")) if kept else []
    assert [copy.read_bytes() for copy in copies] == ([torn] if kept else [])


def test_a_lost_sector_in_an_unsynced_tail_is_set_aside_with_what_is_behind(tmp_path: Path) -> None:
    """Several unsynced commits, a hole in the first: all of them go, none of them was acknowledged."""
    with EventLog.open(tmp_path) as log:
        append(log, 2)
        synced = segments(tmp_path)[0].stat().st_size
        for number in (7, 8, 9):
            log.append("s", [Event("Happened", {"number": number}, values=[1.0] * 80)], durability="os")
    with segments(tmp_path)[0].open("r+b") as file:
        sector = (synced // 512 + 1) * 512
        file.seek(sector)
        file.write(bytes(512))
    with EventLog.open(tmp_path) as log:
        assert numbers(log) == [0, 1]
        assert log.verify().ok


def test_damage_below_the_synced_position_is_refused(tmp_path: Path) -> None:
    """A hole in what was acknowledged is damage: nothing is cut, the error names file and offset."""
    with EventLog.open(tmp_path) as log:
        append(log, 3)
    path = segments(tmp_path)[0]
    data = path.read_bytes()
    offset = data.index(b"\xff\xff\xff\xff", 900)
    path.write_bytes(data[: offset + 512] + bytes(512) + data[offset + 1024 :])
    with pytest.raises(DamagedLogError) as caught:
        EventLog.open(tmp_path)
    assert caught.value.path == str(path)
    assert caught.value.position < 3
    assert path.stat().st_size == len(data)


def test_a_flipped_bit_in_the_last_commit_is_damage(tmp_path: Path) -> None:
    """The last commit was acknowledged, too: it is not mistaken for a torn tail."""
    with EventLog.open(tmp_path) as log:
        append(log, 2)
    path = segments(tmp_path)[0]
    data = bytearray(path.read_bytes())
    data[-9] ^= 4
    path.write_bytes(data)
    with pytest.raises(DamagedLogError, match="damaged at byte"):
        EventLog.open(tmp_path)


def test_a_missing_segment_is_damage(tmp_path: Path) -> None:
    """A gap in the positions stops a reader."""
    with EventLog.open(tmp_path, segment_bytes_max=2000) as log:
        append(log, 6)
    segments(tmp_path)[1].unlink()
    with pytest.raises(DamagedLogError):
        EventLog.open(tmp_path)


def test_segments_of_two_logs_do_not_mix(tmp_path: Path) -> None:
    """A file copied in from another log is refused by name."""
    for name in ("one", "other"):
        with EventLog.open(tmp_path / name, segment_bytes_max=2000) as log:
            append(log, 4)
    stray = segments(tmp_path / "other")[-1]
    (tmp_path / "one" / stray.name).write_bytes(stray.read_bytes())
    with pytest.raises(DamagedLogError, match="another log"):
        EventLog.open(tmp_path / "one")


def test_a_read_only_log_writes_nothing(tmp_path: Path) -> None:
    """It reads a torn log up to the tear, leaves every byte as it is, and refuses to append."""
    with EventLog.open(tmp_path) as log:
        append(log, 2)
    path = segments(tmp_path)[0]
    path.write_bytes(path.read_bytes() + b"\xff\xff\xff\xff\x80")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with EventLog.open(tmp_path, read_only=True) as log:
        assert numbers(log) == [0, 1]
        with pytest.raises(ReadOnlyLogError):
            append(log)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_read_only_log_sees_what_a_writer_adds(tmp_path: Path) -> None:
    """Without a lock, through rolls."""
    with EventLog.open(tmp_path, segment_bytes_max=3000) as writer:
        append(writer)
        with EventLog.open(tmp_path, read_only=True) as reader:
            append(writer, 8)
            assert reader.next_position == 9


def test_opening_what_is_not_there_read_only_says_so(tmp_path: Path) -> None:
    """No folder is made by looking."""
    with pytest.raises(LogNotFoundError):
        EventLog.open(tmp_path / "none", read_only=True)
    assert not (tmp_path / "none").exists()


def test_a_short_write_is_cut_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk takes half a frame: an error, nothing written, and the log goes on."""
    with EventLog.open(tmp_path) as log:
        append(log, 2)
        size = segments(tmp_path)[0].stat().st_size

        def half(descriptor: int, data: bytes, offset: int) -> int:
            return os.pwrite(descriptor, data[: len(data) // 2], offset)

        with monkeypatch.context() as patch:
            patch.setattr(files, "write_at", half)
            with pytest.raises(WriteRefusedError, match="repeat the call"):
                append(log)
        assert segments(tmp_path)[0].stat().st_size == size
        append(log)
        assert log.verify().events == 3


def test_a_full_disk_is_an_error_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC on the write, and on making the next segment."""
    with EventLog.open(tmp_path, segment_bytes_max=3000) as log:
        append(log, 2)

        def full(*_: object) -> NoReturn:
            raise OSError(errno.ENOSPC, "No space left on device")

        for function in ("write_at", "write"):
            with monkeypatch.context() as patch:
                patch.setattr(files, function, full)
                with pytest.raises(OSError, match="No space left"):
                    append(log, 5)
        count = log.next_position
        append(log, 5)
        assert log.next_position == count + 5
        assert log.verify().findings == ()


def failing_sync(_: int) -> NoReturn:
    raise OSError(errno.EIO, "Input/output error")


def test_after_a_failed_sync_the_tail_moves_to_a_new_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit is not acknowledged; the next appender, in whatever process, writes the tail anew first."""
    with EventLog.open(tmp_path) as log, EventLog.open(tmp_path) as other:
        append(log, 3)
        with monkeypatch.context() as patch:
            patch.setattr(files, "sync_data", failing_sync)
            with pytest.raises(StorageError, match="not acknowledged"):
                log.append("s", [Event("Happened", {"number": 3})])
        other.append("s", [Event("Happened", {"number": 4})])
        assert len(segments(tmp_path)) == 2
        assert numbers(log) == numbers(other) == [0, 1, 2, 3, 4]
        assert [finding.severity for finding in log.verify().findings] == ["note"]
    with EventLog.open(tmp_path) as log:
        assert numbers(log) == [0, 1, 2, 3, 4]
        assert log.verify().ok


def test_a_failed_sync_of_a_fresh_segment_makes_its_next_generation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No name is used for other bytes: where nothing was synced yet, the generation grows."""
    with EventLog.open(tmp_path) as log:
        with monkeypatch.context() as patch:
            patch.setattr(files, "sync_data", failing_sync)
            with pytest.raises(StorageError):
                append(log)
        append(log)
        assert [path.name for path in segments(tmp_path)] == [
            "00000000000000000000.arrows",
            "00000000000000000000.r1.arrows",
        ]
        assert log.next_position == 2
        assert log.verify().ok


def test_where_the_tail_cannot_be_moved_the_log_is_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so, in every process, and reads on; it writes again once the disk does."""
    with EventLog.open(tmp_path) as log, EventLog.open(tmp_path) as other:
        append(log, 2)
        with monkeypatch.context() as patch:
            patch.setattr(files, "sync_data", failing_sync)
            patch.setattr(files, "sync_file", failing_sync)
            with pytest.raises(StorageError):
                log.append("s", [Event("Happened", {"number": 2})])
            for handle in (log, other):
                with pytest.raises(ReadOnlyLogError, match="takes no writes"):
                    append(handle)
                assert numbers(handle) == [0, 1, 2]
        other.append("s", [Event("Happened", {"number": 3})])
        assert numbers(log) == [0, 1, 2, 3]


def test_durable_position_is_what_was_synced(tmp_path: Path) -> None:
    """A commit with durability "os" is seen and not yet durable; the next sync covers it."""
    with EventLog.open(tmp_path) as log:
        append(log, 2)
        assert log.durable_position == 2
        log.append("s", [Event("Happened", {"number": 2})], durability="os")
        assert (log.next_position, log.durable_position) == (3, 2)
        append(log)
        assert log.durable_position == 4


def test_the_lock_file_may_be_deleted_at_any_time(tmp_path: Path) -> None:
    """It is derived: writers that had it open notice and lock the new one."""
    with EventLog.open(tmp_path) as log, EventLog.open(tmp_path) as other:
        append(log)
        (tmp_path / "lock").unlink()
        append(other)
        append(log)
        assert log.next_position == 3
        assert log.verify().ok


def test_who_waits_for_a_lock_file_that_is_deleted_goes_on_to_wait_for_the_new_one(tmp_path: Path) -> None:
    """Also where another thread of it has looked into the new one meanwhile."""
    waiting, holder = Lock(tmp_path), Lock(tmp_path)
    entered = threading.Event()

    def wait() -> None:
        with waiting:
            entered.set()

    thread = threading.Thread(target=wait)
    holder.__enter__()
    thread.start()
    while not _somebody_waits_for(tmp_path / "lock"):
        time.sleep(0.001)
    (tmp_path / "lock").unlink()
    with Lock(tmp_path) as another:
        another.write_state(generation=6, failed_at=None)
        assert waiting.state() == (6, None)
        holder.__exit__(None, None, None)
        assert not entered.wait(0.2)
    thread.join()
    assert entered.is_set()
    for lock in (waiting, holder, another):
        lock.close()


def _somebody_waits_for(path: Path) -> bool:
    inode = f":{path.stat().st_ino} "
    return any("->" in line and inode in line for line in Path("/proc/locks").read_text().splitlines())


def test_an_append_reads_nothing_when_nobody_else_has_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it wrote itself it knows, and one look at the file tells that there is no more."""
    with EventLog.open(tmp_path) as log, EventLog.open(tmp_path) as other:
        append(log)
        with monkeypatch.context() as patch:
            patch.setattr(Reader, "_read_some", None)
            patch.setattr(LogFolder, "list_segments", None)
            append(log, 3)
        append(other)
        append(log)
        assert numbers(log) == [0, 0, 1, 2, 0, 0]


def test_the_lock_s_state_is_that_of_the_present_turn(tmp_path: Path) -> None:
    """It is read once a turn; between two turns others may change it."""
    mine, others = Lock(tmp_path), Lock(tmp_path)
    for generation in (2, 4, 6):
        with mine:
            mine.write_state(generation=generation, failed_at=None)
            assert mine.state() == others.state() == (generation, None)
        with others:
            assert others.state() == (generation, None)
            others.write_state(generation=generation + 1, failed_at=generation)
        assert mine.state() == (generation + 1, generation)
    mine.close()
    others.close()


def test_temporary_files_of_a_crash_go_away_on_opening(tmp_path: Path) -> None:
    """A segment that never came to be is no segment."""
    EventLog.open(tmp_path).close()
    stray = tmp_path / ".00000000000000000009.arrows.abc.tmp"
    stray.write_bytes(b"half")
    EventLog.open(tmp_path).close()
    assert not stray.exists()


def test_files_take_group_and_bits_of_the_folder(tmp_path: Path) -> None:
    """A base that a group may write stays writable for the group, whatever the umask says."""
    base = tmp_path / "base"
    base.mkdir()
    base.chmod(0o2770)
    previous = os.umask(0o077)
    try:
        with EventLog.open(base / "events") as log:
            append(log)
    finally:
        os.umask(previous)
    modes = {path.name: path.stat().st_mode & 0o7777 for path in (base / "events").iterdir()}
    assert set(modes.values()) == {0o660}
    assert (base / "events").stat().st_mode & 0o7777 == 0o2770


def test_a_network_file_system_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks of several hosts do not hold there, so opening says it; a local disk is silent."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        EventLog.open(tmp_path / "local").close()
    monkeypatch.setattr(storage, "network_file_system", lambda _: "nfs4")
    with pytest.warns(NetworkFileSystemWarning, match="nfs4"):
        EventLog.open(tmp_path / "remote").close()


def test_threads_that_share_a_failed_sync_all_hear_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody's commit is acknowledged by a later sync of the same pages, which would be a lie."""
    with EventLog.open(tmp_path) as log:
        append(log)
        entered, outcomes = threading.Barrier(3), list[str]()

        def fails_once(descriptor: int) -> None:
            with suppress(threading.BrokenBarrierError):
                entered.wait(0.5)
            if not failed.is_set():
                failed.set()
                raise OSError(errno.EIO, "Input/output error")
            synced_later.append(os.fstat(descriptor).st_ino)
            os.fdatasync(descriptor)

        def write(number: int) -> None:
            try:
                log.append(f"stream-{number}", [Event("Happened", {"number": number})])
                outcomes.append("acknowledged")
            except StorageError:
                outcomes.append("refused")

        failed, synced_later = threading.Event(), list[int]()
        with monkeypatch.context() as patch:
            patch.setattr(files, "sync_data", fails_once)
            writers = [threading.Thread(target=write, args=(number,)) for number in range(3)]
            for writer in writers:
                writer.start()
            for writer in writers:
                writer.join()
        assert outcomes.count("refused") >= 1
        assert log.durable_position >= 1 + outcomes.count("acknowledged")
        assert segments(tmp_path)[0].stat().st_ino not in synced_later


def test_opening_after_a_failed_sync_makes_up_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The opener does not count as durable what no good sync covered: it writes it anew first."""
    with EventLog.open(tmp_path) as log:
        append(log)
        with monkeypatch.context() as patch:
            patch.setattr(files, "sync_data", failing_sync)
            with pytest.raises(StorageError):
                append(log)
        assert log.durable_position == 1
    with EventLog.open(tmp_path) as log:
        assert log.durable_position == log.next_position == 2
    assert len(segments(tmp_path)) == 2


def test_a_log_whose_disk_takes_no_writes_opens_for_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is there can be read; appending says what is wrong."""
    with EventLog.open(tmp_path) as log:
        append(log)
    monkeypatch.setattr(files, "sync_data", failing_sync)
    monkeypatch.setattr(files, "sync_file", failing_sync)
    with EventLog.open(tmp_path) as log:
        assert numbers(log) == [0]
        with pytest.raises((StorageError, ReadOnlyLogError)):
            append(log)


def test_syncing_covers_what_others_wrote(tmp_path: Path) -> None:
    """A decision that writes nothing can still promise that what it saw is durable."""
    with EventLog.open(tmp_path) as log, EventLog.open(tmp_path) as other:
        log.append("s", [Event("Happened", {"number": 0})], durability="os")
        assert other.next_position == 1
        assert other.durable_position == 0
        other.sync()
        assert other.durable_position == 1


def test_a_full_disk_while_rolling_is_a_refused_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Making the next segment fails as writing a commit does: nothing written, the log goes on."""
    with EventLog.open(tmp_path, segment_bytes_max=1500) as log:
        append(log, 2)

        def full(*_: object) -> NoReturn:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(files, "write", full)
            with pytest.raises(WriteRefusedError, match="make room"):
                append(log)
        append(log)
        assert log.next_position == 3
        assert log.verify().findings == ()


def test_a_reader_notices_that_the_lock_file_was_replaced(tmp_path: Path) -> None:
    """It would not hear of new segments from a file that nobody writes any more."""
    with EventLog.open(tmp_path, segment_bytes_max=1500) as log, EventLog.open(tmp_path) as reader:
        append(log)
        assert reader.next_position == 1
        (tmp_path / "lock").unlink()
        append(log, 5)
        assert reader.next_position == 6


@pytest.mark.parametrize("spoilt", [0, -9])
def test_a_log_that_does_not_open_holds_no_file(tmp_path: Path, spoilt: int) -> None:
    """Whoever tries again and again must not run out of descriptors, nor keep the file system busy."""
    with EventLog.open(tmp_path) as log:
        append(log, 2)
    path = segments(tmp_path)[0]
    data = bytearray(path.read_bytes())
    data[spoilt] ^= 4
    path.write_bytes(data)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with pytest.raises(DamagedLogError):
            EventLog.open(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
