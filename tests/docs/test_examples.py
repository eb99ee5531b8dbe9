"""The examples of README and docs run, from top to bottom, as a reader would type them.

Each document is one test: its ```` ```python ```` blocks share one namespace, an empty working
directory and an empty home. In guides, the ``dacapo-store`` lines of ```` ```bash ```` blocks run afterwards.
Decision records quote code of their time and are left out; what needs DaCapo runs in tests/upstream.
"""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from dacapo_store.cli import main

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```python[^\n]*\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
SHELL = re.compile(r"^```bash[^\n]*\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
GUIDES = ROOT / "docs" / "guides"


def documents() -> list[Path]:
    """README and everything below docs that holds at least one Python block."""
    readmes = [
        path
        for path in (ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md")
        if path.is_file()
    ]
    guides = [
        path
        for path in sorted((ROOT / "docs").rglob("*.md"))
        if ROOT / "docs" / "decisions" not in path.parents and path != GUIDES / "switching.md"
    ]
    return [path for path in readmes + guides if FENCE.search(path.read_text(encoding="utf-8"))]


def python_blocks(document: Path) -> list[str]:
    """The document's blocks, each moved to its line, so that a traceback names the line in the document."""
    text = document.read_text(encoding="utf-8")
    return ["\n" * text[: block.start(1)].count("\n") + block.group(1) for block in FENCE.finditer(text)]


def commands(document: Path) -> list[str]:
    """The ``dacapo-store`` lines of a guide's shell blocks."""
    text = document.read_text(encoding="utf-8")
    if GUIDES not in document.parents or document.name == "repair.md":  # which needs a damaged log
        return []
    return [
        line
        for block in SHELL.finditer(text)
        for line in block[1].splitlines()
        if line.startswith("dacapo-store ")
    ]


def call(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command in this process; it must end well."""
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code, line


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_examples_run(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Python block of the document runs, in order, in one namespace; then a guide's commands."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "example"}
    for block in python_blocks(document):
        exec(compile(block, str(document), "exec"), namespace)  # noqa: S102 - running them is the point
    for line in commands(document):
        call(line, monkeypatch)


def test_blocks_are_found_in_order_and_keep_their_lines(tmp_path: Path) -> None:
    """The extraction sees Python blocks only, and a failing one is blamed on the right line."""
    document = tmp_path / "guide.md"
    document.write_text(
        "# A guide\n```bash\nmake demo\n```\n```python\na = 1\n```\n\n```python\nb = a / 0\n```\n"
    )
    first, second = python_blocks(document)
    assert first.strip() == "a = 1"
    with pytest.raises(ZeroDivisionError) as failure:
        exec(compile(second, str(document), "exec"), {"a": 1})  # noqa: S102 - as above
    assert failure.traceback[-1].lineno + 1 == 10
