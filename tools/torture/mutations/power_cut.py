"""What a power cut brings to light: syncs left out, tails judged wrongly, bytes mixed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Final

from eventstore import EventLog, WriteRefusedError, files
from eventstore import format as log_format
from eventstore.format import Flaw
from eventstore.storage.local import directory, recovery
from eventstore.storage.local.directory import SegmentName
from eventstore.storage.local.segment import Segment
from eventstore.storage.local.storage import LocalStorage
from eventstore.storage.local.syncing import Syncer
from eventstore.storage.local.writing import Writer
from tools.torture.boots import Plan
from tools.torture.mutations.breaking import Breaks, Family, Hunt, Noticed, Patch, nothing
from tools.torture.power_cut import Suite, fast_folder
from tools.torture.promises import BrokenPromiseError

_SCENARIOS_MAX: Final = 100
_POINTS: Final = 25


def _claim_before_the_sync(patch: Patch) -> None:
    honest = Syncer._sync_active  # noqa: SLF001 - here and below: what is broken is inside

    def claim(self: Syncer, *arguments: Any) -> None:
        self.synced = self._folder.segments[-1].next_position
        honest(self, *arguments)

    patch.set(Syncer, "_sync_active", claim)


def _begin_a_segment_without_syncing_the_last(patch: Patch) -> None:
    def roll(self: Writer, segment: Segment) -> None:
        self._create_segment(SegmentName(segment.next_position), segment.schema, segment.chain, [])
        self._folder.list_segments()

    patch.set(Writer, "_roll", roll)


def _try_a_failed_sync_again(patch: Patch) -> None:
    def sync(_: Syncer, descriptor: int, __: Any) -> None:
        try:
            files.sync_data(descriptor)
        except OSError:
            with suppress(OSError):
                files.sync_data(descriptor)

    patch.set(Syncer, "sync_descriptor", sync)


def _name_a_segment_before_its_bytes_are_synced(patch: Patch) -> None:
    def create(path: Path, name: SegmentName, first_bytes: bytes) -> None:
        descriptor = files.create(path / name.text, like=path)
        files.sync_directory(path)
        files.write(descriptor, first_bytes)
        files.sync_file(descriptor)
        os.close(descriptor)

    patch.set(directory, "create_segment", create)


def _cut_without_looking_at_what_was_synced(patch: Patch) -> None:
    patch.set(log_format, "greatest_synced_position", lambda _: 0)
    honest = recovery.torn_tail
    patch.set(recovery, "torn_tail", lambda *place, **_: honest(*place, synced_position=0))


def _take_one_flaw_for_another(patch: Patch, flaw: Flaw, other: Flaw) -> None:
    honest = log_format.find_flaw
    patch.set(log_format, "find_flaw", lambda *data: other if honest(*data) is flaw else honest(*data))


def _take_any_zero_sector_for_one_that_was_never_written(patch: Patch) -> None:
    honest = log_format.find_flaw

    def find(data: bytes, offset: int) -> Flaw:
        return Flaw.HOLE if log_format.count_zero_sectors(data, offset) else honest(data, offset)

    patch.set(log_format, "find_flaw", find)


def _ignore_how_much_the_disk_took(patch: Patch) -> None:
    honest = files.write_at

    def write(descriptor: int, data: bytes, offset: int) -> int:
        honest(descriptor, data, offset)
        return len(data)

    patch.set(files, "write_at", write)


def _open_without_syncing_what_is_there(patch: Patch) -> None:
    def open_log(path: Path, *, read_only: bool = False, segment_bytes_max: int = 1 << 20) -> EventLog:
        return EventLog(LocalStorage(path, read_only=read_only, segment_bytes_max=segment_bytes_max))

    patch.set(EventLog, "open", open_log)


def _cut_before_the_copy_is_durable(patch: Patch) -> None:
    def set_aside(folder: Path, segment: Segment, offset: int, rest: bytes) -> None:
        files.make_directories(folder / "quarantine", like=folder)
        copy = folder / "quarantine" / f"{segment.path.name}.{offset}.{os.urandom(8).hex()}.bytes"
        descriptor = files.create(copy, like=folder)
        files.write(descriptor, rest)
        os.close(descriptor)

    patch.set(recovery, "_set_aside", set_aside)


def _cut_back_without_a_sync(patch: Patch) -> None:
    def cut_back(_: Writer, segment: Segment, offset: int, __: str) -> None:
        files.cut(segment.keep_open(), offset)
        raise WriteRefusedError("the disk took a part", path=str(segment.path))

    patch.set(Writer, "_cut_back", cut_back)


@dataclass(frozen=True)
class _Mutation:
    """How the code is broken, and the scenario to begin with, one that shows it soon."""

    breaks: Breaks
    begin: int = 0


MUTATIONS: Final[dict[str, _Mutation]] = {
    "commits are not synced": _Mutation(lambda patch: patch.set(files, "sync_data", nothing)),
    "new files are not synced": _Mutation(lambda patch: patch.set(files, "sync_file", nothing)),
    "folders are not synced": _Mutation(lambda patch: patch.set(files, "sync_directory", nothing)),
    "acknowledged without a sync": _Mutation(lambda patch: patch.set(Syncer, "sync", nothing)),
    "claimed before the sync": _Mutation(_claim_before_the_sync),
    "a segment begun before the last is synced": _Mutation(_begin_a_segment_without_syncing_the_last),
    "a segment named before its bytes are synced": _Mutation(_name_a_segment_before_its_bytes_are_synced),
    "a failed sync tried again": _Mutation(_try_a_failed_sync_again),
    "a failed sync not told to others": _Mutation(
        lambda patch: patch.set(Syncer, "mark_failed_sync", nothing), begin=8
    ),
    "synced positions ignored": _Mutation(_cut_without_looking_at_what_was_synced, begin=4),
    "every bad tail taken for a torn one": _Mutation(
        lambda patch: _take_one_flaw_for_another(patch, Flaw.WRONG, Flaw.SHORT)
    ),
    "holes taken for damage": _Mutation(
        lambda patch: _take_one_flaw_for_another(patch, Flaw.HOLE, Flaw.WRONG)
    ),
    "zero sectors not counted": _Mutation(_take_any_zero_sector_for_one_that_was_never_written),
    "short writes ignored": _Mutation(_ignore_how_much_the_disk_took, begin=4),
    "opened without a sync": _Mutation(_open_without_syncing_what_is_there, begin=2),
    "cut without a copy": _Mutation(lambda patch: patch.set(recovery, "_set_aside", nothing)),
    "cut before the copy is durable": _Mutation(_cut_before_the_copy_is_durable),
    "cut back without a sync": _Mutation(_cut_back_without_a_sync, begin=13),
}


@contextmanager
def _ready() -> Iterator[Hunt]:
    yield _hunt


def _hunt(what: str) -> Noticed | None:
    mutation = MUTATIONS[what]
    with Patch() as patch, fast_folder() as folder:
        mutation.breaks(patch)
        suite = Suite(folder)
        for number in range(mutation.begin, mutation.begin + _SCENARIOS_MAX):
            dice, plan = _scenario(number)
            try:
                suite.scenario(dice, plan=plan, points=_POINTS)
            except BrokenPromiseError as broken:
                return Noticed(suite.counts.crash_points, str(broken))
    return None


def _scenario(number: int) -> tuple[Random, Plan]:
    """One as the suite draws it, one with much trouble of one kind, one with much of all."""
    dice = Random(f"mutation {number}")  # noqa: S311 - to be repeated
    plan = Plan.drawn(dice)
    if number % 3 == 1:
        plan = replace(plan, killing=0.0, failing=0.0, refusing=0.4, segment_bytes_max=64 << 20)
    elif number % 3 == 2:  # noqa: PLR2004 - the third of three
        plan = replace(plan, killing=0.02, failing=0.2, refusing=0.1, switching=0.4, processes=2, threads=2)
    return dice, plan


FAMILY: Final = Family("power_cut", "crash points", MUTATIONS, _ready)
