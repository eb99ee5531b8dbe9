"""DaCapo's training is killed at random and resumed: nothing of what was acknowledged is lost.

A few lives here; ``make kills`` has twenty with each kind of store, and counts what DaCapo's own lose.
"""

from __future__ import annotations

import pytest

from tools.upstream import kills, process

LIVES = 4


def test_a_training_that_is_killed_again_and_again_loses_nothing() -> None:
    """Killed while it stores stats, weights, scores, and anywhere; each life goes on with the last."""
    outcomes = kills.compare(lives=LIVES, past=2000, only=("ours",))
    assert outcomes["ours"].lost == []
    assert outcomes["ours"].lives == LIVES
    assert outcomes["ours"].trained_until > 2000


def test_the_harness_notices_a_store_that_loses() -> None:
    """Stats that raise, scores of nobody, weights of another iteration: each is a line."""
    stored = {"stats": "a", "scores": [[4, "b"]], "weights": {"4": "w4"}}
    whole = {**stored, "latest": "4", "changed": []}
    assert kills.lost(stored, {}, whole) == []
    during = {"stats": "a2", "weights": {"8": "w8"}}
    assert kills.lost(stored, during, whole) == []
    after = {**whole, "stats": "a2", "weights": {"4": "w4", "8": "w8"}, "latest": "8"}
    assert kills.lost(stored, during, after) == []
    assert kills.lost(stored, {}, after) == ["stats: a2", "latest weights, which nobody stored: 8"]
    torn = {**after, "weights": {"4": "w4", "8": "EOFError"}}
    assert kills.lost(stored, during, torn) == ["latest weights, those of 8: EOFError"]
    assert kills.lost(stored, during, {**whole, "scores": "EOFError", "weights": {}, "latest": "None"}) == [
        "scores: EOFError",
        "weights of iteration 4: None",
        "latest weights: None",
    ]
    assert kills.lost(stored, {}, {**whole, "changed": ["the stats as of 7 are others"]}) == [
        "the stats as of 7 are others"
    ]


@pytest.mark.parametrize(("compat", "expected"), [("1", [[4, "a"], [12, "c"]]), ("", [[12, "c"]])])
def test_which_scores_are_in_view(
    monkeypatch: pytest.MonkeyPatch, compat: str, expected: list[list[object]]
) -> None:
    """After [4, 8], and DaCapo drops 8, resumes there and stores what it has."""
    monkeypatch.delenv(process.VARIABLE, raising=False)
    if compat:
        monkeypatch.setenv(process.VARIABLE, compat)
    assert kills.in_view([[4, "a"]], [[12, "c"]]) == expected
    assert kills.in_view([[4, "a"], [8, "b"]], [[4, "a"], [12, "c"]]) == [[4, "a"], [12, "c"]]
    assert kills.in_view([[4, "a"]], []) == [[4, "a"]]
