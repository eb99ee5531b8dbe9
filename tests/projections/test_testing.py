"""The helpers for tests of read models."""

from __future__ import annotations

from projections.testing import ENVELOPE, FIRST_RECORDED_AT, ListedLog, event


def test_an_envelope_has_the_columns_of_the_log() -> None:
    """So that what holds for given events holds for those of a log."""
    schema = ListedLog([event("X", {})]).read_batches(0).__next__().schema

    assert schema == ENVELOPE


def test_a_listed_log_is_read_from_a_position_in_batches() -> None:
    """Positions are places in the list."""
    log = ListedLog([event("X", {}) for _ in range(5)], batch_events=2)

    batches = list(log.read_batches(1))

    assert [batch["position"].to_pylist() for batch in batches] == [[1, 2], [3, 4]]
    assert batches[0]["recorded_at"][0].as_py() > FIRST_RECORDED_AT
