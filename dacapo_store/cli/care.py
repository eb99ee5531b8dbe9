"""``verify``, ``repair``, ``gc``, ``compact``, ``backup``: looking after a base.

The verbs that take something away say first what they would do, and do it with ``--yes``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dacapo_store.cli import EXIT_PROBLEM
from dacapo_store.cli.output import count, remark, say, say_json, size
from dacapo_store.cli.places import base_of, local_base_of, log_of
from dacapo_store.cli.progress import progress

if TYPE_CHECKING:
    from dacapo_store.maintenance import GarbagePlan
    from eventstore import LostRange, ReencodingReport, RepairPlan, Verdict

BaseArgument = Annotated[
    str | None,
    typer.Argument(help="The base directory or address; default: that of dacapo.yaml.", metavar="[BASE]"),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do it; without this, only say what would be done.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only say what would be done, which is so without --yes, too.")
]


def add_to(app: typer.Typer) -> None:
    """Add these verbs."""
    for verb in (verify, repair, gc, compact, backup):
        app.command()(verb)


def verify(
    base: BaseArgument = None,
    *,
    expect: Annotated[
        str | None, typer.Option(help="A chain value that you noted: 64 hexadecimal digits.", metavar="HEX")
    ] = None,
    position: Annotated[
        int | None,
        typer.Option(help="With --expect: the position that it must belong to; default: any.", min=0),
    ] = None,
    upto: Annotated[
        str | None,
        typer.Option(
            help="A citation, base@position#chain: is this the history it names?", metavar="CITATION"
        ),
    ] = None,
    artifacts: Annotated[
        bool, typer.Option("--artifacts", help="Read the weights files, too, and compare digests.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Read everything, change nothing, and list what is not as it should be.

    Example: dacapo-store verify --upto my_base@4711#3fe1…

    Exit code 0: clean. 1: damage, a missing file, or a chain value that no position has. 2: no base.
    """
    from dacapo_store.payloads import PayloadFinding, check_payloads
    from eventstore import EventLog, verify_log

    if upto is not None:
        from dacapo_store.citation import Citation

        if expect is not None or position is not None:
            raise ValueError("--upto says position and chain value itself: leave --expect and --position out")
        cited = Citation.parse(upto)
        expect, position = cited.chain, cited.position
    if position is not None and expect is None:
        raise ValueError("--position goes with --expect")
    root = base_of(base)
    log_place = log_of(root) if isinstance(root, Path) else _log_at(root)
    with progress("verifying the log") as report:
        verdict = verify_log(log_place, expect=expect, progress=report)
    checked, findings = 0, list[PayloadFinding]()
    if log_place != root and verdict.ok:
        with EventLog.open(log_place, read_only=True) as log, progress("looking at weights") as report:
            checked, findings = check_payloads(root, log, digests=artifacts, progress=report)
    matches = expect is None or (verdict.expected_at is not None and position in (None, verdict.expected_at))
    if as_json:
        say_json(
            {
                **asdict(verdict),
                "ok": verdict.ok,
                "matches": matches,
                "weights_files": checked,
                "weights_findings": [asdict(each) for each in findings],
            }
        )
    else:
        _say_verdict(verdict, expect, position)
        for each in findings:
            say(f"missing\t{each.path}\t-\t{each.position}\t{each.message}")
        if not verdict.ok:
            remark("The log is damaged: 'dacapo-store repair' says what can be done.")
        elif checked:
            how = "sizes and digests" if artifacts else "sizes"
            say(f"{count(checked, 'weights file')} looked at ({how}), {len(findings)} not as stored")
    if not verdict.ok or not matches or findings:
        raise typer.Exit(EXIT_PROBLEM)


def _log_at(base: str) -> str | Path:
    from dacapo_store.location import Location

    return Location.of(base).log


def _say_verdict(verdict: Verdict, expect: str | None, position: int | None) -> None:
    for each in verdict.findings:
        offset = "-" if each.offset is None else each.offset
        place = "-" if each.position is None else each.position
        say(f"{each.severity}\t{each.path}\t{offset}\t{place}\t{each.message}")
    state = "clean" if verdict.ok else "DAMAGED"
    say(
        f"{state}: {count(verdict.events, 'event')} in {count(verdict.segments, 'segment')}, "
        f"{size(verdict.bytes)}; chain {verdict.chain}"
    )
    if expect is not None and verdict.expected_at is None:
        say("no such history: no position of this log has the expected chain value")
    elif expect is not None and position not in (None, verdict.expected_at):
        say(f"the expected chain value is that of position {verdict.expected_at}, not of {position}")
    elif expect is not None:
        say(f"the expected chain value is that of position {verdict.expected_at}")


