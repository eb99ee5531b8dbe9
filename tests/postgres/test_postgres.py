"""The engine for PostgreSQL: who may do what, what it refuses, and what it says when something is wrong."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from eventstore import (
    CommitUnknownError,
    Event,
    EventLog,
    LogNotFoundError,
    UnsuitableStorageError,
    WriteRefusedError,
    compact_log,
    verify_log,
)
from eventstore.storage import postgres
from eventstore.storage.numbered import NumberedStorage, UnclearError
from eventstore.storage.postgres import PostgresTable, open_store
from tools.postgres import PASSWORD, PostgresServer
from tools.tcp_proxy import TcpProxy

Address = Callable[..., str]

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "postgresql.md"


@pytest.fixture
def admin(server: PostgresServer) -> Iterator[psycopg.Connection[Any]]:
    """Give a connection of the database's owner."""
    with psycopg.connect(server.address(), autocommit=True) as connection:
        yield connection


@pytest.fixture
def log(address: Address) -> Iterator[EventLog]:
    with EventLog.open(address()) as log:
        yield log


def _table(address: Address) -> str:
    found = re.search(r"table=([\w.]+)", address())
    assert found
    return found[1]


def _store(log: EventLog) -> PostgresTable:
    storage = log._adapter()
    assert isinstance(storage, NumberedStorage)
    assert isinstance(storage._store.engine, PostgresTable)
    return storage._store.engine


def _types(log: EventLog) -> list[str]:
    return [event.type for event in log.read()]


def _role(admin: psycopg.Connection[Any], name: str, grants: str = "", settings: str = "") -> str:
    admin.execute(f"DROP OWNED BY {name}" if _is_role(admin, name) else f"CREATE ROLE {name} LOGIN")
    if settings:
        admin.execute(f"ALTER ROLE {name} SET {settings}")
    if grants:
        admin.execute(grants)
    return name


def _is_role(admin: psycopg.Connection[Any], name: str) -> bool:
    return admin.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (name,)).fetchone() is not None


# --- rows are never changed


@pytest.mark.parametrize("statement", ["UPDATE {} SET data = ''", "DELETE FROM {}", "TRUNCATE {}"])
def test_not_even_the_owner_changes_a_row(
    address: Address, log: EventLog, admin: psycopg.Connection[Any], statement: str
) -> None:
    log.append("s", [Event("A")])
    for mode in ("origin", "replica"):
        admin.execute(f"SET session_replication_role = {mode}")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="keeps every row"):
            admin.execute(statement.format(_table(address)))
    assert _types(log) == ["A"]
    assert log.verify().ok


@pytest.mark.parametrize(
    "statement", ["UPDATE {} SET data = ''", "DELETE FROM {}", "TRUNCATE {}", "DROP TABLE {}"]
)
def test_a_role_may_append_and_nothing_else(
    address: Address, log: EventLog, admin: psycopg.Connection[Any], server: PostgresServer, statement: str
) -> None:
    table = _table(address)
    role = _role(admin, "appender", f"GRANT SELECT, INSERT ON {table} TO appender")
    log.append("s", [Event("A")])
    with EventLog.open(address(user=role)) as trainer:
        trainer.append("s", [Event("B")])
        assert _types(trainer) == ["A", "B"]
        assert trainer.durable_position == 2
    with psycopg.connect(server.address(user=role), autocommit=True) as session:
        session.execute("SELECT 1")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match=r"permission denied|must be owner"):
            session.execute(statement.format(table))
    assert _types(log) == ["A", "B"]


def test_a_role_that_may_only_read_reads(
    address: Address, log: EventLog, admin: psycopg.Connection[Any]
) -> None:
    log.append("s", [Event("A")])
    role = _role(admin, "onlooker", f"GRANT SELECT ON {_table(address)} TO onlooker")
    with EventLog.open(address(user=role), read_only=True) as reader:
        assert _types(reader) == ["A"]
        assert reader.durable_position == 1
    with (
        EventLog.open(address(user=role)) as reader,
        pytest.raises(WriteRefusedError, match="permission denied"),
    ):
        reader.append("s", [Event("B")])
    assert verify_log(address(user=role)).ok


