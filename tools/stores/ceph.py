"""A real Ceph for tests: one monitor, three OSDs on files, pools of size 3, two S3 gateways on the loopback.

Needs Debian's packages: ``apt-get install radosgw ceph-mon ceph-osd ceph-common``.

    python -m tools.stores.ceph      starts it, prints what to set, and stops it on Ctrl-C
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Final

from tools.started import Started

ACCESS_KEY: Final = "lab"
SECRET_KEY: Final = "in-no-way-secret"  # noqa: S105 - as it says
BUCKET: Final = "bucket"

_OSDS: Final = 3
_GATEWAYS: Final = 2
_SECONDS: Final = 120.0
_TRIES: Final = 10
_NEEDED: Final = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")

_CONFIG: Final = """
[global]
fsid = {fsid}
mon_host = v1:127.0.0.1:{mon_port}
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
ms_bind_ipv4 = true
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
osd_pool_default_size = 3
osd_pool_default_min_size = 2
osd_pool_default_pg_num = 8
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_max_pg_per_osd = 1000
mon_data = {folder}/mon.$id
osd_data = {folder}/osd.$id
run_dir = {folder}
admin_socket = {folder}/$name.asok
log_file = {folder}/$name.log
bluestore_block_size = 4294967296
bluestore_cache_autotune = false
bluestore_cache_size = 67108864
osd_heartbeat_interval = 1
osd_heartbeat_grace = 5
mon_osd_min_down_reporters = 1
mon_osd_adjust_heartbeat_grace = false
rgw_thread_pool_size = 64
"""


def is_installed() -> bool:
    """Whether the packages are there."""
    return all(shutil.which(name) for name in _NEEDED)


class Ceph(Started):
    """A cluster; it lives as long as the ``with`` block.

    Attributes:
        endpoints: The URLs of its gateways.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="ceph-"))
        self._config = self._folder / "ceph.conf"
        ports = _free_ports(1 + _GATEWAYS)
        self._mon_port, self._gateway_ports = ports[0], ports[1:]
        self._fsid = str(uuid.uuid4())
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._commands: dict[str, tuple[str, ...]] = {}
        self.endpoints = [f"http://127.0.0.1:{port}" for port in self._gateway_ports]

    def address(self, prefix: str, *, gateway: int = 0) -> str:
        """The address of a log in it. The keys are in the environment, see ``variables``."""
        return f"s3://{BUCKET}/{prefix}?endpoint={self.endpoints[gateway]}&region=default&timeout_seconds=10"

    @property
    def variables(self) -> dict[str, str]:
        """What the environment of a client must say."""
        return {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}

    def end(self) -> None:
        """Kill all of it and remove its data."""
        # OSDs in front of the monitor, which they tell that they go.
        order = sorted(self._processes, key=lambda name: ("rgw" not in name, "osd" not in name))
        for name in order:
            self.kill(name, with_signal=signal.SIGKILL)
        shutil.rmtree(self._folder, ignore_errors=True)

    def kill(self, name: str, *, with_signal: signal.Signals = signal.SIGKILL) -> None:
        """End one of ``mon.a``, ``osd.0`` to ``osd.2``, ``rgw.0`` and ``rgw.1``."""
        process = self._processes.pop(name)
        process.send_signal(with_signal)
        process.wait()

    def start_osd(self, number: int) -> None:
        """Start an OSD, for the first time or again."""
        name = f"osd.{number}"
        self._run(name, "ceph-osd", "-i", str(number))
        _until(lambda: self._is_alive(name) and self._is_up(number))

    def start_gateway(self, number: int) -> None:
        """Start a gateway, for the first time or again, and wait until it answers."""
        frontends = f"beast endpoint=127.0.0.1:{self._gateway_ports[number]} tcp_nodelay=1"
        self._run(f"rgw.{number}", "radosgw", "-n", f"client.rgw.{number}", "--rgw-frontends", frontends)
        _until(lambda: self._is_alive(f"rgw.{number}") and _answers(self.endpoints[number]))

    def start(self) -> None:
        """Start all of it, and make the bucket."""
        self._config.write_text(_CONFIG.format(fsid=self._fsid, folder=self._folder, mon_port=self._mon_port))
        monmap = str(self._folder / "monmap")
        where = f"[v1:127.0.0.1:{self._mon_port}]"
        self._call("monmaptool", "--create", "--fsid", self._fsid, "--addv", "a", where, monmap)
        self._call("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap)
        self._run("mon.a", "ceph-mon", "-i", "a")
        for number in range(_OSDS):
            identity = str(uuid.uuid4())
            self._call("ceph", "osd", "new", identity, str(number))
            (self._folder / f"osd.{number}").mkdir()
            self._call("ceph-osd", "-i", str(number), "--mkfs", "--osd-uuid", identity)
            self.start_osd(number)
        self._call(
            *("radosgw-admin", "user", "create", "--uid", "lab", "--display-name", "lab"),
            *("--access-key", ACCESS_KEY, "--secret", SECRET_KEY),
        )
        for number in range(_GATEWAYS):
            self.start_gateway(number)
        self._make_bucket()

    def _is_alive(self, name: str) -> bool:
        """Whether a process runs; one that has ended is started again.

        A daemon that asks the monitor before it has its map is refused ("wrong fsid"), and ends.
        """
        process = self._processes[name]
        if process.poll() is None:
            return True
        program, *arguments = self._commands[name]
        self._run(name, program, *arguments)
        return False

    def _is_up(self, number: int) -> bool:
        return any(f"osd.{number} up" in line for line in self._call("ceph", "osd", "dump").splitlines())

    def _make_bucket(self) -> None:
        import boto3

        client = boto3.client(
            "s3",
            endpoint_url=self.endpoints[0],
            region_name="default",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
        )
        client.create_bucket(Bucket=BUCKET)

    def _run(self, name: str, program: str, *arguments: str) -> None:
        self._commands[name] = (program, *arguments)
        with (self._folder / f"{name}.out").open("ab") as output:
            self._processes[name] = subprocess.Popen(  # noqa: S603 - a program of Ceph
                [program, "-c", str(self._config), *arguments, "-f"], stdout=output, stderr=output
            )

    def _call(self, program: str, *arguments: str) -> str:
        config = [] if program == "monmaptool" else ["-c", str(self._config)]
        for _ in range(_TRIES):
            done = subprocess.run(  # noqa: S603 - a program of Ceph
                [program, *config, *arguments],
                capture_output=True,
                text=True,
                check=False,
                timeout=_SECONDS,
            )
            if not done.returncode:
                return done.stdout + done.stderr
            time.sleep(0.5)  # refused, perhaps, as a daemon is
        raise RuntimeError(f"{program} {' '.join(arguments)}: {done.stdout}{done.stderr}")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as open_sockets:
        sockets = [open_sockets.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _answers(endpoint: str) -> bool:
    try:
        urllib.request.urlopen(endpoint, timeout=5).close()  # noqa: S310 - http
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def _until(condition: object) -> None:
    assert callable(condition)
    end = time.monotonic() + _SECONDS
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("Ceph did not come up")
        time.sleep(0.2)


def main() -> None:
    """Start it and wait."""
    with Ceph() as ceph:
        for name, value in ceph.variables.items():
            print(f"export {name}={value}")
        print(f"# dacapo-store doctor '{ceph.address('base')}'", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
