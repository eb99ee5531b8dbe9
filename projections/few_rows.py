"""The shortest way of the plainest events: a few more iterations of runs that are known already.

A live reader catches up with a handful of events at a time, and then each statement of a fold costs its
planning and nothing else: some five milliseconds for the read model of training. Where all its events in
a batch are such as a trainer writes every time, the rows are put together here instead and inserted by one
statement. Whatever is not plain, down to the spelling of its JSON, is left to the SQL of the fold, of which
this is a copy for one case: that how events are cut into batches shows nowhere is what tests hold it to.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import pyarrow as pa

if TYPE_CHECKING:
    import duckdb

EVENTS_MAX: Final = 16
"""More events than this are worth the statements of the fold."""

_TYPE: Final = "TrainingStatsRecorded"
_ENDS: Final = frozenset({"TrainingEpochBegun", "TrainingStatsDeleted"})
_SCALARS: Final = ("loss", "time")
_SCHEMA: Final = pa.schema(
    [
        ("life", pa.uint64()),
        ("iteration", pa.int64()),
        ("loss", pa.float64()),
        ("time", pa.float64()),
        ("position", pa.uint64()),
        ("ordinal", pa.int64()),
    ]
)


class _Fields(msgspec.Struct, forbid_unknown_fields=True):
    run: str
    epoch: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
    columns: list[str]


class FewRows:
    """Puts a few rows of one database together; a ``FewEvents``."""

    def __init__(self) -> None:
        self._lives: dict[tuple[str, int], int] = {}

    def rows(self, batch: pa.Table, connection: duckdb.DuckDBPyConnection) -> pa.Table | None:
        """The rows of a batch, for ``training_rows``; None where the fold is to find them."""
        if batch.num_rows > EVENTS_MAX:
            return None
        events = batch.select(["position", "type", "schema_version", "data"]).to_pylist()
        parts = []
        for place, event in enumerate(events):
            if event["type"] in _ENDS:
                return None
            if event["type"] == _TYPE:
                part = self._part(
                    event, batch["index"][place].values, batch["values"][place].values, connection
                )
                if part is None:
                    return None
                parts.append(part)
        return pa.Table.from_batches(parts, _SCHEMA)

    def _part(
        self, event: dict[str, Any], index: Any, values: Any, connection: duckdb.DuckDBPyConnection
    ) -> pa.RecordBatch | None:
        fields = _plain_fields(event)
        if fields is None or index is None or values is None or index.null_count:
            return None
        count = len(index)
        if len(values) != count * len(fields.columns):
            return None
        life = self._life(fields, connection)
        if life is None:
            return None
        loss, time = (
            values.slice(fields.columns.index(name) * count, count)
            if name in fields.columns
            else pa.nulls(count, pa.float64())
            for name in _SCALARS
        )
        lives, positions = (
            pa.repeat(pa.scalar(each, pa.uint64()), count) for each in (life, event["position"])
        )
        # Not pa.array, which loads pandas where that is installed.
        ordinals = pa.Array.from_buffers(pa.int64(), count, [None, pa.py_buffer(array("q", range(count)))])
        return pa.RecordBatch.from_arrays([lives, index, loss, time, positions, ordinals], schema=_SCHEMA)

    def _life(self, fields: _Fields, connection: duckdb.DuckDBPyConnection) -> int | None:
        """A life never changes, so it is asked for once."""
        key = fields.run, fields.epoch
        if key not in self._lives:
            sql = "SELECT life FROM history.training_lives WHERE run = ? AND epoch = ?"
            found = connection.execute(sql, key).fetchone()
            if found is None:
                return None
            self._lives[key] = found[0]
        return self._lives[key]


def _plain_fields(event: dict[str, Any]) -> _Fields | None:
    """The fields of an event whose text is that of its writer, letter by letter, with no other scalars."""
    text = event["data"].encode()
    try:
        fields = msgspec.json.decode(text, type=_Fields)
    except msgspec.MsgspecError:
        return None
    plain = (
        event["schema_version"] == 1
        and len(set(fields.columns)) == len(fields.columns)
        and set(fields.columns).issubset(_SCALARS)
        and msgspec.json.encode(fields) == text
    )
    return fields if plain else None
