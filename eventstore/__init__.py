"""A general event log: immutable events in streams, in one total order, in Arrow IPC files.

Nothing here knows of experiments, DuckDB or torch. Start with ``EventLog.open``.
"""

from eventstore.errors import (
    CommitUnknownError,
    DamagedLogError,
    DuplicateEventError,
    EventStoreError,
    ExpectedVersionError,
    FormatVersionError,
    InvalidEventError,
    LogClosedError,
    LogNotFoundError,
    ReadOnlyLogError,
    SchemaVersionError,
    StorageError,
    StorageUnavailableError,
    UnknownEventTypeError,
    UnsuitableStorageError,
    WriteRefusedError,
)
from eventstore.event_types import EventTypes
from eventstore.identifiers import derived_id, uuid7
from eventstore.log import EventLog
from eventstore.lost_events import EVENT_LOST, LOST_STREAM, LostRange
from eventstore.model import (
    ANY,
    NO_STREAM,
    STREAM_EXISTS,
    Commit,
    EncodedMapping,
    Event,
    ExpectedVersion,
    Finding,
    RecordedEvent,
    StreamAppend,
    Verdict,
)
from eventstore.storage.addresses import (
    Address,
    cache_folder,
    compact_log,
    is_address,
    open_bucket,
    verify_log,
)
from eventstore.storage.doctor import Diagnosis, examine
from eventstore.storage.local.copying import LogCopy, copy_log
from eventstore.storage.local.filesystem import NetworkFileSystemWarning, network_file_system
from eventstore.storage.local.reencoding import (
    ReencodingReport,
    plan_reencoding,
    reencode_log,
    reencoding_is_due,
)
from eventstore.storage.local.repair import RepairPlan, plan_repair, repair_log

__all__ = [
    "ANY",
    "EVENT_LOST",
    "LOST_STREAM",
    "NO_STREAM",
    "STREAM_EXISTS",
    "Address",
    "Commit",
    "CommitUnknownError",
    "DamagedLogError",
    "Diagnosis",
    "DuplicateEventError",
    "EncodedMapping",
    "Event",
    "EventLog",
    "EventStoreError",
    "EventTypes",
    "ExpectedVersion",
    "ExpectedVersionError",
    "Finding",
    "FormatVersionError",
    "InvalidEventError",
    "LogClosedError",
    "LogCopy",
    "LogNotFoundError",
    "LostRange",
    "NetworkFileSystemWarning",
    "ReadOnlyLogError",
    "RecordedEvent",
    "ReencodingReport",
    "RepairPlan",
    "SchemaVersionError",
    "StorageError",
    "StorageUnavailableError",
    "StreamAppend",
    "UnknownEventTypeError",
    "UnsuitableStorageError",
    "Verdict",
    "WriteRefusedError",
    "cache_folder",
    "compact_log",
    "copy_log",
    "derived_id",
    "examine",
    "is_address",
    "network_file_system",
    "open_bucket",
    "plan_reencoding",
    "plan_repair",
    "reencode_log",
    "reencoding_is_due",
    "repair_log",
    "uuid7",
    "verify_log",
]
