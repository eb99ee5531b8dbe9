"""System calls fail: disks that are full or broken, too few descriptors, folders that may not be written.

A scenario of all store operations is gone through on a base. In front of each operation, a copy of
the base is made for every system call that the operation makes and that a fault can hit; there, this
call fails. Then

- the operation returns, because only something derived was refused, or it raises an error of the
  class that is documented for the fault;
- what was acknowledged before is there, and of the operation itself there is all or nothing, after
  a refused write nothing;
- nothing is left lying about: no temporary file, no payload that no event names;
- once the fault is gone the operation succeeds, where it is repeated as the documentation says, the
  log goes on, ``verify`` finds no damage and the base holds what the operations say.

The same is done on a real, small file system that fills up, and with too few descriptors.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import logging
import os
import pwd
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from dacapo_store import artifacts
from dacapo_store.base import Base
from dacapo_store.events import EVENT_TYPES, WeightsRemoved, WeightsStored
from eventstore import (
    Event,
    EventLog,
    EventStoreError,
    ReadOnlyLogError,
    StorageError,
    WriteRefusedError,
    files,
)
from tools.torture.mounts import have_own_mounts
from tools.torture.operations import SCENARIO, Operation, State, after, observe, perform
from tools.torture.report import Report
from tools.torture.zygote import Job, Tell, Zygote

WRITER: Final = "w0"
SEGMENT_BYTES_MAX: Final = 6_000
"""So small that the scenario rolls several times."""

_PAGE: Final = 4096
_REFUSALS_MAX: Final = 400
_CLOSE_LOOKS: Final = 5
_OF_A_COMMIT: Final = Operation("note", "commit", 999, count=1)

_BY_STEPS: Final = ("remove_array", "log_training")
"""Operations that write several commits, or do more after theirs: any beginning of them may be there."""


@dataclass(frozen=True)
class Fault:
    """A way in which system calls fail.

    Attributes:
        calls: Functions of ``os`` that it hits.
        number: The error that they raise; 0 for none.
        half: A write takes half of the bytes first; with no error, it says so.
        lasting: From the first failure on, all fail, until the fault is gone.
        unknown: After it, an operation that raised may be there as a whole.
    """

    calls: tuple[str, ...]
    number: int
    half: bool = False
    lasting: bool = False
    unknown: bool = False


_WRITES: Final = ("write", "pwrite")
_NAMES: Final = ("mkdir", "link", "rename", "symlink", "creating open")
_SYNCS: Final = ("fsync", "fdatasync")
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, 0)

FAULTS: Final[dict[str, Fault]] = {
    "disk full at one call": Fault((*_WRITES, *_NAMES), errno.ENOSPC),
    "disk full from one call on": Fault((*_WRITES, *_NAMES), errno.ENOSPC, lasting=True),
    "disk full after half of a write": Fault(_WRITES, errno.ENOSPC, half=True, lasting=True),
    "disk full, and what was written cannot be cut": Fault(
        (*_WRITES, "ftruncate"), errno.ENOSPC, half=True, lasting=True, unknown=True
    ),
    "quota reached from one call on": Fault((*_WRITES, *_NAMES), errno.EDQUOT, lasting=True),
    "short write": Fault(_WRITES, 0, half=True),
    "I/O error on one write": Fault((*_WRITES, "ftruncate"), errno.EIO),
    "I/O error on writes from one on": Fault((*_WRITES, "ftruncate"), errno.EIO, lasting=True),
    "I/O error on one sync": Fault(_SYNCS, errno.EIO, unknown=True),
    "I/O error on syncs from one on": Fault(_SYNCS, errno.EIO, lasting=True, unknown=True),
    "I/O error on syncs and writes from one on": Fault(
        (*_WRITES, *_SYNCS), errno.EIO, lasting=True, unknown=True
    ),
    "read-only file system from one call on": Fault(
        (*_WRITES, *_NAMES, *_SYNCS, "unlink", "ftruncate"), errno.EROFS, lasting=True, unknown=True
    ),
    "too many open files at one call": Fault(("open", "dup"), errno.EMFILE, unknown=True),
    "too many open files from one call on": Fault(("open", "dup"), errno.EMFILE, lasting=True, unknown=True),
    "permission lost from one call on": Fault(
        (*_NAMES, "unlink", "open"), errno.EACCES, lasting=True, unknown=True
    ),
}


class Breaker:
    """Makes a fault happen to the system calls of this process that concern one folder.

    Args:
        folder: Calls for paths in it, or descriptors of files in it, count.
        fault: What happens.
        at: To which of these calls, counted from 1; 0 only counts.

    Attributes:
        calls: How many calls it could have happened to.
        failed: How many it happened to.
        hit_the_lock: One of them was for the log's lock file.
        unsynced: The files whose sync failed. The kernel would not tell of it again.
    """

    def __init__(self, folder: Path, fault: Fault, *, at: int) -> None:
        self._folder = str(folder)
        self._fault = fault
        self._at = at
        self.calls = 0
        self.failed = 0
        self.hit_the_lock = False
        self.unsynced: set[str] = set()
        self._last_subject = ""

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """The fault can happen in here."""
        originals = {name: getattr(os, name) for name in _PATCHED}
        for name, original in originals.items():
            setattr(os, name, self._around(name, original))
        try:
            yield
        finally:
            for name, original in originals.items():
                setattr(os, name, original)

    def _around(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **more: Any) -> Any:
            if not self._concerns(name, arguments) or not self._fails_now():
                return original(*arguments, **more)
            if self._fault.half and name in _WRITES:
                descriptor, data, *place = arguments
                written = original(descriptor, memoryview(data)[: len(data) // 2], *place)
                if not self._fault.number:
                    return written
            if name in _SYNCS:
                self.unsynced.add(self._last_subject)
            raise OSError(self._fault.number, os.strerror(self._fault.number), self._folder)

        return called

    def _concerns(self, name: str, arguments: tuple[Any, ...]) -> bool:
        called = name
        if name == "open" and "open" not in self._fault.calls:
            called = "creating open" if arguments[1] & os.O_CREAT else "open"
        if called not in self._fault.calls:
            return False
        # A new name counts, not what it is made from.
        subject = arguments[1] if name in ("link", "rename", "symlink") else arguments[0]
        if name == "pwrite" and self._fault.number in _NO_ROOM:
            descriptor, data, offset = arguments
            if offset + len(data) <= os.fstat(descriptor).st_size:
                return False  # bytes in the place of others need no room
        if isinstance(subject, int):
            subject = Path(f"/proc/self/fd/{subject}").readlink()
        if not str(subject).startswith(self._folder):
            return False
        self._last_subject = str(subject)
        return True

    def _fails_now(self) -> bool:
        self.calls += 1
        fails = self._at > 0 and (self.calls == self._at or (self._fault.lasting and self.calls > self._at))
        self.failed += fails
        self.hit_the_lock = self.hit_the_lock or (fails and self._last_subject.endswith("/events/lock"))
        return fails


_PATCHED: Final = (
    *_WRITES,
    *_SYNCS,
    *("mkdir", "link", "rename", "symlink", "open", "dup", "unlink", "ftruncate"),
)


def run(*, long: bool, seed: int) -> Report:  # noqa: ARG001 - nothing here is left to dice
    """Let every call fail that can; ``long`` reads more back, and tries more sizes of what is too small."""
    began = time.monotonic()
    tally, failures = Tally(), list[str]()
    with (
        prepared_process(),
        tempfile.TemporaryDirectory() as made,
        Zygote("tools.torture.faults") as zygote,
    ):
        folder = Path(made).resolve()
        for step in steps(folder):
            for name in FAULTS:
                failures += fail_everywhere(step, name, folder, tally, thorough=long)
        for name in FAULTS:
            failures += fail_opening(name, folder, tally)
        for how in ("bytes", "names", "descriptors"):
            for room in range(1, 9 if long else 3):
                failures += in_a_worker(zygote, how, folder, tally, room=room)
        failures += in_a_worker(zygote, "permissions", folder, tally)
    return Report("faults", tally.figures(), failures, time.monotonic() - began)


# --- one operation, one call that fails


@dataclass(frozen=True)
class Step:
    """An operation of the scenario, and where it is to be done.

    Attributes:
        operation: The operation.
        state: What the base holds before it.
        base: A base that holds that; it is copied, never touched.
        before: The log's events before the operation, as ``signature`` tells them.
        after: Likewise afterwards.
    """

    operation: Operation
    state: State
    base: Path
    before: Sequence[tuple[str, str]]
    after: Sequence[tuple[str, str]]


def steps(folder: Path) -> list[Step]:
    """The scenario, gone through without faults; a copy of the base is kept in front of each operation."""
    base, state, before = folder / "base", State(), list[tuple[str, str]]()
    made = []
    with _opened(base):
        for number, operation in enumerate(SCENARIO):
            kept = folder / f"before-{number}"
            _copy(base, kept)
            perform(operation, state, base=base, writer=WRITER)
            signature = _signature(base)
            made.append(Step(operation, state, kept, before, signature))
            state, before = after(operation, state), signature
    return made


@dataclass
class Tally:
    """What was done, counted."""

    cases: Counter[str] = field(default_factory=Counter)
    raised: Counter[str] = field(default_factory=Counter)
    refused_only_derived: int = 0
    filled: Counter[str] = field(default_factory=Counter)

    def figures(self) -> dict[str, int | float | str]:
        """For the report."""
        return {
            "calls that failed": sum(self.cases.values()),
            **{f"calls that failed: {name}": count for name, count in self.cases.items()},
            "operations that succeeded all the same": self.refused_only_derived,
            **{f"refusals by {how}": count for how, count in self.filled.items()},
            **{f"operations that raised {name}": count for name, count in sorted(self.raised.items())},
        }


def fail_everywhere(
    step: Step, name: str, folder: Path, tally: Tally, *, thorough: bool = False, stride: int = 1
) -> list[str]:
    """Let each call of an operation fail that a fault can hit, one after the other; what was found.

    Args:
        step: The operation.
        name: The fault, one of ``FAULTS``.
        folder: Where copies of the base are made.
        tally: Counts along.
        thorough: Now and then read everything back through the stores, too, not the log's events alone.
        stride: With 3, every third call only; which ones differs from step to step.
    """
    failures: list[str] = []
    for at in itertools.count(1 + len(step.before) % stride, stride):
        # Never the same name again: this process remembers histories by their path.
        base = folder / f"case-{uuid4().hex}"
        _copy(step.base, base)
        with _opened(base):
            breaker = Breaker(base, FAULTS[name], at=at)
            look_closely = thorough and at % _CLOSE_LOOKS == 0
            broken = _fail_once(step, FAULTS[name], base, breaker, tally, thorough=look_closely)
        shutil.rmtree(base)
        if not breaker.failed:
            return failures
        tally.cases[name] += 1
        failures += [f"{name}, call {at} of {step.operation}: {failure}" for failure in broken]
    raise AssertionError("it has an end")


def _fail_once(
    step: Step, fault: Fault, base: Path, breaker: Breaker, tally: Tally, *, thorough: bool
) -> list[str]:
    error = _attempt(step, base, breaker)
    if error is not None:
        tally.raised[type(error).__name__] += 1
    else:
        tally.refused_only_derived += bool(breaker.failed)
    if breaker.hit_the_lock:
        # What writers tell each other there could not be told: they go the safe way, as after a sync
        # that failed.
        fault = replace(fault, unknown=True)
    found = _signature(base)
    broken = _wrong_outcome(step, fault, error, found, failed=bool(breaker.failed))
    if error is None:
        broken += _trusted_after_a_failed_sync(base, breaker)
    if "unlink" not in fault.calls and (error is None or not fault.unknown):
        broken += [f"left lying about: {path}" for path in _litter(base)]
    # The fault is gone. Look first, then repeat; a removal that is on record is to be repeated anyway.
    try:
        if found == step.before or step.operation.what in _BY_STEPS:
            perform(step.operation, step.state, base=base, writer=WRITER)
        expected = after(step.operation, step.state)
        perform(_OF_A_COMMIT, expected, base=base, writer=WRITER)
        broken += _wrong_at_the_end(step, base, after(_OF_A_COMMIT, expected), thorough=thorough)
        broken += _trusted_after_a_failed_sync(base, breaker)
    except Exception as again:  # noqa: BLE001 - whatever it is, the log should have gone on
        broken.append(f"after {error!r}, without the fault: {again!r}")
    return broken


def _attempt(step: Step, base: Path, breaker: Breaker) -> Exception | None:
    with breaker.on():
        try:
            perform(step.operation, step.state, base=base, writer=WRITER)
        except Exception as error:  # noqa: BLE001 - which one it may be is looked at elsewhere
            return error
    return None


def _wrong_outcome(
    step: Step, fault: Fault, error: Exception | None, found: Sequence[tuple[str, str]], *, failed: bool
) -> list[str]:
    """What is wrong about an operation's error and about what it left in the log, if anything."""
    if error is None:
        return [] if found == step.after else [f"it returned, and the log has {found[len(step.before) :]}"]
    if not failed:
        return [f"nothing failed and it raised {error!r}"]
    broken = []
    done = len(step.before)
    if step.operation.what in _BY_STEPS:
        allowed = [step.after[:count] for count in range(done, len(step.after) + 1)]
    else:
        allowed = [step.before, step.after] if fault.unknown else [step.before]
    if found not in allowed:
        broken.append(f"it raised {error!r}, and the log has {found[len(step.before) :]}")
    if not isinstance(error, OSError) and not (fault.unknown and isinstance(error, ReadOnlyLogError)):
        broken.append(f"it raised {error!r}, which is not documented")
    if isinstance(error, StorageError) and not fault.unknown:
        broken.append(f"nothing is unknown, and it raised {error!r}")
    return broken


