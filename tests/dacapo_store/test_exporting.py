"""Moving out: what an export writes is what DaCapo's stores read, and what an import reads again.

That DaCapo's own stores read it is shown where DaCapo is, in ``tests/upstream``.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import pickle
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from dacapo_store import (
    Base,
    FileConfigStore,
    FileStatsStore,
    LocalArrayStore,
    LocalWeightsStore,
    TrainingIterationStats,
    ValidationIterationScores,
)
from dacapo_store.config_store import KINDS
from dacapo_store.converter import documents_equal
from dacapo_store.moving import export_base, import_base
from eventstore import files
from tests.dacapo_store.killing import killed_at
from tests.dacapo_store.upstream_base import golden_base, tree, write_config, write_pickle, write_scores

OWN = ("events/", "dacapo-store-export.json")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A base of ours with everything in it."""
    path = tmp_path / "base"
    FileConfigStore(path / "configs").store_run_config(
        {"name": "r", "task_config": {"name": "t", "size": (1, float("nan"))}, "steps": None}
    )
    stats, weights, arrays = FileStatsStore(path / "stats"), LocalWeightsStore(path), LocalArrayStore(path)
    stats.store_training_stats("r", [TrainingIterationStats(n, loss=1 / (n + 1), time=0.5) for n in range(5)])
    stats.store_validation_iteration_scores("r", [ValidationIterationScores(5, [[[0.5, float("inf")]]])])
    for iteration in (5, 10):
        weights.store_weights(run_of(iteration), iteration)
    weights.store_best("r", 5, "d", "voi")
    place = arrays.validation_prediction_array("r", 5, "d")
    group = zarr.open_group(str(place.container), mode="a")
    group.create_group(place.dataset).attrs["offset"] = [0]
    return path


def run_of(value: float) -> Any:
    """A run called ``r`` that can be stored."""
    model = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(model.weight, value)
    return SimpleNamespace(name="r", model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))