def test_a_role_whose_sessions_are_read_only_is_told_so(
    address: Address, log: EventLog, admin: psycopg.Connection[Any]
) -> None:
    role = _role(
        admin,
        "careful",
        f"GRANT SELECT, INSERT ON {_table(address)} TO careful",
        "default_transaction_read_only = on",
    )
    with EventLog.open(address(user=role)) as careful:
        with pytest.raises(WriteRefusedError, match="read-only transaction"):
            careful.append("s", [Event("A")])
        assert careful.next_position == 0


def test_a_role_that_may_not_make_tables_is_told_so(address: Address, admin: psycopg.Connection[Any]) -> None:
    role = _role(admin, "stranger")
    with pytest.raises(WriteRefusedError, match="permission denied for schema public"):
        EventLog.open(address(user=role))


def test_a_role_that_may_not_read_is_told_so(
    address: Address, log: EventLog, admin: psycopg.Connection[Any]
) -> None:
    role = _role(admin, "stranger")
    with pytest.raises(PermissionError, match=f"permission denied for table {_table(address)}"):
        EventLog.open(address(user=role), read_only=True)


def test_a_log_that_is_not_there_is_not_made_for_a_reader(
    address: Address, admin: psycopg.Connection[Any]
) -> None:
    with pytest.raises(LogNotFoundError):
        EventLog.open(address(), read_only=True)
    assert admin.execute("SELECT to_regclass(%s)", (_table(address),)).fetchone() == (None,)


