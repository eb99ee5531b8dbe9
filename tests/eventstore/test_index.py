"""The index is derived: whatever becomes of its files, a log answers as one that never had any."""

from __future__ import annotations

import datetime as dt
import itertools
import os
import random
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore import (
    NO_STREAM,
    DamagedLogError,
    DuplicateEventError,
    Event,
    EventLog,
    StreamAppend,
    derived_id,
    files,
    plan_repair,
    repair_log,
    verify_log,
)
from eventstore.index import history
from eventstore.index.folder import FileName, IndexFolder, longest_chain
from eventstore.log_state import LogState
from eventstore.storage.memory import MemoryStorage

NOON = dt.datetime(2024, 5, 6, 12, tzinfo=dt.UTC)
SEGMENT_BYTES_MAX = 9000


@contextmanager
def small_files(
    events_min: int = 4, events_max: int = 64, fan_out: int = 2, synced_min: int = 1
) -> Iterator[None]:
    """Index files of a few events, so that a short log has many of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "FILE_EVENTS_MIN", events_min)
        patch.setattr(history, "FILE_EVENTS_MAX", events_max)
        patch.setattr(history, "_FAN_OUT", fan_out)
        patch.setattr(history, "SYNCED_EVENTS_MIN", synced_min)
        yield


def open_log(path: Path, **options: Any) -> EventLog:
    return EventLog.open(path, segment_bytes_max=SEGMENT_BYTES_MAX, **options)


def event(number: int) -> Event:
    """Its clock goes back now and then."""
    minutes = number - 15 * (number % 7 == 3)
    moment = NOON + dt.timedelta(minutes=minutes)
    return Event("A", {"n": number}, event_id=derived_id("index", number), recorded_at=moment)


def streams_of(number: int) -> list[str]:
    """Few streams that are long, and many that are short."""
    return [f"s{number % 3}", f"öne {number // 5}"]


def append(log: EventLog, numbers: range) -> None:
    for number in numbers:
        parts = [StreamAppend(streams_of(number)[0], [event(3 * number), event(3 * number + 1)])]
        parts.append(StreamAppend(streams_of(number)[1], [event(3 * number + 2)]))
        log.append_to_streams(parts, durability="commit" if number % 4 else "os")


def index_files(path: Path) -> list[str]:
    return sorted(each.name for each in (path / "index").glob("*.index"))


@dataclass(frozen=True)
class Answers:
    """All that a log says of its history."""

    next_position: int
    chain: bytes
    streams: dict[str, list[tuple[int, int]]]
    versions: dict[str, int | None]
    moments: list[int]
    commits: list[tuple[int, int]]


def answers(log: EventLog) -> Answers:
    length = log.next_position
    numbers = range(length // 3)
    names = sorted({name for number in numbers for name in streams_of(number)} | {"none", "öne", "\ud800"})
    streams = {
        name: [(each.position, each.stream_version) for each in log.read_stream(name, start)]
        for start, name in enumerate(names)
        for start in (0, start % 4)
    }
    moments = [log.position_at(NOON + dt.timedelta(minutes=minutes)) for minutes in range(-20, length + 5, 4)]
    return Answers(
        length, log.chain, streams, {name: log.stream_version(name) for name in names}, moments, commits(log)
    )


def commits(log: EventLog) -> list[tuple[int, int]]:
    """What the log says when it is given again what it has."""
    if log._adapter().read_only:
        return []
    found = []
    for number in range(0, log.next_position // 3, 3):
        again = [event(3 * number), event(3 * number + 1)]
        first, second = streams_of(number)
        parts = [StreamAppend(first, again, NO_STREAM), StreamAppend(second, [event(3 * number + 2)])]
        commit = log.append_to_streams(parts)
        found.append((commit.first_position, commit.next_position))
        with pytest.raises(DuplicateEventError):
            log.append("s", [event(3 * number + 1)])
    return found


@dataclass(frozen=True)
class Exhibits:
    """A log without an index, what it answers, and every index file that it and another log ever had."""

    path: Path
    answers: Answers
    files: list[Path]


@pytest.fixture(scope="module")
def exhibits(tmp_path_factory: pytest.TempPathFactory) -> Exhibits:
    """Made once; the examples copy it."""
    path = tmp_path_factory.mktemp("exhibits")
    kept = path / "kept"
    kept.mkdir()
    with small_files():
        for name, shift in (("log", 0), ("other", 1)):
            with open_log(path / name) as log:
                for number in range(40):
                    append(log, range(number + shift, number + shift + 1))
                    for file in (path / name / "index").glob("*.index"):
                        shutil.copy(file, kept)
    shutil.rmtree(path / "log" / "index")
    with open_log(path / "log") as log:
        said = answers(log)
    assert not (path / "log" / "index").exists()
    assert said.next_position == 120
    return Exhibits(path / "log", said, sorted(kept.iterdir()))


DAMAGE: dict[str, Callable[[bytes, int], bytes]] = {
    "none": lambda data, _: data,
    "a bit": lambda data, at: data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :],
    "cut": lambda data, at: data[:at],
    "zeros": lambda data, at: data[:at] + bytes(len(data) - at),
    "longer": lambda data, at: data + bytes(at % 100 + 1),
    "other bytes": lambda data, at: data[at:] + data[:at],
}


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_no_mixture_of_index_files_changes_an_answer(exhibits: Exhibits, data: st.DataObject) -> None:
    """Any index files the log ever had, superseded, foreign, damaged: it says what it says without them."""
    chosen = data.draw(st.lists(st.sampled_from(exhibits.files), unique=True))
    read_only = data.draw(st.booleans())
    with tempfile.TemporaryDirectory() as folder, small_files():
        path = Path(folder) / "log"
        shutil.copytree(exhibits.path, path)
        (path / "index").mkdir()
        for file in chosen:
            content = file.read_bytes()
            damage = DAMAGE[data.draw(st.sampled_from(sorted(DAMAGE)))]
            content = damage(content, data.draw(st.integers(0, len(content) - 1)))
            (path / "index" / file.name).write_bytes(content)
        with open_log(path, read_only=read_only) as log:
            said = answers(log)
        assert said == (exhibits.answers if not read_only else _without_commits(exhibits.answers))
        if not read_only:
            _check_goes_on(path)


def _without_commits(said: Answers) -> Answers:
    return Answers(said.next_position, said.chain, said.streams, said.versions, said.moments, [])


def _check_goes_on(path: Path) -> None:
    with open_log(path) as log:
        append(log, range(40, 45))
        assert log.verify().ok
        said = answers(log)
    shutil.rmtree(path / "index")
    with open_log(path) as log:
        assert answers(log) == said


def test_opening_reads_no_more_of_a_longer_history(tmp_path: Path) -> None:
    """Bytes and files: of ten and a hundred times the events as of one."""
    costs = []
    with small_files(events_min=8, events_max=512, fan_out=4):
        for times in (1, 10, 100):
            path = tmp_path / str(times)
            with open_log(path) as log:
                for number in range(24 * times):
                    log.append(f"s{number % 5}", [Event("A")], durability="os")
            costs.append(_cost_of_opening(path))
    first, *others = costs
    for opened, read in others:
        assert opened <= first[0] + 24
        assert read <= 3 * first[1] + 40_000
    assert costs[2][1] < (tmp_path / "100" / "00000000000000000000.arrows").stat().st_size * 20


def _cost_of_opening(path: Path) -> tuple[int, int]:
    opened, read = [], []
    with pytest.MonkeyPatch.context() as patch:
        real_open, real_read = os.open, files.read_at
        patch.setattr(os, "open", lambda *args, **kw: opened.append(1) or real_open(*args, **kw))
        patch.setattr(files, "read_at", lambda *args: read.append(args[1]) or real_read(*args))
        with open_log(path) as log:
            log.append("s1", [Event("A")])
    return len(opened), sum(read)


def test_index_files_are_few_and_each_event_is_in_one(tmp_path: Path) -> None:
    """They follow each other without a gap, and their sizes grow to the front."""
    with small_files(events_min=4, events_max=256, fan_out=4):
        with open_log(tmp_path) as log:
            for number in range(900):
                log.append("s", [Event("A", {"n": number})], durability="os")
            log.sync()
            for number in range(8):
                log.append("s", [Event("A", {"n": number})])
        names = [FileName(int(name[:20]), int(name[21:41]), name) for name in index_files(tmp_path)]
        assert longest_chain(names) == names
        assert 908 - names[-1].next_position < 4
        assert len(names) <= 3 + 3 * 3
        assert not list((tmp_path / "index").glob("*.tmp"))


@pytest.mark.parametrize(
    ("events", "numbers", "fewest", "most"), [(1, 0, 16, 16), (10, 0, 80, 120), (1, 12_800, 3, 5)]
)
def test_a_tail_becomes_a_file_when_reading_it_takes_long(
    tmp_path: Path, events: int, numbers: int, fewest: int, most: int
) -> None:
    """Commits of many events are read in little more time than those of one, large ones in more."""
    with small_files(events_min=16, events_max=16), open_log(tmp_path) as log:
        while not index_files(tmp_path):
            log.append("s", [Event("A", index=range(numbers) if numbers else None)] * events, durability="os")
    (name,) = index_files(tmp_path)
    assert fewest <= int(name[21:41]) <= most


def test_only_long_files_are_durable_before_others_are_deleted_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut costs the index of a bounded number of events, and an append seldom waits for a disk."""
    published: list[tuple[int, bool]] = []
    publish = IndexFolder.publish

    def noted(self: IndexFolder, content: bytes, **how: Any) -> FileName:
        published.append((how["next_position"] - how["first_position"], how["synced"]))
        return publish(self, content, **how)

    monkeypatch.setattr(IndexFolder, "publish", noted)
    with small_files(synced_min=32), open_log(tmp_path) as log:
        for number in range(200):
            log.append("s", [Event("A", {"n": number})], durability="os")
    assert {synced for _, synced in published} == {True, False}
    assert all(synced == (events >= 32) for events, synced in published)


