"""Seeded histories on every engine of a log that hosts share are clean; a bad engine is found out."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from eventstore.storage.numbered.winning import Contest
from eventstore.storage.shared import SharedFolder
from tools.torture import engines
from tools.torture.histories import judged
from tools.torture.history_programs import program
from tools.torture.history_runner import Crew

HISTORIES = 4
HISTORIES_UNTIL_FOUND = 60


@pytest.mark.parametrize("name", [name for name in engines.ENGINES if "mounts" not in name])
def test_histories_are_clean(name: str) -> None:
    """A few for each; `python -m tools.torture engines` has more."""
    reason = engines.ENGINES[name].missing()
    if reason is not None:
        pytest.skip(reason)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        report = pool.submit(engines.run_one, name, count=HISTORIES, seed=0).result()
    assert report.failures == []  # each names its seed
    assert report.figures["histories"] == HISTORIES
    assert int(report.figures["events"]) > 0


def _overwrites(folder: SharedFolder, key: int, data: bytes) -> bool:
    """A store that ignores the condition, and one that nobody has probed."""
    folder._path(key).write_bytes(data)
    return True


def _passes_on(contest: Contest, key: int, data: bytes, first: Any = None) -> bytes | None:
    """An answer that is believed as it is: "exists" is somebody else's."""
    engine = contest._store.engine
    return None if engine.create(key, data) else engine.read(key, 1)[0]


def _loses_answers(honest: Callable[..., bool]) -> Callable[..., bool]:
    return lambda folder, key, data: honest(folder, key, data) and key % 3 != 0


@pytest.mark.parametrize("what", ["it overwrites", "its answers are believed"])
def test_a_bad_engine_is_found_out(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the clean histories would mean nothing."""
    if what == "it overwrites":
        monkeypatch.setattr(SharedFolder, "create", _overwrites)
    else:
        monkeypatch.setattr(SharedFolder, "create", _loses_answers(SharedFolder.create))
        monkeypatch.setattr(Contest, "settled", _passes_on)
    with Crew("log") as crew:
        for seed in range(HISTORIES_UNTIL_FOUND):
            happens = program(seed, kind="log")
            if any(process.start == "spawn" for process in happens.processes):
                continue  # it would be honest
            _, found = judged(happens, crew, _in_a_folder)
            if any("did not answer" not in failure for failure in found):
                return
    pytest.fail(f"nobody noticed in {HISTORIES_UNTIL_FOUND} histories")


def _in_a_folder(_program: Any, folder: Path) -> tuple[str, ...]:
    return (f"shared://{folder}",)
