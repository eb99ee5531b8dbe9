"""What the rows of a scalar logger are: their bytes in a spool, the event they become, and when.

Owns the one way by which logged rows get into a log, which the logger's flush and the adoption of
what a killed process left have in common, so that each row is recorded exactly once:

1. The event's id is derived from the spool and the first row's number. If the log knows it, the rows
   that this event holds are there; the rest, if any, goes on behind them.
2. The rows belong to the *epoch* that their logger began. When that has ended (somebody stored stats
   over them, or deleted the run's stats) they are recorded in it all the same: what the end of the
   epoch cut is history at once.
3. When somebody else has stored rows in that very epoch, at or behind the first one here, these fall
   behind as those of any other store call would: the next epoch begins, in the same commit.
"""

from __future__ import annotations

import itertools
import logging
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from dacapo_store.events import (
    EVENT_TYPES,
    TrainingEpochBegun,
    TrainingStatsDeleted,
    TrainingStatsRecorded,
)
from eventstore import DuplicateEventError, ExpectedVersionError, InvalidEventError
from eventstore.model import NO_STREAM
from eventstore.spool import SpooledRows, adopt_spools, event_id

if TYPE_CHECKING:
    from uuid import UUID

    import pyarrow as pa

    from dacapo_store.base import Base
    from eventstore import Event, EventLog
    from eventstore.log import Durability

logger = logging.getLogger(__name__)

KIND: Final = "training scalars"
COLUMNS_MAX: Final = 4096

_NUMBER_BYTES: Final = 8
_WORD_BITS: Final = 64
_EPOCHS_MAX: Final = 1 << 62
_WORD_MAX: Final = (1 << _WORD_BITS) - 1


class About(msgspec.Struct, frozen=True):
    """What a spool says of its rows.

    Attributes:
        kind: ``KIND``; another program's spools have another.
        run: The run.
        epoch: The epoch that the logger began.
        stream_version: The stream's version that the logger knew when it made the spool: what came
            since, from itself and from others, stands behind it.
        columns: The scalars' names, in the order of the row's numbers.
    """

    kind: str
    run: str
    epoch: int
    stream_version: int
    columns: list[str]


class Layout:
    """The bytes of rows with these columns.

    A row is its number in the spool (uint64), the iteration (int64), a double for each column, and, in
    as many words of 64 bits as are needed, a bit for each column, least significant first, which is 1
    where the row has that scalar. All little-endian.

    Attributes:
        columns: The scalars' names.
        pack: From number, iteration, doubles and words to a row's bytes.
        row_bytes: The length of a row.
        everything: The words of a row that has all scalars.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = tuple(columns)
        count = len(self.columns)
        self._words = -(-count // _WORD_BITS)
        row = struct.Struct(f"<Qq{count}d{self._words}Q")
        self.pack = row.pack
        self.row_bytes = row.size
        self.everything = self.presence(range(count))

    def presence(self, places: Iterable[int]) -> tuple[int, ...]:
        """The words of a row that has the scalars at these places."""
        bits = sum(1 << place for place in places)
        return tuple(bits >> _WORD_BITS * word & _WORD_MAX for word in range(self._words))

    def event(self, rows: Iterable[bytes], *, run: str, epoch: int, event_id: UUID) -> Event:
        """The event that records rows of this layout; columns that none of them has are left out."""
        data = memoryview(b"".join(rows))
        numbers, width = data.cast("d"), self.row_bytes // _NUMBER_BYTES
        words = [
            data.cast("Q")[2 + len(self.columns) + word :: width].tolist() for word in range(self._words)
        ]
        columns, values, present = [], [], []
        for place, name in enumerate(self.columns):
            word, bit = divmod(place, _WORD_BITS)
            here = [has >> bit & 1 for has in words[word]]
            if any(here):
                columns.append(name)
                values.append(numbers[2 + place :: width].tobytes())
                present += here
        fact = TrainingStatsRecorded(run=run, epoch=epoch, columns=columns)
        return EVENT_TYPES.event(
            fact,
            index=_arrow("int64", data.cast("q")[1::width].tobytes()),
            values=_arrow("float64", b"".join(values), present),
            event_id=event_id,
        )


def _arrow(type_name: str, numbers: bytes, present: Sequence[int] = ()) -> pa.Array:
    """Numbers as Arrow has them, taken as they are: no NaN becomes a null, no numpy is loaded."""
    import pyarrow as pa

    bits = None
    if not all(present):
        # An absent number has no value that anybody could see.
        packed = int("".join(map(str, reversed(present))), 2)
        bits = pa.py_buffer(packed.to_bytes(-(-len(present) // 8), "little"))
    count = len(numbers) // _NUMBER_BYTES
    return pa.Array.from_buffers(getattr(pa, type_name)(), count, [bits, pa.py_buffer(numbers)])


@dataclass(frozen=True)
class Standing:
    """Where rows of an epoch stand in the log.

    Attributes:
        epoch: The epoch of the rows, or of those that come next.
        stream_version: The version of the run's stream up to which this is known.
        ended: True when somebody else has ended the epoch.
    """

    epoch: int
    stream_version: int
    ended: bool = False


def training_stream(run: str) -> str:
    """The stream of a run's training."""
    return f"training/{run}"


