"""The engine for a PostgreSQL database: a table with one row for each commit, named by its position.

The primary key decides who has a position: ``INSERT … ON CONFLICT DO NOTHING`` makes a row or leaves the
one that is there. A row is seen by others once it is durable, because PostgreSQL shows a transaction after
its commit record was flushed (and has reached a synchronous standby, where there is one).

The address may say what libpq understands (``sslmode``, ``host``, ``service``, …), and ``table``. It has
no password: addresses are shown, cited and handed to other processes. libpq finds it in ``PGPASSWORD``,
``~/.pgpass`` or a service file.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, TypeVar
from urllib.parse import urlsplit

from eventstore.errors import UnsuitableStorageError
from eventstore.storage.numbered import DerivedObjects, RefusedError, UnclearError
from eventstore.storage.protocol import SharedFiles

try:
    import psycopg
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "postgresql:// needs psycopg: pip install 'dacapo-store[postgres]'", name=error.name
    ) from error
from psycopg import errors, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus

logger = logging.getLogger(__name__)

TABLE: Final = "event_log"
"""The table of an address that names none."""

_HEAD: Final = -1
_GUARD: Final = "event_log_append_only"
_NAME_BYTES_MAX: Final = 63
_ROW_BYTES_MAX: Final = 500_000_000
_READ_BYTES: Final = 16 << 20
_CONNECT_SECONDS: Final = 10
_SILENCE_SECONDS: Final = 20.0
_LISTEN_PAUSE_SECONDS: Final = 5.0
_SECRETS: Final = frozenset({"password", "sslpassword", "oauth_client_secret"})

_PASSING: Final = ("08", "40", "53", "55P03", "57", "58", "XX")
"""Beginnings of the SQLSTATEs that another attempt may not meet; a full disk (53100) it would."""

_CLOSED: Final = (
    "authentication failed",
    "no password supplied",
    "pg_hba.conf",
    "is not permitted to log in",
    '" does not exist',
    "does not support SSL",
    "certificate verify failed",
)
"""What libpq says where another attempt would fare no better."""

_DISK_FULL: Final = "53100"
_MADE_MEANWHILE: Final = (errors.DuplicateTable, errors.DuplicateFunction, errors.UniqueViolation)
_Answer = TypeVar("_Answer")


def open_store(location: str, *, options: Mapping[str, str], read_only: bool) -> PostgresTable:
    """The engine of a ``postgresql://`` address.

    Raises:
        ValueError: The address has a password, or is none that libpq understands.
    """
    parameters = dict(options)
    table = _table_name(parameters.pop("table", TABLE))
    known = {option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()}
    unknown = parameters.keys() - known
    if unknown:
        raise ValueError(
            f"postgresql:// knows no options of this name: {', '.join(sorted(unknown))}. It takes table, and "
            "what libpq takes (sslmode, sslrootcert, service, …)"
        )
    if _has_secret(location) or not _SECRETS.isdisjoint(parameters):
        raise ValueError(
            "a postgresql:// address has no password in it, because addresses are shown and cited: put it "
            "into PGPASSWORD, ~/.pgpass or a service file, where libpq finds it. Other @ are written as %40"
        )
    parameters.setdefault("connect_timeout", str(_CONNECT_SECONDS))
    parameters.setdefault("application_name", "dacapo-store")
    # A standby shows what was committed a while ago; whoever wants to read one says so.
    parameters.setdefault("target_session_attrs", "primary")
    try:
        conninfo = make_conninfo(location, **parameters)
    except psycopg.Error:
        raise ValueError(  # without libpq's text, which may show a part of a password
            "this is no address that libpq understands: expected "
            "postgresql://user@host:port/database?table=…, with special characters written as %xx"
        ) from None
    return PostgresTable(conninfo, table, read_only=read_only)


class PostgresTable:
    """Commits in the rows of a table.

    Args:
        conninfo: What libpq takes.
        table: Its name, or those of its schema and itself.
        read_only: Make no table.
    """

    keys: Literal["positions"] = "positions"
    derived: DerivedObjects | None = None
    shared_files: SharedFiles | None = None

    def __init__(self, conninfo: str, table: tuple[str, ...], *, read_only: bool) -> None:
        self.address = _shown(conninfo, table)
        self._conninfo = conninfo
        self._read_only = read_only
        self._name = ".".join(f'"{part}"' for part in table)
        self._statements = _Statements(table)
        self._session: _Session | None = None
        self._listener: _Session | None = None
        self._listen_again = 0.0
        self._news = 0
        self._make_locks()

    def _make_locks(self) -> None:
        self._turn = threading.Lock()
        self._listening = threading.Lock()
        self._heard = threading.local()

    def check(self) -> None:
        """See ``CommitStore.check``. That the table has its key, ``ON CONFLICT`` makes sure of."""
        try:
            with self._connected() as session:
                row = session.execute(self._statements.check, (self._name,)).fetchone()
        except RefusedError as error:
            raise UnsuitableStorageError(
                f"{self.address} lets nobody in: {error}", path=self.address
            ) from error
        except psycopg.Error as error:
            raise UnclearError(_text(error)) from error
        assert row is not None
        fsync, full_page_writes, persistence = row
        if persistence not in (None, "p"):
            raise UnsuitableStorageError(
                f"{self.address} is no durable table, PostgreSQL empties it after a crash: "
                f"ALTER TABLE {self._name} SET LOGGED",
                path=self.address,
            )
        if "off" in (fsync, full_page_writes):
            logger.warning(
                "%s runs with fsync or full_page_writes off: a power cut of the server may lose or damage "
                "what was acknowledged.",
                self.address,
            )

    def create(self, key: int, data: bytes) -> bool:
        """See ``CommitStore.create``."""
        if len(data) > _ROW_BYTES_MAX:
            raise RefusedError(
                f"a commit of {len(data):,} bytes is more than a row of PostgreSQL holds: make several of it"
            )
        try:
            return self._insert(key, data)
        except errors.UndefinedTable as error:
            if key != _HEAD or self._read_only:
                raise RefusedError(_text(error)) from error
        except psycopg.Error as error:
            raise _told(error) from error
        return self._insert_into_new_table(key, data)

    def _insert_into_new_table(self, key: int, data: bytes) -> bool:
        try:
            with contextlib.suppress(*_MADE_MEANWHILE), self._connected() as session, session.transaction():
                self._statements.make_table(session, self._name)
            return self._insert(key, data)
        except errors.UndefinedTable as error:
            # Another process made the function at this moment, for a table of its own.
            raise UnclearError(_text(error)) from error
        except psycopg.Error as error:
            raise _told(error) from error

    def read(self, key: int, count: int) -> Sequence[bytes]:
        """See ``CommitStore.read``."""
        try:
            with self._connected() as session:
                rows = session.execute(
                    self._statements.read, (key, count, _READ_BYTES), binary=True
                ).fetchall()
        except errors.UndefinedTable as error:
            if key != _HEAD:
                raise FileNotFoundError(f"{self.address} is gone: {_text(error)}") from error
            return []
        except psycopg.Error as error:
            told = _told(error)
            if isinstance(told, RefusedError):
                raise PermissionError(f"{self.address} may not be read: {told}") from error
            raise told from error
        except RefusedError as error:
            raise PermissionError(str(error)) from error
        return [data for _, data in rows] if rows and rows[0][0] == key else []

    def settle(self) -> None:
        """Flush what was read, if there is any doubt that it was flushed before it was seen.

        There is if another program commits asynchronously, or if somebody cancelled the wait for a
        synchronous standby.
        """
        try:
            with self._connected() as session:
                session.warnings.clear()
                session.execute(self._statements.settle)
                self._check_warnings(session)
        except (psycopg.Error, RefusedError) as error:
            raise UnclearError(_text(error)) from error

    def wait(self, seconds: float) -> bool:
        """Wait for a notification; one thread listens for all that wait."""
        if self._listening.acquire(timeout=seconds):
            try:
                if not self._has_news():
                    self._listen(seconds)
            finally:
                self._listening.release()
        heard, self._heard.news = self._heard_by_thread(), self._news
        return heard != self._news

    def after_fork(self) -> None:
        """Close this process's copy of the sockets, without a word to the server: the parent goes on."""
        for session in (self._session, self._listener):
            if session is not None:
                with contextlib.suppress(psycopg.Error, OSError):
                    os.close(session.fileno())
        self._session = self._listener = None
        self._make_locks()

    def close(self) -> None:
        """Close the connections."""
        with self._turn:
            self._drop()
        with self._listening:
            self._stop_listening()

    # --- one request

    def _insert(self, key: int, data: bytes) -> bool:
        with self._connected() as session, psycopg.ClientCursor(session) as cursor:
            session.warnings.clear()
            try:
                cursor.execute(self._statements.insert, (key, data))
            except psycopg.Error as error:
                if session.info.transaction_status != TransactionStatus.INERROR:
                    # It was not the insert that failed: the commit may be made.
                    raise UnclearError(_text(error)) from error
                raise
            cursor.nextset()  # behind that of BEGIN
            is_made = cursor.rowcount == 1
            self._check_warnings(session)
            return is_made

    def _check_warnings(self, session: _Session) -> None:
        if session.warnings:
            # "The transaction has already committed locally, but might not have been replicated."
            raise UnclearError("; ".join(session.warnings))

    @contextlib.contextmanager
    def _connected(self) -> Iterator[_Session]:
        """The connection, for one thread at a time; one that is broken is not used again."""
        with self._turn:
            if self._session is None:
                self._session = self._connect()
            try:
                yield self._session
            except BaseException as error:
                # An insert that failed leaves its transaction open, which a new connection ends as well.
                is_idle = self._session.info.transaction_status == TransactionStatus.IDLE
                if not isinstance(error, psycopg.Error) or error.sqlstate is None or not is_idle:
                    self._drop()
                raise

    def _connect(self) -> _Session:
        session = self._open_session()
        try:
            session.execute(self._statements.begin)
        except BaseException:
            session.close()
            raise
        return session

    def _open_session(self) -> _Session:
        try:
            return _Session.connect(self._conninfo, autocommit=True, prepare_threshold=None)
        except psycopg.OperationalError as error:
            # There is no SQLSTATE yet. A text that is not known, or in another language, is asked again.
            if any(text in str(error) for text in _CLOSED):
                raise RefusedError(_text(error)) from error
            raise

    def _drop(self) -> None:
        if self._session is not None:
            session, self._session = self._session, None
            session.close()

    # --- news

    def _heard_by_thread(self) -> int:
        return getattr(self._heard, "news", -1)

    def _has_news(self) -> bool:
        return self._heard_by_thread() != self._news

    def _listen(self, seconds: float) -> None:
        """Wait for a notification; where none can be had (a standby, a pooler), for the time to pass."""
        try:
            if self._listener is not None:
                self._news += len(list(self._listener.notifies(timeout=seconds, stop_after=1)))
            elif time.monotonic() < self._listen_again:
                time.sleep(seconds)
            else:
                self._listener = self._open_session()
                self._statements.listen(self._listener, self._name)
                self._news += 1  # what came meanwhile
        except (psycopg.Error, RefusedError):
            self._stop_listening()
            self._listen_again = time.monotonic() + _LISTEN_PAUSE_SECONDS
            self._news += 1

    def _stop_listening(self) -> None:
        if self._listener is not None:
            listener, self._listener = self._listener, None
            listener.close()


