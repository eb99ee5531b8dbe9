"""Which file system a path lies on, as far as it matters to a log: is it a network's?

On a network file system flock, append and the page cache do not promise what the local log needs.
This module only finds out; who opens a log decides what to say about it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

NETWORK_FILE_SYSTEMS: Final = frozenset(  # words in a string: one name a line would fill two pages
    "nfs nfs4 pnfs cifs smb3 smbfs ncpfs afs coda 9p davfs "  # noqa: SIM905
    "lustre gpfs mmfs beegfs fhgfs ceph glusterfs orangefs pvfs2 panfs wekafs quobyte".split()
)
"""File system types, as the kernel names them, whose files other hosts may write as well."""

# A user-space file system is told by what stands behind "fuse."; a plain "fuse" says nothing.
_NETWORK_FUSE: Final = frozenset(
    "sshfs nfs smbnetfs curlftpfs davfs2 glusterfs ceph ceph-fuse beegfs quobyte moosefs mfs lizardfs "  # noqa: SIM905
    "juicefs JuiceFS seaweedfs alluxio hdfs s3fs goofys geesefs mount-s3 gcsfuse blobfuse blobfuse2 rclone "
    "mountpoint-s3 cvmfs2".split()
)

_MOUNTINFO: Final = Path("/proc/self/mountinfo")


class NetworkFileSystemWarning(UserWarning):
    """A log was opened on a file system where locks and syncs of several hosts cannot be trusted."""


def network_file_system(path: str | os.PathLike[str], mountinfo: str | None = None) -> str | None:
    """Name the network file system that a path lies on, e.g. ``"nfs4"`` or ``"fuse.sshfs"``.

    None means local, or that the kernel does not say: this is advice, and never an error.

    Args:
        path: An existing or future file or directory; symbolic links are followed.
        mountinfo: The text of ``/proc/self/mountinfo``; None reads it.
    """
    if mountinfo is None:
        mountinfo = _read_mountinfo()
    file_system = _file_system_at(os.path.realpath(path), mountinfo)
    return file_system if file_system is not None and _is_network(file_system) else None


def _read_mountinfo() -> str:
    try:
        return _MOUNTINFO.read_text(errors="surrogateescape")
    except OSError:
        return ""


def _file_system_at(path: str, mountinfo: str) -> str | None:
    """Find the type of the mount with the longest mount point above the path."""
    longest, found = -1, None
    for line in mountinfo.splitlines():
        mount_point, file_system = _parsed(line)
        # Among mounts on one point the last listed lies on top.
        if _is_within(path, mount_point) and len(mount_point) >= longest:
            longest, found = len(mount_point), file_system
    return found


def _parsed(line: str) -> tuple[str, str]:
    """Read mount point and type: fields 5 and, behind a separator at a varying place, the next."""
    before, _, behind = line.partition(" - ")
    fields, described = before.split(" "), behind.split(" ")
    try:
        return _unescaped(fields[4]), described[0]
    except IndexError:
        return "", ""


def _unescaped(text: str) -> str:
    """Undo the kernel's octal escapes of space, tab, newline and backslash."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _is_within(path: str, mount_point: str) -> bool:
    return mount_point != "" and (path == mount_point or path.startswith(mount_point.rstrip("/") + "/"))


def _is_network(file_system: str) -> bool:
    kind, _, subtype = file_system.partition(".")
    return file_system in NETWORK_FILE_SYSTEMS or (kind == "fuse" and subtype in _NETWORK_FUSE)
