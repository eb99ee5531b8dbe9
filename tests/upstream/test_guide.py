"""The guide for a lab that switches over: its Python runs, from top to bottom, in the real DaCapo."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from dacapo_store import compat
from tools.upstream import experiment, process

if TYPE_CHECKING:
    import pytest

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "switching.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Switching, training, going back with everything: as it says there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(compat.VARIABLE, "0")
    # DaCapo puts the file that it finds into the environment: afterwards it is gone again.
    monkeypatch.setenv("DACAPO_OPTIONS_FILE", "dacapo.yaml")
    process.make_folder(tmp_path)
    experiment.make_data(tmp_path / "data")
    names: dict[str, object] = {"run_config": experiment.run_config(tmp_path / "data", iterations=4)}
    text = GUIDE.read_text(encoding="utf-8")
    try:
        for block in BLOCK.finditer(text):
            lines = "\n" * text[: block.start(1)].count("\n")
            exec(compile(lines + block[1], str(GUIDE), "exec"), names)  # noqa: S102 - running it is the point
    finally:
        compat.uninstall()
    assert (tmp_path / "base" / "stats" / "training_stats" / experiment.NAME).is_file()
