"""``python -m tools.scale``: ``docs/scale.md`` from ``docs/scale-data.json``.

With ``--simulate`` the fleets are simulated anew (a minute), with ``--measure`` the storages of this
machine are measured first (some minutes); both write the data.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import subprocess

from tools.scale.fleets import compared, fleets
from tools.scale.measurement import as_data, measured_cases
from tools.scale.page import DATA, PAGE, page_of


def main() -> None:
    """Make the page, and what it is told to make before."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure, then simulate")
    parser.add_argument("--simulate", action="store_true", help="simulate")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measured case")
    given = parser.parse_args()
    data = json.loads(DATA.read_text()) if DATA.exists() else {}
    if given.measure:
        data |= {"machine": _machine(), "date": f"{dt.datetime.now(dt.UTC):%Y-%m-%d}", "commit": _commit()}
        data["seconds"] = given.seconds
        data["cases"] = as_data(measured_cases(seconds=given.seconds))
    if given.measure or given.simulate:
        data["compared"] = list(compared(data["cases"], seconds=data["seconds"]))
        data["fleets"] = list(fleets())
        DATA.write_text(json.dumps(data, indent=1) + "\n")
    PAGE.write_text(page_of(data))


def _machine() -> str:
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} cores under a load of {load:.0f}, Linux {platform.release()}"


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603


if __name__ == "__main__":
    main()
