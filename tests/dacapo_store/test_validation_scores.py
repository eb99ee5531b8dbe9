"""Validation scores keep their structure and their bits, and their names mean the same everywhere."""

from __future__ import annotations

import copy
import enum
import pickle
import struct
import sys
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dacapo_store.validation_scores import (
    ValidationIterationScores,
    ValidationScores,
    display_name,
    flatten_scores,
    score_names,
    unflatten_scores,
)

At = ValidationIterationScores
NAN = float("nan")

nested_scores = st.lists(st.lists(st.lists(st.floats(), max_size=4), max_size=3), max_size=3)


class Criteria:
    """Evaluation scores as DaCapo has them: one criterion is better high, one low."""

    criteria = ("dice", "distance")

    @staticmethod
    def higher_is_better(criterion: str) -> bool:
        """Dice is a similarity, the other a distance."""
        return criterion == "dice"


@attrs.frozen
class Threshold:
    """Post-processor parameters as DaCapo has them."""

    id: int
    threshold: float = 0.5

    @property
    def parameter_names(self) -> list[str]:
        """What these parameters set."""
        return ["id", "threshold"]


def bits(value: Any) -> Any:
    """The nested scores with each float as its bytes, so that NaN and -0.0 compare."""
    return struct.pack("<d", value) if isinstance(value, float) else [bits(item) for item in value]


def two_criteria(*scores: At, evaluation_scores: Any = Criteria) -> ValidationScores:
    return ValidationScores([Threshold(0)], [SimpleNamespace(name="crop")], evaluation_scores, list(scores))


# --- flat and nested ----------------------------------------------------------------------------


@given(nested_scores)
def test_unflatten_is_the_inverse_of_flatten(nested: list[list[list[float]]]) -> None:
    """Ragged or empty, whatever the floats: structure and bits come back."""
    assert bits(unflatten_scores(*flatten_scores(nested))) == bits(nested)


@given(nested_scores)
def test_flatten_is_the_inverse_of_unflatten(nested: list[list[list[float]]]) -> None:
    lengths, values = flatten_scores(nested)
    again, same = flatten_scores(unflatten_scores(lengths, values))
    assert (again, bits(same)) == (lengths, bits(values))


def test_the_flat_order_is_dataset_then_parameters_then_criterion() -> None:
    lengths, values = flatten_scores([[[1.0, 2.0], []], [], [[3.0]]])
    assert lengths == [[2, 0], [], [1]]
    assert values == [1.0, 2.0, 3.0]


def test_leaves_come_out_as_python_floats() -> None:
    """Ints, numpy scalars and tensors may be mixed."""
    torch = pytest.importorskip("torch")
    leaves = [1, 0.5, np.float64(0.25), np.float32(2), True, np.array(3), torch.tensor(4.0)]
    _, values = flatten_scores([[leaves]])
    assert values == [1.0, 0.5, 0.25, 2.0, 1.0, 3.0, 4.0]
    assert {type(value) for value in values} == {float}


def test_arrays_and_tuples_nest_as_lists_do() -> None:
    expected = ([[2], [2]], [0.0, 1.0, 2.0, 3.0])
    assert flatten_scores(np.arange(4.0).reshape(2, 1, 2)) == expected
    assert flatten_scores((((0, 1),), ((2, 3),))) == expected


@pytest.mark.parametrize(
    ("nested", "match"),
    [
        (None, r"scores: expected a list by dataset, not None"),
        (0.5, r"scores: expected a list by dataset"),
        ([0.5], r"scores\[0\]: expected a list by parameters, not float"),
        ([[[1.0]], [0.5]], r"scores\[1\]\[0\]: expected a list by criterion"),
        ([[np.float64(1)]], r"scores\[0\]\[0\]: expected a list by criterion"),
        (["abc"], r"scores\[0\]: expected a list by parameters"),
        ([{"dice": 1.0}], r"scores\[0\]: expected a list by parameters"),
        ([[[1.0, None]]], r"scores\[0\]\[0\]\[1\]: expected a number, not None"),
        ([[["0.5"]]], r"scores\[0\]\[0\]\[0\]: expected a number"),
        ([[[[1.0]]]], r"scores\[0\]\[0\]\[0\]: expected a number, not list"),
        ([[[1j]]], r"scores\[0\]\[0\]\[0\]: expected a number"),
    ],
)
def test_what_is_not_nested_so_is_refused_by_place(nested: Any, match: str) -> None:
    with pytest.raises(TypeError, match=match):
        flatten_scores(nested)


def test_a_score_beyond_floats_is_refused() -> None:
    with pytest.raises(ValueError, match=r"scores\[0\]\[0\]\[0\]: .* too large"):
        flatten_scores([[[10**400]]])


@pytest.mark.parametrize(("lengths", "values"), [([[2]], [1.0]), ([[1]], [1.0, 2.0]), ([[2, -1]], [1.0])])
def test_unflatten_refuses_another_count(lengths: Any, values: Any) -> None:
    with pytest.raises(ValueError, match=r"lengths .* need [12] scores"):
        unflatten_scores(lengths, values)


