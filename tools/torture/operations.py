"""Everything that a writer can do to a base, told in numbers, and what must be there afterwards.

An ``Operation`` is one store call. ``perform`` does it to a base, ``after`` says what it makes of a
``State``, without looking at any store, and ``observe`` reads the state that a base is in through the
stores' public names. Each writer has subjects of its own (configs, a run, arrays, a stream of
notes), so its state depends on its operations alone, whatever other writers do meanwhile.

The content of whatever is stored is made of one number, so that reading it back can say which
content it is, and whether all of it is there.
"""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Final, Self
from uuid import uuid4

import numpy as np
import torch

from dacapo_store import (
    DuplicateNameError,
    FileConfigStore,
    FileStatsStore,
    LocalArrayIdentifier,
    LocalArrayStore,
    LocalWeightsStore,
    TrainingIterationStats,
    ValidationIterationScores,
)
from dacapo_store.base import Base
from eventstore import Event, RecordedEvent, StreamAppend, derived_id

KINDS: Final = ("tasks", "runs", "datasets")
SHARED_KIND: Final = "trainers"
SHARED_NOTES: Final = "notes/shared"
"""The stream that every writer appends to, beside its own."""

_CHUNKS: Final = 3
_CHUNK_BYTES: Final = 64
_NOTE_PARTS: Final = 2
_LOGGED_ROWS: Final = 4


class BrokenPromiseError(Exception):
    """What a base holds is not what any operation left there."""


@dataclass(frozen=True)
class Operation:
    """One store call.

    Attributes:
        what: The method of ``_Performer`` that does it.
        subject: What it is about, where a writer has several: a config, an array, a criterion.
        number: What the content is made of.
        first: The first iteration concerned.
        count: How many iterations, or parts.
    """

    what: str
    subject: str = ""
    number: int = 0
    first: int = 0
    count: int = 0

    def as_document(self) -> dict[str, Any]:
        """The operation as JSON can hold it."""
        return asdict(self)


@dataclass(frozen=True)
class State:
    """What the subjects of one writer hold.

    Attributes:
        configs: For each config, ``<kind>/<name>``, the number that it is made of.
        training: Iteration and number of each row of training stats.
        validation: Likewise of each iteration's scores.
        weights: For each iteration that has weights, as text, the number.
        best: For each criterion the best iteration.
        arrays: For each array that ever was: there, removed, or there with its removal on record.
        notes: The numbers of the raw commits in the writer's own stream.
    """

    configs: dict[str, int] = field(default_factory=dict)
    training: list[list[int]] = field(default_factory=list)
    validation: list[list[int]] = field(default_factory=list)
    weights: dict[str, int] = field(default_factory=dict)
    best: dict[str, int] = field(default_factory=dict)
    arrays: dict[str, str] = field(default_factory=dict)
    notes: list[int] = field(default_factory=list)

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> Self:
        """The state that ``as_document`` told."""
        return cls(**document)

    def as_document(self) -> dict[str, Any]:
        """The state as JSON can hold it."""
        return asdict(self)

    def differences(self, other: State) -> str:
        """Where two states differ, for a message."""
        mine, others = self.as_document(), other.as_document()
        return "; ".join(
            f"{part}: {json.dumps(mine[part])} and not {json.dumps(others[part])}"
            for part in mine
            if mine[part] != others[part]
        )


THERE: Final = "there"
RECORDED: Final = "there, its removal on record"
REMOVED: Final = "removed"


# --- what an operation makes of a state


def outcomes(operation: Operation, state: State) -> list[State]:
    """The states in which a kill in the middle of an operation may leave the base."""
    middle = []
    if operation.what == "remove_array" and state.arrays[operation.subject] == THERE:
        middle = [replace(state, arrays={**state.arrays, operation.subject: RECORDED})]
    if operation.what == "log_training":
        # Each row is kept for itself.
        middle = [after(replace(operation, count=count), state) for count in range(operation.count)]
    return [state, *middle, after(operation, state)]


