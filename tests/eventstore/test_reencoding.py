"""Re-encoding changes the files of a log and nothing that anybody reads in it."""

from __future__ import annotations

import errno
import itertools
import os
import random
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore import (
    DamagedLogError,
    DuplicateEventError,
    Event,
    EventLog,
    LogNotFoundError,
    RecordedEvent,
    StreamAppend,
    WriteRefusedError,
    copy_log,
    files,
    plan_reencoding,
    plan_repair,
    reencode_log,
    repair_log,
    uuid7,
    verify_log,
)
from eventstore import annex as log_annex
from eventstore import format as log_format
from eventstore.storage.local import LocalStorage, reading, reencoding
from eventstore.storage.local.directory import segment_names
from eventstore.storage.local.segment import Segment
from eventstore.storage.local.survey import survey

SEGMENT_BYTES_MAX = 12_000
Appends = list[list[StreamAppend]]


def appends_of(dice: random.Random, *, commits: int) -> Appends:
    """Commits of one to four events in one to three streams, with and without bulk columns."""
    appends = []
    for number in range(commits):
        streams = dice.sample([f"stream-{name}" for name in "abcd"], dice.randint(1, 3))
        appends.append([StreamAppend(stream, _events(dice, number)) for stream in streams])
    return appends


def _events(dice: random.Random, number: int) -> list[Event]:
    bulk: list[dict[str, Any]] = [
        {},
        {"index": list(range(number, number + 20)), "values": [dice.random() for _ in range(40)]},
        {"index": [], "values": [None, float("nan"), -0.0]},
    ]
    return [
        Event("Happened", {"number": number}, event_id=uuid7(), **dice.choice(bulk))
        for _ in range(dice.randint(1, 2))
    ]


def write_log(path: Path, appends: Appends, *, segment_bytes_max: int = SEGMENT_BYTES_MAX) -> Path:
    with EventLog.open(path, segment_bytes_max=segment_bytes_max) as log:
        for parts in appends:
            log.append_to_streams(parts, durability="os")
    return path


@pytest.fixture(scope="module")
def appends() -> Appends:
    return appends_of(random.Random(7), commits=60)  # noqa: S311 - a log like any other


