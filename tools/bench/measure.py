"""How things are measured: fresh processes, in turns, wall time beside CPU time and bytes written.

Every contestant of a round runs in an interpreter of its own, so that none profits or suffers from what
another has left in memory, and rounds go A, B, A, B, so that all of them meet the machine as it is.
"""

from __future__ import annotations

import enum
import os
import pickle
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

Figures = dict[str, float]
"""What one turn of one contestant measured: a name in words, with the unit, and a number each."""


class Size(enum.Enum):
    """How much a benchmark does."""

    FULL = "full"
    QUICK = "quick"
    TINY = "tiny"

    def pick(self, *, full: T, quick: T, tiny: T) -> T:
        """The value for this size."""
        return {Size.FULL: full, Size.QUICK: quick, Size.TINY: tiny}[self]


@dataclass
class Meter:
    """What went by between the beginning and the end of ``metered``.

    Attributes:
        seconds: Wall time.
        cpu_seconds: User and system time of this process, its threads and the children it has waited for.
        bytes_written: What this process and those children handed to ``write``.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    bytes_written: int = 0


@contextmanager
def metered() -> Iterator[Meter]:
    """Measure the block; the meter holds its figures when the block has ended."""
    meter = Meter()
    bytes_before, cpu_before, began = _bytes_written(), _cpu_seconds(), time.perf_counter()
    yield meter
    meter.seconds = time.perf_counter() - began
    meter.cpu_seconds = _cpu_seconds() - cpu_before
    meter.bytes_written = _bytes_written() - bytes_before


def _cpu_seconds() -> float:
    times = os.times()
    # The process clock is finer than the ticks of os.times, which knows of the children.
    return time.process_time() + times.children_user + times.children_system


def _bytes_written() -> int:
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["wchar"])


def peak_bytes() -> int:
    """The most memory that this process has had resident so far."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmHWM: peak memory is measured on Linux only")


def folder_bytes(path: Path) -> int:
    """The size of all files below a folder; one that has several names counts once."""
    found = (each.lstat() for each in path.rglob("*") if each.is_file() and not each.is_symlink())
    return sum({status.st_ino: status.st_size for status in found}.values())


@contextmanager
def scratch() -> Iterator[Path]:
    """A new folder that is gone afterwards; ``TMPDIR`` says on which disk."""
    folder = Path(tempfile.mkdtemp(prefix="dacapo-store-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


_calls_stay_here = False


@contextmanager
def in_this_process() -> Iterator[None]:
    """Inside, ``in_child`` makes no child: for those who ask whether it runs, not how long it takes."""
    global _calls_stay_here  # noqa: PLW0603 - a switch for the whole process
    _calls_stay_here = True
    try:
        yield
    finally:
        _calls_stay_here = False


class ChildFailedError(RuntimeError):
    """A contestant broke off; the text ends with its own traceback."""


def in_child(function: Callable[..., T], *arguments: Any, python: str = sys.executable) -> T:
    """Call a function of a module in a fresh interpreter.

    Args:
        function: The function; it and its arguments can be pickled.
        arguments: What it gets.
        python: The interpreter.

    Raises:
        ChildFailedError: It raised, or its interpreter died.
    """
    if _calls_stay_here:
        return function(*arguments)
    outcome = subprocess.run(  # noqa: S603 - Python, with code of our own
        [python, "-m", "tools.bench.child"],
        cwd=Path(__file__).parents[2],
        input=pickle.dumps((function, arguments)),
        capture_output=True,
        check=False,
    )
    if outcome.returncode:
        raise ChildFailedError(f"{function.__name__} in {python}: {outcome.stderr.decode(errors='replace')}")
    result: T = pickle.loads(outcome.stdout)  # noqa: S301 - from our own child
    return result


@dataclass(frozen=True)
class Contestant:
    """One side of a comparison.

    Attributes:
        name: What its row is called.
        turn: A function of a module: it gets a folder of its own, that is empty, and the arguments,
            runs in a fresh interpreter, and gives its figures.
        arguments: What picks its work.
        absent: Why there is nothing to measure ("not installed"), or None.
        rounds_max: In how many rounds it takes part, when it takes too long for all of them.
        python: The interpreter that it needs.
    """

    name: str
    turn: Callable[..., Figures]
    arguments: tuple[Any, ...] = ()
    absent: str | None = None
    rounds_max: int | None = None
    python: str = sys.executable


@dataclass
class Row:
    """What one contestant measured in all its turns.

    Attributes:
        figures: The samples of each figure, one a turn.
        note: Why there are none, or a remark.
    """

    figures: dict[str, list[float]] = field(default_factory=dict)
    note: str = ""

    def add(self, figures: Mapping[str, float]) -> None:
        """Put the figures of one more turn behind those there are."""
        for name, value in figures.items():
            self.figures.setdefault(name, []).append(float(value))

    def median(self, figure: str) -> float | None:
        """The median of a figure, or None where it was not measured."""
        samples = self.figures.get(figure)
        return statistics.median(samples) if samples else None


Rows = dict[str, Row]


def side_by_side(contestants: Sequence[Contestant], *, rounds: int) -> Rows:
    """Let contestants take turns, each in a fresh process and an empty folder."""
    rows = {each.name: Row(note=each.absent or "") for each in contestants}
    for number in range(rounds):
        for each in contestants:
            if each.absent is None and number < (each.rounds_max or rounds):
                with scratch() as folder:
                    rows[each.name].add(in_child(each.turn, folder, *each.arguments, python=each.python))
    return rows


def ratio(rows: Mapping[str, Row], one: str, other: str, figure: str) -> float | None:
    """How many times the other's figure the one's is, or None if either was not measured.

    The median of the ratios of the turns where both had as many, for a slow minute of the machine concerns
    both; else the ratio of the medians.
    """
    mine, others = (rows[name].figures.get(figure, []) if name in rows else [] for name in (one, other))
    if not mine or not others or not all(others):
        return None
    if len(mine) == len(others):
        return statistics.median(a / b for a, b in zip(mine, others, strict=True))
    return statistics.median(mine) / statistics.median(others)
