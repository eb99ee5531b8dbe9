"""Durable file operations."""

from __future__ import annotations

from pathlib import Path

import pytest

from eventstore import files


def test_a_new_file_never_takes_another_s_place(tmp_path: Path) -> None:
    """Creating what is there is an error, and what is there stays."""
    (tmp_path / "taken").write_text("old")
    with pytest.raises(FileExistsError):
        files.create(tmp_path / "taken", like=tmp_path)
    assert (tmp_path / "taken").read_text() == "old"


def test_replacing_text_leaves_no_temporary_file(tmp_path: Path) -> None:
    """The new text is there and nothing else."""
    for text in ("first", "second"):
        files.replace_text(tmp_path / "note.json", text, like=tmp_path)
    assert (tmp_path / "note.json").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["note.json"]


def test_a_failed_replacement_leaves_the_old_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk refuses, the old content stays and the half-written file goes."""
    files.replace_text(tmp_path / "note.json", "old", like=tmp_path)

    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "sync_file", refuse)
    with pytest.raises(OSError, match="No space"):
        files.replace_text(tmp_path / "note.json", "new", like=tmp_path)
    assert (tmp_path / "note.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["note.json"]


def test_directories_take_the_bits_of_the_folder_they_belong_to(tmp_path: Path) -> None:
    """A tree below a group-writable base is group-writable, at every level."""
    tmp_path.chmod(0o2775)
    files.make_directories(tmp_path / "a" / "b" / "c", like=tmp_path)
    files.make_directories(tmp_path / "a" / "b" / "c", like=tmp_path)
    for path in (tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "c"):
        assert path.stat().st_mode & 0o7777 == 0o2775


def test_unlinking_what_is_gone_is_no_error(tmp_path: Path) -> None:
    """The end state is what counts."""
    files.unlink(tmp_path / "never")
    assert list(tmp_path.iterdir()) == []
