"""Garbage collection deletes what nobody needs, a backup holds what its log names, repair loses no more."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import uuid
from pathlib import Path

import pytest

from dacapo_store import artifacts
from dacapo_store.array_store import LocalArrayStore
from dacapo_store.backup import RECEIPT, back_up
from dacapo_store.base import Base
from dacapo_store.config_store import FileConfigStore
from dacapo_store.events import WeightsPayloadDropped, WeightsRemoved, WeightsStored
from dacapo_store.maintenance import Garbage, collect_garbage, plan_gc
from dacapo_store.payloads import Payloads, check_payloads
from dacapo_store.stats_store import FileStatsStore
from dacapo_store.training_stats import TrainingIterationStats, TrainingStats
from dacapo_store.weights_store import LocalWeightsStore
from eventstore import Event, EventLog, LogNotFoundError, repair_log, verify_log
from eventstore.spool import left_over
from eventstore.storage.local.survey import survey

HOURS_AGO = time.time() - 7200


def write_payload(
    base: Path, run: str = "run", iteration: int = 1, content: bytes = b"weights"
) -> WeightsStored:
    """A payload as a weights store leaves it in front of its event."""
    path = f"{run}/checkpoints/objects/{iteration}-{uuid.uuid4().hex}.pt"
    artifact = artifacts.write(base, path, lambda file: file.write(content) and None)
    return WeightsStored(run, iteration, artifact.path, artifact.bytes, artifact.chunk_bytes, artifact.digest)


def store(base: Path, run: str = "run", iteration: int = 1, content: bytes = b"weights") -> WeightsStored:
    """A payload and its event."""
    opened = Base.at(base)
    stored = write_payload(base, run, iteration, content)
    opened.append(f"weights/{run}", [stored])
    return stored


def age(path: Path) -> Path:
    """Let a file look old; its inode's own clock is out of reach, so grace is what tests change."""
    os.utime(path, (HOURS_AGO, HOURS_AGO))
    return path


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder, with its content, and every folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() and not path.is_symlink() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A base with one run whose iteration 1 was stored twice, and iteration 2 once."""
    path = tmp_path / "parent" / "base"
    path.mkdir(parents=True)
    for iteration in (1, 1, 2):
        store(path, iteration=iteration)
    return path


# --- gc


def test_nothing_is_garbage_in_a_base_that_nothing_happened_to(base: Path) -> None:
    """Payloads in view and earlier ones are kept by default, without any grace."""
    assert plan_gc(base, grace_seconds=-60) == plan_gc(base)
    assert plan_gc(base).garbage == ()


def test_an_orphan_is_found_once_it_is_old(base: Path) -> None:
    """A new one may be named by its writer at any moment; looking deletes nothing."""
    orphan = write_payload(base)
    assert [path for path, _ in plan_gc(base).spared] == [orphan.path]
    assert plan_gc(base).garbage == ()
    assert plan_gc(base, grace_seconds=-60).garbage == (Garbage("orphan", orphan.path, orphan.bytes),)
    assert (base / orphan.path).is_file()
    collect_garbage(base, grace_seconds=-60)
    assert not (base / orphan.path).exists()
    assert check_payloads(base, Base.at(base).log)[1] == []


def test_a_payload_that_is_named_while_gc_looks_is_kept(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log is read after the folder."""
    late = write_payload(base)
    opened = Base.at(base)
    fold = Payloads.of_log

    def name_it_and_fold(log: EventLog) -> Payloads:
        opened.append("weights/run", [late])
        return fold(log)

    monkeypatch.setattr(Payloads, "of_log", name_it_and_fold)
    assert plan_gc(base, grace_seconds=-60).garbage == ()


