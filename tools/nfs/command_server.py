"""Runs commands on a machine, one a connection. ``python -m tools.nfs.command_server`` serves them.

A line of JSON says what to run; what it writes goes through the connection as it is written, and its exit
status ends it. What has come through is known, even if the machine is no more.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from typing import Final

PORT: Final = 7000
END: Final = b"\0exit "


def main() -> None:
    """Serve for ever."""
    with socket.create_server(("", PORT), backlog=64) as server:
        while True:
            connection, _ = server.accept()
            threading.Thread(target=_run, args=(connection,), daemon=True).start()


def _run(connection: socket.socket) -> None:
    with connection, connection.makefile("rb") as words:
        asked = json.loads(words.readline())
        try:
            status = _told(connection, asked["command"], {**os.environ, **asked["variables"]})
        except OSError as error:
            connection.sendall(str(error).encode())
            status = 127
        connection.sendall(END + str(status).encode())


def _told(connection: socket.socket, command: list[str], variables: dict[str, str]) -> int:
    with subprocess.Popen(  # noqa: S603 - what this is for
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=variables,
    ) as process:
        assert process.stdout is not None
        while said := os.read(process.stdout.fileno(), 1 << 16):
            connection.sendall(said)
        return process.wait()


if __name__ == "__main__":
    main()
