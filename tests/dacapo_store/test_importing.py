"""Moving in: a base of DaCapo's own stores becomes ours, whole, once, and nothing is taken out of view."""

from __future__ import annotations

import errno
import functools
import itertools
import math
import os
import pickle
import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import dacapo_store
from dacapo_store import (
    Base,
    FileConfigStore,
    FileStatsStore,
    LocalArrayStore,
    LocalWeightsStore,
    TrainingIterationStats,
    WeightsMissingError,
)
from dacapo_store.maintenance import plan_gc
from dacapo_store.moving import MoveBusyError, import_base
from dacapo_store.payloads import check_payloads
from eventstore import EventLog, files
from tests.dacapo_store.killing import killed_at
from tests.dacapo_store.upstream_base import (
    START_NS,
    golden_base,
    tree,
    write_best,
    write_config,
    write_scores,
    write_stats,
    write_weights,
)

WRITES = [(files, name) for name in ("link", "write", "sync_file", "rename", "make_directories")]
ALL = {
    "arrays": 4,
    "best weights": 6,
    "configs": 11,
    "training stats": 2,
    "validation scores": 2,
    "weights": 6,
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """What DaCapo's own stores have left of two runs."""
    return golden_base(tmp_path / "source")


def events_of(base: Path) -> list[tuple[Any, ...]]:
    """The log's events without who and where."""
    with EventLog.open(base / "events", read_only=True) as log:
        return [
            (e.event_id, e.stream, e.type, e.recorded_at, e.data_json, numbers(e.index), numbers(e.values))
            for e in log.read()
        ]


def numbers(array: Any) -> bytes | None:
    """Bit by bit."""
    return None if array is None else array.to_numpy(zero_copy_only=False).tobytes()


def run_of(value: float = 0.0) -> Any:
    """A run called ``r`` that can be stored."""
    model = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(model.weight, value)
    return SimpleNamespace(name="r", model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))


def test_everything_is_there_afterwards(source: Path) -> None:
    """Configs, stats, scores, weights, best weights and arrays, as they were written."""
    report = import_base(source)
    assert (report.imported, report.known, report.problems) == (ALL, {}, ())

    configs = FileConfigStore(source / "configs")
    for path in (source / "configs").rglob("*.yaml"):
        document = yaml.full_load(path.read_bytes())
        assert configs.retrieve_config(path.parent.name, path.stem) == document
    stats = FileStatsStore(source / "stats")
    given = pickle.loads((source / "stats/training_stats/run_00001").read_bytes())
    retrieved = stats.retrieve_training_stats("run_00001")
    assert [(row.iteration, row.loss) for row in retrieved.iteration_stats] == [
        (row["iteration"], row["loss"]) for row in given
    ]
    assert math.isnan(retrieved.iteration_stats[0].time)
    (first, *_) = stats.retrieve_validation_iteration_scores("run_00000")
    assert str(first.scores) == "[[[0.5, nan, 20.0]], [[1.0, -0.0, 2.5]]]"
    weights = LocalWeightsStore(source)
    assert weights.latest_iteration("run_00000") == 60
    assert weights.retrieve_best("run_00000", "validate_a", "dice") == 40
    file = source / "run_00000/checkpoints/iterations/40"
    assert torch.equal(
        weights.retrieve_weights("run_00000", 40).model["weight"],
        torch.load(file, weights_only=False, pickle_module=_StandIns).model["weight"],
    )
    rows = dacapo_store.open(source).sql(
        "SELECT dataset, shape, dtype, chunks, files FROM recorded_arrays ORDER BY ALL"
    )
    assert rows.fetchall()[0] == ("40/validate_a/output/threshold_0.5", [4, 6], "float32", [2, 6], 4)


class _StandIns:
    """Loads DaCapo's ``Weights`` where DaCapo is not."""

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            return SimpleNamespace if name == "Weights" else super().find_class(module, name)

    load = staticmethod(lambda file, **_: _StandIns.Unpickler(file).load())


