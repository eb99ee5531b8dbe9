"""Positions and times: what people say of the past, as the position that it means.

A state *as of N* is the fold of the first N events. A time means the position that the log had then;
it needs a time zone, because two places call different moments "10 o'clock".
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eventstore import EventLog

Moment = int | datetime | str
"""A position, an aware datetime, or one of them as text: ``"4711"``, ``"2026-03-01 14:00+01:00"``."""


def position_of(log: EventLog, moment: Moment | None) -> int:
    """The position that a moment means; None is now.

    Raises:
        ValueError: A position beyond the end, a time without a zone or before the first event, or a
            text that is neither.
        TypeError: It is something else.
    """
    end = log.next_position
    if moment is None:
        return end
    if isinstance(moment, str):
        moment = _parsed(moment)
    if isinstance(moment, bool) or not isinstance(moment, int | datetime):
        raise TypeError(f"a moment is a position or a time, not {moment!r}")
    if isinstance(moment, int):
        if not 0 <= moment <= end:
            raise ValueError(f"position {moment} is not in this log: it has the positions 0 to {end}")
        return moment
    if moment.tzinfo is None:
        raise ValueError(
            f"the time {moment.isoformat(sep=' ')} needs a time zone: write it as "
            f"{moment.isoformat(sep=' ')}Z for UTC, or with an offset such as +01:00"
        )
    position = log.position_at(moment)
    if position == 0 and end:
        first = next(log.read(0, 1)).recorded_at
        if moment < first:
            raise ValueError(
                f"the time {moment.isoformat(sep=' ')} lies before the first event, which was recorded at "
                f"{first.astimezone(moment.tzinfo).isoformat(sep=' ')}"
            )
    return position


def _parsed(text: str) -> int | datetime:
    text = text.strip()
    if text.isascii() and text.isdigit():
        return int(text)
    if text == "now":
        return datetime.now(UTC)
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(
            f"{text!r} is neither a position nor a time; a time is written like 2026-03-01 14:00+01:00"
        ) from error
