"""Damage: every truncation and every flipped bit of a log, and worse, read in child processes.

The answer must be the committed events, or those in front of some commit, or ``DamagedLogError`` with
file and offset; never other data, never the end of the interpreter. A log whose acknowledged bytes were
changed is never shortened by opening it. And ``repair_log`` makes a clean log of each, in which every
event is the one that was there, or marked as lost; a single flipped bit loses nothing.

Many cases share a child. It says which case it is at, so one that dies names its case, and another
child goes on behind it.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from eventstore import (
    EVENT_LOST,
    DamagedLogError,
    Event,
    EventLog,
    files,
    reencode_log,
    repair_log,
    verify_log,
)
from eventstore import format as log_format
from eventstore.storage.local.survey import GoodFrame, survey
from tools.torture.report import Report

_SEGMENT_BYTES_MAX: Final = 2_500
_CASE_SECONDS: Final = 120
_SAID: Final = struct.Struct("<I")

Recorded = tuple[int, str, int, str, str, tuple[float | None, ...]]


@dataclass(frozen=True)
class Case:
    """One way to damage a log.

    Attributes:
        kind: What is done, in one word or two.
        text: What exactly, so that it can be done again.
        path: The segment's name.
        content: The file's new content; None when the file is taken away.
        may_shorten: False when opening must not shorten the log: no crash leaves such bytes.
        is_ours: False when good frames of another log were put in, which only the chain tells.
    """

    kind: str
    text: str
    path: str
    content: bytes | None
    may_shorten: bool = True
    is_ours: bool = True


@dataclass
class Tally:
    """What the children found.

    Attributes:
        cases: How many cases there were of each kind.
        outcomes: How often each answer was given.
        failures: Every broken promise.
    """

    cases: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.cases + other.cases, self.outcomes + other.outcomes, self.failures + other.failures)


def run(*, long: bool, seed: int) -> Report:
    """Damage a log in every way and read it; ``long`` flips every bit, not one of each byte."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="dacapo-damage-") as folder:
        pristine = write_log(Path(folder) / "pristine", salt=0)
        other = write_log(Path(folder) / "other", salt=1)
        again = reencoded(pristine, Path(folder) / "reencoded")
        other_again = reencoded(other, Path(folder) / "other-reencoded")
        every = 2 if long else 10
        tally = Tally()
        for log, its_other in ((pristine, other), (again, other_again)):
            cases = list(all_cases(log, its_other, every_bit=long, seed=seed))
            if log == again:
                # The active segment is the same one.
                cases = [case for case in cases if ".r1." in case.path]
            tally += judge_all(Path(folder), log, cases, open_every=every, repair_every=5 * every, seed=seed)
        segments = sorted([*pristine.glob("*.arrows"), *again.glob("*.r1.arrows")])
        figures = {
            "segments": len(segments),
            "bytes": sum(path.stat().st_size for path in segments),
            "cases": tally.cases.total(),
            **{f"cases: {kind}": number for kind, number in sorted(tally.cases.items())},
            **{f"outcomes: {kind}": number for kind, number in sorted(tally.outcomes.items())},
        }
    return Report("damage", dict(figures), tally.failures, time.monotonic() - began)


def write_log(path: Path, *, salt: int) -> Path:
    """A log of several small segments, with texts, numbers, absent numbers and several streams."""
    with EventLog.open(path, segment_bytes_max=_SEGMENT_BYTES_MAX) as log:
        for number in range(7):
            # The longest holds a sector of zeros that belongs to it.
            values = [0.0] * 70 if number % 4 == 0 else [float(number), None, 2.0]
            event = Event("Happened", {"number": number, "salt": salt}, index=[number], values=values)
            log.append(f"stream-{number % 2}", [event])
    return path


def reencoded(pristine: Path, path: Path) -> Path:
    """The same log with all rolled segments re-encoded, one or two commits in a frame."""
    shutil.copytree(pristine, path)
    reencode_log(path, grace_seconds=0, frame_bytes=1_000)
    return path


# --- the cases


