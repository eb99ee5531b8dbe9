"""Payloads beside the log: whole, durable, under a name of their own, known by their digest."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dacapo_store import artifacts
from dacapo_store.artifacts import ArtifactWriter, ChunkedDigest
from dacapo_store.errors import DamagedArtifactError
from eventstore import files


def digest_by_definition(data: bytes, chunk_bytes: int) -> str:
    """SHA-256 over the SHA-256 digests of the chunks, as the format says it."""
    chunks = (data[start : start + chunk_bytes] for start in range(0, len(data), chunk_bytes))
    return hashlib.sha256(b"".join(hashlib.sha256(chunk).digest() for chunk in chunks)).hexdigest()


def fill_with(*pieces: bytes) -> artifacts.Fill:
    """A filler that writes these pieces."""

    def fill(file: ArtifactWriter) -> None:
        for piece in pieces:
            file.write(piece)

    return fill


@given(pieces=st.lists(st.binary(max_size=20), max_size=10), chunk_bytes=st.integers(1, 8))
def test_digest_is_that_of_the_definition_however_the_bytes_come(
    pieces: list[bytes], chunk_bytes: int
) -> None:
    """The digest depends on the bytes and the chunk size alone."""
    digest = ChunkedDigest(chunk_bytes)
    for piece in pieces:
        digest.update(piece)
    assert digest.hexdigest() == digest_by_definition(b"".join(pieces), chunk_bytes)
    assert digest.bytes == len(b"".join(pieces))


@given(data=st.binary(max_size=40), chunk_bytes=st.integers(1, 16))
def test_written_artifact_is_described_as_it_lies_on_the_disk(data: bytes, chunk_bytes: int) -> None:
    """What write returns is true of the file that it left."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        artifact = artifacts.write(base, "run/objects/a", fill_with(data), chunk_bytes=chunk_bytes)
        assert (base / "run/objects/a").read_bytes() == data
        assert (artifact.path, artifact.bytes, artifact.chunk_bytes) == (
            "run/objects/a",
            len(data),
            chunk_bytes,
        )
        assert artifact.digest == digest_by_definition(data, chunk_bytes)
        artifacts.verify_file(base, artifact)


def test_any_flipped_bit_is_found(tmp_path: Path) -> None:
    """Verifying names the file, what was expected and what was found."""
    artifact = artifacts.write(tmp_path, "a", fill_with(b"0123456789"), chunk_bytes=4)
    for offset in range(10):
        damaged = bytearray(b"0123456789")
        damaged[offset] ^= 1
        (tmp_path / "a").write_bytes(damaged)
        with pytest.raises(DamagedArtifactError) as raised:
            artifacts.verify_file(tmp_path, artifact)
        assert "the file a " in str(raised.value)
        assert artifact.digest in str(raised.value)
        assert digest_by_definition(bytes(damaged), 4) in str(raised.value)


@pytest.mark.parametrize("data", [b"", b"012345678", b"01234567890"])
def test_another_length_is_found(tmp_path: Path, data: bytes) -> None:
    """A cut or grown file is damaged, whatever its bytes."""
    artifact = artifacts.write(tmp_path, "a", fill_with(b"0123456789"), chunk_bytes=4)
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(DamagedArtifactError, match="expected 10 bytes"):
        artifacts.verify_file(tmp_path, artifact)


def test_verifying_keeps_the_place_in_the_file(tmp_path: Path) -> None:
    """The same open file can be verified and then read, so that no other file slips in between."""
    artifact = artifacts.write(tmp_path, "a", fill_with(b"0123456789"))
    with (tmp_path / "a").open("rb") as file:
        artifacts.verify(file.fileno(), artifact)
        assert file.read() == b"0123456789"


def test_no_name_is_used_twice(tmp_path: Path) -> None:
    """A second payload of one name is refused and the first is as it was."""
    artifact = artifacts.write(tmp_path, "a", fill_with(b"first"))
    with pytest.raises(FileExistsError):
        artifacts.write(tmp_path, "a", fill_with(b"second"))
    artifacts.verify_file(tmp_path, artifact)


def test_failing_filler_leaves_no_file(tmp_path: Path) -> None:
    """A payload is there whole or not at all."""

    def fill(file: ArtifactWriter) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        artifacts.write(tmp_path, "a", fill)
    assert list(tmp_path.iterdir()) == []


