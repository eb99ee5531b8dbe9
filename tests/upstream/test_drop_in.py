"""These stores in the real DaCapo: what is theirs at the border, and what only these have."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dacapo
import pytest
import torch
from dacapo.experiments import TrainingIterationStats, TrainingStats
from dacapo.store import config_store, create_store
from dacapo.store.file_config_store import FileConfigStore
from dacapo.store.file_stats_store import FileStatsStore
from dacapo.store.local_weights_store import LocalWeightsStore
from pymongo import MongoClient
from upath import UPath

import dacapo_store
from dacapo_store import compat
from dacapo_store.errors import NotImportedError, UnimportedDatabaseError
from tools.upstream import experiment, process


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A base directory that DaCapo's options name, with these stores installed."""
    monkeypatch.setenv(compat.VARIABLE, "")
    process.make_folder(tmp_path)
    monkeypatch.setenv("DACAPO_OPTIONS_FILE", str(tmp_path / "dacapo.yaml"))
    compat.install()
    yield tmp_path / "base"
    compat.uninstall()


FACTORIES = ("create_config_store", "create_stats_store", "create_weights_store", "create_array_store")


def test_every_module_of_dacapo_creates_these_stores(base: Path) -> None:
    """All that have imported one of the functions, by whatever name: they are the same functions."""
    holders = {
        (name, factory): getattr(module, factory)
        for name, module in list(sys.modules.items())
        if name.startswith("dacapo.")
        for factory in FACTORIES
        if hasattr(module, factory)
    }
    assert {"dacapo.train", "dacapo.validate", "dacapo.predict", "dacapo.apply"} <= {
        name for name, _ in holders
    }
    for (_, factory), function in holders.items():
        assert function is getattr(create_store, factory)
        assert type(function()).__module__ == "dacapo_store.compat.stores"


def test_uninstalled_dacapo_creates_its_own(base: Path) -> None:
    compat.uninstall()
    assert type(create_store.create_config_store()) is FileConfigStore
    assert type(create_store.create_stats_store()) is FileStatsStore
    assert type(create_store.create_weights_store()) is LocalWeightsStore


def test_without_the_variable_a_process_has_dacapos_own(tmp_path: Path) -> None:
    """And with it ours; nothing else differs, and nothing is imported that was not before."""
    process.make_folder(tmp_path)
    code = (
        "import sys; early = [name for name in sys.modules if name.startswith(('dacapo', 'eventstore'))];"
        "from dacapo.store.create_store import create_stats_store as create;"
        "print(early, type(create()).__module__)"
    )
    printed = {}
    for stores in ("ours", "theirs"):
        ran = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            env=process.environment(stores),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        printed[stores] = ran.stdout.splitlines()[-1]
    assert printed["theirs"] == "[] dacapo.store.file_stats_store"
    assert printed["ours"].endswith(" dacapo_store.compat.stores")
    assert "'dacapo'" not in printed["ours"]


def _say(base: Path, options: str) -> None:
    (base.parent / "dacapo.yaml").write_text(f"{options}\nruns_base_dir: {base}\n")


def test_options_that_ask_for_a_database_get_it(base: Path, mongodb: tuple[str, str]) -> None:
    """Configs and stats are in its log and shown in DaCapo's collections; weights are files."""
    host, name = mongodb
    _say(base, f"type: mongo\nmongo_db_host: {host}\nmongo_db_name: {name}")
    configs, stats = create_store.create_config_store(), create_store.create_stats_store()
    config = experiment.run_config(base.parent, iterations=10, name="run")
    configs.store_run_config(config)
    assert configs.retrieve_run_config("run").trainer_config == config.trainer_config
    stored = TrainingStats([TrainingIterationStats(iteration=n, loss=0.5, time=0.1) for n in range(3)])
    stats.store_training_stats("run", stored)
    assert stats.retrieve_training_stats("run") == stored
    create_store.create_weights_store().store_weights(own_run(), 3)
    assert create_store.create_weights_store().latest_iteration("run") == 3
    assert (base / "run" / "checkpoints").is_dir()
    assert not (base / "events").exists()
    assert type(create_store.create_array_store()).__module__ == "dacapo_store.compat.stores"
    assert [document["name"] for document in configs.runs.find()] == ["run"]
    assert stats.training_stats.count_documents({"run_name": "run"}) == 3
    with pytest.raises(config_store.DuplicateNameError):
        configs.store_run_config(experiment.run_config(base.parent, iterations=20, name="run"))


