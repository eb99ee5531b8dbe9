"""The suite on a real file system: what its recorded disk leaves, and what it says where it cannot run."""

from __future__ import annotations

import os
from random import Random
from typing import TYPE_CHECKING

from tools.torture import real_disk
from tools.torture.block_recorder import FLUSHED, RECORD, Recording
from tools.torture.simulated_disk import SECTOR_BYTES

if TYPE_CHECKING:
    import pytest

_SECTORS = 4


def _written(sector: int, content: bytes) -> bytes:
    return RECORD.pack(sector * SECTOR_BYTES, len(content)) + content


def _recording() -> Recording:
    """Two sectors written and flushed, then both of them and two more written anew."""
    record = _written(0, b"a" * SECTOR_BYTES * 2) + RECORD.pack(FLUSHED, 0)
    record += _written(0, b"b" * SECTOR_BYTES) + _written(1, b"b" * SECTOR_BYTES * 3)
    return Recording(bytes(SECTOR_BYTES * _SECTORS), record)


def _image(requests: int, seed: int) -> bytes:
    return bytes(_recording().after_power_cut(requests, Random(seed)))  # noqa: S311 - to be repeated


def test_what_was_flushed_survives_and_of_the_rest_any_sectors() -> None:
    """Each sector holds what was flushed or what came later, whole; and the dice come to many images."""
    images = set[bytes]()
    for seed in range(1_000):
        image = _image(4, seed)
        sectors = [image[at : at + SECTOR_BYTES] for at in range(0, len(image), SECTOR_BYTES)]
        assert all(set(sector) in ({ord("a")}, {ord("b")}) for sector in sectors[:2])
        assert all(set(sector) in ({0}, {ord("b")}) for sector in sectors[2:])
        images.add(image)
    assert len(images) == 2**_SECTORS


def test_before_the_flush_nothing_is_certain() -> None:
    """And what was not yet asked for is not there."""
    images = {_image(1, seed) for seed in range(50)}
    assert bytes(SECTOR_BYTES * _SECTORS) in images
    assert b"a" * SECTOR_BYTES * 2 + bytes(SECTOR_BYTES * 2) in images
    assert not any(b"b" in image for image in images)


def test_where_it_cannot_run_it_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no failure: most machines give this to nobody."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    report = real_disk.run(long=True, seed=0)
    assert report.figures == {"not run": "needs root"}
    assert report.ok
