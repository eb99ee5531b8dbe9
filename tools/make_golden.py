"""Write the golden logs of the present format, once and for all.

They are ``tests/golden/format-<version>/`` and, with a re-encoded segment, ``format-<version>-reencoded/``.
Released formats are read for ever: a directory is added with a new format and never rewritten, so
this program touches none that exists.
"""

from __future__ import annotations

import shutil
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from eventstore import Event, EventLog, StreamAppend, reencode_log
from eventstore.schema import FORMAT_VERSION

_START = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def golden_appends() -> list[list[StreamAppend]]:
    """The commits of the golden log; every kind of value and of bulk column is in them."""
    events = [
        Event("ConfigStored", {"kind": "tasks", "name": "Zellkörper", "document": {"size": (3, 4)}}),
        Event(
            "TrainingStatsRecorded", {"columns": ["loss"]}, index=[0, 1, 2], values=[0.5, float("nan"), -0.0]
        ),
        Event(
            "TrainingStatsRecorded",
            {"columns": ["loss", "lr"]},
            index=[3, 4],
            values=[0.25, 0.125, None, 1e-300],
        ),
        Event(
            "Marked", {"at": float("inf"), "raw": b"\x00\xff", 7: None}, schema_version=3, index=[], values=[]
        ),
    ]
    named = [
        Event(
            event.type,
            event.data,
            event.schema_version,
            event.index,
            event.values,
            UUID(int=0x0192_0000_0000_7000_8000_0000_0000_0000 + place),
            {"user": "ada", "pid": 1},
            _START + timedelta(microseconds=place),
        )
        for place, event in enumerate(events)
    ]
    return [
        [StreamAppend("config/tasks/Zellkörper", named[:1]), StreamAppend("training/run_1", named[1:2])],
        [StreamAppend("training/run_1", named[2:3])],
        [StreamAppend("marks", named[3:])],
    ]


def main() -> int:
    """Write the directories that are not there yet; the second segment begins with the third commit."""
    golden = Path(__file__).parent.parent / "tests" / "golden"
    plain = golden / f"format-{FORMAT_VERSION}"
    again = golden / f"format-{FORMAT_VERSION}-reencoded"
    missing = [target for target in (plain, again) if not target.exists()]
    if plain in missing:
        _write_plain(plain)
    if again in missing:
        shutil.copytree(plain, again)
        reencode_log(again, grace_seconds=0)
        _remove_derived(again)
    if not missing:
        print(f"{plain} exists; a released format is never written again", file=sys.stderr)
    return 0 if missing else 1


def _write_plain(target: Path) -> None:
    first, second, third = golden_appends()
    with EventLog.open(target) as log:
        log.append_to_streams(first)
        log.append_to_streams(second)
    with EventLog.open(target, segment_bytes_max=1) as log:
        log.append_to_streams(third)
    _remove_derived(target)


def _remove_derived(target: Path) -> None:
    for path in target.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.suffix != ".arrows":
            path.unlink()


if __name__ == "__main__":
    sys.exit(main())
