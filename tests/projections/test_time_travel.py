"""The promises of every read model, over generated histories.

The state as of N is the fold of the first N events, whatever came later; and neither how the events
were cut into batches nor which snapshot files were there shows anywhere.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from projections import ANYTHING_NEW, PROJECTIONS, ReadModels, publish_snapshot
from projections.configs import KINDS
from projections.testing import GivenEvent, ListedLog, event

# The views of the kinds of configs are one query: one of them will do.
VIEWS = [
    view.name
    for projection in PROJECTIONS
    for view in projection.views
    if view.name == "runs" or view.name not in KINDS
]

_runs = st.sampled_from(["a", "a", "a", "b"])
_iterations = st.integers(0, 2)
_epochs = st.integers(0, 1)
_later_epochs = st.integers(1, 2)
_numbers = st.one_of(st.none(), st.floats(width=64), st.sampled_from([float("nan"), -0.0, 0.1, 5e-324]))
_names = st.lists(st.sampled_from(["x", "y", "it's", 'a "b"']), max_size=2)


def _event(event_type: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[GivenEvent]:
    return st.fixed_dictionaries(fields).map(lambda data: event(event_type, data))


@st.composite
def _training_stats(draw: st.DrawFn) -> GivenEvent:
    columns = draw(st.lists(st.sampled_from(["loss", "time", "lr", "accuracy"]), unique=True))
    index = draw(st.lists(_iterations, min_size=1, max_size=4))
    count = len(index) * len(columns)
    return event(
        "TrainingStatsRecorded",
        {"run": draw(_runs), "epoch": draw(_epochs), "columns": columns},
        index=index,
        values=draw(st.lists(_numbers, min_size=count, max_size=count)),
    )


@st.composite
def _validation_scores(draw: st.DrawFn) -> GivenEvent:
    lengths = draw(st.lists(st.lists(st.integers(0, 2), max_size=2), max_size=2))
    index = draw(st.lists(_iterations, max_size=3))
    count = len(index) * sum(map(sum, lengths))
    return event(
        "ValidationScoresRecorded",
        {
            "run": draw(_runs),
            "epoch": draw(_epochs),
            "datasets": draw(_names),
            "parameters": draw(_names),
            "criteria": draw(_names),
            "lengths": lengths,
        },
        index=index,
        values=draw(st.lists(_numbers, min_size=count, max_size=count)) or None,
    )


_configs = {"kind": st.sampled_from(["runs", "arrays"]), "name": _runs}
_weights = {"run": _runs, "iteration": st.integers(0, 1)}
_begun = {"run": _runs, "epoch": _later_epochs, "keeps_below": _iterations}
_deleted = {"run": _runs, "epoch": _later_epochs}

_training = st.one_of(
    _training_stats(), _event("TrainingEpochBegun", **_begun), _event("TrainingStatsDeleted", **_deleted)
)
_validation = st.one_of(
    _validation_scores(),
    _event("ValidationEpochBegun", **_begun),
    _event("ValidationScoresDeleted", **_deleted),
)
_configuring = st.one_of(
    _event("ConfigStored", **_configs, document=st.sampled_from([None, 1, {"a": [1.5]}])),
    _event("ConfigDeleted", **_configs),
)
_weighing = st.one_of(
    _event(
        "WeightsStored",
        **_weights,
        path=st.just("p"),
        bytes=st.integers(0, 9),
        chunk_bytes=st.just(1),
        digest=st.just("d"),
    ),
    _event("WeightsRemoved", **_weights),
    _event("WeightsRewound", run=_weights["run"], keeps_until=_weights["iteration"]),
    _event("BestWeightsChosen", **_weights, dataset=st.sampled_from(["d", "e"]), criterion=st.just("c")),
)
_others = st.one_of(
    _event(
        "ArrayRemoved",
        container=st.just("c"),
        dataset=st.just("d"),
        shape=st.none() | st.just([1, 2]),
        dtype=st.none() | st.just("uint8"),
        chunks=st.none() | st.just([1, 1]),
        bytes=st.just(3),
        listing=st.just([["f", 3]]),
        listing_digest=st.just("l"),
    ),
    st.sampled_from(
        [
            event("SomethingElse", {"run": "a"}, index=[1], values=[2.0]),
            event("TrainingStatsRecorded", {"new": "shape"}, index=[1], schema_version=2),
        ]
    ),
)


@st.composite
def _histories(draw: st.DrawFn) -> list[GivenEvent]:
    # A few of each subject, in any order: events end each other's rows, and a history in which they
    # seldom meet would prove little.
    makers = [_training_stats(), _training, _training, _validation_scores(), _validation, _validation]
    makers += [_configuring, _configuring, _weighing, _weighing, _weighing, _others]
    makers += [_configuring, _configuring, _weighing, _weighing]
    return [draw(maker) for maker in draw(st.permutations(makers))[draw(st.integers(0, 4)) :]]


def _contents(read_models: ReadModels, *, as_of: int | None = None) -> dict[str, list[str]]:
    # repr tells NaN, -0.0 and None apart, and makes NaN equal to itself.
    suffix = "" if as_of is None else f"_at({as_of})"
    return {
        view: sorted(map(repr, read_models.query(f"SELECT * FROM {view}{suffix}").fetchall()))  # noqa: S608
        for view in VIEWS
    }


@settings(max_examples=settings.default.max_examples // 4, suppress_health_check=list(HealthCheck))
@given(_histories(), st.integers(1, 3))
def test_the_past_is_what_was_seen_then_and_batches_show_nowhere(
    history: list[GivenEvent], commit_events: int
) -> None:
    """Every ``x_at(n)`` is what ``x`` showed when there were n events, also to who reads all at once."""
    log = ListedLog(batch_events=2)
    follower = ReadModels(log, threads=1)
    newcomer = ReadModels(ListedLog(history), threads=1)
    for start in range(0, len(history), commit_events):
        log.append(*history[start : start + commit_events])

        assert _contents(newcomer, as_of=log.next_position) == _contents(follower)

    assert _contents(newcomer) == _contents(follower)
    assert newcomer.digests() == follower.digests()
    assert not newcomer.stopped


def _leave_alone(path: Path) -> None:
    pass


def _cut_in_half(path: Path) -> None:
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def _flip_a_bit_in_each_sector(path: Path) -> None:
    path.chmod(0o600)
    with path.open("r+b") as file:
        data = bytearray(file.read())
        # The headers are spared: most of what is damaged is found only when it is read.
        for offset in range(3 * 4096 + 256, len(data), 512):
            data[offset] ^= 1
        file.seek(0)
        file.write(data)


def _empty(path: Path) -> None:
    path.chmod(0o600)
    path.write_bytes(b"")


def _call_it_later(path: Path) -> None:
    path.rename(path.with_name(f"{int(path.name[:20]) + 1:020d}{path.name[20:]}"))


def _call_it_of_another_history(path: Path) -> None:
    path.rename(path.with_name(path.name[:-24] + "0" * 16 + ".duckdb"))


def _call_it_of_other_code(path: Path) -> None:
    path.rename(path.with_name(path.name[:21] + "0" * 16 + path.name[37:]))


def _put_a_folder_in_its_place(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _leave_a_write_ahead_log(path: Path) -> None:
    path.with_name(f"{path.name}.wal").write_bytes(b"somebody was here")


_fates = st.sampled_from(
    [
        *[_leave_alone] * 7,
        _cut_in_half,
        _flip_a_bit_in_each_sector,
        _empty,
        _call_it_later,
        _call_it_of_another_history,
        _call_it_of_other_code,
        _put_a_folder_in_its_place,
        _leave_a_write_ahead_log,
    ]
)


@settings(max_examples=settings.default.max_examples // 4, suppress_health_check=list(HealthCheck))
@given(_histories(), st.lists(st.tuples(st.integers(0, 14), _fates), max_size=3), st.data())
def test_snapshots_show_nowhere(
    history: list[GivenEvent], snapshots: list[tuple[int, Callable[[Path], None]]], data: st.DataObject
) -> None:
    """Wherever there are files, usable or not, whoever begins with them sees what the log alone says."""
    with tempfile.TemporaryDirectory() as folder, _read_models(history) as alone:
        for position, fate in snapshots:
            prefix = ListedLog(history[:position])
            published = publish_snapshot(Path(folder), prefix, tail_limit=ANYTHING_NEW, threads=1)
            if published is not None:
                fate(published.path)
        log = ListedLog(history[: data.draw(st.integers(0, len(history)), label="events at first")])
        with _read_models(history, Path(folder)) as newcomer, _follower(log, Path(folder)) as follower:
            follower.catch_up()
            log.append(*history[len(log.events) :])

            assert newcomer.digests() == alone.digests() == follower.digests()
            assert _contents(newcomer) == _contents(alone) == _contents(follower)
            as_of = data.draw(st.integers(0, len(history)), label="as of")
            past = _contents(alone, as_of=as_of)
            assert _contents(newcomer, as_of=as_of) == past == _contents(follower, as_of=as_of)


def _read_models(history: list[GivenEvent], folder: Path | None = None) -> AbstractContextManager[ReadModels]:
    return _follower(ListedLog(history), folder)


@contextmanager
def _follower(log: ListedLog, folder: Path | None) -> Iterator[ReadModels]:
    read_models = ReadModels(log, threads=1, snapshots=folder)
    try:
        yield read_models
    finally:
        read_models.close()
