"""The ``dacapo-store`` command: what it prints, what it does only with ``--yes``, and its exit codes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dacapo_store.base import Base
from dacapo_store.cli import main
from dacapo_store.events import WeightsStored
from eventstore import Event, EventLog
from eventstore.storage.local.survey import survey


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A base with six events in several segments."""
    with EventLog.open(tmp_path / "base/events", segment_bytes_max=2_000) as log:
        for number in range(6):
            log.append("s", [Event("Happened", {"number": number})])
    return tmp_path / "base"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a call, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["dacapo-store", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    output, errors = capsys.readouterr()
    return int(ended.value.code or 0), output, errors


def destroy(base: Path, number: int) -> None:
    """Overwrite a part of the body of a segment's first frame."""
    path = sorted((base / "events").glob("*.arrows"))[number]
    frame = survey(path).frames[0]
    content = bytearray(path.read_bytes())
    end = frame.offset + frame.seal.frame_bytes
    content[end - 40 : end - 20] = b"x" * 20
    path.write_bytes(content)


def test_verify_says_clean_and_names_the_chain(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0, and the value that vouches for the whole."""
    code, output, _ = run(capsys, "verify", base)
    with EventLog.open(base / "events", read_only=True) as log:
        assert (code, log.chain.hex() in output, "6 events" in output) == (0, True, True)


def test_verify_takes_the_folder_of_a_log_too(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A log need not be a base's."""
    assert run(capsys, "verify", base / "events")[:2] == run(capsys, "verify", base)[:2]


def test_verify_takes_the_base_of_the_options(
    base: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an argument it is that of dacapo.yaml."""
    (base.parent / "dacapo.yaml").write_text(f"runs_base_dir: {base}\n")
    monkeypatch.chdir(base.parent)
    assert run(capsys, "verify")[0] == 0


def test_verify_expect_finds_the_position(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A value of any position is found; another position, or no such value, is a mismatch."""
    with EventLog.open(base / "events") as log:
        chain = log.chain.hex()
        log.append("s", [Event("Happened")])
    code, output, _ = run(capsys, "verify", base, "--expect", chain)
    assert (code, "that of position 6" in output) == (0, True)
    assert run(capsys, "verify", base, "--expect", chain, "--position", 6)[0] == 0
    code, output, _ = run(capsys, "verify", base, "--expect", chain, "--position", 7)
    assert (code, "position 6, not of 7" in output) == (1, True)
    code, output, _ = run(capsys, "verify", base, "--expect", "00" * 32)
    assert (code, "no such history" in output) == (1, True)


def test_verify_lists_damage(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """File, offset and position of each finding; exit code 1."""
    destroy(base, 1)
    code, output, errors = run(capsys, "verify", base)
    severity, path, offset, position, _ = output.splitlines()[0].split("\t")
    assert (code, severity, path, position) == (1, "damage", "00000000000000000001.arrows", "1")
    assert int(offset) > 0
    assert "repair" in errors
    document = json.loads(run(capsys, "verify", base, "--json")[1])
    assert document["ok"] is False
    assert document["findings"][0]["offset"] == int(offset)


def test_verify_looks_at_weights_files(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that is gone is a finding."""
    Base.at(base).append(
        "weights/run", [WeightsStored("run", 1, "run/checkpoints/objects/1-x.pt", 3, 4, "00")]
    )
    code, output, _ = run(capsys, "verify", base)
    assert (code, "run/checkpoints/objects/1-x.pt" in output) == (1, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("verify", "nowhere"),
        ("verify", "base", "--expect", "abc"),
        ("verify", "base", "--position", "3"),
        ("gc", "base", "--keep", "some"),
        ("gc", "base", "--dry-run", "--yes"),
        ("repair", "base", "--dry-run", "--yes"),
        ("backup", "base", "base", "--dry-run"),
        ("backup", "base", "base"),
        ("backup", "base"),
        ("nonsense",),
    ],
)
def test_a_wrong_call_is_exit_code_2(
    base: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
) -> None:
    """One line says what is wrong; no traceback."""
    monkeypatch.chdir(base.parent)
    code, output, errors = run(capsys, *arguments)
    assert (code, output) == (2, "")
    assert errors
    assert "Traceback" not in errors


def test_repair_is_a_dry_run_first(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says what is lost and what to try first, changes nothing, and does it with --yes."""
    destroy(base, 1)
    before = {path.name: path.read_bytes() for path in (base / "events").glob("*.arrows")}
    code, output, errors = run(capsys, "repair", base)
    assert (code, "lost\tposition 1: 1 of s" in output) == (1, True)
    assert "--copy" in errors
    assert {path.name: path.read_bytes() for path in (base / "events").glob("*.arrows")} == before
    code, output, _ = run(capsys, "repair", base, "--yes")
    assert (code, "1 event lost of 6" in output) == (0, True)
    assert run(capsys, "verify", base)[0] == 0
    assert run(capsys, "repair", base)[:2] == (0, f"nothing to repair in {base / 'events'}\n")
    with EventLog.open(base / "events", read_only=True) as log:
        lost = list(log.read())[1]
    assert "user" in lost.metadata


def test_repair_takes_from_a_copy(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A backup of the base is a copy of its log."""
    assert run(capsys, "backup", base, base.parent / "backup")[0] == 0
    destroy(base, 1)
    code, output, _ = run(capsys, "repair", base, "--copy", base.parent / "backup", "--yes")
    assert (code, "0 events lost" in output, "position 1 from the copy" in output) == (0, True, True)


def test_gc_is_a_dry_run_first(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files and bytes are listed; --yes deletes."""
    orphan = base / "run/checkpoints/objects/1-x.pt"
    orphan.parent.mkdir(parents=True)
    orphan.write_bytes(b"xyz")
    assert "0 files can be deleted" in run(capsys, "gc", base)[1]
    code, output, _ = run(capsys, "gc", base, "--grace", 0)
    assert (code, output.splitlines()[0]) == (0, "orphan\t3\trun/checkpoints/objects/1-x.pt")
    assert orphan.exists()
    assert json.loads(run(capsys, "gc", base, "--grace", 0, "--yes", "--json")[1])["garbage"][0]["bytes"] == 3
    assert not orphan.exists()


def test_backup_prints_position_and_chain(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What it prints last is what verify --expect takes."""
    code, output, _ = run(capsys, "backup", base, base.parent / "backup")
    _, position, _, chain = output.splitlines()[-1].split()
    assert (code, position) == (0, "6")
    assert run(capsys, "verify", base.parent / "backup", "--expect", chain, "--position", position)[0] == 0


def test_dry_runs_say_what_would_be_written(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same numbers as afterwards, and no folder is made."""
    target = base.parent / "target"
    for verb in (("backup", base, target), ("replay", target, "--base", base)):
        assert run(capsys, *verb, "--dry-run")[1].startswith("6 events")
        planned = json.loads(run(capsys, *verb, "--dry-run", "--json")[1])
        assert not target.exists()
        done = json.loads(run(capsys, *verb, "--json")[1])
        for name in planned.keys() & done.keys():
            assert planned[name] == done[name], name
        shutil.rmtree(target)
    assert run(capsys, "gc", base, "--dry-run")[0] == 0
    assert run(capsys, "repair", base, "--dry-run")[0] == 0


def test_an_incomplete_backup_is_exit_code_1(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It names the file that is missing."""
    Base.at(base).append(
        "weights/run", [WeightsStored("run", 1, "run/checkpoints/objects/1-x.pt", 3, 4, "00")]
    )
    code, output, _ = run(capsys, "backup", base, base.parent / "backup")
    assert (code, output.splitlines()[0].split("\t")[:2]) == (
        1,
        ["missing", "run/checkpoints/objects/1-x.pt"],
    )


def test_a_disk_that_refuses_is_exit_code_1(
    base: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors of the disk are one line as well."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dacapo_store.backup.copy_log", refuse)
    code, _, errors = run(capsys, "backup", base, base.parent / "backup")
    assert (code, "No space left" in errors) == (1, True)


def test_the_command_is_installed(base: Path) -> None:
    """As ``dacapo-store``, beside this Python; it loads neither torch nor DuckDB to verify."""
    code = (
        "import sys; sys.argv = ['dacapo-store', 'verify', sys.argv[1]]\n"
        "from dacapo_store.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert not {'torch', 'duckdb', 'zarr'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code, str(base)], check=True, capture_output=True)
    command = shutil.which("dacapo-store", path=str(Path(sys.executable).parent))
    if command is None:
        pytest.skip("the project is not installed in this environment")
    ended = subprocess.run([command, "--help"], check=True, capture_output=True, text=True)
    assert "verify" in ended.stdout


def test_verify_knows_a_cited_history(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The very position and value; another position, or no citation, is told apart."""
    with EventLog.open(base / "events", read_only=True) as log:
        chain = log.chain_at(3).hex()
    code, output, _ = run(capsys, "verify", base, "--upto", f"lab@3#{chain}")
    assert (code, "that of position 3" in output) == (0, True)
    code, output, _ = run(capsys, "verify", base, "--upto", f"lab@4#{chain}")
    assert (code, "that of position 3, not of 4" in output) == (1, True)
    assert run(capsys, "verify", base, "--upto", "lab@3")[0] == 2


def test_compact_writes_full_segments_again(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A dry run says what would be done; with no grace the former files go at once."""
    before = run(capsys, "verify", base)[1].rsplit("chain", 1)[1]
    former = sorted(path.name for path in (base / "events").glob("*.arrows"))
    code, output, _ = run(capsys, "compact", base, "--dry-run")
    assert (code, output.count("written\t")) == (0, len(former) - 1)
    assert sorted(path.name for path in (base / "events").glob("*.arrows")) == former
    code, output, remarks = run(capsys, "compact", base)
    assert (code, output.count("written\t"), remarks.count("kept until")) == (0, *[len(former) - 1] * 2)
    code, output, _ = run(capsys, "compact", base, "--grace", "0", "--json")
    assert (code, len(json.loads(output)["deleted"])) == (0, len(former) - 1)
    assert run(capsys, "verify", base)[1].rsplit("chain", 1)[1] == before


def test_compact_leaves_a_damaged_segment_alone(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1, and the file is named."""
    destroy(base, 1)
    name = sorted(path.name for path in (base / "events").glob("*.arrows"))[1]
    code, _, remarks = run(capsys, "compact", base)
    assert (code, f"left alone: {name}" in remarks) == (1, True)