class _Session(psycopg.Connection[tuple[Any, ...]]):
    """A connection that gives up on a server from which nothing comes, and keeps its warnings.

    A cut line or a stopped server says nothing at all, and TCP alone waits for a quarter of an hour.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.warnings: list[str] = []
        self.add_notice_handler(self._note)

    def __del__(self, *_: object) -> None:
        """A forked child drops what is its parent's; the engine has closed all others."""

    def wait(self, gen: Generator[Any, Any, _Answer], *arguments: Any, **options: Any) -> _Answer:
        """Wait as ever, but not for ever."""
        return super().wait(_not_in_silence(gen), *arguments, **options)

    def _note(self, diagnostic: errors.Diagnostic) -> None:
        if diagnostic.severity_nonlocalized == "WARNING":
            self.warnings.append(diagnostic.message_primary or "")


def _not_in_silence(gen: Generator[Any, Any, _Answer]) -> Generator[Any, Any, _Answer]:
    heard = time.monotonic()
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if ready:
                heard = time.monotonic()
            elif time.monotonic() - heard > _SILENCE_SECONDS:
                raise psycopg.OperationalError(f"nothing came from the server for {_SILENCE_SECONDS:g} s")
            wanted = gen.send(ready)
    except StopIteration as end:
        answer: _Answer = end.value
        return answer