def all_cases(pristine: Path, other: Path, *, every_bit: bool, seed: int) -> Iterator[Case]:
    """Every case, in an order that depends on nothing but the arguments."""
    paths = sorted(pristine.glob("*.arrows"))
    dice = random.Random(seed)  # noqa: S311 - which bits to flip
    for path in (paths[1], paths[-1]):
        data = path.read_bytes()
        yield from flipped_bits(path.name, data, dice, every_bit=every_bit)
        yield from truncations(path.name, data)
        for _ in range(3_000 if every_bit else 150):
            yield overwritten(path.name, data, dice)
        yield from rearranged(path, survey(path).frames, dice)
        yield from hostile_headers(path.name, data, survey(path).frames)
        yield from of_another_log(path, other)
    for path in paths:
        yield Case("missing file", path.name, path.name, None)
        yield Case("empty file", path.name, path.name, b"")
        yield Case("other file", path.name, path.name, paths[0].read_bytes() * 2)


def flipped_bits(name: str, data: bytes, dice: random.Random, *, every_bit: bool) -> Iterator[Case]:
    """Each bit, or one of each byte."""
    for place in range(len(data)):
        for bit in range(8) if every_bit else [dice.randrange(8)]:
            changed = data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]
            yield Case("flipped bit", f"{name}: bit {bit} of byte {place}", name, changed, may_shorten=False)


def truncations(name: str, data: bytes) -> Iterator[Case]:
    """Each length."""
    for length in range(len(data)):
        yield Case("truncation", f"{name}: the first {length} bytes", name, data[:length])


def overwritten(name: str, data: bytes, dice: random.Random) -> Case:
    """A range of zeros or of noise, or bytes put in or taken out; its edges on sectors or anywhere."""
    kind = dice.choice(["zeros", "noise", "zero sectors", "insertion", "deletion"])
    start = dice.randrange(len(data))
    length = dice.choice([1, 2, 3, 8, 30, 112, 512, 4096])
    if kind == "zero sectors":
        start, length = start // 512 * 512, 512 * dice.randint(1, 3)
    end = min(start + length, len(data))
    put = {"zeros": bytes(end - start), "zero sectors": bytes(end - start), "deletion": b""}
    middle = put.get(kind, dice.randbytes(length if kind == "insertion" else end - start))
    changed = data[:start] + middle + data[start if kind == "insertion" else end :]
    return Case(kind, f"{name}: bytes {start} to {end}", name, changed)


def rearranged(path: Path, frames: Sequence[GoodFrame], dice: random.Random) -> Iterator[Case]:
    """Frames swapped, repeated, left out."""
    data = path.read_bytes()
    parts = [data[frame.offset : frame.offset + frame.seal.frame_bytes] for frame in frames]
    head = data[: frames[0].offset]
    orders = [
        ("repeated frame", [*range(place + 1), *range(place, len(parts))]) for place in range(len(parts))
    ]
    orders += [
        ("left out", [each for each in range(len(parts)) if each != place]) for place in range(len(parts))
    ]
    for _ in range(3):
        orders.append(("swapped frames", dice.sample(range(len(parts)), len(parts))))
    for kind, order in orders:
        content = head + b"".join(parts[place] for place in order)
        yield Case(kind, f"{path.name}: frames {order}", path.name, content)


def hostile_headers(name: str, data: bytes, frames: Sequence[GoodFrame]) -> Iterator[Case]:
    """Lengths, counts and positions that lie, under a seal whose own checksum holds."""
    for frame in frames:
        for length in (0, 1, 112, 120, 1 << 24, (1 << 24) + 8, (1 << 31) - 1, (1 << 32) - 1):
            changed = data[: frame.offset + 4] + struct.pack("<I", length) + data[frame.offset + 8 :]
            yield Case(
                "huge length", f"{name}: M {length} at {frame.offset}", name, changed, may_shorten=False
            )
        seal_at = frame.offset + 8 + frame.seal.metadata_bytes - log_format.SEAL_BYTES
        for place, what in ((8, "B"), (16, "first position"), (24, "count"), (32, "synced position")):
            for value in (0, 8, 1 << 31, (1 << 62), (1 << 64) - 8):
                size = 4 if what == "count" else 8
                field_bytes = (value % (1 << 8 * size)).to_bytes(size, "little")
                head = (
                    data[seal_at : seal_at + place]
                    + field_bytes
                    + data[seal_at + place + size : seal_at + 76]
                )
                crc = struct.pack("<I", zlib.crc32(head))
                changed = data[:seal_at] + head + crc + data[seal_at + 80 :]
                yield Case("lying seal", f"{name}: {what} {value} at {frame.offset}", name, changed)


