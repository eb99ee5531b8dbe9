"""``import`` and ``export-dacapo``: from DaCapo's own stores to this one, and back.

A bar on a terminal says how far the reading is. What could not be moved is listed, and the exit code
says that there was something; everything else is moved all the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dacapo_store.cli import EXIT_PROBLEM
from dacapo_store.cli.change import DryRun
from dacapo_store.cli.look import At, BaseOption
from dacapo_store.cli.output import count, remark, say, say_json, size
from dacapo_store.cli.places import base_of, local_base_of
from dacapo_store.cli.progress import progress
from dacapo_store.cli.tables import Json, show

if TYPE_CHECKING:
    from dacapo_store.moving import ExportReport, ImportReport


def add_to(app: typer.Typer) -> None:
    """Add these verbs."""
    app.command("import")(import_)
    app.command("export-dacapo")(export_dacapo)


def import_(
    source: Annotated[
        Path | None,
        typer.Argument(help="DaCapo's base directory; default: that of dacapo.yaml.", metavar="[BASE]"),
    ] = None,
    *,
    into: Annotated[
        str | None,
        typer.Option(
            help="The base that gets everything, a directory or an address; default: BASE becomes one.",
            metavar="BASE",
        ),
    ] = None,
    from_mongo: Annotated[
        tuple[str, str] | None,
        typer.Option(help="Take configs and stats from this database instead of files.", metavar="URI DB"),
    ] = None,
    link: Annotated[
        bool,
        typer.Option(
            "--link",
            help="With --into: share files with BASE; only if DaCapo will not write there again.",
        ),
    ] = False,
    array_digests: Annotated[
        bool,
        typer.Option(
            "--array-digests/--no-array-digests",
            help="Read all arrays to record what they hold, or only count.",
        ),
    ] = True,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Make what DaCapo's own stores have written part of a base: configs, stats, weights, arrays.

    In place, all files stay where they are. It may be repeated: what is there is not imported again.
    End DaCapo's processes first. Exit code 0: everything. 1: something could not be read.

    Example: dacapo-store import ~/dacapo --dry-run

    Example: dacapo-store import ~/dacapo --from-mongo mongodb://localhost dacapo
    """
    from dacapo_store.moving import import_base

    found = None
    if source is not None or from_mongo is None or into is None:
        found = local_base_of(None if source is None else str(source))
    with _database(from_mongo) as database, progress("importing") as told:
        report = import_base(
            found,
            into=None if into is None else base_of(into),
            mongo=database,
            payloads="link" if link else "copy",
            array_digests=array_digests,
            dry_run=dry_run,
            progress=told,
        )
    if as_json:
        say_json(asdict(report))
    else:
        _say(report, "imported", report.imported)
        if not report.dry_run:
            remark(f"The log of {report.base} is at position {report.position}.")
    if report.problems:
        raise typer.Exit(EXIT_PROBLEM)


def export_dacapo(
    target: Annotated[
        Path, typer.Argument(help="An empty or missing folder for DaCapo's base.", metavar="TARGET")
    ],
    *,
    base: BaseOption = None,
    at: At = None,
    link: Annotated[
        bool, typer.Option("--link", help="Share files with the base; only if TARGET is never written to.")
    ] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Write the state of a base as a base of DaCapo's own stores: configs, stats, weights, arrays.

    One that was interrupted is simply repeated. Exit code 0: everything. 1: something DaCapo's stores
    cannot hold, or that could not be read.

    Example: dacapo-store export-dacapo ../back --at 2026-03-01T00:00Z --dry-run
    """
    from dacapo_store.moving import export_base

    with progress("exporting") as told:
        report = export_base(
            base_of(base),
            target,
            at=at,
            payloads="link" if link else "copy",
            dry_run=dry_run,
            progress=told,
        )
    if as_json:
        say_json(asdict(report))
    else:
        _say(report, "exported", report.exported)
        remark(f"The state is that as of position {report.position}.")
    if report.problems:
        raise typer.Exit(EXIT_PROBLEM)


def _say(report: ImportReport | ExportReport, done: str, counts: Mapping[str, int]) -> None:
    import pyarrow as pa

    for place, reason in report.remarks:
        remark(f"{place}: {reason}")
    for place, reason in report.problems:
        say(f"not {done}\t{_one_line(place)}\t{_one_line(reason)}")
    kinds = sorted(counts.keys() | report.known.keys())
    columns = {
        "kind": pa.array(kinds, pa.string()),
        f"would be {done}" if report.dry_run else done: [counts.get(kind, 0) for kind in kinds],
        "known": [report.known.get(kind, 0) for kind in kinds],
    }
    show(pa.table(columns))
    remark(
        f"{size(report.payload_bytes)} of weights and arrays, {size(report.copied_bytes)} copied; "
        f"{count(len(report.problems), 'problem')}"
    )
    if report.dry_run:
        remark("Nothing was written: this was a dry run.")


def _one_line(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n")


@contextlib.contextmanager
def _database(address: tuple[str, str] | None) -> Iterator[Any]:
    if address is None:
        yield None
        return
    from dacapo_store.moving.upstream_mongo import connected

    try:
        with connected(*address) as database:
            yield database
    except ImportError as error:
        raise ValueError(str(error)) from error
