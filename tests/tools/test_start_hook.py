"""The file in the wheel that switches DaCapo over when a process starts."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOOK = "dacapo_store_compat.pth"
SHOW = "import sys; compat = sys.modules.get('dacapo_store.compat'); print(compat and compat.installed())"


@pytest.fixture(scope="module", params=["build_wheel", "build_editable"])
def wheel(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of a copy of the source, made as pip makes it."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("eventstore", "projections", "dacapo_store", "tools/packaging"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    code = f"import start_hook; print(start_hook.{request.param}('.'))"
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=source,
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(source / "tools" / "packaging")},
    )
    (made,) = source.glob("*.whl")
    return made


def test_every_file_is_in_the_record(wheel: Path) -> None:
    """Installers check the digests, and uninstall what RECORD lists."""
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        (record,) = (name for name in names if name.endswith(".dist-info/RECORD"))
        listed = {row[0]: row[1] for row in csv.reader(io.StringIO(archive.read(record).decode()))}
        assert HOOK in listed
        assert sorted(listed) == sorted(names)
        for name in names:
            if name != record:
                digest = hashlib.sha256(archive.read(name)).digest()
                expected = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
                assert listed[name] == f"sha256={expected}"


def test_the_variable_alone_switches_a_process_over(wheel: Path, tmp_path: Path) -> None:
    """Installed from the wheel: with the variable a new process is ready, without it nothing is loaded."""
    venv.create(tmp_path / "environment", symlinks=True)
    python = tmp_path / "environment" / "bin" / "python"
    (packages,) = (tmp_path / "environment" / "lib").glob("python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)

    def shown(**variables: str) -> str:
        kept = {
            name: value
            for name, value in os.environ.items()
            if name not in ("PYTHONPATH", "DACAPO_STORE_COMPAT")
        }
        ran = subprocess.run(
            [python, "-c", SHOW],
            capture_output=True,
            text=True,
            check=True,
            env=kept | variables,
            cwd=tmp_path,
        )
        assert ran.stderr == ""
        return ran.stdout.strip()

    assert shown() == "None"
    assert shown(DACAPO_STORE_COMPAT="0") == "False"
    assert shown(DACAPO_STORE_COMPAT="1") == "True"
