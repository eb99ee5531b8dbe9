"""Every benchmark runs, small and without a clock's verdict, and the page is what the data say."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tools.bench import __main__ as bench
from tools.bench.catalogue import BENCHMARKS
from tools.bench.measure import Row, Size, in_child, in_this_process, ratio
from tools.bench.peers import upstream
from tools.bench.remarks import MEANING, MISSED
from tools.bench.report import number, page, sections
from tools.bench.results import Goal, Plot, Section, Series

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("key", BENCHMARKS)
def test_benchmark_runs_and_measures_ours(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny run ends, says what it was to say, and becomes a part of the page."""
    monkeypatch.setattr(upstream, "PYTHON", "/nowhere")  # DaCapo's environment is another interpreter
    with in_this_process():
        section = BENCHMARKS[key](Size.TINY)
    assert section.key == key
    assert all(row.figures or row.note for row in section.rows.values())
    assert any(row.figures for row in section.rows.values())
    document = json.loads(json.dumps(section.as_document()))
    assert Section.of_document(document) == section
    assert section.title in page(_document(section))


def test_ratio_is_the_median_of_pairs() -> None:
    """A turn in which the whole machine was slow changes nothing."""
    rows = {"ours": Row({"s": [1.0, 10.0, 1.0]}), "theirs": Row({"s": [2.0, 20.0, 4.0]})}
    assert ratio(rows, "ours", "theirs", "s") == 0.5


def test_ratio_of_what_was_not_measured_is_none() -> None:
    """A peer that is not installed is no zero."""
    assert (
        ratio({"ours": Row({"s": [1.0]}), "theirs": Row(note="not installed")}, "ours", "theirs", "s") is None
    )


@pytest.mark.parametrize(
    ("value", "bound", "met"),
    [(1.0, "at least", True), (0.9, "at least", False), (1.1, "at most", False), (None, "at most", None)],
)
def test_goal_is_met_missed_or_open(value: float | None, bound: str, *, met: bool | None) -> None:
    """A bound counts itself in; what was not measured is neither met nor missed."""
    assert Goal("what", value, bound, 1.0).met is met  # type: ignore[arg-type]


def test_goals_stand_on_the_page_with_their_verdict() -> None:
    """What was measured stands beside the target, and what could not be says why."""
    goals = [
        Goal("speed", 2.0, "at least", 3.0),
        Goal("peace", None, "at most", 1.0, why_not="not there yet"),
    ]
    text = page(_document(Section("B1", "work", goals=goals)))
    assert "| B1 | speed | at least 3 × | **2** × | missed |" in text
    assert "| B1 | peace | at most 1 × | not there yet | open |" in text


def test_ratios_stand_in_front_of_absolute_figures() -> None:
    """They hold on other machines as well."""
    goals = [Goal("a wait", 1.0, "at most", 2.0, "ms"), Goal("a ratio", 1.0, "at least", 2.0)]
    text = page(_document(Section("B1", "work", goals=goals)))
    assert text.index("| B1 | a ratio |") < text.index("| B1 | a wait |")


def test_what_is_missed_stands_on_the_page_with_its_reason() -> None:
    """By how much, and why; what is met is not there."""
    goals = [Goal("speed", 2.0, "at least", 4.0), Goal("ease", 5.0, "at least", 4.0)]
    text = page(_document(Section("B3", "work", goals=goals)))
    assert f"- **B3**: speed (0.5 of the target). {MISSED['B3']}" in text
    assert "What is missed" not in page(_document(Section("B3", "work", goals=goals[1:])))


def test_every_benchmark_is_explained() -> None:
    """And nothing is explained that there is not."""
    assert set(MEANING) == set(BENCHMARKS)
    assert set(MISSED) <= set(BENCHMARKS)


def test_page_is_made_of_the_committed_data() -> None:
    """Nobody has edited the page, nobody has forgotten to make it, and its plots are there."""
    data, made = DOCS / "performance-data.json", DOCS / "performance.md"
    assert data.exists() == made.exists()
    if made.exists():
        document = json.loads(data.read_text())
        assert made.read_text() == page(document)
        plots = {f"{plot.name}.svg" for section in sections(document) for plot in section.plots}
        assert plots == {path.name for path in (DOCS / "performance").iterdir()}


def test_figures_are_in_the_file_when_a_benchmark_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interruption loses the one that was under way, and those of another time stay."""

    def interrupted(_: Size) -> Section:
        raise KeyboardInterrupt

    out = tmp_path / "data.json"

    def first(_: Size) -> Section:
        """B1: a first one."""
        return Section("B1", "first")

    def second(_: Size) -> Section:
        """Another."""
        return Section("B2", "second")

    benchmarks = {"B1": first, "B2": interrupted}
    monkeypatch.setattr(bench, "BENCHMARKS", benchmarks)
    monkeypatch.setattr(sys, "argv", ["bench", "--out", str(out)])
    with pytest.raises(KeyboardInterrupt):
        bench.main()
    assert list(json.loads(out.read_text())["sections"]) == ["B1"]

    benchmarks["B2"] = second
    monkeypatch.setattr(sys, "argv", ["bench", "B2", "--out", str(out)])
    bench.main()
    assert [section.title for section in sections(json.loads(out.read_text()))] == ["first", "second"]


def test_a_section_that_broke_off_shows_why() -> None:
    """A traceback is worth more than an empty table."""
    assert "ValueError: why" in page(_document(Section("B1", "work", failure="ValueError: why")))


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (12345.6, "12,346"), (0.012345, "0.0123"), (1.5, "1.5")]
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    """More would be noise."""
    assert number(value) == text


def test_plot_is_drawn_the_same_again(tmp_path: Path) -> None:
    """A plot changes in git only when its data do."""
    pytest.importorskip("matplotlib")
    from tools.bench.report import draw

    plot = Plot("p", "title", "x", "y", [Series("ours", [1.0, 10.0], [1.0, 2.0])])
    draw(plot, tmp_path / "one.svg")
    draw(plot, tmp_path / "two.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_an_error_in_a_child_is_told_with_its_traceback() -> None:
    """What a contestant says when it breaks off reaches the page."""
    with pytest.raises(RuntimeError, match="invalid literal"):
        in_child(int, "x")


def _document(section: Section) -> dict[str, object]:
    about = {
        "size": "tiny",
        "date": "2026-01-01",
        "commit": "0",
        "machine": "one",
        "versions": {"Python": "3"},
    }
    return {"sections": {section.key: {**about, "section": section.as_document()}}}