def fail_opening(name: str, folder: Path, tally: Tally) -> list[str]:
    """Let each call fail that a fault can hit while a log is opened: a new one, a good one, a torn one."""
    failures = []
    for kind in ("new", "good", "torn"):
        at = failed = 1
        while failed:
            base = folder / f"opening-{uuid4().hex}"
            expected = _make_log(base, kind)
            breaker = Breaker(base, FAULTS[name], at=at)
            broken = _open_once(base / "events", breaker, expected)
            failures += [f"{name}, call {at} of opening a log that is {kind}: {text}" for text in broken]
            failed = breaker.failed
            tally.cases[name] += bool(failed)
            at += 1
            shutil.rmtree(base)
    return failures


def _make_log(base: Path, kind: str) -> list[int]:
    base.mkdir()
    if kind == "new":
        return []
    with EventLog.open(base / "events") as log:
        for number in range(2):
            log.append("s", [Event("A", {"n": number})])
        (segment,) = (base / "events").glob("*.arrows")
        whole = segment.stat().st_size
        if kind == "torn":
            log.append("s", [Event("A", {"n": 2})], durability="os")
            os.truncate(segment, whole + 200)
    return [0, 1]


def _open_once(path: Path, breaker: Breaker, expected: list[int]) -> list[str]:
    error: Exception | None = None
    with breaker.on():
        try:
            with EventLog.open(path) as log:
                found = [event.data["n"] for event in log.read()]
        except Exception as raised:  # noqa: BLE001 - which one it may be is looked at below
            error, found = raised, expected
    broken = [] if found == expected else [f"it reads {found}"]
    if error is not None and not isinstance(error, OSError | ReadOnlyLogError):
        broken.append(f"it raised {error!r}, which is not documented")
    with EventLog.open(path) as log:
        log.append("s", [Event("A", {"n": 2})])
        found = [event.data["n"] for event in log.read()]
        findings = [finding for finding in log.verify().findings if finding.severity != "note"]
    if found != [*expected, 2] or findings:
        broken.append(f"after {error!r}: {found}, {findings}")
    return broken


