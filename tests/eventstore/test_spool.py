"""Rows in a spool outlive their process, and only rows that were put in come out of it."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import pickle
import signal
import struct
import subprocess
import sys
from pathlib import Path
from zlib import crc32

import pytest

from eventstore import WriteRefusedError, files
from eventstore.spool import Spool, SpooledRows, adopt_spools, event_id, left_over, parse

ROW_BYTES = 16


def make(folder: Path, *, stream: str = "rows/1") -> Spool:
    return Spool.create(folder, stream=stream, about={"columns": ["a", "b"]}, row_bytes=ROW_BYTES)


def row(number: int) -> bytes:
    return struct.pack("<Qd", number, number / 2)


def adopted(folder: Path, *, stream: str | None = None) -> list[SpooledRows]:
    found: list[SpooledRows] = []
    adopt_spools(folder, lambda spooled: not found.append(spooled), stream=stream)
    return found


def test_rows_of_a_closed_spool_are_adopted_once(tmp_path: Path) -> None:
    """All rows come out, in order, with what the owner said of them; then the file is gone."""
    spool = make(tmp_path)
    for number in range(3):
        spool.put(number, row(number))
    spool.close()
    (found,) = adopted(tmp_path)
    assert found.rows == {number: row(number) for number in range(3)}
    assert (found.stream, found.about, found.first_row) == ("rows/1", {"columns": ["a", "b"]}, 0)
    assert not found.flawed
    assert adopted(tmp_path) == []
    assert left_over(tmp_path) == []


def test_a_spool_of_a_living_owner_is_left_alone(tmp_path: Path) -> None:
    """Its lock says so, in this process as in others."""
    spool = make(tmp_path)
    spool.put(0, row(0))
    assert adopted(tmp_path) == []
    assert left_over(tmp_path) == [spool.path]


def test_a_spool_that_is_forgotten_is_left_over(tmp_path: Path) -> None:
    """The last reference gone, the lock is too."""
    spool = make(tmp_path)
    spool.put(0, row(0))
    del spool
    assert len(adopted(tmp_path)) == 1


def test_a_spool_on_nfs_is_adopted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's state directory often is there, where flock(2) wants a descriptor that may write."""
    spool = make(tmp_path)
    spool.put(0, row(0))
    spool.close()
    lock = fcntl.flock

    def flock(descriptor: int, operation: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    assert [found.rows for found in adopted(tmp_path)] == [{0: row(0)}]


def test_only_spools_of_the_stream_are_adopted(tmp_path: Path) -> None:
    """Names of files tell streams apart, so nobody opens the spools of others."""
    for stream in ("rows/1", "rows/2"):
        make(tmp_path, stream=stream).close()
    assert [found.stream for found in adopted(tmp_path, stream="rows/2")] == ["rows/2"]
    assert [found.stream for found in adopted(tmp_path)] == ["rows/1"]


def test_slots_are_used_again(tmp_path: Path) -> None:
    """Behind the rows of now lie those of earlier events, which are not given again."""
    spool = make(tmp_path)
    for number in range(5):
        spool.put(number, row(number))
    spool.restart(5)
    for number in range(5, 7):
        spool.put(number, row(number))
    spool.close()
    (found,) = adopted(tmp_path)
    assert found.first_row == 5
    assert list(found.rows) == [5, 6]


def test_rows_that_just_became_an_event_are_given_with_the_same_id(tmp_path: Path) -> None:
    """Killed between event and next row: the adopter gets the rows again, and the id to know them by."""
    spool = make(tmp_path)
    spool.put(0, row(0))
    spool.restart(1)
    spool.close()
    (found,) = adopted(tmp_path)
    assert list(found.rows) == [0]
    assert event_id(found.spool_id, found.first_row) == event_id(spool.spool_id, 0)


def test_every_truncation_leaves_a_prefix(tmp_path: Path) -> None:
    """Cut anywhere, a spool gives the rows that are whole."""
    spool = make(tmp_path)
    for number in range(4):
        spool.put(number, row(number))
    data = spool.path.read_bytes()
    for length in range(len(data)):
        spooled = parse(data[:length])
        if length < 512:
            assert spooled is None or spooled.rows == {}
        else:
            assert spooled is not None
            whole = (length - 512) // (ROW_BYTES + 4)
            assert spooled.rows == {number: row(number) for number in range(whole)}


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    """With one bit wrong, all rows but the one it is in come out, or none; never another row."""
    spool = make(tmp_path)
    for number in range(4):
        spool.put(number, row(number))
    data = spool.path.read_bytes()
    (_, about_bytes) = struct.unpack_from("<II", data, 24)
    expected = {number: row(number) for number in range(4)}
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        spooled = parse(bytes(flipped))
        if bit // 8 < 36 + about_bytes:
            assert spooled is None
        elif bit // 8 < 512:
            assert spooled is not None  # padding, which says nothing
            assert spooled.rows == expected
        else:
            assert spooled is not None
            hit = (bit // 8 - 512) // (ROW_BYTES + 4)
            assert spooled.rows == {number: row for number, row in expected.items() if number != hit}
            assert spooled.flawed
            assert spooled.first_row == 0


def test_a_flawed_spool_is_kept(tmp_path: Path) -> None:
    """Its good rows are adopted, and the file goes to quarantine, not away."""
    spool = make(tmp_path)
    for number in range(3):
        spool.put(number, row(number))
    spool.close()
    data = bytearray(spool.path.read_bytes())
    data[512 + ROW_BYTES + 4 + 9] ^= 1
    spool.path.write_bytes(data)
    (found,) = adopted(tmp_path)
    assert list(found.rows) == [0, 2]
    assert [path.read_bytes() for path in (tmp_path / "quarantine").iterdir()] == [bytes(data)]
    assert left_over(tmp_path) == []


@pytest.mark.parametrize(
    ("data", "kept", "quarantined"),
    [
        (b"", False, 0),
        (bytes(600), False, 0),
        (b"garbage" * 100, False, 1),
        (b"DCPSPOL1" + bytes(600), False, 1),
        (b"DCPSPOL2" + b"of the future", True, 0),
    ],
)
def test_files_that_are_no_spools(tmp_path: Path, data: bytes, *, kept: bool, quarantined: int) -> None:
    """What never was a spool goes, what may have been is kept, what is newer is left in its place."""
    spool = make(tmp_path)
    spool.close()
    spool.path.write_bytes(data)
    assert adopted(tmp_path) == []
    assert spool.path.exists() == kept
    assert len(list(tmp_path.glob("quarantine/*"))) == quarantined


def test_a_header_of_nonsense_is_no_header() -> None:
    """A good checksum over JSON that says nothing, or over a length that cannot be."""
    for text, row_bytes in (
        (b"[]", 8),
        (b"{}", 8),
        (b'{"stream":1}', 8),
        (b'{"stream":"s"}', 0),
        (b"\xff", 8),
    ):
        head = struct.pack("<8s16sII", b"DCPSPOL1", bytes(16), row_bytes, len(text)) + text
        assert parse(head + struct.pack("<I", crc32(head))) is None


def test_what_the_adopter_does_not_know_stays(tmp_path: Path) -> None:
    """Another program's rows are not thrown away."""
    make(tmp_path).close()
    adopt_spools(tmp_path, lambda _: False)
    assert len(left_over(tmp_path)) == 1


def test_an_adoption_that_fails_can_be_repeated(tmp_path: Path) -> None:
    """The file goes only when the rows are events."""
    spool = make(tmp_path)
    spool.put(0, row(0))
    spool.close()

    def fail(_: SpooledRows) -> bool:
        raise OSError(errno.ENOSPC, "no room")

    with pytest.raises(OSError, match="no room"):
        adopt_spools(tmp_path, fail)
    assert len(adopted(tmp_path)) == 1


@pytest.mark.parametrize("taken", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 5])
def test_a_row_that_the_disk_refuses_is_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: OSError | int
) -> None:
    """Refused or taken in part: an error that says so, and the rows before it stay."""
    spool = make(tmp_path)
    spool.put(0, row(0))

    def refuse(descriptor: int, data: bytes, offset: int) -> int:
        if isinstance(taken, OSError):
            raise taken
        return os.pwrite(descriptor, data[:taken], offset)

    with monkeypatch.context() as patched:
        patched.setattr(files, "write_at", refuse)
        with pytest.raises(WriteRefusedError, match="takes no row") as refused:
            spool.put(1, row(1))
    assert refused.value.errno == errno.ENOSPC
    assert pickle.loads(pickle.dumps(refused.value)).path == str(spool.path)
    spooled = parse(spool.path.read_bytes())
    assert spooled is not None
    assert list(spooled.rows) == [0]
    spool.put(1, row(1))
    assert len(adopted(tmp_path) or [parse(spool.path.read_bytes())]) == 1


