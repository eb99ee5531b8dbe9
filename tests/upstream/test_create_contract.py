"""What the functions that create stores do: on these stores in DaCapo's place, and DaCapo's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dacapo import Options
from dacapo.experiments import TrainingIterationStats, TrainingStats


def stats_of(*iterations: int) -> Any:
    return TrainingStats([TrainingIterationStats(iteration=n, loss=0.5, time=0.25) for n in iterations])


def say(options: Path, **values: Any) -> None:
    options.write_text("".join(f"{name}: {value}\n" for name, value in values.items()))


def test_options_are_read_each_time(stores: Any, tmp_path: Path) -> None:
    """Stores that were created before stay where they are."""
    before = stores.stats()
    say(tmp_path / "dacapo.yaml", type="files", runs_base_dir=tmp_path / "another")
    before.store_training_stats("run", stats_of(0))
    assert str(stores.stats().path) == str(tmp_path / "another" / "stats")
    assert stores.stats().retrieve_training_stats("run").trained_until() == 0
    assert before.retrieve_training_stats("run").trained_until() == 1


def test_options_that_a_program_sets_count(
    stores: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some programs put a path in place of that in the file, by replacing ``Options.instance``."""
    instance = Options.instance
    monkeypatch.setattr(Options, "instance", lambda: instance(runs_base_dir=tmp_path / "set_in_code"))
    assert str(stores.config().path) == str(tmp_path / "set_in_code" / "configs")
    assert str(stores.weights().basedir) == str(tmp_path / "set_in_code")


@pytest.mark.parametrize("kind", ["config", "stats"])
def test_an_unknown_type_is_a_value_error(stores: Any, tmp_path: Path, kind: str) -> None:
    say(tmp_path / "dacapo.yaml", type="clay_tablets", runs_base_dir=tmp_path)
    with pytest.raises(ValueError, match="clay_tablets"):
        getattr(stores, kind)()


@pytest.mark.defect("a store follows the working directory")
def test_a_relative_base_is_where_it_was_when_the_store_was_created(
    stores: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(tmp_path / "dacapo.yaml", type="files", runs_base_dir="relative")
    monkeypatch.chdir(tmp_path)
    store = stores.stats()
    store.store_training_stats("run", stats_of(0))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert store.retrieve_training_stats("run").trained_until() == 1


@pytest.mark.defect("a folder is called ~")
@pytest.mark.parametrize("kind", ["config", "stats", "weights"])
def test_a_tilde_is_the_home(stores: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    say(tmp_path / "dacapo.yaml", type="files", runs_base_dir="~/dacapo")
    store = getattr(stores, kind)()
    place = store.basedir if kind == "weights" else store.path
    assert str(place).startswith(str(tmp_path / "home" / "dacapo"))