@pytest.mark.parametrize("step", ["write", "rename_derived", "remove_derived", "sync_data"])
@pytest.mark.parametrize("times", [1, 2, 5, 9])
def test_a_kill_while_the_index_is_written_costs_nothing(tmp_path: Path, step: str, times: int) -> None:
    """A half-written index file, one without those it replaces, one beside them: the log answers the same."""
    with small_files():
        child = os.fork()
        if child == 0:
            _append_until(tmp_path, step, times)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        with open_log(tmp_path) as log:
            append(log, range(log.next_position // 3, log.next_position // 3 + 6))
            said = answers(log)
        assert not list((tmp_path / "index").glob("*.tmp"))
        shutil.rmtree(tmp_path / "index")
        with open_log(tmp_path) as log:
            assert answers(log) == said
            assert log.verify().ok


def _append_until(path: Path, step: str, times: int) -> None:
    """Die in the middle of the index's nth such step."""
    try:
        log = open_log(path)
        real, count = getattr(files, step), itertools.count(1)

        def step_or_die(*arguments: Any) -> Any:
            if next(count) == times:
                if step == "write":
                    os.write(arguments[0], arguments[1][: len(arguments[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments)

        setattr(files, step, step_or_die)
        append(log, range(1000))
    finally:
        os._exit(1)


def test_the_folder_may_be_deleted_at_any_time(tmp_path: Path) -> None:
    """By somebody else, between any two calls: what is in use is put back for others."""
    dice = random.Random(4)  # noqa: S311 - when to delete, not a secret
    with small_files(), open_log(tmp_path) as log, open_log(tmp_path) as other:
        for number in range(60):
            append((log, other)[number % 2], range(number, number + 1))
            if dice.random() < 0.3:
                shutil.rmtree(tmp_path / "index", ignore_errors=True)
        append(log, range(60, 66))
        said = answers(log)
        assert answers(other) == said
        names = [FileName(int(name[:20]), int(name[21:41]), name) for name in index_files(tmp_path)]
        assert 198 - longest_chain(names)[-1].next_position < 8
    with small_files(), open_log(tmp_path) as log:
        assert answers(log) == said


@pytest.mark.parametrize("obstacle", ["a file", "full", "no room to rename"])
def test_a_log_without_room_for_an_index_goes_on(
    tmp_path: Path, obstacle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It costs time only, and is said once."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with small_files():
        with open_log(tmp_path) as log:
            if obstacle == "a file":
                (tmp_path / "index").write_bytes(b"")
            elif obstacle == "full":
                monkeypatch.setattr(IndexFolder, "publish", refuse)
            else:
                monkeypatch.setattr(files, "rename_derived", refuse)
            append(log, range(40))
            said = answers(log)
        with open_log(tmp_path) as log:
            assert answers(log) == said
        assert index_files(tmp_path) == []


def test_a_reader_writes_nothing(tmp_path: Path) -> None:
    """It uses the index of others, damaged or not, and leaves every file as it is."""
    with small_files():
        with open_log(tmp_path) as log:
            append(log, range(30))
            said = answers(log)
        first = tmp_path / "index" / index_files(tmp_path)[0]
        first.write_bytes(first.read_bytes()[:-1])
        before = {each: each.read_bytes() for each in tmp_path.rglob("*") if each.is_file()}
        with open_log(tmp_path, read_only=True) as log:
            assert answers(log) == _without_commits(said)
        assert {each: each.read_bytes() for each in tmp_path.rglob("*") if each.is_file()} == before


def test_processes_share_one_index(tmp_path: Path) -> None:
    """Four that append at once leave index files that each of them believes, also forked children."""
    with small_files(), open_log(tmp_path) as log:
        append(log, range(5))
        children = []
        for name in "abcd":
            child = os.fork()
            if child == 0:
                try:
                    for number in range(60):
                        log.append(
                            name, [Event("A", {"n": number})], expected=number - 1 if number else NO_STREAM
                        )
                    assert [each.data["n"] for each in log.read_stream(name)] == list(range(60))
                    os._exit(0)
                finally:
                    os._exit(1)
            children.append(child)
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
        assert log.next_position == 255
        assert {name: log.stream_version(name) for name in "abcd"} == dict.fromkeys("abcd", 59)
        assert log.verify().ok
        names = [FileName(int(name[:20]), int(name[21:41]), name) for name in index_files(tmp_path)]
        assert longest_chain(names)[-1].next_position > 240


@pytest.mark.parametrize("segment_bytes_max", [SEGMENT_BYTES_MAX, 64 << 20], ids=["rolled", "active"])
def test_a_log_that_was_idle_takes_the_index_files_of_others(
    segment_bytes_max: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads a little of what came, and then what comes behind their index files."""
    monkeypatch.setattr("eventstore.log_state._LOOK_BEHIND_EVENTS", 6)
    monkeypatch.setattr("eventstore.log_state._GROUP_COMMITS", 2)
    monkeypatch.setattr("eventstore.storage.local.segment._GLANCE_BYTES", 2000)
    open_log = partial(EventLog.open, segment_bytes_max=segment_bytes_max)
    with small_files(), open_log(tmp_path) as log, open_log(tmp_path) as idle:
        append(log, range(1))
        assert idle.next_position == 3
        append(log, range(1, 40))
        read: list[int] = []
        note = LogState._note
        monkeypatch.setattr(LogState, "_note", lambda self, commit: read.append(1) or note(self, commit))
        assert idle.next_position == 120
        assert len(read) < 10
        assert answers(idle) == answers(log)


def test_the_history_of_another_time_is_not_believed(tmp_path: Path) -> None:
    """Index files that were written behind a copy of a log that then went another way."""
    with small_files():
        with open_log(tmp_path / "log") as log:
            append(log, range(10))
        shutil.copytree(tmp_path / "log", tmp_path / "copy")
        with open_log(tmp_path / "log") as log:
            append(log, range(10, 30))
        with open_log(tmp_path / "copy") as log:
            append(log, range(11, 31))
            said = answers_of_streams(log)
        shutil.rmtree(tmp_path / "copy" / "index")
        shutil.copytree(tmp_path / "log" / "index", tmp_path / "copy" / "index")
        with open_log(tmp_path / "copy") as log:
            assert answers_of_streams(log) == said


def test_files_of_another_history_that_come_into_an_open_log_are_left_out(tmp_path: Path) -> None:
    """They reach farther than its own; it goes on with its own, and writes and merges them."""
    with small_files():
        with open_log(tmp_path / "log") as log:
            append(log, range(10))
        shutil.copytree(tmp_path / "log", tmp_path / "copy")
        with open_log(tmp_path / "copy") as log:
            append(log, range(10, 40))
        with open_log(tmp_path / "log") as log:
            append(log, range(11, 13))
            for name in index_files(tmp_path / "copy"):
                shutil.copy(tmp_path / "copy" / "index" / name, tmp_path / "log" / "index" / name)
            append(log, range(13, 30))
            said = answers_of_streams(log)
            names = [
                FileName(int(name[:20]), int(name[21:41]), name) for name in index_files(tmp_path / "log")
            ]
            assert 80 < longest_chain(names)[-1].next_position <= log.next_position
        shutil.rmtree(tmp_path / "log" / "index")
        with open_log(tmp_path / "log") as log:
            assert answers_of_streams(log) == said


def answers_of_streams(log: EventLog) -> dict[str, list[int]]:
    return {name: [each.position for each in log.read_stream(name)] for name in ("s0", "s1", "s2")}


def test_a_repair_leaves_no_index_file_that_points_into_old_files(tmp_path: Path) -> None:
    """Damage in front of what was indexed: afterwards the log answers as without an index."""
    with small_files():
        with open_log(tmp_path) as log:
            append(log, range(40))
        (first, *_) = sorted(tmp_path.glob("*.arrows"))
        content = bytearray(first.read_bytes())
        content[len(content) // 2 : len(content) // 2 + 600] = bytes(600)
        first.write_bytes(content)
        assert plan_repair(tmp_path).needed
        repair_log(tmp_path)
        assert index_files(tmp_path) == []
        with open_log(tmp_path) as log:
            assert log.verify().ok
            said = answers_of_streams(log)
        with open_log(tmp_path) as log:
            assert answers_of_streams(log) == said


def test_damage_in_front_of_the_tail_is_found_when_it_is_read(tmp_path: Path) -> None:
    """The log opens, says what is not damaged, and refuses to say what is."""
    with small_files():
        with open_log(tmp_path) as log:
            append(log, range(40))
        (first, *_) = sorted(tmp_path.glob("*.arrows"))
        content = bytearray(first.read_bytes())
        content[-100] ^= 1
        first.write_bytes(content)
        with open_log(tmp_path) as log:
            assert len(list(log.read_stream("öne 7"))) == 5
            with pytest.raises(DamagedLogError, match="damaged at byte"):
                list(log.read())
            assert not log.verify().ok


def test_a_damaged_tail_refuses_an_append(tmp_path: Path) -> None:
    """Whether an index file reaches up to it or not."""
    for flipped in range(1, 12):
        path = tmp_path / str(flipped)
        with small_files():
            with open_log(path) as log:
                append(log, range(30))
                log.sync()
                for number in range(flipped % 4):
                    log.append("t", [Event("A", {"n": number})])
            last = max(path.glob("*.arrows"))
            content = bytearray(last.read_bytes())
            content[-9] ^= 4
            last.write_bytes(content)
            with pytest.raises(DamagedLogError):
                open_log(path)
            assert bytes(content) == last.read_bytes()


def test_zeros_in_what_was_read_before_are_damage(tmp_path: Path) -> None:
    """They look like a torn tail, and nothing in front of the verified end is one: nothing is cut."""
    with open_log(tmp_path) as log:
        log.append("s", [Event("A", values=[1.5] * 200)])
        log.append("s", [Event("A", values=[1.5] * 200)])
        (path,) = tmp_path.glob("*.arrows")
        content = bytearray(path.read_bytes())
        content[2048:3072] = bytes(1024)
        path.write_bytes(content)
        with pytest.raises(DamagedLogError):
            list(log.read())
        assert path.read_bytes() == content
    with pytest.raises(DamagedLogError):
        list(EventLog.open(tmp_path, read_only=True).read())


def test_verify_reads_the_index_as_well(tmp_path: Path) -> None:
    """An index file that is damaged is noted; the log is as good as before."""
    with small_files():
        with open_log(tmp_path) as log:
            append(log, range(40))
        assert verify_log(tmp_path).findings == ()
        path = tmp_path / "index" / index_files(tmp_path)[0]
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 16
        path.write_bytes(content)
        verdict = verify_log(tmp_path)
        assert verdict.ok
        (finding,) = verdict.findings
        assert (finding.severity, finding.path) == ("note", f"index/{path.name}")


def test_a_commit_that_others_have_put_in_the_middle_of_what_was_read_is_damage() -> None:
    """As when a history was replaced under a log: it says so, and does not read for ever."""
    storage, other = MemoryStorage(), MemoryStorage()
    other.log_id = storage.log_id
    with EventLog(storage) as log, EventLog(other) as replaced:
        log.append("s", [Event("A")])
        replaced.append("s", [Event("A"), Event("B")])
        storage._batches[:] = other._batches
        with pytest.raises(DamagedLogError, match="is followed by position 0"):
            _ = log.next_position
