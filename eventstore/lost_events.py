"""``$EventLost``: what stands in a log where an event was lost that nobody can bring back.

A position is never given to another event, and versions in a stream are dense. So when damage has
taken events and no copy holds them, a repair puts an event of this type into each of their places:
what stands behind keeps its position and its stream version, and whoever folds a stream is told.

Types that begin with ``$`` belong to the log itself, and so do streams.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from eventstore.identifiers import derived_id
from eventstore.model import Event

EVENT_LOST = "$EventLost"
LOST_STREAM = "$lost"
"""The stream of lost events of which not even the stream is known."""


@dataclass(frozen=True)
class FormerChain:
    """The chain's value that a log had at a position before events in front of it were lost."""

    position: int
    value: bytes


@dataclass(frozen=True)
class LostRange:
    """Events that are lost, one behind the other.

    Attributes:
        first_position: The position of the first of them.
        next_position: The position behind the last of them.
        exact: False when how many there were is unknown, so that this many places are kept free: as
            many as can have been there.
        path: The file that held them, relative to the log's folder; None when the file is gone.
        offset: The byte in it where the damage begins, or None.
        streams: For each lost event, in order, the stream that it is counted for; ``LOST_STREAM``
            where that is unknown. Of several streams, which event was whose is unknown.
        former_chain: Where the chain that the log had before can be taken up again, if anywhere.
    """

    first_position: int
    next_position: int
    exact: bool
    path: str | None
    offset: int | None
    streams: tuple[str, ...]
    former_chain: FormerChain | None


def placeholders(
    lost: LostRange,
    *,
    log_id: bytes,
    repair: str,
    repaired_at: datetime,
    recorded_at: datetime,
    metadata: Mapping[str, Any],
) -> Iterator[tuple[str, Event]]:
    """Stream and event for each place of a range.

    Args:
        lost: The range.
        log_id: The log's id.
        repair: The name of the repair; its folder in ``quarantine/`` has it.
        repaired_at: When that is.
        recorded_at: The clock in front of the range. Times are resolved by the greatest clock up to
            an event, so the present one would put everything behind the range into the present.
        metadata: Who and where.
    """
    span = {"first_position": lost.first_position, "next_position": lost.next_position, "repair": repair}
    former = lost.former_chain
    whole = {
        **span,
        "exact": lost.exact,
        "repaired_at": repaired_at.isoformat(),
        "path": lost.path,
        "offset": lost.offset,
        "former_chain": None if former is None else [former.position, former.value.hex()],
    }
    for place, stream in enumerate(lost.streams):
        position = lost.first_position + place
        yield (
            stream,
            Event(
                EVENT_LOST,
                data=span if place else whole,
                event_id=derived_id(EVENT_LOST, log_id, position, repair),
                metadata=metadata,
                recorded_at=recorded_at,
            ),
        )


def former_chain_of(data: Any) -> tuple[str, FormerChain] | None:
    """From the data of a lost event: the repair's name and where the former chain goes on, if it says so."""
    former = data.get("former_chain") if isinstance(data, Mapping) else None
    if not isinstance(former, Sequence) or not isinstance(data.get("repair"), str):
        return None
    try:
        position, value = former
        return data["repair"], FormerChain(int(position), bytes.fromhex(value))
    except (TypeError, ValueError):
        return None