def after(operation: Operation, state: State) -> State:
    """The state that an operation leaves when it returns."""
    return _EFFECTS[operation.what](operation, state)


def _weights_removed(operation: Operation, state: State) -> State:
    """What was the best because of them is so no longer."""
    best = {key: value for key, value in state.best.items() if value != operation.first}
    return replace(state, weights=_without(state.weights, str(operation.first)), best=best)


def _noted(operation: Operation, state: State) -> State:
    """The same note again is recognised by its ids."""
    known = operation.number in state.notes
    return state if known else replace(state, notes=[*state.notes, operation.number])


def _configs_stored(operation: Operation) -> dict[str, int]:
    """A run's task is stored with it."""
    stored = {operation.subject: operation.number}
    kind, name = operation.subject.split("/")
    return {**stored, f"tasks/{name}-task": operation.number} if kind == "runs" else stored


def _rows(operation: Operation) -> list[list[int]]:
    """What a store call of stats is given: one number for all, as one life of a trainer makes them."""
    return [
        [iteration, operation.number]
        for iteration in range(operation.first, operation.first + operation.count)
    ]


def _stored(rows: list[list[int]], given: list[list[int]]) -> list[list[int]]:
    """DaCapo's rule: what ends earlier replaces all; otherwise what is below its begin stays."""
    if rows and given[-1][0] < max(iteration for iteration, _ in rows):
        return given
    return [row for row in rows if row[0] < given[0][0]] + given


def _logged(rows: list[list[int]], given: list[list[int]], first: int) -> list[list[int]]:
    """A logger keeps what is below its begin, wherever it ends."""
    return [row for row in rows if row[0] < first] + given


def _without(items: Mapping[str, int], key: str) -> dict[str, int]:
    return {other: value for other, value in items.items() if other != key}


_EFFECTS: Final[dict[str, Callable[[Operation, State], State]]] = {
    "store_config": lambda op, state: replace(state, configs={**_configs_stored(op), **state.configs}),
    "delete_config": lambda op, state: replace(state, configs=_without(state.configs, op.subject)),
    "store_training": lambda op, state: replace(state, training=_stored(state.training, _rows(op))),
    "log_training": lambda op, state: replace(state, training=_logged(state.training, _rows(op), op.first)),
    "delete_training": lambda _, state: replace(state, training=[]),
    "store_validation": lambda op, state: replace(state, validation=_stored(state.validation, _rows(op))),
    "delete_validation": lambda _, state: replace(state, validation=[]),
    "store_weights": lambda op, state: replace(state, weights={**state.weights, str(op.first): op.number}),
    "remove_weights": _weights_removed,
    "store_best": lambda op, state: replace(state, best={**state.best, op.subject: op.first}),
    "make_array": lambda op, state: replace(state, arrays={**state.arrays, op.subject: THERE}),
    "remove_array": lambda op, state: replace(state, arrays={**state.arrays, op.subject: REMOVED}),
    "note": _noted,
    "contend": lambda _, state: state,
}


# --- choosing


def choose(dice: random.Random, state: State, number: int, *, writer: str) -> Operation:
    """An operation that makes sense in a state, with ``number`` as what it makes of its content."""
    what = dice.choice(_CHOICES)
    return what(dice, state, number, writer)


def _choose_config(dice: random.Random, state: State, number: int, writer: str) -> Operation:
    stored = [config for config in state.configs if not config.endswith("-task")]
    if stored and dice.random() < 0.4:  # noqa: PLR2004 - habits of a writer, here and below
        return Operation("delete_config", dice.choice(stored))
    if stored and dice.random() < 0.2:  # noqa: PLR2004
        again = dice.choice(stored)
        return Operation("store_config", again, state.configs[again])
    return Operation("store_config", f"{dice.choice(KINDS)}/{writer}-{number}", number)


