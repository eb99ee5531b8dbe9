"""``log``, ``history``, ``blame``, ``diff``, ``tail``: who changed what and when, and what comes."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dacapo_store.cli.look import At, BaseOption, Limit
from dacapo_store.cli.output import remark, say
from dacapo_store.cli.places import store_at
from dacapo_store.cli.tables import ArrowFile, Csv, Json, local, plain, show

if TYPE_CHECKING:
    from dacapo_store.audit import Entry
    from dacapo_store.store import Store

Kind = Annotated[
    str, typer.Argument(help="runs, tasks, … or training, validation, weights of a run.", metavar="KIND")
]
Name = Annotated[str, typer.Argument(help="The name.", metavar="NAME")]
Since = Annotated[str | None, typer.Option(help="From this position or time on.", metavar="MOMENT")]
Until = Annotated[str | None, typer.Option(help="Before this position or time.", metavar="MOMENT")]

_WAKE_SECONDS = 1.0
_RUN_WIDTH_MIN = 12


def add_to(app: typer.Typer) -> None:
    """Add these verbs."""
    for verb in (log, history, blame, diff, tail):
        app.command()(verb)


def log(  # noqa: PLR0913 - a command has as many options as it has
    *,
    run: Annotated[str | None, typer.Option("--run", "-r", help="A run, or a pattern.")] = None,
    kind: Annotated[str | None, typer.Option(help="runs, tasks, …, training, validation, weights.")] = None,
    actor: Annotated[str | None, typer.Option(help="Who wrote it, or a pattern.")] = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = None,
    base: BaseOption = None,
    as_json: Json = False,
    as_csv: Csv = False,
    arrow: ArrowFile = None,
) -> None:
    """Read the log like a diary: one line for each event, oldest first; with --limit the last ones.

    Example: dacapo-store log --run 'unet_*' --since 2026-03-01T00:00Z
    """
    found = store_at(base).log(run=run, kind=kind, actor=actor, since=since, until=until)
    chosen = found if limit is None else found[max(len(found) - limit, 0) :]
    _show_entries(chosen, as_json=as_json, as_csv=as_csv, arrow=arrow)


def history(
    kind: Kind,
    name: Name,
    *,
    base: BaseOption = None,
    at: At = None,
    as_json: Json = False,
    as_csv: Csv = False,
    arrow: ArrowFile = None,
) -> None:
    """Everything that ever happened to a thing.

    Example: dacapo-store history tasks seg
    """
    found = store_at(base, at).history(kind, name)
    _show_entries(found, as_json=as_json, as_csv=as_csv, arrow=arrow)


def _show_entries(found: Sequence[Entry], **how: Any) -> None:
    import pyarrow as pa

    rows = [
        {
            "position": entry.position,
            "time": entry.recorded_at,
            "actor": entry.actor,
            "host": entry.host,
            "kind": entry.kind,
            "name": entry.name,
            "what": entry.summary,
        }
        for entry in found
    ]
    columns = ("actor", "host", "kind", "name", "what")
    schema = pa.schema(
        [
            ("position", pa.uint64()),
            ("time", pa.timestamp("us", "UTC")),
            *((name, pa.string()) for name in columns),
        ]
    )
    show(pa.Table.from_pylist(rows, schema), **how)


def blame(
    kind: Kind,
    name: Name,
    *,
    base: BaseOption = None,
    at: At = None,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Who set each field of a config, and when.

    Example: dacapo-store blame tasks seg
    """
    import pyarrow as pa

    found = store_at(base, at).blame(kind, name)
    rows = [
        {
            "field": place,
            "value": json.dumps(plain(value)),
            "actor": entry.actor,
            "time": entry.recorded_at,
            "position": entry.position,
        }
        for place, value, entry in found
    ]
    schema = pa.schema(
        [
            *((column, pa.string()) for column in ("field", "value", "actor")),
            ("time", pa.timestamp("us", "UTC")),
            ("position", pa.uint64()),
        ]
    )
    show(pa.Table.from_pylist(rows, schema), as_json=as_json, as_csv=as_csv)


