"""How a command tells its outcome: lines for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, is_dataclass
from typing import Any

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")
_KIB = 1024


def say(line: str) -> None:
    """A line of the outcome."""
    print(line)


def remark(line: str) -> None:
    """A line beside the outcome."""
    print(line, file=sys.stderr)


def say_json(document: Any) -> None:
    """The outcome as one JSON document."""
    plain = asdict(document) if is_dataclass(document) and not isinstance(document, type) else document
    print(json.dumps(plain, indent=1, default=lambda value: value.hex()))


def size(number: int) -> str:
    """A number of bytes as people read it."""
    amount, unit = float(number), 0
    while amount >= _KIB and unit < len(_UNITS) - 1:
        amount, unit = amount / _KIB, unit + 1
    return f"{amount:.0f} {_UNITS[unit]}" if unit == 0 else f"{amount:.1f} {_UNITS[unit]}"


def count(number: int, thing: str) -> str:
    """``1 event``, ``2 events``."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
