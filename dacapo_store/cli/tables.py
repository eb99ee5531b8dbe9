"""How a verb shows rows: a table on a terminal, tabs in a pipe, JSON, CSV or an Arrow file if asked for.

Times are stored in UTC. People on a terminal see them in their own zone, with its offset; programs get
them as they are stored.
"""

from __future__ import annotations

import csv
import json
import math
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import pyarrow as pa

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Csv = Annotated[bool, typer.Option("--csv", help="Comma-separated values on stdout.")]
ArrowFile = Annotated[
    Path | None, typer.Option("--arrow", help="Write an Arrow IPC file instead.", metavar="FILE")
]


def show(
    table: pa.Table,
    *,
    as_json: bool = False,
    as_csv: bool = False,
    arrow: Path | None = None,
    title: str = "",
) -> None:
    """Show an Arrow table in the form that was asked for, or in the one that suits where it goes."""
    if sum((as_json, as_csv, arrow is not None)) > 1:
        raise ValueError("of --json, --csv and --arrow one can be given")
    if arrow is not None:
        _write_arrow(table, arrow)
        return
    columns: list[str] = table.column_names
    rows = list(zip(*(column.to_pylist() for column in table.columns), strict=True))
    if as_json:
        print(json.dumps([dict(zip(columns, map(plain, row), strict=True)) for row in rows], indent=1))
    elif as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([cell(value) for value in row] for row in rows)
    elif sys.stdout.isatty():
        from dacapo_store.cli.drawing import draw

        draw(columns, rows, title)
    else:
        print("\t".join(columns))
        for row in rows:
            print("\t".join(_one_line(cell(value)) for value in row))


def plain(value: Any) -> Any:
    """A value as JSON has it: times in UTC, what JSON has no number for as text."""
    match value:
        case dict():
            return {str(key): plain(each) for key, each in value.items()}
        case list() | tuple():
            return [plain(each) for each in value]
        case datetime():
            return value.astimezone(UTC).isoformat()
        case None | bool() | int() | str():
            return value
        case float() if math.isfinite(value):
            return value
    return value.hex() if isinstance(value, bytes) else str(value)


def local(time: datetime) -> str:
    """A time as people here write it, with the offset of their zone."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M:%S%z")


def cell(value: Any) -> str:
    """A value as text for programs."""
    simple = plain(value)
    if simple is None:
        return ""
    return simple if isinstance(simple, str) else json.dumps(simple)


def _one_line(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n")


def _write_arrow(table: pa.Table, path: Path) -> None:
    import pyarrow as pa

    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
