"""Commits as numbered objects, each created once: one adapter for every storage that many hosts share."""

from eventstore.storage.numbered.commit_store import (
    CommitStore,
    DerivedObjects,
    RefusedError,
    UnclearError,
)
from eventstore.storage.numbered.patience import PATIENCE_SECONDS
from eventstore.storage.numbered.segments import CACHE_BYTES_MAX
from eventstore.storage.numbered.storage import NumberedStorage

__all__ = [
    "CACHE_BYTES_MAX",
    "PATIENCE_SECONDS",
    "CommitStore",
    "DerivedObjects",
    "NumberedStorage",
    "RefusedError",
    "UnclearError",
]
