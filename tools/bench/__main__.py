"""Run benchmarks side by side with their peers and print what came out: all of them, or those that are named.

With ``--out`` the figures of each benchmark go to a file as soon as it has ended, and those of
benchmarks that did not run this time stay in it: after an interruption, name those that are left. All
of them take some twenty minutes on a machine that is quiet and 8 GB of disk (``TMPDIR`` says where).
The page is made of that file: ``python -m tools.bench.report FILE.json``.

    python -m tools.bench --out docs/performance-data.json
    python -m tools.bench B1 B3 growth --quick
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import sqlite3
import subprocess
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from tools.bench.catalogue import BENCHMARKS
from tools.bench.growth import growth
from tools.bench.measure import Size
from tools.bench.peers.peer import installed
from tools.bench.report import section_text
from tools.bench.results import Section

_PACKAGES: Final = (
    "pyarrow",
    "duckdb",
    "msgspec",
    "numpy",
    "torch",
    "eventsourcing",
    "mlflow-skinny",
    "trackio",
    "tensorboard",
    "safetensors",
)


def main() -> None:
    """Run benchmarks from the command line."""
    arguments = _arguments()
    size = Size.QUICK if arguments.quick else Size.FULL
    for key in arguments.benchmarks or BENCHMARKS:
        section = _run(key, size, growth_max=arguments.growth_max)
        print(section_text(section), flush=True)
        if arguments.out is not None:
            _write(arguments.out, section, size)


def _arguments() -> argparse.Namespace:
    lines = [f"  {key:<7} {_first_line(benchmark)}" for key, benchmark in BENCHMARKS.items()]
    parser = argparse.ArgumentParser(
        prog="python -m tools.bench",
        description=__doc__,
        epilog="\n".join(["benchmarks:", *lines]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    known = ", ".join(BENCHMARKS)
    parser.add_argument("benchmarks", nargs="*", metavar="benchmark", help=f"of {known}; default: all")
    parser.add_argument(
        "--quick", action="store_true", help="less of everything: a first look in two minutes"
    )
    parser.add_argument(
        "--growth-max", type=lambda text: int(float(text)), help="iterations of the longest history, e.g. 1e8"
    )
    parser.add_argument("--out", type=Path, help="a JSON file that gets the figures")
    arguments = parser.parse_args()
    for key in arguments.benchmarks:
        if key not in BENCHMARKS:
            parser.error(f"there is no benchmark {key!r}; there are {known}")
    return arguments


def _first_line(benchmark: Callable[[Size], Section]) -> str:
    text = (benchmark.__doc__ or "").partition("\n")[0]
    return text.partition(": ")[2] or text


def _run(key: str, size: Size, *, growth_max: int | None) -> Section:
    benchmark = partial(growth, iterations_max=growth_max) if key == "growth" else BENCHMARKS[key]
    load, began = os.getloadavg()[0], time.monotonic()
    try:
        section = benchmark(size)
    except Exception:  # noqa: BLE001 - told on the page; the other benchmarks go on
        section = Section(key, "broke off", failure=traceback.format_exc())
    section.load, section.seconds = load, time.monotonic() - began
    return section


def _write(path: Path, section: Section, size: Size) -> None:
    """Put a section into the file, in the place of its earlier one."""
    document = json.loads(path.read_text()) if path.exists() else {"sections": {}}
    document["sections"][section.key] = {
        "size": size.value,
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "commit": _commit(),
        "machine": _machine(),
        "versions": _versions(),
        "section": section.as_document(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    # Renamed into place: an interruption leaves what there was before.
    unfinished = path.with_name(f".{path.name}.tmp")
    unfinished.write_text(json.dumps(document, indent=1) + "\n")
    unfinished.replace(path)


def _versions() -> dict[str, str]:
    found = {package: installed(package) for package in _PACKAGES}
    return {
        "Python": platform.python_version(),
        "SQLite": sqlite3.sqlite_version,
        **{package: version for package, version in found.items() if version is not None},
    }


def _machine() -> str:
    """Processor, cores, memory, system."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return f"{os.cpu_count()} cores of {model}, {memory:.0f} GB, {platform.system()} {platform.release()}"


def _commit() -> str | None:
    """What is measured, when it is under version control; ``+`` stands for changes since."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--abbrev=12"],  # noqa: S607 - the git that people use
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or None


if __name__ == "__main__":
    main()
