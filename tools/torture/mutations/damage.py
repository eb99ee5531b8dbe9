"""What changed bytes bring to light: lengths, seals and digests that are trusted unseen."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from eventstore import format as log_format
from eventstore.format import Seal
from tools.torture import damage
from tools.torture.damage import Case
from tools.torture.mutations.breaking import Breaks, Family, Hunt, Noticed, Patch

_CASES_AT_ONCE: Final = 50
_SEED: Final = 3


def _trust_lengths(patch: Patch) -> None:
    """The seal's own checksum is not looked at, so any length in it is believed."""

    def read_seal(data: bytes | memoryview, seal_offset: int) -> Seal | None:
        if len(data) < seal_offset + log_format.SEAL_BYTES:
            return None
        fields = log_format._SEAL.unpack_from(data, seal_offset)  # noqa: SLF001 - what is broken is inside
        magic, body, first, count, zeros, synced, chain, metadata, _, digest = fields
        if magic != log_format.MAGIC:
            return None
        return Seal(body, first, count, zeros, synced, chain, metadata, digest)

    patch.set(log_format, "read_seal", read_seal)


@dataclass(frozen=True)
class _Mutation:
    """How the code is broken, and the kind of case that shows it."""

    breaks: Breaks
    kind: str


MUTATIONS: Final[dict[str, _Mutation]] = {
    "lengths in a seal are trusted": _Mutation(_trust_lengths, "flipped bit"),
    "the digest of a frame is not compared": _Mutation(
        lambda patch: patch.set(log_format, "digest_holds", lambda *_: True), "flipped bit"
    ),
    "a flipped bit taken for a sector never written": _Mutation(
        lambda patch: patch.set(log_format, "find_flaw", lambda *_: log_format.Flaw.HOLE), "flipped bit"
    ),
}


@contextmanager
def _ready() -> Iterator[Hunt]:
    with tempfile.TemporaryDirectory(prefix="dacapo-damage-") as made:
        folder = Path(made)
        pristine = damage.write_log(folder / "pristine", salt=0)
        other = damage.write_log(folder / "other", salt=1)
        cases = list(damage.all_cases(pristine, other, every_bit=False, seed=_SEED))
        yield lambda what: _hunt(what, cases, pristine, folder)


def _hunt(what: str, cases: list[Case], pristine: Path, folder: Path) -> Noticed | None:
    mutation = MUTATIONS[what]
    # From the end: the last frame of a segment is the one that recovery may cut.
    telling = [case for case in reversed(cases) if case.kind == mutation.kind]
    with Patch() as patch:
        mutation.breaks(patch)
        for begin in range(0, len(telling), _CASES_AT_ONCE):
            some = telling[begin : begin + _CASES_AT_ONCE]
            tally = damage.judge_all(folder, pristine, some, open_every=1, repair_every=100, seed=_SEED)
            if tally.failures:
                return Noticed(begin + len(some), tally.failures[0])
    return None


FAMILY: Final = Family("damage", "cases", MUTATIONS, _ready)
