"""Segments and blocks: what is made of commits, by whom, and that it is never needed and never believed."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from eventstore import DamagedLogError, Event, RecordedEvent, StorageUnavailableError
from eventstore.schema import recorded_events
from eventstore.storage.numbered import NumberedStorage, RefusedError, UnclearError
from eventstore.storage.numbered.compaction import Compactor
from eventstore.storage.numbered.segments import COMMITS, compacted
from eventstore.testing.commit_stores import MemoryCommitStore
from tests.eventstore.numbered_logs import CountingStore, crowd, log_on, wait_for_makers

# --- segments


@pytest.mark.parametrize("cached", [True, False])
def test_a_segment_holds_what_its_commits_hold(tmp_path: Path, *, cached: bool) -> None:
    """It is a pure function of them, an Arrow stream, and readers need nothing else."""
    store = MemoryCommitStore()
    with log_on(store) as log:
        for number in range(2 * COMMITS + 5):
            log.append(f"s{number % 3}", [Event("A", {"n": number})] * (1 + number % 2))
        expected = [event.data for event in log.read()]
        storage = log._adapter()
        assert isinstance(storage, NumberedStorage)
        wait_for_makers()
        storage.compact()
        verdict = log.verify()
        assert (verdict.ok, verdict.findings) == (True, ())
    assert store.derived is not None
    assert sorted(store.derived) == ["seg/000000000000.arrow", "seg/000000000001.arrow"]
    with pa.ipc.open_stream(store.derived["seg/000000000001.arrow"]) as stream:
        assert stream.read_all().num_rows == COMMITS * 3 // 2
    before = store.requests
    for _ in range(2):
        with log_on(store, cache=tmp_path if cached else None) as log:
            assert [event.data for event in log.read()] == expected
            assert [event.data["n"] for event in log.read_stream("s1", 300)][:3] == [601, 601, 604]
        assert store.requests - before < 200


@pytest.mark.parametrize("place", [0, 4000, 200_000])
def test_a_damaged_segment_is_passed_over(tmp_path: Path, place: int) -> None:
    store = MemoryCommitStore()
    with log_on(store) as log:
        for number in range(COMMITS):
            log.append("s", [Event("A", {"n": number})])
        log._adapter().compact()  # type: ignore[attr-defined]
    assert store.derived is not None
    data = bytearray(store.derived["seg/000000000000.arrow"])
    data[place] ^= 1
    store.derived["seg/000000000000.arrow"] = bytes(data)
    with log_on(store, cache=tmp_path) as log:
        assert [event.data["n"] for event in log.read()] == list(range(COMMITS))
        verdict = log.verify()
        assert verdict.ok
        assert [finding.path for finding in verdict.findings] == ["seg/000000000000.arrow"]


def test_without_blocks_a_segment_is_made_of_its_commits() -> None:
    """Each of them is read once, and blocks are not asked for."""
    store = CountingStore()
    assert store.derived is not None
    store.derived.has_blocks = False
    with log_on(store) as log:
        for _ in range(COMMITS):
            log.append("s", [Event("A")])
    wait_for_makers()
    made = store.derived.copy()
    store.derived.clear()
    store.reads = 0
    assert NumberedStorage(store, read_only=True).compact() == 1
    assert store.reads == 1 + 1 + 1 + COMMITS + 1  # the head, the segment's end, the segment, the next end
    assert store.derived == made != {}


def test_a_commit_that_is_gone_is_damage_and_no_segment_is_made_without_it() -> None:
    store = CountingStore()
    with log_on(store) as log:
        for _ in range(COMMITS):
            log.append("s", [Event("A")])
    wait_for_makers()
    assert store.derived is not None
    store.derived.clear()
    del store.objects[500]
    with pytest.raises(DamagedLogError, match=r"commit 500.*nothing stands, although commits follow"):
        NumberedStorage(store, read_only=True).compact()
    assert store.derived == {}


def test_what_is_derived_is_asked_for_again_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """By who makes a segment or verifies one, as by who reads; and who does not answer is named."""
    store = CountingStore()
    crowd(store, COMMITS + 1)
    derived, asked = store.derived, set[str]()
    assert derived is not None
    made, get = derived.pop("seg/000000000000.arrow"), derived.get

    def not_at_once(name: str, default: bytes | None = None) -> bytes | None:
        if name not in asked:
            asked.add(name)
            raise UnclearError("503 Slow Down")
        return get(name, default)

    monkeypatch.setattr("eventstore.storage.numbered.patience.PAUSE_SECONDS", 0.001)
    derived.get = not_at_once  # type: ignore[method-assign,assignment]
    assert NumberedStorage(store, read_only=True).compact() == 1
    assert derived["seg/000000000000.arrow"] == made
    asked.clear()
    verdict = NumberedStorage(store, read_only=True).verify()
    assert (verdict.ok, verdict.findings) == (True, ())
    asked.clear()
    del derived["seg/000000000000.arrow"]
    hasty = NumberedStorage(store, read_only=True, patience_seconds=0)
    for work in (hasty.compact, hasty.verify):
        with pytest.raises(StorageUnavailableError, match=r"memory://.*503 Slow Down"):
            work()


# --- blocks


def test_writers_who_are_not_alone_make_blocks() -> None:
    """Each holds what its commits hold, byte for byte."""
    store = CountingStore()
    crowd(store, 150)
    assert store.derived is not None
    sizes = {8: 18, 64: 2}
    assert set(store.derived) == {
        f"seg/{size}/{number:012d}.arrow" for size, count in sizes.items() for number in range(count)
    }
    with log_on(store) as log:
        assert log.verify().findings == ()
        for size, count in sizes.items():
            for number in range(count):
                objects = [store.objects[key] for key in range(size * number, size * (number + 1))]
                assert store.derived[f"seg/{size}/{number:012d}.arrow"] == compacted(objects, name="block")
    with pa.ipc.open_stream(store.derived["seg/64/000000000001.arrow"]) as stream:
        assert len(stream.read_all()) == 64


def test_who_writes_alone_makes_none() -> None:
    """Nobody would read them."""
    store = CountingStore()
    with log_on(store) as log:
        for _ in range(200):
            log.append("s", [Event("A")])
    wait_for_makers()
    assert not store.derived


@pytest.mark.parametrize("behind", [0, 1, 2, 5, 10, 40, 100, 300, 900])
def test_who_is_behind_reads_blocks(behind: int) -> None:
    """A thousand trainers that each read a thousand commits of the others were most of what a log costs."""
    store = CountingStore()
    with log_on(store) as log:
        crowd(store, 68)
        assert log.next_position == 67
        crowd(store, 68 + behind)
        store.reads = 0
        assert log.next_position == 67 + behind
        assert store.reads <= min(2 * behind + 3, 28 + behind // 16)
        assert [event.position for event in log.read()] == list(range(67 + behind))


def test_without_blocks_as_many_requests_as_commits() -> None:
    """A writer alone made none: whoever comes later finds that out, and stops asking."""
    store = CountingStore()
    with log_on(store) as writer, log_on(store) as log:
        for _ in range(900):
            writer.append("s", [Event("A")])
        assert not store.derived
        store.reads = 0
        assert log.next_position == 900
        assert store.reads < 900 + 130


def test_a_block_that_is_still_being_made_is_no_reason_to_do_without() -> None:
    """The commits of one are there for a moment before it is."""
    store = CountingStore()
    with log_on(store) as log:
        crowd(store, 72)
        assert store.derived is not None
        del store.derived["seg/8/000000000008.arrow"], store.derived["seg/64/000000000000.arrow"]
        assert log.next_position == 71
        crowd(store, 600)
        store.reads = 0
        assert log.next_position == 599
        assert store.reads < 60


@pytest.mark.parametrize("wrong", ["flipped", "cut", "empty", "other", "misplaced", "missing"])
@pytest.mark.parametrize("size", [8, 64])
def test_a_block_that_is_no_good_is_passed_over(size: int, wrong: str) -> None:
    """The commits themselves are read."""
    store = CountingStore()
    crowd(store, 400)
    assert store.derived is not None
    first = store.derived[f"seg/{size}/000000000000.arrow"]
    names = [name for name in store.derived if name.startswith(f"seg/{size}/")]
    for name in names:
        data = store.derived.pop(name)
        match wrong:
            case "flipped":
                store.derived[name] = data[:-100] + bytes([data[-100] ^ 1]) + data[-99:]
            case "cut":
                store.derived[name] = data[:-8]
            case "empty":
                store.derived[name] = b""
            case "other":
                store.derived[name] = store.objects[3]
            case "misplaced":
                store.derived[name] = first
    with log_on(store) as log:
        assert [event.position for event in log.read()] == list(range(399))
        findings = log.verify().findings
        assert all(finding.severity == "note" for finding in findings)
        assert len(findings) == (0 if wrong == "missing" else len(names) - (wrong == "misplaced"))


def test_a_block_of_another_history_is_damage_or_passed_over() -> None:
    """Good frames that do not continue the log are not believed."""
    store, other = CountingStore(), CountingStore()
    crowd(store, 100)
    crowd(other, 100)
    assert store.derived is not None
    assert other.derived is not None
    store.derived.update(other.derived)
    with log_on(store) as log:
        assert [event.event_id for event in log.read()] == [
            event.event_id for key in range(1, 100) for event in _events_of(store.objects[key])
        ]


def _events_of(data: bytes) -> list[RecordedEvent]:
    return list(recorded_events(pa.ipc.open_stream(data).read_all().to_batches()[0]))


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (UnclearError("timed out"), "INFO"),
        (StorageUnavailableError("does not answer", path="memory://"), "INFO"),
        (RefusedError("no such right"), "WARNING"),
        (OSError("disk full"), "WARNING"),
    ],
)
def test_a_block_that_could_not_be_made_is_told(
    error: Exception, level: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A store that does not answer is the weather; one that refuses needs somebody who looks."""

    def fail(*_: object) -> None:
        raise error

    store = CountingStore()
    monkeypatch.setattr(Compactor, "_joined", fail)
    with caplog.at_level("INFO", logger="eventstore"):
        crowd(store, 20)
    told = [record for record in caplog.records if "a block of commits was not made" in record.message]
    assert told
    assert {record.levelname for record in told} == {level}
    with log_on(store) as log:
        assert [event.position for event in log.read()] == list(range(19))