class _Statements:
    """The SQL for a table."""

    def __init__(self, table: tuple[str, ...]) -> None:
        self._names = {
            "table": sql.Identifier(*table),
            "guard": sql.Identifier(*table[:-1], _GUARD),
            "channel": sql.SQL("'event_log_' || {}::regclass::oid").format(
                sql.Literal(sql.Identifier(*table).as_string())
            ),
        }
        self.begin = """
            SELECT set_config('client_min_messages', 'warning', false),
                   CASE WHEN current_setting('synchronous_commit') <> 'remote_apply'
                        THEN set_config('synchronous_commit', 'on', false) END
        """
        self.check = """
            SELECT current_setting('fsync'), current_setting('full_page_writes'),
                   (SELECT relpersistence FROM pg_class WHERE oid = to_regclass(%s))
        """
        # One message, one round trip, two transactions: in the commit's, the notification would make all
        # logs of the server wait for each other's flush.
        self.insert = self._of("""
            BEGIN; INSERT INTO {table} VALUES (%s, %s) ON CONFLICT (position) DO NOTHING; COMMIT;
            SELECT pg_notify({channel}, '')
        """)
        self.read = self._of("""
            SELECT position, data
            FROM (SELECT position, data, sum(length(data)) OVER (ORDER BY position) - length(data) AS before
                  FROM {table} WHERE position >= %s ORDER BY position LIMIT %s) AS rows
            WHERE before <= %s
            ORDER BY position
        """)
        # A message in the WAL commits, and waits, as a row would. A standby has only what was flushed.
        self.settle = """
            SELECT CASE WHEN pg_is_in_recovery()
                          OR current_setting('synchronous_standby_names') = ''
                             AND pg_current_wal_insert_lsn() <= pg_current_wal_flush_lsn()
                        THEN NULL ELSE pg_logical_emit_message(true, 'event_log', '') END
        """

    def _of(self, text: str) -> sql.Composed:
        return sql.SQL(text).format(**self._names)

    def listen(self, session: _Session, name: str) -> None:
        row = session.execute("SELECT 'event_log_' || to_regclass(%s)::oid", (name,)).fetchone()
        assert row is not None
        session.execute(sql.SQL("LISTEN {}").format(sql.Identifier(row[0])))

    def make_table(self, session: _Session, name: str) -> None:
        """Make the table, and forbid to change or remove its rows."""
        session.execute(self._of("CREATE TABLE {table} (position bigint PRIMARY KEY, data bytea NOT NULL)"))
        guard = f"{name.rpartition('.')[0]}.{_GUARD}()".lstrip(".")
        row = session.execute("SELECT to_regprocedure(%s)", (guard,)).fetchone()
        if row == (None,):
            session.execute(
                self._of("""
                CREATE FUNCTION {guard}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                    RAISE EXCEPTION '% keeps every row that it has: % is not allowed', TG_TABLE_NAME, TG_OP
                        USING ERRCODE = 'insufficient_privilege',
                              HINT = 'What was wrong is put right by a new event.';
                END $$
                """)
            )
        session.execute(
            self._of("""
            CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}
                FOR EACH STATEMENT EXECUTE FUNCTION {guard}()
            """)
        )
        # Also where a replication role is set, which switches other triggers off.
        session.execute(self._of("ALTER TABLE {table} ENABLE ALWAYS TRIGGER append_only"))


