"""Stats and scores as DaCapo keeps them, lists of one document an iteration, to rows and back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dacapo_store.moving.found import UnreadableError
from dacapo_store.rows import Scalar, Scores, Structure, TrainingRows, ValidationRows
from dacapo_store.scalars import as_float, as_iteration
from dacapo_store.validation_scores import flatten_scores

if TYPE_CHECKING:
    import numpy.typing as npt

    from dacapo_store.stats_store import FileStatsStore

_NO_SCALARS: Final = frozenset({"iteration", "run_name", "_id"})


def training_rows(documents: Any) -> TrainingRows:
    """Documents with ``iteration`` and numbers as rows; None marks a number that is not there.

    Raises:
        UnreadableError: They are no such documents; the text names the first that is not.
    """
    rows = _checked(documents, "iteration_stats")
    # DaCapo's two are scalars of every row; what else a row holds may be one.
    names = dict.fromkeys(
        ["loss", "time", *(name for row in rows for name in row if name not in _NO_SCALARS)]
    )
    return TrainingRows(_iterations(rows), {str(name): _scalar(rows, name) for name in names})


def validation_rows(documents: Any) -> ValidationRows:
    """Documents with ``iteration`` and nested ``scores`` as rows.

    Raises:
        UnreadableError: They are no such documents; the text names the first that is not.
    """

    def read(row: dict[str, Any], where: str) -> tuple[int, Scores]:
        lengths, values = flatten_scores(row["scores"])
        structure = Structure(tuple(map(tuple, lengths)), (), (), ())
        bits = np.array(values, np.float64).tobytes()
        return as_iteration(row["iteration"], where=where), Scores(structure, bits)

    return ValidationRows.of_pairs(_read(_checked(documents, "scores"), read))


def training_documents(store: FileStatsStore, run: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The training stats of a run as DaCapo's file store pickles them.

    Returns:
        The documents, and in words what DaCapo has no place for.
    """
    stats = store.retrieve_training_stats(run)
    columns = [stats.column(name).tolist() for name in ("loss", "time")]
    remarks = [
        f"{count:,} rows have no {name}; DaCapo gets NaN for it"
        for name in ("loss", "time")
        if (count := int((~stats.present(name)).sum()))
    ]
    others = [name for name in stats.columns if name not in ("loss", "time")]
    if others:
        remarks.append(f"DaCapo has no place for {', '.join(map(repr, others))}")
    documents = [
        {"iteration": iteration, "loss": loss, "time": time, "run_name": run}
        for iteration, loss, time in zip(stats.iterations.tolist(), *columns, strict=True)
    ]
    return documents, remarks


def validation_documents(store: FileStatsStore, run: str) -> list[dict[str, Any]]:
    """The validation scores of a run as DaCapo's file store pickles them."""
    return [
        {"iteration": each.iteration, "scores": each.scores, "run_name": run}
        for each in store.retrieve_validation_iteration_scores(run)
    ]


def _checked(documents: Any, attribute: str) -> list[dict[str, Any]]:
    # A whole TrainingStats, pickled as an object.
    rows = documents.get(attribute) if isinstance(documents, dict) else documents
    if not isinstance(rows, list):
        raise UnreadableError(f"expected a list of iterations, not a {type(documents).__name__}")
    for place, row in enumerate(rows):
        if not isinstance(row, dict) or "iteration" not in row:
            raise UnreadableError(f"item {place} is no mapping with an 'iteration'")
    return rows


def _read(rows: Sequence[dict[str, Any]], read: Callable[[dict[str, Any], str], Any]) -> list[Any]:
    return list(_reading(rows, read))


def _reading(rows: Iterable[dict[str, Any]], read: Callable[[dict[str, Any], str], Any]) -> Iterator[Any]:
    for place, row in enumerate(rows):
        try:
            yield read(row, f"item {place}")
        except KeyError as error:
            raise UnreadableError(f"item {place} has no {error}") from error
        except (TypeError, ValueError) as error:
            raise UnreadableError(f"item {place}: {error}") from error


def _iterations(rows: Sequence[dict[str, Any]]) -> npt.NDArray[np.int64]:
    given = [row["iteration"] for row in rows]
    # Hundreds of thousands of rows at once; what does not fit is named below.
    if set(map(type, given)) == {int}:
        with contextlib.suppress(OverflowError):
            return np.array(given, np.int64)
    return np.array(_read(rows, lambda row, where: as_iteration(row["iteration"], where=where)), np.int64)


def _scalar(rows: Sequence[dict[str, Any]], name: Any) -> Scalar:
    if not isinstance(name, str) or not name:
        raise UnreadableError(f"a scalar is named by text, not {name!r}")

    given = [row.get(name) for row in rows]
    if set(map(type, given)) == {float}:
        return Scalar.of(np.array(given, np.float64), np.ones(len(given), np.bool_))

    def read(row: dict[str, Any], where: str) -> float | None:
        value = row.get(name)
        return None if value is None else as_float(value, where=f"{where}, {name}")

    values = _read(rows, read)
    present = np.array([value is not None for value in values], np.bool_)
    return Scalar.of(np.array([0.0 if value is None else value for value in values], np.float64), present)
