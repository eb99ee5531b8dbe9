"""Files in a bucket: whole or not at all, on a good network and on a bad one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eventstore import StorageUnavailableError, WriteRefusedError, open_bucket
from eventstore.storage.bucket import PART_BYTES, Bucket
from tools.stores.faulty_server import FaultyServer
from tools.stores.moto_server import moto_server

BAD = 0.25
"""Of the requests meet a fault."""


@pytest.fixture(params=[0.0, BAD], ids=["good", "bad"])
def server(request: pytest.FixtureRequest) -> Iterator[FaultyServer]:
    with FaultyServer(share=request.param) as server:
        yield server


@pytest.fixture
def bucket(server: FaultyServer) -> Bucket:
    return open_bucket(server.address("place"))


def _file(folder: Path, size: int) -> Path:
    path = folder / f"{size}"
    path.write_bytes(random.Random(size).randbytes(size))  # noqa: S311 - any bytes
    return path


def _fetched(bucket: Bucket, name: str, size: int, folder: Path) -> bytes:
    with (folder / "fetched").open("w+b") as file:
        assert bucket.fetch(name, file.fileno(), size) == size
        return file.read()


@pytest.mark.parametrize("size", [0, 1000, PART_BYTES + 1, 2 * PART_BYTES])
def test_a_file_comes_back(bucket: Bucket, tmp_path: Path, size: int) -> None:
    source = _file(tmp_path, size)
    bucket.put_file("run/a", source)
    assert bucket.size("run/a") == size
    assert _fetched(bucket, "run/a", size, tmp_path) == source.read_bytes()
    assert bucket.read("run/a", size // 2, size) == source.read_bytes()[size // 2 :]


def test_files_are_listed_and_deleted(bucket: Bucket, tmp_path: Path) -> None:
    """Names that begin alike are others', and special characters are characters."""
    names = ["run 1/a%20b", "run 1/c&d/<e>", "run 10/f", "g"]
    for name in names:
        bucket.put(name, name.encode())
    assert [file.name for file in bucket.files("run 1")] == names[:2]
    assert [file.bytes for file in bucket.files("run 1")] == [len(name) for name in names[:2]]
    assert bucket.entries() == ["g", "run 1/", "run 10/"]
    assert bucket.entries("run 1") == ["a%20b", "c&d/"]
    assert bucket.get("g") == b"g"
    bucket.delete(["g", "run 1/a%20b", "never/there"])
    assert bucket.get("g") is None
    assert bucket.size("g") is None
    assert [file.name for file in bucket.files("run 1")] == names[1:2]
    with pytest.raises(FileNotFoundError, match="g: there is no object"):
        bucket.read("g", 0, 1)


def test_a_small_file_is_content_that_may_change(bucket: Bucket) -> None:
    bucket.put("note", b"one")
    bucket.put("note", b"two")
    assert bucket.get("note") == b"two"


@pytest.mark.parametrize(("size", "step"), [(1000, "put"), (PART_BYTES + 1, "complete")])
def test_an_upload_whose_last_answer_is_lost_has_arrived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, step: str
) -> None:
    """The store says that there is such an object, or no such upload any more: that is no failure."""
    source = _file(tmp_path, size)
    with FaultyServer() as server:
        honest, begin = getattr(server, step), server.begin
        lost, begun = iter([True]), []

        def lose(*arguments: Any, **options: Any) -> bool:
            made: bool = honest(*arguments, **options)
            if next(lost, False):
                raise ConnectionResetError
            return made

        def note(path: str) -> str:
            begun.append(path)
            return begin(path)

        monkeypatch.setattr(server, step, lose)
        monkeypatch.setattr(server, "begin", note)
        open_bucket(f"{server.address('place')}&patience_seconds=5").put_file("a", source)
        assert next(lost, None) is None
        assert server.objects == {"/bucket/place/a": source.read_bytes()}
        assert len(begun) == (step == "complete")


def test_a_store_that_does_not_answer_is_named(tmp_path: Path) -> None:
    bucket = open_bucket("s3://bucket/base?endpoint=http://127.0.0.1:1&anonymous=true&patience_seconds=0")
    for request in (lambda: bucket.put_file("a", _file(tmp_path, 10)), lambda: bucket.size("a")):
        with pytest.raises(StorageUnavailableError, match=r"s3://bucket/base does not answer, to"):
            request()


def test_a_bucket_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    with moto_server() as endpoint:
        bucket = open_bucket(f"s3://nowhere/base?endpoint={endpoint}&region=us-east-1")
        for size in (10, PART_BYTES + 1):
            with pytest.raises(WriteRefusedError, match="NoSuchBucket"):
                bucket.put_file("a", _file(tmp_path, size))
        for ask in (bucket.get, bucket.files, bucket.entries, lambda name: bucket.read(name, 0, 1)):
            with pytest.raises(PermissionError, match="NoSuchBucket"):
                ask("a")


@pytest.mark.parametrize(
    "wrong", ["s3://bucket/x?access_key=1", "s3:///x", "postgresql://host/db", "shared:///x", "mem://x"]
)
def test_addresses_of_no_bucket_are_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"knows no option|names no bucket|is no bucket|is not known"):
        open_bucket(wrong)