def repair(
    base: BaseArgument = None,
    *,
    copy: Annotated[
        Path | None,
        typer.Option(
            help="A copy of the base or of its log; what is lost is taken from there.", metavar="PATH"
        ),
    ] = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Mend a damaged log: keep all that can be proven good, and say exactly what is lost.

    End all processes that use the base first. Nothing is thrown away: what is replaced goes to
    events/quarantine. Exit code 0: done, or nothing to do. 1: a dry run that found something to do.
    """
    from dacapo_store.provenance import event_metadata
    from eventstore import plan_repair, repair_log

    _check_intent(yes=yes, dry_run=dry_run)
    log_folder = log_of(local_base_of(base))
    source = None if copy is None else log_of(copy.expanduser().absolute())
    with progress("repairing" if yes else "looking for damage"):
        if yes:
            plan = repair_log(log_folder, copy=source, metadata=dict(event_metadata()))
        else:
            plan = plan_repair(log_folder, copy=source)
    if as_json:
        say_json(plan)
    else:
        _say_repair(plan, done=yes, with_copy=source is not None)
    if plan.needed and not yes:
        raise typer.Exit(EXIT_PROBLEM)


def _check_intent(*, yes: bool, dry_run: bool) -> None:
    if yes and dry_run:
        raise ValueError("--yes does it and --dry-run does not: give one of them")


def _say_repair(plan: RepairPlan, *, done: bool, with_copy: bool) -> None:
    if not plan.needed:
        say(f"nothing to repair in {plan.path}")
        return
    for line in _repair_lines(plan, "written" if done else "write"):
        say(line)
    say(f"{count(plan.events_lost, 'event')} lost of {plan.events:,}")
    if done:
        say(f"what was replaced is in {plan.path}/{plan.quarantine}")
        return
    if plan.lost:
        other = "another copy" if with_copy else "a copy"
        remark(f"If you have {other} of the log, use it first: --copy PATH takes from it what is lost.")
    remark("Nothing was changed. End all processes that use the base, then repeat this with --yes.")


def _repair_lines(plan: RepairPlan, verb: str) -> Iterator[str]:
    if plan.unfinished is not None:
        yield f"unfinished\t{plan.unfinished}: this earlier repair is completed or undone first"
    for lost in plan.lost:
        yield _lost_line(lost)
    for mended in plan.mended:
        span = _span(mended.first_position, mended.next_position)
        yield f"mended\t{mended.path}\t{mended.offset}\t{span}: a flipped bit is put right, nothing is lost"
    for each in plan.from_copy:
        yield f"copied\t{_span(each.first_position, each.next_position)} from the copy or a former file"
    for each in plan.unvouched:
        span = _span(each.first_position, each.next_position)
        yield f"note\t{span}: their own seal holds, and the chain value in front of them is lost"
    for position in plan.chain_breaks:
        yield f"note\tposition {position}: nothing is missing, and yet the chain does not go on from here"
    for name in plan.set_aside:
        yield f"aside\t{name}: it belongs to another log, or another file holds its events"
    if plan.torn is not None:
        path, offset = plan.torn
        yield f"torn\t{path}\t{offset}\tan unfinished tail, never acknowledged, goes to quarantine"
    for name in plan.rewritten:
        yield f"{verb}\t{name} anew, as its next generation"


def _span(first_position: int, next_position: int) -> str:
    last = next_position - 1
    return f"position {first_position}" if last == first_position else f"positions {first_position} to {last}"


def _lost_line(lost: LostRange) -> str:
    from eventstore import LOST_STREAM

    known = {stream: lost.streams.count(stream) for stream in lost.streams if stream != LOST_STREAM}
    whose = [f"{number} of {stream}" for stream, number in known.items()]
    unknown = lost.streams.count(LOST_STREAM)
    if unknown:
        whose.append(f"{unknown} of unknown streams")
    exact = "" if lost.exact else " (at most; how many there were is unknown)"
    where = "the file is gone" if lost.path is None else f"{lost.path} at byte {lost.offset}"
    span = _span(lost.first_position, lost.next_position)
    return f"lost\t{span}{exact}: {', '.join(whose)}; {where}"


def gc(
    base: BaseArgument = None,
    *,
    keep: Annotated[
        str,
        typer.Option(
            help="Of weights stored several times: 'all', 'latest', or how many of each iteration to keep."
        ),
    ] = "all",
    grace: Annotated[
        float | None,
        typer.Option(
            help="Leave files alone that changed in the last HOURS: 1, or 24 in a bucket.",
            min=0,
            show_default=False,
        ),
    ] = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Delete files that nobody needs: what crashes left, and with --keep also weights stored again since.

    Exit code 0, also for a dry run.
    """
    from dacapo_store.maintenance import collect_garbage, plan_gc

    _check_intent(yes=yes, dry_run=dry_run)
    work = collect_garbage if yes else plan_gc
    number = _number_to_keep(keep)
    with progress("deleting" if yes else "looking for garbage"):
        plan = work(base_of(base), keep=number, grace_seconds=None if grace is None else grace * 3600)
    if as_json:
        say_json(plan)
    else:
        _say_garbage(plan, done=yes)


def _number_to_keep(keep: str) -> int | None:
    if keep in ("all", "latest"):
        return None if keep == "all" else 1
    if not keep.isdecimal() or int(keep) < 1:
        raise ValueError(f"--keep is 'all', 'latest' or a number from 1 on, not {keep!r}")
    return int(keep)


def _say_garbage(plan: GarbagePlan, *, done: bool) -> None:
    for each in plan.garbage:
        say(f"{each.kind}\t{each.bytes}\t{each.path}")
    for path, reason in plan.spared:
        remark(f"kept: {path}: {reason}")
    verb = "deleted" if done else "can be deleted"
    say(f"{count(len(plan.garbage), 'file')} {verb}, {size(plan.bytes)}")
    if plan.garbage and not done:
        remark("Nothing was deleted. Repeat this with --yes.")


def compact(
    base: BaseArgument = None,
    *,
    grace: Annotated[
        float,
        typer.Option(help="Keep a replaced file for MINUTES, for readers that are about to open it.", min=0),
    ] = 10.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say which files would be written again or deleted.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write full segments of the log again, compressed; no event changes, and readers are not disturbed.

    The replaced files are deleted by a later call, once the grace is over and the new ones were proven
    again. Exit code 0: done, or nothing to do. 1: a file was left alone.
    """
    from eventstore import compact_log, plan_reencoding, reencode_log

    place = base_of(base)
    if not isinstance(place, Path):
        made = 0 if dry_run else compact_log(str(_log_at(place)))
        say_json({"segments": made}) if as_json else say(f"{count(made, 'segment')} made")
        return
    log_folder, seconds = log_of(place), grace * 60
    if dry_run:
        outcome = plan_reencoding(log_folder, grace_seconds=seconds)
    else:
        with progress("writing segments again") as report:
            outcome = reencode_log(log_folder, grace_seconds=seconds, progress=report)
    if as_json:
        say_json(outcome)
    else:
        _say_compaction(outcome, done=not dry_run)
    if outcome.skipped:
        raise typer.Exit(EXIT_PROBLEM)


def _say_compaction(report: ReencodingReport, *, done: bool) -> None:
    for segment in report.reencoded:
        after = "-" if segment.bytes_after is None else segment.bytes_after
        say(f"written\t{segment.bytes_before}\t{after}\t{segment.new_path or segment.path}")
    for former in report.deleted:
        say(f"deleted\t{former.bytes}\t-\t{former.path}")
    for former in report.waiting:
        remark(f"kept until the grace is over: {former.path}, {size(former.bytes)}")
    for skipped in report.skipped:
        remark(f"left alone: {skipped.path}: {skipped.reason}")
    before = sum(segment.bytes_before for segment in report.reencoded)
    after = sum(segment.bytes_after or 0 for segment in report.reencoded)
    freed = sum(former.bytes for former in report.deleted)
    segments, files = count(len(report.reencoded), "segment"), count(len(report.deleted), "former file")
    if done:
        say(f"{segments} written again, {size(before)} as {size(after)}; {files} deleted, {size(freed)}")
    else:
        say(f"{segments} to write again, {size(before)}; {files} to delete, {size(freed)}")


def backup(
    base: Annotated[str, typer.Argument(help="The base directory.")],
    target: Annotated[Path, typer.Argument(help="An empty folder, or an earlier backup of this base.")],
    *,
    link: Annotated[
        bool,
        typer.Option("--link", help="Link weights files instead of copying them, where that is possible."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be copied.")] = False,
    as_json: Json = False,
) -> None:
    """Copy a base while others write to it: log and weights, checked on the way.

    Zarr arrays are not part of it. Exit code 0: complete. 1: a weights file could not be copied.
    """
    from dacapo_store.backup import back_up, plan_backup

    if dry_run:
        plan = plan_backup(base, target)
        if as_json:
            say_json(plan)
        else:
            weights = f"{count(plan.payloads, 'weights file')} ({size(plan.payload_bytes)})"
            new = f"{count(plan.new_payloads, 'file')} ({size(plan.new_payload_bytes)})"
            say(f"{count(plan.next_position, 'event')}, {weights}; {new} not in the target yet")
            remark("Nothing was written: this was a dry run.")
        return
    with progress("copying weights") as report:
        receipt = back_up(base, target, link=link, progress=report)
    if as_json:
        say_json(receipt)
    else:
        for path, reason in receipt.missing:
            say(f"missing\t{path}\t{reason}")
        say(
            f"{count(receipt.next_position, 'event')}, {count(receipt.payloads, 'weights file')} "
            f"({size(receipt.payload_bytes)}); {size(receipt.copied_bytes)} written this time"
        )
        say(f"position {receipt.next_position} chain {receipt.chain}")
    if receipt.missing:
        raise typer.Exit(EXIT_PROBLEM)
