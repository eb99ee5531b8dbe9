"""Histories as they happen: processes and threads do what a program says, and each call is written down.

Each call is noted with the time before and after it on ``CLOCK_MONOTONIC``, which all processes of a
machine share. A process of a history is forked (before anything is opened, or with everything
open) or was started afresh; the latter are kept for the next history, because starting them takes
longer than the history. All wait for one word to begin.

Whatever a call raises that a caller could not expect is its answer, and the checker finds that no
model gives such an answer. Nothing here waits for ever: who has not answered in time is killed, and
that is a finding.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import multiprocessing
import os
import pickle
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, Self

from dacapo_store import (
    ConfigMissingError,
    DuplicateNameError,
    FileConfigStore,
    FileStatsStore,
    LocalWeightsStore,
    TrainingIterationStats,
    ValidationIterationScores,
    WeightsMissingError,
)
from dacapo_store import base as bases
from dacapo_store.base import Base
from dacapo_store.location import Location
from eventstore import (
    ANY,
    NO_STREAM,
    STREAM_EXISTS,
    Event,
    EventLog,
    ExpectedVersionError,
    Finding,
    RecordedEvent,
    StreamAppend,
    compact_log,
    derived_id,
    files,
    reencode_log,
    verify_log,
)
from eventstore.storage.local import LocalStorage
from eventstore.storage.numbered.patience import PatientStore
from eventstore.storage.numbered.winning import Contest
from tools.torture.history_models import DUPLICATE, MISSING, OK
from tools.torture.history_programs import Op, Process, Program, ProgramKind
from tools.torture.linearizability import Call

HANG_SECONDS: Final = 60
_DONE: Final = "done"
"""The stream in which each process says that its threads have ended."""

Answer = Callable[[], Any]


@dataclass(frozen=True)
class Seen:
    """An event as a reader saw it."""

    position: int
    stream: str
    stream_version: int
    key: str


@dataclass(frozen=True)
class Followed:
    """What came to a thread that followed the log.

    Attributes:
        who: The thread.
        from_position: Where it began.
        seen: The events, in the order in which they came.
        problem: Why it ended too early; empty if it did not.
    """

    who: str
    from_position: int
    seen: tuple[Seen, ...]
    problem: str = ""


@dataclass(frozen=True)
class History:
    """A program that has happened.

    Attributes:
        calls: Every call of every thread.
        followed: What followers saw.
        events: The log afterwards, as a new reader sees it.
        findings: What ``verify`` says of it.
        problems: What went wrong beside: processes that hung or died, warnings that were logged.
    """

    calls: tuple[Call, ...] = ()
    followed: tuple[Followed, ...] = ()
    events: tuple[Seen, ...] = ()
    findings: tuple[Finding, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass
class _Notes:
    """What one process has to tell."""

    calls: list[Call] = field(default_factory=list)
    followed: list[Followed] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


# --- callers: one for each thread


class _Caller:
    """A thread's way to call and to write down what came of it."""

    expected_errors: tuple[tuple[type[Exception], Callable[[Any], Any]], ...] = ()

    def __init__(self, who: str) -> None:
        self.who = who

    def call(self, op: Op) -> list[Call]:
        """Do one call; a fork gives the calls of the child."""
        asked, answer = getattr(self, op.verb)(*op.arguments)
        invoked = time.monotonic_ns()
        answered = self._answered(answer)
        return [Call(self.who, asked, answered, invoked, time.monotonic_ns())]

    def _answered(self, answer: Answer) -> Any:
        try:
            return answer()
        except Exception as error:  # noqa: BLE001 - whatever it is, the checker judges it
            for kind, told in self.expected_errors:
                if isinstance(error, kind):
                    return told(error)
            return "error", "".join(traceback.format_exception(error))


