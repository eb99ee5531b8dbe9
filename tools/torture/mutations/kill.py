"""What a kill brings to light. The writers are broken, each in its process; those who look are not.

A sync that is left out is not among these: a kill leaves the operating system's memory alone.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dacapo_store import LocalArrayStore, LocalWeightsStore
from dacapo_store.base import Base
from dacapo_store.checkpoint_names import CheckpointNames
from eventstore import StreamAppend, files
from tools.torture import kill
from tools.torture.mutations.breaking import Breaks, Family, Hunt, Noticed, Patch, nothing
from tools.torture.operations import Operation, State
from tools.torture.zygote import Tell, Zygote

_KILLS_MAX: Final = 100
_SEED: Final = 3


def _acknowledge_first(patch: Patch) -> None:
    honest = kill.do

    def do(operation: Operation, state: State, base: Path, writer: str, tell: Tell) -> State:
        tell({"begins": operation.as_document()})
        tell({"ended": {}})
        return honest(operation, state, base, writer, nothing)

    patch.set(kill, "do", do)


def _commit_by_the_piece(patch: Patch) -> None:
    whole = Base.append_to_streams

    def pieces(base: Base, appends: Sequence[StreamAppend], **how: Any) -> Any:
        for part in appends:
            expected = part.expected
            for event in part.events:
                commit = whole(base, [StreamAppend(part.stream, [event], expected)], **how)
                expected = commit.last_stream_version
        return commit

    patch.set(Base, "append_to_streams", pieces)


def _keep_writes_back(patch: Patch) -> None:
    """The bytes of a commit go to the disk with the next one."""
    kept: list[tuple[bytes, int]] = []

    def write_at(descriptor: int, data: bytes, offset: int) -> int:
        for earlier in kept:
            os.pwrite(descriptor, *earlier)
        kept[:] = [(data, offset)]
        return len(data)

    patch.set(files, "write_at", write_at)


def _move_arrays_unrecorded(patch: Patch) -> None:
    record, move = LocalArrayStore._record_removal, LocalArrayStore._move_to_trash  # noqa: SLF001

    def move_then_record(store: LocalArrayStore, container: Path, folder: Path) -> Path:
        trashed = move(store, container, folder)
        record(store, container, folder.relative_to(container).as_posix(), trashed)
        return trashed

    patch.set(LocalArrayStore, "_record_removal", nothing)
    patch.set(LocalArrayStore, "_move_to_trash", move_then_record)


def _name_weights_before_they_are_there(patch: Patch) -> None:
    write, link = LocalWeightsStore._write, CheckpointNames.link  # noqa: SLF001

    def write_aside(store: LocalWeightsStore, *arguments: Any) -> Any:
        stored = write(store, *arguments)
        path = Path(str(store.basedir)) / stored.path
        path.rename(path.with_suffix(".aside"))
        return stored

    def link_in_place(names: CheckpointNames, name: str, stored: Any) -> None:
        path = names.root / stored.path
        with contextlib.suppress(FileNotFoundError):
            path.with_suffix(".aside").rename(path)
        link(names, name, stored)

    patch.set(LocalWeightsStore, "_write", write_aside)
    patch.set(CheckpointNames, "link", link_in_place)


@dataclass(frozen=True)
class _Mutation:
    """How writers are broken; where to end them, and of which operations, so that it shows soon."""

    breaks: Breaks
    failpoints: tuple[str, ...]
    only: tuple[str, ...] = ()


MUTATIONS: Final[dict[str, _Mutation]] = {
    "acknowledged before it is written": _Mutation(_acknowledge_first, ("before write_at segment",)),
    "a commit made piece by piece": _Mutation(
        _commit_by_the_piece, ("after sync_data segment",), ("store_config",)
    ),
    "writes kept back until the next": _Mutation(_keep_writes_back, ("after sync_data segment",)),
    "arrays moved before that is on record": _Mutation(
        _move_arrays_unrecorded, ("after rename trash",), ("make_array", "remove_array")
    ),
    "weights named before they are there": _Mutation(
        _name_weights_before_they_are_there, ("after sync_data segment",), ("store_weights",)
    ),
}


def break_this_process(what: str) -> None:
    """Break a writer for the rest of its life. It is called by name, in the writer's process."""
    MUTATIONS[what].breaks(Patch())


@contextmanager
def _ready() -> Iterator[Hunt]:
    with Zygote("tools.torture.kill") as zygote:
        yield lambda what: _hunt(what, zygote)


def _hunt(what: str, zygote: Zygote) -> Noticed | None:
    mutation, tally = MUTATIONS[what], kill.Tally()
    with tempfile.TemporaryDirectory() as folder:
        failures = kill.torture(
            zygote,
            Path(folder),
            kills=_KILLS_MAX,
            seed=_SEED,
            tally=tally,
            broken=what,
            failpoints=mutation.failpoints,
            only=mutation.only,
        )
    return Noticed(tally.kills, failures[0]) if failures else None


FAMILY: Final = Family("kill", "kills", MUTATIONS, _ready)
