"""What a program does to a folder, written down while it does it: the trace of ``simulated_disk``.

``Recorder`` stands between the program and the operating system. It looks at ``os`` rather than at
``eventstore.files``, so that ``files`` itself is under test and nothing slips past: at the end of a
recording the trace must give the very folder that is there.

``Hooks`` may let others go first, end a process, refuse a write or fail a sync in front of each step.
As on Linux, a sync that fails does so once for everybody who had the file open, and the kernel may
forget what it could not write, so that programs read what the disk has.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from eventstore.log import _open_logs
from tools.torture.simulated_disk import (
    Disk,
    Made,
    Named,
    Renamed,
    State,
    Step,
    SyncBegun,
    SyncEnded,
    WasCut,
    Written,
)


class Hooks:
    """What may happen to a program between two of its steps. Here: nothing."""

    def step(self) -> None:
        """Called in front of each step, and once more while a sync is under way."""

    def bytes_taken(self, path: str, count: int) -> int:  # noqa: ARG002 - others look at the path
        """How many bytes of a write to a file the disk takes; may raise ``OSError``."""
        return count

    def sync_fails(self, path: str) -> bool:  # noqa: ARG002 - as above
        """Whether the disk does not confirm a sync of a file or folder."""
        return False

    def kernel_forgets(self) -> bool:
        """Whether the kernel then forgets the pages that it could not write."""
        return False


class _OpenFile:
    """What ``dup`` shares: the file, and how many failed syncs of it were reported here."""

    __slots__ = ("errors_seen", "node", "path")

    def __init__(self, path: str, node: int, errors_seen: int) -> None:
        self.path = path
        self.node = node
        self.errors_seen = errors_seen


class Recorder:
    """While it is entered, every change below ``root`` goes into ``trace``.

    Threads may work in the folder as long as only one of them does at a time.

    Args:
        root: An existing folder; what is in it counts as durable.
        hooks: What may happen in between.
    """

    def __init__(self, root: Path, hooks: Hooks | None = None) -> None:
        self.start = read_folder(root)
        self.trace: list[Step] = []
        self.disk = Disk(self.start)
        self._root = root
        self._prefix = f"{root}/"
        self._hooks = hooks or Hooks()
        self._opened: dict[int, _OpenFile] = {}
        self._errors: dict[int, int] = {}
        self._real: dict[str, Callable[..., Any]] = {}

    def __enter__(self) -> Self:
        """Begin to record."""
        watched: dict[str, Callable[..., Any]] = {
            "open": self._open,
            "close": self._close,
            "dup": self._dup,
            "write": self._write,
            "pwrite": self._pwrite,
            "ftruncate": self._ftruncate,
            "fsync": self._sync,
            "fdatasync": self._sync,
            "mkdir": self._mkdir,
            "link": self._link,
            "unlink": lambda path: self._take_away("unlink", path),
            "rmdir": lambda path: self._take_away("rmdir", path),
            "rename": self._rename,
            "replace": self._rename,
        }
        for name, function in watched.items():
            self._real[name] = getattr(os, name)
            setattr(os, name, function)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop, and close what the program left open, as the end of a process does."""
        for log in list(_open_logs):  # or they would take the numbers of closed descriptors for theirs
            log._after_fork()  # noqa: SLF001 - the one way to end a log that was killed
        for name, real in self._real.items():
            setattr(os, name, real)
        for descriptor in self._opened:
            os.close(descriptor)
        if kind is None and read_folder(self._root) != self.disk.live():
            raise AssertionError("the folder was changed in a way that the recorder does not see")

    def _add(self, step: Step) -> int:
        self.trace.append(step)
        self.disk.apply(step)
        return len(self.trace) - 1

    def _inside(self, path: Any) -> str | None:
        """The path relative to the root; None when it is elsewhere."""
        text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else ""
        return str(text)[len(self._prefix) :] if f"{text}/".startswith(self._prefix) else None

    def _place(self, inside: str) -> tuple[int, str]:
        parent, _, name = inside.rpartition("/")
        folder = self.disk.find(parent)
        assert folder is not None, "the operating system has just found this folder"
        return folder, name

    # --- in the place of the functions of ``os``

    def _open(self, path: Any, flags: int, mode: int = 0o777) -> int:
        inside = self._inside(path)
        if inside is None:
            return int(self._real["open"](path, flags, mode))
        node = self.disk.find(inside)
        if node is None and flags & os.O_CREAT:
            self._hooks.step()
            node = self.disk.find(inside)
        descriptor = int(self._real["open"](path, flags, mode))
        if node is None:
            node = self._add_new(inside, is_folder=False)
        self._opened[descriptor] = _OpenFile(inside, node, self._errors.get(node, 0))
        return descriptor

    def _close(self, descriptor: int) -> None:
        self._opened.pop(descriptor, None)
        self._real["close"](descriptor)

    def _dup(self, descriptor: int) -> int:
        copy = int(self._real["dup"](descriptor))
        if descriptor in self._opened:
            self._opened[copy] = self._opened[descriptor]
        return copy

    def _write(self, descriptor: int, data: Any) -> int:
        if descriptor not in self._opened:
            return int(self._real["write"](descriptor, data))
        place = os.lseek(descriptor, 0, os.SEEK_CUR)
        taken = self._pwrite(descriptor, data, place)
        os.lseek(descriptor, place + taken, os.SEEK_SET)
        return taken

    def _pwrite(self, descriptor: int, data: Any, offset: int) -> int:
        file = self._opened.get(descriptor)
        if file is None:
            return int(self._real["pwrite"](descriptor, data, offset))
        self._hooks.step()
        taken = bytes(memoryview(data)[: self._hooks.bytes_taken(file.path, len(data))])
        self._real["pwrite"](descriptor, taken, offset)
        self._add(Written(file.node, offset, taken))
        return len(taken)

    def _ftruncate(self, descriptor: int, length: int) -> None:
        if descriptor in self._opened:
            self._hooks.step()
        self._real["ftruncate"](descriptor, length)
        if descriptor in self._opened:
            self._add(WasCut(self._opened[descriptor].node, length))

    def _sync(self, descriptor: int) -> None:
        file = self._opened.get(descriptor)
        if file is None:
            self._real["fsync"](descriptor)
            return
        self._hooks.step()
        begun = self._add(SyncBegun(file.node))
        self._hooks.step()
        errors = self._errors.get(file.node, 0)
        if file.errors_seen < errors:
            # Somebody else's sync failed: this one reports it, too, and promises nothing.
            file.errors_seen = errors
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fails = self._hooks.sync_fails(file.path)
        self._add(SyncEnded(file.node, begun, good=not fails))
        if fails:
            self._errors[file.node] = file.errors_seen = errors + 1
            if self.disk.is_file(file.node) and self._hooks.kernel_forgets():
                self._forget(descriptor, file.node)
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def _forget(self, descriptor: int, node: int) -> None:
        content = self.disk.on_disk(node)
        self._real["pwrite"](descriptor, content, 0)
        begun = self._add(Written(node, 0, content))
        self._add(SyncEnded(node, begun, good=False))

    def _mkdir(self, path: Any, mode: int = 0o777) -> None:
        inside = self._inside(path)
        if inside is not None:
            self._hooks.step()
        self._real["mkdir"](path, mode)
        if inside is not None:
            self._add_new(inside, is_folder=True)

    def _link(self, source: Any, target: Any) -> None:
        inside = self._inside(target)
        if inside is not None:
            self._hooks.step()
        self._real["link"](source, target)
        if inside is not None:
            node = self.disk.find(self._inside(source) or "")
            self._add(Named(*self._place(inside), node))

    def _take_away(self, function: str, path: Any) -> None:
        inside = self._inside(path)
        if inside is not None:
            self._hooks.step()
        self._real[function](path)
        if inside is not None:
            self._add(Named(*self._place(inside), None))

    def _rename(self, source: Any, target: Any) -> None:
        inside = self._inside(target)
        if inside is not None:
            self._hooks.step()
        self._real["rename"](source, target)
        old = self._inside(source)
        if inside is not None and old is not None:
            node = self.disk.find(old)
            assert node is not None, "the operating system has just found this file"
            self._add(Renamed(*self._place(old), *self._place(inside), node))

    def _add_new(self, inside: str, *, is_folder: bool) -> int:
        node = self.disk.next_node
        self._add(Made(node, is_folder))
        self._add(Named(*self._place(inside), node))
        return node


def read_folder(root: Path) -> State:
    """Everything below a folder."""
    state: State = {}
    _read_into(state, str(root), "")
    return state


def _read_into(state: State, folder: str, prefix: str) -> None:
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_dir():
                state[prefix + entry.name] = None
                _read_into(state, entry.path, f"{prefix}{entry.name}/")
            else:
                state[prefix + entry.name] = Path(entry.path).read_bytes()


def write_folder(root: Path, state: State) -> None:
    """Make an empty folder hold this."""
    for path, content in state.items():
        if content is None:
            (root / path).mkdir()
        else:
            descriptor = os.open(root / path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            os.write(descriptor, content)
            os.close(descriptor)


def clear_folder(root: Path) -> None:
    """Take everything in a folder away."""
    with os.scandir(root) as entries:
        for entry in list(entries):
            if entry.is_dir():
                clear_folder(Path(entry.path))
                Path(entry.path).rmdir()
            else:
                Path(entry.path).unlink()
