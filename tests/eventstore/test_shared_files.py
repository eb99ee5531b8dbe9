"""Derived files beside a log in a bucket: an index for hosts that have none, and what is never believed."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventstore import Event, EventLog, StorageError, WriteRefusedError
from eventstore.storage.numbered import shared_index
from eventstore.storage.protocol import SharedFile, SharedFiles
from tests.children import in_child
from tools.stores.faulty_server import FaultyServer
from tools.stores.moto_server import moto_server

_MANY = 900


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DACAPO_STORE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as server:
        yield server


def _shared(log: EventLog) -> SharedFiles:
    shared = log.shared_files
    assert shared is not None
    return shared


def _file(path: Path, size: int) -> Path:
    path.write_bytes(random.Random(size).randbytes(size))  # noqa: S311 - any bytes
    return path


def _fetched(shared: SharedFiles, file: SharedFile, target: Path) -> bytes:
    descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        shared.fetch(file, descriptor)
    finally:
        os.close(descriptor)
    return target.read_bytes()


# --- files


@pytest.mark.parametrize("size", [0, 1, 8 << 20, (20 << 20) + 1])
def test_what_was_published_is_fetched(server: FaultyServer, tmp_path: Path, size: int) -> None:
    path = _file(tmp_path / "made.duckdb", size)
    with EventLog.open(server.address("log")) as log:
        shared = _shared(log)
        for _ in range(2):  # two hosts may publish the same bytes, and so the same name
            shared.publish("snap", path)
        (file,) = shared.listed("snap")
        assert (file.folder, file.name, file.size) == ("snap", "made.duckdb", size)
        assert file.digest == hashlib.sha256(path.read_bytes()).hexdigest()
        assert _fetched(shared, file, tmp_path / "fetched") == path.read_bytes()
        assert f"/bucket/log/snap/made.{file.digest}.duckdb" in server.objects
        shared.remove(file)
        shared.remove(file)
        assert shared.listed("snap") == []
        with pytest.raises(FileNotFoundError, match=r"made\.[0-9a-f]{64}\.duckdb is gone|^$") as caught:
            _fetched(shared, file._replace(size=max(size, 1)), tmp_path / "fetched")
        assert "s3://bucket/log" in str(caught.value)


def test_a_real_dialect_of_s3_does_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """moto's: uploads in parts, ranges, listings, deletions."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    path = _file(tmp_path / "made.duckdb", (20 << 20) + 1)
    with (
        moto_server() as endpoint,
        EventLog.open(f"s3://bucket/log?endpoint={endpoint}&region=us-east-1") as log,
    ):
        shared = _shared(log)
        shared.publish("snap", path)
        (file,) = shared.listed("snap")
        assert _fetched(shared, file, tmp_path / "fetched") == path.read_bytes()
        shared.remove(file)
        assert shared.listed("snap") == []


def test_bytes_that_the_name_does_not_vouch_for_are_refused(server: FaultyServer, tmp_path: Path) -> None:
    """One flipped bit, a cut end, another file: all of them are seen while it is fetched."""
    with EventLog.open(server.address("log")) as log:
        shared = _shared(log)
        shared.publish("snap", _file(tmp_path / "made.duckdb", 100_000))
        (file,) = shared.listed("snap")
        (name,) = [name for name in server.objects if "/snap/" in name]
        good = server.objects[name]
        for wrong in (good[:50_000] + bytes([good[50_000] ^ 1]) + good[50_001:], good[:-1], good[::-1], b""):
            server.objects[name] = wrong
            found = shared.listed("snap")
            with pytest.raises(StorageError, match="does not hold the bytes that its name vouches for"):
                _fetched(shared, found[0], tmp_path / "fetched")
        server.objects[name] = good
        assert _fetched(shared, file, tmp_path / "fetched") == good


def test_other_objects_are_none_of_it(server: FaultyServer) -> None:
    with EventLog.open(server.address("log")) as log:
        digest = "0" * 64
        for name in ("snap/notes.txt", f"snap/{digest}", f"snapshots/a.{digest}.duckdb", "snap/a.00.duckdb"):
            server.put(f"/bucket/log/{name}", b"x", if_absent=False)
        assert _shared(log).listed("snap") == []


def test_requests_that_fail_are_made_again(server: FaultyServer, tmp_path: Path) -> None:
    path = _file(tmp_path / "made.duckdb", 30 << 20)
    with EventLog.open(server.address("log")) as log:
        shared = _shared(log)
        server.share = 0.1
        for _ in range(3):
            shared.publish("snap", path)
            (file,) = shared.listed("snap")
            assert _fetched(shared, file, tmp_path / "fetched") == path.read_bytes()


def test_a_forked_child_fetches_too(server: FaultyServer, tmp_path: Path) -> None:
    path = _file(tmp_path / "made.duckdb", 9 << 20)
    with EventLog.open(server.address("log")) as log:
        shared = _shared(log)
        shared.publish("snap", path)
        (file,) = shared.listed("snap")

        def fetch_and_publish() -> tuple[bool, int]:
            again = _shared(log)
            same = _fetched(again, file, tmp_path / "fetched") == path.read_bytes()
            again.publish("snap", _file(tmp_path / "other.duckdb", 10))
            return same, len(again.listed("snap"))

        assert in_child(fetch_and_publish) == (True, 2)


def test_a_shared_folder_needs_none(tmp_path: Path) -> None:
    """Whoever reaches its log reaches its files."""
    for place in (f"shared://{tmp_path}/shared", tmp_path / "local"):
        with EventLog.open(place) as log:
            assert log.shared_files is None
            log.share_index()


