"""Who changed what, and when: entries, histories, differences, blame."""

from __future__ import annotations

from pathlib import Path

import pytest

from dacapo_store import FileConfigStore, FileStatsStore, TrainingIterationStats, audit, set_actor
from dacapo_store.base import Base
from dacapo_store.differences import ABSENT, Difference
from dacapo_store.errors import MissingError


@pytest.fixture
def base(tmp_path: Path) -> Base:
    """Two people change a task; a run is trained, and resumed from an earlier iteration."""
    configs, stats = FileConfigStore(tmp_path / "configs"), FileStatsStore(tmp_path / "stats")
    try:
        set_actor("ada")
        configs.store_task_config({"name": "seg", "threshold": 0.5, "losses": ["dice"]})  # 0
        set_actor("bob")
        configs.delete_task_config("seg")  # 1
        configs.store_task_config({"name": "seg", "threshold": 0.7, "losses": ["dice"], "new": 1})  # 2
        stats.store_training_stats("run", [TrainingIterationStats(n, loss=1.0) for n in range(10)])  # 3
        stats.store_training_stats("run", [TrainingIterationStats(n, loss=0.5) for n in range(5, 12)])  # 4, 5
    finally:
        set_actor(None)
    return Base.at(tmp_path)


def test_the_log_reads_like_a_diary(base: Base) -> None:
    """One line for each event, with who and what."""
    found = list(audit.entries(base.log))
    assert [(each.actor, each.kind, each.name, each.summary) for each in found] == [
        ("ada", "tasks", "seg", "stored"),
        ("bob", "tasks", "seg", "deleted"),
        ("bob", "tasks", "seg", "stored"),
        ("bob", "training", "run", "10 iterations 0 to 9 of loss (epoch 0)"),
        ("bob", "training", "run", "epoch 1 begins and keeps what is below 5"),
        ("bob", "training", "run", "7 iterations 5 to 11 of loss (epoch 1)"),
    ]


@pytest.mark.parametrize(
    ("wanted", "positions"),
    [
        ({"actor": "ada"}, [0]),
        ({"run": "ru*"}, [3, 4, 5]),
        ({"run": "other"}, []),
        ({"kind": "tasks", "name": "s?g"}, [0, 1, 2]),
        ({"since": 2, "until": 4}, [2, 3]),
        ({"types": ["ConfigDeleted"]}, [1]),
    ],
)
def test_entries_are_found_by_what_they_are(
    base: Base, wanted: dict[str, object], positions: list[int]
) -> None:
    """All conditions hold together; patterns have stars."""
    assert [each.position for each in audit.entries(base.log, **wanted)] == positions  # type: ignore[arg-type]


def test_a_thing_has_a_history(base: Base) -> None:
    """Deleted or not; a name that never was is answered with close ones."""
    assert [each.summary for each in audit.history(base, "tasks", "seg")] == ["stored", "deleted", "stored"]
    with pytest.raises(MissingError, match="did you mean 'seg'"):
        audit.history(base, "tasks", "sg")
    with pytest.raises(ValueError, match="did you mean 'tasks'"):
        audit.history(base, "task", "seg")


def test_a_difference_says_what_became_of_what_by_whom(base: Base) -> None:
    """Between two moments; as printed."""
    changes = audit.diff(base, "tasks", "seg", 1, 3)
    assert [(each.difference, each.entry.actor) for each in changes] == [
        (Difference("threshold", 0.5, 0.7), "bob"),
        (Difference("new", ABSENT, 1), "bob"),
    ]
    assert "threshold: 0.5 -> 0.7   (bob, " in repr(changes)
    assert repr(audit.diff(base, "tasks", "seg", 3, 3)) == "no difference"
    (restored,) = audit.diff(base, "tasks", "seg")
    assert restored.difference.before is None


def test_stats_differ_by_what_is_in_view(base: Base) -> None:
    """Rows, first and last iteration, epoch."""
    changes = {each.difference.place: each.difference for each in audit.diff(base, "training", "run", 4)}
    assert (changes["rows"].before, changes["rows"].after) == (10, 12)
    assert (changes["epoch"].before, changes["epoch"].after) == (0, 1)


def test_blame_names_who_set_each_field(base: Base) -> None:
    """The value that is there now, and the entry that put it there last."""
    found = {place: (value, entry.position) for place, value, entry in audit.blame(base, "tasks", "seg")}
    assert found == {
        "name": ("seg", 2),
        "threshold": (0.7, 2),
        "losses[0]": ("dice", 2),
        "new": (1, 2),
    }
