"""``python -m tools.torture [suite …] [--long] [--seed N] [--out FILE.json]``: run suites and report.

Each suite runs in a process of its own, so that none suffers from what another has left behind, and
an interpreter that dies is a finding like any other. The file keeps the reports of suites that did
not run this time.
"""

from __future__ import annotations

import argparse
import datetime as dt
import importlib
import json
import multiprocessing
import os
import pkgutil
import platform
import subprocess
import sys
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from tools.torture.report import Report

_PACKAGES: Final = ("pyarrow", "duckdb", "msgspec", "numpy", "torch", "zarr")


def main() -> None:
    """Run suites from the command line; the exit status is 1 when any of them found something."""
    arguments = _arguments()
    clean = True
    for name in arguments.suites or suite_names():
        report = _run(name, long=arguments.long, seed=arguments.seed)
        print(report.as_text(), flush=True)
        clean = clean and report.ok
        if arguments.out is not None:
            _write(arguments.out, report, long=arguments.long, seed=arguments.seed)
    sys.exit(0 if clean else 1)


def suite_names() -> list[str]:
    """The modules of this package that have a ``run``, in the order of the alphabet."""
    package = importlib.import_module("tools.torture")
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    return [name for name in names if not name.startswith("_") and hasattr(_suite(name), "run")]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.torture", description=__doc__)
    known = ", ".join(suite_names())
    parser.add_argument("suites", nargs="*", metavar="suite", help=f"of {known}; default: all")
    parser.add_argument("--long", action="store_true", help="as much as the published figures are made of")
    parser.add_argument("--seed", type=int, default=0, help="where dice begin (default: 0)")
    parser.add_argument("--out", type=Path, help="a JSON file that gets the reports")
    arguments = parser.parse_args()
    for name in arguments.suites:
        if name not in suite_names():
            parser.error(f"there is no suite {name!r}; there are {known}")
    return arguments


def _suite(name: str) -> Any:
    return importlib.import_module(f"tools.torture.{name}")


def _run(name: str, *, long: bool, seed: int) -> Report:
    began = time.monotonic()
    # Spawned, not forked: a suite may fork processes itself, and wants none of our threads then.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            # The suite's own function: one of this module is not found by a spawned interpreter.
            return pool.submit(_suite(name).run, long=long, seed=seed).result()  # type: ignore[no-any-return]
        except BrokenProcessPool as error:
            failure = f"the interpreter that ran the suite died (seed {seed}): {error}"
        except Exception:  # noqa: BLE001 - a suite that fails by itself is told like one that found something
            failure = f"the suite broke off (seed {seed}): {traceback.format_exc()}"
    return Report(name, failures=[failure], seconds=time.monotonic() - began)


def _write(path: Path, report: Report, *, long: bool, seed: int) -> None:
    """Put a report into the file, in the place of the suite's earlier one."""
    document = json.loads(path.read_text()) if path.exists() else {"suites": {}}
    document["suites"][report.name] = {
        "long": long,
        "seed": seed,
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "commit": _commit(),
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.release()} {platform.machine()}",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
        **report.as_document(),
    }
    path.write_text(json.dumps(document, indent=2) + "\n")


def _commit() -> str | None:
    """What is tested, when it is under version control; ``+`` stands for changes since."""
    commit = _git("rev-parse", "--short=12", "HEAD")
    # The reports themselves are below docs.
    return commit and commit + ("+" if _git("status", "--porcelain", "-uno", ".", ":!docs") else "")


def _git(*arguments: str) -> str | None:
    answer = subprocess.run(  # noqa: S603 - words of our own
        ["git", *arguments],  # noqa: S607 - the git that people use
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.stdout.strip() or None


if __name__ == "__main__":
    main()
