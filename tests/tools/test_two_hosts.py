"""Trainers on two hosts and a line that is cut: nothing is lost, and both see one order."""

from __future__ import annotations

from typing import Any

import pytest

from tools.postgres import MISSING, binaries
from tools.two_hosts import __main__ as two_hosts
from tools.two_hosts.network import unavailable


def test_a_line_that_is_cut_loses_nothing() -> None:
    """Who is cut off waits and is told nothing; the others go on; afterwards there is one history."""
    reason = MISSING if binaries() is None else unavailable()
    if reason is not None:
        pytest.skip(reason)
    outcome = two_hosts.play(iterations=400, cut_seconds=3.0)
    assert outcome.failures == []
    assert len(outcome.acknowledged) == len(outcome.during_cut) == 4
    assert set(outcome.acknowledged.values()) == {400}


def _seen(**changes: Any) -> dict[str, Any]:
    return {"position": 8, "chain": "ab", "runs": {"host1_run0": [20, 19]}, **changes}


@pytest.mark.parametrize(
    ("other", "during_cut", "failure"),
    [
        (_seen(chain="cd"), {}, "different histories"),
        (_seen(position=7), {}, "different histories"),
        (_seen(), {"host2_run0": 10}, "through a line that was cut"),
        (_seen(), {"host1_run0": 0}, "stood still"),
    ],
)
def test_what_would_be_wrong_is_told(other: dict[str, Any], during_cut: dict[str, int], failure: str) -> None:
    """The judge can say no."""
    (found,) = two_hosts._wrong({"host1_run0": 20}, [_seen(), other], during_cut)
    assert failure in found


def test_a_lost_iteration_is_told() -> None:
    """However few are missing."""
    (found,) = two_hosts._wrong({"host1_run0": 30}, [_seen(), _seen()], {})
    assert "30 iterations were acknowledged" in found