class _LogCaller(_Caller):
    """Calls of a log. Methods are named by the verbs of a program."""

    def __init__(self, who: str, log: EventLog, place: str | Path, segment_bytes_max: int) -> None:
        super().__init__(who)
        self._log = log
        self._place = place
        self._segment_bytes_max = segment_bytes_max
        self._known: dict[str, int | None] = {}
        self.expected_errors = ((ExpectedVersionError, self._conflict),)

    def call(self, op: Op) -> list[Call]:
        return self._forked(*op.arguments) if op.verb == "fork" else super().call(op)

    def append(
        self,
        parts: Sequence[tuple[str, tuple[str, ...], str | int]],
        recognised: bool,  # noqa: FBT001 - arguments come from a program, by place
        durability: Any,
    ) -> tuple[Any, Answer]:
        return self._append(parts, recognised, durability, lambda: contextlib.nullcontext(self._log))

    def append_elsewhere(
        self,
        parts: Sequence[tuple[str, tuple[str, ...], str | int]],
        recognised: bool,  # noqa: FBT001 - as above
        durability: Any,
    ) -> tuple[Any, Answer]:
        """The same through a log object of its own, beside the one that the process has open."""
        opened = functools.partial(EventLog.open, self._place, segment_bytes_max=self._segment_bytes_max)
        return self._append(parts, recognised, durability, opened)

    def _append(self, parts: Any, recognised: Any, durability: Any, opened: Any) -> tuple[Any, Answer]:
        resolved = tuple((stream, keys, self._expected(stream, how)) for stream, keys, how in parts)
        appends = [
            StreamAppend(stream, [_event(key, recognised=recognised) for key in keys], expected)
            for stream, keys, expected in resolved
        ]

        def answer() -> Any:
            with opened() as log:
                commit = log.append_to_streams(appends, durability=durability)
            self._known.update(commit.stream_versions)
            versions = tuple(sorted(commit.stream_versions.items()))
            return OK, commit.first_position, commit.next_position, versions

        return ("append", resolved, recognised), answer

    def _expected(self, stream: str, how: str | int) -> Any:
        known = self._known.get(stream)
        seen = NO_STREAM if known is None else known
        words = {"any": ANY, "none": NO_STREAM, "exists": STREAM_EXISTS, "seen": seen}
        return words[how] if isinstance(how, str) else how

    def _conflict(self, error: ExpectedVersionError) -> Any:
        self._known[error.stream] = error.actual
        return "conflict", error.stream, error.actual

    def read(self, from_position: int) -> tuple[Any, Answer]:
        return ("read", from_position), lambda: _seen(self._log.read(from_position))

    def read_only(self) -> tuple[Any, Answer]:
        """Everything, as somebody sees it who takes no lock."""

        def answer() -> Any:
            with EventLog.open(self._place, read_only=True) as log:
                return _seen(log.read())

        return ("read", 0), answer

    def read_stream(self, stream: str, from_version: int) -> tuple[Any, Answer]:
        def answer() -> Any:
            seen = _seen(self._log.read_stream(stream, from_version))
            if seen:
                self._known[stream] = seen[-1].stream_version
            return seen

        return ("read_stream", stream, from_version), answer

    def stream_version(self, stream: str) -> tuple[Any, Answer]:
        def answer() -> Any:
            self._known[stream] = self._log.stream_version(stream)
            return self._known[stream]

        return ("stream_version", stream), answer

    def next_position(self) -> tuple[Any, Answer]:
        return ("next_position",), lambda: self._log.next_position

    def position_at_the_end(self) -> tuple[Any, Answer]:
        return ("next_position",), lambda: self._log.position_at(datetime(9999, 1, 1, tzinfo=UTC))

    def durable_position(self) -> tuple[Any, Answer]:
        return ("durable_position",), lambda: self._log.durable_position

    def verify(self) -> tuple[Any, Answer]:
        def answer() -> Any:
            verdict = self._log.verify()
            if not verdict.ok:
                return "error", str(verdict.findings)
            return verdict.events

        return ("next_position",), answer

    def reencode(self, grace_seconds: int) -> tuple[Any, Answer]:
        """Rolled segments get other files under everybody's eyes, and nothing else changes."""

        def answer() -> Any:
            if isinstance(self._place, Path):
                reencode_log(self._place, grace_seconds=grace_seconds)
            else:
                compact_log(self._place)
            return self._log.next_position

        return ("next_position",), answer

    def _forked(self, ops: Sequence[Op]) -> list[Call]:
        """The calls of a child that is forked now, with the log that it inherits."""
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(HANG_SECONDS)
            self.who = f"{self.who}.child"
            calls = [call for op in ops for call in self.call(op)]
            with os.fdopen(write_end, "wb") as pipe:
                pipe.write(pickle.dumps(calls))
            os._exit(0)
        os.close(write_end)
        invoked = time.monotonic_ns()
        with os.fdopen(read_end, "rb") as pipe:
            told = pipe.read()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status == 0:
            heard: list[Call] = pickle.loads(told)  # noqa: S301 - our own child's
            return heard
        return [
            Call(self.who, ("fork",), ("error", f"child ended with {status}"), invoked, time.monotonic_ns())
        ]


