"""A training of the real DaCapo is the same training through these stores as through its own.

One seed, one experiment: trained by one process, resumed by the next, validated and predicted (by a
worker process) by a third. Whatever the two kinds of store give back afterwards is compared to the
last bit. The environment variable is all that differs.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import dacapo_store
from tools.upstream import process

ITERATIONS, INTERRUPTED_AT = 12, 8


def trained(stores: str, folder: Path, data: Path) -> dict[str, Any]:
    """All that there is of a training in the end."""
    process.run(stores, folder, ("begin", str(data), ITERATIONS, INTERRUPTED_AT))
    process.run(stores, folder, ("resume",))
    parts = ("validate", INTERRUPTED_AT), ("predict", str(data), ITERATIONS), ("record",)
    _, prediction, record = process.run(stores, folder, *parts)
    return {**record, "prediction": prediction}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where both trainings are."""
    return tmp_path_factory.mktemp("trainings")


@pytest.fixture(scope="module")
def records(folder: Path) -> dict[str, dict[str, Any]]:
    """What either kind of store has of the same training."""
    from tools.upstream import experiment

    experiment.make_data(folder / "data")
    with ThreadPoolExecutor() as executor:
        begun = {
            stores: executor.submit(trained, stores, folder / stores, folder / "data")
            for stores in ("ours", "theirs")
        }
        return {stores: future.result() for stores, future in begun.items()}


def test_each_training_went_through_its_stores(folder: Path, records: dict[str, dict[str, Any]]) -> None:
    """Not even the worker process has touched DaCapo's own stores in our base, nor ours in its."""
    assert records["ours"]["stores"] == "dacapo_store.compat.stores"
    assert records["theirs"]["stores"] == "dacapo.store.file_stats_store"
    names = {stores: {path.name for path in (folder / stores / "base").iterdir()} for stores in records}
    assert names == {"ours": {"events", "blobs"}, "theirs": {"configs", "stats", "blobs"}}


@pytest.mark.parametrize("what", ["config", "losses", "scores", "weights", "latest", "arrays", "prediction"])
def test_the_results_are_the_same_to_the_last_bit(records: dict[str, dict[str, Any]], what: str) -> None:
    assert records["ours"][what] == records["theirs"][what]


def test_the_training_is_one_that_could_differ(records: dict[str, dict[str, Any]]) -> None:
    """All iterations, the validations of all three processes, finite scores, weights that learn."""
    ours = records["ours"]
    assert [iteration for iteration, _ in ours["losses"]] == list(range(ITERATIONS))
    assert len({loss for _, loss in ours["losses"]}) > ITERATIONS / 2
    # DaCapo drops the validation at which it resumes, and the third process made it anew.
    assert [iteration for iteration, _ in ours["scores"]] == [4, 12, 8]
    assert all("0." in scores for _, scores in ours["scores"])
    assert len({scores for _, scores in ours["scores"]}) == 3
    assert len({digest for digests in ours["weights"].values() for digest in digests}) == 2 * 3
    assert ours["latest"] == ITERATIONS


def test_what_left_the_view_stays_in_history(folder: Path, records: dict[str, dict[str, Any]]) -> None:
    """The validation of iteration 8 by the first process, which the second one dropped."""
    sql = "SELECT DISTINCT iteration FROM validation_scores ORDER BY iteration"
    with dacapo_store.open(folder / "ours" / "base", read_only=True) as store:
        seen = [
            [iteration for (iteration,) in store.sql(sql, as_of=position).fetchall()]
            for position in range(store.position + 1)
        ]
    assert [4, 8] in seen
    assert seen.index([4, 8]) < seen.index([4, 12]) < seen.index([4, 8, 12])
