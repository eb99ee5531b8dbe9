"""Is a history of overlapping calls one that could have happened call by call?

A history is *linearizable* when each of its calls can be given one moment between its invocation and its
return such that, done in the order of these moments, the calls give the results that they gave
(Herlihy and Wing, 1990). The search is that of Wing and Gong ("Testing and verifying concurrent
objects", 1993) with Lowe's memory of what was tried ("Testing for linearizability", 2017), over a
linked list of invocations and returns; Porcupine and Knossos do it this way, too.

Take any call that was invoked before the first return of a call that is not yet placed, and do it on
the model. If the model would have given another result, take the next one; if none is left, take
the last placement back. A pair (set of calls placed, state of the model) that was reached before is
not entered again, which keeps the search short.

Linearizability is local: a history of several objects is linearizable when that of each object is.
So histories should be cut into one for each object (stream, run, ...), which is where most of the
speed comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

S = TypeVar("S", bound=Hashable)

Step = Callable[[S, Any, Any], S | None]
"""The model: the state after a call with this result, or None when it could not have given it.

The result of a call that never returned is None; the model takes it for whatever would have come.
"""


@dataclass(frozen=True)
class Call:
    """One call of a history.

    Attributes:
        who: The thread that made it.
        asked: What was asked for; the model knows what it means.
        answered: What came back. None for a call that never returned.
        invoked: The time right before, on a clock that all threads share.
        returned: The time right after. None for a call that never returned: whether it was done,
            and when, is unknown.
    """

    who: str
    asked: Any
    answered: Any
    invoked: int
    returned: int | None

    def __str__(self) -> str:
        until = "never" if self.returned is None else f"{self.returned / 1e6:.3f} ms"
        return f"{self.who} [{self.invoked / 1e6:.3f} ms, {until}] {self.asked} -> {self.answered}"


@dataclass(frozen=True)
class Verdict(Generic[S]):
    """What the search found.

    Attributes:
        linearizable: Whether there is an order.
        order: The order, or else the longest beginning of one that was found.
        state: The model's state behind it.
        stuck: The calls that had returned and could not follow; empty when there is an order.
    """

    linearizable: bool
    order: tuple[Call, ...]
    state: S
    stuck: tuple[Call, ...]

    def __str__(self) -> str:
        if self.linearizable:
            return f"linearizable; {len(self.order)} calls in order"
        lines = ["not linearizable. An order of some of the calls:"]
        lines += [f"    {call}" for call in self.order]
        lines += [f"  makes the state {self.state!r}, and these cannot follow:"]
        lines += [f"    {call}" for call in self.stuck]
        return "\n".join(lines)


class _Entry:
    """An invocation or a return, in a list ordered by time."""

    __slots__ = ("call", "following", "is_return", "number", "previous", "returning")

    def __init__(self, call: Call, number: int, *, is_return: bool) -> None:
        self.call = call
        self.number = number
        self.is_return = is_return
        self.returning: _Entry | None = None
        self.previous: _Entry | None = None
        self.following: _Entry | None = None

    def take_out(self) -> None:
        """Leave the list, and remember the place."""
        assert self.previous is not None, "the head of the list stays"
        self.previous.following = self.following
        if self.following is not None:
            self.following.previous = self.previous

    def put_back(self) -> None:
        """Return to the place; entries come back in the opposite order of their leaving."""
        assert self.previous is not None, "the head of the list stays"
        self.previous.following = self
        if self.following is not None:
            self.following.previous = self


def check(calls: Sequence[Call], *, initial: S, step: Step[S]) -> Verdict[S]:
    """Search for an order in which ``calls`` could have happened one by one.

    Args:
        calls: The history of one object; in any order.
        initial: The object's state before.
        step: The model of the object.
    """
    head = _entries(calls)
    state, placed = initial, 0
    path: list[tuple[_Entry, S]] = []
    tried: set[tuple[int, S]] = set()
    longest: tuple[tuple[Call, ...], S] = ((), initial)
    entry = head.following
    while entry is not None:
        if entry.is_return:
            # A call has returned before any call that is still to be placed was invoked: dead end.
            if not path:
                return Verdict(
                    linearizable=False, order=longest[0], state=longest[1], stuck=_rest(calls, longest[0])
                )
            entry, state = path.pop()
            placed &= ~(1 << entry.number)
            _put_back(entry)
            entry = entry.following
            continue
        after = step(state, entry.call.asked, entry.call.answered)
        if after is None or (placed | 1 << entry.number, after) in tried:
            entry = entry.following
            continue
        path.append((entry, state))
        placed, state = placed | 1 << entry.number, after
        tried.add((placed, state))
        _take_out(entry)
        if len(path) > len(longest[0]):
            longest = (tuple(done.call for done, _ in path), state)
        entry = head.following
    # What is left, if anything, never returned and need not have happened.
    return Verdict(linearizable=True, order=tuple(done.call for done, _ in path), state=state, stuck=())


def _entries(calls: Sequence[Call]) -> _Entry:
    """The linked list of a history, behind a head that is no entry of it."""
    timed: list[tuple[int, bool, _Entry]] = []
    for number, call in enumerate(calls):
        invocation = _Entry(call, number, is_return=False)
        timed.append((call.invoked, False, invocation))
        if call.returned is not None:
            invocation.returning = _Entry(call, number, is_return=True)
            timed.append((call.returned, True, invocation.returning))
    # At one and the same time an invocation comes first: the two calls may have overlapped.
    timed.sort(key=lambda item: item[:2])
    head = last = _Entry(Call("", None, None, 0, None), -1, is_return=False)
    for _, _, entry in timed:
        last.following, entry.previous = entry, last
        last = entry
    return head


def _take_out(entry: _Entry) -> None:
    entry.take_out()
    if entry.returning is not None:
        entry.returning.take_out()


def _put_back(entry: _Entry) -> None:
    if entry.returning is not None:
        entry.returning.put_back()
    entry.put_back()


def _rest(calls: Sequence[Call], order: Sequence[Call]) -> tuple[Call, ...]:
    """The calls that could have been next and were not possible."""
    placed = set(map(id, order))
    left = [call for call in calls if id(call) not in placed]
    first_return = min((call.returned for call in left if call.returned is not None), default=0)
    return tuple(call for call in left if call.invoked <= first_return)