def _told(error: psycopg.Error) -> Exception:
    """What an error of psycopg's means: the server has said no to this very statement, or it is unclear."""
    state = error.sqlstate
    is_passing = state is None or (state != _DISK_FULL and state.startswith(_PASSING))
    # PANIC and FATAL end the connection, perhaps behind the commit.
    if is_passing or error.diag.severity_nonlocalized != "ERROR":
        return UnclearError(_text(error))
    return RefusedError(_text(error))


def _text(error: Exception) -> str:
    return " ".join(str(error).split())


def _table_name(text: str) -> tuple[str, ...]:
    parts = tuple(text.split("."))
    is_good = len(parts) <= 2 and all(  # noqa: PLR2004 - a schema and a table
        part and '"' not in part and "\0" not in part and len(part.encode()) <= _NAME_BYTES_MAX
        for part in parts
    )
    if not is_good:
        raise ValueError(
            f"table={text!r} is none: expected table or schema.table, each of 1 to {_NAME_BYTES_MAX} bytes "
            "(PostgreSQL cuts longer names, and two logs would be one)"
        )
    return parts


def _has_secret(location: str) -> bool:
    try:
        parts = urlsplit(location)
    except ValueError:
        return True
    # Behind the first slash an @ means that there was one in a password.
    return parts.password is not None or "@" in parts.path


def _shown(conninfo: str, table: tuple[str, ...]) -> str:
    parameters = conninfo_to_dict(conninfo)
    host, port, database = (str(parameters.get(name) or "") for name in ("host", "port", "dbname"))
    place = f"{host}:{port}" if port else host
    return f"postgresql://{place}/{database}?table={'.'.join(table)}"
