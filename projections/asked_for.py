"""Which read models a query may ask for, told by the words of its text.

A read model that no query of a process has asked for need not be there: defining its tables and views
takes a new process milliseconds, and folding each new event into it takes a live reader some more. A text
cannot name a view without having its name among its words; to find one too many (in a comment, as the
name of a column) costs time only. Functions that take a text for SQL, and listings of what there is, ask
for everything, and so does a text that DuckDB could not bind without. None may be missed: one that is
defined already, and that no query has asked for, shows what was.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from projections.projection import Projection

_WORD: Final = re.compile(r"\w+")

_OF_ALL: Final = re.compile(
    r"(query|query_table|json_execute_serialized_sql|show|describe|desc|history|tail|"
    r"information_schema|(duckdb|pg|pragma|sqlite)_\w+)"
)
"""Words of whoever wants more than the views that the text names."""


def asked_for(sql: str, projections: Iterable[Projection]) -> frozenset[str]:
    """The names of the read models that this text may ask for."""
    words = frozenset(_WORD.findall(sql.lower()))
    if any(map(_OF_ALL.fullmatch, words)):
        return frozenset(projection.name for projection in projections)
    return frozenset(
        projection.name for projection in projections if not words.isdisjoint(projection.public_names)
    )