def test_a_removal_that_a_crash_cut_short_is_finished(base: Path) -> None:
    """The event is there, the payload and its link are left."""
    stored = store(base, iteration=7)
    link = base / "run/checkpoints/iterations/7"
    link.parent.mkdir()
    link.hardlink_to(base / stored.path)
    Base.at(base).append("weights/run", [WeightsRemoved("run", 7)])
    found = collect_garbage(base).garbage
    assert {(each.kind, each.path) for each in found} == {
        ("removal", stored.path),
        ("removal", "run/checkpoints/iterations/7"),
    }
    assert not link.exists()
    assert not (base / stored.path).exists()


def test_trash_and_temporaries_go(base: Path) -> None:
    """What an interrupted removal of an array left, and files of writers that died."""
    for trash in (base / ".trash/a", base / "run/.trash/b"):
        trash.mkdir(parents=True)
        (trash / "0.0").write_bytes(b"chunk")
    links = base / "run/checkpoints/iterations"
    links.mkdir()
    temporary = links / f".5.{uuid.uuid4().hex}.tmp"
    temporary.write_bytes(b"x")
    (links / "5.tmp").write_bytes(b"not ours")
    found = collect_garbage(base, grace_seconds=-60).garbage
    assert {(each.kind, each.path, each.bytes) for each in found} == {
        ("trash", ".trash/a", 5),
        ("trash", "run/.trash/b", 5),
        ("temporary", temporary.relative_to(base).as_posix(), 1),
    }
    assert sorted(os.listdir(links)) == ["5.tmp"]  # noqa: PTH208 - the names are the point
    assert not (base / ".trash/a").exists()


def test_superseded_payloads_go_only_when_asked_and_on_record(base: Path) -> None:
    """keep=1 leaves what is in view; the log says what was dropped, and nothing is damaged by it."""
    (earlier,) = Payloads.of_log(Base.at(base).log).superseded["run", 1]
    for each in (None, 2):
        assert plan_gc(base, keep=each).garbage == ()
    collected = collect_garbage(base, keep=1).garbage
    assert [(each.kind, each.path) for each in collected] == [("superseded", earlier.stored.path)]
    events = list(Base.at(base).log.read_stream("weights/run"))
    assert (events[-1].type, events[-1].data["path"]) == ("WeightsPayloadDropped", earlier.stored.path)
    assert check_payloads(base, Base.at(base).log, digests=True) == (2, [])
    assert plan_gc(base, keep=1).garbage == ()
    assert Base.at(base).query("SELECT iteration FROM weights ORDER BY 1").fetchall() == [(1,), (2,)]


def test_keep_counts_from_the_latest(base: Path) -> None:
    """Of five payloads of an iteration, keep=3 drops the two oldest."""
    for number in range(3):
        store(base, content=b"%d" % number)
    before = Payloads.of_log(Base.at(base).log).superseded["run", 1]
    assert [each.path for each in plan_gc(base, keep=3).garbage] == [each.stored.path for each in before[:2]]
    with pytest.raises(ValueError, match="keep is 1 or more"):
        plan_gc(base, keep=0)


def test_a_drop_that_a_crash_cut_short_is_finished(base: Path) -> None:
    """The event stands, the file is still there: the next gc takes it, whatever it keeps."""
    (earlier,) = Payloads.of_log(Base.at(base).log).superseded["run", 1]
    Base.at(base).append("weights/run", [WeightsPayloadDropped("run", 1, earlier.stored.path)])
    assert [(each.kind, each.path) for each in plan_gc(base).garbage] == [("removal", earlier.stored.path)]


