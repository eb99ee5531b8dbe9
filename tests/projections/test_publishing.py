"""Making snapshot files: what they hold, who makes them, what is left behind."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eventstore import Event, EventLog, files
from projections import ANYTHING_NEW, PROJECTIONS, ReadModels, TailLimit, publish_snapshot
from projections.projection import Projection
from projections.snapshot import FOREIGN_GRACE_SECONDS, GRACE_SECONDS
from projections.testing import GivenEvent, ListedLog, event


def _config(name: str) -> GivenEvent:
    return event("ConfigStored", {"kind": "tasks", "name": name, "document": 1})


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _publish(folder: Path, log: ListedLog, projections: tuple[Projection, ...] = PROJECTIONS) -> Path:
    published = publish_snapshot(folder, log, tail_limit=ANYTHING_NEW, projections=projections)
    assert published is not None
    assert published.bytes == published.path.stat().st_size
    return published.path


def _make_older(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds, time.time() - seconds))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the snapshot files go."""
    return tmp_path / "views"


def test_the_name_says_position_code_and_history(folder: Path) -> None:
    """So a reader need not open what it cannot use."""
    log = ListedLog([_config("a"), _config("b")])
    position, _, chain = _publish(folder, log).stem.split("-")

    assert int(position) == 2
    assert len(position) == 20
    assert log.chain_at(2).hex().startswith(chain)


def test_nothing_is_made_of_nothing_new(folder: Path) -> None:
    """Nor of an empty log, nor of a tail within the limit."""
    log = ListedLog()
    assert publish_snapshot(folder, log, tail_limit=ANYTHING_NEW) is None
    log.append(_config("a"))
    assert publish_snapshot(folder, log) is None
    _publish(folder, log)
    assert publish_snapshot(folder, log, tail_limit=ANYTHING_NEW) is None


def test_a_snapshot_is_due_when_the_tail_exceeds_a_share_of_the_last_one(folder: Path) -> None:
    """So that all of them together cost a fixed multiple of the history."""
    log = ListedLog([_config(str(number)) for number in range(100)])
    limit = TailLimit(bytes_min=0, share=0.25)
    assert publish_snapshot(folder, log, tail_limit=limit) is not None
    log.append(*[_config(str(number)) for number in range(25)])
    assert publish_snapshot(folder, log, tail_limit=limit) is None
    log.append(*[_config(str(number)) for number in range(5)])
    assert publish_snapshot(folder, log, tail_limit=limit) is not None


def test_what_goes_on_from_the_last_snapshot_is_what_is_made_of_the_log(folder: Path) -> None:
    """The same file but for its bytes."""
    log = ListedLog()
    for number in range(4):
        log.append(_config(str(number)))
        last = _publish(folder, log)
    at_once = _publish(folder.with_name("other"), log)

    assert last.name == at_once.name
    digests = [ReadModels(log, snapshots=path.parent).digests() for path in (last, at_once)]
    assert digests[0] == digests[1] == ReadModels(log).digests()


def test_only_durable_events_are_in_a_snapshot(folder: Path, tmp_path: Path) -> None:
    """What a power cut may take away again must not stay in a file that others trust."""
    with EventLog.open(tmp_path / "events") as log:
        log.append("s", [Event("Safe", {})])
        log.append("s", [Event("Unsafe", {})], durability="os")
        assert log.durable_position == 1
        published = publish_snapshot(folder, log, tail_limit=ANYTHING_NEW)

    assert published is not None
    assert published.position == 1


def test_one_process_at_a_time_publishes(folder: Path) -> None:
    """The other one leaves it to that."""
    folder.mkdir()
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert publish_snapshot(folder, ListedLog([_config("a")]), tail_limit=ANYTHING_NEW) is None
    assert _names(folder) == ["lock"]


