"""Where a base is, by what it is called."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest

from dacapo_store.location import Location

_DATABASE = "postgresql://me:secret@host/db"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DACAPO_STORE_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
def test_all_of_a_base_in_a_bucket_is_there(scheme: str, tmp_path: Path) -> None:
    """Weights lie beside the log, with its options; what is derived is on this host."""
    location = Location.of(f"{scheme}://bucket/base/?endpoint=http://host")
    assert location.log == f"{scheme}://bucket/base/events?endpoint=http://host"
    assert location.payloads == f"{scheme}://bucket/base?endpoint=http://host"
    assert location.files.is_relative_to(tmp_path / "cache")


@pytest.mark.parametrize(
    ("address", "payloads"),
    [
        ("s3://one/base?region=here&files=/data/base", Path("/data/base")),
        ("s3://one/base?region=here&files=s3://two/files", "s3://two/files?region=here"),
        ("s3://one/base?region=here&files=gs://two/files", "gs://two/files"),
        (
            f"s3://one/base?region=here&files={quote('s3://two/files?region=there', safe='')}",
            "s3://two/files?region=there",
        ),
        ("s3://one/base?files=shared:///data/base", Path("/data/base")),
        (f"{_DATABASE}?files=s3://bucket/files", "s3://bucket/files"),
        ("shared:///data/base?files=s3://bucket/files", "s3://bucket/files"),
        ("shared:///data/base", Path("/data/base")),
    ],
)
def test_files_says_where_weights_and_arrays_lie(address: str, payloads: str | Path) -> None:
    location = Location.of(address)
    assert location.payloads == payloads
    again = Location.of(location.name)
    assert again == location


def test_a_database_must_say_where(tmp_path: Path) -> None:
    """It has no room for weights; the error names no password."""
    with pytest.raises(ValueError, match=r"add \?files=.*or \?files=s3://") as caught:
        Location.of(_DATABASE)
    assert "secret" not in str(caught.value)


def test_files_is_a_folder_or_a_bucket() -> None:
    with pytest.raises(ValueError, match="no place for weights") as caught:
        Location.of("s3://bucket/base?files=postgresql://me:secret@host/db")
    assert "secret" not in str(caught.value)


def test_bases_without_a_folder_do_not_share_one() -> None:
    """Snapshots of one must not be taken for those of another."""
    assert Location.of("s3://bucket/one").files != Location.of("s3://bucket/two").files
