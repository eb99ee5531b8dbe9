"""Re-encoding is killed at each step, and loses power at each: the log has the same events all the while."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from eventstore import Event, EventLog, files, plan_repair, reencode_log, verify_log
from eventstore.storage.local.lock import Lock
from tools.torture.power_cut import fast_folder
from tools.torture.recorder import Recorder, clear_folder, write_folder
from tools.torture.simulated_disk import Disk, crash_state

_STEPS = ("create", "write", "sync_file", "forget_cached", "link", "sync_directory", "unlink")
_SEED = 11


def write_log(path: Path) -> list[str]:
    """A log of four segments, and what is in it."""
    with EventLog.open(path, segment_bytes_max=4_000) as log:
        for number in range(12):
            values = [float(number)] * 40
            events = [Event("A", {"number": number}, values=values)] * (1 + number % 2)
            log.append(f"stream-{number % 3}", [Event(e.type, e.data, values=values) for e in events])
    return events_of(path)


def events_of(path: Path, *, read_only: bool = True) -> list[str]:
    with EventLog.open(path, read_only=read_only) as log:
        return [
            repr((e.position, e.event_id, e.stream, e.stream_version, e.data_json, str(e.values)[50:]))
            for e in log.read()
        ]


def must_be_sound(path: Path, wanted: list[str], chain: str) -> None:
    """Nothing is lost, nothing is damaged, and the log goes on."""
    assert events_of(path) == wanted
    verdict = verify_log(path)
    assert (verdict.chain, verdict.findings) == (chain, ())
    assert not plan_repair(path).needed
    with EventLog.open(path) as log:
        assert log.append("later", [Event("A")]).first_position == len(wanted)
    report = reencode_log(path, grace_seconds=0)
    assert report.skipped == ()
    assert {each.name for each in (path / "reencoding").iterdir()} == {"lock", "ended"}
    assert events_of(path, read_only=False)[:-1] == wanted
    assert verify_log(path).findings == ()


def test_a_kill_at_any_step_leaves_the_same_events(tmp_path: Path) -> None:
    """Before and behind each call that changes a file or the lock; once with grace, once without."""
    write_log(tmp_path / "pristine")
    wanted, chain = events_of(tmp_path / "pristine"), verify_log(tmp_path / "pristine").chain
    kills = 0
    for when in range(0, 10_000, 3):
        path = tmp_path / f"log-{when}"
        _copy(tmp_path / "pristine", path)
        if not _killed_at(path, when):
            break
        kills += 1
        must_be_sound(path, wanted, chain)
    assert kills > 15


def _copy(source: Path, target: Path) -> None:
    target.mkdir()
    for path in source.glob("*.arrows"):
        (target / path.name).write_bytes(path.read_bytes())


def _killed_at(path: Path, when: int) -> bool:
    """Re-encode in a child that ends itself at one of its steps; False when it came to its end."""
    pid = os.fork()
    if pid == 0:
        steps = iter(range(1_000_000))

        def stepping(function: Callable[..., Any]) -> Callable[..., Any]:
            def stepped(*arguments: Any, **options: Any) -> Any:
                for _ in range(2):
                    if next(steps) == when:
                        os.kill(os.getpid(), signal.SIGKILL)
                    if _ == 0:
                        answer = function(*arguments, **options)
                return answer

            return stepped

        try:
            for name in _STEPS:
                setattr(files, name, stepping(getattr(files, name)))
            setattr(Lock, "write_state", stepping(Lock.write_state))  # noqa: B010 - a method
            reencode_log(path, grace_seconds=0)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("grace_seconds", [0, 600])
def test_a_power_cut_at_any_step_leaves_the_same_events(grace_seconds: float) -> None:
    """Whatever the disk keeps of what was not synced."""
    dice = Random(_SEED)  # noqa: S311 - which sectors are kept
    with fast_folder() as folder:
        root = folder / "root"
        root.mkdir()
        wanted = write_log(root / "events")
        chain = verify_log(root / "events").chain
        (root / "events" / "lock").unlink()
        recorder = Recorder(root)
        with recorder:
            reencode_log(root / "events", grace_seconds=grace_seconds)
        disk = Disk(recorder.start)
        for step in [*recorder.trace, None]:
            if dice.random() < 0.5:
                clear_folder(root)
                write_folder(root, crash_state(disk, dice))
                must_be_sound(root / "events", wanted, chain)
            if step is not None:
                disk.apply(step)
    assert len(recorder.trace) > 30