# --- the index


def _filled(server: FaultyServer, commits: int = _MANY) -> str:
    """A log whose index the host that wrote it has shared."""
    address = server.address("log")
    with EventLog.open(address) as log:
        for number in range(commits):
            log.append(f"s{number % 7}", [Event("A", {"n": number})])
        log.share_index()
    return address


def _another_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that was cached is there any more."""
    shutil.rmtree(tmp_path / "cache")


def _counted(server: FaultyServer, address: str, *, read_only: bool = True) -> tuple[int, int]:
    """How many commits are read to open the log and ask for a stream's last version; and that version."""
    server.requests.clear()
    with EventLog.open(address, read_only=read_only) as log:
        version = log.stream_version("s0")
        assert version is not None
        assert log.next_position >= _MANY
    return server.requests["get"], version


def test_a_host_that_meets_a_log_reads_its_tail(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = _filled(server)
    _another_host(tmp_path, monkeypatch)
    gets, version = _counted(server, address)
    assert version == (_MANY - 1) // 7
    assert gets < 450, "the head, the index, where it ends, and up to 512 commits behind"
    server.objects = {name: data for name, data in server.objects.items() if "/index/" not in name}
    _another_host(tmp_path, monkeypatch)
    gets, version = _counted(server, address)
    assert (gets >= _MANY, version) == (True, (_MANY - 1) // 7)


@pytest.mark.parametrize("wrong", ["flipped", "cut", "foreign"])
def test_an_index_that_is_no_good_is_done_without(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    address = _filled(server)
    names = [name for name in server.objects if "/index/" in name]
    assert names
    for name in names:
        data = server.objects.pop(name)
        match wrong:
            case "flipped":
                server.objects[name] = data[:1000] + bytes([data[1000] ^ 1]) + data[1001:]
            case "cut":
                server.objects[name] = data[:-100]
            case "foreign":  # what its name vouches for, and not of this log's history
                data = data[:48] + bytes(64) + data[112:]
                digest = hashlib.sha256(data).hexdigest()
                stem = name.rpartition("/")[2].rsplit(".", 2)[0]
                server.put(f"/bucket/log/index/{stem}.{digest}.index", data, if_absent=False)
    server.modified.update(dict.fromkeys(server.objects, time.time()))
    _another_host(tmp_path, monkeypatch)
    gets, version = _counted(server, address, read_only=False)
    assert (gets >= _MANY, version) == (True, (_MANY - 1) // 7)


def test_an_index_of_another_log_in_the_same_place_is_done_without(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = _filled(server)
    for name in [name for name in server.objects if "/log/log/" in name]:
        del server.objects[name]
    with EventLog.open(address) as log:
        assert log.stream_version("s0") is None
        log.append("t", [Event("B")])
        assert [event.type for event in log.read()] == ["B"]


def test_a_store_that_lists_nothing_is_read_instead(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A role may read objects and not list them."""
    address = _filled(server)
    _another_host(tmp_path, monkeypatch)

    def refuse(*_: object) -> None:
        raise PermissionError("AccessDenied")

    monkeypatch.setattr("eventstore.storage.objects.ObjectRequests.files", refuse)
    gets, version = _counted(server, address)
    assert (gets >= _MANY, version) == (True, (_MANY - 1) // 7)


def test_sharing_goes_on_and_old_files_go(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was merged is taken away once nobody can be fetching it."""
    address = _filled(server, 600)
    first = {name for name in server.objects if "/index/" in name}
    assert len(first) == 1
    with EventLog.open(address) as log:
        for _ in range(600):
            log.append("t", [Event("A", {"n": number}) for number in range(7)])
        log.share_index()
        both = {name for name in server.objects if "/index/" in name}
        assert first < both
        server.modified[next(iter(first))] -= shared_index.GRACE_SECONDS + 1
        for _ in range(600):
            log.append("t", [Event("A", {"n": number}) for number in range(7)])
        log.share_index()
    assert first.isdisjoint(server.objects)
    _another_host(tmp_path, monkeypatch)
    with EventLog.open(address, read_only=True) as log:
        assert log.stream_version("t") == 8399


def test_who_may_not_write_is_told(server: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from eventstore.storage.numbered import RefusedError

    address = _filled(server, 10)

    def refuse(*_: object) -> None:
        raise RefusedError("AccessDenied")

    monkeypatch.setattr("eventstore.storage.objects.ObjectRequests.put_file", refuse)
    with EventLog.open(address) as log:
        for number in range(600):
            log.append("t", [Event("A", {"n": number})])
        with pytest.raises(WriteRefusedError, match="AccessDenied"):
            log.share_index()


def test_hosts_whose_processes_start_at_once_or_are_killed_begin_with_it_too(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fetches under a name of its own; what a killed one left is taken away when an index is written."""
    address = _filled(server)
    with EventLog.open(address, read_only=True) as log:
        folder = tmp_path / "cache" / log.log_id.hex() / "index"
    names = {path.name for path in folder.glob("*.index")}
    _another_host(tmp_path, monkeypatch)
    folder.mkdir(parents=True)
    for name in names:
        (folder / f"{name}.tmp").write_bytes(b"half of i")
    server.requests.clear()
    logs: list[EventLog] = []
    threads = [
        threading.Thread(target=lambda: logs.append(EventLog.open(address, read_only=True))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.requests["get"] < 3 * 450
    for log in logs:
        assert log.stream_version("s0") == (_MANY - 1) // 7
        log.close()
    with EventLog.open(address) as log:
        for _ in range(600):
            log.append("t", [Event("A")])
    assert list(folder.glob("*.tmp")) == []