def _wrong_at_the_end(step: Step, base: Path, state: State, *, thorough: bool) -> list[str]:
    log = Base.at(base).log
    broken = []
    if log.durable_position != log.next_position:
        broken.append(f"durable up to {log.durable_position} of {log.next_position}")
    verdict = log.verify()
    if any(finding.severity != "note" for finding in verdict.findings):
        broken.append(f"verify has to say {verdict.findings}")
    found = _signature(base)[: len(step.after)]
    # What was stored again, weights or rows that were adopted meanwhile, is on record twice.
    twice = step.operation.what in ("store_weights", "log_training")
    if found != step.after and not twice:
        broken.append(f"in the end the log has {found}")
    broken += _damaged_payloads(base)
    if (thorough or step.operation.what == "log_training") and (holds := observe(base, WRITER)) != state:
        broken.append(f"in the end the base holds {holds.differences(state)}")
    return broken


def _trusted_after_a_failed_sync(base: Path, breaker: Breaker) -> list[str]:
    """A segment whose sync failed must not be the one that acknowledged events stand in."""
    segments = (base / "events").glob("*.arrows")
    last = max(segments, key=_place_in_the_log, default=None)
    return [f"a sync of {last} failed, and it is trusted"] if str(last) in breaker.unsynced else []


def _place_in_the_log(segment: Path) -> tuple[int, int]:
    first_position, *generation, _ = segment.name.split(".")
    return int(first_position), int(generation[0][1:]) if generation else 0


