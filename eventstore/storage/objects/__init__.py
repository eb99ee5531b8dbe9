"""Object storage: S3 and what speaks like it, Google Cloud Storage, Azure Blob Storage.

``requests`` talks to a store; the engine of a log (``commits``), the files that are derived from it
(``shared_files``) and those that lie beside it (``storage.bucket``) stand on that.
"""

from eventstore.storage.objects.client import TIMEOUT_SECONDS, check_address
from eventstore.storage.objects.commits import ObjectCommits, open_store
from eventstore.storage.objects.requests import PART_BYTES, PARTS_AT_ONCE, ObjectRequests, StoredFile

__all__ = [
    "PARTS_AT_ONCE",
    "PART_BYTES",
    "TIMEOUT_SECONDS",
    "ObjectCommits",
    "ObjectRequests",
    "StoredFile",
    "check_address",
    "open_store",
]
