"""Snapshots of a base: who makes them, when, and that nobody is disturbed."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dacapo_store import FileConfigStore, FileStatsStore, TrainingIterationStats, housekeeping
from dacapo_store.base import Base
from dacapo_store.location import Location
from eventstore import Event, EventLog, LogNotFoundError, reencoding_is_due
from projections import ANYTHING_NEW, TailLimit


def _store(base: Path, iterations: int = 3) -> FileStatsStore:
    store = FileStatsStore(base / "stats")
    store.store_training_stats("run", [TrainingIterationStats(i, loss=float(i)) for i in range(iterations)])
    return store


def _files(base: Path) -> list[Path]:
    return sorted((base / "views").glob("*.duckdb"))


def _wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.01)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The bases that housekeeping was started for; no process is."""
    bases: list[str] = []
    monkeypatch.setattr(housekeeping, "start", bases.append)
    return bases


def test_a_published_snapshot_is_what_the_next_reader_begins_with(tmp_path: Path) -> None:
    """And it shows what the stores stored."""
    _store(tmp_path)
    published = housekeeping.publish(tmp_path, tail_limit=ANYTHING_NEW)
    assert published is not None
    assert _files(tmp_path) == [published.path]

    views = Base.at(tmp_path).views
    assert views.query("SELECT count(*) FROM training_stats").fetchone() == (3,)
    assert views._state.content is not None
    assert views._state.content.snapshot is not None
    assert views._state.content.snapshot.path == published.path


