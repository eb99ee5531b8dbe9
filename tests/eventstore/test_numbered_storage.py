"""Numbered commits on an engine that loses requests and answers, and what the rules are for."""

from __future__ import annotations

import contextlib
import itertools
import pickle
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal
from uuid import UUID

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore import (
    NO_STREAM,
    CommitUnknownError,
    DamagedLogError,
    Event,
    EventLog,
    ExpectedVersionError,
    LogNotFoundError,
    RecordedEvent,
    StorageUnavailableError,
    WriteRefusedError,
)
from eventstore.schema import recorded_events
from eventstore.storage.numbered import NumberedStorage, RefusedError, UnclearError
from eventstore.storage.numbered.segments import COMMITS, compacted
from eventstore.testing.commit_stores import FaultyCommitStore, MemoryCommitStore
from eventstore.testing.contract import LogContract, OpenLog
from eventstore.testing.witness import Witness


class _MemoryContract(LogContract):
    keys: Literal["numbers", "positions"]

    @pytest.fixture
    def open_log(self) -> Iterator[OpenLog]:
        """Every call opens the store anew."""
        store = MemoryCommitStore(self.keys)
        opened: list[EventLog] = []

        def open_log() -> EventLog:
            opened.append(_log(store))
            return opened[-1]

        yield open_log
        for log in opened:
            log.close()


class TestByNumber(_MemoryContract):
    """Commits are counted."""

    keys = "numbers"


class TestByPosition(_MemoryContract):
    """Commits are named by their first position, as in a database."""

    keys = "positions"


