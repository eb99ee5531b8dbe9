"""Copies of the states of models and optimizers, in memory that is used again.

A copy has its own tensors, so what a training does to the state afterwards does not reach it; what
shared memory shares it in the copy. The memory of one copy is kept for the next one, because getting
and zeroing it takes longer than copying into it.

Beside ``weights_file`` this is the only module that imports torch, inside its functions.
"""

from __future__ import annotations

import contextlib
import copy
import mmap
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dacapo_store.weights_file import map_leaves

if TYPE_CHECKING:
    import torch

_ALIGNMENT_BYTES: Final = 64
_SPARED_BYTES: Final = 256 * 1024 * 1024
"""What a copy leaves free for everybody else."""

_PIECE_BYTES: Final = 8 * 1024 * 1024
_WORKERS_MAX: Final = 4

_MEMINFO: Final = Path("/proc/meminfo")
_OWN_CGROUP: Final = Path("/proc/self/cgroup")
_CGROUPS: Final = Path("/sys/fs/cgroup")


class StateTooLargeError(MemoryError):
    """There is no room for a second copy of this state: store it without one."""


class Staging:
    """Memory for copies; one stretch of it is kept while nobody uses it."""

    def __init__(self) -> None:
        # Without a lock, which a fork might find held: one operation on a list is one step.
        self._kept: list[_Memory] = []

    def copy(self, state: Mapping[str, Any]) -> StagedState:
        """A copy of a state, complete when this returns, also of what lies on a GPU.

        Args:
            state: Containers of tensors and plain values.

        Raises:
            StateTooLargeError: The machine, or the control group, has no memory for it.
        """
        parts = _Parts()
        map_leaves(state, parts.note)
        memory = self._take(parts.bytes, pinned=parts.on_gpu)
        try:
            copied = parts.copy_to(memory)
            return StagedState(map_leaves(state, copied.leaf), lambda: self._give_back(memory))
        except BaseException:
            self._give_back(memory)
            raise

    def _take(self, needed: int, *, pinned: bool) -> _Memory:
        with contextlib.suppress(IndexError):
            kept = self._kept.pop()
            if kept.suits(needed, pinned=pinned):
                return kept
            del kept
        if needed + _SPARED_BYTES > (available := available_bytes()):
            raise StateTooLargeError(
                f"a copy of the state takes {needed} bytes, and {available} are available"
            )
        return _Memory(needed, pinned=pinned)

    def _give_back(self, memory: _Memory) -> None:
        self._kept[:] = [memory]


class StagedState:
    """A copy of a state.

    Attributes:
        state: The copy; not to be used after ``release``.
    """

    def __init__(self, state: Any, release: Callable[[], None]) -> None:
        self.state = state
        self._release = release

    def release(self) -> None:
        """Let the memory be used for the next copy."""
        self.state = None
        self._release()


class _Memory:
    """A stretch of memory, pinned for a GPU or in huge pages."""

    def __init__(self, size: int, *, pinned: bool) -> None:
        import torch

        self.pinned = pinned
        if pinned or not size:
            whole = torch.empty(size, dtype=torch.uint8, device="cpu", pin_memory=pinned)
        else:
            # Private: a forked child must not see what its parent copies here.
            pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            if hasattr(mmap, "MADV_HUGEPAGE"):
                pages.madvise(mmap.MADV_HUGEPAGE)
            whole = torch.frombuffer(pages, dtype=torch.uint8)
        self.is_fresh = not pinned
        self.storage = whole.untyped_storage()

    def suits(self, needed: int, *, pinned: bool) -> bool:
        """True when a copy fits in here and leaves less than half of it unused."""
        return pinned == self.pinned and needed <= self.storage.nbytes() <= 2 * needed