def _choose_stats(part: str) -> Callable[[random.Random, State, int, str], Operation]:
    def chosen(dice: random.Random, state: State, number: int, _: str) -> Operation:
        rows: list[list[int]] = getattr(state, part)
        luck = dice.random()
        if rows and luck < 0.1:  # noqa: PLR2004
            return Operation(f"delete_{part}")
        behind = rows[-1][0] + 1 if rows else 0
        # A trainer that resumes begins somewhere in the middle; some come back with fewer rows.
        first = dice.randrange(behind) if rows and luck < 0.4 else behind  # noqa: PLR2004
        count = dice.choice([1, 2, 3, 10, 10, 100])
        what = f"log_{part}" if part == "training" and dice.random() < 0.5 else f"store_{part}"  # noqa: PLR2004
        return Operation(what, number=number, first=first, count=count)

    return chosen


def _choose_weights(dice: random.Random, state: State, number: int, _: str) -> Operation:
    if state.weights and dice.random() < 0.6:  # noqa: PLR2004
        iteration = int(dice.choice(list(state.weights)))
        if dice.random() < 0.5:  # noqa: PLR2004
            return Operation("remove_weights", first=iteration)
        return Operation("store_best", dice.choice(["voi", "a/b"]), first=iteration)
    return Operation("store_weights", number=number, first=dice.randrange(6))


def _choose_array(dice: random.Random, state: State, number: int, _: str) -> Operation:
    there = [array for array, how in state.arrays.items() if how != REMOVED]
    if there and dice.random() < 0.6:  # noqa: PLR2004
        return Operation("remove_array", dice.choice(there))
    return Operation("make_array", f"{number}/crop/prediction", number)


def _choose_note(dice: random.Random, _: State, number: int, __: str) -> Operation:
    return Operation("note", dice.choice(["commit", "os"]), number, count=dice.choice([1, 10, 1000]))


def _choose_contention(dice: random.Random, _: State, __: int, ___: str) -> Operation:
    return Operation("contend", f"shared-{dice.randrange(30)}")


_CHOICES: Final = (
    _choose_config,
    _choose_stats("training"),
    _choose_stats("training"),
    _choose_stats("validation"),
    _choose_weights,
    _choose_weights,
    _choose_weights,
    _choose_array,
    _choose_note,
    _choose_note,
    _choose_contention,
)


# --- doing


def perform(operation: Operation, state: State, *, base: Path, writer: str) -> dict[str, Any]:
    """Do an operation to a base.

    Returns:
        What the call answered, as JSON can hold it; nothing for most.
    """
    answer: dict[str, Any] | None = getattr(_Performer(base, writer, state), operation.what)(operation)
    return answer or {}


