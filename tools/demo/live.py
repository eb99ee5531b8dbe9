"""The three trainings, each a process of its own, watched through the store alone.

What the bars show is asked of the base directory while other processes write to it. One trainer is
killed on the way, as a cluster or a full memory would do it, and started again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from rich.padding import Padding
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import Console

    from dacapo_store import Base
    from tools.demo.configs import RunConfig

LOOK_SECONDS: Final = 0.25
LINE_SECONDS: Final = 5.0
"""Between two lines of progress, where there is no terminal to draw bars on."""

REPOSITORY: Final = Path(__file__).resolve().parents[2]

STATE_OF_THE_RUNS: Final = """
SELECT r.name,
       coalesce((SELECT max(iteration) + 1 FROM training_stats t WHERE t.run = r.name), 0),
       (SELECT arg_max(loss, iteration) FROM training_stats t WHERE t.run = r.name),
       coalesce((SELECT max(iteration) FROM weights w WHERE w.run = r.name), 0),
       (SELECT max(score) FROM validation_scores v WHERE v.run = r.name AND criterion = 'dice')
FROM runs r ORDER BY r.name
"""


class TrainerFailedError(Exception):
    """A trainer ended with an error of its own: its log file tells more."""


@dataclass(frozen=True)
class RunState:
    """How far a run is, as the store tells it."""

    name: str
    trained_until: int
    loss: float | None
    latest_weights: int
    best_dice: float | None

    def __str__(self) -> str:
        """The state as one short line."""
        loss = "      " if self.loss is None else f"{self.loss:6.3f}"
        dice = "     " if self.best_dice is None else f"{self.best_dice:5.3f}"
        return f"loss {loss}   best dice {dice}"


@dataclass
class Trainers:
    """The trainer processes; whatever happens, none is left behind."""

    base: Path
    logs: Path
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self.logs.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()

    def start(self, run: str) -> None:
        """Start the trainer of a run, or start it again."""
        with (self.logs / f"{run}.log").open("ab") as log:
            self._processes[run] = subprocess.Popen(  # noqa: S603 - this Python, our own module
                [sys.executable, "-m", "tools.demo.trainer", str(self.base), run],
                cwd=REPOSITORY,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def kill(self, run: str) -> None:
        """End a trainer with SIGKILL: it gets no chance to finish anything."""
        self._processes[run].kill()
        self._processes[run].wait()

    def all_done(self) -> bool:
        """Whether every trainer has come to its end.

        Raises:
            TrainerFailedError: One of them failed.
        """
        for run, process in self._processes.items():
            if process.poll():
                log = self.logs / f"{run}.log"
                last_lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
                raise TrainerFailedError(
                    f"the trainer of {run} ended with {process.returncode}; the end of {log}:\n"
                    + "\n".join(last_lines)
                )
        return all(process.poll() == 0 for process in self._processes.values())


def train_all(base: Base, runs: list[RunConfig], *, victim: str, logs: Path, console: Console) -> None:
    """Train all runs in parallel; kill the victim on its way and start it again.

    Raises:
        TrainerFailedError: A trainer failed by itself; the others are ended, too.
    """
    with Trainers(base.path, logs) as trainers, _Display(runs, console) as display:
        for run in runs:
            trainers.start(run.name)
        waiting_to_strike = True
        done = False
        while not done:
            # In this order: the last look comes after the last trainer's end.
            done = trainers.all_done()
            states = look(base)
            display.show(states, events=base.log.next_position)
            if waiting_to_strike and _is_far_from_its_weights(states[victim], runs):
                trainers.kill(victim)
                struck = look(base)[victim]
                display.say(
                    f"killed {victim} (kill -9) with {struck.trained_until} iterations stored; it starts "
                    f"again from its weights of iteration {struck.latest_weights}"
                )
                trainers.start(victim)
                waiting_to_strike = done = False
            time.sleep(LOOK_SECONDS)


def look(base: Base) -> dict[str, RunState]:
    """How far all runs are, by name."""
    return {row[0]: RunState(*row) for row in base.query(STATE_OF_THE_RUNS).fetchall()}


def _is_far_from_its_weights(state: RunState, runs: list[RunConfig]) -> bool:
    """Whether a kill now would cost something: past a third, with stats well ahead of weights."""
    run = next(run for run in runs if run.name == state.name)
    ahead = state.trained_until - state.latest_weights
    return state.trained_until > run.num_iterations / 3 and ahead >= run.validation_interval / 2


class _Display:
    """Bars on a terminal, a line now and then elsewhere."""

    def __init__(self, runs: list[RunConfig], console: Console) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description:12}"),
            BarColumn(bar_width=30),
            TextColumn("{task.completed:>4.0f}/{task.total:.0f}  {task.fields[state]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._total = max(run.num_iterations for run in runs)
        self._bars: dict[str, TaskID] = {
            run.name: self._progress.add_task(run.name, total=run.num_iterations, state="starting")
            for run in runs
        }
        self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, states: dict[str, RunState], *, events: int) -> None:
        """Bring the bars up to date."""
        for name, bar in self._bars.items():
            state = states[name]
            self._progress.update(bar, completed=state.trained_until, state=str(state))
        if not self._console.is_terminal and time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            iterations = ", ".join(f"{name} {states[name].trained_until}" for name in self._bars)
            self._console.print(f"  of {self._total} iterations: {iterations}; {events} events in the log")

    def say(self, text: str) -> None:
        """Say something above the bars."""
        self._console.print(Padding(Text(text, style="yellow"), (0, 0, 0, 2)))
