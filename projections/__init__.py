"""DuckDB views of the log: the present, the past, and SQL over both.

``ReadModels`` folds the events into append-only tables and answers queries that are never behind the
log; ``publish_snapshot`` puts the older rows into a file that all processes share. Everything here is
derived and may be built again at any time.
"""

from projections.across import PinnedViews, select_across
from projections.answer import Answer, AnswerAcross, Rows
from projections.errors import (
    CatchUpError,
    ProjectionError,
    QueryRefusedError,
    QueryTimeoutError,
    ReadModelsClosedError,
    ReadModelStoppedError,
)
from projections.event_source import EventSource
from projections.guarded_sql import SQL_ERRORS
from projections.projection import Projection, Step, Table, View
from projections.publishing import PublishedSnapshot, publish_snapshot
from projections.query_result import QueryResult
from projections.read_models import PROJECTIONS, ReadModels
from projections.snapshot import ANYTHING_NEW, TAIL_LIMIT, TailLimit

__all__ = [
    "ANYTHING_NEW",
    "PROJECTIONS",
    "SQL_ERRORS",
    "TAIL_LIMIT",
    "Answer",
    "AnswerAcross",
    "CatchUpError",
    "EventSource",
    "PinnedViews",
    "Projection",
    "ProjectionError",
    "PublishedSnapshot",
    "QueryRefusedError",
    "QueryResult",
    "QueryTimeoutError",
    "ReadModelStoppedError",
    "ReadModels",
    "ReadModelsClosedError",
    "Rows",
    "Step",
    "Table",
    "TailLimit",
    "View",
    "publish_snapshot",
    "select_across",
]
