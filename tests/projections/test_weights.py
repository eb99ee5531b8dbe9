"""The read model of weights and best weights."""

from __future__ import annotations

from projections.testing import FIRST_RECORDED_AT, GivenEvent, event, rows


def _stored(iteration: int, path: str = "p") -> GivenEvent:
    data = {"run": "r", "iteration": iteration, "path": path, "bytes": 3, "chunk_bytes": 4, "digest": "d"}
    return event("WeightsStored", data)


def _removed(iteration: int) -> GivenEvent:
    return event("WeightsRemoved", {"run": "r", "iteration": iteration})


def _rewound(keeps_until: int, *, run: str = "r") -> GivenEvent:
    return event("WeightsRewound", {"run": run, "keeps_until": keeps_until})


def _chosen(iteration: int, *, dataset: str = "d", criterion: str = "c") -> GivenEvent:
    data = {"run": "r", "dataset": dataset, "criterion": criterion, "iteration": iteration}
    return event("BestWeightsChosen", data)


_BEST = "SELECT dataset, iteration FROM best_weights ORDER BY ALL"


def test_stored_weights_are_in_the_view() -> None:
    """With what the event says of their file."""
    assert rows([_stored(60)], "FROM weights") == [("r", 60, "p", 3, 4, "d", 0, FIRST_RECORDED_AT)]


def test_storing_an_iteration_again_shows_the_new_file_and_keeps_the_old_in_the_past() -> None:
    """A payload has a new name each time, and the past its own."""
    given = [_stored(60, "old"), _stored(60, "new")]

    assert rows(given, "SELECT path FROM weights") == [("new",)]
    assert rows(given, "SELECT path FROM weights_at(1)") == [("old",)]


def test_removed_weights_are_gone_until_stored_again() -> None:
    """A removal ends what was stored before it."""
    given = [_stored(60), _removed(60)]

    assert rows(given, "FROM weights") == []
    assert rows([*given, _stored(60)], "SELECT iteration FROM weights") == [(60,)]


def test_the_latest_choice_counts_for_each_dataset_and_criterion() -> None:
    """Choosing for one dataset leaves the other's choice."""
    given = [_chosen(20), _chosen(20, dataset="e"), _chosen(40)]

    assert rows(given, _BEST) == [("d", 40), ("e", 20)]


def test_removing_the_chosen_weights_ends_the_choice_for_good() -> None:
    """Neither an earlier choice nor the stored-again iteration comes in its place."""
    given = [_stored(20), _chosen(20), _stored(40), _chosen(40), _removed(40), _stored(40)]

    assert rows(given, _BEST) == []
    assert rows(given, "SELECT iteration FROM best_weights_at(4)") == [(40,)]


def test_removing_other_weights_leaves_the_choice() -> None:
    """Only the chosen iteration's removal counts, and only behind the choice."""
    assert rows([_removed(40), _chosen(40), _removed(20)], _BEST) == [("d", 40)]


def test_a_rewind_takes_later_weights_and_choices_out_of_view_until_stored_again() -> None:
    """Those of the iteration itself stay; another run's rewind is nothing to it."""
    given = [_stored(20), _chosen(20), _stored(40), _chosen(40), _rewound(0, run="other"), _rewound(20)]

    assert rows(given, "SELECT iteration FROM weights") == [(20,)]
    assert rows(given, _BEST) == []
    assert rows([*given, _chosen(20)], _BEST) == [("d", 20)]
    assert rows([*given, _stored(40)], "SELECT iteration FROM weights ORDER BY 1") == [(20,), (40,)]
    assert rows(given, "SELECT iteration FROM weights_at(5) ORDER BY 1") == [(20,), (40,)]
