"""Rows on a terminal: a table, as wide as it needs to be, or what a narrower terminal can show of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from dacapo_store.cli.tables import cell, local

if TYPE_CHECKING:
    from rich.table import Table

_UNBOUNDED: Final = 10_000
_TEXT_WIDTH_MIN: Final = 6


def draw(columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str) -> None:
    """A table; where it is too wide one whose headings and times are broken; or a line for each value."""
    from rich.console import Console

    console = Console(highlight=False)
    unbounded = console.options.update(max_width=_UNBOUNDED)
    # Numbers and times are not folded.
    firm = [
        any(isinstance(row[place], int | float | datetime) for row in rows) for place in range(len(columns))
    ]
    drawn = [[_drawn(value) for value in row] for row in rows]
    table = _table(columns, drawn, firm, title)
    if console.measure(table, options=unbounded).maximum > console.width:
        narrow = [column.replace("_", "_\n") for column in columns]
        broken = [[_drawn(value, between="\n") for value in row] for row in rows]
        if sum(map(_width_min, narrow, firm, zip(*broken, strict=True))) > console.width - 2:
            _say_records(columns, drawn)
            return
        table = _table(narrow, broken, firm, title, padding=(0, 1, 0, 0))
    console.print(table)


def _drawn(value: Any, between: str = " ") -> str:
    match value:
        case datetime():
            return local(value).replace(" ", between)
        case float():
            return f"{value:.6g}"
        case int() if not isinstance(value, bool):
            return f"{value:,}"
    return cell(value)


def _table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    firm: Sequence[bool],
    title: str,
    padding: tuple[int, int, int, int] = (0, 1, 0, 1),
) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left", padding=padding)
    for column, whole in zip(columns, firm, strict=True):
        table.add_column(
            column,
            justify="right" if whole else "left",
            overflow="fold",
            no_wrap=whole,
            min_width=None if whole else _TEXT_WIDTH_MIN,
        )
    for row in rows:
        # Text, not markup: a name like [red] is a name.
        table.add_row(*map(Text, row))
    return table


def _width_min(column: str, whole: bool, cells: Sequence[str]) -> int:  # noqa: FBT001 - mapped over columns
    widest = max(len(line) for text in (column, *cells) for line in text.split("\n"))
    return 1 + (widest if whole else min(widest, _TEXT_WIDTH_MIN))


def _say_records(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    width = max(map(len, columns))
    for number, row in enumerate(rows, 1):
        print(f"{number} {'-' * (width - len(str(number)) + 1)}")
        for column, text in zip(columns, row, strict=True):
            print(f"{column:{width}}  {text}")
