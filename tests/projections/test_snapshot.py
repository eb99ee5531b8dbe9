"""Snapshot files as readers meet them: which one is used, and what happens to one that is no good."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pytest

from projections import (
    ANYTHING_NEW,
    PROJECTIONS,
    CatchUpError,
    ReadModels,
    ReadModelStoppedError,
    TailLimit,
    publish_snapshot,
)
from projections.database import Database
from projections.snapshot import SnapshotName, code_of
from projections.testing import GivenEvent, ListedLog, event

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS_AN_EVENT = 20_000
_HEADERS_BYTES = 3 * 4096
_BLOCK_BYTES = 256 * 1024


def _config(name: str) -> GivenEvent:
    return event("ConfigStored", {"kind": "tasks", "name": name, "document": 1})


def _stats(first: int) -> GivenEvent:
    index = list(range(first, first + _ROWS_AN_EVENT))
    data = {"run": "r", "epoch": 0, "columns": ["loss"]}
    return event("TrainingStatsRecorded", data, index=index, values=[math.sin(n) for n in index])


def _published(folder: Path, log: ListedLog) -> Path:
    published = publish_snapshot(folder, log, tail_limit=ANYTHING_NEW)
    assert published is not None
    return published.path


def _used(read_models: ReadModels) -> Path | None:
    content = read_models._state.content
    assert content is not None
    return None if content.snapshot is None else content.snapshot.path


def _damage(path: Path, table: str = "training_rows") -> None:
    """Flip a bit in each block that holds rows of this table and no other; attaching meets none of them."""
    with duckdb.connect(path, read_only=True) as shell:
        tables = [name for projection in PROJECTIONS for name in (table.name for table in projection.tables)]
        blocks = {name: _blocks(shell, name) for name in [*tables, "snapshot", "read_models"]}
    own = blocks.pop(table) - set().union(*blocks.values())
    assert own
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    for block in own:
        data[_HEADERS_BYTES + block * _BLOCK_BYTES + _BLOCK_BYTES // 2] ^= 1
    path.write_bytes(data)


def _blocks(shell: duckdb.DuckDBPyConnection, table: str) -> set[int]:
    rows = shell.execute(f"SELECT block_id FROM pragma_storage_info('history.{table}') WHERE persistent")  # noqa: S608
    return {block for (block,) in rows.fetchall() if block is not None and block >= 0}


class Reading(ListedLog):
    """A log that notes from where it was read."""

    def read_batches(self, from_position: int) -> Iterator[pa.RecordBatch]:
        """All events from a position on."""
        self.read_from = [*getattr(self, "read_from", []), from_position]
        return super().read_batches(from_position)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the snapshot files are."""
    return tmp_path / "views"


def test_opening_reads_the_tail_and_not_the_history(folder: Path) -> None:
    """The log is asked for the events behind the snapshot only."""
    log = Reading([_config("a"), _config("b")])
    _published(folder, log)
    log.append(_config("c"))
    log.read_from = []
    read_models = ReadModels(log, snapshots=folder)

    assert read_models.query("SELECT name FROM tasks ORDER BY name").fetchall() == [("a",), ("b",), ("c",)]
    assert log.read_from == [2]
    read_models.catch_up()
    assert set(read_models.checkpoints.values()) == {3}


def test_the_newest_file_is_used(folder: Path) -> None:
    """Others are for those who cannot use it."""
    log = ListedLog([_config("a")])
    _published(folder, log)
    log.append(_config("b"))
    newest = _published(folder, log)
    read_models = ReadModels(log, snapshots=folder)
    read_models.catch_up()

    assert _used(read_models) == newest


def test_a_folder_that_is_not_there_is_no_snapshot(folder: Path) -> None:
    """And is not made by who only reads."""
    assert ReadModels(ListedLog([_config("a")]), snapshots=folder).catch_up() == 1
    assert not folder.exists()