class _StoresCaller(_Caller):
    """Calls of the stores of a base. Methods are named by the verbs of a program."""

    expected_errors = (
        (DuplicateNameError, lambda _: DUPLICATE),
        (ConfigMissingError, lambda _: MISSING),
        (WeightsMissingError, lambda _: MISSING),
    )

    def __init__(self, who: str, stores: _Stores) -> None:
        super().__init__(who)
        self._configs, self._stats, self._weights = stores.configs, stores.stats, stores.weights
        self._base = stores.base

    def store_config(self, kind: str, name: str, content: int) -> tuple[Any, Answer]:
        store = getattr(self._configs, f"store_{kind.removesuffix('s')}_config")
        document = {"name": name, "content": str(content)}
        return ("store_configs", (((kind, name), str(content)),)), _done(store, document)

    def store_run(self, name: str, part: str, content: int) -> tuple[Any, Answer]:
        """A run config, which stores its trainer as well, or finds that it is there."""
        trainer = {"name": part, "content": str(content)}
        whole = f"{content} with {part}"
        document = {"name": name, "content": whole, "trainer_config": trainer}
        documents = ((("runs", name), whole), (("trainers", part), str(content)))
        return ("store_configs", documents), _done(self._configs.store_run_config, document)

    def delete_config(self, kind: str, name: str) -> tuple[Any, Answer]:
        return ("delete_config", kind, name), _done(self._configs.delete_config, kind, name)

    def retrieve_config(self, kind: str, name: str) -> tuple[Any, Answer]:
        retrieve = getattr(self._configs, f"retrieve_{kind.removesuffix('s')}_config")
        return ("retrieve_config", kind, name), lambda: retrieve(name, raw=True)["content"]

    def config_names(self, kind: str) -> tuple[Any, Answer]:
        names = getattr(self._configs, f"retrieve_{kind.removesuffix('s')}_config_names")
        return ("config_names", kind), lambda: tuple(names())

    def store_rows(self, what: str, run: str, rows: tuple[tuple[int, float], ...]) -> tuple[Any, Answer]:
        if what == "training":
            stats = [TrainingIterationStats(iteration, loss=loss) for iteration, loss in rows]
            return ("store_rows", what, run, rows), _done(self._stats.store_training_stats, run, stats)
        scores = [ValidationIterationScores(iteration, [[[score]]]) for iteration, score in rows]
        return (
            ("store_rows", what, run, rows),
            _done(self._stats.store_validation_iteration_scores, run, scores),
        )

    def delete_rows(self, what: str, run: str) -> tuple[Any, Answer]:
        by_kind = {
            "training": self._stats.delete_training_stats,
            "validation": self._stats.delete_validation_scores,
        }
        return ("delete_rows", what, run), _done(by_kind[what], run)

    def retrieve_rows(self, what: str, run: str) -> tuple[Any, Answer]:
        def training() -> Any:
            stats = self._stats.retrieve_training_stats(run)
            if not len(stats.iterations):
                return ()
            return tuple(zip(stats.iterations.tolist(), stats.column("loss").tolist(), strict=True))

        def validation() -> Any:
            rows = self._stats.retrieve_validation_iteration_scores(run)
            return tuple((row.iteration, row.scores[0][0][0]) for row in rows)

        return ("retrieve_rows", what, run), training if what == "training" else validation

    def store_weights(self, run: str, iteration: int, number: int) -> tuple[Any, Answer]:
        trained = _run_with(run, float(number))
        return (
            ("store_weights", run, iteration, float(number)),
            _done(self._weights.store_weights, trained, iteration),
        )

    def remove_weights(self, run: str, iteration: int) -> tuple[Any, Answer]:
        return ("remove_weights", run, iteration), _done(self._weights.remove, run, iteration)

    def retrieve_weights(self, run: str, iteration: int) -> tuple[Any, Answer]:
        return (
            ("retrieve_weights", run, iteration),
            lambda: float(self._weights.retrieve_weights(run, iteration).model["number"]),
        )

    def store_best(self, run: str, iteration: int, criterion: str) -> tuple[Any, Answer]:
        return (
            ("choose_weights", run, iteration, criterion),
            _done(self._weights.store_best, run, iteration, "dataset", criterion),
        )

    def retrieve_best(self, run: str, criterion: str) -> tuple[Any, Answer]:
        return ("best_weights", run, criterion), lambda: self._weights.retrieve_best(
            run, "dataset", criterion
        )

    def latest_weights(self, run: str) -> tuple[Any, Answer]:
        return ("latest_weights", run), lambda: self._weights.latest_iteration(run)

    def count_events(self) -> tuple[Any, Answer]:
        sql = "SELECT count(*) FROM events"
        return ("next_position",), lambda: int(self._base.query(sql).fetchone()[0])

    def next_position(self) -> tuple[Any, Answer]:
        return ("next_position",), lambda: self._base.log.next_position