class _Performer:
    """The operations as store calls. A store object is cheap and made anew for each."""

    def __init__(self, base: Path, writer: str, state: State) -> None:
        self.base, self.writer, self.state = base, writer, state

    def store_config(self, operation: Operation) -> None:
        kind, name = operation.subject.split("/")
        store = FileConfigStore(self.base / "configs")
        getattr(store, f"store_{kind[:-1]}_config")(_document(kind, name, operation.number))

    def delete_config(self, operation: Operation) -> None:
        kind, name = operation.subject.split("/")
        FileConfigStore(self.base / "configs").delete_config(kind, name)

    def store_training(self, operation: Operation) -> None:
        given = _rows(operation)
        known = self.state.training
        # A trainer that goes on passes its whole list; one that resumed has only its own.
        if known and operation.first > known[-1][0]:
            given = [*known, *given]
        rows = [_training_row(*row) for row in given]
        FileStatsStore(self.base / "stats").store_training_stats(self.writer, rows)

    def log_training(self, operation: Operation) -> None:
        store = FileStatsStore(self.base / "stats")
        with store.scalar_logger(self.writer, flush_rows=_LOGGED_ROWS) as log:
            for row in _rows(operation):
                stats = _training_row(*row)
                log.add(stats.iteration, **stats.scalars)

    def delete_training(self, _: Operation) -> None:
        FileStatsStore(self.base / "stats").delete_training_stats(self.writer)

    def store_validation(self, operation: Operation) -> None:
        rows = [_validation_row(*row) for row in _rows(operation)]
        FileStatsStore(self.base / "stats").store_validation_iteration_scores(self.writer, rows)

    def delete_validation(self, _: Operation) -> None:
        FileStatsStore(self.base / "stats").delete_validation_scores(self.writer)

    def store_weights(self, operation: Operation) -> None:
        LocalWeightsStore(self.base).store_weights(_Run(self.writer, operation.number), operation.first)

    def remove_weights(self, operation: Operation) -> None:
        LocalWeightsStore(self.base).remove(self.writer, operation.first)

    def store_best(self, operation: Operation) -> None:
        LocalWeightsStore(self.base).store_best(self.writer, operation.first, "crop", operation.subject)

    def make_array(self, operation: Operation) -> None:
        """Not a store's work: a trainer writes arrays itself. It comes into its place whole."""
        place = _array_folder(self.base, self.writer, operation.subject)
        new = self.base / self.writer / f"making-{uuid4().hex}"
        new.mkdir(parents=True)
        for name, content in _array_files(operation.number).items():
            (new / name).write_bytes(content)
        place.parent.mkdir(parents=True, exist_ok=True)
        new.rename(place)

    def remove_array(self, operation: Operation) -> None:
        LocalArrayStore(self.base).remove(_array_identifier(self.base, self.writer, operation.subject))

    def note(self, operation: Operation) -> dict[str, Any]:
        own = [self._note(operation, part) for part in range(_NOTE_PARTS)]
        appends = [StreamAppend(f"notes/{self.writer}", own)]
        if goes_to_both(operation.number):
            appends.append(StreamAppend(SHARED_NOTES, [self._note(operation, _NOTE_PARTS)]))
        durability: Any = operation.subject
        commit = Base.at(self.base).log.append_to_streams(appends, durability=durability)
        return {"first_position": commit.first_position, "next_position": commit.next_position}

    def _note(self, operation: Operation, part: int) -> Event:
        data = {"writer": self.writer, "number": operation.number, "part": part}
        values = np.full(operation.count, operation.number, np.float64)
        return Event("Noted", data, values=values, event_id=derived_id(self.writer, operation.number, part))

    def contend(self, operation: Operation) -> dict[str, Any]:
        store = FileConfigStore(self.base / "configs")
        try:
            store.store_trainer_config({"name": operation.subject, "owner": self.writer})
        except DuplicateNameError:
            return {"shared": operation.subject, "won": False}
        return {"shared": operation.subject, "won": True}


# --- looking


def observe(base: Path, writer: str) -> State:
    """The state of a writer's subjects, read through the stores.

    Raises:
        BrokenPromiseError: Something is there in part, or is not what was ever stored.
    """
    log = Base.at(base).log
    return State(
        configs=_observed_configs(FileConfigStore(base / "configs"), writer),
        training=_observed_training(FileStatsStore(base / "stats"), writer),
        validation=_observed_validation(FileStatsStore(base / "stats"), writer),
        weights=_observed_weights(base, writer),
        best=_observed_best(base, writer),
        arrays=_observed_arrays(base, writer),
        notes=_noted_numbers(log.read_stream(f"notes/{writer}"), parts=_NOTE_PARTS),
    )


def _observed_configs(store: FileConfigStore, writer: str) -> dict[str, int]:
    found = {}
    for kind in KINDS:
        for name in getattr(store, f"retrieve_{kind[:-1]}_config_names")():
            if not name.startswith(f"{writer}-"):
                continue
            document = getattr(store, f"retrieve_{kind[:-1]}_config")(name, raw=True)
            expected = _document(kind, name, document["number"])
            # By their text, for which NaN is equal to itself and a tuple is no list.
            _require(repr(document) == repr(expected), f"the config {kind}/{name} is {document}")
            found[f"{kind}/{name}"] = int(document["number"])
    return found


