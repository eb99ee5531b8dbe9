"""Hosts that are network namespaces (ip-netns(8)), each with a line of its own to a bridge of this machine.

It needs root, and a kernel with namespaces and bridges. Everything is gone afterwards.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

NETWORK: Final = "10.91.73"
SUBNET: Final = f"{NETWORK}.0/24"
HUB: Final = f"{NETWORK}.1"
"""The address of this machine on the bridge, under which the hosts reach its servers."""


@dataclass(frozen=True)
class Host:
    """A host.

    Attributes:
        name: What it is called.
        line: The end of its line that is at the bridge.
    """

    name: str
    line: str

    def command(self, arguments: Sequence[str]) -> list[str]:
        """The command line that runs a program on this host."""
        return ["ip", "netns", "exec", self.name, *arguments]

    def cut(self) -> None:
        """Let nothing through its line, and tell nobody."""
        _ip("link", "set", self.line, "down")

    def mend(self) -> None:
        """Let everything through again."""
        _ip("link", "set", self.line, "up")


def unavailable() -> str | None:
    """Why there can be no such hosts here, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "there is no command `ip`; on Debian: apt-get install iproute2"
    try:
        with hosts(1):
            return None
    except subprocess.CalledProcessError as error:
        return f"no network namespaces here: {error.stderr.strip()}"


@contextlib.contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """So many hosts, for as long as the context lasts."""
    mark = f"ds{os.getpid() % 100_000}"
    bridge = f"{mark}b"
    with contextlib.ExitStack() as ends:
        _ip("link", "add", bridge, "type", "bridge")
        ends.callback(_ip, "link", "del", bridge)
        _ip("addr", "add", f"{HUB}/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        made = []
        for number in range(count):
            host = Host(f"{mark}-host{number + 1}", f"{mark}l{number}")
            _ip("netns", "add", host.name)
            ends.callback(_ip, "netns", "del", host.name)
            _ip("link", "add", host.line, "type", "veth", "peer", "name", "eth0", "netns", host.name)
            _ip("link", "set", host.line, "master", bridge, "up")
            inside = ("-n", host.name)
            _ip(*inside, "addr", "add", f"{NETWORK}.{number + 2}/24", "dev", "eth0")
            _ip(*inside, "link", "set", "eth0", "up")
            _ip(*inside, "link", "set", "lo", "up")
            made.append(host)
        yield made


def _ip(*arguments: str) -> None:
    subprocess.run(  # noqa: S603 - words of our own
        ["ip", *arguments],  # noqa: S607 - the one that the system has
        check=True,
        capture_output=True,
        text=True,
    )
