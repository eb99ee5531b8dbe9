"""Numbered commits on an engine that loses requests and answers, and what the rules are for."""

from __future__ import annotations

import itertools
import pickle
import threading
from collections.abc import Iterator, Sequence
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
    StorageUnavailableError,
    WriteRefusedError,
)
from eventstore.storage.numbered import NumberedStorage, RefusedError, UnclearError
from eventstore.testing.commit_stores import FaultyCommitStore, MemoryCommitStore
from eventstore.testing.contract import LogContract, OpenLog
from eventstore.testing.witness import Witness, opened
from tests.eventstore.numbered_logs import log_on


class _MemoryContract(LogContract):
    keys: Literal["numbers", "positions"]

    @pytest.fixture
    def open_log(self) -> Iterator[OpenLog]:
        """Every call opens the store anew."""
        store = MemoryCommitStore(self.keys)
        opened: list[EventLog] = []

        def open_log() -> EventLog:
            opened.append(log_on(store))
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


@pytest.fixture
def store() -> _Scripted:
    return _Scripted()


@pytest.fixture
def log(store: _Scripted) -> Iterator[EventLog]:
    with log_on(store, patience=0) as log:
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
    with log_on(store) as log:
        store.script = ["conflict", "lose request", "conflict"]
        log.append("s", [Event("A")])
        assert _types(log) == ["A"]
    assert len(set(store.created[1:])) == 1
    assert len(store.created) == 5


def test_a_place_that_another_has_won_is_taken_into_account(store: _Scripted, log: EventLog) -> None:
    with log_on(store) as other:
        other.append("s", [Event("A")])
        other.append("t", [Event("B")])
    commit = log.append("s", [Event("C")])
    assert (commit.first_position, commit.last_stream_version) == (2, 1)
    assert _types(log) == ["A", "B", "C"]


def test_who_decided_on_an_old_state_is_told_so(store: _Scripted, log: EventLog) -> None:
    with log_on(store) as other:
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
    with log_on(store) as other:
        for count in range(1, 4):
            other.append("s", [Event("A")])
            with log.one_look():
                assert (log.next_position, len(list(log.read_stream("s")))) == (count, count)


def test_an_append_looks_as_often_as_it_must(store: _Scripted, log: EventLog) -> None:
    """Whoever decides again within one look decides on what has made the first attempt fail."""
    with log_on(store) as other, log.one_look():
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
    with log_on(store) as other:
        assert other.resolve(unknown) == commit


def test_what_stands_at_a_groups_first_position_decides_for_all_of_it(store: _Scripted) -> None:
    """Two threads shared a request that was lost; a shorter commit took its place."""
    with log_on(store, patience=0) as log, log_on(store) as other:
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
    with log_on(store, patience=0.3) as log:
        store.script = ["lose request"] + ["refuse"] * 100
        with pytest.raises(CommitUnknownError):
            log.append("s", [Event("A")])


def test_the_log_is_made_once_by_whoever_comes_first() -> None:
    store = MemoryCommitStore()
    opened: list[EventLog] = []
    start = threading.Barrier(8)

    def open_one() -> None:
        start.wait()
        opened.append(log_on(FaultyCommitStore(store, seed=len(opened), share=0.5)))

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
        log_on(Silent(), patience=0)


# --- commits of several threads


def test_threads_share_a_request(store: _Scripted) -> None:
    """While one request is under way, the others gather, and then go together."""
    under_way, go_on = threading.Event(), threading.Event()
    with log_on(store) as log:
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
    with log_on(store) as again:
        assert [event.position for event in again.read()] == list(range(12))
        assert [event.type for event in again.read(5, 8)] == ["B", "A", "B"]


def test_of_threads_that_expect_the_same_one_wins_in_one_group(store: _Scripted) -> None:
    with log_on(store) as log:
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


def test_no_flipped_bit_of_a_commit_is_believed(store: _Scripted) -> None:
    with log_on(store) as log:
        log.append("s", [Event("A", {"n": 1}, index=[1], values=[0.5])])
        log.append("s", [Event("B")])
    good = store.objects[1]
    for place in range(0, 8 * len(good), 7):
        data = bytearray(good)
        data[place // 8] ^= 1 << place % 8
        store.objects[1] = bytes(data)
        with pytest.raises(DamagedLogError):
            log_on(store)
    for size in range(0, len(good), 13):
        store.objects[1] = good[:size]
        with pytest.raises(DamagedLogError):
            log_on(store)


def test_a_commit_of_another_log_is_refused(store: _Scripted) -> None:
    other = _Scripted()
    for each in (store, other):
        with log_on(each) as log:
            log.append("s", [Event("A")])
    store.objects[2] = other.objects[1]
    with pytest.raises(DamagedLogError, match="another log"):
        log_on(store)


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
    log_on(store).close()
    networks = [FaultyCommitStore(store, seed=seed + number, share=share) for number in range(4)]
    logs = [opened(network, patience) for network in networks]
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
    with log_on(store) as log:
        witness.check(log)
        assert {finding.severity for finding in log.verify().findings} <= {"note"}
    for network in networks:  # and whoever reads with wrong blocks and segments reads the same
        reader = opened(network, 30.0)
        assert [event.event_id for event in reader.read()] == _ids(store)


def _ids(store: MemoryCommitStore) -> list[UUID]:
    with log_on(store) as log:
        return [event.event_id for event in log.read()]
