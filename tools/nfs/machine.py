"""Machines that are processes: user-mode Linux, a kernel with all that NFS needs, from Debian's packages.

Each has its own memory, caches and network card, a tap on a bridge of this host, and sees this host's files
as its root. To kill one is to pull its plug: what its kernel had not written to its disk is gone.

Needs root, ``/dev/net/tun`` and
``apt-get install user-mode-linux nfs-kernel-server nfs-common rpcbind kmod iproute2``; and a C compiler on
processors with registers that are wider than that kernel knows (``wide_registers.c``).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tools.nfs.command_server import END, PORT
from tools.started import Started

NETWORK: Final = "10.91.74"
_SOURCE: Final = Path(__file__).parents[2]
_NEEDED: Final = ("linux.uml", "ip", "modprobe", "mount.nfs", "rpc.nfsd", "rpc.mountd", "rpcbind", "exportfs")
_START_SECONDS: Final = 60.0


def unavailable() -> str | None:
    """Why there can be no such machines here, or None."""
    if os.geteuid() != 0:
        return "machines that are processes need root, for their network"
    if absent := [name for name in _NEEDED if shutil.which(name) is None]:
        return f"no {', '.join(absent)}; see tools/nfs/machine.py for what to install"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "no /dev/net/tun"
    if _is_wide() and shutil.which("cc") is None:
        return "this processor's registers need tools/nfs/wide_registers.c, and there is no C compiler"
    return None


class CommandFailedError(Exception):
    """A command on a machine failed; the text has what it wrote."""


class Running:
    """A command that runs on a machine.

    Attributes:
        output: What it has written so far.
        status: Its exit status; None while it runs, or if its machine is no more.
    """

    def __init__(self, address: str, command: Sequence[str], variables: Mapping[str, str]) -> None:
        self.output = b""
        self.status: int | None = None
        self._connection = socket.create_connection((address, PORT))
        asked = {"command": list(command), "variables": dict(variables)}
        self._connection.sendall(json.dumps(asked).encode() + b"\n")
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        with self._connection, contextlib.suppress(OSError):
            while heard := self._connection.recv(1 << 16):
                self.output += heard
        self.output, _, status = self.output.partition(END)
        self.status = int(status) if status else None

    @property
    def lines(self) -> list[str]:
        """The whole lines that it has written so far."""
        return self.output.partition(END)[0].decode().split("\n")[:-1]

    def wait(self) -> int | None:
        """Wait for its end, or that of its machine; gives its status."""
        self._listener.join()
        return self.status

    def forget(self) -> None:
        """Listen no more: its machine is no more."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._listener.join()


class Network:
    """A bridge of this host; it is there as long as the ``with`` block."""

    def __init__(self) -> None:
        self._mark = f"nf{os.getpid() % 100_000}"
        self._count = 0

    def __enter__(self) -> Self:
        _ip("link", "add", f"{self._mark}b", "type", "bridge")
        _ip("addr", "add", f"{NETWORK}.1/24", "dev", f"{self._mark}b")
        _ip("link", "set", f"{self._mark}b", "up")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _ip("link", "del", f"{self._mark}b")
        for number in range(self._count):
            _ip("tuntap", "del", f"{self._mark}t{number}", "mode", "tap")

    def line(self) -> tuple[str, str]:
        """A new line: the name of its end here, and the address of who is at its other end."""
        name = f"{self._mark}t{self._count}"
        _ip("tuntap", "add", name, "mode", "tap")
        self._count += 1
        _ip("link", "set", name, "master", f"{self._mark}b", "up")
        return name, f"{NETWORK}.{self._count + 1}"


class Machine(Started):
    """A machine; it runs as long as the ``with`` block.

    Args:
        network: What it is connected to.
        name: What it is called.
        disk: A file that is its disk.
        megabytes: How much memory it has.

    Attributes:
        address: Its address.
    """

    def __init__(
        self, network: Network, name: str, *, disk: Path | None = None, megabytes: int = 768
    ) -> None:
        self.name = name
        self._line, self.address = network.line()
        self._disk = disk
        self._megabytes = megabytes
        self._folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Boot it, for the first time or again."""
        words = [
            f"mem={self._megabytes}M",
            *("rootfstype=hostfs", "rootflags=/", "rw", "quiet", "panic=1"),
            *("con=null", "con0=null,fd:1", "ssl=null", f"umid={self.name}-{os.getpid()}"),
            f"vec0:transport=tap,ifname={self._line}",
            f"init={Path(__file__).with_name('boot.sh')}",
            *(f"{key}={value}" for key, value in self._told().items()),
        ]
        if self._disk is not None:
            words.append(f"ubd0={self._disk}")
        variables = {**os.environ, "HOME": str(self._folder)}
        if _is_wide():
            # Bound now: to look a function up takes more stack than a thread of that kernel has.
            variables |= {"LD_PRELOAD": str(_preloaded(self._folder)), "LD_BIND_NOW": "1"}
        with (self._folder / "console").open("wb") as console:
            self._process = subprocess.Popen(  # noqa: S603 - words of our own
                ["linux.uml", *words],  # noqa: S607 - the one that the system has
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env=variables,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                self.run("true")
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{self.name} does not boot:\n{self.console()}") from None
                time.sleep(0.1)
            else:
                return

    def kill(self) -> None:
        """Pull its plug."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def end(self) -> None:
        """Pull its plug for good."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def cut(self) -> None:
        """Let nothing through its line, and tell nobody."""
        _ip("link", "set", self._line, "down")

    def mend(self) -> None:
        """Let everything through again."""
        _ip("link", "set", self._line, "up")

    def console(self) -> str:
        """What its kernel has said."""
        return (self._folder / "console").read_text(errors="replace")

    def begin(self, *command: str, **variables: str) -> Running:
        """Begin a command there."""
        return Running(self.address, command, variables)

    def run(self, *command: str, **variables: str) -> str:
        """Run a command there; gives what it wrote.

        Raises:
            CommandFailedError: Its status was not 0, or the machine ended.
            OSError: It cannot be reached.
        """
        running = self.begin(*command, **variables)
        if running.wait() != 0:
            raise CommandFailedError(
                f"{self.name}: {' '.join(command)} gave {running.status}:\n{running.output.decode()}"
            )
        return running.output.decode()

    def python(self, *arguments: str, **variables: str) -> Running:
        """Begin this very Python there."""
        return self.begin(sys.executable, *arguments, **variables)

    def _told(self) -> dict[str, str]:
        return {
            "name": self.name,
            "address": self.address,
            "source": str(_SOURCE),
            "python": sys.executable,
        }


def _is_wide() -> bool:
    """Whether this processor has registers that the kernel of Linux 6.1 leaves out, and stumbles over."""
    return (
        re.search(r"^flags\s*:.* (avx512f|pku|amx_tile) ", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        is not None
    )


def _preloaded(folder: Path) -> Path:
    made = folder / "wide_registers.so"
    if not made.exists():
        source = Path(__file__).with_name("wide_registers.c")
        subprocess.run(  # noqa: S603 - our own source
            ["cc", "-O2", "-shared", "-fPIC", "-o", str(made), str(source), "-ldl"],  # noqa: S607 - the system's
            check=True,
        )
    return made


def _ip(*arguments: str) -> None:
    subprocess.run(  # noqa: S603 - words of our own
        ["ip", *arguments],  # noqa: S607 - the one that the system has
        check=True,
        capture_output=True,
        text=True,
    )
