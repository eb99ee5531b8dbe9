"""The verbs, put together. A new group is a module with ``add_to(app)`` and one line here."""

from __future__ import annotations

import typer

from dacapo_store.cli import care, change, doctor, look, mongo, moving, snapshots, trace

app = typer.Typer(
    name="dacapo-store",
    help="Ask, trace, mend and look after a base: configs, stats, weights and arrays of DaCapo runs.",
    no_args_is_help=True,
    add_completion=True,
    # A traceback with local variables is for programmers, and may show what a config holds.
    pretty_exceptions_enable=False,
)


@app.callback()
def _verbs() -> None:
    """With a callback, a single verb would keep its name, too."""


for group in (look, trace, change, care, snapshots, moving, doctor, mongo):
    group.add_to(app)
