"""Concurrency on every engine of a log that hosts share: the histories of ``histories``, judged alike.

    python -m tools.torture engines                     all engines that are at hand
    python -m tools.torture.engines NAME --count 300    one of them; the report as JSON

The servers are started for it: moto, Azurite, PostgreSQL, mongomock behind MongoDB's protocol, and the
faulty store that loses requests and answers. *Mounts* are folders that are one and the same elsewhere, as on
NFS; ``DACAPO_STORE_MOUNTS`` names them, with colons between.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, NamedTuple

from tools import postgres
from tools.stores import emulators
from tools.stores.moto_server import moto_server
from tools.torture.histories import Addresses, counts, judged, program_of
from tools.torture.history_programs import PROGRAM_KINDS, Program
from tools.torture.history_runner import Crew
from tools.torture.report import Figure, Report

SHORT: Final = 16
LONG: Final = 300
_SECONDS_MAX: Final = 600.0
"""For so long histories are begun on one engine, of a log and then of stores."""
_SECONDS_OF_LOGS: Final = 0.7
"""Out of 1."""
_FAILURES_SHOWN_MAX: Final = 5
_FAULTS_SHARE: Final = 0.1

_numbers = itertools.count()


def run(*, long: bool, seed: int) -> Report:
    """Let histories happen on each engine and judge them."""
    return together([run_one(name, count=LONG if long else SHORT, seed=seed) for name in ENGINES])


def together(reports: Sequence[Report]) -> Report:
    """The reports of engines as that of the suite."""
    figures: dict[str, Figure] = {}
    failures: list[str] = []
    for report in reports:
        figures |= {f"{report.name}: {what}": figure for what, figure in report.figures.items()}
        failures += [f"{report.name}: {failure}" for failure in report.failures]
    return Report("engines", figures, failures, sum(report.seconds for report in reports))


def run_one(name: str, *, count: int, seed: int, seconds_max: float = _SECONDS_MAX) -> Report:
    """The same on one engine: so many histories, or as many as there is time for."""
    engine = ENGINES[name]
    missing = engine.missing()
    if missing is not None:
        return Report(name, {"not run": missing})
    began = time.monotonic()
    counted: Counter[str] = Counter()
    failures: list[str] = []
    programs = [program_of(number) for number in range(seed, seed + count)]
    with engine.serve() as addresses:
        for kind in PROGRAM_KINDS:
            until = began + seconds_max * (_SECONDS_OF_LOGS if kind == "log" else 1)
            with Crew(kind) as crew:
                for happens in [one for one in programs if one.kind == kind]:
                    if time.monotonic() > until or len(failures) >= _FAILURES_SHOWN_MAX:
                        break
                    done, found = judged(happens, crew, addresses)
                    counted.update(counts(done))
                    failures += found
    return Report(name, dict(counted), failures[:_FAILURES_SHOWN_MAX], time.monotonic() - began)


# --- engines


def _nothing() -> str | None:
    return None


@contextlib.contextmanager
def _shared() -> Iterator[Addresses]:
    yield lambda _, folder: (f"shared://{folder}",)


@contextlib.contextmanager
def _mounts() -> Iterator[Addresses]:
    def addresses(_program: Program, _folder: Path) -> tuple[str, ...]:
        name = f"history-{os.getpid()}-{next(_numbers)}"
        return tuple(f"shared://{mount}/{name}" for mount in _mounted())

    yield addresses


def _mounted() -> list[str]:
    return [mount for mount in os.environ.get("DACAPO_STORE_MOUNTS", "").split(":") if mount]


def _no_mounts() -> str | None:
    return None if _mounted() else "no folders in DACAPO_STORE_MOUNTS; `make test-nfs` makes some"


@contextlib.contextmanager
def _moto() -> Iterator[Addresses]:
    with moto_server() as endpoint, _variables({"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"}):
        yield _buckets(lambda prefix: f"s3://bucket/{prefix}?endpoint={endpoint}&region=us-east-1")


@contextlib.contextmanager
def _faulty() -> Iterator[Addresses]:
    with _program("tools.stores.faulty_server", str(_FAULTS_SHARE)) as (endpoint,):
        yield _buckets(
            lambda prefix: f"s3://bucket/{prefix}?endpoint={endpoint}&anonymous=true&timeout_seconds=5"
        )


@contextlib.contextmanager
def _azurite() -> Iterator[Addresses]:
    with emulators.Azurite() as azurite:
        yield _buckets(azurite.address)


def _buckets(address: Callable[[str], str]) -> Addresses:
    return lambda _, folder: (f"{address(f'history-{next(_numbers)}')}&files={folder}/files",)


@contextlib.contextmanager
def _postgres() -> Iterator[Addresses]:
    with postgres.PostgresServer() as server:
        yield lambda _, folder: (server.address(table=f"history_{next(_numbers)}", files=f"{folder}/files"),)


def _no_postgres() -> str | None:
    return None if postgres.binaries() else postgres.MISSING


@contextlib.contextmanager
def _mongo() -> Iterator[Addresses]:
    with _program("tools.mongo_server") as (uri,):
        server, _, query = uri.partition("/?")

        def addresses(_program: Program, folder: Path) -> tuple[str, ...]:
            return (f"{server}/history_{next(_numbers)}?{query}&files={folder}/files",)

        yield addresses


@contextlib.contextmanager
def _program(module: str, *arguments: str) -> Iterator[list[str]]:
    """A server in a process of its own, from which nothing is forked; gives the words of its first line."""
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:  # noqa: S603 - our own
        assert server.stdout is not None
        try:
            yield server.stdout.readline().split()
        finally:
            server.kill()


@contextlib.contextmanager
def _variables(variables: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


class Engine(NamedTuple):
    """An engine.

    Attributes:
        missing: Says what is missing for it here, or None.
        serve: Gives the addresses of empty bases on it, as long as its context lasts.
    """

    missing: Callable[[], str | None]
    serve: Callable[[], AbstractContextManager[Addresses]]


ENGINES: Final = {
    "shared://": Engine(_nothing, _shared),
    "shared:// on mounts": Engine(_no_mounts, _mounts),
    "s3:// (moto)": Engine(_nothing, _moto),
    "s3:// (requests and answers lost)": Engine(_nothing, _faulty),
    "az:// (Azurite)": Engine(lambda: emulators.missing("azurite-blob"), _azurite),
    "postgresql://": Engine(_no_postgres, _postgres),
    "mongodb:// (mongomock)": Engine(_nothing, _mongo),
}


def main() -> None:
    """Run one engine; the exit status is 1 when something was found."""
    parser = argparse.ArgumentParser(prog="python -m tools.torture.engines")
    parser.add_argument("name", choices=list(ENGINES))
    parser.add_argument("--count", type=int, default=SHORT)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=_SECONDS_MAX, help="begin none after that")
    arguments = parser.parse_args()
    report = run_one(
        arguments.name, count=arguments.count, seed=arguments.seed, seconds_max=arguments.seconds
    )
    print(json.dumps(report.as_document()))
    sys.exit(0 if report.ok else 1)


if __name__ == "__main__":
    main()
