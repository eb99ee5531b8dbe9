"""What the demo asks of the record: questions in SQL over the public views, and their answers.

Every answer comes from the base directory alone, so that the report can be made again at any time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from dacapo_store import Options, create_array_store, create_stats_store, create_weights_store

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from dacapo_store import Base, TrainingStats

BEST_OF_EACH_RUN: Final = """\
SELECT run,
       document -> 'architecture_config' ->> 'width'     AS width,
       document -> 'trainer_config' ->> 'optimizer'      AS optimizer,
       document -> 'trainer_config' ->> 'learning_rate'  AS learning_rate,
       round(max(dice), 4)                               AS best_dice,
       arg_max(iteration, dice)                          AS at_iteration,
       arg_max(parameters, dice)                         AS with_parameters
FROM (SELECT run, iteration, parameters, avg(score) AS dice  -- the mean over both fields
      FROM validation_scores WHERE criterion = 'dice' GROUP BY ALL)
JOIN runs ON name = run
GROUP BY ALL ORDER BY best_dice DESC"""

FIRST_BEST: Final = """
SELECT position + 1, recorded_at, data ->> 'run', data ->> 'dataset', data ->> 'criterion'
FROM events WHERE type = 'BestWeightsChosen' ORDER BY position LIMIT 1
"""

STATE_AS_OF: Final = """
SELECT name,
       (SELECT count(*) FROM training_stats_at($position) WHERE run = name),
       (SELECT arg_max(loss, iteration) FROM training_stats_at($position) WHERE run = name),
       (SELECT count(*) FROM weights_at($position) WHERE run = name),
       (SELECT max(score) FROM validation_scores_at($position) WHERE run = name AND criterion = 'dice'),
       (SELECT string_agg(DISTINCT iteration::VARCHAR, ', ') FROM best_weights_at($position)
        WHERE run = name AND criterion = 'dice')
FROM runs_at($position) ORDER BY name
"""

HISTORY_OF_A_CONFIG: Final = """
SELECT position, recorded_at, type, data -> 'document' ->> 'learning_rate', metadata ->> 'user'
FROM events WHERE stream = 'config/' || $kind || '/' || $name ORDER BY position
"""

REWINDS: Final = """
SELECT position, recorded_at, data ->> 'run', (data ->> 'keeps_below')::BIGINT
FROM events WHERE type = 'TrainingEpochBegun' ORDER BY position
"""

REPEATED: Final = """
SELECT count(*), count(*) FILTER (past.loss = present.loss)
FROM training_stats_at($position) AS past LEFT JOIN training_stats AS present USING (run, iteration)
WHERE run = $run AND iteration >= $kept
"""

ARRAYS_REMOVED: Final = """
SELECT count(*), coalesce(sum(bytes), 0), coalesce(sum(files), 0) FROM array_removals
"""

LOSSES_AS_OF: Final = """
SELECT iteration, loss FROM training_stats_at($position) WHERE run = $run ORDER BY position, ordinal
"""

SCORES_OF_A_RUN: Final = """
SELECT iteration, max(dice) FROM (
    SELECT iteration, parameters, avg(score) AS dice FROM validation_scores
    WHERE run = $run AND criterion = 'dice' GROUP BY ALL
) GROUP BY iteration ORDER BY iteration
"""


@dataclass(frozen=True)
class Moment:
    """The moment at which best weights were chosen for the first time, and the log as of then."""

    position: int
    recorded_at: datetime
    run: str
    dataset: str
    criterion: str


@dataclass(frozen=True)
class RunAsOf:
    """What the store knew of a run at some position of the log."""

    run: str
    iterations: int
    loss: float | None
    weights: int
    best_dice: float | None
    best_iterations: str | None


@dataclass(frozen=True)
class Rewind:
    """A run went back to its weights: what left the view, and what came in its place."""

    position: int
    recorded_at: datetime
    run: str
    kept_below: int
    lost: int
    repeated_exactly: int


@dataclass(frozen=True)
class Segmentation:
    """The best prediction of a run for a field of the micrograph, with what it was made from."""

    run: str
    field: str
    iteration: int
    raw: NDArray[np.float32]
    truth: NDArray[np.bool_]
    probabilities: NDArray[np.float32]


def runs(base: Base) -> list[str]:
    """The names of all runs."""
    return [name for (name,) in base.query("SELECT name FROM runs ORDER BY position, name").fetchall()]


def first_best(base: Base) -> Moment:
    """When weights were first chosen as best: the log as of just behind that event."""
    return Moment(*base.query(FIRST_BEST).fetchone())


def state_as_of(base: Base, position: int) -> list[RunAsOf]:
    """What the store knew of each run at a position."""
    return [RunAsOf(*row) for row in base.query(STATE_AS_OF, {"position": position}).fetchall()]


def history_of_config(base: Base, kind: str, name: str) -> list[tuple[Any, ...]]:
    """Position, time, event, learning rate and user of all that happened to a trainer config."""
    rows: list[tuple[Any, ...]] = base.query(HISTORY_OF_A_CONFIG, {"kind": kind, "name": name}).fetchall()
    return rows


def rewinds(base: Base) -> list[Rewind]:
    """Each time a run went back: how many rows left the view, how many came again bit by bit."""
    found = []
    for position, recorded_at, run, kept in base.query(REWINDS).fetchall():
        known = {"position": position, "run": run, "kept": kept}
        lost, repeated = base.query(REPEATED, known).fetchone()
        found.append(Rewind(position, recorded_at, run, kept, lost, repeated))
    return found


def losses_as_of(base: Base, run: str, position: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Iterations and losses of a run, as of a position."""
    columns = base.query(LOSSES_AS_OF, {"run": run, "position": position}).fetchnumpy()
    return columns["iteration"], columns["loss"]


def dice_of(base: Base, run: str) -> list[tuple[int, float]]:
    """The mean dice over the fields at the best threshold, validation by validation."""
    rows: list[tuple[int, float]] = base.query(SCORES_OF_A_RUN, {"run": run}).fetchall()
    return rows


def training_stats(base: Base, run: str) -> TrainingStats:
    """The training stats of a run, as the stats store gives them."""
    return create_stats_store(_options(base)).retrieve_training_stats(run)


def best_segmentation(base: Base, run: str, field: str) -> Segmentation:
    """The best prediction of a run for a field, by dice, read from where the array store says."""
    iteration = create_weights_store(_options(base)).retrieve_best(run, field, "dice")
    arrays = create_array_store(_options(base))
    raw, truth = arrays.validation_input_arrays(run, field)
    prediction = arrays.validation_prediction_array(run, iteration, field)
    return Segmentation(run, field, iteration, _read(raw), _read(truth), _read(prediction))


def _options(base: Base) -> Options:
    return Options(type="files", runs_base_dir=base.path)


def _read(identifier: Any) -> NDArray[Any]:
    import zarr

    array = zarr.open_array(f"{identifier.container}/{identifier.dataset}", mode="r")
    values: NDArray[Any] = array[:]  # type: ignore[assignment]  # zarr types it as any scalar or array
    return values


def folder_bytes(folder: Path) -> int:
    """The bytes of all files below a folder; a file with several names counts once."""
    sizes = {
        (status.st_dev, status.st_ino): status.st_size
        for path in folder.rglob("*")
        if path.is_file()
        for status in [path.stat()]
    }
    return sum(sizes.values())