class _Parts:
    """What a state is made of: storages, each to be copied once, however many tensors show it."""

    def __init__(self) -> None:
        self.bytes = 0
        self.on_gpu = False
        self._offsets: dict[tuple[str, int, int], int] = {}
        self._storages: list[tuple[int, torch.UntypedStorage]] = []

    def note(self, leaf: Any) -> Any:
        """Take the leaf's storage into the account."""
        if _is_plain_tensor(leaf):
            storage = leaf.untyped_storage()
            if _key(storage) not in self._offsets:
                self._offsets[_key(storage)] = self.bytes
                self._storages.append((self.bytes, storage))
                self.bytes += -(-storage.nbytes() // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
                self.on_gpu = self.on_gpu or storage.device.type == "cuda"
        return leaf

    def copy_to(self, memory: _Memory) -> _Copied:
        """Copy all storages; returns when the last byte is there."""
        import torch

        copied = _Copied()
        devices = set()
        moves: list[_Move] = []
        for offset, storage in self._storages:
            part = memory.storage[offset : offset + storage.nbytes()]
            if storage.device.type == "cuda":
                part.copy_(storage, non_blocking=True)
            elif storage.nbytes():
                moves.append((part.data_ptr(), storage.data_ptr(), storage.nbytes()))
            copied.storages[_key(storage)] = part
            if storage.device.type == "cuda":
                devices.add(storage.device)
        # torch copies with all its threads, which wait for each other at every storage: on a busy machine
        # that took a hundred times as long.
        if memory.is_fresh:
            _move_side_by_side(moves)
        else:
            _move(moves)
        memory.is_fresh = False
        # Whoever changes a tensor next may do so in another stream of its GPU.
        for device in devices:
            torch.cuda.current_stream(device).synchronize()
        return copied


_Move = tuple[int, int, int]
"""A copy of bytes: the address to copy to, that to copy from, how many."""


def _move(moves: Iterable[_Move]) -> None:
    import ctypes

    for target, source, count in moves:
        ctypes.memmove(target, source, count)


def _move_side_by_side(moves: Sequence[_Move]) -> None:
    """Copy into memory that is new: getting its pages takes several times as long as copying."""
    pieces = [
        (target + start, source + start, min(_PIECE_BYTES, count - start))
        for target, source, count in moves
        for start in range(0, count, _PIECE_BYTES)
    ]
    workers = min(len(pieces), os.cpu_count() or 1, _WORKERS_MAX)
    # Without a lock: a step of an iterator over a list is one step of the interpreter, too.
    waiting = iter(pieces)
    helpers = [threading.Thread(target=_move, args=(waiting,)) for _ in range(workers - 1)]
    for helper in helpers:
        helper.start()
    _move(waiting)
    for helper in helpers:
        helper.join()


class _Copied:
    """The leaves of a copied state."""

    def __init__(self) -> None:
        self.storages: dict[tuple[str, int, int], torch.UntypedStorage] = {}
        self._tensors: dict[int, torch.Tensor] = {}
        self._memo: dict[int, Any] = {}

    def leaf(self, leaf: Any) -> Any:
        """What stands for a leaf of the state in the copy."""
        if not _is_plain_tensor(leaf):
            return copy.deepcopy(leaf, self._memo)
        if id(leaf) not in self._tensors:
            self._tensors[id(leaf)] = self._tensor(leaf)
        return self._tensors[id(leaf)]

    def _tensor(self, original: torch.Tensor) -> torch.Tensor:
        import torch

        storage = self.storages[_key(original.untyped_storage())]
        tensor = torch.empty(0, dtype=original.dtype, device="cpu")
        with torch.no_grad():
            tensor.set_(storage, original.storage_offset(), original.size(), original.stride())
        if isinstance(original, torch.nn.Parameter):
            return torch.nn.Parameter(tensor, requires_grad=original.requires_grad)
        return tensor.requires_grad_(original.requires_grad)


def _is_plain_tensor(leaf: Any) -> bool:
    """True for a tensor that is nothing but a view of ordinary memory; others are copied one by one."""
    import torch

    return (
        type(leaf) in (torch.Tensor, torch.nn.Parameter)
        and leaf.layout == torch.strided
        and leaf.device.type in ("cpu", "cuda")
        and not (leaf.is_quantized or leaf.is_nested or leaf.is_conj() or leaf.is_neg() or vars(leaf))
    )


def _key(storage: torch.UntypedStorage) -> tuple[str, int, int]:
    return str(storage.device), storage.data_ptr(), storage.nbytes()


def available_bytes() -> int:
    """How much memory the machine, and the control groups that this process is in, have to give."""
    return min((*_machine_has(), *_control_groups_have()), default=sys.maxsize)


def _machine_has() -> Iterator[int]:
    with contextlib.suppress(OSError, ValueError):
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                yield int(line.split()[1]) * 1024


def _control_groups_have() -> Iterator[int]:
    """What each group above this process has left, by the second version of control groups."""
    with contextlib.suppress(OSError, ValueError):
        (path,) = [line[3:] for line in _OWN_CGROUP.read_text().splitlines() if line.startswith("0::")]
        group = _CGROUPS / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder == _CGROUPS.parent:
                return
            with contextlib.suppress(OSError, ValueError):
                limit, used = (int((folder / f"memory.{what}").read_text()) for what in ("max", "current"))
                # The page cache counts as used, but what nobody has looked at lately makes room.
                stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                yield max(limit - used + int(stat.get("inactive_file", 0)), 0)