def _done(call: Callable[..., None], *arguments: Any) -> Answer:
    """The answer of a call that gives nothing when it is done."""

    def answer() -> str:
        call(*arguments)
        return OK

    return answer


def _run_with(name: str, number: float) -> Any:
    """A run whose weights are one number."""
    import torch

    model = SimpleNamespace(state_dict=lambda: {"number": torch.tensor(number)})
    optimizer = SimpleNamespace(state_dict=lambda: {"lr": number})
    return SimpleNamespace(name=name, model=model, optimizer=optimizer)


def _event(key: str, *, recognised: bool) -> Event:
    return Event("Noted", {"key": key}, event_id=derived_id(key) if recognised else None)


def _seen(events: Iterator[RecordedEvent]) -> tuple[Seen, ...]:
    return tuple(Seen(event.position, event.stream, event.stream_version, _key(event)) for event in events)


def _key(event: RecordedEvent) -> str:
    """What tells an event from all others."""
    return str(event.data["key"]) if event.type == "Noted" else event.event_id.hex


# --- what is open in a process


class _Stores:
    """A base and its stores, with a log that rolls early."""

    def __init__(self, place: str | Path, segment_bytes_max: int) -> None:
        self.base = Base.at(place)
        # A base opens its log without saying where it rolls.
        storage = self.base.log._storage  # noqa: SLF001
        if isinstance(storage, LocalStorage):
            storage._writer._segment_bytes_max = segment_bytes_max  # noqa: SLF001
        self.log = self.base.log
        self.configs = FileConfigStore(self.base.location.inside("configs"))
        self.stats = FileStatsStore(self.base.location.inside("stats"))
        self.weights = LocalWeightsStore(place)

    def caller(self, who: str) -> _Caller:
        return _StoresCaller(who, self)

    def close(self) -> None:
        """Forget the base: a process keeps those it has opened."""
        for key in [key for key in bases._bases if key[0] == self.base.location.name]:  # noqa: SLF001
            del bases._bases[key]  # noqa: SLF001
        if self.base._views is not None:  # noqa: SLF001
            self.base._views.close()  # noqa: SLF001
        self.log.close()


class _Log:
    """A log alone."""

    def __init__(self, place: str | Path, segment_bytes_max: int) -> None:
        self._place, self._segment_bytes_max = place, segment_bytes_max
        self.log = EventLog.open(place, segment_bytes_max=segment_bytes_max)

    def caller(self, who: str) -> _Caller:
        return _LogCaller(who, self.log, self._place, self._segment_bytes_max)

    def close(self) -> None:
        self.log.close()


_Subject = _Log | _Stores


@dataclass(frozen=True)
class Place:
    """Where a history happens.

    Attributes:
        folder: A folder of this host, and the base, unless there are addresses.
        addresses: Of one base; the processes take one each, by turns.
    """

    folder: Path
    addresses: tuple[str, ...] = ()

    def base(self, number: int) -> str | Path:
        """The base, as a process of this number names it."""
        return self.addresses[number % len(self.addresses)] if self.addresses else self.folder

    def log(self, number: int) -> str | Path:
        """Its log."""
        return Location.of(self.base(number)).log

    def say(self) -> None:
        """Say in the environment where this host keeps what it derives; nothing outlasts the history."""
        os.environ |= {
            "DACAPO_STORE_CACHE": str(self.folder / "cache"),
            "XDG_STATE_HOME": str(self.folder / "state"),
        }


def _open(program: Program, place: Place, number: int) -> _Subject:
    place.say()
    if program.kind == "log":
        return _Log(place.log(number), program.segment_bytes_max)
    return _Stores(place.base(number), program.segment_bytes_max)


# --- inside a process


