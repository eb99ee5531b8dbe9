"""``dacapo-store import`` and ``export-dacapo``: what they print, where, and how they end."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from dacapo_store.cli import main
from tests.dacapo_store.upstream_base import golden_base, tree, write_best


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """What DaCapo's own stores have left of two runs."""
    return golden_base(tmp_path / "source")


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a call, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["dacapo-store", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    output, errors = capsys.readouterr()
    return int(ended.value.code or 0), output, errors


def test_an_import_says_what_it_has_done(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table on stdout, the rest beside it; the same again is known."""
    code, output, errors = run(capsys, "import", source, "--dry-run")
    assert (code, output.splitlines()[0]) == (0, "kind\twould be imported\tknown")
    assert "weights\t6\t0" in output
    assert "this was a dry run" in errors
    assert not (source / "events").exists()
    code, output, errors = run(capsys, "import", source)
    assert (code, "weights\t6\t0" in output, "at position 31" in errors) == (0, True, True)
    assert "leads nowhere" in errors
    assert "weights\t0\t6" in run(capsys, "import", source)[1]


def test_what_could_not_be_read_is_on_stdout_and_in_the_exit_code(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line each, whatever is in a name."""
    write_best(source, "run_00000", "a\tb\nc", "voi", 999)
    code, output, errors = run(capsys, "import", source)
    (line,) = [line for line in output.splitlines() if line.startswith("not imported")]
    assert (code, "1 problem" in errors) == (1, True)
    assert line.split("\t")[1:] == [
        "run_00000/checkpoints/a\\tb\\nc/voi.json",
        "it names iteration 999, of which there are no weights",
    ]


def test_json_is_one_document(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For programs."""
    code, output, _ = run(capsys, "import", source, "--into", tmp_path / "into", "--json")
    report = json.loads(output)
    assert (code, report["imported"]["configs"], report["base"]) == (0, 11, str(tmp_path / "into"))
    code, output, _ = run(capsys, "export-dacapo", tmp_path / "back", "--base", tmp_path / "into", "--json")
    report = json.loads(output)
    assert (code, report["exported"]["configs"], report["position"]) == (0, 11, 31)


def test_an_export_says_what_it_has_done(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As of a moment if asked, and first without writing."""
    run(capsys, "import", source)
    base, back = ("--base", source), tmp_path / "back"
    code, output, errors = run(capsys, "export-dacapo", back, *base, "--at", 11, "--dry-run")
    assert (code, output.splitlines()[0]) == (0, "kind\twould be exported\tknown")
    assert ("configs\t11\t0" in output, "weights" in output) == (True, False)
    assert "as of position 11" in errors
    assert not back.exists()
    assert "weights\t6\t0" in run(capsys, "export-dacapo", back, *base)[1]
    assert (back / "configs/runs/run_00000.yaml").is_file()
    assert run(capsys, "export-dacapo", back, *base, "--at", 11)[0] == 2


@pytest.mark.parametrize(
    "arguments", [("import", "absent"), ("import", "."), ("export-dacapo", "x", "--base", "absent")]
)
def test_a_wrong_call_writes_nothing(
    arguments: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And ends with code 2 and one line."""
    monkeypatch.chdir(tmp_path)
    code, output, errors = run(capsys, *arguments)
    assert (code, output, len(errors.splitlines())) == (2, "", 1)
    assert tree(tmp_path) == {}
