"""Read models of a re-encoded log are those of the log as it was written."""

from __future__ import annotations

from pathlib import Path

from eventstore import Event, EventLog, reencode_log
from projections import ReadModels


def test_read_models_are_equal_before_and_after(tmp_path: Path) -> None:
    """To those who read all anew, and to those who had read a part; as of any position, too."""
    path = tmp_path / "events"
    with EventLog.open(path, segment_bytes_max=8_000) as log:
        half = ReadModels(log, threads=1)
        for number in range(40):
            run = f"run-{number % 3}"
            document = {"kind": "tasks", "name": f"task-{number}", "document": {"number": number}}
            log.append("config", [Event("ConfigStored", document)])
            data = {"run": run, "epoch": 0, "columns": ["loss"]}
            stats = Event("TrainingStatsRecorded", data, index=range(number, number + 3), values=[0.5] * 3)
            log.append(f"training/{run}", [stats], durability="os")
            if number == 20:
                half.catch_up()
        before = ReadModels(log, threads=1)
        digests, past = before.digests(), _past(before)
        report = reencode_log(path, grace_seconds=0, frame_bytes=5_000)
        assert len(report.deleted) > 5
        after = ReadModels(log, threads=1)
        assert half.digests() == after.digests() == digests
        assert _past(after) == past
        assert not after.stopped


def _past(read_models: ReadModels) -> list[tuple[int, int]]:
    counts = "SELECT (SELECT count(*) FROM tasks_at(?)), (SELECT count(*) FROM training_stats_at(?))"
    return [read_models.query(counts, [n, n]).fetchall()[0] for n in range(0, 81, 9)]
