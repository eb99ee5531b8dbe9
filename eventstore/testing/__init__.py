"""Helpers for testing programs that use the log: a log in memory, and the contract of all logs."""

from __future__ import annotations

from eventstore.log import EventLog
from eventstore.storage.memory import MemoryStorage


def memory_log() -> EventLog:
    """A log that keeps its events in this process's memory and behaves as one on disk does."""
    return EventLog(MemoryStorage())