def test_gc_follows_no_link_and_leaves_the_base_alone(base: Path) -> None:
    """Links out of the base, as runs, folders, payloads or trash, lead to no deletion."""
    outside = base.parent / "outside"
    (outside / "checkpoints/objects").mkdir(parents=True)
    (outside / "checkpoints/objects/precious.pt").write_bytes(b"precious")
    (outside / ".trash/x").mkdir(parents=True)
    (outside / ".trash/x/precious").write_bytes(b"precious")
    (base / "linked_run").symlink_to(outside)
    (base / "other/checkpoints").mkdir(parents=True)
    (base / "other/checkpoints/objects").symlink_to(outside / "checkpoints/objects")
    (base / "other/.trash").symlink_to(outside / ".trash")
    (base / "run/.trash").mkdir()
    (base / "run/.trash/link").symlink_to(outside)
    opened = Base.at(base)
    for path in ("../outside/checkpoints/objects/precious.pt", "linked_run/checkpoints/objects/precious.pt"):
        hostile = WeightsStored("run", 9, path, 8, 1, "00")
        opened.append("weights/run", [hostile])
        opened.append("weights/run", [WeightsRemoved("run", 9)])
    before = snapshot(outside)
    found = collect_garbage(base, keep=1, grace_seconds=-60)
    assert snapshot(outside) == before
    assert "run/.trash/link" in [each.path for each in found.garbage]
    assert not (base / "run/.trash/link").is_symlink()


def test_orphans_are_kept_where_events_were_lost(base: Path) -> None:
    """The payload of a lost event looks like an orphan; its weights may be all that is left of a run."""
    path = next((base / "events").glob("*.arrows"))
    frame = survey(path).frames[-1]
    content = bytearray(path.read_bytes())
    content[frame.offset + 40 : frame.offset + 60] = b"x" * 20
    path.write_bytes(content)
    repair_log(base / "events")
    found = plan_gc(base, grace_seconds=-60)
    assert found.garbage == ()
    assert ["lost" in reason for _, reason in found.spared] == [True]


def test_gc_needs_a_base(tmp_path: Path) -> None:
    """A wrong path is no base without garbage."""
    with pytest.raises(LogNotFoundError):
        plan_gc(tmp_path / "missing")


# --- check_payloads


def test_missing_and_damaged_payloads_are_found(base: Path) -> None:
    """Sizes at once, digests when asked; those out of view are said to be so."""
    payloads = Payloads.of_log(Base.at(base).log)
    (earlier,) = payloads.superseded["run", 1]
    (base / earlier.stored.path).unlink()
    (base / payloads.present["run", 2].stored.path).write_bytes(b"WEIGHTS")
    log = Base.at(base).log
    assert [(each.path, each.in_view) for each in check_payloads(base, log)[1]] == [
        (earlier.stored.path, False)
    ]
    wrong = check_payloads(base, log, digests=True)[1]
    assert {(each.path, each.position) for each in wrong} == {
        (earlier.stored.path, 0),
        (payloads.present["run", 2].stored.path, 2),
    }


# --- backup


def test_a_backup_opens_and_holds_what_its_log_names(base: Path, tmp_path: Path) -> None:
    """Log, payloads and a receipt that vouches for both."""
    receipt = back_up(base, tmp_path / "backup")
    assert (receipt.next_position, receipt.payloads, receipt.missing) == (3, 3, ())
    assert verify_log(tmp_path / "backup/events", expect=receipt.chain).expected_at == 3
    assert json.loads((tmp_path / "backup" / RECEIPT).read_text())["chain"] == receipt.chain
    assert check_payloads(tmp_path / "backup", Base.at(tmp_path / "backup").log, digests=True) == (3, [])


def test_a_backup_is_brought_up_to_date(base: Path, tmp_path: Path) -> None:
    """Only what is new is written; what was removed since stays in the copy."""
    back_up(base, tmp_path / "backup")
    new = store(base, iteration=3, content=b"new weights")
    receipt = back_up(base, tmp_path / "backup")
    assert (receipt.next_position, receipt.payloads) == (4, 4)
    log_bytes = sum(path.stat().st_size for path in (tmp_path / "backup/events").glob("*.arrows"))
    assert receipt.copied_bytes == log_bytes + new.bytes
    assert back_up(base, tmp_path / "backup").missing == ()