def _signature(base: Path) -> list[tuple[str, str]]:
    """The log's events, each as its stream and type, read anew from the files."""
    try:
        with EventLog.open(base / "events", read_only=True) as log:
            return [(event.stream, event.type) for event in log.read()]
    except FileNotFoundError:
        return []


def _named_payloads(base: Path) -> dict[str, WeightsStored]:
    """The weights that are on record and not removed, by their path; earlier ones of an iteration, too."""
    named: dict[str, WeightsStored] = {}
    latest: dict[tuple[str, int], WeightsStored] = {}
    with contextlib.suppress(FileNotFoundError), EventLog.open(base / "events", read_only=True) as log:
        for event in log.read(types=["WeightsStored", "WeightsRemoved"]):
            match EVENT_TYPES.decode(event):
                case WeightsStored(run=run, iteration=iteration) as stored:
                    named[stored.path] = latest[run, iteration] = stored
                case WeightsRemoved(run=run, iteration=iteration):
                    del named[latest[run, iteration].path]
    return named


def _damaged_payloads(base: Path) -> list[str]:
    broken = []
    for path, stored in _named_payloads(base).items():
        try:
            artifacts.verify_file(
                base, artifacts.Artifact(path, stored.bytes, stored.chunk_bytes, stored.digest)
            )
        except Exception as error:  # noqa: BLE001 - told as what was found
            broken.append(f"the weights {path}: {error!r}")
    return broken


