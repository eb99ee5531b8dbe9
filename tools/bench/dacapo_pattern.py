"""B4 to B6: stats and scores as DaCapo stores them: the whole list, each time.

DaCapo's stores get DaCapo's objects. Ours get them, too, where DaCapo is installed, in the same
interpreter (that is what is judged), and our own, which hold columns. Both sides do the same calls with
the same numbers, and what they give back is compared bit by bit.
"""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from tools.bench.measure import (
    Contestant,
    Figures,
    Row,
    Rows,
    Size,
    folder_bytes,
    in_child,
    metered,
    ratio,
    scratch,
    side_by_side,
)
from tools.bench.peers.ours import RUN, DacapoStore
from tools.bench.peers.peer import Peer
from tools.bench.peers.upstream import DacapoFiles, quiet_dacapo
from tools.bench.results import Goal, Plot, Section, Series
from tools.bench.warm_up import warm_up
from tools.bench.workloads import curve, digest, nested_scores

CALLS: Final = 200
_DIGEST: Final = "what comes back, as a number"

GIVEN_DACAPO: Final = f"{DacapoStore.name}, DaCapo's objects"
GIVEN_OURS: Final = f"{DacapoStore.name}, its own objects"


class OurObjects:
    """The values of ``dacapo_store``."""

    @staticmethod
    def training_stats() -> Any:
        """Stats without rows."""
        from dacapo_store import TrainingStats

        return TrainingStats()

    @staticmethod
    def iteration_stats(iteration: int, loss: float, seconds: float) -> Any:
        """A row of them."""
        from dacapo_store import TrainingIterationStats

        return TrainingIterationStats(iteration, loss, seconds)

    @staticmethod
    def validation_scores(**named: Any) -> Any:
        """Scores without rows."""
        from dacapo_store import ValidationScores

        return ValidationScores(**named)

    @staticmethod
    def iteration_scores(iteration: int, scores: Any) -> Any:
        """A row of them."""
        from dacapo_store import ValidationIterationScores

        return ValidationIterationScores(iteration, scores)


class DacapoObjects:
    """The values of DaCapo."""

    @staticmethod
    def training_stats() -> Any:
        """Stats without rows."""
        with quiet_dacapo():
            from dacapo.experiments import TrainingStats

        return TrainingStats()

    @staticmethod
    def iteration_stats(iteration: int, loss: float, seconds: float) -> Any:
        """A row of them."""
        from dacapo.experiments import TrainingIterationStats

        return TrainingIterationStats(iteration, loss, seconds)

    @staticmethod
    def validation_scores(**named: Any) -> Any:
        """Scores without rows."""
        with quiet_dacapo():
            from dacapo.experiments import ValidationScores

        return ValidationScores(**named)

    @staticmethod
    def iteration_scores(iteration: int, scores: Any) -> Any:
        """A row of them."""
        from dacapo.experiments import ValidationIterationScores

        return ValidationIterationScores(iteration, scores)


Objects = type[OurObjects] | type[DacapoObjects]


def _contestants(turn: Any, *arguments: Any) -> list[Contestant]:
    theirs: dict[str, Any] = {"absent": DacapoFiles.absent(), "python": DacapoFiles.python}
    return [
        Contestant(GIVEN_DACAPO, turn, (DacapoStore, DacapoObjects, *arguments), **theirs),
        Contestant(GIVEN_OURS, turn, (DacapoStore, OurObjects, *arguments)),
        # One turn says enough: it takes minutes, and is compared with a hundredth of itself.
        Contestant(DacapoFiles.name, turn, (DacapoFiles, DacapoObjects, *arguments), rounds_max=1, **theirs),
    ]


def _judged(rows: Rows) -> str:
    """Ours with DaCapo's objects, where they are there."""
    return GIVEN_DACAPO if rows[GIVEN_DACAPO].figures else GIVEN_OURS


def _check_equal(rows: Rows) -> None:
    """All who measured gave the same numbers back; the number that said so goes out of the tables."""
    found = {name: row.figures.pop(_DIGEST) for name, row in rows.items() if _DIGEST in row.figures}
    if len({each for samples in found.values() for each in samples}) > 1:
        raise AssertionError(f"the stores gave different numbers back: {found}")


def store_training_stats(size: Size) -> Section:
    """B4: 200 calls with the whole list, to 200,000 iterations."""
    calls = size.pick(full=CALLS, quick=CALLS, tiny=20)
    each = size.pick(full=1000, quick=100, tiny=2)
    section = Section(
        "B4", f"{calls} × `store_training_stats` with the whole list, to {calls * each:,} iterations"
    )
    section.rows = side_by_side(
        _contestants(store_growing_stats, calls, each), rounds=size.pick(full=3, quick=2, tiny=1)
    )
    _check_equal(section.rows)
    judged = _judged(section.rows)
    ours = section.rows[judged]
    section.goals = [
        Goal(
            "CPU time over DaCapo's",
            ratio(section.rows, judged, DacapoFiles.name, "CPU s"),
            "at most",
            1 / 100,
        ),
        Goal(
            "bytes written an iteration", ours.median("bytes written an iteration"), "at most", 30.0, "bytes"
        ),
        Goal("last call over the 10th", ours.median("last call over the 10th"), "at most", 1.5),
    ]
    section.plots = [_calls_plot(section.rows, each)]
    return section


