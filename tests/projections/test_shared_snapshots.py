"""Snapshot files beside a log: one host makes them, another begins with them, and the log stays the truth."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from eventstore.errors import StorageError, StorageUnavailableError
from eventstore.storage.protocol import SharedFile
from projections import ANYTHING_NEW, PROJECTIONS, ReadModels, TailLimit, publish_snapshot, shared_snapshots
from projections.shared_snapshots import FOREIGN_GRACE_SECONDS, GRACE_SECONDS
from projections.testing import GivenEvent, ListedLog, event

if TYPE_CHECKING:
    import pyarrow as pa

_MANY = 200


class _FilesInFolder:
    """What lies beside a log, in a folder; counts what is fetched."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fetched: list[str] = []
        self.fails = False
        self.seconds = 0.0
        folder.mkdir(exist_ok=True)

    def listed(self, folder: str) -> list[SharedFile]:
        """See ``SharedFiles``."""
        self._answer()
        found = []
        for path in self.folder.iterdir():
            name, _, digest = path.name.rpartition("@")
            status = path.stat()
            found.append(SharedFile(folder, name, digest, status.st_size, status.st_mtime))
        return found

    def fetch(self, file: SharedFile, descriptor: int) -> None:
        """See ``SharedFiles``."""
        self._answer()
        time.sleep(self.seconds)
        data = (self.folder / f"{file.name}@{file.digest}").read_bytes()
        self.fetched.append(file.name)
        os.write(descriptor, data)
        if hashlib.sha256(data).hexdigest() != file.digest:
            raise StorageError("not the bytes", path=file.name)

    def publish(self, folder: str, path: Path) -> None:
        """See ``SharedFiles``."""
        assert folder == "snap"
        self._answer()
        data = path.read_bytes()
        (self.folder / f"{path.name}@{hashlib.sha256(data).hexdigest()}").write_bytes(data)

    def remove(self, file: SharedFile) -> None:
        """See ``SharedFiles``."""
        self._answer()
        (self.folder / f"{file.name}@{file.digest}").unlink()

    def paths(self) -> list[Path]:
        """All of them, in order."""
        return sorted(self.folder.iterdir())

    def _answer(self) -> None:
        if self.fails:
            raise StorageUnavailableError("no answer", path="")


@dataclass
class _Log(ListedLog):
    """Tells from where on it was read."""

    read_from: list[int] = field(default_factory=list)

    def read_batches(self, from_position: int) -> Iterator[pa.RecordBatch]:
        """See ``EventSource``."""
        self.read_from.append(from_position)
        return super().read_batches(from_position)


def _config(number: int) -> GivenEvent:
    return event("ConfigStored", {"kind": "tasks", "name": str(number), "document": 1})


def _configs(first: int, count: int) -> list[GivenEvent]:
    return [_config(number) for number in range(first, first + count)]


@pytest.fixture
def shared(tmp_path: Path) -> _FilesInFolder:
    """What lies beside the log."""
    return _FilesInFolder(tmp_path / "beside")


@pytest.fixture
def log(shared: _FilesInFolder) -> _Log:
    """A log of many events."""
    return _Log(_configs(0, _MANY), shared_files=shared)


def _publish(folder: Path, log: ListedLog) -> None:
    assert publish_snapshot(folder, log, tail_limit=ANYTHING_NEW) is not None


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.duckdb"))


def _count(log: ListedLog, folder: Path) -> int:
    """How many configs a new process on a host sees."""
    read_models = ReadModels(log, snapshots=folder)
    (count,) = read_models.query("SELECT count(*) FROM configs").fetchone() or (0,)
    read_models.close()
    return int(count)


def test_a_new_host_begins_with_what_another_has_made(
    tmp_path: Path, log: _Log, shared: _FilesInFolder
) -> None:
    """It reads the log from there on only, and the file is one of its own from then on."""
    _publish(tmp_path / "one", log)
    log.append(*_configs(_MANY, 10))
    log.read_from.clear()
    assert _count(log, tmp_path / "two") == _MANY + 10
    assert log.read_from == [_MANY]
    assert _names(tmp_path / "two") == _names(tmp_path / "one") == shared.fetched
    (path,) = (tmp_path / "two").glob("*.duckdb")
    assert path.stat().st_mode & 0o222 == 0
    assert _count(log, tmp_path / "two") == _MANY + 10
    assert len(shared.fetched) == 1


def test_the_digests_of_all_rows_are_those_of_the_log(tmp_path: Path, log: _Log) -> None:
    """Whoever begins with a fetched file sees what the log says."""
    _publish(tmp_path / "one", log)
    log.append(*_configs(_MANY, 10))
    views = ReadModels(log, snapshots=tmp_path / "two")
    assert views.digests() == ReadModels(_Log(log.events)).digests()


