"""``runs``, ``show``, ``configs``, ``best``, ``stats``, ``scores``, ``sql``, ``cite``, ``plot``, ``stat``.

Every verb takes ``--at`` a position or a time, and then answers as it would have done then.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dacapo_store.cli.output import remark, say, size
from dacapo_store.cli.places import base_of, store_at
from dacapo_store.cli.tables import ArrowFile, Csv, Json, plain, show

if TYPE_CHECKING:
    from projections import Rows

BaseOption = Annotated[
    str | None,
    typer.Option(
        "--base", "-b", help="The base directory or address; default: that of dacapo.yaml.", metavar="DIR"
    ),
]
At = Annotated[
    str | None,
    typer.Option(
        help="As of this position or time, e.g. 4711 or '2026-03-01 14:00+01:00'.", metavar="MOMENT"
    ),
]
Run = Annotated[str, typer.Argument(help="The run's name.", metavar="RUN")]
Limit = Annotated[int | None, typer.Option("--limit", "-n", help="At most so many rows.", min=0)]

PROMPT = "dacapo-store> "


def add_to(app: typer.Typer) -> None:
    """Add these verbs."""
    for verb in (runs, configs, best, stats, scores, sql, cite, plot, stat):
        app.command()(verb)
    app.command("show")(show_run)


def runs(
    patterns: Annotated[
        list[str] | None, typer.Argument(help="Names, or patterns with * and ?; default: all.", metavar="RUN")
    ] = None,
    *,
    base: BaseOption = None,
    at: At = None,
    limit: Limit = None,
    as_json: Json = False,
    as_csv: Csv = False,
    arrow: ArrowFile = None,
) -> None:
    """List runs: their parts, how far they are, and when they were last heard of.

    Example: dacapo-store runs 'unet_*'
    """
    import fnmatch

    table = store_at(base, at).runs().arrow()
    if patterns:
        names = table.column("run").to_pylist()
        wanted = [any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns) for name in names]
        table = table.filter(wanted)
    show(table if limit is None else table.slice(0, limit), as_json=as_json, as_csv=as_csv, arrow=arrow)


def show_run(
    run: Run,
    *,
    repro: Annotated[bool, typer.Option("--repro", help="Print the commands that start it again.")] = False,
    base: BaseOption = None,
    at: At = None,
    as_json: Json = False,
) -> None:
    """Show one run: its config, how far it is, its best weights, the processes that trained it.

    Example: dacapo-store show run_7 --at 2026-03-01T14:00Z

    Example: dacapo-store show run_7 --repro
    """
    known = store_at(base, at).run(run)
    if repro:
        from dacapo_store.process_record import command_of

        if not known["processes"]:
            raise ValueError(f"how the processes of run {run!r} were started is not on record")
        say(command_of(known["processes"][-1]))
    elif as_json:
        say(json.dumps(plain(known), indent=1))
    else:
        _say_document(plain(known))


def _say_document(document: dict[str, Any], indent: str = "") -> None:
    for key, value in document.items():
        if isinstance(value, dict) and value:
            say(f"{indent}{key}:")
            _say_document(value, indent + "  ")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for number, each in enumerate(value, 1):
                say(f"{indent}{key} {number}:")
                _say_document(each, indent + "  ")
        elif value not in (None, {}, []):
            say(f"{indent}{key}: {value if isinstance(value, str) else json.dumps(value)}")


def configs(
    kind: Annotated[
        str | None, typer.Argument(help="runs, tasks, architectures, trainers …; default: all.")
    ] = None,
    name: Annotated[str | None, typer.Argument(help="Print this config.")] = None,
    *,
    base: BaseOption = None,
    at: At = None,
    as_json: Json = False,
    as_csv: Csv = False,
    arrow: ArrowFile = None,
) -> None:
    """List configs, or print one.

    Example: dacapo-store configs tasks seg
    """
    from dacapo_store.audit import stream_of

    store = store_at(base, at)
    if name is not None and kind is not None:
        say(json.dumps(plain(store.config(kind, name)), indent=1))
        return
    if kind is not None:
        stream_of(kind, "")  # refuses what is no kind
    table = store.sql(
        "SELECT kind, name, recorded_at FROM configs WHERE kind = coalesce($kind, kind) ORDER BY ALL",
        {"kind": kind},
    ).arrow()
    show(table, as_json=as_json, as_csv=as_csv, arrow=arrow)


def best(
    *,
    base: BaseOption = None,
    at: At = None,
    as_json: Json = False,
    as_csv: Csv = False,
    arrow: ArrowFile = None,
) -> None:
    """List the best weights that were chosen, for each run, dataset and criterion."""
    show(store_at(base, at).best().arrow(), as_json=as_json, as_csv=as_csv, arrow=arrow)


def stats(
    run: Run,
    *,
    base: BaseOption = None,
    at: At = None,
    limit: Limit = None,
    as_json: Json = False,
    as_csv: Csv = False,
    arrow: ArrowFile = None,
) -> None:
    """Print a run's training stats: one row an iteration; with --limit the last ones.

    Example: dacapo-store stats run_7 --limit 10
    """
    store = store_at(base, at)
    store.require_run(run)
    table = store.training_table(run)
    rows = table.num_rows
    table = table if limit is None else table.slice(max(rows - limit, 0))
    show(table, as_json=as_json, as_csv=as_csv, arrow=arrow)


def scores(
    run: Run,
    *,
    base: BaseOption = None,
    at: At = None,
    as_json: Json = False,
    as_csv: Csv = False,
    arrow: ArrowFile = None,
) -> None:
    """Print a run's validation scores, one row for each dataset, parameters and criterion."""
    store = store_at(base, at)
    store.require_run(run)
    table = store.sql(
        """SELECT iteration, dataset, parameters, criterion, score FROM validation_scores WHERE run = ?
        ORDER BY position, ordinal""",
        [run],
    ).arrow()
    show(table, as_json=as_json, as_csv=as_csv, arrow=arrow)


