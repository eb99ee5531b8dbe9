"""Damaged logs: a committed prefix or an error that names the place, never other data, never a crash.

This is the short form of ``python -m tools.torture damage``: every kind of damage, and a twelfth of
the places. The long form flips every bit.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from eventstore import DamagedLogError, Event, EventLog, verify_log
from eventstore.storage.local.survey import survey
from tools.torture import damage
from tools.torture.damage import Case

SEED = 3


def test_damage_gives_a_prefix_or_an_error(tmp_path: Path) -> None:
    """Flipped bits, truncations, noise, frames out of order or of another log, lengths that lie."""
    pristine = damage.write_log(tmp_path / "pristine", salt=0)
    other = damage.write_log(tmp_path / "other", salt=1)
    cases = list(damage.all_cases(pristine, other, every_bit=False, seed=SEED))
    many = {"flipped bit", "truncation"}
    chosen = [case for number, case in enumerate(cases) if number % 12 == SEED or case.kind not in many]
    assert {case.kind for case in cases} >= many | {"huge length", "lying seal", "other log's frame", "zeros"}
    tally = damage.judge_all(tmp_path, pristine, chosen, open_every=8, repair_every=32, seed=SEED)
    assert tally.failures == []
    assert tally.cases.total() == len(chosen)
    assert {"read: error", "read: prefix", "opened: error", "opened: prefix", "repair: with loss"} <= set(
        tally.outcomes
    )


def test_damage_of_a_re_encoded_segment_gives_a_prefix_or_an_error(tmp_path: Path) -> None:
    """Compressed bodies, an annex in front of each seal, an end-of-stream mark; no former file is there."""
    pristine = damage.reencoded(damage.write_log(tmp_path / "former", salt=0), tmp_path / "pristine")
    other = damage.reencoded(damage.write_log(tmp_path / "former-other", salt=1), tmp_path / "other")
    cases = damage.all_cases(pristine, other, every_bit=False, seed=SEED)
    many = {"flipped bit", "truncation"}
    chosen = [
        case
        for number, case in enumerate(cases)
        if ".r1." in case.path and (number % 12 == SEED or case.kind not in many)
    ]
    assert {case.kind for case in chosen} >= many | {"huge length", "lying seal", "other log's frame"}
    tally = damage.judge_all(tmp_path, pristine, chosen, open_every=8, repair_every=16, seed=SEED)
    assert tally.failures == []
    assert tally.cases.total() == len(chosen)
    assert {"read: error", "opened: error", "repair: with loss", "repair: without loss"} <= set(
        tally.outcomes
    )


def test_a_child_that_dies_names_its_case_and_another_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would hide a crash of the interpreter is found out."""
    pristine = damage.write_log(tmp_path / "pristine", salt=0)
    name = min(path.name for path in pristine.glob("*.arrows"))
    cases = [Case("cut", f"the first {length} bytes", name, bytes(length)) for length in range(4)]

    def dying(path: Path, case: Case, original: object) -> str:
        del path, original
        if case is cases[1]:
            os.kill(os.getpid(), signal.SIGKILL)
        if case is cases[2]:
            raise damage.WrongAnswerError("other data")
        return "fine"

    monkeypatch.setattr(damage, "judge_reading", dying)
    tally = damage.judge_all(tmp_path, pristine, cases, open_every=9, repair_every=9, seed=SEED)
    died, wrong = sorted(each for each in tally.failures if "the first 0 bytes" not in each)
    assert "the first 1 bytes" in died
    assert f"ended with {-signal.SIGKILL}" in died
    assert "the first 2 bytes" in wrong
    assert tally.outcomes["fine"] == 2


def test_the_only_bit_of_a_sector_may_flip_without_the_event_being_cut(tmp_path: Path) -> None:
    """The last double is 2.0, one set bit, alone in its sector: without it, that sector is all zeros.

    So it looks like one that was never written; but the event was acknowledged.
    """
    for padding in range(64):
        path = tmp_path / f"log-{padding}"
        with EventLog.open(path) as log:
            log.append("s", [Event("A", {"padding": "y" * 8 * padding}, values=[1.5, 1.5, 1.5, 2.0])])
        (segment,) = path.glob("*.arrows")
        content = bytearray(segment.read_bytes())
        share = len(content) % 512
        bits = [place for place in range(len(content) - share, len(content)) if content[place]]
        if share and len(bits) == 1:
            break
    assert content[bits[0]].bit_count() == 1
    content[bits[0]] = 0
    segment.write_bytes(content)
    for _ in range(2):
        with pytest.raises(DamagedLogError):
            EventLog.open(path)
    assert segment.read_bytes() == bytes(content)
    assert survey(segment).frames[0].mended is not None
    assert not verify_log(path).ok
