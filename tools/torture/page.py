"""``python -m tools.torture.page``: ``docs/reliability.md`` from ``docs/reliability-data.json``.

The words are in ``page.md`` beside this file, the figures are the suites'. A word in braces that has a
line of its own there stands for what was counted. The page is never edited by hand; a test holds it
to what this makes of the committed data.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from tools.torture.report import shown

_DOCS: Final = Path(__file__).resolve().parents[2] / "docs"
DATA: Final = _DOCS / "reliability-data.json"
PAGE: Final = _DOCS / "reliability.md"

_WORDS: Final = Path(__file__).with_name("page.md")
_PLACE: Final = re.compile(r"^\{(\w+)\}$", re.MULTILINE)
_HEADING: Final = re.compile(r"^## (.+)$|^\{(\w+)\}$", re.MULTILINE)
_GROUP_MIN: Final = 2
"""So many figures whose names begin alike get a table of their own."""

_ESSENCE: Final = {
    "kill": "kills",
    "power_cut": "crash points",
    "real_disk": "power cuts",
    "damage": "cases",
    "faults": "calls that failed",
    "histories": "histories",
    "mutations": "ways to break the code",
}
"""The one figure of a suite that says how much was done."""


def page_of(data: Mapping[str, Any]) -> str:
    """The page for these data."""
    words, suites = _WORDS.read_text(), data["suites"]

    def filled(place: re.Match[str]) -> str:
        name = place[1]
        if name == "summary":
            return _summary(_titles(words), suites)
        return "\n".join(_results(name, suites[name])) if name in suites else "Not run yet.\n"

    return _PLACE.sub(filled, words)


def write_page() -> None:
    """Make the page anew."""
    PAGE.write_text(page_of(json.loads(DATA.read_text())))


def _titles(words: str) -> dict[str, str]:
    """The heading that each suite's figures stand under."""
    titles, title = dict[str, str](), ""
    for found in _HEADING.finditer(words):
        title = found[1] or title
        if found[2] not in (None, "summary"):
            titles[found[2]] = title
    return titles


def _summary(titles: Mapping[str, str], suites: Mapping[str, Any]) -> str:
    rows = []
    for name, title in titles.items():
        anchor = title.lower().replace(",", "").replace(" ", "-")
        rows.append(
            [f"[{title}](#{anchor})", *(_short(name, suites[name]) if name in suites else ("", "not run"))]
        )
    return _table(["suite", "what was done", "outcome"], rows)


def _short(name: str, report: Mapping[str, Any]) -> tuple[str, str]:
    """How much was done, and what came of it."""
    figures, failed = report["figures"], len(report["failures"])
    outcome = f"**{failed} failed**" if failed else "clean"
    if "not run" in figures:
        outcome = f"not run: {figures['not run']}"
    elif not report["long"]:
        outcome += ", short run"
    if name == "fairness":
        ours, theirs = (figures[f"{who}: longest wait in ms, worst round"] for who in ("log", "sqlite"))
        return f"longest wait {shown(ours)} ms; SQLite {shown(theirs)} ms", outcome
    if name == "engines":
        return (
            f"{shown(sum(figures[key] for key in figures if key.endswith(': histories')))} histories",
            outcome,
        )
    if name == "fuzz":
        return f"{shown(sum(figures[key] for key in figures if key.startswith('cases: ')))} cases", outcome
    essence = _ESSENCE[name]
    return f"{shown(figures[essence])} {essence}" if essence in figures else "", outcome


def _results(name: str, report: Mapping[str, Any]) -> Iterator[str]:
    versions = ", ".join(f"{package} {version}" for package, version in report["versions"].items())
    yield (
        f"A {'long' if report['long'] else 'short'} run of {report['seconds']:,.0f} s on {report['date']}, "
        f"commit `{report['commit']}`, seed {report['seed']}; {report['machine']}; {versions}.\n"
    )
    figures = report["figures"]
    if name == "mutations":
        found = [(key.split(": ", 1), figure) for key, figure in figures.items() if ": " in key]
        rows = [[what, suite, shown(figure)] for (suite, what), figure in found]
        yield _table(["what is broken", "who notices", "after"], rows)
    else:
        for title, group in _grouped(figures).items():
            yield _table([title, ""], [[key, shown(figure)] for key, figure in group.items()])
    if report["failures"]:
        yield "**Failed:**\n\n" + "".join(f"- {failure}\n" for failure in report["failures"])


def _grouped(figures: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Figures whose names begin alike together, by what they begin with; the others first."""
    groups: dict[str, dict[str, Any]] = {"": {}}
    for name, figure in figures.items():
        head, colon, rest = name.partition(": ")
        groups.setdefault(head if colon else "", {})[rest or name] = figure
    for head in [head for head, group in groups.items() if head and len(group) < _GROUP_MIN]:
        groups[""] |= {f"{head}: {rest}": figure for rest, figure in groups.pop(head).items()}
    return {head: group for head, group in groups.items() if group}


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


if __name__ == "__main__":
    write_page()
