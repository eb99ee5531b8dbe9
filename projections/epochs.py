"""Epochs, which training stats and validation scores share: when a row ends its life.

A *life* is one epoch of one run. It is named by the position of the first event that recorded rows
in it, a number that any cutting into batches gives alike; rows carry that number instead of the
run's name and the epoch. So one small join adds run and epoch, a filter on the run becomes a range of
numbers, and liveness is decided once a life instead of once a row.

A row of epoch e is live as of N if no event before N began a later epoch that keeps nothing at the
row's iteration. It does not matter whether the row was recorded before or after that event: rows
that arrive late for an epoch that has ended go to history at once.
"""

# ruff: noqa: S608 - the SQL is put together from constants of this package, never from input
from __future__ import annotations

from projections.projection import Step, Table, fields, step

_NOTHING = -(2**63)


def epoch_tables(prefix: str) -> tuple[Table, Table]:
    """The tables of lives and of beginnings of epochs, e.g. ``training_lives`` and ``training_epochs``."""
    return (
        Table(
            f"{prefix}_lives",
            {"life": "UBIGINT NOT NULL", "run": "VARCHAR NOT NULL", "epoch": "BIGINT NOT NULL"},
            key=("life",),
        ),
        Table(
            f"{prefix}_epochs",
            {
                "run": "VARCHAR NOT NULL",
                "epoch": "BIGINT NOT NULL",
                "keeps_below": "BIGINT NOT NULL",
                "position": "UBIGINT NOT NULL",
            },
        ),
    )


def epoch_steps(
    prefix: str, *, recorded_type: str, recorded: str, begun_type: str, deleted_type: str
) -> tuple[Step, Step]:
    """The steps that fill these tables.

    Args:
        prefix: As for ``epoch_tables``.
        recorded_type: The event type that records rows.
        recorded: A subquery of these events: position, run, epoch.
        begun_type: The event type that begins an epoch and keeps rows below an iteration.
        deleted_type: The event type that begins an epoch and keeps nothing.
    """
    lives = f"""
        INSERT INTO tail.{prefix}_lives
        SELECT min(position), run, epoch
        FROM ({recorded}) AS recorded ANTI JOIN history.{prefix}_lives AS lives USING (run, epoch)
        GROUP BY run, epoch"""
    beginnings = f"""
        INSERT INTO tail.{prefix}_epochs
        SELECT fields.run, fields.epoch, fields.keeps_below, position
        FROM ({fields(begun_type, '{"run":"VARCHAR","epoch":"BIGINT","keeps_below":"BIGINT"}')})
        UNION ALL
        SELECT fields.run, fields.epoch, {_NOTHING}, position
        FROM ({fields(deleted_type, '{"run":"VARCHAR","epoch":"BIGINT"}')})"""
    return step(lives, recorded_type), step(beginnings, begun_type, deleted_type)


def lives_as_of(prefix: str) -> str:
    """A subquery of the lives with what they keep: life, run, epoch, keeps_below (NULL for all)."""
    return f"""
        SELECT lives.life, lives.run, lives.epoch, min(later.keeps_below) AS keeps_below
        FROM history.{prefix}_lives AS lives LEFT JOIN history.{prefix}_epochs AS later
            ON later.run = lives.run AND later.epoch > lives.epoch AND later.position < as_of
        GROUP BY lives.life, lives.run, lives.epoch"""


IS_LIVE = "(keeps_below IS NULL OR iteration < keeps_below) AND position < as_of"
"""The condition on a row joined to its life."""
