"""``filesystem``: a network file system is told by the mount that a path lies on."""

from __future__ import annotations

from pathlib import Path

import pytest

from eventstore.storage.local.filesystem import network_file_system

_MOUNTINFO = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /home rw - nfs4 server:/home rw,vers=4.2
31 30 8:2 / /home/local rw - xfs /dev/sdb1 rw
32 22 0:41 / /groups/my\\040lab\\134x rw shared:2 master:1 - lustre mgs@tcp:/fs rw
33 22 0:42 / /mnt/share rw - cifs //server/share rw
34 22 0:43 / /mnt/remote rw - fuse.sshfs me@host: rw
35 22 0:44 / /mnt/disk rw - fuseblk /dev/sdc1 rw
36 22 0:45 / /mnt/other rw - fuse.ntfs-3g /dev/sdd1 rw
37 22 0:46 / /stacked rw - ext4 /dev/sde1 rw
38 22 0:47 / /stacked rw - nfs server:/x rw
39 22 0:48 / /auto rw - autofs systemd-1 rw
40 39 0:49 / /auto/data rw - beegfs beegfs_nodev rw
not a line of this table
"""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/data", None),
        ("/home/me/base", "nfs4"),
        ("/home", "nfs4"),
        ("/homestead", None),
        ("/home/local/base", None),
        ("/groups/my lab\\x/base/events", "lustre"),
        ("/mnt/share/a", "cifs"),
        ("/mnt/remote", "fuse.sshfs"),
        ("/mnt/disk", None),
        ("/mnt/other", None),
        ("/stacked/a", "nfs"),
        ("/auto/data/a", "beegfs"),
    ],
)
def test_the_mount_with_the_longest_mount_point_decides(path: str, expected: str | None) -> None:
    """Nested and stacked mounts, escaped names and neighbours with a common beginning are told apart."""
    assert network_file_system(path, _MOUNTINFO) == expected


def test_symbolic_links_are_followed(tmp_path: Path) -> None:
    """A link from a home directory to a shared one lies on the shared one."""
    (tmp_path / "shared").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "shared")
    mountinfo = f"1 0 0:1 / / rw - ext4 x rw\n2 1 0:2 / {tmp_path / 'shared'} rw - nfs x rw\n"
    assert network_file_system(tmp_path / "link" / "base", mountinfo) == "nfs"
    assert network_file_system(tmp_path, mountinfo) is None


@pytest.mark.parametrize("mountinfo", ["", "\n\n", "1 2 3\n", "a b c d e f - \n", " - nfs"])
def test_a_table_that_cannot_be_read_says_nothing(mountinfo: str) -> None:
    """The finding is advice: its absence stops nobody."""
    assert network_file_system("/", mountinfo) is None


def test_the_running_kernel_is_asked_when_no_table_is_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By default the process's own mount table counts; none, as on other systems, means unknown."""
    table = tmp_path / "mountinfo"
    monkeypatch.setattr("eventstore.storage.local.filesystem._MOUNTINFO", table)
    assert network_file_system(tmp_path) is None
    table.write_text("1 0 0:1 / / rw - nfs x rw\n")
    assert network_file_system(tmp_path) == "nfs"
