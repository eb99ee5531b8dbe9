"""Durable files: every sync, rename and link of the project is here; what bytes mean is not asked.

A file counts as durable once its bytes are synced *and* the directory entry that names it is
(``sync_directory``). New files and folders take the group of a folder that they belong to and its
permission bits, whatever the umask says, so that the people of a lab can share one base.

Nothing here retries a failed sync: the kernel has marked the pages clean and the next one would lie.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import resource
import stat
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, cast

_SYNC_FILE_RANGE_WRITE: Final = 2

_DURABLE_FOLDERS: Final[set[tuple[int, int]]] = set()


def create(path: Path, *, like: Path) -> int:
    """Create a new file for writing and return its descriptor; its name is not durable yet.

    Args:
        path: The new file.
        like: The folder whose group and permission bits the file takes.

    Raises:
        FileExistsError: A file of this name is there; nothing was touched.
    """
    descriptor = open_file(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    share(descriptor, like=like)
    return descriptor


def open_file(path: Path, flags: int, mode: int = 0o600) -> int:
    """Open a file and return its descriptor, which programs that this one starts do not inherit.

    Raises:
        OSError: As ``os.open`` does; where descriptors have run out, it says what to do.
    """
    try:
        return os.open(path, flags | os.O_CLOEXEC, mode)
    except OSError as error:
        _say_if_descriptors_ran_out(error, path)
        raise


def duplicate(descriptor: int, path: Path) -> int:
    """A second descriptor of an open file; ``path`` is for the error, as that of ``open_file``."""
    try:
        return os.dup(descriptor)
    except OSError as error:
        _say_if_descriptors_ran_out(error, path)
        raise


def _say_if_descriptors_ran_out(error: OSError, path: Path) -> None:
    if error.errno == errno.EMFILE:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        text = f"this process has as many files open as it may, {limit}: raise `ulimit -n`"
    elif error.errno == errno.ENFILE:
        text = "all processes together have as many files open as they may: raise `sysctl fs.file-max`"
    else:
        return
    raise OSError(error.errno, f"{error.strerror} ({text}, and repeat the call)", str(path)) from error


def share(descriptor: int, *, like: Path) -> None:
    """Give an open file the group of the folder ``like`` and its read and write bits."""
    folder = like.stat()
    with contextlib.suppress(PermissionError):
        if os.fstat(descriptor).st_gid != folder.st_gid:
            os.fchown(descriptor, -1, folder.st_gid)
        os.fchmod(descriptor, 0o600 | (folder.st_mode & 0o066))


def make_directories(path: Path, *, like: Path) -> None:
    """Make a folder and those above it, durably, with the group and bits of ``like``.

    An existing folder is left as it is; but whoever made it may not have come to sync its name.
    """
    if path.is_dir():
        _make_name_durable(path)
        return
    make_directories(path.parent, like=like)
    folder = like.stat()
    try:
        path.mkdir()
    except FileExistsError:
        _make_name_durable(path)
        return
    with contextlib.suppress(PermissionError):
        if path.stat().st_gid != folder.st_gid:
            os.chown(path, -1, folder.st_gid)
        path.chmod(stat.S_IMODE(folder.st_mode) | 0o700)
    try:
        sync_directory(path.parent)
    except OSError:
        # A second sync would not make up for this one: whoever comes next makes the folder anew.
        with contextlib.suppress(OSError):
            path.rmdir()
        raise


def _make_name_durable(path: Path) -> None:
    """Sync a folder's name once in the life of this process."""
    status = path.stat()
    identity = (status.st_dev, status.st_ino)
    if identity in _DURABLE_FOLDERS:
        return
    # Who may not read the folder above could not have made this one either.
    with contextlib.suppress(PermissionError):
        sync_directory(path.parent)
    _DURABLE_FOLDERS.add(identity)


