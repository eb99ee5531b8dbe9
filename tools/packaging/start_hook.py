"""The build backend: setuptools, and one file more in each wheel.

``dacapo_store_compat.pth`` belongs beside the packages, where Python reads it at each start, and
setuptools has no place for such a file. So the wheel that it made, editable or not, gets the file and
a line in its RECORD afterwards; installers take it from there, and take it away again.
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path
from typing import Any, Final

from setuptools import build_meta
from setuptools.build_meta import (
    build_sdist,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

_NAME: Final = "dacapo_store_compat.pth"

# One line, which Python runs because it begins with import: a look into the environment, mostly all.
_LINE: Final = (
    'import os; os.environ.get("DACAPO_STORE_COMPAT") and '
    '__import__("dacapo_store.compat", fromlist=["at_start"]).at_start()\n'
)


def build_wheel(
    wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None
) -> str:
    """Build the wheel; as PEP 517 says."""
    name: str = build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)
    _add(Path(wheel_directory, name), _NAME, _LINE.encode())
    return name


def build_editable(
    wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None
) -> str:
    """Build the wheel that an editable installation is made of; as PEP 660 says."""
    name: str = build_meta.build_editable(wheel_directory, config_settings, metadata_directory)
    _add(Path(wheel_directory, name), _NAME, _LINE.encode())
    return name


def _add(wheel: Path, name: str, content: bytes) -> None:
    """Put a file into a wheel, and into its RECORD."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    new = wheel.with_suffix(".new")
    with zipfile.ZipFile(wheel) as before, zipfile.ZipFile(new, "w", zipfile.ZIP_DEFLATED) as after:
        after.writestr(name, content)
        for entry in before.infolist():
            text = before.read(entry)
            if entry.filename.endswith(".dist-info/RECORD"):
                text = f"{name},sha256={digest},{len(content)}\n".encode() + text
            after.writestr(entry, text)
    new.replace(wheel)