def of_another_log(path: Path, other: Path) -> Iterator[Case]:
    """Frames and files of a log that has the same positions."""
    data = path.read_bytes()
    theirs = other / path.name
    if not theirs.is_file():
        return
    yield Case("other log's file", path.name, path.name, theirs.read_bytes())
    their_data = theirs.read_bytes()
    for mine, its in zip(survey(path).frames, survey(theirs).frames, strict=False):
        part = their_data[its.offset : its.offset + its.seal.frame_bytes]
        content = data[: mine.offset] + part + data[mine.offset + mine.seal.frame_bytes :]
        text = f"{path.name}: frame at {mine.offset}"
        yield Case("other log's frame", text, path.name, content, is_ours=False)


# --- the children


@dataclass(frozen=True)
class _Work:
    """What the children have to do.

    Attributes:
        folder: Where they may write.
        pristine: The log that they damage copies of.
        cases: The cases.
        open_every: Of so many cases, one is opened for writing, too.
        repair_every: And one is repaired.
        seed: What the cases were made from, for the messages.
    """

    folder: Path
    pristine: Path
    cases: Sequence[Case]
    open_every: int
    repair_every: int
    seed: int


def judge_all(
    folder: Path, pristine: Path, cases: Sequence[Case], *, open_every: int, repair_every: int, seed: int
) -> Tally:
    """Judge cases in child processes, one behind the other; another child goes on where one dies."""
    work, tally, begin = _Work(folder, pristine, cases, open_every, repair_every, seed), Tally(), 0
    while begin < len(cases):
        begin = _run_child(work, begin, tally)
    return tally


def _run_child(work: _Work, begin: int, tally: Tally) -> int:
    """Run cases in a child from one on; where to go on, which is behind the case that it died of, if any."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_end)
        _be_child(work, begin, write_end)
    os.close(write_end)
    at = begin
    with os.fdopen(read_end, "rb") as said:
        while len(head := said.read(_SAID.size)) == _SAID.size:
            number, what, detail = said.read(_SAID.unpack(head)[0]).decode().split("\t", 2)
            at = int(number)
            case = work.cases[at]
            if what == "begin":
                tally.cases[case.kind] += 1
            elif what == "failure":
                tally.failures.append(f"{case.kind}, {case.text} (seed {work.seed}): {detail}")
            else:
                tally.outcomes[what] += 1
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status == 0:
        return len(work.cases)
    case = work.cases[at]
    tally.failures.append(f"{case.kind}, {case.text} (seed {work.seed}): the child ended with {status}")
    return at + 1


def _be_child(work: _Work, begin: int, write_end: int) -> None:
    """Judge the cases and end the process."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    # What is synced does not matter here, and waiting for it takes most of the time.
    for name in ("sync_data", "sync_file", "sync_directory"):
        setattr(files, name, lambda _: None)
    status = 70

    def say(number: int, what: str, detail: str = "") -> None:
        data = f"{number}\t{what}\t{detail}".encode()
        os.write(write_end, _SAID.pack(len(data)) + data)

    try:
        place = Path(tempfile.mkdtemp(dir=work.folder)) / "events"
        original = read(work.pristine)
        for number in range(begin, len(work.cases)):
            case = work.cases[number]
            judges = [judge_reading]
            judges += [judge_opening] if number % work.open_every == 0 else []
            judges += [judge_repair] if number % work.repair_every == 0 else []
            say(number, "begin")
            signal.alarm(_CASE_SECONDS)
            for judge in judges:
                damage_copy(place, work.pristine, case)
                try:
                    say(number, judge(place, case, original))
                except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
                    where = traceback.extract_tb(error.__traceback__)[-1]
                    place_in_code = f"{Path(where.filename).name}:{where.lineno}"
                    say(number, "failure", f"{type(error).__name__}: {error} ({place_in_code})")
        status = 0
    finally:
        # The process is a copy of whoever forked it, and must not go on as that.
        if status:
            traceback.print_exc()
            sys.stderr.flush()
        os._exit(status)