def test_a_publisher_goes_on_from_what_another_has_made(
    tmp_path: Path, log: _Log, shared: _FilesInFolder
) -> None:
    """It does not read the log from the beginning."""
    _publish(tmp_path / "one", log)
    log.append(*_configs(_MANY, _MANY))
    log.read_from.clear()
    _publish(tmp_path / "two", log)
    assert log.read_from == [_MANY]
    assert [int(path.name[:20]) for path in shared.paths()] == [_MANY, 2 * _MANY]


def test_what_is_hardly_newer_is_not_fetched(tmp_path: Path, log: _Log, shared: _FilesInFolder) -> None:
    """To read a few events takes less."""
    _publish(tmp_path / "one", log)
    assert _count(log, tmp_path / "two") == _MANY
    log.append(*_configs(_MANY, 20))
    _publish(tmp_path / "one", log)
    assert _count(log, tmp_path / "two") == _MANY + 20
    assert len(shared.fetched) == 1
    log.append(*_configs(_MANY + 20, _MANY))
    _publish(tmp_path / "one", log)
    assert _count(log, tmp_path / "two") == 2 * _MANY + 20
    assert len(shared.fetched) == 2


@pytest.mark.parametrize("wrong", ["history", "longer", "code"])
def test_what_is_not_of_this_log_is_not_even_fetched(
    tmp_path: Path, log: _Log, shared: _FilesInFolder, wrong: str
) -> None:
    """Position, chain and code stand in its name."""
    other = _Log(_configs(1, _MANY + (wrong == "longer")), shared_files=shared)
    if wrong == "code":
        publish_snapshot(tmp_path / "one", log, tail_limit=ANYTHING_NEW, projections=PROJECTIONS[:2])
    else:
        _publish(tmp_path / "one", other)
    assert len(shared.paths()) == 1
    assert _count(log, tmp_path / "two") == _MANY
    assert log.read_from[-1] == 0
    assert shared.fetched == []


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty"])
def test_a_damaged_file_is_passed_over_for_an_older_one(
    tmp_path: Path, log: _Log, shared: _FilesInFolder, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """And nothing of it is left in the folder."""
    _publish(tmp_path / "one", log)
    log.append(*_configs(_MANY, _MANY))
    _publish(tmp_path / "one", log)
    newest = shared.paths()[-1]
    data = newest.read_bytes()
    match damage:
        case "flipped":
            newest.write_bytes(data[:9000] + bytes([data[9000] ^ 1]) + data[9001:])
        case "cut":
            newest.write_bytes(data[:-4096])
        case "empty":
            newest.write_bytes(b"")
    log.read_from.clear()
    with caplog.at_level(logging.WARNING):
        assert _count(log, tmp_path / "two") == 2 * _MANY
    assert log.read_from == [_MANY]
    assert "not the bytes" in caplog.text
    assert [int(name[:20]) for name in _names(tmp_path / "two")] == [_MANY]
    assert list((tmp_path / "two").glob(".*.part")) == []


def test_a_file_that_is_no_database_is_passed_over(tmp_path: Path, log: _Log, shared: _FilesInFolder) -> None:
    """Whoever published it also computed its digest; the log is read instead."""
    _publish(tmp_path / "one", log)
    (path,) = shared.paths()
    data = b"no database" * 1000
    path.rename(path.with_name(f"{path.name.partition('@')[0]}@{hashlib.sha256(data).hexdigest()}"))
    (path,) = shared.paths()
    path.write_bytes(data)
    log.read_from.clear()
    assert _count(log, tmp_path / "two") == _MANY
    assert log.read_from == [0]


def test_a_store_that_fails_keeps_nobody_from_an_answer(
    tmp_path: Path, log: _Log, shared: _FilesInFolder, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once."""
    _publish(tmp_path / "one", log)
    shared.fails = True
    for _ in range(2):
        assert _count(log, tmp_path / "two") == _MANY
    assert caplog.text.count("no answer") == 1


def test_what_could_not_be_published_is_by_the_next_call(
    tmp_path: Path, log: _Log, shared: _FilesInFolder
) -> None:
    """The file is made only once."""
    shared.fails = True
    with pytest.raises(StorageUnavailableError):
        publish_snapshot(tmp_path / "one", log, tail_limit=ANYTHING_NEW)
    assert len(_names(tmp_path / "one")) == 1
    assert shared.paths() == []
    shared.fails = False
    assert publish_snapshot(tmp_path / "one", log, tail_limit=ANYTHING_NEW) is None
    assert [path.name.partition("@")[0] for path in shared.paths()] == _names(tmp_path / "one")


def test_old_files_go_and_those_of_others_stay_longer(
    tmp_path: Path, log: _Log, shared: _FilesInFolder
) -> None:
    """Two usable ones are kept; somebody may be fetching what was listed a while ago."""
    publish_snapshot(tmp_path / "other", log, tail_limit=ANYTHING_NEW, projections=PROJECTIONS[:2])
    (foreign,) = shared.paths()
    for round_number in range(1, 4):
        _publish(tmp_path / "one", log)
        log.append(*_configs(round_number * _MANY, _MANY))
    assert len(shared.paths()) == 4
    ago = time.time() - GRACE_SECONDS - 1
    for path in shared.paths():
        os.utime(path, (ago, ago))
    _publish(tmp_path / "one", log)
    assert [int(path.name[:20]) // _MANY for path in shared.paths() if path != foreign] == [3, 4]
    assert foreign.exists()
    ago = time.time() - FOREIGN_GRACE_SECONDS - 1
    os.utime(foreign, (ago, ago))
    publish_snapshot(tmp_path / "one", log, tail_limit=TailLimit())
    assert not foreign.exists()


def test_the_folder_of_a_host_stays_small(
    tmp_path: Path, log: _Log, shared: _FilesInFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who fetches takes older files away."""
    monkeypatch.setattr("projections.snapshot.GRACE_SECONDS", -1.0)
    for round_number in range(1, 5):
        _publish(tmp_path / "one", log)
        assert _count(log, tmp_path / "two") == round_number * _MANY
        log.append(*_configs(round_number * _MANY, _MANY))
    assert len(shared.fetched) == 4
    assert [int(name[:20]) // _MANY for name in _names(tmp_path / "two")] == [3, 4]


def test_of_those_who_come_at_once_one_fetches(tmp_path: Path, log: _Log, shared: _FilesInFolder) -> None:
    """The others wait for the file."""
    _publish(tmp_path / "one", log)
    shared.seconds = 0.3
    counts: list[int] = []
    threads = [
        threading.Thread(target=lambda: counts.append(_count(log, tmp_path / "two"))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [_MANY] * 4
    assert len(shared.fetched) == 1


def test_a_long_tail_looks_beside_the_log_before_it_asks_for_work(
    tmp_path: Path, log: _Log, shared: _FilesInFolder
) -> None:
    """A reader that runs for months moves to what another host has made."""
    told: list[int] = []
    views = ReadModels(
        log, snapshots=tmp_path / "two", tail_limit=ANYTHING_NEW, tail_too_long=lambda: told.append(1)
    )
    views.catch_up()
    assert told == [1]
    log.append(*_configs(_MANY, _MANY))
    _publish(tmp_path / "one", log)
    views.catch_up()
    assert told == [1]
    assert len(shared.fetched) == 1
    assert views._state.content is not None
    assert views._state.content.snapshot is not None
    assert views.query("SELECT count(*) FROM configs").fetchone() == (2 * _MANY,)


_STEPS = (
    ("projections.shared_snapshots:_fetch_newest", "in front of"),
    ("tests.projections.test_shared_snapshots:_FilesInFolder.fetch", "behind"),
    ("eventstore.files:sync_file", "in front of"),
    ("pathlib:Path.rename", "in front of"),
    ("pathlib:Path.rename", "behind"),
    ("projections.shared_snapshots:prune", "in front of"),
)

_FETCHING = """
import importlib, os, signal, sys
from functools import reduce
from pathlib import Path

tests = importlib.import_module("tests.projections.test_shared_snapshots")
module, _, path = sys.argv[2].partition(":")
*owners, name = path.split(".")
owner = reduce(getattr, owners, importlib.import_module(module))
call = getattr(owner, name)

def killed(*args, **kwargs):
    if sys.argv[3] == "behind":
        call(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)

setattr(owner, name, killed)
place = Path(sys.argv[1])
log = tests._Log(tests._configs(0, tests._MANY), shared_files=tests._FilesInFolder(place / "beside"))
tests._count(log, place / "two")
"""


@pytest.mark.parametrize(("call", "when"), _STEPS)
def test_who_is_killed_while_fetching_leaves_nothing_in_the_way(
    tmp_path: Path, log: _Log, shared: _FilesInFolder, call: str, when: str
) -> None:
    """The next process takes away what is left, and uses the file or fetches it again."""
    _publish(tmp_path / "one", log)
    root = Path(__file__).resolve().parents[2]
    killed = subprocess.run(
        [sys.executable, "-c", _FETCHING, str(tmp_path), call, when],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert killed.returncode == -9, killed.stderr
    log.read_from.clear()
    assert _count(log, tmp_path / "two") == _MANY
    assert log.read_from == []  # the file holds everything
    assert _names(tmp_path / "two") == _names(tmp_path / "one")
    assert list((tmp_path / "two").glob(".*.part")) == []


def test_nothing_is_looked_for_where_there_is_no_such_place(tmp_path: Path) -> None:
    """A log of one host."""
    log = _Log(_configs(0, _MANY))
    assert _count(log, tmp_path / "views") == _MANY
    assert not (tmp_path / "views").exists()
    assert shared_snapshots.FOLDER == "snap"
