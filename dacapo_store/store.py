"""``open``: one object for a base, for looking at it, asking it, and undoing mistakes.

The four stores are its faces; everything else is a thin way to the module that does it.
"""

from __future__ import annotations

import html
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from dacapo_store import audit, corrections, runs
from dacapo_store.base import Base
from dacapo_store.citation import Citation, cite
from dacapo_store.differences import Difference, differences
from dacapo_store.moments import Moment, position_of
from eventstore import is_address

if TYPE_CHECKING:
    import os

    import pyarrow as pa
    from matplotlib.figure import Figure

    from dacapo_store.array_store import LocalArrayStore
    from dacapo_store.config_store import FileConfigStore
    from dacapo_store.mongo_views import MongoViews
    from dacapo_store.replay import ReplayReceipt, Transform
    from dacapo_store.stats_store import FileStatsStore
    from dacapo_store.weights_store import LocalWeightsStore
    from eventstore.follow import Stop
    from projections import Answer, AnswerAcross

QUERY_SECONDS: Final = 300.0
"""How long a query may take unless it is told otherwise."""

_BEST: Final = """
    SELECT run, dataset, criterion, iteration, recorded_at FROM best_weights
    ORDER BY dataset, criterion, run"""


def open(  # noqa: A001 - as one opens a base; nobody imports it by itself
    path: str | os.PathLike[str] | None = None, *, read_only: bool = False, as_of: Moment | None = None
) -> Store:
    """Open a base, to look at it, ask it and mend it.

    Args:
        path: The base directory; None is that of ``dacapo.yaml``.
        read_only: Take no lock and write nothing; the base must exist.
        as_of: Look at it as it was at this position or time, read-only.

    Raises:
        LogNotFoundError: There is no base in this directory; a trainer makes one when it stores.
        ValueError: There is no such position or time.
    """
    if path is None:
        from dacapo_store.options import Options

        path = Options.instance().base_path
    root = path if is_address(path) else Path(path).expanduser().absolute()
    if not read_only and as_of is None:
        # Looking makes nothing: a mistyped path must not become an empty base.
        Base.at(root, read_only=True)
    return Store(Base.at(root, read_only=read_only, as_of=as_of))


def sql(
    bases: Sequence[str | os.PathLike[str]],
    query: str,
    params: Any = None,
    *,
    as_of: datetime | str | None = None,
    seconds: float | None = QUERY_SECONDS,
) -> AnswerAcross:
    """Ask several bases at once: each public view has one column more, ``base``, and the rows of all.

    Args:
        bases: Their directories, as the column ``base`` shows them.
        query: One SELECT over the public views; their macros of the past are not there.
        params: Values for ``?`` in order, or for ``$name`` by name.
        as_of: Views show the state as of this time; a position would mean another time in each base.
        seconds: How long it may take; None sets no limit.

    Raises:
        duckdb.Error: The SQL is wrong; the text points at the place.
        projections.QueryRefusedError: It wants more than the public views.
        projections.QueryTimeoutError: It took too long.
        ValueError: A base is named twice, ``as_of`` is no time, or lies before a base's first event.
    """
    from projections import PinnedViews, select_across

    if isinstance(as_of, int) or (isinstance(as_of, str) and as_of.strip().isdigit()):
        raise ValueError(f"as_of is a time where there are several bases, not the position {as_of}")
    logs: dict[str, PinnedViews] = {}
    for path in bases:
        base = Base.at(path, read_only=True)
        if str(path) in logs:
            raise ValueError(f"the base {path} is named twice")
        logs[str(path)] = PinnedViews(base.views, position_of(base.log, as_of))
    return select_across(logs, query, params, seconds=seconds)


