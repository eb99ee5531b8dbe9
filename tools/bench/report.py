"""The page of figures: ``python -m tools.bench.report [docs/performance-data.json]``.

Makes ``performance.md`` beside the data, and the plots in ``performance/``. The page depends on the data
alone, so a test can hold the committed page against the committed data.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tools.bench.remarks import MEANING, MISSED
from tools.bench.results import Goal, Plot, Section

_DEFAULT: Final = Path("docs/performance-data.json")
_THOUSAND: Final = 1000
_LINES_IN_A_FIGURE: Final = "-o"

_INTRODUCTION: Final = """\
# Performance

Made by `make bench`: `python -m tools.bench` measures, and `python -m tools.bench.report` makes this
page of `performance-data.json`.

Everything ran side by side: each contestant in a process of its own, in turns. Figures are medians, and
a ratio is the median of the ratios of the turns. `×` compares two contestants; other units are absolute
and say as much about the machine as about the code.
"""


def main() -> None:
    """Make the page and the plots of a file of figures."""
    data = Path(sys.argv[1]) if len(sys.argv) > 1 else _DEFAULT
    document = json.loads(data.read_text())
    data.with_name("performance.md").write_text(page(document))
    folder = data.with_name("performance")
    folder.mkdir(exist_ok=True)
    for section in sections(document):
        for plot in section.plots:
            draw(plot, folder / f"{plot.name}.svg")


def sections(document: Mapping[str, Any]) -> list[Section]:
    """The sections of a file, in the order of the catalogue's keys."""
    found = [Section.of_document(each["section"]) for each in document["sections"].values()]
    return sorted(found, key=lambda section: _place(section.key))


def _place(key: str) -> tuple[int, str]:
    digits = "".join(character for character in key if character.isdigit())
    return (int(digits), key) if digits else (_THOUSAND, key)


def page(document: Mapping[str, Any]) -> str:
    """The page, in Markdown."""
    found = sections(document)
    parts = [_INTRODUCTION, *_circumstances(document), "## Goals\n", _goals_table(found), *_missed(found)]
    for section in found:
        parts += [f"## {section.key}: {section.title}\n", *_meaning(section), *_body(section)]
    return "\n".join(parts).rstrip() + "\n"


def _missed(found: Iterable[Section]) -> list[str]:
    """What is missed, by how much, and why."""
    lines = []
    for section in found:
        short = [f"{goal.what} ({_distance(goal)})" for goal in section.goals if goal.met is False]
        if short:
            why = MISSED.get(section.key, "Nobody has looked into it yet.")
            lines.append(f"- **{section.key}**: {'; '.join(short)}. {why}")
    return ["## What is missed, and why\n", *lines, ""] if lines else []


def _distance(goal: Goal) -> str:
    assert goal.value is not None, "it was measured"
    if not goal.target:
        return f"{number(goal.value)} {goal.unit}"
    share = goal.value / goal.target
    return f"{number(share)} of the target"


def _meaning(section: Section) -> list[str]:
    return [f"{MEANING[section.key]}\n"] if section.key in MEANING else []


def _circumstances(document: Mapping[str, Any]) -> list[str]:
    """Machine, versions, date and commit: once where all sections share them."""
    lines = []
    for name in ("machine", "versions", "date", "commit", "size"):
        keys_by_value: dict[str, list[str]] = {}
        for key, each in document["sections"].items():
            keys_by_value.setdefault(_as_text(each[name]), []).append(key)
        if len(keys_by_value) == 1:
            lines.append(f"- {name}: {next(iter(keys_by_value))}")
        else:
            lines += [
                f"- {name}: {value} ({', '.join(sorted(keys, key=_place))})"
                for value, keys in keys_by_value.items()
            ]
    return [*lines, ""]


def _as_text(value: Any) -> str:
    return (
        ", ".join(f"{name} {each}" for name, each in value.items()) if isinstance(value, dict) else str(value)
    )


def _goals_table(found: Iterable[Section]) -> str:
    goals = [(section, goal) for section in found for goal in section.goals]
    # Ratios first: they hold on other machines as well.
    goals.sort(key=lambda each: each[1].unit != Goal.unit)
    rows = [
        (section.key, goal.what, _reach(goal), _measured(goal), _verdict(goal)) for section, goal in goals
    ]
    return _table(("#", "what", "reach", "measured", ""), rows)


def _reach(goal: Goal) -> str:
    return f"{goal.bound} {number(goal.target)} {goal.unit}"


def _measured(goal: Goal) -> str:
    if goal.value is None:
        return goal.why_not or "not measured"
    return f"**{number(goal.value)}** {goal.unit}"


def _verdict(goal: Goal) -> str:
    return {True: "met", False: "missed", None: "open"}[goal.met]


def _body(section: Section) -> list[str]:
    """Goals, then the table, then notes and plots."""
    if section.failure:
        return ["This benchmark broke off:\n", "```text", section.failure.rstrip(), "```\n"]
    parts = []
    if section.goals:
        rows = [(goal.what, _reach(goal), _measured(goal), _verdict(goal)) for goal in section.goals]
        parts.append(_table(("goal", "reach", "measured", ""), rows))
    parts.append(_rows_table(section))
    parts += [f"{note}\n" for note in section.notes]
    parts.append(
        f"The machine's load was {section.load:.1f} when it began; it took {section.seconds:.0f} s.\n"
    )
    parts += [f"![{plot.title}](performance/{plot.name}.svg)\n" for plot in section.plots]
    return parts


def _rows_table(section: Section) -> str:
    figures = list(dict.fromkeys(figure for row in section.rows.values() for figure in row.figures))
    rows = []
    for name, row in section.rows.items():
        cells = [_cell(row.figures.get(figure)) for figure in figures]
        if not row.figures:
            cells = [row.note or "not measured", *[""] * (len(figures) - 1)]
        rows.append((name, *cells))
    return _table(("", *figures), rows)


def _cell(samples: Sequence[float] | None) -> str:
    return number(statistics.median(samples)) if samples else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def number(value: float) -> str:
    """A number with three significant digits, or all digits in front of the point."""
    if value == 0 or value != value:  # noqa: PLR0124 - NaN is what differs from itself
        return f"{value:g}"
    if abs(value) >= _THOUSAND:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def section_text(section: Section) -> str:
    """The section for a terminal."""
    lines = [f"{section.key}: {section.title} ({section.seconds:.0f} s, load {section.load:.1f})"]
    lines += [
        f"  {_verdict(goal):<6} {goal.what}: {_measured(goal).replace('**', '')} ({_reach(goal)})"
        for goal in section.goals
    ]
    for name, row in section.rows.items():
        shown = "; ".join(f"{figure} {_cell(samples)}" for figure, samples in row.figures.items())
        lines.append(f"    {name}: {shown or row.note}")
    if section.failure:
        lines.append(section.failure)
    return "\n".join(lines)


def draw(plot: Plot, path: Path) -> None:
    """Draw a plot as SVG; the same data give the same file."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": plot.name, "svg.fonttype": "path"}):
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        for line in plot.lines:
            axes.plot(line.x, line.y, _LINES_IN_A_FIGURE, label=line.name)
        if plot.logarithmic:
            axes.set_xscale("log")
            axes.set_yscale("log")
        axes.set(title=plot.title, xlabel=plot.x_label, ylabel=plot.y_label)
        axes.grid(visible=True, alpha=0.3)
        axes.legend()
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