_CALL: Final = "ms of call "


def _calls_plot(rows: Rows, each: int) -> Plot:
    lines = []
    for name, row in rows.items():
        calls = {
            int(figure.removeprefix(_CALL)): figure for figure in row.figures if figure.startswith(_CALL)
        }
        x = [float(call * each) for call in calls]
        y = [row.median(figure) or 0.0 for figure in calls.values()]
        lines += [Series(name, x, y)] if x else []
        for figure in calls.values():
            del row.figures[figure]
    return Plot("b4-calls", "A call with the whole list", "iterations in the list", "ms a call", lines)


def store_growing_stats(folder: Path, peer: type[Peer], objects: Objects, calls: int, each: int) -> Figures:
    """Call with 1, 2, … times as many iterations as one call adds; only the calls are measured."""
    steps, losses, times = (column.tolist() for column in curve(calls * each))
    store, stats = peer(folder).stats_store(), objects.training_stats()
    cpu, waits, written = 0.0, [], 0
    for call in range(calls):
        for place in range(call * each, (call + 1) * each):
            stats.add_iteration_stats(objects.iteration_stats(steps[place], losses[place], times[place]))
        with metered() as meter:
            store.store_training_stats(RUN, stats)
        cpu += meter.cpu_seconds
        written += meter.bytes_written
        waits.append(meter.seconds)
    stored = store.retrieve_training_stats(RUN).iteration_stats
    return {
        "CPU s": cpu,
        "wall s": sum(waits),
        "bytes written an iteration": written / (calls * each),
        "bytes on disk an iteration": folder_bytes(folder) / (calls * each),
        # Neighbours of the two calls steady what one call alone would say.
        "last call over the 10th": _middle(waits[-10:]) / _middle(waits[5:15]),
        _DIGEST: digest(
            [row.iteration for row in stored], [row.loss for row in stored], [row.time for row in stored]
        ),
    } | {
        f"{_CALL}{call}": 1e3 * _middle(waits[max(call - 3, 0) : call + 3])
        for call in (1, 3, 10, 30, 100, 200)
        if call <= calls
    }