def sql(  # noqa: PLR0913 - a command has as many options as it has
    query: Annotated[
        str | None, typer.Argument(help="One SELECT; '-' reads it from stdin; none: a prompt.")
    ] = None,
    *,
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", "-p", help="A value for $NAME.", metavar="NAME=VALUE")
    ] = None,
    base: BaseOption = None,
    others: Annotated[
        list[Path] | None,
        typer.Option(
            "--with",
            help="Another base; may be repeated. Views then have a column more: base.",
            metavar="BASE",
        ),
    ] = None,
    at: At = None,
    seconds: Annotated[float, typer.Option(help="How long it may take.", min=0)] = 300.0,
    as_json: Json = False,
    as_csv: Csv = False,
    arrow: ArrowFile = None,
) -> None:
    """Ask in SQL, over the public views: read-only, and nothing but the views.

    Example: dacapo-store sql 'SELECT run, min(loss) FROM training_stats GROUP BY run'
    """
    if others:
        ask = _across([base_of(base), *others], at, seconds)
    else:
        ask = partial(store_at(base, at).sql, seconds=seconds)
    if query is None and sys.stdin.isatty():
        _converse(ask)
        return
    text = sys.stdin.read() if query in (None, "-") else str(query)
    values = dict(_named_value(each) for each in parameter or ())
    show(ask(text, values or None).arrow(), as_json=as_json, as_csv=as_csv, arrow=arrow)


def _across(bases: list[Path | str], at: str | None, seconds: float) -> Callable[..., Rows]:
    from dacapo_store.store import sql as ask

    return partial(ask, bases, as_of=at, seconds=seconds)


def _named_value(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ValueError(f"a parameter is NAME=VALUE, not {text!r}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _converse(ask: Callable[..., Rows]) -> None:
    """Questions and answers until the end of input; a question ends with a semicolon."""
    import contextlib

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - gives input() a history

    remark("SQL over the public views; SHOW TABLES; lists them. A query ends with ';'. Ctrl-D leaves.")
    lines: list[str] = []
    while True:
        try:
            lines.append(input("... " if lines else PROMPT))
        except EOFError:
            return
        except KeyboardInterrupt:
            lines = []
            remark("")
            continue
        if not "".join(lines).strip():
            lines = []
        elif lines[-1].rstrip().endswith(";"):
            text, lines = "\n".join(lines), []
            try:
                show(ask(text).arrow())
            except Exception as error:  # noqa: BLE001 - told, and the next question asked
                remark(str(error))


def cite(*, base: BaseOption = None, at: At = None) -> None:
    """Print base@position#chain, by which others can query the very same state.

    Example: dacapo-store cite --at 4711
    """
    say(str(store_at(base, at, writable=at is None).cite()))


def plot(
    names: Annotated[list[str], typer.Argument(help="The runs.", metavar="RUN...")],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="A PNG, SVG or PDF file.", metavar="FILE")],
    scalar: Annotated[str, typer.Option(help="Which scalar of the training.")] = "loss",
    criterion: Annotated[
        str | None, typer.Option(help="Which criterion; default: the first there is.")
    ] = None,
    base: BaseOption = None,
    at: At = None,
) -> None:
    """Draw curves and validation scores of runs into a file; no spike is left out.

    Example: dacapo-store plot run_7 run_8 --out curves.png
    """
    store = store_at(base, at)
    for name in names:
        store.require_run(name)
    store.plot_runs(*names, scalar=scalar, criterion=criterion).savefig(out, dpi=150)
    remark(f"drawn: {out}")


def stat(*, base: BaseOption = None, as_json: Json = False) -> None:
    """How much the base holds, and how many bytes that takes on the disk.

    Example: dacapo-store stat
    """
    from dacapo_store.sizes import sizes

    found = sizes(store_at(base))
    if as_json:
        say(json.dumps(plain(found), indent=1))
        return
    for name, value in found.items():
        shown = size(value) if name.endswith("_bytes") else plain(value)
        say(f"{name.removesuffix('_bytes').replace('_', ' ')}\t{shown}")
