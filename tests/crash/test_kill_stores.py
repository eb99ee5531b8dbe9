"""Writers of all stores are killed at random moments and at failpoints; what was acknowledged stays.

The suite itself is ``tools.torture.kill``; this is its short version. That it can fail
is shown in ``test_mutations``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.torture.failpoints import FAILPOINTS, kind_of
from tools.torture.kill import KILLS_SHORT, Tally, torture
from tools.torture.zygote import Zygote

SEED = 3


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    """A process that forks writers; it takes two seconds to load everything, once."""
    with Zygote("tools.torture.kill") as zygote:
        yield zygote


def test_what_was_acknowledged_survives_every_kill(zygote: Zygote, tmp_path: Path) -> None:
    """A hundred kills of four writers: nothing acknowledged is lost, and nothing is there by half."""
    tally = Tally()
    failures = torture(zygote, tmp_path, kills=KILLS_SHORT, seed=SEED, tally=tally)
    assert failures == []
    assert tally.kills >= KILLS_SHORT
    assert len(tally.failpoints) > 10
    assert tally.finished
    assert tally.unfinished


def test_every_path_of_a_base_has_a_kind() -> None:
    """A failpoint is known by what the file is, not by its name."""
    base = Path("/base")
    kinds = {
        "events/00000000000000000000.arrows": "segment",
        "events/.00000000000000000000.arrows.1f.tmp": "new segment",
        "events/lock": "lock",
        "events/spool/1f-2f.spool": "spool",
        "events/spool": "spool folder",
        "events/quarantine/x.bytes": "quarantine",
        "events/quarantine": "quarantine folder",
        "events": "log folder",
        "w0/checkpoints/objects/1-2f.pt": "weights",
        "w0/checkpoints/iterations/1": "link",
        "w0/checkpoints/crop/.voi.json.1f.tmp": "choice",
        "w0/checkpoints/crop": "choices folder",
        "w0/validation.zarr/1/crop": "array folder",
        "w0/.trash/1f": "trash",
        "w0": "other folder",
    }
    assert {path: kind_of(base / path, base) for path in kinds} == kinds
    assert len(set(FAILPOINTS)) == len(FAILPOINTS)
