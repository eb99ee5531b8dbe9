"""Weights of models and optimizers: files that are never overwritten, and the events that name them.

The log says which weights exist and which are best; the files hold them. Storing goes in this order,
and a crash between two steps leaves what is said behind each:

1. The payload is written durably under a name of its own in ``<run>/checkpoints/objects``, a file or an
   object of a bucket (one that no event names, for ``gc`` to find).
2. The event ``WeightsStored`` is appended: from here on the weights exist.
3. In a folder ``<run>/checkpoints/iterations/<n>`` becomes a hard link to the payload, for people and other
   tools (without it the weights are found all the same; the next touch of the iteration mends it).

Without waiting, the state is copied first, and the steps are those of the base's background thread;
so they come one store after the other, in the order of the calls.

Removing goes the other way: the event, then the link, then the payload. The best weights of a dataset
and criterion are events too; ``<run>/checkpoints/<dataset>/<criterion>.json`` is derived from them.

Invariants: no payload is ever opened for writing again; no byte of a payload reaches the unpickler
before its digest was checked; the unpickler makes nothing but tensors and plain containers. The
digest and the bytes' way to the disk belong to ``payload_place``, what is in a payload to ``weights_file``,
the names that people know to ``checkpoint_names``.
"""

from __future__ import annotations

import abc
import contextlib
import copy
import logging
import operator
import os
import uuid
import weakref
from collections.abc import Iterable, Mapping
from typing import IO, TYPE_CHECKING, Any, Literal, Protocol, cast, overload

from dacapo_store import weights_file
from dacapo_store.artifacts import Artifact
from dacapo_store.background import Job, Pending
from dacapo_store.base import Base
from dacapo_store.checkpoint_names import CheckpointNames, only_logged
from dacapo_store.errors import WeightsMissingError
from dacapo_store.events import EVENT_TYPES, BestWeightsChosen, WeightsRemoved, WeightsStored
from dacapo_store.names import run_name_of
from dacapo_store.payload_place import FolderPayloads
from dacapo_store.store_paths import absolute_path, base_of_store
from dacapo_store.weights_file import Weights
from dacapo_store.weights_history import WeightsHistory, weights_stream
from dacapo_store.weights_staging import Staging, StateTooLargeError
from eventstore import WriteRefusedError

if TYPE_CHECKING:
    import torch

    from dacapo_store.moments import Moment
    from eventstore import Event, RecordedEvent

__all__ = ["LocalWeightsStore", "TrainableRun", "Weights", "WeightsStore"]

logger = logging.getLogger(__name__)

_KIND = "weights"
"""What stores of weights are called in the background."""

_stagings: weakref.WeakKeyDictionary[Base, Staging] = weakref.WeakKeyDictionary()


class TrainableRun(Protocol):
    """What the weights of a run are taken from and put back into."""

    @property
    def name(self) -> str:
        """The run's name."""

    @property
    def model(self) -> torch.nn.Module:
        """The network."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Its optimizer."""


