"""One boot of a machine: processes and threads append to a log, until the power fails.

They take turns that dice decide, on a recorded disk. By the plan, and the dice again, writes are
refused or taken in part, syncs fail, the kernel forgets what it could not write, and processes are
killed. What the log promises on the way is noted with the step of the trace at which it did.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

from dacapo_store import artifacts
from dacapo_store.artifacts import ArtifactWriter
from eventstore import DamagedLogError, EventLog, ReadOnlyLogError, log_state, reencode_log
from eventstore.storage.local import lock, log_folder, syncing
from tools.torture.promises import Promise, commit_of, keys_of, must_hold, payload_of
from tools.torture.recorder import Hooks, Recorder
from tools.torture.turns import KilledError, Process, Turns, taking_turns


@dataclass(frozen=True)
class Plan:
    """What a scenario is like."""

    segment_bytes_max: int
    processes: int
    threads: int
    actions: int
    switching: float
    killing: float
    failing: float
    refusing: float
    forgetting: bool
    reencoding: float = 0.0

    @classmethod
    def drawn(cls, dice: Random) -> Plan:
        """One plan of many: without faults, with one kind of them, or with several."""

        def chance(*chances: float) -> float:
            return dice.choice([0.0] * 2 * len(chances) + list(chances))

        return cls(
            segment_bytes_max=dice.choice([2_000, 8_000, 20_000, 64 << 20, 64 << 20]),
            processes=dice.choice([1, 2, 2, 3]),
            threads=dice.choice([1, 2, 2]),
            actions=dice.randint(1, 5),
            switching=dice.choice([0.0, 0.1, 0.4]),
            killing=chance(0.01, 0.03),
            failing=chance(0.05, 0.2),
            refusing=chance(0.05, 0.4),
            forgetting=dice.random() >= 0.8,  # noqa: PLR2004 - few disks do, and only after a failed sync
        )


class Mischief(Hooks):
    """What happens to the processes of a boot, by the plan and the dice, and how often it has."""

    def __init__(self, plan: Plan, dice: Random, turns: Turns, promise: Promise) -> None:
        self.killed = self.refused = self.failed = 0
        self.forgotten = False
        self._plan = plan
        self._dice = dice
        self._turns = turns
        self._promise = promise

    def step(self) -> None:
        """Let others go first, perhaps, or end the process."""
        if not self._turns.running:
            return
        if self._turns.urgent is self._turns.process:
            self._turns.urgent = None
            return
        if self._happens(self._plan.killing):
            self._kill()
        self._turns.step()

    def bytes_taken(self, path: str, count: int) -> int:
        """All of it, a part, or an error; a process that is killed here has written a part."""
        if path.endswith("/lock"):
            # It takes a few bytes in one sector, and finds room for them when it is made.
            return count
        if self._happens(self._plan.killing):
            self._kill()
            return self._dice.randrange(count)
        if self._happens(self._plan.refusing):
            self.refused += 1
            if self._dice.random() < 0.5:  # noqa: PLR2004 - the disk takes nothing, or a part
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self._dice.randrange(count)
        return count

    def sync_fails(self, path: str) -> bool:
        """Who hears that a sync failed says so before anybody else goes on or the process can be killed.

        The moment in between takes microseconds, and nothing can be promised of it. Nor can much be
        promised where the folders fail in which processes make theirs at the same time.
        """
        fails = path not in ("", "payloads") and self._happens(self._plan.failing)
        if fails:
            self.failed += 1
            self._turns.urgent = self._turns.process
        return fails

    def kernel_forgets(self) -> bool:
        """By the plan; what was not promised may be gone then."""
        if self._plan.forgetting:
            self.forgotten = True
            self._promise.forget_the_rest()
        return self._plan.forgetting

    @property
    def at_fault(self) -> bool:
        """Whether the disk has done anything that a program may complain of."""
        return bool(self.refused or self.failed)

    def _kill(self) -> None:
        self.killed += 1
        self._turns.process.alive = False

    def _happens(self, chance: float) -> bool:
        return self._turns.running and chance > 0 and self._dice.random() >= 1 - chance


class Boot:
    """Processes that append to a log until the power fails."""

    def __init__(
        self, root: Path, plan: Plan, dice: Random, promise: Promise, numbers: Iterator[int]
    ) -> None:
        self.promise = promise
        self._turns = Turns(dice, switching=plan.switching)
        self.mischief = Mischief(plan, dice, self._turns, promise)
        self.recorder = Recorder(root, self.mischief)
        self._root = root
        self._folder = root / "events"
        self._plan = plan
        self._dice = dice
        self._numbers = numbers
        self._logs: dict[Process, EventLog] = {}
        self._processes = 0

    def run(self) -> None:
        """Work; the trace and the promise tell what happened."""
        works = [(Process("first"), self._first)]
        with taking_turns(self._turns, log_state, log_folder, syncing, lock), self.recorder:
            self._turns.run(works)
            works = []
            for _ in range(self._plan.processes):
                process = self._new_process()
                works += [(process, self._work)] * self._dice.randint(1, self._plan.threads)
            self._turns.run(works)

    def _first(self) -> None:
        """The first to open the log after a crash settles it."""
        with suppress(KilledError), self._excusing_faults():
            self.promise.learn(0, keys_of(self._open()))

    def _work(self) -> None:
        for _ in range(self._plan.actions):
            try:
                self._act()
            except KilledError:
                # Its threads go on as processes of their own, as if somebody had started them again.
                self._turns.process = self._new_process()
            self._turns.urgent = None

    def _act(self) -> None:
        action = self._dice.choice(["commit"] * 8 + ["os"] * 4 + ["sync", "read", "reopen", "reopen"])
        if self._plan.reencoding and self._dice.random() < self._plan.reencoding:
            action = "reencode"
        with self._excusing_faults():
            log = self._logs.get(self._turns.process) or self._open()
            match action:
                case "commit" | "os":
                    self._append(log, "commit" if action == "commit" else "os")
                case "sync":
                    end = log.next_position
                    log.sync()
                    self._promise(end)
                case "read":
                    floor = self.promise.floor
                    must_hold(keys_of(log), floor, self.promise.keys)
                case "reopen":
                    self._open()
                case "reencode":
                    reencode_log(self._folder, grace_seconds=self._dice.choice([0, 600]))
            self._promise(log.durable_position)

    @contextmanager
    def _excusing_faults(self) -> Iterator[None]:
        """Errors that say what the disk did are no surprise after it did something."""
        try:
            yield
        except (OSError, ReadOnlyLogError):
            if not self.mischief.at_fault:
                raise
        except DamagedLogError as error:
            if not self.mischief.forgotten or error.position < self.promise.floor:
                raise

    def _append(self, log: EventLog, durability: Literal["commit", "os"]) -> None:
        number, era = next(self._numbers), self.promise.era
        payload = payload_of(number)
        if payload is not None:
            _write_payload(self._root, *payload)
        commit = log.append_to_streams(commit_of(number), durability=durability)
        count = commit.next_position - commit.first_position
        if era == self.promise.era or durability == "commit":
            self.promise.learn(commit.first_position, [(number, part) for part in range(count)])
        if durability == "commit":
            self._promise(commit.next_position)

    def _promise(self, floor: int) -> None:
        self.promise.make(len(self.recorder.trace), floor)

    def _open(self) -> EventLog:
        """Open the log: what was there before does not go away again with a power cut."""
        before = self.promise.end
        log = EventLog.open(self._folder, segment_bytes_max=self._plan.segment_bytes_max)
        self._logs[self._turns.process] = log
        self._promise(log.durable_position if self.mischief.at_fault else before)
        return log

    def _new_process(self) -> Process:
        self._processes += 1
        return Process(str(self._processes))


def _write_payload(root: Path, path: str, content: bytes) -> None:
    def fill(writer: ArtifactWriter) -> None:
        writer.write(content[:99])
        writer.write(content[99:])

    artifacts.write(root, path, fill)