def _litter(base: Path) -> list[str]:
    """Files that no event names and that nobody will use."""
    candidates = (*base.rglob(".*.tmp"), *base.glob("*/checkpoints/objects/*"))
    return sorted({str(path.relative_to(base)) for path in candidates} - _named_payloads(base).keys())


@contextlib.contextmanager
def _opened(base: Path) -> Iterator[None]:
    """A base that is closed afterwards; there will be thousands."""
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            Base.at(base).close()


def _copy(base: Path, copy: Path) -> None:
    """A copy of a base that nobody writes to right now; hard links stay hard links."""
    if not base.exists():
        return
    shutil.copytree(base, copy)
    for link in copy.glob("*/checkpoints/iterations/*"):
        original = base / link.relative_to(copy)
        for payload in base.glob("*/checkpoints/objects/*"):
            if payload.samefile(original):
                link.unlink()
                os.link(copy / payload.relative_to(base), link)


# --- the real thing: small file systems, few descriptors, another user


def in_a_worker(zygote: Zygote, job: str, folder: Path, tally: Tally, *, room: int = 0) -> list[str]:
    """Do one of ``JOBS`` in a process of its own, whose limits and mounts end with it; what was found."""
    place = folder / f"{job}-{uuid4().hex}"
    place.mkdir(parents=True)
    worker = zygote.fork(job, folder=str(place), room=room)
    (answer,) = worker.hear_all()
    worker.end()
    if "error" in answer:
        return [f"{job}, room {room}: {answer['error']}"]
    tally.filled[answer["how"]] += answer["refusals"]
    return [f"{job}, room {room}: {failure}" for failure in answer["failures"]]


def _fill_bytes(task: Mapping[str, Any], _: Iterator[dict[str, Any]], tell: Tell) -> None:
    """The scenario on a file system that has no room; after each refusal it has a few pages more."""
    folder, room = Path(task["folder"]), int(task["room"])
    filler = folder / "filler"
    mounted = _mount_tmpfs(folder, "size=4m")
    if mounted:
        _take_all(filler)
    limit = 0

    @contextlib.contextmanager
    def tight(refusals: int) -> Iterator[None]:
        nonlocal limit
        limit += 256 * room * bool(refusals)
        if mounted:
            os.truncate(filler, max(0, filler.stat().st_size - room * _PAGE * bool(refusals)))
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        yield

    how = "a tmpfs without room" if mounted else "RLIMIT_FSIZE (no file system could be mounted)"
    tell({"how": how, **_play(folder / "base", tight)})