class WeightsStore(abc.ABC):
    """Where the weights of runs are kept. A run may be given as its name or as an object with one."""

    def load_weights(self, run: TrainableRun, iteration: int) -> None:
        """Put the weights of an iteration into the run's model and optimizer.

        Raises:
            WeightsMissingError: The run has no weights of this iteration.
            DamagedArtifactError: The file is not the one that was stored; the run is as it was.
        """
        weights = self.retrieve_weights(run.name, iteration)
        run.model.load_state_dict(weights.model)
        # An optimizer goes on with the very tensors that it is given: its own, not those in the file.
        run.optimizer.load_state_dict(copy.deepcopy(dict(weights.optimizer)))

    def load_best(self, run: TrainableRun, dataset: Any, criterion: str) -> None:
        """Put the best weights for a dataset and a criterion into the run's model and optimizer.

        Raises:
            WeightsMissingError: Nothing was chosen as best, or what was chosen is removed.
            DamagedArtifactError: The file is not the one that was stored; the run is as it was.
        """
        self.load_weights(run, self.retrieve_best(run.name, dataset, criterion))

    @abc.abstractmethod
    def latest_iteration(self, run: Any) -> int | None:
        """The greatest iteration that the run has weights of, or None."""

    @overload
    @abc.abstractmethod
    def store_weights(self, run: TrainableRun, iteration: int, *, wait: Literal[True] = True) -> None: ...

    @overload
    @abc.abstractmethod
    def store_weights(self, run: TrainableRun, iteration: int, *, wait: Literal[False]) -> Pending: ...

    @overload
    @abc.abstractmethod
    def store_weights(self, run: TrainableRun, iteration: int, *, wait: bool) -> Pending | None: ...

    @abc.abstractmethod
    def store_weights(self, run: TrainableRun, iteration: int, *, wait: bool = True) -> Pending | None:
        """Store the weights that the run's model and optimizer have now, or begin to."""

    @abc.abstractmethod
    def wait(self) -> None:
        """Return once everything that is stored in the background has ended, and raise what failed."""

    @abc.abstractmethod
    def retrieve_weights(self, run: Any, iteration: int) -> Weights:
        """The weights of an iteration."""

    @abc.abstractmethod
    def remove(self, run: Any, iteration: int) -> None:
        """Remove the weights of an iteration."""

    @abc.abstractmethod
    def store_best(self, run: Any, iteration: int, dataset: Any, criterion: str) -> None:
        """Choose an iteration as the best one for a dataset and a criterion."""

    @abc.abstractmethod
    def retrieve_best(self, run: Any, dataset: Any, criterion: str) -> int:
        """The iteration that is best for a dataset and a criterion."""