def content(folder: Path, *, times: bool = False) -> dict[str, Any]:
    """What lies in a base of DaCapo's, pickles as their values."""
    found: dict[str, Any] = {}
    for name, (stamp, _, data) in tree(folder).items():
        if not name.startswith(OWN) and "/objects/" not in name:
            value = repr(plain(pickle.loads(data))) if name.startswith("stats/") else data
            found[name] = (stamp // 1000, value) if times else value
    return found


def plain(value: Any) -> Any:
    """Numbers as floats, which is what scores are here."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value if isinstance(value, str) else float(value)


def test_everything_is_written_where_dacapo_looks_for_it(base: Path, tmp_path: Path) -> None:
    """In the layout of its file stores, with the times of the events."""
    target = tmp_path / "back"
    report = export_base(base, target)
    assert report.exported == {
        "best weights": 1,
        "configs": 2,
        "containers": 1,
        "training stats": 1,
        "validation scores": 1,
        "weights": 2,
    }
    assert (report.problems, report.known) == ((), {})
    document = yaml.full_load((target / "configs/runs/r.yaml").read_bytes())
    assert document["task_config"]["size"][0] == 1
    rows = pickle.loads((target / "stats/training_stats/r").read_bytes())
    assert rows[4] == {"iteration": 4, "loss": 0.2, "time": 0.5, "run_name": "r"}
    (scores,) = pickle.loads((target / "stats/validation_scores/r").read_bytes())
    assert scores == {"iteration": 5, "scores": [[[0.5, float("inf")]]], "run_name": "r"}
    link = target / "r/checkpoints/d/voi"
    assert link.samefile(target / "r/checkpoints/iterations/5")
    assert json.loads(link.with_name("voi.json").read_text()) == {"iteration": 5}
    state = torch.load(link, weights_only=True)
    assert float(state["model"]["weight"]) == 5.0
    assert (target / "r/validation.zarr/5/d/prediction").is_dir()
    (stored,) = Base.at(base).query("SELECT recorded_at FROM weights WHERE iteration = 5").fetchone() or ()
    assert link.stat().st_mtime_ns // 1000 == (stored - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(
        microseconds=1
    )


def test_an_imported_base_comes_out_as_it_went_in(tmp_path: Path) -> None:
    """The same documents, numbers and bytes, with the same times; only links have a valid target now."""
    source = golden_base(tmp_path / "source")
    into, back = tmp_path / "into", tmp_path / "back"
    import_base(source, into=into)
    report = export_base(into, back)
    assert (report.problems, report.remarks) == ((), ())
    before, after = content(source, times=True), content(back, times=True)
    links = [name for name in before if (source / name).is_symlink()]
    assert len(links) == 6
    for name in links:
        assert Path(os.fsdecode(before.pop(name)[1])).name == Path(os.fsdecode(after.pop(name)[1])).name
    assert after == before
    # In place as well, and what came out can go in again.
    import_base(source)
    export_base(source, tmp_path / "once_more")
    assert content(tmp_path / "once_more", times=True).keys() == content(source).keys()
    assert import_base(back).problems == ()


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=8)
FILE_NAMES = TEXT.filter(lambda name: name not in ("", ".", "..") and not set(name) & set("/\0"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(TEXT, inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
    ),
    max_leaves=8,
)
SCORES = st.lists(st.lists(st.lists(st.floats(), max_size=2), max_size=2), max_size=2)


@settings(max_examples=15)
@given(
    configs=st.dictionaries(st.tuples(st.sampled_from(KINDS), FILE_NAMES), VALUES, max_size=4),
    losses=st.dictionaries(
        FILE_NAMES, st.lists(st.tuples(st.integers(0, 99), st.floats()), min_size=1), max_size=2
    ),
    scores=st.dictionaries(FILE_NAMES, st.dictionaries(st.integers(0, 99), SCORES, min_size=1), max_size=2),
)
def test_any_configs_and_numbers_come_out_as_they_went_in(
    configs: dict[tuple[str, str], Any],
    losses: dict[str, list[tuple[int, float]]],
    scores: dict[str, dict[int, Any]],
) -> None:
    """Under any name that a file can have, to the last bit."""
    with tempfile.TemporaryDirectory() as temporary:
        source, into, back = (Path(temporary, name) for name in ("source", "into", "back"))
        (source / "configs/runs").mkdir(parents=True)
        for (kind, name), value in configs.items():
            write_config(source, kind, name, yaml.dump({"name": name, "value": value}))
        for run, rows in losses.items():
            documents = [{"iteration": n, "loss": x, "time": -x, "run_name": run} for n, x in rows]
            write_pickle(source / "stats/training_stats" / run, documents)
        for run, iterations in scores.items():
            write_scores(source, run, iterations)
        assert import_base(source, into=into).problems == ()
        assert export_base(into, back).problems == ()
        before, after = content(source), content(back)
        assert after.keys() == before.keys()
        for name, found in after.items():
            if name.endswith(".yaml") and name.startswith("configs/"):
                assert documents_equal(yaml.full_load(found), yaml.full_load(before[name]))
            else:
                assert found == before[name]
        Base.at(into).close()


def test_a_past_state_is_exported_as_it_was(base: Path, tmp_path: Path) -> None:
    """Deleted, replaced and removed things are there again, as far as their files are."""
    position = Base.at(base).log.next_position
    FileConfigStore(base / "configs").delete_run_config("r")
    FileStatsStore(base / "stats").store_training_stats("r", [TrainingIterationStats(0, loss=9.0)])
    weights = LocalWeightsStore(base)
    weights.store_weights(run_of(7), 5)
    weights.remove("r", 10)
    report = export_base(base, tmp_path / "then", at=position)
    assert report.position == position
    assert [place for place, _ in report.problems] == ["r/checkpoints/iterations/10"]
    assert "have no past" in dict(report.remarks)["arrays"]
    then = tmp_path / "then"
    assert len(pickle.loads((then / "stats/training_stats/r").read_bytes())) == 5
    assert float(torch.load(then / "r/checkpoints/iterations/5")["model"]["weight"]) == 5.0
    assert (then / "configs/runs/r.yaml").is_file()
    export_base(base, tmp_path / "now")
    assert not (tmp_path / "now/configs/runs/r.yaml").exists()


def test_a_dry_run_writes_nothing(base: Path, tmp_path: Path) -> None:
    """And says what an export says."""
    planned = export_base(base, tmp_path / "back", dry_run=True)
    assert not (tmp_path / "back").exists()
    done = export_base(base, tmp_path / "back")
    assert (planned.exported, planned.payload_bytes) == (done.exported, done.payload_bytes)


def test_what_dacapo_cannot_hold_is_named(base: Path, tmp_path: Path) -> None:
    """And what it holds less of."""
    configs, stats = FileConfigStore(base / "configs"), FileStatsStore(base / "stats")
    configs.store_task_config({"name": "a/b"})
    configs.store_task_config({"name": "x" * 252})
    configs.store_task_config({"name": "frozen", "set": frozenset({1})})
    stats.store_training_stats("../r", [TrainingIterationStats(0, loss=1.0, time=0.5)])
    stats.store_training_stats("more", [TrainingIterationStats(0, loss=1.0, learning_rate=0.1)])
    LocalWeightsStore(base).store_best("r", 5, "iterations", "voi")
    LocalWeightsStore(base).store_best("r", 5, "a/b", "voi")
    before = tree(tmp_path)
    report = export_base(base, tmp_path / "back")
    assert [place for place, _ in report.problems] == [
        "configs/tasks/a/b.yaml",
        f"configs/tasks/{'x' * 252}.yaml",
        "configs/tasks/frozen.yaml",
        "stats/training_stats/../r",
        "r/checkpoints/iterations/voi",
    ]
    remarks = [remark for place, remark in report.remarks if place == "stats/training_stats/more"]
    assert ["NaN" in remarks[0], "'learning_rate'" in remarks[1], len(remarks)] == [True, True, 2]
    assert (tmp_path / "back/r/checkpoints/a/b/voi").samefile(tmp_path / "back/r/checkpoints/iterations/5")
    written = tree(tmp_path).keys() - before.keys()
    assert all(name.startswith(("back/", "base/events/")) for name in written)


def test_types_that_only_our_converter_writes_down_are_left_out(tmp_path: Path) -> None:
    """DaCapo stores a path as text, and a coordinate as a tuple."""
    upath = pytest.importorskip("upath")
    configs = FileConfigStore(tmp_path / "base/configs")
    configs.store_array_config(
        {"name": "a", "file_name": upath.UPath("/data/x.zarr"), "other": PurePosixPath("y"), "size": (1, 2)}
    )
    export_base(tmp_path / "base", tmp_path / "back")
    assert yaml.full_load((tmp_path / "back/configs/arrays/a.yaml").read_text()) == {
        "name": "a",
        "file_name": "/data/x.zarr",
        "other": "y",
        "size": (1, 2),
    }


def test_files_are_not_shared_unless_asked_for(base: Path, tmp_path: Path) -> None:
    """DaCapo writes into files that are there."""
    for how in ("copy", "link"):
        export_base(base, tmp_path / how, payloads=how)  # type: ignore[arg-type]
        ours, theirs = (each / "r/checkpoints/iterations/5" for each in (base, tmp_path / how))
        assert ours.samefile(theirs) == (how == "link")
    (tmp_path / "copy/r/checkpoints/iterations/5").write_bytes(b"")
    assert float(LocalWeightsStore(base).retrieve_weights("r", 5).model["weight"]) == 5.0


def test_only_an_empty_folder_or_the_same_export_is_written_to(base: Path, tmp_path: Path) -> None:
    """Not what holds anything else, nor the base itself."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("mine")
    export_base(base, tmp_path / "earlier", at=1)
    for target in ("full", "earlier", "base", "base/sub", "."):
        with pytest.raises(ValueError, match=r"give an empty folder|give a folder elsewhere"):
            export_base(base, tmp_path / target)
    again = export_base(base, tmp_path / "earlier", at=1)
    assert (again.exported, sum(again.known.values())) == ({}, 2)


def test_a_damaged_payload_is_not_exported(base: Path, tmp_path: Path) -> None:
    """Its digest is checked on the way."""
    (payload,) = (base / "r/checkpoints/objects").glob("5-*")
    data = bytearray(payload.read_bytes())
    data[len(data) // 2] ^= 1
    payload.write_bytes(data)
    for how in ("copy", "link"):
        report = export_base(base, tmp_path / how, payloads=how)  # type: ignore[arg-type]
        ((place, reason),) = report.problems
        assert (place, "not the one that was stored" in reason) == ("r/checkpoints/iterations/5", True)
        assert not (tmp_path / how / place).exists()


def test_an_export_that_was_killed_is_completed_by_the_next(base: Path, tmp_path: Path) -> None:
    """A real kill at steps all over it."""
    export_base(base, tmp_path / "whole")
    expected = content(tmp_path / "whole", times=True)
    kills = 0
    calls = [(files, name) for name in ("write", "sync_file", "rename", "make_directories")]
    for step in itertools.count(0, 9):
        target = tmp_path / f"target_{step}"
        if not killed_at(step, functools.partial(export_base, base, target), calls):
            break
        kills += 1
        assert export_base(base, target).problems == ()
        found = content(target, times=True)
        assert found == expected
    assert kills > 5
