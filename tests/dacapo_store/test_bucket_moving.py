"""Into a bucket from DaCapo's own stores, out of it again, and the command line on a base in one."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

from dacapo_store.base import Base
from dacapo_store.cli import main
from dacapo_store.moving import export_base, import_base
from dacapo_store.payloads import check_payloads
from eventstore import open_bucket
from tests.dacapo_store.upstream_base import golden_base, tree


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """What DaCapo's own stores have left of two runs."""
    return golden_base(tmp_path / "source")


def payloads_in(folder: Path) -> dict[str, bytes]:
    """Weights and arrays, by the names that DaCapo gives them."""
    return {
        name: data
        for name, (_, _, data) in tree(folder).items()
        if isinstance(data, bytes) and ("/iterations/" in name or ".zarr/" in name)
    }


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a call, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["dacapo-store", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    output, errors = capsys.readouterr()
    return int(ended.value.code or 0), output, errors


def test_what_goes_into_a_bucket_comes_out_again(source: Path, address: str, tmp_path: Path) -> None:
    """Every byte of weights and arrays; the second time nothing is copied."""
    planned = import_base(source, into=address, dry_run=True)
    assert open_bucket(address).entries() == []
    report = import_base(source, into=address)
    assert (report.problems, report.imported) == ((), planned.imported)
    assert report.copied_bytes > 0
    again = import_base(source, into=address)
    assert (again.known, again.copied_bytes) == (report.imported, 0)
    assert check_payloads(address, Base.at(address).log, digests=True) == (6, [])
    exported = export_base(address, tmp_path / "back")
    assert exported.problems == ()
    assert payloads_in(tmp_path / "back") == payloads_in(source)
    assert payloads_in(source)
    assert export_base(address, tmp_path / "back").copied_bytes == 0


def test_a_container_that_has_changed_is_copied_anew(source: Path, address: str, tmp_path: Path) -> None:
    """Also where the file has the size that it had."""
    import_base(source, into=address)
    chunk = next(path for path in sorted(source.glob("run_00000/*.zarr/**/*")) if path.name == "0.0")
    chunk.write_bytes(chunk.read_bytes()[::-1])
    os.utime(chunk, (time.time() + 10, time.time() + 10))
    import_base(source, into=address)
    export_base(address, tmp_path / "back")
    assert payloads_in(tmp_path / "back") == payloads_in(source)


def test_a_base_on_a_shared_file_system_is_exported(source: Path, address: str, tmp_path: Path) -> None:
    shared = f"shared://{tmp_path}/shared"
    import_base(source, into=shared)
    assert export_base(shared, tmp_path / "back").problems == ()
    assert payloads_in(tmp_path / "back") == payloads_in(source)


def test_the_command_line(
    source: Path,
    address: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each verb that is about weights works on a base in a bucket, or says what to do instead."""
    monkeypatch.setenv("DACAPO_STORE_CACHE", "off")
    assert run(capsys, "import", source, "--into", address)[0] == 0
    code, output, _ = run(capsys, "verify", address, "--artifacts")
    assert (code, "6 weights files looked at (sizes and digests), 0 not as stored" in output) == (0, True)
    bucket = open_bucket(address)
    bucket.put("run_00000/checkpoints/objects/0-0.pt", b"never named")
    assert "1 file can be deleted" in run(capsys, "gc", address, "--grace", "0")[1]
    assert run(capsys, "gc", address, "--grace", "0", "--yes")[0] == 0
    assert bucket.size("run_00000/checkpoints/objects/0-0.pt") is None
    assert "run_00000" in run(capsys, "runs", "--base", address)[1]
    assert run(capsys, "cite", "--base", address)[1].startswith(address.partition("?")[0].rpartition("/")[2])
    code, _, errors = run(capsys, "backup", address, tmp_path / "backup")
    assert (code, "copy it with `dacapo-store replay`" in errors) == (2, True)
    assert run(capsys, "replay", tmp_path / "copy", "--base", address)[0] == 0
    assert run(capsys, "verify", tmp_path / "copy", "--artifacts")[0] == 0
    code, output, _ = run(capsys, "export-dacapo", tmp_path / "back", "--base", address, "--json")
    assert (code, json.loads(output)["exported"]["weights"]) == (0, 6)
    assert bucket.delete([bucket.files("run_00000/checkpoints/objects")[0].name]) is None
    code, output, _ = run(capsys, "verify", address)
    assert (code, "is gone: restore it" in output) == (1, True)
