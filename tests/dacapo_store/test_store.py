"""One object for a base: asking it, its past, its diary, and what comes."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

import dacapo_store
from dacapo_store import (
    Citation,
    FileConfigStore,
    FileStatsStore,
    Store,
    TrainingIterationStats,
    ValidationIterationScores,
)
from dacapo_store.audit import Entry
from dacapo_store.differences import ABSENT
from eventstore import LogNotFoundError, ReadOnlyLogError, verify_log
from projections import QueryRefusedError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Two runs, one of them with a config and scores."""
    configs, stats = FileConfigStore(tmp_path / "configs"), FileStatsStore(tmp_path / "stats")
    configs.store_run_config({"name": "a", "task_config": {"name": "seg"}})
    stats.store_training_stats("a", [TrainingIterationStats(n, loss=1.0 / (n + 1)) for n in range(10)])
    stats.store_validation_iteration_scores("a", [ValidationIterationScores(10, [[[0.5]]])])
    stats.store_training_stats("b", [TrainingIterationStats(0, loss=3.0)])
    return tmp_path


@pytest.fixture
def store(path: Path) -> Store:
    """The base, open."""
    return dacapo_store.open(path)


def test_sql_is_asked_of_the_public_views(store: Store) -> None:
    """With parameters, and of the past."""
    best = "SELECT run, min(loss) FROM training_stats GROUP BY run ORDER BY run"
    assert store.sql(best).fetchall() == [("a", 0.1), ("b", 3.0)]
    assert store.sql(best, as_of=store.position - 1).fetchall() == [("a", 0.1)]
    assert store.as_of(store.position - 1).sql(best).fetchall() == [("a", 0.1)]
    assert store.sql("SELECT count(*) FROM training_stats WHERE run = $run", {"run": "b"}).fetchone() == (1,)
    with pytest.raises(QueryRefusedError):
        store.sql("CREATE TABLE t (a INTEGER)")


def test_a_query_reads_files_only_if_it_is_trusted(store: Store, path: Path) -> None:
    """And says which state it is of in either case."""
    (path / "other.csv").write_text("run,note\na,good\n")
    query = f"SELECT note FROM '{path}/other.csv' JOIN runs ON name = run"  # noqa: S608
    with pytest.raises(QueryRefusedError, match="Files"):
        store.sql(query)
    answer = store.sql(query, unsafe=True)
    assert answer.fetchall() == [("good",)]
    assert answer.position == store.position


def test_runs_are_listed_with_how_far_they_are(store: Store) -> None:
    """Those without a config as well."""
    (first, second) = store.runs().arrow().to_pylist()
    assert (first["run"], first["task"], first["iterations"], first["last_loss"]) == ("a", "seg", 10, 0.1)
    assert (first["last_validated"], first["last_weights"]) == (10, None)
    assert (second["run"], second["task"], second["last_iteration"]) == ("b", None, 0)
    assert second["last_heard"].tzinfo is not None


def test_two_runs_are_compared_in_config_and_outcome(store: Store) -> None:
    """Their names are no difference; what is the same is left out unless it is asked for."""
    found = {each.place: (each.before, each.after) for each in store.diff_runs("a", "b")}
    assert found["training.iterations"] == (10, 1)
    assert found["config.task_config.name"] == ("seg", ABSENT)
    assert "run" not in found
    assert "training.first_iteration" not in found
    assert "training.first_iteration" in {
        each.place for each in store.diff_runs("a", "b", only_changed=False)
    }


def test_an_answer_can_be_cited_and_verified(store: Store, path: Path) -> None:
    """The citation names the very state; verify finds its chain value."""
    answer = store.sql("SELECT 1", as_of=2)
    citation = Citation.parse(answer.cite())
    assert (citation.base, citation.position) == (path.name, 2)
    assert verify_log(path / "events", expect=citation.chain).expected_at == 2
    assert str(store.as_of(2).cite()) == answer.cite()
    with pytest.raises(ValueError, match="is no citation"):
        Citation.parse("base@2")


def test_what_is_the_past_is_read_only(store: Store) -> None:
    """Its faces answer as they did then."""
    past = store.as_of(1)
    assert past.stats.retrieve_training_stats("a").iterations.tolist() == []
    assert [entry.kind for entry in past.log()] == ["tasks"]
    with pytest.raises(ReadOnlyLogError):
        store.as_of(store.position).rewind("a", 0)
    assert repr(past).endswith("as_of=1)")


def test_opening_what_is_no_base_makes_nothing(tmp_path: Path) -> None:
    """A mistyped path is an error and leaves no folder."""
    with pytest.raises(LogNotFoundError):
        dacapo_store.open(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_rewind_and_a_restore_from_one_object(store: Store) -> None:
    """And the diary says so."""
    position = store.position
    assert "training/a" in str(store.rewind("a", 5))
    assert len(store.stats.retrieve_training_stats("a").iterations) == 5
    store.restore("training", "a", at=position)
    assert len(store.stats.retrieve_training_stats("a").iterations) == 10
    assert "epoch 1 begins and keeps what is below 5" in repr(store.log(run="a"))


def test_what_comes_is_followed(store: Store) -> None:
    """By an iterator with a time to wait, from a position on."""
    stats = FileStatsStore(store.path / "stats")
    ahead = store.follow(run="b", timeout=0.3)
    stats.store_training_stats("a", [TrainingIterationStats(10, loss=0.1)])
    stats.store_training_stats("b", [TrainingIterationStats(1, loss=2.0)])
    assert [entry.summary for entry in ahead] == ["iteration 1 of loss (epoch 0)"]
    assert len(list(store.follow(from_position=0, timeout=0.1))) == store.position


def test_a_callback_is_called_for_each_new_entry(store: Store) -> None:
    """Until it is stopped; what goes wrong in it is raised there."""
    seen: list[Entry] = []
    arrived = threading.Event()

    def callback(entry: Entry) -> None:
        seen.append(entry)
        arrived.set()

    with store.watch(callback, run="b"):
        FileStatsStore(store.path / "stats").store_training_stats("b", [TrainingIterationStats(1, loss=2.0)])
        assert arrived.wait(60)
    assert [entry.name for entry in seen] == ["b"]

    def failing(entry: Entry) -> None:
        arrived.set()
        raise KeyError(entry.name)

    arrived.clear()
    watch = store.watch(failing)
    FileStatsStore(store.path / "stats").store_training_stats("b", [TrainingIterationStats(2, loss=2.0)])
    assert arrived.wait(60)
    with pytest.raises(KeyError):
        watch.stop()


def test_a_base_shows_its_runs_in_a_notebook(store: Store) -> None:
    """Escaped, with the number of events."""
    shown = store._repr_html_()
    assert "<th>last_loss</th>" in shown
    assert f"{store.position} events" in shown


def test_a_plot_carries_its_citation(store: Store) -> None:
    """So that the curve can be made again."""
    figure = store.plot_runs("a", "b")
    (text,) = (text.get_text() for text in figure.texts)
    assert text.startswith(f"{store.path.name}@{store.position}#")