def test_unflatten_takes_arrays() -> None:
    nested = unflatten_scores(np.array([[2]]), np.array([1, 2], dtype=np.float32))
    assert nested == [[[1.0, 2.0]]]
    assert type(nested[0][0][0]) is float


# --- one iteration ------------------------------------------------------------------------------


def test_an_iteration_holds_plain_floats() -> None:
    """Given arrays are copied into lists."""
    given_scores = np.ones((1, 1, 2))
    scores = At(np.int64(7), given_scores)  # type: ignore[arg-type]
    given_scores[:] = 9
    assert (scores.iteration, scores.scores) == (7, [[[1.0, 1.0]]])
    assert repr(scores) == "ValidationIterationScores(iteration=7, scores=[[[1.0, 1.0]]])"


def test_iterations_compare_by_value_with_nan_equal_to_itself() -> None:
    assert At(1, [[[NAN, 1.0]]]) == At(1, [[[float("nan"), 1]]])
    assert hash(At(1, [[[NAN]]])) == hash(At(1, [[[float("nan")]]]))
    assert At(1, [[[1.0]]]) != At(2, [[[1.0]]])
    assert At(1, [[[1.0]]]) != At(1, [[[2.0]]])
    assert At(1, [[], [[]]]) != At(1, [[[]], []])
    assert At(1, []) != "scores"


def test_a_refused_iteration_names_the_place() -> None:
    with pytest.raises(TypeError, match="must be an integer"):
        At(1.5, [])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"scores\[0\]"):
        At(1, [0.5])  # type: ignore[list-item]


@pytest.mark.parametrize("again", [copy.deepcopy, lambda scores: pickle.loads(pickle.dumps(scores))])
def test_scores_can_be_copied_and_pickled(again: Any) -> None:
    assert again(two_criteria(At(1, [[[NAN, 1.0]]]))) == two_criteria(At(1, [[[NAN, 1.0]]]))


# --- DaCapo's interface -------------------------------------------------------------------------


def test_new_scores_are_empty() -> None:
    scores = ValidationScores([], [], None)
    assert (scores.scores, scores.validated_until(), scores.criteria) == ([], 0, [])
    assert scores.parameter_names == []
    assert scores != "scores"


def test_two_new_scores_share_no_list() -> None:
    ValidationScores([], [], None).add_iteration_scores(At(1, []))
    assert ValidationScores([], [], None).scores == []


def test_validated_until_is_the_greatest_iteration_plus_one() -> None:
    scores = two_criteria(At(20, []), At(40, []))
    scores.add_iteration_scores(At(30, []))
    assert scores.validated_until() == 41


def test_delete_after_keeps_what_lies_below() -> None:
    scores = two_criteria(At(20, []), At(40, []), At(60, []))
    scores.delete_after(40)
    assert [at.iteration for at in scores.scores] == [20]


def test_subscores_are_the_same_scores_of_other_iterations() -> None:
    scores = two_criteria(At(20, []), At(40, []))
    part = scores.subscores([scores.scores[0]])
    assert part == two_criteria(At(20, []))
    assert scores.validated_until() == 41


@pytest.mark.parametrize(
    ("existing", "expected"),
    [([], (False, 0)), ([At(20, [])], (False, 21)), ([At(40, [])], (False, 41)), ([At(60, [])], (True, 0))],
    ids=["nothing", "behind", "as far", "further"],
)
def test_compare_tells_whether_to_replace(existing: list[At], expected: tuple[bool, int]) -> None:
    """Existing scores that reach further than ours are replaced; else ours continue them."""
    assert two_criteria(At(20, []), At(40, [])).compare(existing) == expected


def test_criteria_and_parameter_names_come_from_the_objects() -> None:
    scores = two_criteria()
    assert scores.criteria == ["dice", "distance"]
    assert scores.parameter_names == ["id", "threshold"]


# --- xarray -------------------------------------------------------------------------------------


def test_to_xarray_labels_every_dimension() -> None:
    """As DaCapo's: names of datasets and criteria, the parameters themselves."""
    pytest.importorskip("xarray")
    data = two_criteria(At(20, [[[0.5, NAN]]]), At(40, [[[0.75, 3.0]]])).to_xarray()
    assert data.dims == ("iterations", "datasets", "parameters", "criteria")
    assert data.coords["iterations"].values.tolist() == [20, 40]
    assert data.coords["datasets"].values.tolist() == ["crop"]
    assert data.coords["parameters"].values.tolist() == [Threshold(0)]
    assert data.sel(criteria="dice").values.ravel().tolist() == [0.5, 0.75]


def test_to_xarray_of_no_scores_is_empty() -> None:
    pytest.importorskip("xarray")
    assert two_criteria().to_xarray().shape == (0, 1, 1, 2)