def damage_copy(place: Path, pristine: Path, case: Case) -> None:
    """Make ``place`` the log with the case's damage."""
    place.mkdir(exist_ok=True)
    wanted = {path.name: path for path in pristine.glob("*.arrows")}
    for path in list(place.iterdir()):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in wanted:
            path.unlink()
    for name, path in wanted.items():
        if name != case.path:
            # Copied, not linked: opening may cut a segment, and others go on using the pristine one.
            (place / name).write_bytes(path.read_bytes())
    if case.content is not None:
        (place / case.path).write_bytes(case.content)
    else:
        (place / case.path).unlink(missing_ok=True)


# --- judging


class WrongAnswerError(Exception):
    """A promise was broken."""


def read(path: Path, *, read_only: bool = True) -> list[Recorded]:
    """All events of a log."""
    with EventLog.open(path, read_only=read_only) as log:
        return [
            (
                event.position,
                event.stream,
                event.stream_version,
                event.type,
                event.data_json,
                () if event.values is None else tuple(event.values.to_pylist()),
            )
            for event in log.read()
        ]


def judge_reading(path: Path, case: Case, original: list[Recorded]) -> str:
    """Without lock and recovery: a prefix, or the error."""
    before = {each.name: each.read_bytes() for each in path.iterdir()}
    outcome = _outcome(path, case, original, read_only=True)
    if {each.name: each.read_bytes() for each in path.iterdir()} != before:
        raise WrongAnswerError("reading changed the log")
    return f"read: {outcome}"


def judge_opening(path: Path, case: Case, original: list[Recorded]) -> str:
    """With recovery: as before; and the log goes on, or is left as it is."""
    before = {each.name: each.read_bytes() for each in path.iterdir()}
    outcome = _outcome(path, case, original, read_only=False)
    if outcome == "error":
        if {each.name: each.read_bytes() for each in path.glob("*.arrows")} != before:
            raise WrongAnswerError("a log that does not open was changed")
        return "opened: error"
    if outcome == "prefix" and not case.may_shorten:
        raise WrongAnswerError("acknowledged events were cut")
    with EventLog.open(path) as log:
        log.append("later", [Event("Happened")])
        verdict = log.verify()
    if case.is_ours and not verdict.ok:
        raise WrongAnswerError(f"after an append: {verdict.findings[0]}")
    if not case.is_ours and verdict.ok:
        raise WrongAnswerError("verify takes another log's events for this one's")
    return f"opened: {outcome}"


def _outcome(path: Path, case: Case, original: list[Recorded], *, read_only: bool) -> str:
    try:
        there = read(path, read_only=read_only)
    except DamagedLogError as error:
        if Path(error.path).parent != path or not isinstance(error.offset, int) or error.offset < 0:
            raise WrongAnswerError(
                f"the error does not say where: {error.path!r}, {error.offset!r}"
            ) from error
        return "error"
    if not case.is_ours:
        return "other log's frame"
    if there != original[: len(there)]:
        raise WrongAnswerError("other data")
    return "all events" if len(there) == len(original) else "prefix"


def judge_repair(path: Path, case: Case, original: list[Recorded]) -> str:
    """A clean log, of the events that were there and of marked places."""
    before = sorted(each.read_bytes() for each in path.glob("*.arrows"))
    try:
        plan = repair_log(path)
    except DamagedLogError as error:
        if "id cannot be told" in str(error):
            return "repair: refused"
        raise
    kept = sorted(each.read_bytes() for each in path.rglob("*.arrows"))
    if any(content not in kept for content in before):
        raise WrongAnswerError("a file was not kept")
    with EventLog.open(path) as log:
        log.append("later", [Event("Happened")])
    verdict = verify_log(path)
    if not verdict.ok:
        raise WrongAnswerError(f"after the repair: {verdict.findings[0]}")
    *there, _ = read(path)
    if any(
        event != original[event[0]] for event in there if event[3] != EVENT_LOST and event[0] < len(original)
    ):
        raise WrongAnswerError("an event is another one now")
    lost = sum(event[3] == EVENT_LOST for event in there)
    if case.kind == "flipped bit" and (lost or len(there) != len(original)):
        raise WrongAnswerError(f"a flipped bit cost {lost} events")
    if not plan.needed:
        return "repair: not needed"
    return "repair: with loss" if lost else "repair: without loss"
