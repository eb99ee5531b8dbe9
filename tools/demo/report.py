"""The report in the terminal: what can be asked of a base directory once trainings are done.

``python -m tools.demo.report demo-output/001`` makes it again, from the base directory alone.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from rich.console import Console
from rich.rule import Rule
from rich.table import Table

from dacapo_store import Base
from tools.demo import figures, record

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from eventstore import Verdict

BARS: Final = "▁▂▃▄▅▆▇█"
CURVE_COLUMNS_MAX: Final = 32
WIDTH_WITHOUT_A_TERMINAL: Final = 110


def make_console() -> Console:
    """A console for people; into a pipe or a file it writes plain text of a fixed width."""
    return Console(width=None if sys.stdout.isatty() else WIDTH_WITHOUT_A_TERMINAL, highlight=False)


def heading(console: Console, text: str) -> None:
    """Begin a section."""
    console.print()
    console.print(Rule(text, align="left"))


def show(base: Base, folder: Path, console: Console) -> bool:
    """Ask everything, show the answers, and draw the pictures into the folder.

    Returns:
        Whether the log is in order.
    """
    _show_curves(base, console)
    _show_best(base, console)
    _show_first_best(base, console)
    _show_config_history(base, console)
    _show_rewinds(base, console)
    _show_removals(base, console)
    verdict = base.log.verify()
    _show_verdict(verdict, console)
    _show_places(base, folder, figures.draw_all(base, folder), console)
    return verdict.ok


def _show_curves(base: Base, console: Console) -> None:
    heading(console, "The runs")
    table = _table("run", "iterations", "loss", "from", "to", "dice", "from", "best")
    for run in record.runs(base):
        stats = record.training_stats(base, run)
        losses = stats.column("loss")
        dice = [score for _, score in record.dice_of(base, run)]
        table.add_row(
            run,
            str(stats.trained_until()),
            _curve(losses),
            f"{losses[0]:.3f}",
            f"{losses[-1]:.3f}",
            _curve(np.array(dice)),
            f"{dice[0]:.3f}",
            f"{max(dice):.3f}",
        )
    console.print(table)


def _show_best(base: Base, console: Console) -> None:
    heading(console, "One question over all runs, in SQL")
    console.print(record.BEST_OF_EACH_RUN, style="cyan", markup=False)
    console.print(_answer(base.query(record.BEST_OF_EACH_RUN)))


def _show_first_best(base: Base, console: Console) -> None:
    moment = record.first_best(base)
    heading(console, "The store as it was when the first best weights were chosen")
    console.print(
        f"{_time(moment.recorded_at)}: {moment.run}, for {moment.dataset} by {moment.criterion}. "
        f"As of position {moment.position} the views said:"
    )
    table = _table("run", "", "iterations", "last loss", "weights", "best dice", "best weights")
    present = {state.run: state for state in record.state_as_of(base, base.log.next_position)}
    for then in record.state_as_of(base, moment.position):
        now = present[then.run]
        for when, state, style in (("then", then, "bold"), ("now", now, "dim")):
            table.add_row(
                state.run if when == "then" else "",
                when,
                str(state.iterations),
                _number(state.loss),
                str(state.weights),
                _number(state.best_dice),
                state.best_iterations or "none",
                style=style,
            )
    console.print(table)


def _show_config_history(base: Base, console: Console) -> None:
    heading(console, "The history of one config: the trainer 'sgd'")
    table = _table("position", "time", "event", "learning rate", "by")
    for position, recorded_at, event, rate, user in record.history_of_config(base, "trainers", "sgd"):
        table.add_row(str(position), _time(recorded_at), event, rate or "", user or "")
    console.print(table)


def _show_rewinds(base: Base, console: Console) -> None:
    heading(console, "What the kill has cost")
    found = record.rewinds(base)
    for rewind in found:
        console.print(
            f"{rewind.run} went back to iteration {rewind.kept_below}, where its weights were. "
            f"{rewind.lost} iterations left the view (they stay in history, as of position "
            f"{rewind.position}) and were trained again; {rewind.repeated_exactly} of them came out "
            "with the same loss, bit by bit."
        )
    if not found:
        console.print("Nothing: no recorded iteration had to be trained again.")


def _show_removals(base: Base, console: Console) -> None:
    heading(console, "What was removed stays on record")
    arrays, size, files = base.query(record.ARRAYS_REMOVED).fetchone()
    console.print(
        f"{arrays} old prediction arrays are gone from the disk ({_size(size)} in {files} files). "
        "The last three, as the log describes them:"
    )
    last = "SELECT dataset, shape, dtype, files, bytes FROM array_removals ORDER BY position DESC LIMIT 3"
    console.print(_answer(base.query(last)))


def _show_verdict(verdict: Verdict, console: Console) -> None:
    heading(console, "Is all of this still what was written?")
    outcome = "[green]yes[/]" if verdict.ok else "[red]no[/]"
    console.print(
        f"verify: {outcome}; {verdict.events} events in {verdict.segments} segment(s), "
        f"{_size(verdict.bytes)}, {len(verdict.findings)} findings"
    )
    for finding in verdict.findings:
        console.print(f"  {finding.severity}: {finding.path}: {finding.message}", markup=False)
    console.print(f"chain: {verdict.chain}", "(this one value vouches for the whole history)", sep="\n")


def _show_places(base: Base, folder: Path, pictures: list[Path], console: Console) -> None:
    heading(console, "Where everything lies")
    places = _table("", "", "")
    places.show_header = False
    places.add_row(
        "the log, the truth", _shown(base.path / "events"), _size(record.folder_bytes(base.path / "events"))
    )
    for run in record.runs(base):
        places.add_row(
            f"{run}: weights, arrays", _shown(base.path / run), _size(record.folder_bytes(base.path / run))
        )
    for picture in pictures:
        places.add_row("picture", _shown(picture), _size(picture.stat().st_size))
    console.print(places)
    heading(console, "What to try next")
    for title, command in _next_steps(base, folder):
        console.print(f"[dim]# {title}[/]")
        # Not wrapped, so that it can be copied from the terminal and run.
        console.print(command, markup=False, soft_wrap=True)
        console.print()


def _next_steps(base: Base, folder: Path) -> list[tuple[str, str]]:
    python, home, output = _shown(Path(sys.executable)), _shown(base.path), _shown(folder)
    ask = f"""\
{python} - <<'PY'
from dacapo_store import Base
base = Base.at("{home}")
for row in base.query(\"""
    SELECT run, max(value) AS steepest, arg_max(iteration, value) AS at
    FROM training_scalars WHERE name = 'gradient_norm' GROUP BY run
    \""").fetchall():
    print(row)
PY"""  # noqa: S608 - a text to show; the values of the base are not in it
    read = f"""\
{python} - <<'PY'
import glob, polars
segments = sorted(glob.glob("{home}/events/*.arrows"))
print(polars.read_ipc_stream(segments[0]).select("position", "stream", "type"))
PY"""
    return [
        ("ask everything that was stored, in SQL (gradient norms were stored beside the losses)", ask),
        ("the log is a file of yours: any Arrow tool reads it", read),
        ("this report again, from the base directory alone", f"{python} -m tools.demo.report {output}"),
        ("three more runs, beside these", "make demo"),
    ]


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def _answer(result: Any) -> Table:
    """A query's result as a table."""
    table = _table(*result.columns)
    for row in result:
        table.add_row(*(str(value) for value in row))
    return table


def _curve(values: NDArray[np.float64]) -> str:
    """A curve of one line: the mean of each part of it, between its least and greatest."""
    means: Sequence[float] = [
        float(part.mean()) for part in np.array_split(values, min(CURVE_COLUMNS_MAX, len(values)))
    ]
    least, greatest = min(means), max(means)
    spread = (greatest - least) or 1.0
    return "".join(BARS[round((mean - least) / spread * (len(BARS) - 1))] for mean in means)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _time(moment: Any) -> str:
    return str(moment.astimezone().strftime("%H:%M:%S"))


def _size(size: float) -> str:
    units: Iterable[str] = ("bytes", "kB", "MB")
    for unit in units:
        if size < 1000:  # noqa: PLR2004 - what a kilo is
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _shown(path: Path) -> str:
    """A path as one would type it: relative to here when it lies below."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1], "base", "events").is_dir():  # noqa: PLR2004
        sys.exit("usage: python -m tools.demo.report demo-output/<number>   (made by: make demo)")
    output = Path(sys.argv[1]).resolve()
    sys.exit(0 if show(Base.at(output / "base"), output, make_console()) else 1)
