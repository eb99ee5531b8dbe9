"""The checker itself: what it accepts could have happened call by call, what it rejects could not."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tools.torture.linearizability import Call, check


def register(state: int, asked: Any, answered: Any) -> int | None:
    """A register: ("write", n) -> "ok", ("read",) -> n."""
    if asked[0] == "write":
        return asked[1] if answered in ("ok", None) else None
    return state if answered in (state, None) else None


def call(asked: tuple[Any, ...], answered: Any, invoked: int, returned: int | None) -> Call:
    """A call of nobody in particular."""
    return Call("somebody", asked, answered, invoked, returned)


def linearizable(*calls: Call) -> bool:
    """Whether a register that holds 0 at first can have such a history."""
    return check(calls, initial=0, step=register).linearizable


def test_no_calls_are_in_order() -> None:
    """Nothing has happened that could be wrong."""
    assert linearizable()


def test_a_read_sees_what_was_written_before_it() -> None:
    """The simplest history there is."""
    assert linearizable(call(("write", 1), "ok", 0, 1), call(("read",), 1, 2, 3))


def test_a_stale_read_is_rejected() -> None:
    """The write had returned when the read began."""
    assert not linearizable(call(("write", 1), "ok", 0, 1), call(("read",), 0, 2, 3))


def test_a_read_during_a_write_may_see_either() -> None:
    """They overlap, so either may have come first."""
    write = call(("write", 1), "ok", 0, 10)
    assert linearizable(write, call(("read",), 0, 2, 3))
    assert linearizable(write, call(("read",), 1, 2, 3))


def test_reads_do_not_go_back() -> None:
    """Once a read has seen the write, no later one may miss it, though the write is still under way."""
    write = call(("write", 1), "ok", 0, 10)
    new, old = call(("read",), 1, 2, 3), call(("read",), 0, 4, 5)
    assert not linearizable(write, new, old)


def test_calls_that_meet_at_one_instant_overlap() -> None:
    """A clock that did not move between them does not say which came first."""
    assert linearizable(call(("write", 1), "ok", 0, 5), call(("read",), 0, 5, 9))


def test_a_call_that_never_returned_may_have_been_done_or_not() -> None:
    """A writer was killed: its write may be seen, at any later time, or never."""
    write = call(("write", 1), None, 0, None)
    assert linearizable(write, call(("read",), 0, 2, 3))
    assert linearizable(write, call(("read",), 0, 2, 3), call(("read",), 1, 4, 5))
    assert not linearizable(write, call(("read",), 1, 2, 3), call(("read",), 0, 4, 5))


def test_the_order_is_found_by_going_back() -> None:
    """The first write that could be placed first must be placed last."""
    one, two = call(("write", 1), "ok", 0, 10), call(("write", 2), "ok", 1, 9)
    assert linearizable(one, two, call(("read",), 2, 2, 3), call(("read",), 1, 4, 5))


def test_a_verdict_says_how_far_it_came() -> None:
    """Who looks for the reason sees the order so far, and the calls that could not follow."""
    write, read = call(("write", 1), "ok", 0, 1), call(("read",), 7, 2, 3)
    verdict = check([read, write], initial=0, step=register)
    assert (verdict.order, verdict.state, verdict.stuck) == ((write,), 1, (read,))
    assert "cannot follow" in str(verdict)


def test_long_histories_are_judged_in_good_time() -> None:
    """What was tried is not tried again; without that, this would take longer than the universe lasts."""
    rounds = [
        call(("write", number), "ok", 10 * turn, 10 * turn + 9) for turn in range(100) for number in range(3)
    ]
    assert not linearizable(*rounds, call(("read",), 9, 2_000, 2_001))


@st.composite
def _histories(draw: st.DrawFn) -> list[Call]:
    """Small histories, with answers that may or may not be possible."""
    calls = []
    for _ in range(draw(st.integers(1, 5))):
        invoked = draw(st.integers(0, 8))
        returned = draw(st.none() | st.integers(invoked, 9))
        number = draw(st.integers(0, 2))
        asked: tuple[Any, ...] = draw(st.sampled_from([("write", number), ("read",)]))
        answered = None if returned is None else ("ok" if asked[0] == "write" else number)
        calls.append(call(asked, answered, invoked, returned))
    return calls


def _by_trying_all(calls: list[Call]) -> bool:
    """The definition: some of those that never returned, and all others, in some order that fits."""
    ended = [one for one in calls if one.returned is not None]
    others = [one for one in calls if one.returned is None]
    return any(
        _fits(order)
        for count in range(len(others) + 1)
        for some in itertools.combinations(others, count)
        for order in itertools.permutations([*ended, *some])
    )


def _fits(order: tuple[Call, ...]) -> bool:
    for first, second in itertools.combinations(order, 2):
        if second.returned is not None and second.returned < first.invoked:
            return False
    state: int | None = 0
    for one in order:
        state = None if state is None else register(state, one.asked, one.answered)
    return state is not None


@given(_histories())
def test_the_search_agrees_with_the_definition(calls: list[Call]) -> None:
    """For small histories all orders can be tried."""
    assert check(calls, initial=0, step=register).linearizable == _by_trying_all(calls)
