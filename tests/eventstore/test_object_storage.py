"""A log in object storage: what a store must promise, forks, many processes on a bad network."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventstore import (
    Event,
    EventLog,
    LogNotFoundError,
    StorageUnavailableError,
    UnsuitableStorageError,
)
from tests.children import in_child
from tools.stores.faulty_server import FaultyServer
from tools.stores.moto_server import moto_server
from tools.stores.writers import Writers


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DACAPO_STORE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as server:
        yield server


def test_a_store_that_ignores_conditions_is_refused() -> None:
    """On it two writers would overwrite each other's commits."""
    with FaultyServer(honours_conditions=False) as server:
        with pytest.raises(UnsuitableStorageError, match="ignores If-None-Match"):
            EventLog.open(server.address("log"))
        assert set(server.objects) == {"/bucket/log/probe"}


def test_a_reader_probes_nothing(server: FaultyServer) -> None:
    with pytest.raises(LogNotFoundError):
        EventLog.open(server.address("log"), read_only=True)
    assert server.objects == {}


def test_opening_looks_for_the_end_once(server: FaultyServer) -> None:
    """Each request costs time and money: the probe, the head, the index, and what is behind the last."""
    for _ in range(2):
        server.requests.clear()
        EventLog.open(server.address("log")).close()
    assert server.requests == {"create": 1, "get": 1, "list": 1, "missed": 1}


def test_objects_have_the_names_that_are_documented(server: FaultyServer) -> None:
    with EventLog.open(server.address("a/b")) as log:
        log.append("s", [Event("A")])
    assert set(server.objects) == {
        "/bucket/a/b/probe",
        "/bucket/a/b/log/00000000000000000000.arrow",
        "/bucket/a/b/log/00000000000000000001.arrow",
    }


def test_a_bucket_that_is_not_there_is_named() -> None:
    with moto_server() as endpoint:
        where = f"s3://nowhere/log?endpoint={endpoint}&region=us-east-1"
        variables = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        with pytest.MonkeyPatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            with pytest.raises(UnsuitableStorageError, match="NoSuchBucket"):
                EventLog.open(where)
            with pytest.raises(FileNotFoundError, match="NoSuchBucket"):
                EventLog.open(where, read_only=True)


def test_a_store_that_is_not_there_is_named() -> None:
    where = "s3://bucket/log?endpoint=http://127.0.0.1:1&anonymous=true&patience_seconds=0"
    with pytest.raises(StorageUnavailableError, match=r"s3://bucket/log does not answer"):
        EventLog.open(where)


@pytest.mark.parametrize(
    "wrong", ["s3://bucket/log?access_key=1", "s3:///log", "gs://bucket/x?region=1", "az://?account=x"]
)
def test_a_mistake_in_an_address_is_named(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"Credentials come from|names no bucket"):
        EventLog.open(wrong)


def test_a_forked_child_goes_on(server: FaultyServer) -> None:
    """The runtime of the client does not survive a fork: a helper process does the requests."""
    with EventLog.open(server.address("log")) as log:
        log.append("s", [Event("A")])

        def go_on() -> list[str]:
            log.append("s", [Event("B")])
            with EventLog.open(server.address("log")) as again:
                again.append("s", [Event("C")])
                return [event.type for event in again.read()]

        assert in_child(go_on) == ["A", "B", "C"]
        log.append("s", [Event("D")])
        assert [event.type for event in log.read()] == ["A", "B", "C", "D"]


@pytest.mark.parametrize("kind", ["objects", "shared"])
def test_processes_that_are_killed_lose_nothing(kind: str, tmp_path: Path) -> None:
    """Six writers, of which two are killed, on a network that loses requests and answers."""
    with FaultyServer(share=0.15, seed=7) as server:
        address = server.address("log") if kind == "objects" else f"shared://{tmp_path}/log"
        writers = Writers([address] * 6, [100_000, 100_000, *[12] * 4], tmp_path)
        while min(writers.acknowledged(0), writers.acknowledged(1)) < 4:
            time.sleep(0.05)
        writers.kill(0)
        writers.kill(1)
        assert writers.wait() == [-9, -9, 0, 0, 0, 0]
        server.share = 0.0
        assert writers.failures(address) == []


def test_an_emulator_is_looked_for_at_its_endpoint() -> None:
    """The client alone would look where emulators are by default, and might find another one there."""
    where = "az://bucket/log?emulator=true&endpoint=http://127.0.0.1:1&patience_seconds=0"
    with pytest.raises(StorageUnavailableError, match=r"http://127\.0\.0\.1:1/devstoreaccount1/bucket/log"):
        EventLog.open(where)


@pytest.mark.parametrize(
    ("profile", "expected"), [(None, ("mine", "us-west-2")), ("lab", ("labs", "eu-central-1"))]
)
def test_credentials_may_be_in_a_profile(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch, profile: str | None, expected: tuple[str, str]
) -> None:
    """In the files that all tools for S3 read, with the region; in a forked child, too."""
    folder = Path.home() / ".aws"
    folder.mkdir()
    (folder / "credentials").write_text(
        "[default]\naws_access_key_id=mine\naws_secret_access_key=x\n"
        "[lab]\naws_access_key_id=labs\naws_secret_access_key=y\n"
    )
    (folder / "config").write_text("[default]\nregion=us-west-2\n[profile lab]\nregion=eu-central-1\n")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    if profile is not None:
        monkeypatch.setenv("AWS_PROFILE", profile)
    with EventLog.open(f"s3://bucket/log?endpoint={server.endpoint}") as log:
        log.append("s", [Event("A")])
        assert in_child(lambda: log.append("s", [Event("B")]).first_position) == 1
    key, region = expected
    assert server.signatures
    for signature in server.signatures:
        assert re.search(f"Credential={key}/[0-9]+/{region}/s3/aws4_request", signature)
