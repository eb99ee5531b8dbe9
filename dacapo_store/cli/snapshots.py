"""``snapshot``: what makes the next reader's first query fast."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dacapo_store.cli.care import BaseArgument, Json
from dacapo_store.cli.output import count, say, say_json, size
from dacapo_store.cli.places import base_of
from dacapo_store.cli.progress import progress

if TYPE_CHECKING:
    import typer


def add_to(app: typer.Typer) -> None:
    """Add this verb."""
    app.command()(snapshot)


def snapshot(base: BaseArgument = None, *, as_json: Json = False) -> None:
    """Make a snapshot file of the read models, if there is anything new since the last one.

    Readers begin with it instead of reading the whole log, and DuckDB opens it without this program.
    It is made in the background, too, when many events are new. Exit code 0, also when none was made.
    """
    from dacapo_store.housekeeping import publish
    from projections import ANYTHING_NEW

    root = base_of(base)
    with progress("making a snapshot"):
        published = publish(root, tail_limit=ANYTHING_NEW)
    if as_json:
        document = None if published is None else {**vars(published), "path": str(published.path)}
        say_json({"published": document})
    elif published is None:
        say("nothing new since the last snapshot, or another process is making one")
    else:
        say(f"{published.path}: {count(published.position, 'event')}, {size(published.bytes)}")