def _middle(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def retrieve_training_stats(size: Size) -> Section:
    """B5: a fresh process asks for the stats of a run."""
    iterations = size.pick(full=200_000, quick=20_000, tiny=40)
    section = Section("B5", f"`retrieve_training_stats` of {iterations:,} iterations, fresh process")
    forms = {
        f"{DacapoStore.name}, as DaCapo's objects": (DacapoStore, "objects"),
        f"{DacapoStore.name}, as numpy": (DacapoStore, "numpy"),
        f"{DacapoStore.name}, as Arrow": (DacapoStore, "arrow"),
        f"{DacapoStore.name}, as Arrow by SQL": (DacapoStore, "sql"),
        DacapoFiles.name: (DacapoFiles, "objects"),
    }
    section.rows = {name: Row(note=peer.absent() or "") for name, (peer, _) in forms.items()}
    with scratch() as folder:
        bases = {peer: folder / peer.__name__ for peer, _ in forms.values() if peer.absent() is None}
        for peer, base in bases.items():
            base.mkdir()
            in_child(store_stats, base, peer, iterations, python=peer.python)
        for _ in range(size.pick(full=5, quick=3, tiny=1)):
            for name, (peer, form) in forms.items():
                if peer in bases:
                    section.rows[name].add(
                        in_child(retrieve_stats, bases[peer], peer, form, python=peer.python)
                    )
    _check_equal(section.rows)
    objects, numpy, arrow, _, upstream = forms
    section.goals = [
        Goal(
            "wall time over DaCapo's, as objects",
            ratio(section.rows, objects, upstream, "wall ms"),
            "at most",
            1 / 4,
        ),
        Goal(
            "wall time over DaCapo's, as numpy",
            ratio(section.rows, numpy, upstream, "wall ms"),
            "at most",
            1 / 50,
        ),
        Goal(
            "wall time over DaCapo's, as Arrow",
            ratio(section.rows, arrow, upstream, "wall ms"),
            "at most",
            1 / 50,
        ),
    ]
    section.notes = [
        "Modules are imported before the clock starts, by asking another, small store.",
        "Making the store, opening the log and, for SQL, making the read models are inside.",
        f"Ours were stored in {CALLS} calls.",
    ]
    return section


def store_stats(folder: Path, peer: type[Peer], iterations: int) -> None:
    """Store a run's stats: ours in many calls, as a training does; DaCapo's file is the same in one."""
    objects: Objects = DacapoObjects if peer is DacapoFiles else OurObjects
    calls = 1 if peer is DacapoFiles else min(CALLS, iterations)
    columns = [column.tolist() for column in curve(iterations)]
    store, stats = peer(folder).stats_store(), objects.training_stats()
    for place, row in enumerate(zip(*columns, strict=True), 1):
        stats.add_iteration_stats(objects.iteration_stats(*row))
        if place % (iterations // calls) == 0:
            store.store_training_stats(RUN, stats)


def retrieve_stats(folder: Path, peer: type[Peer], form: str) -> Figures:
    """Open the store and ask, once, in a process that has imported what it needs."""
    if peer is DacapoStore:
        warm_up(query=form == "sql")
    else:
        with scratch() as elsewhere:
            peer(elsewhere).stats_store().retrieve_training_stats(RUN)
    from dacapo_store.base import Base

    with metered() as meter:
        store = peer(folder).stats_store()
        if form == "sql":
            sql = "SELECT iteration, loss, time FROM training_stats WHERE run = ? ORDER BY position, ordinal"
            answer: Any = Base.at(folder).views.arrow(sql, [RUN])
        else:
            stats = store.retrieve_training_stats(RUN)
            if form == "arrow":
                answer = stats.to_arrow()
            elif form == "numpy":
                answer = stats.iterations, stats.column("loss"), stats.column("time")
            else:
                answer = list(stats.iteration_stats)
    # What follows reads every number of the answer, whatever its form.
    if form == "objects":
        answer = [[getattr(row, name) for row in answer] for name in ("iteration", "loss", "time")]
    elif form in ("arrow", "sql"):
        answer = [answer.column(name).to_numpy() for name in ("iteration", "loss", "time")]
    return {
        "wall ms": 1e3 * meter.seconds,
        "CPU ms": 1e3 * meter.cpu_seconds,
        _DIGEST: digest(*answer),
    }


def store_validation_scores(size: Size) -> Section:
    """B6: 200 calls with one iteration more each, then calls with nothing new."""
    calls = size.pick(full=CALLS, quick=50, tiny=5)
    section = Section(
        "B6",
        f"{calls} × `store_validation_iteration_scores` of [3, 20, 8] each, then the same again unchanged",
    )
    section.rows = side_by_side(
        _contestants(store_growing_scores, calls), rounds=size.pick(full=3, quick=2, tiny=1)
    )
    _check_equal(section.rows)
    judged = _judged(section.rows)
    section.goals = [
        Goal(
            "CPU time over DaCapo's",
            ratio(section.rows, judged, DacapoFiles.name, "CPU s"),
            "at most",
            1 / 25,
        ),
        Goal(
            "unchanged call over DaCapo's",
            ratio(section.rows, judged, DacapoFiles.name, "ms of an unchanged call"),
            "at most",
            1 / 50,
        ),
    ]
    return section


def store_growing_scores(folder: Path, peer: type[Peer], objects: Objects, calls: int) -> Figures:
    """One iteration more in each call, as a validation stores them; then the same list ten times."""
    store = peer(folder).stats_store()
    datasets, parameters, criteria = ([f"{kind}_{n}" for n in range(count)] for kind, count in _NAMED)
    scores = objects.validation_scores(
        parameters=parameters,
        datasets=[SimpleNamespace(name=name) for name in datasets],
        evaluation_scores=SimpleNamespace(criteria=criteria),
        scores=[],
    )
    cpu, wall, written = 0.0, 0.0, 0
    with quiet_dacapo():
        for call in range(1, calls + 1):
            scores.add_iteration_scores(objects.iteration_scores(call * 1000, nested_scores(call)))
            with metered() as meter:
                store.store_validation_iteration_scores(RUN, scores)
            cpu, wall, written = cpu + meter.cpu_seconds, wall + meter.seconds, written + meter.bytes_written
        unchanged = []
        for _ in range(_UNCHANGED_CALLS):
            began = time.perf_counter()
            store.store_validation_iteration_scores(RUN, scores)
            unchanged.append(time.perf_counter() - began)
        found = store.retrieve_validation_iteration_scores(RUN)
    return {
        "CPU s": cpu,
        "wall s": wall,
        "ms of an unchanged call": 1e3 * _middle(unchanged),
        "bytes written an iteration": written / calls,
        _DIGEST: digest([row.iteration for row in found], [row.scores for row in found]),
    }


_NAMED: Final = (("dataset", 3), ("parameters", 20), ("criterion", 8))
_UNCHANGED_CALLS: Final = 10