def _fill_names(task: Mapping[str, Any], _: Iterator[dict[str, Any]], tell: Tell) -> None:
    """The scenario on a file system that can have no more files; after each refusal, a few more."""
    folder, room = Path(task["folder"]), int(task["room"])
    if not _mount_tmpfs(folder, "size=4m,nr_inodes=200"):
        tell({"how": "a tmpfs without inodes (could not be mounted)", "refusals": 0, "failures": []})
        return
    fillers = [folder / f"filler-{number}" for number in range(200)]
    with contextlib.suppress(OSError):
        for filler in fillers:
            filler.touch()

    @contextlib.contextmanager
    def tight(refusals: int) -> Iterator[None]:
        for filler in [path for path in fillers if path.exists()][: room * bool(refusals)]:
            filler.unlink()
        yield

    tell({"how": "a tmpfs without inodes", **_play(folder / "base", tight)})


def _few_descriptors(task: Mapping[str, Any], _: Iterator[dict[str, Any]], tell: Tell) -> None:
    """The scenario with few descriptors left for each operation; after each refusal, with one more."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    # zarr's event loop comes to be by half for want of a descriptor, and complains when it goes.
    sys.unraisablehook = lambda _: None

    @contextlib.contextmanager
    def tight(refusals: int) -> Iterator[None]:
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + int(task["room"]) - 1 + refusals, most))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    tell({"how": "RLIMIT_NOFILE", **_play(Path(task["folder"]) / "base", tight)})


Tight = Callable[[int], contextlib.AbstractContextManager[None]]
"""What an operation is done in that was refused so many times: each time a little less tight."""


def _play(base: Path, tight: Tight) -> dict[str, Any]:
    """The whole scenario; each operation is repeated until it succeeds."""
    prepare_process()
    state, refusals, failures = State(), 0, list[str]()
    # Each attempt of a logger begins with a commit, which takes the room that it was given more: its calls
    # fail one by one elsewhere.
    for operation in (each for each in SCENARIO if each.what != "log_training"):
        refused = _until_it_succeeds(operation, state, base, tight, failures)
        refusals += refused
        state = after(operation, state)
    failures += [*_damaged_payloads(base), *(f"left lying about: {path}" for path in _litter(base))]
    if (holds := observe(base, WRITER)) != state:
        failures.append(f"in the end the base holds {holds.differences(state)}")
    findings = Base.at(base).log.verify().findings
    failures += [str(finding) for finding in findings if finding.severity != "note"]
    return {"refusals": refusals, "failures": failures}


def _until_it_succeeds(
    operation: Operation, state: State, base: Path, tight: Tight, failures: list[str]
) -> int:
    """How many times it was refused before that."""
    for refused in range(_REFUSALS_MAX):
        before = _signature(base)
        try:
            with tight(refused):
                perform(operation, state, base=base, writer=WRITER)
        except (OSError, ReadOnlyLogError) as error:
            for unfinished in (base / WRITER).glob("making-*"):
                shutil.rmtree(unfinished)
            # A commit that could not be synced for want of a descriptor is there, and stays.
            if _signature(base) != before and operation.what not in _BY_STEPS:
                if not isinstance(error, StorageError):
                    failures.append(f"{operation} raised {error!r} and is there")
                return refused + 1
        else:
            return refused
    failures.append(f"{operation} never succeeded")
    return _REFUSALS_MAX


def _permissions(_: Mapping[str, Any], __: Iterator[dict[str, Any]], tell: Tell) -> None:
    """Somebody who may not write, or not any more; as another user where this one may do anything."""
    folder, how = Path(tempfile.mkdtemp()).resolve(), "permissions"
    if os.geteuid() == 0:
        how = "permissions, as nobody"
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        os.setgroups([])
        os.setgid(nobody.pw_gid)
        os.setuid(nobody.pw_uid)
    prepare_process()
    locked = _Locked(folder)
    locked.go_through()
    tell({"how": how, "refusals": locked.refusals, "failures": locked.failures})
    shutil.rmtree(folder)


class _Locked:
    """A base of which a part is locked, and calls that are to be refused then."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.base = folder, folder / "base"
        self.state = State()
        self.failures: list[str] = []
        self.refusals = 0

    def go_through(self) -> None:
        """All of it."""
        weights = Operation("store_weights", number=9, first=30)
        array = Operation("make_array", "7/crop/prediction", 7)
        removal = Operation("remove_array", array.subject)
        notes = [Operation("note", "commit", number, count=500) for number in range(1000, 1020)]
        run, events = self.base / WRITER, self.base / "events"
        self._do(*SCENARIO[:7], array)
        self._refused("a new segment", lambda: self._do(*notes), events)
        self._refused("opening anew", lambda: EventLog.open(events), *sorted(events.glob("*.arrows")))
        (events / "lock").rename(self.folder / "lock")
        self._refused("opening without a lock file", lambda: EventLog.open(events), events)
        (self.folder / "lock").rename(events / "lock")
        self._refused("weights", lambda: self._do(weights), run / "checkpoints/objects")
        self.failures += [f"left lying about: {path}" for path in _litter(self.base)]
        self._refused("removing an array", lambda: self._do(removal), run)
        self._refused("a new base", lambda: Base.at(self.folder / "new"), self.folder)
        if (self.folder / "new").exists():
            self.failures.append("a base that was refused is there")
        self._do(*notes, weights, removal)
        if (holds := observe(self.base, WRITER)) != self.state:
            self.failures.append(f"in the end the base holds {holds.differences(self.state)}")

    def _do(self, *operations: Operation) -> None:
        for operation in operations:
            perform(operation, self.state, base=self.base, writer=WRITER)
            self.state = after(operation, self.state)

    def _refused(self, what: str, call: Callable[[], Any], *locked: Path) -> None:
        modes = [path.stat().st_mode for path in locked]
        for path in locked:
            path.chmod(0o555 if path.is_dir() else 0o444)
        try:
            call()
            self.failures.append(f"{what}: it was not refused")
        except (PermissionError, WriteRefusedError):
            self.refusals += 1
        except Exception as error:  # noqa: BLE001 - told as what was found
            self.failures.append(f"{what}: {error!r}, which is not documented")
        # Whatever is locked, reading goes on.
        if not _signature(self.base):
            self.failures.append(f"{what}: the log cannot be read")
        for path, mode in zip(locked, modes, strict=True):
            path.chmod(mode)


