"""The read model of configs."""

from __future__ import annotations

from projections.testing import FIRST_RECORDED_AT, GivenEvent, event, rows


def _stored(name: str, document: object, *, kind: str = "tasks") -> GivenEvent:
    return event("ConfigStored", {"kind": kind, "name": name, "document": document})


_DELETED = event("ConfigDeleted", {"kind": "tasks", "name": "t"})


def test_a_stored_config_is_in_configs_and_in_the_view_of_its_kind() -> None:
    """Both views show it, one with its kind."""
    given = [_stored("t", {"channels": ["a"]})]

    assert rows(given, "FROM configs") == [("tasks", "t", '{"channels":["a"]}', 0, FIRST_RECORDED_AT)]
    assert rows(given, "FROM tasks") == [("t", '{"channels":["a"]}', 0, FIRST_RECORDED_AT)]
    assert rows(given, "FROM runs") == []


def test_the_last_document_of_a_name_is_shown() -> None:
    """A name has one document, and other names keep theirs."""
    given = [_stored("t", 1), _stored("u", 2), _stored("t", 3)]

    assert rows(given, "SELECT name, document FROM tasks ORDER BY name") == [("t", "3"), ("u", "2")]


def test_a_deleted_config_is_gone_and_stays_in_the_past() -> None:
    """Deleting ends the view of it, not its history."""
    given = [_stored("t", 1), _DELETED]

    assert rows(given, "SELECT name FROM tasks") == []
    assert rows(given, "SELECT name FROM tasks_at(1)") == [("t",)]


def test_a_config_stored_again_after_its_deletion_is_back() -> None:
    """Only what was stored before a deletion is ended by it."""
    assert rows([_stored("t", 1), _DELETED, _stored("t", 2)], "SELECT document FROM tasks") == [("2",)]


def test_a_name_has_one_document_in_each_kind() -> None:
    """A task and a run of one name are two configs."""
    given = [_stored("t", 1), _stored("t", 2, kind="runs"), _DELETED]

    assert rows(given, "SELECT kind, document FROM configs") == [("runs", "2")]


def test_a_document_may_be_null() -> None:
    """A JSON null is a document, not the lack of one."""
    assert rows([_stored("t", None)], "SELECT document FROM tasks") == [("null",)]


def test_a_document_keeps_its_numbers_and_texts() -> None:
    """Integers beyond 64 bits, signed zeros, NUL and quotes survive the way through DuckDB."""
    document = '{"big":123456789012345678901234567890,"zero":-0.0,"text":"it\'s \\u0000 \\"x\\" é"}'
    given = [GivenEvent("ConfigStored", f'{{"kind":"tasks","name":"t","document":{document}}}')]

    ((stored, text),) = rows(given, "SELECT document, document->>'text' FROM tasks")

    assert "123456789012345678901234567890" in stored
    assert '"zero":-0.0' in stored
    assert text == 'it\'s \x00 "x" é'


def test_any_text_is_a_name() -> None:
    """Names are data."""
    name = "../it's\n{a}"

    assert rows([_stored(name, 1)], "SELECT name FROM tasks WHERE name = ?", [name]) == [(name,)]
