"""How a process was started, so that a run can be repeated: command, code, packages, machine.

It goes into the metadata of the first event that a process writes of a run that it trains. What looks
like a secret is left out: values of options and settings that are called key, token, password and the
like, wherever they stand on the command line, and passwords in addresses.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from dacapo_store.provenance import as_text, working_directory

LEFT_OUT: Final = "<left out>"

_PACKAGES: Final = (
    *("dacapo-store", "dacapo-ml", "torch", "numpy", "zarr", "funlib.geometry", "funlib.persistence"),
    *("gunpowder", "daisy", "pyarrow", "duckdb", "scipy", "scikit-image", "lightning", "monai"),
)
_JOBS: Final = ("SLURM_JOB_ID", "LSB_JOBID", "PBS_JOBID", "JOB_ID")
_CALLED: Final = r"(?:pass(?:word|wd|phrase)|secret|token|api[-_]?key|access[-_]?key|credential|auth|private)"
_SECRET: Final = re.compile(rf"(?i){_CALLED}|\bpass\b")
_NAME: Final = re.compile(r"[\w.-]+")
_SETTING: Final = re.compile(
    rf"""(?ix) ( [\w-]* {_CALLED} [\w-]* ["']? \s* [:=] \s* ) ( "[^"]*" | '[^']*' | [^\s"',;&)}}]+ )"""
)
_ADDRESS: Final = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^/@\s]+@")
_VERSION: Final = re.compile(r"(?m)^Version: *(\S+)\s*$")
_GIT_SECONDS: Final = 5


@functools.lru_cache(maxsize=1)
def process_record(pid: int) -> dict[str, Any]:  # noqa: ARG001 - a forked child looks anew
    """How this process was started, as a document: what can be told of it, and never an error.

    Args:
        pid: The process's id.
    """
    directory = working_directory()
    record: dict[str, Any] = {
        "argv": [as_text(argument) for argument in without_secrets(sys.orig_argv)],
        "directory": directory and as_text(str(directory)),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "packages": _packages(),
        "git": directory and _git(directory),
        "devices": _devices(),
        "job": {name: as_text(os.environ[name]) for name in _JOBS if name in os.environ},
    }
    return {key: value for key, value in record.items() if value}


def command_of(record: dict[str, Any]) -> str:
    """The shell commands that start the process again, as far as that can be told."""
    lines = []
    if "directory" in record:
        lines.append(f"cd {shlex.quote(record['directory'])}")
    git = record.get("git") or {}
    if "commit" in git:
        changed = "  # with changes that were not committed" if git.get("dirty") else ""
        lines.append(f"git checkout {git['commit']}{changed}")
    packages = " ".join(f"{name}=={version}" for name, version in record.get("packages", {}).items())
    if packages:
        lines.append(f"pip install {packages}")
    lines.append(shlex.join(record.get("argv", [])))
    return "\n".join(lines)


def without_secrets(arguments: Sequence[str]) -> list[str]:
    """A command line without the values that look like secrets."""
    shown: list[str] = []
    hide_next = False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if hide_next and not argument.startswith("-"):
            shown.append(LEFT_OUT)
        elif equals and _NAME.fullmatch(name) and _SECRET.search(name):
            shown.append(f"{name}={LEFT_OUT}")
        else:
            # It may be code, JSON or the query of an address.
            shown.append(_SETTING.sub(rf"\1{LEFT_OUT}", _ADDRESS.sub(rf"\1{LEFT_OUT}@", argument)))
        hide_next = argument.startswith("-") and not equals and _SECRET.search(argument) is not None
    return shown


def _packages() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        # Missing, or the process has no descriptor left to look with: a record is not worth an error.
        with contextlib.suppress(metadata.PackageNotFoundError, OSError):
            found[name] = _version(metadata.distribution(name))
    return found


def _version(package: metadata.Distribution) -> str:
    """A package's version; to have all that is said of it parsed takes ten times as long."""
    line = _VERSION.search(package.read_text("METADATA") or "")
    return line[1] if line else package.version


def _git(directory: Path) -> dict[str, Any]:
    """The commit that is checked out, and whether files differ from it."""
    commit = _answer_of_git(directory, "rev-parse", "HEAD")
    if commit is None:
        return {}
    changes = _answer_of_git(directory, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, **({} if changes is None else {"dirty": bool(changes)})}


def _answer_of_git(directory: Path, *arguments: str) -> str | None:
    try:
        answer = subprocess.run(  # noqa: S603 - words of our own
            ["git", "-C", str(directory), *arguments],  # noqa: S607 - the git that people use
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            check=True,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def _devices() -> list[str]:
    """The accelerators that a program which has loaded torch may use; torch is not loaded for this."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
