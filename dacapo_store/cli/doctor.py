"""``doctor``: is this storage fit for a base that many hosts use?"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from dacapo_store.cli import EXIT_PROBLEM
from dacapo_store.cli.care import Json
from dacapo_store.cli.output import remark, say, say_json

if TYPE_CHECKING:
    from eventstore import Diagnosis


def add_to(app: typer.Typer) -> None:
    """Add this verb."""
    app.command()(doctor)


def doctor(
    address: Annotated[str, typer.Argument(help="shared://, s3://, gs:// or az://.", metavar="ADDRESS")],
    *,
    as_json: Json = False,
) -> None:
    """Try a storage out: does it create an object once only, also in a race, and how fast is it?

    It leaves small objects under doctor/ at the address, which may be deleted. Exit code 0: a log can be
    kept there. 1: it cannot.

    Example: dacapo-store doctor s3://my-bucket/base
    """
    from eventstore import examine

    diagnosis = examine(address)
    if as_json:
        say_json(asdict(diagnosis))
    else:
        _say(diagnosis)
    if diagnosis.problem is not None:
        raise typer.Exit(EXIT_PROBLEM)


def _say(found: Diagnosis) -> None:
    if found.problem is not None:
        say(f"UNFIT: {found.problem}")
        return
    say(f"fit: an object is created once only, also in {found.races} races")
    if found.unanswered:
        say(f"{found.unanswered} requests got no clear answer; that costs time, and no data")
    say(f"create {found.create_milliseconds:.1f} ms (one in twenty {found.create_milliseconds_p95:.1f} ms)")
    say(f"read {found.read_milliseconds:.1f} ms, see that there is nothing {found.look_milliseconds:.1f} ms")
    say(
        f"expect {found.commits_per_second_alone:.0f} commits/s of one writer, "
        f"{found.commits_per_second_shared:.0f} of all together, however many write"
    )
    remark(f"what was created for this is at {found.address} and may be deleted")