def test_linked_payloads_take_no_room(base: Path, tmp_path: Path) -> None:
    """On one file system they are further names of the same files."""
    back_up(base, tmp_path / "backup", link=True)
    (path,) = [each.stored.path for each in Payloads.of_log(Base.at(base).log).superseded["run", 1]]
    assert (base / path).samefile(tmp_path / "backup" / path)


def test_a_backup_holds_the_rows_of_a_logger_that_is_at_work(base: Path, tmp_path: Path) -> None:
    """Flushed rows are in its log and the others in its spools; whoever opens it has all, once."""
    stats = FileStatsStore(base / "stats")
    log = stats.scalar_logger("logged", flush_rows=4)
    copy = tmp_path / "backup"
    for iteration in range(10):
        log.add(iteration, loss=1.0)
        back_up(base, copy)
        again = tmp_path / f"opened-{iteration}"
        shutil.copytree(copy, again)
        for _ in range(2):
            opened = FileStatsStore(again / "stats")
            assert opened.retrieve_training_stats("logged").iterations.tolist() == list(range(iteration + 1))
            Base.at(again).close()
    log.close()
    back_up(base, copy)
    assert left_over(copy / "events") == []
    assert FileStatsStore(copy / "stats").retrieve_training_stats("logged").trained_until() == 10


def test_a_missing_or_damaged_payload_is_named_and_the_rest_is_copied(base: Path, tmp_path: Path) -> None:
    """A backup that lacks something says so; it never copies what is not right."""
    payloads = Payloads.of_log(Base.at(base).log)
    gone, wrong = payloads.present["run", 1].stored.path, payloads.present["run", 2].stored.path
    (base / gone).unlink()
    (base / wrong).write_bytes(b"WEIGHTS")
    receipt = back_up(base, tmp_path / "backup")
    assert {path for path, _ in receipt.missing} == {gone, wrong}
    assert receipt.payloads == 1
    assert not (tmp_path / "backup" / wrong).exists()


@pytest.mark.parametrize("what", ["the base", "within", "around", "something else", "another log"])
def test_a_target_that_is_no_place_for_a_backup_is_refused(base: Path, tmp_path: Path, what: str) -> None:
    """Nothing is written then."""
    targets = {
        "the base": base,
        "within": base / "backup",
        "around": base.parent,
        "something else": tmp_path / "something",
        "another log": tmp_path / "another",
    }
    (tmp_path / "something").mkdir()
    (tmp_path / "something/file").write_text("mine")
    with EventLog.open(tmp_path / "another/events") as log:
        log.append("s", [Event("A")])
    before = snapshot(tmp_path)
    with pytest.raises(
        ValueError, match=r"give an empty folder|give a folder elsewhere|copy to another folder"
    ):
        back_up(base, targets[what])
    assert snapshot(tmp_path) == before