class _Scripted(MemoryCommitStore):
    """Does to each ``create`` what the script says; after its end, what was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.script: list[str] = []
        self.created: list[tuple[int, bytes]] = []

    def create(self, key: int, data: bytes) -> bool:
        self.created.append((key, data))
        step = self.script.pop(0) if self.script else "do"
        match step:
            case "lose answer":
                super().create(key, data)
                raise UnclearError("the connection was reset")
            case "lose request":
                raise UnclearError("503")
            case "conflict":
                return False
            case "refuse":
                raise RefusedError("no room")
        return super().create(key, data)


def _log(
    store: MemoryCommitStore | FaultyCommitStore, *, patience: float = 30, cache: Path | None = None
) -> EventLog:
    return EventLog(NumberedStorage(store, read_only=False, patience_seconds=patience, cache=cache))


@pytest.fixture
def store() -> _Scripted:
    return _Scripted()


@pytest.fixture
def log(store: _Scripted) -> Iterator[EventLog]:
    with _log(store, patience=0) as log:
        yield log


def _types(log: EventLog) -> list[str]:
    return [event.type for event in log.read()]


# --- the rules, one by one


def test_an_append_costs_one_request_where_nobody_else_writes(store: _Scripted, log: EventLog) -> None:
    before = store.requests
    for _ in range(5):
        log.append("s", [Event("A")])
    assert store.requests - before == 5


def test_a_commit_whose_answer_was_lost_is_not_made_twice(store: _Scripted, log: EventLog) -> None:
    store.script = ["lose answer"]
    commit = log.append("s", [Event("A")])
    assert (commit.first_position, _types(log)) == (0, ["A"])
    assert len(store.created) == 2  # the log's head, and the one request


def test_after_a_conflict_the_same_bytes_go_to_the_same_place(store: _Scripted) -> None:
    with _log(store) as log:
        store.script = ["conflict", "lose request", "conflict"]
        log.append("s", [Event("A")])
        assert _types(log) == ["A"]
    assert len(set(store.created[1:])) == 1
    assert len(store.created) == 5


def test_a_place_that_another_has_won_is_taken_into_account(store: _Scripted, log: EventLog) -> None:
    with _log(store) as other:
        other.append("s", [Event("A")])
        other.append("t", [Event("B")])
    commit = log.append("s", [Event("C")])
    assert (commit.first_position, commit.last_stream_version) == (2, 1)
    assert _types(log) == ["A", "B", "C"]


def test_who_decided_on_an_old_state_is_told_so(store: _Scripted, log: EventLog) -> None:
    with _log(store) as other:
        other.append("s", [Event("A")])
    with pytest.raises(ExpectedVersionError, match="is at version 0"):
        log.append("s", [Event("B")], expected=NO_STREAM)
    assert log.append("s", [Event("B")], expected=0).first_position == 1


def test_one_look_is_enough_for_several_questions(store: _Scripted, log: EventLog) -> None:
    before = store.requests
    with log.one_look():
        assert (log.next_position, log.stream_version("s"), list(log.read())) == (0, None, [])
        with log.one_look():
            assert list(log.read_stream("s")) == []
    assert store.requests - before == 1
    assert log.next_position == 0
    assert store.requests - before == 2


def test_one_look_begins_anew_each_time(store: _Scripted, log: EventLog) -> None:
    with _log(store) as other:
        for count in range(1, 4):
            other.append("s", [Event("A")])
            with log.one_look():
                assert (log.next_position, len(list(log.read_stream("s")))) == (count, count)


def test_an_append_looks_as_often_as_it_must(store: _Scripted, log: EventLog) -> None:
    """Whoever decides again within one look decides on what has made the first attempt fail."""
    with _log(store) as other, log.one_look():
        assert log.stream_version("s") is None
        other.append("s", [Event("A")])
        with pytest.raises(ExpectedVersionError, match="is at version 0"):
            log.append("s", [Event("B")], expected=NO_STREAM)
        assert log.stream_version("s") == 0
        other.append("t", [Event("C")])
        assert log.append("s", [Event("B")], expected=0).first_position == 2
        assert _types(log) == ["A", "C", "B"]


def test_an_unknown_outcome_is_said_to_be_one_and_can_be_resolved(store: _Scripted, log: EventLog) -> None:
    store.script = ["lose request"]
    with pytest.raises(CommitUnknownError) as caught:
        log.append("s", [Event("A")])
    unknown = pickle.loads(pickle.dumps(caught.value))
    assert (unknown.position, unknown.next_position) == (0, 1)
    with pytest.raises(CommitUnknownError):
        log.resolve(unknown)
    key, data = store.created[-1]
    assert store.objects.setdefault(key, data) == data  # the request arrives after all
    commit = log.resolve(unknown)
    assert commit is not None
    assert (commit.first_position, commit.next_position, commit.stream_versions) == (0, 1, {"s": 0})
    with _log(store) as other:
        assert other.resolve(unknown) == commit


def test_what_stands_at_a_groups_first_position_decides_for_all_of_it(store: _Scripted) -> None:
    """Two threads shared a request that was lost; a shorter commit took its place."""
    with _log(store, patience=0) as log, _log(store) as other:
        unknown: list[CommitUnknownError] = []

        def append(stream: str) -> None:
            with pytest.raises(CommitUnknownError) as caught:
                log.append(stream, [Event("A"), Event("B")])
            unknown.append(caught.value)

        assert log._group is not None
        store.script = ["lose request"]
        with log._group._leading:  # nobody sends, until both wait
            threads = [threading.Thread(target=append, args=(stream,)) for stream in "st"]
            for thread in threads:
                thread.start()
            while len(log._group._waiting) < 2:
                pass
        for thread in threads:
            thread.join()
        assert sorted((each.position, each.group_position) for each in unknown) == [(0, 0), (2, 0)]
        other.append("u", [Event("C")])
        assert [log.resolve(each) for each in unknown] == [None, None]


def test_a_request_that_comes_too_late_changes_nothing(store: _Scripted, log: EventLog) -> None:
    store.script = ["lose request"]
    with pytest.raises(CommitUnknownError) as caught:
        log.append("s", [Event("A")])
    late = store.created[-1]
    assert log.append("s", [Event("B")]).first_position == 0
    assert MemoryCommitStore.create(store, *late) is False
    assert log.resolve(caught.value) is None
    assert _types(log) == ["B"]


def test_a_refusal_is_told_at_once_and_the_log_goes_on(store: _Scripted, log: EventLog) -> None:
    store.script = ["refuse"]
    with pytest.raises(WriteRefusedError, match="no room"):
        log.append("s", [Event("A")])
    assert log.append("s", [Event("B")]).first_position == 0
    assert _types(log) == ["B"]


def test_a_refusal_behind_a_lost_request_decides_nothing(store: _Scripted) -> None:
    """The first request may still arrive."""
    with _log(store, patience=0.3) as log:
        store.script = ["lose request"] + ["refuse"] * 100
        with pytest.raises(CommitUnknownError):
            log.append("s", [Event("A")])


def test_the_log_is_made_once_by_whoever_comes_first() -> None:
    store = MemoryCommitStore()
    opened: list[EventLog] = []
    start = threading.Barrier(8)

    def open_one() -> None:
        start.wait()
        opened.append(_log(FaultyCommitStore(store, seed=len(opened), share=0.5)))

    threads = [threading.Thread(target=open_one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({log.log_id for log in opened}) == 1
    assert len(opened) == 8


def test_a_log_that_is_not_there_is_not_made_for_a_reader(store: _Scripted) -> None:
    with pytest.raises(LogNotFoundError):
        NumberedStorage(store, read_only=True)
    assert store.objects == {}


def test_a_store_that_does_not_answer_is_named() -> None:
    class Silent(MemoryCommitStore):
        def read(self, key: int, count: int) -> Sequence[bytes]:
            raise UnclearError("no route to host")

    with pytest.raises(StorageUnavailableError, match=r"memory://.*no route to host"):
        _log(Silent(), patience=0)


# --- commits of several threads


def test_threads_share_a_request(store: _Scripted) -> None:
    """While one request is under way, the others gather, and then go together."""
    under_way, go_on = threading.Event(), threading.Event()
    with _log(store) as log:
        create = store.create

        def slow(key: int, data: bytes) -> bool:
            under_way.set()
            assert go_on.wait(30)
            return create(key, data)

        store.create = slow  # type: ignore[method-assign]
        commits = {}

        def append(name: str) -> None:
            commits[name] = log.append(name, [Event("A"), Event("B")])

        threads = [threading.Thread(target=append, args=(f"s{n}",)) for n in range(6)]
        threads[0].start()
        assert under_way.wait(30)
        for thread in threads[1:]:
            thread.start()
        while len(log._group._waiting) < 5:  # type: ignore[union-attr]
            pass
        go_on.set()
        for thread in threads:
            thread.join()
        assert sorted(commit.first_position for commit in commits.values()) == list(range(0, 12, 2))
        assert len(store.objects) == 3
        assert log.verify().ok
    with _log(store) as again:
        assert [event.position for event in again.read()] == list(range(12))
        assert [event.type for event in again.read(5, 8)] == ["B", "A", "B"]


def test_of_threads_that_expect_the_same_one_wins_in_one_group(store: _Scripted) -> None:
    with _log(store) as log:
        start = threading.Barrier(6)
        outcomes: list[str] = []

        def append() -> None:
            start.wait()
            try:
                log.append("s", [Event("A")], expected=NO_STREAM)
                outcomes.append("won")
            except ExpectedVersionError:
                outcomes.append("lost")

        threads = [threading.Thread(target=append) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == ["lost"] * 5 + ["won"]
        assert log.next_position == 1


# --- what is in the store


def test_every_commit_is_an_arrow_stream_of_its_own(store: _Scripted, log: EventLog) -> None:
    log.append("s", [Event("A"), Event("B")])
    with pa.ipc.open_stream(store.objects[1]) as stream:
        assert stream.read_all().column("type").to_pylist() == ["A", "B"]


@pytest.mark.parametrize("cached", [True, False])
def test_a_segment_holds_what_its_commits_hold(store: _Scripted, tmp_path: Path, *, cached: bool) -> None:
    """It is a pure function of them, an Arrow stream, and readers need nothing else."""
    with _log(store) as log:
        for number in range(2 * COMMITS + 5):
            log.append(f"s{number % 3}", [Event("A", {"n": number})] * (1 + number % 2))
        expected = [event.data for event in log.read()]
        storage = log._adapter()
        assert isinstance(storage, NumberedStorage)
        if storage._compactor is not None:
            storage._compactor.join()
        storage.compact()
        verdict = log.verify()
        assert (verdict.ok, verdict.findings) == (True, ())
    assert store.derived is not None
    assert sorted(store.derived) == ["seg/000000000000.arrow", "seg/000000000001.arrow"]
    with pa.ipc.open_stream(store.derived["seg/000000000001.arrow"]) as stream:
        assert stream.read_all().num_rows == COMMITS * 3 // 2
    before = store.requests
    for _ in range(2):
        with _log(store, cache=tmp_path if cached else None) as log:
            assert [event.data for event in log.read()] == expected
            assert [event.data["n"] for event in log.read_stream("s1", 300)][:3] == [601, 601, 604]
        assert store.requests - before < 200


@pytest.mark.parametrize("place", [0, 4000, 200_000])
def test_a_damaged_segment_is_passed_over(store: _Scripted, tmp_path: Path, place: int) -> None:
    with _log(store) as log:
        for number in range(COMMITS):
            log.append("s", [Event("A", {"n": number})])
        log._adapter().compact()  # type: ignore[attr-defined]
    assert store.derived is not None
    data = bytearray(store.derived["seg/000000000000.arrow"])
    data[place] ^= 1
    store.derived["seg/000000000000.arrow"] = bytes(data)
    with _log(store, cache=tmp_path) as log:
        assert [event.data["n"] for event in log.read()] == list(range(COMMITS))
        verdict = log.verify()
        assert verdict.ok
        assert [finding.path for finding in verdict.findings] == ["seg/000000000000.arrow"]


def test_no_flipped_bit_of_a_commit_is_believed(store: _Scripted) -> None:
    with _log(store) as log:
        log.append("s", [Event("A", {"n": 1}, index=[1], values=[0.5])])
        log.append("s", [Event("B")])
    good = store.objects[1]
    for place in range(0, 8 * len(good), 7):
        data = bytearray(good)
        data[place // 8] ^= 1 << place % 8
        store.objects[1] = bytes(data)
        with pytest.raises(DamagedLogError):
            _log(store)
    for size in range(0, len(good), 13):
        store.objects[1] = good[:size]
        with pytest.raises(DamagedLogError):
            _log(store)


def test_a_commit_of_another_log_is_refused(store: _Scripted) -> None:
    other = _Scripted()
    for each in (store, other):
        with _log(each) as log:
            log.append("s", [Event("A")])
    store.objects[2] = other.objects[1]
    with pytest.raises(DamagedLogError, match="another log"):
        _log(store)


def test_what_is_damaged_is_found(store: _Scripted, log: EventLog) -> None:
    log.append("s", [Event("A")])
    store.objects[1] = store.objects[1][:-8]
    verdict = log.verify()
    assert not verdict.ok
    assert verdict.findings[0].position == 0


# --- everything at once


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    share=st.sampled_from([0.1, 0.3, 0.6]),
    keys=st.sampled_from(["numbers", "positions"]),
    patience=st.sampled_from([0.0, 0.05, 30.0]),
)
def test_nothing_is_lost_and_nothing_is_there_twice(
    seed: int, share: float, keys: Literal["numbers", "positions"], patience: float
) -> None:
    """Four writers of two threads each, on a network that loses, repeats and delays."""
    store = MemoryCommitStore(keys)
    _log(store).close()
    networks = [FaultyCommitStore(store, seed=seed + number, share=share) for number in range(4)]
    logs = [_opened(network, patience) for network in networks]
    witness = Witness()

    threads = [
        threading.Thread(target=witness.write, args=(log, f"{place}{half}", 6))
        for (place, log), half in itertools.product(enumerate(logs), "ab")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for network in networks:
        network.arrive()
    with _log(store) as log:
        witness.check(log)
        assert {finding.severity for finding in log.verify().findings} <= {"note"}
    for network in networks:  # and whoever reads with wrong blocks and segments reads the same
        reader = _opened(network, 30.0)
        assert [event.event_id for event in reader.read()] == _ids(store)


def _ids(store: MemoryCommitStore) -> list[UUID]:
    with _log(store) as log:
        return [event.event_id for event in log.read()]


def _opened(network: FaultyCommitStore, patience: float) -> EventLog:
    while True:
        try:
            return _log(network, patience=patience)
        except StorageUnavailableError:
            continue


# --- blocks


class _Counting(MemoryCommitStore):
    """Counts what is read, each object as one request; blocks are made where the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        derived = self.derived
        assert derived is not None
        get = derived.get

        def counted(name: str, default: bytes | None = None) -> bytes | None:
            self.reads += 1
            return get(name, default)

        derived.get = counted  # type: ignore[method-assign,assignment]

    def read(self, key: int, count: int) -> Sequence[bytes]:
        self.reads += count
        return super().read(key, count)


