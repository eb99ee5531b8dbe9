"""What holds for several handles and threads of one log, and for a handle that was closed."""

# ruff: noqa: PLR2004 - asserts, numbers and flags to expect are what a test is made of

from __future__ import annotations

import threading

import pytest

from eventstore import (
    NO_STREAM,
    Commit,
    Event,
    EventLog,
    ExpectedVersionError,
    LogClosedError,
)
from eventstore.testing.contract.given import (
    NOON,
    GivenLog,
    OpenLog,
    positions_of,
)


class HandleContract(GivenLog):
    """Several at once, and closing."""

    # --- several at once

    def test_threads_that_append_at_once_lose_nothing(self, log: EventLog) -> None:
        """Each event once, each thread's in its order, positions and versions dense."""
        commits: list[list[Commit]] = [[] for _ in range(4)]

        def write(writer: int) -> None:
            for number in range(25):
                event = Event("A", {"thread": writer, "n": number})
                commits[writer].append(log.append("s", [event], durability="os"))

        threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        events = list(log.read())
        assert [(event.position, event.stream_version) for event in events] == [(n, n) for n in range(100)]
        for writer, made in enumerate(commits):
            mine = [event for event in events if event.data["thread"] == writer]
            assert [event.data["n"] for event in mine] == list(range(25))
            assert [event.position for event in mine] == [commit.first_position for commit in made]

    def test_of_those_who_expect_the_same_one_wins(self, log: EventLog, open_log: OpenLog) -> None:
        """Four handles decide on the same version at once, ten times over."""
        winners: list[int] = []

        def compete(number: int) -> None:
            with open_log() as other:
                for version in range(10):
                    barrier.wait()
                    try:
                        other.append(
                            "s", [Event("A", number)], expected=version - 1 if version else NO_STREAM
                        )
                        winners.append(version)
                    except ExpectedVersionError:
                        pass
                    barrier.wait()

        barrier = threading.Barrier(4)
        threads = [threading.Thread(target=compete, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert winners == list(range(10))
        assert log.next_position == 10

    # --- close

    def test_a_closed_log_says_so(self, open_log: OpenLog) -> None:
        """Every use after the end is the same clear error."""
        log = open_log()
        log.append("s", [Event("A")])
        log.close()
        for call in (
            lambda: log.append("s", [Event("B")]),
            lambda: log.next_position,
            lambda: log.durable_position,
            lambda: log.chain,
            lambda: log.log_id,
            lambda: log.stream_version("s"),
            lambda: list(log.read()),
            lambda: list(log.read_batches()),
            lambda: list(log.read_stream("s")),
            lambda: list(log.follow(timeout=0)),
            lambda: log.position_at(NOON),
            log.verify,
        ):
            with pytest.raises(LogClosedError):
                call()

    def test_closing_ends_with_a_block_and_may_be_repeated(self, open_log: OpenLog) -> None:
        """Closing twice is no error."""
        with open_log() as log:
            log.append("s", [Event("A")])
        log.close()
        with pytest.raises(LogClosedError):
            log.append("s", [Event("B")])

    def test_a_read_in_progress_ends_with_an_error_when_its_log_is_closed(self, open_log: OpenLog) -> None:
        """Not as if nothing more had been there, and not with an error from inside."""
        log = open_log()
        for _ in range(50):
            log.append("s", [Event("A", {"text": "x" * 200_000})], durability="os")
        reading = log.read()
        next(reading)
        log.close()
        with pytest.raises(LogClosedError):
            list(reading)

    def test_other_handles_go_on_when_one_is_closed(self, log: EventLog, open_log: OpenLog) -> None:
        """A handle is a handle."""
        open_log().close()
        log.append("s", [Event("A")])
        assert positions_of(log.read()) == [0]