def write(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of ``data`` at the descriptor's place.

    Raises:
        OSError: The disk took less than all of it; the file may hold a part.
    """
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def write_at(descriptor: int, data: bytes, offset: int) -> int:
    """Write ``data`` at ``offset`` in one call and return how many bytes the disk took."""
    return os.pwrite(descriptor, data, offset)


def read_at(descriptor: int, count: int, offset: int) -> bytes:
    """Read up to ``count`` bytes at ``offset``; fewer only at the end of the file."""
    data = os.pread(descriptor, count, offset)
    if len(data) in (0, count):
        return data
    parts = [data]
    while data and sum(map(len, parts)) < count:
        data = os.pread(descriptor, count - sum(map(len, parts)), offset + sum(map(len, parts)))
        parts.append(data)
    return b"".join(parts)


def read_into(descriptor: int, buffer: memoryview, offset: int) -> int:
    """Read bytes at ``offset`` into ``buffer`` and return how many: fewer than it takes only at the end."""
    taken = 0
    while taken < len(buffer) and (count := os.preadv(descriptor, [buffer[taken:]], offset + taken)):
        taken += count
    return taken


def size(descriptor: int) -> int:
    """The length of an open file in bytes."""
    return os.fstat(descriptor).st_size


def has_name(descriptor: int) -> bool:
    """False once the open file has been deleted: what is written to it is lost when it is closed."""
    return os.fstat(descriptor).st_nlink > 0


def cut(descriptor: int, length: int) -> None:
    """Shorten an open file to ``length`` bytes."""
    os.ftruncate(descriptor, length)


def begin_writeback(descriptor: int, offset: int, count: int) -> None:
    """Ask the kernel to bring these bytes to the disk soon, so that a later sync has less to wait for.

    This promises nothing, and tells of no error: the sync does both.
    """
    if (sync_file_range := _sync_file_range()) is not None:
        sync_file_range(descriptor, offset, count, _SYNC_FILE_RANGE_WRITE)


@functools.cache
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    """The C library's function of this name, which Python has not."""
    import ctypes

    function: Any = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if function is not None:
        function.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return cast("Callable[[int, int, int, int], int] | None", function)


def sync_data(descriptor: int) -> None:
    """Return once the file's bytes and its length are durable."""
    os.fdatasync(descriptor)


def sync_file(descriptor: int) -> None:
    """Return once the file's bytes and all that is known of it are durable."""
    os.fsync(descriptor)


def sync_directory(path: Path) -> None:
    """Return once the names in a folder are durable."""
    descriptor = open_file(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def set_time(path: Path, stamp_ns: int) -> None:
    """Let a file or a link look as if it had been written then, in nanoseconds since 1970."""
    os.utime(path, ns=(stamp_ns, stamp_ns), follow_symlinks=False)


def sync_file_systems() -> None:
    """Write back what anybody has written: for copies of so many files that each sync would count."""
    os.sync()


def forget_cached(descriptor: int) -> None:
    """Let the next read of a synced file come from the disk, as far as the kernel likes to."""
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def rename(source: Path, target: Path) -> None:
    """Put ``source`` in the place of ``target``, atomically and durably."""
    source.rename(target)
    sync_directory(target.parent)
    if source.parent != target.parent:
        sync_directory(source.parent)


def rename_derived(source: Path, target: Path) -> None:
    """Put ``source`` in the place of ``target``, atomically; a power cut may undo it."""
    source.rename(target)


def link(source: Path, target: Path) -> None:
    """Give a file a second name, durably.

    Raises:
        FileExistsError: The second name is taken.
    """
    os.link(source, target)
    sync_directory(target.parent)


def unlink(path: Path) -> None:
    """Take a name away, durably; a name that is not there is no error."""
    try:
        path.unlink()
    except FileNotFoundError:
        return
    sync_directory(path.parent)


def remove_derived(path: Path) -> None:
    """Take a name away; a power cut may bring it back. A name that is not there is no error."""
    path.unlink(missing_ok=True)


def remove_directory(path: Path) -> None:
    """Take an empty folder away, durably."""
    path.rmdir()
    sync_directory(path.parent)


def replace_text(path: Path, text: str, *, like: Path) -> None:
    """Give a small file this content: after a crash it holds the old text or the new one."""
    replace_bytes(path, text.encode(), like=like)


def replace_bytes(path: Path, data: bytes, *, like: Path) -> None:
    """``replace_text`` for bytes."""
    with new_file(path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp"), like=like) as (descriptor, made):
        write(descriptor, data)
        sync_file(descriptor)
        rename(made, path)


@contextlib.contextmanager
def new_file(path: Path, *, like: Path) -> Iterator[tuple[int, Path]]:
    """A new file that is closed at the end and, when the body raises, taken away again."""
    descriptor = create(path, like=like)
    try:
        yield descriptor, path
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