def test_where_there_is_no_base_none_is_made(tmp_path: Path) -> None:
    """It may have been deleted since housekeeping was started."""
    with pytest.raises(LogNotFoundError):
        housekeeping.publish(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_short_history_needs_no_snapshot(tmp_path: Path) -> None:
    """In the background; somebody who asks for one gets it."""
    _store(tmp_path)
    housekeeping.keep_house(tmp_path)
    assert _files(tmp_path) == []
    assert housekeeping.publish(tmp_path, tail_limit=ANYTHING_NEW) is not None


def test_a_reader_with_a_long_tail_starts_housekeeping(tmp_path: Path, started: list[str]) -> None:
    """After the query, once."""
    _store(tmp_path)
    base = Base.at(tmp_path)
    base.views._tail_limit = ANYTHING_NEW
    base.query("FROM training_stats")
    base.query("FROM training_stats")
    assert started == [str(tmp_path)]


def test_storing_starts_nothing(tmp_path: Path, started: list[str]) -> None:
    """However much there is to do."""
    base = Base.at(tmp_path)
    base.views._tail_limit = ANYTHING_NEW
    _store(tmp_path)
    FileConfigStore(tmp_path / "configs").store_task_config({"name": "t"})
    assert started == []


def test_a_base_with_a_long_tail_starts_housekeeping_when_it_is_closed(
    tmp_path: Path, started: list[str]
) -> None:
    """Whether it has read models or not."""
    _store(tmp_path)
    Base.at(tmp_path).close()
    assert started == []

    base = Base.at(tmp_path)
    base.query("FROM training_stats")
    base.views._tail_limit = ANYTHING_NEW
    base.close()
    assert started == [str(tmp_path)]


def test_a_process_that_only_writes_counts_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those behind the newest file, by the files' names."""
    monkeypatch.setattr(housekeeping, "_NEW_EVENTS_MIN", 2)
    assert not housekeeping.has_grown(Location.of(tmp_path), 2)
    assert housekeeping.has_grown(Location.of(tmp_path), 3)
    (tmp_path / "views").mkdir()
    (tmp_path / "views" / f"{100:020d}-{0:016x}-{0:016x}.duckdb").touch()
    (tmp_path / "views" / "mine.duckdb").touch()
    assert not housekeeping.has_grown(Location.of(tmp_path), 125)
    assert housekeeping.has_grown(Location.of(tmp_path), 126)


def _rolled(base: Path) -> list[Path]:
    """A base whose log has two full segments; the log's files."""
    with EventLog.open(base / "events", segment_bytes_max=4096) as log:
        while len(list((base / "events").glob("*.arrows"))) < 3:
            log.append("run", [Event("Noted", {"n": log.next_position})])
    return sorted((base / "events").glob("*.arrows"))


def _content(base: Path) -> list[object]:
    with EventLog.open(base / "events", read_only=True) as log:
        return [(event.position, event.data) for event in log.read()]


def test_a_base_whose_log_has_rolled_starts_housekeeping_when_it_is_closed(
    tmp_path: Path, started: list[str]
) -> None:
    """Until that has been done: what a call has looked at is not looked at again."""
    _rolled(tmp_path)
    Base.at(tmp_path).close()
    assert started == [str(tmp_path)]
    housekeeping.keep_house(tmp_path)
    Base.at(tmp_path).close()
    assert started == [str(tmp_path)]


def test_housekeeping_writes_rolled_segments_again(tmp_path: Path) -> None:
    """The former files stay until their grace is over; then a later call deletes them."""
    first, second, active = _rolled(tmp_path)
    content = _content(tmp_path)
    housekeeping.keep_house(tmp_path)
    made = [path.with_suffix(".r1.arrows") for path in (first, second)]
    assert sorted((tmp_path / "events").glob("*.arrows")) == sorted([first, second, active, *made])
    assert _content(tmp_path) == content

    housekeeping.reencode_log(tmp_path / "events", grace_seconds=0)
    assert sorted((tmp_path / "events").glob("*.arrows")) == sorted([active, *made])
    assert _content(tmp_path) == content


def test_former_files_are_work_when_their_grace_is_over(tmp_path: Path) -> None:
    """Not before, and not once they are gone."""
    _rolled(tmp_path)
    assert reencoding_is_due(tmp_path / "events")
    housekeeping.keep_house(tmp_path)
    assert not reencoding_is_due(tmp_path / "events")
    time.sleep(0.05)
    assert reencoding_is_due(tmp_path / "events", grace_seconds=0.01)
    housekeeping.reencode_log(tmp_path / "events", grace_seconds=0.01)
    assert not reencoding_is_due(tmp_path / "events", grace_seconds=0.01)


def test_a_segment_that_must_be_left_alone_is_looked_at_once(tmp_path: Path) -> None:
    """A flaw does not make every process that closes the base start another one."""
    first, second, active = _rolled(tmp_path)
    with first.open("r+b") as file:
        file.seek(first.stat().st_size // 2)
        file.write(b"\xfe\xdc\xba")
    ago = time.time() - 60
    for path in (second, active):
        os.utime(path, (ago, ago))
    report = housekeeping.reencode_log(tmp_path / "events")
    assert [skipped.path for skipped in report.skipped] == [first.name]
    assert not reencoding_is_due(tmp_path / "events")


def test_a_snapshot_that_fails_does_not_keep_the_log_from_being_compacted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the failure is told."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    first, *_ = _rolled(tmp_path)
    monkeypatch.setattr(housekeeping, "publish", refuse)
    with pytest.raises(PermissionError):
        housekeeping.keep_house(tmp_path)
    assert first.with_suffix(".r1.arrows").exists()


def test_one_process_at_a_time_writes_segments_again(tmp_path: Path) -> None:
    """Where another is at it, that is left to it."""
    first, *_ = _rolled(tmp_path)
    (tmp_path / "events" / "reencoding").mkdir()
    with (tmp_path / "events" / "reencoding" / "lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        housekeeping.keep_house(tmp_path)
        assert not first.with_suffix(".r1.arrows").exists()
        assert reencoding_is_due(tmp_path / "events")
    housekeeping.keep_house(tmp_path)
    assert first.with_suffix(".r1.arrows").exists()


def test_a_log_that_has_rolled_is_written_again_without_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a process that a closed base leaves behind, and by none where that is switched off."""
    first, *_ = _rolled(tmp_path)
    monkeypatch.setenv(housekeeping.VARIABLE, "off")
    Base.at(tmp_path).close()
    assert not (tmp_path / "events" / "reencoding").exists()
    monkeypatch.setenv(housekeeping.VARIABLE, "on")
    Base.at(tmp_path).close()
    _wait_for(first.with_suffix(".r1.arrows"))


def test_a_read_only_base_starts_nothing_and_uses_what_is_there(tmp_path: Path, started: list[str]) -> None:
    """It writes nothing."""
    _store(tmp_path)
    housekeeping.publish(tmp_path, tail_limit=ANYTHING_NEW)
    _store(tmp_path, iterations=5)
    base = Base.at(tmp_path, read_only=True)
    base.views._tail_limit = TailLimit(0, 0.0)
    assert base.query("SELECT count(*) FROM training_stats").fetchone() == (5,)
    assert base.views._state.content is not None
    assert base.views._state.content.snapshot is not None
    base.close()
    assert started == []


def test_another_log_in_the_same_place_does_not_see_the_first_ones_rows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its events were restored from somewhere else, or begun anew; the file stays unused."""
    _store(tmp_path)
    housekeeping.publish(tmp_path, tail_limit=ANYTHING_NEW)
    Base.at(tmp_path).close()
    shutil.rmtree(tmp_path / "events")
    store = FileStatsStore(tmp_path / "stats")
    store.store_training_stats("other", [TrainingIterationStats(0, loss=9.0)])

    assert Base.at(tmp_path).query("SELECT DISTINCT run FROM training_stats").fetchall() == [("other",)]
    assert "another history" in caplog.text


def test_it_can_be_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No process is started."""
    monkeypatch.setattr(subprocess, "run", None)
    for word in ("off", "OFF", "0", "no", "false"):
        monkeypatch.setenv(housekeeping.VARIABLE, word)
        assert not housekeeping.start(tmp_path)


def test_it_is_not_started_again_within_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when it fails each time: the lock's time is that of the last attempt."""
    monkeypatch.setenv(housekeeping.VARIABLE, "on")
    monkeypatch.setattr(housekeeping, "_PROGRAM", "")
    assert housekeeping.start(tmp_path)
    _store(tmp_path)
    housekeeping.keep_house(tmp_path)
    assert not housekeeping.start(tmp_path)
    os.utime(tmp_path / "views" / "lock", (time.time() - 61, time.time() - 61))
    assert housekeeping.start(tmp_path)


def test_the_process_is_on_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No child of this one, in a session of its own, without its files, and it imports what this one can."""
    monkeypatch.setenv(housekeeping.VARIABLE, "on")
    monkeypatch.setattr(housekeeping, "_PROGRAM", _TELLING)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "a place")])
    inherited = os.open(tmp_path, os.O_RDONLY)
    fcntl.fcntl(inherited, fcntl.F_SETFD, 0)  # not closed by exec
    base = _store(tmp_path)._base
    assert housekeeping.start(base.path)
    _wait_for(tmp_path / "told")
    os.close(inherited)
    told = json.loads((tmp_path / "told").read_text())

    assert told["files"] == [os.devnull] * 3
    assert told["session"] != os.getsid(0)
    assert told["folder"] == "/"
    assert told["path"][-1] == str(tmp_path / "a place")
    assert "" not in told["path"]
    assert told["parent"] != os.getpid()


_TELLING = """
import json, os, sys
files = [os.readlink(f"/proc/self/fd/{number}") for number in sorted(map(int, os.listdir("/proc/self/fd")))
    if os.path.exists(f"/proc/self/fd/{number}")]
told = {
    "files": files, "session": os.getsid(0), "parent": os.getppid(), "folder": os.getcwd(),
    "path": sys.path + sys.argv[2:],
}
with open(sys.argv[1] + "/telling", "w") as file:
    json.dump(told, file)
os.rename(sys.argv[1] + "/telling", sys.argv[1] + "/told")
"""


def test_the_started_process_makes_a_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the query of a reader to the file, nothing replaced."""
    monkeypatch.setenv(housekeeping.VARIABLE, "on")
    store = FileStatsStore(tmp_path / "stats")
    for run in range(3):
        stats = [TrainingIterationStats(i, loss=float(i)) for i in range(100_000)]
        store.store_training_stats(f"run_{run}", stats)
    assert Base.at(tmp_path).query("SELECT count(*) FROM training_stats").fetchone() == (300_000,)
    while not _files(tmp_path):
        time.sleep(0.01)


def test_a_failure_to_start_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setenv(housekeeping.VARIABLE, "on")
    monkeypatch.setattr(subprocess, "run", refuse)
    assert not housekeeping.start(tmp_path)
    assert "temporarily unavailable" in caplog.text


def test_views_that_cannot_be_written_are_an_error_to_who_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And to nobody else: queries go on from the log."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    store = _store(tmp_path)
    monkeypatch.setattr("projections.publishing.files.make_directories", refuse)
    with pytest.raises(PermissionError):
        housekeeping.publish(tmp_path, tail_limit=ANYTHING_NEW)
    assert len(store.retrieve_training_stats("run").iteration_stats) == 3


def test_the_module_is_a_program(tmp_path: Path) -> None:
    """A base that is gone is no error: it may have been deleted meanwhile."""
    command = [sys.executable, "-m", "dacapo_store.housekeeping", str(tmp_path / "gone")]
    subprocess.run(command, check=True)
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_makes_a_snapshot(tmp_path: Path, *, as_json: bool) -> None:
    """Whenever there is anything new, and says so."""
    _store(tmp_path)
    command = [sys.executable, "-c", "from dacapo_store.cli import main; main()", "snapshot", str(tmp_path)]
    command += ["--json"] if as_json else []
    first, second = (
        subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)
    )
    (path,) = _files(tmp_path)
    if as_json:
        size = path.stat().st_size
        assert json.loads(first) == {"published": {"path": str(path), "position": 1, "bytes": size}}
        assert json.loads(second) == {"published": None}
    else:
        assert str(path) in first
        assert "1 event" in first
        assert "nothing new" in second
