"""``identifiers``: ids that grow, never repeat, and can be derived again."""

from __future__ import annotations

import copy
import itertools
import os
import pickle
import signal
import threading
import time
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore import identifiers
from eventstore.identifiers import derived_id, uuid7

_PARTS = st.lists(st.binary(max_size=4) | st.text("ab1", max_size=4) | st.integers(-20, 20), max_size=4)


def _milliseconds(event_id: uuid.UUID) -> int:
    return event_id.int >> 80


def test_a_new_id_is_an_rfc_9562_version_7_uuid_of_now() -> None:
    """Version, variant and the 48 bits of time stand where the standard says."""
    before = time.time_ns() // 1_000_000
    event_id = uuid7()
    after = time.time_ns() // 1_000_000
    assert event_id.version == 7
    assert event_id.variant == uuid.RFC_4122
    assert before <= _milliseconds(event_id) <= after + 1


def test_new_ids_grow() -> None:
    """Ids of one process sort in the order in which they were made."""
    ids = [uuid7() for _ in range(5000)]
    assert all(left < right for left, right in itertools.pairwise(ids))


def test_new_ids_grow_while_the_clock_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that is set back does not make an id smaller than the one before."""
    first = uuid7()
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000_000)
    second, third = uuid7(), uuid7()
    assert first < second < third
    assert _milliseconds(second) - _milliseconds(first) <= 1


def test_many_ids_at_once_are_like_those_one_by_one() -> None:
    """They grow, from one call to the next as well, and are RFC 9562 UUIDs of now."""
    made = [uuid.UUID(bytes=each) for count in (1, 0, 3, 5000, 1) for each in identifiers.new_ids(count)]
    assert len(made) == 5005
    assert all(left < right for left, right in itertools.pairwise([*made, uuid7()]))
    assert {(each.version, each.variant) for each in made} == {(7, uuid.RFC_4122)}
    assert _milliseconds(made[-1]) - _milliseconds(made[0]) < 60_000


def test_threads_never_get_the_same_id() -> None:
    """Four threads at once make as many ids as they asked for."""
    made: list[list[uuid.UUID]] = [[] for _ in range(4)]

    def make(mine: list[uuid.UUID]) -> None:
        mine.extend(uuid7() for _ in range(2000))

    threads = [threading.Thread(target=make, args=(mine,)) for mine in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({event_id for mine in made for event_id in mine}) == 8000
    assert all(mine == sorted(mine) for mine in made)


def test_a_new_id_is_an_ordinary_uuid() -> None:
    """It is made by a short cut, and nobody can tell."""
    made = uuid7()
    same = uuid.UUID(int=made.int)
    assert (made, hash(made), str(made), repr(made)) == (same, hash(same), str(same), repr(same))
    assert made.is_safe is same.is_safe
    assert pickle.loads(pickle.dumps(made)) == copy.deepcopy(made) == same
    assert (made.version, made.variant) == (7, uuid.RFC_4122)


def test_a_forked_child_shares_no_id_with_its_parent() -> None:
    """Parent and child go on from the same state, at the same time, and still differ."""
    uuid7()
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write_end, b"".join(uuid7().bytes for _ in range(100)))
        os._exit(0)
    ours = {uuid7().bytes for _ in range(100)}
    os.waitpid(child, 0)
    text = os.read(read_end, 1600)
    os.close(read_end)
    os.close(write_end)
    theirs = {text[start : start + 16] for start in range(0, 1600, 16)}
    assert len(ours | theirs) == 200


def test_a_fork_while_a_thread_makes_ids_leaves_the_child_working() -> None:
    """The child does not wait for a lock whose holder does not exist in it."""
    with identifiers._clock._lock:
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            uuid7()
            os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ((), "e3b0c442-98fc-8c14-9afb-f4c8996fb924"),
        (("spool", b"\x00\xff", 42), "8bef2910-848d-8e3e-ac5e-5f350c10aeec"),
    ],
)
def test_a_derived_id_never_changes(parts: tuple[bytes | str | int, ...], text: str) -> None:
    """Ids in old logs must be derived again by every later version."""
    assert str(derived_id(*parts)) == text


@given(_PARTS, _PARTS)
def test_derived_ids_are_equal_only_for_equal_parts(
    left: list[bytes | str | int], right: list[bytes | str | int]
) -> None:
    """Parts do not run into each other, and kinds differ."""
    same = [(type(part), part) for part in left] == [(type(part), part) for part in right]
    assert (derived_id(*left) == derived_id(*right)) is same


def test_a_derived_id_is_an_rfc_9562_version_8_uuid() -> None:
    """Version and variant stand where the standard says, so no tool refuses it."""
    event_id = derived_id("a")
    assert event_id.version == 8
    assert event_id.variant == uuid.RFC_4122