def _wait_for_makers() -> None:
    for thread in threading.enumerate():
        if "_try_to" in thread.name:
            thread.join()


def _crowd(store: MemoryCommitStore, commits: int, writers: int = 3) -> None:
    """Several writers take turns until there are so many commits."""
    logs = [_log(store) for _ in range(writers)]
    while len(store.objects) < commits:
        logs[len(store.objects) % writers].append(f"s{len(store.objects) % 5}", [Event("A")])
    _wait_for_makers()
    for log in logs:
        log.close()


def test_writers_who_are_not_alone_make_blocks() -> None:
    """Each holds what its commits hold, byte for byte."""
    store = _Counting()
    _crowd(store, 150)
    assert store.derived is not None
    sizes = {8: 18, 64: 2}
    assert set(store.derived) == {
        f"seg/{size}/{number:012d}.arrow" for size, count in sizes.items() for number in range(count)
    }
    with _log(store) as log:
        assert log.verify().findings == ()
        for size, count in sizes.items():
            for number in range(count):
                objects = [store.objects[key] for key in range(size * number, size * (number + 1))]
                assert store.derived[f"seg/{size}/{number:012d}.arrow"] == compacted(objects, name="block")
    with pa.ipc.open_stream(store.derived["seg/64/000000000001.arrow"]) as stream:
        assert len(stream.read_all()) == 64


