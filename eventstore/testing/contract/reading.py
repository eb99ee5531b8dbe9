"""What a read promises: order, filters, moments, a hash that vouches for it, and what comes next."""

# ruff: noqa: PLR2004 - asserts, numbers and flags to expect are what a test is made of

from __future__ import annotations

import datetime as dt
import itertools
import threading

import pyarrow as pa
import pytest

from eventstore import (
    Event,
    EventLog,
    StreamAppend,
)
from eventstore.schema import COLUMNS
from eventstore.testing.contract.given import (
    NOON,
    GivenLog,
    OpenLog,
    events_of_types,
    positions_of,
)


class ReadContract(GivenLog):
    """Reading, also as of a moment, and following."""

    # --- read

    @pytest.mark.parametrize(
        ("from_position", "until", "expected"),
        [
            (0, None, [0, 1, 2, 3, 4, 5]),
            (2, None, [2, 3, 4, 5]),
            (0, 4, [0, 1, 2, 3]),
            (2, 4, [2, 3]),
            (1, 2, [1]),
            (0, 0, []),
            (3, 3, []),
            (4, 2, []),
            (0, 100, [0, 1, 2, 3, 4, 5]),
            (6, None, []),
            (100, None, []),
            (100, 200, []),
        ],
    )
    def test_a_read_gives_the_positions_from_one_up_to_another(
        self, log: EventLog, from_position: int, until: int | None, expected: list[int]
    ) -> None:
        """Also where they begin or end within a commit, or beyond the log."""
        for _ in range(2):
            log.append("s", events_of_types("A", "B", "C"))
        assert positions_of(log.read(from_position, until)) == expected

    def test_a_read_may_ask_for_a_stream_and_for_types(self, log: EventLog) -> None:
        """Filters narrow what is given, in the same order."""
        for stream, name in itertools.product(("s", "t"), ("A", "B", "C")):
            log.append(stream, [Event(name)])
        assert positions_of(log.read(stream="t")) == [3, 4, 5]
        assert positions_of(log.read(types=["A", "C"])) == [0, 2, 3, 5]
        assert positions_of(log.read(types={"B"}, stream="s")) == [1]
        assert positions_of(log.read(1, 4, types=("A", "B"))) == [1, 3]
        assert positions_of(log.read(stream="u")) == []
        assert positions_of(log.read(types=["Unknown"])) == []
        assert positions_of(log.read(types=[])) == []

    def test_filters_cut_within_a_commit(self, log: EventLog) -> None:
        """A commit of several streams and types is given in part."""
        log.append_to_streams(
            [StreamAppend("s", events_of_types("A", "B")), StreamAppend("t", events_of_types("A", "B"))]
        )
        assert positions_of(log.read(stream="t")) == [2, 3]
        assert positions_of(log.read(types=["B"])) == [1, 3]
        assert positions_of(log.read(2, types=["B"])) == [3]

    def test_positions_below_zero_are_refused(self, log: EventLog) -> None:
        """They would silently mean something else, as they do in Python's lists."""
        for call in (
            lambda: log.read(-1),
            lambda: log.read(0, -1),
            lambda: log.read_batches(-1),
            lambda: log.read_stream("s", -1),
            lambda: next(log.follow(-1, timeout=0)),
        ):
            with pytest.raises(ValueError, match="count from 0"):
                call()

    def test_a_read_gives_what_was_there_when_it_was_called(self, log: EventLog) -> None:
        """Neither more nor less, however long its user takes."""
        log.append("s", events_of_types("A", "B"))
        reading, batches = log.read(), log.read_batches()
        log.append("s", [Event("C")])
        assert next(reading).position == 0
        log.append("s", [Event("D")])
        assert positions_of(reading) == [1]
        assert sum(batch.num_rows for batch in batches) == 2

    def test_reads_do_not_disturb_each_other(self, log: EventLog) -> None:
        """Each has its own place."""
        for _ in range(5):
            log.append("s", events_of_types("A", "B"))
        pairs = zip(log.read(), log.read(), strict=True)
        assert all(left.position == right.position for left, right in pairs)

    def test_batches_hold_what_a_read_gives(self, log: EventLog) -> None:
        """In the envelope's columns and types, row for row, and none is empty."""
        for number in range(6):
            log.append(
                f"s{number % 2}", [Event("A", {"n": number}), Event("B", index=[number], values=[None])]
            )
        for arguments in ({}, {"stream": "s1"}, {"types": ["A"]}, {"from_position": 3, "until": 8}):
            batches = list(log.read_batches(**arguments))
            assert all(batch.num_rows for batch in batches)
            table = pa.Table.from_batches(batches)
            assert tuple(table.column_names) == COLUMNS
            events = list(log.read(**arguments))
            assert table.column("position").to_pylist() == [event.position for event in events]
            assert table.column("event_id").to_pylist() == [event.event_id.bytes for event in events]
            assert table.column("data").to_pylist() == [event.data_json for event in events]
            assert table.column("values").to_pylist() == [event.values and [None] for event in events]

    def test_batches_carry_the_log_and_its_format(self, log: EventLog) -> None:
        """A table that was taken out of the log still says where it comes from."""
        log.append("s", [Event("A")])
        (batch,) = log.read_batches()
        assert batch.schema.metadata[b"log_id"].decode() == log.log_id.hex()
        assert batch.schema.metadata[b"format_version"] == b"1"
        assert batch.schema.field("recorded_at").type == pa.timestamp("us", tz="UTC")

    def test_a_stream_is_read_from_a_version_on(self, log: EventLog) -> None:
        """In the order of its versions, whatever lies between its events."""
        for number in range(30):
            log.append("noise", events_of_types(*["N"] * (number * 7 % 100 + 1)))
            log.append("s", [Event("A", {"n": number})])
        assert [event.data["n"] for event in log.read_stream("s")] == list(range(30))
        assert [event.stream_version for event in log.read_stream("s", 27)] == [27, 28, 29]
        assert list(log.read_stream("s", 30)) == []
        assert list(log.read_stream("unknown")) == []
        assert log.stream_version("s") == 29

    def test_a_raw_event_needs_no_known_type(self, log: EventLog) -> None:
        """The log gives back what it does not understand, of the highest schema version too."""
        log.append("s", [Event("NobodyKnowsThis", {"$new": 1}, schema_version=65_535)])
        (back,) = log.read()
        assert (back.type, back.schema_version, back.data) == ("NobodyKnowsThis", 65_535, {"$new": 1})

    # --- time

    def test_a_moment_is_a_position(self, log: EventLog) -> None:
        """The state at a moment is the fold of what had been recorded by then."""
        for minutes in (0, 10, 20):
            log.append("s", [Event("A", recorded_at=NOON + dt.timedelta(minutes=minutes))])
        at = [log.position_at(NOON + dt.timedelta(minutes=minutes)) for minutes in (-1, 0, 5, 10, 19, 20, 99)]
        assert at == [0, 1, 1, 2, 2, 3, 3]

    def test_a_clock_that_goes_back_does_not_reorder(self, log: EventLog, open_log: OpenLog) -> None:
        """An event counts by the greatest clock up to it, within commits and over them."""
        clocks = [[10], [30, 5, 40], [20], [35, 50], [1]]
        for minutes in clocks:
            times = [NOON + dt.timedelta(minutes=minute) for minute in minutes]
            log.append("s", [Event("A", recorded_at=time) for time in times])
        flat = [minute for minutes in clocks for minute in minutes]
        greatest = list(itertools.accumulate(flat, max))
        with open_log() as other:
            for minute in range(60):
                moment = NOON + dt.timedelta(minutes=minute)
                expected = sum(1 for clock in greatest if clock <= minute)
                assert log.position_at(moment) == expected
                assert other.position_at(moment) == expected

    def test_a_moment_has_a_zone(self, log: EventLog) -> None:
        """Without one it is another moment on every machine."""
        with pytest.raises(ValueError, match="time zone"):
            log.position_at(dt.datetime(2024, 1, 1))  # noqa: DTZ001 - the point of the test

    def test_the_extremes_of_time_are_moments_too(self, log: EventLog) -> None:
        """Before everything, and after it."""
        log.append("s", [Event("A")])
        assert log.position_at(dt.datetime.min.replace(tzinfo=dt.UTC)) == 0
        assert log.position_at(dt.datetime.max.replace(tzinfo=dt.UTC)) == 1

    # --- chain and verify

    def test_the_chain_vouches_for_what_is_there(self, log: EventLog, open_log: OpenLog) -> None:
        """It changes with every event, is the same in every handle, and verify finds it again."""
        values = [log.chain]
        for number in range(3):
            log.append("s", [Event("A", {"n": number}, values=[None, 1.0], index=[])])
            values.append(log.chain)
        assert len(set(values)) == 4
        with open_log() as other:
            assert other.chain == values[-1]
        verdict = log.verify()
        assert verdict.ok
        assert verdict.findings == ()
        assert verdict.events == 3
        assert verdict.chain == values[-1].hex()

    # --- follow

    def test_following_catches_up_and_ends_after_silence(self, log: EventLog) -> None:
        """With a timeout of 0 it is a read."""
        log.append("s", events_of_types("A", "B", "C"))
        assert positions_of(log.follow(timeout=0)) == [0, 1, 2]
        assert positions_of(log.follow(2, timeout=0)) == [2]
        assert positions_of(log.follow(3, timeout=0)) == []

    def test_following_gives_what_others_append_in_order_and_none_left_out(
        self, log: EventLog, open_log: OpenLog
    ) -> None:
        """While they append, in another thread and through another handle."""
        log.append("s", [Event("A")])

        def write() -> None:
            with open_log() as other:
                for _ in range(20):
                    other.append("s", events_of_types("B", "C"))

        writer = threading.Thread(target=write)
        writer.start()
        followed = list(itertools.islice(log.follow(timeout=60), 41))
        writer.join()
        assert [event.position for event in followed] == list(range(41))

    def test_following_ends_when_it_is_told_to(self, log: EventLog) -> None:
        """At once if it was told before; soon if told while it waits, or between two events."""
        stop = threading.Event()
        log.append("s", events_of_types("A", "B"))
        following = log.follow(stop=stop)
        assert next(following).position == 0
        stop.set()
        assert list(following) == []
        assert list(log.follow(stop=stop)) == []
        stop.clear()
        timer = threading.Timer(0.1, stop.set)
        timer.start()
        assert positions_of(log.follow(stop=stop)) == [0, 1]
        timer.join()