def _observed_training(store: FileStatsStore, writer: str) -> list[list[int]]:
    rows = list(store.retrieve_training_stats(writer).iteration_stats)
    found = [[row.iteration, int(row.scalars["life"])] for row in rows]
    _require(rows == [_training_row(*row) for row in found], f"training stats of {writer}: {rows}")
    return found


def _observed_validation(store: FileStatsStore, writer: str) -> list[list[int]]:
    rows = store.retrieve_validation_iteration_scores(writer)
    found = [[row.iteration, int(row.scores[0][0][0])] for row in rows]
    _require(rows == [_validation_row(*row) for row in found], f"validation scores of {writer}: {rows}")
    return found


def _observed_weights(base: Path, writer: str) -> dict[str, int]:
    store = LocalWeightsStore(base)
    rows = Base.at(base).query("SELECT iteration FROM weights WHERE run = ?", [writer]).fetchall()
    found = {}
    for (iteration,) in rows:
        weights = store.retrieve_weights(writer, iteration)
        number = int(weights.model["weight"][0])
        same = torch.equal(weights.model["weight"], _tensor(number))
        _require(same and weights.optimizer == {"step": number}, f"weights {iteration} of {writer}")
        found[str(iteration)] = number
    latest = store.latest_iteration(writer)
    _require(latest == max(map(int, found), default=None), f"the latest weights of {writer} are {latest}")
    return found


def _observed_best(base: Path, writer: str) -> dict[str, int]:
    rows = Base.at(base).query("SELECT criterion, iteration FROM best_weights WHERE run = ?", [writer])
    found = {criterion: int(iteration) for criterion, iteration in rows.fetchall()}
    for criterion, iteration in found.items():
        retrieved = LocalWeightsStore(base).retrieve_best(writer, "crop", criterion)
        _require(retrieved == iteration, f"best of {writer} by {criterion} is {retrieved}")
    return found


def _observed_arrays(base: Path, writer: str) -> dict[str, str]:
    rows = Base.at(base).query(
        "SELECT dataset, count(*), min(bytes), min(shape[1]) FROM array_removals "
        "WHERE starts_with(container, ?) GROUP BY dataset",
        [f"{writer}/"],
    )
    found = {}
    size = sum(map(len, _array_files(0).values()))
    for dataset, count, size_on_record, shape in rows.fetchall():
        whole = (count, size_on_record, shape) == (1, size, _CHUNKS)
        _require(whole, f"the removal of {dataset} of {writer}: {count, size_on_record, shape}")
        found[dataset] = REMOVED
    container = Path(str(_array_identifier(base, writer, "").container))
    for folder in container.glob("*/crop/prediction"):
        dataset = folder.relative_to(container).as_posix()
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        _require(files == _array_files(int(dataset.split("/")[0])), f"the array {folder} is not whole")
        found[dataset] = RECORDED if dataset in found else THERE
    return found


def goes_to_both(number: int) -> bool:
    """True for notes that one commit adds to the writer's own stream and to the shared one."""
    return number % 3 == 0


def _noted_numbers(events: Any, *, parts: int) -> list[int]:
    """The numbers of the commits in a stream of notes, each of which has so many parts there."""
    by_number: dict[int, list[RecordedEvent]] = {}
    for event in events:
        by_number.setdefault(event.data["number"], []).append(event)
    for number, same in by_number.items():
        found = [event.data["part"] for event in same]
        _require(found == list(range(parts)), f"note {number} has the parts {found}")
        values = {value.as_py() for event in same if event.values is not None for value in event.values}
        _require(values == {number}, f"note {number} holds the values {values}")
    return list(by_number)


