"""Servers out of npm: Azurite, the emulator of Azure Blob Storage, and s3rver, which ignores conditions.

They are looked for in ``.npm`` of this repository, where `make test-emulators` puts them, and on the path.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from email.utils import formatdate
from pathlib import Path
from typing import Final

from tools.started import Started

_ACCOUNT: Final = "devstoreaccount1"
# Published by Microsoft, for all emulators.
_KEY: Final = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_BIN: Final = Path(__file__).parents[2] / ".npm" / "node_modules" / ".bin"
_API: Final = "2021-08-06"


def missing(*programs: str) -> str | None:
    """Why these cannot run here, or None."""
    absent = [name for name in ("node", *programs) if _path(name) is None]
    return f"no {' and '.join(absent)}; `make test-emulators` gets it, with npm" if absent else None


def _path(program: str) -> str | None:
    return shutil.which(program, path=f"{_BIN}{os.pathsep}{os.environ.get('PATH', '')}")


class _NodeServer(Started):
    """A server; it lives as long as the ``with`` block, and keeps its port and its data over a restart."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="emulator-"))
        self._data = self._folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        with socket.create_server(("127.0.0.1", 0)) as taken:
            self.port = int(taken.getsockname()[1])

    @property
    def endpoint(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it listens."""
        program, *arguments = self._command()
        path = _path(program)
        assert path is not None, missing(program)
        log = self._folder / "log"
        with log.open("w") as output:
            self._process = subprocess.Popen(  # noqa: S603 - as it was found
                [path, *arguments], stdout=output, stderr=output, cwd=self._folder
            )
        while re.search(r"listen(s|ing) on", log.read_text()) is None:
            if self._process.poll() is not None:
                raise RuntimeError(f"{program} does not start: {log.read_text()}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop it as Ctrl-C does, on which it writes down what it holds."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait()
            self._process = None

    def end(self) -> None:
        """Stop it and remove its data."""
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def pause(self) -> None:
        """Let it neither run nor answer; its connections stay."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """End the pause."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _command(self) -> Sequence[str]:
        raise NotImplementedError


class Azurite(_NodeServer):
    """Azure Blob Storage, with a container ``bucket`` in the account that all emulators have.

    It writes its tables to the disk every few seconds only: to kill it would not be to kill a store.
    """

    def start(self) -> None:
        """Start it; the first time, make the container."""
        is_new = not self._data.exists()
        super().start()
        if is_new:
            self._make_container()

    def address(self, prefix: str, *, port: int | None = None) -> str:
        """The address of a log in it."""
        return f"az://bucket/{prefix}?emulator=true&endpoint=http://127.0.0.1:{port or self.port}"

    def _command(self) -> Sequence[str]:
        options = ("--silent", "--disableTelemetry", "--location", str(self._data))
        return ("azurite-blob", "--blobPort", str(self.port), *options)

    def _make_container(self) -> None:
        headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": _API}
        lines = (f"{name}:{value}" for name, value in headers.items())
        signed = "\n".join(["PUT", *[""] * 11, *lines, f"/{_ACCOUNT}/{_ACCOUNT}/bucket", "restype:container"])
        digest = hmac.digest(base64.b64decode(_KEY), signed.encode(), hashlib.sha256)
        headers["Authorization"] = f"SharedKey {_ACCOUNT}:{base64.b64encode(digest).decode()}"
        url = f"{self.endpoint}/{_ACCOUNT}/bucket?restype=container"
        request = urllib.request.Request(url, method="PUT", headers=headers)  # noqa: S310 - http
        urllib.request.urlopen(request).close()  # noqa: S310 - http


class S3rver(_NodeServer):
    """An S3 that overwrites an object whatever is asked, with a bucket ``bucket``."""

    VARIABLES: Final = {"AWS_ACCESS_KEY_ID": "S3RVER", "AWS_SECRET_ACCESS_KEY": "S3RVER"}

    @property
    def objects(self) -> set[str]:
        """The names of what is in the bucket."""
        end = "._S3rver_object"
        bucket = self._data / "bucket"
        return {str(path.relative_to(bucket)).removesuffix(end) for path in bucket.rglob(f"*{end}")}

    def address(self, prefix: str) -> str:
        """The address of a log in it."""
        return f"s3://bucket/{prefix}?endpoint={self.endpoint}&region=us-east-1"

    def _command(self) -> Sequence[str]:
        self._data.mkdir(exist_ok=True)
        where = ("-d", str(self._data), "-a", "127.0.0.1", "-p", str(self.port))
        return ("s3rver", *where, "--configure-bucket", "bucket")