def begin_epoch(base: Base, run: str, *, keeps_below: int) -> Standing:
    """Begin an epoch of the run's training stats that keeps what lies below an iteration."""
    stream = training_stream(run)
    while True:
        version = base.log.stream_version(stream)
        latest = 0 if version is None else _latest_epoch(base.log, stream, version)
        begun = TrainingEpochBegun(run=run, epoch=latest + 1, keeps_below=keeps_below)
        try:
            # Durable: rows that are found after a power cut must not meet those that this cuts.
            expected = NO_STREAM if version is None else version
            commit = base.append(stream, [begun], expected=expected, trains=run)
        except ExpectedVersionError:
            continue
        return Standing(begun.epoch, commit.last_stream_version)


def _latest_epoch(log: EventLog, stream: str, version: int) -> int:
    """The greatest epoch in a stream: from its end to the last event that began one."""
    epoch, stop, step = 0, version + 1, 16
    while stop > 0:
        start = max(stop - step, 0)
        events = itertools.islice(log.read_stream(stream, from_version=start), stop - start)
        facts = [EVENT_TYPES.decode(event) for event in events]
        epoch = max([epoch, *(getattr(fact, "epoch", 0) for fact in facts)])
        if any(isinstance(fact, TrainingEpochBegun | TrainingStatsDeleted) for fact in facts):
            break  # it began with a greater one than all before it
        stop, step = start, step * 4
    return epoch


def looked_again(base: Base, run: str, standing: Standing) -> Standing:
    """Where the epoch stands now."""
    return _since(base.log, training_stream(run), standing, None)[0]