def test_failing_check_leaves_no_file(tmp_path: Path) -> None:
    """The check sees the complete file and decides whether it stays."""
    seen: list[bytes] = []

    def check(path: Path) -> None:
        seen.append(path.read_bytes())
        raise TypeError

    with pytest.raises(TypeError):
        artifacts.write(tmp_path, "a", fill_with(b"whole"), check=check)
    assert seen == [b"whole"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../a", "run/../../a", "a\0b"])
def test_paths_stay_within_the_base(tmp_path: Path, path: str) -> None:
    """A path that leaves the base is refused before anything is made."""
    with pytest.raises(ValueError, match="stay within it"):
        artifacts.write(tmp_path, path, fill_with(b""))
    assert list(tmp_path.iterdir()) == []


def test_new_files_take_the_group_write_bit_of_the_base(tmp_path: Path) -> None:
    """The people of a lab share a base, whatever the umask of one of them."""
    tmp_path.chmod(0o2770)
    before = os.umask(0o077)
    try:
        artifacts.write(tmp_path, "run/objects/a", fill_with(b"data"))
    finally:
        os.umask(before)
    assert (tmp_path / "run/objects/a").stat().st_mode & 0o777 == 0o660
    assert (tmp_path / "run/objects").stat().st_mode & 0o777 == 0o770


def test_file_and_folder_are_synced_in_this_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When write returns, first the bytes and then the name have reached the disk."""
    synced: list[str] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    artifacts.write(tmp_path, "a", fill_with(b"data"))
    assert synced[-2:] == [str(tmp_path / "a"), str(tmp_path)]


def test_chunks_need_a_size() -> None:
    """A chunk size below one is refused."""
    with pytest.raises(ValueError, match="at least 1"):
        ChunkedDigest(0)


LARGE = 3 * artifacts.CHUNK_BYTES - 5
"""Enough for threads, and no whole number of chunks."""


def large(pieces: list[int], seed: int) -> list[bytes]:
    """Pieces of these sizes, and one more that makes them ``LARGE``."""
    rest = max(LARGE - sum(pieces), 0)
    return [random.Random(seed + number).randbytes(size) for number, size in enumerate([*pieces, rest])]  # noqa: S311


@pytest.mark.parametrize("pieces", [[], [1, 1], [2**20 - 1, 1, 2**20 + 1, 3], [9 * 2**20, 5]], ids=str)
def test_large_payload_is_digested_beside_the_writing(tmp_path: Path, pieces: list[int]) -> None:
    """However the bytes come: the digest is that of the definition, and verifying in threads agrees."""
    data = large(pieces, seed=1)
    artifact = artifacts.write(tmp_path, "a", fill_with(*data))
    assert (tmp_path / "a").read_bytes() == b"".join(data)
    assert artifact.digest == digest_by_definition(b"".join(data), artifacts.CHUNK_BYTES)
    artifacts.verify_file(tmp_path, artifact)
    assert not [thread for thread in threading.enumerate() if "digest" in thread.name]


@pytest.mark.parametrize("offset", [0, artifacts.CHUNK_BYTES, LARGE - 1])
def test_flipped_bit_in_a_large_payload_is_found(tmp_path: Path, offset: int) -> None:
    """In any chunk, whichever thread looks at it."""
    artifact = artifacts.write(tmp_path, "a", fill_with(*large([], seed=2)))
    with (tmp_path / "a").open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 16]))
    with pytest.raises(DamagedArtifactError, match="digest"):
        artifacts.verify_file(tmp_path, artifact)


def test_digest_is_true_of_the_file_when_memory_changes_meanwhile(tmp_path: Path) -> None:
    """Bytes that another thread changes after they were written must not make the payload unreadable."""

    def fill(file: ArtifactWriter) -> None:
        data = bytearray(large([], seed=3)[0])
        file.write(data)
        data[:] = bytes(len(data))

    artifact = artifacts.write(tmp_path, "a", fill)
    artifacts.verify_file(tmp_path, artifact)


def test_without_room_for_threads_all_is_done_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a limit of processes, and while an interpreter ends."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    data = large([], seed=4)
    artifact = artifacts.write(tmp_path, "a", fill_with(*data))
    assert artifact.digest == digest_by_definition(b"".join(data), artifacts.CHUNK_BYTES)
    artifacts.verify_file(tmp_path, artifact)


def test_disk_that_cannot_be_read_is_an_error_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when a thread meets it; writing leaves no file, and neither leaves a thread."""
    artifact = artifacts.write(tmp_path, "a", fill_with(*large([], seed=5)))

    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(files, "read_into", fail)
    with pytest.raises(OSError, match="Input/output error"):
        artifacts.verify_file(tmp_path, artifact)
    with pytest.raises(OSError, match="Input/output error"):
        artifacts.write(tmp_path, "b", fill_with(*large([], seed=5)))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert not [thread for thread in threading.enumerate() if "digest" in thread.name]


def test_small_pieces_are_written_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.save writes twenty of them around each tensor."""
    sizes: list[int] = []
    write = files.write

    def note(descriptor: int, data: bytes | memoryview) -> None:
        sizes.append(len(data))
        write(descriptor, data)

    monkeypatch.setattr(files, "write", note)
    artifacts.write(tmp_path, "a", fill_with(*[b"piece"] * 1000))
    assert sizes == [5000]
    assert (tmp_path / "a").read_bytes() == b"piece" * 1000
