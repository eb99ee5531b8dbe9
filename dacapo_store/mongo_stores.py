"""DaCapo's Mongo stores: the same stores as those of files, over a log in a MongoDB database.

What is stored is in the log, a collection of the database. The collections that DaCapo knows (``runs``,
``tasks``, ``training_stats`` and so on) show what is in view, for dashboards that read them; see
``mongo_views``. To write into them changes nothing here.

A host needs a folder for what it derives of the log (snapshots), and one for weights and arrays where those
stores are used: ``files``. The stores that ``create_store`` makes take ``runs_base_dir``, as in DaCapo;
a store that is made without one takes a folder in the user's cache directory.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from dacapo_store.base import Base
from dacapo_store.config_store import LogConfigStore
from dacapo_store.errors import UnimportedDatabaseError
from dacapo_store.stats_store import LogStatsStore
from eventstore import is_address

if TYPE_CHECKING:
    from dacapo_store.moments import Moment
    from dacapo_store.mongo_views import MongoViews


def base_address(db_host: str, db_name: str, files: str | os.PathLike[str] | None = None) -> str:
    """The address of the base that is in a database.

    Args:
        db_host: ``localhost``, ``host:port`` or a connection string.
        db_name: The database.
        files: The folder of weights, arrays and snapshots, or the address of a bucket; None is a folder in
            the user's cache directory.

    Raises:
        ValueError: Host or name are missing.
    """
    if not db_host or not db_name:
        raise ValueError(
            "a store of type mongo needs a host and a database: mongo_db_host and mongo_db_name in "
            f"dacapo.yaml (they are {db_host!r} and {db_name!r})"
        )
    from eventstore.storage.mongo import database_address

    address = database_address(db_host, db_name)
    if files is not None and is_address(files):
        place = str(files)
    else:
        place = str(_folder_of(address) if files is None else Path(files).expanduser().absolute())
    separator = "&" if urlsplit(address).query else "?"
    return f"{address}{separator}{urlencode({'files': place}, safe='/')}"


def _folder_of(address: str) -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    parts = urlsplit(address)
    place = f"{parts.netloc.rpartition('@')[2]}{parts.path}"
    return (
        Path(cache).absolute() / "dacapo-store" / f"mongodb-{hashlib.sha256(place.encode()).hexdigest()[:16]}"
    )


def _made(store: type[_MongoStore], db_host: str, db_name: str, how: dict[str, Any]) -> _MongoStore:
    return store(db_host, db_name, **how)


class _MongoStore:
    """What both stores know of their database.

    Args:
        db_host: ``localhost``, ``host:port`` or a connection string.
        db_name: The database.
        files: The folder of this base's snapshots, and of weights and arrays where there are any; for
            these, it may be the address of a bucket.
        read_only: Open the base without writing to it; it must be there.
        as_of: Look at the store as it was at this position or time, read-only.

    Attributes:
        db_host: As it was given.
        db_name: As it was given.

    Raises:
        UnimportedDatabaseError: DaCapo's own stores have written to the database, and its log is empty.
        ValueError: Host or name are missing or wrong, or there is no such position or time.
        eventstore.EventStoreError: The log cannot be opened; the text says why and what to do.
    """

    def __init__(
        self,
        db_host: str,
        db_name: str,
        *,
        files: str | os.PathLike[str] | None = None,
        read_only: bool = False,
        as_of: Moment | None = None,
    ) -> None:
        self.db_host = db_host
        self.db_name = db_name
        self._how = {"files": files, "read_only": read_only, "as_of": as_of}
        address = base_address(db_host, db_name, files)
        self._base = Base.at(address, read_only=read_only, as_of=as_of)
        if self._base.present.log.next_position == 0 and self._mongo.foreign_collections():
            raise UnimportedDatabaseError(
                f"the database {self._mongo.address} holds configs or stats that DaCapo's own stores have "
                "written, and nothing of these stores: bring them in with "
                "`dacapo-store import --from-mongo`. Nothing of it was changed"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        """A store travels to another process as what it was made of, a password included."""
        return _made, (type(self), self.db_host, self.db_name, self._how)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._mongo.address!r})"

    @property
    def client(self) -> Any:
        """The ``pymongo.MongoClient`` of this process for the database."""
        return self._mongo.client

    @property
    def database(self) -> Any:
        """The database, as pymongo gives it."""
        return self._mongo.database

    @property
    def _mongo(self) -> MongoViews:
        mongo = self._base.present.mongo
        assert mongo is not None
        return mongo


class MongoConfigStore(_MongoStore, LogConfigStore):
    """The config store of a MongoDB database; see ``_MongoStore`` for its arguments.

    Example:
        >>> store = MongoConfigStore("localhost", "dacapo")
        >>> store.delete_config(store.tasks, "segmentation")

    Attributes:
        users: The collection of this name; it is empty.
        runs: The collection of the run configs; with ``tasks`` and so on these are what DaCapo's
            dashboards read, and what ``delete_config`` takes.
    """

    def __init__(self, db_host: str, db_name: str, **how: Any) -> None:
        super().__init__(db_host, db_name, **how)
        self._place = self._mongo.address

    @property
    def users(self) -> Any:
        """The collection that DaCapo has for users; it stores none."""
        return self.database["users"]

    @property
    def runs(self) -> Any:
        """The collection that shows the run configs."""
        return self.database["runs"]

    @property
    def tasks(self) -> Any:
        """The collection that shows the task configs."""
        return self.database["tasks"]

    @property
    def datasplits(self) -> Any:
        """The collection that shows the datasplit configs."""
        return self.database["datasplits"]

    @property
    def datasets(self) -> Any:
        """The collection that shows the dataset configs."""
        return self.database["datasets"]

    @property
    def arrays(self) -> Any:
        """The collection that shows the array configs."""
        return self.database["arrays"]

    @property
    def architectures(self) -> Any:
        """The collection that shows the architecture configs."""
        return self.database["architectures"]

    @property
    def trainers(self) -> Any:
        """The collection that shows the trainer configs."""
        return self.database["trainers"]

    def _is_place(self, database: Any, kind: str) -> bool:
        if isinstance(database, str):
            return database in (kind, f"{self.db_name}.{kind}")
        # A collection; of this database, or of one of the same name on a client of the caller's.
        there = getattr(database, "database", None)
        return getattr(database, "name", None) == kind and getattr(there, "name", None) == self.db_name


class MongoStatsStore(_MongoStore, LogStatsStore):
    """The stats store of a MongoDB database; see ``_MongoStore`` for its arguments.

    Example:
        >>> store = MongoStatsStore("localhost", "dacapo")
        >>> store.retrieve_training_stats("run_7", subsample=True)
    """

    @property
    def training_stats(self) -> Any:
        """The collection that shows the training stats."""
        return self.database["training_stats"]

    @property
    def validation_scores(self) -> Any:
        """The collection that shows the validation scores."""
        return self.database["validation_scores"]