def diff(
    one: Annotated[str, typer.Argument(help="A run, or KIND/NAME of a thing.", metavar="RUN|KIND/NAME")],
    other: Annotated[str | None, typer.Argument(help="Another run.", metavar="[RUN]")] = None,
    *,
    since: Annotated[str | None, typer.Option("--from", help="The earlier moment.", metavar="MOMENT")] = None,
    until: Annotated[str | None, typer.Option("--to", help="The later moment.", metavar="MOMENT")] = None,
    only_changed: Annotated[
        bool, typer.Option("--only-changed/--all", help="Leave out, or show, what is the same in both runs.")
    ] = True,
    base: BaseOption = None,
    as_json: Json = False,
) -> None:
    """Compare two runs, or a thing at two moments: what changed from which value to which, by whom.

    Example: dacapo-store diff run_7 run_8

    Example: dacapo-store diff tasks/seg --from 2026-03-01T00:00Z
    """
    store = store_at(base)
    if other is not None:
        _diff_runs(store, one, other, only_changed=only_changed, as_json=as_json)
        return
    kind, slash, name = one.partition("/")
    if not slash:
        raise ValueError(f"give a second run to compare {one!r} with, or KIND/NAME, e.g. tasks/{one}")
    changes = store.diff(kind, name, since, until)
    if as_json:
        say(
            json.dumps(
                [
                    {
                        "place": each.difference.place,
                        "before": plain(each.difference.before),
                        "after": plain(each.difference.after),
                        "actor": each.entry.actor,
                        "time": plain(each.entry.recorded_at),
                        "position": each.entry.position,
                    }
                    for each in changes
                ],
                indent=1,
            )
        )
    else:
        say(repr(changes))


def _diff_runs(store: Store, one: str, other: str, *, only_changed: bool, as_json: bool) -> None:
    import pyarrow as pa

    shown = [
        [each.place, _text(each.before), _text(each.after)]
        for each in store.diff_runs(one, other, only_changed=only_changed)
    ]
    columns = [list(column) for column in zip(*shown, strict=True)] if shown else [[], [], []]
    names = ["place", one, other] if one != other else ["place", "one", "other"]
    show(pa.table([pa.array(column, pa.string()) for column in columns], names=names), as_json=as_json)


def _text(value: Any) -> str:
    from dacapo_store.differences import ABSENT

    return "" if value is ABSENT else json.dumps(plain(value))


def tail(
    run: Annotated[str, typer.Argument(help="A run, or a pattern; default: all.", metavar="[RUN]")] = "*",
    *,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Wait for what comes; Ctrl-C ends it.")
    ] = False,
    where: Annotated[
        str | None, typer.Option(help="Only rows for which this SQL holds, e.g. 'loss > 10'.", metavar="SQL")
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", help="From this position or time on.", metavar="MOMENT")
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", help="Begin with so many of the last rows.", min=0)
    ] = 10,
    base: BaseOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a line.")] = False,
) -> None:
    """The last training stats, and with -f what comes, as it comes.

    When it ends it says from which position to go on.

    Example: dacapo-store tail -f run_7 --where 'loss > 10'
    """
    store = store_at(base)
    say_row = _say_json_line if as_json else _row_sayer(store)
    reached = store.position
    rows = store.training_rows(store.position_at(start) if start else 0, reached, run=run, where=where)
    for row in rows if start else rows[max(len(rows) - limit, 0) :]:
        say_row(row)
    try:
        while follow:
            end = _position_beyond(store, reached)
            for row in store.training_rows(reached, end, run=run, where=where):
                say_row(row)
            reached = end
    except KeyboardInterrupt:
        remark("")
    remark(f"go on from here with: --from {reached}")


def _position_beyond(store: Store, position: int) -> int:
    """Wait until the log is longer than this; how long it is then."""
    while store.position == position:
        next(store.follow(from_position=position, timeout=_WAKE_SECONDS), None)
    return store.position


def _say_json_line(row: dict[str, Any]) -> None:
    print(json.dumps(plain(row)), flush=True)


def _row_sayer(store: Store) -> Callable[[dict[str, Any]], None]:
    """What prints a row: in columns on a terminal, with tabs in a pipe."""
    if not sys.stdout.isatty():
        return lambda row: print("\t".join(_cells(row)), flush=True)
    known = store.runs().arrow().column("run").to_pylist()
    width = max([_RUN_WIDTH_MIN, *map(len, known)])
    line = f"{{:24}}  {{:{width}}}  {{:>9}}  {{:>11}}  {{:>9}}"
    print(line.format("recorded", "run", "iteration", "loss", "time"))

    def say_row(row: dict[str, Any]) -> None:
        loss_is_lost = row["loss"] is not None and not math.isfinite(row["loss"])
        typer.secho(line.format(*_cells(row)), fg="red" if loss_is_lost else None)
        sys.stdout.flush()

    return say_row


def _cells(row: dict[str, Any]) -> list[str]:
    loss = "" if row["loss"] is None else f"{row['loss']:.6g}"
    seconds = "" if row["time"] is None else f"{row['time']:.3g} s"
    return [local(row["recorded_at"]), row["run"], str(row["iteration"]), loss, seconds]