def _require(kept: bool, broken: str) -> None:  # noqa: FBT001 - a condition, like that of an assert
    if not kept:
        raise BrokenPromiseError(broken)


# --- contents, each made of one number


def _document(kind: str, name: str, number: int) -> dict[str, Any]:
    document = {
        "name": name,
        "number": number,
        "rate": math.nan,
        "shape": (number, 2),
        "nested": {"none": None, "text": "ä" * (number % 50)},
    }
    if kind == "runs":
        document["task_config"] = _document("tasks", f"{name}-task", number)
    return document


def _training_row(iteration: int, number: int) -> TrainingIterationStats:
    loss = math.nan if iteration % 7 == 0 else iteration + number / 1024
    return TrainingIterationStats(iteration, loss, 0.5, life=number)


def _validation_row(iteration: int, number: int) -> ValidationIterationScores:
    return ValidationIterationScores(iteration, [[[float(number), math.inf], [float(iteration)]], [[]]])


def _tensor(number: int) -> torch.Tensor:
    return torch.arange(number, number + 50, dtype=torch.float64)


@dataclass(frozen=True)
class _Holder:
    """What a model or an optimizer is for the weights store: it gives its state."""

    state: dict[str, Any]

    def state_dict(self) -> dict[str, Any]:
        return self.state


class _Run:
    """A run as the weights store wants it."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.model: Any = _Holder({"weight": _tensor(number)})
        self.optimizer: Any = _Holder({"step": number})


def _array_identifier(base: Path, writer: str, dataset: str) -> LocalArrayIdentifier:
    return LocalArrayIdentifier(LocalArrayStore(base).validation_container(writer).container, dataset)


def _array_folder(base: Path, writer: str, dataset: str) -> Path:
    return base / writer / "validation.zarr" / dataset


@cache
def _array_files(number: int) -> dict[str, bytes]:
    """A zarr array of format 2, as files."""
    metadata = {
        "chunks": [1, _CHUNK_BYTES],
        "compressor": None,
        "dtype": "|u1",
        "fill_value": 0,
        "filters": None,
        "order": "C",
        "shape": [_CHUNKS, _CHUNK_BYTES],
        "zarr_format": 2,
    }
    chunks = {f"{chunk}.0": bytes([(number + chunk) % 256]) * _CHUNK_BYTES for chunk in range(_CHUNKS)}
    return {".zarray": json.dumps(metadata).encode(), **chunks}


def warm_up(folder: Path) -> None:
    """Do each operation once, so that what Python and torch load on first use is there."""
    state = State()
    for operation in SCENARIO:
        perform(operation, state, base=folder, writer="w0")
        state = after(operation, state)
    Base.at(folder).close()
    shutil.rmtree(folder)


SCENARIO: Final = (
    Operation("store_config", "runs/w0-1", 1),
    Operation("store_config", "tasks/w0-2", 2),
    Operation("store_training", number=3, first=0, count=10),
    Operation("store_training", number=4, first=10, count=100),
    Operation("log_training", number=22, first=100, count=30),
    Operation("store_validation", number=5, first=0, count=3),
    Operation("store_weights", number=6, first=10),
    Operation("store_best", "voi", first=10),
    Operation("note", "commit", 9, count=100),
    Operation("store_training", number=10, first=60, count=70),
    Operation("store_weights", number=11, first=10),
    Operation("store_weights", number=12, first=20),
    Operation("store_best", "voi", first=20),
    Operation("make_array", "13/crop/prediction", 13),
    Operation("remove_array", "13/crop/prediction"),
    Operation("contend", "shared-0"),
    Operation("remove_weights", first=20),
    Operation("delete_config", "tasks/w0-2"),
    Operation("store_validation", number=17, first=1, count=5),
    Operation("note", "os", 18, count=1000),
    Operation("delete_validation"),
    Operation("delete_training"),
    Operation("store_training", number=21, first=0, count=1),
)
"""A day in the life of a base: every operation, resumes and repetitions among them."""