def test_a_folder_that_cannot_be_listed_is_no_snapshot(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said, and the log has everything."""

    def refuse(self: Path) -> Iterator[Path]:
        raise PermissionError(13, "Permission denied", str(self))

    log = ListedLog([_config("a")])
    _published(folder, log)
    monkeypatch.setattr(Path, "iterdir", refuse)

    assert ReadModels(log, snapshots=folder).catch_up() == 1
    assert "Permission denied" in caplog.text


def test_a_file_that_a_shell_holds_is_passed_over_and_that_is_said_once(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An older one serves; whoever opens later, when the shell has gone, uses it again."""
    log = ListedLog([_config("a")])
    older = _published(folder, log)
    log.append(_config("b"))
    newer = _published(folder, log)
    newer.chmod(0o600)
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDING, str(newer)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        for _ in range(2):
            read_models = ReadModels(log, snapshots=folder)
            assert read_models.query("SELECT count(*) FROM tasks").fetchone() == (2,)
            assert _used(read_models) == older
        holder.communicate(b"")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert str(newer) in caplog.text

    later = ReadModels(log, snapshots=folder)
    later.catch_up()
    assert _used(later) == newer


_HOLDING = """
import duckdb, sys
held = duckdb.connect(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


def test_a_file_of_other_code_is_passed_over(folder: Path) -> None:
    """Other folds make other rows."""
    log = ListedLog([_config("a")])
    _published(folder, log)
    fewer = PROJECTIONS[:-1]
    read_models = ReadModels(log, snapshots=folder, projections=fewer)
    read_models.catch_up()

    assert _used(read_models) is None
    assert code_of(fewer) != code_of(PROJECTIONS)


def test_a_file_that_says_something_else_inside_is_passed_over(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody has renamed it, to a name that would fit this very log."""
    log = ListedLog([_config("a"), _config("b")])
    path = _published(folder, log)
    log.append(_config("c"))
    path.rename(
        path.with_name(SnapshotName.of(position=3, code=code_of(PROJECTIONS), chain=log.chain_at(3)).text)
    )
    read_models = ReadModels(log, snapshots=folder)

    assert read_models.query("SELECT count(*) FROM tasks").fetchone() == (3,)
    assert _used(read_models) is None
    assert "does not hold what its name says" in caplog.text


def test_a_restored_log_does_not_see_what_it_has_lost(folder: Path) -> None:
    """Neither while it is shorter than the snapshot, nor when it has grown along another way."""
    _published(folder, ListedLog([_config("a"), _config("lost")]))
    log = ListedLog([_config("a")])
    read_models = ReadModels(log, snapshots=folder)
    assert read_models.query("SELECT name FROM tasks").fetchall() == [("a",)]

    log.append(_config("b"))
    newcomer = ReadModels(log, snapshots=folder)
    assert newcomer.query("SELECT name FROM tasks ORDER BY name").fetchall() == [("a",), ("b",)]
    assert _used(newcomer) is None


def test_a_file_that_is_pruned_while_it_is_attached_is_no_matter(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is listed again, and the file that took its place is found."""
    log = ListedLog([_config("a")])
    older = _published(folder, log)
    attach = Database.attach
    gone: list[Path] = []

    def attach_late(self: Database, path: Path, catalog: str) -> None:
        if not gone:
            gone.append(older)
            log.append(_config("b"))
            _published(folder, log)
            older.unlink()
        attach(self, path, catalog)

    monkeypatch.setattr(Database, "attach", attach_late)
    read_models = ReadModels(log, snapshots=folder)

    assert read_models.query("SELECT count(*) FROM tasks").fetchone() == (2,)
    assert gone == [older]
    used = _used(read_models)
    assert used is not None
    assert used != older


@pytest.mark.parametrize("how", ["fetchall", "fetchnumpy", "df", "arrow", "digests", "read_models.arrow"])
def test_a_file_that_turns_out_to_be_damaged_is_no_error(
    folder: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer comes from the log."""
    log = ListedLog([_stats(first) for first in range(0, 6 * _ROWS_AN_EVENT, _ROWS_AN_EVENT)])
    expected = ReadModels(log).digests()
    _damage(_published(folder, log))
    read_models = ReadModels(log, snapshots=folder)
    sql = "SELECT iteration, loss FROM training_stats"
    assert read_models.catch_up() == 6

    if how == "digests":
        assert read_models.digests() == expected
    elif how == "read_models.arrow":
        assert read_models.arrow(sql).num_rows == 6 * _ROWS_AN_EVENT
    else:
        answer = getattr(read_models.query(sql), how)()
        rows = answer["loss"] if how == "fetchnumpy" else answer
        assert len(rows) == 6 * _ROWS_AN_EVENT
    assert _used(read_models) is None
    assert "is damaged" in caplog.text


def test_a_fold_that_meets_damage_goes_on_without_the_file(folder: Path) -> None:
    """No read model is stopped for it: the events are as they should be."""
    # Every epoch is a life of its own, so that the table that folds look at is a large one.
    many = [
        event(
            "TrainingStatsRecorded",
            {"run": hashlib.sha256(b"%d" % n).hexdigest(), "epoch": n, "columns": []},
            index=[1],
            values=[],
        )
        for n in range(70_000)
    ]
    log = ListedLog(many)
    _damage(_published(folder, log), "training_lives")
    log.append(_stats(0))
    read_models = ReadModels(log, snapshots=folder)

    assert read_models.query("SELECT count(*) FROM training_stats").fetchone() == (70_000 + _ROWS_AN_EVENT,)
    assert not read_models.stopped
    assert _used(read_models) is None


def test_damage_behind_rows_that_were_given_is_an_error_and_the_next_query_is_right(folder: Path) -> None:
    """Which rows the caller has already cannot be known."""
    log = ListedLog([_stats(first) for first in range(0, 6 * _ROWS_AN_EVENT, _ROWS_AN_EVENT)])
    _damage(_published(folder, log))
    read_models = ReadModels(log, snapshots=folder, threads=1)
    read_models.catch_up()
    result = read_models.query("FROM (SELECT 1.0 AS loss UNION ALL SELECT loss FROM training_stats)")
    assert result.fetchone() is not None
    with pytest.raises(CatchUpError, match="query again"):
        result.fetchall()

    assert read_models.query("SELECT count(*) FROM training_stats").fetchone() == (6 * _ROWS_AN_EVENT,)


def test_a_mistake_in_the_sql_is_no_damage(folder: Path) -> None:
    """The file goes on being used."""
    log = ListedLog([_config("a")])
    path = _published(folder, log)
    read_models = ReadModels(log, snapshots=folder)
    with pytest.raises(duckdb.Error):
        read_models.query("SELECT * FROM read_csv('/no/such/file.csv')").fetchall()

    assert _used(read_models) == path


def test_a_stopped_read_model_is_stopped_in_the_snapshot_as_well(folder: Path) -> None:
    """At the same event, for the same reason, with its rows up to there; the others go on."""
    log = ListedLog([_config("a"), event("ConfigStored", {"kind": "tasks"}), _config("b"), _stats(0)])
    before = ReadModels(log)
    before.catch_up()
    path = _published(folder, log)
    log.append(_config("c"), _stats(_ROWS_AN_EVENT))
    after = ReadModels(log, snapshots=folder)

    assert after.query("SELECT count(*) FROM training_stats").fetchone() == (2 * _ROWS_AN_EVENT,)
    assert after.digests() == before.digests()
    with pytest.raises(ReadModelStoppedError) as stopped:
        after.query("FROM tasks")
    assert stopped.value.facts == before.stopped["configs"].facts
    with duckdb.connect(path, read_only=True) as shell, pytest.raises(duckdb.CatalogException):
        shell.execute("FROM tasks")


def test_duckdb_opens_the_file_without_this_program(folder: Path) -> None:
    """With all views and macros, read-only."""
    log = ListedLog([_config("a"), _stats(0), _config("b")])
    path = _published(folder, log)
    read_models = ReadModels(log)
    with duckdb.connect(path, read_only=True) as shell:
        for view in (view.name for projection in PROJECTIONS for view in projection.views):
            there = shell.execute(f"SELECT count(*) FROM {view}").fetchall()  # noqa: S608
            assert there == read_models.query(f"SELECT count(*) FROM {view}").fetchall(), view  # noqa: S608
            past = shell.execute(f"SELECT count(*) FROM {view}_at(1)").fetchall()  # noqa: S608
            assert past == read_models.query(f"SELECT count(*) FROM {view}_at(1)").fetchall(), view  # noqa: S608
        position, log_id = shell.execute("SELECT position, log_id FROM history.snapshot").fetchone() or ()
        with pytest.raises(duckdb.InvalidInputException, match="read-only"):
            shell.execute("DELETE FROM history.events")
    assert (position, log_id) == (3, bytes(16).hex())
    assert not path.stat().st_mode & 0o222


def test_another_connection_uses_it_by_its_name(folder: Path) -> None:
    """``USE`` makes the macros of an attached file work, too."""
    path = _published(folder, ListedLog([_config("a"), _config("b")]))
    with duckdb.connect() as shell:
        shell.execute(f"ATTACH '{path}' AS past (READ_ONLY); USE past")
        assert shell.execute("SELECT name FROM tasks_at(1)").fetchall() == [("a",)]
        assert shell.execute("SELECT count(*) FROM tasks").fetchall() == [(2,)]


def test_one_run_is_a_range_of_rows(folder: Path) -> None:
    """However the events of the runs alternate."""
    log = ListedLog(
        [
            event(
                "TrainingStatsRecorded",
                {"run": run, "epoch": 0, "columns": ["loss"]},
                index=[iteration],
                values=[0.0],
            )
            for iteration in (2, 0, 1)
            for run in ("a", "b")
        ]
    )
    with duckdb.connect(_published(folder, log), read_only=True) as shell:
        rows = shell.execute("SELECT life, iteration FROM history.training_rows").fetchall()
    assert rows == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]


def test_a_forked_child_attaches_the_file_anew(folder: Path) -> None:
    """And ends normally; the parent goes on."""
    log = ListedLog([_config("a")])
    _published(folder, log)
    read_models = ReadModels(log, snapshots=folder)
    read_models.catch_up()
    pid = os.fork()
    if pid == 0:
        seen = read_models.query("SELECT name FROM tasks").fetchall()
        os._exit(0 if seen == [("a",)] and _used(read_models) is not None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    log.append(_config("b"))
    assert read_models.query("SELECT count(*) FROM tasks").fetchone() == (2,)


def test_a_long_tail_is_told_and_left_behind(folder: Path) -> None:
    """Once for each share that it grows by; when there is a newer file, the process goes on from it."""
    told: list[int] = []
    log = ListedLog()
    read_models = ReadModels(
        log,
        snapshots=folder,
        tail_limit=TailLimit(bytes_min=1 << 20, share=0.5),
        tail_too_long=lambda: told.append(log.next_position),
    )
    for first in range(0, 8 * _ROWS_AN_EVENT, _ROWS_AN_EVENT):
        log.append(_stats(first))
        read_models.catch_up()
        read_models.catch_up()
    # An event has 320 kB. The limit is 1 MiB; from the fourth event on it is measured from there.
    assert told == [4, 8]
    assert read_models.tail_is_too_long

    path = _published(folder, log)
    before = read_models.digests()
    for first in range(8 * _ROWS_AN_EVENT, 13 * _ROWS_AN_EVENT, _ROWS_AN_EVENT):
        log.append(_stats(first))
        read_models.catch_up()
    assert told == [4, 8]
    assert _used(read_models) == path
    log.append(_stats(13 * _ROWS_AN_EVENT))
    read_models.catch_up()
    assert told == [4, 8, 14], "the newer file is too old by now"
    assert ReadModels(ListedLog(log.events[:8])).digests() == before
    assert read_models.digests() == ReadModels(log).digests()


def test_threads_query_while_the_process_moves_to_a_newer_file(folder: Path) -> None:
    """A result that was begun before is read to its end."""
    log = ListedLog()
    read_models = ReadModels(log, snapshots=folder, tail_limit=ANYTHING_NEW)
    wrong: list[object] = []

    def ask() -> None:
        for _ in range(20):
            before = log.next_position
            (count,) = read_models.query("SELECT count(*) FROM tasks").fetchone() or (0,)
            if count < before:
                wrong.append((before, count))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    used = set()
    for number in range(12):
        log.append(_config(str(number)))
        if number % 3 == 0:
            _published(folder, log)
        read_models.catch_up()
        used.add(_used(read_models))
    for thread in threads:
        thread.join()

    assert wrong == []
    assert len(used) > 2
