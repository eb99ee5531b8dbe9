"""Power cuts under a real file system: ext4 with its journal, on a disk whose every request is recorded.

Processes append to a log on ext4 while other files are synced and pages are written back at random;
now and then one of them is killed. The disk is an image behind a loop device, and what ext4 writes and
flushes is recorded (``block_recorder``). Then, for many moments: the image is rebuilt as a power cut
would leave it, with any part of what was written since the last flush; ext4 mounts it and replays its
journal; the log is opened and must hold all that was acknowledged by then.

To see that this can fail, writers that do not sync have their turn, too: that must be noticed.

It wants root, ``/dev/fuse``, loop devices and ``mkfs.ext4``. What is mounted, only these processes see,
and it goes with them.
"""

from __future__ import annotations

import ctypes
import itertools
import multiprocessing
import os
import shutil
import signal
import struct
import subprocess
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final, Literal

from eventstore import EventLog, files
from tools.torture.block_recorder import Counter, Recording, recorded_image
from tools.torture.mounts import have_own_mounts
from tools.torture.promises import (
    BrokenPromiseError,
    Key,
    commit_of,
    keys_of,
    must_hold,
)
from tools.torture.report import Figure, Report

_WRITERS: Final = 3
_IMAGE_BYTES: Final = 24 << 20
_SEGMENT_BYTES_MAX: Final = 60_000
_FAILURES_MAX: Final = 10
_HANG_SECONDS: Final = 120
_TORN, _CLEAN = "a torn tail", "nothing torn"

_SAID = struct.Struct("<QQQ")
"""What a writer says of a commit that is durable: first position, number, requests recorded by then."""


@dataclass(frozen=True)
class _Plan:
    """How much is done: how often, until how many requests are recorded, how often the power then fails."""

    sessions: int
    requests: int
    power_cuts: int


_LONG: Final = _Plan(6, 6_000, 100)
_SHORT: Final = _Plan(1, 1_500, 10)
_CONTROL: Final = _Plan(6, 1_500, 50)


@dataclass
class _Outcome:
    """What was done, and what was found."""

    power_cuts: int = 0
    torn: int = 0
    acknowledged: int = 0
    killed: int = 0
    requests: int = 0
    flushes: int = 0
    failures: list[str] = field(default_factory=list)


def run(*, long: bool, seed: int) -> Report:
    """Cut the power of a real file system, where that can be done."""
    missing = _missing()
    if missing:
        return Report("real_disk", {"not run": missing})
    began = time.monotonic()
    done = _in_own_mounts(_LONG if long else _SHORT, seed, syncing=True)
    control = _in_own_mounts(_CONTROL, seed, syncing=False)
    failures = done.failures
    if not control.failures:
        failures.append("writers that do not sync were not noticed")
    figures: dict[str, Figure] = {
        "file system": "ext4, ordered, on a recorded disk with a volatile cache",
        "power cuts": done.power_cuts,
        "... with a torn tail": done.torn,
        "commits acknowledged": done.acknowledged,
        "writers killed": done.killed,
        "requests recorded": done.requests,
        "... of them flushes": done.flushes,
        "power cuts until writers that do not sync were noticed": control.power_cuts,
    }
    return Report("real_disk", figures, failures[:_FAILURES_MAX], time.monotonic() - began)


def _missing() -> str:
    """What this machine does not have of what it takes, or an empty text."""
    if os.geteuid() != 0:
        return "needs root"
    if shutil.which("mkfs.ext4", path="/usr/sbin:/sbin:/usr/bin") is None:
        return "needs mkfs.ext4"
    missing = [path for path in ("/dev/fuse", "/dev/loop-control") if not Path(path).exists()]
    return f"needs {' and '.join(missing)}" if missing else ""


def _in_memory() -> Path | None:
    memory = Path("/dev/shm")  # noqa: S108 - a folder of its own is made in it
    return memory if memory.is_dir() else None


def _in_own_mounts(plan: _Plan, seed: int, *, syncing: bool) -> _Outcome:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=have_own_mounts) as pool:
        return pool.submit(_sessions, plan, seed, syncing=syncing).result()


def _sessions(plan: _Plan, seed: int, *, syncing: bool) -> _Outcome:
    """One session after the other; writers that do not sync, until that is noticed."""
    done = _Outcome()
    for number in range(plan.sessions):
        with tempfile.TemporaryDirectory(dir=_in_memory()) as folder:
            session = _Session(Path(folder), Random(f"{seed} {number}"), done, syncing=syncing)  # noqa: S311
            for failure in session.play(plan):
                done.failures.append(f"session {number} of seed {seed}: {failure}")
                if not syncing:
                    return done
    return done


