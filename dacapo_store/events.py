"""The experiment events: everything that can happen to a base, in the past tense.

Each struct is the ``data`` of one event type; the bulk columns ``index`` and ``values`` that go
with it are described in its docstring. ``projections`` reads these very names and fields with
SQL, so a change of shape needs a new schema version, an upcaster and a projection that knows both.

Streams: ``config/<kind>/<name>``, ``training/<run>``, ``validation/<run>``, ``weights/<run>`` and
``arrays/<container>``.
"""

from __future__ import annotations

from typing import Any

import msgspec

from eventstore import EVENT_LOST, EventTypes

EVENT_TYPES = EventTypes()


@EVENT_TYPES.register(EVENT_LOST)
class EventLost(msgspec.Struct, frozen=True):
    """The place of an event that damage has taken; the log itself writes it when it is repaired.

    Folds take no notice: what is in view is what the other events say. ``repair`` names the folder in
    quarantine that holds what is left of it.
    """

    first_position: int
    next_position: int
    repair: str


@EVENT_TYPES.register("ConfigStored")
class ConfigStored(msgspec.Struct, frozen=True):
    """A config got this document.

    ``kind`` is ``runs``, ``tasks``, ``architectures``, ``trainers``, ``datasplits``, ``datasets`` or
    ``arrays``.
    """

    kind: str
    name: str
    document: Any


@EVENT_TYPES.register("ConfigDeleted")
class ConfigDeleted(msgspec.Struct, frozen=True):
    """A config is gone from the present view; its history stays."""

    kind: str
    name: str


@EVENT_TYPES.register("TrainingStatsRecorded")
class TrainingStatsRecorded(msgspec.Struct, frozen=True):
    """Rows behind those that the run had in this epoch.

    ``index`` holds n iterations, ``values`` n numbers for the first column, then n for the
    second, and so on; a null is a scalar that this iteration does not have.
    """

    run: str
    epoch: int
    columns: list[str]


@EVENT_TYPES.register("TrainingEpochBegun")
class TrainingEpochBegun(msgspec.Struct, frozen=True):
    """Of all earlier epochs of the run only rows with iteration < ``keeps_below`` stay in view."""

    run: str
    epoch: int
    keeps_below: int


@EVENT_TYPES.register("TrainingStatsDeleted")
class TrainingStatsDeleted(msgspec.Struct, frozen=True):
    """The run's stats left the view; ``epoch`` is the one that begins, keeping nothing."""

    run: str
    epoch: int


@EVENT_TYPES.register("ValidationScoresRecorded")
class ValidationScoresRecorded(msgspec.Struct, frozen=True):
    """Scores of n iterations that share one structure, behind those that the run had.

    ``lengths[d][p]`` is the number of criteria that dataset d has under parameters p. Their sum L
    is the number of scores of an iteration. ``index`` holds the n iterations, ``values`` n·L
    numbers: iteration after iteration; within one, dataset, then parameters, then criterion.
    The names may be fewer than the indices in use; a missing name reads as its index.
    """

    run: str
    epoch: int
    datasets: list[str]
    parameters: list[str]
    criteria: list[str]
    lengths: list[list[int]]


@EVENT_TYPES.register("ValidationEpochBegun")
class ValidationEpochBegun(msgspec.Struct, frozen=True):
    """Of all earlier epochs of the run only scores with iteration < ``keeps_below`` stay in view."""

    run: str
    epoch: int
    keeps_below: int


@EVENT_TYPES.register("ValidationScoresDeleted")
class ValidationScoresDeleted(msgspec.Struct, frozen=True):
    """The run's scores left the view; ``epoch`` is the one that begins, keeping nothing."""

    run: str
    epoch: int


@EVENT_TYPES.register("WeightsStored")
class WeightsStored(msgspec.Struct, frozen=True):
    """A weights file is durable at ``path`` (relative to the base, with ``/``).

    ``digest`` is the SHA-256 over the SHA-256 digests of the file's chunks of ``chunk_bytes``.
    """

    run: str
    iteration: int
    path: str
    bytes: int
    chunk_bytes: int
    digest: str


@EVENT_TYPES.register("WeightsRemoved")
class WeightsRemoved(msgspec.Struct, frozen=True):
    """The weights of an iteration are gone, and with them what was best because of them."""

    run: str
    iteration: int


@EVENT_TYPES.register("WeightsRewound")
class WeightsRewound(msgspec.Struct, frozen=True):
    """Weights of iterations above ``keeps_until`` left the view, and what was best because of them.

    Unlike removed ones their files stay: the state before can be loaded and restored.
    """

    run: str
    keeps_until: int


@EVENT_TYPES.register("WeightsPayloadDropped")
class WeightsPayloadDropped(msgspec.Struct, frozen=True):
    """The file of weights that were stored again since is deleted, to make room.

    The present view is as it was; the log as of the time before cannot load these weights any more.
    """

    run: str
    iteration: int
    path: str


@EVENT_TYPES.register("BestWeightsChosen")
class BestWeightsChosen(msgspec.Struct, frozen=True):
    """From now on the best iteration of the run for this dataset and criterion."""

    run: str
    dataset: str
    criterion: str
    iteration: int


@EVENT_TYPES.register("ArrayRecorded")
class ArrayRecorded(msgspec.Struct, frozen=True):
    """A zarr array lay in a container, written by other means, when it was looked at.

    Arrays change without an event; this says what one was then. ``container`` is relative to the
    base. ``digest`` is the SHA-256 of the JSON list of ``[path, bytes, SHA-256]`` of every file below
    the dataset, sorted by path; None where the files were only counted.
    """

    container: str
    dataset: str
    shape: list[int]
    dtype: str
    chunks: list[int]
    bytes: int
    files: int
    digest: str | None


@EVENT_TYPES.register("ArrayRemoved")
class ArrayRemoved(msgspec.Struct, frozen=True):
    """A zarr array or group was removed; what it was stays on record.

    ``container`` is relative to the base when it lies within. ``shape``, ``dtype`` and ``chunks``
    are None for a group. ``listing`` holds ``[path, bytes]`` of every file below the dataset,
    sorted by path; ``listing_digest`` is the SHA-256 of its JSON.
    """

    container: str
    dataset: str
    shape: list[int] | None
    dtype: str | None
    chunks: list[int] | None
    bytes: int
    listing: list[list[str | int]]
    listing_digest: str