def _take_part(connection: Connection, subject: _Subject | None) -> None:
    """Take part in histories until told to end: open, say so, wait for the word, call, tell."""
    while (task := connection.recv()) is not None:
        program, number, place = task
        process = program.processes[number]
        notes = _Notes()
        try:
            taken = subject or _open(program, place, number)
            connection.send("ready")
            connection.recv()
            with _noisy_files(process), _noisy_requests(process), _warnings_into(notes):
                _perform(taken, program, process, notes)
            taken.close()
        except Exception:  # noqa: BLE001 - told, and judged
            notes.problems.append(f"{process.name}: {traceback.format_exc()}")
        connection.send(notes)


def _perform(subject: _Subject, program: Program, process: Process, notes: _Notes) -> None:
    switch_interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    callers = [
        threading.Thread(target=_call_all, args=(subject.caller(f"{process.name}.t{number}"), ops, notes))
        for number, ops in enumerate(process.threads)
    ]
    followers = []
    if process.follows is not None:
        arguments = (subject.log, process, len(program.processes), notes)
        followers.append(threading.Thread(target=_follow, args=arguments))
    for thread in (*followers, *callers):
        thread.start()
    for thread in callers:
        thread.join()
    done = _LogCaller(f"{process.name}.main", subject.log, Path(), 1)
    notes.calls += done.call(Op("append", (((_DONE, (f"{process.name}.done",), "any"),), True, "os")))
    for thread in followers:
        thread.join()
    sys.setswitchinterval(switch_interval)


def _call_all(caller: _Caller, ops: Sequence[Op], notes: _Notes) -> None:
    for op in ops:
        notes.calls += caller.call(op)


def _follow(log: EventLog, process: Process, processes: int, notes: _Notes) -> None:
    """Follow until every process has said that it is done."""
    who, start = f"{process.name}.follower", process.follows or 0
    seen: list[RecordedEvent] = []
    problem = "it ended before everything was there"
    try:
        for event in log.follow(start, timeout=HANG_SECONDS / 2):
            seen.append(event)
            if event.stream == _DONE and event.stream_version == processes - 1:
                problem = ""
                break
    except Exception:  # noqa: BLE001 - told, and judged
        problem = traceback.format_exc()
    notes.followed.append(Followed(who, start, _seen(iter(seen)), problem))


