"""Re-encoded segments under an index that was made of the former ones, where frames lay elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventstore import DamagedLogError, Event, EventLog, derived_id, files, reencode_log, verify_log
from eventstore.index import Landmark, Place, history
from eventstore.log_state import LogState
from eventstore.storage.local.directory import segment_names
from eventstore.storage.local.segment import Segment

SEGMENT_BYTES_MAX = 12_000
Said = tuple[object, ...]


@pytest.fixture(autouse=True)
def small_index_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a few events, so that a short log has many of them."""
    monkeypatch.setattr(history, "FILE_EVENTS_MIN", 4)
    monkeypatch.setattr(history, "FILE_EVENTS_MAX", 64)
    monkeypatch.setattr(history, "_FAN_OUT", 2)


@pytest.fixture
def folded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many events were read because no index file has them."""
    numbers: list[int] = []
    note = LogState._note
    monkeypatch.setattr(
        LogState,
        "_note",
        lambda self, commit: numbers.append(len(commit.keys.streams)) or note(self, commit),
    )
    return numbers


def open_log(path: Path, *, read_only: bool = False) -> EventLog:
    return EventLog.open(path, segment_bytes_max=SEGMENT_BYTES_MAX, read_only=read_only)


def append(log: EventLog, numbers: range) -> None:
    """Commits of one event and of two, to four streams in turns."""
    for number in numbers:
        ids = [derived_id("re-encoded", number, place) for place in range(1 + number % 2)]
        log.append(f"s{number % 4}", [Event("A", {"n": number}, event_id=each) for each in ids])


def said(log: EventLog, numbers: range) -> Said:
    """What a log says of its history, and that it knows each commit again."""
    length, chain = log.next_position, log.chain
    streams = [[each.position for each in log.read_stream(f"s{number}", 1)] for number in range(4)]
    versions = [log.stream_version(f"s{number}") for number in range(4)]
    chains = [log.chain_at(position) for position in range(length + 1)]
    if not log._adapter().read_only:
        append(log, numbers)
    assert log.next_position == length
    return length, chain, streams, versions, chains


def index_files(path: Path) -> list[str]:
    return sorted(each.name for each in (path / "index").glob("*.index"))


def indexed(path: Path) -> int:
    """The position that the index files reach."""
    return max(int(name.partition("-")[2].partition(".")[0]) for name in index_files(path))


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


def test_an_index_of_former_files_is_used_and_right(tmp_path: Path, folded: list[int]) -> None:
    """Its places are of another generation; what it says of the history is as true as before."""
    numbers = range(90)
    with open_log(tmp_path) as log:
        append(log, numbers)
        before = said(log, numbers)
    there = index_files(tmp_path)
    reencode_log(tmp_path, grace_seconds=0)
    assert len({name.generation for name in segment_names(tmp_path)[:-1]} | {1}) == 1
    folded.clear()
    for read_only in (True, False):
        with open_log(tmp_path, read_only=read_only) as log:
            assert said(log, numbers) == before
    assert sum(folded) == 2 * (log_length(before) - indexed(tmp_path))
    assert index_files(tmp_path) == there
    assert verify_log(tmp_path).findings == ()


def log_length(before: Said) -> int:
    assert isinstance(before[0], int)
    return before[0]


@pytest.fixture
def ends_within(tmp_path: Path) -> tuple[Path, Said]:
    """A log whose index files end at a commit in the middle of a rolled segment."""
    with open_log(tmp_path) as log:
        append(log, range(37))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LogState, "keep_index", lambda _: None)
        with open_log(tmp_path) as log:
            append(log, range(37, 90))
            before = said(log, range(90))
    firsts = [name.first_position for name in segment_names(tmp_path)]
    assert indexed(tmp_path) not in firsts
    assert indexed(tmp_path) < firsts[-1]
    return tmp_path, before


def test_an_index_that_ends_within_a_new_frame_is_believed(
    ends_within: tuple[Path, Said], folded: list[int]
) -> None:
    """The chain's value there is computed from the frame's events; what follows is read, and no more."""
    path, before = ends_within
    reencode_log(path, grace_seconds=0)
    with open_log(path, read_only=True) as log:
        assert log.next_position == log_length(before)
        assert sum(folded) == log_length(before) - indexed(path)
        assert said(log, range(90)) == before
    with open_log(path) as log:
        assert said(log, range(90)) == before
    assert verify_log(path).findings == ()


@pytest.mark.parametrize("place", [60, 1_500])
def test_an_index_that_ends_within_a_damaged_new_frame_is_believed_by_the_former_file(
    ends_within: tuple[Path, Said], folded: list[int], place: int
) -> None:
    """Its first frame is not read before somebody asks for something of the segment."""
    path, before = ends_within
    reencode_log(path)
    for name in segment_names(path)[:-1]:
        assert name.generation == 1
        flip(path / name.text, place)
    there = index_files(path)
    with open_log(path, read_only=True) as log:
        assert log.next_position == log_length(before)
        assert sum(folded) == log_length(before) - indexed(path)
        assert said(log, range(90)) == before
    assert index_files(path) == there
    findings = verify_log(path).findings
    assert {finding.severity for finding in findings} == {"note"}
    assert len(findings) == len(segment_names(path)) - 1
    with open_log(path) as log:
        assert said(log, range(90)) == before


def test_verify_compares_each_event_once_where_a_former_file_stands_in(tmp_path: Path) -> None:
    """It has compared good frames of the new file with the index already when it comes to the damaged one."""
    with open_log(tmp_path) as log:
        append(log, range(90))
    reencode_log(tmp_path, frame_bytes=1_500)
    name = segment_names(tmp_path)[1]
    assert len(list(Segment(tmp_path, name).frames_from(name.first_position))) > 1
    flip(tmp_path / name.text, (tmp_path / name.text).stat().st_size - 100)
    (finding,) = verify_log(tmp_path).findings
    assert (finding.severity, finding.path) == ("note", name.text)


def test_a_damaged_new_frame_without_a_former_file_is_an_error(ends_within: tuple[Path, Said]) -> None:
    """An index that reaches into it makes it no shorter log."""
    path, before = ends_within
    reencode_log(path, grace_seconds=0)
    holding = [name for name in segment_names(path) if name.first_position < indexed(path)][-1]
    flip(path / holding.text, 1_500)
    with pytest.raises(DamagedLogError), open_log(path) as log:
        said(log, range(90))
    with pytest.raises(DamagedLogError), open_log(path, read_only=True) as log:
        list(log.read(0, log_length(before)))


def test_the_chain_is_found_in_the_middle_of_a_frame_of_many_commits(tmp_path: Path) -> None:
    """There are more commits in it than a program may call itself."""
    chains = []
    with EventLog.open(tmp_path, segment_bytes_max=1_500_000) as log:
        while len(segment_names(tmp_path)) == 1:
            chains.append(log.chain)
            log.append("s", [Event("A", {"n": len(chains)})], durability="os")
    assert len(chains) > 1_000
    reencode_log(tmp_path, grace_seconds=0, frame_bytes=64 << 20)
    with EventLog.open(tmp_path, read_only=True) as log:
        assert [log.chain_at(position) for position in (1, 500, 1_000)] == [
            chains[position] for position in (1, 500, 1_000)
        ]


def test_a_landmark_within_a_frame_leads_to_the_frame(tmp_path: Path) -> None:
    """Whoever has read from the middle of a frame knows that its events lie there."""
    with open_log(tmp_path) as log:
        append(log, range(40))
    reencode_log(tmp_path, grace_seconds=0, frame_bytes=1_500)
    name = segment_names(tmp_path)[0]
    whole = list(Segment(tmp_path, name).frames_from(0))
    assert len(whole) > 1
    for frame in whole:
        place = Place(name.first_position, name.generation, frame.offset, frame.seal.frame_bytes)
        for position in range(frame.seal.first_position, whole[-1].seal.next_position):
            for near in range(frame.seal.first_position, frame.seal.next_position):
                found = Segment(tmp_path, name).frames_from(position, Landmark(near, place))
                holding = next(found).seal
                assert holding.first_position <= position < holding.next_position


def test_opening_reads_no_more_of_many_re_encoded_segments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither files nor bytes."""
    monkeypatch.setattr(history, "FILE_EVENTS_MAX", 4_096)
    costs = []
    for times in (1, 8):
        path = tmp_path / str(times)
        with open_log(path) as log:
            append(log, range(50 * times))
        reencode_log(path, grace_seconds=0)
        costs.append(tuple(_cost_of_opening(path)))
    (few_opened, few_bytes), (opened, read) = costs
    assert len(segment_names(path)) > 20
    assert opened <= few_opened + 12
    assert read <= few_bytes + 100_000


def _cost_of_opening(path: Path) -> Iterator[int]:
    opened, read = [], []
    with pytest.MonkeyPatch.context() as patch:
        real_open, real_read = os.open, files.read_at
        patch.setattr(os, "open", lambda *args, **kw: opened.append(1) or real_open(*args, **kw))
        patch.setattr(files, "read_at", lambda *args: read.append(args[1]) or real_read(*args))
        with open_log(path) as log:
            log.append("s1", [Event("A")])
    yield len(opened)
    yield sum(read)
