"""The adapter for one host: segments in a folder, one lock, any number of processes."""

from eventstore.storage.local.storage import SEGMENT_BYTES_MAX, LocalStorage

__all__ = ["SEGMENT_BYTES_MAX", "LocalStorage"]