class LocalWeightsStore(WeightsStore):
    """The weights of all runs of a base directory.

    Any number of stores, threads and processes may use one base at once.

    Args:
        basedir: The base directory; a relative one is resolved now. It is created when missing.
        read_only: Open the base, which must exist, without writing to it, not even a lock or a link.
        as_of: Look at the store as it was at this position or time, read-only.

    Attributes:
        basedir: The base directory, absolute.
    """

    def __init__(
        self, basedir: str | os.PathLike[str], *, read_only: bool = False, as_of: Moment | None = None
    ) -> None:
        self.basedir = absolute_path(basedir)
        base = base_of_store(basedir, self.basedir)
        self._base = Base.at(base, read_only=read_only, as_of=as_of)
        self._place = self._base.payload_place
        # A bucket has no second names.
        self._names = (
            CheckpointNames(self._place.root, self._base.log)
            if isinstance(self._place, FolderPayloads)
            else None
        )

    def latest_iteration(self, run: Any) -> int | None:
        """The greatest iteration that the run has weights of, or None; other files do not matter.

        Raises:
            ValueError: The run's name cannot be the name of a folder.
        """
        name = self._run_name(run)
        self._settle(name)
        (latest,) = self._one("SELECT max(iteration) FROM weights WHERE run = ?", name) or (None,)
        return None if latest is None else int(latest)

    @overload
    def store_weights(self, run: TrainableRun, iteration: int, *, wait: Literal[True] = True) -> None: ...

    @overload
    def store_weights(self, run: TrainableRun, iteration: int, *, wait: Literal[False]) -> Pending: ...

    @overload
    def store_weights(self, run: TrainableRun, iteration: int, *, wait: bool) -> Pending | None: ...

    def store_weights(self, run: TrainableRun, iteration: int, *, wait: bool = True) -> Pending | None:
        """Store the weights that the run's model and optimizer have now.

        Once this returns, or what it returned is done, they survive a power cut. Storing an iteration
        again makes the new weights the present ones; the old file is not touched, and the log as of
        then still names it. NumPy scalars in the state become Python numbers. The first weights of
        a run leave ``checkpoints/trace.pt`` too, when its model can be traced; a failure of that is
        only logged.

        With ``wait=False`` the state is copied, and written while the training goes on; what is
        done to the model from here on does not reach the copy. Weights become visible in the order
        in which they were stored. Two stores of a base may be under way at once in a process; the
        next one waits. The other methods wait for the weights that they concern; SQL does not.
        ``wait()``, ``Base.close()`` and the end of the interpreter wait for all. A process that is
        killed before leaves no event, and a file for ``gc``. When there is no memory for a copy, a
        warning says so and the weights are stored before this returns.

        Args:
            run: An object with ``name``, ``model`` and ``optimizer``.
            iteration: How many iterations the weights were trained for.
            wait: Return when the weights are stored; otherwise, when they are copied.

        Returns:
            None, or without waiting what is under way: its ``result()`` waits and raises.

        Raises:
            ValueError: The run's name cannot be the name of a folder, or the iteration is negative.
            WeightsUnsafeError: The state holds objects that could not be loaded again without running
                code. Nothing was stored: turn them into tensors, numbers, strings, lists or dicts.
            OSError: The disk did not take the weights (full, quota, I/O error). Nothing was stored.
            ReadOnlyLogError: The store was opened read-only. Nothing was stored.
            Exception: What an *earlier* store failed with in the background, once; a note on it names
                its iteration. Nothing of this call was stored: call again.
        """
        self._base.require_writable()
        name, iteration = self._run_name(run), _iteration(iteration)
        background = self._base.background
        background.tell_failures()
        key = (_KIND, name, iteration)
        subject = f"storing the weights of iteration {iteration} of run {name!r}"
        if not wait:
            with contextlib.suppress(StateTooLargeError):
                pending = background.begin(key, subject, lambda: self._copied(run, name, iteration))
                self._leave_trace(run, name)
                return pending
            # Room for a copy may come with the end of those that are under way; waiting is all the same.
            logger.warning(
                "There is no memory for a copy of the weights of iteration %d of %s: they are stored while "
                "the training waits.",
                iteration,
                name,
            )
        self.wait()
        self._store(name, iteration, _state_of(run))
        self._leave_trace(run, name)
        return None if wait else Pending.ended(key, subject)

    def wait(self) -> None:
        """Return once everything that this process stores in the background of this base has ended.

        Raises:
            Exception: What failed in the background, if nobody was told of it yet.
        """
        self._base.background.wait()
        self._base.background.tell_failures()

    def retrieve_weights(self, run: Any, iteration: int) -> Weights:
        """The weights of an iteration, on the CPU, as they were stored.

        Size and digest are checked before anything is unpickled, and nothing but tensors and plain
        containers is made of the bytes. The tensors lie in the file and come into memory as they are
        used; they may be changed, and the file stays as it is. A file that lies in ``iterations``
        and that the log never knew (DaCapo's own, say) is loaded in the same careful way, without a
        digest to check.

        Raises:
            WeightsMissingError: The run has no weights of this iteration.
            DamagedArtifactError: The file is not the one that was stored: restore it from a copy.
            WeightsUnsafeError: A file that the log does not know holds more than weights.
            ValueError: The run's name cannot be the name of a folder.
        """
        name, iteration = self._run_name(run), _iteration(iteration)
        self._settle(name, iteration)
        row = self._one(
            "SELECT path, bytes, chunk_bytes, digest FROM weights WHERE run = ? AND iteration = ?",
            name,
            iteration,
        )
        if row is None:
            return self._retrieve_unrecorded(name, str(iteration))
        stored = WeightsStored(name, iteration, *row)
        weights = self._load_verified(stored)
        if self._names is not None and not self._base.read_only:
            self._names.mend(name, stored)
        return weights

    def _retrieve_weights(self, run: Any, key: str) -> Weights:
        """The weights under a key: an iteration, ``<dataset>/<criterion>`` for the best, or a file.

        DaCapo's starts call this. A file is looked for in ``checkpoints`` and ``iterations``.

        Raises:
            WeightsMissingError: Nothing is there under this key.
            DamagedArtifactError: The file is not the one that was stored: restore it from a copy.
            WeightsUnsafeError: A file that the log does not know holds more than weights.
            ValueError: The run's name cannot be the name of a folder, or the key leads out of it.
        """
        name, key = self._run_name(run), str(key)
        iteration = key.removeprefix("iterations/")
        if iteration.isascii() and iteration.isdigit() and str(int(iteration)) == iteration:
            return self.retrieve_weights(name, int(iteration))
        best = self._one(
            "SELECT iteration FROM best_weights WHERE run = ? AND dataset || '/' || criterion = ?", name, key
        )
        return self._retrieve_unrecorded(name, key) if best is None else self.retrieve_weights(name, best[0])

    def remove(self, run: Any, iteration: int) -> None:
        """Remove the weights of an iteration; that they were there stays in history.

        Where they were the best, nothing is best afterwards.

        Raises:
            WeightsMissingError: The run has no weights of this iteration.
            ValueError: The run's name cannot be the name of a folder.
            ReadOnlyLogError: The store was opened read-only.
        """
        self._base.require_writable()
        name, iteration = self._run_name(run), _iteration(iteration)
        self._settle(name, iteration)
        removed: list[WeightsHistory] = []

        def decide(events: Iterable[RecordedEvent]) -> list[Event]:
            history = WeightsHistory.of(events)
            if iteration not in history.stored:
                raise _missing(name, iteration, history)
            removed[:] = [history]
            return [EVENT_TYPES.event(WeightsRemoved(name, iteration))]

        self._base.decide(weights_stream(name), decide)
        history = removed[0]
        choices = [choice for choice, best in history.best.items() if best == iteration]
        # The weights are gone from here on; what a crash leaves of the files is for gc to find.
        if self._names is not None:
            with only_logged("what is derived from iteration %d of %s", iteration, name):
                self._names.derive(name, iterations=[iteration], choices=choices)
        with only_logged("deleting the weights of iteration %d of %s", iteration, name):
            self._place.remove(history.stored[iteration].path)

    def store_best(self, run: Any, iteration: int, dataset: Any, criterion: str) -> None:
        """Choose an iteration as the best one for a dataset and a criterion.

        The same choice again writes nothing. The choice also goes to
        ``checkpoints/<dataset>/<criterion>.json``, for people and other tools; what cannot be the
        name of a file in these names is percent-encoded there.

        Args:
            run: The run, or its name.
            iteration: An iteration that the run has weights of.
            dataset: The dataset's name, or an object with one.
            criterion: What they are the best by.

        Raises:
            WeightsMissingError: The run has no weights of this iteration; nothing was written.
            ValueError: The run's name cannot be the name of a folder.
            ReadOnlyLogError: The store was opened read-only.
        """
        self._base.require_writable()
        name, iteration = self._run_name(run), _iteration(iteration)
        self._settle(name, iteration)
        choice = (_dataset_name(dataset), str(criterion))

        def decide(events: Iterable[RecordedEvent]) -> list[Event]:
            history = WeightsHistory.of(events)
            if iteration not in history.stored:
                raise _missing(name, iteration, history)
            if history.best.get(choice) == iteration:
                return []
            return [EVENT_TYPES.event(BestWeightsChosen(name, *choice, iteration))]

        self._base.decide(weights_stream(name), decide)
        if self._names is not None:
            with only_logged("the file of the best weights of %s for %s by %s", name, *choice):
                self._names.derive(name, choices=[choice])

    def retrieve_best(self, run: Any, dataset: Any, criterion: str) -> int:
        """The iteration that is best for a dataset and a criterion.

        Raises:
            WeightsMissingError: Nothing was chosen, or what was chosen is removed.
            ValueError: The run's name cannot be the name of a folder.
        """
        name, dataset = self._run_name(run), _dataset_name(dataset)
        row = self._one(
            "SELECT iteration FROM best_weights WHERE run = ? AND dataset = ? AND criterion = ?",
            name,
            dataset,
            str(criterion),
        )
        if row is None:
            raise WeightsMissingError(
                f"run {name!r} has no best weights for dataset {dataset!r} by criterion {criterion!r}: "
                "choose them with store_best"
            )
        return int(row[0])

    def repair_links(self, run: Any = None) -> None:
        """Bring the links and JSON files of a run, or of all runs, to what the log says.

        Raises:
            ValueError: The run's name cannot be the name of a folder.
            OSError: The disk did not take a link or a file.
            ReadOnlyLogError: The store was opened read-only.
        """
        self._base.require_writable()
        self._base.background.wait()
        if self._names is None:
            return
        for name in self._runs() if run is None else [self._run_name(run)]:
            history = WeightsHistory.of(self._base.log.read_stream(weights_stream(name)))
            self._names.derive(name, iterations=history.iterations, choices=history.choices)

    def _leave_trace(self, run: TrainableRun, name: str) -> None:
        if self._names is not None:
            self._names.trace(run, name)

    def _run_name(self, run: Any) -> str:
        name = run_name_of(run)
        self._base.run_directory(name)
        return name

    def _one(self, sql: str, *parameters: Any) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None = self._base.query(sql, list(parameters)).fetchone()
        return row

    def _runs(self) -> list[str]:
        rows = self._base.query("SELECT DISTINCT stream FROM events WHERE starts_with(stream, 'weights/')")
        return sorted(stream.removeprefix("weights/") for (stream,) in rows.fetchall())

    def _settle(self, name: str, iteration: int | None = None) -> None:
        """Wait for what is under way of a run, or only of one iteration of it."""
        keys = (_KIND, name, iteration)[: 2 if iteration is None else 3]
        self._base.background.wait(lambda key: key[: len(keys)] == keys)

    def _copied(self, run: TrainableRun, name: str, iteration: int) -> Job:
        """The job of storing the weights as they are now."""
        staged = _stagings.setdefault(self._base, Staging()).copy(_state_of(run))

        def store() -> None:
            try:
                self._store(name, iteration, staged.state)
            finally:
                staged.release()

        return store

    def _store(self, name: str, iteration: int, state: Mapping[str, Any]) -> None:
        stored = self._write(name, iteration, state)
        if self._names is not None:
            self._names.keep_unrecorded(name, iteration)
        try:
            commit = self._base.append(weights_stream(name), [stored], trains=name)
        except WriteRefusedError:
            # The log is certain that it says nothing of this file, and a full disk wants the room back.
            self._place.remove(stored.path)
            raise
        # Readers find the weights from here on; a crash leaves only the link undone.
        if self._names is not None:
            self._names.follow(name, stored, commit.last_stream_version)

    def _write(self, name: str, iteration: int, state: Mapping[str, Any]) -> WeightsStored:
        artifact = self._place.write(
            f"{name}/checkpoints/objects/{iteration}-{uuid.uuid4().hex}.pt",
            lambda file: weights_file.save(state, cast("IO[bytes]", file)),
            check=weights_file.require_loadable,
        )
        return WeightsStored(
            name, iteration, artifact.path, artifact.bytes, artifact.chunk_bytes, artifact.digest
        )

    def _load_verified(self, stored: WeightsStored) -> Weights:
        artifact = Artifact(stored.path, stored.bytes, stored.chunk_bytes, stored.digest)
        try:
            file = self._place.opened(artifact)
        except FileNotFoundError as error:
            raise WeightsMissingError(
                f"the weights of iteration {stored.iteration} of run {stored.run!r} are on record, but "
                f"their file {self._place.where(stored.path)} is gone: restore it from a copy"
            ) from error
        with file:
            return weights_file.map_weights(file)

    def _retrieve_unrecorded(self, name: str, key: str) -> Weights:
        """Load a file that the log never knew; what it knows and calls removed stays removed."""
        history = WeightsHistory.of(self._base.log.read_stream(weights_stream(name)))
        if self._names is not None and key not in map(str, history.iterations):
            path = self._names.unrecorded(name, key)
            if path is not None:
                with path.open("rb") as file:
                    return weights_file.load(file)
        raise _missing(name, key, history)


def _state_of(run: TrainableRun) -> dict[str, Any]:
    state = {"model": run.model.state_dict(), "optimizer": run.optimizer.state_dict()}
    return {part: weights_file.plain_state(content) for part, content in state.items()}


def _missing(name: str, iteration: int | str, history: WeightsHistory) -> WeightsMissingError:
    latest = f"its latest are those of iteration {max(history.stored)}" if history.stored else "it has none"
    return WeightsMissingError(f"run {name!r} has no weights of iteration {iteration}: {latest}")


def _iteration(iteration: int) -> int:
    number = operator.index(iteration)
    if number < 0:
        raise ValueError(f"iteration {number} is impossible: iterations count from 0")
    return number


def _dataset_name(dataset: Any) -> str:
    """A dataset is known by its name, whichever way it is given; anything else by its text."""
    name = dataset if isinstance(dataset, str) else getattr(dataset, "name", None)
    return name if isinstance(name, str) else str(dataset)