def test_who_writes_alone_makes_none() -> None:
    """Nobody would read them."""
    store = _Counting()
    with _log(store) as log:
        for _ in range(200):
            log.append("s", [Event("A")])
    _wait_for_makers()
    assert not store.derived


@pytest.mark.parametrize("behind", [0, 1, 2, 5, 10, 40, 100, 300, 900])
def test_who_is_behind_reads_blocks(behind: int) -> None:
    """A thousand trainers that each read a thousand commits of the others were most of what a log costs."""
    store = _Counting()
    with _log(store) as log:
        _crowd(store, 68)
        assert log.next_position == 67
        _crowd(store, 68 + behind)
        store.reads = 0
        assert log.next_position == 67 + behind
        assert store.reads <= min(2 * behind + 3, 28 + behind // 16)
        assert [event.position for event in log.read()] == list(range(67 + behind))


def test_without_blocks_as_many_requests_as_commits() -> None:
    """A writer alone made none: whoever comes later finds that out, and stops asking."""
    store = _Counting()
    with _log(store) as writer, _log(store) as log:
        for _ in range(900):
            writer.append("s", [Event("A")])
        assert not store.derived
        store.reads = 0
        assert log.next_position == 900
        assert store.reads < 900 + 130


def test_a_block_that_is_still_being_made_is_no_reason_to_do_without() -> None:
    """The commits of one are there for a moment before it is."""
    store = _Counting()
    with _log(store) as log:
        _crowd(store, 72)
        assert store.derived is not None
        del store.derived["seg/8/000000000008.arrow"], store.derived["seg/64/000000000000.arrow"]
        assert log.next_position == 71
        _crowd(store, 600)
        store.reads = 0
        assert log.next_position == 599
        assert store.reads < 60


@pytest.mark.parametrize("wrong", ["flipped", "cut", "empty", "other", "misplaced", "missing"])
@pytest.mark.parametrize("size", [8, 64])
def test_a_block_that_is_no_good_is_passed_over(size: int, wrong: str) -> None:
    """The commits themselves are read."""
    store = _Counting()
    _crowd(store, 400)
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
    with _log(store) as log:
        assert [event.position for event in log.read()] == list(range(399))
        findings = log.verify().findings
        assert all(finding.severity == "note" for finding in findings)
        assert len(findings) == (0 if wrong == "missing" else len(names) - (wrong == "misplaced"))


def test_a_block_of_another_history_is_damage_or_passed_over() -> None:
    """Good frames that do not continue the log are not believed."""
    store, other = _Counting(), _Counting()
    _crowd(store, 100)
    _crowd(other, 100)
    assert store.derived is not None
    assert other.derived is not None
    store.derived.update(other.derived)
    with _log(store) as log:
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

    store = _Counting()
    monkeypatch.setattr(NumberedStorage, "_joined", fail)
    with caplog.at_level("INFO", logger="eventstore"):
        _crowd(store, 20)
    told = [record for record in caplog.records if "a block of commits was not made" in record.message]
    assert told
    assert {record.levelname for record in told} == {level}
    with _log(store) as log:
        assert [event.position for event in log.read()] == list(range(19))


def test_segments_are_made_of_blocks() -> None:
    """A sixteenth of the requests, and the same bytes."""
    store = _Counting()
    _crowd(store, COMMITS + 10)
    assert store.derived is not None
    name = "seg/000000000000.arrow"
    objects = [store.objects[key] for key in range(COMMITS)]
    assert store.derived.pop(name) == compacted(objects, name=name)
    with _log(store) as log:
        store.reads = 0
        assert isinstance(log._storage, NumberedStorage)
        assert log._storage.compact() == 1
        assert store.reads < 40
    assert store.derived[name] == compacted(objects, name=name)


# --- turns


class _Distant(MemoryCommitStore):
    """Every request takes 4 ms, half of it on the way there; who makes them is counted."""

    def __init__(self, *, hints: Literal["kept", "lost", "none"] = "kept") -> None:
        super().__init__()
        self.by: Counter[str] = Counter()
        derived = self.derived
        assert derived is not None
        if hints == "none":
            self.derived = None
        if hints == "lost":
            derived.replace = self._refuse  # type: ignore[method-assign]

    def create(self, key: int, data: bytes) -> bool:
        with self._request():
            return super().create(key, data)

    def read(self, key: int, count: int) -> Sequence[bytes]:
        with self._request():
            return super().read(key, count)

    @contextlib.contextmanager
    def _request(self) -> Iterator[None]:
        self.by[threading.current_thread().name] += 1
        time.sleep(0.002)
        yield
        time.sleep(0.002)

    def _refuse(self, name: str, data: bytes) -> None:
        raise RefusedError("no")


def _joins(store: _Distant, count: int) -> tuple[list[int], list[int]]:
    """While one writer commits all the time others join, one by one.

    For each, how many commits the first one made until theirs was made, and how many requests they made.
    """
    waited, requests = [], []
    with _log(store) as busy:
        stop = threading.Event()

        def write() -> None:
            while not stop.is_set():
                busy.append("busy", [Event("A")])

        assert isinstance(busy._storage, NumberedStorage)
        writer = threading.Thread(target=write)
        writer.start()
        try:
            for _ in range(count):
                with _log(store) as log:
                    busy._storage._others_seen = -1e9  # as if nobody had been there for a while
                    first = len(store.objects)
                    while len(store.objects) < first + 10:
                        time.sleep(0.001)
                    log.next_position  # noqa: B018 - as every store call looks first
                    first, made = len(store.objects), store.by["MainThread"]
                    log.append("joining", [Event("B")])
                    waited.append(len(store.objects) - first)
                    requests.append(store.by["MainThread"] - made)
        finally:
            stop.set()
            writer.join()
    return waited, requests


def test_who_joins_a_busy_log_gets_a_turn_soon() -> None:
    """It asks for one by a hint, which the writer who has been alone looks at now and then."""
    waited, requests = _joins(_Distant(), 7)
    assert statistics.median(waited) <= 24
    assert statistics.median(requests) <= 30


@pytest.mark.parametrize("hints", ["lost", "none"])
def test_without_a_hint_a_gap_lets_others_in(hints: Literal["lost", "none"]) -> None:
    """It comes after 64 commits, and is long enough."""
    waited, _ = _joins(_Distant(hints=hints), 3)
    assert min(waited) <= 80


def test_a_hint_is_looked_at_only_by_who_has_no_time_to_lose(store: _Scripted) -> None:
    """A trainer that commits now and then leaves gaps as it is, and asks for nothing."""
    looks: list[str] = []
    assert store.derived is not None
    get = store.derived.get
    store.derived.get = lambda name, default=None: (looks.append(name), get(name, default))[1]  # type: ignore[method-assign,assignment]
    with _log(store) as log:
        storage = log._storage
        assert isinstance(storage, NumberedStorage)
        for alone, expected in ((False, 0), (True, 10)):
            looks.clear()
            for _ in range(40):
                storage._others_seen = -1e9
                storage._latency = 1e6 if alone else 0.0  # it seems a short, or a long time since the last
                storage._wins = storage._wins % 60
                log.append("s", [Event("A")])
            for thread in [each for each in threading.enumerate() if each.name == "hint"]:
                thread.join()
            assert abs(looks.count("turn") - expected) <= 1


def test_a_wrong_block_keeps_nobody_from_making_a_segment() -> None:
    """It is derived: the commits are read instead."""
    store = _Counting()
    _crowd(store, COMMITS + 10)
    assert store.derived is not None
    name = "seg/000000000000.arrow"
    made = store.derived.pop(name)
    store.derived["seg/64/000000000003.arrow"] = store.derived["seg/64/000000000005.arrow"]
    store.derived["seg/64/000000000000.arrow"] = store.derived["seg/64/000000000006.arrow"]
    with _log(store) as log:
        assert isinstance(log._storage, NumberedStorage)
        assert log._storage.compact() == 1
    assert store.derived[name] == made


def test_far_behind_a_writer_who_was_alone_not_everything_is_asked_for_at_once() -> None:
    """So many requests at a time as ever, however far the end is."""
    store = _Counting()
    asked: list[int] = []
    read = store.read
    store.read = lambda key, count: (asked.append(count), read(key, count))[1]  # type: ignore[method-assign]
    with _log(store) as writer, _log(store) as log:
        for _ in range(900):
            writer.append("s", [Event("A")])
        asked.clear()
        assert log.next_position == 900
    assert max(asked) <= 64