def test_segments_are_made_of_blocks() -> None:
    """A sixteenth of the requests, and the same bytes."""
    store = CountingStore()
    crowd(store, COMMITS + 10)
    assert store.derived is not None
    name = "seg/000000000000.arrow"
    objects = [store.objects[key] for key in range(COMMITS)]
    assert store.derived.pop(name) == compacted(objects, name=name)
    with log_on(store) as log:
        store.reads = 0
        assert isinstance(log._storage, NumberedStorage)
        assert log._storage.compact() == 1
        assert store.reads < 40
    assert store.derived[name] == compacted(objects, name=name)


def test_a_wrong_block_keeps_nobody_from_making_a_segment() -> None:
    """It is derived: the commits are read instead."""
    store = CountingStore()
    crowd(store, COMMITS + 10)
    assert store.derived is not None
    name = "seg/000000000000.arrow"
    made = store.derived.pop(name)
    store.derived["seg/64/000000000003.arrow"] = store.derived["seg/64/000000000005.arrow"]
    store.derived["seg/64/000000000000.arrow"] = store.derived["seg/64/000000000006.arrow"]
    with log_on(store) as log:
        assert isinstance(log._storage, NumberedStorage)
        assert log._storage.compact() == 1
    assert store.derived[name] == made


def test_far_behind_a_writer_who_was_alone_not_everything_is_asked_for_at_once() -> None:
    """So many requests at a time as ever, however far the end is."""
    store = CountingStore()
    asked: list[int] = []
    read = store.read
    store.read = lambda key, count: (asked.append(count), read(key, count))[1]  # type: ignore[method-assign]
    with log_on(store) as writer, log_on(store) as log:
        for _ in range(900):
            writer.append("s", [Event("A")])
        asked.clear()
        assert log.next_position == 900
    assert max(asked) <= 64
