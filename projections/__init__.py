"""DuckDB views of the log: the present, the past, and SQL over both.

``ReadModels`` folds the events into append-only tables, held in memory, and answers queries that are
never behind the log. Everything here is derived and may be built again at any time.
"""

from projections.errors import (
    CatchUpError,
    ProjectionError,
    QueryRefusedError,
    ReadModelsClosedError,
    ReadModelStoppedError,
)
from projections.projection import Projection, Step, Table, View
from projections.query_result import QueryResult
from projections.read_models import PROJECTIONS, EventSource, ReadModels

__all__ = [
    "PROJECTIONS",
    "CatchUpError",
    "EventSource",
    "Projection",
    "ProjectionError",
    "QueryRefusedError",
    "QueryResult",
    "ReadModelStoppedError",
    "ReadModels",
    "ReadModelsClosedError",
    "Step",
    "Table",
    "View",
]
