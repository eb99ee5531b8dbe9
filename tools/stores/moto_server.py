"""moto's S3, in a process of its own, one request after the other.

Without that it sometimes lets two creators of one object win.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def moto_server() -> Iterator[str]:
    """Serve a bucket ``bucket``; gives the endpoint."""
    command = [sys.executable, "-W", "ignore", "-m", "tools.stores.moto_server"]
    server = subprocess.Popen(  # noqa: S603 - this very interpreter
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert server.stdout is not None
        endpoint = server.stdout.readline().strip()
        request = urllib.request.Request(f"{endpoint}/bucket", method="PUT")  # noqa: S310 - http
        urllib.request.urlopen(request).close()  # noqa: S310 - http
        yield endpoint
    finally:
        server.kill()
        server.communicate()


def main() -> None:
    """Serve until somebody ends this."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    turn = threading.Lock()
    application = DomainDispatcherApplication(create_backend_app)

    def one_at_a_time(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        with turn:
            return list(application(environ, start_response))

    server = make_server("127.0.0.1", 0, one_at_a_time, threaded=True)
    print(f"http://127.0.0.1:{server.port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
