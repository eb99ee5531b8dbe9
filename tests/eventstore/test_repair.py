"""Repair keeps whatever can be proven good, says exactly what is lost, and throws nothing away."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from eventstore import (
    EVENT_LOST,
    LOST_STREAM,
    DamagedLogError,
    Event,
    EventLog,
    LogNotFoundError,
    StorageError,
    StreamAppend,
    files,
    plan_repair,
    repair_log,
    verify_log,
)
from eventstore import format as log_format
from eventstore.storage.local.survey import survey

SEGMENT_BYTES_MAX = 6_000


def write_log(path: Path, *, commits: int = 24, salt: int = 0) -> Path:
    """A log of several segments: commits of one to three events in four streams."""
    dice = random.Random(salt)  # noqa: S311 - a log like any other
    with EventLog.open(path, segment_bytes_max=SEGMENT_BYTES_MAX) as log:
        for number in range(commits):
            parts = {
                f"stream-{dice.randrange(4)}": [
                    Event("Happened", {"number": number, "salt": salt}, values=[1.5] * dice.randrange(20))
                    for _ in range(dice.randint(1, 2))
                ]
                for _ in range(2)
            }
            log.append_to_streams([StreamAppend(stream, events) for stream, events in parts.items()])
    return path


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log that nobody changes; tests damage copies of it."""
    return write_log(tmp_path_factory.mktemp("log") / "events")


@pytest.fixture
def damaged(pristine: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(pristine, tmp_path / "events"))


def segments(path: Path) -> list[Path]:
    return sorted(path.glob("*.arrows"))


def events_of(path: Path) -> list[tuple[int, str, int, str, str]]:
    with EventLog.open(path, read_only=True) as log:
        return [(e.position, e.stream, e.stream_version, e.type, e.data_json) for e in log.read()]


def overwrite(path: Path, offset: int, data: bytes) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:offset] + data + content[offset + len(data) :])


def destroy_frame(path: Path, number: int) -> tuple[int, int]:
    """Fill a frame with garbage; the positions it held."""
    frame = survey(path).frames[number]
    noise = random.Random(number).randbytes(frame.seal.frame_bytes)  # noqa: S311 - garbage
    overwrite(path, frame.offset, noise)
    return frame.seal.first_position, frame.seal.next_position


def damage_body(path: Path, number: int) -> tuple[int, int]:
    """Change two bytes of a frame's body; the seal stays readable. The positions it held."""
    frame = survey(path).frames[number]
    data = path.read_bytes()
    end = frame.offset + frame.seal.frame_bytes
    overwrite(path, end - 10, bytes(byte ^ 0x55 for byte in data[end - 10 : end - 8]))
    return frame.seal.first_position, frame.seal.next_position


def check_repaired(path: Path, original: list[tuple[int, str, int, str, str]], lost: set[int]) -> None:
    """The log opens and is clean, each event is in its place, and each lost one is marked."""
    verdict = verify_log(path)
    assert verdict.ok, verdict.findings
    there = events_of(path)
    assert [event[0] for event in there] == list(range(len(there)))
    assert {event[0] for event in there if event[3] == EVENT_LOST} == lost
    assert [event for event in there if event[0] not in lost] == [
        event for event in original if event[0] not in lost
    ]
    versions: dict[str, int] = {}
    for _, stream, version, _, _ in there:
        assert version == versions.get(stream, -1) + 1
        versions[stream] = version


def test_a_good_log_needs_no_repair(damaged: Path) -> None:
    """The plan is empty, and repairing changes no file."""
    before = {path.name: path.read_bytes() for path in segments(damaged)}
    assert not plan_repair(damaged).needed
    assert not repair_log(damaged).needed
    assert {path.name: path.read_bytes() for path in segments(damaged)} == before
    assert not (damaged / "quarantine").exists()


