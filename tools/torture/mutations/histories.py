"""What many callers at once bring to light: locks, expectations, stale views, rows that count twice."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from msgspec import structs

from dacapo_store.base import Base
from dacapo_store.config_store import FileConfigStore
from eventstore import ANY, EventLog, StreamAppend, deciding
from eventstore import log as log_module
from eventstore.follow import follow as eventstore_follow
from eventstore.storage.local.log_folder import LogFolder
from eventstore.storage.local.storage import LocalStorage
from eventstore.storage.local.writing import Writer
from projections.projection import Projection
from tools.torture import history_runner
from tools.torture.histories import judged
from tools.torture.history_programs import ProgramKind, program
from tools.torture.history_runner import Crew
from tools.torture.mutations.breaking import Breaks, Family, Hunt, Noticed, Patch, nothing

_HISTORIES_MAX: Final = 60
_HANG_SECONDS: Final = 6


def _take_no_lock(patch: Patch) -> None:
    patch.set(LocalStorage, "turn", lambda _: contextlib.nullcontext())


def _unlock_early(patch: Patch) -> None:
    """Others may decide and write while this one does."""
    honest = Writer.write

    def write(writer: Writer, *arguments: Any) -> None:
        lock = writer._folder.lock  # noqa: SLF001 - here and below: what is broken is inside
        assert lock is not None, "a log that is written to has one"
        fcntl.flock(lock._descriptor, fcntl.LOCK_UN)  # noqa: SLF001
        honest(writer, *arguments)

    patch.set(Writer, "write", write)


def _skip_events(patch: Patch) -> None:
    def follow(read: Callable[[int], Iterator[Any]], from_position: int, **how: Any) -> Iterator[Any]:
        def read_some(position: int) -> Iterator[Any]:
            return (event for event in read(position) if event.position % 4 != 2)  # noqa: PLR2004 - any

        return eventstore_follow(read_some, from_position, **how)

    patch.set(log_module, "follow", follow)


def _store_configs_whatever_came_between(patch: Patch) -> None:
    honest = FileConfigStore._storing  # noqa: SLF001

    def storing(store: FileConfigStore, *arguments: Any) -> StreamAppend:
        return structs.replace(honest(store, *arguments), expected=ANY)

    patch.set(FileConfigStore, "_storing", storing)


def _store_stats_whatever_came_between(patch: Patch) -> None:
    honest = Base.append

    def append(base: Base, stream: str, events: Any, *, expected: Any) -> Any:  # noqa: ARG001 - dropped
        return honest(base, stream, events, expected=ANY)

    patch.set(Base, "append", append)


def _apply_batches_twice(patch: Patch) -> None:
    honest = Projection.apply

    def apply(projection: Projection, *arguments: Any) -> None:
        honest(projection, *arguments)
        honest(projection, *arguments)

    patch.set(Projection, "apply", apply)


@dataclass(frozen=True)
class _Mutation:
    """How the code is broken, what of it histories use, and the one to begin with, which shows it soon."""

    kind: ProgramKind
    breaks: Breaks
    begin: int = 0


MUTATIONS: Final[dict[str, _Mutation]] = {
    "the lock is not taken": _Mutation("log", _take_no_lock),
    "unlocked before the write": _Mutation("log", _unlock_early),
    "expectations are not checked": _Mutation(
        "log", lambda patch: patch.set(deciding, "check_expectations", nothing)
    ),
    "a reader is content with what it knows": _Mutation(
        "log",
        lambda patch: patch.set(
            EventLog,
            "next_position",
            property(lambda log: log._state.next_position),  # noqa: SLF001
        ),
    ),
    "repeated ids are not recognised": _Mutation(
        "log", lambda patch: patch.set(deciding, "known_commit", nothing)
    ),
    "new segments are not noticed": _Mutation(
        "log", lambda patch: patch.set(LogFolder, "notice_new_segments", nothing)
    ),
    "a forked child keeps what it inherited": _Mutation(
        "log", lambda patch: patch.set(EventLog, "_after_fork", nothing)
    ),
    "followers skip": _Mutation("log", _skip_events),
    "configs are stored whatever came between": _Mutation("stores", _store_configs_whatever_came_between),
    "stats are stored whatever came between": _Mutation("stores", _store_stats_whatever_came_between),
    "read models apply a batch twice": _Mutation("stores", _apply_batches_twice),
}


@contextlib.contextmanager
def _ready() -> Iterator[Hunt]:
    yield _hunt


def _hunt(what: str) -> Noticed | None:
    """The processes are forked and inherit what is broken; nobody starts afresh.

    That somebody did not answer in time does not count: that alone could be a slow machine.
    """
    mutation = MUTATIONS[what]
    with Patch() as patch, Crew(mutation.kind) as crew:
        patch.set(history_runner, "HANG_SECONDS", _HANG_SECONDS)
        mutation.breaks(patch)
        programs = (program(seed, kind=mutation.kind) for seed in range(mutation.begin, 10_000))
        forked = (one for one in programs if all(part.start != "spawn" for part in one.processes))
        for number in range(1, _HISTORIES_MAX + 1):
            _, failures = judged(next(forked), crew, lambda *_: ())
            told = [failure for failure in failures if "did not answer" not in failure]
            if told:
                return Noticed(number, told[0])
    return None


FAMILY: Final = Family("histories", "histories", MUTATIONS, _ready)