class Store:
    """A base as one object; ``open`` makes it.

    Example:
        >>> store = dacapo_store.open("experiments")
        >>> store.sql("SELECT run, min(loss) FROM training_stats GROUP BY run").df()
        >>> store.as_of("2026-03-01 14:00+01:00").stats.retrieve_training_stats("run_7")
        >>> store.rewind("run_7", 40_000)

    Attributes:
        path: The base directory, absolute; of one in a bucket, where this host keeps what is derived.
        shown: What the base is called in texts: its directory, or its place in a bucket.
    """

    def __init__(self, base: Base) -> None:
        """Take a base; use ``open``."""
        self._base = base
        self.path = base.path
        self.shown = base.location.shown

    # --- the four stores

    @property
    def configs(self) -> FileConfigStore:
        """The config store of this base."""
        from dacapo_store.config_store import FileConfigStore

        return FileConfigStore(self._base.location.inside("configs"), **self._how)

    @property
    def stats(self) -> FileStatsStore:
        """The stats store of this base."""
        from dacapo_store.stats_store import FileStatsStore

        return FileStatsStore(self._base.location.inside("stats"), **self._how)

    @property
    def weights(self) -> LocalWeightsStore:
        """The weights store of this base."""
        from dacapo_store.weights_store import LocalWeightsStore

        return LocalWeightsStore(self._base.location.name, **self._how)

    @property
    def arrays(self) -> LocalArrayStore:
        """The array store of this base."""
        from dacapo_store.array_store import LocalArrayStore

        return LocalArrayStore(self._base.location.name, **self._how)

    @property
    def mongo_views(self) -> MongoViews | None:
        """What the base's MongoDB database shows of it; None where it is not in one."""
        return self._base.present.mongo

    @property
    def _how(self) -> dict[str, Any]:
        return (
            {"as_of": self._base.as_of}
            if self._base.as_of is not None
            else {"read_only": self._base.read_only}
        )

    # --- where in time

    @property
    def position(self) -> int:
        """How many events there are: the position of the next one, and a version number of everything."""
        return self._base.log.next_position

    def position_at(self, moment: Moment) -> int:
        """The position that a time, a position or one of them as text means.

        Raises:
            ValueError: There is no such position or time.
        """
        return position_of(self._base.log, moment)

    def as_of(self, moment: Moment) -> Store:
        """This base as it was at a position or time: the same object, read-only.

        Raises:
            ValueError: There is no such position or time.
        """
        return Store(Base.at(self._base.location.name, as_of=position_of(self._base.log, moment)))

    def cite(self, moment: Moment | None = None) -> Citation:
        """``base@position#chain``, by which others can query the very same state.

        Raises:
            ValueError: There is no such position or time.
        """
        return cite(Path(self._base.location.shown), self._base.log, position_of(self._base.log, moment))

    # --- asking

    def sql(
        self,
        query: str,
        params: Any = None,
        *,
        as_of: Moment | None = None,
        seconds: float | None = QUERY_SECONDS,
        unsafe: bool = False,
    ) -> Answer:
        """Ask in SQL, over the public views.

        Args:
            query: One SELECT.
            params: Values for ``?`` in order, or for ``$name`` by name.
            as_of: Views show the state as of this position or time; None is that of now.
            seconds: How long it may take; None sets no limit.
            unsafe: Let the query read files and use all of DuckDB. Never for SQL that you did not write.

        Raises:
            duckdb.Error: The SQL is wrong; the text points at the place.
            projections.QueryRefusedError: It wants more than the public views.
            projections.QueryTimeoutError: It took too long.
            ValueError: There is no such position or time.
        """
        from dataclasses import replace

        self._base.settle_if_possible()
        position = position_of(self._base.log, as_of) if as_of is not None else self._base.as_of
        answer = self._base.present.views.select(
            query, params, position=position, seconds=seconds, unsafe=unsafe
        )
        return replace(answer, citing=lambda position: str(self.cite(position)))

    def runs(self) -> Answer:
        """All runs: parts, how far they are, and when they were last heard of."""
        return self.sql(runs.LIST)

    def best(self) -> Answer:
        """The best weights that were chosen, for each run, dataset and criterion."""
        return self.sql(_BEST)

    def run(self, name: str) -> dict[str, Any]:
        """All that is known of a run, as a document; see ``runs.run_document``."""
        return runs.run_document(self, name)

    def require_run(self, name: str) -> None:
        """Do nothing if there is such a run; see ``runs.require_run``."""
        runs.require_run(self, name)

    def config(self, kind: str, name: str) -> Any:
        """The document of a config of any kind.

        Raises:
            ConfigMissingError: There is none of this name.
            ValueError: There is no such kind.
        """
        return self.configs.retrieve_config(kind, name)

    def training_table(self, run: str) -> pa.Table:
        """A run's training stats with all its scalars, a column each, one row an iteration."""
        return runs.training_table(self, run)

    def training_rows(
        self, start: int, end: int, *, run: str = "*", where: str | None = None
    ) -> list[dict[str, Any]]:
        """Training stats that events between two positions recorded; see ``runs.training_rows``."""
        return runs.training_rows(self, start, end, run=run, where=where)

    def diff_runs(self, one: str, other: str, *, only_changed: bool = True) -> tuple[Difference, ...]:
        """Where two runs differ, in config and outcome; or all their fields. See ``runs.compared``."""
        found = runs.compared(self, one, other)
        return tuple(each for each in found if not only_changed or any(differences(each.before, each.after)))

    # --- who changed what

    def log(self, **wanted: Any) -> audit.Entries:
        """The events, oldest first; see ``audit.entries`` for what they are chosen by."""
        return audit.Entries(audit.entries(self._base.log, **wanted))

    def history(self, kind: str, name: str) -> audit.Entries:
        """Everything that ever happened to a thing; see ``audit.history``."""
        return audit.history(self._base, kind, name)

    def diff(
        self, kind: str, name: str, before: Moment | None = None, after: Moment | None = None
    ) -> audit.Changes:
        """What changed in a thing between two moments; see ``audit.diff``."""
        return audit.diff(self._base, kind, name, before, after)

    def blame(self, kind: str, name: str) -> list[tuple[str, Any, audit.Entry]]:
        """Who set each field of a config; see ``audit.blame``."""
        return audit.blame(self._base, kind, name)

    # --- corrections

    def rewind(self, run: str, iteration: int, *, dry_run: bool = False) -> corrections.Correction:
        """Bring a run back to an iteration; see ``corrections.rewind``."""
        return corrections.rewind(self._base, run, iteration, dry_run=dry_run)

    def restore(
        self, kind: str, name: str, *, at: Moment | None = None, dry_run: bool = False
    ) -> corrections.Correction:
        """Bring a thing back to what it was; see ``corrections.restore``."""
        return corrections.restore(self._base, kind, name, at=at, dry_run=dry_run)

    def replay(
        self,
        into: str | os.PathLike[str],
        *,
        until: Moment | None = None,
        types: Collection[str] | None = None,
        transform: Transform | None = None,
    ) -> ReplayReceipt:
        """A new base from the events of this one; see ``replay.replay``."""
        from dacapo_store.replay import replay

        position = position_of(self._base.log, until)
        return replay(self._base.location.name, into, until=position, types=types, transform=transform)

    # --- live

    def follow(
        self,
        *,
        run: str | None = None,
        from_position: int | None = None,
        timeout: float | None = None,
        stop: Stop | None = None,
    ) -> Iterator[audit.Entry]:
        """Entries as they come, after those from a position on.

        Args:
            run: Only of this run; a pattern with ``*`` and ``?``.
            from_position: Where to begin; None is now.
            timeout: End when nothing has come for so many seconds; None never ends.
            stop: End soon after this ``threading.Event`` is set.
        """
        log = self._base.log
        start = log.next_position if from_position is None else from_position
        events = log.follow(start, timeout=timeout, stop=stop)
        return audit.matching(map(audit.entry_of, events), run=run)

    def watch(self, callback: Callable[[audit.Entry], None], *, run: str | None = None) -> Watch:
        """Call a function for each entry that comes from now on, in a thread; ``stop`` ends it."""
        return Watch(self, callback, run=run)

    # --- looking

    def plot_runs(self, *names: str, scalar: str = "loss", criterion: str | None = None) -> Figure:
        """Curves and validation scores of runs, which hide no spike; see ``plots.plot_runs``."""
        from dacapo_store.plots import plot_runs

        figure = plot_runs(self.sql, names, scalar=scalar, criterion=criterion)
        figure.text(0.995, 0.005, str(self.cite())[:-48], ha="right", fontsize=5, color="grey")
        return figure

    def __repr__(self) -> str:
        past = "" if self._base.as_of is None else f", as_of={self._base.as_of}"
        return f"dacapo_store.open({self.shown!r}{past})"

    def _repr_html_(self) -> str:
        now = datetime.now(UTC).astimezone().strftime("%Y-%m-%d %H:%M")
        title = html.escape(f"{self.shown} at {now}: {self.position:,} events")
        return f"<p>{title}</p>{self.runs()._repr_html_()}"

    def close(self) -> None:
        """Give back files and memory."""
        self._base.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Watch:
    """A function that is called for each new entry until ``stop``; a context manager.

    Args:
        store: Whose entries.
        callback: The function; an error in it ends the watch and is raised by ``stop``.
        run: Only entries of this run; a pattern.
    """

    def __init__(self, store: Store, callback: Callable[[audit.Entry], None], *, run: str | None) -> None:
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._entries = store.follow(run=run, stop=self._stop)
        self._callback = callback
        self._thread = threading.Thread(target=self._call, name="dacapo-store-watch", daemon=True)
        self._thread.start()

    def _call(self) -> None:
        try:
            for entry in self._entries:
                self._callback(entry)
        except BaseException as error:  # noqa: BLE001 - it is raised where somebody hears it
            self._error = error

    def stop(self) -> None:
        """End it, once what has come is told; raise what the function raised."""
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
