"""A PostgreSQL server of our own, for tests and measurements: ``python -m tools.postgres [COMMAND …]``.

Its data, its socket and its port are its own, and fsync is on. With a command it runs that with ``PGHOST``,
``PGPORT`` and ``PGUSER`` set, and stops; without one it says how to reach it and waits for Ctrl-C.

PostgreSQL does not run as root; started by root it runs as the user ``postgres`` or ``nobody``.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Final

from tools.started import Started

PASSWORD: Final = "x-secret-%-of-the-tests"  # noqa: S105 - of servers that live for a minute
"""Of the superuser, who needs it over TCP."""

_DEBIAN: Final = Path("/usr/lib/postgresql")
_START_SECONDS: Final = 60.0


def binaries() -> Path | None:
    """The folder of ``initdb`` and ``postgres``; None where PostgreSQL is not installed."""
    found = shutil.which("initdb")
    if found and Path(found).with_name("postgres").exists():
        return Path(found).resolve().parent
    versions = [path.parent for path in _DEBIAN.glob("*/bin/initdb")] if _DEBIAN.is_dir() else []
    return max(versions, key=lambda path: int(path.parent.name), default=None)


MISSING: Final = "PostgreSQL is not installed; on Debian: apt-get install postgresql"


class PostgresServer(Started):
    """A server; a context manager that starts and stops it.

    Args:
        settings: Lines for ``postgresql.conf``.
        tls: Files with a certificate and its key; without them it does not encrypt.

    Attributes:
        folder: Where its socket is, and its data.
        port: Its port, on the socket and on 127.0.0.1.

    Raises:
        FileNotFoundError: PostgreSQL is not installed.
    """

    def __init__(
        self, settings: Mapping[str, str] | None = None, *, tls: tuple[Path, Path] | None = None
    ) -> None:
        found = binaries()
        if found is None:
            raise FileNotFoundError(MISSING)
        self._binaries = found
        self._user = _unprivileged_user()
        self.folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()
        try:
            self._initialise({**(settings or {}), **self._certificate(tls)})
        except BaseException:
            shutil.rmtree(self.folder)
            raise

    @property
    def data(self) -> Path:
        """The folder of its data."""
        return self.folder / "data"

    def address(
        self, *, user: str = "postgres", tcp: bool = False, port: int | None = None, **query: str
    ) -> str:
        """A ``postgresql://`` address of its database ``postgres``."""
        if not tcp and port is None:
            query["host"] = str(self.folder)
        host = "127.0.0.1" if tcp or port is not None else ""
        text = "&".join(f"{name}={value}" for name, value in query.items())
        return f"postgresql://{user}@{host}:{port or self.port}/postgres" + (f"?{text}" if text else "")

    def start(self) -> None:
        """Start it and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = self._popen("postgres", "-D", str(self.data), output=log)
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            ready = [str(self._binaries / "pg_isready"), "-q", "-d", self.address()]
            if subprocess.run(ready, check=False).returncode == 0:  # noqa: S603 - ours
                return
            time.sleep(0.05)
        raise RuntimeError(f"PostgreSQL does not start:\n{self.log_text()[-2000:]}")

    def stop(self) -> None:
        """Stop it, without waiting for its clients."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait()
            self._process = None

    def kill(self) -> None:
        """End it with SIGKILL, all of its processes, and return when none is left."""
        assert self._process is not None
        children = self.backends()
        self._process.kill()
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        self._process.wait()
        self._process = None
        while any(Path(f"/proc/{child}").exists() for child in children):
            time.sleep(0.01)

    def kill_one(self, dice: random.Random) -> None:
        """End one of its processes with SIGKILL, and return when it has recovered from that.

        It ends the others itself and begins anew; but who ends the process that recovers ends it for good.
        """
        assert self._process is not None
        recovered = self._times_ready() + 1
        while True:
            try:
                os.kill(dice.choice(self.backends()), signal.SIGKILL)
                break
            except ProcessLookupError:  # it has just ended by itself
                continue
        while self._times_ready() < recovered:
            if self._process.poll() is not None:
                raise RuntimeError(f"PostgreSQL has not recovered:\n{self.log_text()[-2000:]}")
            time.sleep(0.01)

    def _times_ready(self) -> int:
        return self.log_text().count("database system is ready to accept connections")

    def backends(self) -> list[int]:
        """The ids of its processes but the first."""
        assert self._process is not None
        listed = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        return [int(child) for child in listed.split()]

    def pause(self) -> None:
        """Let it neither run nor answer; its connections stay."""
        self._signal_all(signal.SIGSTOP)

    def go_on(self) -> None:
        """End the pause."""
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: int) -> None:
        assert self._process is not None
        for process in (self._process.pid, *self.backends()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)

    def log_text(self) -> str:
        """What it has written to its log."""
        return (self.folder / "log").read_text()

    def end(self) -> None:
        """Stop it and remove its data."""
        self.stop()
        shutil.rmtree(self.folder)

    def _initialise(self, settings: Mapping[str, str]) -> None:
        self.folder.chmod(0o755)
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        self._give(self.folder, secret)
        options = ("-U", "postgres", "--auth-local=trust", "--auth-host=scram-sha-256", "-E", "UTF8")
        made = self._popen(
            "initdb",
            "-D",
            str(self.data),
            "--pwfile",
            str(secret),
            "--locale=C",
            *options,
            output=subprocess.PIPE,
        )
        output, _ = made.communicate()
        if made.returncode:
            raise RuntimeError(f"initdb failed:\n{output.decode()}")
        lines = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
            "fsync": "on",
            "synchronous_commit": "on",
            "max_connections": "300",
            **settings,
        }
        with (self.data / "postgresql.conf").open("a") as config:
            config.writelines(f"{name} = '{value}'\n" for name, value in lines.items())

    def _certificate(self, tls: tuple[Path, Path] | None) -> dict[str, str]:
        if tls is None:
            return {}
        settings = {"ssl": "on"}
        for name, path in zip(("ssl_cert_file", "ssl_key_file"), tls, strict=True):
            copy = self.folder / name
            shutil.copyfile(path, copy)
            copy.chmod(0o600)
            self._give(copy)
            settings[name] = str(copy)
        return settings

    def _give(self, *paths: Path) -> None:
        """Hand files to the user that the server runs as."""
        if self._user is not None:
            entry = pwd.getpwnam(self._user)
            for path in paths:
                os.chown(path, entry.pw_uid, entry.pw_gid)

    def _popen(self, program: str, *arguments: str, output: IO[bytes] | int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603 - ours
            [str(self._binaries / program), *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=self.folder,
            start_new_session=True,
            user=self._user,
            group=None if self._user is None else pwd.getpwnam(self._user).pw_gid,
            extra_groups=None if self._user is None else [],
        )


def _unprivileged_user() -> str | None:
    """Whom the server runs as, where we are root; None where we are not."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def main(command: Sequence[str]) -> int:
    """Run a server, for a command or until Ctrl-C; gives the exit status."""
    if binaries() is None:
        print(MISSING, file=sys.stderr)
        return 2
    with PostgresServer() as server:
        reach = {"PGHOST": str(server.folder), "PGPORT": str(server.port), "PGUSER": "postgres"}
        if command:
            return subprocess.run(command, check=False, env={**os.environ, **reach}).returncode  # noqa: S603
        print(" ".join(f"{name}={value}" for name, value in reach.items()))
        print(f"address: {server.address()}    (Ctrl-C stops it and removes its data)")
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
