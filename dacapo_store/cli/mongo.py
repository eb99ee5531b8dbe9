"""``mongo-rebuild``: the collections that dashboards read, made anew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dacapo_store.cli.care import BaseArgument, Json
from dacapo_store.cli.output import count, remark, say, say_json
from dacapo_store.cli.places import store_at

if TYPE_CHECKING:
    from dacapo_store.mongo_views import MongoViews


def add_to(app: typer.Typer) -> None:
    """Add this verb."""
    app.command()(mongo_rebuild)


def mongo_rebuild(
    base: BaseArgument = None,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    as_json: Json = False,
) -> None:
    """Make the collections anew that show in MongoDB what is in view: runs, training_stats and so on.

    They are kept up to date by whoever stores, and are derived of the log: this mends them after somebody has
    written into them. Documents that are DaCapo's own and were never imported are moved aside
    (<name>_before_dacapo_store), and nothing of them is lost.

    Example: dacapo-store mongo-rebuild 'mongodb://localhost/dacapo?files=/data/dacapo'
    """
    views = _views_of(base)
    foreign = views.foreign_collections()
    if dry_run:
        _say_plan(views, foreign, as_json=as_json)
        return
    position = views.rebuild()
    if as_json:
        say_json({"position": position, "moved_aside": foreign})
    else:
        say(f"the collections of {views.address} show {count(position, 'event')}")
        for name in foreign:
            remark(f"{name} is kept as {name}_before_dacapo_store")


def _views_of(base: str | None) -> MongoViews:
    views = store_at(base, writable=True).mongo_views
    if views is None:
        raise ValueError(
            "this base is not in MongoDB: give an address, mongodb://host/database?files=/a/folder"
        )
    return views


def _say_plan(views: MongoViews, foreign: list[str], *, as_json: bool) -> None:
    if as_json:
        say_json({"position": None, "moved_aside": foreign})
        return
    say(f"the collections of {views.address} would be made anew from the log")
    for name in foreign:
        say(f"{name} would be kept as {name}_before_dacapo_store")
    remark("Nothing was written: this was a dry run.")
