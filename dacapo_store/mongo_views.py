"""The collections that DaCapo's Mongo stores have, kept as the log says: for dashboards that read them.

One more projection: a fold of the events into ``runs``, ``tasks``, ``architectures``, ``trainers``,
``datasplits``, ``datasets``, ``arrays``, ``training_stats`` and ``validation_scores``, whose documents and
indexes are those of DaCapo's stores. It is derived and may be built again at any time (``rebuild``). What
leaves the view leaves these collections; of rows with one iteration the last is shown, for DaCapo's
indexes allow one.

How far it is stands in the database, in ``dacapo_store_views``, together with who is at it:

1. Whoever has appended notes the position that is wanted, and takes the work if nobody has it.
2. The one who has it applies what is new, in order, notes how far it is, and gives the work back only
   when nothing more is wanted.
3. Work whose owner has shown no sign of life for half a minute, by the clock of whoever waits, is taken over.
4. An owner that finds the work taken from it may have overwritten what came later. It sets the position back
   to where it began: to apply events again, in order, from any position on, mends what lies behind it.

So every step may be repeated, interrupted or done by two at once. A failure is logged, and the
next call catches up.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from dacapo_store.events import (
    EVENT_TYPES,
    ConfigDeleted,
    ConfigStored,
    TrainingEpochBegun,
    TrainingStatsDeleted,
    TrainingStatsRecorded,
    ValidationEpochBegun,
    ValidationScoresDeleted,
    ValidationScoresRecorded,
)
from dacapo_store.history import KEEPS_NOTHING
from dacapo_store.rows import TrainingRows, ValidationRows
from dacapo_store.validation_scores import unflatten_scores
from eventstore import EventLog, RecordedEvent

if TYPE_CHECKING:
    from eventstore.storage.mongo import Connection

logger = logging.getLogger(__name__)

CHECKPOINTS: Final = "dacapo_store_views"
KINDS: Final = ("runs", "tasks", "architectures", "trainers", "datasplits", "datasets", "arrays")
COLLECTIONS: Final = (*KINDS, "training_stats", "validation_scores")

_CHECKPOINT: Final = "dacapo"
_FORMAT: Final = 1
_SILENCE_SECONDS: Final = 30.0
_SIGN_SECONDS: Final = 5.0
_PAUSE_SECONDS: Final = 0.5
_OPERATIONS_MAX: Final = 1000
_EVENTS_MAX: Final = 200
_ASIDE: Final = "_before_dacapo_store"
_NEW: Final = "dacapo_store_new_"
_INDEXES: Final[Mapping[str, Sequence[tuple[str, tuple[str, ...], bool]]]] = {
    "runs": [("name_rep", ("name", "repetition"), True)],
    **{kind: [("name", ("name",), True)] for kind in KINDS if kind != "runs"},
    "training_stats": [("run_it", ("run_name", "iteration"), True), ("it", ("iteration",), False)],
    "validation_scores": [
        ("run_it_ds", ("run_name", "iteration", "dataset"), True),
        ("it", ("iteration",), False),
    ],
}
_TYPES: Final = frozenset(
    {
        "ConfigStored",
        "ConfigDeleted",
        "TrainingStatsRecorded",
        "TrainingEpochBegun",
        "TrainingStatsDeleted",
        "ValidationScoresRecorded",
        "ValidationEpochBegun",
        "ValidationScoresDeleted",
    }
)

Document = dict[str, Any]


class MongoViews:
    """DaCapo's collections in the database of a log.

    Args:
        log: The log.
        address: Its address.
        read_only: Change nothing.

    Attributes:
        address: The address for people.
    """

    def __init__(self, log: EventLog, address: str, *, read_only: bool) -> None:
        from eventstore.storage.mongo import Connection

        self._log = log
        self._read_only = read_only
        self._connection: Connection = Connection.at(address)
        self.address = self._connection.address
        self.after_fork()

    def after_fork(self) -> None:
        """A child is another owner; a thread of the parent may have held the lock."""
        self._turn = threading.Lock()
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._position = 0
        self._heard: tuple[Any, Any, float] = (None, None, 0.0)
        self._owed: int | None = None
        self._sign_at = 0.0
        self._is_off = self._read_only

    @property
    def client(self) -> Any:
        """The client of this process."""
        return self._connection.client

    @property
    def database(self) -> Any:
        """The database."""
        return self._connection.database

    def close(self) -> None:
        """Give the client back."""
        self._connection.close()

    def foreign_collections(self) -> list[str]:
        """Those of DaCapo's collections that hold documents, where this projection has never been at work.

        Raises:
            StorageUnavailableError: The database does not answer.
        """
        from eventstore.storage.mongo import answered

        with answered(self.address):
            found = [name for name in COLLECTIONS if self.database[name].find_one({}, {"_id": 1}) is not None]
            # In this order: the checkpoint is there before the first document of another process.
            return found if self._checkpoints.find_one({"_id": _CHECKPOINT}, {"_id": 1}) is None else []

    def catch_up_if_possible(self, wanted: int) -> None:
        """Bring the collections to a position at least; a failure is logged, and the next call goes on."""
        try:
            self.catch_up(wanted)
        except Exception as error:  # noqa: BLE001 - what was stored is stored, whatever is shown of it
            logger.warning("the collections of %s are behind the log: %s", self.address, error)

    def catch_up(self, wanted: int) -> None:
        """Bring the collections to a position at least, or leave that to who is at it.

        Raises:
            pymongo.errors.PyMongoError: The database does not answer, or refuses.
            eventstore.EventStoreError: The log cannot be read.
        """
        with self._turn:
            if self._is_off or self._position >= wanted:
                return
            self._settle_debt()
            checkpoint = self._take(wanted)
            if checkpoint is not None:
                self._work(checkpoint)

    def rebuild(self) -> int:
        """Make the collections anew, beside those that there are, and put them in their place.

        Documents that others than these stores have written are kept, in collections of the same names with
        ``_before_dacapo_store`` behind.

        Returns:
            The position that the collections show.

        Raises:
            StorageUnavailableError: The database does not answer, or refuses. Repeat it.
            EventStoreError: The log cannot be read.
            BlockingIOError: Another process took this one for dead, and has taken over. Repeat it.
        """
        from eventstore.storage.mongo import answered

        with self._turn, answered(self.address):
            for name in self.foreign_collections():
                self.database[name].rename(f"{name}{_ASIDE}")
            while (checkpoint := self._take(0)) is None:
                time.sleep(_PAUSE_SECONDS)
            self._is_off = False
            try:
                shown = self._rebuilt()
                # From here on they are kept up as ever; a crash before this is mended by a repetition.
                self._note(shown, {})
            except BaseException:
                self._owed = int(checkpoint["position"])
                self._settle_debt_if_possible()
                raise
            self._work({**checkpoint, **shown})
            return self._position

    def _rebuilt(self) -> Document:
        """Make new collections and put them in their place; gives what the checkpoint says of them."""
        for name in (*COLLECTIONS, CHECKPOINTS):
            self.database.drop_collection(f"{_NEW}{name}")
        self._make_indexes(_NEW)
        position = self._apply_all(_Fold(self._connection, _NEW, self._show_life))
        for name in COLLECTIONS:
            self.database[f"{_NEW}{name}"].rename(name, dropTarget=True)
        self._keep_cuts()
        return {"position": position, "log_id": self._log.log_id.hex()}

    # --- who is at it

    @property
    def _checkpoints(self) -> Any:
        return self._connection.collection(CHECKPOINTS)

    def _take(self, wanted: int) -> Document | None:
        """Note what is wanted, and take the work; None when another has it, who will see the note."""
        for _ in range(2):
            taken = self._take_if({"owner": {"$in": [None, self._owner]}}, wanted)
            if taken is not None:
                return taken
            # Between the two attempts the other may have given it back without seeing the note.
            noted = self._checkpoints.update_one({"_id": _CHECKPOINT}, {"$max": {"wanted": wanted}})
            if not noted.matched_count and not self._begin():
                return None
        return self._take_over(wanted)

    def _take_if(self, condition: Document, wanted: int) -> Document | None:
        change = {"$set": {"owner": self._owner}, "$inc": {"beat": 1}, "$max": {"wanted": wanted}}
        found: Document | None = self._checkpoints.find_one_and_update(
            {"_id": _CHECKPOINT, **condition}, change, return_document=True
        )
        return found

    def _take_over(self, wanted: int) -> Document | None:
        """Take the work of an owner that shows no sign of life."""
        there = self._checkpoints.find_one({"_id": _CHECKPOINT})
        if there is None:
            return None
        owner, beat, since = self._heard
        if (owner, beat) != (there["owner"], there["beat"]):
            self._heard = there["owner"], there["beat"], time.monotonic()
            return None
        if time.monotonic() - since < _SILENCE_SECONDS:
            return None
        return self._take_if({"owner": owner, "beat": beat}, wanted)

    def _begin(self) -> bool:
        """Make the checkpoint of a new projection, unless the collections belong to others."""
        from eventstore.storage.mongo import DuplicateKeyError

        foreign = self.foreign_collections()
        if foreign:
            logger.warning(
                "%s: %s hold documents that these stores have not written. They are left alone, and show "
                "nothing of the log; `dacapo-store mongo-rebuild` moves them aside and makes new ones",
                self.address,
                ", ".join(foreign),
            )
            self._is_off = True
            return False
        self._make_indexes("")
        new = {"_id": _CHECKPOINT, "format": _FORMAT, "log_id": self._log.log_id.hex(), "position": 0}
        with contextlib.suppress(DuplicateKeyError):  # another process has begun
            self._checkpoints.insert_one({**new, "wanted": 0, "owner": None, "beat": 0})
        return True

    def _make_indexes(self, prefix: str) -> None:
        for name, indexes in _INDEXES.items():
            for index, keys, unique in indexes:
                self.database[f"{prefix}{name}"].create_index(
                    [(key, 1) for key in keys], name=index, unique=unique
                )

    # --- the work

    def _work(self, checkpoint: Document) -> None:
        """Apply what is new until nothing more is wanted, and give the work back."""
        begun = position = int(checkpoint["position"])
        if checkpoint["log_id"] != self._log.log_id.hex():
            self._note({"owner": None}, {})
            self._is_off = True
            logger.warning(
                "the collections of %s show another log than the one that is there: make them anew with "
                "`dacapo-store mongo-rebuild`",
                self.address,
            )
            return
        fold = _Fold(self._connection, "", self._show_life)
        stuck_at = -1
        try:
            while True:
                end = self._end_of_log()
                while position < end:
                    position = self._apply_some(fold, position, end)
                    if position < end and not self._note({"position": position}, {}):
                        self._set_back(begun)
                        return
                if self._note({"owner": None, "position": position}, {"wanted": {"$lte": position}}):
                    self._position = position
                    return
                if not self._note({"position": position}, {}):
                    self._set_back(begun)
                    return
                if position == stuck_at:
                    # What is wanted is not in the log: the wish is that of one that was lost.
                    self._note({"owner": None, "wanted": position}, {})
                    return
                stuck_at = position
        except BaseException:
            self._owed = begun
            self._settle_debt_if_possible()
            raise

    def _settle_debt(self) -> None:
        """Who failed gives the work back; if another has taken it over meanwhile, harm may have been done."""
        if self._owed is not None:
            if not self._note({"owner": None}, {}):
                self._set_back(self._owed)
            self._owed = None

    def _settle_debt_if_possible(self) -> None:
        from eventstore.storage.mongo import PyMongoError

        try:
            self._settle_debt()
        except PyMongoError as error:
            logger.debug("the work on %s is given back by the next call: %s", self.address, error)

    def _show_life(self) -> None:
        """Called again and again in long work.

        Raises:
            BlockingIOError: Another process took this one for dead, and has taken over.
        """
        now = time.monotonic()
        if now - self._sign_at > _SIGN_SECONDS:
            self._sign_at = now
            if not self._note({}, {}):
                raise BlockingIOError(f"another process is at the collections of {self.address}: try again")

    def _end_of_log(self) -> int:
        """Up to here the log is known to survive whatever happens to the database."""
        _ = self._log.next_position  # looks what others have committed
        return self._log.durable_position

    def _note(self, values: Document, condition: Document) -> bool:
        """Note how far the work is; False when it is another's, or the condition does not hold."""
        change: Document = {"$inc": {"beat": 1}}
        if values:
            change["$set"] = values
        mine = {"_id": _CHECKPOINT, "owner": self._owner, **condition}
        return bool(self._checkpoints.update_one(mine, change).matched_count)

    def _set_back(self, position: int) -> None:
        self._position = 0
        self._checkpoints.update_one({"_id": _CHECKPOINT}, {"$min": {"position": position}})

    def _apply_all(self, fold: _Fold) -> int:
        position, end = 0, self._end_of_log()
        while position < end:
            position = self._apply_some(fold, position, end)
        return position

    def _apply_some(self, fold: _Fold, position: int, end: int) -> int:
        """Apply some events from a position on; gives the position behind the last of them."""
        events = list(islice(self._log.read(position, end), _EVENTS_MAX))
        for event in events:
            if event.type in _TYPES:
                fold.apply(event)
        return events[-1].position + 1

    def _keep_cuts(self) -> None:
        """Put the epochs that were found in the place of those that were known."""
        found = list(self.database[f"{_NEW}{CHECKPOINTS}"].find())
        for each in found:
            self._checkpoints.replace_one({"_id": each["_id"]}, each, upsert=True)
        self._checkpoints.delete_many({"_id": {"$nin": [_CHECKPOINT, *(each["_id"] for each in found)]}})
        self.database.drop_collection(f"{_NEW}{CHECKPOINTS}")


