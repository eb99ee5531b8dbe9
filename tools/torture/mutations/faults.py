"""What failing system calls bring to light."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from eventstore import StorageError, files
from eventstore.storage.local.syncing import Syncer
from tools.torture import faults
from tools.torture.faults import Step
from tools.torture.mutations.breaking import Breaks, Family, Hunt, Noticed, Patch, nothing


def _ignore_short_writes(patch: Patch) -> None:
    def write_at(descriptor: int, data: bytes, offset: int) -> int:
        os.pwrite(descriptor, data, offset)
        return len(data)

    patch.set(files, "write_at", write_at)


def _forget_a_failed_sync(patch: Patch) -> None:
    def sync(_: Syncer, descriptor: int, segment: Any) -> None:
        try:
            files.sync_data(descriptor)
        except OSError as error:
            raise StorageError("failed", path=str(segment.path)) from error

    patch.set(Syncer, "sync_descriptor", sync)


def _ignore_a_failed_sync(patch: Patch) -> None:
    def sync_data(descriptor: int) -> None:
        try:
            os.fdatasync(descriptor)
        except OSError:
            return

    patch.set(files, "sync_data", sync_data)


@dataclass(frozen=True)
class _Mutation:
    """How the code is broken, and the fault that shows it."""

    breaks: Breaks
    fault: str


MUTATIONS: Final[dict[str, _Mutation]] = {
    "short writes ignored": _Mutation(_ignore_short_writes, "short write"),
    "a failed sync forgotten": _Mutation(_forget_a_failed_sync, "I/O error on one sync"),
    "a failed sync ignored": _Mutation(_ignore_a_failed_sync, "I/O error on one sync"),
    "payloads of refused weights left behind": _Mutation(
        lambda patch: patch.set(files, "unlink", nothing), "disk full from one call on"
    ),
}


@contextmanager
def _ready() -> Iterator[Hunt]:
    with tempfile.TemporaryDirectory() as made, faults.prepared_process():
        folder = Path(made).resolve()
        steps = faults.steps(folder)
        yield lambda what: _hunt(what, steps, folder)


def _hunt(what: str, steps: list[Step], folder: Path) -> Noticed | None:
    mutation, tally = MUTATIONS[what], faults.Tally()
    with Patch() as patch:
        mutation.breaks(patch)
        for step in steps:
            if step.operation.what in ("note", "store_weights"):
                failures = faults.fail_everywhere(step, mutation.fault, folder, tally)
                if failures:
                    return Noticed(tally.cases.total(), failures[0])
    return None


FAMILY: Final = Family("faults", "calls that failed", MUTATIONS, _ready)
