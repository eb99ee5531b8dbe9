"""``docs/scale.md`` from ``docs/scale-data.json``: the words are in ``page.md`` beside this file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from tools.scale.fleets import SHARE
from tools.scale.prices import PRICES

_DOCS: Final = Path(__file__).resolve().parents[2] / "docs"
DATA: Final = _DOCS / "scale-data.json"
PAGE: Final = _DOCS / "scale.md"
_WORDS: Final = Path(__file__).with_name("page.md")
_PLACE: Final = re.compile(r"^\{(\w+)\}$", re.MULTILINE)


def page_of(data: Mapping[str, Any]) -> str:
    """The page for these data."""
    tables = {
        "machine": (
            f"{data['machine']}, {data['date']}, commit `{data['commit']}`; "
            f"each case for {data['seconds']:g} s."
        ),
        "measured": _measured(data["cases"]),
        "compared": _compared(data["compared"]),
        "capacities": _capacities(data["fleets"]),
        "fleets": _fleets(data["fleets"]),
        "costs": _costs(data["fleets"]),
        "prices": _table(
            ["", "creating, $ for 1,000", "reading, $ for 1,000", "source"],
            [[name, f"{each.create:.5f}", f"{each.read:.5f}", each.source] for name, each in PRICES.items()],
        ),
    }
    return _PLACE.sub(lambda place: tables[place[1]].rstrip("\n"), _WORDS.read_text())


def _measured(cases: Iterable[Mapping[str, Any]]) -> str:
    rows = [
        [
            case["storage"],
            str(case["writers"]),
            f"{case['events']:,}",
            _rate(case["commits_per_second"]),
            _rate(case["fewest_per_second"]),
            f"{1000 * case['median_wait_seconds']:.1f}",
            f"{1000 * case['longest_wait_seconds']:,.0f}",
            f"{case['cpu_milliseconds']:.1f}",
        ]
        for case in cases
    ]
    head = ["storage", "writers", "events a commit", "commits/s", "slowest writer"]
    return _table([*head, "median wait, ms", "longest, ms", "writers' CPU, ms a commit"], rows)


def _compared(rows: Iterable[Mapping[str, Any]]) -> str:
    return _table(
        ["storage", "writers", "measured commits/s", "simulated", "ratio"],
        [
            [
                row["storage"],
                str(row["writers"]),
                _rate(row["measured_per_second"]),
                _rate(row["simulated_per_second"]),
                f"{row['simulated_per_second'] / row['measured_per_second']:.2f}",
            ]
            for row in rows
        ],
    )


def _capacities(fleets: Iterable[Mapping[str, Any]]) -> str:
    most = {fleet["storage"]: fleet["capacity_per_second"] for fleet in fleets}
    return _table(
        ["storage", "commits/s that a log can make", "trainers a base, commit each 5 s", "each 60 s"],
        [
            [storage, _rate(rate), f"{int(5 * SHARE * rate):,}", f"{int(60 * SHARE * rate):,}"]
            for storage, rate in most.items()
        ],
    )


def _fleets(fleets: Iterable[Mapping[str, Any]]) -> str:
    rows = []
    for fleet in fleets:
        start = [
            fleet["storage"],
            f"{fleet['trainers']:,}",
            f"{fleet['every_seconds']:g} s",
            _rate(fleet["demand_per_second"]),
        ]
        if "median_wait_seconds" in fleet:
            waits = [_seconds(fleet[name]) for name in ("median_wait_seconds", "p99_wait_seconds")]
            requests = [_rate(fleet[name]) for name in ("creates_per_append", "reads_per_append")]
        else:
            waits, requests = ["falls behind", ""], ["", ""]
        rows.append([*start, *waits, *requests, f"{fleet['bases']:,}"])
    head = ["storage", "trainers", "commit each", "commits/s wanted", "median wait", "99 %"]
    return _table([*head, "creates an append", "reads an append", "bases it wants"], rows)


def _costs(fleets: Iterable[Mapping[str, Any]]) -> str:
    rows = []
    for fleet in fleets:
        if "object" not in fleet["storage"] or "median_wait_seconds" not in fleet:
            continue
        rates = {
            f"{kind}_per_second": fleet[f"{kind}_per_append"] * fleet["demand_per_second"]
            for kind in ("creates", "reads")
        }
        costs = [f"{prices.a_month(**rates):,.0f}" for prices in PRICES.values()]
        rows.append([fleet["storage"], f"{fleet['trainers']:,}", f"{fleet['every_seconds']:g} s", *costs])
    return _table(["storage", "trainers", "commit each", *(f"{name}, $" for name in PRICES)], rows)


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"  # noqa: PLR2004 - three digits are enough


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
