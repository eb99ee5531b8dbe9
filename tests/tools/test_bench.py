"""Every benchmark runs, small and without a clock's verdict, and the page is what the data say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools.bench.catalogue import BENCHMARKS
from tools.bench.measure import Row, Size, in_child, in_this_process, ratio
from tools.bench.peers import upstream
from tools.bench.report import number, page
from tools.bench.results import Goal, Plot, Section, Series


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