@pytest.mark.parametrize("damage", [destroy_frame, damage_body])
def test_events_behind_lost_ones_keep_their_places(
    damaged: Path, pristine: Path, damage: Callable[[Path, int], tuple[int, int]]
) -> None:
    """One frame is lost; everything else stays at its position and its stream version."""
    first, behind = damage(segments(damaged)[1], 2)
    with pytest.raises(DamagedLogError):
        EventLog.open(damaged)
    plan = repair_log(damaged)
    (lost,) = plan.lost
    assert (lost.first_position, lost.next_position, lost.exact) == (first, behind, True)
    check_repaired(damaged, events_of(pristine), set(range(first, behind)))


def test_the_plan_says_what_the_repair_does_and_changes_nothing(damaged: Path) -> None:
    """A dry run and the real one agree, but for the folder that only the second one makes."""
    destroy_frame(segments(damaged)[0], 3)
    before = {path.name: path.read_bytes() for path in damaged.iterdir() if path.is_file()}
    plan = plan_repair(damaged)
    assert {path.name: path.read_bytes() for path in damaged.iterdir() if path.is_file()} == before
    assert not (damaged / "quarantine").exists()
    done = repair_log(damaged)
    assert (done.lost, done.rewritten, done.events) == (plan.lost, plan.rewritten, plan.events)


def test_what_is_replaced_is_kept(damaged: Path) -> None:
    """Every byte that was there before lies in quarantine, with a report."""
    path = segments(damaged)[1]
    destroy_frame(path, 1)
    before = {path.name: path.read_bytes() for path in segments(damaged)}
    plan = repair_log(damaged)
    assert plan.quarantine is not None
    folder = damaged / plan.quarantine
    assert {name: (folder / name).read_bytes() for name in plan.rewritten} == {
        name: before[name] for name in plan.rewritten
    }
    assert path.name in plan.rewritten
    assert (folder / "report.json").is_file()
    assert not (folder / "new").exists()


def test_no_name_is_used_again(damaged: Path) -> None:
    """Repaired segments are further generations, also when a log is repaired twice."""
    names = {path.name for path in segments(damaged)}
    for number in (1, 2):
        destroy_frame(segments(damaged)[0], number)
        repair_log(damaged)
        made = {path.name for path in segments(damaged)} - names
        assert made
        assert names.isdisjoint(made)
        names |= made


def test_a_flipped_bit_is_put_right(damaged: Path) -> None:
    """Wherever it is, in each kind of place: the file is what it was, and nothing is lost."""
    path = segments(damaged)[1]
    good = path.read_bytes()
    frame = survey(path).frames[1]
    seal_at = frame.offset + 8 + frame.seal.metadata_bytes - log_format.SEAL_BYTES
    places = [0, 9, frame.offset + 1, frame.offset + 5, frame.offset + 40, seal_at + 3, seal_at + 77]
    for place in [*places, seal_at + 90, frame.offset + frame.seal.frame_bytes - 9]:
        overwrite(path, place, bytes([good[place] ^ 4]))
        plan = plan_repair(damaged)
        assert not plan.lost, place
        assert plan.rewritten == (path.name,), place
        overwrite(path, place, good[place : place + 1])
    overwrite(path, frame.offset + 40, bytes([good[frame.offset + 40] ^ 4]))
    repair_log(damaged)
    assert max(segments(damaged), key=lambda each: each.name.startswith(path.name[:20])).read_bytes() == good


def test_a_damaged_schema_loses_nothing(damaged: Path, pristine: Path) -> None:
    """The schema is the same in all segments; the events behind it prove themselves."""
    chain = verify_log(pristine).chain
    for path in segments(damaged):
        content = path.read_bytes()
        path.write_bytes(bytes(200) + content[200:])
        plan = repair_log(damaged)
        assert not plan.lost
        assert verify_log(damaged).chain == chain
        check_repaired(damaged, events_of(pristine), set())