def test_to_xarray_without_names_counts() -> None:
    """Tuples as parameters stay whole."""
    pytest.importorskip("xarray")
    data = ValidationScores([(1, 2), (3, 4)], [], None, [At(1, [[[1.0], [2.0]]])]).to_xarray()
    assert data.coords["datasets"].values.tolist() == ["0"]
    assert data.coords["criteria"].values.tolist() == ["0"]
    assert data.coords["parameters"].values.tolist() == [(1, 2), (3, 4)]


@pytest.mark.parametrize(
    ("scores", "match"),
    [
        ([At(1, [[[1.0, 2.0], [1.0]]])], "iteration 1 does not have a score for every"),
        ([At(1, [[[1.0, 2.0]]]), At(2, [])], "iteration 2 have another structure than those of iteration 1"),
        ([At(1, [[[1.0]]])], "scores for 1 criteria, but 2 criteria are named"),
    ],
    ids=["ragged", "differing", "misnamed"],
)
def test_to_xarray_refuses_what_is_no_array(scores: list[At], match: str) -> None:
    pytest.importorskip("xarray")
    with pytest.raises(ValueError, match=match):
        two_criteria(*scores).to_xarray()


def test_without_xarray_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(ImportError, match="pip install xarray"):
        two_criteria().to_xarray()


def test_get_best_follows_the_direction_of_each_criterion() -> None:
    """DaCapo's own takes the first criterion's direction for all."""
    pytest.importorskip("xarray")
    scores = two_criteria(At(20, [[[0.5, 1.0]]]), At(40, [[[0.75, 3.0]]]), At(60, [[[NAN, NAN]]]))
    where, best = scores.get_best(scores.to_xarray(), dim="iterations")
    assert best.dims == where.dims == ("datasets", "parameters", "criteria")
    assert best.values.ravel().tolist() == [0.75, 1.0]
    assert where.sel(criteria="dice").item() == 40
    assert where.sel(criteria="distance").item() == 20
    found = best.sel(datasets="crop", parameters=Threshold(0), criteria="distance")
    assert found.item() == 1.0


def test_get_best_of_one_criterion() -> None:
    pytest.importorskip("xarray")
    scores = two_criteria(At(20, [[[0.5, 1.0]]]), At(40, [[[0.75, 3.0]]]))
    where, best = scores.get_best(scores.to_xarray().sel(criteria="distance"), "iterations")
    assert (where.item(), best.item()) == (20, 1.0)


def test_get_best_along_parameters_gives_the_parameters() -> None:
    pytest.importorskip("xarray")
    scores = ValidationScores(
        [Threshold(0), Threshold(1)], ["crop"], Criteria, [At(1, [[[0.1, 5.0], [0.2, 7.0]]])]
    )
    where, _ = scores.get_best(scores.to_xarray(), "parameters")
    assert where.values.ravel().tolist() == [Threshold(1), Threshold(0)]


def test_get_best_says_what_it_lacks() -> None:
    pytest.importorskip("xarray")
    scores = two_criteria(At(20, [[[0.5, 1.0]]]))
    data = scores.to_xarray()
    with pytest.raises(ValueError, match="no 'criteria'"):
        scores.get_best(data.drop_vars("criteria"), "iterations")
    with pytest.raises(ValueError, match="choose another dimension"):
        scores.get_best(data, "criteria")
    with pytest.raises(ValueError, match="higher_is_better"):
        two_criteria(evaluation_scores=None).get_best(data, "iterations")


# --- names --------------------------------------------------------------------------------------


@dataclass
class Watershed:
    """Parameters as a dataclass."""

    bias: float = 0.5


class Plain:
    """Without a str() of its own: Python's holds the address."""


class Colour(enum.Enum):
    """An enum's members have names of their own."""

    RED = 1


@pytest.mark.parametrize(
    ("obj", "name"),
    [
        ("crop_1", "crop_1"),
        (np.str_("crop_2"), "crop_2"),
        (SimpleNamespace(name="crop_3"), "crop_3"),
        (Colour.RED, "RED"),
        (Threshold(3, 0.25), "Threshold(id=3, threshold=0.25)"),
        (Watershed(), "Watershed(bias=0.5)"),
        (Watershed(Plain()), "Watershed_4"),  # type: ignore[arg-type]
        (Plain(), "Plain_4"),
        (SimpleNamespace(name=None), "namespace(name=None)"),
        (7, "7"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_name_is_the_same_in_every_process(obj: Any, name: str) -> None:
    """Names never hold a memory address, and are plain text."""
    assert display_name(obj, 4) == name
    assert type(display_name(obj, 4)) is str


def test_score_names_of_scores() -> None:
    names = score_names(two_criteria())
    assert names == (["crop"], ["Threshold(id=0, threshold=0.5)"], ["dice", "distance"])


@pytest.mark.parametrize(
    "scores",
    [ValidationScores([], [], None), ValidationScores([], [], object()), SimpleNamespace(), []],
    ids=["none", "no criteria", "no attributes", "a list"],
)
def test_score_names_of_nothing_known_are_empty(scores: Any) -> None:
    assert score_names(scores) == ([], [], [])