class _Fold:
    """What events do to the collections. Each may be applied again.

    Args:
        connection: The database.
        prefix: What stands in front of the collections' names.
        show_life: To be called every now and then.
    """

    def __init__(self, connection: Connection, prefix: str, show_life: Callable[[], None]) -> None:
        self._connection = connection
        self._prefix = prefix
        self._show_life = show_life

    def apply(self, event: RecordedEvent) -> None:
        self._show_life()
        match EVENT_TYPES.decode(event):
            case ConfigStored(kind=kind, name=name, document=document):
                self._store_config(kind, name, document)
            case ConfigDeleted(kind=kind, name=name):
                self._collection(kind).delete_many({"name": name})
            case TrainingStatsRecorded(run=run, epoch=epoch) as fact:
                training = TrainingRows.of_event(fact, event.index, event.values)
                self._record("training_stats", run, epoch, _training_documents(training))
            case ValidationScoresRecorded(run=run, epoch=epoch) as scored:
                validation = ValidationRows.of_event(scored, event.index, event.values)
                self._record("validation_scores", run, epoch, _validation_documents(validation))
            case TrainingEpochBegun(run=run, epoch=epoch, keeps_below=cut):
                self._cut("training_stats", run, epoch, cut)
            case ValidationEpochBegun(run=run, epoch=epoch, keeps_below=cut):
                self._cut("validation_scores", run, epoch, cut)
            case TrainingStatsDeleted(run=run, epoch=epoch):
                self._cut("training_stats", run, epoch, KEEPS_NOTHING)
            case ValidationScoresDeleted(run=run, epoch=epoch):
                self._cut("validation_scores", run, epoch, KEEPS_NOTHING)

    def _collection(self, name: str) -> Any:
        return self._connection.derived(f"{self._prefix}{name}")

    def _store_config(self, kind: str, name: str, document: Any) -> None:
        from eventstore.storage.mongo import InvalidDocument, WriteError

        if kind not in KINDS:
            return
        shown = {str(key): _as_bson(value) for key, value in document.items() if key != "_id"}
        try:
            self._collection(kind).replace_one({"name": name}, {**shown, "name": name}, upsert=True)
        except (InvalidDocument, WriteError) as error:
            logger.warning(
                "the %s config %r is stored, and cannot be shown in MongoDB: %s", kind, name, error
            )
            self._collection(kind).replace_one({"name": name}, {"name": name}, upsert=True)

    def _record(self, name: str, run: str, epoch: int, documents: Iterable[Document]) -> None:
        """Show rows, but for those that a later epoch has cut; of one iteration the last."""
        from eventstore.storage.mongo import ReplaceOne

        noted = self._collection(CHECKPOINTS).find_one({"_id": f"{name}/{run}"})
        cuts = [cut for begun, cut in noted["cuts"] if begun > epoch] if noted else []
        below = min(cuts, default=None)
        shown = (
            {**each, "run_name": run} for each in documents if below is None or each["iteration"] < below
        )
        for some in _batched(shown):
            self._show_life()
            last = {each["iteration"]: each for each in some}
            self._collection(name).bulk_write(
                [
                    ReplaceOne({"run_name": run, "iteration": iteration}, each, upsert=True)
                    for iteration, each in last.items()
                ]
            )

    def _cut(self, name: str, run: str, epoch: int, cut: int) -> None:
        """Take away what an epoch that begins does not keep; rows that come late for others are cut, too."""
        change = {"$addToSet": {"cuts": [epoch, cut]}}
        self._collection(CHECKPOINTS).update_one({"_id": f"{name}/{run}"}, change, upsert=True)
        self._collection(name).delete_many({"run_name": run, "iteration": {"$gte": cut}})