@contextlib.contextmanager
def _noisy_files(process: Process) -> Iterator[None]:
    """Hold operations on files up now and then, so that what may happen in between happens."""
    if not process.noise:
        yield
        return
    dice = random.Random(process.seed)  # noqa: S311 - noise
    plain = {
        name: getattr(files, name)
        for name in ("write_at", "read_at", "size", "sync_data", "sync_file", "sync_directory", "link")
    }

    def noisy(operation: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(operation)
        def held_up(*arguments: Any) -> Any:
            if dice.random() < process.noise:
                time.sleep(dice.random() * 1e-3)
            return operation(*arguments)

        return held_up

    def write_in_two(descriptor: int, data: bytes, offset: int) -> int:
        half = dice.randrange(len(data)) if dice.random() < process.noise else 0
        written: int = plain["write_at"](descriptor, data[:half], offset) if half else 0
        if half:
            time.sleep(dice.random() * 1e-3)
        return written + int(plain["write_at"](descriptor, data[half:], offset + half))

    for name, operation in plain.items():
        setattr(files, name, noisy(write_in_two if name == "write_at" else operation))
    try:
        yield
    finally:
        for name, operation in plain.items():
            setattr(files, name, operation)


@contextlib.contextmanager
def _noisy_requests(process: Process) -> Iterator[None]:
    """The same for requests of a log that hosts share, before and after its engine does them."""
    dice = random.Random(process.seed)  # noqa: S311 - noise
    places = ((Contest, "settled"), (Contest, "_look"), (PatientStore, "ask"))
    plain = {(owner, name): getattr(owner, name) for owner, name in places}

    def noisy(request: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(request)
        def held_up(*arguments: Any) -> Any:
            if dice.random() < process.noise:
                time.sleep(dice.random() * 1e-2)
            answer = request(*arguments)
            if dice.random() < process.noise:
                time.sleep(dice.random() * 1e-2)
            return answer

        return held_up

    for (owner, name), request in plain.items():
        setattr(owner, name, noisy(request))
    try:
        yield
    finally:
        for (owner, name), request in plain.items():
            setattr(owner, name, request)


@contextlib.contextmanager
def _warnings_into(notes: _Notes) -> Iterator[None]:
    """What is logged as a warning is a problem: nothing here is out of order."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            notes.problems.append(f"logged: {logging.Formatter().format(record)}")

    handler = Handler(logging.WARNING)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


# --- outside: one history


class Crew:
    """Processes that take part in histories: forked for each, or started once and kept."""

    def __init__(self, kind: ProgramKind) -> None:
        """Load once what each child would load otherwise; histories of a log fork faster without the rest."""
        for module in ("pandas", "watchfiles", *(("projections", "torch") if kind == "stores" else ())):
            importlib.import_module(module)
        self._spawned: list[tuple[BaseProcess, Connection]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process, connection in self._spawned:
            _end(process, connection)
        self._spawned = []

    def perform(self, program: Program, place: Place) -> History:
        """Let a program happen in an empty place."""
        place.say()  # for who reads the log afterwards, here
        parts = _Notes()
        inherited = None
        if any(process.start == "inherit" for process in program.processes):
            inherited = _open(program, place, 0)
            self._begin(inherited, parts)
        members = [
            self._member(process, inherited, number) for number, process in enumerate(program.processes)
        ]
        try:
            whole = self._together(program, place, members, parts)
        finally:
            for process, (member, connection) in zip(program.processes, members, strict=True):
                if process.start != "spawn":
                    _end(member, connection)
            if inherited is not None:
                inherited.close()
        if not whole:
            # Who hung may still be at it, and would disturb the next history.
            self.__exit__()
        return _history(parts, place.log(0))

    def _begin(self, inherited: _Subject, notes: _Notes) -> None:
        """Use what will be inherited, so that there is something to be wrong about."""
        op = Op("append", ((("begun", ("begun",), "none"),), True, "commit"))
        notes.calls += _LogCaller("parent", inherited.log, Path(), 1).call(op)
        if isinstance(inherited, _Stores):
            notes.calls += inherited.caller("parent").call(Op("count_events"))

    def _member(
        self, process: Process, inherited: _Subject | None, number: int
    ) -> tuple[BaseProcess, Connection]:
        if process.start != "spawn":
            return _started("fork", inherited if process.start == "inherit" else None)
        while len(self._spawned) <= number:
            self._spawned.append(_started("spawn", None))
        return self._spawned[number]

    def _together(
        self, program: Program, place: Place, members: Sequence[tuple[BaseProcess, Connection]], parts: _Notes
    ) -> bool:
        """Begin together and hear everybody; False when somebody did not answer."""
        connections = [connection for _, connection in members]
        for number, connection in enumerate(connections):
            connection.send((program, number, place))
        heard = [_heard(connection) for connection in connections]
        for connection, told in zip(connections, heard, strict=True):
            if told == "ready":
                connection.send("go")
        for number, (process, connection) in enumerate(zip(program.processes, connections, strict=True)):
            told = _heard(connection) if heard[number] == "ready" else heard[number]
            if not isinstance(told, _Notes):
                parts.problems.append(f"{process.name} did not answer: it hung or died")
                return False
            parts.calls += told.calls
            parts.followed += told.followed
            parts.problems += told.problems
        return True


def _started(method: str, subject: _Subject | None) -> tuple[BaseProcess, Connection]:
    context: Any = multiprocessing.get_context(method)
    here, there = context.Pipe()
    process = context.Process(target=_take_part, args=(there, subject), daemon=True)
    process.start()
    there.close()
    return process, here


def _heard(connection: Connection) -> Any:
    try:
        return connection.recv() if connection.poll(HANG_SECONDS) else None
    except (EOFError, ConnectionError):
        return None


def _end(process: BaseProcess, connection: Connection) -> None:
    with contextlib.suppress(OSError):
        connection.send(None)
    connection.close()
    process.join(1)
    if process.is_alive():
        process.kill()
        process.join()


def _history(parts: _Notes, events: str | Path) -> History:
    """All that was told, and what a new reader finds in the end."""
    problems = list(parts.problems)
    seen: tuple[Seen, ...] = ()
    try:
        with EventLog.open(events) as log:
            seen = _seen(log.read())
    except Exception:  # noqa: BLE001 - told, and judged
        problems.append(f"the log cannot be read afterwards: {traceback.format_exc()}")
    findings = verify_log(events).findings
    calls = tuple(sorted(parts.calls, key=lambda call: call.invoked))
    return History(calls, tuple(parts.followed), seen, findings, tuple(problems))
