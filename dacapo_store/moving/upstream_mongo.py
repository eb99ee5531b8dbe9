"""Where DaCapo's Mongo stores keep things, and what of it a database holds.

    runs, tasks, architectures, trainers, datasplits, datasets, arrays    a document each, by name
    training_stats, validation_scores                                     a document an iteration

MongoDB keeps lists, no tuples; what was stored as a tuple is a list there, and stays one. A document's
time is that of its ObjectId, to the second. Alone in the project, this module imports pymongo.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from dacapo_store.config_store import KINDS
from dacapo_store.history import TRAINING, Kind
from dacapo_store.moving.found import FoundConfig, FoundStats, Origin, UnreadableError
from dacapo_store.moving.stats_documents import training_rows, validation_rows
from dacapo_store.moving.upstream_files import STATS, Findings

if TYPE_CHECKING:
    from pymongo.collection import Collection
    from pymongo.database import Database

_PATIENCE_MS: Final = 10_000


@contextlib.contextmanager
def connected(uri: str, name: str) -> Iterator[Database[Any]]:
    """A database of DaCapo's, to be used inside.

    Raises:
        ImportError: pymongo is not installed: ``pip install 'dacapo-store[mongo]'``.
        ValueError: The address is none.
        OSError: The server cannot be reached.
    """
    try:
        from pymongo import MongoClient
        from pymongo.errors import ConfigurationError, InvalidURI, PyMongoError
    except ImportError as error:
        raise ImportError("reading a database needs pymongo: pip install 'dacapo-store[mongo]'") from error
    # Passwords stand in addresses, and errors in logs.
    shown = re.sub(r"//[^/]*@", "//…@", uri)
    try:
        with MongoClient[Any](uri, serverSelectionTimeoutMS=_PATIENCE_MS) as client:
            client.admin.command("ping")
            yield client[name]
    except (InvalidURI, ConfigurationError) as error:
        raise ValueError(f"{shown!r} is no address of a MongoDB server: {error}") from error
    except PyMongoError as error:
        raise OSError(f"the MongoDB server at {shown} cannot be used: {error}") from error


def find(database: Database[Any], findings: Findings) -> None:
    """List what DaCapo's stores have left in a database."""
    for kind in KINDS:
        _find_configs(database[kind], kind, findings)
    for name, stats in STATS.items():
        _find_stats(database[name], stats, findings)


def _find_configs(collection: Collection[Any], kind: str, findings: Findings) -> None:
    seen: set[str] = set()
    for found in collection.find({}, projection={"name": True}):
        name = found.get("name")
        place = f"{collection.name}/{name}"
        if not isinstance(name, str) or not name:
            findings.problems.append((f"{collection.name}/{found['_id']}", "it has no name"))
        elif name in seen:
            # Runs are told apart by repetition as well there; DaCapo retrieves the first of a name.
            findings.problems.append((place, "another config has this name, which DaCapo retrieves"))
        else:
            seen.add(name)
            read = partial(_read_config, collection, found["_id"])
            findings.found.append(FoundConfig(Origin(place, _stamp(found["_id"])), kind, name, read))


def _read_config(collection: Collection[Any], key: Any) -> Any:
    document = collection.find_one({"_id": key}, projection={"_id": False})
    if document is None:
        raise UnreadableError("it was deleted meanwhile")
    return plain(document)


def _find_stats(collection: Collection[Any], kind: Kind[Any], findings: Findings) -> None:
    for run in collection.distinct("run_name"):
        if not isinstance(run, str) or not run:
            findings.problems.append((f"{collection.name}/{run!r}", "its run has no name"))
            continue
        (newest,) = collection.find({"run_name": run}, projection={"_id": True}).sort("_id", -1).limit(1)
        origin = Origin(f"{collection.name}/{run}", _stamp(newest["_id"]))
        findings.found.append(FoundStats(origin, kind, run, partial(_read_stats, collection, run, kind)))


def _read_stats(collection: Collection[Any], run: str, kind: Kind[Any]) -> Any:
    documents = [plain(each) for each in collection.find({"run_name": run}, projection={"_id": False})]
    return training_rows(documents) if kind is TRAINING else validation_rows(documents)


def plain(value: Any) -> Any:
    """A value of BSON as Python's own."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, bool) or value is None:
        return value
    # Int64 and Binary are subclasses.
    if isinstance(value, bytes):
        return bytes(value)
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if hasattr(value, "isoformat"):
        return value
    raise UnreadableError(f"it holds a {type(value).__name__}, which is no plain value")


def _stamp(key: Any) -> int:
    """The time in an ObjectId, in nanoseconds; 0 for another kind of key."""
    generated = getattr(key, "generation_time", None)
    return 0 if generated is None else int(generated.timestamp()) * 1_000_000_000