def record(  # noqa: PLR0913 - all but the first four are named
    base: Base,
    run: str,
    standing: Standing,
    rows: Mapping[int, bytes],
    *,
    layout: Layout,
    spool_id: bytes,
    first_row: int,
    durability: Durability = "commit",
    adopted: bool = False,
) -> Standing:
    """Record rows exactly once, however often and by how many processes this is tried.

    Args:
        base: Where to.
        run: The run.
        standing: Where the rows' epoch stood when it was last looked at.
        rows: The rows by number, in order.
        layout: That of the rows.
        spool_id: The id of the spool that they are in.
        first_row: The number of the first row that was in the spool; derives the event's id.
        durability: As for ``EventLog.append``.
        adopted: Another process has written the rows.
    """
    stream = training_stream(run)
    trains = None if adopted else run
    end: int | None = None
    known = False
    while rows:
        with base.log.one_look():
            standing, end = _since(base.log, stream, standing, end)
        begins = _iteration(next(iter(rows.values())))
        falls_behind = not standing.ended and end is not None and end >= begins
        epoch = standing.epoch + falls_behind
        event = layout.event(rows.values(), run=run, epoch=epoch, event_id=event_id(spool_id, first_row))
        begun = [TrainingEpochBegun(run=run, epoch=epoch, keeps_below=begins)] if falls_behind else []
        expected = NO_STREAM if standing.stream_version < 0 else standing.stream_version
        try:
            commit = base.append(
                stream, [*begun, event], expected=expected, durability=durability, trains=trains
            )
        except ExpectedVersionError:
            continue
        except DuplicateEventError as duplicate:
            # A crash or an error came between the event and its maker's knowing of it. There may be
            # more rows by now, or fewer, where the file was damaged since.
            known = True
            first_row += _rows_at(base.log, duplicate.position)
            rows = {number: row for number, row in rows.items() if number >= first_row}
            continue
        version = max(commit.last_stream_version, standing.stream_version)
        return Standing(epoch, version, standing.ended)
    if known and durability == "commit":
        base.log.sync()
    return standing


def _rows_at(log: EventLog, position: int) -> int:
    (event,) = log.read(position, position + 1)
    return max(len(event.index or ()), 1)


def _iteration(row: bytes) -> int:
    return int.from_bytes(row[8:16], "little", signed=True)


def _since(log: EventLog, stream: str, standing: Standing, end: int | None) -> tuple[Standing, int | None]:
    """Where the epoch stands now, and the greatest iteration recorded in it since it was first looked at."""
    ended = standing.ended
    actual = log.stream_version(stream)
    # A log that was restored from a copy may be shorter than the spool's owner knew it.
    version = min(standing.stream_version, -1 if actual is None else actual)
    for event in log.read_stream(stream, from_version=version + 1):
        version = event.stream_version
        match EVENT_TYPES.decode(event):
            case TrainingEpochBegun(epoch=epoch) | TrainingStatsDeleted(epoch=epoch):
                ended = ended or epoch > standing.epoch
            case TrainingStatsRecorded(epoch=epoch):
                ended = ended or epoch > standing.epoch
                if epoch == standing.epoch and event.index:
                    greatest = max(event.index.to_pylist())
                    end = greatest if end is None else max(end, greatest)
    return Standing(standing.epoch, version, ended), end


def adopt_left_spools(base: Base, stream: str | None = None) -> None:
    """Make events of the rows that killed processes left, those of one stream or all.

    Raises:
        eventstore.EventStoreError: The log did not take them; nothing is lost, try again.
        OSError: Likewise.
    """
    adopt_spools(base.spool_home, lambda spooled: _adopt(base, spooled), stream=stream)


def _adopt(base: Base, spooled: SpooledRows) -> bool:
    try:
        about = msgspec.convert(dict(spooled.about), About)
        layout = Layout(about.columns)
    except (msgspec.ValidationError, struct.error):
        return False
    fits = about.kind == KIND and layout.row_bytes == spooled.row_bytes
    named_once = len(set(about.columns)) == len(about.columns)
    counted = 0 <= about.epoch < _EPOCHS_MAX
    if not fits or not named_once or not counted or spooled.stream != training_stream(about.run):
        return False
    try:
        record(
            base,
            about.run,
            Standing(about.epoch, about.stream_version),
            spooled.rows,
            layout=layout,
            spool_id=spooled.spool_id,
            first_row=spooled.first_row,
            adopted=True,
        )
    except InvalidEventError:
        return False  # no logger has made it: there is no such event
    if spooled.flawed:
        logger.warning(
            "the spool of run %s, which a killed process left, holds something that is no whole row: it is "
            "kept in quarantine; %d rows of it were recorded",
            about.run,
            len(spooled.rows),
        )
    elif spooled.rows:
        logger.info(
            "%d rows of run %s were recorded that a killed process left", len(spooled.rows), about.run
        )
    return True
