"""A log in a folder that hosts share: whose files they are, and what a file system may do to a commit."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventstore import (
    CommitUnknownError,
    DamagedLogError,
    Event,
    EventLog,
    LogNotFoundError,
    StorageError,
    WriteRefusedError,
    files,
)
from eventstore.storage import shared


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DACAPO_STORE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"shared://{tmp_path}/log?patience_seconds=0.2"


def _failing(real: Callable[..., Any], number: int, *, after: bool = False) -> Callable[..., Any]:
    """Fails each time, before the real thing was done or after."""

    def fail(*arguments: Any, **named: Any) -> Any:
        if after:
            real(*arguments, **named)
        raise OSError(number, os.strerror(number))

    return fail


def test_files_take_the_folders_group_and_bits(tmp_path: Path) -> None:
    """Whatever the umask says: the people of a lab share the log."""
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab").chmod(0o2770)
    previous = os.umask(0o077)
    try:
        with EventLog.open(f"shared://{tmp_path}/lab/log") as log:
            log.append("s", [Event("A")])
    finally:
        os.umask(previous)
    modes = {path.stat().st_mode & 0o7777 for path in (tmp_path / "lab/log/log").iterdir()}
    assert modes == {0o660}
    assert {path.stat().st_mode & 0o7777 for path in (tmp_path / "lab/log").iterdir()} == {0o2770}


def test_nothing_is_left_aside(address: str, tmp_path: Path) -> None:
    with EventLog.open(address) as log:
        for _ in range(3):
            log.append("s", [Event("A")])
    assert list((tmp_path / "log/aside").iterdir()) == []


def test_what_a_killed_writer_left_goes_after_a_day(address: str, tmp_path: Path) -> None:
    EventLog.open(address).close()
    new, old = tmp_path / "log/aside/new.tmp", tmp_path / "log/aside/old.tmp"
    for path in (new, old):
        path.write_bytes(b"half of a commit")
    os.utime(old, (0, 0))
    EventLog.open(address).close()
    assert (new.exists(), old.exists()) == (True, False)


def test_a_link_whose_answer_was_lost_is_recognised(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS repeats a request: the second one finds the name taken, by the first."""
    with EventLog.open(address) as log:
        real = files.link

        def twice(source: Path, target: Path) -> None:
            real(source, target)
            real(source, target)

        monkeypatch.setattr(files, "link", twice)
        log.append("s", [Event("A")])
        assert [event.type for event in log.read()] == ["A"]
        assert log.verify().ok


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES])
@pytest.mark.parametrize("step", ["write", "sync_data"])
def test_a_full_disk_refuses_at_once(
    address: str, number: int, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EventLog.open(address) as log:
        with monkeypatch.context() as patch:
            patch.setattr(files, step, _failing(getattr(files, step), number))
            with pytest.raises(WriteRefusedError, match="Nothing was written"):
                log.append("s", [Event("A")])
        log.append("s", [Event("B")])
        assert [event.type for event in log.read()] == ["B"]


def test_a_name_that_may_not_last_is_not_acknowledged(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder's sync fails behind the link: the commit is there, and nobody is told that it is safe."""
    with EventLog.open(address) as log:
        with monkeypatch.context() as patch:
            patch.setattr(files, "sync_directory", _failing(files.sync_directory, errno.EIO))
            with pytest.raises(CommitUnknownError) as caught:
                log.append("s", [Event("A")])
            assert log.next_position == 1
            assert log.durable_position == 0
            with pytest.raises(StorageError, match="cannot be known"):
                log.sync()
        assert log.resolve(caught.value) is not None
        log.sync()
        assert log.durable_position == 1


def test_an_error_of_the_disk_is_unclear(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with EventLog.open(address) as log:
        monkeypatch.setattr(files, "link", _failing(files.link, errno.ETIMEDOUT))
        with pytest.raises(CommitUnknownError):
            log.append("s", [Event("A")])


def test_a_reader_sees_a_file_that_the_file_system_had_called_missing(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS remembers names that are not there; opening the folder makes it ask."""
    real, opened = files.open_file, threading.Event()

    def forgetful(path: Path, flags: int, mode: int = 0o600) -> int:
        if flags & os.O_DIRECTORY:
            opened.set()
        elif path.suffix == ".arrow" and not opened.is_set():
            raise FileNotFoundError(errno.ENOENT, "remembered", str(path))
        elif path.suffix == ".arrow":
            opened.clear()
        return real(path, flags, mode)

    with EventLog.open(address) as log:
        log.append("s", [Event("A")])
        monkeypatch.setattr(shared.files, "open_file", forgetful)
        with EventLog.open(address, read_only=True) as other:
            assert [event.type for event in other.read()] == ["A"]


def test_a_reader_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(LogNotFoundError):
        EventLog.open(f"shared://{tmp_path}/log", read_only=True)
    assert not (tmp_path / "log").exists()


def test_a_damaged_commit_is_named(address: str, tmp_path: Path) -> None:
    with EventLog.open(address) as log:
        log.append("s", [Event("A")])
    path = tmp_path / "log/log/00000000000000000001.arrow"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(DamagedLogError, match="commit 1"):
        EventLog.open(address)