def test_two_publishers_make_one_file(folder: Path) -> None:
    """Whichever comes first."""
    publishers = [
        subprocess.Popen([sys.executable, "-c", _PUBLISHING, str(folder)], stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    made = [publisher.communicate()[0].strip() for publisher in publishers]

    assert made.count(b"True") >= 1
    assert [name for name in _names(folder) if name != "lock"] == [
        name for name in _names(folder) if name.endswith(".duckdb")
    ]
    assert len(_names(folder)) == 2


_PUBLISHING = """
import sys
from pathlib import Path
from projections import ANYTHING_NEW, publish_snapshot
from projections.testing import ListedLog, event
log = ListedLog([event("ConfigStored", {"kind": "tasks", "name": "a", "document": 1})] * 1000)
print(publish_snapshot(Path(sys.argv[1]), log, tail_limit=ANYTHING_NEW) is not None)
"""


def test_what_a_dead_publisher_left_is_removed(folder: Path) -> None:
    """Its files, and what DuckDB had put beside them."""
    left = folder / ".0123.tmp" / "duckdb"
    left.mkdir(parents=True)
    (left / "duckdb_temp_storage-0.tmp").write_bytes(b"x")
    (left.parent / "half.duckdb.wal").write_bytes(b"x")
    path = _publish(folder, ListedLog([_config("a")]))

    assert _names(folder) == [path.name, "lock"]


@pytest.mark.parametrize("call", ["sync_file", "rename"])
def test_a_full_disk_leaves_nothing(folder: Path, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is the caller's to tell; readers go on."""
    log = ListedLog([_config("a")])

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(files, call, refuse)
        with pytest.raises(OSError, match="No space"):
            publish_snapshot(folder, log, tail_limit=ANYTHING_NEW)
    assert _names(folder) == ["lock"]
    assert ReadModels(log, snapshots=folder).catch_up() == 1
    _publish(folder, log)


def test_a_damaged_file_is_replaced_by_a_new_one(folder: Path) -> None:
    """Although there is nothing new."""
    log = ListedLog([_config("a")])
    path = _publish(folder, log)
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:5000])

    assert _publish(folder, log) == path
    read_models = ReadModels(log, snapshots=folder)
    assert read_models.query("SELECT count(*) FROM tasks").fetchone() == (1,)
    assert read_models._state.content is not None
    assert read_models._state.content.snapshot is not None


def test_two_files_are_kept_and_older_ones_go_after_a_grace(folder: Path) -> None:
    """Whoever has listed the folder a moment ago finds what it saw."""
    log = ListedLog()
    made = []
    for number in range(4):
        log.append(_config(str(number)))
        made.append(_publish(folder, log))
    assert all(path.exists() for path in made)

    for path in made:
        _make_older(path, GRACE_SECONDS + 1)
    log.append(_config("new"))
    made.append(_publish(folder, log))
    assert [path.exists() for path in made] == [False, False, False, True, True]


def test_files_of_other_code_do_not_count_and_stay_longer(folder: Path) -> None:
    """Programs of two versions may share a base."""
    log = ListedLog([_config("a")])
    other_code = _publish(folder, log, PROJECTIONS[:-1])
    mine = [_publish(folder, log)]
    for path in (other_code, *mine):
        _make_older(path, GRACE_SECONDS + 1)
    log.append(_config("b"))
    mine.append(_publish(folder, log))
    assert other_code.exists()
    assert all(path.exists() for path in mine)

    _make_older(other_code, FOREIGN_GRACE_SECONDS + 1)
    log.append(_config("c"))
    _publish(folder, log)
    assert not other_code.exists()


def test_files_of_another_history_do_not_count(folder: Path) -> None:
    """What a log had before it was restored helps nobody, and does not push out what does."""
    log = ListedLog([_config("a")])
    lost = _publish(folder, ListedLog([_config("a"), _config("lost"), _config("too")]))
    mine = _publish(folder, log)
    for path in (lost, mine):
        _make_older(path, GRACE_SECONDS + 1)
    log.append(_config("b"))
    _publish(folder, log)

    assert mine.exists()
    assert not lost.exists()


def test_the_files_belong_to_the_people_of_the_base(tmp_path: Path) -> None:
    """Whoever may read the folder may read them; nobody may write them."""
    tmp_path.chmod(0o2775)
    folder = tmp_path / "views"
    path = _publish(folder, ListedLog([_config("a")]))

    assert path.stat().st_mode & 0o777 == 0o444
    assert (folder / "lock").stat().st_mode & 0o777 == 0o664
    assert folder.stat().st_mode & 0o7777 == 0o2775