class _Session:
    """A file system on which processes write for a while, and what its power cuts leave."""

    def __init__(self, folder: Path, dice: Random, done: _Outcome, *, syncing: bool) -> None:
        self._folder = folder
        self._dice = dice
        self._done = done
        self._syncing = syncing
        self._disk = folder / "disk"
        self._counter = Counter()

    def play(self, plan: _Plan) -> Iterator[str]:
        """Write and record, then cut the power at many moments; yield what is wrong."""
        image, record, fuse = self._folder / "image", self._folder / "record", self._folder / "fuse"
        for path in (fuse, self._disk):
            path.mkdir()
        with image.open("wb") as file:
            file.truncate(_IMAGE_BYTES)
        _call("mkfs.ext4", "-q", "-F", "-b", "4096", "-J", "size=4", str(image))
        start = image.read_bytes()
        with (
            recorded_image(image, fuse, record, self._counter) as recorded,
            _mounted(recorded, self._disk),
        ):
            said = self._work(plan.requests)
        recording = Recording(start, record.read_bytes())
        self._done.requests += len(recording.requests)
        self._done.flushes += recording.requests.count(None)
        moments = [self._dice.randrange(len(recording.requests) + 1) for _ in range(plan.power_cuts)]
        for moment in sorted(moments):
            image.write_bytes(recording.after_power_cut(moment, self._dice))
            answer = self._answer(image, [commit for commit in said if commit[2] <= moment])
            self._done.power_cuts += 1
            self._done.torn += answer == _TORN
            if answer not in (_TORN, _CLEAN):
                yield f"after {moment} requests: {answer}"

    def _answer(self, image: Path, promised: list[tuple[int, int, int]]) -> str:
        try:
            with _mounted(image, self._disk):
                return _in_a_process(_check, self._disk, promised)
        except OSError as error:
            return f"the file system itself did not come back: {error}"

    def _work(self, requests: int) -> list[tuple[int, int, int]]:
        """Let processes append, and kill some; what was acknowledged, and after how many requests."""
        numbers = itertools.count(step=100_000)
        writers = [self._new_writer(next(numbers)) for _ in range(_WRITERS)]
        said: list[tuple[int, int, int]] = []
        while self._counter.value < requests:
            _stir(self._disk, self._dice)
            if self._dice.random() < 0.02:  # noqa: PLR2004 - now and then
                said += writers.pop(self._dice.randrange(_WRITERS)).kill()
                writers.append(self._new_writer(next(numbers)))
                self._done.killed += 1
        for writer in writers:
            said += writer.kill()
        self._done.acknowledged += len(said)
        return said

    def _new_writer(self, number: int) -> _Writer:
        return _Writer(self._disk, number, self._counter, syncing=self._syncing)


def _in_a_process(check: Callable[..., str], *arguments: object) -> str:
    """What a check says, of a process that holds nothing open afterwards, whatever happens in it."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(_HANG_SECONDS)
        try:
            os.write(write_end, check(*arguments).encode()[:4000])
        except BaseException as error:  # noqa: BLE001 - it is what is told
            os.write(write_end, f"{type(error).__name__}: {error}".encode()[:4000])
        os._exit(0)
    os.close(write_end)
    said = os.read(read_end, 4096)
    os.close(read_end)
    os.waitpid(child, 0)
    return said.decode(errors="replace") or "the process that looked at it died"


def _check(disk: Path, promised: list[tuple[int, int, int]]) -> str:
    """Open the log: everything that was promised must be there."""
    keys: dict[int, Key] = {}
    for first_position, number, _ in promised:
        count = sum(len(part.events) for part in commit_of(number))
        keys |= {first_position + part: (number, part) for part in range(count)}
    with EventLog.open(disk / "events") as log:
        found = keys_of(log)
        must_hold(found, max(keys, default=-1) + 1, keys)
        log.append_to_streams(commit_of(10**6))
        findings = [finding for finding in log.verify().findings if finding.severity != "note"]
    if findings:
        raise BrokenPromiseError(f"after recovery verify finds {findings}")
    return _TORN if any((disk / "events" / "quarantine").glob("*")) else _CLEAN


# --- the writers


def _stir(disk: Path, dice: Random) -> None:
    """Make the file system write at random moments: a page here, its journal there."""
    time.sleep(dice.random() * 0.01)
    if dice.random() < 0.5:  # noqa: PLR2004 - one half so, one half so
        descriptor = os.open(disk / "other", os.O_WRONLY | os.O_CREAT, 0o600)
        os.write(descriptor, dice.randbytes(100))
        os.fsync(descriptor)
    else:
        segments = sorted((disk / "events").glob("*.arrows"))
        if not segments:
            return
        descriptor = os.open(segments[-1], os.O_RDWR)
        ctypes.CDLL(None).sync_file_range(descriptor, ctypes.c_long(0), ctypes.c_long(0), 2)
    os.close(descriptor)


class _Writer:
    """A process that appends until it is killed, and says what was acknowledged."""

    def __init__(self, disk: Path, number: int, counter: Counter, *, syncing: bool) -> None:
        self._read_end, write_end = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            signal.alarm(_HANG_SECONDS)
            if not syncing:
                files.sync_data = lambda _: None  # type: ignore[assignment]
            try:
                _append_for_ever(disk, number, counter, write_end)
            except BaseException:  # noqa: BLE001 - it is shown, and the process must not go on as its parent
                traceback.print_exc()
            os._exit(1)
        os.close(write_end)

    def kill(self) -> list[tuple[int, int, int]]:
        """End it at once; what it was told."""
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        said = b""
        while part := os.read(self._read_end, 1 << 16):
            said += part
        os.close(self._read_end)
        whole = len(said) - len(said) % _SAID.size
        return list(_SAID.iter_unpack(said[:whole]))


def _append_for_ever(disk: Path, number: int, counter: Counter, write_end: int) -> None:
    dice = Random(number)  # noqa: S311 - a writer's habits
    with EventLog.open(disk / "events", segment_bytes_max=_SEGMENT_BYTES_MAX) as log:
        for commit_number in itertools.count(number):
            durability: Literal["commit", "os"] = dice.choice(["commit", "os"])
            commit = log.append_to_streams(commit_of(commit_number), durability=durability)
            if durability == "commit":
                os.write(write_end, _SAID.pack(commit.first_position, commit_number, counter.value))


# --- the operating system


@contextmanager
def _mounted(image: Path, mount_point: Path) -> Iterator[None]:
    """The file system in an image; its loop device goes with the mount."""
    _call("mount", "-t", "ext4", "-o", "loop", str(image), str(mount_point))
    try:
        yield
    finally:
        _call("umount", str(mount_point))


def _call(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - our own words
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