def test_a_database_of_dacapos_own_is_not_begun_anew(base: Path, mongodb: tuple[str, str]) -> None:
    """It is to be imported; nothing in it is touched."""
    host, name = mongodb
    with MongoClient(host) as client:
        client[name]["tasks"].insert_one({"name": "cells"})
    _say(base, f"type: mongo\nmongo_db_host: {host}\nmongo_db_name: {name}")
    for factory in ("create_config_store", "create_stats_store"):
        with pytest.raises(UnimportedDatabaseError, match="--from-mongo"):
            getattr(create_store, factory)()


@pytest.mark.parametrize("options", ["type: mongo", "type: redis"])
def test_options_that_say_too_little_or_something_else_are_refused(base: Path, options: str) -> None:
    """Configs would be where nobody looks for them."""
    _say(base, options)
    for factory in FACTORIES:
        with pytest.raises(ValueError, match=r"mongo_db_host|type: files or type: mongo"):
            getattr(create_store, factory)()


def test_scalars_that_dacapo_does_not_know_survive_a_resumed_run(base: Path) -> None:
    """They are attributes of the rows, so that a trainer that hands all rows back takes none away."""
    rows = [dacapo_store.TrainingIterationStats(n, loss=0.5, time=0.1, rate=n / 8) for n in range(3)]
    rows.append(dacapo_store.TrainingIterationStats(3, loss=0.5))
    create_store.create_stats_store().store_training_stats("run", rows)
    stats = create_store.create_stats_store().retrieve_training_stats("run")
    assert [getattr(row, "rate", None) for row in stats.iteration_stats] == [0, 0.125, 0.25, None]
    assert stats.iteration_stats[3].time is None
    stats.add_iteration_stats(TrainingIterationStats(iteration=4, loss=0.5, time=0.1))
    with dacapo_store.open(base) as store:
        before = store.position
        create_store.create_stats_store().store_training_stats("run", stats)
        assert store.position == before + 1
        assert store.sql("SELECT count(*) FROM training_scalars WHERE name = 'rate'").fetchone() == (3,)


def own_run() -> Any:
    model = torch.nn.Linear(2, 1)
    return SimpleNamespace(name="run", model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))


def test_a_run_in_dacapos_files_is_not_begun_anew(base: Path) -> None:
    """Its stats, scores and weights are refused, until they are imported; what is there stays."""
    own = FileStatsStore(UPath(base / "stats"))
    own.store_training_stats("run", TrainingStats([TrainingIterationStats(iteration=0, loss=0.5, time=0.1)]))
    (base / "stats" / "validation_scores" / "run").write_bytes(b"whatever")
    FileConfigStore(UPath(base / "configs")).store_run_config(
        experiment.run_config(base, iterations=4, name="run")
    )
    LocalWeightsStore(UPath(base)).store_weights(own_run(), 4)
    before = {path: path.read_bytes() for path in base.rglob("*") if path.is_file()}

    configs, stats = create_store.create_config_store(), create_store.create_stats_store()
    weights = create_store.create_weights_store()
    for call in (
        lambda: stats.retrieve_training_stats("run"),
        lambda: stats.store_training_stats("run", TrainingStats()),
        lambda: stats.retrieve_validation_iteration_scores("run"),
        lambda: stats.store_validation_iteration_scores("run", []),
        lambda: weights.latest_iteration("run"),
        lambda: weights.store_weights(own_run(), 8),
    ):
        with pytest.raises(NotImportedError, match="dacapo-store import"):
            call()
    with pytest.raises(KeyError, match="dacapo-store import"):
        configs.retrieve_run_config("run")
    assert {path: path.read_bytes() for path in before} == before
    # Others are not concerned, and weights that lie there can be looked at.
    assert stats.retrieve_training_stats("another").trained_until() == 0
    assert set(weights.retrieve_weights("run", 4).model) == {"weight", "bias"}


def test_a_training_whose_data_fetchers_are_forked(base: Path) -> None:
    """Forked while stores are open, DuckDB's threads among what they inherit; nothing hangs or is lost."""
    experiment.make_data(base.parent)
    experiment.store_configs(experiment.run_config(base.parent, iterations=8, workers=2))
    experiment.train(validating=False)
    stats = create_store.create_stats_store().retrieve_training_stats(experiment.NAME)
    assert [row.iteration for row in stats.iteration_stats] == list(range(8))
    assert create_store.create_weights_store().latest_iteration(experiment.NAME) == 8
    assert os.environ[compat.VARIABLE] == "1"
    assert dacapo.Options.instance().runs_base_dir == UPath(base)
