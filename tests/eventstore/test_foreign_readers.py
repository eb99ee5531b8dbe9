"""Programs that know nothing of this log read its files as plain Arrow streams."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from eventstore import Event, EventLog

COMMITS = 150


def read_with_pyarrow(path: Path) -> list[tuple[int, str]]:
    with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as reader:
        table = reader.read_all()
    return list(zip(table["position"].to_pylist(), table["data"].to_pylist(), strict=True))


def read_with_polars(path: Path) -> list[tuple[int, str]]:
    table = pl.read_ipc_stream(path, columns=["position", "data"])
    return list(zip(table["position"].to_list(), table["data"].to_list(), strict=True))


Reader = Callable[[Path], list[tuple[int, str]]]
READERS = pytest.mark.parametrize("read", [read_with_pyarrow, read_with_polars])


def events(number: int) -> list[Event]:
    return [
        Event("Happened", {"number": number, "part": part}, index=[number], values=[0.5, None] * (number % 7))
        for part in range(1 + number % 3)
    ]


def expected_rows() -> list[tuple[int, str]]:
    texts = [
        f'{{"number":{number},"part":{part}}}' for number in range(COMMITS) for part in range(1 + number % 3)
    ]
    return list(enumerate(texts))


def write(path: Path) -> None:
    with EventLog.open(path, segment_bytes_max=40_000) as log:
        for number in range(COMMITS):
            log.append("s", events(number))


@READERS
def test_every_segment_opens_as_a_plain_arrow_stream(tmp_path: Path, read: Reader) -> None:
    """All rows are there, in order, over all segments."""
    write(tmp_path)
    paths = sorted(tmp_path.glob("*.arrows"))
    assert len(paths) > 2
    assert [row for path in paths for row in read(path)] == expected_rows()


@READERS
def test_beside_a_writer_a_reader_sees_a_committed_prefix_or_raises(tmp_path: Path, read: Reader) -> None:
    """While a process appends, no read ever shows other rows, and some reads do succeed in between."""
    rows = expected_rows()
    commits = {0}
    for number in range(COMMITS):
        commits.add(max(commits) + 1 + number % 3)
    writer = multiprocessing.get_context("spawn").Process(target=write, args=(tmp_path,))
    writer.start()
    looks = 0
    while writer.is_alive():
        for path in sorted(tmp_path.glob("*.arrows")):
            try:
                found = read(path)
            except (OSError, pa.ArrowInvalid, pl.exceptions.PolarsError):
                continue
            looks += 1
            first = int(path.stem)
            assert found == rows[first : first + len(found)]
            assert first + len(found) in commits
    assert writer.exitcode == 0
    assert looks > 0
