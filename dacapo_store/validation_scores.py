"""Validation scores behind the interface of DaCapo's ``ValidationScores``, and their flat form.

Owns the values that a validation hands to the stats store and gets back, how nested scores become
one row of numbers and come back, and by what names datasets, parameters and criteria go on record.

Scores are nested ``[dataset][parameters][criterion]``. Any part may be empty or of another length
than its neighbours; leaves are numbers and come back as floats of the same bits. What replaces what
when scores are stored is left to the stats store.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from dacapo_store.scalars import as_float, as_iteration, describe

if TYPE_CHECKING:
    import xarray as xr

_LEVELS = ("dataset", "parameters", "criterion")


@dataclass(frozen=True, eq=False)
class ValidationIterationScores:
    """The scores of one iteration; a frozen value.

    Args:
        iteration: The iteration that was validated, an integer of 64 bits.
        scores: Numbers nested ``[dataset][parameters][criterion]``, as lists, tuples or arrays.
            They are copied into lists of floats.

    Raises:
        TypeError: The iteration is no integer, or the scores are not nested so, or a leaf is no
            number; the message names the place.
        ValueError: A number is out of range.

    Example:
        >>> ValidationIterationScores(1000, [[[0.5, 0.25]]]).scores
        [[[0.5, 0.25]]]
    """

    iteration: int
    scores: list[list[list[float]]]

    def __post_init__(self) -> None:
        iteration = as_iteration(self.iteration, where="validation scores")
        object.__setattr__(self, "iteration", iteration)
        object.__setattr__(self, "scores", unflatten_scores(*flatten_scores(self.scores)))

    def __eq__(self, other: object) -> bool:
        """Compare by value; NaN equals itself."""
        if not isinstance(other, ValidationIterationScores):
            return NotImplemented
        lengths, values = flatten_scores(self.scores)
        other_lengths, other_values = flatten_scores(other.scores)
        return (
            self.iteration == other.iteration
            and lengths == other_lengths
            and all(a == b or (a != a and b != b) for a, b in zip(values, other_values, strict=True))  # noqa: PLR0124  # NaN
        )

    def __hash__(self) -> int:
        return hash(self.iteration)


class ValidationScores:
    """All scores of a run, with what they are scores of.

    Args:
        parameters: The post-processing parameters that are compared; any objects.
        datasets: What is validated on: objects with a ``name``, or names.
        evaluation_scores: Has ``criteria``, a list of names, and, for ``get_best``,
            ``higher_is_better(criterion)``. None where there are no names for criteria.
        scores: The scores so far, one object an iteration; the list is used as it is.

    Example:
        >>> scores = ValidationScores(["threshold_0.5"], ["crop_1"], None)
        >>> scores.add_iteration_scores(ValidationIterationScores(1000, [[[0.75]]]))
        >>> scores.validated_until()
        1001
    """

    def __init__(
        self,
        parameters: Sequence[Any],
        datasets: Sequence[Any],
        evaluation_scores: Any,
        scores: list[Any] | None = None,
    ) -> None:
        self.parameters = parameters
        self.datasets = datasets
        self.evaluation_scores = evaluation_scores
        self.scores: list[Any] = [] if scores is None else scores

    def subscores(self, iteration_scores: list[Any]) -> ValidationScores:
        """Give these scores with other iterations in place of its own."""
        return ValidationScores(
            self.parameters, self.datasets, self.evaluation_scores, scores=iteration_scores
        )

    def add_iteration_scores(self, iteration_scores: Any) -> None:
        """Append the scores of one iteration."""
        self.scores.append(iteration_scores)

    def delete_after(self, iteration: int) -> None:
        """Keep the scores of iterations below this one, in their order."""
        self.scores = [scores for scores in self.scores if scores.iteration < iteration]

    def validated_until(self) -> int:
        """Give the greatest validated iteration plus one, or 0."""
        return max((scores.iteration for scores in self.scores), default=-1) + 1

    def compare(self, existing_iteration_scores: Sequence[Any]) -> tuple[bool, int]:
        """Tell how scores stored elsewhere relate to these, which take priority.

        Returns:
            ``(True, 0)`` if the existing ones reach further: these replace them. Otherwise False
            and the iteration that the existing ones reach: from there on these are new.
        """
        if not existing_iteration_scores:
            return False, 0
        existing = max(scores.iteration for scores in existing_iteration_scores) + 1
        return (True, 0) if existing > self.validated_until() else (False, existing)

    @property
    def criteria(self) -> list[str]:
        """The names of the criteria, or none where ``evaluation_scores`` has no ``criteria``."""
        return _names(getattr(self.evaluation_scores, "criteria", None))

    @property
    def parameter_names(self) -> list[str]:
        """The names of what the parameters set, or none where they do not tell."""
        return list(getattr(self.parameters[0], "parameter_names", ())) if self.parameters else []

    def to_xarray(self) -> xr.DataArray:
        """Give all scores as one ``xarray.DataArray``.

        Its dimensions are ``iterations``, ``datasets`` (names), ``parameters`` (the objects) and
        ``criteria`` (names). Where there are no names or parameters, the index as text stands.

        Raises:
            ImportError: xarray is not installed. Install it, or use ``scores``.
            ValueError: Not every iteration has a score for every dataset, parameters and
                criterion, so that the scores are no array. Use ``scores``.
        """
        try:
            import numpy as np
            import xarray as xr
        except ImportError as error:
            raise ImportError(
                "to_xarray() needs xarray (pip install xarray); without it, use .scores"
            ) from error
        shape = self._shape()
        flat = [flatten_scores(scores.scores)[1] for scores in self.scores]
        parameters = np.empty(shape.parameters, dtype=object)
        for index in range(shape.parameters):  # one by one: numpy would take a tuple apart
            parameters[index] = self.parameters[index] if self.parameters else str(index)
        return xr.DataArray(
            np.array(flat, dtype=np.float64).reshape(len(flat), *shape),
            dims=("iterations", "datasets", "parameters", "criteria"),
            coords={
                "iterations": np.array([scores.iteration for scores in self.scores], dtype=np.int64),
                "datasets": _labels(_names(self.datasets), shape.datasets),
                "parameters": parameters,
                "criteria": _labels(self.criteria, shape.criteria),
            },
        )

    def get_best(self, data: xr.DataArray, dim: str) -> tuple[xr.DataArray, xr.DataArray]:
        """Find the best scores along a dimension, each criterion by its own direction.

        Args:
            data: From ``to_xarray``, or a part of it that still has the coordinate ``criteria``.
            dim: The dimension to search, e.g. ``"iterations"``; the result has the others.

        Returns:
            Where along ``dim`` the best score stands, and the score. NaN scores are passed over.

        Raises:
            ValueError: ``data`` has no criteria, ``dim`` is the criteria themselves, or
                ``evaluation_scores`` does not say which direction is better.
        """
        if "criteria" not in data.coords:
            raise ValueError("the best score depends on the criterion, and the data have no 'criteria'")
        if dim == "criteria":
            raise ValueError("scores of different criteria do not compare: choose another dimension")
        if "criteria" not in data.dims:
            return self._best_of_one(data, data.coords["criteria"].item(), dim)
        import xarray as xr

        pairs = [
            self._best_of_one(data.sel(criteria=criterion), criterion.item(), dim)
            for criterion in data.coords["criteria"]
        ]
        order = [name for name in data.dims if name != dim]
        indexes, values = (
            xr.concat(parts, dim=data.coords["criteria"], coords="minimal", compat="override")
            for parts in zip(*pairs, strict=True)
        )
        return indexes.transpose(*order), values.transpose(*order)

    def __eq__(self, other: object) -> bool:
        """Compare by value; NaN scores equal themselves."""
        if not isinstance(other, ValidationScores):
            return NotImplemented
        mine = (self.parameters, self.datasets, self.evaluation_scores, self.scores)
        return mine == (other.parameters, other.datasets, other.evaluation_scores, other.scores)

    __hash__ = None  # type: ignore[assignment]  # it grows

    def __repr__(self) -> str:
        return (
            f"ValidationScores(parameters={self.parameters!r}, datasets={self.datasets!r}, "
            f"evaluation_scores={self.evaluation_scores!r}, scores={self.scores!r})"
        )

    def _best_of_one(self, data: xr.DataArray, criterion: str, dim: str) -> tuple[xr.DataArray, xr.DataArray]:
        higher_is_better = getattr(self.evaluation_scores, "higher_is_better", None)
        if higher_is_better is None:
            raise ValueError(
                "evaluation_scores does not say which scores are better: "
                "it needs a method higher_is_better(criterion)"
            )
        if higher_is_better(criterion):
            return data.idxmax(dim, skipna=True, fill_value=None), data.max(dim, skipna=True)
        return data.idxmin(dim, skipna=True, fill_value=None), data.min(dim, skipna=True)

    def _shape(self) -> _Shape:
        """How many datasets, parameters and criteria every iteration has scores for."""
        given = _Shape(len(self.datasets or ()), len(self.parameters or ()), len(self.criteria))
        if not self.scores:
            return given
        shape = _shape_of(self.scores[0])
        for scores in self.scores:
            if _shape_of(scores) != shape:
                raise ValueError(
                    f"the scores of iteration {scores.iteration} have another structure than those of "
                    f"iteration {self.scores[0].iteration}: they are no array, use .scores"
                )
        for level, count, named in zip(_Shape._fields, shape, given, strict=True):
            if named and named != count:
                raise ValueError(f"there are scores for {count} {level}, but {named} {level} are named")
        return shape


class _Shape(NamedTuple):
    datasets: int
    parameters: int
    criteria: int


def flatten_scores(nested: Any) -> tuple[list[list[int]], list[float]]:
    """Turn nested scores into their structure and their numbers, in order.

    Args:
        nested: Numbers nested ``[dataset][parameters][criterion]``: lists, tuples or arrays.

    Returns:
        ``lengths[d][p]``, the number of criteria that dataset d has under parameters p, and all
        numbers as floats: dataset by dataset, parameters by parameters, criterion by criterion.

    Raises:
        TypeError: The nesting is not three deep, or a leaf is no number (None is none); the
            message names the place, such as ``scores[0][2]``.
        ValueError: A number is too large for a float.
    """
    lengths: list[list[int]] = []
    values: list[float] = []
    for d, dataset in enumerate(_items(nested, ())):
        lengths.append([])
        for p, parameters in enumerate(_items(dataset, (d,))):
            leaves = _items(parameters, (d, p))
            lengths[-1].append(len(leaves))
            values.extend(
                leaf if type(leaf) is float else as_float(leaf, where=_place((d, p, c)))
                for c, leaf in enumerate(leaves)
            )
    return lengths, values


def unflatten_scores(lengths: Sequence[Sequence[int]], values: Iterable[float]) -> list[list[list[float]]]:
    """Turn a structure and numbers back into nested scores: the inverse of ``flatten_scores``.

    Args:
        lengths: ``lengths[d][p]``, the number of criteria.
        values: As many numbers as ``lengths`` sums up to; arrays are welcome.

    Raises:
        ValueError: There are more or fewer numbers than the lengths say, or a length is negative.
    """
    rest = [float(value) for value in values]
    expected = sum(sum(map(int, dataset)) for dataset in lengths)
    if expected != len(rest) or any(length < 0 for dataset in lengths for length in dataset):
        raise ValueError(f"lengths {list(lengths)!r} need {expected} scores, and there are {len(rest)}")
    numbers = iter(rest)
    return [[[next(numbers) for _ in range(length)] for length in dataset] for dataset in lengths]


def score_names(scores: Any) -> tuple[list[str], list[str], list[str]]:
    """Give the names under which scores go on record.

    Args:
        scores: A ``ValidationScores``, DaCapo's or ours. Where datasets, parameters or criteria
            are not known, there are no names for them.

    Returns:
        The names of the datasets, of the parameters and of the criteria.
    """
    criteria = getattr(getattr(scores, "evaluation_scores", None), "criteria", None)
    return (
        _names(getattr(scores, "datasets", None)),
        _names(getattr(scores, "parameters", None)),
        _names(criteria),
    )


def display_name(obj: Any, index: int) -> str:
    """Name a dataset, parameters or a criterion: the same in every process.

    Text names itself, an object with a ``name`` is called by it, and anything else by its
    ``str()``, as in the path of a validation array. A text with a memory address would be another
    one in the next process: then it is the type and the index.
    """
    if isinstance(obj, str):
        return str(obj)
    name = getattr(obj, "name", None)
    if isinstance(name, str) and name:
        return str(name)
    text = str(obj)
    return f"{type(obj).__name__}_{index}" if " at 0x" in text or not text else text


def _names(objects: Iterable[Any] | None) -> list[str]:
    return [display_name(obj, index) for index, obj in enumerate(objects or ())]


def _labels(names: list[str], count: int) -> list[str]:
    return names or [str(index) for index in range(count)]


def _shape_of(scores: Any) -> _Shape:
    """The counts that make the scores of an iteration an array."""
    lengths, _ = flatten_scores(scores.scores)
    criteria = {length for dataset in lengths for length in dataset}
    parameters = {len(dataset) for dataset in lengths}
    if len(criteria) > 1 or len(parameters) > 1:
        raise ValueError(
            f"iteration {scores.iteration} does not have a score for every dataset, parameters and "
            "criterion: its scores are no array, use .scores"
        )
    return _Shape(len(lengths), max(parameters, default=0), max(criteria, default=0))


def _items(nested: Any, indices: tuple[int, ...]) -> Sequence[Any]:
    """What one level of the nesting holds."""
    if isinstance(nested, list | tuple):
        return nested
    # Arrays and tensors count as nested, but not those without dimensions, which are numbers.
    is_text_or_map = isinstance(nested, str | bytes | Mapping | AbstractSet)
    if not is_text_or_map and isinstance(nested, Iterable) and getattr(nested, "shape", None) != ():
        return list(nested)
    level = _LEVELS[len(indices)]
    raise TypeError(
        f"{_place(indices)}: expected a list by {level}, not {describe(nested)}; "
        "scores are nested [dataset][parameters][criterion]"
    )


def _place(indices: tuple[int, ...]) -> str:
    return "scores" + "".join(f"[{index}]" for index in indices)
