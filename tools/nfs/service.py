"""An NFS server and hosts that mount it, each a machine with a kernel of its own (``machine.py``).

The server is that of the Linux kernel, on ext4, with exports that are synchronous as they are by default.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from tools.nfs.machine import Machine, Network

NfsVersion = Literal["3", "4.2"]
MOUNTS: Final = ("/run/a", "/run/b")
"""Where each host mounts the server, twice: each mount has caches of its own."""

_DISK_BYTES: Final = 1 << 30
_LEASE_SECONDS: Final = 10
_EXPORTED: Final = "/run/data/export"


@dataclass(frozen=True)
class Service:
    """A server and its hosts.

    Attributes:
        server: The server.
        hosts: Who mounts it.
        disk: The file that is the server's disk.
    """

    server: Machine
    hosts: list[Machine]
    disk: Path

    def restart_server(self) -> None:
        """Pull the server's plug and boot it again."""
        self.server.kill()
        self.server.start()
        _serve(self.server)

    @contextlib.contextmanager
    def disk_of_a_dead_server(self) -> Iterator[Path]:
        """Pull the server's plug; gives what it has exported, from its disk, in a folder of this host."""
        self.server.kill()
        folder = Path(tempfile.mkdtemp(prefix="disk-"))
        try:
            _call("mount", "-o", "loop", str(self.disk), str(folder))
            try:
                yield folder / "export"
            finally:
                _call("umount", str(folder))
        finally:
            folder.rmdir()


@contextlib.contextmanager
def nfs(version: NfsVersion, *, hosts: int) -> Iterator[Service]:
    """A server, and so many hosts that mount it, as long as the context lasts."""
    with contextlib.ExitStack() as ends:
        folder = Path(tempfile.mkdtemp(prefix="nfs-"))
        ends.callback(shutil.rmtree, folder)
        disk = folder / "disk"
        with disk.open("wb") as file:
            file.truncate(_DISK_BYTES)
        _call("mkfs.ext4", "-q", str(disk))
        network = ends.enter_context(Network())
        server = ends.enter_context(Machine(network, "server", disk=disk, megabytes=512))
        _serve(server)
        service = Service(server, [], disk)
        for number in range(hosts):
            host = ends.enter_context(Machine(network, f"host{number + 1}", megabytes=1024))
            mount(host, server, version)
            service.hosts.append(host)
        yield service


def mount(host: Machine, server: Machine, version: NfsVersion) -> None:
    """Mount what the server exports, twice, as it is done by default but for the caches."""
    where = {"3": _EXPORTED, "4.2": "/"}[version]
    options = {"3": "vers=3,nolock", "4.2": "vers=4.2"}[version]
    host.run("modprobe", "-a", "-d", "/run/modules", "nfsv3", "nfsv4")
    for folder in MOUNTS:
        host.run("mkdir", "-p", folder)
        what = ("-o", f"{options},nosharecache", f"{server.address}:{where}", folder)
        host.run("mount", "-t", "nfs", *what)


def _serve(server: Machine) -> None:
    server.run("sh", str(Path(__file__).with_name("serve.sh")), seconds=str(_LEASE_SECONDS))


def _call(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - words of our own