@pytest.fixture(scope="module")
def pristine(appends: Appends, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of several segments that nobody changes."""
    return write_log(tmp_path_factory.mktemp("log") / "events", appends)


@pytest.fixture
def path(pristine: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(pristine, tmp_path / "events"))


def events_of(path: Path) -> list[str]:
    """All events, every field and bit of them."""
    with EventLog.open(path, read_only=True) as log:
        return [text_of(event) for event in log.read()]


def text_of(event: RecordedEvent) -> str:
    columns = [None if each is None else each.to_pylist() for each in (event.index, event.values)]
    return repr((replace(event, index=None, values=None), columns))


def names(path: Path) -> list[str]:
    return sorted(each.name for each in path.glob("*.arrows"))


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


def test_all_events_and_the_chain_stay(path: Path) -> None:
    """One file of a higher generation for each rolled segment, none for the active one."""
    before, verdict, former = events_of(path), verify_log(path), names(path)
    report = reencode_log(path)
    assert [segment.path for segment in report.reencoded] == former[:-1]
    assert all(
        segment.bytes_after < segment.bytes_before for segment in report.reencoded if segment.bytes_after
    )
    assert events_of(path) == before
    assert (verify_log(path).chain, verify_log(path).findings) == (verdict.chain, ())
    assert not plan_repair(path).needed


@given(st.integers(0, 2**32), st.integers(1, 25), st.sampled_from([1, 3_000, 20_000]), st.integers(1, 30_000))
def test_any_history_stays_what_it_was(
    seed: int, commits: int, segment_bytes_max: int, frame_bytes: int
) -> None:
    """For any sizes of commits, segments and frames; also when the outcome is re-encoded once more."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(files, "sync_file", lambda _: None)
        patch.setattr(files, "sync_directory", lambda _: None)
        appends = appends_of(random.Random(seed), commits=commits)  # noqa: S311
        path = write_log(Path(folder) / "events", appends, segment_bytes_max=segment_bytes_max)
        before, chain = events_of(path), verify_log(path).chain
        for _ in range(2):
            reencode_log(path, frame_bytes=frame_bytes, grace_seconds=0)
            assert events_of(path) == before
            assert (verify_log(path).chain, verify_log(path).findings) == (chain, ())
            patch.setattr(reencoding, "_is_reencoded", lambda _: False)
        with EventLog.open(path) as log:
            commits_made = [log.append_to_streams(parts) for parts in appends]
            assert log.next_position == len(before)
        assert commits_made[-1].next_position == len(before)
        sizes = [sum(len(part.events) for part in parts) for parts in appends]
        assert [commit.next_position - commit.first_position for commit in commits_made] == sizes


def test_calling_again_changes_nothing(path: Path) -> None:
    """What is compact stays as it is."""
    reencode_log(path, grace_seconds=0)
    before = {each.name: each.read_bytes() for each in path.glob("*.arrows")}
    report = reencode_log(path, grace_seconds=0)
    assert (report.reencoded, report.deleted, report.waiting, report.skipped) == ((), (), (), ())
    assert {each.name: each.read_bytes() for each in path.glob("*.arrows")} == before


def test_former_files_stay_until_the_grace_is_over(path: Path) -> None:
    """They are deleted by a later call."""
    former = names(path)[:-1]
    report = reencode_log(path, grace_seconds=600)
    assert ([each.path for each in report.waiting], report.deleted) == (former, ())
    assert set(former) < set(names(path))
    assert [each.path for each in reencode_log(path, grace_seconds=0).deleted] == former
    assert not set(former) & set(names(path))


def test_a_plan_says_what_is_done(path: Path) -> None:
    """And writes nothing."""
    before = {each.name: each.read_bytes() for each in path.iterdir() if each.is_file()}
    plan = plan_reencoding(path)
    assert {each.name: each.read_bytes() for each in path.iterdir() if each.is_file()} == before
    assert [each.path for each in plan.reencoded] == [each.path for each in reencode_log(path).reencoded]
    plan = plan_reencoding(path, grace_seconds=0)
    assert (plan.reencoded, plan.deleted) == ((), reencode_log(path, grace_seconds=0).deleted)


def test_there_must_be_a_log(tmp_path: Path) -> None:
    """An empty folder is not made one."""
    with pytest.raises(LogNotFoundError):
        reencode_log(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_repeated_append_finds_its_commit(path: Path, appends: Appends) -> None:
    """Many commits are in a frame now; the ids of one of them still give that one back."""
    with EventLog.open(path) as log:
        before = [log.append_to_streams(parts) for parts in appends]
    reencode_log(path, grace_seconds=0)
    with EventLog.open(path) as log:
        assert [log.append_to_streams(parts) for parts in appends] == before


def test_a_part_of_a_commit_is_no_commit(path: Path, appends: Appends) -> None:
    """Nor are two of them together, though they lie in one frame."""
    reencode_log(path, grace_seconds=0)
    whole = next(parts for parts in appends if len(parts) > 1)
    events = [event for parts in appends[:2] for part in parts for event in part.events]
    with EventLog.open(path) as log:
        for some in ([whole[0]], [StreamAppend(whole[0].stream, events)]):
            with pytest.raises(DuplicateEventError):
                log.append_to_streams(some)


def test_reading_may_begin_anywhere_in_a_frame(path: Path) -> None:
    """At each position, and up to each."""
    reencode_log(path, grace_seconds=0)
    with EventLog.open(path, read_only=True) as log:
        total = log.next_position
        for start in range(total):
            assert [event.position for event in log.read(start, start + 3)] == list(
                range(start, min(start + 3, total))
            )
            assert next(log.read(start)).position == start
        for event in list(log.read()):
            assert next(log.read_stream(event.stream, event.stream_version)).position == event.position


def test_a_moment_is_resolved_as_before(path: Path) -> None:
    """Clocks are compared event by event."""
    with EventLog.open(path, read_only=True) as log:
        moments = [event.recorded_at for event in log.read()]
        before = [log.position_at(moment) for moment in moments]
    reencode_log(path, grace_seconds=0)
    with EventLog.open(path, read_only=True) as log:
        assert [log.position_at(moment) for moment in moments] == before


def test_open_logs_go_on(path: Path, appends: Appends) -> None:
    """Readers half way through, a writer, and a log that was opened read-only."""
    before = events_of(path)
    with EventLog.open(path) as writer, EventLog.open(path, read_only=True) as reader:
        halves = [writer.read(), reader.read()]
        begun = [[next(half) for _ in range(len(before) // 3)] for half in halves]
        reencode_log(path, grace_seconds=0)
        for first, rest in zip(begun, halves, strict=True):
            assert [text_of(event) for event in [*first, *rest]] == before
        writer.append("later", [Event("Happened")])
        assert len(list(reader.read())) == len(before) + 1
        assert writer.append_to_streams(appends[3]).next_position <= len(before)


def test_a_reader_that_stopped_within_a_new_frame_goes_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had read a part of a segment, commit by commit; its place is within a larger frame now."""
    monkeypatch.setattr(reading, "_READ_BYTES", 1)
    total = len(events_of(path))
    readers = [LocalStorage(path, read_only=True) for _ in range(7)]
    generators = [reader.read(0) for reader in readers]
    seen: list[list[int]] = [[] for _ in readers]

    def go_on(number: int, batches: int | None) -> None:
        for stored in itertools.islice(generators[number], batches):
            seen[number] += range(stored.first_position, stored.next_position)

    for number in range(len(readers)):
        go_on(number, 1 + 3 * number)
    reencode_log(path, grace_seconds=0)
    for number, reader in enumerate(readers):
        go_on(number, None)
        reader.close()
    assert seen == [list(range(total))] * len(readers)


def test_followers_go_on(path: Path) -> None:
    """One that waits, while segments roll and are re-encoded under it."""
    seen: list[int] = []
    total = len(events_of(path))
    with EventLog.open(path, segment_bytes_max=3_000) as log:
        stop = threading.Event()
        reader = EventLog.open(path, read_only=True)
        follower = threading.Thread(
            target=lambda: seen.extend(event.position for event in reader.follow(stop=stop))
        )
        follower.start()
        for _ in range(20):
            log.append("later", [Event("Happened", values=[0.5] * 50)])
            reencode_log(path, grace_seconds=0)
        deadline = 600
        while len(seen) < total + 20 and deadline:
            stop.wait(0.05)
            deadline -= 1
        stop.set()
        follower.join()
        reader.close()
    assert seen == list(range(total + 20))


def test_a_second_call_at_the_same_time_does_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one is told in the report."""
    reports = []
    original = files.forget_cached

    def meanwhile(descriptor: int) -> None:
        original(descriptor)
        if not reports:
            reports.append(reencode_log(path))

    monkeypatch.setattr(files, "forget_cached", meanwhile)
    assert reencode_log(path).skipped == ()
    assert (reports[0].reencoded, len(reports[0].skipped)) == ((), 1)


def test_a_forked_child_decompresses_too(path: Path) -> None:
    """Arrow's threads, which the parent has used, are not there in the child."""
    reencode_log(path, grace_seconds=0)
    with EventLog.open(path) as log:
        before = [text_of(event) for event in log.read()]
        pid = os.fork()
        if pid == 0:
            same = False
            try:
                signal.alarm(60)
                same = [text_of(event) for event in log.read()] == before
            finally:
                os._exit(0 if same else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_foreign_readers_read_it(path: Path) -> None:
    """In pyarrow by path and by map, and polars; metadata, annex and seal are padding to them."""
    reencode_log(path, grace_seconds=0)
    with EventLog.open(path, read_only=True) as log:
        wanted = pa.Table.from_batches(log.read_batches())
    tables = [pa.ipc.open_stream(path / name).read_all() for name in names(path)]
    assert repr(pa.concat_tables(tables).to_pylist()) == repr(wanted.to_pylist())
    with pa.memory_map(str(path / names(path)[0])) as mapped:
        assert repr(pa.ipc.open_stream(mapped).read_all().to_pylist()) == repr(tables[0].to_pylist())
    frames = [pl.read_ipc_stream(path / name) for name in names(path)]
    assert pl.concat(frames)["stream"].to_list() == wanted.column("stream").to_pylist()


# --- damage


def test_a_flawed_segment_is_left_alone(path: Path) -> None:
    """The others are re-encoded, and the report says so."""
    flawed = names(path)[1]
    flip(path / flawed, (path / flawed).stat().st_size - 100)
    report = reencode_log(path, grace_seconds=0)
    assert [each.path for each in report.skipped] == [flawed]
    assert len(report.reencoded) == len(names(path)) - 2
    assert flawed in names(path)


def test_a_broken_chain_is_left_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written must prove to hold the same events."""
    original = reencoding.merged_frame

    def other(commits: Any, schema: pa.Schema, **options: Any) -> bytes:
        commits.batches[0] = (
            commits.batches[0]
            .set_column(1, "event_id", pa.array([b"x" * 16] * commits.batches[0].num_rows, pa.binary(16)))
            .cast(schema)
        )
        return original(commits, schema, **options)

    monkeypatch.setattr(reencoding, "merged_frame", other)
    before = names(path)
    report = reencode_log(path, grace_seconds=0)
    assert (names(path), report.reencoded, len(report.skipped)) == (before, (), len(before) - 1)
    assert names(path / "reencoding") == []


@pytest.mark.parametrize("place", [60, 2_000])
def test_a_damaged_new_file_is_passed_over_while_the_former_is_there(path: Path, place: int) -> None:
    """Readers, verify and repair use the former file; the next call makes another generation."""
    before = events_of(path)
    reencode_log(path)
    new = next(name for name in names(path) if ".r1." in name)
    flip(path / new, place)
    assert events_of(path) == before
    verdict = verify_log(path)
    assert (verdict.ok, [finding.severity for finding in verdict.findings]) == (True, ["note"])
    with EventLog.open(path) as log:
        assert [text_of(event) for event in log.read()] == before
    report = reencode_log(path, grace_seconds=0)
    assert [each.new_path for each in report.reencoded] == [new.replace(".r1.", ".r2.")]
    assert {each.path for each in report.skipped} == {new}
    assert events_of(path) == before


def test_repair_prefers_a_former_file_that_is_whole(path: Path) -> None:
    """The damaged one goes to quarantine, and nothing is written anew."""
    before = events_of(path)
    reencode_log(path)
    new = next(name for name in names(path) if ".r1." in name)
    content = (path / new).read_bytes()
    (path / new).write_bytes(content[:2_000] + bytes(500) + content[2_500:])
    plan = repair_log(path)
    assert (plan.events_lost, plan.rewritten, plan.set_aside) == (0, (), (new,))
    assert new not in names(path)
    assert events_of(path) == before
    assert verify_log(path).findings == ()


def test_repair_fills_from_a_damaged_former_file(path: Path) -> None:
    """Neither file is whole, but together they are."""
    before = events_of(path)
    former = names(path)[1]
    reencode_log(path, frame_bytes=4_000)
    new = former.replace(".arrows", ".r1.arrows")
    last = survey(path / new).frames[-1]
    first = survey(path / former).frames[0]
    for name, frame in ((new, last), (former, first)):
        content = (path / name).read_bytes()
        end = frame.offset + frame.seal.frame_bytes
        (path / name).write_bytes(content[: end - 64] + bytes(64) + content[end:])
    assert not verify_log(path).ok
    plan = repair_log(path)
    assert plan.events_lost == 0
    assert events_of(path) == before
    assert verify_log(path).findings == ()


def test_a_flipped_bit_costs_nothing_in_a_frame_of_any_size(tmp_path: Path) -> None:
    """The annex says in which 4 KiB it is; without it the search would take the square of the length."""
    dice = random.Random(1)  # noqa: S311
    path = tmp_path / "events"
    with EventLog.open(path, segment_bytes_max=400_000) as log:
        while len(segment_names(path)) == 1:
            values = [dice.random() for _ in range(1_000)]
            log.append("s", [Event("A", values=values)], durability="os")
    before = events_of(path)
    reencode_log(path, grace_seconds=0)
    segment = path / names(path)[0]
    content = segment.read_bytes()
    (frame,) = survey(segment).frames
    assert frame.seal.frame_bytes > 200_000
    body = frame.offset + 8 + frame.seal.metadata_bytes
    places = [
        *range(frame.offset, frame.offset + 12),
        *range(body - 112 - 60, body, 7),
        *(dice.randrange(frame.offset, len(content) - 8) for _ in range(8)),
    ]
    for place in places:
        changed = content[:place] + bytes([content[place] ^ 1 << dice.randrange(8)]) + content[place + 1 :]
        segment.write_bytes(changed)
        (found,) = survey(segment).frames
        assert found.mended == content[frame.offset : frame.offset + frame.seal.frame_bytes], place
    plan = repair_log(path)
    assert (plan.events_lost, len(plan.mended)) == (0, 1)
    assert events_of(path) == before


def test_a_former_file_with_other_bytes_is_kept(path: Path) -> None:
    """What a failed sync has left behind is nobody's to throw away."""
    former = names(path)[0]
    reencode_log(path)
    with (path / former).open("ab") as file:
        file.write(b"something")
    report = reencode_log(path, grace_seconds=0)
    assert [each.path for each in report.skipped] == [former]
    assert former in names(path)


def test_a_writer_never_writes_behind_an_end_mark(path: Path) -> None:
    """The newest file is gone, as after a power cut that took its name; the log goes on in a new one."""
    reencode_log(path, grace_seconds=0)
    (path / names(path)[-1]).unlink()
    there = events_of(path)
    last = (path / names(path)[-1]).read_bytes()
    with EventLog.open(path) as log:
        assert log.append("s", [Event("A")]).first_position == len(there)
        assert log.verify().ok
    assert (path / names(path)[-2]).read_bytes() == last
    assert not plan_repair(path).needed


# --- faults


@pytest.mark.parametrize("failing", ["write", "sync_file", "link"])
def test_a_full_disk_changes_nothing(path: Path, failing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says so, the new file is taken away, and a later call does it."""
    before, listed = events_of(path), names(path)
    original: Callable[..., None] = getattr(files, failing)
    calls = iter([True, False])

    def fails(*arguments: Any, **options: Any) -> None:
        if next(calls, False):
            original(*arguments, **options)
        else:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(files, failing, fails)
        with pytest.raises(WriteRefusedError, match="make room"):
            reencode_log(path)
    assert names(path / "reencoding") == []
    assert names(path)[-1] == listed[-1]
    assert events_of(path) == before
    assert reencode_log(path, grace_seconds=0).skipped == ()
    assert events_of(path) == before


def test_what_a_killed_call_left_is_cleared_away(path: Path) -> None:
    """A half-written file is never a segment's."""
    (path / "reencoding").mkdir()
    (path / "reencoding" / "00000000000000000000.r1.arrows").write_bytes(b"half")
    reencode_log(path, grace_seconds=0)
    assert names(path / "reencoding") == []
    assert verify_log(path).findings == ()


def test_no_name_is_used_twice(path: Path) -> None:
    """A generation that a repair has set aside is not made again."""
    aside = path / "quarantine" / "repair-x"
    aside.mkdir(parents=True)
    first = names(path)[0]
    (aside / first.replace(".arrows", ".r3.arrows")).write_bytes(b"")
    reencode_log(path, grace_seconds=0)
    assert names(path)[0] == first.replace(".arrows", ".r4.arrows")


def test_a_segment_that_the_disk_does_not_give_is_left_alone(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are re-encoded all the same."""
    original, unreadable = Segment.frames_from, names(path)[1]

    def frames_from(segment: Segment, position: int) -> Any:
        if segment.path.name == unreadable:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return original(segment, position)

    monkeypatch.setattr(Segment, "frames_from", frames_from)
    report = reencode_log(path, grace_seconds=0)
    assert [each.path for each in report.skipped] == [unreadable]
    assert len(report.reencoded) == len(names(path)) - 2


# --- copies


def test_a_copy_takes_what_was_re_encoded(path: Path, tmp_path: Path) -> None:
    """And drops the former files; a second time nothing but the last segment is written."""
    total, chain = len(events_of(path)), verify_log(path).chain
    copy_log(path, tmp_path / "copy", next_position=total)
    reencode_log(path, grace_seconds=0)
    receipt = copy_log(path, tmp_path / "copy", next_position=total)
    assert (receipt.next_position, receipt.chain) == (total, chain)
    assert names(tmp_path / "copy") == names(path)
    for name in names(path)[:-1]:
        assert (tmp_path / "copy" / name).read_bytes() == (path / name).read_bytes()
    last = (path / names(path)[-1]).stat().st_size
    assert copy_log(path, tmp_path / "copy", next_position=total).copied_bytes == last


def test_a_copy_ends_with_a_whole_commit_within_a_frame(path: Path, tmp_path: Path) -> None:
    """It never holds fewer commits than a copy of the former files."""
    total = len(events_of(path))
    ends = range(0, total + 1, 13)
    wanted = [copy_log(path, tmp_path / f"former-{end}", next_position=end) for end in ends]
    reencode_log(path, grace_seconds=0)
    for end, former in zip(ends, wanted, strict=True):
        receipt = copy_log(path, tmp_path / f"copy-{end}", next_position=end)
        assert (receipt.next_position, receipt.chain) == (former.next_position, former.chain)
        assert copy_log(path, tmp_path / f"copy-{end}", next_position=total).next_position == total


def test_a_made_up_annex_is_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits that do not add up to the frame's events, under a seal that holds."""
    original = log_annex.with_annex
    monkeypatch.setattr(log_annex, "with_annex", lambda message, sizes: original(message, [*sizes, 7]))
    monkeypatch.setattr(reencoding, "_prove", lambda *_: None)
    former = names(path)[0]
    reencode_log(path)
    (path / former).unlink()
    with pytest.raises(DamagedLogError, match="lists commits"):
        events_of(path)
    assert not verify_log(path).ok


@pytest.mark.parametrize("length", [0, 3, 1 << 33, 1 << 40, 1 << 62, (1 << 64) - 2])
def test_made_up_lengths_of_compressed_bytes_are_an_error(path: Path, length: int) -> None:
    """Arrow believes what a compressed buffer says of its length; whoever seals a frame can say anything."""
    reencode_log(path, grace_seconds=0)
    segment = path / names(path)[0]
    content = segment.read_bytes()
    frame = survey(segment).frames[0]
    message = bytearray(log_format.unseal(frame.read(), frame.seal))
    body = 8 + frame.seal.metadata_bytes - log_format.SEAL_BYTES
    message[body : body + 8] = length.to_bytes(8, "little")
    seal = frame.seal
    sealed = log_format.seal_frame(
        bytes(message),
        first_position=seal.first_position,
        event_count=seal.event_count,
        synced_position=seal.synced_position,
        chain=seal.chain,
        offset=frame.offset,
    )
    segment.write_bytes(content[: frame.offset] + sealed + content[frame.offset + len(sealed) :])
    with pytest.raises(DamagedLogError):
        events_of(path)
    assert not verify_log(path).ok
