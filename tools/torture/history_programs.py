"""What the processes and threads of a history do, as a function of its seed.

The order in which their calls meet is the scheduler's and differs from run to run; a history's
*program* never does. All stores and names are few, so that calls meet often.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

PROCESSES: Final = 3
THREADS: Final = 2
CALLS: Final = 5

STREAMS: Final = ("a", "b", "c")
RUNS: Final = ("run_1", "run_2")
KINDS: Final = ("tasks", "trainers")
NAMES: Final = ("one", "two")
CRITERIA: Final = ("dice", "voi")
ITERATIONS: Final = (10, 20)

Start = Literal["fork", "inherit", "spawn"]
ProgramKind = Literal["log", "stores"]
PROGRAM_KINDS: Final[tuple[ProgramKind, ...]] = ("log", "stores")

# From which ways to start each process of a program draws. In programs of stores only one process
# starts afresh, because each of these loads torch.
_CREWS: Final[tuple[tuple[Start, ...], ...]] = (
    ("fork",),
    ("inherit",),
    ("inherit",),
    ("fork", "inherit", "spawn"),
    ("spawn",),
)


@dataclass(frozen=True)
class Op:
    """One call: what is done, and with what. ``history_runner`` has a method for each verb."""

    verb: str
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Process:
    """What one process of a history does.

    Attributes:
        name: ``p0``, ``p1``, ...
        start: Forked before it opens anything, forked with everything open (``inherit``), or
            started afresh.
        threads: The calls of each thread.
        follows: The position from which one more thread follows the log, or None.
        noise: How often an operation on files is held up for a moment, out of 1.
        seed: What its noise is made of.
    """

    name: str
    start: Start
    threads: tuple[tuple[Op, ...], ...]
    follows: int | None
    noise: float
    seed: int


@dataclass(frozen=True)
class Program:
    """A history before it has happened.

    Attributes:
        seed: What it was made of.
        kind: ``log`` or ``stores``.
        segment_bytes_max: Where the log rolls: after each commit, often, or hardly ever.
        processes: Who takes part.
    """

    seed: int
    kind: ProgramKind
    segment_bytes_max: int
    processes: tuple[Process, ...]


def program(seed: int, *, kind: ProgramKind) -> Program:
    """The program that belongs to a seed.

    Args:
        seed: Any number; the same one gives the same program.
        kind: Calls of a log, or of the stores of a base.
    """
    dice = random.Random(f"{kind} {seed}")  # noqa: S311 - a program, not a secret
    make = _log_call if kind == "log" else _store_call
    starts = dice.choice(_CREWS)
    repeated = _repeated_appends(dice)
    processes = tuple(
        Process(
            name=f"p{number}",
            start=dice.choice(starts if kind == "log" or number == 0 else _forked(starts)),
            threads=tuple(
                tuple(make(dice, f"p{number}.t{thread}.{place}", repeated) for place in range(CALLS))
                for thread in range(THREADS)
            ),
            # Each process says at its end that it is done: there is something behind position 1 for sure.
            follows=dice.choice([0, 0, 1]) if dice.random() < 0.3 else None,  # noqa: PLR2004
            noise=dice.choice([0.0, 0.05, 0.2]),
            seed=dice.getrandbits(32),
        )
        for number in range(PROCESSES)
    )
    if kind == "log":
        processes = tuple(_with_a_fork(dice, process, repeated) for process in processes)
    return Program(seed, kind, dice.choice([1, 4_000, 4_000, 20_000]), processes)


def _forked(starts: Sequence[Start]) -> list[Start]:
    return [start for start in starts if start != "spawn"] or ["fork"]


# --- calls of a log


def _log_call(dice: random.Random, key: str, repeated: list[Op]) -> Op:
    stream = dice.choice(STREAMS)
    choices: list[tuple[int, Callable[[], Op]]] = [
        (10, lambda: _append(dice, key)),
        (2, lambda: dice.choice(repeated)),
        (2, lambda: replace(_append(dice, key), verb="append_elsewhere")),
        (3, lambda: Op("read", (dice.choice([0, 0, 3]),))),
        (2, lambda: Op("read_stream", (stream, dice.choice([0, 0, 1])))),
        (2, lambda: Op("stream_version", (stream,))),
        (2, lambda: Op("next_position")),
        (1, lambda: Op("position_at_the_end")),
        (1, lambda: Op("read_only")),
        (1, lambda: Op("durable_position")),
        (1, lambda: Op("verify")),
        (2, lambda: Op("reencode", (dice.choice([0, 0, 600]),))),
    ]
    return _one_of(dice, choices)


def _append(dice: random.Random, key: str, *, recognised: bool | None = None) -> Op:
    """An append to one stream, or to several; the keys of its events are found in no other append."""
    streams = dice.sample(STREAMS, dice.choice([1, 1, 1, 2, 3]))
    parts = []
    for number, stream in enumerate(streams):
        count = dice.choice([1, 1, 1, 2, 3]) if number == 0 else dice.choice([0, 1, 2])
        keys = tuple(f"{key}/{number}.{event}" for event in range(count))
        parts.append((stream, keys, _expected(dice)))
    if recognised is None:
        recognised = dice.random() < 0.3  # noqa: PLR2004 - now and then
    return Op("append", (tuple(parts), recognised, dice.choice(["commit", "commit", "os"])))


def _expected(dice: random.Random) -> str | int:
    """``seen`` is what the thread last knew of the stream."""
    choices: list[str | int] = [*["any"] * 4, *["seen"] * 5, "none", "exists", 0, 1, 3]
    return dice.choice(choices)


def _repeated_appends(dice: random.Random) -> list[Op]:
    """Appends that several threads may make, each with the ids that say that they are the same one."""
    return [_append(dice, f"repeated.{number}", recognised=True) for number in range(2)]


def _with_a_fork(dice: random.Random, process: Process, repeated: list[Op]) -> Process:
    """Let a thread of some processes fork, amid its calls and those of the others, a child that goes on."""
    if process.start == "spawn" or dice.random() > 0.1:  # noqa: PLR2004 - it takes its time
        return process
    child = tuple(_log_call(dice, f"{process.name}.child.{number}", repeated) for number in range(2))
    first, *others = process.threads
    place = dice.randrange(len(first) + 1)
    return replace(process, threads=((*first[:place], Op("fork", (child,)), *first[place:]), *others))


# --- calls of the stores


def _store_call(dice: random.Random, _key: str, _repeated: list[Op]) -> Op:
    kind, name, run = dice.choice(KINDS), dice.choice(NAMES), dice.choice(RUNS)
    rows, iteration = dice.choice(["training", "validation"]), dice.choice(ITERATIONS)
    choices: list[tuple[int, Callable[[], Op]]] = [
        (6, lambda: Op("store_config", (kind, name, dice.randrange(3)))),
        (2, lambda: Op("store_run", (dice.choice(RUNS), dice.choice(NAMES), dice.randrange(2)))),
        (2, lambda: Op("delete_config", (kind, name))),
        (3, lambda: Op("retrieve_config", (kind, name))),
        (1, lambda: Op("config_names", (kind,))),
        (6, lambda: Op("store_rows", (rows, run, _rows(dice)))),
        (1, lambda: Op("delete_rows", (rows, run))),
        (2, lambda: Op("retrieve_rows", (rows, run))),
        (3, lambda: Op("store_weights", (run, iteration, dice.randrange(1_000)))),
        (1, lambda: Op("remove_weights", (run, iteration))),
        (2, lambda: Op("retrieve_weights", (run, iteration))),
        (2, lambda: Op("store_best", (run, iteration, dice.choice(CRITERIA)))),
        (1, lambda: Op("retrieve_best", (run, dice.choice(CRITERIA)))),
        (1, lambda: Op("latest_weights", (run,))),
        (1, lambda: Op("count_events")),
        (1, lambda: Op("next_position")),
    ]
    return _one_of(dice, choices)


def _rows(dice: random.Random) -> tuple[tuple[int, float], ...]:
    first = dice.randrange(6)
    return tuple((first + number, float(dice.randrange(2))) for number in range(dice.choice([0, 1, 1, 2, 3])))


def _one_of(dice: random.Random, choices: list[tuple[int, Callable[[], Op]]]) -> Op:
    (make,) = dice.choices([make for _, make in choices], [weight for weight, _ in choices])
    return make()
