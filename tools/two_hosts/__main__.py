"""``python -m tools.two_hosts``: trainers on two hosts, one log in PostgreSQL, and a line that is cut.

The hosts are network namespaces of this machine. In the middle of the training the line of one of them is
cut, so that nothing goes through and nobody is told; its trainers wait, the other's go on. Then it is mended.
At the end every iteration is there that a call has acknowledged, and both hosts see one order: the chain
value, which vouches for the whole history, is the same on both.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tools.postgres import MISSING, PASSWORD, PostgresServer, binaries
from tools.two_hosts.network import HUB, SUBNET, Host, hosts, unavailable

_RUNS_OF_A_HOST: Final = 2
_TRAINER: Final = "tools.two_hosts.trainer"


@dataclass
class Training:
    """A trainer on a host.

    Attributes:
        host: Where it runs.
        run: What it trains.
        acknowledged: How many iterations the calls that have returned stored.
    """

    host: Host
    run: str
    process: subprocess.Popen[str]
    acknowledged: int = 0
    _listener: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        """Listen to what it says."""
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.acknowledged = int(line)

    def end(self) -> int:
        """Wait for its end; its exit status."""
        self._listener.join()
        with self.process as process:
            return process.wait()


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        acknowledged: The iterations that calls acknowledged, by run.
        seen: What each host sees at the end: position, chain value, and (count, last) of each run.
        during_cut: By run that had not ended, how many iterations were acknowledged while the line of the
            second host was cut.
        failures: What was wrong.
    """

    acknowledged: dict[str, int]
    seen: list[dict[str, Any]]
    during_cut: dict[str, int]
    failures: list[str]


def play(*, iterations: int, cut_seconds: float) -> Outcome:
    """Train on two hosts and cut the line of one.

    Args:
        iterations: Of each run.
        cut_seconds: How long the line is cut.
    """
    with contextlib.ExitStack() as ends:
        folder = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="two-hosts-")))
        server = PostgresServer({"listen_addresses": "*"})
        with (server.data / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {SUBNET} scram-sha-256\n")
        ends.enter_context(server)
        first, second = ends.enter_context(hosts(2))
        trainings = [
            _started(host, f"host{number}_run{which}", server.port, folder, iterations)
            for number, host in enumerate((first, second), 1)
            for which in range(_RUNS_OF_A_HOST)
        ]
        for training in trainings:
            ends.callback(training.process.kill)
        _tell_until(trainings, lambda: all(each.acknowledged >= iterations // 4 for each in trainings))
        print(f"the line of {second.name} is cut for {cut_seconds:g} s")
        second.cut()
        time.sleep(1.0)  # what was under way has arrived by then, or waits
        before = {each.run: each.acknowledged for each in trainings if each.acknowledged < iterations}
        until = time.monotonic() + cut_seconds
        _tell_until(trainings, lambda: time.monotonic() >= until)
        during_cut = {
            each.run: each.acknowledged - before[each.run] for each in trainings if each.run in before
        }
        print(f"the line of {second.name} is mended")
        second.mend()
        _tell_until(trainings, lambda: all(each.process.poll() is not None for each in trainings))
        failures = [f"the trainer of {each.run} failed" for each in trainings if each.end() != 0]
        seen = [_seen_by(host, server.port, folder) for host in (first, second)]
    acknowledged = {each.run: each.acknowledged for each in trainings}
    return Outcome(acknowledged, seen, during_cut, [*failures, *_wrong(acknowledged, seen, during_cut)])


def _wrong(
    acknowledged: dict[str, int], seen: list[dict[str, Any]], during_cut: dict[str, int]
) -> Iterator[str]:
    one, other = seen
    if (one["position"], one["chain"]) != (other["position"], other["chain"]):
        yield f"the hosts see different histories: {one} and {other}"
    for run, count in acknowledged.items():
        if one["runs"].get(run) != [count, count - 1]:
            yield f"of {run} {count} iterations were acknowledged, and there are {one['runs'].get(run)}"
    for run, count in during_cut.items():
        if run.startswith("host2") and count:
            yield f"{run} was told that {count} iterations are stored, through a line that was cut"
        if run.startswith("host1") and not count:
            yield f"{run} stood still while the other host was cut off"


def _address(port: int, files: Path) -> str:
    return f"postgresql://postgres@{HUB}:{port}/postgres?files={files}"


def _started(host: Host, run: str, port: int, folder: Path, iterations: int) -> Training:
    files, environment = _home(host, folder)
    arguments = [sys.executable, "-m", _TRAINER, "train", _address(port, files), run, str(iterations)]
    process = subprocess.Popen(  # noqa: S603 - ours
        host.command(arguments), stdout=subprocess.PIPE, text=True, env=environment
    )
    return Training(host, run, process)


def _seen_by(host: Host, port: int, folder: Path) -> dict[str, Any]:
    files, environment = _home(host, folder)
    arguments = [sys.executable, "-m", _TRAINER, "look", _address(port, files)]
    answer = subprocess.run(  # noqa: S603 - ours
        host.command(arguments), stdout=subprocess.PIPE, text=True, check=True, env=environment
    )
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


def _home(host: Host, folder: Path) -> tuple[Path, dict[str, str]]:
    """The folder of a host, and the environment of its programs: hosts share nothing but the server."""
    home = folder / host.name
    (home / "files").mkdir(parents=True, exist_ok=True)
    own = {
        "HOME": str(home),
        "XDG_STATE_HOME": str(home / "state"),
        "DACAPO_STORE_CACHE": str(home / "cache"),
    }
    return home / "files", {**os.environ, **own, "PGPASSWORD": PASSWORD}


def _tell_until(trainings: list[Training], is_over: Callable[[], bool]) -> None:
    """Say how far everybody is, each second, until it is over."""
    while not is_over():
        time.sleep(1.0)
        print("  " + ", ".join(f"{each.run} {each.acknowledged}" for each in trainings), flush=True)
        if any(each.process.poll() not in (None, 0) for each in trainings):
            return


def main() -> None:
    """Run it from the command line; the exit status is 1 when something was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tools.two_hosts", description=__doc__)
    parser.add_argument("--iterations", type=int, default=1000, help="of each run (default: 1000)")
    parser.add_argument("--cut", type=float, default=8.0, help="seconds that the line is cut (default: 8)")
    arguments = parser.parse_args()
    reason = MISSING if binaries() is None else unavailable()
    if reason is not None:
        sys.exit(reason)
    print("Two hosts (network namespaces), two trainers on each, one log in a PostgreSQL server between them")
    outcome = play(iterations=arguments.iterations, cut_seconds=arguments.cut)
    for number, seen in enumerate(outcome.seen, 1):
        print(f"host {number} sees {seen['position']} events, chain {seen['chain']}")
        for run, (count, last) in seen["runs"].items():
            print(
                f"  {run}: {count} iterations, the last is {last}; acknowledged {outcome.acknowledged[run]}"
            )
    for failure in outcome.failures:
        print(f"WRONG: {failure}")
    if not outcome.failures:
        print("Nothing acknowledged is lost, and both hosts see one order.")
    sys.exit(1 if outcome.failures else 0)


if __name__ == "__main__":
    main()