def test_in_place_nothing_moves_and_weights_are_not_copied(source: Path) -> None:
    """What was there is there, byte by byte; a weights file has a second name."""
    before = tree(source)
    assert import_base(source).copied_bytes == 0
    after = tree(source)
    assert {path: after[path] for path in before} == before
    added = [path for path in after if path not in before and not path.startswith("events/")]
    assert len(added) == 6
    assert all("/checkpoints/objects/" in path for path in added)
    assert (source / "run_00000/checkpoints/iterations/20").stat().st_nlink == 2
    with EventLog.open(source / "events", read_only=True) as log:
        assert check_payloads(source, log, digests=True) == (6, [])
    assert plan_gc(source, grace_seconds=0).garbage == ()


def test_a_second_import_adds_nothing(source: Path) -> None:
    """However often."""
    position = import_base(source).position
    again = import_base(source)
    assert (again.imported, again.known, again.position) == ({}, ALL, position)
    assert again.payload_bytes == 0


def test_a_dry_run_says_the_same_and_writes_nothing(source: Path, tmp_path: Path) -> None:
    """Neither in the source nor where it would go; an import afterwards does what it said."""
    before = tree(source)
    for into in (None, tmp_path / "other"):
        planned = import_base(source, into=into, dry_run=True)
        assert (planned.dry_run, planned.imported, planned.position) == (True, ALL, None)
    assert tree(source) == before
    assert not (tmp_path / "other").exists()
    done = import_base(source)
    assert (done.imported, done.payload_bytes) == (planned.imported, planned.payload_bytes)
    assert import_base(source, dry_run=True).known == ALL


@pytest.mark.parametrize("payloads", ["copy", "link"])
def test_into_another_base_the_source_is_only_read(source: Path, tmp_path: Path, payloads: Any) -> None:
    """The new base has everything of its own, with links and choices in the familiar places."""
    before = tree(source)
    into = tmp_path / "other"
    report = import_base(source, into=into, payloads=payloads)
    assert (report.imported, report.copied_bytes > 0) == (ALL, payloads == "copy")
    assert tree(source) == before
    assert import_base(source, into=into).known == ALL
    theirs, ours = (folder / "run_00001/checkpoints/iterations/60" for folder in (source, into))
    assert ours.read_bytes() == theirs.read_bytes()
    assert ours.samefile(theirs) == (payloads == "link")
    shutil.rmtree(source)
    assert LocalWeightsStore(into).retrieve_weights("run_00001", 60).model["weight"].shape == (2, 3)
    container = LocalArrayStore(into).validation_container("run_00000").container
    assert zarr.open(str(container), mode="r")["40/validate_a/prediction"][3, 5] == 23
    assert (into / "run_00000/checkpoints/validate_b/dice.json").is_file()


