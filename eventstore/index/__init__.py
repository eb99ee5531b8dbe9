"""What is derived from the log's history so that opening it costs its tail only; see ``history``."""

from eventstore.index.audit import IndexAudit
from eventstore.index.folder import FileName, IndexFolder, forget_index, longest_chain
from eventstore.index.history import HistoryIndex
from eventstore.index.index_file import DamagedIndexError
from eventstore.index.marks import CLOCK_MIN, Landmark, Mark, Place
from eventstore.index.tail import Run

__all__ = [
    "CLOCK_MIN",
    "DamagedIndexError",
    "FileName",
    "HistoryIndex",
    "IndexAudit",
    "IndexFolder",
    "Landmark",
    "Mark",
    "Place",
    "Run",
    "forget_index",
    "longest_chain",
]
