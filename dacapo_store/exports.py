"""Views as files for other tools: Parquet, CSV, JSON lines, Arrow."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pyarrow as pa

    from dacapo_store.store import Store


def export_view(store: Store, view: str, path: Path, *, run: str | None = None) -> int:
    """Write a public view to a file; its ending says how.

    The file is complete when it has its name; one that was there before is replaced.

    Args:
        store: The base, or a past state of it.
        view: The view's name.
        path: The file: ``.parquet``, ``.csv``, ``.jsonl`` or ``.arrow``.
        run: Only rows of this run, or of those that fit a pattern.

    Returns:
        How many rows were written.

    Raises:
        ValueError: The ending is none of these, or there is no such view.
        duckdb.Error: The view has no runs.
        OSError: The disk did not take it.
    """
    write = _WRITERS.get(path.suffix)
    if write is None:
        raise ValueError(f"{path.name!r} ends in none of {', '.join(_WRITERS)}")
    if not view.isidentifier():
        raise ValueError(f"{view!r} is no view; dacapo-store sql 'SHOW TABLES' lists them")
    condition = "" if run is None else " WHERE run GLOB $run"
    table = store.sql(f"SELECT * FROM {view}{condition}", None if run is None else {"run": run}).arrow()  # noqa: S608
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(table, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return int(table.num_rows)


def _parquet(table: pa.Table, path: Path) -> None:
    from pyarrow import parquet

    parquet.write_table(table, path, compression="zstd")


def _arrow(table: pa.Table, path: Path) -> None:
    import pyarrow as pa

    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _csv(table: pa.Table, path: Path) -> None:
    import csv

    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table.column_names)
        for batch in table.to_batches():
            columns = [map(_plain, column.to_pylist()) for column in batch.columns]
            writer.writerows(zip(*columns, strict=True))


def _json_lines(table: pa.Table, path: Path) -> None:
    with path.open("w") as file:
        for batch in table.to_batches():
            for row in batch.to_pylist():
                file.write(json.dumps(row, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    match value:
        case datetime():
            return value.isoformat()
        case list() | dict():
            return json.dumps(value, default=_plain)
        case None | bool() | int() | float() | str():
            return value
    return str(value)


_WRITERS: Final[dict[str, Callable[[pa.Table, Path], None]]] = {
    ".parquet": _parquet,
    ".csv": _csv,
    ".jsonl": _json_lines,
    ".arrow": _arrow,
}