def test_a_folder_that_takes_no_file_is_an_error(tmp_path: Path) -> None:
    """A spool that cannot be made says where and why."""
    (tmp_path / "spool").write_text("in the way")
    with pytest.raises(WriteRefusedError, match="spool"):
        make(tmp_path)


def test_a_forked_child_does_not_keep_its_parents_spool_alive(tmp_path: Path) -> None:
    """The parent is gone, its child lives on: the spool is left over."""
    code = f"""
import os, time
from eventstore.spool import Spool
spool = Spool.create({str(tmp_path)!r} and __import__("pathlib").Path({str(tmp_path)!r}),
                     stream="s", about={{}}, row_bytes=8)
spool.put(0, b"01234567")
heard, told = os.pipe()
if os.fork() == 0:
    os.write(told, b"here")  # by now it has let go of what is the parent's
    os.close(1)
    time.sleep(60)
os.read(heard, 4)
os.kill(os.getpid(), 9)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True
    ) as parent:
        try:
            parent.wait()
            assert len(adopted(tmp_path)) == 1
        finally:
            os.killpg(parent.pid, signal.SIGKILL)


def _adopt_slowly(folder: str, answers: multiprocessing.SimpleQueue[int]) -> None:
    adopt_spools(Path(folder), lambda spooled: not answers.put(len(spooled.rows)))


def test_racing_adopters_take_each_spool_once(tmp_path: Path) -> None:
    """They go one after the other, and the second finds nothing."""
    for _ in range(20):
        spool = make(tmp_path)
        spool.put(0, row(0))
        spool.close()
    context = multiprocessing.get_context("spawn")
    answers: multiprocessing.SimpleQueue[int] = context.SimpleQueue()
    workers = [context.Process(target=_adopt_slowly, args=(str(tmp_path), answers)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    answers.put(-1)
    counts = list(iter(answers.get, -1))
    assert counts == [1] * 20