def _mount_tmpfs(folder: Path, options: str) -> bool:
    """A small file system in a mount namespace of this process; False when that is not allowed."""
    if not have_own_mounts():
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.mount(b"none", str(folder).encode(), b"tmpfs", 0, options.encode()) == 0)


def _take_all(filler: Path) -> None:
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(_PAGE))


def prepare_process() -> None:
    """What this suite needs of a process that does the scenario."""
    # A base opens its log with the default, and a small history is to have segments, too.
    defaults = EventLog.open.__func__.__kwdefaults__  # type: ignore[attr-defined]
    defaults["segment_bytes_max"] = SEGMENT_BYTES_MAX
    # Derived files will be refused by the thousand, and the log of the program would say so each time.
    logging.getLogger("dacapo_store").setLevel(logging.CRITICAL)


@contextlib.contextmanager
def prepared_process() -> Iterator[None]:
    """The same in here only."""
    defaults = EventLog.open.__func__.__kwdefaults__  # type: ignore[attr-defined]
    before, logger = dict(defaults), logging.getLogger("dacapo_store")
    level = logger.level
    prepare_process()
    try:
        yield
    finally:
        defaults.update(before)
        logger.setLevel(level)


def _append(task: Mapping[str, Any], _: Iterator[dict[str, Any]], tell: Tell) -> None:
    """Append one event to a log, with syncs that fail if so asked, and tell what came of it."""

    def failing(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with EventLog.open(task["path"]) as log:
        if task["syncs_fail"]:
            files.sync_data = failing  # type: ignore[assignment]
        try:
            log.append("s", [Event("A", {"n": task["number"]})])
            outcome = "acknowledged"
        except EventStoreError as error:
            outcome = type(error).__name__
        tell({"outcome": outcome, "durable": log.durable_position, "next": log.next_position})


def _read(task: Mapping[str, Any], _: Iterator[dict[str, Any]], tell: Tell) -> None:
    """Read a log without writing."""
    with EventLog.open(task["path"], read_only=True) as log:
        tell({"numbers": [event.data["n"] for event in log.read()]})


JOBS: Final[dict[str, Job]] = {
    "bytes": _fill_bytes,
    "names": _fill_names,
    "descriptors": _few_descriptors,
    "permissions": _permissions,
    "append": _append,
    "read": _read,
}