def _batched(documents: Iterator[Document]) -> Iterator[list[Document]]:
    while some := list(islice(documents, _OPERATIONS_MAX)):
        yield some


def _training_documents(rows: TrainingRows) -> Iterator[Document]:
    """One document a row: ``iteration``, ``loss``, ``time``, and the other scalars that it has."""
    columns = {
        name: (scalar.values.tolist(), scalar.present.tolist())
        for name, scalar in rows.scalars.items()
        if name not in ("_id", "run_name", "iteration")
    }
    for place, iteration in enumerate(rows.iterations.tolist()):
        scalars = {name: values[place] for name, (values, present) in columns.items() if present[place]}
        yield {**scalars, "iteration": iteration}


def _validation_documents(rows: ValidationRows) -> Iterator[Document]:
    """One document an iteration: ``iteration``, and ``scores`` nested by dataset, parameters, criterion."""
    import numpy as np

    for iteration, scores in zip(rows.iterations.tolist(), rows.scores, strict=True):
        lengths = [list(each) for each in scores.structure.lengths]
        values = np.frombuffer(scores.bits, np.float64).tolist()
        yield {"iteration": iteration, "scores": unflatten_scores(lengths, values)}


def _as_bson(value: Any) -> Any:
    """A part of a document as pymongo would have written it for DaCapo: tuples are lists, paths are text."""
    match value:
        case None | bool() | float() | str() | bytes() | datetime():
            return value
        case int():
            return value if -(2**63) <= value < 2**63 else str(value)
        case Mapping():
            return {str(key): _as_bson(each) for key, each in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_as_bson(each) for each in value]
        case date():
            return value.isoformat()
    return str(value)