def test_the_id_of_a_log_of_one_segment_is_proven(tmp_path: Path) -> None:
    """Its schema is damaged, but for the id, and the chain says that this id is right."""
    with EventLog.open(tmp_path / "events") as log:
        log.append("s", [Event("A")])
        log_id = log.log_id
    path = segments(tmp_path / "events")[0]
    content = path.read_bytes()
    place = content.index(b"format_version")
    overwrite(path, place, b"FORMAT_VERSION")
    repair_log(tmp_path / "events")
    with EventLog.open(tmp_path / "events") as log:
        assert log.log_id == log_id
    overwrite(path := segments(tmp_path / "events")[-1], 0, bytes(len(content) // 2))
    with pytest.raises(DamagedLogError, match="id cannot be told"):
        plan_repair(tmp_path / "events")


def test_a_missing_segment_leaves_marked_places(damaged: Path, pristine: Path) -> None:
    """Its neighbours say how many events it held, and their streams whose they were."""
    gone, behind = segments(damaged)[1:3]
    first, end = int(gone.name[:20]), int(behind.name[:20])
    gone.unlink()
    plan = repair_log(damaged)
    assert [(lost.first_position, lost.next_position) for lost in plan.lost] == [(first, end)]
    check_repaired(damaged, events_of(pristine), set(range(first, end)))
    known = [stream for stream in plan.lost[0].streams if stream != LOST_STREAM]
    assert len(known) > 0


def test_the_missing_first_segment_leaves_marked_places(damaged: Path, pristine: Path) -> None:
    """A log needs a position 0, whatever was there."""
    end = int(segments(damaged)[1].name[:20])
    segments(damaged)[0].unlink()
    repair_log(damaged)
    check_repaired(damaged, events_of(pristine), set(range(end)))


def test_frames_in_the_wrong_order_are_put_right(damaged: Path, pristine: Path) -> None:
    """Nothing is lost when all frames are there; the chain is what it was."""
    path = segments(damaged)[0]
    content = path.read_bytes()
    one, two = survey(path).frames[1:3]
    end = two.offset + two.seal.frame_bytes
    path.write_bytes(
        content[: one.offset] + content[two.offset : end] + content[one.offset : two.offset] + content[end:]
    )
    plan = repair_log(damaged)
    assert not plan.lost
    assert verify_log(damaged).chain == verify_log(pristine).chain


def test_a_frame_that_is_there_twice_counts_once(damaged: Path, pristine: Path) -> None:
    """The second one goes with the file to quarantine."""
    path = segments(damaged)[0]
    content = path.read_bytes()
    one = survey(path).frames[1]
    end = one.offset + one.seal.frame_bytes
    path.write_bytes(content[:end] + content[one.offset :])
    assert not repair_log(damaged).lost
    assert verify_log(damaged).chain == verify_log(pristine).chain


def test_a_frame_of_another_log_is_not_kept(tmp_path: Path) -> None:
    """Its seal is good and its positions fit, but the chain says that it does not belong here."""
    for name in ("one", "two"):
        with EventLog.open(tmp_path / name) as log:
            for number in range(5):
                log.append("s", [Event("A", {"log": name, "number": number})])
    one, two = (segments(tmp_path / name)[0] for name in ("one", "two"))
    frame = survey(two).frames[2]
    overwrite(one, frame.offset, two.read_bytes()[frame.offset : frame.offset + frame.seal.frame_bytes])
    plan = repair_log(tmp_path / "one")
    assert [(lost.first_position, lost.next_position) for lost in plan.lost] == [(2, 3)]
    assert plan.lost[0].streams == ("s",)
    assert verify_log(tmp_path / "one").ok


def test_a_segment_of_another_log_is_set_aside(damaged: Path, pristine: Path, tmp_path: Path) -> None:
    """It takes no place of the log's own events."""
    other = write_log(tmp_path / "other", salt=7)
    shutil.copy(segments(other)[1], damaged / "00000000000000000003.arrows")
    with pytest.raises(DamagedLogError):
        EventLog.open(damaged)
    plan = repair_log(damaged)
    assert plan.set_aside == ("00000000000000000003.arrows",)
    assert not plan.rewritten
    assert plan.quarantine is not None
    assert (damaged / plan.quarantine / "00000000000000000003.arrows").is_file()
    check_repaired(damaged, events_of(pristine), set())


def test_positions_of_a_destroyed_end_are_not_given_again(damaged: Path, pristine: Path) -> None:
    """How many events were there is unknown, so as many places as may be are kept free."""
    path = segments(damaged)[-1]
    first, behind = destroy_frame(path, -1)
    plan = repair_log(damaged)
    (lost,) = plan.lost
    assert (lost.first_position, lost.exact) == (first, False)
    assert lost.next_position >= behind
    with EventLog.open(damaged) as log:
        assert log.append("stream-0", [Event("Happened")]).first_position == lost.next_position
    assert events_of(damaged)[:first] == events_of(pristine)[:first]


def test_the_seal_of_a_damaged_end_tells_its_length(damaged: Path, pristine: Path) -> None:
    """Two changed bytes in the last frame's body: its seal still counts its events."""
    first, behind = damage_body(segments(damaged)[-1], -1)
    (lost,) = repair_log(damaged).lost
    assert (lost.first_position, lost.next_position, lost.exact) == (first, behind, True)
    check_repaired(damaged, events_of(pristine), set(range(first, behind)))


def test_a_torn_tail_is_left_to_recovery(damaged: Path) -> None:
    """What a crash leaves is no damage, and not the operator's business."""
    path = segments(damaged)[-1]
    path.write_bytes(path.read_bytes()[:-20])
    assert not plan_repair(damaged).needed


def test_a_copy_brings_back_what_is_lost(damaged: Path, pristine: Path) -> None:
    """A copy of any age gives the frames that it has: the chain is as it was, and nothing is lost."""
    for path in segments(damaged):
        destroy_frame(path, 1)
    assert plan_repair(damaged).events_lost > 0
    plan = repair_log(damaged, copy=pristine)
    assert not plan.lost
    assert plan.from_copy
    assert verify_log(damaged).chain == verify_log(pristine).chain


def test_a_copy_brings_back_the_end(damaged: Path, pristine: Path) -> None:
    """Also where the log itself cannot tell how much there was."""
    destroy_frame(segments(damaged)[-1], -1)
    plan = repair_log(damaged, copy=pristine)
    assert not plan.lost
    assert verify_log(damaged).chain == verify_log(pristine).chain


def test_a_copy_that_went_its_own_way_gives_only_what_was_common(damaged: Path, tmp_path: Path) -> None:
    """What was written to the copy since is not this log's history."""
    copy = Path(shutil.copytree(damaged, tmp_path / "copy"))
    for path, name in ((damaged, "here"), (copy, "there")):
        with EventLog.open(path) as log:
            for number in range(6):
                log.append("new", [Event("A", {"where": name, "number": number})])
    original = events_of(damaged)
    last = segments(damaged)[-1]
    first, behind = destroy_frame(last, -3)
    plan = repair_log(damaged, copy=copy)
    assert [(lost.first_position, lost.next_position) for lost in plan.lost] == [(first, behind)]
    check_repaired(damaged, original, {first})


def test_a_copy_of_another_log_is_refused(damaged: Path, tmp_path: Path) -> None:
    """Nothing of it can be right."""
    other = write_log(tmp_path / "other", salt=7)
    with pytest.raises(ValueError, match="another log"):
        plan_repair(damaged, copy=other)


def test_the_former_chain_is_recognised(damaged: Path, pristine: Path) -> None:
    """A value noted before the damage: in front of it as ever, behind it as that of the former history."""
    with EventLog.open(pristine, read_only=True) as log:
        whole, next_position = log.chain.hex(), log.next_position
    early = survey(segments(pristine)[0]).frames[1].seal
    destroy_frame(segments(damaged)[0], 3)
    destroy_frame(segments(damaged)[1], 2)
    repair_log(damaged)
    assert verify_log(damaged, expect=early.chain.hex()).expected_at == early.next_position
    verdict = verify_log(damaged, expect=whole)
    assert verdict.expected_at is None
    assert verdict.chain != whole
    notes = [finding for finding in verdict.findings if "before the log was repaired" in finding.message]
    assert [note.position for note in notes] == [next_position]
    assert verify_log(damaged, expect=verdict.chain).expected_at == next_position


def test_times_behind_lost_events_stay(damaged: Path, pristine: Path) -> None:
    """A placeholder carries the clock in front of it, or everything behind it would be of today."""
    with EventLog.open(pristine, read_only=True) as log:
        moment = list(log.read())[-4].recorded_at
        position = log.position_at(moment)
    destroy_frame(segments(damaged)[0], 2)
    repair_log(damaged)
    with EventLog.open(damaged, read_only=True) as log:
        assert log.position_at(moment) == position


def test_the_log_goes_on_after_a_repair(damaged: Path) -> None:
    """Appending, rolling and verifying work as ever."""
    destroy_frame(segments(damaged)[0], 2)
    repair_log(damaged)
    with EventLog.open(damaged, segment_bytes_max=SEGMENT_BYTES_MAX) as log:
        for number in range(20):
            log.append("stream-1", [Event("Happened", {"number": number})])
        assert log.verify().ok


def test_a_process_that_had_the_log_open_cannot_write_behind_the_old_chain(damaged: Path) -> None:
    """Its next append says that the log was repaired, and so does reading; nothing is written."""
    with EventLog.open(damaged) as log:
        destroy_frame(segments(damaged)[0], 2)
        repair_log(damaged)
        for _ in range(2):
            with pytest.raises(StorageError, match="repaired"):
                log.append("stream-0", [Event("Happened")])
            with pytest.raises(StorageError, match="repaired"):
                list(log.read())
    assert verify_log(damaged).ok


class _Stop(BaseException):
    """Ends a repair in the middle, as a kill would."""


def die_after(steps: int, patch: pytest.MonkeyPatch) -> list[str]:
    """Let this many file operations happen, and no more; the list of those that did grows."""
    done: list[str] = []

    def counted(name: str, operation: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            if len(done) == steps:
                raise _Stop
            done.append(name)
            return operation(*arguments, **named)

        return call

    for name in ("link", "unlink", "write", "sync_file", "sync_directory", "remove_directory"):
        patch.setattr(files, name, counted(name, getattr(files, name)))
    return done


def test_a_repair_that_is_cut_off_is_completed_or_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it dies, repairing again ends at the same history, and nobody reads a wrong one meanwhile."""
    pristine = write_log(tmp_path / "pristine", commits=11)
    assert len(segments(pristine)) == 3
    original = events_of(pristine)
    steps, died = 0, True
    while died:
        path = Path(shutil.copytree(pristine, tmp_path / f"events-{steps}"))
        first, behind = destroy_frame(segments(path)[0], 1)
        with monkeypatch.context() as patch:
            die_after(steps, patch)
            try:
                repair_log(path)
                died = False
            except _Stop:
                steps += 1
        try:
            there = events_of(path)
        except DamagedLogError as error:
            assert error.position == first  # noqa: PT017 - before it came into force
        else:
            assert there[:first] + there[behind:] == original[:first] + original[behind:]
        repair_log(path)
        assert not plan_repair(path).needed, steps
        check_repaired(path, original, set(range(first, behind)))
    assert steps > 15


def test_no_log_is_said(tmp_path: Path) -> None:
    """An empty folder is no log to repair."""
    with pytest.raises(LogNotFoundError):
        plan_repair(tmp_path)
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - nothing was made