def test_a_backup_while_writers_write_is_a_committed_prefix(tmp_path: Path) -> None:
    """Two processes store weights all the while; a backup, a plain copy and their chains are right."""
    base = tmp_path / "base"
    Base.at(base)
    writers = [start_writer(base, f"run_{number}") for number in range(2)]
    try:
        for number in range(4):
            wait_for_events(base, 40 * (number + 1))
            receipt = back_up(base, tmp_path / "backup")
            assert receipt.missing == ()
            check_copy(base, tmp_path / "backup", at_least=receipt.next_position)
            wrong = check_payloads(
                tmp_path / "backup", Base.at(tmp_path / "backup", read_only=True).log, digests=True
            )
            assert wrong[1] == []
            copy = tmp_path / f"copy-{number}"
            # It complains of temporary files that are gone by the time that it comes to them.
            subprocess.run(["cp", "-r", base, copy], check=False, capture_output=True)  # noqa: S607
            check_copy(base, copy, at_least=receipt.next_position)
            with EventLog.open(copy / "events") as log:
                assert log.verify().ok
    finally:
        for pid in writers:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def start_writer(base: Path, run: str) -> int:
    """A process that stores weights until it is killed, in a log of small segments."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(120)
        try:
            with EventLog.open(base / "events", segment_bytes_max=20_000) as log:
                opened = Base.at(base)
                opened.log = log
                for iteration in range(100_000):
                    stored = write_payload(base, run, iteration % 5, os.urandom(100))
                    opened.append(f"weights/{run}", [stored])
                    time.sleep(0.01)  # so that the log does not grow faster than it is checked
        finally:
            os._exit(1)
    return pid


def wait_for_events(base: Path, count: int) -> None:
    with EventLog.open(base / "events") as log:
        while log.next_position < count:
            time.sleep(0.01)


def check_copy(base: Path, copy: Path, *, at_least: int) -> None:
    """The copy's history is the beginning of the base's, and at least so long."""
    verdict = verify_log(copy / "events")
    assert verdict.ok, verdict.findings
    assert verdict.events >= at_least
    assert verify_log(base / "events", expect=verdict.chain).expected_at == verdict.events


# --- the stores over a repaired log


def test_every_store_works_over_a_repaired_log(tmp_path: Path) -> None:
    """Whichever commit is lost: all stores open and answer, by fold and by SQL alike, and go on."""
    pristine = tmp_path / "pristine"
    stats = FileStatsStore(pristine / "stats")
    configs = FileConfigStore(pristine / "configs")
    configs.store_task_config({"name": "cells", "channels": 2})
    stats.store_training_stats("run", training(range(4)))
    stats.store_training_stats("run", training(range(2), loss=0.5))
    stats.store_training_stats("run", training(range(5), loss=0.5))
    configs.delete_config(configs.tasks, "cells")
    configs.store_task_config({"name": "cells", "channels": 3})
    store(pristine, iteration=1)
    Base.at(pristine).append("weights/run", [WeightsRemoved("run", 1)])
    store(pristine, iteration=2)
    (segment,) = (pristine / "events").glob("*.arrows")
    frames = survey(segment).frames
    assert len(frames) == 9
    for number, frame in enumerate(frames):
        base = Path(shutil.copytree(pristine, tmp_path / f"base-{number}"))
        damaged = base / "events" / segment.name
        content = bytearray(damaged.read_bytes())
        content[frame.offset + 40 : frame.offset + 60] = b"x" * 20
        damaged.write_bytes(content)
        repair_log(base / "events")
        check_stores(base)


def training(iterations: range, loss: float = 1.0) -> TrainingStats:
    rows = [TrainingIterationStats(loss=loss, iteration=iteration, time=1.0) for iteration in iterations]
    return TrainingStats(rows)


def check_stores(base: Path) -> None:
    stats, configs = FileStatsStore(base / "stats"), FileConfigStore(base / "configs")
    for extent in (6, 3):
        stats.store_training_stats("run", training(range(extent), loss=0.25))
        there = stats.retrieve_training_stats("run")
        assert [each.loss for each in there.iteration_stats] == [0.25] * extent
        rows = Base.at(base).query(
            "SELECT loss FROM training_stats WHERE run = 'run' ORDER BY position, ordinal"
        )
        assert rows.fetchall() == [(0.25,)] * extent
    names = configs.retrieve_task_config_names()
    if "cells" in names:
        there_already = configs.retrieve_task_config("cells")
        configs.store_task_config(there_already)
        configs.delete_config(configs.tasks, "cells")
    configs.store_task_config({"name": "cells", "channels": 4})
    assert configs.retrieve_task_config("cells")["channels"] == 4
    weights = LocalWeightsStore(base)
    latest = weights.latest_iteration("run")
    assert latest in (1, 2, None)
    stored = store(base, iteration=9)
    assert weights.latest_iteration("run") == 9
    assert Payloads.of_log(Base.at(base).log).present["run", 9].stored == stored
    LocalArrayStore(base).validation_container("run")
    assert [each for each in plan_gc(base, grace_seconds=-60).garbage if each.kind == "orphan"] == []