def test_the_roles_of_the_guide_do_what_it_says(
    server: PostgresServer, admin: psycopg.Connection[Any]
) -> None:
    blocks = re.findall(r"^```sql\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1
    admin.execute(blocks[0])
    with EventLog.open(server.address(user="trainer", table="events.log_2026")) as log:
        log.append("s", [Event("A")])
    with EventLog.open(server.address(user="reader", table="events.log_2026"), read_only=True) as log:
        assert _types(log) == ["A"]
    for user in ("trainer", "postgres"):
        with (
            psycopg.connect(server.address(user=user)) as session,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            session.execute("DELETE FROM events.log_2026")
    with (
        EventLog.open(server.address(user="reader", table="events.log_2026")) as log,
        pytest.raises(WriteRefusedError),
    ):
        log.append("s", [Event("B")])
    admin.execute("DROP SCHEMA events CASCADE")
    admin.execute("DROP OWNED BY keeper, trainer, reader")


# --- addresses


def test_several_logs_lie_in_one_database(address: Address, admin: psycopg.Connection[Any]) -> None:
    table = _table(address)
    admin.execute(f"CREATE SCHEMA {table}")
    names = [f"{table}.a", f"{table}.B", table]
    for name in names:
        with EventLog.open(address(table=name)) as log:
            log.append("s", [Event(f"In.{name}")])
    for name in names:
        with EventLog.open(address(table=name), read_only=True) as log:
            assert _types(log) == [f"In.{name}"]
            assert compact_log(address(table=name)) == 0


@pytest.mark.parametrize("table", ["", "a.b.c", "a.", 'x"y', "x" * 64, "ä" * 32])
def test_a_name_that_is_none_is_refused(table: str) -> None:
    with pytest.raises(ValueError, match=r"expected table or schema\.table"):
        open_store("postgresql://host/db", options={"table": table}, read_only=False)


def test_an_option_that_libpq_does_not_know_is_named(address: Address) -> None:
    with pytest.raises(ValueError, match="of this name: sslmod, tabel"):
        EventLog.open(address(sslmod="require", tabel="x"))


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://me:hunter2@host/db",
        "postgresql://me:hunter2@host/db?files=/tmp",
        "postgresql://host/db?user=me&password=hunter2",
        "postgresql://host/db?sslpassword=hunter2",
        "postgresql://me:hunter2/x@host/db",
        "postgresql://me:%zzhunter2@host/db",
        "postgresql://me:x?hunter2@host/db",
        "postgres://me:hunter2@host/db",
        "postgresql://[me:hunter2@host/db",
    ],
)
def test_a_password_in_an_address_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        EventLog.open(text)
    error: BaseException | None = caught.value
    while error is not None:
        assert "hunter2" not in str(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def test_a_password_comes_from_the_environment(address: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    with EventLog.open(address()) as log:
        log.append("s", [Event("A")])
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    with EventLog.open(address(tcp=True)) as log:
        assert _types(log) == ["A"]
        assert PASSWORD not in repr(vars(_store(log)))
    monkeypatch.setenv("PGPASSWORD", PASSWORD + "wrong")
    with pytest.raises(UnsuitableStorageError, match="password authentication failed") as caught:
        EventLog.open(address(tcp=True))
    assert PASSWORD not in str(caught.value)
    assert PASSWORD.encode() not in pickle.dumps(caught.value)


def test_who_is_not_let_in_is_told_at_once(address: Address) -> None:
    for user, patience in (("nobody_here", "60"), ("nobody_here", "0")):
        with pytest.raises(
            UnsuitableStorageError, match=r'lets nobody in: .*role "nobody_here" does not exist'
        ):
            EventLog.open(address(user=user, patience_seconds=patience))
        with pytest.raises(PermissionError, match='role "nobody_here" does not exist'):
            EventLog.open(address(user=user, patience_seconds=patience), read_only=True)


def test_tls_is_what_libpq_makes_of_it(server: PostgresServer, address: Address, tmp_path: Path) -> None:
    """``sslmode=verify-full`` takes the server that has the certificate, and no other."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificates, is not installed")
    for name in ("ours", "another"):
        made = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "1",
            "-subj",
            "/CN=localhost",
        ]
        made += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", f"{name}.key", "-out", f"{name}.crt"]
        subprocess.run(made, cwd=tmp_path, check=True, capture_output=True)
    tls = {"tcp": True, "sslmode": "verify-full"}
    with PostgresServer(tls=(tmp_path / "ours.crt", tmp_path / "ours.key")) as safe:
        os.environ["PGPASSWORD"] = PASSWORD
        try:
            with EventLog.open(safe.address(sslrootcert=tmp_path / "ours.crt", **tls)) as log:
                log.append("s", [Event("A")])
                assert _store(log)._session is not None
                assert _store(log)._session.pgconn.ssl_in_use
            with pytest.raises(UnsuitableStorageError, match="certificate verify failed"):
                EventLog.open(safe.address(sslrootcert=tmp_path / "another.crt", **tls))
            with pytest.raises(UnsuitableStorageError, match="does not support SSL"):
                EventLog.open(address(sslrootcert=tmp_path / "ours.crt", **tls))
        finally:
            del os.environ["PGPASSWORD"]


# --- what is durable


def test_a_table_that_a_crash_would_empty_is_refused(
    address: Address, admin: psycopg.Connection[Any]
) -> None:
    with EventLog.open(address()) as log:
        log.append("s", [Event("A")])
    admin.execute(f"ALTER TABLE {_table(address)} SET UNLOGGED")
    with pytest.raises(UnsuitableStorageError, match=r"empties it after a crash: ALTER TABLE .* SET LOGGED"):
        EventLog.open(address())
    with EventLog.open(address(), read_only=True) as log:
        assert _types(log) == ["A"]


def test_a_table_without_its_key_is_refused(address: Address, admin: psycopg.Connection[Any]) -> None:
    """Two commits could stand at one position."""
    admin.execute(f"CREATE TABLE {_table(address)} (position bigint, data bytea)")
    with pytest.raises(WriteRefusedError, match="no unique or exclusion constraint"):
        EventLog.open(address())


def test_commits_are_synchronous_whatever_the_role_says(
    address: Address, log: EventLog, admin: psycopg.Connection[Any]
) -> None:
    grants = f"GRANT SELECT, INSERT ON {_table(address)} TO hasty"
    for setting, expected in (("off", "on"), ("local", "on"), ("remote_apply", "remote_apply")):
        role = _role(admin, "hasty", grants, f"synchronous_commit = {setting}")
        with EventLog.open(address(user=role)) as hasty, _store(hasty)._connected() as session:
            assert session.execute("SHOW synchronous_commit").fetchone() == (expected,)


def test_a_server_that_does_not_sync_is_named(
    address: Address, admin: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    _set(admin, "full_page_writes", "off")
    try:
        EventLog.open(address()).close()
    finally:
        _set(admin, "full_page_writes", None)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "a power cut of the server may lose" in caplog.text


def test_an_append_waits_for_the_standby_even_if_somebody_cancels_that(
    address: Address, log: EventLog, admin: psycopg.Connection[Any]
) -> None:
    """PostgreSQL has committed by then, shows the row, and only warns: that is no acknowledgement."""
    _set(admin, "synchronous_standby_names", "absent")
    done = threading.Event()

    def append() -> None:
        log.append("s", [Event("A")])
        done.set()

    thread = threading.Thread(target=append)
    thread.start()
    try:
        for _ in range(2):  # the insert, then the settling
            _until(lambda: _is_waiting_for_standby(admin))
            assert not done.is_set()
            admin.execute("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
        _until(lambda: _is_waiting_for_standby(admin))
        assert not done.is_set()
    finally:
        _set(admin, "synchronous_standby_names", None)
    thread.join()
    assert done.is_set()
    assert _types(log) == ["A"]


def _is_waiting_for_standby(admin: psycopg.Connection[Any]) -> bool:
    row = admin.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'").fetchone()
    return row == (1,)


def _set(admin: psycopg.Connection[Any], name: str, value: str | None) -> None:
    admin.execute(f"ALTER SYSTEM SET {name} = '{value}'" if value else f"ALTER SYSTEM RESET {name}")
    admin.execute("SELECT pg_reload_conf()")
    if value is None:
        _until(lambda: admin.execute(f"SHOW {name}").fetchone() in (("",), ("on",)))
    else:
        _until(lambda: admin.execute(f"SHOW {name}").fetchone() == (value,))


def _until(holds: Callable[[], bool]) -> None:
    while not holds():  # the test's own time limit ends it
        threading.Event().wait(0.01)


# --- errors of the server


@pytest.mark.parametrize("state", ["53100", "42501", "54000", "23514", "P0001"])
def test_what_the_server_refuses_is_told_at_once(
    address: Address, log: EventLog, admin: psycopg.Connection[Any], state: str
) -> None:
    log.append("s", [Event("A")])
    _fail_inserts(admin, _table(address), state)
    with pytest.raises(WriteRefusedError, match=f"as told: {state}"):
        log.append("s", [Event("B")])
    admin.execute(f"DROP TRIGGER failing ON {_table(address)}")
    log.append("s", [Event("C")])
    assert _types(log) == ["A", "C"]


@pytest.mark.parametrize("state", ["40001", "53200", "55P03", "57014", "58030", "XX000"])
def test_what_may_pass_is_tried_again(
    address: Address, log: EventLog, admin: psycopg.Connection[Any], state: str
) -> None:
    _fail_inserts(admin, _table(address), state, times=3)
    log.append("s", [Event("A")])
    assert _types(log) == ["A"]
    tries = f"{_table(address)}_tries"
    assert admin.execute("SELECT pg_sequence_last_value(%s::regclass)", (tries,)).fetchone() == (4,)


def _fail_inserts(admin: psycopg.Connection[Any], table: str, state: str, times: int = 1_000_000) -> None:
    """A sequence counts on even where a transaction is undone."""
    admin.execute(f"CREATE SEQUENCE {table}_tries")
    body = f"""BEGIN
        IF nextval('{table}_tries') <= {times} THEN
            RAISE EXCEPTION 'as told: {state}' USING ERRCODE = '{state}';
        END IF;
        RETURN NEW;
    END"""
    admin.execute(f"CREATE FUNCTION {table}_fails() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$")
    admin.execute(
        f"CREATE TRIGGER failing BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION {table}_fails()"
    )


def test_an_error_behind_the_commit_is_no_refusal(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's queue of notifications may be full; the row is there by then."""
    store = _store(log)
    text = store._statements.insert.as_string()
    broken = sql.SQL(re.sub(r"SELECT pg_notify.*", "SELECT 1 / 0", text, flags=re.DOTALL))  # type: ignore[arg-type]
    monkeypatch.setattr(store._statements, "insert", broken)
    log.append("s", [Event("A")])
    assert _types(log) == ["A"]
    with pytest.raises(UnclearError, match="division by zero"):
        store.create(1, b"")


def test_a_table_that_is_gone_is_not_made_anew(
    address: Address, log: EventLog, admin: psycopg.Connection[Any]
) -> None:
    log.append("s", [Event("A")])
    admin.execute(f"DROP TABLE {_table(address)}")
    with pytest.raises(WriteRefusedError, match="does not exist"):
        log.append("s", [Event("B")])
    with pytest.raises(FileNotFoundError, match="is gone"):
        list(log.read())
    assert admin.execute("SELECT to_regclass(%s)", (_table(address),)).fetchone() == (None,)


def test_a_connection_that_was_ended_is_made_anew(
    address: Address, log: EventLog, admin: psycopg.Connection[Any]
) -> None:
    for name in "ABC":
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'dacapo-store'"
        )
        log.append("s", [Event(name)])
    assert _types(log) == ["A", "B", "C"]


def test_a_server_that_says_nothing_is_given_up(
    server: PostgresServer, address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request arrives late, and what became of it can be asked."""
    monkeypatch.setattr(postgres, "_SILENCE_SECONDS", 0.5)
    with EventLog.open(address(patience_seconds="1", connect_timeout="2")) as log:
        log.append("s", [Event("A")])
        server.pause()
        try:
            with pytest.raises(CommitUnknownError, match="nothing came from the server") as caught:
                log.append("s", [Event("B")])
        finally:
            server.go_on()
        log.append("s", [Event("C")])  # decides it
        arrived = log.resolve(caught.value) is not None
        assert _types(log) == (["A", "B", "C"] if arrived else ["A", "C"])


def test_a_line_that_says_nothing_is_given_up(
    server: PostgresServer, address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "_SILENCE_SECONDS", 0.5)
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    with TcpProxy(server.port) as proxy, EventLog.open(address(port=proxy.port)) as log:
        log.append("s", [Event("A")])
        proxy.silence()
        mending = threading.Timer(1, proxy.mend)
        mending.start()
        log.append("s", [Event("B")])
        mending.join()
        assert _types(log) == ["A", "B"]


# --- requests


def test_a_request_brings_no_more_than_fits(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(12):
        log.append("s", [Event("A", {"text": f"{number}" * 1000})])
    monkeypatch.setattr(postgres, "_READ_BYTES", 10_000)
    store = _store(log)
    whole = [store.read(position, 1)[0] for position in range(12)]
    found: list[bytes] = []
    while part := store.read(len(found), 64):
        assert sum(map(len, part[:-1])) <= 10_000
        found += part
    assert found == whole
    assert len(store.read(0, 64)) > 1
    assert list(store.read(0, 2)) == whole[:2]
    assert store.read(12, 64) == []


def test_a_commit_that_no_row_holds_is_refused(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "_ROW_BYTES_MAX", 5000)
    with pytest.raises(WriteRefusedError, match="make several of it"):
        log.append("s", [Event("A", {"text": "x" * 5000})])
    log.append("s", [Event("B")])
    assert _types(log) == ["B"]


def test_an_append_wakes_those_who_wait(address: Address) -> None:
    with EventLog.open(address()) as log, EventLog.open(address(), read_only=True) as other:
        store = _store(other)
        while store.wait(0.01):
            pass
        heard: list[bool] = []
        threads = [threading.Thread(target=lambda: heard.extend(_heard(store))) for _ in range(3)]
        for thread in threads:
            thread.start()
        log.append("s", [Event("A")])
        for thread in threads:
            thread.join()
        assert heard == [True] * 3


def _heard(store: PostgresTable) -> Iterator[bool]:
    store.wait(0)  # what was said before this thread began to listen
    yield store.wait(60)


def test_who_cannot_listen_looks(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """A standby and a pooler of connections give no notifications."""
    store = _store(log)
    monkeypatch.setattr(store._statements, "listen", _refuse)
    log.append("s", [Event("A")])
    assert [event.type for event in log.follow(0, timeout=0.1)] == ["A"]
    assert store._listener is None


def _refuse(*arguments: object) -> None:
    raise psycopg.errors.ReadOnlySqlTransaction("cannot execute LISTEN during recovery")


# --- processes


def test_a_forked_child_has_a_connection_of_its_own(log: EventLog) -> None:
    """The parent's goes on, also when the child ends and takes down what it holds."""
    log.append("s", [Event("A")])
    store = _store(log)
    store.wait(0.01)
    before = (store._session, store._listener)
    assert store._session is not None
    sockets = store._session.pgconn.socket
    child = os.fork()
    if child == 0:
        try:
            assert store._session is None
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(sockets)
            log.append("s", [Event("B")])
            assert _types(log) == ["A", "B"]
            log.close()
        except BaseException:  # noqa: BLE001 - nothing may leave a forked child
            os._exit(1)
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    log.append("s", [Event("C")])
    assert (store._session, store._listener) == before
    assert _types(log) == ["A", "B", "C"]