def test_events_have_the_times_of_the_files(source: Path) -> None:
    """So the base as of a time is what it was then, as far as files tell."""
    import_base(source)
    (first, *_, last) = events_of(source)
    assert first[3] == datetime.fromtimestamp(START_NS // 10**9, UTC)
    assert last[2] == "BestWeightsChosen"
    weights = (source / "run_00000/checkpoints/iterations/40").stat().st_mtime_ns // 10**9
    then = dacapo_store.open(source, as_of=datetime.fromtimestamp(weights, UTC) + timedelta(seconds=1))
    assert then.weights.latest_iteration("run_00000") == 40
    assert then.sql("SELECT count(*) FROM best_weights").fetchone() == (0,)


def test_what_cannot_be_read_is_named_and_the_rest_imported(source: Path) -> None:
    """Torn files, code in a pickle, links that lead nowhere, choices of weights that are not there."""
    (source / "configs/runs/run_00000.yaml").write_bytes(b"")
    write_config(source, "tasks", "torn", "a: [1, 2")
    write_config(source, "tasks", "listed", "- 1")
    write_config(source, "tasks", "code", "!!python/object/apply:os.system ['touch run']")
    for place in ("configs/tasks/README", "run_00001/checkpoints/dice"):
        (source / place).write_text("none of DaCapo's")
    for name, size in (("stats/training_stats/run_00000", 100), ("run_00000/checkpoints/iterations/60", 999)):
        os.truncate(source / name, size)
    (source / "run_00001/checkpoints/iterations/80").symlink_to(source / "gone")
    (source / "run_00001/validation.zarr/40/validate_a/prediction/.zarray").write_text("{")
    write_best(source, "run_00001", "validate_c", "voi", 7)
    reasons = {
        "configs/runs/run_00000.yaml": "empty",
        "configs/tasks/torn.yaml": "no YAML",
        "configs/tasks/listed.yaml": "no mapping",
        "configs/tasks/code.yaml": "os.system",
        "stats/training_stats/run_00000": "cut off",
        "run_00000/checkpoints/iterations/60": "no complete file",
        "run_00001/checkpoints/iterations/80": "leads nowhere",
        "run_00001/validation.zarr/40/validate_a/prediction": "cannot be read",
        "run_00000/checkpoints/validate_a/voi.json": "iteration 60, of which there are no weights",
        "run_00000/checkpoints/validate_b/dice.json": "iteration 60",
        "run_00001/checkpoints/validate_c/voi.json": "iteration 7",
    }
    for report in (import_base(source, dry_run=True), import_base(source), import_base(source)):
        assert dict(report.problems).keys() == reasons.keys()
        assert all(reason in dict(report.problems)[place] for place, reason in reasons.items())
    for place in ("configs/tasks/README", "run_00001/checkpoints/dice"):
        assert dict(report.remarks)[place].startswith("left alone")
    assert report.known == {
        "arrays": 3,
        "best weights": 4,
        "configs": 10,
        "training stats": 1,
        "validation scores": 2,
        "weights": 5,
    }
    assert not (Path.cwd() / "run").exists()


def test_what_was_mended_is_imported_the_next_time(source: Path) -> None:
    """The report is a list of work."""
    path = source / "stats/training_stats/run_00000"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    assert len(import_base(source).problems) == 1
    path.write_bytes(whole)
    report = import_base(source)
    assert (report.imported, report.problems) == ({"training stats": 1}, ())


def test_a_copy_of_a_source_brings_nothing_new(source: Path, tmp_path: Path) -> None:
    """Though all its times are others; a dry run knows that as well."""
    into = tmp_path / "into"
    position = import_base(source, into=into, payloads="copy").position
    copy = tmp_path / "copy"
    shutil.copytree(source, copy, symlinks=True, copy_function=shutil.copyfile)
    for dry_run in (True, False):
        report = import_base(copy, into=into, dry_run=dry_run)
        # Of arrays only names, sizes and times are compared: they go on record again.
        assert (report.imported, report.problems) == ({"arrays": 4}, ())
    assert report.position == (position or 0) + 4


def test_a_time_that_lies_ahead_is_not_recorded(tmp_path: Path) -> None:
    """It would hide everything that follows from who asks for the base as of a time."""
    ahead = 4_000_000_000 * 10**9
    path = write_config(tmp_path, "tasks", "t", "{name: t}")
    os.utime(path, ns=(ahead, ahead))
    before = datetime.now(UTC)
    report = import_base(tmp_path)
    ((place, remark),) = report.remarks
    assert (place, "lies ahead, 2096-10-02" in remark) == ("configs/tasks/t.yaml", True)
    ((*_, recorded_at, _, _, _),) = events_of(tmp_path)
    assert before <= recorded_at <= datetime.now(UTC)
    assert import_base(tmp_path).imported == {}


def test_a_container_that_cannot_be_copied_is_named(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest goes on; a full disk ends the import."""
    copy = shutil.copy2

    def failing(number: int) -> Any:
        def copying(this: Any, *to: Any, **how: Any) -> Any:
            if "run_00000" in str(this):
                raise OSError(number, os.strerror(number), str(this))
            return copy(this, *to, **how)

        return copying

    monkeypatch.setattr(shutil, "copy2", failing(errno.EACCES))
    report = import_base(source, into=tmp_path / "into")
    assert [place for place, _ in report.problems] == ["run_00000/validation.zarr"]
    assert report.imported["arrays"] == 2
    monkeypatch.setattr(shutil, "copy2", failing(errno.ENOSPC))
    with pytest.raises(OSError, match="No space"):
        import_base(source, into=tmp_path / "into")
    monkeypatch.undo()
    assert import_base(source, into=tmp_path / "into").imported == {"arrays": 2}


def test_a_choice_is_read_from_the_link_where_the_file_is_torn(source: Path) -> None:
    """DaCapo makes the link before it writes the file."""
    (source / "run_00000/checkpoints/validate_a/dice.json").write_text("")
    report = import_base(source)
    assert report.imported == ALL
    assert "link beside it" in dict(report.remarks)["run_00000/checkpoints/validate_a/dice.json"]
    assert LocalWeightsStore(source).retrieve_best("run_00000", "validate_a", "dice") == 40


def test_documents_stay_what_they_are(tmp_path: Path) -> None:
    """Types that nobody here knows, hostile names, tuples, numbers of NumPy that DaCapo cannot read."""
    name = "a 'b' \"c\" % & {0} ü\n$"
    path = write_config(tmp_path, "tasks", name, "__type__: NobodyKnows\nsize: !!python/tuple [1, .nan]\n")
    numpy_scalar = (
        "learning_rate: !!python/object/apply:numpy.core.multiarray.scalar\n"
        "- !!python/object/apply:numpy.dtype\n  args: [f8, false, true]\n"
        "  state: !!python/tuple [3, <, null, null, null, -1, -1, 0]\n"
        "- !!binary |\n  AAAAAAAA4D8=\n"
    )
    write_config(tmp_path, "trainers", "t", numpy_scalar)
    report = import_base(tmp_path)
    assert report.problems == ()
    assert any("has the name None" in reason for _, reason in report.remarks)
    store = FileConfigStore(tmp_path / "configs")
    document = store.retrieve_task_config(name, raw=True)
    assert (document["__type__"], document["size"][0], type(document["size"])) == ("NobodyKnows", 1, tuple)
    with pytest.raises(dacapo_store.UnknownTypeError):
        store.retrieve_task_config(name)
    assert store.retrieve_trainer_config("t") == {"learning_rate": 0.5}
    assert path.exists()


def test_a_base_that_has_gone_on_is_left_alone(tmp_path: Path) -> None:
    """Training goes on with this store after the import; another import takes nothing out of view."""
    write_stats(tmp_path, "r", range(10))
    write_weights(tmp_path, "r", 10)
    write_best(tmp_path, "r", "d/with parts", "voi", 10)
    write_config(tmp_path, "tasks", "t", "{name: t}")
    imported = import_base(tmp_path)
    assert imported.problems == ()
    stats, weights = FileStatsStore(tmp_path / "stats"), LocalWeightsStore(tmp_path)
    stats.store_training_stats("r", [TrainingIterationStats(n, loss=2.0) for n in range(5, 30)])
    weights.store_weights(run_of(3.0), 10)
    weights.store_weights(run_of(4.0), 20)
    weights.store_best("r", 20, "d/with parts", "voi")
    FileConfigStore(tmp_path / "configs").delete_task_config("t")
    position = Base.at(tmp_path).log.next_position
    again = import_base(tmp_path)
    assert (again.imported, again.problems, again.position) == ({}, (), position)
    assert stats.retrieve_training_stats("r").trained_until() == 30
    assert weights.retrieve_best("r", "d/with parts", "voi") == 20
    assert float(weights.retrieve_weights("r", 10).model["weight"]) == 3.0
    # The file that was imported is still what the log says of that time.
    then = LocalWeightsStore(tmp_path, as_of=imported.position)
    assert then.retrieve_weights("r", 10).model["w"].tolist() == [1.0, 1.0, 1.0]


def test_what_has_come_since_is_taken_over(tmp_path: Path) -> None:
    """DaCapo went on in the source: more rows, other rows, weights stored again, another choice."""
    source, into = tmp_path / "source", tmp_path / "into"
    write_stats(source, "r", range(10))
    write_scores(source, "r", {10: [[[1]]]})
    write_weights(source, "r", 10)
    write_weights(source, "r", 20)
    write_best(source, "r", "d", "voi", 10)
    write_config(source, "tasks", "t", "{name: t}")
    import_base(source, into=into)

    write_stats(source, "r", range(20))
    write_scores(source, "r", {10: [[[7]]], 20: [[[2, 3]]]})
    write_weights(source, "r", 10, value=5.0)
    write_best(source, "r", "d", "voi", 20)
    write_config(source, "tasks", "t", "{name: t, x: 1}")
    report = import_base(source, into=into)
    assert report.problems == ()
    assert report.imported == {
        "best weights": 1,
        "configs": 1,
        "training stats": 1,
        "validation scores": 1,
        "weights": 1,
    }
    stats, weights = FileStatsStore(into / "stats"), LocalWeightsStore(into)
    assert stats.retrieve_training_stats("r").trained_until() == 20
    scores = stats.retrieve_validation_iteration_scores("r")
    assert [each.scores for each in scores] == [[[[7.0]]], [[[2.0, 3.0]]]]
    assert weights.retrieve_weights("r", 10).model["w"].tolist() == [5.0, 5.0, 5.0]
    assert weights.retrieve_best("r", "d", "voi") == 20
    assert FileConfigStore(into / "configs").retrieve_task_config("t") == {"name": "t", "x": 1}
    # Ten rows were added; the first ten were not written again.
    assert Base.at(into).query("SELECT max(epoch) FROM training_stats").fetchone() == (0,)


def test_what_others_have_recorded_is_not_replaced(tmp_path: Path) -> None:
    """It is reported, and the base stays as it is."""
    source, into = tmp_path / "source", tmp_path / "into"
    FileConfigStore(into / "configs").store_task_config({"name": "t", "mine": True})
    FileConfigStore(into / "configs").store_trainer_config({"name": "same"})
    weights = LocalWeightsStore(into)
    weights.store_weights(run_of(), 10)
    weights.store_weights(run_of(), 20)
    weights.store_best("r", 20, "d", "voi")
    stats = FileStatsStore(into / "stats")
    stats.store_training_stats("r", [TrainingIterationStats(0, loss=9.0, time=0.5)])
    stats.store_training_stats("s", [TrainingIterationStats(0, loss=1.0, time=0.5)])
    position = Base.at(into).log.next_position

    write_config(source, "tasks", "t", "{name: t}")
    write_config(source, "trainers", "same", "{name: same}")
    write_stats(source, "r", range(3))
    write_stats(source, "s", range(3))
    write_weights(source, "r", 10)
    write_best(source, "r", "d", "voi", 10)
    planned = import_base(source, into=into, dry_run=True)
    report = import_base(source, into=into)
    assert (planned.problems, planned.imported) == (report.problems, report.imported)
    assert len(list((into / "r/checkpoints/objects").iterdir())) == 2
    assert {place: reason.split(" ", 4)[0:3] for place, reason in report.problems} == {
        "configs/tasks/t.yaml": ["another", "config", "of"],
        "stats/training_stats/r": ["the", "base", "has"],
        "r/checkpoints/iterations/10": ["the", "base", "has"],
        "r/checkpoints/d/voi.json": ["the", "base", "has"],
    }
    # What follows the rows in view is no contradiction.
    assert (report.imported, report.position) == ({"training stats": 1}, position + 1)
    assert stats.retrieve_training_stats("s").trained_until() == 3
    assert weights.retrieve_best("r", "d", "voi") == 20


def test_runs_that_cannot_be_folders_here(tmp_path: Path) -> None:
    """A run called 'events' would share its folder with the log: in place nothing is touched."""
    source, into = tmp_path / "source", tmp_path / "into"
    write_weights(source, "events", 1)
    write_weights(source, "views", 1)
    write_weights(source, "r", 1)
    before = tree(source)
    with pytest.raises(ValueError, match="a run called 'events'"):
        import_base(source)
    assert tree(source) == before
    report = import_base(source, into=into)
    assert [place for place, _ in report.problems] == ["events/checkpoints", "views/checkpoints"]
    assert report.imported == {"weights": 1}


def test_names_that_are_no_text_are_named(tmp_path: Path) -> None:
    """In whatever place; what has a name is imported."""
    bad = os.fsdecode(b"bad\xff")
    write_stats(tmp_path, bad, range(1))
    write_config(tmp_path, "tasks", bad, "{}")
    write_weights(tmp_path, bad, 1)
    write_weights(tmp_path, "r", 1)
    write_best(tmp_path, "r", bad, "voi", 1)
    write_best(tmp_path, "r", "d", bad, 1)
    for name in (f"a/{bad}/.zarray", "b/.zarray"):
        path = tmp_path / "r/validation.zarr" / name
        path.parent.mkdir(parents=True)
        path.write_text("{}")
    report = import_base(tmp_path)
    assert {place for place, _ in report.problems} == {
        "stats/training_stats/bad\\xff",
        "configs/tasks/bad\\xff.yaml",
        "bad\\xff",
        "r/checkpoints/bad\\xff/voi.json",
        "r/checkpoints/d/bad\\xff.json",
        "r/validation.zarr",
    }
    assert report.imported == {"weights": 1}


def test_a_folder_that_holds_nothing_of_dacapo_is_refused(tmp_path: Path) -> None:
    """A mistyped path must not become a base."""
    (tmp_path / "empty").mkdir()
    for wrong in (tmp_path / "empty", tmp_path / "absent"):
        with pytest.raises(ValueError, match=r"empty|absent"):
            import_base(wrong)
    write_stats(tmp_path / "source", "r", range(1))
    with pytest.raises(ValueError, match="within each other"):
        import_base(tmp_path / "source", into=tmp_path / "source/sub")
    assert list((tmp_path / "empty").iterdir()) == []


def test_weights_of_every_age_are_loaded(tmp_path: Path) -> None:
    """Those of before torch 1.6 cannot be mapped; those that hold more than tensors are only kept."""
    old = write_weights(tmp_path, "r", 1)
    state = {"model": {"w": torch.ones(2)}, "optimizer": {}}
    torch.save(state, old, _use_new_zipfile_serialization=False)
    unsafe = write_weights(tmp_path, "r", 2)
    torch.save({"model": {"w": Path("x")}, "optimizer": {}}, unsafe)
    report = import_base(tmp_path)
    assert (report.imported, report.problems) == ({"weights": 2}, ())
    ((place, remark),) = report.remarks
    assert (place, "refuse to load it" in remark) == ("r/checkpoints/iterations/2", True)
    store = LocalWeightsStore(tmp_path)
    assert store.retrieve_weights("r", 1).model["w"].tolist() == [1.0, 1.0]
    with pytest.raises(dacapo_store.WeightsUnsafeError):
        store.retrieve_weights("r", 2)


def test_a_new_choice_ends_the_link_that_dacapo_has_left(source: Path) -> None:
    """It would go on naming what was best before."""
    import_base(source)
    store = LocalWeightsStore(source)
    link = source / "run_00000/checkpoints/validate_a/dice"
    assert link.is_symlink()
    store.store_best("run_00000", 60, "validate_a", "dice")
    assert not link.is_symlink()
    store.remove("run_00000", 60)
    with pytest.raises(WeightsMissingError):
        store.retrieve_best("run_00000", "validate_a", "dice")


def test_arrays_are_on_record_until_they_are_removed(source: Path) -> None:
    """With a digest of all their files; those that were written to are recorded again."""
    import_base(source)
    base = Base.at(source)
    digests = (
        "SELECT dataset, digest FROM recorded_arrays WHERE starts_with(container, 'run_00000/') ORDER BY 1"
    )
    before = dict(base.query(digests).fetchall())
    assert all(len(digest) == 64 for digest in before.values())
    chunk = source / "run_00000/validation.zarr/40/validate_a/prediction/0.0"
    chunk.write_bytes(chunk.read_bytes()[::-1])
    assert import_base(source).imported == {"arrays": 1}
    after = dict(base.query(digests).fetchall())
    assert [name for name in before if before[name] != after[name]] == ["40/validate_a/prediction"]
    store = LocalArrayStore(source)
    store.remove(store.validation_prediction_array("run_00000", 40, "validate_a"))
    assert list(dict(base.query(digests).fetchall())) == ["40/validate_a/output/threshold_0.5"]
    assert import_base(source).imported == {}


def test_without_array_digests_arrays_are_only_counted(source: Path) -> None:
    """For terabytes."""
    import_base(source, array_digests=False)
    rows = Base.at(source).query("SELECT DISTINCT digest, files, bytes > 0 FROM recorded_arrays").fetchall()
    assert rows == [(None, 4, True)]


def test_one_import_at_a_time(source: Path, tmp_path: Path) -> None:
    """Two would copy the same files over each other; who is refused has written nothing."""
    into = tmp_path / "into"
    asked: list[str] = []

    def interfere(done: int, total: int, place: str) -> None:
        if not asked:
            asked.append(place)
            with pytest.raises(MoveBusyError, match="another import"):
                import_base(source, into=into)
            assert import_base(source, into=into, dry_run=True).imported == ALL
        assert done <= total

    assert import_base(source, into=into, progress=interfere).imported == ALL
    assert asked
    assert import_base(source, into=into).known == ALL


def test_progress_goes_from_nothing_to_all(source: Path) -> None:
    """In bytes of what is read; it never goes back."""
    told: list[tuple[int, int, str]] = []
    import_base(source, progress=lambda *step: told.append(step))
    done = [step[0] for step in told]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, told[0][1])


@pytest.mark.parametrize("where", ["in place", "elsewhere"])
def test_an_import_that_was_killed_is_completed_by_the_next(tmp_path: Path, where: str) -> None:
    """A real kill at steps all over it; what is there afterwards is what one import makes."""
    source = golden_base(tmp_path / "source")
    whole = tmp_path / "whole"
    import_base(source, into=whole)
    expected = events_of(whole)
    kills = 0
    for step in itertools.count(1, 11):
        copy = tmp_path / f"copy_{step}"
        shutil.copytree(source, copy, symlinks=True)
        into = None if where == "in place" else tmp_path / f"into_{step}"
        work = functools.partial(import_base, copy, into=into)
        if not killed_at(step, work, [*WRITES, (Base, "append")]):
            break
        kills += 1
        report = import_base(copy, into=into)
        assert report.problems == ()
        assert {kind: report.imported.get(kind, 0) + report.known.get(kind, 0) for kind in ALL} == ALL
        base = into or copy
        assert events_of(base) == expected
        with EventLog.open(base / "events", read_only=True) as log:
            assert check_payloads(base, log, digests=True) == (6, [])
        assert (base / "run_00001/checkpoints/iterations/60").is_file()
    assert kills > 8


DAMAGES = ("cut", "flip", "zeros", "gone", "folder", "link")


@settings(max_examples=20)
@given(st.data())
def test_whatever_is_damaged_the_rest_is_imported(data: st.DataObject) -> None:
    """Files that are cut, flipped, gone, or something else: no import ends early, and none adds twice."""
    with tempfile.TemporaryDirectory() as temporary:
        source = golden_base(Path(temporary, "source"))
        names = sorted(tree(source))
        damaged = data.draw(st.dictionaries(st.sampled_from(names), st.sampled_from(DAMAGES), max_size=5))
        for name, damage in damaged.items():
            inflict(source / name, damage, data)
        report = import_base(source)
        again = import_base(source)
        assert (again.imported, again.problems, again.position) == ({}, report.problems, report.position)
        Base.at(source).close()
        missing = {kind: ALL[kind] - report.imported.get(kind, 0) for kind in ALL}
        assert all(count >= 0 for count in missing.values())
        # Weights that are lost take with them what was best because of them: at most two choices.
        assert sum(missing.values()) <= 3 * len(damaged)
        if not damaged:
            assert (report.imported, report.problems) == (ALL, ())


def inflict(path: Path, damage: str, data: st.DataObject) -> None:
    """Damage a file."""
    content = bytearray() if path.is_symlink() else bytearray(path.read_bytes())
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage == "link":
        path.symlink_to("nowhere")
    elif damage != "gone":
        if damage == "flip" and content:
            content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        cut_off = data.draw(st.integers(0, len(content))) if damage == "cut" else len(content)
        path.write_bytes(bytes(len(content)) if damage == "zeros" else content[:cut_off])
