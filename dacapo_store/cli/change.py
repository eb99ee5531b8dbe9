"""``rewind``, ``restore``, ``replay``, ``export``: undoing mistakes, branching, moving out.

What is undone is undone by new events; history is never rewritten. On a terminal these verbs ask first.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dacapo_store.cli import EXIT_PROBLEM
from dacapo_store.cli.look import At, BaseOption, Run
from dacapo_store.cli.output import count, remark, say, say_json, size
from dacapo_store.cli.places import base_of, store_at
from dacapo_store.cli.progress import progress
from dacapo_store.cli.tables import Json
from dacapo_store.cli.trace import Kind, Name

if TYPE_CHECKING:
    from dacapo_store.corrections import Correction

DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be written.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def add_to(app: typer.Typer) -> None:
    """Add these verbs."""
    for verb in (rewind, restore, replay, export):
        app.command()(verb)


def rewind(
    run: Run,
    iteration: Annotated[
        int, typer.Argument(help="How many iterations it has trained then.", metavar="ITERATION")
    ],
    *,
    dry_run: DryRun = False,
    yes: Yes = False,
    base: BaseOption = None,
) -> None:
    """Bring a run back to an iteration: stats, scores, weights and best weights, in one commit.

    What leaves the view stays in the history, and restore brings it back.

    Example: dacapo-store rewind run_7 40000
    """
    store = store_at(base, writable=True)
    _carry_out(lambda **how: store.rewind(run, iteration, **how), dry_run=dry_run, yes=yes)


def restore(
    kind: Kind,
    name: Name,
    *,
    at: Annotated[
        str | None,
        typer.Option(help="When it was as it should be; default: before its last change.", metavar="MOMENT"),
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    base: BaseOption = None,
) -> None:
    """Bring a thing back to what it was: a deleted config, replaced stats, rewound weights.

    Example: dacapo-store restore tasks seg
    """
    store = store_at(base, writable=True)
    _carry_out(lambda **how: store.restore(kind, name, at=at, **how), dry_run=dry_run, yes=yes)


def _carry_out(correct: Callable[..., Correction], *, dry_run: bool, yes: bool) -> None:
    planned = correct(dry_run=True)
    for stream, summary in planned.steps:
        say(f"{stream}\t{summary}")
    if not planned:
        remark("nothing to do")
    elif dry_run:
        remark("Nothing was written: this was a dry run.")
    elif yes or not sys.stdin.isatty() or typer.confirm("Write this?", err=True):
        remark(f"written; the log is at position {correct().position}")
    else:
        remark("Nothing was written.")
        raise typer.Exit(EXIT_PROBLEM)


def replay(
    into: Annotated[
        str,
        typer.Argument(help="An empty or missing folder, or an address, for the new base.", metavar="TARGET"),
    ],
    *,
    until: Annotated[str | None, typer.Option(help="As of this position or time.", metavar="MOMENT")] = None,
    types: Annotated[
        list[str] | None, typer.Option("--type", help="Only events of this type; may be repeated.")
    ] = None,
    payloads: Annotated[str, typer.Option(help="Weights files: link, copy or none.")] = "link",
    check: Annotated[
        bool, typer.Option("--check", help="Compare all read models of the two bases afterwards.")
    ] = False,
    dry_run: DryRun = False,
    base: BaseOption = None,
    as_json: Json = False,
) -> None:
    """Make a new base from the events of this one, with their ids and times: a branch, or a part.

    Example: dacapo-store replay ../branch --until 2026-03-01T00:00Z --check
    """
    from dacapo_store.replay import plan_replay, same_content
    from dacapo_store.replay import replay as make

    if payloads not in ("link", "copy", "none"):
        raise ValueError(f"--payloads is link, copy or none, not {payloads!r}")
    source = base_of(base)
    if dry_run:
        plan = plan_replay(source, into, until=until, types=types)
        if as_json:
            say_json(plan)
        else:
            weights = f"{count(plan.payloads, 'weights file')} ({size(plan.payload_bytes)})"
            say(f"{count(plan.events, 'event')} and {weights}, as of position {plan.position}")
            remark("Nothing was written: this was a dry run.")
        return
    with progress("writing events") as report:
        how: Any = payloads
        receipt = make(source, into, until=until, types=types, payloads=how, progress=report)
    equal = None
    if check and receipt.complete:
        with progress("comparing read models"):
            equal = same_content(source, into, position=receipt.position)
    if as_json:
        say_json({**receipt.__dict__, "equal": equal})
    else:
        for path, reason in receipt.missing:
            say(f"missing\t{path}\t{reason}")
        say(
            f"{count(receipt.events, 'event')}, {count(receipt.payloads, 'weights file')}; "
            f"chain {receipt.new_chain}"
        )
        say(f"made from position {receipt.position} chain {receipt.chain}")
        if equal is not None:
            say("all read models are equal" if equal else "READ MODELS DIFFER")
    if receipt.missing or equal is False:
        raise typer.Exit(EXIT_PROBLEM)


def export(
    view: Annotated[str, typer.Argument(help="A public view, e.g. training_stats.", metavar="VIEW")],
    out: Annotated[Path, typer.Argument(help="A .parquet, .csv, .jsonl or .arrow file.", metavar="FILE")],
    *,
    run: Annotated[str | None, typer.Option("--run", "-r", help="Only this run, or a pattern.")] = None,
    base: BaseOption = None,
    at: At = None,
) -> None:
    """Write a view to a file that any other tool reads.

    Example: dacapo-store export training_stats losses.parquet --run 'unet_*'
    """
    from dacapo_store.exports import export_view

    store = store_at(base, at)
    with progress(f"writing {out.name}"):
        rows = export_view(store, view, out, run=run)
    remark(f"{count(rows, 'row')} written to {out}")
